/*
 * retire_health.c
 *	  Retires cells of llmquota.health about what has been deleted.
 *
 * Services, tickets and calibrations belong to names: of accounts, models, providers, routes and orgs. When one of
 * these has been retired (retire.c: it is not configured, and for a day no call had to do with it), the cell goes, too:
 * ids of names are not given out twice, so nobody will look for it again. A name that has been retired stays so; hence
 * names are looked at with no page locked, and nothing is left to be asked under the lock. A call that was under way
 * may make such a cell anew, by the id that it remembers: that one goes with the next sweep.
 *
 * Boards and events are there for all patients together, and stay.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "health.h"
#include "maintain.h"

/* The most that one run retires, and how many of these under one creation lock: see retire.c. */
#define MAX_ORPHANS 10000
#define CELLS_AT_ONCE 50

/* Kinds of cells that belong to names. */
static const char named_kinds[] = {
	LLMQ_HEALTH_SERVICE, LLMQ_HEALTH_PROVIDER, LLMQ_HEALTH_TURNS, LLMQ_HEALTH_CALIBRATION, '\0'
};

typedef struct Orphans
{
	LlmqLive   *live;
	int			n;
	int32		id[MAX_ORPHANS];
} Orphans;

/* Notes a cell one of whose names has been retired. */
static void
visit_cell(const LlmqCellHeader *state, HeapTuple tuple, void *argument)
{
	Orphans    *orphans = argument;
	LlmqCellKey key;

	if (llmq_cell_is_dead(state) || orphans->n == MAX_ORPHANS)
		return;
	llmq_cell_key(tuple, LLMQ_LIVE_HEALTH, &key);
	if (key.kind == '\0' || strchr(named_kinds, key.kind) == NULL)
		return;
	if (!llmq_cell_is_named(orphans->live, key.subject) || !llmq_cell_is_named(orphans->live, key.part))
		orphans->id[orphans->n++] = state->id;
}

static bool
may_retire(LlmqCellHeader *copy, const void *argument)
{
	return true;
}

/* Retires what is orphaned in a part of llmquota.health. Answers how many cells. */
int64
llmq_retire_health(LlmqLive *live, const LlmqCellRange *range, const LlmqMaintenance *maintenance)
{
	Orphans    *orphans = palloc(sizeof(Orphans));
	int64		retired = 0;

	orphans->live = live;
	orphans->n = 0;
	if (range->count > 0)
		llmq_cell_scan(live, range, visit_cell, orphans);
	for (int first = 0; first < orphans->n && !llmq_maintenance_late(maintenance); first += CELLS_AT_ONCE)
	{
		CHECK_FOR_INTERRUPTS();
		llmq_cell_lock_creation(live, LLMQ_LIVE_HEALTH);
		for (int i = first; i < Min(first + CELLS_AT_ONCE, orphans->n); i++)
			if (llmq_cell_retire(live, LLMQ_LIVE_HEALTH, orphans->id[i], may_retire, NULL))
				retired++;
		llmq_cell_unlock_creation(live, LLMQ_LIVE_HEALTH);
	}
	pfree(orphans);
	return retired;
}
