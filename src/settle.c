/*
 * settle.c
 *	  Ends a lease: corrects its meters and writes how it ended into its slot.
 *
 * Record, release and expiry all come here. The caller looks (llmq_lease_look: a copy, nothing held), decides how the
 * lease ends, and calls llmq_lease_settle(), which locks meters and lease page in the protocol's order and checks that
 * the slot is still what was seen. Each record corrects some meters and clears their bits in the slot; the slot says
 * from the first of them how the lease ended, so whatever a crash leaves can be finished from it. Where a settlement
 * replaces another one (of a transaction that failed, or by a late record) the slot keeps what it replaced until the
 * last record; one that a crash cut short is finished before it is replaced in turn.
 *
 * The slot remembers the transaction that settles it: the caller inserts the ledger row in that transaction, and so the
 * slot names the one transaction whose commit contains the row. When that one has failed, whoever comes next settles
 * again, from the figures it had charged, and takes its place.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "inject.h"
#include "ledger.h"
#include "line.h"
#include "settle.h"
#include "xact_end.h"

/* How often a change may find that somebody else was first. Each time is somebody's progress. */
#define MAX_ATTEMPTS 1000

/*
 * Does the ledger have what the slot says? One that expired has a row, which a late record has to bring to the real
 * figures; whether it did shows in the row's status.
 */
static bool
is_in_ledger(const LlmqLeaseId *id, const LlmqSlot *slot)
{
	LlmqLedgerRow row;

	return llmq_ledger_find(id, &row) && strcmp(row.status, llmq_outcome_text(slot->settlement.outcome)) == 0;
}

/* How a settled lease stands. Only the ledger knows of a transaction that is older than the commit log. */
static LlmqLeaseStanding
settled_standing(const LlmqLeaseId *id, const LlmqSlot *slot)
{
	bool		expired = slot->settlement.outcome == LLMQ_OUTCOME_EXPIRED;

	switch (llmq_xact_end(slot->settled_by))
	{
		case LLMQ_XACT_FAILED:
			return LLMQ_LEASE_OPEN;
		case LLMQ_XACT_TOO_OLD:
			if (!is_in_ledger(id, slot))
				return LLMQ_LEASE_OPEN;
			break;
		case LLMQ_XACT_OPEN:
			if (expired)
				return LLMQ_LEASE_EXPIRING;
			break;
		case LLMQ_XACT_OWN:
		case LLMQ_XACT_COMMITTED:
			break;
	}
	return expired ? LLMQ_LEASE_EXPIRED : LLMQ_LEASE_SETTLED;
}

/* Looks at a lease, nothing held: as it was. */
LlmqLeaseStanding
llmq_lease_look(LlmqLive *live, const LlmqLeaseId *id, LlmqLease *lease)
{
	const LlmqSlot *seen = &lease->slot;
	LlmqLeasePage page;

	if (!llmq_cell_copy(live, LLMQ_LIVE_LEASE, id->page, &page, sizeof(page)))
		return LLMQ_LEASE_UNKNOWN;
	llmq_lease_copy(&page, id->slot, lease);
	if (!llmq_slot_has_lease(seen) || seen->secret != id->secret || llmq_lease_day(seen->granted_at) != id->day)
		return LLMQ_LEASE_UNKNOWN;
	return seen->state == LLMQ_SLOT_GRANTED ? LLMQ_LEASE_LIVE : settled_standing(id, seen);
}

/* The end of a lease of which nobody reports what it used. */
LlmqSettlement
llmq_settlement_without_figures(LlmqOutcome outcome, LlmqUsageSource source)
{
	return (LlmqSettlement) {
		.outcome = outcome,.source = source,.input = LLMQ_NO_TOKENS,.output = LLMQ_NO_TOKENS,
		.cached = LLMQ_NO_TOKENS,.cache_write = LLMQ_NO_TOKENS,.reasoning = LLMQ_NO_TOKENS,.latency_ms = -1
	};
}

