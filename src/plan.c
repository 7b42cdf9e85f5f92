/*
 * plan.c
 *	  Which quotas hold for a subject, and so which meters a call touches.
 *
 * Pure matching on the configuration in memory, done once for each subject and model and remembered with the subject.
 * Quotas add up: every one that matches counts. One exception: a row that names the subject replaces the '*' row of the
 * same scope, model, family, metric and window.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "meter.h"
#include "zone.h"

static bool
same_text(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool
is_star(const char *name)
{
	return strcmp(name, "*") == 0;
}

/* Do two quotas limit the same thing over the same window, so that a named one replaces a '*' one? */
static bool
same_window(const LlmqQuota *a, const LlmqQuota *b)
{
	if ((a->budget == NULL ? 0 : a->budget->currency) != (b->budget == NULL ? 0 : b->budget->currency))
		return false;
	return a->metric == b->metric && a->kind == b->kind && a->unit == b->unit && a->length == b->length &&
		same_text(a->zone, b->zone) && same_text(a->part_name, b->part_name);
}

/* Is there a row that names the subject in place of this '*' row? */
static bool
is_replaced(const LlmqQuota *star, const char *subject, const LlmqQuota *all)
{
	for (const LlmqQuota *other = all; other != NULL; other = other->next)
		if (!is_star(other->subject) && strcmp(other->subject, subject) == 0 && same_window(star, other))
			return true;
	return false;
}

/* Does the quota limit this subject and part? */
static bool
matches(const LlmqQuota *quota, const char *subject, const char *part_name, const LlmqQuota *all)
{
	if (quota->amount == LLMQ_NO_LIMIT)
		return false;
	if (quota->part != LLMQ_PART_ALL && !is_star(quota->part_name) && strcmp(quota->part_name, part_name) != 0)
		return false;
	if (quota->scope == LLMQ_SCOPE_GLOBAL)
		return true;
	if (is_star(quota->subject))
		return !is_replaced(quota, subject, all);
	return strcmp(quota->subject, subject) == 0;
}

/*
 * Is the quota enforced for this subject? A '*' row may be rolled out to a share of its subjects, chosen by a hash that
 * is the same everywhere and for ever, also after a rename, so that a larger share only adds subjects.
 */
static bool
is_enforced(const LlmqQuota *quota, const LlmqSubject *subject)
{
	const char *name = subject->ref.name;
	uint64		hash;

	if (quota->observe)
		return false;
	if (quota->scope == LLMQ_SCOPE_GLOBAL || !is_star(quota->subject) || quota->rollout >= 1)
		return true;
	hash = hash_bytes_extended((const unsigned char *) name, strlen(name), (uint64) quota->id);
	return llmq_in_rollout(hash, quota->rollout);
}

/* A call arrives at the provider later than we count it, so what the provider limits counts that much longer. */
static bool
is_limited_by_provider(const LlmqQuota *quota)
{
	LlmqScope	scope = quota->scope;

	if (quota->budget != NULL)
		return false;
	return scope == LLMQ_SCOPE_PROVIDER || scope == LLMQ_SCOPE_ACCOUNT || scope == LLMQ_SCOPE_KEY;
}

/* The time zone of a calendar window. */
static const char *
zone_of(const LlmqQuota *quota, const LlmqSubject *subject)
{
	if (quota->zone != NULL)
		return quota->zone;
	return quota->budget != NULL && subject->budget_zone != NULL ? subject->budget_zone : subject->zone;
}

static void
init_limit(LlmqLimit *limit, const LlmqQuota *quota, const LlmqSubject *subject, const LlmqSettings *settings)
{
	limit->quota = quota;
	limit->enforced = is_enforced(quota, subject);
	limit->subject = subject->name;
	limit->learned_ttl = settings->observed_limit_ttl;
	limit->alert_at = llmq_quota_alert_at(settings, quota);
	limit->alert_first = llmq_threshold_next(limit->alert_at, quota->amount, 0);
	limit->shape.quota = quota->id;
	limit->shape.kind = quota->kind;
	limit->shape.metric = quota->metric;
	if (quota->kind == LLMQ_WINDOW_SLIDING)
		limit->shape.span = llmq_window_span(quota->length,
											 is_limited_by_provider(quota) ? settings->arrival_slack : 0);
	else if (llmq_unit_calendar(quota->unit) == LLMQ_CALENDAR_TOTAL)
	{
		limit->shape.unit = quota->unit;
		limit->shape.zone = llmq_total_hash(quota->budget->starts_at);
	}
	else if (quota->kind == LLMQ_WINDOW_CALENDAR)
	{
		limit->zone = zone_of(quota, subject);
		limit->shape.unit = quota->unit;
		limit->shape.zone = llmq_zone_hash(limit->zone);
		/* the period is empty, hence stale, until llmq_plan_refresh() */
	}
}

/* Is this stored window what the quota wants now, whatever the subject? */
bool
llmq_plan_fits(const LlmqQuota *quota, const LlmqWindow *window, const LlmqSettings *settings)
{
	int64		slack = is_limited_by_provider(quota) ? settings->arrival_slack : 0;

	if (window->kind != quota->kind || window->metric != quota->metric)
		return false;
	if (quota->kind == LLMQ_WINDOW_SLIDING)
		return window->span == llmq_window_span(quota->length, slack);
	if (llmq_unit_calendar(quota->unit) == LLMQ_CALENDAR_TOTAL)
		return window->unit == quota->unit && window->zone == llmq_total_hash(quota->budget->starts_at);
	return quota->kind != LLMQ_WINDOW_CALENDAR ||
		(window->unit == quota->unit && (quota->zone == NULL || window->zone == llmq_zone_hash(quota->zone)));
}

