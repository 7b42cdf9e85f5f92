/*
 * exhaustion.c
 *	  Rows of the view llmquota.exhaustion: when each quota and budget will be used up, at the rate of now.
 *
 * How fast a sliding window is used it says itself (burn.c). A calendar window has one sum; so the ledger by hours is
 * asked what was used of late by the calls that the window counts: in the last hour for a window of a day, else in the
 * last day. An hour that lies in that time with a part counts with that part. Reads as the owner of the ledger, and
 * shows the windows that the calling role may see: whoever is bound to orgs, those of these orgs. Works on a hot
 * standby.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "burn.h"
#include "meter_walk.h"
#include "price.h"
#include "role.h"
#include "row.h"
#include "sql.h"

PG_FUNCTION_INFO_V1(llmquota_exhaustion_rows);

/* Columns of llmquota_exhaustion_rows(). */
enum
{
	COL_SCOPE, COL_SUBJECT, COL_MODEL, COL_FAMILY, COL_METRIC, COL_PERIOD, COL_USED, COL_AMOUNT, COL_CURRENCY, COL_RATE,
	COL_EXHAUSTED_AT, COL_RESETS_AT, COL_MODE, COL_QUOTA, COL_BUDGET, NCOLUMNS
};

/* A window that is to be shown. */
typedef struct Seen
{
	struct Seen *next;
	LlmqScope	scope;
	const char *subject;
	LlmqPart	part;
	const char *part_name;
	const char *period;
	const LlmqQuota *quota;
	int64		amount;			/* that holds now */
	LlmqWindow	window;
} Seen;

/* What counts as failed is asked apart, and what was cached. */
#define COUNTINGS 4

typedef struct Showing
{
	LlmqMeterWalk walk;
	ReturnSetInfo *result;
	MemoryContext context;		/* what a walk allocates is gone after each meter */
	Seen	   *first;
	Seen	  **last;
	SPIPlanPtr	plan[LLMQ_SCOPE_COUNT][LLMQ_PART_COUNT][LLMQ_METRIC_COST + 1][COUNTINGS];
} Showing;

/* Which calls of the ledger a scope's subject, $1, has. */
static const char *const scope_conditions[LLMQ_SCOPE_COUNT] = {
	[LLMQ_SCOPE_GLOBAL] = "$1 IS NOT NULL",
	[LLMQ_SCOPE_PROVIDER] = "h.model IN (SELECT m.model FROM llmquota.model m WHERE m.provider = $1)",
	[LLMQ_SCOPE_ACCOUNT] = "h.key IN (SELECT k.key FROM llmquota.key k WHERE k.account = $1)",
	[LLMQ_SCOPE_KEY] = "h.key = $1",
	[LLMQ_SCOPE_ORG] = "h.org = $1",
	[LLMQ_SCOPE_PARENT] = "h.org IN (WITH RECURSIVE below AS (SELECT $1 AS org, 1 AS level UNION ALL"
	" SELECT o.org, b.level + 1 FROM below b JOIN llmquota.org o ON o.parent = b.org WHERE b.level < 4)"
	" SELECT b.org FROM below b)"
};

/* ... of a part, $2. */
static const char *const part_conditions[LLMQ_PART_COUNT] = {
	[LLMQ_PART_ALL] = "$2 IS NULL",
	[LLMQ_PART_MODEL] = "h.model = $2",
	[LLMQ_PART_FAMILY] = "h.model IN (SELECT m.model FROM llmquota.model m WHERE m.family = $2)"
};

/* What they count for. */
static void
append_use(StringInfo query, LlmqMetric metric, uint8 flags)
{
	bool		has_input = metric == LLMQ_METRIC_INPUT_TOKENS || metric == LLMQ_METRIC_TOKENS;

	if (metric == LLMQ_METRIC_COST)
		appendStringInfoString(query, "h.cost_base");
	else if (metric == LLMQ_METRIC_REQUESTS)
		appendStringInfo(query, "(h.calls - h.released%s)", flags & LLMQ_WINDOW_NOT_FAILURES ? " - h.error" : "");
	else
		appendStringInfo(query, "(%s%s%s)", has_input ? "h.input_tokens" : "0",
						 has_input && (flags & LLMQ_WINDOW_NOT_CACHED) ? " - h.cached_tokens" : "",
						 metric == LLMQ_METRIC_INPUT_TOKENS ? "" : " + h.output_tokens");
}

