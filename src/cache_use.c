/*
 * cache_use.c
 *	  When an answer was given out last: written into its row in place.
 *
 * As an UPDATE it would lock the row for as long as the caller's transaction is open, and whoever has a newer answer
 * would wait for that; and every answer that is in use would leave dead rows behind. So the eight bytes are written
 * over, under the page's content lock and with the WAL record that PostgreSQL has for this, as it does in some rows of
 * its catalogs. Nothing depends on them but the order in which answers are dropped when there is no room for all: that
 * a rollback does not undo it, that a newer version of the row may be made meanwhile from what was there before, and
 * that a crash may lose it, is all the same.
 *
 * The caller has the page pinned since he has seen the row, and so the row stays in its place.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"

#include "cache.h"
#include "compat.h"

/* stored_at, fresh_until and stale_until are before it, and none of these is ever NULL. */
#define USED_AT_OFFSET (3 * sizeof(TimestampTz))

/* The record. COMMIT is not to know of it, see cell_wal.c: nobody waits for it. */
static void
log_row(Buffer buffer, HeapTuple row)
{
	XLogRecPtr	known_to_commit = XactLastRecEnd;

	PageSetLSN(BufferGetPage(buffer), llmq_log_in_place_compat(buffer, row));
	if (!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		XactLastRecEnd = known_to_commit;
}

void
llmq_cache_use(Relation rel, Buffer buffer, HeapTuple row, TimestampTz now)
{
	char	   *used_at = (char *) row->t_data + row->t_data->t_hoff + USED_AT_OFFSET;

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	START_CRIT_SECTION();
	memcpy(used_at, &now, sizeof(now));
	MarkBufferDirty(buffer);
	if (RelationNeedsWAL(rel))
		log_row(buffer, row);
	END_CRIT_SECTION();
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
}
