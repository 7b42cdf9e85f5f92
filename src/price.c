/*
 * price.c
 *	  What calls cost, by the prices and exchange rates of the configuration.
 *
 * A call is priced by what was valid when it was picked. Tokens of which nothing better is known are priced as what was
 * reserved for them, at the dearest sort there may be: what an expired call may have cost. A call that was not made, or
 * that the provider refused, costs nothing.
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "catalog_row.h"
#include "price.h"

/* The base currency's own rate. */
#define RATE_ONE INT64CONST(1000000000000)

/* Puts something into its place in a list. */
static void
insert_dated(LlmqDated **list, LlmqDated *item)
{
	while (*list != NULL && (*list)->valid_from > item->valid_from)
		list = &(*list)->next;
	item->next = *list;
	*list = item;
}

/* What was valid at some time, and what was before; NULL: nothing was. */
static LlmqDated *
dated_at(LlmqDated *list, int64 at)
{
	while (list != NULL && list->valid_from > at)
		list = list->next;
	return list;
}

/* A number as an integer of that many decimals. Rows were checked when they were written. */
int64
llmq_scaled(Datum number, int decimals)
{
	Datum		scale = NumericGetDatum(int64_div_fast_to_numeric(1, -decimals));

	return DatumGetInt64(DirectFunctionCall1(numeric_int8, DirectFunctionCall2(numeric_mul, number, scale)));
}

/* A price of one sort of tokens; that of another sort where it is not given. */
static int64
price_value(const LlmqRow *row, int column, int64 otherwise)
{
	return is_null(row, column) ? otherwise : llmq_scaled(value(row, column), LLMQ_MONEY_DECIMALS);
}

static void
read_price(LlmqRow *row)
{
	LlmqModel  *model = llmq_names_find(row->catalog->models, text_value(row, 1));
	LlmqTariff *tariff = llmq_catalog_keep(row->catalog, sizeof(LlmqTariff));

	if (model == NULL)
		return;
	tariff->dated.valid_from = DatumGetTimestampTz(value(row, 2));
	tariff->price.input = price_value(row, 3, 0);
	tariff->price.output = price_value(row, 4, 0);
	tariff->price.cached = price_value(row, 5, tariff->price.input);
	tariff->price.cache_write = price_value(row, 6, tariff->price.input);
	tariff->price.reasoning = price_value(row, 7, tariff->price.output);
	strlcpy(tariff->currency, text_value(row, 8), LLMQ_CURRENCY_SIZE);
	insert_dated(&model->tariffs, &tariff->dated);
}

static void
read_rate(LlmqRow *row)
{
	LlmqExchangeRate *rate = llmq_catalog_keep(row->catalog, sizeof(LlmqExchangeRate));

	strlcpy(rate->currency, text_value(row, 1), LLMQ_CURRENCY_SIZE);
	rate->dated.valid_from = DatumGetTimestampTz(value(row, 2));
	rate->rate = llmq_scaled(value(row, 3), LLMQ_RATE_DECIMALS);
	insert_dated(&row->catalog->rates, &rate->dated);
}

/* Reads prices and rates, when all models are there. */
void
llmq_prices_load(LlmqCatalog *catalog, Snapshot snapshot)
{
	if (!OidIsValid(llmq_relation_oid_if_any(LLMQ_REL_PRICE)))
		return;
	llmq_catalog_read(catalog, LLMQ_REL_PRICE, snapshot, read_price);
	llmq_catalog_read(catalog, LLMQ_REL_EXCHANGE_RATE, snapshot, read_rate);
}

/* Had the model a price at some time? */
bool
llmq_model_is_priced(const LlmqModel *model, int64 at)
{
	return dated_at(model->tariffs, at) != NULL;
}

/* What a currency was worth at some time. False when nobody has said. */
static bool
rate_at(const LlmqCatalog *catalog, const char *currency, int64 at, int64 *rate)
{
	*rate = RATE_ONE;
	if (strcmp(currency, catalog->settings.base_currency) == 0)
		return true;
	for (LlmqDated *dated = dated_at(catalog->rates, at); dated != NULL; dated = dated->next)
	{
		const LlmqExchangeRate *known = (const LlmqExchangeRate *) dated;

		if (strcmp(known->currency, currency) == 0)
		{
			*rate = known->rate;
			return true;
		}
	}
	return false;
}

/* Had somebody said at some time what one currency is in another? */
bool
llmq_rates_are_known(const LlmqCatalog *catalog, const char *from, const char *to, int64 at)
{
	int64		rate;

	return rate_at(catalog, from, at, &rate) && rate_at(catalog, to, at, &rate);
}

/* The cost of the tokens, as far as they are known, and of what was reserved for the others. */
static bool
token_cost(const LlmqPricedCall *call, const LlmqPrice *price, int64 *cost)
{
	const LlmqSettlement *settlement = call->settlement;
	bool		refused = settlement->outcome == LLMQ_OUTCOME_ERROR && settlement->answered;
	LlmqTokens	known = {
		.input = Max(settlement->input, 0),.cached = Max(settlement->cached, 0),
		.cache_write = Max(settlement->cache_write, 0),.output = Max(settlement->output, 0),
		.reasoning = Max(settlement->reasoning, 0)
	};
	int64		input = settlement->input == LLMQ_NO_TOKENS && !refused ? call->reserved_input : 0;
	int64		output = settlement->output == LLMQ_NO_TOKENS && !refused ? call->reserved_output : 0;

	if (input == 0 && output == 0)
		return llmq_price_cost(price, &known, cost);
	return llmq_price_at_most(price, &known, input, output, cost);
}

