/*
 * bill.c
 *	  What a lease is charged in money when it is recorded.
 *
 * A lease that budgets count has its cost in their currencies, each converted when it was picked; so has its end. Where
 * nobody knows what a call cost it stays charged for what was reserved.
 */
#include "postgres.h"

#include "bill.h"
#include "name.h"

/* What a lease cost that ends so; unknown where nobody can tell. */
static void
cost_of_ending(const LlmqLease *lease, const LlmqSettlement *settlement, const LlmqLedgerExtra *extra, LlmqCost *cost)
{
	LlmqPricedCall call = {
		.model = llmq_name_text(lease->slot.model),.picked_at = lease->slot.granted_at,
		.reserved_input = lease->slot.reserved_input,.reserved_output = lease->slot.reserved_output,
		.settlement = settlement,.cost_given = extra->cost_given,.cost = extra->cost
	};

	llmq_cost_of(llmq_catalog(), &call, cost);
}

/* Does somebody say what the call used, or cost? */
static bool
has_figures(const LlmqSettlement *settlement, const LlmqLedgerExtra *extra)
{
	return extra->cost_given || settlement->input != LLMQ_NO_TOKENS || settlement->output != LLMQ_NO_TOKENS;
}

/* Did the provider refuse the call? Without figures it has cost nothing then, whatever is known of prices. */
static bool
is_refused(const LlmqSettlement *settlement)
{
	return settlement->outcome == LLMQ_OUTCOME_ERROR && settlement->answered;
}

/* What a lease is charged that ends so. */
void
llmq_bill_make(const LlmqLease *lease, const LlmqSettlement *settlement, const LlmqLedgerExtra *extra, LlmqBill *bill)
{
	bool		has_money = lease->money.counted;
	LlmqCost	cost;

	*bill = llmq_bill_reserved(lease);
	bill->given &= settlement->outcome != LLMQ_OUTCOME_RELEASED && !is_refused(settlement);
	if (settlement->outcome == LLMQ_OUTCOME_RELEASED || (!has_money && !extra->cost_given))
		return;
	if (!has_figures(settlement, extra))
	{
		if (is_refused(settlement))
			memset(bill->costs.amount, 0, sizeof(bill->costs.amount));
		return;
	}
	cost_of_ending(lease, settlement, extra, &cost);
	if (!cost.known)
		return;
	bill->known = true;
	bill->given = extra->cost_given;
	if (!has_money)
		bill->costs.currency[0] = llmq_currency(cost.currency);
	(void) llmq_costs_convert(llmq_catalog(), &cost, lease->slot.granted_at, &bill->costs);
}

/* What a lease cost that the ledger may not have: as it has ended, else what was reserved for it. */
void
llmq_bill_open(const LlmqLease *lease, LlmqCost *cost)
{
	const LlmqSlotMoney *money = &lease->money;
	const LlmqLedgerExtra nothing = {0};
	LlmqSettlement none = llmq_settlement_without_figures(LLMQ_OUTCOME_NONE, LLMQ_USAGE_NONE);

	if (lease->slot.state == LLMQ_SLOT_SETTLED)
		llmq_bill_cost(lease, &nothing, cost);
	else if (money->secret == 0)
		cost_of_ending(lease, &none, &nothing, cost);
	else
	{
		memset(cost, 0, sizeof(LlmqCost));
		cost->known = money->priced;
		cost->amount = money->reserved[0];
		llmq_currency_text(money->currency[0], cost->currency);
	}
}

/*
 * What an expired lease cost of which only the ledger knows, now that it is recorded late. What its row says of that
 * stands where nobody knows better.
 */
void
llmq_bill_late(const LlmqLedgerRow *row, const LlmqSettlement *late, const LlmqLedgerExtra *extra, LlmqCost *cost)
{
	LlmqPricedCall call = {
		.model = row->model,.picked_at = row->picked_at,.reserved_input = row->reserved_input,
		.reserved_output = row->reserved_output,.settlement = late,.cost_given = extra->cost_given,.cost = extra->cost
	};
	bool		is_told = has_figures(late, extra);

	memset(cost, 0, sizeof(LlmqCost));
	if (is_told || is_refused(late) || row->cost == NULL)
		llmq_cost_of(llmq_catalog(), &call, cost);
	if (cost->known || row->cost == NULL)
		return;
	cost->known = (!is_told && is_refused(late)) || llmq_money_read(row->cost, &cost->amount);
	strlcpy(cost->currency, row->currency, LLMQ_CURRENCY_SIZE);
	llmq_cost_in_base(llmq_catalog(), cost, row->picked_at);
}

/*
 * What a settled lease cost, as the ledger has it: by its money, else by what the configuration says; the latter also
 * where the cost that somebody said has been taken back.
 */
void
llmq_bill_cost(const LlmqLease *lease, const LlmqLedgerExtra *extra, LlmqCost *cost)
{
	const LlmqSlotMoney *money = &lease->money;

	if (money->secret == 0 || !(money->counted || money->given))
	{
		cost_of_ending(lease, &lease->slot.settlement, extra, cost);
		return;
	}
	memset(cost, 0, sizeof(LlmqCost));
	cost->known = money->known;
	cost->amount = money->settled[0];
	llmq_currency_text(money->currency[0], cost->currency);
	llmq_cost_in_base(llmq_catalog(), cost, lease->slot.granted_at);
}
