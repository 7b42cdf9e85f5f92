/*
 * cell_birth.c
 *	  Creates cells, gives them more room, retires them, and deletes the rows of those that are no more.
 *
 * A cell is born outside the caller's fate: its row is frozen, so a rollback does not take it back. No page is locked
 * when a birth begins. Under the creation lock (heavyweight, on the live table, after the relation lock, released at
 * once) the creator looks again, inserts the row and its index entries, and sets the `born` mark with the first change
 * in place. Lookups skip rows without the mark, so an error, a cancel, a full disk or a crash at any step leaves
 * nothing but a row that llmq_cell_delete_dead() removes. Such a row is not adopted: it may be in only some of the
 * indexes. The creation lock is what makes keys unique; the indexes are not, so a dead row can never make VACUUM FULL
 * or REINDEX fail.
 *
 * A cell is retired as it is born: under the creation lock, by a mark in place. The mark alone makes it dead for
 * everybody, at once and for good, and so its row may be deleted later, in any transaction, and again when that one is
 * rolled back. Whoever meets the mark looks again, finds nothing, and creates the cell anew, for which it waits for the
 * lock. A meter is not born for a name that has been retired.
 *
 * Rows are inserted and deleted with FirstCommandId: replay writes that one, and any other would make the primary's
 * page differ.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/hio.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "cell.h"
#include "compat.h"
#include "inject.h"

/* The creation lock of a table: an object lock on its pg_class entry, with a sub-id that nothing else uses. */
#define CREATION_LOCK_SUBID 1

static void
lock_creation(Relation rel)
{
	LockDatabaseObject(RelationRelationId, RelationGetRelid(rel), CREATION_LOCK_SUBID, ExclusiveLock);
}

static void
unlock_creation(Relation rel)
{
	UnlockDatabaseObject(RelationRelationId, RelationGetRelid(rel), CREATION_LOCK_SUBID, ExclusiveLock);
}

/* Puts index entries for a fresh row into every ready index, a DBA's own included. */
static void
insert_index_entries(Relation rel, HeapTuple tuple)
{
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *target = makeNode(ResultRelInfo);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);

	InitResultRelInfo(target, rel, 0, NULL, 0);
	ExecStoreHeapTuple(tuple, slot, false);
	slot->tts_tableOid = RelationGetRelid(rel);
	ExecOpenIndices(target, false);
	(void) llmq_insert_index_tuples_compat(target, slot, estate);
	ExecCloseIndices(target);
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
}

/* The row of a new cell: its key columns, and a state of which only the header counts until it is born. */
static HeapTuple
form_row(Relation rel, const LlmqCellKey *key, const LlmqCellHeader *state)
{
	Datum		values[5];
	bool		nulls[5] = {false};
	bytea	   *bytes = palloc(VARHDRSZ + state->length);

	SET_VARSIZE(bytes, VARHDRSZ + state->length);
	memcpy(VARDATA(bytes), state, state->length);
	values[0] = Int32GetDatum(state->id);
	values[1] = PointerGetDatum(bytes);
	values[2] = CharGetDatum(key->kind);
	if (key->table == LLMQ_LIVE_METER || key->table == LLMQ_LIVE_HEALTH)
	{
		values[3] = Int32GetDatum(key->subject);
		values[4] = Int32GetDatum(key->part);
	}
	else if (key->table == LLMQ_LIVE_NAME)
		values[3] = CStringGetTextDatum(key->name);
	return heap_form_tuple(RelationGetDescr(rel), values, nulls);
}

/*
 * Has the next row go to the last page, if there is room. Else each backend would go on at the page where it has put
 * its last one, and rows would lie as chance has it: see expect_in_order() in cell_find.c.
 */
static void
continue_at_end(Relation rel)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);

	if (nblocks > 0)
		RelationSetTargetBlock(rel, nblocks - 1);
}

