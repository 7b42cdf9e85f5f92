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
#include "catalog.h"
#include "lease.h"
#include "meter.h"
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

/* A walk over the meters. */
typedef struct MeterWalk
{
	ReturnSetInfo *result;
	LlmqCatalog *catalog;
	int			nquotas;
	LlmqQuota **quotas;			/* sorted by id */
	bool		budgets;		/* those are asked for, and not quotas */
	const char *subject;		/* of the meter at hand */
	TimestampTz now;
} MeterWalk;

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

		if (slot->state != LLMQ_SLOT_FREE)
			put_lease(context, &id, slot);
	}
}

/* When everything in the window is free again, if nothing else is charged; false when only calls' ends tell. */
static bool
resets_at(const LlmqWindow *window, int64 *at)
{
	if (window->kind == LLMQ_WINDOW_CONCURRENCY || window->sum == 0)
		return false;
	*at = window->kind == LLMQ_WINDOW_SLIDING ? (window->head + LLMQ_BUCKETS) * window->span :
		window->head + window->span;
	return true;
}

static int
compare_quotas(const void *a, const void *b)
{
	int64		left = (*(LlmqQuota *const *) a)->id;
	int64		right = (*(LlmqQuota *const *) b)->id;

	return left < right ? -1 : left > right ? 1 : 0;
}

/* All quotas, sorted by id, for the walk. */
static void
sort_quotas(MeterWalk *walk)
{
	int			size = 64;

	walk->nquotas = 0;
	walk->quotas = palloc(sizeof(LlmqQuota *) * size);
	for (int i = 0; i < LLMQ_SCOPE_COUNT * LLMQ_PART_COUNT; i++)
	{
		LlmqQuota  *quota = walk->catalog->quotas[i / LLMQ_PART_COUNT][i % LLMQ_PART_COUNT];

		for (; quota != NULL; quota = quota->next)
		{
			if (walk->nquotas == size)
				walk->quotas = repalloc(walk->quotas, sizeof(LlmqQuota *) * (size *= 2));
			walk->quotas[walk->nquotas++] = quota;
		}
	}
	qsort(walk->quotas, walk->nquotas, sizeof(LlmqQuota *), compare_quotas);
}

/* The quota that a window counts for, NULL when it is gone or has another window now. */
static const LlmqQuota *
quota_of(const MeterWalk *walk, const LlmqWindow *window)
{
	LlmqQuota	wanted = {.id = window->quota};
	LlmqQuota  *key = &wanted;
	LlmqQuota **found = bsearch(&key, walk->quotas, walk->nquotas, sizeof(LlmqQuota *), compare_quotas);

	return found != NULL && llmq_plan_fits(*found, window, &walk->catalog->settings) ? *found : NULL;
}

/* The window as it is at the clock: what has left it no longer counts, and a period that has ended counts nothing. */
static void
bring_to_clock(const MeterWalk *walk, LlmqWindow *window, uint32 generation)
{
	LlmqLimit	limit = {.quota = quota_of(walk, window),.subject = walk->subject};

	llmq_window_shape_of(window, &limit.shape);
	if (llmq_window_stale(&limit.shape, walk->now))
		window->sum = walk->now >= limit.shape.period.end ? 0 : window->sum;
	else if (limit.quota != NULL)
		(void) llmq_limit_advance(&limit, window, walk->now, generation);
}

/* "1 minute"; "day America/Los_Angeles"; "total"; NULL for concurrency. */
static const char *
period_text(const MeterWalk *walk, const LlmqQuota *quota, const LlmqWindow *window)
{
	if (quota->kind != LLMQ_WINDOW_CALENDAR || llmq_unit_calendar(window->unit) == LLMQ_CALENDAR_TOTAL)
		return quota->period;
	return psprintf("%s %s", quota->period,
					quota->zone != NULL ? quota->zone : llmq_catalog_zone_name(walk->catalog, window->zone));
}

