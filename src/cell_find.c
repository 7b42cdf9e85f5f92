/*
 * cell_find.c
 *	  Finds cells and reads them: by id, by key, or all of them.
 *
 * Reading takes one share lock at a time, copies out, and holds nothing. Each backend remembers where a cell's row is;
 * a remembered address is only a hint, checked against the page on every use, and forgotten when the table's file
 * changes (VACUUM FULL) or the relation cache says that the table did. Index scans use SnapshotSelf: cells are frozen
 * rows, and it takes no predicate locks. Nothing in this file may be called while a page is locked, but for the
 * functions on a page's image.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/htup_details.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "cell.h"
#include "compat.h"
#include "name.h"
#include "relation.h"

/* Column numbers of the live tables; id and state are the first two of each. */
#define ATT_ID 1
#define ATT_KIND 3				/* meter.scope, name.kind */
#define ATT_SUBJECT 4			/* meter */
#define ATT_PART 5				/* meter */
#define ATT_NAME 4				/* name */

/*
 * Where the state begins in a tuple: header and id are 24 and 4 bytes, the varlena header 4. No column is null and all
 * storage is plain, so it is the same in every row, and 8-aligned as the tuple is.
 */
#define STATE_OFFSET (MAXALIGN(SizeofHeapTupleHeader) + sizeof(int32) + VARHDRSZ)

StaticAssertDecl(STATE_OFFSET == 32, "the state of a cell is 8-aligned in its tuple");

/* Where a row was last seen, in the file and in shared buffers; id 0: nothing; -id: it was not where it should be. */
typedef struct KnownRow
{
	int32		id;
	Buffer		buffer;
	ItemPointerData tid;
} KnownRow;

/*
 * One place for each id modulo the size, a power of two. Ids are given out one after the other and never again, and so
 * those in use are close together, whatever their number: few of them share a place.
 */
typedef struct KnownRows
{
	KnownRow   *row;
	int32		size;
	BlockNumber blocks;			/* there are so many, or more; no file gets shorter but by a new one */
} KnownRows;

#define LEAST_KNOWN_ROWS 64
#define MOST_KNOWN_ROWS 32768

static KnownRows known[LLMQ_LIVE_COUNT];

/* CRC-32C of a state, its own crc field left out. */
uint32
llmq_cell_crc(const LlmqCellHeader *state)
{
	const char *bytes = (const char *) state;
	Size		after = offsetof(LlmqCellHeader, crc) + sizeof(uint32);
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, bytes, offsetof(LlmqCellHeader, crc));
	COMP_CRC32C(crc, bytes + after, state->length - after);
	FIN_CRC32C(crc);
	return crc;
}

bool
llmq_cell_crc_holds(const LlmqCellHeader *state)
{
	return state->crc == llmq_cell_crc(state);
}

/* The state inside a tuple if it is one of ours and whole; NULL otherwise. */
static LlmqCellHeader *
state_in_tuple(HeapTupleHeader tuple, Size tuple_length, LlmqLiveTable table)
{
	LlmqCellHeader *state = (LlmqCellHeader *) ((char *) tuple + STATE_OFFSET);

	if (tuple_length < STATE_OFFSET + sizeof(LlmqCellHeader) || tuple->t_hoff != MAXALIGN(SizeofHeapTupleHeader))
		return NULL;
	if (state->magic != llmq_live_kinds[table].magic || state->version != LLMQ_CELL_VERSION ||
		state->length < sizeof(LlmqCellHeader) || state->length > tuple_length - STATE_OFFSET)
		return NULL;
	return state;
}

/*
 * The state of a cell in a page image that is locked or private: NULL unless the line pointer is normal, the row is
 * not deleted (a mere locker's xmax is no matter), and the state is this cell's.
 */
