/*
 * xact_end.h
 *	  How the transaction that settled a lease has ended.
 */
#ifndef LLMQ_XACT_END_H
#define LLMQ_XACT_END_H

#include "postgres.h"

typedef enum LlmqXactEnd
{
	LLMQ_XACT_OWN,				/* it is the current one, or a part of it */
	LLMQ_XACT_OPEN,				/* in progress or prepared */
	LLMQ_XACT_COMMITTED,
	LLMQ_XACT_FAILED,
	LLMQ_XACT_TOO_OLD			/* the commit log no longer says: the ledger does */
} LlmqXactEnd;

extern LlmqXactEnd llmq_xact_end(uint64 full_xid);

#endif							/* LLMQ_XACT_END_H */
