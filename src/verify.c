/*
 * verify.c
 *	  llmquota_verify: does everything agree with everything else?
 *
 * Changes of live state are made under a RowExclusiveLock on the live tables, which is given back at the end of each
 * call. So a ShareLock on them is a moment without changes in flight: under it all rows are copied and the snapshot of
 * the ledger is taken, and then it is given back, before anything is compared. Calls wait for it, and so it is held
 * for no longer than a copy in memory takes, and asked for with a short timeout, again and again, so that no queue of
 * calls forms behind a request that waits.
 *
 * On a standby there is no such lock, and what is copied at different moments cannot be compared with each other:
 * there only pages, rows and indexes are checked, and a notice says so.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "name.h"
#include "rate.h"
#include "request.h"
#include "row.h"
#include "sql.h"
#include "verify.h"

PG_FUNCTION_INFO_V1(llmquota_verify);

/* How often the locks are asked for, and the pause in between, in milliseconds: half a minute in all. */
#define LOCK_ATTEMPTS 200
#define LOCK_PAUSE_MS 100

/* Columns of llmquota_verify(). */
enum
{
	COL_OBJECT, COL_SUBJECT, COL_PROBLEM, COL_EXPECTED, COL_FOUND, COL_REPAIRED, NCOLUMNS
};

/* Adds a row to what llmquota_verify() answers. */
void
llmq_verify_report(LlmqVerify *verify, const LlmqFinding *finding)
{
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {false};

	llmq_put_text(values, nulls, COL_OBJECT, finding->object);
	llmq_put_text(values, nulls, COL_SUBJECT, finding->subject);
	llmq_put_text(values, nulls, COL_PROBLEM, finding->problem);
	llmq_put_text(values, nulls, COL_EXPECTED, finding->expected);
	llmq_put_text(values, nulls, COL_FOUND, finding->found);
	values[COL_REPAIRED] = BoolGetDatum(finding->repaired);
	tuplestore_putvalues(verify->result->setResult, verify->result->setDesc, values, nulls);
}

/* A cell, for people: its id, and of a meter what it counts; a row that is not whole by its place. */
const char *
llmq_verify_subject(const LlmqVerify *verify, const LlmqVerifyCell *cell)
{
	LlmqCellKey key;
	char	   *subject;

	if (cell->state == NULL)
		return psprintf("row (%u,%u)", ItemPointerGetBlockNumberNoCheck(&cell->tid),
						ItemPointerGetOffsetNumberNoCheck(&cell->tid));
	if (cell->state->magic != llmq_live_kinds[LLMQ_LIVE_METER].magic)
		return psprintf("%d", cell->id);
	llmq_cell_key(cell->tuple, LLMQ_LIVE_METER, &key);
	subject = psprintf("%d: %s", cell->id, llmq_scope_text(key.kind));
	if (key.subject != 0)
		subject = psprintf("%s \"%s\"", subject, llmq_name_text(key.subject));
	if (key.part != 0)
		subject = psprintf("%s, %s \"%s\"", subject, llmq_name_kind(key.part) == LLMQ_NAME_MODEL ? "model" : "family",
						   llmq_name_text(key.part));
	return subject;
}

static void
lock_tables(void *argument)
{
	const LlmqLive *live = argument;

	for (int table = 0; table < live->ntables; table++)
		if (live->rel[table] != NULL)
			LockRelationOid(RelationGetRelid(live->rel[table]), ShareLock);
}

/* The locks were taken in a subtransaction and belong to the transaction since. */
static void
unlock_tables(const LlmqLive *live)
{
	ResourceOwner owner = CurrentResourceOwner;

	CurrentResourceOwner = CurTransactionResourceOwner;
	for (int table = live->ntables - 1; table >= 0; table--)
		if (live->rel[table] != NULL)
			UnlockRelationOid(RelationGetRelid(live->rel[table]), ShareLock);
	CurrentResourceOwner = owner;
}

/* Keeps all changes out. */
static void
lock_out_changes(LlmqVerify *verify)
{
	LlmqSql		sql;
	bool		locked;

	for (int attempt = 0; attempt < LOCK_ATTEMPTS; attempt++)
	{
		CHECK_FOR_INTERRUPTS();
		llmq_sql_begin(&sql);
		locked = llmq_sql_try(lock_tables, &verify->live);
		llmq_sql_end(&sql);
		if (locked)
			return;
		pg_usleep(LOCK_PAUSE_MS * 1000L);
	}
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not obtain a moment without changes of live state"),
			 errhint("Look in pg_locks for who keeps a lock on llmquota.meter.")));
}

/* Copies all rows: at one moment, with the ledger's snapshot, unless this is a standby. */
static void
copy_all(LlmqVerify *verify)
{
	llmq_verify_read_ahead(verify);
	if (verify->at_once)
		lock_out_changes(verify);
	llmq_verify_copy(verify);
	verify->now = GetCurrentTimestamp();
	verify->snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (verify->at_once)
		unlock_tables(&verify->live);
}

/* llmquota_verify(repair) */
Datum
llmquota_verify(PG_FUNCTION_ARGS)
{
	LlmqVerify	verify = {0};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "llmquota verify", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller;

	verify.repair = !PG_ARGISNULL(0) && PG_GETARG_BOOL(0);
	verify.at_once = !RecoveryInProgress();
	if (verify.repair)
		llmq_cell_refuse_if_read_only("llmquota_verify()");
	if (!verify.at_once)
		ereport(NOTICE,
				(errmsg("only pages, rows and indexes are checked during recovery"),
				 errhint("Counts are compared with leases and ledger on the primary.")));
	llmq_linear_draw(verify.secret);
	InitMaterializedSRF(fcinfo, 0);
	verify.result = (ReturnSetInfo *) fcinfo->resultinfo;

	verify.context = context;
	caller = MemoryContextSwitchTo(context);
	llmq_live_open(&verify.live, LLMQ_LIVE_COUNT, AccessShareLock);
	copy_all(&verify);
	llmq_verify_cells(&verify);
	llmq_verify_indexes(&verify);
	if (verify.at_once)
	{
		llmq_verify_leases(&verify);
		llmq_verify_windows(&verify);
		llmq_verify_linear(&verify, &llmq_request_linear);
		llmq_verify_linear(&verify, &llmq_rate_linear);
	}
	UnregisterSnapshot(verify.snapshot);
	llmq_repair(&verify);
	llmq_live_close(&verify.live);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return (Datum) 0;
}