/* Inserts a row with its index entries, not yet born. */
static ItemPointerData
insert_row(Relation rel, const LlmqCellKey *key, LlmqCellHeader *state)
{
	HeapTuple	tuple;

	state->magic = llmq_live_kinds[key->table].magic;
	state->version = LLMQ_CELL_VERSION;
	state->flags = 0;
	state->crc = llmq_cell_crc(state);
	tuple = form_row(rel, key, state);
	if (llmq_live_kinds[key->table].in_block > 0)
		continue_at_end(rel);
	heap_insert(rel, tuple, FirstCommandId, HEAP_INSERT_FROZEN | HEAP_INSERT_NO_LOGICAL, NULL);
	LLMQ_INJECT_ERROR("birth-row");
	insert_index_entries(rel, tuple);
	LLMQ_INJECT_ERROR("birth-index");
	return tuple->t_self;
}

/* Pins the pages of rows of one cell, locks them highest block first (each once), and copies the states. */
static void
lock_rows(Relation rel, const LlmqCellKey *key, int32 id, ItemPointerData *tids, LlmqCellWrite *row, int nrows)
{
	bool		same = nrows == 2 && ItemPointerGetBlockNumber(&tids[0]) == ItemPointerGetBlockNumber(&tids[1]);

	llmq_cell_write_prepare();
	for (int i = 0; i < nrows; i++)
		row[i].buffer = same && i == 1 ? row[0].buffer : ReadBuffer(rel, ItemPointerGetBlockNumber(&tids[i]));
	for (int i = 0; i < nrows; i++)
	{
		if (!(same && i == 1))
			LockBuffer(row[i].buffer, BUFFER_LOCK_EXCLUSIVE);
		row[i].state = llmq_cell_in_page(BufferGetPage(row[i].buffer), &tids[i], key->table, id);
		if (row[i].state == NULL)
			elog(ERROR, "cell %d is not where it was put", id);
		row[i].copy = llmq_cell_write_copy(row[i].state);
	}
}

static void
write_and_unlock_rows(Relation rel, const LlmqCellWrite *row, int nrows)
{
	(void) llmq_cell_write(rel, row, nrows);
	for (int i = nrows - 1; i >= 0; i--)
		if (i == 0 || row[i].buffer != row[0].buffer)
			UnlockReleaseBuffer(row[i].buffer);
}

/* Sets the born mark: the first change in place. */
static void
mark_born(Relation rel, const LlmqCellKey *key, int32 id, ItemPointerData tid)
{
	LlmqCellWrite row;

	lock_rows(rel, key, id, &tid, &row, 1);
	row.copy->flags = LLMQ_CELL_BORN;
	write_and_unlock_rows(rel, &row, 1);
}

/*
 * The id of a new cell: one more than the largest of all. Ids are not given out twice, but for those of births that
 * failed, where the ids of a table may have no gaps; those of retired cells do not count against the bound.
 */
static int32
next_id(LlmqLive *live, LlmqLiveTable table, int32 max_cells)
{
	int32		last = llmq_live_kinds[table].has_no_gaps ? llmq_cell_last_born(live, table) : llmq_cell_last_id(live, table);

	if (last == PG_INT32_MAX)
		return LLMQ_CELL_TOO_MANY;
	if (last >= max_cells && (llmq_live_kinds[table].has_no_key || last - llmq_tally_retired(live, table) >= max_cells))
		return LLMQ_CELL_TOO_MANY;
	return last + 1;
}

/* Creates a cell under the creation lock; its id, or why there is none. `names` has all tables open. */
static int32
create(LlmqLive *names, const LlmqCellKey *key, LlmqCellHeader *state, int32 max_cells)
{
	Relation	rel = names->rel[key->table];
	ItemPointerData tid;

	/* the creation lock of the meters is held: no name is retired meanwhile */
	if (key->table == LLMQ_LIVE_METER &&
		!(llmq_cell_is_named(names, key->subject) && llmq_cell_is_named(names, key->part)))
		return LLMQ_CELL_NAMELESS;
	state->id = next_id(names, key->table, max_cells);
	if (state->id == LLMQ_CELL_TOO_MANY)
		return LLMQ_CELL_TOO_MANY;
	tid = insert_row(rel, key, state);
	mark_born(rel, key, state->id, tid);
	LLMQ_INJECT_ERROR("birth-mark");
	return state->id;
}

/*
 * Creates the cell with this key, unless somebody else has, and returns its id. `state` gives length and contents; its
 * header is filled in here. When there would be more than `max_cells`, or the names in the key have been retired,
 * returns that.
 */
