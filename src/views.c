/*
 * views.c
 *	  Live state as rows, for the views llmquota.lease and llmquota.meter_window.
 *
 * Each cell is copied under a share lock, one page at a time; a walk holds nothing and sees every cell at some moment
 * of its own. Works on a hot standby.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "budget.h"
#include "lease.h"
#include "meter_walk.h"
#include "name.h"
#include "pick.h"
#include "row.h"

PG_FUNCTION_INFO_V1(llmquota_lease_rows);
PG_FUNCTION_INFO_V1(llmquota_meter_rows);
PG_FUNCTION_INFO_V1(llmquota_budget_rows);

/* Columns of llmquota_lease_rows(). */
enum
{
	LEASE_UUID, LEASE_STATE, LEASE_ORG, LEASE_ROUTE, LEASE_MODEL, LEASE_PROVIDER, LEASE_ACCOUNT, LEASE_KEY,
	LEASE_SESSION, LEASE_REQUEST_ID, LEASE_RESERVED_INPUT, LEASE_RESERVED_OUTPUT, LEASE_GRANTED_AT, LEASE_EXPIRES_AT,
	LEASE_NCOLUMNS
};

/* Columns of llmquota_meter_rows(). */
enum
{
	METER_SCOPE, METER_SUBJECT, METER_PART_KIND, METER_PART, METER_QUOTA, METER_METRIC, METER_PERIOD,
	METER_PERIOD_START, METER_USED, METER_AMOUNT, METER_REFUSED, METER_WOULD_REFUSE, METER_RESETS_AT, METER_SEEDING,
	METER_MODE, METER_CURRENCY, METER_NCOLUMNS
};

/* What is put out of a walk over the meters. */
typedef struct MeterRows
{
	ReturnSetInfo *result;
	bool		budgets;		/* their windows, and not those of quotas */
} MeterRows;

