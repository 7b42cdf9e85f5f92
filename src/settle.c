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

/* Looks at a lease's slot, nothing held. `seen` is the slot as it was. */
LlmqLeaseStanding
llmq_lease_look(LlmqLive *live, const LlmqLeaseId *id, LlmqSlot *seen)
{
	LlmqLeasePage page;

	if (!llmq_cell_copy(live, LLMQ_LIVE_LEASE, id->page, &page, sizeof(page)))
		return LLMQ_LEASE_UNKNOWN;
	*seen = page.slot[id->slot];
	if (seen->state == LLMQ_SLOT_FREE || seen->secret != id->secret || llmq_lease_day(seen->granted_at) != id->day)
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

/* What a granted lease is charged for. */
LlmqUse
llmq_use_reserved(const LlmqSlot *slot)
{
	return (LlmqUse) {
		.input = slot->reserved_input,.output = slot->reserved_output,.request = true,.in_flight = true
	};
}

/*
 * What a settled lease is charged for. A figure that was not given stays as reserved, unless the provider answered with
 * a failure; an expired lease stays as reserved, because the call may have been made; a released one gives all back.
 */
LlmqUse
llmq_use_settled(const LlmqSlot *slot, const LlmqSettlement *settlement)
{
	LlmqUse		use = {0};
	bool		refused = settlement->outcome == LLMQ_OUTCOME_ERROR && settlement->answered;

	if (settlement->outcome == LLMQ_OUTCOME_RELEASED)
		return use;
	use.request = true;
	use.failed = refused;
	use.input = settlement->input != LLMQ_NO_TOKENS ? settlement->input : refused ? 0 : slot->reserved_input;
	use.output = settlement->output != LLMQ_NO_TOKENS ? settlement->output : refused ? 0 : slot->reserved_output;
	use.cached = settlement->cached != LLMQ_NO_TOKENS ? settlement->cached : 0;
	return use;
}

/* What the meters count that a crash kept from the slot's settlement: that which the settlement replaced. */
static LlmqUse
use_replaced(const LlmqSlot *slot)
{
	const LlmqReplaced *replaced = &slot->replaced;

	return (LlmqUse) {
		.input = replaced->input,.output = replaced->output,.cached = replaced->cached,
		.request = replaced->request != 0,.failed = replaced->failed != 0
	};
}

/* What one of a lease's meters counts it for. */
LlmqUse
llmq_use_at_meter(const LlmqSlot *slot, int meter)
{
	if (slot->charged & (1 << meter))
		return llmq_use_reserved(slot);
	if (slot->state == LLMQ_SLOT_GRANTED)
		return (LlmqUse) {0};
	return slot->replaced.behind & (1 << meter) ? use_replaced(slot) : llmq_use_settled(slot, &slot->settlement);
}

/* Everything that one settlement writes, put together before any lock. */
typedef struct Settling
{
	LlmqCellSet set;
	int			lease_cell;
	int			meter_cell[LLMQ_MAX_METERS];
	bool		lost[LLMQ_MAX_METERS];	/* meters that are no longer there */
	LlmqSlot	seen;
	LlmqSettlement settlement;
	uint64		settled_by;
	bool		finishing;		/* what a crash cut short, rather than anything new */
	int64		now;
} Settling;

static void
prepare_set(Settling *settling, LlmqLive *live, const LlmqLeaseId *id)
{
	llmq_set_init(&settling->set, live);
	for (int i = 0; i < settling->seen.nmeters; i++)
	{
		int32		meter = settling->seen.meter[i].meter;

		settling->meter_cell[i] = settling->lost[i] ? -1 : llmq_set_add(&settling->set, LLMQ_LIVE_METER, meter);
	}
	settling->lease_cell = llmq_set_add(&settling->set, LLMQ_LIVE_LEASE, id->page);
}

/*
 * Does a settlement replace figures that were other than what was reserved? Then nobody can tell any more which part
 * of them was charged when.
 */
static bool
replaces_figures(const LlmqSlot *seen, int meter, const LlmqUse *from)
{
	return seen->state == LLMQ_SLOT_SETTLED && !(seen->charged & (1 << meter)) &&
		(from->input != seen->reserved_input || from->output != seen->reserved_output || from->cached != 0);
}

/* Corrects one meter of the lease, under its lock. */
static void
correct_meter(Settling *settling, int i)
{
	const LlmqSlot *seen = &settling->seen;
	LlmqCorrection correction = {
		.from = llmq_use_at_meter(seen, i),
		.to = llmq_use_settled(seen, &settling->settlement),
		.picked_at = seen->granted_at,
		.now = settling->now,
		.generation = seen->meter[i].generation,
	};

	correction.loosens = replaces_figures(seen, i, &correction.from);

	llmq_meter_correct(llmq_set_change(&settling->set, settling->meter_cell[i]), &correction);
}

/* Corrects the meters whose pages are in this record; which ones, as bits. Those that are gone go with any. */
static uint16
correct_meters(Settling *settling, int record)
{
	const LlmqCellSet *set = &settling->set;
	uint16		done = 0;

	for (int i = 0; i < settling->seen.nmeters; i++)
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
	LlmqUse		use = llmq_use_settled(seen, &seen->settlement);

	if (seen->state == LLMQ_SLOT_GRANTED)
		return (LlmqReplaced) {0};
	return (LlmqReplaced) {
		.input = (int32) use.input,.output = (int32) use.output,.cached = (int32) use.cached,
		.behind = (1 << seen->nmeters) - 1,.request = use.request,.failed = use.failed
	};
}

/* Writes all records, each with its meters and the slot. All pages are locked. */
static void
write_records(Settling *settling, int slot_number)
{
	LlmqCellSet *set = &settling->set;
	int			nrecords = set->nrecords;
	uint16		charged = settling->seen.charged;
	LlmqReplaced replaced = settling->finishing ? settling->seen.replaced : replaced_use(&settling->seen);

	for (int record = 0; record < nrecords; record++)
	{
		LlmqLeasePage *page = llmq_set_change(set, settling->lease_cell);
		LlmqSlot   *slot = &page->slot[slot_number];
		uint16		done = correct_meters(settling, record);

		charged &= ~done;
		replaced.behind &= ~done;
		slot->state = LLMQ_SLOT_SETTLED;
		slot->settlement = settling->settlement;
		slot->settled_by = settling->settled_by;
		slot->settled_at = settling->now;
		slot->charged = charged;
		slot->replaced = replaced;
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
	for (int i = 0; i < settling->seen.nmeters; i++)
	{
		ItemPointerData tid;

		settling->lost[i] = !llmq_cell_locate(live, LLMQ_LIVE_METER, settling->seen.meter[i].meter, &tid);
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
 * Writes how a lease ended, and by which transaction, if its slot is still as seen; `slot` is then as it is now. False
 * when somebody else changed the slot first.
 */
static bool
change_slot(LlmqLive *live, const LlmqLeaseId *id, Settling *settling, LlmqSlot *slot)
{
	const LlmqLeasePage *page;

	settling->seen = *slot;
	lock_all(settling, live, id);
	page = llmq_set_state(&settling->set, settling->lease_cell);
	if (!llmq_slot_unchanged(&page->slot[id->slot], slot))
	{
		llmq_set_unlock(&settling->set);
		return false;
	}
	settling->now = GetCurrentTimestamp();
	write_records(settling, id->slot);
	page = llmq_set_state(&settling->set, settling->lease_cell);
	*slot = page->slot[id->slot];
	llmq_set_unlock(&settling->set);
	LLMQ_INJECT_CRASH("settled", settling->set.lsn);
	return true;
}

/*
 * Brings the meters that a crash has left behind to what the slot says. After that a new settlement replaces one use
 * only, and the slot has words for that.
 */
static bool
finish(LlmqLive *live, const LlmqLeaseId *id, LlmqSlot *slot)
{
	Settling	settling = {.settlement = slot->settlement,.settled_by = slot->settled_by,.finishing = true};

	return change_slot(live, id, &settling, slot);
}

/*
 * Settles a lease that llmq_lease_look() found live, open or expired. `slot` goes in as it was seen and comes out as it
 * is now. False when somebody else changed the slot first: then look again. The current transaction gets an id.
 *
 * The change is durable when the transaction commits. Whoever answers to the caller before that makes it durable first.
 */
bool
llmq_lease_settle(LlmqLive *live, const LlmqLeaseId *id, const LlmqSettlement *settlement, LlmqSlot *slot)
{
	Settling	settling = {.settlement = *settlement};

	settling.settled_by = U64FromFullTransactionId(GetCurrentFullTransactionId());
	if (slot->state == LLMQ_SLOT_SETTLED && llmq_slot_unfinished(slot) && !finish(live, id, slot))
		return false;
	if (!change_slot(live, id, &settling, slot))
		return false;
	llmq_lease_ended(id->page);
	return true;
}

/* Moves the expiry of a live lease; `slot` as in llmq_lease_settle(). False when somebody else changed it first. */
bool
llmq_lease_extend(LlmqLive *live, const LlmqLeaseId *id, int64 ttl, LlmqSlot *slot)
{
	LlmqCellSet set;
	LlmqLeasePage *page;
	int			cell;

	if (!lock_slot(live, id, slot, &set, &cell))
		return false;
	page = llmq_set_change(&set, cell);
	page->slot[id->slot].expires_at = GetCurrentTimestamp() + ttl;
	*slot = page->slot[id->slot];
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
	llmq_cell_make_durable(set.lsn);
	return true;
}