/* The plan that asks what was used since $3 by the calls that a window counts. */
static SPIPlanPtr
prepare(Showing *showing, const Seen *seen)
{
	uint8		flags = seen->quota->window_flags;
	int			counting = (flags & LLMQ_WINDOW_NOT_CACHED ? 1 : 0) + (flags & LLMQ_WINDOW_NOT_FAILURES ? 2 : 0);
	SPIPlanPtr *plan = &showing->plan[seen->scope][seen->part][seen->quota->metric][counting];
	Oid			types[] = {TEXTOID, TEXTOID, TIMESTAMPTZOID};
	StringInfoData query;

	if (*plan != NULL)
		return *plan;
	initStringInfo(&query);
	appendStringInfoString(&query, "SELECT round(coalesce(sum(");
	append_use(&query, seen->quota->metric, flags);
	appendStringInfo(&query, " * least(1, extract(epoch FROM h.hour + interval '1 hour' - $3) / 3600)), 0), %d)"
					 " FROM llmquota.usage_hourly h WHERE h.hour > $3 - interval '1 hour' AND %s AND %s",
					 seen->quota->budget == NULL ? 0 : LLMQ_MONEY_DECIMALS, scope_conditions[seen->scope],
					 part_conditions[seen->part]);
	*plan = SPI_prepare(query.data, lengthof(types), types);
	if (*plan == NULL)
		elog(ERROR, "SPI_prepare answered %s", SPI_result_code_string(SPI_result));
	return *plan;
}

/* What the ledger has, as a window counts it: money is converted into the currency of the budget. */
static int64
counted(const Showing *showing, const Seen *seen, Datum used)
{
	LlmqCost	cost = {.known = true};

	if (seen->quota->budget == NULL)
		return DatumGetInt64(DirectFunctionCall1(numeric_int8, used));
	if (!llmq_money_read(DatumGetNumeric(used), &cost.amount))
		return PG_INT64_MAX;
	strlcpy(cost.currency, showing->walk.catalog->settings.base_currency, LLMQ_CURRENCY_SIZE);
	return llmq_cost_in(showing->walk.catalog, &cost, showing->walk.now, seen->quota->budget->currency);
}

