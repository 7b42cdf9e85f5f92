/*
 * alert_limit.c
 *	  What limits are to be alerted of: a threshold that is reached, and an amount that will be used up before its time.
 *
 * Decided on copies of the meters, brought to the clock, by the limits that the configuration has for them now. So an
 * alert is about what is used when somebody looks: what has fallen back by then has recovered by itself. A calendar
 * window whose period has ended has nothing in it.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "alert.h"
#include "forecast.h"
#include "name.h"

/* A window that is looked at, at the clock, and whose it is. */
typedef struct Seen
{
	LlmqAlertLook *look;
	const LlmqMeter *meter;
	const LlmqLimit *limit;
	const LlmqThresholds *alert_at;
	LlmqWindow	window;
	bool		over;			/* its period has ended */
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

/* What is used of the limit, for people; `behind` says more of it. */
static char *
message(const Seen *seen, const char *behind)
{
	const LlmqQuota *quota = seen->limit->quota;
	const char *period = period_text(seen->limit);

	return psprintf("%s: " INT64_FORMAT " of " INT64_FORMAT " %s used (quota " INT64_FORMAT "%s%s), %s",
					whose(seen->meter), seen->window.sum, quota->amount, llmq_metric_text(quota->metric), quota->id,
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
	cause->quota = quota->id;
	cause->used = seen->window.sum;
	cause->amount = quota->amount;
	if (seen->window.kind == LLMQ_WINDOW_CALENDAR)
	{
		cause->period_start = seen->window.head;
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

/* A cause for every threshold that is reached. */
static void
add_thresholds(const Seen *seen)
{
	for (int i = 0; i < seen->alert_at->n; i++)
	{
		int64		part = seen->alert_at->part[i];
		LlmqAlertCause *cause;

		if (seen->window.sum < llmq_threshold_use(part, seen->limit->quota->amount))
			return;
		cause = add_cause(seen, LLMQ_ALERT_THRESHOLD);
		cause->threshold = part;
		cause->message = message(seen, psprintf("which is %s or more", fraction_text(part)));
	}
}

/* A cause when the amount will be used up before the window ends. */
static void
add_forecast(const Seen *seen)
{
	const LlmqSettings *settings = &seen->look->catalog->settings;
	const char *zone = seen->limit->zone == NULL ? "UTC" : seen->limit->zone;
	LlmqAlertCause *cause;
	int64		at;

	if (!settings->alert_forecast || seen->alert_at->n == 0 || (seen->window.flags & LLMQ_WINDOW_SEEDING))
		return;
	at = llmq_forecast(&seen->window, seen->limit->quota->amount, settings->alert_recovery,
					   seen->look->maintenance->now);
	if (at == LLMQ_FORECAST_NONE)
		return;
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

/* Looks at one window. */
static void
look_at_window(Seen *seen, const LlmqMeterState *state, const LlmqWindow *window)
{
	seen->limit = limit_of(seen->meter, window);
	if (seen->limit == NULL || window->kind == LLMQ_WINDOW_CONCURRENCY)
		return;
	seen->alert_at = llmq_quota_alert_at(seen->look->catalog, seen->limit->quota);
	memcpy(&seen->window, window, llmq_window_size(window->kind));
	if (seen->limit->quota->amount <= 0 ||
		!bring_to_clock(&seen->window, state->generation, seen->look->maintenance->now))
		return;
	add_thresholds(seen);
	add_forecast(seen);
}

/* Looks at one meter. */
static void
visit_meter(const LlmqCellHeader *cell, HeapTuple tuple, void *argument)
{
	const LlmqMeterState *state = (const LlmqMeterState *) cell;
	LlmqAlertLook *look = argument;
	Seen		seen = {.look = look};
	LlmqCellKey key;

	if (llmq_alerts_full(look))
		return;
	MemoryContextSwitchTo(look->context);
	llmq_cell_key(tuple, LLMQ_LIVE_METER, &key);
	seen.meter = llmq_plan_of_cell(look->catalog, &key);
	if (seen.meter == NULL)
		return;
	for (const LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		look_at_window(&seen, state, window);
}

/* Looks for what is to be alerted of limits. */
void
llmq_alerts_of_limits(LlmqAlertLook *look)
{
	llmq_cell_walk(&look->live, LLMQ_LIVE_METER, visit_meter, look);
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

/* The limit that an alert is about, if it holds still, and the meter that counts for it. */
static const LlmqLimit *
limit_of_alert(LlmqCatalog *catalog, const LlmqStanding *alert, LlmqMeter **meter)
{
	const char *part_name = alert->model != NULL ? alert->model : alert->family;
	LlmqPart	part = alert->model != NULL ? LLMQ_PART_MODEL : alert->family != NULL ? LLMQ_PART_FAMILY : LLMQ_PART_ALL;
	LlmqSubject *subject;
	LlmqScope	scope;

	if (!scope_named(alert->scope, &scope))
		return NULL;
	subject = llmq_catalog_subject(catalog, scope, alert->subject);
	if (subject == NULL)
		return NULL;
	if (part_name != NULL)
		part_name = MemoryContextStrdup(subject->context, part_name);
	*meter = llmq_plan_meter(catalog, subject, part, part_name);
	for (int i = 0; *meter != NULL && i < (*meter)->nlimits; i++)
		if ((*meter)->limit[i].quota->id == alert->quota)
			return &(*meter)->limit[i];
	return NULL;
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
	bool		known = false;

	if (limit == NULL)
		return false;
	llmq_live_open(&live, LLMQ_LIVE_METER + 1, AccessShareLock);
	known = llmq_meter_read(&live, meter, state);
	llmq_live_close(&live);
	if (known)
		window = window_of(state, limit);
	if (window == NULL || !bring_to_clock(window, state->generation, now))
		return false;
	if (strcmp(alert->kind, LLMQ_ALERT_THRESHOLD) == 0)
		return window->sum >= llmq_threshold_use(alert->threshold, limit->quota->amount) ||
			(window->flags & LLMQ_WINDOW_SEEDING);
	return window->sum >= limit->quota->amount ||
		llmq_forecast(window, limit->quota->amount, 0, now) != LLMQ_FORECAST_NONE;
}