/* The costs that a lease's money has of one kind. */
static LlmqCosts
costs_of(const LlmqSlotMoney *money, const int64 *amounts)
{
	LlmqCosts	costs;

	memcpy(costs.currency, money->currency, sizeof(costs.currency));
	memcpy(costs.amount, amounts, sizeof(costs.amount));
	return costs;
}

/* What a lease of which nobody says what it cost is charged: that which was reserved. */
LlmqBill
llmq_bill_reserved(const LlmqLease *lease)
{
	return (LlmqBill) {
		.known = lease->money.priced,.given = lease->money.told,.costs = costs_of(&lease->money, lease->money.reserved)
	};
}

/* What a settled lease was charged. */
LlmqBill
llmq_bill_settled(const LlmqLease *lease)
{
	return (LlmqBill) {
		.known = lease->money.known,.given = lease->money.given,.costs = costs_of(&lease->money, lease->money.settled)
	};
}

/*
 * The costs that meters are charged with for a lease. One that was granted before budgets counted it is charged none:
 * they have been told what it reserved.
 */
static LlmqCosts
charged_costs(const LlmqLease *lease, const int64 *amounts)
{
	return lease->money.counted ? costs_of(&lease->money, amounts) : (LlmqCosts) {0};
}

/* What a granted lease is charged for. */
LlmqUse
llmq_use_reserved(const LlmqLease *lease)
{
	return (LlmqUse) {
		.input = lease->slot.reserved_input,.output = lease->slot.reserved_output,.request = true,.in_flight = true,
		.costs = charged_costs(lease, lease->money.reserved)
	};
}

/*
 * What a call is charged for that ended so, but for money. A figure that was not given stays as reserved, unless the
 * provider answered with a failure; an expired lease stays as reserved, because the call may have been made; a released
 * one gives all back.
 */
LlmqUse
llmq_use_ended(int32 reserved_input, int32 reserved_output, const LlmqSettlement *settlement)
{
	LlmqUse		use = {0};
	bool		refused = settlement->outcome == LLMQ_OUTCOME_ERROR && settlement->answered;

	if (settlement->outcome == LLMQ_OUTCOME_RELEASED)
		return use;
	use.request = true;
	use.failed = refused;
	use.input = settlement->input != LLMQ_NO_TOKENS ? settlement->input : refused ? 0 : reserved_input;
	use.output = settlement->output != LLMQ_NO_TOKENS ? settlement->output : refused ? 0 : reserved_output;
	use.cached = settlement->cached != LLMQ_NO_TOKENS ? settlement->cached : 0;
	return use;
}

/* The same of a settled lease. */
LlmqUse
llmq_use_tokens(const LlmqSlot *slot, const LlmqSettlement *settlement)
{
	return llmq_use_ended(slot->reserved_input, slot->reserved_output, settlement);
}

/* What a lease is charged for by a settlement which cost so much. */
static LlmqUse
use_ending(const LlmqLease *lease, const LlmqSettlement *settlement, const int64 *amounts)
{
	LlmqUse		use = llmq_use_tokens(&lease->slot, settlement);

	if (settlement->outcome != LLMQ_OUTCOME_RELEASED)
		use.costs = charged_costs(lease, amounts);
	return use;
}

/* What a settled lease is charged for. */
LlmqUse
llmq_use_settled(const LlmqLease *lease)
{
	return use_ending(lease, &lease->slot.settlement, lease->money.settled);
}

/* What the meters count that a crash kept from the slot's settlement: that which the settlement replaced. */
static LlmqUse
use_replaced(const LlmqLease *lease)
{
	const LlmqReplaced *replaced = &lease->slot.replaced;

	return (LlmqUse) {
		.input = replaced->input,.output = replaced->output,.cached = replaced->cached,
		.request = replaced->request != 0,.failed = replaced->failed != 0,
		.costs = charged_costs(lease, lease->money.replaced)
	};
}

