/*
 * ledger_scan.c
 *	  Reads many rows of the ledger: all that were picked in a span of time, the newest days first, or the oldest.
 *
 * Whoever adds up a window may read a million rows, and so this does not go through the executor: it reads the pages
 * that a leaf's BRIN index says may have such rows, and of each row the columns that are needed, where they stand. A
 * step is a day; what is not in the leaf of a day (the default partition) is read for each step's span. Everything is
 * as of one snapshot. A partition is locked against DDL while it is read and no longer; one that is gone by then has
 * been dropped with its rows.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupmacs.h"
#include "catalog/pg_am.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/tidbitmap.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "ledger.h"
#include "ledger_scan.h"
#include "relation.h"

/* The columns that are read, in the order in which they are looked up. */
enum
{
	READ_LEASE, READ_PICKED_AT, READ_RECORDED_AT, READ_STATUS, READ_HTTP_STATUS, READ_RESERVED_INPUT,
	READ_RESERVED_OUTPUT, READ_INPUT, READ_CACHED, READ_OUTPUT, READ_COST, READ_CURRENCY, READ_CACHE_WRITE,
	READ_REASONING, READ_COST_GIVEN, READ_NAMES, NREAD = READ_NAMES + LLMQ_NAMED_COUNT
};

static const char *const read_columns[NREAD] = {
	"lease", "picked_at", "recorded_at", "status", "http_status", "reserved_input", "reserved_output", "input_tokens",
	"cached_tokens", "output_tokens", "cost", "currency", "cache_write_tokens", "reasoning_tokens", "cost_given",
	"provider", "account", "key", "org", "model"
};

/* The leaf of a day. */
typedef struct LlmqLedgerDay
{
	TimestampTz begins;
	Oid			relid;
} LlmqLedgerDay;

/* How the rows of a partition are stored, as far as they are read. */
typedef struct Layout
{
	int			natts;			/* so many are read */
	int			nfixed;			/* so many have a fixed width, before the first that has not */
	int16		length[MaxTupleAttributeNumber];
	uint8		mask[MaxTupleAttributeNumber];	/* of the alignment */
	uint32		offset[MaxTupleAttributeNumber];	/* where the fixed ones stand when none before is NULL */
	int			column[NREAD];	/* from 0 */
	/* of the row at hand */
	const char *data;
	int			nwhole;			/* so many fixed ones come before the first NULL */
	const char *at[MaxTupleAttributeNumber];	/* where the others stand; NULL for NULL */
} Layout;

/* Names repeat from row to row. */
typedef struct LlmqLedgerPlace
{
	int			length;			/* -1: none yet */
	char		text[LLMQ_MAX_NAME];
	LlmqLedgerName *name;
} LlmqLedgerPlace;

static int
newest_first(const ListCell *a, const ListCell *b)
{
	const LlmqLedgerDay *one = lfirst(a);
	const LlmqLedgerDay *other = lfirst(b);

	return one->begins > other->begins ? -1 : one->begins < other->begins ? 1 : 0;
}

/* Sorts one partition in. */
static void
add_partition(LlmqLedgerScan *scan, Oid relid)
{
	int32		day;
	char	   *name = get_rel_name(relid);
	LlmqLedgerDay *leaf;

	if (name == NULL || get_rel_relkind(relid) != RELKIND_RELATION)
		return;
	if (!llmq_ledger_leaf_day(name, &day))
	{
		scan->others = lappend_oid(scan->others, relid);
		return;
	}
	leaf = palloc(sizeof(LlmqLedgerDay));
	*leaf = (LlmqLedgerDay) {.begins = (TimestampTz) day * USECS_PER_DAY,.relid = relid};
	if (leaf->begins < scan->to && leaf->begins + USECS_PER_DAY > scan->from)
		scan->leaves = lappend(scan->leaves, leaf);
}

