/*
 * alert_config.c
 *	  Has windows looked at that have reached a threshold, when what is a threshold has changed.
 *
 * A window asks for a look when another use than before reaches its next threshold (alert_limit.c). That does not tell
 * of one that comes below it, nor of any where the window has none ahead, before and after. So what stands for all
 * thresholds and amounts is kept in the tally (tally.c), and where it is another, every window that has reached one is
 * flagged. After a crash in between, the tally has not changed, and it is done again.
 */
#include "postgres.h"

#include "common/hashfn.h"

#include "alert.h"

/* The meters with such windows. */
typedef struct Reached
{
	LlmqAlertLook *look;
	int			n;
	int			size;
	int32	   *meter;
} Reached;

/* What stands for all thresholds and amounts; never 0. */
static int64
thresholds_of(const LlmqAlertLook *look)
{
	uint64		hash = 0;

	for (int i = 0; i < look->quotas.n; i++)
	{
		const LlmqQuota *quota = look->quotas.quota[i];
		const LlmqThresholds *alert_at = llmq_quota_alert_at(&look->catalog->settings, quota);

		hash = hash_combine64(hash, quota->id);
		hash = hash_combine64(hash, quota->amount);
		hash = hash_combine64(hash, DatumGetUInt64(hash_any_extended((const unsigned char *) alert_at->part,
																	 sizeof(int64) * alert_at->n, 0)));
	}
	return (int64) (hash | 1);
}

/* Has the window reached a threshold, as far as its quota tells, whoever it is of? */
static bool
has_reached(const LlmqAlertLook *look, const LlmqWindow *window)
{
	const LlmqQuota *quota = llmq_quota_of_window(&look->quotas, window);
	const LlmqThresholds *alert_at;

	if (quota == NULL || window->kind == LLMQ_WINDOW_CONCURRENCY || window->sum == 0)
		return false;
	alert_at = llmq_quota_alert_at(&look->catalog->settings, quota);
	if (quota->budget != NULL && quota->budget->raises != NULL)
		return alert_at->n > 0;
	return window->sum >= llmq_threshold_next(alert_at, quota->amount, 0);
}

static void
visit_meter(const LlmqCellHeader *cell, HeapTuple tuple, void *argument)
{
	const LlmqMeterState *state = (const LlmqMeterState *) cell;
	Reached    *reached = argument;
	const LlmqWindow *window = llmq_meter_first(state);

	while (window != NULL && !has_reached(reached->look, window))
		window = llmq_meter_next(state, window);
	if (window == NULL)
		return;
	if (reached->n == reached->size)
		reached->meter = repalloc_huge(reached->meter, sizeof(int32) * (reached->size *= 2));
	reached->meter[reached->n++] = cell->id;
}

/* Flags those windows of a meter. False when it could not be locked. */
static bool
flag_meter(LlmqAlertLook *look, int32 meter)
{
	LlmqCellSet set;
	LlmqMeterState *state;
	int			cell;

	if (!llmq_alert_lock_meter(look, &set, &cell, meter))
		return false;
	state = llmq_set_change(&set, cell);
	for (LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		if (has_reached(look, window))
			window->flags |= LLMQ_WINDOW_ALERT;
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
	return true;
}

/* If thresholds have changed, has every window looked at that has reached one. */
void
llmq_alerts_of_new_thresholds(LlmqAlertLook *look)
{
	int64		thresholds = thresholds_of(look);
	Reached		reached = {.look = look,.size = 1024};
	bool		done = true;

	if (llmq_tally_thresholds(&look->live) == thresholds)
		return;
	reached.meter = MemoryContextAllocHuge(look->context, sizeof(int32) * reached.size);
	llmq_cell_walk(&look->live, LLMQ_LIVE_METER, visit_meter, &reached);
	for (int i = 0; i < reached.n; i++)
		done = flag_meter(look, reached.meter[i]) && done;
	if (done)
		llmq_tally_set_thresholds(&look->live, thresholds);
}