int32
llmq_cell_create(LlmqLive *live, const LlmqCellKey *key, LlmqCellHeader *state, int32 max_cells)
{
	Relation	rel = live->rel[key->table];
	LlmqLive	names;
	int32		id;

	llmq_live_open(&names, LLMQ_LIVE_COUNT, RowExclusiveLock);
	lock_creation(rel);
	id = llmq_live_kinds[key->table].has_no_key ? 0 : llmq_cell_find(&names, key);
	if (id == 0)
		id = create(&names, key, state, max_cells);
	unlock_creation(rel);
	llmq_live_close(&names);
	return id;
}

/*
 * Fills the new row from the old one and swaps their marks, in one record. Both rows exist: the creation lock is
 * held.
 */
static void
swap_rows(Relation rel, const LlmqCellKey *key, int32 id, ItemPointerData old_tid, ItemPointerData new_tid,
		  LlmqCellFill fill)
{
	bool		new_first = ItemPointerGetBlockNumber(&new_tid) >= ItemPointerGetBlockNumber(&old_tid);
	ItemPointerData tids[2] = {new_first ? new_tid : old_tid, new_first ? old_tid : new_tid};
	LlmqCellWrite row[2];
	LlmqCellHeader *old_state;
	LlmqCellHeader *new_state;

	lock_rows(rel, key, id, tids, row, 2);
	old_state = row[new_first ? 1 : 0].copy;
	new_state = row[new_first ? 0 : 1].copy;
	fill(new_state, old_state);
	new_state->flags = LLMQ_CELL_BORN;
	old_state->flags |= LLMQ_CELL_MOVED;
	write_and_unlock_rows(rel, row, 2);
}

/*
 * Moves a cell into a new row with more room, unless it has that much already. `fill` copies the contents of the
 * locked old state into the image of the new one; the old row is marked moved and the new one born in one record, so
 * there is always exactly one. False when the cell is gone.
 */
bool
llmq_cell_grow(LlmqLive *live, const LlmqCellKey *key, LlmqCellHeader *larger, LlmqCellFill fill)
{
	Relation	rel = live->rel[key->table];
	int32		id = larger->id;
	ItemPointerData old_tid;
	ItemPointerData new_tid;
	LlmqCellHeader now;
	bool		found;

	lock_creation(rel);
	llmq_cell_forget(key->table, id);
	found = llmq_cell_copy(live, key->table, id, &now, sizeof(now));
	if (found && now.length < larger->length)
	{
		new_tid = insert_row(rel, key, larger);
		if (!llmq_cell_locate(live, key->table, id, &old_tid))
			elog(ERROR, "cell %d is gone", id);
		swap_rows(rel, key, id, old_tid, new_tid, fill);
		llmq_cell_forget(key->table, id);
	}
	unlock_creation(rel);
	return found;
}

/* Holds births of a table, and so retirement too, until the lock is given back or the transaction ends. */
void
llmq_cell_lock_creation(LlmqLive *live, LlmqLiveTable table)
{
	lock_creation(live->rel[table]);
}

/* The same, and if not to wait for it only if nobody else does. */
bool
llmq_cell_try_lock_creation(LlmqLive *live, LlmqLiveTable table, bool wait)
{
	if (!wait)
		return ConditionalLockDatabaseObject(RelationRelationId, RelationGetRelid(live->rel[table]),
											 CREATION_LOCK_SUBID, ExclusiveLock);
	lock_creation(live->rel[table]);
	return true;
}

void
llmq_cell_unlock_creation(LlmqLive *live, LlmqLiveTable table)
{
	unlock_creation(live->rel[table]);
}

/*
 * Retires a cell that nobody needs: marks it in place, for good, and counts it in the same record. From then on it is
 * dead for everybody, whenever its row is deleted. False when it is gone already, or `may_retire` says no. The creation
 * lock of the table is held.
 */
