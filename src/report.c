/*
 * report.c
 *	  What a record passes on of the provider's answer: the error, the headers, the usage object.
 *
 * All of it comes from outside and is believed only as far as the readers of it go (classify.c, usage.c,
 * ratelimit_header.c); what is too large is cut or refused.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "args.h"
#include "redact.h"
#include "report.h"
#include "usage.h"

/* More headers than any provider sends; more are not read. */
#define MAX_HEADERS 256

/* Raises for a document that is larger than anybody needs. */
static void
refuse_large(const Jsonb *json, const char *argument)
{
	if (VARSIZE(json) > LLMQ_MAX_BODY)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("argument %s has more than %d bytes", argument, LLMQ_MAX_BODY),
				 errhint("Pass what the provider sent with this one answer.")));
}

/* The value of a header: its text, or of several the first; NULL when it is neither. */
static const char *
header_value(JsonbIterator **iterator, JsonbValue *value, JsonbIteratorToken *token)
{
	const char *text = NULL;
	int			depth = 0;

	*token = JsonbIteratorNext(iterator, value, false);
	do
	{
		if (*token == WJB_BEGIN_ARRAY || *token == WJB_BEGIN_OBJECT)
			depth++;
		else if (*token == WJB_END_ARRAY || *token == WJB_END_OBJECT)
			depth--;
		else if (text == NULL && value->type == jbvString)
			text = pnstrdup(value->val.string.val, value->val.string.len);
		else if (text == NULL && value->type == jbvNumeric)
			text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
		if (depth > 0)
			*token = JsonbIteratorNext(iterator, value, false);
	} while (depth > 0);
	return text;
}

/* Takes the headers out of an object of names and values. */
static void
read_headers(Jsonb *json, LlmqReport *report)
{
	LlmqHeader *headers = palloc(sizeof(LlmqHeader) * MAX_HEADERS);
	JsonbIterator *iterator = JsonbIteratorInit(&json->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	refuse_large(json, "headers");
	report->headers = headers;
	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers are not an object"),
				 errhint("Pass an object that has each header's name with its value as text.")));
	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
	{
		LlmqHeader	header;

		if (token != WJB_KEY)
			continue;
		header.name = pnstrdup(value.val.string.val, value.val.string.len);
		header.value = header_value(&iterator, &value, &token);
		if (header.value != NULL && report->nheaders < MAX_HEADERS)
			headers[report->nheaders++] = header;
	}
}

/* Takes error and headers out of a record's arguments of these numbers. */
void
llmq_report_read(FunctionCallInfo fcinfo, int error, int headers, LlmqReport *report)
{
	memset(report, 0, sizeof(LlmqReport));
	if (!PG_ARGISNULL(error))
	{
		text	   *body = PG_GETARG_TEXT_PP(error);

		report->error_length = Min(VARSIZE_ANY_EXHDR(body), LLMQ_MAX_BODY);
		report->error = pnstrdup(VARDATA_ANY(body), report->error_length);
	}
	if (llmq_arg_given(fcinfo, headers))
		read_headers(PG_GETARG_JSONB_P(headers), report);
}

/*
 * Finds out what a failure was, by the ways of its provider (NULL: not known), and notes its kind in the settlement. No
 * lock may be held.
 */
void
llmq_report_diagnose(LlmqReport *report, const char *provider, LlmqSettlement *settlement)
{
	LlmqSubject *found = NULL;
	LlmqFailure failure = {
		.adapter = LLMQ_ADAPTER_OTHER,
		.status = settlement->http_status,
		.error_class = settlement->http_status == 0 ? report->error : NULL,
		.headers = report->headers,.header_count = report->nheaders,
		.body = report->error == NULL ? "" : report->error,.length = report->error_length,
		.now = GetCurrentTimestamp()
	};

	if (settlement->outcome != LLMQ_OUTCOME_ERROR)
		return;
	if (provider != NULL)
		found = llmq_catalog_subject(llmq_catalog(), LLMQ_SCOPE_PROVIDER, provider);
	if (found != NULL)
		failure.adapter = ((const LlmqProvider *) found)->adapter;
	llmq_classify(&failure, &report->diagnosis);
	report->diagnosed_at = failure.now;
	settlement->failure = report->diagnosis.kind;
}

static void
fill(int32 *figure, int32 found)
{
	if (*figure == LLMQ_NO_TOKENS && found != LLMQ_NO_FIGURE)
		*figure = found;
}

/*
 * Fills the figures that were not given from the provider's own usage object; a null of JSON is none. One that nobody
 * understands is no reason to lose a record: what was reserved then stands.
 */
void
llmq_report_usage(FunctionCallInfo fcinfo, int argument, LlmqSettlement *settlement)
{
	LlmqFigures figures;
	Jsonb	   *json;
	char	   *text;

	if (!llmq_arg_given(fcinfo, argument))
		return;
	json = PG_GETARG_JSONB_P(argument);
	refuse_large(json, "usage");
	text = JsonbToCString(NULL, &json->root, VARSIZE(json));
	if (strcmp(text, "null") == 0)
		return;
	switch (llmq_usage_read(text, strlen(text), &figures))
	{
		case LLMQ_FIGURES_EMPTY:
			return;
		case LLMQ_FIGURES_NOT_UNDERSTOOD:
			ereport(WARNING,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("usage is no usage object of a provider that is known"),
					 errhint("Pass the object as the provider sent it, or input_tokens and output_tokens.")));
			return;
		case LLMQ_FIGURES_READ:
			break;
	}
	fill(&settlement->input, figures.input);
	fill(&settlement->output, figures.output);
	fill(&settlement->cached, figures.cached);
	fill(&settlement->cache_write, figures.cache_write);
	fill(&settlement->reasoning, figures.reasoning);
}
