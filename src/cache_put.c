/*
 * cache_put.c
 *	  Changes llmquota.answer: llmquota_cache_put, and whatever takes answers away.
 *
 * An ordinary table, and the caller's transaction: of two who store the same answer the second waits for the end of the
 * first one's, and a rollback takes it back. The statement is planned once in a backend and runs as the owner of the
 * ledger. Nothing in any index changes when an answer replaces another.
 *
 * A put ends whatever claim there is to refresh the answer, by being later: see cache_claim.c.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "cache.h"
#include "args.h"
#include "cell.h"
#include "maintain.h"
#include "pick.h"
#include "prune.h"
#include "row.h"
#include "sql.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(llmquota_cache_put);
PG_FUNCTION_INFO_V1(llmquota_forget_answers);

/* Arguments. */
enum
{
	PUT_NAMESPACE, PUT_HASH, PUT_ANSWER, PUT_TTL_MS, PUT_STALE_MS, PUT_ORG
};

/* Columns of the result. */
enum
{
	COL_STATUS, COL_FRESH_UNTIL, COL_STALE_UNTIL, NCOLUMNS
};

#define PUT_PARAMETERS 9

static const char put_statement[] =
	"INSERT INTO llmquota.answer AS a (stored_at, used_at, fresh_until, stale_until, bytes, org_kind, namespace, org,"
	" hash, answer) VALUES ($1, $1, $2, $3, $4, $5, $6, $7, $8, $9)"
	" ON CONFLICT (namespace, org, hash, org_kind) DO UPDATE SET stored_at = excluded.stored_at,"
	" used_at = excluded.used_at, fresh_until = excluded.fresh_until, stale_until = excluded.stale_until,"
	" bytes = excluded.bytes, answer = excluded.answer";

/* An answer on its way into the table. */
typedef struct Put
{
	LlmqCacheKey key;
	int64		bytes;
	TimestampTz stored_at;
	TimestampTz fresh_until;
	TimestampTz stale_until;
} Put;

/* A time of the call's, else the namespace's. Microseconds. */
static int64
duration(FunctionCallInfo fcinfo, int argument, const char *what, int32 otherwise)
{
	int32		given = llmq_arg_int(fcinfo, argument, what, argument == PUT_TTL_MS ? 1 : 0, PG_INT32_MAX);

	return (given == LLMQ_NOT_GIVEN ? otherwise : given) * INT64CONST(1000);
}

static void
read_put(FunctionCallInfo fcinfo, Put *put)
{
	const LlmqCacheKey *key = &put->key;

	llmq_cache_key(fcinfo, PUT_ORG, &put->key);
	if (!llmq_arg_given(fcinfo, PUT_ANSWER))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("answer must not be NULL"),
				 errhint("Store nothing when the call has failed: somebody else is told to refresh in time.")));
	put->bytes = toast_raw_datum_size(PG_GETARG_DATUM(PUT_ANSWER)) - VARHDRSZ +
		strlen(key->space.name) + strlen(key->org) + strlen(key->hash);
	put->stored_at = GetCurrentTimestamp();
	put->fresh_until = put->stored_at + duration(fcinfo, PUT_TTL_MS, "ttl_ms", key->space.ttl);
	put->stale_until = put->fresh_until + duration(fcinfo, PUT_STALE_MS, "stale_ms", key->space.stale);
}

/* Runs the statement. */
static void
store(const Put *put, Datum answer)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[PUT_PARAMETERS] = {TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, CHAROID, TEXTOID,
	TEXTOID, TEXTOID, JSONBOID};
	Datum		values[PUT_PARAMETERS] = {
		TimestampTzGetDatum(put->stored_at), TimestampTzGetDatum(put->fresh_until),
		TimestampTzGetDatum(put->stale_until), Int32GetDatum((int32) put->bytes), CharGetDatum(put->key.org_kind),
		CStringGetTextDatum(put->key.space.name), CStringGetTextDatum(put->key.org), CStringGetTextDatum(put->key.hash),
		answer
	};
	LlmqSql		sql;

	llmq_sql_begin_call(&sql);
	llmq_sql_run_kept(&plan, put_statement, PUT_PARAMETERS, types, values);
	llmq_sql_end_call(&sql);
}

/* llmquota_cache_put(namespace, hash, answer, ttl_ms, stale_ms, org) -> (status, fresh_until, stale_until) */
Datum
llmquota_cache_put(PG_FUNCTION_ARGS)
{
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {false};
	Put			put;
	bool		stored;

	llmq_cell_refuse_if_read_only("llmquota_cache_put()");
	llmq_pick_refuse_expansion(fcinfo, "llmquota_cache_put");
	read_put(fcinfo, &put);
	stored = put.bytes <= llmq_catalog()->settings.max_answer_bytes;
	if (stored)
	{
		store(&put, PG_GETARG_DATUM(PUT_ANSWER));
		llmq_cache_count(LLMQ_CACHE_STORED);
		llmq_worker_look(DT_NOEND);
	}
	llmq_put_text(values, nulls, COL_STATUS, stored ? "stored" : "too_large");
	values[COL_FRESH_UNTIL] = TimestampTzGetDatum(put.fresh_until);
	values[COL_STALE_UNTIL] = TimestampTzGetDatum(put.stale_until);
	nulls[COL_FRESH_UNTIL] = nulls[COL_STALE_UNTIL] = !stored;
	return llmq_result_row(fcinfo, values, nulls, NCOLUMNS);
}

/* llmquota_forget_answers(org): how many */
Datum
llmquota_forget_answers(PG_FUNCTION_ARGS)
{
	LlmqCatalog *catalog = llmq_catalog();
	const LlmqNameRef *org = &llmq_catalog_org(catalog, llmq_arg_name(fcinfo, 0, "org"))->subject.ref;
	Oid			types[] = {CHAROID, TEXTOID};
	Datum		values[] = {CharGetDatum(org->kind), CStringGetTextDatum(org->name)};
	static SPIPlanPtr plan = NULL;
	int64		forgotten;
	LlmqSql		sql;

	llmq_sql_begin_call(&sql);
	llmq_sql_run_kept(&plan, "DELETE FROM llmquota.answer a WHERE a.org_kind OPERATOR(pg_catalog.=) $1"
					  " AND a.org OPERATOR(pg_catalog.=) $2", lengthof(types), types, values);
	forgotten = SPI_processed;
	llmq_sql_end_call(&sql);
	PG_RETURN_INT64(forgotten);
}

/* Where there is not room for all, the next look is due so soon. */
#define SOON (10 * USECS_PER_SEC)

/* Drops answers that are past their time, and those for which there is no room. Answers how many. */
int64
llmq_answers_drop_step(const LlmqMaintenance *maintenance)
{
	static const LlmqPruned answers = {"answer", "stale_until", NULL};
	int64		dropped;
	int64		evicted;

	if (!OidIsValid(llmq_relation_oid_if_any(LLMQ_REL_ANSWER)))
		return 0;
	dropped = llmq_prune(&answers, maintenance);
	evicted = llmq_sql_step("llmquota_evict_answers", maintenance->deadline);
	if (evicted > 0)
		llmq_maintenance_due(maintenance, maintenance->now + SOON);
	(void) llmq_maintenance_late(maintenance);
	return dropped + evicted;
}
