/*
 * maintain.h
 *	  What maintenance does, step by step.
 */
#ifndef LLMQ_MAINTAIN_H
#define LLMQ_MAINTAIN_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "catalog.h"

/* What every step is given. */
typedef struct LlmqMaintenance
{
	TimestampTz now;			/* when it began: the same for all steps */
	TimestampTz deadline;		/* a step stops here, after at least one piece of work */
	LlmqSettings settings;		/* a copy: a step's own DDL may make the catalog invalid */
} LlmqMaintenance;

/*
 * A step does work that is due, until the deadline, and answers how much. It is idempotent, is never run twice at a
 * time, and blocks no pick and no record for longer than a page lock or LLMQ_LOCK_TIMEOUT.
 */
typedef int64 (*LlmqMaintenanceStep) (const LlmqMaintenance *maintenance);

/* maintain.c */
extern void llmq_maintenance_begin(LlmqMaintenance *maintenance, int64 milliseconds);
extern bool llmq_maintenance_lock(void);
extern bool llmq_maintenance_late(const LlmqMaintenance *maintenance);

/* expire.c */
extern int64 llmq_expire_step(const LlmqMaintenance *maintenance);

/* partition.c */
extern int64 llmq_rows_move_step(const LlmqMaintenance *maintenance);
extern int64 llmq_partitions_create_step(const LlmqMaintenance *maintenance);

/* rollup.c */
extern int64 llmq_roll_up_step(const LlmqMaintenance *maintenance);

#endif							/* LLMQ_MAINTAIN_H */
