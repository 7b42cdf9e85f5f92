/*
 * relation.c
 *	  Finds the extension's own relations.
 *
 * Object ids are looked up by name once for each backend and remembered until the relation cache says that one of
 * them has changed (DROP EXTENSION, REINDEX CONCURRENTLY, a rename). The schema is named, so a search path has no say.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"

#include "catalog.h"
#include "cell.h"
#include "name.h"
#include "relation.h"

static const char *const relation_names[LLMQ_REL_COUNT] = {
	[LLMQ_REL_METER] = "meter",
	[LLMQ_REL_METER_ID] = "meter_id",
	[LLMQ_REL_METER_KEY] = "meter_key",
	[LLMQ_REL_HEALTH] = "health",
	[LLMQ_REL_HEALTH_ID] = "health_id",
	[LLMQ_REL_HEALTH_KEY] = "health_key",
	[LLMQ_REL_LEASE_PAGE] = "lease_page",
	[LLMQ_REL_LEASE_PAGE_ID] = "lease_page_id",
	[LLMQ_REL_NAME] = "name",
	[LLMQ_REL_NAME_ID] = "name_id",
	[LLMQ_REL_NAME_KEY] = "name_key",
	[LLMQ_REL_REFUSAL_PAGE] = "refusal_page",
	[LLMQ_REL_REFUSAL_PAGE_ID] = "refusal_page_id",
	[LLMQ_REL_REQUEST_PAGE] = "request_page",
	[LLMQ_REL_REQUEST_PAGE_ID] = "request_page_id",
	[LLMQ_REL_RATE_PAGE] = "rate_page",
	[LLMQ_REL_RATE_PAGE_ID] = "rate_page_id",
	[LLMQ_REL_PROVIDER] = "provider",
	[LLMQ_REL_ACCOUNT] = "account",
	[LLMQ_REL_KEY] = "key",
	[LLMQ_REL_MODEL] = "model",
	[LLMQ_REL_PRICE] = "price",
	[LLMQ_REL_EXCHANGE_RATE] = "exchange_rate",
	[LLMQ_REL_ROUTE] = "route",
	[LLMQ_REL_ROUTE_OPTION] = "route_option",
	[LLMQ_REL_ORG] = "org",
	[LLMQ_REL_QUOTA] = "quota",
	[LLMQ_REL_BUDGET] = "budget",
	[LLMQ_REL_BUDGET_STEP] = "budget_step",
	[LLMQ_REL_BUDGET_RAISE] = "budget_raise",
	[LLMQ_REL_SETTING] = "setting",
	[LLMQ_REL_RATE_LIMIT] = "rate_limit",
	[LLMQ_REL_ROLE_GRANT] = "role_grant",
	[LLMQ_REL_ALIAS] = "alias",
	[LLMQ_REL_ANSWER_NAMESPACE] = "answer_namespace",
	[LLMQ_REL_CONFIG_TIME] = "config_time",
	[LLMQ_REL_USAGE] = "usage",
	[LLMQ_REL_USAGE_DEFAULT] = "usage_default",
	[LLMQ_REL_REPRICING] = "repricing",
	[LLMQ_REL_BUDGET_RECOUNT] = "budget_recount",
	[LLMQ_REL_ALERT] = "alert",
	[LLMQ_REL_CONVERSATION] = "conversation",
	[LLMQ_REL_CONVERSATION_KEY] = "conversation_pkey",
	[LLMQ_REL_CONVERSATION_COUNT] = "conversation_count",
	[LLMQ_REL_ANSWER] = "answer",
	[LLMQ_REL_ANSWER_KEY] = "answer_pkey",
	[LLMQ_REL_RATE_FULL_COUNT] = "rate_full_count",
};

/* Reset by the relation cache's callback. */
static Oid	relation_oids[LLMQ_REL_COUNT];
static Oid	schema_oid = InvalidOid;

Oid
llmq_schema_oid(void)
{
	if (!OidIsValid(schema_oid))
		schema_oid = get_namespace_oid(LLMQ_SCHEMA, false);
	return schema_oid;
}

/*
 * The object id of one of our relations, InvalidOid when the installed SQL is of a version that did not have it. Not to
 * be called while a page is locked.
 */
Oid
llmq_relation_oid_if_any(LlmqRelation which)
{
	if (!OidIsValid(relation_oids[which]))
		relation_oids[which] = get_relname_relid(relation_names[which], llmq_schema_oid());
	return relation_oids[which];
}

/* The same; raises when it is gone. */
Oid
llmq_relation_oid(LlmqRelation which)
{
	Oid			relid = llmq_relation_oid_if_any(which);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist", LLMQ_SCHEMA, relation_names[which]),
				 errhint("The extension is damaged. Restore it from a backup, or drop and create it again.")));
	return relid;
}

/*
 * Relation cache callback: forgets what may have changed. InvalidOid stands for every relation. The others stay known:
 * a valid catalog goes with all ids of its tables, so that no message about one of them passes unnoticed.
 */
static void
relation_changed(Datum arg, Oid relid)
{
	for (int i = 0; i < LLMQ_REL_COUNT; i++)
	{
		if (OidIsValid(relid) && relation_oids[i] != relid)
			continue;
		relation_oids[i] = InvalidOid;
		schema_oid = InvalidOid;
		if (i >= LLMQ_FIRST_CONFIG_REL && i <= LLMQ_LAST_CONFIG_REL)
			llmq_catalog_invalidate();
		if (i == LLMQ_REL_NAME)
			llmq_name_invalidate();
		llmq_live_changed((LlmqRelation) i);
	}
}

void
llmq_relation_init(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
}
