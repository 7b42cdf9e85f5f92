/*
 * ledger.c
 *	  Writes and reads the ledger's rows.
 *
 * A row goes straight into its day's leaf, llmquota.usage_YYYYMMDD, in the caller's transaction, through the executor's
 * own insertion (indexes, partition constraint, triggers, logical decoding); neither parent nor other leaves are
 * locked, so partitions come and go without waiting for calls. A day without a leaf goes to the default partition.
 * Here is no DDL: llmquota_maintain() makes leaves. Rows are found with a fresh snapshot, whatever the isolation level:
 * the caller asks what the ledger says now.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "bill.h"
#include "classify.h"
#include "compat.h"
#include "inject.h"
#include "ledger.h"
#include "name.h"
#include "price.h"
#include "relation.h"
#include "row_now.h"
#include "row.h"
#include "stored.h"

/* Columns of llmquota.usage, in their order. */
enum
{
	COL_LEASE, COL_PICKED_AT, COL_RECORDED_AT, COL_RECORDED_IN, COL_RESERVED_INPUT, COL_RESERVED_OUTPUT, COL_INPUT,
	COL_OUTPUT, COL_CACHED, COL_CACHE_WRITE, COL_REASONING, COL_ATTEMPT, COL_HTTP_STATUS, COL_LATENCY, COL_STATUS,
	COL_ORG, COL_MODEL, COL_KEY, COL_ACCOUNT, COL_PROVIDER, COL_ROUTE, COL_USAGE_SOURCE, COL_SESSION, COL_REQUEST_ID,
	COL_ERROR, COL_TAGS, COL_FIRST_LEASE, COL_RETRY_OF, COL_ERROR_CLASS, COL_COST, COL_CURRENCY,
	COL_COST_BASE, COL_DOWNGRADED, COL_BUDGET, COL_REQUESTED_MODEL, COL_COST_GIVEN,
	COL_WAITED, NCOLUMNS
};

static const char *const outcome_texts[] = {NULL, "ok", "error", "expired", "released"};
static const char *const source_texts[] = {NULL, "reported", "reserved", "late", "recovered"};

const char *
llmq_usage_source_text(LlmqUsageSource source)
{
	return LLMQ_STORED_TEXT(source_texts, source);
}

/* How the ledger calls an outcome. */
const char *
llmq_outcome_text(LlmqOutcome outcome)
{
	return LLMQ_STORED_TEXT(outcome_texts, outcome);
}

/* The name of a day's leaf, palloc'd. */
char *
llmq_ledger_leaf_name(int32 day)
{
	int			year;
	int			month;
	int			day_of_month;

	j2date(day + POSTGRES_EPOCH_JDATE, &year, &month, &day_of_month);
	return psprintf("usage_%04d%02d%02d", year, month, day_of_month);
}

/* The day of a leaf; false when the name is not that of a leaf. */
bool
llmq_ledger_leaf_day(const char *name, int32 *day)
{
	int			year;
	int			month;
	int			day_of_month;
	int			end = 0;
	char	   *same;
	bool		is_leaf;

	if (sscanf(name, "usage_%4d%2d%2d%n", &year, &month, &day_of_month, &end) != 3 || name[end] != '\0')
		return false;
	*day = date2j(year, month, day_of_month) - POSTGRES_EPOCH_JDATE;
	same = llmq_ledger_leaf_name(*day);
	is_leaf = strcmp(same, name) == 0;
	pfree(same);
	return is_leaf;
}

/* The number of the column that says which transaction wrote a row; a trigger fills it in. */
int
llmq_ledger_recorded_in(void)
{
	return COL_RECORDED_IN + 1;
}

/* The leaf of a day, if it is there and attached; InvalidOid otherwise. */
static Oid
find_leaf(int32 day)
{
	char	   *name = llmq_ledger_leaf_name(day);
	Oid			relid = get_relname_relid(name, llmq_schema_oid());

	pfree(name);
	return OidIsValid(relid) && get_rel_relispartition(relid) ? relid : InvalidOid;
}

/*
 * Opens the table that a day's rows go to. A leaf may be attached or dropped while we wait for its lock, so what was
 * found is looked up again once it is locked.
 */
static Relation
open_leaf(int32 day, LOCKMODE lockmode)
{
	for (;;)
	{
		Oid			relid = find_leaf(day);
		Oid			chosen = OidIsValid(relid) ? relid : llmq_relation_oid(LLMQ_REL_USAGE_DEFAULT);
		Relation	rel = try_table_open(chosen, lockmode);

		if (rel != NULL && find_leaf(day) == relid)
			return rel;
		if (rel != NULL)
			table_close(rel, lockmode);
	}
}

