/*
 * worker_sleep.c
 *	  The sleeper: knows when maintenance is due in which database, and starts a round then.
 *
 * It is connected to no database, and reads pg_database, which all share. What it knows of a database it has from the
 * last round there: when the next is due, and which file is that of llmquota.name. The file is looked at twice a
 * second, because it is the one thing that tells an outsider that the extension has been dropped: it is truncated by
 * the commit. Then a round is due at once and finds out. A database that has no extension, or no lease yet, is left
 * alone until somebody asks (LlmqPoke).
 *
 * With synchronous_commit = off a call leaves it to the sleeper to tell the WAL writer of its changes
 * (llmq_worker_takes_wal): to wake it at every call would cost more than the call's WAL.
 *
 * Rounds are started one at a time, the most overdue first. One that does not end is terminated. When there is no free
 * worker slot, or a round could not be had in another way, the database has to wait for half a minute, in silence.
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "postmaster/walwriter.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "worker.h"

/* How often files are looked at. */
#define WATCH_MS 500

/* The least time between two rounds in one database: CREATE DATABASE ... TEMPLATE needs a moment without one. */
#define PAUSE (INT64CONST(250) * 1000)

/* The least time between two rounds that look for alerts only. */
#define ALERTS_PAUSE (INT64CONST(500) * 1000)

/* A round that has not ended by then is terminated. It cuts itself long before. */
#define ROUND_PATIENCE (INT64CONST(3) * USECS_PER_SEC)

/* The class of the advisory lock that there is one sleeper to a database; those of SQL functions are 1 and 2. */
#define SLEEPER_LOCK_CLASS 0x4c51

/* pg_database.datconnlimit of a database whose DROP was interrupted. */
#define INVALID_DATABASE (-2)

typedef struct Database
{
	Oid			oid;
	bool		there;			/* it was, at the last look into pg_database */
	TimestampTz due;			/* DT_NOEND: when somebody asks */
	TimestampTz not_before;
	LlmqAlertCall alerts;		/* to be looked at */
	TimestampTz alerts_due;		/* when; DT_NOEND: there are none */
	TimestampTz alerts_not_before;
	char		path[sizeof(((LlmqRoundResult *) 0)->path)];	/* empty: no file to look at */
} Database;

/* All that this process knows. */
static LlmqSleeper *sleeper;
static dsm_handle sleeper_memory = 0;
static Oid	only_database = InvalidOid; /* all of them */
static Database *databases;
static int	ndatabases = 0;
static int	max_databases = 16;

/* Tells the WAL writer to flush all that calls have left to us so far. */
static void
hand_over_wal(void)
{
	pg_atomic_write_u64(&sleeper->unflushed_since, 0);
	pg_memory_barrier();
	XLogSetAsyncXactLSN(GetXLogInsertRecPtr());
}

/* When the process ends: nobody is to ask it any more, nor to leave it anything. */
static void
forget_sleeper(int code, Datum argument)
{
	SpinLockAcquire(&sleeper->mutex);
	sleeper->pid = 0;
	sleeper->latch = NULL;
	SpinLockRelease(&sleeper->mutex);
	hand_over_wal();
}

/* Takes possession of the memory. */
static void
announce(void)
{
	if (OidIsValid(only_database))
	{
		dsm_segment *segment = dsm_create(sizeof(LlmqSleeper), 0);

		sleeper = dsm_segment_address(segment);
		sleeper_memory = dsm_segment_handle(segment);
		llmq_sleeper_prepare(sleeper);
	}
	else
		sleeper = llmq_preloaded_sleeper;
	SpinLockAcquire(&sleeper->mutex);
	sleeper->pid = MyProcPid;
	sleeper->latch = MyLatch;
	SpinLockRelease(&sleeper->mutex);
	before_shmem_exit(forget_sleeper, (Datum) 0);
}

/* Takes the lock that there is one sleeper to a database, until the process ends. */
static bool
is_alone(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, only_database, 0, 0, SLEEPER_LOCK_CLASS);
	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

static Database *
find_database(Oid oid)
{
	for (int i = 0; i < ndatabases; i++)
		if (databases[i].oid == oid)
			return &databases[i];
	return NULL;
}

/* Notes that there is such a database; a new one gets a round now. */
static void
note_database(Oid oid)
{
	Database   *database = find_database(oid);

	if (database == NULL)
	{
		if (ndatabases == max_databases)
		{
			max_databases *= 2;
			databases = repalloc(databases, sizeof(Database) * max_databases);
		}
		database = &databases[ndatabases++];
		*database = (Database) {.oid = oid,.alerts_due = DT_NOEND};
	}
	database->there = true;
}

