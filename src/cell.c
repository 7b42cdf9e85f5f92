/*
 * cell.c
 *	  Changes live state in place: the page protocol.
 *
 * A cell is a row of a live table (meter, health, lease_page, name, refusal_page, request_page, rate_page), born frozen
 * and never updated, whose `state` bytes are edited where they are, as sequence.c edits its one tuple. Nothing here is
 * undone by a rollback.
 *
 * The protocol of a change:
 *	 1. Look first: candidates are compared on copies (llmq_cell_copy), one share lock at a time, nothing held.
 *	 2. llmq_set_lock() finds the rows, pins their pages and makes the memory it needs, all of which may raise; then it
 *		takes the exclusive content locks in one physical order: meters before lease pages; inside a table by block
 *		number, highest first; each page once. Content locks have no deadlock detector, so the order is asserted in
 *		testing builds at every acquisition. With the locks held every row is checked again. A mismatch releases
 *		everything before anything else happens.
 *	 3. The caller reads the clock, decides on the locked image (llmq_set_state), and changes only what
 *		llmq_set_change() returns: a private copy. llmq_set_log() writes the copies into the pages, with the WAL record.
 *		A record holds four pages, so a change of many meters takes several, all locks held across them; each record
 *		that changes meters of a lease changes its slot too, and so a crash between two leaves a slot that says exactly
 *		which meters it has charged.
 *	 4. llmq_set_unlock() lets go; llmq_cell_make_durable() then does what COMMIT would for a change with a
 *		transaction id.
 *
 * While a content lock is held: no catalog access, no SPI, no allocation, no read of another page, no unbounded loop.
 * An error there (there should be none) leaves pages as they were: only copies had been changed, and abort releases
 * locks and pins. The relation locks are held from llmq_live_open() to llmq_live_close(), so that VACUUM FULL cannot
 * move rows in between.
 */
#include "postgres.h"

#include <sched.h>

#include "access/parallel.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "storage/bufmgr.h"
#include "storage/s_lock.h"

#include "cell.h"
#include "compat.h"
#include "inject.h"
#include "relation.h"
#include "worker.h"

/*
 * How often a page is tried before its lock is slept for: a few microseconds, as long as a change of it takes, and
 * then so many turns of the processor. Measured with 32 clients on 2 cores: one fifth more picks than without.
 */
#define SPINS_PER_PAGE 100
#define YIELDS_PER_PAGE 10

/* All live tables. */
const LlmqLiveKind llmq_live_kinds[LLMQ_LIVE_COUNT] = {
	[LLMQ_LIVE_METER] = {
		.relation = LLMQ_REL_METER,.id_index = LLMQ_REL_METER_ID,.magic = 0x4c514d31, /* LQM1 */
		.is_spread = true
	},
	[LLMQ_LIVE_HEALTH] = {
		.relation = LLMQ_REL_HEALTH,.id_index = LLMQ_REL_HEALTH_ID,.magic = 0x4c514831, /* LQH1 */
		.may_lack = true
	},
	[LLMQ_LIVE_LEASE] = {
		.relation = LLMQ_REL_LEASE_PAGE,.id_index = LLMQ_REL_LEASE_PAGE_ID,.magic = 0x4c514c31, /* LQL1 */
		.in_block = 1,.has_no_key = true
	},
	[LLMQ_LIVE_NAME] = {
		.relation = LLMQ_REL_NAME,.id_index = LLMQ_REL_NAME_ID,.magic = 0x4c514e31	/* LQN1 */
	},
	[LLMQ_LIVE_REFUSAL] = {
		.relation = LLMQ_REL_REFUSAL_PAGE,.id_index = LLMQ_REL_REFUSAL_PAGE_ID,.magic = 0x4c515231, /* LQR1 */
		.has_no_key = true
	},
	[LLMQ_LIVE_REQUEST] = {
		.relation = LLMQ_REL_REQUEST_PAGE,.id_index = LLMQ_REL_REQUEST_PAGE_ID,.magic = 0x4c515131, /* LQQ1 */
		.in_block = 2,.has_no_key = true,.has_no_gaps = true,.may_lack = true
	},
	[LLMQ_LIVE_RATE] = {
		.relation = LLMQ_REL_RATE_PAGE,.id_index = LLMQ_REL_RATE_PAGE_ID,.magic = 0x4c515431, /* LQT1 */
		.in_block = 2,.has_no_key = true,.has_no_gaps = true,.is_spread = true,.may_lack = true
	},
};

/*
 * The files that remembered row addresses belong to, and whether the relation cache has said that one may have
 * changed.
 */
static LlmqRelFile known_file[LLMQ_LIVE_COUNT];
static bool live_changed[LLMQ_LIVE_COUNT];

