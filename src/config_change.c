/*
 * config_change.c
 *	  The trigger on the tables of the configuration.
 *
 * It tells every backend, this one included, that what it keeps in memory is old; the message is sent when the
 * transaction commits. It names the sequence below and not the table: every backend would have to rebuild what
 * PostgreSQL itself keeps of a table, its triggers and constraints, which takes longer than to read 10,000 keys.
 * Until then this backend alone sees the change, and it may yet be rolled back.
 *
 * The time of the last change is kept in a sequence, just before the change is committed: a sequence is not rolled
 * back, and nobody waits for it. llmquota_verify() and the completion of new windows need to know since when all calls
 * have gone by the configuration that they see.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "config_change.h"
#include "relation.h"
#include "sql.h"

PG_FUNCTION_INFO_V1(llmquota_config_changed);

/* The transaction that has last changed the configuration in this backend. */
static TransactionId changed_by = InvalidTransactionId;

/* Has the current transaction changed the configuration? Then what it sees is not what others do, and may not last. */
bool
llmq_config_is_tentative(void)
{
	return TransactionIdIsValid(changed_by) && changed_by == GetTopTransactionIdIfAny();
}

/* The sequence that keeps the time; InvalidOid when the extension is being dropped. */
static Oid
time_sequence(void)
{
	Oid			schema = get_namespace_oid(LLMQ_SCHEMA, true);

	return OidIsValid(schema) ? get_relname_relid("config_time", schema) : InvalidOid;
}

/* Notes that calls may go by another configuration from now on. */
void
llmq_config_note_change(void)
{
	Oid			sequence = time_sequence();
	LlmqSql		sql;

	if (!OidIsValid(sequence) || XactReadOnly)
		return;
	llmq_sql_begin(&sql);
	DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence), Int64GetDatum(GetCurrentTimestamp()));
	llmq_sql_end(&sql);
}

/* The time of the last change that anybody has seen; a call that was under way may have missed it. */
TimestampTz
llmq_config_changed_at(void)
{
	LlmqSql		sql;
	TimestampTz changed_at;
	bool		isnull;

	llmq_sql_begin(&sql);
	llmq_sql_run("SELECT s.last_value FROM llmquota.config_time s", SPI_OK_SELECT);
	changed_at = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	llmq_sql_end(&sql);
	return changed_at;
}

static void
at_commit(XactEvent event, void *arg)
{
	if ((event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE) && llmq_config_is_tentative())
		llmq_config_note_change();
}

Datum
llmquota_config_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("llmquota_config_changed() must be called as a trigger")));
	if (!TransactionIdIsValid(changed_by))
		RegisterXactCallback(at_commit, NULL);
	changed_by = GetTopTransactionId();
	CacheInvalidateRelcacheByRelid(llmq_relation_oid(LLMQ_REL_CONFIG_TIME));
	return PointerGetDatum(NULL);
}
