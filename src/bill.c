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

/* Does a settlement say nothing of what the call used? */
static bool
says_nothing(const LlmqSettlement *settlement, const LlmqLedgerExtra *extra)
{
	return !extra->cost_given && settlement->source == LLMQ_USAGE_RESERVED && settlement->input == LLMQ_NO_TOKENS &&
		settlement->output == LLMQ_NO_TOKENS;
}

/* What a lease is charged that ends so. */
void
llmq_bill_make(const LlmqLease *lease, const LlmqSettlement *settlement, const LlmqLedgerExtra *extra, LlmqBill *bill)
{
	bool		has_money = lease->money.secret != 0;
	LlmqCost	cost;

	*bill = llmq_bill_reserved(lease);
	if (settlement->outcome == LLMQ_OUTCOME_RELEASED || (has_money && says_nothing(settlement, extra)) ||
		(!has_money && !extra->cost_given))
		return;
	cost_of_ending(lease, settlement, extra, &cost);
	if (!cost.known)
		return;
	bill->known = true;
	bill->given = extra->cost_given;
	if (!has_money)
		bill->costs.currency[0] = llmq_currency(cost.currency);
	(void) llmq_costs_convert(llmq_catalog(), &cost, lease->slot.granted_at, &bill->costs);
}

/* What a settled lease cost, as the ledger has it: by its money, else by what the configuration says. */
void
llmq_bill_cost(const LlmqLease *lease, const LlmqLedgerExtra *extra, LlmqCost *cost)
{
	const LlmqSlotMoney *money = &lease->money;

	if (money->secret == 0)
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
