/*
 * worker_look.c
 *	  What calls do for the background worker: see that there is one.
 *
 * Once a second at most a call looks at the worker's cell. When its heartbeat is old it asks the sleeper for a round,
 * or starts a sleeper when there is none and the library is not preloaded; nobody tries that more often than every half
 * a minute. A lease that will expire before the next round is told to the sleeper at once. Nothing here waits, and no
 * page is locked when it begins.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/timestamp.h"

#include "worker.h"

/* How long a round may be overdue: others may have theirs first. */
#define OVERDUE (INT64CONST(10) * USECS_PER_SEC)

/* This backend looks again then, and knew of a round at that time. */
static TimestampTz next_look = 0;
static TimestampTz known_due = 0;

/* Asks a sleeper for a round. False when there is no room; whoever asks comes again. */
static bool
poke(LlmqSleeper *sleeper, TimestampTz due)
{
	Latch	   *latch;
	int			i = 0;

	SpinLockAcquire(&sleeper->mutex);
	latch = sleeper->pid == 0 ? NULL : sleeper->latch;
	while (i < sleeper->npokes && sleeper->poke[i].database != MyDatabaseId)
		i++;
	if (i == sleeper->npokes && i < LLMQ_MAX_POKES)
		sleeper->poke[sleeper->npokes++] = (LlmqPoke) {.database = MyDatabaseId,.due = due};
	else if (i < LLMQ_MAX_POKES)
		sleeper->poke[i].due = Min(sleeper->poke[i].due, due);
	SpinLockRelease(&sleeper->mutex);
	if (latch != NULL)
		SetLatch(latch);
	return latch != NULL;
}

/* Asks the sleeper that the cell knows. False when it is gone. */
static bool
poke_known(const LlmqWorkerCell *cell, TimestampTz due)
{
	dsm_segment *segment;
	LlmqSleeper *sleeper = llmq_sleeper_attach(cell->sleeper_memory, &segment);
	bool		poked = sleeper != NULL && poke(sleeper, due);

	if (segment != NULL)
		dsm_detach(segment);
	return poked;
}

/* The one that starts a sleeper is the one that writes this. */
static bool
claim_start(LlmqWorkerCell *cell, void *argument)
{
	TimestampTz now = *(TimestampTz *) argument;

	if (cell->database == MyDatabaseId && cell->tried_at >= PgStartTime && cell->tried_at <= now &&
		now < cell->tried_at + LLMQ_SILENCE)
		return false;
	if (cell->database != MyDatabaseId)
		memset((char *) cell + sizeof(LlmqCellHeader), 0, sizeof(LlmqWorkerCell) - sizeof(LlmqCellHeader));
	cell->database = MyDatabaseId;
	cell->tried_at = now;
	return true;
}

/* Starts a sleeper for this database. When no slot is free that is nobody's fault, and picks see to expired leases. */
static void
start_sleeper(LlmqLive *live, TimestampTz now)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = BGW_NEVER_RESTART,
		.bgw_library_name = "llmquota",
		.bgw_function_name = "llmquota_sleeper_main",
		.bgw_type = "llmquota worker",
		.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId),
	};

	if (!llmq_worker_cell_change(live, claim_start, &now))
		return;
	snprintf(worker.bgw_name, BGW_MAXLEN, "llmquota worker for database %u", MyDatabaseId);
	(void) RegisterDynamicBackgroundWorker(&worker, NULL);
}

/* Was the table made by this transaction? Then nobody else sees it. */
static bool
is_of_this_transaction(const LlmqLive *live)
{
	return live->rel[LLMQ_LIVE_NAME]->rd_createSubid != InvalidSubTransactionId;
}

/* Looks at the cell, and does what it takes to have a round when it is due, `wanted` at the latest. */
static void
look(LlmqLive *live, TimestampTz now, TimestampTz wanted)
{
	LlmqWorkerCell cell;
	bool		known = llmq_worker_cell_read(live, &cell);
	bool		late = !known || now > cell.due + OVERDUE;

	known_due = known ? Min(cell.due, wanted) : now;
	if (llmq_preloaded_sleeper != NULL)
	{
		if (late || wanted < cell.due)
			(void) poke(llmq_preloaded_sleeper, late ? now : wanted);
		return;
	}
	if (known && BackendPidGetProc(cell.sleeper_pid) != NULL)
	{
		if (!late && wanted >= cell.due)
			return;
		if (poke_known(&cell, late ? now : wanted))
			return;
	}
	if (known || llmq_worker_cell_create(live))
		start_sleeper(live, now);
}

/*
 * Sees to it that maintenance will be done, by a look at most once a second and for a lease that will expire before the
 * next round; DT_NOEND: there is no lease. Called at the end of a call, when nothing is held.
 */
void
llmq_worker_look(TimestampTz expires_at)
{
	TimestampTz now = GetCurrentStatementStartTimestamp();
	LlmqLive	live;
	/* a clock that was set back does not make it wait longer */
	bool		soon = now < next_look && next_look <= now + USECS_PER_SEC;

	if ((soon && expires_at >= known_due) || !llmq_worker_enabled || IsBinaryUpgrade)
		return;
	next_look = now + USECS_PER_SEC;
	llmq_live_open(&live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	if (!is_of_this_transaction(&live))
		look(&live, now, expires_at);
	llmq_live_close(&live);
}