/* Begins a scan that has its first fields filled in, in the current memory context. The snapshot must be active. */
void
llmq_ledger_scan_begin(LlmqLedgerScan *scan)
{
	ListCell   *cell;

	scan->leaves = NIL;
	scan->others = NIL;
	scan->scratch = AllocSetContextCreate(CurrentMemoryContext, "llmquota ledger row", ALLOCSET_SMALL_SIZES);
	scan->last = palloc(sizeof(LlmqLedgerPlace) * LLMQ_NAMED_COUNT);
	for (int kind = 0; kind < LLMQ_NAMED_COUNT; kind++)
		scan->last[kind].length = -1;
	foreach(cell, find_all_inheritors(llmq_relation_oid(LLMQ_REL_USAGE), NoLock, NULL))
		add_partition(scan, lfirst_oid(cell));
	list_sort(scan->leaves, newest_first);
}

/* Is a column to be read? */
static bool
is_wanted(const LlmqLedgerScan *scan, int column)
{
	if (column >= READ_NAMES)
		return scan->names->wanted[column - READ_NAMES];
	return column < READ_COST || (scan->with_cost && (column < READ_CACHE_WRITE || scan->whole));
}

static void
layout_init(Layout *layout, const LlmqLedgerScan *scan, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	uint32		offset = 0;

	layout->natts = 0;
	layout->nfixed = 0;
	for (int i = 0; i < NREAD; i++)
	{
		layout->column[i] = get_attnum(RelationGetRelid(rel), read_columns[i]) - 1;
		if (is_wanted(scan, i))
			layout->natts = Max(layout->natts, layout->column[i] + 1);
	}
	for (int i = 0; i < layout->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		layout->length[i] = column->attlen;
		layout->mask[i] = att_align_nominal(1, column->attalign) - 1;
		if (column->attlen < 0 || layout->nfixed < i)
			continue;
		layout->offset[i] = (offset + layout->mask[i]) & ~(uint32) layout->mask[i];
		offset = layout->offset[i] + column->attlen;
		layout->nfixed++;
	}
}

/* How many of the first columns have a value. */
static int
count_whole(HeapTupleHeader tuple, int most)
{
	int			n = 0;

	most = Min(most, HeapTupleHeaderGetNatts(tuple));
	if (!(tuple->t_infomask & HEAP_HASNULL))
		return most;
	while (n + BITS_PER_BYTE <= most && tuple->t_bits[n / BITS_PER_BYTE] == 0xff)
		n += BITS_PER_BYTE;
	while (n < most && !att_isnull(n, tuple->t_bits))
		n++;
	return n;
}

/* Finds out where the columns of a row stand. */
static void
locate(Layout *layout, HeapTupleHeader tuple)
{
	const char *data = (const char *) tuple + tuple->t_hoff;
	bool		has_nulls = (tuple->t_infomask & HEAP_HASNULL) != 0;
	int			stored = Min(layout->natts, HeapTupleHeaderGetNatts(tuple));
	int			first = count_whole(tuple, layout->nfixed);
	uint32		offset = first == 0 ? 0 : layout->offset[first - 1] + layout->length[first - 1];

	layout->data = data;
	layout->nwhole = first;
	for (int i = first; i < stored; i++)
	{
		int			length = layout->length[i];

		if (has_nulls && att_isnull(i, tuple->t_bits))
		{
			layout->at[i] = NULL;
			continue;
		}
		if (length != -1 || !VARATT_NOT_PAD_BYTE(data + offset))
			offset = (offset + layout->mask[i]) & ~(uint32) layout->mask[i];
		layout->at[i] = data + offset;
		offset = att_addlength_pointer(offset, length, data + offset);
	}
	for (int i = Max(first, stored); i < layout->natts; i++)
		layout->at[i] = NULL;
}

/* Where a column of the row stands; NULL for NULL. */
static inline const char *
column_at(const Layout *layout, int column)
{
	int			i = layout->column[column];

	return i < layout->nwhole ? layout->data + layout->offset[i] : layout->at[i];
}

static int64
number8(const Layout *layout, int column, int64 otherwise)
{
	const char *at = column_at(layout, column);

	return at == NULL ? otherwise : *(const int64 *) at;
}

static int32
number4(const Layout *layout, int column, int32 otherwise)
{
	const char *at = column_at(layout, column);

	return at == NULL ? otherwise : *(const int32 *) at;
}

