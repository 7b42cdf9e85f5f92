/*
 * alert_limit.c
 *	  What limits are to be alerted of: thresholds that are reached, and amounts that will be used up too early.
 *
 * Decided on copies of the meters, brought to the clock, by the limits that the configuration has for them now. So an
 * alert is about what is used when somebody looks: what has fallen back by then has recovered by itself.
 *
 * A window asks to be looked at when it is flagged (alert_mark.c, alert_config.c), or when the use at which its next
 * threshold is reached is another than its mark says. Once all that it causes has been committed, the flag is taken
 * away and the mark is set anew, under the page's lock and if no further threshold has been reached by then. So
 * whatever fails before that is found again, and what comes after it is flagged again.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "alert.h"
#include "budget.h"
#include "forecast.h"
#include "name.h"

/* All meters are looked at in that time, by rounds that come by themselves. Microseconds. */
#define PASS INT64CONST(60000000)

/* How often a page may move before a window is left to the next look. */
#define MAX_ATTEMPTS 100

/* A window that is looked at, at the clock, and whose it is. */
typedef struct Seen
{
	LlmqAlertLook *look;
	int32		cell;
	const LlmqMeter *meter;		/* NULL: it has no limits */
	const LlmqLimit *limit;		/* NULL: none counts for this window */
	int64		amount;
	LlmqWindow	window;
} Seen;

/* "day UTC"; "1 hour"; NULL for concurrency. */
static const char *
period_text(const LlmqLimit *limit)
{
	const LlmqQuota *quota = limit->quota;

	if (quota->kind != LLMQ_WINDOW_CALENDAR || llmq_unit_calendar(quota->unit) == LLMQ_CALENDAR_TOTAL)
		return quota->period;
	return psprintf("%s %s", quota->period, limit->zone);
}

/* Whom the limit is of, for people: org "clinic-7", model "m". */
static const char *
whose(const LlmqMeter *meter)
{
	LlmqScope	scope = meter->subject->scope;
	const char *subject = scope == LLMQ_SCOPE_GLOBAL ? "everything" :
		psprintf("%s \"%s\"", llmq_scope_name(scope), meter->subject->name);

	if (meter->part == LLMQ_PART_ALL)
		return subject;
	return psprintf("%s, %s \"%s\"", subject, meter->part == LLMQ_PART_MODEL ? "model" : "family", meter->part_name);
}

/* A number of tokens, or an amount of money, for people. */
static char *
figure_text(const LlmqQuota *quota, int64 figure)
{
	Datum		trimmed = DirectFunctionCall1(numeric_trim_scale, llmq_limit_figure(quota->id, figure));

	return DatumGetCString(DirectFunctionCall1(numeric_out, trimmed));
}

/* What is used of the limit, for people; `behind` says more of it. */
static char *
message(const Seen *seen, const char *behind)
{
	const LlmqQuota *quota = seen->limit->quota;
	const char *period = period_text(seen->limit);
	const char *unit = llmq_metric_text(quota->metric);
	char		currency[LLMQ_CURRENCY_SIZE];

	if (quota->budget != NULL)
	{
		llmq_currency_text(quota->budget->currency, currency);
		unit = currency;
	}
	return psprintf("%s: %s of %s %s used (%s " INT64_FORMAT "%s%s), %s", whose(seen->meter),
					figure_text(quota, seen->window.sum), figure_text(quota, seen->amount), unit,
					quota->budget != NULL ? "budget" : "quota", quota->budget != NULL ? quota->budget->id : quota->id,
					period == NULL ? "" : ", ", period == NULL ? "" : period, behind);
}

