/*
 * partition.c
 *	  The steps of maintenance that make the ledger's daily partitions.
 *
 * A day is a plain table with its own unique index, attached to llmquota.usage. Days are made in a subtransaction with
 * a short lock_timeout: when somebody holds the ledger they are given up, all of them, and tried again by the next
 * maintenance. Rows that had gone to the default partition move in the subtransaction that attaches their day.
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
}

static void
attach_leaf(const char *leaf, int32 day)
{
	llmq_sql_run(psprintf("CREATE UNIQUE INDEX %s_lease ON llmquota.%s (lease, picked_at)", leaf, leaf),
				 SPI_OK_UTILITY);
	llmq_sql_run(psprintf("CREATE INDEX %s_recorded ON llmquota.%s USING brin (recorded_in)"
						  " WITH (autosummarize = on)", leaf, leaf), SPI_OK_UTILITY);
	llmq_sql_run(psprintf("CREATE INDEX %s_org ON llmquota.%s (org, picked_at)", leaf, leaf), SPI_OK_UTILITY);
	llmq_sql_run(psprintf("ALTER TABLE llmquota.usage ATTACH PARTITION llmquota.%s FOR VALUES FROM (%s) TO (%s)", leaf,
						  day_text(day), day_text(day + 1)), SPI_OK_UTILITY);
}

/*
 * Moves the rows of a day out of the default partition, those that are there by now. Answers how many. They are written
 * by this transaction now, and say so: the leaf has no triggers yet.
 */
static int64
move_rows(const char *leaf, int32 day)
{
	llmq_sql_run(psprintf("WITH moved AS (DELETE FROM llmquota.usage_default u"
						  " WHERE u.picked_at OPERATOR(pg_catalog.>=) %s AND u.picked_at OPERATOR(pg_catalog.<) %s"
						  " RETURNING pg_catalog.jsonb_populate_record(u, pg_catalog.jsonb_build_object('recorded_in',"
						  " pg_catalog.txid_current())) AS row)"
						  " INSERT INTO llmquota.%s SELECT (m.row).* FROM moved m", day_text(day), day_text(day + 1),
						  leaf), SPI_OK_INSERT);
	return SPI_processed;
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

	llmq_sql_run("SELECT DISTINCT (u.picked_at AT TIME ZONE 'UTC')::pg_catalog.date"
				 " OPERATOR(pg_catalog.-) '2000-01-01'::pg_catalog.date FROM llmquota.usage_default u", SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Datum		day = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

		days = lappend_int(days, DatumGetInt32(day));
	}
	return days;
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

/* Makes the days that have rows in the default partition; answers how many rows moved. */
int64
llmq_rows_move_step(const LlmqMaintenance *maintenance)
{
	int64		moved = 0;
	LlmqSql		sql;
	ListCell   *cell;

	llmq_sql_begin(&sql);
	foreach(cell, days_in_default())
	{
		DayOfRows	rows = {.day = lfirst_int(cell)};

		if (day_exists(rows.day))
			continue;
		if (!llmq_sql_try(move_day, &rows))
			break;
		moved += rows.moved;
		if (llmq_maintenance_late(maintenance))
			break;
	}
	llmq_sql_end(&sql);
	return moved;
}

/* Makes and attaches the days of a list, which have no rows yet. */
static void
create_days(void *argument)
{
	List	   *days = argument;
	ListCell   *cell;

	lock_default();
	foreach(cell, days)
	{
		char	   *leaf = llmq_ledger_leaf_name(lfirst_int(cell));

		create_leaf(leaf);
		attach_leaf(leaf, lfirst_int(cell));
	}
}

/* Makes what is missing of today and the days ahead; answers how many. */
int64
llmq_partitions_create_step(const LlmqMaintenance *maintenance)
{
	int32		today = maintenance->now / USECS_PER_DAY;
	List	   *days = NIL;
	bool		created;
	LlmqSql		sql;

	for (int32 day = today; day <= today + maintenance->settings.partitions_ahead; day++)
		if (!day_exists(day))
			days = lappend_int(days, day);
	if (days == NIL)
		return 0;
	llmq_sql_begin(&sql);
	days = list_difference_int(days, days_in_default());
	created = days != NIL && llmq_sql_try(create_days, days);
	llmq_sql_end(&sql);
	return created ? list_length(days) : 0;
}
