/*
 * maintain.h
 *	  What maintenance does, step by step.
 */
#ifndef LLMQ_MAINTAIN_H
#define LLMQ_MAINTAIN_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "alert_mark.h"
#include "catalog.h"

/* What the steps say together. */
typedef struct LlmqMaintenanceNext
{
	bool		work_left;		/* something is due already */
	TimestampTz due;			/* when something will be, as far as is known; else DT_NOEND */
	LlmqAlertCall alerts;		/* to be looked at again once this transaction has ended */
} LlmqMaintenanceNext;

/* What every step is given. */
typedef struct LlmqMaintenance
{
	TimestampTz now;			/* when it began: the same for all steps */
	TimestampTz deadline;		/* a step stops here, after at least one piece of work */
	bool		cut;			/* soon after the deadline it will be cancelled */
	LlmqSettings settings;		/* a copy: a step's own DDL may make the catalog invalid */
	const LlmqAlertCall *alerts;	/* only these are to be looked at for alerts; NULL: everything */
	LlmqMaintenanceNext *next;
} LlmqMaintenance;

/*
 * A step does work that is due, until the deadline, and answers how much. It runs as the owner of the ledger, connected
 * to SPI, in a (sub)transaction of its own. It is idempotent, is never run twice at a time, and blocks no pick and no
 * record for longer than a page lock or LLMQ_LOCK_TIMEOUT.
 */
typedef int64 (*LlmqMaintenanceStep) (const LlmqMaintenance *maintenance);

/* Which steps a call is about. */
typedef enum LlmqStepKind
{
	LLMQ_STEP_ROWS,				/* changes live state and rows */
	LLMQ_STEP_TABLES			/* takes locks on tables */
} LlmqStepKind;

/* maintain.c */
extern void llmq_maintenance_begin(LlmqMaintenance *maintenance, int64 milliseconds, LlmqMaintenanceNext *next);
extern bool llmq_maintenance_lock(void);
extern bool llmq_maintenance_late(const LlmqMaintenance *maintenance);
extern void llmq_maintenance_due(const LlmqMaintenance *maintenance, TimestampTz at);
extern int	llmq_maintenance_nsteps(void);
extern LlmqStepKind llmq_maintenance_kind(int step);
extern int	llmq_maintenance_alerts_step(void);
extern int64 llmq_maintenance_step(int step, const LlmqMaintenance *maintenance);

/* expire.c */
extern int64 llmq_expire_step(const LlmqMaintenance *maintenance);

/* retire.c */
extern int64 llmq_retire_step(const LlmqMaintenance *maintenance);
extern int64 llmq_delete_dead_step(const LlmqMaintenance *maintenance);

/* retire_health.c */
extern int64 llmq_retire_health(LlmqLive *live, const LlmqCellRange *range, const LlmqMaintenance *maintenance);

/* seed.c */
extern int64 llmq_seed_step(const LlmqMaintenance *maintenance);

/* partition.c */
extern int64 llmq_rows_move_step(const LlmqMaintenance *maintenance);
extern int64 llmq_partitions_create_step(const LlmqMaintenance *maintenance);
extern int64 llmq_partitions_drop_step(const LlmqMaintenance *maintenance);

/* rollup.c */
extern int64 llmq_roll_up_step(const LlmqMaintenance *maintenance);
extern int64 llmq_refusals_keep_step(const LlmqMaintenance *maintenance);
extern int64 llmq_history_drop_step(const LlmqMaintenance *maintenance);

/* cache_put.c */
extern int64 llmq_answers_drop_step(const LlmqMaintenance *maintenance);

/* health_event.c */
extern int64 llmq_events_keep_step(const LlmqMaintenance *maintenance);

/* health_end.c */
extern int64 llmq_troubles_end_step(const LlmqMaintenance *maintenance);

/* alert.c */
extern int64 llmq_alerts_raise_step(const LlmqMaintenance *maintenance);
extern int64 llmq_alerts_resolve_step(const LlmqMaintenance *maintenance);

/* prune.c */
extern int64 llmq_conversations_prune_step(const LlmqMaintenance *maintenance);

#endif							/* LLMQ_MAINTAIN_H */
