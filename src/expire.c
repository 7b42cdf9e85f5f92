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

#include "expire.h"
#include "inject.h"
#include "ledger.h"
#include "maintain.h"
#include "settle.h"
#include "xact_end.h"

/*
 * How long a settled slot that no new lease takes is kept: a late record finds its meters there. It has to go before
 * its row does, or else it would seem that the row was never written.
 */
#define KEEP_SETTLED (LLMQ_INJECTED("a-day-later") ? 0 : USECS_PER_DAY)

/* Leases that have to be settled by maintenance, found by the walk. */
typedef struct Overdue
{
	const LlmqMaintenance *maintenance;
	int			n;
	int			size;
	LlmqLeaseId *id;
} Overdue;

/*
 * Is there anything to do in a slot: is its lease past its time, or granted in part only because of a crash, or settled
 * by a transaction that failed, or settled long ago? Reads shared state: not under a content lock.
 */
bool
llmq_slot_overdue(const LlmqSlot *slot, TimestampTz now)
{
	LlmqXactEnd end;

	if (slot->state == LLMQ_SLOT_WAITING)
		return slot->expires_at <= now;
	if (slot->state == LLMQ_SLOT_GRANTED)
		return slot->expires_at <= now || llmq_slot_unfinished(slot);
	if (slot->state != LLMQ_SLOT_SETTLED)
		return false;
	if (llmq_slot_reusable(slot))
		return slot->settled_at <= now - KEEP_SETTLED;
	end = llmq_xact_end(slot->settled_by);
	return end == LLMQ_XACT_FAILED || end == LLMQ_XACT_TOO_OLD;
}

/* Notes the leases of a page that are overdue. */
static void
find_overdue(const LlmqCellHeader *state, HeapTuple tuple, void *context)
{
	const LlmqLeasePage *page = (const LlmqLeasePage *) state;
	Overdue    *overdue = context;
	TimestampTz now = overdue->maintenance->now;

	for (int i = 0; i < LLMQ_SLOTS; i++)
	{
		const LlmqSlot *slot = &page->slot[i];

		if (!llmq_slot_overdue(slot, now))
		{
			if (slot->state == LLMQ_SLOT_GRANTED || slot->state == LLMQ_SLOT_WAITING)
				llmq_maintenance_due(overdue->maintenance, slot->expires_at);
			continue;
		}
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

/* What a transaction that failed had settled; the row will lack what only the caller knew. */
static LlmqSettlement
recovered(const LlmqSlot *slot)
{
	LlmqSettlement settlement = slot->settlement;
	bool		by_caller = settlement.outcome == LLMQ_OUTCOME_OK || settlement.outcome == LLMQ_OUTCOME_ERROR;

	if (by_caller && settlement.source != LLMQ_USAGE_LATE)
		settlement.source = LLMQ_USAGE_RECOVERED;
	return settlement;
}

/*
 * How a lease that nobody ended has to end; false when it needs no end. A grant that a crash cut short was answered to
 * nobody: that call was not made.
 */
static bool
decide(LlmqLeaseStanding standing, const LlmqSlot *slot, TimestampTz now, LlmqSettlement *settlement)
{
	if (standing == LLMQ_LEASE_OPEN)
		*settlement = recovered(slot);
	else if (standing != LLMQ_LEASE_LIVE)
		return false;
	else if (llmq_slot_unfinished(slot))
		*settlement = llmq_settlement_without_figures(LLMQ_OUTCOME_RELEASED, LLMQ_USAGE_NONE);
	else
	{
		*settlement = llmq_settlement_without_figures(LLMQ_OUTCOME_EXPIRED, LLMQ_USAGE_RESERVED);
		return slot->expires_at <= now;
	}
	return true;
}

/*
 * Is a settled slot no longer needed, because its lease is in the ledger and nobody has taken it for long? A
 * transaction older than the commit log was so when the ledger was asked, too: we see it as ended since we began.
 */
static bool
is_done(LlmqLeaseStanding standing, const LlmqSlot *slot, TimestampTz now)
{
	if (standing != LLMQ_LEASE_SETTLED && standing != LLMQ_LEASE_EXPIRED)
		return false;
	if (llmq_slot_reusable(slot))
		return slot->settled_at <= now - KEEP_SETTLED;
	return llmq_xact_end(slot->settled_by) == LLMQ_XACT_TOO_OLD;
}

/* Frees the slot of a ticket that nobody has shown for long. False when there is none there. */
static bool
free_ticket(LlmqLive *live, const LlmqLeaseId *id, const LlmqSlot *slot, TimestampTz now)
{
	if (slot->state != LLMQ_SLOT_WAITING || slot->secret != id->secret)
		return false;
	if (slot->expires_at <= now)
		(void) llmq_lease_free(live, id, slot);
	return true;
}

/*
 * Does what is to be done about an overdue lease, unless somebody was faster: it expires, or the ledger gets the row
 * that a failed transaction took with it, in the current transaction; or its slot is freed. Has it expired?
 */
bool
llmq_overdue_settle(LlmqLive *live, const LlmqLeaseId *id, TimestampTz now)
{
	LlmqLedgerExtra extra = {0};
	LlmqSettlement settlement;
	LlmqLease	lease = {0};
	LlmqLeaseStanding standing = llmq_lease_look(live, id, &lease);
	LlmqBill	bill;

	if (free_ticket(live, id, &lease.slot, now))
		return false;
	if (!decide(standing, &lease.slot, now, &settlement))
	{
		if (is_done(standing, &lease.slot, now))
			(void) llmq_lease_free(live, id, &lease.slot);
		return false;
	}
	bill = standing == LLMQ_LEASE_OPEN ? llmq_bill_settled(&lease) : llmq_bill_reserved(&lease);
	if (!llmq_lease_settle(live, id, &settlement, &bill, &lease))
		return false;
	if (standing != LLMQ_LEASE_OPEN || !llmq_ledger_correct(id, &lease, &extra))
		llmq_ledger_insert(id, &lease, &extra);
	return standing == LLMQ_LEASE_LIVE && settlement.outcome == LLMQ_OUTCOME_EXPIRED;
}

/* Ends what is overdue; answers how many leases expired. */
int64
llmq_expire_step(const LlmqMaintenance *maintenance)
{
	Overdue		overdue = {.maintenance = maintenance,.size = 64};
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
		if (llmq_overdue_settle(&live, &overdue.id[i], maintenance->now))
			expired++;
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	pfree(overdue.id);
	llmq_live_close(&live);
	return expired;
}
