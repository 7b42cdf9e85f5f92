/*
 * forecast.c
 *	  Whether somebody is to be told that a limit will be used up at the rate of now, as a pure function on its window.
 *
 * Calendar.  The rate is that of the period so far: what it has used by the time that has passed of it.  Of a total
 * only the next month is looked at.
 *
 * Sliding.  The rate is that of the last sixth of the window (burn.c).
 *
 * A little use soon after a beginning says nothing: forecasts begin when a quarter of the amount is used.
 */
#include "postgres.h"

#include "burn.h"
#include "forecast.h"

/* A total never ends: so far ahead is looked. Microseconds. */
#define FARTHEST (INT64CONST(31) * 86400 * 1000000)
#define LONGEST_PERIOD (INT64CONST(400) * 86400 * 1000000)

static int64
forecast_calendar(const LlmqWindow *window, int64 amount, int64 least_time, int64 now)
{
	int64		passed = now - window->head;
	int64		at;

	if (passed < least_time || passed <= 0 || passed >= window->span)
		return LLMQ_FORECAST_NONE;
	at = llmq_burn_exhausted_at(window, amount, (LlmqBurn) {.use = window->sum,.time = passed}, now);
	return window->span - passed > LONGEST_PERIOD && at - now > FARTHEST ? LLMQ_FORECAST_NONE : at;
}

/*
 * When the window's amount will be used up, LLMQ_FORECAST_NONE if not before the period ends or, sliding, as long as
 * the window is; or if it is used up already, or the period has not gone on for the least time yet. The window is at
 * the clock.
 */
int64
llmq_forecast(const LlmqWindow *window, int64 amount, int64 least_time, int64 now)
{
	if (amount <= 0 || window->sum >= amount || window->sum < amount / LLMQ_FORECAST_LEAST_PART || window->sum <= 0)
		return LLMQ_FORECAST_NONE;
	if (window->kind == LLMQ_WINDOW_CALENDAR)
		return forecast_calendar(window, amount, least_time, now);
	if (window->kind == LLMQ_WINDOW_SLIDING)
		return llmq_burn_exhausted_at(window, amount, llmq_burn_of(window, now), now);
	return LLMQ_FORECAST_NONE;
}
