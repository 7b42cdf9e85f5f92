/*
 * cache.c
 *	  llmquota_cache_get: an answer that somebody else has had to the same request.
 *
 * Whoever finds none, or one that is no longer fresh, asks to be the one who refreshes it (cache_claim.c); who is told
 * so looks again. By then every answer is seen that was stored before somebody else's claim has ended: so there is one
 * who refreshes, and none too late. Nothing is locked, and nobody waits for anybody.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "cache.h"
#include "args.h"
#include "duration.h"
#include "inject.h"
#include "pick.h"
#include "role.h"
#include "row.h"

PG_FUNCTION_INFO_V1(llmquota_cache_get);

/* Arguments. */
enum
{
	GET_NAMESPACE, GET_HASH, GET_ORG
};

/* Columns of the result. */
enum
{
	COL_STATUS, COL_ANSWER, COL_AGE_MS, COL_REFRESH, COL_RETRY_AFTER_MS, NCOLUMNS
};

/* Who has a miss looks again after this time, or earlier when the call that he waits for may have failed. */
#define LOOK_AGAIN_MS 250

/* The word for what was found. */
static const char *const statuses[] = {
	[LLMQ_CACHE_FRESH] = "fresh",[LLMQ_CACHE_STALE] = "stale",[LLMQ_CACHE_MISS] = "miss"
};

/* A name or hash that has to be there. */
static char *
word(FunctionCallInfo fcinfo, int argument, const char *what)
{
	char	   *name = llmq_arg_name(fcinfo, argument, what);

	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what),
				 errhint("Pass the %s of the request.", what)));
	return name;
}

/* The org whose answers are meant, in a namespace where each has its own. */
static LlmqOrg *
org_of(FunctionCallInfo fcinfo, int argument, LlmqCatalog *catalog, const char *space)
{
	LlmqOrg    *org;

	if (llmq_arg_given(fcinfo, argument))
		return llmq_role_org(catalog, llmq_arg_name(fcinfo, argument, "org"));
	org = llmq_role_only_org(catalog);
	if (org == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("org must not be NULL in namespace \"%s\"", space),
				 errhint("Pass the org, or set shared in llmquota.answer_namespace where all orgs may have the same "
						 "answers.")));
	return org;
}

/* Takes out of the arguments which answer is meant. Raises when the role may not act for the org. */
void
llmq_cache_key(FunctionCallInfo fcinfo, int org, LlmqCacheKey *key)
{
	LlmqCatalog *catalog = llmq_catalog();
	const char *space = word(fcinfo, GET_NAMESPACE, "namespace");
	const LlmqNameRef *ref;

	key->space = llmq_namespace_of(catalog, space);
	key->hash = word(fcinfo, GET_HASH, "hash");
	if (key->space.shared && llmq_arg_given(fcinfo, org))
		(void) llmq_role_org(catalog, llmq_arg_name(fcinfo, org, "org"));
	if (key->space.shared)
	{
		key->org_kind = LLMQ_CACHE_SHARED;
		key->org = "";
		return;
	}
	ref = &org_of(fcinfo, org, catalog, space)->subject.ref;
	key->org_kind = ref->kind;
	key->org = ref->name;
}

static LlmqCacheEvent
judge(const LlmqCached *answer, TimestampTz now)
{
	if (!answer->found)
		return LLMQ_CACHE_MISS;
	return answer->fresh_until > now ? LLMQ_CACHE_FRESH : LLMQ_CACHE_STALE;
}

/*
 * Finds out whether it is this caller who refreshes what he has not found fresh, and looks again if so. What there is
 * then.
 */
static LlmqCacheEvent
claim(const LlmqCacheKey *key, LlmqCached *answer, LlmqCacheClaim *claim)
{
	LlmqCacheEvent found;

	LLMQ_INJECT_GATE("cache-claim");
	llmq_cache_claim(key, answer->found ? answer->stored_at : 0, claim);
	if (!claim->mine)
		return judge(answer, GetCurrentTimestamp());
	llmq_cache_find(key, false, answer);
	found = judge(answer, GetCurrentTimestamp());
	if (found == LLMQ_CACHE_FRESH)
	{
		llmq_cache_unclaim(key);
		claim->mine = false;
	}
	return found;
}

static int32
age_ms(const LlmqCached *answer)
{
	return (int32) TimestampDifferenceMilliseconds(answer->stored_at, GetCurrentTimestamp());
}

/* llmquota_cache_get(namespace, hash, org) -> (status, answer, age_ms, refresh, retry_after_ms) */
Datum
llmquota_cache_get(PG_FUNCTION_ARGS)
{
	LlmqCacheClaim wanted = {.mine = false};
	LlmqCacheKey key;
	LlmqCached	answer;
	LlmqCacheEvent found;
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {false};

	llmq_pick_refuse_expansion(fcinfo, "llmquota_cache_get");
	llmq_cache_key(fcinfo, GET_ORG, &key);
	llmq_cache_find(&key, true, &answer);
	found = judge(&answer, GetCurrentTimestamp());
	if (found != LLMQ_CACHE_FRESH && !XactReadOnly && !RecoveryInProgress())
		found = claim(&key, &answer, &wanted);
	llmq_cache_count(found);
	if (wanted.mine)
		llmq_cache_count(LLMQ_CACHE_REFRESH);
	llmq_put_text(values, nulls, COL_STATUS, statuses[found]);
	nulls[COL_ANSWER] = nulls[COL_AGE_MS] = found == LLMQ_CACHE_MISS;
	values[COL_ANSWER] = answer.answer;
	values[COL_AGE_MS] = Int32GetDatum(age_ms(&answer));
	values[COL_REFRESH] = BoolGetDatum(wanted.mine);
	nulls[COL_RETRY_AFTER_MS] = found != LLMQ_CACHE_MISS || wanted.wait == 0;
	values[COL_RETRY_AFTER_MS] = Int32GetDatum(Min(llmq_milliseconds_up(wanted.wait), LOOK_AGAIN_MS));
	return llmq_result_row(fcinfo, values, nulls, NCOLUMNS);
}
