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
#include "postmaster/walwriter.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/timestamp.h"

#include "worker.h"

/* How long a round may be overdue: others may have theirs first. */
#define OVERDUE (INT64CONST(10) * USECS_PER_SEC)

/* The sleeper of this database as far as this backend knows, when the library is not preloaded. */
static LlmqSleeper *sleeper = NULL;
static dsm_segment *sleeper_segment = NULL;

/* This backend looks again then, and knew of a round at that time. */
static TimestampTz next_look = 0;
static TimestampTz known_due = 0;

/* Asks a sleeper for a round. False when there is no room; whoever asks comes again. */
static bool
poke(LlmqSleeper *whom, TimestampTz due)
{
	Latch	   *latch;
	int			i = 0;

	SpinLockAcquire(&whom->mutex);
	latch = whom->latch;
	while (i < whom->npokes && whom->poke[i].database != MyDatabaseId)
		i++;
	if (i == whom->npokes && i < LLMQ_MAX_POKES)
		whom->poke[whom->npokes++] = (LlmqPoke) {.database = MyDatabaseId,.due = due};
	else if (i < LLMQ_MAX_POKES)
		whom->poke[i].due = Min(whom->poke[i].due, due);
	SpinLockRelease(&whom->mutex);
	if (latch != NULL)
		SetLatch(latch);
	return latch != NULL;
}

/* Asks a sleeper for meters to be looked at. What finds no room is found by the next round. */
static void
poke_alerts(LlmqSleeper *whom, const LlmqAlertCall *call)
{
	LlmqAlertPoke *place = whom->alert;
	Latch	   *latch;

	SpinLockAcquire(&whom->mutex);
	latch = whom->latch;
	while (place < whom->alert + whom->nalerts && place->database != MyDatabaseId)
		place++;
	if (place == whom->alert + whom->nalerts && whom->nalerts < LLMQ_MAX_POKES)
	{
		*place = (LlmqAlertPoke) {.database = MyDatabaseId};
		whom->nalerts++;
	}
	if (place < whom->alert + whom->nalerts)
		llmq_alert_calls_join(&place->call, call);
	SpinLockRelease(&whom->mutex);
	if (latch != NULL)
		SetLatch(latch);
}

/* The memory of the sleeper that the cell knows, for as long as it is that one. NULL when it is gone. */
static LlmqSleeper *
known_sleeper(const LlmqWorkerCell *cell)
{
	if (sleeper_segment != NULL && dsm_segment_handle(sleeper_segment) == cell->sleeper_memory)
		return sleeper;
	if (sleeper_segment != NULL)
		dsm_detach(sleeper_segment);
	sleeper = llmq_sleeper_attach(cell->sleeper_memory, &sleeper_segment);
	if (sleeper_segment != NULL)
		dsm_pin_mapping(sleeper_segment);
	return sleeper;
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
	BackgroundWorker worker = llmq_worker_process("llmquota_sleeper_main", "llmquota worker", MyDatabaseId);

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

/*
 * Looks at the cell, and does what it takes to have a round when it is due, `wanted` at the latest, and one for `call`
 * (NULL: none) now. Before there is anything to maintain a sleeper would end at once.
 */
static void
look(LlmqLive *live, TimestampTz now, TimestampTz wanted, const LlmqAlertCall *call)
{
	LlmqWorkerCell cell;
	bool		known = llmq_worker_cell_read(live, &cell);
	bool		late = !known || now > cell.due + OVERDUE;

	if (!known && !llmq_worker_is_wanted(live))
		return;
	known_due = known ? Min(cell.due, wanted) : now;
	if (llmq_preloaded_sleeper != NULL)
	{
		if (call != NULL)
			poke_alerts(llmq_preloaded_sleeper, call);
		if (late || wanted < cell.due)
			(void) poke(llmq_preloaded_sleeper, late ? now : wanted);
		return;
	}
	if (known && BackendPidGetProc(cell.sleeper_pid) != NULL)
	{
		LlmqSleeper *known_one = known_sleeper(&cell);

		if (known_one != NULL && call != NULL && llmq_sleeper_hears(sleeper_segment))
			poke_alerts(known_one, call);
		if (known_one != NULL && ((!late && wanted >= cell.due) || poke(known_one, late ? now : wanted)))
			return;
	}
	if (known || llmq_worker_cell_create(live))
		start_sleeper(live, now);
}

/*
 * Sees to it that maintenance will be done, by a look at most once a second, for a lease that will expire before the
 * next round (DT_NOEND: there is no lease), and for what this call wants looked at.
 */
static void
look_at(TimestampTz now, TimestampTz expires_at)
{
	LlmqLive	live;
	/* a clock that was set back does not make it wait longer */
	bool		soon = now < next_look && next_look <= now + USECS_PER_SEC;
	LlmqAlertCall call;
	bool		calls = llmq_alert_asked(&call);

	if ((soon && expires_at >= known_due && !calls) || !llmq_worker_enabled || IsBinaryUpgrade)
		return;
	next_look = now + USECS_PER_SEC;
	llmq_live_open(&live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	if (!is_of_this_transaction(&live))
		look(&live, now, expires_at, calls ? &call : NULL);
	llmq_live_close(&live);
}

/* That of a call, at its end, when nothing is held. */
void
llmq_worker_look(TimestampTz expires_at)
{
	look_at(GetCurrentStatementStartTimestamp(), expires_at);
}

/* That of a call that waits, maybe for leases that expire: all may have begun before the server was started anew. */
void
llmq_worker_look_meanwhile(void)
{
	look_at(GetCurrentTimestamp(), DT_NOEND);
}

/* Wakes the sleeper. False when it has ended. */
static bool
wake(LlmqSleeper *whom)
{
	Latch	   *latch;

	SpinLockAcquire(&whom->mutex);
	latch = whom->latch;
	SpinLockRelease(&whom->mutex);
	if (latch != NULL)
		SetLatch(latch);
	return latch != NULL;
}

/*
 * Leaves it to the sleeper to tell the WAL writer of what this backend has written, within wal_writer_delay. False when
 * there is none, or it has not come to it for longer than that: then the caller has to do it.
 *
 * Whoever finds the sleeper there has written before, and so before it ends and hands over for the last time.
 */
bool
llmq_worker_takes_wal(void)
{
	LlmqSleeper *whom = llmq_preloaded_sleeper != NULL ? llmq_preloaded_sleeper : sleeper;
	TimestampTz now;
	uint64		since;

	if (whom == NULL || !llmq_worker_enabled)
		return false;
	now = GetCurrentTimestamp();
	pg_memory_barrier();
	since = pg_atomic_read_u64(&whom->unflushed_since);
	if (since == 0 && pg_atomic_compare_exchange_u64(&whom->unflushed_since, &since, (uint64) now))
		return wake(whom);
	return now - (TimestampTz) since < 2 * WalWriterDelay * INT64CONST(1000) && *(volatile pid_t *) &whom->pid != 0;
}
