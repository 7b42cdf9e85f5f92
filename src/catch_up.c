/*
 * catch_up.c
 *	  Brings a meter that is behind the provider up to it.
 *
 * Others may use what a meter counts: the provider says how much remains, and what is missing there is charged to the
 * running bucket. Pure logic on a meter's state and its plan, under the lock of its page or on a copy: neither
 * allocates nor raises. A window that does not know yet what was used before it began is left alone, and one that was
 * corrected holds what no lease explains (loose).
 */
#include "postgres.h"

#include "alert_mark.h"
#include "meter.h"

static bool
is_about(const LlmqLimit *limit, const LlmqWindow *window, const LlmqLesson *lesson)
{
	return limit->quota->metric == lesson->metric && llmq_window_same_shape(window, &limit->shape) &&
		llmq_learned_is_about(lesson->span, &limit->shape, limit->quota->length);
}

/* Charges one window with what it lacks. */
static int64
catch_up(const LlmqLimit *limit, LlmqMeterState *state, LlmqWindow *window, const LlmqLesson *lesson, int64 granted_at)
{
	int64		amount = Min(llmq_limit_amount(limit, lesson->now), lesson->amount);
	int64		behind = llmq_learned_behind(lesson, amount, window->sum, granted_at);

	if (behind == 0 || (window->flags & LLMQ_WINDOW_SEEDING))
		return 0;
	(void) llmq_window_charge(window, lesson->now, behind);
	llmq_window_loosen(window);
	llmq_alert_risen(state, window);
	return behind;
}

/* Charges what the windows of one limit lack, by the answer to a call granted at that time; how much that is in all. */
int64
llmq_meter_catch_up(const LlmqMeter *meter, LlmqMeterState *state, const LlmqLesson *lesson, int64 granted_at)
{
	int64		charged = 0;

	if (!llmq_meter_begin(meter, state, lesson->now))
		return 0;
	for (LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		for (int i = 0; i < meter->nlimits; i++)
			if (is_about(&meter->limit[i], window, lesson))
				charged += catch_up(&meter->limit[i], state, window, lesson, granted_at);
	return charged;
}
