/*
 * ledger_scan.h
 *	  Reads many rows of the ledger, by the names of now.
 */
#ifndef LLMQ_LEDGER_SCAN_H
#define LLMQ_LEDGER_SCAN_H

#include "nodes/pg_list.h"
#include "utils/snapshot.h"

#include "lease.h"
#include "price.h"

/* What a row of the ledger names. */
typedef enum LlmqNamed
{
	LLMQ_NAMED_PROVIDER,
	LLMQ_NAMED_ACCOUNT,
	LLMQ_NAMED_KEY,
	LLMQ_NAMED_ORG,
	LLMQ_NAMED_MODEL
} LlmqNamed;

#define LLMQ_NAMED_COUNT (LLMQ_NAMED_MODEL + 1)

/* A name that rows may have. */
typedef struct LlmqLedgerName
{
	const char *text;
	void	   *object;			/* the caller's */
	struct LlmqFormerName *former;	/* what else was called so, before */
} LlmqLedgerName;

/* Names, and what of them the ledger's rows are to be asked for. */
typedef struct LlmqLedgerNames
{
	MemoryContext context;
	struct names_hash *known;	/* the kind before each */
	struct names_hash *renamed; /* names of now, by what live state calls what has been renamed */
	struct names_hash *families;	/* lists of names of models; NULL: not read yet */
	bool		wanted[LLMQ_NAMED_COUNT];
	bool		all;			/* every name that occurs becomes known; else those unknown are told as NULL */
} LlmqLedgerNames;

/* ledger_name.c */
extern void llmq_ledger_names_init(LlmqLedgerNames *names);
extern LlmqLedgerName *llmq_ledger_name(LlmqLedgerNames *names, LlmqNamed kind, const char *text);
extern LlmqLedgerName *llmq_ledger_name_of_cell(LlmqLedgerNames *names, LlmqNamed kind, const char *cell);
extern List *llmq_ledger_family(LlmqLedgerNames *names, const char *family);
extern LlmqLedgerName *llmq_ledger_name_known(LlmqLedgerNames *names, LlmqNamed kind, const char *text, int length);
extern LlmqLedgerName *llmq_ledger_name_now(LlmqLedgerName *name, TimestampTz picked_at, TimestampTz recorded_at);

/* A row of the ledger. */
typedef struct LlmqUsageRow
{
	pg_uuid_t	lease;
	TimestampTz picked_at;
	TimestampTz recorded_at;
	LlmqLedgerName *name[LLMQ_NAMED_COUNT];	/* NULL: unknown, or not wanted */
	LlmqUse		use;			/* nothing, of a lease that was released */
	LlmqCost	cost;			/* where that is asked for: the use does not have it */
	/* of a whole row */
	bool		cost_given;		/* by the application */
	int32		reserved_input; /* or LLMQ_NO_TOKENS */
	int32		reserved_output;
	LlmqSettlement settlement;	/* the figures and the outcome of it; what costs nothing only with the cost */
} LlmqUsageRow;

typedef void (*LlmqUsageVisit) (const LlmqUsageRow *row, void *context);

/* A scan in steps: from the newest rows to the oldest, or the other way. */
typedef struct LlmqLedgerScan
{
	LlmqLedgerNames *names;
	bool		whole;			/* all rows are wanted, those of leases that were released, too, and all of them */
	TimestampTz from;			/* rows picked since; after a step forward: since this the ledger is still to be read */
	TimestampTz to;				/* ... and before; after a step back: before this the ledger is still to be read */
	Snapshot	snapshot;
	bool		with_cost;
	LlmqUsageVisit visit;
	void	   *context;
	List	   *leaves;			/* days still to come, newest first: LlmqLedgerDay */
	List	   *others;			/* partitions that are not of a day */
	MemoryContext scratch;
	struct LlmqLedgerPlace *last;	/* names of the row before */
} LlmqLedgerScan;

extern void llmq_ledger_scan_begin(LlmqLedgerScan *scan);
extern bool llmq_ledger_scan_step(LlmqLedgerScan *scan);
extern bool llmq_ledger_scan_forward(LlmqLedgerScan *scan);

#endif							/* LLMQ_LEDGER_SCAN_H */