static void
set_int(Datum *values, bool *nulls, int column, int32 number, bool given)
{
	nulls[column] = !given;
	values[column] = Int32GetDatum(number);
}

static void
set_tokens(Datum *values, bool *nulls, int column, int32 tokens)
{
	nulls[column] = tokens == LLMQ_NO_TOKENS;
	values[column] = Int64GetDatum((int64) tokens);
}

/* A lease, which must live as long as the values; NULL for one that is all zero. */
static void
set_lease(Datum *values, bool *nulls, int column, const pg_uuid_t *lease)
{
	static const pg_uuid_t none = {{0}};

	nulls[column] = memcmp(lease, &none, sizeof(none)) == 0;
	values[column] = UUIDPGetDatum(lease);
}

/* What the record said, as columns. */
static void
settlement_columns(const LlmqSettlement *settlement, Datum *values, bool *nulls)
{
	llmq_put_text(values, nulls, COL_STATUS, llmq_outcome_text(settlement->outcome));
	set_int(values, nulls, COL_HTTP_STATUS, settlement->http_status, settlement->http_status != 0);
	set_tokens(values, nulls, COL_INPUT, settlement->input);
	set_tokens(values, nulls, COL_CACHED, settlement->cached);
	set_tokens(values, nulls, COL_CACHE_WRITE, settlement->cache_write);
	set_tokens(values, nulls, COL_OUTPUT, settlement->output);
	set_tokens(values, nulls, COL_REASONING, settlement->reasoning);
	llmq_put_text(values, nulls, COL_USAGE_SOURCE, llmq_usage_source_text(settlement->source));
	set_int(values, nulls, COL_LATENCY, settlement->latency_ms, settlement->latency_ms >= 0);
	llmq_put_text(values, nulls, COL_ERROR_CLASS,
				  settlement->failure == LLMQ_FAILURE_NONE ? NULL : llmq_failure_name(settlement->failure));
}

static void
extra_columns(const LlmqLedgerExtra *extra, Datum *values, bool *nulls)
{
	llmq_put_text(values, nulls, COL_ERROR, extra->error);
	nulls[COL_TAGS] = extra->tags == NULL;
	values[COL_TAGS] = PointerGetDatum(extra->tags);
	nulls[COL_COST_GIVEN] = !extra->cost_given;
	values[COL_COST_GIVEN] = BoolGetDatum(true);
}

static void
cost_columns(const LlmqCost *cost, Datum *values, bool *nulls)
{
	nulls[COL_COST] = !cost->known;
	nulls[COL_COST_BASE] = !cost->base_known;
	llmq_put_text(values, nulls, COL_CURRENCY, cost->known ? cost->currency : NULL);
	if (cost->known)
		values[COL_COST] = NumericGetDatum(llmq_money_numeric(cost->amount));
	if (cost->base_known)
		values[COL_COST_BASE] = NumericGetDatum(llmq_money_numeric(cost->base));
}

/* What budgets have made of the request, and whether the cost is what a record that has failed had told. */
static void
budget_columns(const LlmqSlotMoney *money, Datum *values, bool *nulls)
{
	bool		downgraded = money->requested_model != 0;

	values[COL_DOWNGRADED] = BoolGetDatum(downgraded);
	values[COL_BUDGET] = Int64GetDatum(money->budget);
	nulls[COL_BUDGET] = !downgraded;
	values[COL_COST_GIVEN] = BoolGetDatum(true);
	nulls[COL_COST_GIVEN] &= !money->given;
	llmq_put_text(values, nulls, COL_REQUESTED_MODEL, downgraded ? llmq_name_text(money->requested_model) : NULL);
}

