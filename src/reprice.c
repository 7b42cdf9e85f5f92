/*
 * reprice.c
 *	  llmquota_reprice: after a wrong price or exchange rate, what the calls of the ledger cost is computed anew.
 *
 * All in the caller's transaction, and beside calls that go on. Rows are read as they are now, whatever the isolation
 * level; one that says something else than what would be recorded of its call now is locked, computed once more from
 * its last version, and changed in its partition with all that belongs to a change: constraints, indexes, and the
 * triggers that llmquota.usage_hourly is kept by. So whoever records a late figure of such a call waits for the end of
 * the transaction, and nobody else does.
 *
 * Calls are priced by the configuration that is found once their partition is locked. Who had it locked before this
 * began, and has not ended, may have found the one of before: it is waited for, without keeping anybody out. So no row
 * that was priced before a price was committed escapes.
 *
 * Budgets follow with the next maintenance (recount.c).
 *
 * What is left alone: the cost that the application has told, which only is converted anew; calls of models that are no
 * longer configured; and rows that no call can have written.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "cell.h"
#include "compat.h"
#include "ledger.h"
#include "relation.h"
#include "reprice.h"
#include "seed.h"

PG_FUNCTION_INFO_V1(llmquota_reprice);

/* Triggers are told of so many rows at once. */
#define ROWS_AT_ONCE 1000

/* Columns that are read, and of these the ones that are written, in the order in which they are looked up. */
enum
{
	READ_PICKED_AT, READ_RECORDED_AT, READ_STATUS, READ_HTTP_STATUS, READ_RESERVED_INPUT, READ_RESERVED_OUTPUT,
	READ_INPUT, READ_OUTPUT, READ_CACHED, READ_CACHE_WRITE, READ_REASONING, READ_ORG, READ_MODEL, READ_KEY,
	READ_COST_GIVEN, READ_COST, READ_CURRENCY, READ_COST_BASE, NREAD
};

static const char *const read_columns[NREAD] = {
	"picked_at", "recorded_at", "status", "http_status", "reserved_input", "reserved_output", "input_tokens",
	"output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "org", "model", "key", "cost_given",
	"cost", "currency", "cost_base"
};

/* One call of llmquota_reprice(). */
typedef struct Repricing
{
	TimestampTz since;
	TimestampTz until;
	LlmqCatalog *catalog;
	LlmqLedgerNames names;
	LlmqDifferences differences;
	Snapshot	snapshot;
	MemoryContext row_context;
	List	   *leaves;			/* Relations, locked */
} Repricing;

/* A partition whose rows are being changed. */
typedef struct Leaf
{
	Repricing  *repricing;
	Relation	rel;
	AttrNumber	column[NREAD];
	EState	   *estate;
	ResultRelInfo *target;
	EPQState	epq;
	TupleTableSlot *locked;		/* a row as it is now */
	TupleTableSlot *changed;	/* as it will be */
	int			pending;		/* changes that triggers have not been told of */
} Leaf;

static Datum
column(const Leaf *leaf, TupleTableSlot *row, int number, bool *isnull)
{
	return slot_getattr(row, leaf->column[number], isnull);
}

static int64
number8(const Leaf *leaf, TupleTableSlot *row, int number, int64 otherwise)
{
	bool		isnull;
	Datum		value = column(leaf, row, number, &isnull);

	return isnull ? otherwise : DatumGetInt64(value);
}

static int32
number4(const Leaf *leaf, TupleTableSlot *row, int number)
{
	bool		isnull;
	Datum		value = column(leaf, row, number, &isnull);

	return isnull ? 0 : DatumGetInt32(value);
}

/* A text, empty for NULL. */
static const char *
text_of(const Leaf *leaf, TupleTableSlot *row, int number)
{
	bool		isnull;
	Datum		value = column(leaf, row, number, &isnull);

	return isnull ? "" : TextDatumGetCString(value);
}

static Numeric
number_of(const Leaf *leaf, TupleTableSlot *row, int number)
{
	bool		isnull;
	Datum		value = column(leaf, row, number, &isnull);

	return isnull ? NULL : DatumGetNumeric(value);
}

