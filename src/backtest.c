/*
 * backtest.c
 *	  llmquota_backtest: what a proposed quota or budget would have refused, or answered with a cheaper model.
 *
 * One pass over the ledger, as of one snapshot, with no lock but those that keep DDL from a partition while it is
 * read. A partition's rows are in no order, so those of each day that the rule is about are sorted by when they were
 * picked, in work_mem and beyond it on disk; then the day is replayed (replay.c), and the windows go on into the next.
 * Names are brought to those of now. Calls of a window's length before the time that is asked about are read, too: a
 * limit that is new knows of them, and they are all let through.
 */
#include "postgres.h"

#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplesort.h"

#include "args.h"
#include "compat.h"
#include "price.h"
#include "replay.h"
#include "rule.h"

PG_FUNCTION_INFO_V1(llmquota_backtest);

/* Leases that are in flight when the time begins: of how long ago (a lease that is not renewed lives no longer). */
#define LONGEST_CALL USECS_PER_DAY

typedef struct Backtest
{
	LlmqReplay	replay;
	LlmqLedgerNames names;
	LlmqLedgerScan scan;
	TupleDesc	sorted;			/* by its first column */
	Tuplesortstate *sort;		/* of the day that is being read */
	TupleTableSlot *put;
	TupleTableSlot *get;
} Backtest;

/* Adds a call to those that are sorted. */
static void
put_call(Backtest *backtest, const LlmqReplayCall *call)
{
	struct
	{
		int32		length;
		char		call[sizeof(LlmqReplayCall)];
	}			stored;

	SET_VARSIZE(&stored, sizeof(stored));
	memcpy(stored.call, call, sizeof(LlmqReplayCall));
	ExecClearTuple(backtest->put);
	backtest->put->tts_values[0] = Int64GetDatum(call->picked_at);
	backtest->put->tts_values[1] = PointerGetDatum(&stored);
	backtest->put->tts_isnull[0] = backtest->put->tts_isnull[1] = false;
	ExecStoreVirtualTuple(backtest->put);
	tuplesort_puttupleslot(backtest->sort, backtest->put);
}

/* What was reserved: where the ledger does not say it, as much as was used. */
static int32
reserved_or_used(int32 reserved, int32 used)
{
	return reserved != LLMQ_NO_TOKENS ? reserved : Max(used, 0);
}

/* Sorts a row in, if the rule is about it. */
static void
visit_row(const LlmqUsageRow *row, void *context)
{
	Backtest   *backtest = context;
	const LlmqQuota *rule = backtest->replay.rule;
	const LlmqSettlement *settlement = &row->settlement;
	LlmqReplayCall call = {
		.picked_at = row->picked_at,.recorded_at = row->recorded_at,.settlement = *settlement,
		.reserved_input = reserved_or_used(row->reserved_input, settlement->input),
		.reserved_output = reserved_or_used(row->reserved_output, settlement->output),.cost_given = row->cost_given
	};

	CHECK_FOR_INTERRUPTS();
	if (rule->budget != NULL && row->cost.known)
	{
		LlmqCosts	costs = {.currency = {rule->budget->currency}};

		call.cost_known = llmq_costs_convert(backtest->replay.catalog, &row->cost, row->picked_at, &costs);
		call.cost = costs.amount[0];
	}
	if (llmq_replay_names(&backtest->replay, row, &call))
		put_call(backtest, &call);
}

/* Reads the next day. False when there is none left. */
static bool
read_day(Backtest *backtest)
{
	AttrNumber	column = 1;
	Oid			operator = Int8LessOperator;
	Oid			collation = InvalidOid;
	bool		nulls_first = false;

	backtest->sort = tuplesort_begin_heap(backtest->sorted, 1, &column, &operator, &collation, &nulls_first, work_mem,
										  NULL, TUPLESORT_NONE);
	if (llmq_ledger_scan_forward(&backtest->scan))
		return true;
	tuplesort_end(backtest->sort);
	return false;
}

/* Replays the calls of a day, in the order of their picks. */
static void
replay_day(Backtest *backtest)
{
	tuplesort_performsort(backtest->sort);
	while (tuplesort_gettupleslot(backtest->sort, true, false, backtest->get, NULL))
	{
		LlmqReplayCall call;

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(backtest->get);
		memcpy(&call, VARDATA_ANY(DatumGetPointer(backtest->get->tts_values[1])), sizeof(LlmqReplayCall));
		llmq_replay_call(&backtest->replay, &call);
	}
	ExecClearTuple(backtest->get);
	tuplesort_end(backtest->sort);
}

