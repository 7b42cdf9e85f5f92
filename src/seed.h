/*
 * seed.h
 *	  Tells new windows what was used before they began.
 */
#ifndef LLMQ_SEED_H
#define LLMQ_SEED_H

#include "lease.h"
#include "ledger_scan.h"
#include "maintain.h"
#include "meter.h"

/* A lease that the ledger does not have yet, for all to see. */
typedef struct LlmqOpenLease
{
	LlmqLeaseId id;
	LlmqLease	lease;			/* as it was seen */
} LlmqOpenLease;

typedef struct LlmqOpenLeases
{
	int			n;
	int			size;
	LlmqOpenLease *lease;
} LlmqOpenLeases;

/* What was used before a window began, by its buckets; a window of a calendar period has one. */
typedef struct LlmqSeedSums
{
	int64		bucket[LLMQ_BUCKETS];
	bool		loose;			/* with figures of transactions that may yet fail, or that the ledger will not have */
} LlmqSeedSums;

/* A window that is to be completed, other than of concurrency. */
typedef struct LlmqSeedWindow
{
	const LlmqWindow *window;	/* in the copy of its meter */
	int64		quota;
	LlmqMetric	metric;
	uint8		flags;
	int64		span;			/* of a bucket; 0: there is only one */
	int64		first;			/* number of the oldest bucket */
	TimestampTz from;			/* what was picked since counts */
	TimestampTz to;				/* ... and before */
	int64		bucket;			/* that was counted in last, and its span of time */
	TimestampTz bucket_from;
	TimestampTz bucket_to;
	bool		done;
	LlmqSeedSums sums;
} LlmqSeedWindow;

/* A meter with windows that are to be completed. */
typedef struct LlmqSeedMeter
{
	int32		id;
	LlmqCellKey key;
	LlmqMeterState *state;		/* a copy */
	TimestampTz as_of;			/* what ended since counts as it was reserved; 0: whenever it ended */
	int			nwindows;
	LlmqSeedWindow *window;
} LlmqSeedMeter;

/* recount.c */
extern void llmq_recount_request(TimestampTz since, TimestampTz until);
extern bool llmq_recount_requested(Snapshot snapshot);
extern int64 llmq_recount(const LlmqMaintenance *maintenance);

/* recount_lease.c */
extern void llmq_recount_leases(LlmqLive *live, TimestampTz since, TimestampTz until);

/* rebuild.c */
extern void llmq_meter_restart_windows(LlmqLive *live, int32 meter);

/* seed.c */
extern int64 llmq_seed_meters(const LlmqMaintenance *maintenance, int32 only);

/* seed_lease.c */
extern void llmq_open_leases_find(LlmqLive *live, LlmqOpenLeases *leases);
extern uint32 llmq_slot_generation(const LlmqSlot *slot, int32 meter);
extern bool llmq_leases_adopt(LlmqLive *live, const LlmqSeedMeter *meter, const LlmqOpenLeases *leases);

/* seed_sum.c */
typedef struct LlmqSeedPass
{
	const LlmqOpenLeases *before;	/* leases that were in flight before meters were noted; NULL: they were not */
	LlmqLedgerNames names;
	LlmqLedgerScan scan;
} LlmqSeedPass;

extern void llmq_seed_pass_begin(LlmqSeedPass *pass, LlmqSeedMeter *meters, int n, const LlmqOpenLeases *leases);
extern bool llmq_seed_pass_step(LlmqSeedPass *pass);
extern void llmq_seed_pass_end(LlmqSeedPass *pass);

#endif							/* LLMQ_SEED_H */
