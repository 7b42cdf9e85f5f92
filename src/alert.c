/*
 * alert.c
 *	  The steps of maintenance that raise alerts and resolve them.
 *
 * A look gathers causes from live state (alert_limit.c, alert_trouble.c): what is so now. llmquota_raise_alerts() makes
 * rows of those that have none, in the transaction of maintenance, which is the only one at work; unique indexes see to
 * it besides. Listeners and the server's log are told when that commits (alert_tell.c). What fails is found again by the
 * next look, because live state is as it was. llmquota_resolve_alerts() asks of each row that stands whether it is so
 * still.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_collation.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "alert.h"
#include "price.h"
#include "relation.h"
#include "row.h"
#include "sql.h"

PG_FUNCTION_INFO_V1(llmquota_alert_causes);
PG_FUNCTION_INFO_V1(llmquota_alert_stands);

/* More than so many causes are left to the next look. */
#define MOST_CAUSES 1000

/* Columns of llmquota_alert_causes(). */
enum
{
	COL_WATCH, COL_KIND, COL_SCOPE, COL_SUBJECT, COL_MODEL, COL_FAMILY, COL_METRIC, COL_PERIOD, COL_QUOTA, COL_BUDGET,
	COL_THRESHOLD, COL_PERIOD_START, COL_ENDS_AT, COL_USED, COL_AMOUNT, COL_CURRENCY, COL_EXPECTED_AT, COL_MESSAGE,
	NCOLUMNS
};

/* What the step that is under way has found; NULL: none is. */
static const LlmqAlertLook *current_look = NULL;

/* Adds a cause, of which nothing but its kind is said yet. The caller is in the look's context. */
LlmqAlertCause *
llmq_alert_cause(LlmqAlertLook *look, const char *kind)
{
	LlmqAlertCause *cause = palloc0(sizeof(LlmqAlertCause));

	cause->kind = kind;
	cause->watch = -1;
	cause->period_start = DT_NOBEGIN;
	cause->ends_at = cause->expected_at = DT_NOEND;
	cause->used = -1;
	look->causes = lappend(look->causes, cause);
	return cause;
}

/* Have so many causes been found that the others are left to the next look? */
bool
llmq_alerts_full(LlmqAlertLook *look)
{
	if (list_length(look->causes) < MOST_CAUSES)
		return false;
	look->maintenance->next->work_left = true;
	return true;
}

/* An instant as the clock on the wall shows it in a zone, to the minute: 2026-11-21 15:40 Asia/Bangkok. */
char *
llmq_alert_instant(TimestampTz at, const char *zone)
{
	Datum		local = DirectFunctionCall2(timestamptz_zone, CStringGetTextDatum(zone), TimestampTzGetDatum(at));
	Datum		shown = DirectFunctionCall2Coll(timestamp_to_char, DEFAULT_COLLATION_OID, local,
												CStringGetTextDatum("YYYY-MM-DD HH24:MI"));

	return psprintf("%s %s", TextDatumGetCString(shown), zone);
}

static void
put_id(Datum *values, bool *nulls, int column, int64 id)
{
	nulls[column] = id == 0;
	values[column] = Int64GetDatum(id);
}

static void
put_time(Datum *values, bool *nulls, int column, TimestampTz at)
{
	nulls[column] = TIMESTAMP_NOT_FINITE(at);
	values[column] = TimestampTzGetDatum(at);
}

