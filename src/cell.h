/*
 * cell.h
 *	  Live state: rows whose bytes are edited in place. See cell.c for the protocol.
 */
#ifndef LLMQ_CELL_H
#define LLMQ_CELL_H

#include "postgres.h"

#include "access/generic_xlog.h"
#include "access/htup.h"
#include "access/xlogdefs.h"
#include "storage/buf.h"
#include "storage/itemptr.h"
#include "storage/lockdefs.h"
#include "utils/rel.h"

#include "relation.h"

/* In the order in which their pages are locked. The numbers are stored nowhere: see tally.c. */
typedef enum LlmqLiveTable
{
	LLMQ_LIVE_METER,
	LLMQ_LIVE_HEALTH,
	LLMQ_LIVE_LEASE,
	LLMQ_LIVE_NAME,
	LLMQ_LIVE_REFUSAL,
	LLMQ_LIVE_REQUEST,
	LLMQ_LIVE_RATE
} LlmqLiveTable;

#define LLMQ_LIVE_COUNT (LLMQ_LIVE_RATE + 1)

/* What a live table is like. */
typedef struct LlmqLiveKind
{
	LlmqRelation relation;
	LlmqRelation id_index;
	uint32		magic;			/* what its states begin with */
	uint8		in_block;		/* cells lie in the file in the order of their ids, so many to a block; 0: they do not */
	bool		has_no_key;		/* nothing but ids: no cell is ever retired */
	bool		has_no_gaps;	/* between its ids: see linear_cell.c */
	bool		is_spread;		/* over the records of a change; cells of other tables go into each */
	bool		may_lack;		/* SQL of 0.1.0 does not have it */
} LlmqLiveKind;

extern const LlmqLiveKind llmq_live_kinds[LLMQ_LIVE_COUNT];

/*
 * Eleven meters, a lease page, that of the attempt that failed, and the request's: design.md bounds what one pick may
 * touch.
 */
#define LLMQ_MAX_CELLS 14

/*
 * A record holds four pages (MAX_GENERIC_XLOG_PAGES): those of leases, which are in every one, and as many of meters as
 * there is room for.
 */
#define LLMQ_METERS_PER_RECORD(lease_pages) (MAX_GENERIC_XLOG_PAGES - (lease_pages))

/* A page of 8 kB less its header, a line pointer, the tuple's header and the id; rounded down. */
#define LLMQ_MAX_STATE (BLCKSZ - 128)

/* fillfactor = 10 gives a row a page of its own only from here on. */
#define LLMQ_MIN_STATE 512

#define LLMQ_CELL_VERSION 1

#define LLMQ_CELL_BORN	0x0001	/* counts; lookups skip rows without it */
#define LLMQ_CELL_MOVED 0x0002	/* its contents, if any, live in a newer row */
#define LLMQ_CELL_RETIRED 0x0004	/* and nowhere: nobody needed it; always together with moved */

/* Every state begins with this. Fixed-width types, no padding. */
typedef struct LlmqCellHeader
{
	uint32		magic;
	uint16		version;
	uint16		flags;
	uint32		length;			/* of the whole state, this header included */
	int32		id;
	uint32		crc;			/* CRC-32C of the state with this field as zero */
	uint32		reserved;
} LlmqCellHeader;

StaticAssertDecl(sizeof(LlmqCellHeader) == 24, "the header of a cell has no padding");

/* The live tables, opened and locked for one call. One that the installed SQL does not have yet is NULL. */
typedef struct LlmqLive
{
	Relation	rel[LLMQ_LIVE_COUNT];
	int			ntables;
	LOCKMODE	lockmode;
} LlmqLive;

static inline bool
llmq_live_has(const LlmqLive *live, LlmqLiveTable table)
{
	return (int) table < live->ntables && live->rel[table] != NULL;
}

/* What names a cell before its id is known. */
typedef struct LlmqCellKey
{
	LlmqLiveTable table;
	char		kind;			/* meter: scope; health, name: kind */
	int32		subject;		/* meter, health */
	int32		part;			/* meter, health */
	const char *name;			/* name */
} LlmqCellKey;

typedef enum LlmqLockResult
{
	LLMQ_LOCKED,
	LLMQ_LOCK_STALE				/* a row was elsewhere, or is gone: look again */
} LlmqLockResult;