/* Adds a cause that is about the window. */
static LlmqAlertCause *
add_cause(const Seen *seen, const char *kind)
{
	LlmqAlertCause *cause = llmq_alert_cause(seen->look, kind);
	const LlmqQuota *quota = seen->limit->quota;
	const LlmqMeter *meter = seen->meter;

	cause->scope = llmq_scope_name(meter->subject->scope);
	cause->subject = pstrdup(meter->subject->name);
	if (meter->part == LLMQ_PART_MODEL)
		cause->model = pstrdup(meter->part_name);
	else if (meter->part == LLMQ_PART_FAMILY)
		cause->family = pstrdup(meter->part_name);
	cause->metric = llmq_metric_text(quota->metric);
	cause->period = period_text(seen->limit);
	cause->limit = quota->id;
	cause->used = seen->window.sum;
	cause->amount = seen->amount;
	if (seen->window.kind == LLMQ_WINDOW_CALENDAR)
	{
		cause->period_start = llmq_budget_period_start(quota, &seen->window);
		cause->ends_at = seen->window.head + seen->window.span;
	}
	return cause;
}

/* A fraction for people: 0.8, 0.955. */
static char *
fraction_text(int64 part)
{
	char	   *text = psprintf("%.9f", (double) part / LLMQ_THRESHOLD_ONE);
	Size		length = strlen(text);

	while (text[length - 1] == '0')
		text[--length] = '\0';
	if (text[length - 1] == '.')
		text[length - 1] = '\0';
	return text;
}

/* A cause for every threshold that is reached, with the number of a watch. How many. */
static int
add_thresholds(const Seen *seen, int32 watch)
{
	const LlmqThresholds *alert_at = seen->limit->alert_at;
	int			n = 0;

	while (n < alert_at->n && seen->window.sum >= llmq_threshold_use(alert_at->part[n], seen->amount))
	{
		LlmqAlertCause *cause = add_cause(seen, LLMQ_ALERT_THRESHOLD);

		cause->watch = watch;
		cause->threshold = alert_at->part[n];
		cause->message = message(seen, psprintf("which is %s or more", fraction_text(alert_at->part[n])));
		n++;
	}
	return n;
}

/* Has the window to be settled, and raises what first? */
static void
add_watch(const Seen *seen)
{
	const LlmqWindow *window = &seen->window;
	LlmqAlertWatch *watch;
	int64		next = LLMQ_NO_THRESHOLD;

	if (seen->limit != NULL)
		next = llmq_threshold_next(seen->limit->alert_at, seen->amount, window->sum);
	if (!(window->flags & LLMQ_WINDOW_ALERT) && llmq_window_is_alert_from(window, next))
		return;
	watch = palloc0(sizeof(LlmqAlertWatch));
	watch->meter = seen->cell;
	watch->quota = window->quota;
	watch->since = window->since;
	watch->began_at = window->began_at;
	watch->period = window->kind == LLMQ_WINDOW_CALENDAR ? window->head : 0;
	watch->next = next;
	if (seen->limit != NULL)
		watch->has_cause = add_thresholds(seen, list_length(seen->look->watches)) > 0;
	seen->look->watches = lappend(seen->look->watches, watch);
}

/* Causes for the thresholds of a concurrency limit, if it does not recover by itself. */
static void
look_at_concurrency(const Seen *seen)
{
	const LlmqMaintenance *maintenance = seen->look->maintenance;
	TimestampTz from = Max(seen->window.head, seen->window.began_at) + seen->look->catalog->settings.alert_recovery;

	if (seen->limit == NULL || seen->window.sum < seen->limit->alert_first)
		return;
	if (from > maintenance->now)
		llmq_maintenance_due(maintenance, from);
	else
		(void) add_thresholds(seen, -1);
}

/* A cause when the amount will be used up before the window ends. */
static void
add_forecast(const Seen *seen)
{
	const LlmqSettings *settings = &seen->look->catalog->settings;
	LlmqAlertCause *cause;
	const char *zone;
	int64		at;

	if (seen->limit == NULL || !settings->alert_forecast || seen->limit->alert_at->n == 0 ||
		(seen->window.flags & LLMQ_WINDOW_SEEDING))
		return;
	at = llmq_forecast(&seen->window, seen->amount, settings->alert_recovery, seen->look->maintenance->now);
	if (at == LLMQ_FORECAST_NONE)
		return;
	zone = seen->limit->zone == NULL ? "UTC" : seen->limit->zone;
	cause = add_cause(seen, LLMQ_ALERT_FORECAST);
	cause->expected_at = at;
	cause->message = message(seen, psprintf("at this rate all by %s", llmq_alert_instant(at, zone)));
}