/* A whole row. Lease and uuid must live as long as the values. */
static void
row_columns(const LlmqLease *lease, const pg_uuid_t *uuid, const LlmqLedgerExtra *extra, Datum *values, bool *nulls)
{
	const LlmqSlot *slot = &lease->slot;
	LlmqCost	cost;

	memset(nulls, 0, sizeof(bool) * NCOLUMNS);
	values[COL_LEASE] = UUIDPGetDatum(uuid);
	values[COL_PICKED_AT] = TimestampTzGetDatum(slot->granted_at);
	values[COL_RECORDED_AT] = TimestampTzGetDatum(slot->settled_at);
	llmq_put_text(values, nulls, COL_ORG, llmq_name_text(slot->org));
	llmq_put_label(values, nulls, COL_SESSION, slot->session, slot->session_length);
	llmq_put_label(values, nulls, COL_REQUEST_ID, slot->request_id, slot->request_id_length);
	set_int(values, nulls, COL_ATTEMPT, slot->attempt, true);
	llmq_put_text(values, nulls, COL_ROUTE, llmq_name_text(slot->route));
	llmq_put_text(values, nulls, COL_MODEL, llmq_name_text(slot->model));
	llmq_put_text(values, nulls, COL_PROVIDER, llmq_name_text(slot->provider));
	llmq_put_text(values, nulls, COL_ACCOUNT, llmq_name_text(slot->account));
	llmq_put_text(values, nulls, COL_KEY, llmq_name_text(slot->key));
	set_int(values, nulls, COL_RESERVED_INPUT, slot->reserved_input, true);
	set_int(values, nulls, COL_RESERVED_OUTPUT, slot->reserved_output, true);
	extra_columns(extra, values, nulls);
	settlement_columns(&slot->settlement, values, nulls);
	llmq_bill_cost(lease, extra, &cost);
	cost_columns(&cost, values, nulls);
	budget_columns(&lease->money, values, nulls);
	set_lease(values, nulls, COL_FIRST_LEASE, &slot->history.first_lease);
	set_lease(values, nulls, COL_RETRY_OF, &slot->history.retry_of);
	set_int(values, nulls, COL_WAITED, slot->waited_ms, slot->waited_ms > 0);
	values[COL_RECORDED_IN] = Int64GetDatum((int64) U64FromFullTransactionId(GetTopFullTransactionId()));
}

/* Makes a leaf the target of the executor's single-row changes. */
ResultRelInfo *
llmq_ledger_target(Relation leaf, EState *estate)
{
	ResultRelInfo *target = makeNode(ResultRelInfo);

	InitResultRelInfo(target, leaf, 0, NULL, 0);
	/* triggers lock a row as of this command: this transaction itself may have written it in an earlier one */
	estate->es_output_cid = GetCurrentCommandId(true);
	/* where triggers look for the table before they open it themselves */
	estate->es_opened_result_relations = lappend(estate->es_opened_result_relations, target);
	ExecOpenIndices(target, false);
	return target;
}

void
llmq_ledger_target_end(ResultRelInfo *target, EState *estate)
{
	ExecCloseIndices(target);
	ExecResetTupleTable(estate->es_tupleTable, false);
	FreeExecutorState(estate);
}

/* Puts columns into a row of a leaf, which has more of them, or fewer, when the SQL is of another version. */
static void
copy_columns(const Datum *values, const bool *nulls, TupleTableSlot *row)
{
	int			natts = row->tts_tupleDescriptor->natts;

	memset(row->tts_isnull, true, sizeof(bool) * natts);
	memcpy(row->tts_values, values, sizeof(Datum) * Min(natts, NCOLUMNS));
	memcpy(row->tts_isnull, nulls, sizeof(bool) * Min(natts, NCOLUMNS));
}

/* Inserts a row with all that belongs to it: constraints, indexes, triggers. */
static void
insert_row(Relation leaf, const Datum *values, const bool *nulls)
{
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *target = llmq_ledger_target(leaf, estate);
	TupleTableSlot *row = ExecInitExtraTupleSlot(estate, RelationGetDescr(leaf), &TTSOpsVirtual);

	copy_columns(values, nulls, row);
	ExecStoreVirtualTuple(row);
	AfterTriggerBeginQuery();
	ExecSimpleRelationInsert(target, estate, row);
	AfterTriggerEndQuery(estate);
	llmq_ledger_target_end(target, estate);
}

/* Writes the row of a settled lease in the caller's transaction, which must be the one that settled it. */
void
llmq_ledger_insert(const LlmqLeaseId *id, const LlmqLease *lease, const LlmqLedgerExtra *extra)
{
	Relation	leaf = open_leaf(id->day, RowExclusiveLock);
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS];
	pg_uuid_t	uuid;

	llmq_lease_uuid(id, &uuid);
	row_columns(lease, &uuid, extra, values, nulls);
	insert_row(leaf, values, nulls);
	table_close(leaf, NoLock);
	LLMQ_INJECT_CRASH("ledger-row", XactLastRecEnd);
}

/* The leaf's unique index on (lease, picked_at); InvalidOid, and then the scan reads the whole leaf, if it is gone. */
static Oid
lease_index(Relation leaf)
{
	List	   *indexes = RelationGetIndexList(leaf);
	ListCell   *cell;
	Oid			found = InvalidOid;

	foreach(cell, indexes)
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(cell)));
		Form_pg_index index = (Form_pg_index) GETSTRUCT(tuple);

		if (index->indisunique && index->indisvalid && index->indkey.values[0] == COL_LEASE + 1)
			found = index->indexrelid;
		ReleaseSysCache(tuple);
	}
	list_free(indexes);
	return found;
}

