/*
 * verify_lease.c
 *	  Do counts of calls in flight agree with the leases, and has every settled lease its row in the ledger?
 *
 * For llmquota_verify(), on copies of one moment. A slot says exactly which meters count it as in flight, with the
 * generation each of them had: so the count of every concurrency window can be compared exactly, whatever a crash has
 * left. A settled slot names the transaction that has written the ledger's row: a row is missed only when that one has
 * committed before the ledger's snapshot.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "ledger.h"
#include "relation.h"
#include "verify.h"
#include "xact_end.h"

/* How many leases each window of a meter counts as in flight, in the order of its windows. */
typedef int64 InFlight[LLMQ_METER_MOST_BYTES / LLMQ_WINDOW_HEAD_SIZE];

static char *
lease_text(const LlmqVerifyCell *page, int number)
{
	const LlmqSlot *slot = &((const LlmqLeasePage *) page->state)->slot[number];
	LlmqLeaseId id = {
		.page = page->id,.slot = number,.day = llmq_lease_day(slot->granted_at),.secret = slot->secret
	};
	pg_uuid_t	uuid;

	llmq_lease_uuid(&id, &uuid);
	return llmq_uuid_text(&uuid);
}

/* Adds one lease to the concurrency windows of a meter that count it. */
static void
add_lease(const LlmqVerifyCell *meter, uint32 generation, int64 *in_flight)
{
	const LlmqMeterState *state = (const LlmqMeterState *) meter->state;
	const LlmqWindow *window;
	int			i = 0;

	for (window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window), i++)
		if (window->metric == LLMQ_METRIC_CONCURRENCY && window->since <= generation)
			in_flight[i]++;
}

/* Adds every lease in flight to the meters that its slot says count it. */
static void
add_leases(LlmqVerify *verify, InFlight **in_flight)
{
	LlmqVerifyTable *meters = &verify->table[LLMQ_LIVE_METER];
	LlmqVerifyTable *pages = &verify->table[LLMQ_LIVE_LEASE];

	for (int32 i = 0; i < pages->last_id * LLMQ_SLOTS; i++)
	{
		const LlmqVerifyCell *page = pages->by_id[i / LLMQ_SLOTS + 1];
		const LlmqSlot *slot;

		if (page == NULL)
			continue;
		slot = &((const LlmqLeasePage *) page->state)->slot[i % LLMQ_SLOTS];
		if (slot->state == LLMQ_SLOT_FREE)
			continue;
		for (int m = 0; m < slot->nmeters; m++)
		{
			int32		id = slot->meter[m].meter;

			if ((slot->charged & (1 << m)) != 0 && id > 0 && id <= meters->last_id && meters->by_id[id] != NULL)
				add_lease(meters->by_id[id], slot->meter[m].generation, *in_flight[id]);
		}
	}
}

static void
compare_in_flight(LlmqVerify *verify, const LlmqVerifyCell *meter, const int64 *in_flight)
{
	const LlmqMeterState *state = (const LlmqMeterState *) meter->state;
	const LlmqWindow *window;
	int			i = 0;

	for (window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window), i++)
	{
		if (window->metric != LLMQ_METRIC_CONCURRENCY || window->sum == in_flight[i])
			continue;
		llmq_verify_report(verify, &(LlmqFinding) {
			.object = "window",
			.subject = psprintf("%s, quota " INT64_FORMAT, llmq_verify_subject(verify, meter), window->quota),
			.problem = "leases in flight",
			.expected = psprintf(INT64_FORMAT, in_flight[i]),
			.found = psprintf(INT64_FORMAT, window->sum),
			.repaired = llmq_repair_note_meter(verify, meter->id),
		});
	}
}

/* Compares every count of calls in flight with the leases. */
static void
verify_in_flight(LlmqVerify *verify)
{
	LlmqVerifyTable *meters = &verify->table[LLMQ_LIVE_METER];
	InFlight  **in_flight = palloc_extended(sizeof(InFlight *) * ((Size) meters->last_id + 1),
											MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);

	for (int32 id = 1; id <= meters->last_id; id++)
		if (meters->by_id[id] != NULL)
			in_flight[id] = palloc0(sizeof(InFlight));
	add_leases(verify, in_flight);
	for (int32 id = 1; id <= meters->last_id; id++)
		if (meters->by_id[id] != NULL)
			compare_in_flight(verify, meters->by_id[id], *in_flight[id]);
}

/* Must the ledger have the row of a settled slot by now? */
static bool
must_have_row(const LlmqVerify *verify, const LlmqSlot *slot)
{
	TransactionId xid = XidFromFullTransactionId(FullTransactionIdFromU64(slot->settled_by));

	return slot->state == LLMQ_SLOT_SETTLED && llmq_xact_end(slot->settled_by) == LLMQ_XACT_COMMITTED &&
		!XidInMVCCSnapshot(xid, verify->snapshot);
}

/* Could retention have dropped a day? One of the last two days it never does. */
static bool
may_be_dropped(const LlmqVerify *verify, const LlmqSlot *slot, int32 day)
{
	char	   *leaf = llmq_ledger_leaf_name(day);
	bool		exists = OidIsValid(get_relname_relid(leaf, llmq_schema_oid()));

	pfree(leaf);
	return !exists && slot->granted_at < verify->now - 2 * USECS_PER_DAY;
}

static void
verify_ledger_row(LlmqVerify *verify, const LlmqVerifyCell *page, int number)
{
	const LlmqSlot *slot = &((const LlmqLeasePage *) page->state)->slot[number];
	LlmqLeaseId id = {
		.page = page->id,.slot = number,.day = llmq_lease_day(slot->granted_at),.secret = slot->secret
	};
	LlmqLease	lease;
	LlmqLedgerRow row;

	llmq_lease_copy((const LlmqLeasePage *) page->state, number, &lease);
	if (must_have_row(verify, slot) && !llmq_ledger_find(&id, &row) && !may_be_dropped(verify, slot, id.day))
		llmq_verify_report(verify, &(LlmqFinding) {
			.object = "lease",.subject = lease_text(page, number),.problem = "row of the ledger is missing",
			.repaired = llmq_repair_write_row(verify, &id, &lease)
		});
}

/* Compares leases with what counts them and with the ledger. */
void
llmq_verify_leases(LlmqVerify *verify)
{
	LlmqVerifyTable *pages = &verify->table[LLMQ_LIVE_LEASE];
	MemoryContext context = AllocSetContextCreate(verify->context, "llmquota verify lease", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);

	verify_in_flight(verify);
	for (int32 id = 1; id <= pages->last_id; id++)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
		for (int i = 0; i < LLMQ_SLOTS && pages->by_id[id] != NULL; i++)
			verify_ledger_row(verify, pages->by_id[id], i);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}
