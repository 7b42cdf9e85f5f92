/*
 * cell_test.c
 *	  Damage to live state, for test/sql/verify.sql. Needs the library llmquota to be loaded.
 *
 *	module:
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "fmgr.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"

#include "lease.h"
#include "meter.h"
#include "verify.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(cell_fault);
PG_FUNCTION_INFO_V1(cell_write);
PG_FUNCTION_INFO_V1(window_add);

/* cell_fault(live_table int, image bytea, id int) -> what is wrong with it, NULL: nothing */
Datum
cell_fault(PG_FUNCTION_ARGS)
{
	bytea	   *image = PG_GETARG_BYTEA_PP(1);
	Size		size = VARSIZE_ANY_EXHDR(image);
	LlmqCellHeader *copy = palloc(Max(size, sizeof(LlmqCellHeader)));
	LlmqFault	fault = {0};

	memcpy(copy, VARDATA_ANY(image), size);
	if (!llmq_cell_fault((LlmqLiveTable) PG_GETARG_INT32(0), copy, size, PG_GETARG_INT32(2), &fault))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(fault.problem));
}

/* The state of a cell in its page, which is locked. */
static LlmqCellHeader *
lock_cell(LlmqLive *live, LlmqLiveTable table, int32 id, Buffer *buffer)
{
	ItemPointerData tid;
	LlmqCellHeader *state;

	if (!llmq_cell_locate(live, table, id, &tid))
		elog(ERROR, "there is no cell %d", id);
	*buffer = ReadBuffer(live->rel[table], ItemPointerGetBlockNumber(&tid));
	LockBuffer(*buffer, BUFFER_LOCK_EXCLUSIVE);
	state = llmq_cell_in_page(BufferGetPage(*buffer), &tid, table, id);
	if (state == NULL)
		elog(ERROR, "cell %d is not at its place", id);
	return state;
}

/* cell_write(live_table int, id int, at int, bytes bytea, sealed bool): damages a cell in its page; the checksum holds? */
Datum
cell_write(PG_FUNCTION_ARGS)
{
	LlmqLiveTable table = (LlmqLiveTable) PG_GETARG_INT32(0);
	bytea	   *bytes = PG_GETARG_BYTEA_PP(3);
	LlmqLive	live;
	Buffer		buffer;
	LlmqCellHeader *state;

	llmq_live_open(&live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	state = lock_cell(&live, table, PG_GETARG_INT32(1), &buffer);
	memcpy((char *) state + PG_GETARG_INT32(2), VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	if (PG_NARGS() > 4 && PG_GETARG_BOOL(4))
		state->crc = llmq_cell_crc(state);
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
	llmq_live_close(&live);
	PG_RETURN_VOID();
}

/* The bucket that most can be taken from. */
static int64 *
largest_bucket(LlmqWindow *window)
{
	int64	   *largest = window->bucket;

	for (int i = 1; i < LLMQ_BUCKETS; i++)
		if (window->bucket[i] > *largest)
			largest = &window->bucket[i];
	return largest;
}

/* window_add(meter int, quota bigint, amount bigint): makes a window wrong and everything else right */
Datum
window_add(PG_FUNCTION_ARGS)
{
	LlmqLive	live;
	Buffer		buffer;
	LlmqMeterState *state;
	LlmqWindow *window;

	llmq_live_open(&live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	state = (LlmqMeterState *) lock_cell(&live, LLMQ_LIVE_METER, PG_GETARG_INT32(0), &buffer);
	for (window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
	{
		if (window->quota != PG_GETARG_INT64(1))
			continue;
		window->sum += PG_GETARG_INT64(2);
		if (window->kind == LLMQ_WINDOW_SLIDING)
			*largest_bucket(window) += PG_GETARG_INT64(2);
	}
	state->cell.crc = llmq_cell_crc(&state->cell);
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
	llmq_live_close(&live);
	PG_RETURN_VOID();
}
