/*
 * recount.c
 *	  Counts anew what budgets hold, when costs of the ledger have changed (reprice.c): part of the step of maintenance
 *	  that completes windows.
 *
 * A window goes on counting meanwhile, and never holds less than it ought to. What it holds is noted, and when, under
 * its page lock. Then leases and ledger say what it ought to have held at that moment, with no page locked: a lease
 * that ended later is counted as it was reserved, because its end has corrected the window since; what was reserved is
 * known because the leases in flight were looked at before, too. At last, under the
 * lock again, the one replaces the other in one record. So whatever fails leaves the window as it was, and it is done
 * again: llmquota.budget_recount says which part of the ledger has changed until the transaction commits that has seen
 * to it.
 *
 * What a period has handed on to the next is in no ledger, and neither is what retention has dropped: windows that hold
 * such things stay as they are.
 */
#include "postgres.h"

#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "inject.h"
#include "ledger.h"
#include "relation.h"
#include "seed.h"
#include "sql.h"

/* One pass over the ledger serves so many meters. */
#define METERS_AT_ONCE 1000

/* How often a page may move before the recount is left to the next maintenance. */
#define MAX_ATTEMPTS 100

#define PENDING_QUERY "WITH gone AS (DELETE FROM llmquota.budget_recount r RETURNING r.since, r.until)" \
	" SELECT pg_catalog.min(g.since), pg_catalog.max(g.until) FROM gone g"

#define REQUEST_QUERY "INSERT INTO llmquota.budget_recount (since, until)" \
	" SELECT $1, $2 WHERE EXISTS (SELECT FROM llmquota.budget b)"

/* What is to be counted anew. */
typedef struct Recount
{
	LlmqLive   *live;
	TimestampTz since;			/* costs of calls picked since have changed */
	TimestampTz until;			/* ... and before */
	TimestampTz kept_from;		/* the ledger has all calls picked since */
	int			n;				/* meters */
	int			size;
	LlmqSeedMeter *meter;
	LlmqMeterState **then;		/* as each was when it was noted */
	XLogRecPtr	lsn;
} Recount;

/*
 * Has budgets follow what the costs of calls of this span are now, as soon as the transaction has committed: with the
 * next maintenance.
 */
