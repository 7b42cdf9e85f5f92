/*
 * maintain.c
 *	  llmquota_maintain: what has to be done now and then, whoever calls it.
 *
 * Expires leases whose time has passed (the call may have been made: tokens stay charged, concurrency comes back, the
 * ledger gets its row), writes the ledger rows that rolled-back transactions took with them, makes the ledger's
 * partitions ahead of time, and deletes the rows of cells that were never born. Idempotent; one at a time, by an
 * advisory lock of the extension's own, and whoever comes second does nothing. Pages are locked one set at a time, as
 * for any record.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_namespace.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "args.h"
#include "ledger.h"
#include "maintain.h"
#include "pick.h"
#include "relation.h"
#include "settle.h"
#include "xact_end.h"

PG_FUNCTION_INFO_V1(llmquota_maintain);

/* The lock that keeps maintenance from overlapping: an object lock on our schema, with a sub-id of its own. */
#define MAINTENANCE_LOCK_SUBID 1

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

static int64
settle_all_overdue(LlmqLive *live)
{
	Overdue		overdue = {.now = GetCurrentTimestamp(),.size = 64};
	MemoryContext context;
	MemoryContext caller;
	int64		expired = 0;

	overdue.id = palloc(sizeof(LlmqLeaseId) * overdue.size);
	llmq_cell_walk(live, LLMQ_LIVE_LEASE, find_overdue, &overdue);
	context = AllocSetContextCreate(CurrentMemoryContext, "llmquota overdue lease", ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	for (int i = 0; i < overdue.n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
		if (settle_overdue(live, &overdue.id[i], overdue.now))
			expired++;
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	pfree(overdue.id);
	return expired;
}

/* llmquota_maintain() -> (expired, partitions_created, rows_moved, unborn_deleted) */
Datum
llmquota_maintain(PG_FUNCTION_ARGS)
{
	Datum		values[4] = {Int64GetDatum(0), Int32GetDatum(0), Int64GetDatum(0), Int64GetDatum(0)};
	bool		nulls[4] = {false};
	TupleDesc	desc;
	LlmqLive	live;
	int64		unborn = 0;
	int64		moved = 0;

	llmq_cell_refuse_if_read_only("llmquota_maintain()");
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "the function's result is not a row");
	if (ConditionalLockDatabaseObject(NamespaceRelationId, llmq_schema_oid(), MAINTENANCE_LOCK_SUBID, ExclusiveLock))
	{
		llmq_refusals_flush();
		llmq_live_open(&live, LLMQ_LIVE_COUNT, RowExclusiveLock);
		values[0] = Int64GetDatum(settle_all_overdue(&live));
		for (int table = 0; table < LLMQ_LIVE_COUNT; table++)
			unborn += llmq_cell_delete_dead(&live, (LlmqLiveTable) table);
		llmq_live_close(&live);
		values[1] = Int32GetDatum(llmq_partitions_create(&llmq_catalog()->settings, &moved));
		values[2] = Int64GetDatum(moved);
		values[3] = Int64GetDatum(unborn);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
