/*
 * seed_sum.c
 *	  What was used before a window began, by its buckets: from the ledger, and from leases that it does not have yet.
 *
 * The leases are looked at first and the ledger afterwards, with a snapshot of its own and without those leases: so
 * each call is found exactly once, whenever it ends. Nothing is locked meanwhile but tables against DDL. What a meter
 * counts is known by what live state calls it; what it is called now is worked out with that same snapshot, because a
 * rename may have committed since the configuration was loaded.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "catalog.h"
#include "name.h"
#include "seed.h"
#include "settle.h"
#include "sql.h"

/* The column of the ledger that names a meter's subject. */
static const char *const subject_columns[LLMQ_SCOPE_COUNT] = {
	[LLMQ_SCOPE_PROVIDER] = "provider",[LLMQ_SCOPE_ACCOUNT] = "account",[LLMQ_SCOPE_KEY] = "key",
	[LLMQ_SCOPE_ORG] = "org"
};

/* Parameters of the query. */
enum
{
	PARAM_FROM, PARAM_TO, PARAM_BOUNDS, PARAM_WITHOUT, PARAM_SUBJECT, PARAM_PART, NPARAMS
};

/* What a row counts for, when the provider answered with a failure and when not: as llmq_use_settled() has it. */
#define FAILED "u.status OPERATOR(pg_catalog.=) 'error' AND u.http_status IS NOT NULL"
#define TOKENS(kind) "COALESCE(u." kind "_tokens, CASE WHEN " FAILED " THEN 0 ELSE u.reserved_" kind " END)"

/* What is called so in live state (alias.c), its kind before it, as it is called now. */
#define NAME_NOW(cell) \
	"COALESCE((SELECT a.name FROM llmquota.alias a WHERE a.is_current AND " cell " OPERATOR(pg_catalog.=)" \
	" CASE WHEN a.generation OPERATOR(pg_catalog.=) 1" \
	" THEN pg_catalog.concat(pg_catalog.left(a.kind, 1), a.cell)" \
	" ELSE pg_catalog.concat(pg_catalog.upper(pg_catalog.left(a.kind, 1)), a.generation, ':', a.cell) END)," \
	" pg_catalog.substr(" cell ", 2))"

/* The number of the oldest bucket that a sliding window has at an instant; 0 for a calendar window, which has one. */
int64
llmq_seed_first_bucket(const LlmqWindow *window, TimestampTz now)
{
	if (window->kind != LLMQ_WINDOW_SLIDING)
		return 0;
	return Max(window->head, now / window->span) - LLMQ_BUCKETS + 1;
}

/* SQL for what a row counts for in a window. */
static char *
value_sql(const LlmqWindow *window)
{
	const char *cached = window->flags & LLMQ_WINDOW_NOT_CACHED ?
		" OPERATOR(pg_catalog.-) COALESCE(u.cached_tokens, 0)" : "";

	switch (window->metric)
	{
		case LLMQ_METRIC_INPUT_TOKENS:
			return psprintf("%s%s", TOKENS("input"), cached);
		case LLMQ_METRIC_OUTPUT_TOKENS:
			return pstrdup(TOKENS("output"));
		case LLMQ_METRIC_TOKENS:
			return psprintf("%s OPERATOR(pg_catalog.+) %s%s", TOKENS("output"), TOKENS("input"), cached);
		default:
			return pstrdup(window->flags & LLMQ_WINDOW_NOT_FAILURES ? "CASE WHEN " FAILED " THEN 0 ELSE 1 END" : "1");
	}
}

static char *
query(const LlmqSeedMeter *meter, const LlmqWindow *window)
{
	LlmqScope	scope = LLMQ_SCOPE_GLOBAL;
	const char *bucket = window->kind == LLMQ_WINDOW_SLIDING ? "pg_catalog.width_bucket(u.picked_at, $3)" : "0";
	const char *subject = "";
	const char *part = "";

	if (llmq_scope_of(meter->key.kind, &scope) && scope != LLMQ_SCOPE_GLOBAL)
		subject = psprintf(" AND u.%s OPERATOR(pg_catalog.=) " NAME_NOW("$5"), subject_columns[scope]);
	if (meter->key.part != 0)
		part = llmq_name_kind(meter->key.part) == LLMQ_NAME_MODEL ?
			" AND u.model OPERATOR(pg_catalog.=) " NAME_NOW("$6") :
			" AND u.model OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT m.model FROM llmquota.model m"
			" WHERE m.family OPERATOR(pg_catalog.=) pg_catalog.substr($6, 2)))";
	return psprintf("SELECT %s, pg_catalog.sum(%s)::pg_catalog.int8 FROM %s u"
					" WHERE u.picked_at OPERATOR(pg_catalog.>=) $1 AND u.picked_at OPERATOR(pg_catalog.<) $2"
					"%s%s AND u.status OPERATOR(pg_catalog.<>) 'released'"
					" AND u.lease OPERATOR(pg_catalog.<>) ALL ($4) GROUP BY 1",
					bucket, value_sql(window),
					/* the names of now are worked out only where something was renamed: no index knows them */
					llmq_catalog()->has_aliases ? "llmquota.usage_current" : "llmquota.usage", subject, part);
}

