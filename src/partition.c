/*
 * partition.c
 *	  Makes the ledger's daily partitions.
 *
 * A day is a plain table with its own unique index, attached to llmquota.usage. Each is made in a subtransaction with
 * a short lock_timeout: when somebody holds the ledger it is given up and tried again by the next maintenance. Rows
 * that had gone to the default partition move in the subtransaction that attaches their day. All SQL is qualified and
 * runs as the ledger's owner, whoever called.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "ledger.h"
#include "maintain.h"
#include "relation.h"

/* DDL that waits longer than this for a lock would make records wait behind it. */
#define LOCK_TIMEOUT "50ms"

static void
run_sql(const char *sql, int expected)
{
	int			result = SPI_execute(sql, false, 0);

	if (result != expected)
		elog(ERROR, "SPI_execute answered %s", SPI_result_code_string(result));
}

/* The first instant of a UTC day as a literal. */
static char *
day_text(int32 day)
{
	int			year;
	int			month;
	int			day_of_month;

	j2date(day + POSTGRES_EPOCH_JDATE, &year, &month, &day_of_month);
	return psprintf("'%04d-%02d-%02d 00:00:00+00'::pg_catalog.timestamptz", year, month, day_of_month);
}

/*
 * Makes and attaches one day, and moves its rows out of the default partition. Returns how many. Nobody may use the
 * leaf, whatever the owner's default privileges say.
 */
static int64
create_day(int32 day)
{
	char	   *leaf = llmq_ledger_leaf_name(day);
	char	   *from = day_text(day);
	char	   *to = day_text(day + 1);
	int64		moved;

	run_sql(psprintf("CREATE TABLE llmquota.%s (LIKE llmquota.usage INCLUDING COMMENTS)", leaf), SPI_OK_UTILITY);
	run_sql(psprintf("REVOKE ALL ON TABLE llmquota.%s FROM PUBLIC", leaf), SPI_OK_UTILITY);
	run_sql(psprintf("LOCK TABLE llmquota.usage_default IN ACCESS EXCLUSIVE MODE"), SPI_OK_UTILITY);
	run_sql(psprintf("WITH moved AS (DELETE FROM llmquota.usage_default u"
					 " WHERE u.picked_at OPERATOR(pg_catalog.>=) %s AND u.picked_at OPERATOR(pg_catalog.<) %s"
					 " RETURNING u.*) INSERT INTO llmquota.%s SELECT m.* FROM moved m", from, to, leaf),
			SPI_OK_INSERT);
	moved = SPI_processed;
	run_sql(psprintf("CREATE UNIQUE INDEX %s_lease ON llmquota.%s (lease, picked_at)", leaf, leaf), SPI_OK_UTILITY);
	run_sql(psprintf("ALTER TABLE llmquota.usage ATTACH PARTITION llmquota.%s FOR VALUES FROM (%s) TO (%s)", leaf,
					 from, to), SPI_OK_UTILITY);
	return moved;
}

/* create_day() in a subtransaction; false when a lock was not to be had in time. */
static bool
try_create_day(int32 day, int64 *moved)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool created = false;
	volatile int64 rows = 0;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		rows = create_day(day);
		ReleaseCurrentSubTransaction();
		created = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			ReThrowError(error);
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	*moved += rows;
	return created;
}

static bool
day_exists(int32 day)
{
	char	   *leaf = llmq_ledger_leaf_name(day);
	bool		exists = OidIsValid(get_relname_relid(leaf, llmq_schema_oid()));

	pfree(leaf);
	return exists;
}

/* The days that have rows in the default partition, as a list of integers. */
static List *
days_in_default(void)
{
	List	   *days = NIL;

	run_sql("SELECT DISTINCT (u.picked_at AT TIME ZONE 'UTC')::pg_catalog.date"
			" OPERATOR(pg_catalog.-) '2000-01-01'::pg_catalog.date FROM llmquota.usage_default u", SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Datum		day = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

		days = lappend_int(days, DatumGetInt32(day));
	}
	return days;
}

/* Makes every missing day of today, the days ahead, and those with rows in the default partition. */
static int
create_days(const LlmqSettings *settings, int64 *moved)
{
	int32		today = GetCurrentTimestamp() / USECS_PER_DAY;
	List	   *days = days_in_default();
	ListCell   *cell;
	int			created = 0;

	for (int ahead = 0; ahead <= settings->partitions_ahead; ahead++)
		days = list_append_unique_int(days, today + ahead);
	foreach(cell, days)
	{
		if (!day_exists(lfirst_int(cell)) && try_create_day(lfirst_int(cell), moved))
			created++;
	}
	return created;
}

/*
 * Makes the ledger's partitions. Returns how many, and how many rows left the default partition for them.
 */
int
llmq_partitions_create(const LlmqSettings *settings, int64 *moved)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(llmq_relation_oid(LLMQ_REL_USAGE)));
	LlmqSettings copy = *settings;	/* our own DDL may invalidate the catalog */
	Oid			caller;
	int			security;
	int			guc_level = NewGUCNestLevel();
	int			created;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "llmquota.usage is gone");
	GetUserIdAndSecContext(&caller, &security);
	SetUserIdAndSecContext(((Form_pg_class) GETSTRUCT(tuple))->relowner,
						   security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	ReleaseSysCache(tuple);
	(void) set_config_option("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
							 false);
	SPI_connect();
	created = create_days(&copy, moved);
	SPI_finish();
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(caller, security);
	return created;
}
