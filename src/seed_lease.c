/*
 * seed_lease.c
 *	  Leases that were granted before a window began and have not ended.
 *
 * What such a lease has reserved is added to a new window with everything else from before (seed.c). A count of calls
 * in flight has to fall again when the call ends, and so each lease is adopted: one record adds it to the concurrency
 * windows of the meter, and notes the meter's present generation in the lease's slot. So the slot says which windows
 * count it, whatever a crash leaves, and nothing is adopted twice.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "catalog.h"
#include "inject.h"
#include "name.h"
#include "seed.h"
#include "settle.h"

/* How often a page may have changed before a lease is left to the next maintenance. */
#define MAX_ATTEMPTS 100

/* Notes the leases of a page that are in flight, or whose row others cannot see yet. */
static void
find_open(const LlmqCellHeader *state, HeapTuple tuple, void *context)
{
	const LlmqLeasePage *page = (const LlmqLeasePage *) state;
	LlmqOpenLeases *leases = context;

	for (int i = 0; i < LLMQ_SLOTS; i++)
	{
		const LlmqSlot *slot = &page->slot[i];

		if (!llmq_slot_has_lease(slot) || llmq_slot_reusable(slot))
			continue;
		if (leases->n == leases->size)
		{
			leases->size *= 2;
			leases->lease = repalloc_huge(leases->lease, sizeof(LlmqOpenLease) * leases->size);
		}
		leases->lease[leases->n++] = (LlmqOpenLease) {
			.id = {.page = state->id,.slot = i,.day = llmq_lease_day(slot->granted_at),.secret = slot->secret}
		};
		llmq_lease_copy(page, i, &leases->lease[leases->n - 1].lease);
	}
}

/* Finds all leases that the ledger may not have yet. What ended before that, a snapshot taken afterwards shows. */
void
llmq_open_leases_find(LlmqLive *live, LlmqOpenLeases *leases)
{
	leases->n = 0;
	leases->size = 64;
	leases->lease = palloc(sizeof(LlmqOpenLease) * leases->size);
	llmq_cell_walk(live, LLMQ_LIVE_LEASE, find_open, leases);
}

/* Is this the family that a model belongs to? */
static bool
is_family_of(int32 family, int32 model)
{
	const char *name = llmq_name_text(model);
	const LlmqModel *found = name == NULL ? NULL : llmq_names_find(llmq_catalog()->models, name);
	const char *text = found == NULL || found->family == NULL ? NULL : llmq_name_text(family);

	return text != NULL && strcmp(text, found->family) == 0;
}

/* Is a lease one of those that a meter counts? */
static bool
belongs(const LlmqSlot *slot, const LlmqCellKey *key)
{
	LlmqScope	scope;
	int32		subject[] = {
		[LLMQ_SCOPE_GLOBAL] = 0,[LLMQ_SCOPE_PROVIDER] = slot->provider,[LLMQ_SCOPE_ACCOUNT] = slot->account,
		[LLMQ_SCOPE_KEY] = slot->key,[LLMQ_SCOPE_ORG] = slot->org,
		[LLMQ_SCOPE_PARENT] = -1	/* which counts no calls in flight */
	};

	if (!llmq_scope_of(key->kind, &scope) || subject[scope] != key->subject)
		return false;
	return key->part == 0 || key->part == slot->model || is_family_of(key->part, slot->model);
}

/* The generation that a meter had when it counted the lease; 0 when it has not. */
uint32
llmq_slot_generation(const LlmqSlot *slot, int32 meter)
{
	for (int i = 0; i < slot->nmeters; i++)
		if (slot->meter[i].meter == meter)
			return slot->meter[i].generation;
	return 0;
}

/* Does some concurrency window not count the lease yet? */
static bool
needs_adoption(const LlmqMeterState *state, const LlmqSlot *slot)
{
	uint32		generation = llmq_slot_generation(slot, state->cell.id);

	for (const LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		if (window->kind == LLMQ_WINDOW_CONCURRENCY && window->since > generation)
			return slot->state == LLMQ_SLOT_GRANTED && !llmq_slot_unfinished(slot);
	return false;
}

/* Writes the meter's present generation into the slot. False when the slot has no room for one more meter. */
static bool
note_generation(LlmqSlot *slot, int32 meter, uint32 generation)
{
	int			i = 0;

	while (i < slot->nmeters && slot->meter[i].meter != meter)
		i++;
	if (i == LLMQ_MAX_METERS)
		return false;
	slot->meter[i] = (LlmqSlotMeter) {.meter = meter,.generation = generation};
	slot->nmeters = Max(slot->nmeters, i + 1);
	slot->charged |= 1 << i;
	return true;
}

/* Adopts one lease under the locks, unless it has changed. False when it is to be left to another time. */
static bool
change(LlmqCellSet *set, const LlmqOpenLease *lease, int meter_cell, int lease_cell)
{
	const LlmqLeasePage *page = llmq_set_state(set, lease_cell);
	LlmqAdoption adoption = {
		.use = llmq_use_reserved(&lease->lease),.picked_at = lease->lease.slot.granted_at,
		.generation = llmq_slot_generation(&lease->lease.slot, set->cell[meter_cell].id)
	};
	LlmqSlot	slot = lease->lease.slot;
	LlmqMeterState *state;
	LlmqLeasePage *changed;

	if (!llmq_slot_unchanged(&page->slot[lease->id.slot], &slot))
		return true;			/* it has ended, or has been adopted */
	state = llmq_set_change(set, meter_cell);
	changed = llmq_set_change(set, lease_cell);
	if (!note_generation(&slot, set->cell[meter_cell].id, state->generation) || !llmq_meter_adopt(state, &adoption))
		return false;
	changed->slot[lease->id.slot] = slot;
	llmq_set_log(set, 0);
	LLMQ_INJECT_CRASH("seed-lease", set->lsn);
	return true;
}

static bool
adopt(LlmqLive *live, int32 meter, const LlmqOpenLease *lease)
{
	for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++)
	{
		LlmqCellSet set;
		int			meter_cell;
		int			lease_cell;
		bool		done;

		CHECK_FOR_INTERRUPTS();
		llmq_set_init(&set, live);
		meter_cell = llmq_set_add(&set, LLMQ_LIVE_METER, meter);
		lease_cell = llmq_set_add(&set, LLMQ_LIVE_LEASE, lease->id.page);
		if (llmq_set_lock(&set) != LLMQ_LOCKED)
			continue;
		done = change(&set, lease, meter_cell, lease_cell);
		llmq_set_unlock(&set);
		return done;
	}
	return false;
}

/*
 * Adopts all leases in flight that a meter's concurrency windows do not count. False when some are left.
 */
bool
llmq_leases_adopt(LlmqLive *live, const LlmqSeedMeter *meter, const LlmqOpenLeases *leases)
{
	bool		complete = true;

	for (int i = 0; i < leases->n; i++)
	{
		const LlmqOpenLease *lease = &leases->lease[i];

		if (belongs(&lease->lease.slot, &meter->key) && needs_adoption(meter->state, &lease->lease.slot) &&
			!adopt(live, meter->id, lease))
			complete = false;
	}
	return complete;
}
