/*
 * cell_wal.c
 *	  Writes changed cells into their pages, with the WAL record that says so.
 *
 * The record belongs to PostgreSQL's generic resource manager and has the form that generic_xlog.c gives it: for each
 * page the fragments that changed, as offset, length and bytes. Its redo replays them wherever the extension's library
 * is not even installed. GenericXLogFinish() itself is not used, because it finds what changed by copying and comparing
 * whole pages while they are locked, a third of a pick; here the new states are private copies, and only states are
 * compared.
 *
 * The pages must be locked exclusively. Nothing is allocated, and once the critical section has begun nothing may fail.
 */
#include "postgres.h"

#include "access/generic_xlog.h"
#include "access/rmgr.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "utils/memutils.h"

#include "cell.h"

/* Before the bytes of a fragment: where they go in the page, and how many. */
#define FRAGMENT_HEADER_SIZE (2 * sizeof(OffsetNumber))

/* Equal bytes between two changes that cost no more than a header join them, so fragments never outgrow the states. */
#define MAX_DELTA_SIZE (BLCKSZ + 2 * LLMQ_MAX_CELLS * FRAGMENT_HEADER_SIZE)

/* The fragments of one page. */
typedef struct Delta
{
	Buffer		buffer;
	int			length;
	char	   *bytes;
} Delta;

/*
 * Memory for what is built while pages are locked, made once in a backend: the copies of all cells of a set, and the
 * fragments of one record's pages.
 */
static char *copies = NULL;
static Size copies_used = 0;
static char *deltas = NULL;

/* Makes the memory, or makes it empty. To be called before anything is locked. */
void
llmq_cell_write_prepare(void)
{
	if (copies == NULL)
	{
		MemoryContext context = AllocSetContextCreate(TopMemoryContext, "llmquota cells", ALLOCSET_DEFAULT_SIZES);

		deltas = MemoryContextAlloc(context, MAX_GENERIC_XLOG_PAGES * MAX_DELTA_SIZE);
		copies = MemoryContextAlloc(context, LLMQ_MAX_CELLS * LLMQ_MAX_STATE);
	}
	copies_used = 0;
}

/* A private copy of a locked state, to be changed and then written. It lives until the next preparation. */
LlmqCellHeader *
llmq_cell_write_copy(const LlmqCellHeader *state)
{
	LlmqCellHeader *copy = (LlmqCellHeader *) (copies + copies_used);

	memcpy(copy, state, state->length);
	copies_used += MAXALIGN(state->length);
	return copy;
}

/*
 * Where two states differ next, `length` if nowhere. Most of a state does not change: eight bytes are skipped at a
 * time.
 */
static int
next_difference(const char *old, const char *new, int at, int length)
{
	while (at + (int) sizeof(uint64) <= length && memcmp(old + at, new + at, sizeof(uint64)) == 0)
		at += sizeof(uint64);
	while (at < length && old[at] == new[at])
		at++;
	return at;
}

/*
 * The end of the fragment that begins at a difference: from there as many bytes are equal as a new header would take.
 */
static int
fragment_end(const char *old, const char *new, int at, int length)
{
	int			end = at + 1;

	for (at = end; at < length && at - end <= (int) FRAGMENT_HEADER_SIZE; at++)
		if (old[at] != new[at])
			end = at + 1;
	return end;
}

static void
add_fragment(Delta *delta, OffsetNumber offset, OffsetNumber length, const char *bytes)
{
	OffsetNumber header[2] = {offset, length};

	memcpy(delta->bytes + delta->length, header, FRAGMENT_HEADER_SIZE);
	memcpy(delta->bytes + delta->length + FRAGMENT_HEADER_SIZE, bytes, length);
	delta->length += FRAGMENT_HEADER_SIZE + length;
}

/*
 * Adds what a write changes to the fragments of its page. A birth brings the flags and hints of the page's header too:
 * replay leaves them as they are when it prunes dead rows, and wal_consistency_checking would complain.
 */
static void
add_fragments(Delta *delta, const LlmqCellWrite *write)
{
	const char *page = BufferGetPage(write->buffer);
	const char *old = (const char *) write->state;
	const char *new = (const char *) write->copy;
	int			length = write->copy->length;
	int			hints = offsetof(PageHeaderData, pd_flags);

	if (!(write->state->flags & LLMQ_CELL_BORN))
		add_fragment(delta, hints, SizeOfPageHeaderData - hints, page + hints);
	for (int at = next_difference(old, new, 0, length); at < length; at = next_difference(old, new, at, length))
	{
		int			end = fragment_end(old, new, at, length);

		add_fragment(delta, old - page + at, end - at, new + at);
		at = end;
	}
}

/* The fragments of the page that a write is on; a new one when it is the first on its page. */
static Delta *
delta_of(Delta *delta, int *ndeltas, Buffer buffer)
{
	for (int i = 0; i < *ndeltas; i++)
		if (delta[i].buffer == buffer)
			return &delta[i];
	Assert(*ndeltas < MAX_GENERIC_XLOG_PAGES);
	delta[*ndeltas] = (Delta) {.buffer = buffer,.bytes = deltas + *ndeltas * MAX_DELTA_SIZE};
	return &delta[(*ndeltas)++];
}

/*
 * Writes the record of pages that have been changed already, in a critical section. COMMIT is not to know of it as long
 * as the transaction has no id: it would do nothing but wake the WAL writer, which costs as much as the record, and
 * llmq_cell_make_durable() sees to that.
 */
static XLogRecPtr
insert_record(const Delta *delta, int ndeltas)
{
	XLogRecPtr	known_to_commit = XactLastRecEnd;
	XLogRecPtr	lsn;

	XLogBeginInsert();
	for (int i = 0; i < ndeltas; i++)
	{
		XLogRegisterBuffer(i, delta[i].buffer, REGBUF_STANDARD);
		XLogRegisterBufData(i, delta[i].bytes, delta[i].length);
	}
	lsn = XLogInsert(RM_GENERIC_ID, 0);
	if (!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		XactLastRecEnd = known_to_commit;
	for (int i = 0; i < ndeltas; i++)
		PageSetLSN(BufferGetPage(delta[i].buffer), lsn);
	return lsn;
}

/*
 * Seals the copies and writes them into their pages, all or none, on at most MAX_GENERIC_XLOG_PAGES pages of `rel` and
 * its like. Returns the end of the record; invalid where the table needs no WAL (wal_level = minimal, in the
 * transaction that created it).
 */
XLogRecPtr
llmq_cell_write(Relation rel, const LlmqCellWrite *writes, int nwrites)
{
	Delta		delta[MAX_GENERIC_XLOG_PAGES];
	int			ndeltas = 0;
	XLogRecPtr	lsn = InvalidXLogRecPtr;

	for (int i = 0; i < nwrites; i++)
	{
		writes[i].copy->crc = llmq_cell_crc(writes[i].copy);
		add_fragments(delta_of(delta, &ndeltas, writes[i].buffer), &writes[i]);
	}

	START_CRIT_SECTION();
	for (int i = 0; i < nwrites; i++)
		memcpy(writes[i].state, writes[i].copy, writes[i].copy->length);
	for (int i = 0; i < ndeltas; i++)
		MarkBufferDirty(delta[i].buffer);
	if (RelationNeedsWAL(rel))
		lsn = insert_record(delta, ndeltas);
	END_CRIT_SECTION();
	return lsn;
}
