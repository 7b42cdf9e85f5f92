/*
 * gcra_test.c
 *	  What a rate limit admits, against an oracle that keeps every call, in numbers without rounding: never more in any
 *	  interval than the burst and what the interval brings, and nobody is refused who may go on.
 *
 * links: src/gcra.c
 */
#include "postgres.h"

#include <stdlib.h>

#include "common/int128.h"

#include "gcra.h"
#include "tap.h"

#define CALLS 600
#define TRIALS 400

enum
{
	NEVER_OVER, ALL, EXACT, RETRY, RESET, REMAINING, PEEK, LARGE, CHANGED, BACK, RATE, VALID, PROMISES
};

static Promise promises[PROMISES] = {
	[NEVER_OVER] = {.name = "in no interval more is admitted than the burst and what the interval brings"},
	[ALL] = {.name = "the whole burst is there at once, to the last of it"},
	[EXACT] = {.name = "what is refused would have been too much"},
	[RETRY] = {.name = "so much is allowed after retry_after, and not a microsecond earlier"},
	[RESET] = {.name = "the whole burst is there after reset_after, and not a microsecond earlier"},
	[REMAINING] = {.name = "what remains is allowed, and one more is not"},
	[PEEK] = {.name = "who only looks changes nothing, and is told whether one would be allowed"},
	[LARGE] = {.name = "what is more than the burst is never allowed"},
	[CHANGED] = {.name = "a limit that was changed forgets nothing, and keeps nobody longer than its burst takes"},
	[BACK] = {.name = "a clock that was set back keeps nobody longer than that either"},
	[RATE] = {.name = "whoever asks all the time gets all of the amount"},
	[VALID] = {.name = "limits whose times are too long are none"},
};

/* Calls that were admitted, in their order. */
static struct
{
	int64		at;
	int32		cost;
}			calls[CALLS];

static int	ncalls;

static int64
between(int64 least, int64 most)
{
	uint64		bits = 0;

	for (int i = 0; i < 5; i++)
		bits = bits << 15 ^ (uint64) random();
	return least + (int64) (bits % (uint64) (most - least + 1));
}

static LlmqGcraLimit
random_limit(void)
{
	LlmqGcraLimit limit;

	do
	{
		limit.amount = (int32) between(1, between(0, 1) ? 20 : 1000000);
		limit.period = between(1, between(0, 1) ? 10000000 : INT64CONST(86400000000));
		limit.burst = (int32) between(1, 2 * (int64) limit.amount);
	} while (!llmq_gcra_is_valid(&limit));
	return limit;
}

/* Would this call make it more than the limit in some interval that ends with it? By all calls there were. */
static bool
oracle_refuses(const LlmqGcraLimit *limit, int64 now, int32 cost)
{
	int128		sum = cost;

	if (sum > limit->burst)
		return true;
	for (int i = ncalls - 1; i >= 0; i--)
	{
		sum += calls[i].cost;
		if ((sum - limit->burst) * limit->period > (int128) (now - calls[i].at) * limit->amount)
			return true;
	}
	return false;
}

/* One call, by the code and by the oracle. */
static void
check_call(const LlmqGcraLimit *limit, LlmqGcraTime *until, int64 now, int32 cost)
{
	LlmqGcraAnswer answer;
	LlmqGcraAnswer later;
	bool		refused = oracle_refuses(limit, now, cost);

	llmq_gcra(limit, until, now, cost, &answer);
	CHECK(&promises[NEVER_OVER], !answer.allowed || !refused, "%d in %ld, burst %d: call %d of %d", limit->amount,
		  (long) limit->period, limit->burst, ncalls, cost);
	CHECK(&promises[EXACT], answer.allowed || refused, "%d in %ld, burst %d: call %d of %d", limit->amount,
		  (long) limit->period, limit->burst, ncalls, cost);
	if (!answer.allowed && answer.retry_after != LLMQ_GCRA_NEVER)
	{
		llmq_gcra(limit, until, now + answer.retry_after, cost, &later);
		CHECK(&promises[RETRY], later.allowed, "not after %ld", (long) answer.retry_after);
		llmq_gcra(limit, until, now + answer.retry_after - 1, cost, &later);
		CHECK(&promises[RETRY], !later.allowed, "before %ld", (long) answer.retry_after);
	}
	if (!answer.allowed || ncalls == CALLS)
		return;
	calls[ncalls].at = now;
	calls[ncalls++].cost = cost;
	*until = answer.until;
}