/* A name; NULL for NULL, and for what no name can be. */
static LlmqLedgerName *
name_of(const Leaf *leaf, TupleTableSlot *row, LlmqNamed kind, int number)
{
	bool		isnull;
	Datum		value = column(leaf, row, number, &isnull);
	text	   *name;

	if (isnull)
		return NULL;
	name = DatumGetTextPP(value);
	return llmq_ledger_name_known(&leaf->repricing->names, kind, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
}

/* Takes a figure out of a row. False when no call can have had it. */
static bool
read_tokens(const Leaf *leaf, TupleTableSlot *row, int number, int32 *tokens)
{
	int64		stored = number8(leaf, row, number, LLMQ_NO_TOKENS);

	*tokens = (int32) stored;
	return stored >= LLMQ_NO_TOKENS && stored <= PG_INT32_MAX;
}

/* How the call of a row ended. False when none can have ended so. */
static bool
read_settlement(const Leaf *leaf, TupleTableSlot *row, LlmqSettlement *settlement)
{
	const char *status = text_of(leaf, row, READ_STATUS);

	memset(settlement, 0, sizeof(LlmqSettlement));
	settlement->outcome = strcmp(status, "released") == 0 ? LLMQ_OUTCOME_RELEASED :
		strcmp(status, "error") == 0 ? LLMQ_OUTCOME_ERROR : LLMQ_OUTCOME_OK;
	settlement->answered = number4(leaf, row, READ_HTTP_STATUS) != 0;
	return read_tokens(leaf, row, READ_INPUT, &settlement->input) &&
		read_tokens(leaf, row, READ_OUTPUT, &settlement->output) &&
		read_tokens(leaf, row, READ_CACHED, &settlement->cached) &&
		read_tokens(leaf, row, READ_CACHE_WRITE, &settlement->cache_write) &&
		read_tokens(leaf, row, READ_REASONING, &settlement->reasoning);
}

/* What the tokens of a row cost, by the model of the name it has now. False: nobody can say. */
static bool
price_tokens(const Leaf *leaf, TupleTableSlot *row, LlmqCost *cost)
{
	const LlmqCatalog *catalog = leaf->repricing->catalog;
	LlmqSettlement settlement;
	LlmqPricedCall call = {
		.picked_at = number8(leaf, row, READ_PICKED_AT, 0),.settlement = &settlement,
		.reserved_input = number4(leaf, row, READ_RESERVED_INPUT),
		.reserved_output = number4(leaf, row, READ_RESERVED_OUTPUT)
	};
	LlmqLedgerName *model = name_of(leaf, row, LLMQ_NAMED_MODEL, READ_MODEL);

	if (model == NULL || !read_settlement(leaf, row, &settlement))
		return false;
	call.model = llmq_ledger_name_now(model, call.picked_at, number8(leaf, row, READ_RECORDED_AT, 0))->text;
	if (llmq_catalog_model(catalog, call.model) == NULL)
		return false;
	llmq_cost_of(catalog, &call, cost);
	/* what the provider refused costs nothing, also without a price */
	return cost->known || settlement.outcome != LLMQ_OUTCOME_ERROR || !settlement.answered ||
		settlement.input != LLMQ_NO_TOKENS || settlement.output != LLMQ_NO_TOKENS;
}

/* What was told of a call's cost, and what that is in the base currency. False when it cannot have been told so. */
static bool
convert_told(const Leaf *leaf, TupleTableSlot *row, LlmqCost *cost)
{
	Numeric		told = number_of(leaf, row, READ_COST);
	const char *currency = text_of(leaf, row, READ_CURRENCY);

	memset(cost, 0, sizeof(LlmqCost));
	if (told == NULL || strlen(currency) >= LLMQ_CURRENCY_SIZE || !llmq_money_read(told, &cost->amount))
		return false;
	cost->known = true;
	strlcpy(cost->currency, currency, LLMQ_CURRENCY_SIZE);
	llmq_cost_in_base(leaf->repricing->catalog, cost, number8(leaf, row, READ_PICKED_AT, 0));
	return true;
}

/* What a row says, and what it ought to. False when it is to be left alone. */
static bool
compute(const Leaf *leaf, TupleTableSlot *row, LlmqStatedCost *before, LlmqStatedCost *after)
{
	bool		isnull;
	bool		told = DatumGetBool(column(leaf, row, READ_COST_GIVEN, &isnull));
	LlmqCost	cost;

	if (name_of(leaf, row, LLMQ_NAMED_ORG, READ_ORG) == NULL)
		return false;
	if (!isnull && told ? !convert_told(leaf, row, &cost) : !price_tokens(leaf, row, &cost))
		return false;
	before->amount = number_of(leaf, row, READ_COST);
	before->base = number_of(leaf, row, READ_COST_BASE);
	strlcpy(before->currency, text_of(leaf, row, READ_CURRENCY), LLMQ_CURRENCY_SIZE);
	after->amount = cost.known ? llmq_money_numeric(cost.amount) : NULL;
	after->base = cost.base_known ? llmq_money_numeric(cost.base) : NULL;
	strlcpy(after->currency, cost.known ? cost.currency : "", LLMQ_CURRENCY_SIZE);
	return true;
}

static bool
same_amount(Numeric a, Numeric b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(a), NumericGetDatum(b)));
}

static bool
same_cost(const LlmqStatedCost *a, const LlmqStatedCost *b)
{
	return strcmp(a->currency, b->currency) == 0 && same_amount(a->amount, b->amount) && same_amount(a->base, b->base);
}

