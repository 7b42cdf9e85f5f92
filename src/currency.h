/*
 * currency.h
 *	  Currencies by number: three letters of ISO 4217 in 16 bits, for live state.
 */
#ifndef LLMQ_CURRENCY_H
#define LLMQ_CURRENCY_H

#include "postgres.h"

/* A currency as text, and its end. */
#define LLMQ_CURRENCY_SIZE 4

/* Five bits for each letter, from 1; 0: none. */
typedef uint16 LlmqCurrency;

#define LLMQ_CURRENCY_BITS 5

/* The number of a currency. Its letters were checked when they were written. */
static inline LlmqCurrency
llmq_currency(const char *text)
{
	LlmqCurrency currency = 0;

	for (int i = 0; i < LLMQ_CURRENCY_SIZE - 1; i++)
		currency = (currency << LLMQ_CURRENCY_BITS) | (text[i] - 'A' + 1);
	return currency;
}

static inline void
llmq_currency_text(LlmqCurrency currency, char text[LLMQ_CURRENCY_SIZE])
{
	for (int i = LLMQ_CURRENCY_SIZE - 2; i >= 0; i--)
	{
		text[i] = (currency & ((1 << LLMQ_CURRENCY_BITS) - 1)) + 'A' - 1;
		currency >>= LLMQ_CURRENCY_BITS;
	}
	text[LLMQ_CURRENCY_SIZE - 1] = '\0';
}

/* What one call costs, in the currencies that somebody counts it in. */
#define LLMQ_CURRENCIES 4

typedef struct LlmqCosts
{
	LlmqCurrency currency[LLMQ_CURRENCIES]; /* the price's first; 0: no more */
	int64		amount[LLMQ_CURRENCIES];
} LlmqCosts;

static inline bool
llmq_costs_have(const LlmqCosts *costs, LlmqCurrency currency)
{
	for (int i = 0; i < LLMQ_CURRENCIES; i++)
		if (costs->currency[i] == currency)
			return true;
	return false;
}

/* The cost in one of them; 0 when it is not among them. */
static inline int64
llmq_costs_in(const LlmqCosts *costs, LlmqCurrency currency)
{
	for (int i = 0; i < LLMQ_CURRENCIES; i++)
		if (costs->currency[i] == currency)
			return costs->amount[i];
	return 0;
}

/*
 * The number that a cost window has in place of a quota's: that of its budget, and above it the currency. Whoever
 * settles a lease has no configuration at hand.
 */
#define LLMQ_BUDGET_BITS 48

static inline int64
llmq_budget_window(int64 budget, LlmqCurrency currency)
{
	return (int64) currency << LLMQ_BUDGET_BITS | budget;
}

static inline int64
llmq_budget_of_window(int64 window)
{
	return window & ((INT64CONST(1) << LLMQ_BUDGET_BITS) - 1);
}

static inline LlmqCurrency
llmq_currency_of_window(int64 window)
{
	return (LlmqCurrency) (window >> LLMQ_BUDGET_BITS);
}

#endif							/* LLMQ_CURRENCY_H */