static void
put_lease(ReturnSetInfo *result, const LlmqLeaseId *id, const LlmqSlot *slot)
{
	Datum		values[LEASE_NCOLUMNS];
	bool		nulls[LEASE_NCOLUMNS] = {false};
	pg_uuid_t	uuid;

	llmq_lease_uuid(id, &uuid);
	values[LEASE_UUID] = UUIDPGetDatum(&uuid);
	llmq_put_text(values, nulls, LEASE_STATE, slot->state == LLMQ_SLOT_GRANTED ? "granted" : "settled");
	llmq_put_text(values, nulls, LEASE_ORG, llmq_name_text(slot->org));
	llmq_put_text(values, nulls, LEASE_ROUTE, llmq_name_text(slot->route));
	llmq_put_text(values, nulls, LEASE_MODEL, llmq_name_text(slot->model));
	llmq_put_text(values, nulls, LEASE_PROVIDER, llmq_name_text(slot->provider));
	llmq_put_text(values, nulls, LEASE_ACCOUNT, llmq_name_text(slot->account));
	llmq_put_text(values, nulls, LEASE_KEY, llmq_name_text(slot->key));
	llmq_put_label(values, nulls, LEASE_SESSION, slot->session, slot->session_length);
	llmq_put_label(values, nulls, LEASE_REQUEST_ID, slot->request_id, slot->request_id_length);
	values[LEASE_RESERVED_INPUT] = Int32GetDatum(slot->reserved_input);
	values[LEASE_RESERVED_OUTPUT] = Int32GetDatum(slot->reserved_output);
	values[LEASE_GRANTED_AT] = TimestampTzGetDatum(slot->granted_at);
	values[LEASE_EXPIRES_AT] = TimestampTzGetDatum(slot->expires_at);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Puts out the leases of one page. */
static void
visit_lease_page(const LlmqCellHeader *state, HeapTuple tuple, void *context)
{
	const LlmqLeasePage *page = (const LlmqLeasePage *) state;

	for (int i = 0; i < LLMQ_SLOTS; i++)
	{
		const LlmqSlot *slot = &page->slot[i];
		LlmqLeaseId id = {
			.page = state->id,.slot = i,.day = llmq_lease_day(slot->granted_at),.secret = slot->secret
		};

		if (llmq_slot_has_lease(slot))
			put_lease(context, &id, slot);
	}
}

/* Puts out a window. */
static void
put_window(const LlmqMeterWalk *walk, const LlmqWindow *window, const LlmqQuota *quota)
{
	const MeterRows *rows = walk->context;
	Datum		values[METER_NCOLUMNS];
	bool		nulls[METER_NCOLUMNS] = {false};
	char		currency[LLMQ_CURRENCY_SIZE];
	int64		at = 0;

	if ((quota->budget != NULL) != rows->budgets)
		return;
	llmq_put_text(values, nulls, METER_SCOPE, llmq_scope_name(walk->scope));
	llmq_put_text(values, nulls, METER_SUBJECT, walk->subject);
	llmq_put_text(values, nulls, METER_PART_KIND, walk->part == LLMQ_PART_MODEL ? "model" :
				  walk->part == LLMQ_PART_FAMILY ? "family" : NULL);
	llmq_put_text(values, nulls, METER_PART, walk->part_name);
	values[METER_QUOTA] = Int64GetDatum(quota->budget != NULL ? quota->budget->id : window->quota);
	llmq_put_text(values, nulls, METER_METRIC, llmq_metric_text(window->metric));
	llmq_put_text(values, nulls, METER_PERIOD, llmq_meter_walk_period(walk, window, quota));
	nulls[METER_PERIOD_START] = window->kind != LLMQ_WINDOW_CALENDAR;
	values[METER_PERIOD_START] = TimestampTzGetDatum(llmq_budget_period_start(quota, window));
	values[METER_USED] = Int64GetDatum(window->sum);
	nulls[METER_AMOUNT] = quota->amount == LLMQ_NO_LIMIT;
	if (quota->budget != NULL)
		llmq_currency_text(quota->budget->currency, currency);
	values[METER_AMOUNT] = NumericGetDatum(int64_to_numeric(llmq_meter_walk_amount(walk, quota)));
	llmq_put_text(values, nulls, METER_CURRENCY, quota->budget != NULL ? currency : NULL);
	values[METER_REFUSED] = Int64GetDatum(window->refused);
	values[METER_WOULD_REFUSE] = Int64GetDatum(window->would_refuse);
	nulls[METER_RESETS_AT] = !llmq_meter_walk_resets_at(window, &at);
	values[METER_RESETS_AT] = TimestampTzGetDatum(at);
	values[METER_SEEDING] = BoolGetDatum((window->flags & LLMQ_WINDOW_SEEDING) != 0);
	llmq_put_text(values, nulls, METER_MODE, quota->observe ? "observe" : "enforce");
	tuplestore_putvalues(rows->result->setResult, rows->result->setDesc, values, nulls);
}

/* llmquota_lease_rows(): every slot that is not free. */
Datum
llmquota_lease_rows(PG_FUNCTION_ARGS)
{
	LlmqLive	live;

	InitMaterializedSRF(fcinfo, 0);
	(void) llmq_catalog();		/* what things are called now */
	llmq_live_open(&live, LLMQ_LIVE_COUNT, AccessShareLock);
	llmq_cell_walk(&live, LLMQ_LIVE_LEASE, visit_lease_page, fcinfo->resultinfo);
	llmq_live_close(&live);
	return (Datum) 0;
}

/* Every window of quotas, or of budgets. What this backend has refused and not yet counted is counted first. */
static void
walk_meters(ReturnSetInfo *result, bool budgets)
{
	MeterRows	rows = {.result = result,.budgets = budgets};
	LlmqMeterWalk walk = {.visit = put_window,.context = &rows};

	if (!RecoveryInProgress() && !XactReadOnly)
		llmq_refusals_flush();
	llmq_meter_walk(&walk);
}

/* llmquota_meter_rows() */
Datum
llmquota_meter_rows(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	walk_meters((ReturnSetInfo *) fcinfo->resultinfo, false);
	return (Datum) 0;
}

/* llmquota_budget_rows(): with a column more, the currency. */
Datum
llmquota_budget_rows(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	walk_meters((ReturnSetInfo *) fcinfo->resultinfo, true);
	return (Datum) 0;
}
