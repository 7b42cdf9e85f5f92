/*
 * xact_end_test.c
 *	  Which transactions are older than the commit log, on both sides of the end of the 32-bit ids.
 *
 *	links:
 */
#include "postgres.h"

#include "tap.h"
#include "xact_end.h"

enum
{
	BEFORE, SINCE, BEYOND, ACROSS, PROMISES
};

static Promise promises[PROMISES] = {
	[BEFORE] = {"an id before the oldest of the commit log is older"},
	[SINCE] = {"the oldest itself, and what comes after it, is not"},
	[BEYOND] = {"of an earlier epoch the same 32 bits are older"},
	[ACROSS] = {"when ids have begun anew since, the oldest is of the epoch before"},
};

static bool
precedes(uint32 epoch, TransactionId xid, uint32 next_epoch, TransactionId next, TransactionId oldest)
{
	return llmq_xact_precedes(FullTransactionIdFromEpochAndXid(epoch, xid),
							  FullTransactionIdFromEpochAndXid(next_epoch, next), oldest);
}

int
main(void)
{
	CHECK(&promises[BEFORE], precedes(0, 999, 0, 5000, 1000), "in the first epoch");
	CHECK(&promises[BEFORE], precedes(3, 999, 3, 5000, 1000), "in a later one");
	CHECK(&promises[SINCE], !precedes(0, 1000, 0, 5000, 1000), "the oldest");
	CHECK(&promises[SINCE], !precedes(3, 4999, 3, 5000, 1000), "the latest");
	CHECK(&promises[SINCE], !precedes(0, 1000, 0, 1000, 1000), "when there is none but the next");
	CHECK(&promises[BEYOND], precedes(2, 1000, 3, 5000, 1000), "one epoch");
	CHECK(&promises[BEYOND], precedes(2, 4294967295U, 3, 5000, 1000), "the last of it");
	CHECK(&promises[ACROSS], !precedes(0, 4294960000U, 1, 5000, 4294960000U), "the oldest");
	CHECK(&promises[ACROSS], !precedes(0, 4294967295U, 1, 5000, 4294960000U), "the last of its epoch");
	CHECK(&promises[ACROSS], !precedes(1, 4000, 1, 5000, 4294960000U), "one of the new epoch");
	CHECK(&promises[ACROSS], precedes(0, 4294959999U, 1, 5000, 4294960000U), "one before the oldest");
	return promises_report(promises, PROMISES);
}
