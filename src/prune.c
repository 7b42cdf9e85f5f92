/*
 * prune.c
 *	  Deletes rows that are past their time from tables that have no index on it, and counts the others.
 *
 * An index on what every write changes would make it twice as dear, and grow. So llmquota_prune() goes through the
 * table, a few pages at a time until the deadline or until a transaction has deleted enough, and in the next round from
 * there; a large table is read for a twentieth of the time at most. A row that somebody has locked is left to the next
 * pass.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "prune.h"
#include "relation.h"
#include "sql.h"

/* Columns of what llmquota_prune() answers. */
enum
{
	COL_PRUNED = 1, COL_WORK_LEFT, COL_DUE
};

/* Prunes a table; answers how many rows were deleted. */
int64
llmq_prune(const LlmqPruned *pruned, const LlmqMaintenance *maintenance)
{
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID};
	char		nulls[] = {' ', ' ', pruned->counter == NULL ? 'n' : ' ', ' ', '\0'};
	Datum		values[] = {
		CStringGetTextDatum(pruned->relation), CStringGetTextDatum(pruned->expiry),
		pruned->counter == NULL ? (Datum) 0 : CStringGetTextDatum(pruned->counter),
		TimestampTzGetDatum(maintenance->deadline)
	};
	char	   *text = psprintf("SELECT r.pruned, r.work_left, r.due FROM %s($1, $2, $3, $4) r",
								llmq_sql_function("llmquota_prune"));
	TupleDesc	desc;
	HeapTuple	row;
	Datum		due;
	bool		isnull;

	if (SPI_execute_with_args(text, lengthof(types), types, values, nulls, false, 0) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "llmquota_prune() has no result");
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	if (DatumGetBool(SPI_getbinval(row, desc, COL_WORK_LEFT, &isnull)))
		maintenance->next->work_left = true;
	due = SPI_getbinval(row, desc, COL_DUE, &isnull);
	if (!isnull)
		llmq_maintenance_due(maintenance, DatumGetTimestampTz(due));
	return DatumGetInt64(SPI_getbinval(row, desc, COL_PRUNED, &isnull));
}

/* Deletes conversations that have expired. Answers how many. */
int64
llmq_conversations_prune_step(const LlmqMaintenance *maintenance)
{
	static const LlmqPruned conversations = {"conversation", "expires_at", "conversation_count"};

	return OidIsValid(llmq_relation_oid_if_any(LLMQ_REL_CONVERSATION)) ? llmq_prune(&conversations, maintenance) : 0;
}
