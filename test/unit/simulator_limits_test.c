/*
 * simulator_limits_test.c
 *	  The limits of the provider simulator are exact to a microsecond.
 *
 *	links: test/simulator/limits.c test/simulator/day.c
 */
#include "postgres.h"

#include "../simulator/day.h"
#include "../simulator/limits.h"
#include "tap.h"

#define SECOND INT64CONST(1000000)
#define MINUTE (60 * SECOND)

/* 2026-03-08 is the day that California's clocks go forward, at 2 o'clock. */
#define START (INT64CONST(1772900000) * SECOND)

enum
{
	SLIDING_EDGE, SLIDING_WAIT, BUCKET_EDGE, BUCKET_FULL, BUCKET_BURST, FIXED_EDGE, FIXED_SKIPPED, DAY_LENGTH, MIDNIGHT,
	DST, CONCURRENCY, CORRECTED, CORRECTED_LATE, DEBT, TOO_LARGE, ZERO, EMPTY, GROWN, PROMISES
};

static Promise promises[PROMISES] = {
	[SLIDING_EDGE] = {"a charge counts in a sliding window for its length, and not one microsecond longer"},
	[SLIDING_WAIT] = {"and what does not fit is told that instant"},
	[BUCKET_EDGE] = {"a bucket has a token when a whole one has been refilled, and not one microsecond before"},
	[BUCKET_FULL] = {"it is never fuller than full, however long it waits"},
	[BUCKET_BURST] = {"one with a small burst smoothes what it lets through"},
	[FIXED_EDGE] = {"a fixed period ends at a multiple of its length"},
	[FIXED_SKIPPED] = {"also when nobody came for several of them"},
	[DAY_LENGTH] = {"a short day ends when it was told to, and then by its length"},
	[MIDNIGHT] = {"a day ends at midnight in its zone"},
	[DST] = {"which has 23 hours where the clock goes forward"},
	[CONCURRENCY] = {"what is in flight counts until its end"},
	[CORRECTED] = {"a charge can be made smaller or larger"},
	[CORRECTED_LATE] = {"but not when it does not count any more"},
	[DEBT] = {"a limit in debt refuses until that has been paid back"},
	[TOO_LARGE] = {"what exceeds the amount never fits"},
	[ZERO] = {"nothing fits into nothing"},
	[EMPTY] = {"a limit knows when it is as if nothing had been used"},
	[GROWN] = {"a sliding window remembers thousands of charges"},
};

static SimLimit
new_limit(SimKind kind, int64 amount, int64 length)
{
	SimLimit	limit = {.kind = kind, .amount = amount, .burst = amount, .length = length,
	.zone = "America/Los_Angeles"};

	sim_limit_init(&limit, START);
	return limit;
}

/* Does it fit at an instant?  Instants must not go back. */
static bool
fits(SimLimit *limit, int64 now, int64 requested)
{
	sim_limit_advance(limit, now);
	return sim_limit_fits(limit, requested);
}

static SimCharge
charge(SimLimit *limit, int64 now, int64 requested)
{
	sim_limit_advance(limit, now);
	return sim_limit_charge(limit, now, requested);
}

static void
test_sliding(void)
{
	SimLimit	limit = new_limit(SIM_SLIDING, 10, MINUTE);

	charge(&limit, START, 4);
	charge(&limit, START + SECOND, 6);
	CHECK(&promises[SLIDING_WAIT], sim_limit_wait(&limit, START + SECOND, 4) == MINUTE - SECOND, "4: %ld",
		  (long) sim_limit_wait(&limit, START + SECOND, 4));
	CHECK(&promises[SLIDING_WAIT], sim_limit_wait(&limit, START + SECOND, 5) == MINUTE, "5: %ld",
		  (long) sim_limit_wait(&limit, START + SECOND, 5));
	CHECK(&promises[EMPTY], sim_limit_empty_after(&limit, START + SECOND) == MINUTE, "sliding");
	CHECK(&promises[SLIDING_EDGE], !fits(&limit, START + MINUTE - 1, 1), "it has left too early");
	CHECK(&promises[SLIDING_EDGE], fits(&limit, START + MINUTE, 4), "it is still there");
	CHECK(&promises[SLIDING_EDGE], !fits(&limit, START + MINUTE, 5), "the other has left too");
	sim_limit_free(&limit);
}

