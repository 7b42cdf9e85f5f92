/*
 * seed.h
 *	  Tells new windows what was used before they began.
 */
#ifndef LLMQ_SEED_H
#define LLMQ_SEED_H

#include "lease.h"
#include "maintain.h"
#include "meter.h"

/* A lease that the ledger does not have yet, for all to see. */
typedef struct LlmqOpenLease
{
	LlmqLeaseId id;
	LlmqSlot	slot;			/* as it was seen */
} LlmqOpenLease;

typedef struct LlmqOpenLeases
{
	int			n;
	int			size;
	LlmqOpenLease *lease;
} LlmqOpenLeases;

/* A meter with windows that are to be completed. */
typedef struct LlmqSeedMeter
{
	int32		id;
	LlmqCellKey key;
	LlmqMeterState *state;		/* a copy */
} LlmqSeedMeter;

/* rebuild.c */
extern void llmq_meter_restart_windows(LlmqLive *live, int32 meter);

/* seed.c */
extern int64 llmq_seed_meters(const LlmqMaintenance *maintenance, int32 only);
extern LlmqWindow *llmq_seed_window(LlmqMeterState *state, const LlmqWindow *wanted);

/* seed_lease.c */
extern void llmq_open_leases_find(LlmqLive *live, LlmqOpenLeases *leases);
extern bool llmq_lease_belongs(const LlmqSlot *slot, const LlmqCellKey *key);
extern uint32 llmq_slot_generation(const LlmqSlot *slot, int32 meter);
extern bool llmq_leases_adopt(LlmqLive *live, const LlmqSeedMeter *meter, const LlmqOpenLeases *leases);

/* seed_sum.c */
typedef struct LlmqSeedSums
{
	int64		bucket[LLMQ_BUCKETS];
	bool		loose;			/* with figures of transactions that may yet fail */
} LlmqSeedSums;

extern void llmq_seed_sums(const LlmqSeedMeter *meter, const LlmqWindow *window, const LlmqOpenLeases *leases,
						   TimestampTz now, LlmqSeedSums *sums);
extern int64 llmq_seed_first_bucket(const LlmqWindow *window, TimestampTz now);

#endif							/* LLMQ_SEED_H */