/* Called by the relation cache at any time: rows may have been deleted and the file truncated (VACUUM). */
void
llmq_live_changed(LlmqRelation which)
{
	for (int i = 0; i < LLMQ_LIVE_COUNT; i++)
		if (llmq_live_kinds[i].relation == which)
			live_changed[i] = true;
}

/*
 * Everything relies on permanent heaps whose rows stay where they are put: raises when somebody has changed that, or
 * has moved the rows in a transaction that may still roll back.
 */
static void
refuse_if_unsuitable(Relation rel)
{
	if (rel->rd_rel->relam != HEAP_TABLE_AM_OID || rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT ||
		TupleDescAttr(RelationGetDescr(rel), 1)->attstorage != TYPSTORAGE_PLAIN)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("live table \"%s\" is not a permanent heap with plain storage", RelationGetRelationName(rel)),
				 errhint("Undo the ALTER TABLE that changed its access method, persistence or storage.")));
	if (llmq_has_new_file_compat(rel))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("live table \"%s\" has been rewritten by this transaction", RelationGetRelationName(rel)),
				 errhint("Commit first.")));
}

/* Is a table not there? Then whatever is looked for there is not found, and nothing is written there. */
static bool
is_lacking(LlmqLiveTable table)
{
	return llmq_live_kinds[table].may_lack && !OidIsValid(llmq_relation_oid_if_any(llmq_live_kinds[table].relation));
}

/* Opens one live table, or not if there is none, and forgets row addresses if it was rewritten or vacuumed. */
static void
open_table(LlmqLive *live, LlmqLiveTable table)
{
	Relation	rel;
	LlmqRelFile file;

	live->rel[table] = NULL;
	if (is_lacking(table))
		return;
	rel = table_open(llmq_relation_oid(llmq_live_kinds[table].relation), live->lockmode);
	file = llmq_relation_file_compat(rel);
	refuse_if_unsuitable(rel);
	if (live_changed[table] || !llmq_same_file_compat(file, known_file[table]))
	{
		live_changed[table] = false;
		llmq_cell_forget_all(table);
		known_file[table] = file;
	}
	live->rel[table] = rel;
}

/*
 * Opens the first `ntables` live tables. Writers lock them with RowExclusiveLock, readers (on a standby too) with
 * AccessShareLock.
 */
void
llmq_live_open(LlmqLive *live, int ntables, LOCKMODE lockmode)
{
	live->ntables = ntables;
	live->lockmode = lockmode;
	for (int i = 0; i < ntables; i++)
		open_table(live, (LlmqLiveTable) i);
}

/* Opens one more, behind them, and none of those in between. Is it there? */
bool
llmq_live_add(LlmqLive *live, LlmqLiveTable table)
{
	while (live->ntables < (int) table)
		live->rel[live->ntables++] = NULL;
	open_table(live, table);
	live->ntables++;
	return live->rel[table] != NULL;
}

/* Closes the tables and gives the relation locks back at once: nothing here waits for the caller's commit. */
void
llmq_live_close(LlmqLive *live)
{
	for (int i = live->ntables - 1; i >= 0; i--)
		if (live->rel[i] != NULL)
			table_close(live->rel[i], live->lockmode);
	live->ntables = 0;
}

void
llmq_set_init(LlmqCellSet *set, LlmqLive *live)
{
	memset(set, 0, offsetof(LlmqCellSet, cell));
	set->live = live;
	set->lease_pages = 1;
}

/* Adds a cell and returns its number in the set; a cell that is there already keeps its number. */
int
llmq_set_add(LlmqCellSet *set, LlmqLiveTable table, int32 id)
{
	for (int i = 0; i < set->ncells; i++)
		if (set->cell[i].table == table && set->cell[i].id == id)
			return i;

	if (set->ncells == LLMQ_MAX_CELLS)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("one call cannot touch more than %d cells", LLMQ_MAX_CELLS),
				 errhint("Use quotas on fewer scopes.")));
	set->cell[set->ncells].table = table;
	set->cell[set->ncells].id = id;
	return set->ncells++;
}

/* Says that so many lease pages are changed together with each meter; without it, one. Before the set is locked. */
void
llmq_set_carry(LlmqCellSet *set, int lease_pages)
{
	set->lease_pages = lease_pages;
}

/* The one order in which pages are locked: meters before leases, then the highest block first. */
static int
page_order(const LlmqCellPage *a, const LlmqCellPage *b)
{
	if (a->table != b->table)
		return a->table < b->table ? -1 : 1;
	if (a->block != b->block)
		return a->block > b->block ? -1 : 1;
	return 0;
}

