/*
 * replay_price.c
 *	  What a call of the ledger costs, for a budget that is proposed.
 *
 * A call reserves what its tokens may cost at most, by the price of its model when it was picked. In the end it costs
 * what the ledger says; another model in its place costs what the same tokens cost there, unless the application said
 * what the call cost, which has nothing to do with tokens. Everything is in the currency of the budget, by the rates
 * of when the call was picked.
 */
#include "postgres.h"

#include "price.h"
#include "replay.h"

/* A cost in the budget's currency. False when it is not known there. */
static bool
convert(const LlmqReplay *replay, const LlmqReplayCall *call, const LlmqCost *cost, int64 *amount)
{
	LlmqCosts	costs = {.currency = {replay->rule->budget->currency}};

	if (!cost->known || !llmq_costs_convert(replay->catalog, cost, call->picked_at, &costs))
		return false;
	*amount = costs.amount[0];
	return true;
}

/* What a call may cost at most. */
static bool
cost_reserved(const LlmqReplay *replay, const LlmqReplayCall *call, const LlmqModel *model, const LlmqUse *use,
			  int64 *amount)
{
	LlmqCost	cost;

	return llmq_cost_reserve(replay->catalog, model, use, call->picked_at, &cost) &&
		convert(replay, call, &cost, amount);
}

/* What it costs in the end. */
static bool
cost_recorded(const LlmqReplay *replay, const LlmqReplayCall *call, const LlmqModel *model, int64 *amount)
{
	bool		own = model == replay->models.thing[call->model];
	LlmqPricedCall priced = {
		.model = model->name,.picked_at = call->picked_at,.reserved_input = call->reserved_input,
		.reserved_output = call->reserved_output,.settlement = &call->settlement
	};
	LlmqCost	cost;

	if (call->cost_known && (own || call->cost_given))
	{
		*amount = call->cost;
		return true;
	}
	llmq_cost_of(replay->catalog, &priced, &cost);
	return convert(replay, call, &cost, amount);
}

/*
 * Fills in what a call of the model reserves and costs. What is known of one of both stands for the other, too; false
 * when nothing is known, and then it is as if it were free.
 */
bool
llmq_replay_price(const LlmqReplay *replay, const LlmqReplayCall *call, const LlmqModel *model, LlmqUse *reserved,
				  LlmqUse *recorded)
{
	int64		at_most = 0;
	int64		in_the_end = 0;
	bool		reserved_known = cost_reserved(replay, call, model, reserved, &at_most);
	bool		recorded_known = cost_recorded(replay, call, model, &in_the_end);

	reserved->costs.currency[0] = replay->rule->budget->currency;
	reserved->costs.amount[0] = reserved_known ? at_most : in_the_end;
	if (call->settlement.outcome != LLMQ_OUTCOME_RELEASED)
	{
		recorded->costs.currency[0] = replay->rule->budget->currency;
		recorded->costs.amount[0] = recorded_known ? in_the_end : at_most;
	}
	return reserved_known || recorded_known;
}

/* Is one model cheaper than another for a call? Nobody knows when one has no price: then the budget is right. */
bool
llmq_replay_is_cheaper(const LlmqReplay *replay, const LlmqReplayCall *call, const LlmqModel *model,
					   const LlmqModel *than)
{
	LlmqUse		use = {.input = call->reserved_input,.output = call->reserved_output};
	LlmqCost	cost;
	LlmqCost	other;

	(void) llmq_cost_reserve(replay->catalog, model, &use, call->picked_at, &cost);
	(void) llmq_cost_reserve(replay->catalog, than, &use, call->picked_at, &other);
	llmq_cost_in_base(replay->catalog, &cost, call->picked_at);
	llmq_cost_in_base(replay->catalog, &other, call->picked_at);
	return !cost.base_known || !other.base_known || cost.base < other.base;
}
