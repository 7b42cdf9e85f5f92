/*
 * money_test.c
 *	  What calls cost, at most and in the end, and what that is in another currency.
 *
 *	links: src/money.c
 */
#include "postgres.h"

#include "money.h"
#include "tap.h"

#define UNIT INT64CONST(1000000000)
#define RATE INT64CONST(1000000000000)
#define ROUNDS 1000000

enum
{
	PUBLISHED, PARTS, ROUNDING, WORST, NEVER_MORE, IN_PART, OVERFLOW, RATES, SATANG, NEAREST, BACK, PROMISES
};

static Promise promises[PROMISES] = {
	[PUBLISHED] = {"calls cost what their providers' price lists say"},
	[PARTS] = {"each sort of tokens has its own price"},
	[ROUNDING] = {"half of the last place is rounded away from zero"},
	[WORST] = {"the most that a call may cost takes the dearest sort of tokens, and is rounded up"},
	[NEVER_MORE] = {"no call within its tokens costs more than the most"},
	[IN_PART] = {"nor one of which a part is known, and not less than that comes to"},
	[OVERFLOW] = {"what does not fit is said, and not computed"},
	[RATES] = {"amounts in another currency, by both rates"},
	[SATANG] = {"a dollar price is right to the last satang"},
	[NEAREST] = {"a converted amount is the nearest one"},
	[BACK] = {"an amount of the same currency is itself"},
};

/* Of a fixed sequence, so that a failure comes again. */
static uint64 random_state = 0x9e3779b97f4a7c15;

static int64
random_below(int64 limit)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (int64) (random_state % (uint64) limit);
}

static void
check_cost(Promise *promise, LlmqPrice price, LlmqTokens tokens, int64 expected)
{
	int64		cost = -1;
	bool		fits = llmq_price_cost(&price, &tokens, &cost);

	CHECK(promise, fits && cost == expected, "%d, " INT64_FORMAT ", expected " INT64_FORMAT, fits, cost, expected);
}

/* Dollars for a million tokens, as the lists had them in 2025; the third figure is that of cached input. */
static void
published(void)
{
	LlmqPrice	gpt_4o = {2500000000, 1250000000, 2500000000, 10000000000, 10000000000};
	LlmqPrice	sonnet = {3000000000, 300000000, 3750000000, 15000000000, 15000000000};
	LlmqPrice	flash = {75000000, 18750000, 75000000, 300000000, 300000000};

	check_cost(&promises[PUBLISHED], gpt_4o, (LlmqTokens) {.input = 1000000}, 2500000000);
	check_cost(&promises[PUBLISHED], gpt_4o, (LlmqTokens) {.input = 1180,.output = 312}, 6070000);
	check_cost(&promises[PUBLISHED], gpt_4o, (LlmqTokens) {.input = 1180,.cached = 1024,.output = 312}, 4790000);
	check_cost(&promises[PUBLISHED], sonnet,
			   (LlmqTokens) {.input = 3000,.cached = 1000,.cache_write = 500,.output = 100}, 8175000);
	check_cost(&promises[PUBLISHED], flash, (LlmqTokens) {.input = 1,.output = 1}, 375);
	check_cost(&promises[PARTS], (LlmqPrice) {1000000, 10000000, 100000000, 1000000000, 10000000000},
			   (LlmqTokens) {.input = 6,.cached = 2,.cache_write = 3,.output = 9,.reasoning = 4},
			   1 + 20 + 300 + 5000 + 40000);
}

static void
rounding(void)
{
	check_cost(&promises[ROUNDING], (LlmqPrice) {.input = 499999}, (LlmqTokens) {.input = 1}, 0);
	check_cost(&promises[ROUNDING], (LlmqPrice) {.input = 500000}, (LlmqTokens) {.input = 1}, 1);
	check_cost(&promises[ROUNDING], (LlmqPrice) {.input = 500000}, (LlmqTokens) {.input = 2}, 1);
	check_cost(&promises[ROUNDING], (LlmqPrice) {.input = 250000,.output = 250000},
			   (LlmqTokens) {.input = 1,.output = 1}, 1);
}

static void
check_worst(Promise *promise, LlmqPrice price, int64 input, int64 output, int64 expected)
{
	int64		cost = -1;
	bool		fits = llmq_price_worst(&price, input, output, &cost);

	CHECK(promise, fits && cost == expected, "%d, " INT64_FORMAT ", expected " INT64_FORMAT, fits, cost, expected);
}

static void
worst(void)
{
	check_worst(&promises[WORST], (LlmqPrice) {.input = 3000000,.cached = 1000000,.cache_write = 4000000}, 7, 9, 28);
	check_worst(&promises[WORST], (LlmqPrice) {.output = 3000000,.reasoning = 5000000}, 7, 9, 45);
	check_worst(&promises[WORST], (LlmqPrice) {.cached = 6000000}, 7, 9, 42);
	check_worst(&promises[WORST], (LlmqPrice) {.input = 1}, 1, 0, 1);
	check_worst(&promises[WORST], (LlmqPrice) {.input = 1}, 0, 0, 0);
}

