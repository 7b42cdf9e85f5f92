/*
 * recount_lease.c
 *	  Brings what slots say that their leases cost to what the ledger says, where costs have changed there.
 *
 * The slot of a lease that has ended goes on saying what meters count of it, until another lease needs it: a late
 * record of an expired one is charged by the difference. So before budgets are counted anew (recount.c) such slots are
 * brought to the costs that will be counted: whoever records late meanwhile corrects the one or the other, and both
 * come to the same.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "ledger.h"
#include "seed.h"
#include "settle.h"

/* Slots that are to be looked at. */
typedef struct EndedLeases
{
	TimestampTz since;
	TimestampTz until;
	LlmqOpenLeases leases;
} EndedLeases;

/* Notes the leases of a page that have ended for good and have money. */
static void
find_ended(const LlmqCellHeader *state, HeapTuple tuple, void *context)
{
	const LlmqLeasePage *page = (const LlmqLeasePage *) state;
	EndedLeases *ended = context;
	LlmqOpenLeases *leases = &ended->leases;

	for (int i = 0; i < LLMQ_SLOTS; i++)
	{
		const LlmqSlot *slot = &page->slot[i];
		LlmqLease	lease;

		llmq_lease_copy(page, i, &lease);
		if (slot->state != LLMQ_SLOT_SETTLED || lease.money.secret == 0 || slot->granted_at < ended->since ||
			slot->granted_at >= ended->until || !llmq_slot_reusable(slot))
			continue;
		if (leases->n == leases->size)
			leases->lease = repalloc_huge(leases->lease, sizeof(LlmqOpenLease) * (leases->size *= 2));
		leases->lease[leases->n++] = (LlmqOpenLease) {
			.id = {.page = state->id,.slot = i,.day = llmq_lease_day(slot->granted_at),.secret = slot->secret},
			.lease = lease
		};
	}
}

/* What the ledger says that a lease cost, in the currencies that its slot has it in. False when it says nothing new. */
static bool
find_costs(const LlmqOpenLease *lease, LlmqSlotMoney *money)
{
	LlmqCosts	costs;
	LlmqLedgerRow row;
	LlmqCost	cost = {.known = false};

	if (!llmq_ledger_find(&lease->id, &row))
		return false;
	memset(&costs, 0, sizeof(costs));
	cost.known = row.cost != NULL && strlen(row.currency) < LLMQ_CURRENCY_SIZE &&
		llmq_money_read(row.cost, &cost.amount);
	memcpy(costs.currency, money->currency, sizeof(costs.currency));
	if (cost.known)
	{
		strlcpy(cost.currency, row.currency, LLMQ_CURRENCY_SIZE);
		(void) llmq_costs_convert(llmq_catalog(), &cost, row.picked_at, &costs);
	}
	if (cost.known == money->known && memcmp(costs.amount, money->settled, sizeof(costs.amount)) == 0)
		return false;
	money->known = cost.known;
	memcpy(money->settled, costs.amount, sizeof(costs.amount));
	return true;
}

/* Writes other costs into a slot, unless it has changed. */
static void
change(LlmqLive *live, const LlmqOpenLease *lease, const LlmqSlotMoney *money)
{
	LlmqCellSet set;
	LlmqLease	now;
	int			cell;

	llmq_set_init(&set, live);
	cell = llmq_set_add(&set, LLMQ_LIVE_LEASE, lease->id.page);
	if (llmq_set_lock(&set) != LLMQ_LOCKED)
		return;
	llmq_lease_copy(llmq_set_state(&set, cell), lease->id.slot, &now);
	if (llmq_slot_unchanged(&now.slot, &lease->lease.slot))
	{
		now.money = *money;
		llmq_lease_put(llmq_set_change(&set, cell), lease->id.slot, &now);
		llmq_set_log(&set, 0);
	}
	llmq_set_unlock(&set);
}

/* Brings the slots of leases that were picked in a span to the ledger. */
void
llmq_recount_leases(LlmqLive *live, TimestampTz since, TimestampTz until)
{
	EndedLeases ended = {.since = since,.until = until,.leases = {.size = 64}};

	ended.leases.lease = palloc(sizeof(LlmqOpenLease) * ended.leases.size);
	llmq_cell_walk(live, LLMQ_LIVE_LEASE, find_ended, &ended);
	for (int i = 0; i < ended.leases.n; i++)
	{
		LlmqOpenLease *lease = &ended.leases.lease[i];
		LlmqSlotMoney money = lease->lease.money;

		CHECK_FOR_INTERRUPTS();
		if (find_costs(lease, &money))
			change(live, lease, &money);
	}
	pfree(ended.leases.lease);
}
