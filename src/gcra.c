/*
 * gcra.c
 *	  The generic cell rate algorithm: what a limit of so much in a time, with bursts, admits.
 *
 * All that is kept of a subject is until when it has used what it may: the theoretical arrival time. Something is
 * admitted if it puts that time off to no more than what the whole burst takes from now. So in any interval of a length
 * t at most burst + t * amount / period is admitted, and whoever asks steadily gets all of amount / period.
 *
 * Exact: a time is kept as whole microseconds and a fraction whose denominator is the amount, in which every cost is a
 * whole number. When the amount is another, what there was is rounded up. Pure functions: no server calls.
 */
#include "postgres.h"

#include "common/int128.h"

#include "gcra.h"

/* The smallest whole number of `by` that is as much as this; neither is negative. */
static int64
divide_up(int128 number, int64 by)
{
	return (int64) ((number + by - 1) / by);
}

/* Can a limit be kept? The times that follow from it are not too long. */
bool
llmq_gcra_is_valid(const LlmqGcraLimit *limit)
{
	return limit->amount >= 1 && limit->burst >= 1 && limit->period >= 1 && limit->period <= LLMQ_GCRA_LONGEST &&
		(int128) limit->burst * limit->period <= (int128) LLMQ_GCRA_LONGEST * limit->amount;
}

/* How long from now, in parts of a microsecond of which the limit's amount are one. */
static int128
time_left(const LlmqGcraLimit *limit, const LlmqGcraTime *until, int64 now)
{
	int128		left = (int128) (until->at - now) * limit->amount;

	if (until->part != 0)
		left += divide_up((int128) until->part * limit->amount, until->of);
	return Max(left, 0);
}

/*
 * Asks for a cost, 0 to see whether 1 would be allowed. The state of before says nothing that the limit cannot have
 * come to: it is of another limit, or the clock was set back. Then it counts as a burst that was used.
 */
void
llmq_gcra(const LlmqGcraLimit *limit, const LlmqGcraTime *until, int64 now, int32 cost, LlmqGcraAnswer *answer)
{
	int128		all = (int128) limit->burst * limit->period;
	int128		used = time_left(limit, until, now);
	int128		room = all - (int128) Max(cost, 1) * limit->period;

	answer->moved = used > all;
	used = Min(used, all);
	answer->allowed = used <= room;
	answer->retry_after = room < 0 ? LLMQ_GCRA_NEVER : answer->allowed ? 0 : divide_up(used - room, limit->amount);
	if (answer->allowed && cost > 0)
	{
		used += (int128) cost * limit->period;
		answer->moved = true;
	}
	answer->remaining = (int64) ((all - used) / limit->period);
	answer->reset_after = divide_up(used, limit->amount);
	answer->until = (LlmqGcraTime) {
		.at = now + (int64) (used / limit->amount),.part = (uint32) (used % limit->amount),.of = limit->amount
	};
}