/* What an answer says of what is left. */
static void
check_state(const LlmqGcraLimit *limit, const LlmqGcraTime *until, int64 now)
{
	LlmqGcraAnswer look;
	LlmqGcraAnswer ask;

	llmq_gcra(limit, until, now, 0, &look);
	CHECK(&promises[PEEK], !look.moved && look.allowed == (look.remaining > 0), "%ld remaining", (long) look.remaining);
	if (look.remaining > 0)
		llmq_gcra(limit, until, now, (int32) look.remaining, &ask);
	CHECK(&promises[REMAINING], look.remaining == 0 || ask.allowed, "not %ld", (long) look.remaining);
	llmq_gcra(limit, until, now, (int32) look.remaining + 1, &ask);
	CHECK(&promises[REMAINING], !ask.allowed, "more than %ld", (long) look.remaining);
	llmq_gcra(limit, until, now + look.reset_after, limit->burst, &ask);
	CHECK(&promises[RESET], ask.allowed, "not after %ld", (long) look.reset_after);
	llmq_gcra(limit, until, now + look.reset_after - 1, limit->burst, &ask);
	CHECK(&promises[RESET], look.reset_after == 0 || !ask.allowed, "before %ld", (long) look.reset_after);
	llmq_gcra(limit, until, now, limit->burst + 1, &ask);
	CHECK(&promises[LARGE], !ask.allowed && ask.retry_after == LLMQ_GCRA_NEVER, "%d of %d", limit->burst + 1, limit->burst);
}

/* Calls of random costs at random times, some of them at once. */
static void
test_oracle(void)
{
	LlmqGcraLimit limit = random_limit();
	LlmqGcraTime until = {0};
	int64		step = Max(2 * limit.period / limit.amount, 1);
	int64		now = INT64CONST(800000000000000);

	ncalls = 0;
	for (int i = 0; i < CALLS; i++)
	{
		if (between(0, 2) > 0)
			now += between(0, step);
		check_call(&limit, &until, now, (int32) between(1, between(0, 3) ? 3 : limit.burst));
		check_state(&limit, &until, now);
	}
}

/* The clock stands: the burst is there, call by call. */
static void
test_burst(void)
{
	LlmqGcraLimit limit = random_limit();
	LlmqGcraTime until = {0};
	LlmqGcraAnswer answer;
	int			n = 0;

	limit.burst = (int32) between(1, 1000);
	if (!llmq_gcra_is_valid(&limit))
		return;
	for (; n <= limit.burst; n++)
	{
		llmq_gcra(&limit, &until, 1000, 1, &answer);
		if (!answer.allowed)
			break;
		until = answer.until;
	}
	CHECK(&promises[ALL], n == limit.burst, "%d of %d, %d in %ld", n, limit.burst, limit.amount, (long) limit.period);
}

/* Somebody asks every microsecond, and has a burst for what a whole number of them is too long. */
static void
test_rate(void)
{
	LlmqGcraLimit limit = {.amount = 7919,.period = 100003,.burst = 10};
	LlmqGcraTime until = {0};
	LlmqGcraAnswer answer;
	int			n = 0;

	for (int64 now = 5000; now < 5000 + 10 * limit.period; now++)
	{
		llmq_gcra(&limit, &until, now, 1, &answer);
		n += answer.allowed;
		until = answer.until;
	}
	CHECK(&promises[RATE], n >= 10 * limit.amount && n <= 10 * limit.amount + limit.burst, "%d of %d", n, 10 * limit.amount);
}

/* Another limit, or a clock that was set back. */
static void
test_change(void)
{
	LlmqGcraLimit limit = random_limit();
	LlmqGcraLimit other = random_limit();
	LlmqGcraTime until = {0};
	LlmqGcraAnswer before;
	LlmqGcraAnswer after;
	int64		now = INT64CONST(800000000000000);
	int64		longest = (int64) (((int128) other.burst * other.period + other.amount - 1) / other.amount);

	llmq_gcra(&limit, &until, now, limit.burst, &before);
	llmq_gcra(&other, &before.until, now, 1, &after);
	CHECK(&promises[CHANGED], after.reset_after <= longest, "%ld, not %ld", (long) after.reset_after, (long) longest);
	CHECK(&promises[CHANGED], after.reset_after >= Min(before.reset_after, longest), "%ld, not %ld",
		  (long) after.reset_after, (long) Min(before.reset_after, longest));
	now -= between(1, INT64CONST(86400000000));
	llmq_gcra(&limit, &before.until, now, 1, &after);
	CHECK(&promises[BACK], !after.allowed && after.moved && after.reset_after == before.reset_after, "%ld, not %ld",
		  (long) after.reset_after, (long) before.reset_after);
	CHECK(&promises[BACK], after.until.at <= now + before.reset_after, "%ld after", (long) (after.until.at - now));
}

static void
test_valid(void)
{
	LlmqGcraLimit limit = {.amount = 1,.period = LLMQ_GCRA_LONGEST,.burst = 1};
	LlmqGcraLimit most = {.amount = PG_INT32_MAX,.period = LLMQ_GCRA_LONGEST,.burst = PG_INT32_MAX};

	CHECK(&promises[VALID], llmq_gcra_is_valid(&limit) && llmq_gcra_is_valid(&most), "what is just long enough is refused");
	limit.burst = 2;
	CHECK(&promises[VALID], !llmq_gcra_is_valid(&limit), "a burst of two");
	most.period++;
	CHECK(&promises[VALID], !llmq_gcra_is_valid(&most), "a period too long");
}

int
main(void)
{
	srandom(20261123);
	for (int i = 0; i < TRIALS; i++)
	{
		test_oracle();
		test_burst();
		test_change();
	}
	test_rate();
	test_valid();
	return promises_report(promises, PROMISES);
}