LlmqCellHeader *
llmq_cell_in_page(char *page, ItemPointer tid, LlmqLiveTable table, int32 id)
{
	OffsetNumber offset = ItemPointerGetOffsetNumber(tid);
	HeapTupleHeader tuple;
	LlmqCellHeader *state;
	ItemId		item;

	if (PageIsNew(page) || offset > PageGetMaxOffsetNumber(page))
		return NULL;
	item = PageGetItemId(page, offset);
	if (!ItemIdIsNormal(item))
		return NULL;
	tuple = (HeapTupleHeader) PageGetItem(page, item);
	if (!(tuple->t_infomask & HEAP_XMAX_INVALID) && !HEAP_XMAX_IS_LOCKED_ONLY(tuple->t_infomask))
		return NULL;
	state = state_in_tuple(tuple, ItemIdGetLength(item), table);
	return state != NULL && state->id == id ? state : NULL;
}

/* The place of an id, NULL when there are none yet. */
static KnownRow *
place_of(LlmqLiveTable table, int32 id)
{
	return known[table].size == 0 ? NULL : &known[table].row[id & (known[table].size - 1)];
}

/* Forgets where a row was. */
void
llmq_cell_forget(LlmqLiveTable table, int32 id)
{
	KnownRow   *place = place_of(table, id);

	if (place != NULL && place->id == id)
		place->id = -id;
}

void
llmq_cell_forget_all(LlmqLiveTable table)
{
	for (int32 i = 0; i < known[table].size; i++)
		known[table].row[i].id = 0;
	known[table].blocks = 0;
}

/* Makes places enough for an id, if it may. */
static void
add_places(KnownRows *rows, int32 id)
{
	KnownRows	old = *rows;

	rows->size = Max(rows->size, LEAST_KNOWN_ROWS);
	while (rows->size <= id && rows->size < MOST_KNOWN_ROWS)
		rows->size *= 2;
	rows->row = MemoryContextAllocZero(TopMemoryContext, sizeof(KnownRow) * rows->size);
	for (int32 i = 0; i < old.size; i++)
		rows->row[abs(old.row[i].id) & (rows->size - 1)] = old.row[i];
	if (old.row != NULL)
		pfree(old.row);
}

/* Remembers where a row is. */
static void
remember(LlmqLiveTable table, int32 id, ItemPointer tid)
{
	KnownRows  *rows = &known[table];
	KnownRow   *place;

	if (rows->size <= id && rows->size < MOST_KNOWN_ROWS)
		add_places(rows, id);
	place = place_of(table, id);
	if (place->id != id)
		place->buffer = InvalidBuffer;
	place->id = id;
	place->tid = *tid;
}

/* Does a state count: is it one of ours, born and not moved away? */
static bool
is_counting(const LlmqCellHeader *state)
{
	return state != NULL && (state->flags & (LLMQ_CELL_BORN | LLMQ_CELL_MOVED)) == LLMQ_CELL_BORN;
}

/* Is this the state of a cell that was never born, has moved away, or was retired? */
bool
llmq_cell_is_dead(const LlmqCellHeader *state)
{
	return !is_counting(state);
}

/* The state in a row of a live table; NULL when it is none. */
LlmqCellHeader *
llmq_cell_in_tuple(HeapTuple tuple, LlmqLiveTable table)
{
	return state_in_tuple(tuple->t_data, tuple->t_len, table);
}

/* The first born row that an index scan finds: its id (0 when there is none) and address. */
static int32
scan_for_born(Relation rel, LlmqLiveTable table, Oid index, ScanKey keys, int nkeys, ItemPointer tid)
{
	SysScanDesc scan = systable_beginscan(rel, index, true, SnapshotSelf, nkeys, keys);
	HeapTuple	tuple;
	int32		id = 0;

	while (id == 0 && (tuple = systable_getnext(scan)) != NULL)
	{
		LlmqCellHeader *state = state_in_tuple(tuple->t_data, tuple->t_len, table);

		if (!is_counting(state))
			continue;
		id = state->id;
		*tid = tuple->t_self;
	}
	systable_endscan(scan);
	return id;
}

/* Finds a cell through the index and remembers it. False when there is no such cell. */
static bool
find_by_id(LlmqLive *live, LlmqLiveTable table, int32 id, ItemPointer tid)
{
	ScanKeyData key;

	ScanKeyInit(&key, ATT_ID, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(id));
	if (scan_for_born(live->rel[table], table, llmq_relation_oid(llmq_live_kinds[table].id_index), &key, 1, tid) == 0)
		return false;
	remember(table, id, tid);
	return true;
}

