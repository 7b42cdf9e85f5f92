/*
 * call_timeout_test.c
 *	  An attempt waits as long as calls like it take, and never less than its number says.
 *
 * links: src/call_timeout.c
 */
#include "postgres.h"

#include "pace.h"
#include "tap.h"

#define SECOND INT64CONST(1000000)
#define NOW (INT64CONST(800000000) * SECOND)

enum
{
	FIRST, LATER, COLD, NOT_KNOWN, SLOW, MORE, CLOCK, PROMISES
};

static Promise promises[PROMISES] = {
	[FIRST] = {.name = "the first attempt at what is fast waits 8 seconds"},
	[LATER] = {.name = "later ones 10"},
	[COLD] = {.name = "what nobody has called for five minutes, or ever, gets 15"},
	[NOT_KNOWN] = {.name = "what was called, nobody knows for how long, 9"},
	[SLOW] = {.name = "what is slow its mean and four deviations"},
	[MORE] = {.name = "longer calls, or more uneven ones, never make it shorter"},
	[CLOCK] = {.name = "a clock that goes back makes nothing cold"},
};

static int64
timeout(int64 latency, int64 deviation, int64 age, int attempt)
{
	LlmqPace	pace = {.latency = latency,.deviation = deviation,.called_at = NOW - age};

	return llmq_call_timeout(&pace, attempt, NOW);
}

static void
test_attempts(void)
{
	LlmqPace	never = {0};

	for (int attempt = 1; attempt <= 8; attempt++)
	{
		int64		least = attempt == 1 ? 8 : 10;
		Promise    *promise = &promises[attempt == 1 ? FIRST : LATER];

		CHECK(promise, timeout(SECOND, SECOND / 2, SECOND, attempt) == least * SECOND, "attempt %d", attempt);
		CHECK(&promises[NOT_KNOWN], timeout(0, 0, SECOND, attempt) == Max(least, 9) * SECOND, "attempt %d", attempt);
		CHECK(&promises[COLD], llmq_call_timeout(&never, attempt, NOW) == 15 * SECOND, "attempt %d", attempt);
	}
}

static void
test_cold(void)
{
	CHECK(&promises[COLD], timeout(SECOND, SECOND, 300 * SECOND, 1) == 15 * SECOND, "after 300 s");
	CHECK(&promises[COLD], timeout(SECOND, SECOND, 300 * SECOND - 1, 1) == 8 * SECOND, "before 300 s");
	CHECK(&promises[COLD], timeout(20 * SECOND, 0, 300 * SECOND, 1) == 20 * SECOND, "a slow one");
	CHECK(&promises[CLOCK], timeout(SECOND, SECOND, -3600 * SECOND, 1) == 8 * SECOND, "an hour back");
	CHECK(&promises[CLOCK], timeout(0, 0, -3600 * SECOND, 1) == 9 * SECOND, "an hour back, not known");
}

static void
test_slow(void)
{
	CHECK(&promises[SLOW], timeout(20 * SECOND, 3 * SECOND, SECOND, 1) == 32 * SECOND, "20 s and 3");
	CHECK(&promises[SLOW], timeout(2 * SECOND, 2 * SECOND, SECOND, 2) == 10 * SECOND, "2 s and 2");
	/* calls that were given up before any was answered */
	CHECK(&promises[SLOW], timeout(0, 5 * SECOND, SECOND, 1) == 20 * SECOND, "5 s off nothing");
	for (int64 latency = 0; latency < 40; latency++)
		for (int64 deviation = 0; deviation < 10; deviation++)
			CHECK(&promises[MORE],
				  timeout(latency * SECOND + 1, deviation * SECOND, SECOND, 1) <=
				  timeout((latency + 1) * SECOND, (deviation + 1) * SECOND, SECOND, 1), "%d s, %d s",
				  (int) latency, (int) deviation);
}

int
main(void)
{
	test_attempts();
	test_cold();
	test_slow();
	return promises_report(promises, PROMISES);
}