/* When the buckets begin, the first apart: width_bucket() answers 0 for what is before all of them. */
static Datum
bounds(const LlmqWindow *window, int64 first)
{
	Datum		bound[LLMQ_BUCKETS - 1];

	for (int i = 0; i < LLMQ_BUCKETS - 1; i++)
		bound[i] = TimestampTzGetDatum((first + 1 + i) * window->span);
	return PointerGetDatum(construct_array(bound, LLMQ_BUCKETS - 1, TIMESTAMPTZOID, sizeof(TimestampTz),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

static Datum
lease_array(const LlmqOpenLeases *leases)
{
	Datum	   *uuids = palloc(sizeof(Datum) * Max(leases->n, 1));

	for (int i = 0; i < leases->n; i++)
	{
		pg_uuid_t  *uuid = palloc(sizeof(pg_uuid_t));

		llmq_lease_uuid(&leases->lease[i].id, uuid);
		uuids[i] = UUIDPGetDatum(uuid);
	}
	return PointerGetDatum(construct_array(uuids, leases->n, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
}

/* What live state calls what the id names; nothing for 0. */
static Datum
cell_text(int32 id)
{
	const char *cell = id == 0 ? NULL : llmq_name_cell(id);

	return CStringGetTextDatum(cell == NULL ? "" : cell);
}

/* Adds what the ledger has. */
static void
add_ledger(const LlmqSeedMeter *meter, const LlmqWindow *window, const LlmqOpenLeases *leases, int64 first,
			LlmqSeedSums *sums)
{
	Oid			types[NPARAMS] = {
		TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZARRAYOID, UUIDARRAYOID, TEXTOID, TEXTOID
	};
	bool		sliding = window->kind == LLMQ_WINDOW_SLIDING;
	Datum		values[NPARAMS];
	bool		isnull;
	LlmqSql		sql;

	values[PARAM_FROM] = TimestampTzGetDatum(sliding ? first * window->span : window->head);
	values[PARAM_TO] = TimestampTzGetDatum(window->began_at);
	values[PARAM_SUBJECT] = cell_text(meter->key.subject);
	values[PARAM_PART] = cell_text(meter->key.part);
	values[PARAM_BOUNDS] = bounds(window, first);
	values[PARAM_WITHOUT] = lease_array(leases);

	llmq_sql_begin(&sql);
	PushActiveSnapshot(GetLatestSnapshot());
	if (SPI_execute_with_args(query(meter, window), NPARAMS, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "the ledger cannot be summed up");
	PopActiveSnapshot();
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		int			bucket = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));

		sums->bucket[bucket] += DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull));
	}
	llmq_sql_end(&sql);
}

/* Adds the leases that the ledger may not have, as far as the window has not counted them. */
static void
add_leases(const LlmqSeedMeter *meter, const LlmqWindow *window, const LlmqOpenLeases *leases, int64 first,
			LlmqSeedSums *sums)
{
	for (int i = 0; i < leases->n; i++)
	{
		const LlmqSlot *slot = &leases->lease[i].slot;
		LlmqUse		use = slot->state == LLMQ_SLOT_GRANTED ? llmq_use_reserved(slot) :
			llmq_use_settled(slot, &slot->settlement);
		int64		bucket = 0;

		if (slot->granted_at >= window->began_at || llmq_slot_generation(slot, meter->id) >= window->since ||
			!llmq_lease_belongs(slot, &meter->key))
			continue;
		if (window->kind == LLMQ_WINDOW_SLIDING)
			bucket = slot->granted_at / window->span - first;
		else if (slot->granted_at < window->head)
			continue;
		if (bucket >= 0 && bucket < LLMQ_BUCKETS)
		{
			sums->loose |= slot->state == LLMQ_SLOT_SETTLED;
			sums->bucket[bucket] += llmq_use_counted(&use, window->metric, window->flags);
		}
	}
}

/*
 * Adds up what was used before a window of a meter began, by buckets from llmq_seed_first_bucket() on; a calendar
 * window has one. The leases were found before.
 */
void
llmq_seed_sums(const LlmqSeedMeter *meter, const LlmqWindow *window, const LlmqOpenLeases *leases, TimestampTz now,
			   LlmqSeedSums *sums)
{
	int64		first = llmq_seed_first_bucket(window, now);

	memset(sums, 0, sizeof(LlmqSeedSums));
	add_leases(meter, window, leases, first, sums);
	add_ledger(meter, window, leases, first, sums);
}
