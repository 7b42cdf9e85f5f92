/*
 * args.c
 *	  Arguments of the SQL functions, taken out and checked.
 *
 * Every function raises for what is wrong, with a SQLSTATE and a hint, before anything has been changed. NULL means
 * "not given", except where a name is required.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "args.h"
#include "lease.h"
#include "name.h"
#include "price.h"

/*
 * Has an argument been given? NULL means that it has not; and SQL of an older version than the library has fewer of
 * them.
 */
bool
llmq_arg_given(FunctionCallInfo fcinfo, int number)
{
	return number < PG_NARGS() && !PG_ARGISNULL(number);
}

/* A text argument, or NULL. */
char *
llmq_arg_text(FunctionCallInfo fcinfo, int number)
{
	return llmq_arg_given(fcinfo, number) ? text_to_cstring(PG_GETARG_TEXT_PP(number)) : NULL;
}

/* A name that is required: raises when it is NULL or longer than 128 bytes. */
char *
llmq_required_name(char *name, const char *what)
{
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

/* A required name: not NULL, at most 128 bytes. The empty name is the caller's to refuse. */
char *
llmq_arg_name(FunctionCallInfo fcinfo, int number, const char *what)
{
	return llmq_required_name(llmq_arg_text(fcinfo, number), what);
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

	if (!llmq_arg_given(fcinfo, number))
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

	if (!llmq_arg_given(fcinfo, number))
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

/* So many functions answer rows. When the extension is created anew they have other ids; the places are taken over. */
static KnownResult known_results[16];

/* Looks a result's row type up and remembers it in a place. */
static void
remember_result(FunctionCallInfo fcinfo, KnownResult *place)
{
	TupleDesc	old = place->desc;
	TupleDesc	desc;
	MemoryContext caller;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "the function's result is not a row");
	caller = MemoryContextSwitchTo(TopMemoryContext);
	place->function = InvalidOid;
	place->desc = BlessTupleDesc(CreateTupleDescCopy(desc));
	place->function = fcinfo->flinfo->fn_oid;
	MemoryContextSwitchTo(caller);
	if (old != NULL)
		FreeTupleDesc(old);
}

/*
 * The row type of the function's result. Looking it up costs more than an empty call, so it is remembered by the
 * function's object id.
 */
static TupleDesc
result_desc(FunctionCallInfo fcinfo)
{
	static int	next_place = 0;

	for (Size i = 0; i < lengthof(known_results); i++)
		if (known_results[i].function == fcinfo->flinfo->fn_oid)
			return known_results[i].desc;
	next_place = (next_place + 1) % lengthof(known_results);
	remember_result(fcinfo, &known_results[next_place]);
	return known_results[next_place].desc;
}

/*
 * Makes the function's row of so many columns. The row type may have more of them, or fewer: columns are only ever
 * appended. An older library than the installed SQL leaves the new ones NULL, a newer one leaves them out.
 */
Datum
llmq_result_row(FunctionCallInfo fcinfo, const Datum *values, const bool *nulls, int ncolumns)
{
	TupleDesc	desc = result_desc(fcinfo);
	Datum	   *all_values;
	bool	   *all_nulls;

	if (desc->natts <= ncolumns)
		return HeapTupleGetDatum(heap_form_tuple(desc, unconstify(Datum *, values), unconstify(bool *, nulls)));
	all_values = palloc0(sizeof(Datum) * desc->natts);
	all_nulls = palloc(sizeof(bool) * desc->natts);
	memset(all_nulls, true, sizeof(bool) * desc->natts);
	memcpy(all_values, values, sizeof(Datum) * ncolumns);
	memcpy(all_nulls, nulls, sizeof(bool) * ncolumns);
	return HeapTupleGetDatum(heap_form_tuple(desc, all_values, all_nulls));
}

/* An amount of money that was given, in 1e-9. */
int64
llmq_arg_money(FunctionCallInfo fcinfo, int number, const char *what)
{
	int64		amount;

	if (!llmq_money_read(PG_GETARG_NUMERIC(number), &amount))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("%s is too large, or has more than %d decimals", what, LLMQ_MONEY_DECIMALS),
				 errhint("Pass an amount of the currency of the model's price, rounded to %d decimals.",
						 LLMQ_MONEY_DECIMALS)));
	if (amount < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be negative", what),
				 errhint("Pass NULL when the tokens say what the call costs, 0 when it is free.")));
	return amount;
}
