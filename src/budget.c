/*
 * budget.c
 *	  Budgets: limits in money, which have a cheaper model answer before they refuse.
 *
 * A budget is a quota of the metric cost, and goes through plan and meters as one; what it has beside that is here.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "common/int128.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "budget.h"
#include "catalog_row.h"
#include "price.h"

#define ONE INT64CONST(1000000000)

/* Columns of llmquota.budget. */
enum
{
	COL_ID = 1, COL_SCOPE, COL_SUBJECT, COL_MODEL, COL_FAMILY, COL_AMOUNT, COL_CURRENCY, COL_CALENDAR, COL_PER,
	COL_TIMEZONE, COL_FISCAL_MONTH, COL_STARTS_AT, COL_DOWNGRADE_AT, COL_DOWNGRADE_TO, COL_HARD_STOP,
	COL_FREE_WHEN_SPENT, COL_CARRY_DEBT, COL_CARRY_UNSPENT, COL_ALERT_AT, COL_MODE, COL_ROLLOUT
};

/* A model by the name that a row has; NULL where it has none. */
static LlmqModel *
named_model(const LlmqRow *row, int column)
{
	return is_null(row, column) ? NULL : llmq_names_find(row->catalog->models, text_value(row, column));
}

/* The one step of a budget that has no rows in llmquota.budget_step. */
static void
default_step(LlmqBudget *budget, const LlmqRow *row)
{
	if (is_null(row, COL_DOWNGRADE_AT))
		return;
	budget->nsteps = 1;
	budget->step = llmq_catalog_keep(row->catalog, sizeof(LlmqBudgetStep));
	budget->step->at = llmq_scaled(value(row, COL_DOWNGRADE_AT), LLMQ_FRACTION_DECIMALS);
	budget->step->model = named_model(row, COL_DOWNGRADE_TO);
}

static void
read_alert_at(LlmqBudget *budget, const LlmqRow *row)
{
	Datum	   *fractions;
	int			n;

	if (is_null(row, COL_ALERT_AT))
		return;
	deconstruct_array(DatumGetArrayTypeP(value(row, COL_ALERT_AT)), NUMERICOID, -1, false, TYPALIGN_INT, &fractions,
					  NULL, &n);
	for (int i = 0; i < n; i++)
		llmq_threshold_add(&budget->alert_at, llmq_scaled(fractions[i], LLMQ_FRACTION_DECIMALS));
}

/* Adds a budget to the configuration. */
LlmqQuota *
llmq_budget_read(LlmqRow *row)
{
	LlmqCatalog *catalog = row->catalog;
	LlmqQuota  *quota = llmq_catalog_keep(catalog, sizeof(LlmqQuota));
	LlmqBudget *budget = llmq_catalog_keep(catalog, sizeof(LlmqBudget));

	budget->id = DatumGetInt64(value(row, COL_ID));
	budget->currency = llmq_currency(text_value(row, COL_CURRENCY));
	budget->starts_at = DatumGetTimestampTz(value(row, COL_STARTS_AT));
	budget->hard_stop = bool_value(row, COL_HARD_STOP);
	budget->free_when_spent = bool_value(row, COL_FREE_WHEN_SPENT);
	budget->carry_debt = bool_value(row, COL_CARRY_DEBT);
	budget->carry_unspent = bool_value(row, COL_CARRY_UNSPENT);
	default_step(budget, row);
	read_alert_at(budget, row);
	budget->next = catalog->budgets;
	catalog->budgets = budget;

	quota->id = llmq_budget_window(budget->id, budget->currency);
	quota->budget = budget;
	quota->metric = LLMQ_METRIC_COST;
	quota->amount = is_null(row, COL_AMOUNT) ? LLMQ_NO_LIMIT : llmq_scaled(value(row, COL_AMOUNT), LLMQ_MONEY_DECIMALS);
	llmq_quota_subject(quota, row, COL_SCOPE);
	llmq_quota_window(quota, row, COL_PER, COL_CALENDAR, DatumGetInt32(value(row, COL_FISCAL_MONTH)));
	quota->zone = text_value(row, COL_TIMEZONE);
	quota->observe = strcmp(text_value(row, COL_MODE), "observe") == 0;
	quota->rollout = fraction_value(row, COL_ROLLOUT);
	quota->window_flags = budget->carry_debt || budget->carry_unspent ? LLMQ_WINDOW_CARRIES : 0;
	llmq_quota_add(catalog, quota);
	if ((quota->scope == LLMQ_SCOPE_ACCOUNT || quota->scope == LLMQ_SCOPE_KEY) && quota->amount != LLMQ_NO_LIMIT)
		catalog->too_many_currencies |= !llmq_costs_want(&catalog->key_costs, budget->currency);
	return quota;
}

static void
read_budget(LlmqRow *row)
{
	(void) llmq_budget_read(row);
}