/* How fast a calendar window is used. */
static LlmqBurn
ledger_burn(Showing *showing, const Seen *seen)
{
	bool		is_day = llmq_unit_calendar(seen->quota->unit) == LLMQ_CALENDAR_DAY;
	LlmqBurn	burn = {.time = is_day ? USECS_PER_HOUR : USECS_PER_DAY};
	char		nulls[] = {' ', seen->part_name == NULL ? 'n' : ' ', ' '};
	Datum		values[] = {
		CStringGetTextDatum(seen->subject), seen->part_name == NULL ? (Datum) 0 : CStringGetTextDatum(seen->part_name),
		TimestampTzGetDatum(showing->walk.now - burn.time)
	};
	bool		isnull;

	if (SPI_execute_plan(prepare(showing, seen), values, nulls, true, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "the ledger cannot be asked");
	burn.use = counted(showing, seen, SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return burn;
}

/* Keeps a window that is to be shown. */
static void
keep_window(const LlmqMeterWalk *walk, const LlmqWindow *window, const LlmqQuota *quota)
{
	Showing    *showing = walk->context;
	bool		of_org = walk->scope == LLMQ_SCOPE_ORG || walk->scope == LLMQ_SCOPE_PARENT;
	MemoryContext caller;
	Seen	   *seen;

	if (window->kind == LLMQ_WINDOW_CONCURRENCY || quota->amount == LLMQ_NO_LIMIT ||
		!llmq_role_may_read(walk->catalog, of_org ? walk->subject : NULL))
		return;
	caller = MemoryContextSwitchTo(showing->context);
	seen = palloc(sizeof(Seen));
	*seen = (Seen) {
		.scope = walk->scope,.subject = pstrdup(walk->subject),.part = walk->part,
		.part_name = walk->part_name == NULL ? NULL : pstrdup(walk->part_name),
		.period = llmq_meter_walk_period(walk, window, quota),.quota = quota,
		.amount = llmq_meter_walk_amount(walk, quota)
	};
	memcpy(&seen->window, window, llmq_window_size(window->kind));
	*showing->last = seen;
	showing->last = &seen->next;
	MemoryContextSwitchTo(caller);
}

/* What a window counts, as SQL has it. */
static Datum
number_datum(const LlmqQuota *quota, int64 amount)
{
	return NumericGetDatum(quota->budget == NULL ? int64_to_numeric(amount) : llmq_money_numeric(amount));
}

/* A rate for an hour. */
static Datum
hourly_datum(const LlmqQuota *quota, LlmqBurn burn)
{
	Datum		hours = DirectFunctionCall2(numeric_div, NumericGetDatum(int64_to_numeric(burn.time)),
											NumericGetDatum(int64_to_numeric(USECS_PER_HOUR)));
	Datum		rate = DirectFunctionCall2(numeric_div, number_datum(quota, burn.use), hours);

	return DirectFunctionCall2(numeric_round, rate, Int32GetDatum(quota->budget == NULL ? 3 : LLMQ_MONEY_DECIMALS));
}

static void
put_window(Showing *showing, const Seen *seen)
{
	const LlmqQuota *quota = seen->quota;
	const LlmqWindow *window = &seen->window;
	int64		now = showing->walk.now;
	LlmqBurn	burn = window->kind == LLMQ_WINDOW_SLIDING ? llmq_burn_of(window, now) : ledger_burn(showing, seen);
	int64		exhausted_at = llmq_burn_exhausted_at(window, seen->amount, burn, now);
	int64		resets_at = 0;
	char		currency[LLMQ_CURRENCY_SIZE];
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {false};

	if (quota->budget != NULL)
		llmq_currency_text(quota->budget->currency, currency);
	llmq_put_text(values, nulls, COL_SCOPE, llmq_scope_name(seen->scope));
	llmq_put_text(values, nulls, COL_SUBJECT, seen->subject);
	llmq_put_text(values, nulls, COL_MODEL, seen->part == LLMQ_PART_MODEL ? seen->part_name : NULL);
	llmq_put_text(values, nulls, COL_FAMILY, seen->part == LLMQ_PART_FAMILY ? seen->part_name : NULL);
	llmq_put_text(values, nulls, COL_METRIC, llmq_metric_text(quota->metric));
	llmq_put_text(values, nulls, COL_PERIOD, seen->period);
	values[COL_USED] = number_datum(quota, window->sum);
	values[COL_AMOUNT] = number_datum(quota, seen->amount);
	llmq_put_text(values, nulls, COL_CURRENCY, quota->budget == NULL ? NULL : currency);
	values[COL_RATE] = hourly_datum(quota, burn);
	nulls[COL_EXHAUSTED_AT] = exhausted_at == LLMQ_WHEN_NEVER || !llmq_window_begun(window);
	values[COL_EXHAUSTED_AT] = TimestampTzGetDatum(exhausted_at);
	nulls[COL_RESETS_AT] = !llmq_meter_walk_resets_at(window, &resets_at);
	values[COL_RESETS_AT] = TimestampTzGetDatum(resets_at);
	llmq_put_text(values, nulls, COL_MODE, quota->observe ? "observe" : "enforce");
	nulls[COL_QUOTA] = quota->budget != NULL;
	values[COL_QUOTA] = Int64GetDatum(quota->id);
	nulls[COL_BUDGET] = quota->budget == NULL;
	values[COL_BUDGET] = Int64GetDatum(quota->budget == NULL ? 0 : quota->budget->id);
	tuplestore_putvalues(showing->result->setResult, showing->result->setDesc, values, nulls);
}

/* llmquota_exhaustion_rows(): every window with a limit, but for calls in flight. */
Datum
llmquota_exhaustion_rows(PG_FUNCTION_ARGS)
{
	Showing    *showing = palloc0(sizeof(Showing));
	LlmqSql		sql;

	InitMaterializedSRF(fcinfo, 0);
	showing->result = (ReturnSetInfo *) fcinfo->resultinfo;
	showing->context = CurrentMemoryContext;
	showing->last = &showing->first;
	showing->walk.visit = keep_window;
	showing->walk.context = showing;
	llmq_meter_walk(&showing->walk);
	llmq_sql_begin(&sql);
	for (const Seen *seen = showing->first; seen != NULL; seen = seen->next)
	{
		CHECK_FOR_INTERRUPTS();
		put_window(showing, seen);
	}
	llmq_sql_end(&sql);
	return (Datum) 0;
}