/* A text of the row, and its length; NULL for NULL. */
static const char *
text_at(const Layout *layout, int column, int *length)
{
	const char *at = column_at(layout, column);

	if (at == NULL)
		return NULL;
	if (VARATT_IS_EXTERNAL(at) || VARATT_IS_COMPRESSED(at))
		at = (const char *) pg_detoast_datum_packed((struct varlena *) unconstify(char *, at));
	*length = VARSIZE_ANY_EXHDR(at);
	return VARDATA_ANY(at);
}

static pg_attribute_always_inline bool
text_is(const Layout *layout, int column, const char *wanted)
{
	int			length;
	const char *text = text_at(layout, column, &length);

	return text != NULL && length == (int) strlen(wanted) && memcmp(text, wanted, length) == 0;
}

/* What a row counts for, as llmq_use_settled() has it. */
static void
read_use(const Layout *layout, LlmqUse *use)
{
	bool		refused = column_at(layout, READ_HTTP_STATUS) != NULL && text_is(layout, READ_STATUS, "error");

	*use = (LlmqUse) {
		.input = number8(layout, READ_INPUT, refused ? 0 : number4(layout, READ_RESERVED_INPUT, 0)),
		.output = number8(layout, READ_OUTPUT, refused ? 0 : number4(layout, READ_RESERVED_OUTPUT, 0)),
		.cached = number8(layout, READ_CACHED, 0),.request = true,.failed = refused
	};
}

/* A figure that a settlement may have; no call takes as many tokens as have no place in it. */
static int32
read_tokens(const Layout *layout, int column)
{
	return (int32) Min(Max(number8(layout, column, LLMQ_NO_TOKENS), LLMQ_NO_TOKENS), PG_INT32_MAX);
}

/* What else there is in a row. */
static void
read_whole(const LlmqLedgerScan *scan, const Layout *layout, LlmqUsageRow *row)
{
	const char *cost_given = scan->with_cost ? column_at(layout, READ_COST_GIVEN) : NULL;

	row->cost_given = cost_given != NULL && *(const bool *) cost_given;
	row->reserved_input = number4(layout, READ_RESERVED_INPUT, LLMQ_NO_TOKENS);
	row->reserved_output = number4(layout, READ_RESERVED_OUTPUT, LLMQ_NO_TOKENS);
	row->settlement = (LlmqSettlement) {
		.outcome = text_is(layout, READ_STATUS, "released") ? LLMQ_OUTCOME_RELEASED :
			text_is(layout, READ_STATUS, "error") ? LLMQ_OUTCOME_ERROR : LLMQ_OUTCOME_OK,
		.answered = column_at(layout, READ_HTTP_STATUS) != NULL,.input = read_tokens(layout, READ_INPUT),
		.output = read_tokens(layout, READ_OUTPUT),.cached = read_tokens(layout, READ_CACHED),
		.cache_write = scan->with_cost ? read_tokens(layout, READ_CACHE_WRITE) : LLMQ_NO_TOKENS,
		.reasoning = scan->with_cost ? read_tokens(layout, READ_REASONING) : LLMQ_NO_TOKENS
	};
}

