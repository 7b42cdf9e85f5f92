/*
 * worker_round.c
 *	  A round: maintenance of one database by a process that connects, works for less than a second, and ends.
 *
 * Every step is a transaction of its own, so that a lock on a table is held no longer than needed, and an error takes
 * no other step with it; the error goes to the server's log, unless it was the last one too, and to the cell. The whole
 * is cut by a timer. In the cell a round notes that it has begun, so that one that never ended (it crashed, or was
 * killed) is seen by the next, which then waits the longer the more there were.
 *
 * The process connects as the bootstrap superuser and does every step as the owner of the ledger. Its commits wait for
 * no disk and no standby: what they may forget is due again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "inject.h"
#include "maintain.h"
#include "pick.h"
#include "sql.h"
#include "worker.h"

/* After a round that could not begin because others held a lock. */
#define LOCKED_OUT (INT64CONST(500) * 1000)

typedef struct Round
{
	LlmqSleeper *sleeper;
	LlmqWorkerExtra extra;
	MemoryContext context;		/* for what outlives a transaction */
	TimestampTz began;
	bool		hears;			/* the sleeper can be told of alerts */
	bool		only_alerts;	/* it is for nothing but them */
	LlmqAlertCall call;			/* what is to be looked at for alerts; nothing: everything */
	bool		wanted;			/* there is something to maintain, and it is time to */
	TimestampTz tables_due;		/* when the steps that lock tables are */
	int			step;			/* under way; at the end the one to begin with next time */
	LlmqMaintenanceNext next;
	bool		cut;			/* it took too long */
	const char *known_error;	/* the one in the cell */
	const char *error;			/* NULL: none */
	TimestampTz due;			/* the answer */
} Round;

/* How long a round waits after so many failures in a row: twice as long each time. */
static int64
wait_after(int failures, int64 longest)
{
	return Min((INT64CONST(1) << Min(failures, 20)) * USECS_PER_SEC, longest);
}

/*
 * Keeps the error that has just been caught; to end the transaction is up to the caller. A lock that was not to be had
 * is none: the next round comes again, soon if this one has not even begun.
 */
static void
keep_error(Round *round)
{
	ErrorData  *error;

	MemoryContextSwitchTo(round->context);
	error = CopyErrorData();
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		round->cut = true;
	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
	{
		round->error = round->cut ? "maintenance was cut because it took too long" : error->message;
		if (round->known_error == NULL || strcmp(round->known_error, round->error) != 0)
			EmitErrorReport();
	}
	else if (!round->wanted)
		round->due = round->began + LOCKED_OUT;
	FlushErrorState();
}

/* Does a part of the round in a transaction of its own. */
static void
in_transaction(Round *round, void (*part) (Round *round))
{
	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		part(round);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		keep_error(round);
		AbortCurrentTransaction();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(round->context);
}

/* In the cell: a round begins, unless the last ones never ended and it is too early after them. */
static bool
note_begin(LlmqWorkerCell *cell, void *argument)
{
	Round	   *round = argument;

	if (cell->database != MyDatabaseId)
	{
		memset((char *) cell + sizeof(LlmqCellHeader), 0, sizeof(LlmqWorkerCell) - sizeof(LlmqCellHeader));
		cell->database = MyDatabaseId;
	}
	if (cell->running_since != 0)
	{
		int64		wait = wait_after(cell->failures, LLMQ_LONGEST_WAIT);

		round->due = Min(cell->running_since, round->began) + wait;
		if (round->due > round->began)
			return false;
		cell->failures++;
		cell->error_at = cell->running_since;
		strlcpy(cell->error, "maintenance did not come to its end", sizeof(cell->error));
	}
	cell->running_since = round->began;
	cell->sleeper_pid = MyBgworkerEntry->bgw_notify_pid;
	cell->sleeper_memory = round->extra.memory;
	round->tables_due = cell->tables_due > round->began + LLMQ_ROUND_INTERVAL ? round->began : cell->tables_due;
	round->step = cell->next_step;
	round->known_error = MemoryContextStrdup(round->context, cell->error);
	return true;
}

/*
 * Finds out whether there is anything to do, other than in a database that is being restored from a dump: nothing may
 * be made there that the dump brings.
 */