/* What one of a lease's meters counts it for. */
LlmqUse
llmq_use_at_meter(const LlmqLease *lease, int meter)
{
	const LlmqSlot *slot = &lease->slot;

	if (slot->charged & (1 << meter))
		return llmq_use_reserved(lease);
	if (slot->state == LLMQ_SLOT_GRANTED)
		return (LlmqUse) {0};
	return slot->replaced.behind & (1 << meter) ? use_replaced(lease) : llmq_use_settled(lease);
}

/* Everything that one settlement writes, put together before any lock. */
typedef struct Settling
{
	LlmqCellSet set;
	int			lease_cell;
	int			meter_cell[LLMQ_MAX_METERS];
	bool		lost[LLMQ_MAX_METERS];	/* meters that are no longer there */
	LlmqLease	seen;
	LlmqSettlement settlement;
	LlmqBill	bill;
	uint64		settled_by;
	bool		finishing;		/* what a crash cut short, rather than anything new */
	int64		now;
} Settling;

static void
prepare_set(Settling *settling, LlmqLive *live, const LlmqLeaseId *id)
{
	llmq_set_init(&settling->set, live);
	for (int i = 0; i < settling->seen.slot.nmeters; i++)
	{
		int32		meter = settling->seen.slot.meter[i].meter;

		settling->meter_cell[i] = settling->lost[i] ? -1 : llmq_set_add(&settling->set, LLMQ_LIVE_METER, meter);
	}
	settling->lease_cell = llmq_set_add(&settling->set, LLMQ_LIVE_LEASE, id->page);
}

/*
 * Does a settlement replace figures that were other than what was reserved? Then nobody can tell any more which part
 * of them was charged when.
 */
static bool
replaces_figures(const LlmqLease *lease, int meter, const LlmqUse *from)
{
	const LlmqSlot *seen = &lease->slot;

	return seen->state == LLMQ_SLOT_SETTLED && !(seen->charged & (1 << meter)) &&
		(from->input != seen->reserved_input || from->output != seen->reserved_output || from->cached != 0 ||
		 memcmp(from->costs.amount, lease->money.reserved, sizeof(from->costs.amount)) != 0);
}

/* Corrects one meter of the lease, under its lock. */
static void
correct_meter(Settling *settling, int i)
{
	const LlmqSlot *seen = &settling->seen.slot;
	LlmqCorrection correction = {
		.from = llmq_use_at_meter(&settling->seen, i),
		.to = use_ending(&settling->seen, &settling->settlement, settling->bill.costs.amount),
		.picked_at = seen->granted_at,
		.now = settling->now,
		.generation = seen->meter[i].generation,
	};

	correction.loosens = replaces_figures(&settling->seen, i, &correction.from);

	llmq_meter_correct(llmq_set_change(&settling->set, settling->meter_cell[i]), &correction);
}

/* Corrects the meters whose pages are in this record; which ones, as bits. Those that are gone go with any. */
static uint16
correct_meters(Settling *settling, int record)
{
	const LlmqCellSet *set = &settling->set;
	uint16		done = 0;

	for (int i = 0; i < settling->seen.slot.nmeters; i++)
	{
		if (!settling->lost[i])
		{
			if (llmq_set_record_of(set, settling->meter_cell[i]) != record)
				continue;
			correct_meter(settling, i);
		}
		done |= 1 << i;
	}
	return done;
}

/* What the settlement replaces in the slot: nothing but the reservation, unless the slot was settled before. */
static LlmqReplaced
replaced_use(const LlmqSlot *seen)
{
	LlmqUse		use = llmq_use_tokens(seen, &seen->settlement);

	if (seen->state == LLMQ_SLOT_GRANTED)
		return (LlmqReplaced) {0};
	return (LlmqReplaced) {
		.input = (int32) use.input,.output = (int32) use.output,.cached = (int32) use.cached,
		.behind = (1 << seen->nmeters) - 1,.request = use.request,.failed = use.failed
	};
}