static void
test_growth(void)
{
	SimLimit	limit = new_limit(SIM_SLIDING, 5000, MINUTE);

	for (int i = 0; i < 5000; i++)
		charge(&limit, START + i, 1);
	CHECK(&promises[GROWN], !fits(&limit, START + MINUTE - 1, 1), "charges were lost");
	for (int i = 0; i < 5000; i++)
		CHECK(&promises[GROWN], fits(&limit, START + MINUTE + i, i + 1) && !fits(&limit, START + MINUTE + i, i + 2),
			  "after %d: %ld used", i, (long) sim_limit_used(&limit));
	sim_limit_free(&limit);
}

static void
test_bucket(void)
{
	SimLimit	limit = new_limit(SIM_BUCKET, 60, MINUTE);
	SimLimit	smooth = {.kind = SIM_BUCKET, .amount = 60, .burst = 1, .length = MINUTE};

	charge(&limit, START, 60);
	CHECK(&promises[BUCKET_EDGE], sim_limit_wait(&limit, START, 2) == 2 * SECOND, "%ld",
		  (long) sim_limit_wait(&limit, START, 2));
	CHECK(&promises[EMPTY], sim_limit_empty_after(&limit, START) == MINUTE, "bucket");
	CHECK(&promises[BUCKET_EDGE], !fits(&limit, START + SECOND - 1, 1), "a token too early");
	CHECK(&promises[BUCKET_EDGE], fits(&limit, START + SECOND, 1), "no token");
	CHECK(&promises[BUCKET_FULL], fits(&limit, START + 1000 * MINUTE, 60), "it is not full");
	CHECK(&promises[BUCKET_FULL], !fits(&limit, START + 1000 * MINUTE, 61), "it has run over");

	sim_limit_init(&smooth, START);
	charge(&smooth, START, 1);
	CHECK(&promises[BUCKET_BURST], !fits(&smooth, START + SECOND - 1, 1), "a second one too early");
	CHECK(&promises[BUCKET_BURST], fits(&smooth, START + SECOND, 1), "no second one");
	CHECK(&promises[BUCKET_BURST], sim_limit_wait(&smooth, START + SECOND, 2) == SIM_NEVER, "two at once");
}

static void
test_periods(void)
{
	SimLimit	fixed = new_limit(SIM_FIXED, 1, 6 * SECOND);
	SimLimit	day = {.kind = SIM_DAY, .amount = 1, .length = 10 * SECOND, .end = START + 3 * SECOND};
	int64		end = START - START % (6 * SECOND) + 6 * SECOND;

	charge(&fixed, START, 1);
	CHECK(&promises[FIXED_EDGE], sim_limit_wait(&fixed, START, 1) == end - START, "the wait is wrong");
	CHECK(&promises[FIXED_EDGE], !fits(&fixed, end - 1, 1) && fits(&fixed, end, 1), "the end is wrong");
	charge(&fixed, end, 1);
	CHECK(&promises[FIXED_SKIPPED], fits(&fixed, end + 20 * SECOND, 1), "a later period is full");
	CHECK(&promises[FIXED_SKIPPED], fixed.end == end + 24 * SECOND, "its end is wrong");

	sim_limit_init(&day, START);
	charge(&day, START, 1);
	CHECK(&promises[DAY_LENGTH], !fits(&day, START + 3 * SECOND - 1, 1), "it ended too early");
	CHECK(&promises[DAY_LENGTH], fits(&day, START + 3 * SECOND, 1), "it did not end");
	CHECK(&promises[DAY_LENGTH], day.end == START + 13 * SECOND, "the next one has another length");
}

