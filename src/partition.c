/*
 * partition.c
 *	  The steps of maintenance that make and drop the ledger's daily partitions.
 *
 * A day is a plain table with its own unique index, attached to llmquota.usage. All is done in subtransactions with a
 * short lock_timeout: when somebody holds the ledger it is given up and tried again by the next maintenance. Rows that
 * had gone to the default partition move in the subtransaction that attaches their day. A record locks nothing but the
 * table that its row goes to, so none waits here but one for the default partition: for as long as it takes to attach
 * tables that are there already, or for the lock_timeout behind us, when we wait for a reader.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "ledger.h"
#include "maintain.h"
#include "relation.h"
#include "sql.h"

/* So many rows leave the default partition within a fraction of a second. */
#define ROWS_PER_ROUND 20000

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

static void
lock_default(void)
{
	llmq_sql_run("LOCK TABLE llmquota.usage_default IN ACCESS EXCLUSIVE MODE", SPI_OK_UTILITY);
}

/*
 * Makes a table for a day. Nobody may use it, whatever the owner's default privileges say: even a role that was given
 * SELECT sees no rows, because policies are those of llmquota.usage.
 */
static void
create_leaf(const char *leaf)
{
	llmq_sql_run(psprintf("CREATE TABLE llmquota.%s (LIKE llmquota.usage INCLUDING COMMENTS)", leaf), SPI_OK_UTILITY);
	llmq_sql_run(psprintf("REVOKE ALL ON TABLE llmquota.%s FROM PUBLIC", leaf), SPI_OK_UTILITY);
	llmq_sql_run(psprintf("ALTER TABLE llmquota.%s ENABLE ROW LEVEL SECURITY", leaf), SPI_OK_UTILITY);
	llmq_sql_run(psprintf("CREATE UNIQUE INDEX %s_lease ON llmquota.%s (lease, picked_at)", leaf, leaf),
				 SPI_OK_UTILITY);
	llmq_sql_run(psprintf("CREATE INDEX %s_recorded ON llmquota.%s USING brin (recorded_in, picked_at)"
						  " WITH (autosummarize = on)", leaf, leaf), SPI_OK_UTILITY);
}

/* Attaches the table of a day to the ledger. The default partition is locked and has no rows of that day. */
static void
attach_leaf(const char *leaf, int32 day)
{
	llmq_sql_run(psprintf("ALTER TABLE llmquota.usage ATTACH PARTITION llmquota.%s FOR VALUES FROM (%s) TO (%s)", leaf,
						  day_text(day), day_text(day + 1)), SPI_OK_UTILITY);
}

static bool
day_exists(int32 day)
{
	char	   *leaf = llmq_ledger_leaf_name(day);
	bool		exists = OidIsValid(get_relname_relid(leaf, llmq_schema_oid()));

	pfree(leaf);
	return exists;
}

/*
 * The days that have rows in the default partition, as a list of integers, oldest first. The index on picked_at is read
 * by skipping from one day to the next.
 */
static List *
days_in_default(void)
{
	List	   *days = NIL;

	llmq_sql_run("WITH RECURSIVE first(day) AS ("
				 "SELECT (pg_catalog.min(u.picked_at) AT TIME ZONE 'UTC')::pg_catalog.date"
				 " FROM llmquota.usage_default u"
				 " UNION ALL SELECT (SELECT (pg_catalog.min(u.picked_at) AT TIME ZONE 'UTC')::pg_catalog.date"
				 " FROM llmquota.usage_default u WHERE u.picked_at OPERATOR(pg_catalog.>=)"
				 " ((f.day OPERATOR(pg_catalog.+) 1)::pg_catalog.timestamp AT TIME ZONE 'UTC'))"
				 " FROM first f WHERE f.day IS NOT NULL)"
				 " SELECT f.day OPERATOR(pg_catalog.-) '2000-01-01'::pg_catalog.date FROM first f"
				 " WHERE f.day IS NOT NULL", SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Datum		day = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

		days = lappend_int(days, DatumGetInt32(day));
	}
	return days;
}

/* The condition that a row of the default partition is of this day. */
static char *
of_day(int32 day)
{
	return psprintf("u.picked_at OPERATOR(pg_catalog.>=) %s AND u.picked_at OPERATOR(pg_catalog.<) %s", day_text(day),
					day_text(day + 1));
}

/*
 * Moves the rows of a day out of the default partition, those that are there by now. Answers how many. They are written
 * by this transaction now, and say so: the leaf has no triggers yet.
 */
