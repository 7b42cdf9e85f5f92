/*
 * meter_walk.c
 *	  Goes through the windows of all meters, for whoever shows them.
 *
 * Each cell is copied under a share lock, one page at a time; the walk holds nothing while a window is looked at, and
 * sees every meter at some moment of its own. Works on a hot standby.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "budget.h"
#include "meter_walk.h"
#include "name.h"
#include "zone.h"

/*
 * The window as it is at the clock: what has left it no longer counts, and a period that has ended counts nothing.
 * Neither does what a total has seen before it begins.
 */
static void
bring_to_clock(const LlmqMeterWalk *walk, LlmqWindow *window, const LlmqQuota *quota, uint32 generation)
{
	LlmqLimit	limit = {.quota = quota,.subject = walk->subject};

	llmq_window_shape_of(window, &limit.shape);
	if (llmq_window_stale(&limit.shape, walk->now))
		window->sum = walk->now >= limit.shape.period.end ? 0 : window->sum;
	else
		(void) llmq_limit_advance(&limit, window, walk->now, generation);
	if (!llmq_window_begun(window))
		window->sum = 0;
}

/* Shows the windows of one meter. */
static void
visit_meter(const LlmqCellHeader *state, HeapTuple tuple, void *context)
{
	const LlmqMeterState *meter = (const LlmqMeterState *) state;
	LlmqMeterWalk *walk = context;
	const LlmqWindow *stored;
	LlmqCellKey key;
	char		part_kind;

	llmq_cell_key(tuple, LLMQ_LIVE_METER, &key);
	if (!llmq_scope_of(key.kind, &walk->scope))
		return;
	part_kind = llmq_name_kind(key.part);
	walk->subject = key.subject == 0 ? "" : llmq_name_text(key.subject);
	walk->part = part_kind == LLMQ_NAME_MODEL ? LLMQ_PART_MODEL :
		part_kind == LLMQ_NAME_FAMILY ? LLMQ_PART_FAMILY : LLMQ_PART_ALL;
	walk->part_name = llmq_name_text(key.part);
	for (stored = llmq_meter_first(meter); stored != NULL; stored = llmq_meter_next(meter, stored))
	{
		const LlmqQuota *quota = llmq_quota_of_window(&walk->quotas, stored);
		LlmqWindow	window;

		if (quota == NULL)
			continue;
		memcpy(&window, stored, llmq_window_size(stored->kind));
		bring_to_clock(walk, &window, quota, meter->generation);
		walk->visit(walk, &window, quota);
	}
}

/* Shows every window that a quota or budget has. Names are good until the next meter. */
void
llmq_meter_walk(LlmqMeterWalk *walk)
{
	LlmqLive	live;

	walk->catalog = llmq_catalog();
	walk->now = GetCurrentTimestamp();
	llmq_quotas_list(walk->catalog, &walk->quotas);
	llmq_live_open(&live, LLMQ_LIVE_COUNT, AccessShareLock);
	llmq_cell_walk(&live, LLMQ_LIVE_METER, visit_meter, walk);
	llmq_live_close(&live);
}

/* What a quota or budget allows the meter at hand now; a budget may have been raised. */
int64
llmq_meter_walk_amount(const LlmqMeterWalk *walk, const LlmqQuota *quota)
{
	return quota->budget == NULL ? quota->amount : llmq_budget_amount(quota, walk->subject, walk->now);
}

/* The time zone of a calendar window: the quota's, else the subject's, where that is configured still. */
static const char *
zone_of(const LlmqMeterWalk *walk, const LlmqWindow *window, const LlmqQuota *quota)
{
	const LlmqSubject *subject = llmq_catalog_subject(walk->catalog, walk->scope, walk->subject);
	const char *zone = subject == NULL ? NULL : quota->budget != NULL && subject->budget_zone != NULL ?
		subject->budget_zone : subject->zone;

	if (quota->zone != NULL)
		return quota->zone;
	return zone != NULL && llmq_zone_hash(zone) == window->zone ? zone :
		llmq_catalog_zone_name(walk->catalog, window->zone);
}

/* "1 minute"; "day America/Los_Angeles"; "total"; NULL for concurrency. */
const char *
llmq_meter_walk_period(const LlmqMeterWalk *walk, const LlmqWindow *window, const LlmqQuota *quota)
{
	if (quota->kind != LLMQ_WINDOW_CALENDAR || llmq_unit_calendar(window->unit) == LLMQ_CALENDAR_TOTAL)
		return quota->period;
	return psprintf("%s %s", quota->period, zone_of(walk, window, quota));
}

/* When everything in the window is free again, if nothing else is charged; false when only calls' ends tell. */
bool
llmq_meter_walk_resets_at(const LlmqWindow *window, int64 *at)
{
	if (window->kind == LLMQ_WINDOW_CONCURRENCY || window->sum == 0)
		return false;
	*at = window->kind == LLMQ_WINDOW_SLIDING ? (window->head + LLMQ_BUCKETS) * window->span :
		window->head + window->span;
	return true;
}