/* The meter of a subject and part, NULL when nothing limits it. Remembered with the subject, that too. */
LlmqMeter *
llmq_plan_meter(LlmqCatalog *catalog, LlmqSubject *subject, LlmqPart part, const char *part_name)
{
	const LlmqQuota *all = catalog->quotas[subject->scope][part];
	LlmqMeter  *meter;
	int			n = 0;

	for (meter = subject->meters; meter != NULL; meter = meter->next)
		if (meter->part == part && same_text(meter->part_name, part_name))
			return meter->nlimits > 0 ? meter : NULL;

	for (const LlmqQuota *quota = all; quota != NULL; quota = quota->next)
		if (matches(quota, subject->name, part_name, all))
			n++;
	if (n > LLMQ_MAX_LIMITS)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("more than %d quotas and budgets limit \"%s\" at once", LLMQ_MAX_LIMITS, subject->name),
				 errhint("Delete quotas, or limit by model or family.")));

	meter = MemoryContextAllocZero(subject->context, sizeof(LlmqMeter));
	meter->subject = subject;
	meter->part = part;
	meter->part_name = part_name;
	if (part != LLMQ_PART_ALL)
		llmq_alias_ref(catalog, part == LLMQ_PART_MODEL ? LLMQ_NAME_MODEL : LLMQ_NAME_FAMILY, part_name,
					   &meter->part_ref);
	meter->limit = MemoryContextAllocZero(subject->context, sizeof(LlmqLimit) * Max(n, 1));
	for (const LlmqQuota *quota = all; quota != NULL; quota = quota->next)
		if (matches(quota, subject->name, part_name, all))
			init_limit(&meter->limit[meter->nlimits++], quota, subject, &catalog->settings);
	meter->next = subject->meters;
	subject->meters = meter;
	return n > 0 ? meter : NULL;
}

/* The meters that a call of this model touches at this subject; none, when nothing limits it. */
LlmqMeters *
llmq_plan_meters(LlmqCatalog *catalog, LlmqSubject *subject, const LlmqModel *model)
{
	static LlmqMeters none = {0};
	LlmqQuota **quotas = catalog->quotas[subject->scope];
	LlmqMeters *meters;

	if (quotas[LLMQ_PART_ALL] == NULL && quotas[LLMQ_PART_MODEL] == NULL && quotas[LLMQ_PART_FAMILY] == NULL)
		return &none;
	for (meters = subject->by_model; meters != NULL; meters = meters->next)
		if (meters->model == model)
			return meters;

	meters = MemoryContextAllocZero(subject->context, sizeof(LlmqMeters));
	meters->model = model;
	for (LlmqPart part = LLMQ_PART_ALL; part < LLMQ_PART_COUNT; part++)
	{
		const char *part_name = part == LLMQ_PART_MODEL ? model->name : part == LLMQ_PART_FAMILY ? model->family : NULL;
		LlmqMeter  *meter = NULL;

		if (quotas[part] != NULL && (part == LLMQ_PART_ALL || part_name != NULL))
			meter = llmq_plan_meter(catalog, subject, part, part_name);
		if (meter != NULL)
			meters->meter[meters->n++] = meter;
	}
	meters->next = subject->by_model;
	subject->by_model = meters;
	return meters;
}

/* The limits that the configuration has for a meter's cell; NULL when there are none, or its subject is gone. */
LlmqMeter *
llmq_plan_of_cell(LlmqCatalog *catalog, const LlmqCellKey *key)
{
	const char *name = key->subject == 0 ? "" : llmq_name_text(key->subject);
	LlmqPart	part = LLMQ_PART_ALL;
	LlmqSubject *subject;
	LlmqScope	scope;

	if (name == NULL || !llmq_scope_of(key->kind, &scope))
		return NULL;
	subject = llmq_catalog_subject(catalog, scope, name);
	if (subject == NULL)
		return NULL;
	if (key->part == 0)
		return llmq_plan_meter(catalog, subject, LLMQ_PART_ALL, NULL);
	name = llmq_name_text(key->part);
	if (name == NULL)
		return NULL;
	part = llmq_name_kind(key->part) == LLMQ_NAME_MODEL ? LLMQ_PART_MODEL : LLMQ_PART_FAMILY;
	for (LlmqMeter *meter = subject->meters; meter != NULL; meter = meter->next)
		if (meter->part == part && same_text(meter->part_name, name))
			return meter->nlimits > 0 ? meter : NULL;
	return llmq_plan_meter(catalog, subject, part, MemoryContextStrdup(subject->context, name));
}

/*
 * Brings the calendar periods of a meter's limits to the clock. Zone arithmetic may read files, so this comes before
 * any lock; the period after the current one is known too, because the clock is read again later.
 */
void
llmq_plan_refresh(LlmqMeter *meter, TimestampTz now)
{
	for (int i = 0; i < meter->nlimits; i++)
	{
		LlmqLimit  *limit = &meter->limit[i];

		if (limit->shape.kind != LLMQ_WINDOW_CALENDAR ||
			(now >= limit->shape.period.start && now < limit->shape.period.end))
			continue;
		if (llmq_unit_calendar(limit->shape.unit) == LLMQ_CALENDAR_TOTAL)
		{
			llmq_total_period(limit->quota->budget->starts_at, now, &limit->shape.period);
			continue;
		}
		if (!llmq_zone_period(limit->zone, limit->shape.unit, now, &limit->shape.period))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("time zone \"%s\" of a quota is not known to this server", limit->zone),
					 errhint("Update the server's time zone data, or the quota.")));
	}
}