/*
 * Lease pages and cells of hashed entries stay for ever, so most of their rows lie in the file in the order of their
 * ids, so many to a block: there a cell should be. Who is looking for a free slot, or for an entry, goes to pages at
 * random, and has them for a fraction of what the index takes.
 */
static bool
expect_in_order(LlmqLive *live, LlmqLiveTable table, int32 id, ItemPointer tid)
{
	int			in_block = llmq_live_kinds[table].in_block;
	BlockNumber block;

	if (in_block == 0 || id < 1)
		return false;
	block = (BlockNumber) (id - 1) / in_block;
	if (block >= known[table].blocks)
		known[table].blocks = RelationGetNumberOfBlocks(live->rel[table]);
	if (block >= known[table].blocks)
		return false;
	ItemPointerSet(tid, block, FirstOffsetNumber + (id - 1) % in_block);
	remember(table, id, tid);
	return true;
}

/*
 * Where the row of a cell is: remembered, expected, or found. False when there is no such cell. Whoever does not find
 * it there has llmq_cell_forget() know, and asks again.
 */
bool
llmq_cell_locate(LlmqLive *live, LlmqLiveTable table, int32 id, ItemPointer tid)
{
	KnownRow   *place = place_of(table, id);

	if (!llmq_live_has(live, table))
		return false;
	if (id > 0 && place != NULL && place->id == id)
	{
		*tid = place->tid;
		return true;
	}
	if (id > 0 && place != NULL && place->id == -id)
		return find_by_id(live, table, id, tid);
	return expect_in_order(live, table, id, tid) || find_by_id(live, table, id, tid);
}

/* Pins the page of a cell that has been located, where it was in shared buffers the last time if it still is there. */
Buffer
llmq_cell_pin(LlmqLive *live, LlmqLiveTable table, int32 id, BlockNumber block)
{
	KnownRow   *place = place_of(table, id);

	if (place == NULL || place->id != id)
		return ReadBuffer(live->rel[table], block);
	if (!BufferIsValid(place->buffer) || !llmq_read_recent_buffer_compat(live->rel[table], block, place->buffer))
		place->buffer = ReadBuffer(live->rel[table], block);
	return place->buffer;
}

/*
 * Calls `peek` with a cell in its page, under a share lock. False when it is not there (any more). A row that has moved
 * since it was remembered is looked for once more.
 */
bool
llmq_cell_peek(LlmqLive *live, LlmqLiveTable table, int32 id, LlmqCellPeek peek, void *argument)
{
	for (int attempt = 0; attempt < 2; attempt++)
	{
		ItemPointerData tid;
		LlmqCellHeader *state;
		Buffer		buffer;

		if (!llmq_cell_locate(live, table, id, &tid))
			return false;
		buffer = llmq_cell_pin(live, table, id, ItemPointerGetBlockNumber(&tid));
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		state = llmq_cell_in_page(BufferGetPage(buffer), &tid, table, id);
		if (state != NULL && (state->flags & LLMQ_CELL_MOVED))
			state = NULL;
		if (state != NULL)
			peek(state, argument);
		UnlockReleaseBuffer(buffer);
		if (state != NULL)
			return true;
		llmq_cell_forget(table, id);
	}
	return false;
}

/* Where a copy goes. */
typedef struct Copy
{
	void	   *state;
	Size		size;
} Copy;

static void
copy_state(const LlmqCellHeader *state, void *argument)
{
	Copy	   *copy = argument;

	memcpy(copy->state, state, Min(state->length, copy->size));
}

/* Copies a cell out, at most `size` bytes of it. False when it is not there (any more). */
bool
llmq_cell_copy(LlmqLive *live, LlmqLiveTable table, int32 id, void *state, Size size)
{
	Copy		copy = {.state = state,.size = size};

	return llmq_cell_peek(live, table, id, copy_state, &copy);
}