static void
put_amount(const Leaf *leaf, int number, Numeric amount)
{
	int			i = leaf->column[number] - 1;

	leaf->changed->tts_isnull[i] = amount == NULL;
	leaf->changed->tts_values[i] = NumericGetDatum(amount);
}

/* Gives the row that is locked another cost. */
static void
change_row(Leaf *leaf, const LlmqStatedCost *cost)
{
	int			currency = leaf->column[READ_CURRENCY] - 1;
	MemoryContext caller;

	ExecCopySlot(leaf->changed, leaf->locked);
	slot_getallattrs(leaf->changed);
	put_amount(leaf, READ_COST, cost->amount);
	put_amount(leaf, READ_COST_BASE, cost->base);
	leaf->changed->tts_isnull[currency] = cost->amount == NULL;
	leaf->changed->tts_values[currency] = CStringGetTextDatum(cost->currency);
	/* triggers may remember something from row to row */
	caller = MemoryContextSwitchTo(leaf->estate->es_query_cxt);
	ExecSimpleRelationUpdate(leaf->target, leaf->estate, &leaf->epq, leaf->locked, leaf->changed);
	MemoryContextSwitchTo(caller);
	ResetPerTupleExprContext(leaf->estate);
}

/* Notes what became of the cost of the row that is locked. */
static void
note_difference(const Leaf *leaf, const LlmqStatedCost *before, const LlmqStatedCost *after)
{
	LlmqRepriced call = {
		.day = llmq_lease_day(number8(leaf, leaf->locked, READ_PICKED_AT, 0)),
		.org = name_of(leaf, leaf->locked, LLMQ_NAMED_ORG, READ_ORG),
		.model = name_of(leaf, leaf->locked, LLMQ_NAMED_MODEL, READ_MODEL),
		.key = name_of(leaf, leaf->locked, LLMQ_NAMED_KEY, READ_KEY)
	};

	llmq_differences_add(&leaf->repricing->differences, &call, before, after);
}

/* Has triggers told of all changes so far. */
static void
end_changes(Leaf *leaf)
{
	MemoryContext caller = MemoryContextSwitchTo(leaf->estate->es_query_cxt);

	AfterTriggerEndQuery(leaf->estate);
	leaf->pending = 0;
	MemoryContextSwitchTo(caller);
}

/* Locks a row in its last version. False when it is gone. */
static bool
lock_row(Leaf *leaf, TupleTableSlot *seen)
{
	TM_FailureData failure;

	return table_tuple_lock(leaf->rel, &seen->tts_tid, leaf->repricing->snapshot, leaf->locked,
							GetCurrentCommandId(true), LockTupleNoKeyExclusive, LockWaitBlock,
							TUPLE_LOCK_FLAG_FIND_LAST_VERSION, &failure) == TM_Ok;
}

/* Looks at a row, and changes it if it says another cost than it ought to. */
static void
visit_row(Leaf *leaf, TupleTableSlot *seen)
{
	const Repricing *repricing = leaf->repricing;
	TimestampTz picked_at = number8(leaf, seen, READ_PICKED_AT, 0);
	LlmqStatedCost before;
	LlmqStatedCost after;

	if (picked_at < repricing->since || picked_at >= repricing->until)
		return;
	if (!compute(leaf, seen, &before, &after) || same_cost(&before, &after) || !lock_row(leaf, seen))
		return;
	if (!compute(leaf, leaf->locked, &before, &after) || same_cost(&before, &after))
		return;
	if (leaf->pending == 0)
	{
		AfterTriggerBeginQuery();
		leaf->estate->es_output_cid = GetCurrentCommandId(true);
	}
	change_row(leaf, &after);
	note_difference(leaf, &before, &after);
	if (++leaf->pending == ROWS_AT_ONCE)
		end_changes(leaf);
}

static void
open_leaf(Leaf *leaf, Repricing *repricing, Relation rel)
{
	leaf->repricing = repricing;
	leaf->rel = rel;
	leaf->pending = 0;
	for (int i = 0; i < NREAD; i++)
		leaf->column[i] = get_attnum(RelationGetRelid(rel), read_columns[i]);
	leaf->estate = CreateExecutorState();
	leaf->target = llmq_ledger_target(rel, leaf->estate);
	llmq_plan_qual_init_compat(&leaf->epq, leaf->estate);
	leaf->locked = table_slot_create(rel, &leaf->estate->es_tupleTable);
	leaf->changed = ExecInitExtraTupleSlot(leaf->estate, RelationGetDescr(rel), &TTSOpsVirtual);
}

static void
close_leaf(Leaf *leaf)
{
	EvalPlanQualEnd(&leaf->epq);
	llmq_ledger_target_end(leaf->target, leaf->estate);
}

