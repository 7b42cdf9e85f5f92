/*
 * verify_copy.c
 *	  Copies the live tables for llmquota_verify(), and checks that pages and rows are whole.
 *
 * Each page is copied under a share lock, one at a time, and taken apart afterwards. Nothing is raised for what is
 * found: a page or a row that makes no sense is kept as such and reported later, when the caller has let go of its
 * locks on the tables. The heap is read page by page and not through a scan, because a scan trusts what it reads.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"

#include "verify.h"

#define MIN_CELLS 64

/* Brings all pages into memory, so that the copy under the tables' locks need not wait for a disk. */
void
llmq_verify_read_ahead(LlmqVerify *verify)
{
	for (int table = 0; table < LLMQ_LIVE_COUNT; table++)
	{
		Relation	rel = verify->live.rel[table];
		BlockNumber nblocks = RelationGetNumberOfBlocks(rel);

		for (BlockNumber block = 0; block < nblocks; block++)
		{
			CHECK_FOR_INTERRUPTS();
			ReleaseBuffer(ReadBuffer(rel, block));
		}
	}
}

static LlmqVerifyCell *
add_cell(LlmqVerifyTable *table)
{
	if (table->n == table->size)
	{
		table->size = Max(MIN_CELLS, table->size * 2);
		table->cell = table->cell == NULL ? palloc(sizeof(LlmqVerifyCell) * table->size) :
			repalloc_huge(table->cell, sizeof(LlmqVerifyCell) * table->size);
	}
	return memset(&table->cell[table->n++], 0, sizeof(LlmqVerifyCell));
}

/* Keeps the row of one line pointer. A pointer that leads out of the page is kept as a row of nothing. */
static void
copy_row(LlmqVerifyTable *table, char *page, BlockNumber block, OffsetNumber offset)
{
	ItemId		item = PageGetItemId(page, offset);
	uint32		length = ItemIdGetLength(item);
	LlmqVerifyCell *cell;

	if (!ItemIdIsNormal(item))
		return;
	cell = add_cell(table);
	ItemPointerSet(&cell->tid, block, offset);
	if (ItemIdGetOffset(item) + length > BLCKSZ || length < SizeofHeapTupleHeader)
		return;
	cell->tuple = palloc(HEAPTUPLESIZE + length);
	cell->tuple->t_len = length;
	cell->tuple->t_self = cell->tid;
	cell->tuple->t_data = (HeapTupleHeader) ((char *) cell->tuple + HEAPTUPLESIZE);
	memcpy(cell->tuple->t_data, PageGetItem(page, item), length);
}

/* Takes a copied page apart. One that makes no sense as a page is kept as one row of nothing. */
static void
copy_rows(LlmqVerifyTable *table, char *page, BlockNumber block)
{
	PageHeader	header = (PageHeader) page;

	if (PageIsNew(page))
		return;
	if (header->pd_lower < SizeOfPageHeaderData || header->pd_lower > header->pd_upper ||
		header->pd_upper > header->pd_special || header->pd_special != BLCKSZ)
	{
		ItemPointerSet(&add_cell(table)->tid, block, InvalidOffsetNumber);
		return;
	}
	for (OffsetNumber offset = FirstOffsetNumber; offset <= PageGetMaxOffsetNumber(page); offset++)
		copy_row(table, page, block, offset);
}

/* Copies every row of the live tables. */
void
llmq_verify_copy(LlmqVerify *verify)
{
	PGAlignedBlock page;

	for (int table = 0; table < LLMQ_LIVE_COUNT; table++)
	{
		Relation	rel = verify->live.rel[table];
		BlockNumber nblocks = RelationGetNumberOfBlocks(rel);

		for (BlockNumber block = 0; block < nblocks; block++)
		{
			Buffer		buffer = ReadBuffer(rel, block);

			CHECK_FOR_INTERRUPTS();
			LockBuffer(buffer, BUFFER_LOCK_SHARE);
			memcpy(page.data, BufferGetPage(buffer), BLCKSZ);
			UnlockReleaseBuffer(buffer);
			copy_rows(&verify->table[table], page.data, block);
		}
	}
}

