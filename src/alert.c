/*
 * alert.c
 *	  The steps of maintenance that raise alerts and resolve them.
 *
 * A look gathers causes from live state (alert_limit.c, alert_trouble.c): what is so now. llmquota_raise_alerts() makes
 * rows of those that have none, in the transaction of maintenance, which is the only one at work; unique indexes see
 * to it besides. Listeners and the server's log are told when that commits (alert_tell.c). The windows that asked for
 * the look are settled by the look that finds everything they cause committed: the next one, if there was something.
 * What fails is found again, because live state is as it was. llmquota_resolve_alerts() asks of each row that stands
 * whether it is so still.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "alert.h"
#include "inject.h"
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

/* The last transaction of this backend that has raised something. */
static FullTransactionId raised_by = {0};

/* Adds a cause, of which nothing but its kind is said yet. The caller is in the look's context. */
LlmqAlertCause *
llmq_alert_cause(LlmqAlertLook *look, const char *kind)
{
	LlmqAlertCause *cause = palloc0(sizeof(LlmqAlertCause));

	cause->kind = kind;
	cause->watch = -1;
	cause->period_start = cause->ends_at = cause->expected_at = DT_NOEND;
	cause->used = -1;
	look->causes = lappend(look->causes, cause);
	return cause;
}

/* Have so many causes been found that the others are left to the next look? */
bool
llmq_alerts_full(LlmqAlertLook *look)
{
	if (list_length(look->causes) < MOST_CAUSES && list_length(look->watches) < MOST_CAUSES)
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

/* A figure of a limit, as SQL has it: a number, or an amount of money. */
Datum
llmq_limit_figure(int64 limit, int64 figure)
{
	return NumericGetDatum(llmq_currency_of_window(limit) == 0 ? int64_to_numeric(figure) : llmq_money_numeric(figure));
}

/* The columns that say which limit it is about. */
static void
put_limit(Datum *values, bool *nulls, int64 limit)
{
	char		currency[LLMQ_CURRENCY_SIZE];
	bool		is_budget = llmq_currency_of_window(limit) != 0;

	nulls[COL_QUOTA] = limit == 0 || is_budget;
	values[COL_QUOTA] = Int64GetDatum(limit);
	nulls[COL_BUDGET] = !is_budget;
	values[COL_BUDGET] = Int64GetDatum(llmq_budget_of_window(limit));
	llmq_currency_text(llmq_currency_of_window(limit), currency);
	llmq_put_text(values, nulls, COL_CURRENCY, is_budget ? currency : NULL);
}

static void
put_time(Datum *values, bool *nulls, int column, TimestampTz at)
{
	nulls[column] = TIMESTAMP_IS_NOEND(at);
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
	put_limit(values, nulls, cause->limit);
	nulls[COL_THRESHOLD] = cause->threshold == 0;
	values[COL_THRESHOLD] = NumericGetDatum(llmq_money_numeric(cause->threshold));
	put_time(values, nulls, COL_PERIOD_START, cause->period_start);
	put_time(values, nulls, COL_ENDS_AT, cause->ends_at);
	nulls[COL_USED] = nulls[COL_AMOUNT] = cause->used < 0;
	values[COL_USED] = llmq_limit_figure(cause->limit, cause->used);
	values[COL_AMOUNT] = llmq_limit_figure(cause->limit, cause->amount);
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

/* Notes which watches have caused something that is not committed yet. */
static void
note_unsettled(const LlmqAlertLook *look, ArrayType *watches)
{
	Datum	   *numbers;
	int			n;

	deconstruct_array(watches, INT4OID, sizeof(int32), true, TYPALIGN_INT, &numbers, NULL, &n);
	for (int i = 0; i < n; i++)
		if (DatumGetInt32(numbers[i]) >= 0)
			((LlmqAlertWatch *) list_nth(look->watches, DatumGetInt32(numbers[i])))->unsettled = true;
	if (n == 0)
		return;
	raised_by = GetTopFullTransactionId();
	/* what listeners have been told must not be forgotten by a crash, or else they would be told again */
	ForceSyncCommit();
}

/* Writes down what the look has found, where it is new. Answers how many alerts were raised. */
static int64
raise_alerts(const LlmqAlertLook *look)
{
	HeapTuple	answer;
	bool		isnull;
	int64		raised = 0;

	current_look = look;
	PG_TRY();
	{
		llmq_sql_run(psprintf("SELECT raised, unsettled FROM %s()", llmq_sql_function("llmquota_raise_alerts")),
					 SPI_OK_SELECT);
		answer = SPI_tuptable->vals[0];
		raised = DatumGetInt64(SPI_getbinval(answer, SPI_tuptable->tupdesc, 1, &isnull));
		note_unsettled(look, DatumGetArrayTypeP(SPI_getbinval(answer, SPI_tuptable->tupdesc, 2, &isnull)));
	}
	PG_FINALLY();
	{
		current_look = NULL;
	}
	PG_END_TRY();
	return raised;
}

/* Has this transaction raised anything so far? */
static bool
has_raised(void)
{
	FullTransactionId top = GetTopFullTransactionIdIfAny();

	return FullTransactionIdIsValid(top) && FullTransactionIdEquals(top, raised_by);
}

/*
 * Settles the windows that have caused nothing that is not committed: neither in this step, nor in this transaction
 * before.
 */
static void
settle_watches(LlmqAlertLook *look, bool raised_before)
{
	ListCell   *cell;

	llmq_live_open(&look->live, LLMQ_LIVE_METER + 1, RowExclusiveLock);
	foreach(cell, look->watches)
	{
		const LlmqAlertWatch *watch = lfirst(cell);

		if (watch->unsettled || (raised_before && watch->has_cause))
			llmq_alert_call_add(&look->maintenance->next->alerts, watch->meter);
		else
			llmq_alert_settle(look, watch);
	}
	llmq_live_close(&look->live);
	llmq_cell_make_durable(look->lsn);
}

/* Raises alerts for what has come up. Answers how many. */
int64
llmq_alerts_raise_step(const LlmqMaintenance *maintenance)
{
	LlmqAlertLook look = {.maintenance = maintenance,.context = CurrentMemoryContext};
	bool		raised_before = has_raised();
	int64		raised = 0;

	if (!OidIsValid(llmq_relation_oid_if_any(LLMQ_REL_ALERT)))
		return 0;				/* the SQL is of a version without */
	look.catalog = llmq_catalog();
	llmq_quotas_list(look.catalog, &look.quotas);
	llmq_live_open(&look.live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	llmq_alerts_of_limits(&look);
	llmq_alerts_of_troubles(&look);
	llmq_alerts_of_observed(&look);
	llmq_live_close(&look.live);
	if (look.causes != NIL)
		raised = raise_alerts(&look);
	LLMQ_INJECT_CRASH("alerts-raised", InvalidXLogRecPtr);
	if (look.watches != NIL)
		settle_watches(&look, raised_before);
	return raised;
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

/* Likewise an id; 0 for NULL. */
static int64
id_column(HeapTupleHeader alert, const char *column)
{
	bool		isnull;
	Datum		value = GetAttributeByName(alert, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
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
	Datum		threshold = GetAttributeByName(row, "threshold", &isnull);

	if (!isnull)
		(void) llmq_money_read(DatumGetNumeric(threshold), &alert.threshold);
	alert.quota = id_column(row, "quota");
	alert.budget = id_column(row, "budget");
	if (strcmp(alert.kind, LLMQ_ALERT_THRESHOLD) == 0 || strcmp(alert.kind, LLMQ_ALERT_FORECAST) == 0)
		PG_RETURN_BOOL(llmq_limit_alert_stands(catalog, &alert, now));
	PG_RETURN_BOOL(llmq_trouble_alert_stands(catalog, &alert, now));
}
