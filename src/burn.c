/*
 * burn.c
 *	  How fast a limit is being used up, and when it will be, as pure functions.
 *
 * Sliding.  The window itself says how fast: by what came in the last sixth of it.  From now on as much is to come,
 * evenly, and each of the buckets that are there leaves at its time; the amount is used up when the first of the two
 * has caught up with it.  When all of what is there has left, the window has freed itself, and holds no more than it
 * did.
 *
 * Calendar.  The window has one sum, and somebody else has to know how fast it grows.  It frees itself when its period
 * ends.
 */
#include "postgres.h"

#include "burn.h"

/* Buckets that say how fast a sliding window is used, beside the running one, which is not full yet. */
#define RECENT_BUCKETS ((LLMQ_BUCKETS - 1) / 6)

/* What a bucket holds, of those in the ring. */
static int64
bucket(const LlmqWindow *window, int64 number)
{
	int			place = number % LLMQ_BUCKETS;

	return window->bucket[place < 0 ? place + LLMQ_BUCKETS : place];
}

/* How fast a sliding window is used, by its last sixth. */
LlmqBurn
llmq_burn_of(const LlmqWindow *window, int64 now)
{
	LlmqBurn	burn = {.time = Max(now - (window->head - RECENT_BUCKETS) * window->span, 1)};

	for (int64 number = window->head - RECENT_BUCKETS; number <= window->head; number++)
		burn.use += Min(bucket(window, number), PG_INT64_MAX - burn.use);
	return burn;
}

/* When so much more will have come at this rate. */
static int64
reached_at(int64 now, int128 more, LlmqBurn burn)
{
	int128		at = now + (more * burn.time + burn.use - 1) / burn.use;

	return at < LLMQ_WHEN_NEVER ? (int64) at : LLMQ_WHEN_NEVER;
}

static int64
sliding_exhausted_at(const LlmqWindow *window, int64 amount, LlmqBurn burn, int64 now)
{
	int64		there = window->sum;

	for (int64 ahead = 1; ahead <= LLMQ_BUCKETS; ahead++)
	{
		int64		leaves_at = (window->head + ahead) * window->span;
		int64		at = reached_at(now, (int128) amount - there, burn);

		if (at <= leaves_at)
			return at;
		there -= bucket(window, window->head + ahead - LLMQ_BUCKETS);
	}
	return LLMQ_WHEN_NEVER;
}

/*
 * When the amount will be used up at this rate: now, where it is; LLMQ_WHEN_NEVER, where the window frees itself
 * before. Nobody can tell that of calls in flight.
 */
int64
llmq_burn_exhausted_at(const LlmqWindow *window, int64 amount, LlmqBurn burn, int64 now)
{
	int64		at;

	if (amount <= window->sum)
		return now;
	if (burn.use <= 0 || window->kind == LLMQ_WINDOW_CONCURRENCY)
		return LLMQ_WHEN_NEVER;
	if (window->kind == LLMQ_WINDOW_SLIDING)
		return sliding_exhausted_at(window, amount, burn, now);
	at = reached_at(now, (int128) amount - window->sum, burn);
	return at - window->head < window->span ? at : LLMQ_WHEN_NEVER;
}
