/*
 * cell_repair.c
 *	  Puts a whole state where a damaged one is.
 *
 * Everything else believes what it finds in a row only when it makes sense; here it does not, and is overwritten, in
 * place and WAL-logged like any change. Nothing of the old state is believed but its place in the row.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"

#include "cell.h"

/* Is there a row that has room for so long a state? The page is locked. */
static char *
state_at(char *page, ItemPointer tid, uint32 length)
{
	OffsetNumber offset = ItemPointerGetOffsetNumber(tid);
	Size		before = MAXALIGN(SizeofHeapTupleHeader) + sizeof(int32) + VARHDRSZ;
	ItemId		item;

	if (PageIsNew(page) || offset > PageGetMaxOffsetNumber(page))
		return NULL;
	item = PageGetItemId(page, offset);
	if (!ItemIdIsNormal(item) || ItemIdGetLength(item) < before + length)
		return NULL;
	return (char *) PageGetItem(page, item) + before;
}

/* Overwrites the state of a row; its length must be what the row was made for. False when the row is not there. */
bool
llmq_cell_overwrite(LlmqLive *live, LlmqLiveTable table, ItemPointer tid, LlmqCellHeader *state)
{
	Relation	rel = live->rel[table];
	Buffer		buffer = ReadBuffer(rel, ItemPointerGetBlockNumber(tid));
	XLogRecPtr	lsn = InvalidXLogRecPtr;
	LlmqCellWrite write = {.buffer = buffer,.copy = state};

	llmq_cell_write_prepare();
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	write.state = (LlmqCellHeader *) state_at(BufferGetPage(buffer), tid, state->length);
	if (write.state != NULL)
		lsn = llmq_cell_write(rel, &write, 1);
	UnlockReleaseBuffer(buffer);
	llmq_cell_make_durable(lsn);
	return write.state != NULL;
}