static Datum
column(const LlmqRowNow *found, int number, bool *isnull)
{
	return heap_getattr(found->tuple, number + 1, RelationGetDescr(found->rel), isnull);
}

/* A column as text, empty for NULL. */
static char *
column_text(const LlmqRowNow *found, int number)
{
	bool		isnull;
	Datum		value = column(found, number, &isnull);

	return isnull ? "" : TextDatumGetCString(value);
}

/* The cost, copied; NULL when it is not known, or the SQL is of a version without it. */
static Numeric
column_cost(const LlmqRowNow *found)
{
	bool		isnull;
	Datum		value;

	if (COL_COST >= RelationGetNumberOfAttributes(found->rel))
		return NULL;
	value = column(found, COL_COST, &isnull);
	return isnull ? NULL : DatumGetNumericCopy(value);
}

/* A number of tokens. */
static int64
column_tokens(const LlmqRowNow *found, int number)
{
	bool		isnull;
	Datum		value = column(found, number, &isnull);

	return isnull ? LLMQ_NO_TOKENS : DatumGetInt64(value);
}

/* The first lease of the request, if there is one and the SQL is of a version that has it. */
static bool
column_lease(const LlmqRowNow *found, int number, pg_uuid_t *lease)
{
	bool		isnull = true;
	Datum		value = 0;

	if (number < RelationGetNumberOfAttributes(found->rel))
		value = column(found, number, &isnull);
	if (!isnull)
		*lease = *DatumGetUUIDP(value);
	return !isnull;
}

/* Finds the row of a lease in its day's leaf, and holds it in place. */
static void
find_row(const LlmqLeaseId *id, LOCKMODE lockmode, LlmqRowNow *found)
{
	Relation	leaf = open_leaf(id->day, lockmode);
	pg_uuid_t	uuid;
	ScanKeyData key;

	llmq_lease_uuid(id, &uuid);
	ScanKeyInit(&key, COL_LEASE + 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(&uuid));
	llmq_row_now_find(leaf, lease_index(leaf), 1, &key, found);
}

/* A lock that came with a change stays to the end of the transaction. */
static void
end_find(LlmqRowNow *found, LOCKMODE lockmode)
{
	llmq_row_now_end(found);
	table_close(found->rel, lockmode);
}

/* Reads what the ledger says of a lease. False when it has no row of it. */
bool
llmq_ledger_find(const LlmqLeaseId *id, LlmqLedgerRow *row)
{
	LlmqRowNow	found;
	bool		exists;
	bool		isnull;

	find_row(id, AccessShareLock, &found);
	exists = found.tuple != NULL;
	if (exists)
	{
		row->org = column_text(&found, COL_ORG);
		row->route = column_text(&found, COL_ROUTE);
		row->model = column_text(&found, COL_MODEL);
		row->provider = column_text(&found, COL_PROVIDER);
		row->key = column_text(&found, COL_KEY);
		row->status = column_text(&found, COL_STATUS);
		row->usage_source = column_text(&found, COL_USAGE_SOURCE);
		row->cost = column_cost(&found);
		row->currency = row->cost == NULL ? NULL : column_text(&found, COL_CURRENCY);
		row->picked_at = DatumGetTimestampTz(column(&found, COL_PICKED_AT, &isnull));
		row->reserved_input = DatumGetInt32(column(&found, COL_RESERVED_INPUT, &isnull));
		row->reserved_output = DatumGetInt32(column(&found, COL_RESERVED_OUTPUT, &isnull));
		row->input_tokens = column_tokens(&found, COL_INPUT);
		row->output_tokens = column_tokens(&found, COL_OUTPUT);
		row->recorded_at = DatumGetTimestampTz(column(&found, COL_RECORDED_AT, &isnull));
		row->session = column_text(&found, COL_SESSION);
		row->has_first_lease = column_lease(&found, COL_FIRST_LEASE, &row->first_lease);
	}
	end_find(&found, AccessShareLock);
	return exists;
}

/* What replaces what a row says of the end of its lease. */
typedef struct Correction
{
	const LlmqSettlement *settlement;
	const LlmqLedgerExtra *extra;
	LlmqCost	cost;
	bool		cost_given;		/* by the application */
	bool		cost_stands;	/* it is the row's own: given if that was */
	const char *expected;		/* the row's status so far; NULL: whichever */
} Correction;