/* The state inside a row whose columns are where they belong; NULL otherwise. */
static const LlmqCellHeader *
state_of(Relation rel, HeapTuple tuple, Size *size)
{
	HeapTupleHeader row = tuple->t_data;
	const struct varlena *state;
	Size		before = MAXALIGN(SizeofHeapTupleHeader) + sizeof(int32);

	if (HeapTupleHeaderGetNatts(row) < RelationGetDescr(rel)->natts || HeapTupleHasNulls(tuple) ||
		row->t_hoff != MAXALIGN(SizeofHeapTupleHeader) || tuple->t_len < before + VARHDRSZ)
		return NULL;
	state = (const struct varlena *) ((char *) row + before);
	if (!VARATT_IS_4B_U(state) || VARSIZE(state) < VARHDRSZ || VARSIZE(state) > tuple->t_len - before)
		return NULL;
	*size = VARSIZE(state) - VARHDRSZ;
	return (const LlmqCellHeader *) VARDATA(state);
}

/* Has the row been deleted, or is it being? A mere locker does not count. */
static bool
is_deleted(HeapTuple tuple)
{
	uint16		infomask = tuple->t_data->t_infomask;

	return !(infomask & HEAP_XMAX_INVALID) && !HEAP_XMAX_IS_LOCKED_ONLY(infomask);
}

static void
report_row(LlmqVerify *verify, LlmqLiveTable table, const LlmqVerifyCell *cell, const LlmqFault *fault, bool repaired)
{
	llmq_verify_report(verify, &(LlmqFinding) {
		.object = RelationGetRelationName(verify->live.rel[table]),
		.subject = llmq_verify_subject(verify, cell),
		.problem = fault->problem,
		.expected = fault->expected[0] != '\0' ? fault->expected : NULL,
		.found = fault->found[0] != '\0' ? fault->found : NULL,
		.repaired = repaired,
	});
}

/* Checks one row, and notes whether it counts. */
static void
check_row(LlmqVerify *verify, LlmqLiveTable table, LlmqVerifyCell *cell)
{
	LlmqFault	fault = {.problem = "row"};
	const LlmqCellHeader *state = NULL;
	Size		size = 0;

	if (cell->tuple != NULL)
		state = state_of(verify->live.rel[table], cell->tuple, &size);
	if (state != NULL)
		memcpy(&cell->id, (char *) cell->tuple->t_data + MAXALIGN(SizeofHeapTupleHeader), sizeof(int32));
	if (state == NULL || llmq_cell_fault(table, state, size, cell->id, &fault))
	{
		report_row(verify, table, cell, &fault,
				   state != NULL && llmq_repair_note_cell(verify, table, cell, size));
		return;
	}
	if (fault.unknown)
		report_row(verify, table, cell, &fault, false);
	cell->state = state;
	if ((state->flags & (LLMQ_CELL_BORN | LLMQ_CELL_MOVED)) != LLMQ_CELL_BORN)
		return;
	if (is_deleted(cell->tuple))
		report_row(verify, table, cell, &(LlmqFault) {.problem = "row is deleted"}, false);
	else
		cell->counts = true;
}

/* Puts what counts in the order of ids; two rows of one id are reported. */
static void
sort_cells(LlmqVerify *verify, LlmqLiveTable which)
{
	LlmqVerifyTable *table = &verify->table[which];

	for (int i = 0; i < table->n; i++)
		if (table->cell[i].counts && table->cell[i].id > table->last_id)
			table->last_id = table->cell[i].id;
	table->by_id = palloc_extended(sizeof(LlmqVerifyCell *) * ((Size) table->last_id + 1),
								   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < table->n; i++)
	{
		LlmqVerifyCell *cell = &table->cell[i];

		if (!cell->counts || cell->id < 1)
			continue;
		if (table->by_id[cell->id] != NULL && verify->at_once)
			report_row(verify, which, cell, &(LlmqFault) {.problem = "second row of the same id"}, false);
		else
			table->by_id[cell->id] = cell;
	}
}

/* Checks all that was copied, and reports what is not whole. */
void
llmq_verify_cells(LlmqVerify *verify)
{
	for (int which = 0; which < LLMQ_LIVE_COUNT; which++)
	{
		LlmqVerifyTable *table = &verify->table[which];

		for (int i = 0; i < table->n; i++)
		{
			CHECK_FOR_INTERRUPTS();
			check_row(verify, (LlmqLiveTable) which, &table->cell[i]);
		}
		sort_cells(verify, (LlmqLiveTable) which);
	}
}
