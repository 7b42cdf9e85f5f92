/*
 * expire.c
 *	  The step of maintenance that ends leases nobody ended.
 *
 * Expires leases whose time has passed (the call may have been made: tokens stay charged, concurrency comes back, the
 * ledger gets its row), and writes the ledger rows that rolled-back transactions took with them. Pages are locked one
 * set at a time, as for any record; the ledger rows are the caller's transaction's.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "ledger.h"
#include "maintain.h"
#include "settle.h"
#include "xact_end.h"

/* Leases that have to be settled by maintenance, found by the walk. */
typedef struct Overdue
{
	TimestampTz now;
	int			n;
	int			size;
	LlmqLeaseId *id;
} Overdue;

/*
 * Is a slot's lease past its time, or settled by a transaction that failed, or one so long ago that the commit log does
 * not say?
 */
static bool
is_overdue(const LlmqSlot *slot, TimestampTz now)
{
	LlmqXactEnd end;

	if (slot->state == LLMQ_SLOT_GRANTED)
		return slot->expires_at <= now;
	if (slot->state != LLMQ_SLOT_SETTLED)
		return false;
	end = llmq_xact_end(slot->settled_by);
	return end == LLMQ_XACT_FAILED || end == LLMQ_XACT_TOO_OLD;
}

/* Notes the leases of a page that are overdue. */
static void
find_overdue(const LlmqCellHeader *state, HeapTuple tuple, void *context)
{
	const LlmqLeasePage *page = (const LlmqLeasePage *) state;
	Overdue    *overdue = context;

	for (int i = 0; i < LLMQ_SLOTS; i++)
	{
		const LlmqSlot *slot = &page->slot[i];

		if (!is_overdue(slot, overdue->now))
			continue;
		if (overdue->n == overdue->size)
		{
			overdue->size *= 2;
			overdue->id = repalloc_huge(overdue->id, sizeof(LlmqLeaseId) * overdue->size);
		}
		overdue->id[overdue->n++] = (LlmqLeaseId) {
			.page = state->id,.slot = i,.day = llmq_lease_day(slot->granted_at),.secret = slot->secret
		};
	}
}

/* Expires one lease, or writes the row that a failed transaction took with it, unless somebody was faster. */
static bool
settle_overdue(LlmqLive *live, const LlmqLeaseId *id, TimestampTz now)
{
	LlmqSettlement settlement = llmq_settlement_without_figures(LLMQ_OUTCOME_EXPIRED, LLMQ_USAGE_RESERVED);
	LlmqLedgerExtra extra = {0};
	LlmqSlot	slot;
	LlmqLeaseStanding standing = llmq_lease_look(live, id, &slot);

	if (standing == LLMQ_LEASE_OPEN)
	{
		settlement = slot.settlement;
		if (settlement.source == LLMQ_USAGE_REPORTED)
			settlement.source = LLMQ_USAGE_RECOVERED;
	}
	else if (standing != LLMQ_LEASE_LIVE || slot.expires_at > now)
	{
		/* the ledger knows what the commit log has forgotten */
		if (standing != LLMQ_LEASE_UNKNOWN && slot.state == LLMQ_SLOT_SETTLED &&
			llmq_xact_end(slot.settled_by) == LLMQ_XACT_TOO_OLD)
			(void) llmq_lease_free(live, id, &slot);
		return false;
	}
	if (!llmq_lease_settle(live, id, &settlement, &slot))
		return false;
	if (standing != LLMQ_LEASE_OPEN || !llmq_ledger_correct(id, &slot.settlement, &extra, NULL))
		llmq_ledger_insert(id, &slot, &extra);
	return standing == LLMQ_LEASE_LIVE;
}

/* Ends what is overdue; answers how many leases expired. */
int64
llmq_expire_step(const LlmqMaintenance *maintenance)
{
	Overdue		overdue = {.now = maintenance->now,.size = 64};
	LlmqLive	live;
	MemoryContext context;
	MemoryContext caller;
	int64		expired = 0;

	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, RowExclusiveLock);
	overdue.id = palloc(sizeof(LlmqLeaseId) * overdue.size);
	llmq_cell_walk(&live, LLMQ_LIVE_LEASE, find_overdue, &overdue);
	context = AllocSetContextCreate(CurrentMemoryContext, "llmquota overdue lease", ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	for (int i = 0; i < overdue.n && (i == 0 || !llmq_maintenance_late(maintenance)); i++)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
		if (settle_overdue(&live, &overdue.id[i], overdue.now))
			expired++;
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	pfree(overdue.id);
	llmq_live_close(&live);
	return expired;
}