typedef struct LlmqCellUse
{
	LlmqLiveTable table;
	int32		id;
	ItemPointerData tid;
	int			page;			/* which of the set's pages */
	LlmqCellHeader *state;		/* in the locked page */
	LlmqCellHeader *copy;		/* to be changed; NULL until asked for */
} LlmqCellUse;

typedef struct LlmqCellPage
{
	LlmqLiveTable table;
	BlockNumber block;
	int32		id;				/* of a cell on it */
	Buffer		buffer;
} LlmqCellPage;

/* A cell that a record changes: where it is in its locked page, and what it becomes. */
typedef struct LlmqCellWrite
{
	Buffer		buffer;
	LlmqCellHeader *state;
	LlmqCellHeader *copy;
} LlmqCellWrite;

/* The cells that one change needs, their pages, and the records that will carry it. */
typedef struct LlmqCellSet
{
	LlmqLive   *live;
	int			ncells;
	int			npages;
	int			nlocked;
	int			lease_pages;	/* that go into each record */
	int			nrecords;		/* that a change of every cell takes */
	XLogRecPtr	lsn;			/* end of the last record */
	LlmqCellUse cell[LLMQ_MAX_CELLS];
	LlmqCellPage page[LLMQ_MAX_CELLS];
} LlmqCellSet;

/* cell.c */
extern void llmq_live_changed(LlmqRelation which);
extern void llmq_live_open(LlmqLive *live, int ntables, LOCKMODE lockmode);
extern bool llmq_live_add(LlmqLive *live, LlmqLiveTable table);
extern void llmq_live_close(LlmqLive *live);
extern void llmq_set_init(LlmqCellSet *set, LlmqLive *live);
extern int	llmq_set_add(LlmqCellSet *set, LlmqLiveTable table, int32 id);
extern void llmq_set_carry(LlmqCellSet *set, int lease_pages);
extern LlmqLockResult llmq_set_lock(LlmqCellSet *set);
extern const void *llmq_set_state(const LlmqCellSet *set, int cell);
extern void *llmq_set_change(LlmqCellSet *set, int cell);
extern int	llmq_set_record_of(const LlmqCellSet *set, int cell);
extern int	llmq_set_record_with_room(const LlmqCellSet *set);
extern void llmq_set_log(LlmqCellSet *set, int record);
extern void llmq_set_unlock(LlmqCellSet *set);
extern void llmq_cell_make_durable_soon(XLogRecPtr lsn);
extern void llmq_cell_make_durable(XLogRecPtr lsn);
extern void llmq_cell_refuse_if_read_only(const char *function);

/* cell_wal.c */
extern void llmq_cell_write_prepare(void);
extern LlmqCellHeader *llmq_cell_write_copy(const LlmqCellHeader *state);
extern XLogRecPtr llmq_cell_write(Relation rel, const LlmqCellWrite *writes, int nwrites);

/* Reads a cell in its page, which is locked for this: copies what it needs, and does nothing else. */
typedef void (*LlmqCellPeek) (const LlmqCellHeader *state, void *argument);

/* cell_find.c */
extern Buffer llmq_cell_pin(LlmqLive *live, LlmqLiveTable table, int32 id, BlockNumber block);
extern bool llmq_cell_locate(LlmqLive *live, LlmqLiveTable table, int32 id, ItemPointer tid);
extern void llmq_cell_forget(LlmqLiveTable table, int32 id);
extern void llmq_cell_forget_all(LlmqLiveTable table);
extern bool llmq_cell_peek(LlmqLive *live, LlmqLiveTable table, int32 id, LlmqCellPeek peek, void *argument);
extern bool llmq_cell_copy(LlmqLive *live, LlmqLiveTable table, int32 id, void *state, Size size);
extern int32 llmq_cell_find(LlmqLive *live, const LlmqCellKey *key);
extern int32 llmq_cell_last_id(LlmqLive *live, LlmqLiveTable table);
extern int32 llmq_cell_last_born(LlmqLive *live, LlmqLiveTable table);
extern LlmqCellHeader *llmq_cell_in_page(char *page, ItemPointer tid, LlmqLiveTable table, int32 id);
extern bool llmq_cell_crc_holds(const LlmqCellHeader *state);
extern uint32 llmq_cell_crc(const LlmqCellHeader *state);

/* What a walk over a whole live table calls for every sound cell, with a private copy. */
typedef void (*LlmqCellVisitor) (const LlmqCellHeader *state, HeapTuple tuple, void *argument);
extern void llmq_cell_walk(LlmqLive *live, LlmqLiveTable table, LlmqCellVisitor visit, void *argument);

