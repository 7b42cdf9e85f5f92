/*
 * verify_index.c
 *	  Do the indexes of the live tables lead to every cell, in the order of their keys, and to one of each key?
 *
 * For llmquota_verify(). Each index is scanned whole, in its order, while calls go on: a cell's entries are there
 * before it counts and stay as long as its row, so one that was copied and is not met must have gone since, or its
 * entry is missing. An entry that leads to another row breaks the order. An entry may be there twice (see "Known
 * limits" in doc/design.md), which changes no answer and is not reported.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "relation.h"
#include "verify.h"

/* The indexes: of a key all columns but the first two, which are id and state. */
static const struct
{
	LlmqLiveTable table;
	LlmqRelation index;
	bool		is_key;
}			indexes[] = {
	{LLMQ_LIVE_METER, LLMQ_REL_METER_ID, false},
	{LLMQ_LIVE_METER, LLMQ_REL_METER_KEY, true},
	{LLMQ_LIVE_HEALTH, LLMQ_REL_HEALTH_ID, false},
	{LLMQ_LIVE_HEALTH, LLMQ_REL_HEALTH_KEY, true},
	{LLMQ_LIVE_LEASE, LLMQ_REL_LEASE_PAGE_ID, false},
	{LLMQ_LIVE_NAME, LLMQ_REL_NAME_ID, false},
	{LLMQ_LIVE_NAME, LLMQ_REL_NAME_KEY, true},
	{LLMQ_LIVE_REFUSAL, LLMQ_REL_REFUSAL_PAGE_ID, false},
	{LLMQ_LIVE_REQUEST, LLMQ_REL_REQUEST_PAGE_ID, false},
	{LLMQ_LIVE_RATE, LLMQ_REL_RATE_PAGE_ID, false},
};

/* One index being scanned. */
typedef struct IndexCheck
{
	LlmqVerify *verify;
	LlmqLiveTable table;
	bool		is_key;
	Relation	index;
	bool	   *met;			/* by the place in the table's copies */
	HeapTuple	last;			/* the row before, a copy */
	bool		last_counts;
} IndexCheck;

static void
report(const IndexCheck *check, const LlmqVerifyCell *cell, const char *problem)
{
	llmq_verify_report(check->verify, &(LlmqFinding) {
		.object = RelationGetRelationName(check->index),
		.subject = llmq_verify_subject(check->verify, cell),
		.problem = problem,
	});
}

/* The copy of a row, NULL when it was not there then. Copies are in the order of the file. */
static LlmqVerifyCell *
find_copy(const LlmqVerifyTable *table, ItemPointer tid)
{
	int			low = 0;
	int			high = table->n;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;
		int			order = ItemPointerCompare(&table->cell[middle].tid, tid);

		if (order == 0)
			return &table->cell[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

static int
compare_int(int32 a, int32 b)
{
	return a < b ? -1 : a > b ? 1 : 0;
}

static int32
int_column(const IndexCheck *check, HeapTuple tuple, int column)
{
	bool		isnull;

	return DatumGetInt32(heap_getattr(tuple, column, RelationGetDescr(check->verify->live.rel[check->table]), &isnull));
}

/* Names are compared by their bytes: their collation is "C". */
static int
compare_names(const IndexCheck *check, HeapTuple a, HeapTuple b)
{
	TupleDesc	desc = RelationGetDescr(check->verify->live.rel[check->table]);
	bool		isnull;
	char	   *left = TextDatumGetCString(heap_getattr(a, 4, desc, &isnull));
	char	   *right = TextDatumGetCString(heap_getattr(b, 4, desc, &isnull));
	int			order = strcmp(left, right);

	pfree(left);
	pfree(right);
	return order;
}

/* The order of two rows in the index. */
static int
compare_rows(const IndexCheck *check, HeapTuple a, HeapTuple b)
{
	TupleDesc	desc = RelationGetDescr(check->verify->live.rel[check->table]);
	bool		isnull;
	int			order;

	if (!check->is_key)
		return compare_int(int_column(check, a, 1), int_column(check, b, 1));
	order = compare_int((uint8) DatumGetChar(heap_getattr(a, 3, desc, &isnull)),
						(uint8) DatumGetChar(heap_getattr(b, 3, desc, &isnull)));
	if (order != 0)
		return order;
	if (check->table == LLMQ_LIVE_NAME)
		return compare_names(check, a, b);
	order = compare_int(int_column(check, a, 4), int_column(check, b, 4));
	return order != 0 ? order : compare_int(int_column(check, a, 5), int_column(check, b, 5));
}

/* A row that an entry leads to: is it at its place, and the only one of its key? */
static void
meet_row(IndexCheck *check, HeapTuple tuple)
{
	LlmqVerifyTable *table = &check->verify->table[check->table];
	LlmqVerifyCell *cell = find_copy(table, &tuple->t_self);
	bool		counts = cell != NULL && cell->counts;
	int			order = check->last == NULL ? -1 : compare_rows(check, check->last, tuple);

	if (cell != NULL)
		check->met[cell - table->cell] = true;
	if (order > 0 && counts)
		report(check, cell, "entry leads to another row");
	if (order == 0 && counts && check->last_counts && check->verify->at_once && check->is_key &&
		!ItemPointerEquals(&check->last->t_self, &tuple->t_self))
		report(check, cell, "second row of the same key");
	if (check->last != NULL)
		heap_freetuple(check->last);
	check->last = heap_copytuple(tuple);
	check->last_counts = counts;
}

/* Does the row still count, so that its entries must be there? */
static bool
still_counts(const IndexCheck *check, LlmqVerifyCell *cell)
{
	Buffer		buffer = ReadBuffer(check->verify->live.rel[check->table], ItemPointerGetBlockNumber(&cell->tid));
	const LlmqCellHeader *state;
	bool		counts;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	state = llmq_cell_in_page(BufferGetPage(buffer), &cell->tid, check->table, cell->id);
	counts = state != NULL && (state->flags & (LLMQ_CELL_BORN | LLMQ_CELL_MOVED)) == LLMQ_CELL_BORN;
	UnlockReleaseBuffer(buffer);
	return counts;
}

static void
report_missing(const IndexCheck *check)
{
	LlmqVerifyTable *table = &check->verify->table[check->table];

	for (int i = 0; i < table->n; i++)
		if (table->cell[i].counts && !check->met[i] && still_counts(check, &table->cell[i]))
			report(check, &table->cell[i], "entry is missing");
}

static void
check_index(IndexCheck *check)
{
	SysScanDesc scan = systable_beginscan_ordered(check->verify->live.rel[check->table], check->index, SnapshotSelf,
												  0, NULL);
	HeapTuple	tuple;

	while ((tuple = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		meet_row(check, tuple);
	}
	systable_endscan_ordered(scan);
	report_missing(check);
}

/* Checks all indexes of the live tables. */
void
llmq_verify_indexes(LlmqVerify *verify)
{
	for (Size i = 0; i < lengthof(indexes); i++)
	{
		IndexCheck	check = {.verify = verify,.table = indexes[i].table,.is_key = indexes[i].is_key};

		if (!llmq_live_has(&verify->live, indexes[i].table))
			continue;
		check.index = relation_open(llmq_relation_oid(indexes[i].index), AccessShareLock);
		check.met = palloc_extended(Max(verify->table[check.table].n, 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
		check_index(&check);
		pfree(check.met);
		relation_close(check.index, AccessShareLock);
	}
}
