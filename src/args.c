/*
 * args.c
 *	  Arguments of the SQL functions, taken out and checked.
 *
 * Every function raises for what is wrong, with a SQLSTATE and a hint, before anything has been changed. NULL means
 * "not given", except where a name is required.
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "args.h"
#include "lease.h"
#include "name.h"

/* A text argument, or NULL. */
char *
llmq_arg_text(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(number));
}

/* A required name: not NULL, at most 128 bytes. The empty name is the caller's to refuse. */
char *
llmq_arg_name(FunctionCallInfo fcinfo, int number, const char *what)
{
	char	   *name = llmq_arg_text(fcinfo, number);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", what),
				 errhint("Pass the %s of the request.", what)));
	if (strlen(name) > LLMQ_MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("%s is longer than %d bytes", what, LLMQ_MAX_NAME),
				 errdetail("It begins with \"%.*s\".", pg_mbcliplen(name, strlen(name), 40), name)));
	return name;
}

/* An optional label that a lease carries: at most 64 bytes. */
char *
llmq_arg_label(FunctionCallInfo fcinfo, int number, const char *what)
{
	char	   *label = llmq_arg_text(fcinfo, number);

	if (label != NULL && strlen(label) > LLMQ_MAX_LABEL)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("%s is longer than %d bytes", what, LLMQ_MAX_LABEL),
				 errhint("Use a shorter identifier, for example a uuid or a hash.")));
	return label;
}

/* An optional number of tokens, LLMQ_NOT_GIVEN for NULL. No model takes two thousand million. */
int32
llmq_arg_tokens(FunctionCallInfo fcinfo, int number, const char *what)
{
	int64		tokens;

	if (PG_ARGISNULL(number))
		return LLMQ_NOT_GIVEN;
	tokens = PG_GETARG_INT64(number);
	if (tokens < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be negative, but is " INT64_FORMAT, what, tokens),
				 errhint("Pass NULL when the number is not known.")));
	if (tokens > PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("%s must not be more than %d, but is " INT64_FORMAT, what, PG_INT32_MAX, tokens),
				 errhint("Pass a number of tokens.")));
	return (int32) tokens;
}

/* An optional integer within bounds, LLMQ_NOT_GIVEN for NULL. */
int32
llmq_arg_int(FunctionCallInfo fcinfo, int number, const char *what, int32 least, int32 most)
{
	int32		value;

	if (PG_ARGISNULL(number))
		return LLMQ_NOT_GIVEN;
	value = PG_GETARG_INT32(number);
	if (value < least || value > most)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be between %d and %d, but is %d", what, least, most, value),
				 errhint("Pass NULL for the default.")));
	return value;
}

/* The descriptor of a function's row, by the function: shared by all its call sites in this backend. */
typedef struct KnownResult
{
	Oid			function;
	TupleDesc	desc;
} KnownResult;

/* Two functions answer rows. Reset when the extension is created anew: the functions then have other ids. */
static KnownResult known_results[2];

/*
 * The row type of the function's result. Looking it up costs more than an empty call, so it is remembered by the
 * function's object id.
 */
TupleDesc
llmq_result_desc(FunctionCallInfo fcinfo)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	TupleDesc	desc;
	MemoryContext caller;
	KnownResult *place = &known_results[0];

	for (Size i = 0; i < lengthof(known_results); i++)
	{
		if (known_results[i].function == function)
			return known_results[i].desc;
		if (known_results[i].function == InvalidOid)
			place = &known_results[i];
	}
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "the function's result is not a row");
	caller = MemoryContextSwitchTo(TopMemoryContext);
	if (place->desc != NULL)
		FreeTupleDesc(place->desc);
	place->desc = BlessTupleDesc(CreateTupleDescCopy(desc));
	place->function = function;
	MemoryContextSwitchTo(caller);
	return place->desc;
}
