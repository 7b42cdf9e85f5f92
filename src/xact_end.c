/*
 * xact_end.c
 *	  How the transaction that settled a lease has ended.
 *
 * VACUUM knows nothing of the ids in slots, so the commit log may be truncated under them; it cannot be while
 * XactTruncationLock is held, as pg_xact_status() does. Reads shared state: not under a content lock.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"

#include "compat.h"
#include "xact_end.h"

/*
 * The end of a transaction by its 64-bit id. What the commit log reaches is told apart by 32 bits, as the server's own
 * functions do. "In progress" is asked before "committed": it may end in between.
 */
LlmqXactEnd
llmq_xact_end(uint64 full_xid)
{
	FullTransactionId full = FullTransactionIdFromU64(full_xid);
	TransactionId xid = XidFromFullTransactionId(full);
	LlmqXactEnd end;

	LWLockAcquire(XactTruncationLock, LW_SHARED);
	if (llmq_xact_precedes(full, ReadNextFullTransactionId(), llmq_oldest_clog_xid_compat()))
		end = LLMQ_XACT_TOO_OLD;
	else if (TransactionIdIsCurrentTransactionId(xid))
		end = LLMQ_XACT_OWN;
	else if (TransactionIdIsInProgress(xid))
		end = LLMQ_XACT_OPEN;
	else
		end = TransactionIdDidCommit(xid) ? LLMQ_XACT_COMMITTED : LLMQ_XACT_FAILED;
	LWLockRelease(XactTruncationLock);
	return end;
}
