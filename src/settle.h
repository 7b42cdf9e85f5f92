/*
 * settle.h
 *	  The end of a lease, however it comes about.
 */
#ifndef LLMQ_SETTLE_H
#define LLMQ_SETTLE_H

#include "access/transam.h"

#include "lease.h"

/* What a lease's slot says when somebody comes to settle it. */
typedef enum LlmqLeaseStanding
{
	LLMQ_LEASE_UNKNOWN,			/* no such lease, or its slot has a newer one */
	LLMQ_LEASE_LIVE,
	LLMQ_LEASE_OPEN,			/* settled, but by a transaction that has failed */
	LLMQ_LEASE_EXPIRING,		/* expired, by a transaction that has not ended */
	LLMQ_LEASE_EXPIRED,			/* expired and in the ledger */
	LLMQ_LEASE_SETTLED
} LlmqLeaseStanding;

extern LlmqSettlement llmq_settlement_without_figures(LlmqOutcome outcome, LlmqUsageSource source);
/* What a settlement costs. */
typedef struct LlmqBill
{
	bool		known;
	bool		given;			/* by the application */
	LlmqCosts	costs;
} LlmqBill;

extern LlmqBill llmq_bill_reserved(const LlmqLease *lease);
extern LlmqBill llmq_bill_settled(const LlmqLease *lease);
extern LlmqUse llmq_use_reserved(const LlmqLease *lease);
extern LlmqUse llmq_use_settled(const LlmqLease *lease);
extern LlmqUse llmq_use_ended(int32 reserved_input, int32 reserved_output, const LlmqSettlement *settlement);
extern LlmqUse llmq_use_tokens(const LlmqSlot *slot, const LlmqSettlement *settlement);
extern LlmqUse llmq_use_at_meter(const LlmqLease *lease, int meter);
extern LlmqLeaseStanding llmq_lease_look(LlmqLive *live, const LlmqLeaseId *id, LlmqLease *seen);
extern bool llmq_lease_settle(LlmqLive *live, const LlmqLeaseId *id, const LlmqSettlement *settlement,
							  const LlmqBill *bill, LlmqLease *lease);
extern bool llmq_lease_free(LlmqLive *live, const LlmqLeaseId *id, const LlmqSlot *seen);
extern bool llmq_lease_extend(LlmqLive *live, const LlmqLeaseId *id, int64 ttl, LlmqSlot *slot);

#endif							/* LLMQ_SETTLE_H */
