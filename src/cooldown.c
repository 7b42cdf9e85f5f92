/*
 * cooldown.c
 *	  For how long what has failed is left alone.
 *
 * Pure functions: no server calls, nothing locked, nothing raised.
 */
#include "postgres.h"

#include <math.h>

#include "cooldown.h"

/* Without a time that the provider names: 2 s, half as long again for each failure, at most 30 s; see doc/design.md. */
#define FIRST_BACKOFF 2000000.0
#define BACKOFF_FACTOR 1.5
#define LONGEST_BACKOFF 30000000.0

/* Within a quarter either way, one half of it by the subject, so that its neighbours return at other times. */
#define JITTER 0.25

/*
 * How long to wait, in microseconds, after so many failures without a success between them. `random` is between 0 and
 * 1.
 */
int64
llmq_cooldown_backoff(int level, uint32 subject_hash, double random)
{
	double		wait = FIRST_BACKOFF * pow(BACKOFF_FACTOR, Min(Max(level, 0), LLMQ_COOLDOWN_LEVELS));
	double		by_subject = subject_hash / (double) PG_UINT32_MAX;

	return (int64) (Min(wait, LONGEST_BACKOFF) * (1 + JITTER * (by_subject + random - 1)));
}

/* The time that somebody named, as far as it is believed. */
int64
llmq_cooldown_until(int64 named, int64 now)
{
	return Min(named, now + LLMQ_LONGEST_COOLDOWN);
}
