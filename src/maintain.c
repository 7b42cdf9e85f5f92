/*
 * maintain.c
 *	  llmquota_maintain: what has to be done now and then, whoever calls it.
 *
 * A table of steps. Each does what is due, in the file of its concern, and answers how much it did; llmquota_maintain()
 * shows the answers as a row. A step that fails is rolled back alone and takes no other with it. Steps that take locks
 * on tables come last, because a lock is held to the end of the transaction. Idempotent; one at a time, by a lock of
 * the extension's own, and whoever comes second does nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_namespace.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "args.h"
#include "maintain.h"
#include "pick.h"
#include "relation.h"
#include "sql.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(llmquota_maintain);

/* The lock that keeps maintenance from overlapping: an object lock on our schema, with a sub-id of its own. */
#define MAINTENANCE_LOCK_SUBID 1

/* How long one call goes on. */
#define CALL_MS 1000

/*
 * The steps, in the order in which the row of llmquota_maintain() shows them, behind work_left. Those that take locks
 * on tables are done after all others.
 */
static const struct
{
	LlmqMaintenanceStep run;
	LlmqStepKind kind;
}			steps[] = {
	{llmq_expire_step, LLMQ_STEP_ROWS}, /* expired */
	{llmq_retire_step, LLMQ_STEP_ROWS}, /* retired */
	{llmq_delete_dead_step, LLMQ_STEP_ROWS},	/* unborn_deleted */
	{llmq_roll_up_step, LLMQ_STEP_ROWS},	/* rows_counted */
	{llmq_seed_step, LLMQ_STEP_ROWS},	/* windows_completed */
	{llmq_refusals_keep_step, LLMQ_STEP_ROWS},	/* refusals_kept */
	{llmq_history_drop_step, LLMQ_STEP_ROWS},	/* history_dropped */
	{llmq_rows_move_step, LLMQ_STEP_TABLES},	/* rows_moved */
	{llmq_partitions_create_step, LLMQ_STEP_TABLES},	/* partitions_created */
	{llmq_partitions_drop_step, LLMQ_STEP_TABLES},	/* partitions_dropped */
	{llmq_troubles_end_step, LLMQ_STEP_ROWS},	/* troubles_ended */
	{llmq_events_keep_step, LLMQ_STEP_ROWS},	/* events_kept */
	{llmq_alerts_raise_step, LLMQ_STEP_ROWS},	/* alerts_raised */
	{llmq_alerts_resolve_step, LLMQ_STEP_ROWS}, /* alerts_resolved */
	{llmq_conversations_prune_step, LLMQ_STEP_ROWS},	/* conversations_pruned */
	{llmq_answers_drop_step, LLMQ_STEP_ROWS},	/* answers_dropped */
};

#define NSTEPS ((int) lengthof(steps))

int
llmq_maintenance_nsteps(void)
{
	return NSTEPS;
}

/* The number of the step that raises alerts. */
int
llmq_maintenance_alerts_step(void)
{
	int			step = 0;

	while (steps[step].run != llmq_alerts_raise_step)
		step++;
	return step;
}

LlmqStepKind
llmq_maintenance_kind(int step)
{
	return steps[step].kind;
}

/* Has the time run out? Then work is left, or may be. */
bool
llmq_maintenance_late(const LlmqMaintenance *maintenance)
{
	if (GetCurrentTimestamp() < maintenance->deadline)
		return false;
	maintenance->next->work_left = true;
	return true;
}

/* Says that something will be due then. */
void
llmq_maintenance_due(const LlmqMaintenance *maintenance, TimestampTz at)
{
	maintenance->next->due = Min(maintenance->next->due, at);
}

/* What is given to the steps of maintenance that begins now and goes on for so long. */
void
llmq_maintenance_begin(LlmqMaintenance *maintenance, int64 milliseconds, LlmqMaintenanceNext *next)
{
	maintenance->settings = llmq_catalog()->settings;
	maintenance->now = GetCurrentTimestamp();
	maintenance->deadline = maintenance->now + milliseconds * 1000;
	maintenance->cut = false;
	maintenance->alerts = NULL;
	maintenance->next = next;
}

/* Runs one step as the owner of the ledger. What it allocates is gone afterwards. */
int64
llmq_maintenance_step(int step, const LlmqMaintenance *maintenance)
{
	LlmqSql		sql;
	int64		done;

	llmq_sql_begin(&sql);
	done = steps[step].run(maintenance);
	llmq_sql_end(&sql);
	return done;
}

/* Takes the lock that there is one maintenance at a time, to the end of the transaction. False when it is taken. */
bool
llmq_maintenance_lock(void)
{
	return ConditionalLockDatabaseObject(NamespaceRelationId, llmq_schema_oid(), MAINTENANCE_LOCK_SUBID, ExclusiveLock);
}

/* The error of a step that has been rolled back: a warning, unless it ends the call. */
static void
report_failure(ErrorData *error)
{
	int			category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	if (category == ERRCODE_OPERATOR_INTERVENTION || category == ERRCODE_INSUFFICIENT_RESOURCES ||
		category == ERRCODE_INTERNAL_ERROR)
		ReThrowError(error);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("a step of maintenance failed: %s", error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
	FreeErrorData(error);
}

/* Runs a step in a subtransaction. False when it failed, which has been reported, and nothing is left of it. */
static bool
run_step(int step, const LlmqMaintenance *maintenance, int64 *done)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		*done = llmq_maintenance_step(step, maintenance);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error != NULL)
		report_failure(error);
	return error == NULL;
}

/* Runs the steps of one kind and puts their answers into the row; NULL for one that failed. */
static void
run_steps(LlmqStepKind kind, const LlmqMaintenance *maintenance, Datum *values, bool *nulls)
{
	for (int i = 0; i < NSTEPS; i++)
	{
		int64		done;

		if (steps[i].kind != kind)
			continue;
		nulls[i] = !run_step(i, maintenance, &done);
		values[i] = Int64GetDatum(done);
	}
}

/* llmquota_maintain() -> (work_left, a column for each step) */
Datum
llmquota_maintain(PG_FUNCTION_ARGS)
{
	LlmqMaintenanceNext next = {.due = DT_NOEND};
	LlmqMaintenance maintenance;
	Datum		values[1 + NSTEPS];
	bool		nulls[1 + NSTEPS];

	llmq_cell_refuse_if_read_only("llmquota_maintain()");
	memset(values, 0, sizeof(values));
	memset(nulls, false, sizeof(nulls));
	if (llmq_maintenance_lock())
	{
		llmq_refusals_flush();
		llmq_maintenance_begin(&maintenance, CALL_MS, &next);
		run_steps(LLMQ_STEP_ROWS, &maintenance, values + 1, nulls + 1);
		run_steps(LLMQ_STEP_TABLES, &maintenance, values + 1, nulls + 1);
	}
	else
		next.work_left = true;	/* whoever is at it may have passed what is due now */
	for (int i = 0; i < Min(next.alerts.n, LLMQ_ALERT_METERS); i++)
		llmq_alert_ask(next.alerts.meter[i]);
	llmq_worker_look(DT_NOEND);
	values[0] = BoolGetDatum(next.work_left);
	return llmq_result_row(fcinfo, values, nulls, lengthof(values));
}
