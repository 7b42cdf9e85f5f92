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
extern LlmqUse llmq_use_reserved(const LlmqSlot *slot);
extern LlmqUse llmq_use_settled(const LlmqSlot *slot, const LlmqSettlement *settlement);
extern LlmqUse llmq_use_at_meter(const LlmqSlot *slot, int meter);
extern LlmqLeaseStanding llmq_lease_look(LlmqLive *live, const LlmqLeaseId *id, LlmqSlot *seen);
extern bool llmq_lease_settle(LlmqLive *live, const LlmqLeaseId *id, const LlmqSettlement *settlement, LlmqSlot *slot);
extern bool llmq_lease_free(LlmqLive *live, const LlmqLeaseId *id, const LlmqSlot *seen);
extern bool llmq_lease_extend(LlmqLive *live, const LlmqLeaseId *id, int64 ttl, LlmqSlot *slot);

#endif							/* LLMQ_SETTLE_H */
