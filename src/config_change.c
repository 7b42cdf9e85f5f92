/*
 * config_change.c
 *	  The trigger on the tables of the configuration.
 *
 * It tells every backend, this one included, that what it keeps in memory is old; the message is sent when the
 * transaction commits. Until then this backend alone sees the change, and it may yet be rolled back.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/inval.h"
#include "utils/rel.h"

#include "config_change.h"

PG_FUNCTION_INFO_V1(llmquota_config_changed);

/* The transaction that has last changed the configuration in this backend. */
static TransactionId changed_by = InvalidTransactionId;

/* Has the current transaction changed the configuration? Then what it sees is not what others do, and may not last. */
bool
llmq_config_is_tentative(void)
{
	return TransactionIdIsValid(changed_by) && changed_by == GetTopTransactionIdIfAny();
}

Datum
llmquota_config_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("llmquota_config_changed() must be called as a trigger")));
	changed_by = GetTopTransactionId();
	CacheInvalidateRelcacheByRelid(RelationGetRelid(((TriggerData *) fcinfo->context)->tg_relation));
	return PointerGetDatum(NULL);
}
