/*
 * rollup.c
 *	  History by hours: which transaction wrote a row of the ledger, and the steps of maintenance that count.
 *
 * A trigger writes the transaction into every row of the ledger, whoever writes it: a call, maintenance, a DBA, a
 * restore. What has been counted is known by transactions, so a row counts once and for all when its transaction has
 * ended, in whatever order transactions end. The counting is SQL (llmquota_roll_up and what it calls, and for refusals
 * llmquota_keep_refusals), in maintenance's own transaction and as the owner; it takes no locks that a call could meet.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "utils/rel.h"

#include "ledger.h"
#include "maintain.h"
#include "sql.h"

PG_FUNCTION_INFO_V1(llmquota_stamp_usage);

/* llmquota_stamp_usage(): before an INSERT or UPDATE of a row of llmquota.usage */
Datum
llmquota_stamp_usage(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	HeapTuple	tuple;
	TupleDesc	desc;
	Datum		current;
	Datum		given;
	int			column = llmq_ledger_recorded_in();
	bool		isnull;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event))
		elog(ERROR, "llmquota_stamp_usage() is a trigger function");
	desc = RelationGetDescr(trigger->tg_relation);
	tuple = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple : trigger->tg_trigtuple;
	current = Int64GetDatum((int64) U64FromFullTransactionId(GetTopFullTransactionId()));
	given = heap_getattr(tuple, column, desc, &isnull);
	if (isnull || DatumGetInt64(given) != DatumGetInt64(current))
	{
		bool		null = false;

		tuple = heap_modify_tuple_by_cols(tuple, desc, 1, &column, &current, &null);
	}
	return PointerGetDatum(tuple);
}

/* Brings llmquota.usage_hourly up to date. Answers how many rows of the ledger were counted, or taken off. */
int64
llmq_roll_up_step(const LlmqMaintenance *maintenance)
{
	int64		counted = llmq_sql_step("llmquota_roll_up", maintenance->deadline);

	(void) llmq_maintenance_late(maintenance);
	return counted;
}

/* Takes refusals from live state into history. Answers how many. */
int64
llmq_refusals_keep_step(const LlmqMaintenance *maintenance)
{
	return llmq_sql_step("llmquota_keep_refusals", maintenance->deadline);
}

/* Deletes hours and refusals that have been kept long enough. Answers how many rows. */
int64
llmq_history_drop_step(const LlmqMaintenance *maintenance)
{
	return llmq_sql_step("llmquota_drop_history", maintenance->deadline);
}