/* The limit that a window counts for; NULL when the plan has none. */
static const LlmqLimit *
limit_of(const LlmqMeter *meter, const LlmqWindow *window)
{
	for (int i = 0; i < meter->nlimits; i++)
		if (llmq_window_same_shape(window, &meter->limit[i].shape))
			return &meter->limit[i];
	return NULL;
}

/* Brings the copy of a window to the clock. False when there is nothing in it that a limit is held against. */
static bool
bring_to_clock(LlmqWindow *window, uint32 generation, TimestampTz now)
{
	LlmqWindowShape shape;

	if (window->kind == LLMQ_WINDOW_CALENDAR)
		return now < window->head + window->span && llmq_window_begun(window);
	llmq_window_shape_of(window, &shape);
	(void) llmq_window_advance(window, &shape, now, generation);
	return true;
}

/*
 * Looks at one window. A period that has ended and that nobody has looked at since it was flagged is looked at as it
 * ended. What is used before a total begins is used of no limit.
 */
static void
look_at_window(Seen *seen, const LlmqMeterState *state, const LlmqWindow *window)
{
	TimestampTz now = seen->look->maintenance->now;
	bool		current;

	seen->limit = seen->meter == NULL || !llmq_window_begun(window) ? NULL : limit_of(seen->meter, window);
	seen->amount = seen->limit == NULL ? 0 : llmq_alert_amount(seen->limit, now);
	memcpy(&seen->window, window, llmq_window_size(window->kind));
	current = bring_to_clock(&seen->window, state->generation, now);
	if (window->kind == LLMQ_WINDOW_CONCURRENCY)
		look_at_concurrency(seen);
	else if (current || (window->flags & LLMQ_WINDOW_ALERT))
		add_watch(seen);
	if (current)
		add_forecast(seen);
}

/*
 * Can anything be said of a window? That it cannot is told by its quota alone, whoever it is of: nothing is flagged,
 * the mark is what it is to be, and too little is used for a forecast. Most windows are so.
 */
static bool
is_of_interest(const LlmqAlertLook *look, const LlmqWindow *window)
{
	const LlmqQuota *quota = llmq_quota_of_window(&look->quotas, window);
	const LlmqThresholds *alert_at;
	int64		first;

	if ((window->flags & LLMQ_WINDOW_ALERT) || quota == NULL)
		return true;
	if (quota->budget != NULL && quota->budget->raises != NULL)
		return true;			/* that depends on the subject */
	alert_at = llmq_quota_alert_at(&look->catalog->settings, quota);
	first = llmq_threshold_next(alert_at, quota->amount, 0);
	if (window->sum >= Min(first, quota->amount / LLMQ_FORECAST_LEAST_PART) && alert_at->n > 0)
		return true;
	return window->kind != LLMQ_WINDOW_CONCURRENCY && !llmq_window_is_alert_from(window, first);
}