static void
put_window(const MeterWalk *walk, Datum *values, bool *nulls, const LlmqWindow *window)
{
	const LlmqQuota *quota = quota_of(walk, window);
	char		currency[LLMQ_CURRENCY_SIZE];
	int64		at = 0;

	if (quota == NULL || (quota->budget != NULL) != walk->budgets)
		return;
	values[METER_QUOTA] = Int64GetDatum(quota->budget != NULL ? quota->budget->id : window->quota);
	llmq_put_text(values, nulls, METER_METRIC, llmq_metric_text(window->metric));
	llmq_put_text(values, nulls, METER_PERIOD, period_text(walk, quota, window));
	nulls[METER_PERIOD_START] = window->kind != LLMQ_WINDOW_CALENDAR;
	values[METER_PERIOD_START] = TimestampTzGetDatum(window->head);
	values[METER_USED] = Int64GetDatum(window->sum);
	nulls[METER_AMOUNT] = quota->amount == LLMQ_NO_LIMIT;
	if (quota->budget != NULL)
		llmq_currency_text(quota->budget->currency, currency);
	values[METER_AMOUNT] = NumericGetDatum(int64_to_numeric(quota->budget == NULL ? quota->amount :
															llmq_budget_amount(quota, walk->subject, walk->now)));
	llmq_put_text(values, nulls, METER_CURRENCY, quota->budget != NULL ? currency : NULL);
	values[METER_REFUSED] = Int64GetDatum(window->refused);
	values[METER_WOULD_REFUSE] = Int64GetDatum(window->would_refuse);
	nulls[METER_RESETS_AT] = !resets_at(window, &at);
	values[METER_RESETS_AT] = TimestampTzGetDatum(at);
	values[METER_SEEDING] = BoolGetDatum((window->flags & LLMQ_WINDOW_SEEDING) != 0);
	llmq_put_text(values, nulls, METER_MODE, quota->observe ? "observe" : "enforce");
	tuplestore_putvalues(walk->result->setResult, walk->result->setDesc, values, nulls);
}

/* Puts out the windows of one meter. */
static void
visit_meter(const LlmqCellHeader *state, HeapTuple tuple, void *context)
{
	const LlmqMeterState *meter = (const LlmqMeterState *) state;
	const LlmqWindow *stored;
	LlmqCellKey key;
	Datum		values[METER_NCOLUMNS];
	bool		nulls[METER_NCOLUMNS] = {false};
	char		part_kind;
	MeterWalk  *walk = context;

	llmq_cell_key(tuple, LLMQ_LIVE_METER, &key);
	part_kind = llmq_name_kind(key.part);
	llmq_put_text(values, nulls, METER_SCOPE, llmq_scope_text(key.kind));
	walk->subject = key.subject == 0 ? "" : llmq_name_text(key.subject);
	llmq_put_text(values, nulls, METER_SUBJECT, walk->subject);
	llmq_put_text(values, nulls, METER_PART_KIND, part_kind == LLMQ_NAME_MODEL ? "model" :
			 part_kind == LLMQ_NAME_FAMILY ? "family" : NULL);
	llmq_put_text(values, nulls, METER_PART, llmq_name_text(key.part));
	for (stored = llmq_meter_first(meter); stored != NULL; stored = llmq_meter_next(meter, stored))
	{
		LlmqWindow	window;

		memcpy(&window, stored, llmq_window_size(stored->kind));
		bring_to_clock(walk, &window, meter->generation);
		put_window(walk, values, nulls, &window);
	}
}

/* Walks over one live table. */
static void
walk(LlmqLiveTable table, LlmqCellVisitor visit, void *context)
{
	LlmqLive	live;

	llmq_live_open(&live, LLMQ_LIVE_COUNT, AccessShareLock);
	llmq_cell_walk(&live, table, visit, context);
	llmq_live_close(&live);
}

/* llmquota_lease_rows(): every slot that is not free. */
Datum
llmquota_lease_rows(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	(void) llmq_catalog();		/* what things are called now */
	walk(LLMQ_LIVE_LEASE, visit_lease_page, fcinfo->resultinfo);
	return (Datum) 0;
}

/* Every window of quotas, or of budgets. What this backend has refused and not yet counted is counted first. */
static void
walk_meters(ReturnSetInfo *result, bool budgets)
{
	MeterWalk	meters = {.result = result,.budgets = budgets};

	meters.catalog = llmq_catalog();
	meters.now = GetCurrentTimestamp();
	sort_quotas(&meters);
	if (!RecoveryInProgress() && !XactReadOnly)
		llmq_refusals_flush();
	walk(LLMQ_LIVE_METER, visit_meter, &meters);
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
