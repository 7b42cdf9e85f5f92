/*
 * downgrade.c
 *	  What budgets have answer in the place of a model.
 *
 * Which steps of its budgets a request has reached is known from what this backend saw of them last; where that is
 * some step, or nothing was seen yet, the meters are read. Each limit remembers how many of its steps were acted on.
 * Whoever looks at the meters later, and at last under the locks, compares: when some budget has reached another step
 * meanwhile, whatever backend took it there, nothing is granted or refused and the model is chosen anew. So the first
 * pick after a threshold is crossed acts on it.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "pick.h"

/* Budgets whose steps a request has reached, and what they have answer. */
typedef struct Answer
{
	LlmqModel  *requested;
	LlmqModel  *model;			/* NULL: the one that was requested */
	int64		budget;
} Answer;

/* The model that answers in the place of one that names it; NULL: none. */
static LlmqModel *
successor(const LlmqPick *pick, const LlmqModel *model)
{
	return model->downgrade_to == NULL ? NULL : llmq_names_find(pick->catalog->models, model->downgrade_to);
}

/* Prices are compared for so many calls, so that those of a few tokens are not alike because they are rounded. */
#define COMPARED_CALLS 1000

/*
 * Is one model cheaper than another for this request? One that reserves nothing may take tokens nevertheless. Nobody
 * knows when one has no price: then the budget is right.
 */
static bool
is_cheaper(LlmqPick *pick, const LlmqModel *model, const LlmqModel *than)
{
	LlmqUse		use = {
		.input = pick->demand.use.input * COMPARED_CALLS,.output = pick->demand.use.output * COMPARED_CALLS
	};
	LlmqCost	cost;
	LlmqCost	other;
	TimestampTz now = GetCurrentTimestamp();

	if (use.input == 0 && use.output == 0)
		use.input = use.output = COMPARED_CALLS;
	(void) llmq_cost_reserve(pick->catalog, model, &use, now, &cost);
	(void) llmq_cost_reserve(pick->catalog, than, &use, now, &other);
	llmq_cost_in_base(pick->catalog, &cost, now);
	llmq_cost_in_base(pick->catalog, &other, now);
	return !cost.base_known || !other.base_known || cost.base < other.base;
}

/* Takes into account a budget that has reached so many steps: of several, the cheapest model answers. */
static void
add_budget(LlmqPick *pick, const LlmqBudget *budget, int steps, Answer *answer)
{
	LlmqModel  *model = budget->step[steps - 1].model;

	if (model == NULL)
		model = successor(pick, answer->requested);
	if (model == NULL || model == answer->requested || !is_cheaper(pick, model, answer->requested))
		return;
	if (answer->model != NULL && !is_cheaper(pick, model, answer->model))
		return;
	answer->model = model;
	answer->budget = budget->id;
}

static bool
has_steps(const LlmqMeter *meter)
{
	for (int i = 0; i < meter->nlimits; i++)
		if (meter->limit[i].quota->budget != NULL && meter->limit[i].quota->budget->nsteps > 0)
			return true;
	return false;
}

/* Has some budget of a meter reached a step, as far as this backend knows? */
static bool
reached_step(const LlmqMeter *meter, TimestampTz now)
{
	for (int i = 0; i < meter->nlimits; i++)
		if (llmq_limit_steps(&meter->limit[i], now) > 0)
			return true;
	return false;
}

/* Takes the budgets of a meter into account. */
static void
add_meter(LlmqPick *pick, LlmqMeter *meter, TimestampTz now, Answer *answer)
{
	if (!has_steps(meter))
		return;
	if (meter->seen_at == 0 || reached_step(meter, now))
	{
		bool		known = llmq_meter_read(&pick->live, meter, pick->scratch);
		LlmqVerdict unused;

		llmq_verdict_init(&unused);
		llmq_plan_refresh(meter, now);
		llmq_meter_check(meter, known ? pick->scratch : NULL, &pick->demand, now, &unused);
	}
	for (int i = 0; i < meter->nlimits; i++)
	{
		LlmqLimit  *limit = &meter->limit[i];

		limit->acted_on = llmq_limit_steps(limit, now);
		if (limit->acted_on > 0)
			add_budget(pick, limit->quota->budget, limit->acted_on, answer);
	}
}

