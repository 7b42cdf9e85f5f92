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

PG_FUNCTION_INFO_V1(llmquota_maintain);

/* The lock that keeps maintenance from overlapping: an object lock on our schema, with a sub-id of its own. */
#define MAINTENANCE_LOCK_SUBID 1

/* How long one call goes on. */
#define CALL_MS 1000

static int64 delete_unborn(const LlmqMaintenance *maintenance);

/*
 * The steps, in the order in which they are done and in which the row of llmquota_maintain() shows them, behind
 * work_left.
 */
static const LlmqMaintenanceStep steps[] = {
	llmq_expire_step,			/* expired */
	delete_unborn,				/* unborn_deleted */
	llmq_roll_up_step,			/* rows_counted */
	llmq_rows_move_step,		/* rows_moved */
	llmq_partitions_create_step,	/* partitions_created */
};

#define NSTEPS ((int) lengthof(steps))

/* Has the time run out? */
bool
llmq_maintenance_late(const LlmqMaintenance *maintenance)
{
	return GetCurrentTimestamp() >= maintenance->deadline;
}

/* What is given to the steps of maintenance that begins now and goes on for so long. */
void
llmq_maintenance_begin(LlmqMaintenance *maintenance, int64 milliseconds)
{
	maintenance->settings = llmq_catalog()->settings;
	maintenance->now = GetCurrentTimestamp();
	maintenance->deadline = maintenance->now + milliseconds * 1000;
}

/* Takes the lock that there is one maintenance at a time, to the end of the transaction. False when it is taken. */
bool
llmq_maintenance_lock(void)
{
	return ConditionalLockDatabaseObject(NamespaceRelationId, llmq_schema_oid(), MAINTENANCE_LOCK_SUBID, ExclusiveLock);
}

/* Deletes the rows of cells that were never born or have moved. */
static int64
delete_unborn(const LlmqMaintenance *maintenance)
{
	LlmqLive	live;
	int64		deleted = 0;

	llmq_live_open(&live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	for (int table = 0; table < LLMQ_LIVE_COUNT; table++)
		deleted += llmq_cell_delete_dead(&live, (LlmqLiveTable) table);
	llmq_live_close(&live);
	return deleted;
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
run_step(LlmqMaintenanceStep step, const LlmqMaintenance *maintenance, int64 *done)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		*done = step(maintenance);
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

/* llmquota_maintain() -> (work_left, a column for each step); NULL for a step that failed */
Datum
llmquota_maintain(PG_FUNCTION_ARGS)
{
	Datum		values[1 + NSTEPS];
	bool		nulls[1 + NSTEPS];
	LlmqMaintenance maintenance;
	bool		alone;

	llmq_cell_refuse_if_read_only("llmquota_maintain()");
	alone = llmq_maintenance_lock();
	llmq_maintenance_begin(&maintenance, CALL_MS);
	if (alone)
		llmq_refusals_flush();
	memset(nulls, false, sizeof(nulls));
	for (int i = 0; i < NSTEPS; i++)
	{
		int64		done = 0;

		nulls[1 + i] = alone && !run_step(steps[i], &maintenance, &done);
		values[1 + i] = Int64GetDatum(done);
	}
	values[0] = BoolGetDatum(llmq_maintenance_late(&maintenance));
	return llmq_result_row(fcinfo, values, nulls, lengthof(values));
}
