/*
 * calendar.c
 *	  Periods of calendars that need no time zone: totals, and how many periods lie between two.
 *
 * Pure functions, as those of window.c. When days, months and years begin is worked out by zone.c.
 */
#include "postgres.h"

#include "datatype/timestamp.h"

#include "window.h"

/* A year of the calendar of now, in the mean: 365.2425 days. */
#define MEAN_YEAR (USECS_PER_DAY / 10000 * 3652425)

/*
 * From when on a total counts.  Nothing was picked before 2000, and with a
 * start that is not negative the length of what never ends is a number.
 */
static int64
total_start(int64 starts_at)
{
	return Max(starts_at, 0);
}

/*
 * How long a calendar's periods are in the mean; no two need be as long as
 * each other.
 */
int64
llmq_period_mean(uint8 unit)
{
	static const int64 mean[] = {
		[LLMQ_CALENDAR_DAY] = USECS_PER_DAY,[LLMQ_CALENDAR_WEEK] = 7 * USECS_PER_DAY,
		[LLMQ_CALENDAR_MONTH] = MEAN_YEAR / 12,[LLMQ_CALENDAR_QUARTER] = MEAN_YEAR / 4,
		[LLMQ_CALENDAR_YEAR] = MEAN_YEAR,[LLMQ_CALENDAR_TOTAL] = LLMQ_WHEN_NEVER
	};

	return mean[llmq_unit_calendar(unit)];
}

/*
 * How many periods of a calendar one begins after another.  However many they
 * are, together they are not off the mean by half of one.
 */
int64
llmq_periods_between(uint8 unit, int64 earlier, int64 later)
{
	int64		length = llmq_period_mean(unit);

	return Max((later - earlier + length / 2) / length, 1);
}

/*
 * The period of a total that an instant is in: the one that never ends, or
 * what is before it.  An end at LLMQ_WHEN_NEVER is infinity as a timestamp,
 * and start and length of either add up to their end without saturation.
 */
void
llmq_total_period(int64 starts_at, int64 at, LlmqPeriod *period)
{
	int64		start = total_start(starts_at);

	period->start = start;
	period->end = LLMQ_WHEN_NEVER;
	period->next_end = LLMQ_WHEN_NEVER;
	if (at < start)
	{
		period->start = Max(MIN_TIMESTAMP, start - LLMQ_WHEN_NEVER);
		period->end = start;
	}
}

/*
 * Where other calendars have their zone, a total has its start, so that one
 * that is given another start is counted anew.  0 for all that ever was.
 */
uint32
llmq_total_hash(int64 starts_at)
{
	uint64		start = (uint64) total_start(starts_at);

	return (uint32) (start ^ start >> 32);
}
