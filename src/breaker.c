/*
 * breaker.c
 *	  The circuit breaker's arithmetic: counts calls of a sliding minute and says when they fail too often.
 *
 * Pure functions: no server calls, nothing locked, nothing raised. That a breaker is open, and until when, is not kept
 * here but where picks look (health.c).
 */
#include "postgres.h"

#include "breaker.h"

/* No probe is put off longer than this: five minutes. */
#define LONGEST_WAIT INT64CONST(300000000)

/* Moves the steps on to the one that is now. A clock that went back counts as standing still. */
static void
advance(LlmqBreaker *breaker, int64 now)
{
	int64		began = now - now % LLMQ_BREAKER_STEP_USECS;
	int64		passed = (began - breaker->step_began) / LLMQ_BREAKER_STEP_USECS;

	if (passed <= 0)
		return;
	for (int i = LLMQ_BREAKER_STEPS - 1; i >= 0; i--)
	{
		breaker->succeeded[i] = i >= passed ? breaker->succeeded[i - passed] : 0;
		breaker->failed[i] = i >= passed ? breaker->failed[i - passed] : 0;
	}
	breaker->step_began = began;
}

static bool
fails_too_often(const LlmqBreaker *breaker, const LlmqBreakerRule *rule)
{
	uint64		failed = 0;
	uint64		calls = 0;

	for (int i = 0; i < LLMQ_BREAKER_STEPS; i++)
	{
		failed += breaker->failed[i];
		calls += (uint64) breaker->failed[i] + breaker->succeeded[i];
	}
	return calls >= (uint64) rule->min_calls && failed >= rule->failure_rate * calls;
}

static void
count(uint32 *counter)
{
	if (*counter < PG_UINT32_MAX)
		(*counter)++;
}

/* Counts a call. True when the breaker is to open: only a failure opens it. */
bool
llmq_breaker_note(LlmqBreaker *breaker, bool failed, int64 now, const LlmqBreakerRule *rule)
{
	advance(breaker, now);
	count(failed ? &breaker->failed[0] : &breaker->succeeded[0]);
	if (!failed)
	{
		breaker->in_a_row = 0;
		return false;
	}
	count(&breaker->in_a_row);
	return breaker->in_a_row >= (uint32) rule->in_a_row || fails_too_often(breaker, rule);
}

/* Forgets all calls: what failed before a breaker closed says nothing of what comes after. */
void
llmq_breaker_reset(LlmqBreaker *breaker)
{
	memset(breaker, 0, sizeof(LlmqBreaker));
}

/* How long a breaker that opens for the so-manieth time without having been closed waits for a probe. */
int64
llmq_breaker_wait(const LlmqBreakerRule *rule, int times_opened)
{
	int64		wait = rule->probe_after;

	for (int i = 1; i < times_opened && wait < LONGEST_WAIT; i++)
		wait *= 2;
	return Min(wait, Max(LONGEST_WAIT, rule->probe_after));
}
