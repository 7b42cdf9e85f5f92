/*
 * row_now.c
 *	  Finds a row of an ordinary table as it is committed now, or as this transaction has it.
 *
 * Whatever the isolation level and however old the transaction, what counts is what there is. By an index, past the
 * planner and whatever privileges the caller lacks. The scan sees every version, of which the snapshot chooses, and so
 * takes no predicate locks for a SERIALIZABLE caller.
 */
#include "postgres.h"

#include "access/relscan.h"
#include "access/tableam.h"
#include "utils/snapmgr.h"

#include "row_now.h"

/* Finds the row with these keys; without an index the table is read. It is held until the end. */
void
llmq_row_now_find(Relation rel, Oid index, int nkeys, ScanKey keys, LlmqRowNow *found)
{
	found->rel = rel;
	found->snapshot = RegisterSnapshot(GetLatestSnapshot());
	found->scan = systable_beginscan(rel, index, OidIsValid(index), SnapshotAny, nkeys, keys);
	do
		found->tuple = systable_getnext(found->scan);
	while (found->tuple != NULL && !table_tuple_satisfies_snapshot(rel, found->scan->slot, found->snapshot));
}

void
llmq_row_now_end(LlmqRowNow *found)
{
	systable_endscan(found->scan);
	UnregisterSnapshot(found->snapshot);
}
