/*
 * counter.c
 *	  Numbers that are kept in sequences: counted up by all at once, and not rolled back.
 *
 * For what a table has too much of to be counted each time: whoever adds a row counts one, without waiting for anybody
 * and whatever becomes of the transaction, and maintenance, which counts the rows now and then, sets the number right.
 * A crash may add up to 32, what nextval() logs ahead. The caller needs no privilege on the sequence to count.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "commands/sequence.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "utils/rel.h"

#include "counter.h"

/* The number; 0 when nothing was counted yet, or the installed SQL is of a version without it. */
int64
llmq_counter_read(LlmqRelation sequence)
{
	Oid			relid = llmq_relation_oid_if_any(sequence);
	Form_pg_sequence_data data;
	Relation	rel;
	Buffer		buffer;
	Page		page;
	int64		count;

	if (!OidIsValid(relid))
		return 0;
	rel = relation_open(relid, AccessShareLock);
	buffer = ReadBuffer(rel, 0);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	data = (Form_pg_sequence_data) GETSTRUCT((HeapTuple) &(HeapTupleData) {
		.t_data = (HeapTupleHeader) PageGetItem(page, PageGetItemId(page, FirstOffsetNumber))
	});
	count = data->is_called ? data->last_value : data->last_value - 1;
	UnlockReleaseBuffer(buffer);
	relation_close(rel, AccessShareLock);
	return count;
}

/* Counts one. */
void
llmq_counter_count(LlmqRelation sequence)
{
	(void) nextval_internal(llmq_relation_oid(sequence), false);
}