/* Puts the page of a cell into the set's sorted list of pages, once. */
static void
add_page(LlmqCellSet *set, const LlmqCellUse *cell)
{
	LlmqCellPage page = {
		.table = cell->table,.block = ItemPointerGetBlockNumber(&cell->tid),.id = cell->id,.buffer = InvalidBuffer
	};
	int			at = set->npages;

	while (at > 0)
	{
		int			order = page_order(&set->page[at - 1], &page);

		if (order == 0)
			return;
		if (order < 0)
			break;
		at--;
	}
	memmove(&set->page[at + 1], &set->page[at], sizeof(LlmqCellPage) * (set->npages - at));
	set->page[at] = page;
	set->npages++;
}

/* Finds every row and, once all pages are known, which of them each cell is on. False when a row is gone. */
static bool
find_pages(LlmqCellSet *set)
{
	set->npages = 0;
	for (int i = 0; i < set->ncells; i++)
	{
		LlmqCellUse *cell = &set->cell[i];

		if (!llmq_cell_locate(set->live, cell->table, cell->id, &cell->tid))
			return false;
		add_page(set, cell);
	}
	for (int i = 0; i < set->ncells; i++)
	{
		LlmqCellUse *cell = &set->cell[i];
		BlockNumber block = ItemPointerGetBlockNumber(&cell->tid);
		int			page = 0;

		while (set->page[page].table != cell->table || set->page[page].block != block)
			page++;
		cell->page = page;
	}
	return true;
}

/* How many pages are spread over the records, as many to each as it has room for. */
static int
count_spread(const LlmqCellSet *set)
{
	int			n = 0;

	for (int i = 0; i < set->npages; i++)
		n += llmq_live_kinds[set->page[i].table].is_spread;
	return n;
}

/* Pins every page and makes the memory that the change needs: all that may raise, before any lock. */
static void
prepare(LlmqCellSet *set)
{
	int			per_record = LLMQ_METERS_PER_RECORD(set->lease_pages);

	for (int i = 0; i < set->npages; i++)
		set->page[i].buffer = llmq_cell_pin(set->live, set->page[i].table, set->page[i].id, set->page[i].block);
	set->nrecords = Max(1, (count_spread(set) + per_record - 1) / per_record);
	set->lsn = InvalidXLogRecPtr;
	llmq_cell_write_prepare();
}

/*
 * Waits for one page. Whoever holds it does so for microseconds, so a short spin is cheaper than to sleep and be woken;
 * if that does not help, the holder has most likely lost its processor, and gets ours. Only then the lock is slept for:
 * one that is handed over by waking takes as long as several changes, and a queue of sleepers is slow to dissolve.
 */
static void
wait_for_page(Buffer buffer)
{
	for (int i = 0; i < SPINS_PER_PAGE + YIELDS_PER_PAGE; i++)
	{
		if (ConditionalLockBuffer(buffer))
			return;
		if (i < SPINS_PER_PAGE)
			SPIN_DELAY();
		else
			sched_yield();
	}
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
}

/* With the page locked: the state of a cell, or NULL when the row is not what it was. */
static LlmqCellHeader *
locked_state(const LlmqCellSet *set, LlmqCellUse *cell)
{
	char	   *page = BufferGetPage(set->page[cell->page].buffer);
	LlmqCellHeader *state = llmq_cell_in_page(page, &cell->tid, cell->table, cell->id);

	if (state == NULL || (state->flags & (LLMQ_CELL_BORN | LLMQ_CELL_MOVED)) != LLMQ_CELL_BORN)
		return NULL;
	return state;
}

/* Is every cell on a page that was just locked still what it was? A wrong checksum is an error, and leaves no lock. */
static bool
verify_page(LlmqCellSet *set, int page)
{
	for (int i = 0; i < set->ncells; i++)
	{
		LlmqCellUse *cell = &set->cell[i];

		if (cell->page != page)
			continue;
		cell->copy = NULL;
		cell->state = locked_state(set, cell);
		if (cell->state == NULL)
		{
			llmq_cell_forget(cell->table, cell->id);
			return false;
		}
		if (llmq_cell_crc_holds(cell->state))
			continue;
		llmq_set_unlock(set);
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("checksum of live state %d in table \"%s\" does not match", cell->id,
						RelationGetRelationName(set->live->rel[cell->table])),
				 errhint("Look for failing memory or storage.")));
	}
	return true;
}

/*
 * Takes the content locks in order. The cells of a page are verified before the next is locked, so that the last of
 * them, which are those that everybody wants, are held shortest.
 */
