/*
 * money.h
 *	  Prices and amounts of money, exact: integers, no floating point.
 *
 * Pure functions on plain structs: nothing here calls the server, allocates or raises, so all of it may be used under a
 * content lock.
 */
#ifndef LLMQ_MONEY_H
#define LLMQ_MONEY_H

#include "postgres.h"

/* An amount of money is a number of 1e-9 of its currency; no amount may be larger than its 64 bits. */
#define LLMQ_MONEY_DECIMALS 9

/* A rate is a number of 1e-12 of the base currency, for one unit of a currency. */
#define LLMQ_RATE_DECIMALS 12

/* A price is for so many tokens. */
#define LLMQ_TOKENS_PRICED 1000000

/* What a million tokens of each sort cost. */
typedef struct LlmqPrice
{
	int64		input;
	int64		cached;
	int64		cache_write;
	int64		output;
	int64		reasoning;
} LlmqPrice;

/* Tokens: cached and cache_write are parts of input, reasoning is a part of output. */
typedef struct LlmqTokens
{
	int64		input;
	int64		cached;
	int64		cache_write;
	int64		output;
	int64		reasoning;
} LlmqTokens;

/* Each is false, and says nothing, where the result has no place in 64 bits. */
extern bool llmq_price_cost(const LlmqPrice *price, const LlmqTokens *tokens, int64 *cost);
extern bool llmq_price_at_most(const LlmqPrice *price, const LlmqTokens *tokens, int64 input, int64 output,
							   int64 *cost);
extern bool llmq_price_worst(const LlmqPrice *price, int64 input, int64 output, int64 *cost);
extern bool llmq_money_convert(int64 amount, int64 from_rate, int64 to_rate, int64 *converted);

#endif							/* LLMQ_MONEY_H */
