/*
 * relation.h
 *	  The extension's own relations, by role.
 */
#ifndef LLMQ_RELATION_H
#define LLMQ_RELATION_H

#include "postgres.h"

#define LLMQ_SCHEMA "llmquota"

typedef enum LlmqRelation
{
	LLMQ_REL_METER,
	LLMQ_REL_METER_ID,
	LLMQ_REL_METER_KEY,
	LLMQ_REL_HEALTH,
	LLMQ_REL_HEALTH_ID,
	LLMQ_REL_HEALTH_KEY,
	LLMQ_REL_LEASE_PAGE,
	LLMQ_REL_LEASE_PAGE_ID,
	LLMQ_REL_NAME,
	LLMQ_REL_NAME_ID,
	LLMQ_REL_NAME_KEY,
	LLMQ_REL_REFUSAL_PAGE,
	LLMQ_REL_REFUSAL_PAGE_ID,
	LLMQ_REL_REQUEST_PAGE,
	LLMQ_REL_REQUEST_PAGE_ID,
	LLMQ_REL_PROVIDER,
	LLMQ_REL_ACCOUNT,
	LLMQ_REL_KEY,
	LLMQ_REL_MODEL,
	LLMQ_REL_PRICE,
	LLMQ_REL_EXCHANGE_RATE,
	LLMQ_REL_ROUTE,
	LLMQ_REL_ROUTE_OPTION,
	LLMQ_REL_ORG,
	LLMQ_REL_QUOTA,
	LLMQ_REL_BUDGET,
	LLMQ_REL_BUDGET_STEP,
	LLMQ_REL_BUDGET_RAISE,
	LLMQ_REL_SETTING,
	LLMQ_REL_ROLE_GRANT,
	LLMQ_REL_ALIAS,
	LLMQ_REL_CONFIG_TIME,
	LLMQ_REL_USAGE,
	LLMQ_REL_USAGE_DEFAULT,
	LLMQ_REL_REPRICING,
	LLMQ_REL_BUDGET_RECOUNT,
	LLMQ_REL_ALERT
} LlmqRelation;

/* The tables whose contents src/catalog.c keeps in memory, and the sequence that stands for all of them. */
#define LLMQ_FIRST_CONFIG_REL LLMQ_REL_PROVIDER
#define LLMQ_LAST_CONFIG_REL LLMQ_REL_CONFIG_TIME
#define LLMQ_REL_COUNT (LLMQ_REL_ALERT + 1)

extern void llmq_relation_init(void);
extern Oid	llmq_relation_oid_if_any(LlmqRelation which);
extern Oid	llmq_relation_oid(LlmqRelation which);
extern Oid	llmq_schema_oid(void);

#endif							/* LLMQ_RELATION_H */
