/*
 * line_return.c
 *	  How long the line is likely to keep somebody: when a ticket is to be shown again, and when it is worth staying.
 */
#include "postgres.h"

#include "line.h"

/* What was before counts half in the mean time between departures when so long has passed. Microseconds. */
#define INTERVAL_MEMORY 1000000.0

/* No time between two departures is taken to be longer: it would be remembered for as long. Microseconds. */
#define INTERVAL_MOST 1000000

/* The time between two departures, before there were any. Microseconds. */
#define INTERVAL_UNKNOWN 1000.0

/*
 * When a ticket is to be shown again: at least and at most after so long, in microseconds, and after half of the time
 * that is expected. If holders come late slots wait for them, which looks as if calls took longer; halves are early
 * enough for that to end by itself.
 */
#define RETURN_EARLY 0.5
#define RETURN_LEAST 5000
#define RETURN_MOST 2000000

/*
 * Under the lock: somebody has left the line, served or because he would wait no longer: either brings those behind him
 * forward. (If only grants counted, tickets of a line that many leave would come late, and what is kept for them
 * meanwhile would make grants rarer still.) The mean is one of times, so that it is the same when many are granted at
 * once, and then nobody for a while.
 */
void
llmq_line_note_departure(LlmqLine *line, TimestampTz now)
{
	double		passed = Min(Max(now - line->departed_at, 0), INTERVAL_MOST);
	double		kept = INTERVAL_MEMORY / (INTERVAL_MEMORY + passed);

	line->departures = line->departures * kept + 1;
	line->departures_took = line->departures_took * kept + passed;
	line->departed_at = now;
}

/* The time between two departures, as far as is known. Read without the lock: it is an estimate. */
static double
mean_interval(void)
{
	double		departures = llmq_line->departures;

	return departures > 0 ? llmq_line->departures_took / departures : INTERVAL_UNKNOWN;
}

/*
 * Should the holder of a ticket at this position stay when he can wait for so long, in microseconds? Else he would hold
 * a connection in vain: it is unlikely that his turn comes meanwhile.
 */
bool
llmq_line_is_near(int position, int64 wait)
{
	return (position - 1) * mean_interval() < wait;
}

/* When the holder of a ticket at this position should show it again, in microseconds. */
int64
llmq_line_return(int position)
{
	return (int64) Min(Max(position * mean_interval() * RETURN_EARLY, RETURN_LEAST), RETURN_MOST);
}