/* Brings the rows of one partition to what they ought to say. */
static void
visit_leaf(Repricing *repricing, Relation rel)
{
	TupleTableSlot *seen = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan_strat(rel, repricing->snapshot, 0, NULL, true, false);
	Leaf		leaf;

	open_leaf(&leaf, repricing, rel);
	while (table_scan_getnextslot(scan, ForwardScanDirection, seen))
	{
		MemoryContext caller = MemoryContextSwitchTo(repricing->row_context);

		CHECK_FOR_INTERRUPTS();
		visit_row(&leaf, seen);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(repricing->row_context);
	}
	if (leaf.pending > 0)
		end_changes(&leaf);
	close_leaf(&leaf);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(seen);
}

/* May a partition have rows of the span? */
static bool
has_rows(const Repricing *repricing, Oid relid)
{
	char	   *name = get_rel_name(relid);
	int32		day;

	if (name == NULL || get_rel_relkind(relid) != RELKIND_RELATION)
		return false;
	if (!llmq_ledger_leaf_day(name, &day))
		return true;
	return (TimestampTz) day * USECS_PER_DAY < repricing->until &&
		(TimestampTz) (day + 1) * USECS_PER_DAY > repricing->since;
}

/*
 * Locks the partitions that have rows of the span, as whoever records a call does, to the end of the transaction. Rows
 * that wait for their day leave the default partition under a lock that its own keeps away; so it comes first.
 */
static void
lock_leaves(Repricing *repricing)
{
	ListCell   *cell;

	LockRelationOid(llmq_relation_oid(LLMQ_REL_USAGE_DEFAULT), RowExclusiveLock);
	foreach(cell, find_all_inheritors(llmq_relation_oid(LLMQ_REL_USAGE), NoLock, NULL))
	{
		Oid			relid = lfirst_oid(cell);
		Relation	rel = has_rows(repricing, relid) ? try_table_open(relid, RowExclusiveLock) : NULL;

		if (rel != NULL)
			repricing->leaves = lappend(repricing->leaves, rel);
	}
}

/* Waits for the ends of transactions that have written to these partitions; keeps nobody from writing meanwhile. */
static void
wait_for_records(const Repricing *repricing)
{
	List	   *tags = NIL;
	ListCell   *cell;

	foreach(cell, repricing->leaves)
	{
		LOCKTAG    *tag = palloc(sizeof(LOCKTAG));

		SET_LOCKTAG_RELATION(*tag, MyDatabaseId, RelationGetRelid((Relation) lfirst(cell)));
		tags = lappend(tags, tag);
	}
	WaitForLockersMultiple(tags, ShareLock, false);
}

/* Goes through all rows of the span. */
static void
visit_all(Repricing *repricing)
{
	ListCell   *cell;

	PushActiveSnapshot(GetLatestSnapshot());
	repricing->snapshot = GetActiveSnapshot();
	repricing->row_context = AllocSetContextCreate(CurrentMemoryContext, "llmquota reprice row",
												   ALLOCSET_DEFAULT_SIZES);
	llmq_ledger_names_init(&repricing->names);
	repricing->names.all = true;
	llmq_differences_init(&repricing->differences);
	repricing->catalog = llmq_catalog();
	foreach(cell, repricing->leaves)
	{
		visit_leaf(repricing, lfirst(cell));
		table_close((Relation) lfirst(cell), NoLock);
	}
	PopActiveSnapshot();
}

/* Takes the arguments: since when, and before when, calls were picked. */
static void
read_span(FunctionCallInfo fcinfo, Repricing *repricing)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("since must not be NULL"),
				 errhint("Pass the time from which the price was wrong, or -infinity for the whole ledger.")));
	repricing->since = PG_GETARG_TIMESTAMPTZ(0);
	repricing->until = PG_ARGISNULL(1) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(1);
	if (repricing->until < repricing->since)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("until is before since"),
				 errhint("Calls picked from since on and before until are priced anew.")));
}

/* llmquota_reprice(since, until) -> setof llmquota.repricing */
Datum
llmquota_reprice(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Repricing	repricing = {0};

	llmq_cell_refuse_if_read_only("llmquota_reprice()");
	read_span(fcinfo, &repricing);
	InitMaterializedSRF(fcinfo, 0);
	/* one at a time: two would wait for each other */
	LockRelationOid(llmq_relation_oid(LLMQ_REL_REPRICING), ShareUpdateExclusiveLock);
	lock_leaves(&repricing);
	wait_for_records(&repricing);
	visit_all(&repricing);
	llmq_differences_write(&repricing.differences, repricing.catalog->settings.base_currency, result);
	/* also when no cost has changed: an exchange rate may be that of a budget only */
	llmq_recount_request(repricing.since, repricing.until);
	PG_RETURN_NULL();
}