/* The id of the cell with this key, 0 when there is none. */
int32
llmq_cell_find(LlmqLive *live, const LlmqCellKey *key)
{
	Relation	rel = live->rel[key->table];
	ItemPointerData tid;
	ScanKeyData keys[3];
	int			nkeys;
	Oid			index;
	int32		id;

	if (!llmq_live_has(live, key->table))
		return 0;
	ScanKeyInit(&keys[0], ATT_KIND, BTEqualStrategyNumber, F_CHAREQ, CharGetDatum(key->kind));
	if (key->table != LLMQ_LIVE_NAME)
	{
		ScanKeyInit(&keys[1], ATT_SUBJECT, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(key->subject));
		ScanKeyInit(&keys[2], ATT_PART, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(key->part));
		nkeys = 3;
		index = llmq_relation_oid(key->table == LLMQ_LIVE_METER ? LLMQ_REL_METER_KEY : LLMQ_REL_HEALTH_KEY);
	}
	else
	{
		ScanKeyEntryInitialize(&keys[1], 0, ATT_NAME, BTEqualStrategyNumber, InvalidOid, C_COLLATION_OID, F_TEXTEQ,
							   CStringGetTextDatum(key->name));
		nkeys = 2;
		index = llmq_relation_oid(LLMQ_REL_NAME_KEY);
	}
	id = scan_for_born(rel, key->table, index, keys, nkeys, &tid);
	if (id != 0)
		remember(key->table, id, &tid);
	return id;
}

/* The key columns of a row of llmquota.meter or health: fixed-width, behind the state. */
void
llmq_cell_key(HeapTuple tuple, LlmqLiveTable table, LlmqCellKey *key)
{
	LlmqCellHeader *state = state_in_tuple(tuple->t_data, tuple->t_len, table);
	char	   *kind = (char *) state + state->length;
	char	   *subject = (char *) tuple->t_data + INTALIGN(kind + 1 - (char *) tuple->t_data);

	key->table = table;
	key->kind = *kind;
	memcpy(&key->subject, subject, sizeof(int32));
	memcpy(&key->part, subject + sizeof(int32), sizeof(int32));
	key->name = NULL;
}

/* The largest id in use, of the cells that were born if only these count; 0: there is none. */
static int32
last_id(LlmqLive *live, LlmqLiveTable table, bool born)
{
	Relation	rel = live->rel[table];
	Relation	index = relation_open(llmq_relation_oid(llmq_live_kinds[table].id_index), AccessShareLock);
	SysScanDesc scan = systable_beginscan_ordered(rel, index, SnapshotSelf, 0, NULL);
	HeapTuple	tuple;
	int32		id = 0;

	while (id == 0 && (tuple = systable_getnext_ordered(scan, BackwardScanDirection)) != NULL)
	{
		bool		isnull;

		if (!born || is_counting(state_in_tuple(tuple->t_data, tuple->t_len, table)))
			id = DatumGetInt32(heap_getattr(tuple, ATT_ID, RelationGetDescr(rel), &isnull));
	}
	systable_endscan_ordered(scan);
	relation_close(index, AccessShareLock);
	return id;
}

/* The largest id in use, born or not; 0 when the table is empty. */
int32
llmq_cell_last_id(LlmqLive *live, LlmqLiveTable table)
{
	return last_id(live, table, false);
}

/* The largest id of a cell that was born; 0: there is none. */
int32
llmq_cell_last_born(LlmqLive *live, LlmqLiveTable table)
{
	return last_id(live, table, true);
}

/*
 * Calls `visit` with the rows in a part of a table's file, dead ones too, as they stand in the page: nobody keeps
 * others from changing what it sees, so whatever is concluded has to be checked again. Rows may be deleted meanwhile.
 */
void
llmq_cell_scan(LlmqLive *live, const LlmqCellRange *range, LlmqCellVisitor visit, void *argument)
{
	TableScanDesc scan = table_beginscan_strat(live->rel[range->table], SnapshotSelf, 0, NULL, true, false);
	HeapTuple	tuple;

	heap_setscanlimits(scan, range->first, range->count);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		LlmqCellHeader *state = state_in_tuple(tuple->t_data, tuple->t_len, range->table);

		CHECK_FOR_INTERRUPTS();
		if (state != NULL)
			visit(state, tuple, argument);
	}
	table_endscan(scan);
}

