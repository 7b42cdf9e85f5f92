/*
 * seed.c
 *	  Completes windows that are new, or have a new shape: the step of maintenance that tells them what was used before
 *	  they began.
 *
 * A window begins at zero, marked seeding. What was used before is added up first, with no page locked; then, under the
 * meter's page lock, it is added if the window is still the same one and still marked, and the mark goes in the same
 * record. So it happens exactly once, whatever fails, and a pick waits no longer than for another pick. One pass over
 * the ledger, back in time, serves all windows (seed_sum.c); each is completed as soon as it is known, so that a year's
 * does not keep an hour's waiting. Concurrency windows are completed lease by lease (seed_lease.c), after the others of
 * their meter.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "inject.h"
#include "seed.h"

/* How many meters one look finds; more are left to the next round. */
#define METERS_AT_ONCE 1000

/* How often a page may move before a window is left to the next maintenance. */
#define MAX_ATTEMPTS 100

/* The meters that are to be completed. */
typedef struct SeedMeters
{
	LlmqLive   *live;
	XLogRecPtr	lsn;			/* the last change */
	int32		only;			/* this meter, 0: all */
	int			n;
	LlmqSeedMeter *meter;
	MemoryContext context;
} SeedMeters;

/* Notes a meter that has windows to be completed. */
static void
find_seeding(const LlmqCellHeader *cell, HeapTuple tuple, void *argument)
{
	const LlmqMeterState *state = (const LlmqMeterState *) cell;
	SeedMeters *meters = argument;
	bool		seeding = false;

	for (const LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		seeding |= (window->flags & LLMQ_WINDOW_SEEDING) != 0;
	if (!seeding || meters->n == METERS_AT_ONCE || (meters->only != 0 && cell->id != meters->only))
		return;
	meters->meter[meters->n].id = cell->id;
	meters->meter[meters->n].as_of = 0;
	llmq_cell_key(tuple, LLMQ_LIVE_METER, &meters->meter[meters->n].key);
	meters->meter[meters->n].state = MemoryContextAlloc(meters->context, cell->length);
	memcpy(meters->meter[meters->n].state, state, cell->length);
	meters->n++;
}

/* The same window in another copy of its meter, if it is still there and to be completed. */
static LlmqWindow *
find_same(LlmqMeterState *state, const LlmqWindow *wanted)
{
	for (LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		if (window->quota == wanted->quota && window->kind == wanted->kind && window->since == wanted->since &&
			window->began_at == wanted->began_at && (window->flags & LLMQ_WINDOW_SEEDING))
			return window;
	return NULL;
}

/* Under the lock: adds the sums, and takes the mark away. */
static void
change(LlmqWindow *window, const LlmqSeedWindow *added)
{
	for (int i = 0; added != NULL && i < LLMQ_BUCKETS; i++)
	{
		int64		at = added->span > 0 ? (added->first + i) * added->span : added->from;

		(void) llmq_window_add_earlier(window, at, added->sums.bucket[i]);
	}
	window->flags &= ~LLMQ_WINDOW_SEEDING;
	if (added != NULL && added->sums.loose)
		llmq_window_loosen(window);
}

/* Completes one window with its sums (none for concurrency). False when it has changed meanwhile, or is complete. */
static bool
complete(SeedMeters *meters, int32 meter, const LlmqWindow *wanted, const LlmqSeedWindow *added)
{
	LlmqCellSet set;
	LlmqWindow *window = NULL;
	bool		locked = false;
	int			cell;

	for (int attempt = 0; !locked && attempt < MAX_ATTEMPTS; attempt++)
	{
		CHECK_FOR_INTERRUPTS();
		llmq_set_init(&set, meters->live);
		cell = llmq_set_add(&set, LLMQ_LIVE_METER, meter);
		locked = llmq_set_lock(&set) == LLMQ_LOCKED;
	}
	if (!locked)
		return false;
	window = find_same(llmq_set_change(&set, cell), wanted);
	if (window != NULL)
	{
		change(window, added);
		llmq_set_log(&set, 0);
		meters->lsn = set.lsn;
		LLMQ_INJECT_CRASH("seed-window", set.lsn);
	}
	llmq_set_unlock(&set);
	return window != NULL;
}

/* Completes the windows whose sums are known, because the ledger has been read to before they begin; how many. */
static int64
complete_windows(SeedMeters *meters, TimestampTz read_to)
{
	int64		done = 0;

	for (int i = 0; i < meters->n; i++)
		for (int j = 0; j < meters->meter[i].nwindows; j++)
		{
			LlmqSeedWindow *window = &meters->meter[i].window[j];

			if (window->done || window->from < read_to)
				continue;
			window->done = true;
			done += complete(meters, meters->meter[i].id, window->window, window);
		}
	return done;
}

/* Completes the concurrency windows of a meter whose other windows are complete; how many. */
static int64
complete_concurrency(SeedMeters *meters, const LlmqSeedMeter *meter, const LlmqOpenLeases *leases)
{
	bool		adopted = false;
	int64		done = 0;

	for (int i = 0; i < meter->nwindows; i++)
		if (!meter->window[i].done)
			return 0;
	for (LlmqWindow *window = llmq_meter_first(meter->state); window != NULL;
		 window = llmq_meter_next(meter->state, window))
	{
		if (window->kind != LLMQ_WINDOW_CONCURRENCY || !(window->flags & LLMQ_WINDOW_SEEDING))
			continue;
		adopted = adopted || llmq_leases_adopt(meters->live, meter, leases);
		if (!adopted)
			break;
		done += complete(meters, meter->id, window, NULL);
	}
	return done;
}

/* Completes windows, those that reach back least first, until the deadline, but at least one; how many. */
static int64
seed_meters(SeedMeters *meters, const LlmqMaintenance *maintenance)
{
	LlmqOpenLeases leases;
	LlmqSeedPass pass = {.before = NULL};
	int64		done = 0;

	llmq_open_leases_find(meters->live, &leases);
	llmq_seed_pass_begin(&pass, meters->meter, meters->n, &leases);
	LLMQ_INJECT_CRASH("seed-begun", InvalidXLogRecPtr);
	do
		done += complete_windows(meters, pass.scan.to);
	while ((done == 0 || !llmq_maintenance_late(maintenance)) && llmq_seed_pass_step(&pass));
	llmq_seed_pass_end(&pass);
	for (int i = 0; i < meters->n; i++)
		done += complete_concurrency(meters, &meters->meter[i], &leases);
	llmq_cell_make_durable(meters->lsn);
	return done;
}

/* Completes windows until the deadline, of all meters or of one; how many. */
int64
llmq_seed_meters(const LlmqMaintenance *maintenance, int32 only)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "llmquota seed", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	LlmqLive	live;
	SeedMeters	meters = {.live = &live,.only = only,.context = context};
	int64		done = 0;

	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, RowExclusiveLock);
	meters.meter = palloc(sizeof(LlmqSeedMeter) * METERS_AT_ONCE);
	llmq_cell_walk(&live, LLMQ_LIVE_METER, find_seeding, &meters);
	if (meters.n == METERS_AT_ONCE)
		maintenance->next->work_left = true;
	if (meters.n > 0)
		done = seed_meters(&meters, maintenance);
	llmq_live_close(&live);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return done;
}

/* The step of maintenance. Windows that are to be counted anew come after those that have never been. */
int64
llmq_seed_step(const LlmqMaintenance *maintenance)
{
	int64		completed = llmq_seed_meters(maintenance, 0);

	return completed + llmq_recount(maintenance);
}
