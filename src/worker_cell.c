/*
 * worker_cell.c
 *	  What the background worker keeps in the database: one cell, and the view of it.
 *
 * The cell is a row of llmquota.name of a kind of its own, changed in place as all cells are. Each change is flushed,
 * whatever synchronous_commit says: a crash must not forget that it was a round which crashed.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "cache.h"
#include "args.h"
#include "counter.h"
#include "name.h"
#include "row.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(llmquota_worker_rows);

/* A row moves when VACUUM FULL rewrites the table: looked for so often. */
#define MAX_ATTEMPTS 10

static const LlmqCellKey cell_key = {.table = LLMQ_LIVE_NAME,.kind = LLMQ_NAME_WORKER,.name = "worker"};

/*
 * Has there been anything that maintenance is for? What a dump brings does not count: a database that is being restored
 * has no leases, and neither conversations nor answers were counted there.
 */
bool
llmq_worker_is_wanted(LlmqLive *live)
{
	return llmq_cell_last_id(live, LLMQ_LIVE_LEASE) != 0 || llmq_counter_read(LLMQ_REL_CONVERSATION_COUNT) > 0 ||
		llmq_cache_counted(live);
}

/* Creates the cell, unless it is there. False: another cell would be one too many. */
bool
llmq_worker_cell_create(LlmqLive *live)
{
	LlmqWorkerCell cell = {.cell = {.length = sizeof(LlmqWorkerCell)},.database = MyDatabaseId};

	/* others may hold the creation lock for long, when many cells are born */
	return llmq_cell_find(live, &cell_key) != 0 || llmq_cell_create(live, &cell_key, &cell.cell, PG_INT32_MAX) != 0;
}

/* Copies the cell. False when there is none, or one that came with a copy of another database. */
bool
llmq_worker_cell_read(LlmqLive *live, LlmqWorkerCell *cell)
{
	int32		id = llmq_cell_find(live, &cell_key);

	if (id == 0 || !llmq_cell_copy(live, LLMQ_LIVE_NAME, id, cell, sizeof(LlmqWorkerCell)))
		return false;
	return cell->database == MyDatabaseId;
}

/* Changes the cell under its page's lock. False when there is none, or `change` says so. */
bool
llmq_worker_cell_change(LlmqLive *live, LlmqWorkerChange change, void *argument)
{
	for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++)
	{
		LlmqCellSet set;
		int32		id = llmq_cell_find(live, &cell_key);
		LlmqWorkerCell copy;
		bool		changed;

		if (id == 0)
			return false;
		llmq_set_init(&set, live);
		(void) llmq_set_add(&set, LLMQ_LIVE_NAME, id);
		if (llmq_set_lock(&set) != LLMQ_LOCKED)
			continue;
		memcpy(&copy, llmq_set_state(&set, 0), sizeof(copy));
		changed = change(&copy, argument);
		if (changed)
		{
			memcpy(llmq_set_change(&set, 0), &copy, sizeof(copy));
			llmq_set_log(&set, 0);
		}
		llmq_set_unlock(&set);
		XLogFlush(set.lsn);
		return changed;
	}
	return false;
}

/* Columns of llmquota_worker_rows(). */
enum
{
	COL_PID, COL_LAST_RUN, COL_LAST_RUN_MS, COL_NEXT_RUN, COL_ROUNDS, COL_FAILURES, COL_LAST_ERROR, COL_LAST_ERROR_AT,
	NCOLUMNS
};

/* The process that sleeps for this database; 0 when there is none. */
static int
sleeper_pid(const LlmqWorkerCell *cell)
{
	if (llmq_preloaded_sleeper != NULL)
		return llmq_preloaded_sleeper->pid;
	return cell->sleeper_pid != 0 && BackendPidGetProc(cell->sleeper_pid) != NULL ? cell->sleeper_pid : 0;
}

static void
put_time(Datum *values, bool *nulls, int column, int64 at)
{
	nulls[column] = at == 0;
	values[column] = TimestampTzGetDatum(at);
}

/* llmquota_worker_rows() -> the columns of llmquota.worker_status */
Datum
llmquota_worker_rows(PG_FUNCTION_ARGS)
{
	Datum		values[NCOLUMNS] = {0};
	bool		nulls[NCOLUMNS] = {false};
	LlmqWorkerCell cell = {0};
	LlmqLive	live;

	llmq_live_open(&live, LLMQ_LIVE_COUNT, AccessShareLock);
	if (!llmq_worker_cell_read(&live, &cell))
		memset(&cell, 0, sizeof(cell));
	llmq_live_close(&live);
	values[COL_PID] = Int32GetDatum(sleeper_pid(&cell));
	nulls[COL_PID] = DatumGetInt32(values[COL_PID]) == 0;
	put_time(values, nulls, COL_LAST_RUN, cell.last_run);
	values[COL_LAST_RUN_MS] = Int32GetDatum(cell.last_run_ms);
	nulls[COL_LAST_RUN_MS] = cell.last_run == 0;
	put_time(values, nulls, COL_NEXT_RUN, cell.due);
	values[COL_ROUNDS] = Int64GetDatum(cell.rounds);
	values[COL_FAILURES] = Int32GetDatum(cell.failures);
	llmq_put_text(values, nulls, COL_LAST_ERROR, cell.error[0] == '\0' ? NULL : cell.error);
	put_time(values, nulls, COL_LAST_ERROR_AT, cell.error_at);
	return llmq_result_row(fcinfo, values, nulls, NCOLUMNS);
}
