/*
 * verify.h
 *	  What the parts of llmquota_verify share.
 */
#ifndef LLMQ_VERIFY_H
#define LLMQ_VERIFY_H

#include "postgres.h"

#include "funcapi.h"
#include "utils/snapshot.h"

#include "cell.h"
#include "health.h"
#include "lease.h"
#include "linear.h"
#include "meter.h"
#include "price.h"

/* What is wrong with a state; or what is not known of it: a later version of the library may have written that. */
typedef struct LlmqFault
{
	const char *problem;
	bool		unknown;
	char		expected[24];
	char		found[24];
} LlmqFault;

/* A row of a live table, copied out. */
typedef struct LlmqVerifyCell
{
	ItemPointerData tid;
	HeapTuple	tuple;			/* a private copy */
	int32		id;				/* of the id column */
	const LlmqCellHeader *state;	/* NULL when it is not whole */
	bool		counts;			/* it is whole, born and not moved */
} LlmqVerifyCell;

typedef struct LlmqVerifyTable
{
	int			n;
	int			size;
	LlmqVerifyCell *cell;
	int32		last_id;
	LlmqVerifyCell **by_id;		/* what counts, by id; NULL in between */
} LlmqVerifyTable;

/* One run of llmquota_verify. */
typedef struct LlmqVerify
{
	ReturnSetInfo *result;
	bool		repair;
	bool		at_once;		/* all was copied at one moment: counts can be compared */
	TimestampTz now;			/* of the copies */
	Snapshot	snapshot;		/* of the same moment */
	LlmqLive	live;
	LlmqVerifyTable table[LLMQ_LIVE_COUNT];
	MemoryContext context;		/* of the whole run */
	uint64		secret[2];		/* of hashes, where all of a table have been lost */
	List	   *damaged;		/* of LlmqDamage: to be overwritten */
	List	   *restarted;		/* ids of meters whose windows are to begin anew */
} LlmqVerify;

/* A row whose state is not whole. */
typedef struct LlmqDamage
{
	LlmqLiveTable table;
	ItemPointerData tid;
	int32		id;
	Size		size;			/* of the state that the row was made for */
} LlmqDamage;

/* A disagreement; both values as text, NULL: there is none. */
typedef struct LlmqFinding
{
	const char *object;
	const char *subject;
	const char *problem;
	const char *expected;
	const char *found;
	bool		repaired;
} LlmqFinding;

/* verify.c */
extern void llmq_verify_report(LlmqVerify *verify, const LlmqFinding *finding);
extern const char *llmq_verify_subject(const LlmqVerify *verify, const LlmqVerifyCell *cell);

/* verify_cell.c */
extern bool llmq_cell_fault(LlmqLiveTable table, const LlmqCellHeader *state, Size size, int32 id, LlmqFault *found);
extern bool llmq_fault(LlmqFault *fault, const char *problem, int64 expected, int64 found);
extern void llmq_fault_if_unknown(LlmqFault *found, const char *problem, int64 most, int64 number);

/* verify_health.c */
extern bool llmq_board_fault(const LlmqHealthBoard *board, LlmqFault *found);
extern bool llmq_events_fault(const LlmqHealthEvents *events, LlmqFault *found);

/* verify_copy.c */
extern void llmq_verify_read_ahead(LlmqVerify *verify);
extern void llmq_verify_copy(LlmqVerify *verify);
extern void llmq_verify_cells(LlmqVerify *verify);

/* verify_repair.c */
extern bool llmq_repair_note_cell(LlmqVerify *verify, LlmqLiveTable table, const LlmqVerifyCell *cell, Size size);
extern bool llmq_repair_note_meter(LlmqVerify *verify, int32 meter);
extern bool llmq_repair_write_row(LlmqVerify *verify, const LlmqLeaseId *id, const LlmqLease *lease);
extern void llmq_repair(LlmqVerify *verify);

/* verify_index.c */
extern void llmq_verify_indexes(LlmqVerify *verify);

/* verify_linear.c */
extern void llmq_verify_linear(LlmqVerify *verify, const LlmqLinear *linear);
extern void llmq_verify_linear_mend(const LlmqVerify *verify, const LlmqLinear *linear, LlmqLinearPage *page);

/* verify_lease.c */
extern void llmq_verify_leases(LlmqVerify *verify);

/* verify_window.c: a lease as one or more windows count it */
typedef struct LlmqTallied
{
	TimestampTz picked_at;
	TimestampTz recorded_at;	/* of its last figures; picked_at while it is in flight */
	LlmqUse		reserved;
	LlmqUse		use[2];			/* it counts as one of them, which are mostly the same */
	const LlmqCatalog *catalog; /* converts what it costs, where the uses do not have that */
	LlmqCost	cost[3];		/* in the order of reserved and use */
	bool		knows_generation;
	uint32		generation;
} LlmqTallied;

struct LlmqTallies;
extern struct LlmqTallies *llmq_tallies_create(LlmqVerify *verify);
extern void llmq_tally(struct LlmqTallies *tallies, int32 meter, const LlmqTallied *lease);
extern TimestampTz llmq_tallies_from(const struct LlmqTallies *tallies);
extern void llmq_tallies_compare(struct LlmqTallies *tallies);

/* verify_usage.c */
extern void llmq_verify_windows(LlmqVerify *verify);

#endif							/* LLMQ_VERIFY_H */
