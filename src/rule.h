/*
 * rule.h
 *	  A proposed quota or budget, as jsonb.
 */
#ifndef LLMQ_RULE_H
#define LLMQ_RULE_H

#include "utils/jsonb.h"

#include "catalog.h"

extern LlmqQuota *llmq_rule_propose(LlmqCatalog *catalog, const Jsonb *rule);

#endif							/* LLMQ_RULE_H */
