/*
 * worker.c
 *	  The background worker: settings, memory, and how it comes to be.
 *
 * Two kinds of processes. A *sleeper* waits until maintenance is due somewhere. It is connected to no database, because
 * whoever is makes DROP DATABASE and CREATE DATABASE ... TEMPLATE fail. It starts a *round* when one is due: a process
 * that connects to the database, does the steps of llmquota_maintain(), notes how it went in a cell, and ends, all
 * within a second.
 *
 * With the library in shared_preload_libraries one sleeper serves the whole cluster, from the server's start or, on a
 * standby, from its promotion on. Otherwise each database has a sleeper of its own, which a call starts when it finds
 * none (worker_look.c). Nobody but the sleepers keeps anything: they may be killed at any time.
 *
 * Sleeper, rounds and calls meet in LlmqSleeper, under its spinlock.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"

#include "worker.h"

#define SLEEPER_MAGIC UINT64CONST(0x6c6c6d71736c6570)

/* How long the server waits before it starts a preloaded sleeper again that has ended. */
#define RESTART_SECONDS 5

bool		llmq_worker_enabled = true;

/* In the server's own shared memory; NULL when the library is not preloaded. */
LlmqSleeper *llmq_preloaded_sleeper = NULL;

static shmem_request_hook_type next_request_hook = NULL;
static shmem_startup_hook_type next_startup_hook = NULL;

/* Makes memory a sleeper's. */
void
llmq_sleeper_prepare(LlmqSleeper *sleeper)
{
	memset(sleeper, 0, sizeof(LlmqSleeper));
	SpinLockInit(&sleeper->mutex);
	pg_atomic_init_u64(&sleeper->unflushed_since, 0);
	sleeper->magic = SLEEPER_MAGIC;
}

/*
 * The memory of a sleeper by its handle, or NULL when it is gone. `segment` is to be detached by the caller; NULL for
 * the server's own memory.
 */
LlmqSleeper *
llmq_sleeper_attach(dsm_handle memory, dsm_segment **segment)
{
	LlmqSleeper *sleeper;

	*segment = NULL;
	if (memory == 0)
		return llmq_preloaded_sleeper;
	*segment = dsm_attach(memory);
	if (*segment == NULL)
		return NULL;
	sleeper = dsm_segment_address(*segment);
	if (dsm_segment_map_length(*segment) >= LLMQ_SLEEPER_LEAST_SIZE && sleeper->magic == SLEEPER_MAGIC)
		return sleeper;
	dsm_detach(*segment);
	*segment = NULL;
	return NULL;
}

/* Can a sleeper be asked to look at meters? One of the library of 0.1.0 has no memory for it. */
bool
llmq_sleeper_hears(dsm_segment *segment)
{
	return segment == NULL || dsm_segment_map_length(segment) >= sizeof(LlmqSleeper);
}

static void
request_memory(void)
{
	if (next_request_hook != NULL)
		next_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(LlmqSleeper)));
}

static void
start_memory(void)
{
	bool		found;

	if (next_startup_hook != NULL)
		next_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	llmq_preloaded_sleeper = ShmemInitStruct("llmquota worker", sizeof(LlmqSleeper), &found);
	if (!found)
		llmq_sleeper_prepare(llmq_preloaded_sleeper);
	LWLockRelease(AddinShmemInitLock);
}

/*
 * What all processes of the worker are: started when the server is no standby (any more), and once. Its name is its
 * type's.
 */
BackgroundWorker
llmq_worker_process(const char *function, const char *type, Oid database)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = BGW_NEVER_RESTART,
		.bgw_library_name = "llmquota",
		.bgw_main_arg = ObjectIdGetDatum(database),
	};

	strlcpy(worker.bgw_function_name, function, sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, type, sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, type, sizeof(worker.bgw_type));
	return worker;
}

/* One sleeper for all databases, which the server starts once it is no standby (any more), and again when it ends. */
static void
register_sleeper(void)
{
	BackgroundWorker worker = llmq_worker_process("llmquota_sleeper_main", "llmquota worker", InvalidOid);

	worker.bgw_restart_time = RESTART_SECONDS;
	next_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	next_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_memory;
	RegisterBackgroundWorker(&worker);
}

/* When the library is loaded. pg_upgrade must find nobody at work. */
void
llmq_worker_init(void)
{
	DefineCustomBoolVariable("llmquota.worker",
							 "Does maintenance in the background.",
							 "When off, llmquota_maintain() is to be called regularly.",
							 &llmq_worker_enabled,
							 true,
							 PGC_SIGHUP,
							 0,
							 NULL, NULL, NULL);
	if (process_shared_preload_libraries_in_progress && !IsBinaryUpgrade)
		register_sleeper();
}