static void
forget_missing_databases(void)
{
	int			kept = 0;

	for (int i = 0; i < ndatabases; i++)
		if (databases[i].there)
			databases[kept++] = databases[i];
	ndatabases = kept;
}

/* Reads which databases there are that one can connect to. By a scan: there may be no index for who is nowhere. */
static void
list_databases(void)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	for (int i = 0; i < ndatabases; i++)
		databases[i].there = false;
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (OidIsValid(only_database) && form->oid != only_database)
			continue;
		if (form->datallowconn && form->datconnlimit != INVALID_DATABASE)
			note_database(form->oid);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	forget_missing_databases();
}

/* A database that somebody asks for: it may be newer than our list. NULL: it is not there. */
static Database *
asked_database(Oid oid)
{
	Database   *database = find_database(oid);

	if (database != NULL)
		return database;
	list_databases();
	return find_database(oid);
}

/* Has meters of a database looked at, soon. */
static void
call_for(Database *database, const LlmqAlertCall *call)
{
	llmq_alert_calls_join(&database->alerts, call);
	if (database->alerts.n > 0)
		database->alerts_due = Max(GetCurrentTimestamp(), database->alerts_not_before);
}

/* Takes what was asked for. */
static void
take_pokes(void)
{
	LlmqPoke	poke[LLMQ_MAX_POKES];
	LlmqAlertPoke alert[LLMQ_MAX_POKES];
	int			npokes;
	int			nalerts;

	SpinLockAcquire(&sleeper->mutex);
	npokes = sleeper->npokes;
	memcpy(poke, sleeper->poke, sizeof(LlmqPoke) * npokes);
	sleeper->npokes = 0;
	nalerts = sleeper->nalerts;
	memcpy(alert, sleeper->alert, sizeof(LlmqAlertPoke) * nalerts);
	sleeper->nalerts = 0;
	SpinLockRelease(&sleeper->mutex);
	for (int i = 0; i < npokes; i++)
	{
		Database   *database = asked_database(poke[i].database);

		if (database != NULL)
			database->due = Min(database->due, poke[i].due);
	}
	for (int i = 0; i < nalerts; i++)
	{
		Database   *database = asked_database(alert[i].database);

		if (database != NULL)
			call_for(database, &alert[i].call);
	}
}

/* A file that is gone or empty: the extension was dropped, or VACUUM FULL has given the table another one. */
static void
watch_files(void)
{
	for (int i = 0; i < ndatabases; i++)
	{
		struct stat status;

		if (databases[i].path[0] == '\0' || (stat(databases[i].path, &status) == 0 && status.st_size > 0))
			continue;
		databases[i].path[0] = '\0';
		databases[i].due = 0;
	}
}

/* When a database is to have a round, of whatever sort. */
static TimestampTz
due_of(const Database *database)
{
	return Max(Min(database->due, database->alerts_due), database->not_before);
}

/* The database whose round has been due longest; NULL when none is. */
static Database *
most_overdue(TimestampTz now)
{
	Database   *found = NULL;

	for (int i = 0; i < ndatabases; i++)
		if (due_of(&databases[i]) <= now && (found == NULL || due_of(&databases[i]) < due_of(found)))
			found = &databases[i];
	return found;
}

/*
 * Hands WAL over wal_writer_delay after the first call has left it to us. Returns how long it may take until this is
 * asked again, `milliseconds` at most.
 */
static long
see_to_wal(long milliseconds)
{
	TimestampTz since = (TimestampTz) pg_atomic_read_u64(&sleeper->unflushed_since);
	TimestampTz now;

	if (since == 0)
		return milliseconds;
	now = GetCurrentTimestamp();
	if (now >= since && now < since + WalWriterDelay * INT64CONST(1000))
		return Min(milliseconds, WalWriterDelay - (now - since) / 1000);
	hand_over_wal();
	return milliseconds;
}

