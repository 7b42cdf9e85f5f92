/*
 * claim_test.c
 *	  Claims, for test/sql/claim.sql. Needs the library llmquota to be loaded.
 *
 * module:
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "rate.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(claim_take);
PG_FUNCTION_INFO_V1(claim_end);

static LlmqRateName
name_of(FunctionCallInfo fcinfo)
{
	return (LlmqRateName) {
		.kind = *text_to_cstring(PG_GETARG_TEXT_PP(0)),.org = text_to_cstring(PG_GETARG_TEXT_PP(1)),
		.scope = text_to_cstring(PG_GETARG_TEXT_PP(2)),.subject = text_to_cstring(PG_GETARG_TEXT_PP(3))
	};
}

/* claim_take(kind text, org text, scope text, subject text, ttl bigint) -> is it the caller's? */
Datum
claim_take(PG_FUNCTION_ARGS)
{
	LlmqRateName name = name_of(fcinfo);
	int64		wait;

	PG_RETURN_BOOL(llmq_claim_take(&name, PG_GETARG_INT64(4), 0, &wait));
}

/* claim_end(kind text, org text, scope text, subject text) */
Datum
claim_end(PG_FUNCTION_ARGS)
{
	LlmqRateName name = name_of(fcinfo);

	llmq_claim_end(&name);
	PG_RETURN_VOID();
}