bool
llmq_cell_retire(LlmqLive *live, LlmqLiveTable table, int32 id, LlmqCellRetiring may_retire, const void *argument)
{
	LlmqCellSet set;
	LlmqCellHeader *copy;
	int			cell;
	int			tally;
	bool		retired = false;

	llmq_set_init(&set, live);
	cell = llmq_set_add(&set, table, id);
	tally = llmq_set_add(&set, LLMQ_LIVE_NAME, llmq_tally_id(live));
	if (llmq_set_lock(&set) == LLMQ_LOCKED)
	{
		copy = llmq_set_change(&set, cell);
		retired = may_retire(copy, argument);
		if (retired)
		{
			copy->flags |= LLMQ_CELL_MOVED | LLMQ_CELL_RETIRED;
			llmq_tally_count(llmq_set_change(&set, tally), table);
			llmq_set_log(&set, 0);
		}
		llmq_set_unlock(&set);
	}
	if (retired)
		LLMQ_INJECT_CRASH("retire-mark", set.lsn);
	return retired;
}

/* Deletes a dead row, unless somebody has locked it. The creation lock is held. */
static bool
delete_row(Relation rel, ItemPointer tid)
{
	TM_FailureData failure;

	return heap_delete(rel, tid, FirstCommandId, InvalidSnapshot, false, &failure, false) == TM_Ok;
}

/* What is left to delete_dead_row(). */
typedef struct Deleting
{
	LlmqLive   *live;
	LlmqLiveTable table;
	int32		last_id;
	int64		deleted;
} Deleting;

/* Counts an id that a failed birth has used up: its row will be gone. One that failed to grow shares its cell's. */
static void
count_unborn(Deleting *deleting, const LlmqCellHeader *state)
{
	ItemPointerData tid;
	LlmqCellSet set;
	LlmqTally  *tally;

	if (llmq_live_kinds[deleting->table].has_no_key || llmq_cell_locate(deleting->live, deleting->table, state->id, &tid))
		return;
	tally = llmq_tally_lock(deleting->live, &set);
	if (tally == NULL)
		return;
	llmq_tally_count(tally, deleting->table);
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
}

static void
delete_dead_row(const LlmqCellHeader *state, HeapTuple tuple, void *argument)
{
	Deleting   *deleting = argument;
	bool		retired = (state->flags & LLMQ_CELL_RETIRED) != 0;
	bool		unborn = (state->flags & LLMQ_CELL_BORN) == 0;
	LlmqCellHeader seen = *state;

	if (!llmq_cell_is_dead(state) || (retired && (deleting->table == LLMQ_LIVE_NAME || state->id == deleting->last_id)))
		return;
	if (!delete_row(deleting->live->rel[deleting->table], &tuple->t_self))
		return;
	deleting->deleted++;
	if (unborn && seen.id != deleting->last_id)
		count_unborn(deleting, &seen);
}

/*
 * Deletes rows that were never born, have moved away or were retired, under the creation lock: nobody is giving birth
 * meanwhile. What stays: a row that somebody has locked, for the next time; retired names, which are still read
 * (retire.c); and the retired cell with the largest id, so that no id is given out twice. Returns the number of deleted
 * rows. The deletion is the transaction's, and may come at any time, or be rolled back: a dead row counts for nobody.
 * Every backend forgets row addresses when it commits.
 */
int64
llmq_cell_delete_dead(LlmqLive *live, const LlmqCellRange *range)
{
	Relation	rel = live->rel[range->table];
	Deleting	deleting = {.live = live,.table = range->table};

	lock_creation(rel);
	deleting.last_id = llmq_cell_last_id(live, range->table);
	llmq_cell_scan(live, range, delete_dead_row, &deleting);
	unlock_creation(rel);
	if (deleting.deleted > 0)
		CacheInvalidateRelcacheByRelid(RelationGetRelid(rel));
	return deleting.deleted;
}

/*
 * Deletes the row of one retired cell, but for the last of all. The deletion is the transaction's. The creation lock of
 * the table is held.
 */
bool
llmq_cell_delete(LlmqLive *live, LlmqLiveTable table, int32 id, ItemPointer tid)
{
	Relation	rel = live->rel[table];
	bool		deleted = id != llmq_cell_last_id(live, table) && delete_row(rel, tid);

	if (deleted)
		CacheInvalidateRelcacheByRelid(RelationGetRelid(rel));
	return deleted;
}