/* What answers a request for a model. */
static void
find_answer(LlmqPick *pick, LlmqModel *model, Answer *answer)
{
	LlmqSubject *subjects[LLMQ_COMMON_SUBJECTS];
	int			n = llmq_common_subjects(pick, model, subjects);
	TimestampTz now = GetCurrentTimestamp();

	*answer = (Answer) {.requested = model};
	for (int i = 0; i < n; i++)
	{
		LlmqMeters *meters = llmq_plan_meters(pick->catalog, subjects[i], model);

		for (int j = 0; j < meters->n; j++)
			add_meter(pick, meters->meter[j], now, answer);
	}
}

/* Does a meter count calls of the model that was asked for? */
static bool
is_asked(const LlmqPick *pick, const LlmqMeter *meter)
{
	LlmqModel  *requested = pick->downgrade.requested;
	LlmqMeters *meters = llmq_plan_meters(pick->catalog, meter->subject, requested);

	if (meter->subject->scope == LLMQ_SCOPE_PROVIDER && meter->subject != &requested->provider->subject)
		return false;
	for (int i = 0; i < meters->n; i++)
		if (meters->meter[i] == meter)
			return true;
	return false;
}

static void
leave_aside(LlmqMeter *meter)
{
	for (int i = 0; i < meter->nlimits; i++)
		meter->limit[i].acted_on = PG_INT32_MAX;
}

/* Budgets that only hold for a model that answers in another's place have no say: it was not asked for. */
static void
leave_aside_own_budgets(LlmqPick *pick, LlmqModel *model)
{
	LlmqSubject *subjects[LLMQ_COMMON_SUBJECTS];
	int			n = llmq_common_subjects(pick, model, subjects);

	for (int i = 0; i < n; i++)
	{
		LlmqMeters *meters = llmq_plan_meters(pick->catalog, subjects[i], model);

		for (int j = 0; j < meters->n; j++)
			if (!is_asked(pick, meters->meter[j]))
				leave_aside(meters->meter[j]);
	}
}

/* Is the model one that has been tried for the request, or no cheaper than what was asked for? */
static bool
is_out(LlmqPick *pick, const LlmqModel *model)
{
	const LlmqDowngrade *downgrade = &pick->downgrade;

	if (model == downgrade->requested || !is_cheaper(pick, model, downgrade->requested))
		return true;
	for (int i = 0; i < downgrade->ntried; i++)
		if (downgrade->tried[i] == model)
			return true;
	return false;
}

/* The first of a chain of models that may be tried; NULL when there is none. What is disabled counts as tried. */
static LlmqModel *
next_in_chain(LlmqPick *pick, LlmqModel *model)
{
	LlmqDowngrade *downgrade = &pick->downgrade;

	for (int i = 0; model != NULL && i <= LLMQ_MAX_DOWNGRADES && downgrade->ntried < LLMQ_MAX_DOWNGRADES; i++)
	{
		bool		out = is_out(pick, model);

		if (!out)
			downgrade->tried[downgrade->ntried++] = model;
		if (!out && model->enabled)
		{
			leave_aside_own_budgets(pick, model);
			return model;
		}
		model = successor(pick, model);
	}
	return NULL;
}

/* The model to try for a request for this one; NULL when budgets have another answer, but none may be called. */
LlmqModel *
llmq_downgrade(LlmqPick *pick, LlmqModel *model)
{
	LlmqDowngrade *downgrade = &pick->downgrade;
	Answer		answer;

	memset(downgrade, 0, sizeof(LlmqDowngrade));
	if (pick->catalog->budgets == NULL)
		return model;
	pick->model = model;
	llmq_set_demand(pick);
	find_answer(pick, model, &answer);
	if (answer.model == NULL)
		return model;
	downgrade->requested = model;
	downgrade->budget = answer.budget;
	return next_in_chain(pick, answer.model);
}

/* The model to try when no key can serve the one tried last; NULL when there is none. */
LlmqModel *
llmq_downgrade_next(LlmqPick *pick)
{
	return pick->downgrade.requested == NULL ? NULL : next_in_chain(pick, successor(pick, pick->model));
}