static int64
move_rows(const char *leaf, int32 day)
{
	llmq_sql_run(psprintf("WITH moved AS (DELETE FROM llmquota.usage_default u WHERE %s"
						  " RETURNING pg_catalog.jsonb_populate_record(u, pg_catalog.jsonb_build_object('recorded_in',"
						  " pg_catalog.txid_current())) AS row)"
						  " INSERT INTO llmquota.%s SELECT (m.row).* FROM moved m", of_day(day), leaf), SPI_OK_INSERT);
	return SPI_processed;
}

/* A day whose rows are to leave the default partition. */
typedef struct DayOfRows
{
	int32		day;
	int64		moved;
} DayOfRows;

/* Makes and attaches one day and moves its rows: most of them first, and under the lock what has come meanwhile. */
static void
move_day(void *argument)
{
	DayOfRows  *rows = argument;
	char	   *leaf = llmq_ledger_leaf_name(rows->day);

	create_leaf(leaf);
	rows->moved = move_rows(leaf, rows->day);
	lock_default();
	rows->moved += move_rows(leaf, rows->day);
	attach_leaf(leaf, rows->day);
}

/* Are there more rows of a day than can be moved before a round is cut? */
static bool
is_too_much(int32 day)
{
	llmq_sql_run(psprintf("SELECT FROM llmquota.usage_default u WHERE %s LIMIT %d", of_day(day), ROWS_PER_ROUND + 1),
				 SPI_OK_SELECT);
	return SPI_processed > ROWS_PER_ROUND;
}

/*
 * Makes the days that have rows in the default partition; answers how many rows moved. A day moves as a whole, and so
 * a round that will be cut leaves one with very many rows to llmquota_maintain().
 */
int64
llmq_rows_move_step(const LlmqMaintenance *maintenance)
{
	int64		moved = 0;
	ListCell   *cell;

	foreach(cell, days_in_default())
	{
		DayOfRows	rows = {.day = lfirst_int(cell)};

		if (day_exists(rows.day))
			continue;
		if (maintenance->cut && is_too_much(rows.day))
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("table \"usage_default\" has more than %d rows of %s", ROWS_PER_ROUND,
							llmq_ledger_leaf_name(rows.day)),
					 errhint("Call llmquota_maintain() once, which takes the time to move them.")));
		if (!llmq_sql_try(move_day, &rows))
			break;
		moved += rows.moved;
		if (llmq_maintenance_late(maintenance))
			break;
	}
	return moved;
}

/* Makes the days of a list, which have no rows yet, and then attaches all of them under one short lock. */
static void
create_days(void *argument)
{
	List	   *days = argument;
	ListCell   *cell;

	foreach(cell, days)
		create_leaf(llmq_ledger_leaf_name(lfirst_int(cell)));
	lock_default();
	foreach(cell, days)
		attach_leaf(llmq_ledger_leaf_name(lfirst_int(cell)), lfirst_int(cell));
}

/* Makes what is missing of today and the days ahead; answers how many. */
int64
llmq_partitions_create_step(const LlmqMaintenance *maintenance)
{
	int32		today = maintenance->now / USECS_PER_DAY;
	List	   *days = NIL;

	for (int32 day = today; day <= today + maintenance->settings.partitions_ahead; day++)
		if (!day_exists(day))
			days = lappend_int(days, day);
	if (days != NIL)
		days = list_difference_int(days, days_in_default());
	return days != NIL && llmq_sql_try(create_days, days) ? list_length(days) : 0;
}

static void
drop_leaf(void *argument)
{
	llmq_sql_run(psprintf("DROP TABLE llmquota.%s", (const char *) argument), SPI_OK_UTILITY);
}

/*
 * Drops the oldest partition that is past its retention; answers how many. One at a time: the locks on the ledger are
 * held until the transaction ends, and to drop many takes long.
 */
int64
llmq_partitions_drop_step(const LlmqMaintenance *maintenance)
{
	int32		first = maintenance->now / USECS_PER_DAY - maintenance->settings.usage_retention_days;
	char	   *leaf;

	llmq_sql_run(psprintf("SELECT c.relname::pg_catalog.text"
						  " FROM pg_catalog.pg_inherits i"
						  " JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid"
						  " WHERE i.inhparent OPERATOR(pg_catalog.=) 'llmquota.usage'::pg_catalog.regclass"
						  " AND c.relname OPERATOR(pg_catalog.~) '^usage_[0-9]{8}$'"
						  " AND c.relname OPERATOR(pg_catalog.<) '%s'::pg_catalog.name ORDER BY c.relname LIMIT 2",
						  llmq_ledger_leaf_name(first)), SPI_OK_SELECT);
	if (SPI_processed == 0)
		return 0;
	leaf = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (SPI_processed > 1)
		maintenance->next->work_left = true;
	return llmq_sql_try(drop_leaf, leaf) ? 1 : 0;
}
