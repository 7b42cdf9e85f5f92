/*
 * prompt.c
 *	  Prompts that callers pass, for the number of their tokens; and llmquota_estimate_tokens().
 *
 * A prompt is read once, in about a microsecond for each kilobyte, before anything is locked. Of it only 24 bytes are
 * kept, how many tokens it seems to have and in which scripts; the text goes into no table, no log and no message.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "args.h"
#include "catalog.h"
#include "compat.h"
#include "name.h"
#include "prompt.h"

PG_FUNCTION_INFO_V1(llmquota_estimate_tokens);

/* Four million tokens or so: longer than any model reads. */
#define MAX_PROMPT (16 * 1024 * 1024)

/*
 * What estimates of a text argument go by; zero when it is not given. Estimates know UTF-8; where the database has no
 * encoding, the text is taken for that.
 */
void
llmq_prompt_read(FunctionCallInfo fcinfo, int argument, const char *what, LlmqTextFeatures *features)
{
	text	   *prompt;
	char	   *utf8;
	Size		length;

	memset(features, 0, sizeof(LlmqTextFeatures));
	if (!llmq_arg_given(fcinfo, argument))
		return;
	length = toast_raw_datum_size(PG_GETARG_DATUM(argument)) - VARHDRSZ;
	if (length > MAX_PROMPT)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s has %zu bytes, which is more than %d", what, length, MAX_PROMPT),
				 errhint("Pass input_tokens instead of a text that no model reads.")));
	prompt = PG_GETARG_TEXT_PP(argument);
	utf8 = VARDATA_ANY(prompt);
	if (GetDatabaseEncoding() != PG_SQL_ASCII)
		utf8 = pg_server_to_any(utf8, length, PG_UTF8);
	if (utf8 != VARDATA_ANY(prompt))
		length = strlen(utf8);
	llmq_text_features(utf8, length, features);
	if (utf8 != VARDATA_ANY(prompt))
		pfree(utf8);
	PG_FREE_IF_COPY(prompt, argument);
}

/* How many tokens a prompt has for a model of which this is known; NULL: nothing. */
int32
llmq_prompt_tokens(const LlmqTextFeatures *features, const LlmqModelTokens *known)
{
	return (int32) Min(llmq_estimate(features, known == NULL ? NULL : &known->calibration), PG_INT32_MAX);
}

/* The id of the model with this name, 0 when it was never called; raises when there is no such model. */
static int32
find_model(const char *name)
{
	LlmqModel  *model = llmq_catalog_model(llmq_catalog(), name);

	if (model == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" does not exist", name),
				 errhint("Pass the name of a model in llmquota.model, or NULL.")));
	return llmq_name_find(&model->ref);
}

/* llmquota_estimate_tokens(prompt, model) */
Datum
llmquota_estimate_tokens(PG_FUNCTION_ARGS)
{
	LlmqTextFeatures features;
	LlmqLive	live;
	int32		model;
	int32		tokens;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	llmq_prompt_read(fcinfo, 0, "prompt", &features);
	model = PG_ARGISNULL(1) ? 0 : find_model(llmq_arg_name(fcinfo, 1, "model"));
	llmq_live_open(&live, LLMQ_LIVE_HEALTH + 1, AccessShareLock);
	tokens = llmq_prompt_tokens(&features, llmq_model_tokens(&live, model));
	llmq_live_close(&live);
	PG_RETURN_INT32(tokens);
}