static void
begin_round(Round *round)
{
	LlmqRoundResult *result = &round->sleeper->result;
	LlmqLive	live;

	if (!OidIsValid(get_extension_oid("llmquota", true)))
	{
		round->due = DT_NOEND;
		return;
	}
	llmq_live_open(&live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	if (!llmq_worker_is_wanted(&live))
		round->due = DT_NOEND;
	else if (llmq_worker_cell_create(&live))
	{
		llmq_relation_path_compat(live.rel[LLMQ_LIVE_NAME], result->path, sizeof(result->path));
		round->wanted = llmq_worker_cell_change(&live, note_begin, round);
	}
	llmq_live_close(&live);
}

/* When the steps are to stop by themselves. */
static TimestampTz
deadline_of(const Round *round)
{
	return round->began + LLMQ_STEPS_MS * INT64CONST(1000);
}

/* One step, unless somebody else is at it. */
static void
do_step(Round *round)
{
	LlmqMaintenance maintenance;

	LLMQ_INJECT_ERROR("round-error");
	LLMQ_INJECT_HANG("round-hang");
	LLMQ_INJECT_CRASH("round-crash", InvalidXLogRecPtr);
	if (!llmq_maintenance_lock())
		return;
	llmq_maintenance_begin(&maintenance, 0, &round->next);
	maintenance.deadline = deadline_of(round);
	maintenance.cut = true;
	(void) llmq_maintenance_step(round->step, &maintenance);
}

/* Looks for alerts. Again a moment later, if somebody else is at maintenance or it fails. */
static void
do_alerts(Round *round)
{
	LlmqMaintenanceNext next = {.due = round->next.due};
	LlmqMaintenance maintenance;

	round->next.alerts = round->call;
	if (!llmq_maintenance_lock())
		return;
	llmq_maintenance_begin(&maintenance, 0, &next);
	maintenance.deadline = deadline_of(round);
	maintenance.cut = true;
	maintenance.alerts = &round->call;
	(void) llmq_maintenance_step(llmq_maintenance_alerts_step(), &maintenance);
	round->next.alerts = next.alerts;
	round->next.due = next.due;
}

/* Once what a look has raised is committed, another one settles it. */
static void
settle_alerts(Round *round)
{
	if (round->next.alerts.n == 0 || round->cut)
		return;
	round->call = round->next.alerts;
	in_transaction(round, do_alerts);
}

/* Does a step that locks tables; says in `next` when such steps are due again. */
static void
do_tables_step(Round *round, TimestampTz *next)
{
	bool		work_left = round->next.work_left;

	round->next.work_left = false;
	in_transaction(round, do_step);
	if (round->next.work_left)
		*next = round->began;
	round->next.work_left |= work_left;
}

/*
 * All steps, each in its transaction, beginning with the one that the last round did not come to: so each has its turn,
 * however much the others have to do. Those that lock tables are done once a minute: who cannot have a lock does not
 * ask all the time.
 */
static void
do_steps(Round *round)
{
	TimestampTz tables_next = round->began + LLMQ_ROUND_INTERVAL;
	int			nsteps = llmq_maintenance_nsteps();

	round->step %= nsteps;
	for (int done = 0; done < nsteps; done++, round->step = (round->step + 1) % nsteps)
	{
		if (round->cut || (done > 0 && GetCurrentTimestamp() >= deadline_of(round)))
		{
			round->next.work_left = true;
			return;
		}
		if (llmq_maintenance_kind(round->step) == LLMQ_STEP_ROWS)
			in_transaction(round, do_step);
		else if (round->tables_due <= round->began)
			do_tables_step(round, &tables_next);
	}
	if (round->tables_due <= round->began)
		round->tables_due = tables_next;
	round->step = 0;
}

/* In the cell: how the round went, and when the next is due. */
static bool
note_end(LlmqWorkerCell *cell, void *argument)
{
	Round	   *round = argument;
	TimestampTz now = GetCurrentTimestamp();

	cell->last_run = now;
	cell->last_run_ms = (int32) ((now - round->began) / 1000);
	cell->rounds++;
	cell->running_since = 0;
	cell->tables_due = round->tables_due;
	cell->next_step = round->step;
	if (round->only_alerts)
		cell->due = Min(cell->due, round->next.due);
	else
		cell->due = round->next.work_left ? now : Max(now, Min(round->next.due, now + LLMQ_ROUND_INTERVAL));
	if (round->error == NULL)
	{
		/* whoever finds no sleeper may start one at once */
		cell->tried_at = 0;
		if (!round->only_alerts)
			cell->failures = 0;
	}
	else
	{
		cell->failures++;
		cell->error_at = now;
		strlcpy(cell->error, round->error, sizeof(cell->error));
		cell->due = now + wait_after(cell->failures, LLMQ_ROUND_INTERVAL);
	}
	round->due = cell->due;
	return true;
}

static void
end_round(Round *round)
{
	LlmqLive	live;

	llmq_live_open(&live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	(void) llmq_worker_cell_change(&live, note_end, round);
	llmq_live_close(&live);
}

/* Settings of database and role are not for this. */
static void
settle_settings(void)
{
	static const char *const settings[][2] = {
		{"default_transaction_read_only", "off"},
		{"default_transaction_isolation", "read committed"},
		{"synchronous_commit", "off"},
		{"search_path", "pg_catalog, pg_temp"},
		{"lock_timeout", LLMQ_LOCK_TIMEOUT},
		{"application_name", "llmquota maintenance"},
	};

	for (Size i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

static void
run(Round *round)
{
	enable_timeout_after(STATEMENT_TIMEOUT, LLMQ_ROUND_MS);
	in_transaction(round, begin_round);
	if (round->wanted && round->only_alerts)
		in_transaction(round, do_alerts);
	else if (round->wanted)
		do_steps(round);
	if (round->wanted)
		settle_alerts(round);
	disable_timeout(STATEMENT_TIMEOUT, false);
	QueryCancelPending = false;
	if (round->wanted)
		in_transaction(round, end_round);
	round->sleeper->result.due = round->due;
	if (round->hears)
		round->sleeper->again = round->next.alerts;
	round->sleeper->result.ended = true;
}

/* The process. Its argument is the database. */
void
llmquota_round_main(Datum argument)
{
	Round		round = {.began = GetCurrentTimestamp(),.next = {.due = DT_NOEND}};
	dsm_segment *segment;

	round.due = round.began + LLMQ_SILENCE;

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(argument), InvalidOid, 0);
	memcpy(&round.extra, MyBgworkerEntry->bgw_extra, sizeof(round.extra));
	round.sleeper = llmq_sleeper_attach(round.extra.memory, &segment);
	if (round.sleeper == NULL)
		proc_exit(0);
	round.hears = llmq_sleeper_hears(segment);
	if (round.hears)
		round.call = round.sleeper->call;
	round.only_alerts = round.call.n > 0;
	settle_settings();
	round.context = AllocSetContextCreate(TopMemoryContext, "llmquota round", ALLOCSET_DEFAULT_SIZES);
	run(&round);
	proc_exit(0);
}