static void
put_cause(ReturnSetInfo *result, const LlmqAlertCause *cause)
{
	Datum		values[NCOLUMNS] = {0};
	bool		nulls[NCOLUMNS] = {false};

	values[COL_WATCH] = Int32GetDatum(cause->watch);
	llmq_put_text(values, nulls, COL_KIND, cause->kind);
	llmq_put_text(values, nulls, COL_SCOPE, cause->scope);
	llmq_put_text(values, nulls, COL_SUBJECT, cause->subject);
	llmq_put_text(values, nulls, COL_MODEL, cause->model);
	llmq_put_text(values, nulls, COL_FAMILY, cause->family);
	llmq_put_text(values, nulls, COL_METRIC, cause->metric);
	llmq_put_text(values, nulls, COL_PERIOD, cause->period);
	put_id(values, nulls, COL_QUOTA, cause->quota);
	put_id(values, nulls, COL_BUDGET, 0);
	nulls[COL_THRESHOLD] = cause->threshold == 0;
	values[COL_THRESHOLD] = NumericGetDatum(llmq_money_numeric(cause->threshold));
	put_time(values, nulls, COL_PERIOD_START, cause->period_start);
	put_time(values, nulls, COL_ENDS_AT, cause->ends_at);
	nulls[COL_USED] = nulls[COL_AMOUNT] = cause->used < 0;
	values[COL_USED] = NumericGetDatum(int64_to_numeric(cause->used));
	values[COL_AMOUNT] = NumericGetDatum(int64_to_numeric(cause->amount));
	nulls[COL_CURRENCY] = true;
	put_time(values, nulls, COL_EXPECTED_AT, cause->expected_at);
	llmq_put_text(values, nulls, COL_MESSAGE, cause->message);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* llmquota_alert_causes(): what the step under way has found */
Datum
llmquota_alert_causes(PG_FUNCTION_ARGS)
{
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	if (current_look != NULL)
		foreach(cell, current_look->causes)
			put_cause((ReturnSetInfo *) fcinfo->resultinfo, lfirst(cell));
	return (Datum) 0;
}

/* Writes down what the look has found, where it is new. Answers how many alerts were raised. */
static int64
raise_alerts(const LlmqAlertLook *look)
{
	bool		isnull;
	int64		raised = 0;

	current_look = look;
	PG_TRY();
	{
		llmq_sql_run(psprintf("SELECT raised, unsettled FROM %s()", llmq_sql_function("llmquota_raise_alerts")),
					 SPI_OK_SELECT);
		raised = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	}
	PG_FINALLY();
	{
		current_look = NULL;
	}
	PG_END_TRY();
	return raised;
}

/* Raises alerts for what has come up. Answers how many. */
int64
llmq_alerts_raise_step(const LlmqMaintenance *maintenance)
{
	LlmqAlertLook look = {.maintenance = maintenance,.context = CurrentMemoryContext};

	if (!OidIsValid(llmq_relation_oid_if_any(LLMQ_REL_ALERT)))
		return 0;				/* the SQL is of a version without */
	look.catalog = llmq_catalog();
	llmq_live_open(&look.live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	llmq_alerts_of_limits(&look);
	llmq_alerts_of_troubles(&look);
	llmq_alerts_of_observed(&look);
	llmq_live_close(&look.live);
	return look.causes == NIL ? 0 : raise_alerts(&look);
}

/* Resolves alerts that are over. Answers how many. */
int64
llmq_alerts_resolve_step(const LlmqMaintenance *maintenance)
{
	if (!OidIsValid(llmq_relation_oid_if_any(LLMQ_REL_ALERT)))
		return 0;
	return llmq_sql_step("llmquota_resolve_alerts", maintenance->deadline);
}

/* A column of an alert, as text; NULL for NULL. */
static char *
text_column(HeapTupleHeader alert, const char *column)
{
	bool		isnull;
	Datum		value = GetAttributeByName(alert, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/* llmquota_alert_stands(alert) -> is what it was raised for so still? */
Datum
llmquota_alert_stands(PG_FUNCTION_ARGS)
{
	HeapTupleHeader row = PG_GETARG_HEAPTUPLEHEADER(0);
	LlmqCatalog *catalog = llmq_catalog();
	LlmqStanding alert = {
		.kind = text_column(row, "kind"),.scope = text_column(row, "scope"),.subject = text_column(row, "subject"),
		.model = text_column(row, "model"),.family = text_column(row, "family")
	};
	TimestampTz now = GetCurrentTimestamp();
	bool		isnull;
	Datum		value = GetAttributeByName(row, "quota", &isnull);

	if (!isnull)
		alert.quota = DatumGetInt64(value);
	value = GetAttributeByName(row, "threshold", &isnull);
	if (!isnull)
		(void) llmq_money_read(DatumGetNumeric(value), &alert.threshold);
	if (strcmp(alert.kind, LLMQ_ALERT_THRESHOLD) == 0 || strcmp(alert.kind, LLMQ_ALERT_FORECAST) == 0)
		PG_RETURN_BOOL(llmq_limit_alert_stands(catalog, &alert, now));
	PG_RETURN_BOOL(llmq_trouble_alert_stands(catalog, &alert, now));
}
