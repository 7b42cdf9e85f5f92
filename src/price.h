/*
 * price.h
 *	  What calls cost, by the prices and exchange rates of the configuration.
 */
#ifndef LLMQ_PRICE_H
#define LLMQ_PRICE_H

#include "utils/numeric.h"
#include "utils/snapshot.h"

#include "lease.h"
#include "money.h"

/* Something that is valid from some time on, in a list, the latest first. */
typedef struct LlmqDated
{
	struct LlmqDated *next;
	int64		valid_from;
} LlmqDated;

/* What a model's tokens cost. */
typedef struct LlmqTariff
{
	LlmqDated	dated;
	LlmqPrice	price;
	char		currency[LLMQ_CURRENCY_SIZE];
} LlmqTariff;

/* What a currency is worth, in the base currency. */
typedef struct LlmqExchangeRate
{
	LlmqDated	dated;
	int64		rate;
	char		currency[LLMQ_CURRENCY_SIZE];
} LlmqExchangeRate;

/* The cost of a call. */
typedef struct LlmqCost
{
	bool		known;			/* so are amount and currency */
	bool		base_known;
	int64		amount;
	int64		base;			/* the same in the base currency */
	char		currency[LLMQ_CURRENCY_SIZE];
} LlmqCost;

/* A call whose cost is asked for. */
typedef struct LlmqPricedCall
{
	const char *model;			/* NULL: not known */
	int64		picked_at;
	int32		reserved_input;
	int32		reserved_output;
	const LlmqSettlement *settlement;
	bool		cost_given;
	int64		cost;			/* as recorded */
} LlmqPricedCall;

extern void llmq_prices_load(LlmqCatalog *catalog, Snapshot snapshot);
extern bool llmq_model_is_priced(const LlmqModel *model, int64 at);
extern bool llmq_rates_are_known(const LlmqCatalog *catalog, const char *from, const char *to, int64 at);
extern int64 llmq_costs_change_at(const LlmqCatalog *catalog, const LlmqModel *model, int64 after);
extern bool llmq_costs_want(LlmqCosts *costs, LlmqCurrency currency);
extern bool llmq_costs_convert(const LlmqCatalog *catalog, const LlmqCost *cost, int64 at, LlmqCosts *costs);
extern bool llmq_cost_reserve(const LlmqCatalog *catalog, const LlmqModel *model, const LlmqUse *use, int64 at,
							  LlmqCost *cost);
extern int64 llmq_cost_in(const LlmqCatalog *catalog, const LlmqCost *cost, int64 at, LlmqCurrency currency);
extern void llmq_cost_in_base(const LlmqCatalog *catalog, LlmqCost *cost, int64 at);
extern void llmq_cost_of(const LlmqCatalog *catalog, const LlmqPricedCall *call, LlmqCost *cost);
extern int64 llmq_scaled(Datum number, int decimals);
extern Numeric llmq_money_numeric(int64 money);
extern bool llmq_money_read(Numeric amount, int64 *money);

#endif							/* LLMQ_PRICE_H */
