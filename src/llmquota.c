/*
 * llmquota.c
 *	  The library: what happens when it is loaded, and the triggers that guard tables.
 *
 * Globals that outlive a call are, in all: the caches of relation.c, cell_find.c, cell.c (file of each live table),
 * catalog.c, name.c and args.c (all emptied by callbacks or checked on use), the place in the lease pages and the drawn
 * random bits (lease.c), the pending refusals (refuse.c), the last call (pick.c), and GUC variables.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/rel.h"

#include "inject.h"
#include "relation.h"
#include "worker.h"
#include "zone.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(llmquota_refuse_write);
PG_FUNCTION_INFO_V1(llmquota_zone_exists);

void		_PG_init(void);

void
_PG_init(void)
{
	llmq_relation_init();
	llmq_worker_init();
#ifdef LLMQ_TESTING
	llmq_inject_init();
#endif
	MarkGUCPrefixReserved("llmquota");
}

/* Trigger on live tables: nobody writes there by hand. */
Datum
llmquota_refuse_write(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("llmquota_refuse_write() must be called as a trigger")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot change live table \"%s\" by hand",
					RelationGetRelationName(((TriggerData *) fcinfo->context)->tg_relation)),
			 errhint("Live state is changed by llmquota_pick and the functions that follow it.")));
}

/* llmquota_zone_exists(text): is this a time zone of the server's tz data? */
Datum
llmquota_zone_exists(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(llmq_zone_known(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}
