/*
 * breaker_test.c
 *	  A breaker opens when, and only when, a record of every call says so; and cooldowns are as long as they should be.
 *
 * links: src/breaker.c src/cooldown.c
 */
#include "postgres.h"

#include <math.h>
#include <stdlib.h>

#include "breaker.h"
#include "cooldown.h"
#include "tap.h"

#define CALLS 20000
#define SECOND INT64CONST(1000000)

enum
{
	ROW, RATE, FEW, SUCCESS, ORACLE, BACK, RESET, WAIT, GROWS, JITTER, NAMED, PROMISES
};

static Promise promises[PROMISES] = {
	[ROW] = {.name = "so many failures in a row open it, and not one less"},
	[RATE] = {.name = "so does a share of the calls of a minute"},
	[FEW] = {.name = "but not of too few calls"},
	[SUCCESS] = {.name = "a success never opens it, and ends a row"},
	[ORACLE] = {.name = "random calls open it when a record of all of them says so"},
	[BACK] = {.name = "a clock that goes back loses no call"},
	[RESET] = {.name = "what was before a reset is forgotten"},
	[WAIT] = {.name = "each time a probe comes twice as late, at most after five minutes"},
	[GROWS] = {.name = "cooldowns grow with each failure up to the longest"},
	[JITTER] = {.name = "within a quarter either way, half of that by the subject"},
	[NAMED] = {.name = "a time that somebody names is believed up to 32 days"},
};

static const LlmqBreakerRule rule = {.in_a_row = 5,.min_calls = 20,.failure_rate = 0.5,.probe_after = 15 * SECOND};

static void
test_row(void)
{
	LlmqBreaker breaker = {0};

	for (int i = 1; i <= 5; i++)
		CHECK(&promises[ROW], llmq_breaker_note(&breaker, true, i * 100 * SECOND, &rule) == (i == 5), "failure %d", i);
	llmq_breaker_reset(&breaker);
	for (int i = 1; i <= 4; i++)
		CHECK(&promises[RESET], !llmq_breaker_note(&breaker, true, i, &rule), "failure %d after a reset", i);
	CHECK(&promises[SUCCESS], !llmq_breaker_note(&breaker, false, 5, &rule), "a success opened it");
	for (int i = 1; i <= 4; i++)
		CHECK(&promises[SUCCESS], !llmq_breaker_note(&breaker, true, 5 + i, &rule), "failure %d after it", i);
}

/* Calls that fail and succeed in turn: never two failures in a row. */
static void
test_rate(void)
{
	LlmqBreaker breaker = {0};

	for (int i = 0; i < 40; i++)
	{
		bool		opens = llmq_breaker_note(&breaker, i % 2 == 1, i * SECOND, &rule);

		CHECK(i < 19 ? &promises[FEW] : &promises[RATE], opens == (i >= 19 && i % 2 == 1), "call %d", i);
	}
	for (int i = 0; i < 40; i++)
		CHECK(&promises[FEW], !llmq_breaker_note(&breaker, i % 2 == 1, (i * 10 + 200) * SECOND, &rule),
			  "call %d of six a minute", i);
}

/* What happened when. */
typedef struct Call
{
	int64		at;
	bool		failed;
} Call;

static bool
opens_by_record(const Call *calls, int n)
{
	int64		began = calls[n - 1].at - calls[n - 1].at % LLMQ_BREAKER_STEP_USECS;
	int64		since = began - (LLMQ_BREAKER_STEPS - 1) * LLMQ_BREAKER_STEP_USECS;
	int			in_a_row = 0;
	int			failed = 0;
	int			seen = 0;

	for (int i = n - 1; i >= 0 && calls[i].failed; i--)
		in_a_row++;
	for (int i = n - 1; i >= 0 && calls[i].at >= since; i--)
	{
		seen++;
		failed += calls[i].failed;
	}
	return calls[n - 1].failed && (in_a_row >= 5 || (seen >= 20 && failed * 2 >= seen));
}

static void
test_oracle(void)
{
	static Call calls[CALLS];
	LlmqBreaker breaker = {0};
	int64		now = 7 * SECOND;

	for (int i = 0; i < CALLS; i++)
	{
		now += random() % (random() % 50 == 0 ? 90 * SECOND : 2 * SECOND);
		calls[i] = (Call) {.at = now,.failed = random() % 100 < (i / 500 % 10) * 10};
		CHECK(&promises[ORACLE],
			  llmq_breaker_note(&breaker, calls[i].failed, now, &rule) == opens_by_record(calls, i + 1), "call %d", i);
	}
}

static void
test_clock(void)
{
	LlmqBreaker breaker = {0};
	uint32		failed = 0;

	for (int i = 0; i < 10; i++)
		(void) llmq_breaker_note(&breaker, true, (100 - i) * SECOND, &rule);
	for (int i = 0; i < LLMQ_BREAKER_STEPS; i++)
		failed += breaker.failed[i];
	CHECK(&promises[BACK], failed == 10, "%u of 10 are there", failed);
}

static void
test_waits(void)
{
	static const int seconds[] = {15, 30, 60, 120, 240, 300, 300};

	for (Size i = 0; i < lengthof(seconds); i++)
		CHECK(&promises[WAIT], llmq_breaker_wait(&rule, i + 1) == seconds[i] * SECOND, "%zu", i);
	for (int level = 0; level < 100; level++)
	{
		double		expected = Min(2e6 * pow(1.5, Min(level, 8)), 30e6);
		int64		wait = llmq_cooldown_backoff(level, PG_UINT32_MAX / 2, 0.5);

		CHECK(&promises[GROWS], fabs(wait - expected) < 10, "level %d: " INT64_FORMAT, level, wait);
	}
	CHECK(&promises[JITTER], llmq_cooldown_backoff(0, 0, 0) == 1500000, "shortest");
	CHECK(&promises[JITTER], llmq_cooldown_backoff(0, PG_UINT32_MAX, 1) == 2500000, "longest");
	CHECK(&promises[JITTER], llmq_cooldown_backoff(0, 0, 1) == 2000000, "by the subject");
	CHECK(&promises[NAMED], llmq_cooldown_until(5, 1) == 5, "near");
	CHECK(&promises[NAMED], llmq_cooldown_until(PG_INT64_MAX, 1) == 1 + 32 * 86400 * SECOND, "far");
}

int
main(void)
{
	test_row();
	test_rate();
	test_oracle();
	test_clock();
	test_waits();
	return promises_report(promises, PROMISES);
}