static LlmqLockResult
lock_pages(LlmqCellSet *set)
{
	for (int i = 0; i < set->npages; i++)
	{
		LlmqCellPage *page = &set->page[i];

#ifdef LLMQ_TESTING
		if (i > 0 && page_order(&set->page[i - 1], page) >= 0)
			elog(PANIC, "content locks taken out of order");
#endif
		wait_for_page(page->buffer);
		set->nlocked++;
		if (!verify_page(set, i))
			return LLMQ_LOCK_STALE;
	}
	return LLMQ_LOCKED;
}

/*
 * Locks every page of the set. On LLMQ_LOCKED the caller holds the content locks and must come to llmq_set_unlock();
 * on anything else nothing is held. May raise, but holds no content lock when it does.
 */
LlmqLockResult
llmq_set_lock(LlmqCellSet *set)
{
	LlmqLockResult result;

	if (!find_pages(set))
		return LLMQ_LOCK_STALE;
	prepare(set);
	result = lock_pages(set);
	if (result != LLMQ_LOCKED)
		llmq_set_unlock(set);
	return result;
}

/* The locked image of a cell, to decide on. Its length is in its header. */
const void *
llmq_set_state(const LlmqCellSet *set, int cell)
{
	return set->cell[cell].state;
}

/* The copy of a cell that will be written: the only thing that may be changed. */
void *
llmq_set_change(LlmqCellSet *set, int cell)
{
	LlmqCellUse *use = &set->cell[cell];

	if (use->copy == NULL)
		use->copy = llmq_cell_write_copy(use->state);
	return use->copy;
}

/* Which of the records a meter goes into: as many pages of meters to each as it can hold beside the lease pages. */
int
llmq_set_record_of(const LlmqCellSet *set, int cell)
{
	return set->cell[cell].page / LLMQ_METERS_PER_RECORD(set->lease_pages);
}

/* The last of the records, if it has room for one page more than its meters and the lease pages; else one behind it. */
int
llmq_set_record_with_room(const LlmqCellSet *set)
{
	int			room = set->nrecords * LLMQ_METERS_PER_RECORD(set->lease_pages);

	return count_spread(set) < room ? set->nrecords - 1 : set->nrecords;
}

/* Writes one record: the changed meters that go into it, and the lease pages, which go into each. */
void
llmq_set_log(LlmqCellSet *set, int record)
{
	LlmqCellWrite writes[LLMQ_MAX_CELLS];
	int			nwrites = 0;

	for (int i = 0; i < set->ncells; i++)
	{
		LlmqCellUse *use = &set->cell[i];

		if (use->copy == NULL || (llmq_live_kinds[use->table].is_spread && llmq_set_record_of(set, i) != record))
			continue;
		writes[nwrites++] = (LlmqCellWrite) {
			.buffer = set->page[use->page].buffer,.state = use->state,.copy = use->copy
		};
	}
	if (nwrites > 0)
		set->lsn = llmq_cell_write(set->live->rel[set->cell[0].table], writes, nwrites);
}

/* Releases every lock and pin. The set may be locked again. */
void
llmq_set_unlock(LlmqCellSet *set)
{
	for (int i = set->npages - 1; i >= 0; i--)
	{
		if (i < set->nlocked)
			UnlockReleaseBuffer(set->page[i].buffer);
		else
			ReleaseBuffer(set->page[i].buffer);
	}
	set->npages = 0;
	set->nlocked = 0;
	set->nrecords = 0;
}

/* Makes a change durable in a moment, as an asynchronous COMMIT would. */
void
llmq_cell_make_durable_soon(XLogRecPtr lsn)
{
	if (!XLogRecPtrIsInvalid(lsn) && !llmq_worker_takes_wal())
		XLogSetAsyncXactLSN(lsn);
}

/*
 * Makes a change as durable as synchronous_commit asks. COMMIT does not do it: it flushes only for a transaction with
 * an id, and may come much later. A cancel ends the wait for a standby with PostgreSQL's own warning; the change
 * stands. No lock may be held.
 */
void
llmq_cell_make_durable(XLogRecPtr lsn)
{
	if (XLogRecPtrIsInvalid(lsn))
		return;
	if (synchronous_commit <= SYNCHRONOUS_COMMIT_OFF)
	{
		llmq_cell_make_durable_soon(lsn);
		return;
	}
	if (LLMQ_INJECTED("no-flush"))
		return;
	XLogFlush(lsn);
	HOLD_INTERRUPTS();
	SyncRepWaitForLSN(lsn, true);
	RESUME_INTERRUPTS();
}

/* Live state is changed on a primary only, in a transaction that may write, and never by a parallel worker. */
void
llmq_cell_refuse_if_read_only(const char *function)
{
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	PreventCommandDuringRecovery(function);
}