/* The scope in which an org counts with those below it: the one whose letter is not that of its subjects' names. */
#define PARENT_LETTER 't'

/* Is there a meter that counts something for a name, as its subject or part? */
bool
llmq_cell_is_counted(LlmqLive *live, char kind, int32 name)
{
	bool		part = kind == LLMQ_NAME_MODEL || kind == LLMQ_NAME_FAMILY;
	ItemPointerData tid;
	ScanKeyData keys[2];

	if (kind == LLMQ_NAME_ORG && llmq_cell_is_counted(live, PARENT_LETTER, name))
		return true;
	/* scopes and the kinds of their subjects' names are mostly the same letters */
	ScanKeyInit(&keys[0], ATT_KIND, BTEqualStrategyNumber, F_CHAREQ, CharGetDatum(kind));
	ScanKeyInit(&keys[1], part ? ATT_PART : ATT_SUBJECT, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(name));
	return scan_for_born(live->rel[LLMQ_LIVE_METER], LLMQ_LIVE_METER, llmq_relation_oid(LLMQ_REL_METER_KEY),
						 part ? &keys[1] : keys, part ? 1 : 2, &tid) != 0;
}

/* Is this the id of a name, and not of one that has been retired? 0 stands for nobody, which is always there. */
bool
llmq_cell_is_named(LlmqLive *live, int32 name)
{
	LlmqCellHeader state;

	return name == 0 || llmq_cell_copy(live, LLMQ_LIVE_NAME, name, &state, sizeof(state));
}

/* The name in a row of llmquota.name, its kind before it. */
char *
llmq_cell_name(LlmqLive *live, HeapTuple tuple)
{
	TupleDesc	desc = RelationGetDescr(live->rel[LLMQ_LIVE_NAME]);
	bool		isnull;
	char		kind = DatumGetChar(heap_getattr(tuple, ATT_KIND, desc, &isnull));

	return psprintf("%c%s", kind, TextDatumGetCString(heap_getattr(tuple, ATT_NAME, desc, &isnull)));
}

/* A scan whose rows are visited as copies. */
typedef struct CopyScan
{
	LlmqLive   *live;
	LlmqLiveTable table;
	LlmqCellVisitor visit;
	void	   *argument;
	LlmqCellHeader *copy;
	MemoryContext context;		/* of one visit */
} CopyScan;

static void
visit_copy(const LlmqCellHeader *state, HeapTuple tuple, void *argument)
{
	CopyScan   *scan = argument;
	MemoryContext caller;

	if (!is_counting(state))
		return;
	remember(scan->table, state->id, &tuple->t_self);
	if (!llmq_cell_copy(scan->live, scan->table, state->id, scan->copy, BLCKSZ))
		return;
	caller = MemoryContextSwitchTo(scan->context);
	scan->visit(scan->copy, tuple, scan->argument);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(scan->context);
}

/*
 * Calls `visit` with a private copy of every born cell in a part of a table's file, each taken under a share lock. What
 * `visit` allocates is gone afterwards.
 */
void
llmq_cell_walk_part(LlmqLive *live, const LlmqCellRange *range, LlmqCellVisitor visit, void *argument)
{
	CopyScan	scan = {
		.live = live,.table = range->table,.visit = visit,.argument = argument,.copy = palloc(BLCKSZ),
		.context = AllocSetContextCreate(CurrentMemoryContext, "llmquota walk", ALLOCSET_DEFAULT_SIZES)
	};

	llmq_cell_scan(live, range, visit_copy, &scan);
	MemoryContextDelete(scan.context);
	pfree(scan.copy);
}

/* The same for all of a table, in the order of the file: the heap is read as a whole and not through an index. */
void
llmq_cell_walk(LlmqLive *live, LlmqLiveTable table, LlmqCellVisitor visit, void *argument)
{
	LlmqCellRange range = {.table = table,.count = RelationGetNumberOfBlocks(live->rel[table])};

	llmq_cell_walk_part(live, &range, visit, argument);
}
