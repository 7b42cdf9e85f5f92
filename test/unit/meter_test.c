/*
 * meter_test.c
 *	  The meter of a subject by a clock that the test sets, for test/sql/budget_period.sql. Needs the library llmquota to
 *	  be loaded.
 *
 * What limits the subject is what the configuration says; what it has used is in memory here, from meter_begin() on.
 *
 *	module:
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "meter.h"
#include "price.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(meter_begin);
PG_FUNCTION_INFO_V1(meter_pick);
PG_FUNCTION_INFO_V1(meter_correct);
PG_FUNCTION_INFO_V1(meter_idle);
PG_FUNCTION_INFO_V1(meter_recount);

/* The meter, and a copy to ask. */
static union
{
	LlmqMeterState state;
	char		bytes[LLMQ_MAX_STATE];
}			meter_now, meter_copy;

/* meter_begin(): has used nothing */
Datum
meter_begin(PG_FUNCTION_ARGS)
{
	memset(&meter_now, 0, sizeof(meter_now));
	meter_now.state.room = LLMQ_METER_MOST_BYTES;
	PG_RETURN_VOID();
}

/* The meter that the first two arguments, scope and subject, name. */
static LlmqMeter *
meter_argument(FunctionCallInfo fcinfo)
{
	LlmqCatalog *catalog = llmq_catalog();
	char	   *scope_name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	LlmqSubject *subject;
	LlmqMeter  *meter = NULL;
	LlmqScope	scope = LLMQ_SCOPE_GLOBAL;

	while (scope < LLMQ_SCOPE_PARENT && strcmp(llmq_scope_name(scope), scope_name) != 0)
		scope++;
	subject = llmq_catalog_subject(catalog, scope, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	if (subject != NULL)
		meter = llmq_plan_meter(catalog, subject, LLMQ_PART_ALL, NULL);
	if (meter == NULL || meter->limit[0].quota->budget == NULL)
		elog(ERROR, "no budget limits that");
	return meter;
}

/* An argument as a cost. */
static int64
cost_argument(FunctionCallInfo fcinfo, int number)
{
	return llmq_scaled(PG_GETARG_DATUM(number), LLMQ_MONEY_DECIMALS);
}

static Datum
answer(FunctionCallInfo fcinfo, const LlmqMeter *meter, const LlmqVerdict *verdict, TimestampTz at)
{
	Datum		values[5];
	bool		nulls[5] = {false};
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = BoolGetDatum(verdict->admitted);
	values[1] = NumericGetDatum(llmq_money_numeric(meter->limit[0].seen));
	values[2] = NumericGetDatum(llmq_money_numeric(llmq_limit_amount(&meter->limit[0], at)));
	values[3] = Int32GetDatum(llmq_limit_steps(&meter->limit[0], at));
	nulls[4] = verdict->admitted || verdict->when == LLMQ_WHEN_NEVER;
	values[4] = TimestampTzGetDatum(verdict->when);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/*
 * meter_pick(scope, subject, at timestamptz, cost numeric)
 *	   -> admitted, used and amount of the first budget, its steps reached, retry_at
 *
 * What is admitted is charged.
 */
Datum
meter_pick(PG_FUNCTION_ARGS)
{
	LlmqMeter  *meter = meter_argument(fcinfo);
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(2);
	LlmqDemand	demand = {.use = {.request = true,.in_flight = true}};
	LlmqVerdict verdict;

	demand.use.costs.currency[0] = meter->limit[0].quota->budget->currency;
	demand.use.costs.amount[0] = cost_argument(fcinfo, 3);
	llmq_plan_refresh(meter, at);
	llmq_verdict_init(&verdict);
	meter_copy = meter_now;
	llmq_meter_check(meter, &meter_copy.state, &demand, at, &verdict);
	if (verdict.admitted)
		(void) llmq_meter_charge(meter, &meter_now.state, &demand, at);
	return answer(fcinfo, meter, &verdict, at);
}

/* meter_correct(scope, subject, picked_at timestamptz, at timestamptz, reserved numeric, used numeric) */
Datum
meter_correct(PG_FUNCTION_ARGS)
{
	LlmqMeter  *meter = meter_argument(fcinfo);
	LlmqCorrection correction = {
		.from = {.request = true,.in_flight = true},.to = {.request = true},
		.picked_at = PG_GETARG_TIMESTAMPTZ(2),.now = PG_GETARG_TIMESTAMPTZ(3),.generation = meter_now.state.generation
	};

	correction.from.costs.currency[0] = meter->limit[0].quota->budget->currency;
	correction.to.costs = correction.from.costs;
	correction.from.costs.amount[0] = cost_argument(fcinfo, 4);
	correction.to.costs.amount[0] = cost_argument(fcinfo, 5);
	llmq_meter_correct(&meter_now.state, &correction);
	PG_RETURN_VOID();
}

/* meter_idle(before timestamptz): may it be retired that has not been used since? */
Datum
meter_idle(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(llmq_meter_idle(&meter_now.state, PG_GETARG_TIMESTAMPTZ(0)));
}

/* meter_recount(used numeric): what its first window holds when leases and ledger show so much; NULL: they do not show all */
Datum
meter_recount(PG_FUNCTION_ARGS)
{
	LlmqWindow *window = llmq_meter_first(&meter_now.state);
	int64		sums[LLMQ_BUCKETS] = {cost_argument(fcinfo, 0)};

	meter_copy = meter_now;
	if (!llmq_window_recount(window, llmq_meter_first(&meter_copy.state), 0, sums))
		PG_RETURN_NULL();
	PG_RETURN_NUMERIC(llmq_money_numeric(window->sum));
}
