/*
 * forecast.c
 *	  When a limit will be used up at the rate of now, as pure functions on its window.
 *
 * Calendar.  The rate is that of the period so far: what it has used by the time that has passed of it.  Of a total only
 * the next month is looked at.
 *
 * Sliding.  The rate is that of the last sixth of the window.  Then each bucket that is to come brings as much as that
 * rate, and takes the oldest one away; the amount is used up in the first one in which both together reach it.
 *
 * A little use soon after a beginning says nothing: forecasts begin when a quarter of the amount is used.
 */
#include "postgres.h"

#include "forecast.h"

/* So much of the amount has to be used: one part in so many. */
#define LEAST_PART 4

/* The buckets of a sliding window whose use is the rate of now; the running one is not full yet. */
#define RECENT_BUCKETS 10

/* A total never ends: so far ahead is looked. Microseconds. */
#define FARTHEST (INT64CONST(31) * 86400 * 1000000)
#define LONGEST_PERIOD (INT64CONST(400) * 86400 * 1000000)

/* The place of a bucket in the ring. */
static int
place_of(int64 number)
{
	int			place = number % LLMQ_BUCKETS;

	return place < 0 ? place + LLMQ_BUCKETS : place;
}

static int64
forecast_calendar(const LlmqWindow *window, int64 amount, int64 least_time, int64 now)
{
	int64		passed = now - window->head;
	int64		left = window->span - passed;
	int128		until;

	if (passed < least_time || passed <= 0 || left <= 0)
		return LLMQ_FORECAST_NONE;
	if (left > LONGEST_PERIOD)
		left = FARTHEST;
	until = (int128) (amount - window->sum) * passed / window->sum;
	return until < left ? now + (int64) until : LLMQ_FORECAST_NONE;
}

/* What the buckets before the running one have used, that many of them. */
static int64
recent_use(const LlmqWindow *window)
{
	int64		use = 0;

	for (int age = 1; age <= RECENT_BUCKETS; age++)
		use += window->bucket[place_of(window->head - age)];
	return use;
}

static int64
forecast_sliding(const LlmqWindow *window, int64 amount, int64 now)
{
	int64		recent = recent_use(window);
	int128		sum = window->sum;

	for (int64 ahead = 1; ahead < LLMQ_BUCKETS; ahead++)
	{
		int64		at = (window->head + ahead) * window->span;

		/* the bucket before has become full, and the one whose place this one takes has left */
		sum += recent / RECENT_BUCKETS;
		if (sum >= amount)
			return Max(at, now);
		sum -= window->bucket[place_of(window->head + ahead)];
	}
	return LLMQ_FORECAST_NONE;
}

/*
 * When the window's amount will be used up, LLMQ_FORECAST_NONE if not before the period ends or, sliding, as long as the
 * window is; or if it is used up already, or the period has not gone on for the least time yet. The window is at the
 * clock.
 */
int64
llmq_forecast(const LlmqWindow *window, int64 amount, int64 least_time, int64 now)
{
	if (amount <= 0 || window->sum >= amount || window->sum < amount / LEAST_PART || window->sum <= 0)
		return LLMQ_FORECAST_NONE;
	if (window->kind == LLMQ_WINDOW_CALENDAR)
		return forecast_calendar(window, amount, least_time, now);
	if (window->kind == LLMQ_WINDOW_SLIDING)
		return forecast_sliding(window, amount, now);
	return LLMQ_FORECAST_NONE;
}
