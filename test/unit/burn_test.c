/*
 * burn_test.c
 *	  When a limit will be used up at a rate, against a clock that goes on and a call whenever the rate has one.
 *
 * links: src/burn.c src/window.c src/calendar.c
 */
#include "postgres.h"

#include <stdlib.h>

#include "burn.h"
#include "tap.h"

#define SECOND INT64CONST(1000000)
#define HOUR (3600 * SECOND)
#define NOW (INT64CONST(222222) * HOUR)
#define PERIOD (24 * HOUR)

enum
{
	RATE, RUNNING, IDLE, SLOW, EXHAUSTED, CALENDAR, PERIOD_ENDS, TOTAL, SLIDING, STEADY, FREES, ORACLE, EXTREME, FLIGHT, PROMISES
};

static Promise promises[PROMISES] = {
	[RATE] = {.name = "a sliding window's rate is that of its last sixth"},
	[RUNNING] = {.name = "with the running bucket as far as it has come"},
	[IDLE] = {.name = "what is not used will not be used up"},
	[SLOW] = {.name = "the slowest rate is one"},
	[EXHAUSTED] = {.name = "what is used up already is so now"},
	[CALENDAR] = {.name = "a calendar window is used up when what is left has come"},
	[PERIOD_ENDS] = {.name = "unless its period ends before"},
	[TOTAL] = {.name = "a total never ends"},
	[SLIDING] = {.name = "a sliding window is used up when what comes has overtaken what leaves"},
	[STEADY] = {.name = "and never by as much as it has held all the time"},
	[FREES] = {.name = "nor when all of what it holds has left before"},
	[ORACLE] = {.name = "at the moment at which a window that is charged so is full, for any buckets"},
	[EXTREME] = {.name = "the largest numbers are no trouble"},
	[FLIGHT] = {.name = "of calls in flight nobody can tell"},
};

/* So many in an hour. */
static LlmqBurn
hourly(int64 use)
{
	return (LlmqBurn) {.use = use,.time = HOUR};
}

/* What a window says of itself, for an hour. */
static long
rate(const LlmqWindow *window, int64 now)
{
	LlmqBurn	burn = llmq_burn_of(window, now);

	return (long) (burn.use * HOUR / burn.time);
}

static LlmqWindow
sliding(int64 length)
{
	LlmqWindowShape shape = {.kind = LLMQ_WINDOW_SLIDING,.span = llmq_window_span(length, 0)};
	LlmqWindow	window;

	llmq_window_init(&window, &shape, 1, NOW, 0);
	return window;
}

/* A period of a day that began three hours ago. */
static LlmqWindow
calendar(int64 used)
{
	LlmqWindow	window = {.kind = LLMQ_WINDOW_CALENDAR,.head = NOW - 3 * HOUR,.span = PERIOD,.sum = used};

	return window;
}

/* Charges a window, which goes on. */
static void
charge(LlmqWindow *window, int64 at, int64 amount)
{
	LlmqWindowShape shape;

	llmq_window_shape_of(window, &shape);
	(void) llmq_window_advance(window, &shape, at, 1);
	(void) llmq_window_charge(window, at, amount);
}

static void
test_rate(void)
{
	LlmqWindow	window = sliding(HOUR);

	CHECK(&promises[IDLE], rate(&window, NOW) == 0, "a new window");
	for (int minute = 40; minute > 0; minute--)
		charge(&window, NOW - minute * 60 * SECOND, minute > 10 ? 1000 : 3);
	charge(&window, NOW, 0);
	CHECK(&promises[RATE], rate(&window, NOW) == 180, "%ld an hour", rate(&window, NOW));
	charge(&window, NOW + 30 * SECOND, 12);
	CHECK(&promises[RUNNING], rate(&window, NOW + 30 * SECOND) == 240, "%ld an hour",
		  rate(&window, NOW + 30 * SECOND));
}