static void
test_midnight(void)
{
	SimLimit	limit = new_limit(SIM_DAY, 1, 0);
	int64		midnight = INT64CONST(1772956800) * SECOND; /* 2026-03-08 08:00 UTC */

	charge(&limit, START, 1);
	CHECK(&promises[MIDNIGHT], !fits(&limit, midnight - 1, 1), "midnight was too early");
	CHECK(&promises[MIDNIGHT], fits(&limit, midnight, 1), "no midnight");
	CHECK(&promises[MIDNIGHT], sim_next_midnight("UTC", START) % (1440 * MINUTE) == 0, "not in UTC");
	CHECK(&promises[DST], limit.end == midnight + 23 * 60 * MINUTE, "a day of %ld hours",
		  (long) ((limit.end - midnight) / (60 * MINUTE)));
}

static void
test_concurrency(void)
{
	SimLimit	limit = new_limit(SIM_CONCURRENCY, 2, 0);
	SimCharge	first = charge(&limit, START, 1);

	charge(&limit, START, 1);
	CHECK(&promises[CONCURRENCY], !fits(&limit, START + MINUTE, 1), "a third one at once");
	sim_limit_correct(&limit, &first, 0);
	CHECK(&promises[CONCURRENCY], fits(&limit, START + MINUTE, 1), "no room after an end");
	CHECK(&promises[CONCURRENCY], sim_limit_left(&limit) == 1, "%ld left", (long) sim_limit_left(&limit));
}

static void
test_corrections(SimKind kind, const char *name)
{
	SimLimit	limit = new_limit(kind, 100, MINUTE);
	int64		start = START - START % MINUTE + MINUTE;
	SimCharge	this = charge(&limit, start, 80);

	sim_limit_correct(&limit, &this, 30);
	CHECK(&promises[CORRECTED], fits(&limit, start, 70) && !fits(&limit, start, 71), "%s: smaller", name);
	sim_limit_correct(&limit, &this, 60);
	CHECK(&promises[CORRECTED], fits(&limit, start, 40) && !fits(&limit, start, 41), "%s: larger", name);
	sim_limit_correct(&limit, &this, 150);
	CHECK(&promises[DEBT], !fits(&limit, start, 1) && sim_limit_left(&limit) == 0, "%s: it is not in debt", name);
	CHECK(&promises[DEBT], sim_limit_wait(&limit, start, 1) > 0, "%s: it does not say until when", name);
	CHECK(&promises[DEBT], fits(&limit, start + MINUTE * 2, 100), "%s: for ever", name);
	CHECK(&promises[TOO_LARGE], sim_limit_wait(&limit, start, 101) == SIM_NEVER, "%s", name);
	if (kind != SIM_BUCKET)
	{
		sim_limit_correct(&limit, &this, 0);
		CHECK(&promises[CORRECTED_LATE], sim_limit_used(&limit) == 0, "%s: %ld used", name,
			  (long) sim_limit_used(&limit));
	}
	sim_limit_free(&limit);
}

static void
test_nothing(SimKind kind)
{
	SimLimit	limit = new_limit(kind, 0, MINUTE);

	CHECK(&promises[ZERO], !fits(&limit, START + 10 * MINUTE, 1), "kind %d lets one in", kind);
	CHECK(&promises[ZERO], sim_limit_wait(&limit, START + 10 * MINUTE, 1) == SIM_NEVER, "kind %d says when", kind);
	CHECK(&promises[EMPTY], sim_limit_empty_after(&limit, START + 10 * MINUTE) == 0, "kind %d", kind);
}

int
main(void)
{
	test_sliding();
	test_growth();
	test_bucket();
	test_periods();
	test_midnight();
	test_concurrency();
	test_corrections(SIM_SLIDING, "sliding");
	test_corrections(SIM_BUCKET, "bucket");
	test_corrections(SIM_FIXED, "fixed");
	for (int kind = SIM_BUCKET; kind <= SIM_CONCURRENCY; kind++)
		test_nothing(kind);
	return promises_report(promises, PROMISES);
}