/* What a row says that the call cost. */
static void
read_cost(const LlmqLedgerScan *scan, const Layout *layout, LlmqCost *cost)
{
	MemoryContext caller;
	int			length;
	const char *currency;

	memset(cost, 0, sizeof(LlmqCost));
	if (!scan->with_cost || layout->column[READ_COST] < 0 || column_at(layout, READ_COST) == NULL)
		return;
	caller = MemoryContextSwitchTo(scan->scratch);
	currency = text_at(layout, READ_CURRENCY, &length);
	if (currency != NULL && length == LLMQ_CURRENCY_SIZE - 1)
	{
		memcpy(cost->currency, currency, length);
		cost->known = llmq_money_read(DatumGetNumeric(PointerGetDatum(column_at(layout, READ_COST))), &cost->amount);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextReset(scan->scratch);
}

/* What a row names. */
static LlmqLedgerName *
read_name(LlmqLedgerScan *scan, const Layout *layout, LlmqNamed kind, const LlmqUsageRow *row)
{
	LlmqLedgerPlace *last = &scan->last[kind];
	int			length;
	const char *text = text_at(layout, READ_NAMES + kind, &length);

	if (text == NULL)
		return NULL;
	if (length != last->length || memcmp(text, last->text, length) != 0)
	{
		last->name = llmq_ledger_name_known(scan->names, kind, text, length);
		last->length = length <= LLMQ_MAX_NAME ? length : -1;
		if (last->length > 0)
			memcpy(last->text, text, length);
	}
	return last->name == NULL || last->name->former == NULL ? last->name :
		llmq_ledger_name_now(last->name, row->picked_at, row->recorded_at);
}

/* Reads one row and shows it, if it is of this span. */
static void
read_row(LlmqLedgerScan *scan, Layout *layout, HeapTupleHeader tuple, TimestampTz from)
{
	LlmqUsageRow row;
	bool		released;

	/* most of the time goes into waiting for memory: have it bring the rows to come, which stand before this one */
	for (int ahead = 320; ahead <= 512; ahead += 64)
		__builtin_prefetch((const char *) tuple - ahead);
	locate(layout, tuple);
	row.picked_at = number8(layout, READ_PICKED_AT, 0);
	if (row.picked_at < from || row.picked_at >= scan->to)
		return;
	released = text_is(layout, READ_STATUS, "released");
	if ((released && !scan->whole) || column_at(layout, READ_STATUS) == NULL)
		return;
	memcpy(&row.lease, column_at(layout, READ_LEASE), UUID_LEN);
	row.recorded_at = number8(layout, READ_RECORDED_AT, 0);
	memset(&row.use, 0, sizeof(LlmqUse));
	if (!released)
		read_use(layout, &row.use);
	read_cost(scan, layout, &row.cost);
	if (scan->whole)
		read_whole(scan, layout, &row);
	for (int kind = 0; kind < LLMQ_NAMED_COUNT; kind++)
		row.name[kind] = scan->names->wanted[kind] ? read_name(scan, layout, kind, &row) : NULL;
	scan->visit(&row, scan->context);
}

/* The partition's BRIN index on picked_at, opened, and which of its columns that is; NULL when there is none. */
static Relation
open_index(Relation rel, AttrNumber picked_at, AttrNumber *column)
{
	ListCell   *cell;

	foreach(cell, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);

		*column = 0;
		for (int i = 0; i < index->rd_index->indnkeyatts; i++)
			if (index->rd_index->indkey.values[i] == picked_at)
				*column = i + 1;
		if (index->rd_rel->relam == BRIN_AM_OID && index->rd_index->indisvalid && *column != 0)
			return index;
		index_close(index, AccessShareLock);
	}
	return NULL;
}

/* The pages that may have rows of this span. */
static TIDBitmap *
find_pages(LlmqLedgerScan *scan, Relation index, AttrNumber column, TimestampTz from)
{
	TIDBitmap  *pages = tbm_create(work_mem * (Size) 1024, NULL);
	IndexScanDesc look = llmq_index_beginscan_bitmap_compat(index, scan->snapshot, 2);
	ScanKeyData key[2];

	ScanKeyEntryInitialize(&key[0], 0, column, BTGreaterEqualStrategyNumber, TIMESTAMPTZOID, InvalidOid,
						   F_TIMESTAMPTZ_GE, TimestampTzGetDatum(from));
	ScanKeyEntryInitialize(&key[1], 0, column, BTLessStrategyNumber, TIMESTAMPTZOID, InvalidOid,
						   F_TIMESTAMPTZ_LT, TimestampTzGetDatum(scan->to));
	index_rescan(look, key, 2, NULL, 0);
	(void) index_getbitmap(look, pages);
	index_endscan(look);
	return pages;
}

