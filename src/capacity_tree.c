/*
 * capacity_tree.c
 *	  What calls of a model go through: limits that hold for all, accounts, keys; each with its live counters.
 *
 * Meters are copied under a share lock, one page at a time; troubles are as the boards have them. Nothing is changed,
 * also in what this backend remembers, so it works on a hot standby. What is made lives in the current context.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "capacity_tree.h"
#include "zone.h"

/* When the periods after the window's begin, as far as the last horizon. */
static void
add_periods(LlmqCapacityLimit *added, const LlmqLimit *limit, int64 last)
{
	LlmqPeriod	period = limit->shape.period;
	LlmqWindowShape counted;

	if (limit->shape.kind != LLMQ_WINDOW_CALENDAR)
		return;
	/* a clock that steps back may have left the window in a later period */
	llmq_window_shape_of(added->window, &counted);
	while (period.end < last && added->nlater < LLMQ_LATER_PERIODS)
	{
		if (period.end >= counted.period.end)
			added->later[added->nlater++] = period.end;
		if (period.next_end >= last || !llmq_zone_period(limit->zone, limit->shape.unit, period.end, &period))
			break;
	}
}

/* Does a budget refuse what it cannot pay for, and nobody knows what the call may cost? A pick raises then. */
static bool
is_unpriced(const LlmqPick *pick, const LlmqLimit *limit)
{
	const LlmqBudget *budget = limit->quota->budget;
	LlmqCosts	costs = {0};

	if (budget == NULL || !limit->enforced || !budget->hard_stop)
		return false;
	costs.currency[0] = budget->currency;
	return !pick->cost.known || !llmq_costs_convert(pick->catalog, &pick->cost, pick->now, &costs);
}

/* One limit, by a copy of its meter's state; NULL: the meter has none yet. */
static void
add_limit(LlmqPick *pick, LlmqCapacityNode *node, const LlmqLimit *limit, LlmqMeterState *state, int64 last)
{
	LlmqLimitState stand = {.window = palloc(llmq_window_size(limit->shape.kind))};
	const LlmqBudget *budget = limit->quota->budget;
	bool		refuses = llmq_meter_limit(limit, state, &pick->demand, pick->now, &stand);
	bool		unpriced = is_unpriced(pick, limit);
	LlmqCapacityLimit *added;

	if (!refuses && !unpriced)
		return;
	added = palloc0(sizeof(LlmqCapacityLimit));
	added->window = stand.window;
	added->amount = unpriced ? 0 : stand.amount;
	added->size = stand.requested;
	added->mean_call = state == NULL ? 0 : state->mean_call;
	added->carry_debt = budget != NULL && budget->carry_debt;
	added->carry_unspent = budget != NULL && budget->carry_unspent;
	add_periods(added, limit, last);
	added->next = node->limits;
	node->limits = added;
}

/* The limits of one subject that may refuse. */
static void
add_limits(LlmqPick *pick, LlmqCapacityNode *node, const LlmqMeters *meters, int64 last)
{
	for (int i = 0; i < meters->n; i++)
	{
		LlmqMeter  *meter = meters->meter[i];
		bool		known = llmq_meter_read(&pick->live, meter, pick->scratch);

		llmq_plan_refresh(meter, pick->now);
		for (int j = 0; j < meter->nlimits; j++)
			add_limit(pick, node, &meter->limit[j], known ? pick->scratch : NULL, last);
	}
}

static void
add_node(LlmqCapacityNode *above, LlmqCapacityNode *node)
{
	node->next = above->first;
	above->first = node;
}

static void
add_key(LlmqPick *pick, LlmqCapacityNode *account, LlmqKey *key, int64 last)
{
	LlmqCapacityNode *node = palloc0(sizeof(LlmqCapacityNode));

	CHECK_FOR_INTERRUPTS();
	node->is_key = true;
	node->from = llmq_well_from(key, pick->model, pick->now);
	add_limits(pick, node, llmq_plan_meters(pick->catalog, &key->subject, pick->model), last);
	add_node(account, node);
}

/* An account with the keys that serve the model. */
static void
add_account(LlmqPick *pick, LlmqCapacityNode *group, LlmqAccount *account, int64 last)
{
	LlmqCapacityNode *node = palloc0(sizeof(LlmqCapacityNode));
	LlmqMeters *meters = llmq_plan_meters(pick->catalog, &account->subject, pick->model);

	for (LlmqKey *key = account->first_key; key != NULL; key = key->next)
		if (llmq_key_serves(key, pick->model))
			add_key(pick, node, key, last);
	if (node->first == NULL)
		return;
	llmq_limits_apply(&pick->live, meters, account);
	add_limits(pick, node, meters, last);
	add_node(group, node);
}

/* The accounts of an org, or the shared ones (NULL). */
static void
add_accounts(LlmqPick *pick, LlmqCapacityNode *group, const char *owner, int64 last)
{
	for (LlmqAccount *account = pick->catalog->first_account; account != NULL; account = account->next)
		if (llmq_account_offers(account, pick->model, owner))
			add_account(pick, group, account, last);
}

/* The limits that hold for an org's calls whatever the key; without an org, for everybody's. */
static void
add_common_limits(LlmqPick *pick, LlmqCapacityNode *top, int64 last)
{
	LlmqSubject *subjects[LLMQ_COMMON_SUBJECTS];
	int			n = llmq_common_subjects(pick, pick->model, subjects);

	for (int i = 0; i < n; i++)
		add_limits(pick, top, llmq_plan_meters(pick->catalog, subjects[i], pick->model), last);
}

/* Is nobody who makes calls for this org let in at all? */
static bool
is_refused(const LlmqPick *pick)
{
	const LlmqOrg *org = pick->org;

	return org != NULL && (!org->enabled || (!org->listed && pick->catalog->settings.unknown_org_refused));
}

/*
 * What calls like this pick's go through now. Of the pick are needed: catalog, live state with the troubles known,
 * scratch, org (NULL: whoever), model, tokens and priority; its demand and time come out.
 */
void
llmq_capacity_tree(LlmqPick *pick, LlmqCapacityTree *tree)
{
	static const int64 horizons[LLMQ_HORIZONS] = {USECS_PER_MINUTE, USECS_PER_HOUR, USECS_PER_DAY};
	int64		last;

	memset(tree, 0, sizeof(LlmqCapacityTree));
	pick->now = GetCurrentTimestamp();
	llmq_set_demand(pick);
	for (int i = 0; i < LLMQ_HORIZONS; i++)
		tree->until[i] = pick->now + horizons[i];
	last = tree->until[LLMQ_HORIZONS - 1];
	if (!pick->model->enabled || is_refused(pick))
		return;
	if (pick->org != NULL && pick->org->owns_accounts)
		add_accounts(pick, &tree->own, pick->org->subject.name, last);
	if (pick->org == NULL || pick->org->shared_keys)
		add_accounts(pick, &tree->shared, NULL, last);
	add_common_limits(pick, &tree->top, last);
}

/* What gets through with some of the accounts. */
void
llmq_capacity_ask(LlmqCapacityTree *tree, int64 now, LlmqAccounts accounts, LlmqCapacity capacity[LLMQ_HORIZONS])
{
	tree->top.first = NULL;
	tree->own.next = tree->shared.next = NULL;
	if (accounts != LLMQ_ACCOUNTS_SHARED)
		add_node(&tree->top, &tree->own);
	if (accounts != LLMQ_ACCOUNTS_OWN)
		add_node(&tree->top, &tree->shared);
	llmq_capacity(&tree->top, now, tree->until, capacity);
}
