/*
 * budget.h
 *	  Budgets: limits in money, which have a cheaper model answer before they refuse.
 */
#ifndef LLMQ_BUDGET_H
#define LLMQ_BUDGET_H

#include "utils/snapshot.h"

#include "catalog.h"

/* Fractions of an amount are in 1e-9. */
#define LLMQ_FRACTION_DECIMALS 9

extern void llmq_budgets_load(LlmqCatalog *catalog, Snapshot snapshot);

/* Pure, as they are asked under a lock. */
extern int64 llmq_budget_amount(const LlmqQuota *quota, const char *subject, int64 now);
extern int64 llmq_budget_held(const LlmqQuota *quota, const char *subject, int64 from, int64 to);
extern int64 llmq_budget_period_start(const LlmqQuota *quota, const LlmqWindow *window);
extern int	llmq_budget_steps(const LlmqBudget *budget, int64 amount, int64 used);
extern int64 llmq_budget_carried(const LlmqQuota *quota, int64 held, int64 used, int64 periods);

#endif							/* LLMQ_BUDGET_H */