/* Reads all rows of so many pages. */
static void
read_pages(LlmqLedgerScan *scan, Relation rel, Layout *layout, TimestampTz from, BlockNumber first, BlockNumber last)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	ItemPointerData least;
	ItemPointerData most;
	TableScanDesc rows;

	ItemPointerSet(&least, first, FirstOffsetNumber);
	ItemPointerSet(&most, last, MaxOffsetNumber);
	rows = table_beginscan_tidrange(rel, scan->snapshot, &least, &most);
	while (table_scan_getnextslot_tidrange(rows, ForwardScanDirection, slot))
	{
		bool		free;
		HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, &free);

		read_row(scan, layout, tuple->t_data, from);
		if (free)
			heap_freetuple(tuple);
	}
	table_endscan(rows);
	ExecDropSingleTupleTableSlot(slot);
}

/* Reads the pages of a bitmap, those that stand together at once. */
static void
read_bitmap(LlmqLedgerScan *scan, Relation rel, Layout *layout, TimestampTz from, TIDBitmap *pages)
{
	LlmqPageIterator iterator;
	BlockNumber first = InvalidBlockNumber;
	BlockNumber next = InvalidBlockNumber;
	BlockNumber page;

	llmq_pages_begin_compat(&iterator, pages);
	while (llmq_pages_next_compat(&iterator, &page))
	{
		if (page != next && next != InvalidBlockNumber)
			read_pages(scan, rel, layout, from, first, next - 1);
		if (page != next)
			first = page;
		next = page + 1;
	}
	llmq_pages_end_compat(&iterator);
	if (next != InvalidBlockNumber)
		read_pages(scan, rel, layout, from, first, next - 1);
}

/* Reads the rows of one partition that were picked from..scan->to. */
static void
read_partition(LlmqLedgerScan *scan, Oid relid, TimestampTz from)
{
	Relation	rel = try_table_open(relid, AccessShareLock);
	Layout	   *layout;
	Relation	index;
	AttrNumber	column;

	if (rel == NULL)
		return;
	layout = palloc(sizeof(Layout));
	layout_init(layout, scan, rel);
	index = open_index(rel, layout->column[READ_PICKED_AT] + 1, &column);
	if (index != NULL)
	{
		TIDBitmap  *pages = find_pages(scan, index, column, from);

		read_bitmap(scan, rel, layout, from, pages);
		tbm_free(pages);
		index_close(index, AccessShareLock);
	}
	else
		read_pages(scan, rel, layout, from, 0, MaxBlockNumber);
	pfree(layout);
	table_close(rel, AccessShareLock);
}

/*
 * Reads the newest day that is left, and what else was picked since it began: scan->to says then before when the ledger
 * is still to be read. False when it has all been read.
 */
bool
llmq_ledger_scan_step(LlmqLedgerScan *scan)
{
	LlmqLedgerDay *leaf = scan->leaves == NIL ? NULL : linitial(scan->leaves);
	TimestampTz from = leaf == NULL ? scan->from : Max(scan->from, leaf->begins);
	ListCell   *cell;

	if (scan->to <= scan->from)
		return false;
	if (leaf != NULL)
		read_partition(scan, leaf->relid, from);
	foreach(cell, scan->others)
		read_partition(scan, lfirst_oid(cell), from);
	scan->leaves = list_delete_first(scan->leaves);
	scan->to = from;
	return true;
}

/*
 * Reads the oldest day that is left; or, of days before it that have no leaf, what else was picked on them: scan->from
 * says then since when the ledger is still to be read. False when it has all been read.
 */
bool
llmq_ledger_scan_forward(LlmqLedgerScan *scan)
{
	LlmqLedgerDay *leaf = scan->leaves == NIL ? NULL : llast(scan->leaves);
	bool		has_leaf = leaf != NULL && leaf->begins <= scan->from;
	TimestampTz to = scan->to;
	ListCell   *cell;

	if (to <= scan->from)
		return false;
	if (has_leaf)
		scan->to = Min(to, leaf->begins + USECS_PER_DAY);
	else if (leaf != NULL)
		scan->to = leaf->begins;
	if (has_leaf)
		read_partition(scan, leaf->relid, scan->from);
	foreach(cell, scan->others)
		read_partition(scan, lfirst_oid(cell), scan->from);
	if (has_leaf)
		scan->leaves = list_delete_last(scan->leaves);
	scan->from = scan->to;
	scan->to = to;
	return true;
}
