/*
 * price.c
 *	  What calls cost, by the prices and exchange rates of the configuration.
 *
 * A call is priced by what was valid when it was picked. Tokens of which nothing better is known are priced as what was
 * reserved for them, at the dearest sort there may be: what an expired call may have cost. A call that was not made, or
 * that the provider refused, costs nothing.
 */
#include "postgres.h"

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
static int64
scaled(Datum number, int decimals)
{
	Datum		scale = NumericGetDatum(int64_div_fast_to_numeric(1, -decimals));

	return DatumGetInt64(DirectFunctionCall1(numeric_int8, DirectFunctionCall2(numeric_mul, number, scale)));
}

/* A price of one sort of tokens; that of another sort where it is not given. */
static int64
price_value(const LlmqRow *row, int column, int64 otherwise)
{
	return is_null(row, column) ? otherwise : scaled(value(row, column), LLMQ_MONEY_DECIMALS);
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
	rate->rate = scaled(value(row, 3), LLMQ_RATE_DECIMALS);
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
	int64		reserved;

	return llmq_price_cost(price, &known, cost) && llmq_price_worst(price, input, output, &reserved) &&
		!pg_add_s64_overflow(*cost, reserved, cost);
}

/* What a cost of a call that was picked then is in the base currency. */
void
llmq_cost_convert(const LlmqCatalog *catalog, int64 picked_at, LlmqCost *cost)
{
	int64		rate;

	cost->base_known = cost->known && rate_at(catalog, cost->currency, picked_at, &rate) &&
		llmq_money_convert(cost->amount, rate, RATE_ONE, &cost->base);
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
	llmq_cost_convert(catalog, call->picked_at, cost);
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
	*money = scaled(rounded, LLMQ_MONEY_DECIMALS);
	return true;
}