extern void llmq_cell_key(HeapTuple tuple, LlmqLiveTable table, LlmqCellKey *key);
extern bool llmq_cell_is_dead(const LlmqCellHeader *state);
extern LlmqCellHeader *llmq_cell_in_tuple(HeapTuple tuple, LlmqLiveTable table);
extern bool llmq_cell_is_counted(LlmqLive *live, char kind, int32 name);
extern bool llmq_cell_is_named(LlmqLive *live, int32 name);
extern char *llmq_cell_name(LlmqLive *live, HeapTuple tuple);

/* Some blocks of a live table. */
typedef struct LlmqCellRange
{
	LlmqLiveTable table;
	BlockNumber first;
	BlockNumber count;
	BlockNumber nblocks;		/* of the table, when this was worked out */
	int			sweep;			/* of which it is a part: see tally.c */
} LlmqCellRange;

extern void llmq_cell_scan(LlmqLive *live, const LlmqCellRange *range, LlmqCellVisitor visit, void *argument);
extern void llmq_cell_walk_part(LlmqLive *live, const LlmqCellRange *range, LlmqCellVisitor visit, void *argument);

/* cell_repair.c */
extern bool llmq_cell_overwrite(LlmqLive *live, LlmqLiveTable table, ItemPointer tid, LlmqCellHeader *state);

/* cell_birth.c */
typedef void (*LlmqCellFill) (LlmqCellHeader *larger, const LlmqCellHeader *old);
extern int32 llmq_cell_create(LlmqLive *live, const LlmqCellKey *key, LlmqCellHeader *state, int32 max_id);
extern bool llmq_cell_grow(LlmqLive *live, const LlmqCellKey *key, LlmqCellHeader *larger, LlmqCellFill fill);
extern int64 llmq_cell_delete_dead(LlmqLive *live, const LlmqCellRange *range);
extern bool llmq_cell_delete(LlmqLive *live, LlmqLiveTable table, int32 id, ItemPointer tid);
extern void llmq_cell_lock_creation(LlmqLive *live, LlmqLiveTable table);
extern bool llmq_cell_try_lock_creation(LlmqLive *live, LlmqLiveTable table, bool wait);
extern void llmq_cell_unlock_creation(LlmqLive *live, LlmqLiveTable table);

/* May this cell be retired? Asked under the page's lock, with the copy that will be written if so. */
typedef bool (*LlmqCellRetiring) (LlmqCellHeader *copy, const void *argument);
extern bool llmq_cell_retire(LlmqLive *live, LlmqLiveTable table, int32 id, LlmqCellRetiring may_retire,
							 const void *argument);

/* Answers of llmq_cell_create() that are no ids. */
#define LLMQ_CELL_TOO_MANY 0
#define LLMQ_CELL_NAMELESS (-1)	/* a name that the key refers to has been retired */

/*
 * tally.c: what maintenance keeps of the live tables, by their numbers, in a cell of llmquota.name. Fixed-width types,
 * no padding; with room for the tables of later versions.
 */
#define LLMQ_TALLY_ROOM 8
StaticAssertDecl(LLMQ_LIVE_COUNT <= LLMQ_TALLY_ROOM, "the tally has room for every live table");

typedef struct LlmqTally
{
	LlmqCellHeader cell;
	int64		retired[LLMQ_TALLY_ROOM];	/* cells, since the extension was created */
	int64		swept_at[LLMQ_TALLY_ROOM];
	uint32		next_block[LLMQ_TALLY_ROOM];	/* where the sweep over a table goes on */
} LlmqTally;

extern int32 llmq_tally_id(LlmqLive *live);
extern LlmqTally *llmq_tally_lock(LlmqLive *live, LlmqCellSet *set);
extern void llmq_tally_count(LlmqTally *tally, LlmqLiveTable table);
extern int64 llmq_tally_retired(LlmqLive *live, LlmqLiveTable table);
extern void llmq_tally_range(LlmqLive *live, LlmqLiveTable table, int64 pass, int64 now, LlmqCellRange *range);
extern void llmq_tally_alerts_range(LlmqLive *live, int64 pass, int64 now, LlmqCellRange *range);
extern void llmq_tally_advance(LlmqLive *live, const LlmqCellRange *range, int64 pass, int64 now);
extern int64 llmq_tally_thresholds(LlmqLive *live);
extern void llmq_tally_set_thresholds(LlmqLive *live, int64 thresholds);

#endif							/* LLMQ_CELL_H */