/* One of both figures is known, and the other reserved: then as much as that may yet cost. */
static void
never_more_in_part(const LlmqPrice *price, const LlmqTokens *tokens, int64 cost, int64 most)
{
	LlmqTokens	input = {.input = tokens->input,.cached = tokens->cached,.cache_write = tokens->cache_write};
	LlmqTokens	output = {.output = tokens->output,.reasoning = tokens->reasoning};
	int64		with_input = -1;
	int64		with_output = -1;

	if (!llmq_price_at_most(price, &input, 0, tokens->output, &with_input) ||
		!llmq_price_at_most(price, &output, tokens->input, 0, &with_output))
		most = -1;
	CHECK(&promises[IN_PART], cost <= with_input && with_input <= most && cost <= with_output && with_output <= most,
		  INT64_FORMAT ", " INT64_FORMAT " or " INT64_FORMAT " of " INT64_FORMAT, cost, with_input, with_output, most);
}

static void
never_more(void)
{
	for (int i = 0; i < ROUNDS; i++)
	{
		LlmqPrice	price = {
			random_below(UNIT), random_below(UNIT), random_below(UNIT), random_below(UNIT), random_below(UNIT)
		};
		LlmqTokens	tokens = {.input = 1 + random_below(100000),.output = 1 + random_below(100000)};
		int64		cost;
		int64		most;

		tokens.cached = random_below(tokens.input);
		tokens.cache_write = random_below(tokens.input - tokens.cached + 1);
		tokens.reasoning = random_below(tokens.output + 1);
		if (!llmq_price_cost(&price, &tokens, &cost) || !llmq_price_worst(&price, tokens.input, tokens.output, &most))
			most = -1;
		CHECK(&promises[NEVER_MORE], 0 <= cost && cost <= most, INT64_FORMAT " of " INT64_FORMAT, cost, most);
		never_more_in_part(&price, &tokens, cost, most);
	}
}

static void
overflow(void)
{
	LlmqPrice	price = {PG_INT64_MAX, PG_INT64_MAX, PG_INT64_MAX, PG_INT64_MAX, PG_INT64_MAX};
	LlmqTokens	tokens = {.input = 1000000};
	int64		amount = 7;

	check_cost(&promises[OVERFLOW], price, tokens, PG_INT64_MAX);
	check_worst(&promises[OVERFLOW], price, 500000, 500000, PG_INT64_MAX);
	tokens.output = 1;
	CHECK(&promises[OVERFLOW], !llmq_price_cost(&price, &tokens, &amount) && amount == 7, "a cost");
	CHECK(&promises[OVERFLOW], !llmq_price_worst(&price, PG_INT32_MAX, PG_INT32_MAX, &amount) && amount == 7, "a worst");
	CHECK(&promises[OVERFLOW], !llmq_money_convert(PG_INT64_MAX, RATE + 1, RATE, &amount) && amount == 7, "more");
	CHECK(&promises[OVERFLOW], !llmq_money_convert(PG_INT64_MIN, RATE + 1, RATE, &amount) && amount == 7, "less");
	CHECK(&promises[OVERFLOW], !llmq_money_convert(PG_INT64_MAX, PG_INT64_MAX, 1, &amount) && amount == 7, "most");
}

static void
check_convert(Promise *promise, int64 amount, int64 from, int64 to, int64 expected)
{
	int64		converted = -1;
	bool		fits = llmq_money_convert(amount, from, to, &converted);

	CHECK(promise, fits && converted == expected, "%d, " INT64_FORMAT ", expected " INT64_FORMAT, fits, converted,
		  expected);
}

static void
rates(void)
{
	check_convert(&promises[RATES], 3 * UNIT, 35 * RATE, RATE, 105 * UNIT);
	check_convert(&promises[RATES], 105 * UNIT, RATE, 35 * RATE, 3 * UNIT);
	check_convert(&promises[RATES], 2 * UNIT, 3 * RATE, 2 * RATE, 3 * UNIT);
	check_convert(&promises[RATES], 1, RATE, 2 * RATE, 1);
	check_convert(&promises[RATES], -1, RATE, 2 * RATE, -1);
	check_convert(&promises[RATES], -3, RATE, 2 * RATE, -2);
	check_convert(&promises[RATES], 1, RATE, 2 * RATE + 1, 0);
	/* 0.12 dollars at 35.4075 baht */
	check_convert(&promises[SATANG], 120000000, 35407500000000, RATE, 4248900000);
	/* with dollars as the base currency: a baht is 1 / 35.4075 of one, to 12 places */
	check_convert(&promises[SATANG], 120000000, RATE, 28242603968, 4248900000);
}

static void
nearest(void)
{
	for (int i = 0; i < ROUNDS; i++)
	{
		int64		amount = random_below(1000 * UNIT) - 500 * UNIT;
		int64		from = 1 + random_below(100 * RATE);
		int64		to = 1 + random_below(100 * RATE) + from / 1000000;
		int64		converted;
		int128		off;

		if (!llmq_money_convert(amount, from, to, &converted))
			continue;
		off = (int128) amount * from - (int128) converted * to;
		CHECK(&promises[NEAREST], 2 * (off < 0 ? -off : off) <= to, INT64_FORMAT " " INT64_FORMAT " " INT64_FORMAT,
			  amount, from, to);
		CHECK(&promises[BACK], llmq_money_convert(amount, to, to, &converted) && converted == amount, INT64_FORMAT,
			  amount);
	}
}

int
main(void)
{
	published();
	rounding();
	worst();
	never_more();
	overflow();
	rates();
	nearest();
	return promises_report(promises, PROMISES);
}
