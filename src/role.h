/*
 * role.h
 *	  Which orgs a role may act for.
 */
#ifndef LLMQ_ROLE_H
#define LLMQ_ROLE_H

#include "catalog.h"

extern bool llmq_role_may_use(const LlmqCatalog *catalog, const char *org);
extern LlmqOrg *llmq_role_org(LlmqCatalog *catalog, const char *name);
extern LlmqOrg *llmq_role_only_org(LlmqCatalog *catalog);
extern bool llmq_role_may_read(const LlmqCatalog *catalog, const char *org);
extern bool llmq_role_is_admin(const LlmqCatalog *catalog);

#endif							/* LLMQ_ROLE_H */
