/*
 * spread_test.c
 *	  Refused callers return as a stream that the returning room can take, not as a herd.
 *
 * links: src/spread.c
 */
#include "postgres.h"

#include <stdlib.h>

#include "spread.h"
#include "tap.h"

#define SECOND INT64CONST(1000000)
#define CALLERS 400
#define ORGS 200
#define SECONDS 240

enum
{
	SHARE, WIDEST, MATCH, RESET, BY_ORG, ONE_ORG, PEAK, USED, PROMISES
};

static Promise promises[PROMISES] = {
	[SHARE] = {.name = "who waits alone is spread by the share of the wait"},
	[WIDEST] = {.name = "and nobody by more than 44 seconds"},
	[MATCH] = {.name = "many are spread until they return as room does"},
	[RESET] = {.name = "at a calendar's reset by 1 to 15 seconds at random and up to 29 by org"},
	[BY_ORG] = {.name = "an org's callers stay within a third of the width"},
	[ONE_ORG] = {.name = "unless they wait for nothing but the org's own"},
	[PEAK] = {.name = "of 400 callers refused for one reset at most 40 return within a second"},
	[USED] = {.name = "and at least 90 % of the first minute's room is used"},
};

static double
fraction(void)
{
	return random() / ((double) RAND_MAX + 1);
}

static void
test_width(void)
{
	LlmqReturn	caller = {.wait = 40 * SECOND,.waiting = 1,.pace = 5e6,.share = 0.25};

	CHECK(&promises[SHARE], llmq_spread_width(&caller) == 10 * SECOND, "alone");
	caller.waiting = 0;
	CHECK(&promises[SHARE], llmq_spread_width(&caller) == 10 * SECOND, "nobody counted");
	caller.waiting = 3;
	CHECK(&promises[MATCH], llmq_spread_width(&caller) == 10 * SECOND, "two before, 5 s each");
	caller.waiting = 6;
	CHECK(&promises[MATCH], llmq_spread_width(&caller) == 25 * SECOND, "five before");
	caller.waiting = 1000000;
	CHECK(&promises[WIDEST], llmq_spread_width(&caller) == 44 * SECOND, "a million");
	caller.waiting = 1;
	caller.wait = PG_INT64_MAX / 2;
	CHECK(&promises[WIDEST], llmq_spread_width(&caller) == 44 * SECOND, "a long wait");
}

static void
test_places(void)
{
	LlmqReturn	caller = {.wait = 40 * SECOND,.share = 0.25};
	LlmqReturn	reset = {.at_reset = true};
	int64		most = 0;

	for (int i = 0; i < 10000; i++)
	{
		int64		first;
		int64		turn;

		caller.by_org = reset.by_org = fraction();
		caller.random = 0;
		first = llmq_spread(&caller);
		caller.random = reset.random = fraction();
		turn = (llmq_spread(&caller) - first + 10 * SECOND) % (10 * SECOND);
		CHECK(&promises[BY_ORG], turn <= 10 * SECOND * 15 / 44 + 1, INT64_FORMAT " behind the first", turn);
		CHECK(&promises[RESET], llmq_spread(&reset) >= SECOND + (int64) (reset.by_org * 29e6) &&
			  llmq_spread(&reset) <= 15 * SECOND + (int64) (reset.by_org * 29e6), INT64_FORMAT, llmq_spread(&reset));
		caller.one_org = true;
		most = Max(most, llmq_spread(&caller));
		CHECK(&promises[ONE_ORG], llmq_spread(&caller) >= 0 && llmq_spread(&caller) < 10 * SECOND, "outside");
		caller.one_org = false;
	}
	CHECK(&promises[ONE_ORG], most > 10 * SECOND * 9 / 10, "at most " INT64_FORMAT, most);
}

/* What came back in which second after the reset. */
static int	returned[SECONDS];

/* A caller is refused `wait` before there is room, and obeys. */
static int64
refused(int number, int64 waiting, int64 wait, double pace)
{
	LlmqReturn	caller = {
		.wait = wait,.waiting = waiting,.pace = pace,.share = 0.25,.by_org = (number % ORGS) * 0.61803398875,
		.random = fraction()
	};

	caller.by_org -= (int) caller.by_org;
	return llmq_spread(&caller);
}

/*
 * All callers are refused together, `wait` before so many requests of a minute fit again; each that returns and finds
 * no room is refused again, until the next minute.
 */
static void
run_herd(int amount, int64 wait)
{
	int			granted = 0;
	int			peak = 0;

	memset(returned, 0, sizeof(returned));
	for (int i = 0; i < CALLERS; i++)
	{
		int64		at = refused(i, i + 1, wait, 60e6 / amount);

		returned[Min(at / SECOND, SECONDS - 1)]++;
	}
	for (int second = 0; second < SECONDS; second++)
	{
		peak = Max(peak, returned[second]);
		if (second < 60)
			granted += returned[second];
	}
	CHECK(&promises[PEAK], peak <= CALLERS / 10, "%d a minute, " INT64_FORMAT " us before: %d within a second", amount,
		  wait, peak);
	CHECK(&promises[USED], Min(granted, amount) * 10 >= Min(amount, CALLERS) * 9, "%d a minute: %d granted", amount,
		  granted);
}

int
main(void)
{
	test_width();
	test_places();
	for (int amount = 10; amount <= CALLERS; amount += 10)
		for (int64 wait = SECOND / 2; wait <= 60 * SECOND; wait *= 2)
			run_herd(amount, wait);
	return promises_report(promises, PROMISES);
}
