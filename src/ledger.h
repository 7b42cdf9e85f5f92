/*
 * ledger.h
 *	  The table llmquota.usage: a row for every lease that ended.
 */
#ifndef LLMQ_LEDGER_H
#define LLMQ_LEDGER_H

#include "nodes/execnodes.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "lease.h"
#include "price.h"

/* What the ledger holds and the slot does not. */
typedef struct LlmqLedgerExtra
{
	const char *error;			/* excerpt, or NULL */
	Jsonb	   *tags;			/* or NULL */
	bool		cost_given;		/* by the caller */
	int64		cost;
} LlmqLedgerExtra;

/* What is asked of a row that is there. */
typedef struct LlmqLedgerRow
{
	char	   *org;
	char	   *route;
	char	   *model;
	char	   *provider;
	char	   *key;
	char	   *status;
	char	   *usage_source;
	Numeric		cost;			/* NULL: not known */
	char	   *currency;		/* likewise */
	TimestampTz picked_at;
	int32		reserved_input;
	int32		reserved_output;
	int64		input_tokens;	/* LLMQ_NO_TOKENS: not known, as the next */
	int64		output_tokens;
	TimestampTz recorded_at;
	char	   *session;
	bool		has_first_lease;
	pg_uuid_t	first_lease;
} LlmqLedgerRow;

extern const char *llmq_usage_source_text(LlmqUsageSource source);
extern const char *llmq_outcome_text(LlmqOutcome outcome);
extern void llmq_ledger_insert(const LlmqLeaseId *id, const LlmqLease *lease, const LlmqLedgerExtra *extra);
extern bool llmq_ledger_find(const LlmqLeaseId *id, LlmqLedgerRow *row);
extern bool llmq_ledger_correct(const LlmqLeaseId *id, const LlmqLease *lease, const LlmqLedgerExtra *extra);
extern bool llmq_ledger_correct_expired(const LlmqLeaseId *id, const LlmqSettlement *settlement,
										const LlmqLedgerExtra *extra, const LlmqCost *cost);
extern ResultRelInfo *llmq_ledger_target(Relation leaf, EState *estate);
extern void llmq_ledger_target_end(ResultRelInfo *target, EState *estate);
extern char *llmq_ledger_leaf_name(int32 day);
extern bool llmq_ledger_leaf_day(const char *name, int32 *day);
extern int	llmq_ledger_recorded_in(void);

#endif							/* LLMQ_LEDGER_H */