static void
test_calendar(void)
{
	LlmqWindow	window = calendar(100);
	LlmqWindow	total = {.kind = LLMQ_WINDOW_CALENDAR,.head = 0,.span = LLMQ_WHEN_NEVER,.sum = 100};

	CHECK(&promises[CALENDAR], llmq_burn_exhausted_at(&window, 150, hourly(10), NOW) == NOW + 5 * HOUR, "50 left, 10 an hour");
	CHECK(&promises[CALENDAR], llmq_burn_exhausted_at(&window, 101, hourly(3600), NOW) == NOW + SECOND, "one left, one a second");
	CHECK(&promises[PERIOD_ENDS], llmq_burn_exhausted_at(&window, 309, hourly(10), NOW) == NOW + 20 * HOUR + HOUR * 9 / 10,
		  "six minutes before the end");
	CHECK(&promises[PERIOD_ENDS], llmq_burn_exhausted_at(&window, 310, hourly(10), NOW) == LLMQ_WHEN_NEVER, "at the end");
	CHECK(&promises[IDLE], llmq_burn_exhausted_at(&window, 150, hourly(0), NOW) == LLMQ_WHEN_NEVER, "no rate");
	CHECK(&promises[SLOW], llmq_burn_exhausted_at(&window, 101, (LlmqBurn) {.use = 1,.time = 20 * HOUR}, NOW) == NOW + 20 * HOUR,
		  "one in twenty hours");
	CHECK(&promises[EXHAUSTED], llmq_burn_exhausted_at(&window, 100, hourly(10), NOW) == NOW, "all of it");
	CHECK(&promises[EXHAUSTED], llmq_burn_exhausted_at(&window, 0, hourly(0), NOW) == NOW, "nothing allowed");
	CHECK(&promises[TOTAL], llmq_burn_exhausted_at(&total, 8860, hourly(1), NOW) == NOW + 8760 * HOUR, "a year ahead");
	CHECK(&promises[EXTREME], llmq_burn_exhausted_at(&total, PG_INT64_MAX, hourly(1), NOW) == LLMQ_WHEN_NEVER, "too far ahead");
	CHECK(&promises[EXTREME], llmq_burn_exhausted_at(&total, PG_INT64_MAX, hourly(PG_INT64_MAX), NOW) <= NOW + HOUR, "at once");
	total.sum = PG_INT64_MIN / 2;
	CHECK(&promises[EXTREME], llmq_burn_exhausted_at(&total, PG_INT64_MAX, hourly(1), NOW) == LLMQ_WHEN_NEVER, "what was saved");
	window.kind = LLMQ_WINDOW_CONCURRENCY;
	CHECK(&promises[FLIGHT], llmq_burn_exhausted_at(&window, 150, hourly(10), NOW) == LLMQ_WHEN_NEVER, "room for 50");
}

static void
test_sliding(void)
{
	LlmqWindow	window = sliding(HOUR);
	LlmqWindow	burst = sliding(HOUR);

	for (int minute = 120; minute >= 0; minute--)
		charge(&window, NOW - minute * 60 * SECOND, 10);
	CHECK(&promises[STEADY], llmq_burn_exhausted_at(&window, 640, hourly(600), NOW) == LLMQ_WHEN_NEVER, "10 a minute for ever");
	CHECK(&promises[SLIDING], llmq_burn_exhausted_at(&window, 640, hourly(3600), NOW) == NOW + 30 * SECOND, "60 a minute");
	charge(&burst, NOW - 59 * 60 * SECOND, 500);
	charge(&burst, NOW, 0);
	/* the 500 leave two minutes from now */
	CHECK(&promises[SLIDING], llmq_burn_exhausted_at(&burst, 600, hourly(6000), NOW) == NOW + 60 * SECOND, "before they leave");
	CHECK(&promises[SLIDING], llmq_burn_exhausted_at(&burst, 1000, hourly(6000), NOW) == NOW + 600 * SECOND, "long after");
	CHECK(&promises[FREES], llmq_burn_exhausted_at(&burst, 600, hourly(500), NOW) == LLMQ_WHEN_NEVER, "slowly");
}

/* A window with random buckets; what was foretold, and what becomes of it in steps of a second. */
static void
test_oracle(void)
{
	for (int round = 0; round < 2000; round++)
	{
		LlmqWindow	window = sliding(60 * SECOND);
		int64		per_second = 1 + random() % 20;
		int64		foretold;
		int64		amount;
		int64		at = NOW + SECOND - 1;

		for (int second = 60; second > 0; second--)
			charge(&window, NOW - second * SECOND, random() % 4 == 0 ? random() % 100 : 0);
		charge(&window, at, 0);
		amount = window.sum + 1 + random() % 1000;
		foretold = llmq_burn_exhausted_at(&window, amount, hourly(per_second * 3600), at);
		while (window.sum < amount && at < NOW + 60 * SECOND)
			charge(&window, at += SECOND, per_second);
		if (window.sum < amount)
			CHECK(&promises[ORACLE], foretold == LLMQ_WHEN_NEVER, "round %d: foretold, but never came", round);
		else
			CHECK(&promises[ORACLE], foretold <= at && foretold > at - SECOND, "round %d: %ld us off", round,
				  (long) (foretold - at));
	}
}

int
main(void)
{
	srandom(1);
	test_rate();
	test_calendar();
	test_sliding();
	test_oracle();
	return promises_report(promises, PROMISES);
}