/* Since when calls may be in a window that is asked about. */
static TimestampTz
read_from(const LlmqCatalog *catalog, const LlmqQuota *rule, TimestampTz since)
{
	static const int days[] = {
		[LLMQ_CALENDAR_DAY] = 2,[LLMQ_CALENDAR_WEEK] = 8,[LLMQ_CALENDAR_MONTH] = 32,[LLMQ_CALENDAR_QUARTER] = 93,
		[LLMQ_CALENDAR_YEAR] = 367
	};
	LlmqCalendarUnit calendar = llmq_unit_calendar(rule->unit);
	int64		length = LONGEST_CALL;

	if (rule->kind == LLMQ_WINDOW_SLIDING)
		length = llmq_window_span(rule->length, catalog->settings.arrival_slack) * LLMQ_BUCKETS;
	else if (rule->kind == LLMQ_WINDOW_CALENDAR && calendar == LLMQ_CALENDAR_TOTAL)
		return Min(since, rule->budget->starts_at);
	else if (rule->kind == LLMQ_WINDOW_CALENDAR)
		length = days[calendar] * USECS_PER_DAY;
	return since < MIN_TIMESTAMP + length ? DT_NOBEGIN : since - length;
}

static TimestampTz
arg_time(FunctionCallInfo fcinfo, int number, TimestampTz otherwise)
{
	return llmq_arg_given(fcinfo, number) ? PG_GETARG_TIMESTAMPTZ(number) : otherwise;
}

/* Says what is asked for of the ledger's rows. */
static void
prepare_scan(Backtest *backtest, TimestampTz since, TimestampTz until)
{
	const LlmqReplay *replay = &backtest->replay;
	LlmqScope	scope = replay->rule->scope;

	llmq_ledger_names_init(&backtest->names);
	backtest->names.all = true;
	backtest->names.wanted[LLMQ_NAMED_ORG] = true;
	backtest->names.wanted[LLMQ_NAMED_MODEL] = true;
	backtest->names.wanted[LLMQ_NAMED_PROVIDER] = scope == LLMQ_SCOPE_ACCOUNT || scope == LLMQ_SCOPE_KEY;
	backtest->names.wanted[llmq_replay_named(replay)] = true;
	backtest->scan = (LlmqLedgerScan) {
		.names = &backtest->names,.whole = true,.with_cost = replay->rule->budget != NULL,
		.from = read_from(replay->catalog, replay->rule, since),.to = until,.snapshot = GetActiveSnapshot(),
		.visit = visit_row,.context = backtest
	};
	backtest->sorted = CreateTemplateTupleDesc(2);
	TupleDescInitEntry(backtest->sorted, 1, "picked_at", INT8OID, -1, 0);
	TupleDescInitEntry(backtest->sorted, 2, "call", BYTEAOID, -1, 0);
	backtest->put = MakeSingleTupleTableSlot(backtest->sorted, &TTSOpsVirtual);
	backtest->get = MakeSingleTupleTableSlot(backtest->sorted, &TTSOpsMinimalTuple);
}

static void
warn_of_unpriced(int64 calls)
{
	if (calls > 0)
		ereport(WARNING,
				(errmsg("calls of no known cost in the budget's currency were taken to be free: " INT64_FORMAT,
						calls),
				 errhint("Insert prices into llmquota.price, and exchange rates into llmquota.exchange_rate.")));
}

/* llmquota_backtest(rule, since, until): see the comment of the function in SQL */
Datum
llmquota_backtest(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	MemoryContext caller;
	Backtest	backtest = {0};
	LlmqReplay *replay = &backtest.replay;
	TimestampTz since = arg_time(fcinfo, 1, DT_NOBEGIN);
	TimestampTz until = arg_time(fcinfo, 2, DT_NOEND);

	if (!llmq_arg_given(fcinfo, 0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("rule must not be NULL"),
				 errhint("Pass a quota or a budget, as jsonb.")));
	InitMaterializedSRF(fcinfo, 0);
	context = AllocSetContextCreate(CurrentMemoryContext, "llmquota backtest", ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	PushActiveSnapshot(GetLatestSnapshot());
	replay->catalog = llmq_catalog_of_own(context);
	replay->rule = llmq_rule_propose(replay->catalog, PG_GETARG_JSONB_P(0));
	replay->since = since;
	llmq_replay_begin(replay, context, (ReturnSetInfo *) fcinfo->resultinfo);
	prepare_scan(&backtest, since, until);
	llmq_ledger_scan_begin(&backtest.scan);
	while (read_day(&backtest))
		replay_day(&backtest);
	llmq_replay_report_end(&replay->report);
	PopActiveSnapshot();
	MemoryContextSwitchTo(caller);
	warn_of_unpriced(replay->unpriced);
	MemoryContextDelete(context);
	return (Datum) 0;
}