static bool
has_interest(const LlmqAlertLook *look, const LlmqMeterState *state)
{
	for (const LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		if (is_of_interest(look, window))
			return true;
	return false;
}

/* Looks at one meter. */
static void
visit_meter(const LlmqCellHeader *cell, HeapTuple tuple, void *argument)
{
	const LlmqMeterState *state = (const LlmqMeterState *) cell;
	LlmqAlertLook *look = argument;
	Seen		seen = {.look = look,.cell = cell->id};
	LlmqCellKey key;

	if (llmq_alerts_full(look) || !has_interest(look, state))
		return;
	MemoryContextSwitchTo(look->context);
	llmq_cell_key(tuple, LLMQ_LIVE_METER, &key);
	seen.meter = llmq_plan_of_cell(look->catalog, &key);
	for (const LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		look_at_window(&seen, state, window);
}

/* A meter that is looked for in its place. */
typedef struct Sought
{
	LlmqAlertLook *look;
	int32		id;
} Sought;

static void
visit_place(const LlmqCellHeader *cell, HeapTuple tuple, void *argument)
{
	const Sought *sought = argument;

	if (cell->id == sought->id)
		visit_meter(cell, tuple, sought->look);
}

/* Looks at one meter by its number, if it is there. */
static void
look_at_meter(LlmqAlertLook *look, int32 id)
{
	Sought		sought = {.look = look,.id = id};
	LlmqCellRange range = {.table = LLMQ_LIVE_METER,.count = 1};
	ItemPointerData tid;

	if (id == 0 || !llmq_cell_locate(&look->live, LLMQ_LIVE_METER, id, &tid))
		return;
	range.first = ItemPointerGetBlockNumber(&tid);
	llmq_cell_walk_part(&look->live, &range, visit_place, &sought);
}

/*
 * Looks for what is to be alerted of limits: at the meters that somebody has called for, else at all, or if they are
 * very many at the part of them that is due.
 */
void
llmq_alerts_of_limits(LlmqAlertLook *look)
{
	const LlmqMaintenance *maintenance = look->maintenance;
	const LlmqAlertCall *call = maintenance->alerts;
	LlmqCellRange range;

	for (int i = 0; call != NULL && i < Min(call->n, LLMQ_ALERT_METERS); i++)
		look_at_meter(look, call->meter[i]);
	if (call != NULL && call->n <= LLMQ_ALERT_METERS)
		return;
	llmq_alerts_of_new_thresholds(look);
	llmq_tally_alerts_range(&look->live, PASS, maintenance->now, &range);
	llmq_cell_walk_part(&look->live, &range, visit_meter, look);
	if (!llmq_alerts_full(look))
		llmq_tally_advance(&look->live, &range, PASS, maintenance->now);
}

/* The window of a watch, if it is still the same; under the lock brought to the clock. */
static LlmqWindow *
find_watched(LlmqMeterState *state, const LlmqAlertWatch *watch, TimestampTz now)
{
	LlmqWindow *window = llmq_meter_first(state);
	LlmqWindowShape shape;

	while (window != NULL && (window->quota != watch->quota || window->since != watch->since ||
							  window->began_at != watch->began_at || window->kind == LLMQ_WINDOW_CONCURRENCY))
		window = llmq_meter_next(state, window);
	if (window == NULL || window->kind == LLMQ_WINDOW_CALENDAR)
		return window == NULL || window->head != watch->period ? NULL : window;
	llmq_window_shape_of(window, &shape);
	if (llmq_window_advance(window, &shape, now, state->generation))
		state->generation++;
	return window;
}

/* Locks a meter. False when its page moves all the time. */
bool
llmq_alert_lock_meter(LlmqAlertLook *look, LlmqCellSet *set, int *cell, int32 meter)
{
	bool		locked = false;

	for (int attempt = 0; !locked && attempt < MAX_ATTEMPTS; attempt++)
	{
		CHECK_FOR_INTERRUPTS();
		llmq_set_init(set, &look->live);
		*cell = llmq_set_add(set, LLMQ_LIVE_METER, meter);
		locked = llmq_set_lock(set) == LLMQ_LOCKED;
	}
	return locked;
}

/*
 * Takes the flag of a window away and says at which use the next threshold is reached, if it has not been by now: then
 * the next look sees to that. All that the window caused has been committed.
 */
void
llmq_alert_settle(LlmqAlertLook *look, const LlmqAlertWatch *watch)
{
	LlmqCellSet set;
	LlmqWindow *window;
	int			cell;

	if (!llmq_alert_lock_meter(look, &set, &cell, watch->meter))
		return;
	window = find_watched(llmq_set_change(&set, cell), watch, GetCurrentTimestamp());
	if (window != NULL && window->sum < watch->next)
	{
		window->flags &= ~LLMQ_WINDOW_ALERT;
		llmq_window_set_alert_from(window, watch->next);
		llmq_set_log(&set, 0);
		look->lsn = set.lsn;
	}
	else if (window != NULL)
		llmq_alert_call_add(&look->maintenance->next->alerts, watch->meter);
	llmq_set_unlock(&set);
}

/* The window that counts for a limit; NULL when there is none. */
static LlmqWindow *
window_of(const LlmqMeterState *state, const LlmqLimit *limit)
{
	LlmqWindow *window = llmq_meter_first(state);

	while (window != NULL && !llmq_window_same_shape(window, &limit->shape))
		window = llmq_meter_next(state, window);
	return window;
}

/* The scope with this name. */
static bool
scope_named(const char *name, LlmqScope *scope)
{
	for (int i = 0; i < LLMQ_SCOPE_COUNT; i++)
		if (strcmp(llmq_scope_name((LlmqScope) i), name) == 0)
		{
			*scope = (LlmqScope) i;
			return true;
		}
	return false;
}

static bool
is_about(const LlmqStanding *alert, const LlmqQuota *quota)
{
	return quota->budget == NULL ? quota->id == alert->quota : quota->budget->id == alert->budget;
}

/* The limit that an alert is about, if it holds still, and the meter that counts for it. */
static const LlmqLimit *
limit_of_alert(LlmqCatalog *catalog, const LlmqStanding *alert, LlmqMeter **meter)
{
	const char *part_name = alert->model != NULL ? alert->model : alert->family;
	LlmqPart	part = alert->model != NULL ? LLMQ_PART_MODEL : LLMQ_PART_FAMILY;
	LlmqSubject *subject;
	LlmqScope	scope;

	if (!scope_named(alert->scope, &scope))
		return NULL;
	subject = llmq_catalog_subject(catalog, scope, alert->subject);
	if (subject == NULL)
		return NULL;
	if (part_name != NULL)
		part_name = MemoryContextStrdup(subject->context, part_name);
	*meter = llmq_plan_meter(catalog, subject, part_name == NULL ? LLMQ_PART_ALL : part, part_name);
	for (int i = 0; *meter != NULL && i < (*meter)->nlimits; i++)
		if (is_about(alert, (*meter)->limit[i].quota))
			return &(*meter)->limit[i];
	return NULL;
}

/* Has the threshold of an alert been reached still, and is it one? */
static bool
is_reached(const LlmqThresholds *alert_at, int64 threshold, int64 amount, int64 used)
{
	for (int i = 0; i < alert_at->n; i++)
		if (alert_at->part[i] == threshold)
			return used >= llmq_threshold_use(threshold, amount);
	return false;
}

/* Is what an alert of a limit says so still? A limit or subject that is gone has none. */
bool
llmq_limit_alert_stands(LlmqCatalog *catalog, const LlmqStanding *alert, TimestampTz now)
{
	LlmqMeterState *state = palloc(LLMQ_MAX_STATE);
	LlmqMeter  *meter;
	const LlmqLimit *limit = limit_of_alert(catalog, alert, &meter);
	LlmqWindow *window = NULL;
	LlmqLive	live;
	int64		amount;
	bool		known;

	if (limit == NULL)
		return false;
	llmq_live_open(&live, LLMQ_LIVE_METER + 1, AccessShareLock);
	known = llmq_meter_read(&live, meter, state);
	llmq_live_close(&live);
	if (known)
		window = window_of(state, limit);
	if (window == NULL || !bring_to_clock(window, state->generation, now))
		return false;
	if (window->flags & LLMQ_WINDOW_SEEDING)
		return true;			/* it does not know yet what was used */
	amount = llmq_alert_amount(limit, now);
	if (strcmp(alert->kind, LLMQ_ALERT_THRESHOLD) == 0)
		return is_reached(limit->alert_at, alert->threshold, amount, window->sum);
	return window->sum >= amount || llmq_forecast(window, amount, 0, now) != LLMQ_FORECAST_NONE;
}