/* What a call cost; an amount that has no place in 64 bits is as one that nobody knows. */
void
llmq_cost_of(const LlmqCatalog *catalog, const LlmqPricedCall *call, LlmqCost *cost)
{
	const LlmqModel *model = call->model == NULL ? NULL : llmq_catalog_model(catalog, call->model);
	const LlmqTariff *tariff = model == NULL ? NULL : (const LlmqTariff *) dated_at(model->tariffs, call->picked_at);

	memset(cost, 0, sizeof(LlmqCost));
	strlcpy(cost->currency, tariff == NULL ? catalog->settings.base_currency : tariff->currency, LLMQ_CURRENCY_SIZE);
	if (call->cost_given)
	{
		cost->known = true;
		cost->amount = call->cost;
	}
	else if (tariff != NULL && call->settlement->outcome == LLMQ_OUTCOME_RELEASED)
		cost->known = true;
	else if (tariff != NULL)
		cost->known = token_cost(call, &tariff->price, &cost->amount);
	llmq_cost_in_base(catalog, cost, call->picked_at);
}

/* Says what a cost is in the base currency, by the rate of that time. */
void
llmq_cost_in_base(const LlmqCatalog *catalog, LlmqCost *cost, int64 at)
{
	int64		rate;

	cost->base_known = cost->known && rate_at(catalog, cost->currency, at, &rate) &&
		llmq_money_convert(cost->amount, rate, RATE_ONE, &cost->base);
}

/* A cost in one currency, by the rates of that time; 0 where it is not known. */
int64
llmq_cost_in(const LlmqCatalog *catalog, const LlmqCost *cost, int64 at, LlmqCurrency currency)
{
	LlmqCosts	costs = {.currency = {currency}};

	if (cost->known)
		(void) llmq_costs_convert(catalog, cost, at, &costs);
	return costs.amount[0];
}

/* What a call of the model may cost at most, by the price of that time. False when it has none. */
bool
llmq_cost_reserve(const LlmqCatalog *catalog, const LlmqModel *model, const LlmqUse *use, int64 at, LlmqCost *cost)
{
	const LlmqTariff *tariff = (const LlmqTariff *) dated_at(model->tariffs, at);

	memset(cost, 0, sizeof(LlmqCost));
	strlcpy(cost->currency, tariff == NULL ? catalog->settings.base_currency : tariff->currency, LLMQ_CURRENCY_SIZE);
	cost->known = tariff != NULL && llmq_price_worst(&tariff->price, use->input, use->output, &cost->amount);
	return cost->known;
}

/* When the first of a list is valid that was not at some time. */
static int64
next_in(const LlmqDated *list, int64 after)
{
	int64		next = PG_INT64_MAX;

	for (; list != NULL && list->valid_from > after; list = list->next)
		next = list->valid_from;
	return next;
}

/* When calls of the model next come to cost something else, in whatever currency. */
int64
llmq_costs_change_at(const LlmqCatalog *catalog, const LlmqModel *model, int64 after)
{
	return Min(next_in(model->tariffs, after), next_in(catalog->rates, after));
}

/* Has costs counted in one more currency. False when there are too many. */
bool
llmq_costs_want(LlmqCosts *costs, LlmqCurrency currency)
{
	for (int i = 0; i < LLMQ_CURRENCIES; i++)
	{
		if (costs->currency[i] == currency)
			return true;
		if (costs->currency[i] == 0)
		{
			costs->currency[i] = currency;
			return true;
		}
	}
	return false;
}

/*
 * Says what a cost is in each of the currencies, by the rates of that time. False where there is none, or no place for
 * the amount in 64 bits: there the amount stays.
 */
bool
llmq_costs_convert(const LlmqCatalog *catalog, const LlmqCost *cost, int64 at, LlmqCosts *costs)
{
	LlmqCurrency currency = llmq_currency(cost->currency);
	int64		from;
	int64		to;
	bool		all = true;

	for (int i = 0; i < LLMQ_CURRENCIES && costs->currency[i] != 0; i++)
	{
		char		text[LLMQ_CURRENCY_SIZE];

		if (costs->currency[i] == currency)
		{
			costs->amount[i] = cost->amount;
			continue;
		}
		llmq_currency_text(costs->currency[i], text);
		all &= rate_at(catalog, cost->currency, at, &from) && rate_at(catalog, text, at, &to) &&
			llmq_money_convert(cost->amount, from, to, &costs->amount[i]);
	}
	return all;
}

/* An amount as SQL has it. */
Numeric
llmq_money_numeric(int64 money)
{
	return int64_div_fast_to_numeric(money, LLMQ_MONEY_DECIMALS);
}

/* An amount that somebody gave. False when it has more decimals than count, or no place in 64 bits. */
bool
llmq_money_read(Numeric amount, int64 *money)
{
	Datum		most = NumericGetDatum(llmq_money_numeric(PG_INT64_MAX));
	Datum		rounded;

	if (numeric_is_nan(amount) || numeric_is_inf(amount))
		return false;
	rounded = DirectFunctionCall2(numeric_round, NumericGetDatum(amount), Int32GetDatum(LLMQ_MONEY_DECIMALS));
	if (!DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(amount), rounded)) ||
		!DatumGetBool(DirectFunctionCall2(numeric_le, DirectFunctionCall1(numeric_abs, rounded), most)))
		return false;
	*money = llmq_scaled(rounded, LLMQ_MONEY_DECIMALS);
	return true;
}