/* The columns that a late record replaces. */
static void
replace_columns(TupleTableSlot *row, const Correction *correction)
{
	int			natts = row->tts_tupleDescriptor->natts;
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS];
	bool		cost_given = correction->cost_given;

	slot_getallattrs(row);
	memcpy(values, row->tts_values, sizeof(Datum) * Min(natts, NCOLUMNS));
	memcpy(nulls, row->tts_isnull, sizeof(bool) * Min(natts, NCOLUMNS));
	values[COL_RECORDED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	settlement_columns(correction->settlement, values, nulls);
	if (natts > COL_COST_GIVEN)
		cost_given |= correction->cost_stands && !nulls[COL_COST_GIVEN];
	extra_columns(correction->extra, values, nulls);
	cost_columns(&correction->cost, values, nulls);
	nulls[COL_COST_GIVEN] = !cost_given;
	memcpy(row->tts_values, values, sizeof(Datum) * Min(natts, NCOLUMNS));
	memcpy(row->tts_isnull, nulls, sizeof(bool) * Min(natts, NCOLUMNS));
}

/* Updates a row that is locked, with all that belongs to it: constraints, indexes, triggers. */
static void
update_row(Relation leaf, TupleTableSlot *old, const Correction *correction)
{
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *target = llmq_ledger_target(leaf, estate);
	TupleTableSlot *row = ExecInitExtraTupleSlot(estate, RelationGetDescr(leaf), &TTSOpsVirtual);
	EPQState	epq;

	llmq_plan_qual_init_compat(&epq, estate);
	ExecCopySlot(row, old);
	replace_columns(row, correction);
	AfterTriggerBeginQuery();
	ExecSimpleRelationUpdate(target, estate, &epq, old, row);
	AfterTriggerEndQuery(estate);
	EvalPlanQualEnd(&epq);
	llmq_ledger_target_end(target, estate);
}

/* Locks a found row, in its last version. False when it is gone, or is not `expected` any more. */
static bool
lock_row(LlmqRowNow *found, TupleTableSlot *row, const char *expected)
{
	TM_FailureData failure;
	TM_Result	result;
	bool		isnull;
	Datum		status;

	result = table_tuple_lock(found->rel, &found->tuple->t_self, found->snapshot, row, GetCurrentCommandId(true),
							  LockTupleNoKeyExclusive, LockWaitBlock, TUPLE_LOCK_FLAG_FIND_LAST_VERSION, &failure);
	if (result != TM_Ok)
		return false;
	status = slot_getattr(row, COL_STATUS + 1, &isnull);
	return expected == NULL || (!isnull && strcmp(TextDatumGetCString(status), expected) == 0);
}

/*
 * Brings an existing row to how the lease ended after all, in the caller's transaction. False when there is no row, or
 * it is not as expected by now.
 */
static bool
correct(const LlmqLeaseId *id, const Correction *correction)
{
	TupleTableSlot *row;
	LlmqRowNow	found;
	bool		corrected = false;

	find_row(id, RowExclusiveLock, &found);
	row = table_slot_create(found.rel, NULL);
	if (found.tuple != NULL && lock_row(&found, row, correction->expected))
	{
		update_row(found.rel, row, correction);
		LLMQ_INJECT_CRASH("ledger-row", XactLastRecEnd);
		corrected = true;
	}
	ExecDropSingleTupleTableSlot(row);
	end_find(&found, NoLock);
	return corrected;
}

/* Brings the row of a lease to what its slot says. False when there is none. */
bool
llmq_ledger_correct(const LlmqLeaseId *id, const LlmqLease *lease, const LlmqLedgerExtra *extra)
{
	Correction	correction = {
		.settlement = &lease->slot.settlement,.extra = extra,.cost_given = extra->cost_given || lease->money.given
	};

	llmq_bill_cost(lease, extra, &correction.cost);
	return correct(id, &correction);
}

/* Brings the row of an expired lease to what a late record says. False when it is not that of an expired one by now. */
bool
llmq_ledger_correct_expired(const LlmqLeaseId *id, const LlmqSettlement *settlement, const LlmqLedgerExtra *extra,
							const LlmqCost *cost)
{
	Correction	correction = {
		.settlement = settlement,.extra = extra,.cost = *cost,.cost_given = extra->cost_given,
		.cost_stands = settlement->input == LLMQ_NO_TOKENS && settlement->output == LLMQ_NO_TOKENS &&
		(settlement->outcome != LLMQ_OUTCOME_ERROR || !settlement->answered),
		.expected = llmq_outcome_text(LLMQ_OUTCOME_EXPIRED)
	};

	return correct(id, &correction);
}
