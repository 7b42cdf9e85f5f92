/*
 * xact_end.h
 *	  How the transaction that settled a lease has ended.
 */
#ifndef LLMQ_XACT_END_H
#define LLMQ_XACT_END_H

#include "postgres.h"

#include "access/transam.h"

typedef enum LlmqXactEnd
{
	LLMQ_XACT_OWN,				/* it is the current one, or a part of it */
	LLMQ_XACT_OPEN,				/* in progress or prepared */
	LLMQ_XACT_COMMITTED,
	LLMQ_XACT_FAILED,
	LLMQ_XACT_TOO_OLD			/* the commit log no longer says: the ledger does */
} LlmqXactEnd;

extern LlmqXactEnd llmq_xact_end(uint64 full_xid);

/* Is an id older than the oldest of the commit log, which is known by 32 bits and of the last 2^32 before the next? */
static inline bool
llmq_xact_precedes(FullTransactionId xid, FullTransactionId next, TransactionId oldest)
{
	uint32		epoch = EpochFromFullTransactionId(next);

	if (oldest > XidFromFullTransactionId(next))
		epoch--;
	return FullTransactionIdPrecedes(xid, FullTransactionIdFromEpochAndXid(epoch, oldest));
}

#endif							/* LLMQ_XACT_END_H */