/* What becomes of a lease's money. One that had none gets it when its cost was said. */
static void
settle_money(const Settling *settling, LlmqSlotMoney *money)
{
	const LlmqBill *bill = &settling->bill;
	bool		released = settling->settlement.outcome == LLMQ_OUTCOME_RELEASED;

	if (money->secret == 0 && bill->costs.currency[0] == 0)
		return;
	if (settling->seen.slot.state == LLMQ_SLOT_SETTLED && !settling->finishing)
		memcpy(money->replaced, money->settled, sizeof(money->replaced));
	if (!money->counted)
		memcpy(money->currency, bill->costs.currency, sizeof(money->currency));
	money->secret = settling->seen.slot.secret;
	money->known = bill->known || (released && money->priced);
	money->given = bill->given;
	if (released)
		memset(money->settled, 0, sizeof(money->settled));
	else
		memcpy(money->settled, bill->costs.amount, sizeof(money->settled));
}

/* Writes all records, each with its meters and the lease, which is as it was seen; says how it is now. */
static void
write_records(Settling *settling, int slot_number, LlmqLease *lease)
{
	LlmqCellSet *set = &settling->set;
	LlmqSlot   *slot = &lease->slot;
	int			nrecords = set->nrecords;

	if (!settling->finishing)
		slot->replaced = replaced_use(slot);
	settle_money(settling, &lease->money);
	slot->state = LLMQ_SLOT_SETTLED;
	slot->settlement = settling->settlement;
	slot->settled_by = settling->settled_by;
	slot->settled_at = settling->now;
	for (int record = 0; record < nrecords; record++)
	{
		LlmqLeasePage *page = llmq_set_change(set, settling->lease_cell);
		uint16		done = correct_meters(settling, record);

		slot->charged &= ~done;
		slot->replaced.behind &= ~done;
		llmq_lease_put(page, slot_number, lease);
		llmq_set_log(set, record);
		LLMQ_INJECT_CRASH("settle-record", set->lsn);
	}
}

/* Locks the page of one slot alone. False, with nothing held, when the slot is not what was seen. */
static bool
lock_slot(LlmqLive *live, const LlmqLeaseId *id, const LlmqSlot *seen, LlmqCellSet *set, int *cell)
{
	const LlmqLeasePage *page;

	llmq_set_init(set, live);
	*cell = llmq_set_add(set, LLMQ_LIVE_LEASE, id->page);
	if (llmq_set_lock(set) != LLMQ_LOCKED)
		return false;
	page = llmq_set_state(set, *cell);
	if (llmq_slot_unchanged(&page->slot[id->slot], seen))
		return true;
	llmq_set_unlock(set);
	return false;
}

/* A meter that has been retired meanwhile has nothing to correct: it held no lease when it went. */
static void
skip_lost_meters(Settling *settling, LlmqLive *live)
{
	for (int i = 0; i < settling->seen.slot.nmeters; i++)
	{
		ItemPointerData tid;

		settling->lost[i] = !llmq_cell_locate(live, LLMQ_LIVE_METER, settling->seen.slot.meter[i].meter, &tid);
	}
}

/* Frees a slot whose lease is in the ledger for good. False when somebody else changed it first. */
bool
llmq_lease_free(LlmqLive *live, const LlmqLeaseId *id, const LlmqSlot *seen)
{
	LlmqCellSet set;
	LlmqLeasePage *page;
	int			cell;

	if (!lock_slot(live, id, seen, &set, &cell))
		return false;
	page = llmq_set_change(&set, cell);
	memset(&page->slot[id->slot], 0, sizeof(LlmqSlot));
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
	llmq_lease_ended(id->page);
	return true;
}