void
llmq_recount_request(TimestampTz since, TimestampTz until)
{
	Oid			types[] = {TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum		values[] = {TimestampTzGetDatum(since), TimestampTzGetDatum(until)};
	LlmqSql		sql;

	llmq_sql_begin(&sql);
	if (SPI_execute_with_args(REQUEST_QUERY, lengthof(types), types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "llmquota.budget_recount cannot be written");
	llmq_sql_end(&sql);
}

/* Are budgets still to follow, as of a snapshot? Then they may hold other costs than the ledger says. */
bool
llmq_recount_requested(Snapshot snapshot)
{
	LlmqSql		sql;
	bool		requested;

	if (!OidIsValid(llmq_relation_oid_if_any(LLMQ_REL_BUDGET_RECOUNT)))
		return false;
	llmq_sql_begin(&sql);
	PushActiveSnapshot(snapshot);
	if (SPI_execute("SELECT FROM llmquota.budget_recount LIMIT 1", true, 0) != SPI_OK_SELECT)
		elog(ERROR, "llmquota.budget_recount cannot be read");
	requested = SPI_processed > 0;
	PopActiveSnapshot();
	llmq_sql_end(&sql);
	return requested;
}

/* Which part of the ledger has changed. False: none. Whoever asks has to see to it in this transaction. */
static bool
take_pending(Recount *recount)
{
	HeapTuple	row;
	bool		none;
	bool		isnull;

	if (SPI_execute(PENDING_QUERY, false, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "llmquota.budget_recount cannot be read");
	row = SPI_tuptable->vals[0];
	recount->since = DatumGetTimestampTz(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &none));
	recount->until = DatumGetTimestampTz(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
	return !none;
}

/* Since when the ledger has all calls: for ever, if no day is so old that one before it may have been dropped. */
static TimestampTz
find_kept_from(const LlmqMaintenance *maintenance)
{
	int32		kept = maintenance->now / USECS_PER_DAY - maintenance->settings.usage_retention_days + 1;
	ListCell   *cell;

	foreach(cell, find_all_inheritors(llmq_relation_oid(LLMQ_REL_USAGE), NoLock, NULL))
	{
		char	   *name = get_rel_name(lfirst_oid(cell));
		int32		day;

		if (name != NULL && llmq_ledger_leaf_day(name, &day) && day <= kept)
			return kept * USECS_PER_DAY;
	}
	return PG_INT64_MIN;
}

/* When the calls begin that a window counts. */
static TimestampTz
begins_at(const LlmqWindow *window)
{
	return window->kind == LLMQ_WINDOW_SLIDING ? (window->head - LLMQ_BUCKETS + 1) * window->span : window->head;
}

/* Is a window to be counted anew, and can it be? */
static bool
is_concerned(const Recount *recount, const LlmqWindow *window)
{
	if (window->metric != LLMQ_METRIC_COST || (window->flags & LLMQ_WINDOW_SEEDING))
		return false;
	if (window->kind == LLMQ_WINDOW_CALENDAR && window->head + window->span <= recount->since)
		return false;
	return begins_at(window) < recount->until && begins_at(window) >= recount->kept_from;
}

static bool
has_concerned(const Recount *recount, const LlmqMeterState *state)
{
	for (const LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		if (is_concerned(recount, window))
			return true;
	return false;
}

/* Notes a meter that has windows to be counted anew. */
static void
find_concerned(const LlmqCellHeader *cell, HeapTuple tuple, void *argument)
{
	Recount    *recount = argument;
	LlmqSeedMeter *meter;

	if (!has_concerned(recount, (const LlmqMeterState *) cell))
		return;
	if (recount->n == recount->size)
		recount->meter = repalloc_huge(recount->meter, sizeof(LlmqSeedMeter) * (recount->size *= 2));
	meter = &recount->meter[recount->n++];
	memset(meter, 0, sizeof(LlmqSeedMeter));
	meter->id = cell->id;
	llmq_cell_key(tuple, LLMQ_LIVE_METER, &meter->key);
}

/* Locks the page of one meter. False when it is gone. */
static bool
lock_meter(const Recount *recount, int32 meter, LlmqCellSet *set, int *cell)
{
	for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++)
	{
		CHECK_FOR_INTERRUPTS();
		llmq_set_init(set, recount->live);
		*cell = llmq_set_add(set, LLMQ_LIVE_METER, meter);
		if (llmq_set_lock(set) == LLMQ_LOCKED)
			return true;
	}
	return false;
}

/* Notes what a meter holds now. False when it is gone. */
static bool
note_meter(const Recount *recount, LlmqSeedMeter *meter, LlmqMeterState *then)
{
	LlmqCellSet set;
	int			cell;

	if (!lock_meter(recount, meter->id, &set, &cell))
		return false;
	memcpy(then, llmq_set_state(&set, cell), ((const LlmqCellHeader *) llmq_set_state(&set, cell))->length);
	meter->as_of = GetCurrentTimestamp();
	llmq_set_unlock(&set);
	return true;
}

/* Has the windows that are concerned, and no others, added up as if they had begun when they were noted. */
static void
mark_windows(const Recount *recount, LlmqSeedMeter *meter)
{
	for (LlmqWindow *window = llmq_meter_first(meter->state); window != NULL;
		 window = llmq_meter_next(meter->state, window))
	{
		bool		concerned = is_concerned(recount, window);

		window->flags &= ~LLMQ_WINDOW_SEEDING;
		if (!concerned)
			continue;
		window->flags |= LLMQ_WINDOW_SEEDING;
		window->began_at = meter->as_of;
	}
}

/* Notes what these meters hold; how many are there, which come first now. */
static int
note_meters(Recount *recount, LlmqSeedMeter *meter, int n)
{
	int			kept = 0;

	for (int i = 0; i < n; i++)
	{
		LlmqMeterState *then = recount->then[kept];

		if (!note_meter(recount, &meter[i], then))
			continue;
		meter[kept] = meter[i];
		meter[kept].state = palloc(then->cell.length);
		memcpy(meter[kept].state, then, then->cell.length);
		mark_windows(recount, &meter[kept++]);
	}
	return kept;
}

/* The same window as it is now. */
static LlmqWindow *
find_same(LlmqMeterState *state, const LlmqWindow *then)
{
	for (LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		if (window->quota == then->quota && window->kind == then->kind && window->since == then->since &&
			window->began_at == then->began_at)
			return window;
	return NULL;
}

/* Under the lock: puts what was added up into the place of what was noted; how many windows. */
static int64
change(LlmqMeterState *state, const LlmqSeedMeter *meter, const LlmqMeterState *noted)
{
	int64		done = 0;

	for (int i = 0; i < meter->nwindows; i++)
	{
		const LlmqSeedWindow *added = &meter->window[i];
		/* the copy that was added up says what it stands for by its place */
		const LlmqWindow *then = (const LlmqWindow *)
			((const char *) noted + ((const char *) added->window - (const char *) meter->state));
		LlmqWindow *window = find_same(state, then);

		if (window == NULL || !llmq_window_recount(window, then, added->first, added->sums.bucket))
			continue;
		if (added->sums.loose)
			llmq_window_loosen(window);
		done++;
	}
	return done;
}

/* Brings one meter to what was added up; how many windows. */
static int64
finish_meter(Recount *recount, const LlmqSeedMeter *meter, const LlmqMeterState *noted)
{
	LlmqCellSet set;
	int64		done;
	int			cell;

	if (!lock_meter(recount, meter->id, &set, &cell))
		return 0;
	done = change(llmq_set_change(&set, cell), meter, noted);
	llmq_set_log(&set, 0);
	recount->lsn = set.lsn;
	LLMQ_INJECT_CRASH("recount-meter", set.lsn);
	llmq_set_unlock(&set);
	return done;
}

/* Counts some meters anew, in one pass over leases and ledger; how many windows. */
static int64
recount_meters(Recount *recount, LlmqSeedMeter *meter, int n)
{
	LlmqOpenLeases before;
	LlmqOpenLeases leases;
	LlmqSeedPass pass = {.before = &before};
	int64		done = 0;

	llmq_open_leases_find(recount->live, &before);
	n = note_meters(recount, meter, n);
	LLMQ_INJECT_GATE("recount-noted");
	llmq_open_leases_find(recount->live, &leases);
	llmq_seed_pass_begin(&pass, meter, n, &leases);
	while (llmq_seed_pass_step(&pass))
		CHECK_FOR_INTERRUPTS();
	llmq_seed_pass_end(&pass);
	for (int i = 0; i < n; i++)
		done += finish_meter(recount, &meter[i], recount->then[i]);
	return done;
}

/* The same for all of them. */
static int64
recount_all(Recount *recount)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "llmquota recount", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	int64		done = 0;

	recount->size = 64;
	recount->meter = palloc(sizeof(LlmqSeedMeter) * recount->size);
	llmq_cell_walk(recount->live, LLMQ_LIVE_METER, find_concerned, recount);
	recount->then = palloc(sizeof(LlmqMeterState *) * METERS_AT_ONCE);
	for (int i = 0; i < Min(recount->n, METERS_AT_ONCE); i++)
		recount->then[i] = palloc(LLMQ_MAX_STATE);
	for (int from = 0; from < recount->n; from += METERS_AT_ONCE)
		done += recount_meters(recount, recount->meter + from, Min(recount->n - from, METERS_AT_ONCE));
	llmq_cell_make_durable(recount->lsn);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return done;
}

/* Counts anew the windows of budgets that changed costs belong to, if there are any; how many. */
int64
llmq_recount(const LlmqMaintenance *maintenance)
{
	LlmqLive	live;
	Recount		recount = {.live = &live};
	int64		done;

	if (!OidIsValid(llmq_relation_oid_if_any(LLMQ_REL_BUDGET_RECOUNT)) || !take_pending(&recount))
		return 0;
	recount.kept_from = find_kept_from(maintenance);
	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, RowExclusiveLock);
	llmq_recount_leases(&live, recount.since, recount.until);
	done = recount_all(&recount);
	llmq_live_close(&live);
	return done;
}
