/*
 * meter_upkeep.c
 *	  What becomes of a meter's windows beside calls: whether they hold anything, beginning anew, leases from before.
 *
 * Pure logic on a meter's state, as in meter.c: the functions that change one are given the image inside the WAL record
 * being built, with the page locked, and neither allocate nor raise.
 */
#include "postgres.h"

#include "meter.h"

/* Does the window still count something at the clock, or hand something on to the next period? */
static bool
holds_something(const LlmqWindow *window, int64 now)
{
	switch (window->kind)
	{
		case LLMQ_WINDOW_SLIDING:
			return window->sum > 0 && now / window->span < window->head + LLMQ_BUCKETS;
		case LLMQ_WINDOW_CALENDAR:
			if (window->flags & LLMQ_WINDOW_CARRIES)
				return window->sum != 0 && now - window->head < 2 * window->span;
			return window->sum > 0 && now - window->head < window->span;
		default:
			return window->sum > 0;
	}
}

/* Was the meter not used since `before`, and did it hold nothing even then? */
bool
llmq_meter_idle(const LlmqMeterState *state, int64 before)
{
	if (state->used_at > before)
		return false;
	for (const LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		if (holds_something(window, before))
			return false;
	return true;
}

/*
 * Begins every window of a state anew, at zero and to be completed. A calendar window goes when its period is over and
 * the next one is not known.
 */
void
llmq_meter_restart(LlmqMeterState *state, int64 now)
{
	char	   *to = state->windows;
	char	   *from = state->windows;
	char	   *end = state->windows + state->used;

	state->generation++;
	while (from < end)
	{
		LlmqWindow *window = (LlmqWindow *) from;
		const uint8 counting = LLMQ_WINDOW_NOT_CACHED | LLMQ_WINDOW_NOT_FAILURES | LLMQ_WINDOW_CARRIES;
		int			size = llmq_window_size(window->kind);
		LlmqWindow	old;
		LlmqWindowShape shape;

		memcpy(&old, window, size);
		from += size;
		llmq_window_shape_of(&old, &shape);
		if (llmq_window_stale(&shape, now))
			continue;
		window = (LlmqWindow *) to;
		llmq_window_init(window, &shape, state->generation, now, LLMQ_WINDOW_SEEDING | (old.flags & counting));
		window->refused = old.refused;
		window->would_refuse = old.would_refuse;
		to += size;
	}
	state->used = to - state->windows;
}

/*
 * Makes windows count a lease in flight that was granted before they began, as if they had always counted it; the
 * caller gives the lease's slot the meter's present generation in the same record. A window that has been completed
 * from before it began has counted all but the concurrency. False, and nothing is changed, when one is not complete.
 */
bool
llmq_meter_adopt(LlmqMeterState *state, const LlmqAdoption *adoption)
{
	LlmqWindow *window;

	for (window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		if (window->since > adoption->generation && window->kind != LLMQ_WINDOW_CONCURRENCY &&
			(window->flags & LLMQ_WINDOW_SEEDING))
			return false;
	for (window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
	{
		int64		used = llmq_use_counted(&adoption->use, window->metric, window->flags, window->quota);

		if (window->since <= adoption->generation)
			continue;
		if (window->kind == LLMQ_WINDOW_CONCURRENCY || adoption->picked_at >= window->began_at)
			(void) llmq_window_add_earlier(window, adoption->picked_at, used);
	}
	return true;
}

/* Counts refusals of a quota in its window, and who waits since the last grant. A meter that refuses is in use. */
void
llmq_meter_count_refusals(LlmqMeterState *state, int64 quota, int64 times, int64 waiting, int64 now)
{
	LlmqWindow *window = llmq_meter_first(state);

	while (window != NULL && window->quota != quota)
		window = llmq_meter_next(state, window);
	if (window != NULL)
		llmq_window_refuse(window, true, times);
	state->waiting += waiting;
	state->used_at = now;
}