static LlmqBudget *
find_budget(const LlmqRow *row, int column)
{
	int64		id = DatumGetInt64(value(row, column));
	LlmqBudget *budget = row->catalog->budgets;

	while (budget != NULL && budget->id != id)
		budget = budget->next;
	return budget;
}

/* Puts a step into its place. The first row of a budget takes the place of what its own columns say. */
static void
read_step(LlmqRow *row)
{
	LlmqBudget *budget = find_budget(row, 1);
	LlmqBudgetStep *steps;
	int64		at = llmq_scaled(value(row, 2), LLMQ_FRACTION_DECIMALS);
	int			place;

	if (budget == NULL)
		return;
	if (!budget->has_steps)
		budget->nsteps = 0;
	budget->has_steps = true;
	steps = palloc(sizeof(LlmqBudgetStep) * (budget->nsteps + 1));
	for (place = budget->nsteps; place > 0 && budget->step[place - 1].at > at; place--)
		steps[place] = budget->step[place - 1];
	if (place > 0)
		memcpy(steps, budget->step, sizeof(LlmqBudgetStep) * place);
	steps[place] = (LlmqBudgetStep) {.at = at,.model = named_model(row, 3)};
	budget->step = steps;
	budget->nsteps++;
}

/* Reads a raise that holds, or held in a period that may yet hand on something. */
static void
read_raise(LlmqRow *row)
{
	LlmqBudget *budget = find_budget(row, 2);
	bool		carries = budget != NULL && (budget->carry_debt || budget->carry_unspent);
	LlmqBudgetRaise *raise;

	if (budget == NULL || (DatumGetTimestampTz(value(row, 5)) <= GetCurrentTimestamp() && !carries))
		return;
	raise = llmq_catalog_keep(row->catalog, sizeof(LlmqBudgetRaise));
	raise->subject = text_value(row, 3);
	raise->amount = llmq_scaled(value(row, 4), LLMQ_MONEY_DECIMALS);
	raise->from = DatumGetTimestampTz(value(row, 8));
	raise->until = DatumGetTimestampTz(value(row, 5));
	raise->next = budget->raises;
	budget->raises = raise;
}

/* Reads budgets, when models and orgs are there. */
void
llmq_budgets_load(LlmqCatalog *catalog, Snapshot snapshot)
{
	if (!OidIsValid(llmq_relation_oid_if_any(LLMQ_REL_BUDGET)))
		return;
	llmq_catalog_read(catalog, LLMQ_REL_BUDGET, snapshot, read_budget);
	llmq_catalog_read(catalog, LLMQ_REL_BUDGET_STEP, snapshot, read_step);
	llmq_catalog_read(catalog, LLMQ_REL_BUDGET_RAISE, snapshot, read_raise);
}

/* What may be spent now: the budget's amount, or more where it has been raised for the subject. */
int64
llmq_budget_amount(const LlmqQuota *quota, const char *subject, int64 now)
{
	return llmq_budget_held(quota, subject, now, PG_INT64_MAX);
}

/* What could be spent in a span of time: the largest amount that held somewhere in it. */
int64
llmq_budget_held(const LlmqQuota *quota, const char *subject, int64 from, int64 to)
{
	int64		amount = quota->amount;

	for (const LlmqBudgetRaise *raise = quota->budget->raises; raise != NULL; raise = raise->next)
		if (raise->until > from && raise->from < to && raise->amount > amount &&
			strcmp(raise->subject, subject) == 0)
			amount = raise->amount;
	return amount;
}

/*
 * When the period of a calendar window began, of a quota too. That of a total begins when its budget says: that may be
 * later than now.
 */
int64
llmq_budget_period_start(const LlmqQuota *quota, const LlmqWindow *window)
{
	if (quota->budget == NULL || llmq_unit_calendar(quota->unit) != LLMQ_CALENDAR_TOTAL)
		return window->head;
	return quota->budget->starts_at;
}

/* How many of the steps have been reached; those at 0 always are, and all of an amount of 0. */
int
llmq_budget_steps(const LlmqBudget *budget, int64 amount, int64 used)
{
	int			n = 0;

	while (n < budget->nsteps && (int128) Max(used, 0) * ONE >= (int128) amount * budget->step[n].at)
		n++;
	return n;
}

/* What goes into the next period: more than 0 is a debt, less can be spent in addition. */
static int128
handed_on(const LlmqQuota *quota, int128 left)
{
	if (left > 0)
		return quota->budget->carry_debt ? left : 0;
	return quota->budget->carry_unspent ? Max(left, -(int128) quota->amount) : 0;
}

/*
 * What a period in which so much could be spent hands on to the one that begins `periods` later. Each period in between
 * pays back what it might have spent, or saves it.
 */
int64
llmq_budget_carried(const LlmqQuota *quota, int64 held, int64 used, int64 periods)
{
	int128		carried = handed_on(quota, (int128) used - held);

	if (periods > 1)
		carried = handed_on(quota, carried - (int128) quota->amount * (periods - 1));
	return (int64) carried;
}
