/*
 * money.c
 *	  What tokens cost, and what an amount is in another currency.
 *
 * A sum of products of tokens and prices fits 128 bits, and is divided once: a call's cost is rounded to 1e-9 once,
 * half of it away from zero, and so is an amount in another currency. What tokens may cost at most of which nobody
 * knows the sort is rounded up, so that no settlement is ever more than a reservation of as many tokens.
 *
 * Rates lead from each currency to the base currency; from one currency to another it goes by both rates at once,
 * without a rounding between.
 */
#include "postgres.h"

#include "money.h"

/* A quotient, rounded; half is rounded away from zero. The divisor is positive. */
static int128
divide(int128 dividend, int128 divisor)
{
	int128		half = divisor / 2;

	return dividend < 0 ? -((half - dividend) / divisor) : (dividend + half) / divisor;
}

static bool
fits(int128 amount, int64 *result)
{
	if (amount < PG_INT64_MIN || amount > PG_INT64_MAX)
		return false;
	*result = (int64) amount;
	return true;
}

/* What so many tokens cost, in 1e-9 for a million of them. */
static int128
sum_of(const LlmqPrice *price, const LlmqTokens *tokens)
{
	int64		plain_input = tokens->input - tokens->cached - tokens->cache_write;
	int64		plain_output = tokens->output - tokens->reasoning;
	int128		sum = (int128) plain_input * price->input;

	sum += (int128) tokens->cached * price->cached;
	sum += (int128) tokens->cache_write * price->cache_write;
	sum += (int128) plain_output * price->output;
	sum += (int128) tokens->reasoning * price->reasoning;
	return sum;
}

/* What a call with so many tokens costs. */
bool
llmq_price_cost(const LlmqPrice *price, const LlmqTokens *tokens, int64 *cost)
{
	return fits(divide(sum_of(price, tokens), LLMQ_TOKENS_PRICED), cost);
}

/* The most that a call may cost with these tokens and no more than so many others, of whatever sort they will be. */
bool
llmq_price_at_most(const LlmqPrice *price, const LlmqTokens *tokens, int64 input, int64 output, int64 *cost)
{
	int64		dearest_input = Max(price->input, Max(price->cached, price->cache_write));
	int64		dearest_output = Max(price->output, price->reasoning);
	int128		sum = sum_of(price, tokens) + (int128) input * dearest_input + (int128) output * dearest_output;

	return fits((sum + LLMQ_TOKENS_PRICED - 1) / LLMQ_TOKENS_PRICED, cost);
}

/* The same for a call of which nothing is known but the most tokens that it takes. */
bool
llmq_price_worst(const LlmqPrice *price, int64 input, int64 output, int64 *cost)
{
	const LlmqTokens none = {0};

	return llmq_price_at_most(price, &none, input, output, cost);
}

/* An amount of one currency in another one. Rates are positive. */
bool
llmq_money_convert(int64 amount, int64 from_rate, int64 to_rate, int64 *converted)
{
	if (from_rate == to_rate)
	{
		*converted = amount;
		return true;
	}
	return fits(divide((int128) amount * from_rate, to_rate), converted);
}