/* Locks every page that the settlement changes; meters that are gone are left out. */
static void
lock_all(Settling *settling, LlmqLive *live, const LlmqLeaseId *id)
{
	for (int attempts = 0; attempts < MAX_ATTEMPTS; attempts++)
	{
		prepare_set(settling, live, id);
		if (llmq_set_lock(&settling->set) == LLMQ_LOCKED)
			return;
		CHECK_FOR_INTERRUPTS();
		skip_lost_meters(settling, live);
	}
	elog(ERROR, "live state keeps moving");
}

/*
 * Writes how a lease ended, and by which transaction, if its slot is still as seen; `lease` is then as it is now. False
 * when somebody else changed the slot first.
 */
static bool
change_slot(LlmqLive *live, const LlmqLeaseId *id, Settling *settling, LlmqLease *lease)
{
	const LlmqLeasePage *page;

	settling->seen = *lease;
	lock_all(settling, live, id);
	page = llmq_set_state(&settling->set, settling->lease_cell);
	if (!llmq_slot_unchanged(&page->slot[id->slot], &lease->slot))
	{
		llmq_set_unlock(&settling->set);
		return false;
	}
	/* what does not tell one state of a slot from another may have changed: labels are forgotten, retries counted */
	llmq_lease_copy(page, id->slot, lease);
	if (!llmq_lease_page_has_money(page))
		memset(&settling->bill, 0, sizeof(LlmqBill));
	settling->now = GetCurrentTimestamp();
	write_records(settling, id->slot, lease);
	llmq_set_unlock(&settling->set);
	LLMQ_INJECT_CRASH("settled", settling->set.lsn);
	return true;
}

/*
 * Brings the meters that a crash has left behind to what the slot says. After that a new settlement replaces one use
 * only, and the slot has words for that.
 */
static bool
finish(LlmqLive *live, const LlmqLeaseId *id, LlmqLease *lease)
{
	Settling	settling = {
		.settlement = lease->slot.settlement,.settled_by = lease->slot.settled_by,.finishing = true,
		.bill = llmq_bill_settled(lease)
	};

	return change_slot(live, id, &settling, lease);
}

/*
 * Settles a lease that llmq_lease_look() found live, open or expired. `lease` goes in as it was seen and comes out as
 * it is now. False when somebody else changed the slot first: then look again. The current transaction gets an id.
 *
 * The change is durable when the transaction commits. Whoever answers to the caller before that makes it durable first.
 */
bool
llmq_lease_settle(LlmqLive *live, const LlmqLeaseId *id, const LlmqSettlement *settlement, const LlmqBill *bill,
				  LlmqLease *lease)
{
	Settling	settling = {.settlement = *settlement,.bill = *bill};

	settling.settled_by = U64FromFullTransactionId(GetCurrentFullTransactionId());
	if (lease->slot.state == LLMQ_SLOT_SETTLED && llmq_slot_unfinished(&lease->slot) && !finish(live, id, lease))
		return false;
	if (!change_slot(live, id, &settling, lease))
		return false;
	llmq_lease_ended(id->page);
	llmq_line_ended(live, &settling.seen.slot);
	return true;
}

/*
 * Moves the expiry of a live lease; `slot` as in llmq_lease_settle(). False when somebody else changed it first, or it
 * has expired: by the clock under the lock, so that whoever has seen it past its time since may rely on that.
 */
bool
llmq_lease_extend(LlmqLive *live, const LlmqLeaseId *id, int64 ttl, LlmqSlot *slot)
{
	LlmqCellSet set;
	LlmqLeasePage *page;
	int64		now;
	int			cell;

	if (!lock_slot(live, id, slot, &set, &cell))
		return false;
	now = GetCurrentTimestamp();
	if (slot->state == LLMQ_SLOT_GRANTED && slot->expires_at <= now)
	{
		llmq_set_unlock(&set);
		return false;
	}
	page = llmq_set_change(&set, cell);
	page->slot[id->slot].expires_at = now + ttl;
	*slot = page->slot[id->slot];
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
	llmq_cell_make_durable(set.lsn);
	return true;
}
