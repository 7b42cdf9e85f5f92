/*
 * call_timeout.c
 *	  How long an attempt waits for its answer before the caller gives it up.
 *
 * Pure functions: no server calls, nothing locked, nothing raised.
 *
 * At least a time that goes by the attempt. What nobody has called for a while may have to be woken first, and gets
 * longer; so does, a little, what nothing is known of. Beyond that it goes by how long calls have taken, as TCP waits
 * for an acknowledgement (RFC 6298): their mean and four times how far they are from it.
 */
#include "postgres.h"

#include "pace.h"

#define SECOND INT64CONST(1000000)

#define FIRST_ATTEMPT (8 * SECOND)
#define LATER_ATTEMPT (10 * SECOND)
#define COLD (15 * SECOND)
#define NOT_KNOWN (9 * SECOND)

/* A model is cold at an account when no call of it was recorded for so long. */
#define COLD_AFTER (300 * SECOND)

#define DEVIATIONS 4

/* Microseconds; the caller knows of deadlines. */
int64
llmq_call_timeout(const LlmqPace *pace, int attempt, int64 now)
{
	int64		timeout = attempt == 1 ? FIRST_ATTEMPT : LATER_ATTEMPT;

	if (pace->called_at == 0 || now - pace->called_at >= COLD_AFTER)
		timeout = Max(timeout, COLD);
	else if (pace->latency == 0)
		timeout = Max(timeout, NOT_KNOWN);
	return Max(timeout, pace->latency + DEVIATIONS * pace->deviation);
}
