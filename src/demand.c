/*
 * demand.c
 *	  What one call of a model reserves: tokens, and in money the most that they may cost.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "args.h"
#include "calibration.h"
#include "name.h"
#include "pick.h"
#include "prompt.h"

/* The input tokens of a call: what was said, else what the prompt comes to, else what the model's calls mostly have. */
static int32
expected_input(LlmqPick *pick)
{
	const LlmqModelTokens *known;

	if (pick->input_tokens != LLMQ_NOT_GIVEN)
		return pick->input_tokens;
	known = llmq_model_tokens(&pick->live, llmq_name_find(&pick->model->ref));
	if (pick->prompt.tokens > 0)
		return llmq_prompt_tokens(&pick->prompt, known);
	return known != NULL ? llmq_model_mean(known) : pick->catalog->settings.default_input_tokens;
}

static void
refuse_currencies(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("budgets in more than %d currencies hold for one call", LLMQ_CURRENCIES - 1),
			 errhint("Have the budgets that can meet in one call in fewer currencies.")));
}

/* Has the cost counted in one more currency. */
static void
want_currency(LlmqCosts *costs, LlmqCurrency currency)
{
	if (!llmq_costs_want(costs, currency))
		refuse_currencies();
}

/* Has it counted in the currencies of all budgets that can be charged: those whatever the key, and those of keys. */
static void
want_currencies(const LlmqPick *pick, LlmqCosts *costs)
{
	const LlmqCosts *of_keys = &pick->catalog->key_costs;
	LlmqSubject *subjects[LLMQ_COMMON_SUBJECTS];
	int			n = llmq_common_subjects(pick, pick->model, subjects);

	if (pick->catalog->too_many_currencies)
		refuse_currencies();
	for (int i = 0; i < LLMQ_CURRENCIES && of_keys->currency[i] != 0; i++)
		want_currency(costs, of_keys->currency[i]);
	for (int i = 0; i < n; i++)
	{
		LlmqMeters *meters = llmq_plan_meters(pick->catalog, subjects[i], pick->model);

		for (int j = 0; j < meters->n; j++)
			for (int k = 0; k < meters->meter[j]->nlimits; k++)
				if (meters->meter[j]->limit[k].quota->budget != NULL)
					want_currency(costs, meters->meter[j]->limit[k].quota->budget->currency);
	}
}

/* What the call may cost at most: as the caller said, else by its tokens. */
void
llmq_set_costs(LlmqPick *pick)
{
	LlmqCosts  *costs = &pick->demand.use.costs;
	TimestampTz now = GetCurrentTimestamp();

	(void) llmq_cost_reserve(pick->catalog, pick->model, &pick->demand.use, now, &pick->cost);
	if (pick->max_cost_given)
	{
		pick->cost.known = true;
		pick->cost.amount = pick->max_cost;
	}
	memset(costs, 0, sizeof(LlmqCosts));
	want_currency(costs, llmq_currency(pick->cost.currency));
	want_currencies(pick, costs);
	if (pick->cost.known)
		(void) llmq_costs_convert(pick->catalog, &pick->cost, now, costs);
	pick->costs_until = llmq_costs_change_at(pick->catalog, pick->model, now);
}

/* What one call of the model reserves. */
void
llmq_set_demand(LlmqPick *pick)
{
	LlmqUse    *use = &pick->demand.use;

	use->input = expected_input(pick);
	use->output = pick->output_tokens != LLMQ_NOT_GIVEN ? pick->output_tokens : pick->model->default_output_tokens;
	use->request = true;
	use->in_flight = true;
	pick->demand.high_priority = pick->priority == LLMQ_PRIORITY_HIGH;
	pick->demand.lease_ttl = pick->ttl_ms * INT64CONST(1000);
	if (pick->catalog->budgets != NULL)
		llmq_set_costs(pick);
}

static void
refuse_too_large(const LlmqPick *pick, const char *currency)
{
	ereport(ERROR,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			 errmsg("the most that a call of model \"%s\" may cost is more %s than can be counted",
					pick->model->name, currency),
			 errdetail("At most 9223372036.854775807 can."),
			 errhint("Pass fewer tokens or a smaller max_cost, or see whether prices and exchange rates are right.")));
}

/* Raises when a budget that refuses would have to count a cost that nobody knows, or that is too large for it. */
static void
refuse_unpriced_by(const LlmqPick *pick, LlmqCurrency currency)
{
	LlmqCosts	costs = {.currency = {currency}};
	TimestampTz now = GetCurrentTimestamp();
	char		text[LLMQ_CURRENCY_SIZE];

	llmq_currency_text(currency, text);
	if (!pick->cost.known && llmq_model_is_priced(pick->model, now))
		refuse_too_large(pick, pick->cost.currency);
	if (!pick->cost.known)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("model \"%s\" has no price, and a budget of \"%s\" refuses what it cannot pay for",
						pick->model->name, pick->org->subject.name),
				 errhint("Insert its price into llmquota.price (0 when it is free), or pass max_cost.")));
	if (llmq_costs_convert(pick->catalog, &pick->cost, now, &costs))
		return;
	if (llmq_rates_are_known(pick->catalog, pick->cost.currency, text, now))
		refuse_too_large(pick, text);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the price of model \"%s\" in %s cannot be converted into %s, the currency of a budget",
					pick->model->name, pick->cost.currency, text),
			 errhint("Insert exchange rates of both into llmquota.exchange_rate; the base currency needs none.")));
}

/* Raises when the model has no price in the currency of a budget that refuses. */
void
llmq_refuse_unpriced(const LlmqPick *pick, LlmqMeter *const *meters, int n)
{
	for (int i = 0; i < n; i++)
		for (int j = 0; j < meters[i]->nlimits; j++)
		{
			const LlmqLimit *limit = &meters[i]->limit[j];
			const LlmqBudget *budget = limit->quota->budget;

			if (budget != NULL && limit->enforced && budget->hard_stop)
				refuse_unpriced_by(pick, budget->currency);
		}
}