/* Waits for the latch, at most so long. */
static void
wait_ms(long milliseconds)
{
	milliseconds = see_to_wal(milliseconds);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Waits until a round's process has ended, and ends it when it takes too long or we are asked to end. */
static void
wait_for_round(BackgroundWorkerHandle *handle)
{
	TimestampTz patience = GetCurrentTimestamp() + ROUND_PATIENCE;
	bool		terminated = false;
	pid_t		pid;

	while (GetBackgroundWorkerPid(handle, &pid) != BGWH_STOPPED)
	{
		if (!terminated && (ShutdownRequestPending || GetCurrentTimestamp() > patience))
		{
			TerminateBackgroundWorker(handle);
			terminated = true;
		}
		wait_ms(100);
	}
}

static bool
start_round(Oid database, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker = llmq_worker_process("llmquota_round_main", "llmquota maintenance", database);
	LlmqWorkerExtra extra = {.memory = sleeper_memory};

	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, &extra, sizeof(extra));
	memset(&sleeper->result, 0, sizeof(sleeper->result));
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/*
 * Says what the round that begins is for. One that is due looks at everything; else it is for what somebody has called
 * for.
 */
static void
assign_round(Database *database)
{
	memset(&sleeper->call, 0, sizeof(LlmqAlertCall));
	memset(&sleeper->again, 0, sizeof(LlmqAlertCall));
	if (database->due > GetCurrentTimestamp())
		sleeper->call = database->alerts;
	database->alerts.n = 0;
	database->alerts_due = DT_NOEND;
}

/* Has a round in a database, if it is there, and notes what it said. */
static void
visit(Oid oid)
{
	BackgroundWorkerHandle *handle;
	Database   *database;
	bool		started;

	list_databases();
	database = find_database(oid);
	if (database == NULL)
		return;
	assign_round(database);
	started = start_round(oid, &handle);
	if (started)
		wait_for_round(handle);
	database->not_before = GetCurrentTimestamp() + PAUSE;
	database->alerts_not_before = GetCurrentTimestamp() + ALERTS_PAUSE;
	if (started && sleeper->result.ended)
	{
		database->due = sleeper->result.due;
		call_for(database, &sleeper->again);
		strlcpy(database->path, sleeper->result.path, sizeof(database->path));
		return;
	}
	database->path[0] = '\0';
	database->not_before += LLMQ_SILENCE;
}

/* How long nothing is due. */
static long
time_to_wait(TimestampTz now)
{
	TimestampTz next = DT_NOEND;
	bool		watching = false;

	for (int i = 0; i < ndatabases; i++)
	{
		next = Min(next, due_of(&databases[i]));
		watching |= databases[i].path[0] != '\0';
	}
	if (next == DT_NOEND)
		return LLMQ_ROUND_INTERVAL / 1000;
	return Max(0, Min((next - now) / 1000 + 1, watching ? WATCH_MS : LLMQ_ROUND_INTERVAL / 1000));
}

/* A clock that was set back does not make anybody wait longer. */
static void
mistrust_clock(TimestampTz now)
{
	for (int i = 0; i < ndatabases; i++)
	{
		if (databases[i].due != DT_NOEND && databases[i].due > now + LLMQ_LONGEST_WAIT)
			databases[i].due = now;
		if (databases[i].not_before > now + 2 * LLMQ_SILENCE)
			databases[i].not_before = now;
		if (databases[i].alerts_due != DT_NOEND && databases[i].alerts_due > now + ALERTS_PAUSE)
			databases[i].alerts_due = now;
	}
}

/* Has the round that is due, or waits until one is. */
static void
take_turn(void)
{
	TimestampTz now;
	Database   *database;

	take_pokes();
	watch_files();
	now = GetCurrentTimestamp();
	mistrust_clock(now);
	database = most_overdue(now);
	if (database != NULL)
		visit(database->oid);
	else
		wait_ms(time_to_wait(now));
}

/* A sleeper of one database has nothing to stay for when that is gone, or the extension is. */
static bool
is_needed(void)
{
	if (!OidIsValid(only_database))
		return true;
	return llmq_worker_enabled && ndatabases > 0 && databases[0].due != DT_NOEND;
}

/* Takes new settings, which may be that there is to be no worker; is this one to go on? */
static bool
goes_on(void)
{
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	return is_needed() && !ShutdownRequestPending;
}

/*
 * A preloaded sleeper ends with 1, so that the server starts it again; when the server itself ends that is no matter.
 */
static void
sleep_and_visit(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "llmquota sleeper", ALLOCSET_DEFAULT_SIZES);

	list_databases();
	while (goes_on())
	{
		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		if (llmq_worker_enabled)
			take_turn();
		else
			wait_ms(LLMQ_ROUND_INTERVAL / 1000);
	}
}

/* The process. Its argument is the database it is for; InvalidOid: all. */
void
llmquota_sleeper_main(Datum argument)
{
	only_database = DatumGetObjectId(argument);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	if (OidIsValid(only_database) && !is_alone())
		proc_exit(0);
	databases = MemoryContextAlloc(TopMemoryContext, sizeof(Database) * max_databases);
	announce();
	sleep_and_visit();
	proc_exit(OidIsValid(only_database) ? 0 : 1);
}
