/*
 * cache_count.c
 *	  Counts what becomes of those who ask for answers.
 *
 * As refusals are (refusal_count.c): kept in the backend, and written in place outside the caller's fate, at once when
 * nothing was written for a tenth of a second, else with the next that comes after that, or when the backend ends. The
 * counts are in a cell of llmquota.name, of a kind that no caller's name has, and only grow. On a hot standby nothing
 * is counted; in a read-only transaction it is written later.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "utils/timestamp.h"

#include "cache.h"
#include "cell.h"
#include "pick.h"

#define COUNTS_KIND '#'
#define COUNTS_NAME "answers"

/* How long counts may pend: microseconds; and how many. */
#define FLUSH_EVERY INT64CONST(100000)
#define MAX_KEPT 1000

/* With room for what later versions count. Fixed-width types, no padding. */
typedef struct AnswerCounts
{
	LlmqCellHeader cell;
	int64		count[16];
} AnswerCounts;

StaticAssertDecl(LLMQ_CACHE_EVENTS <= 16, "there is room for all that is counted of answers");

static const LlmqCellKey counts_key = {.table = LLMQ_LIVE_NAME,.kind = COUNTS_KIND,.name = COUNTS_NAME};

/* Not yet in live state. */
static int64 pending[LLMQ_CACHE_EVENTS];
static int	npending = 0;
static TimestampTz flushed_at = 0;

bool
llmq_cache_counts_pending(void)
{
	return npending > 0;
}

/* The id of the cell, which is created if there is none. */
static int32
cell_id(LlmqLive *live)
{
	AnswerCounts empty = {.cell.length = sizeof(AnswerCounts)};
	int32		id = llmq_cell_find(live, &counts_key);

	return id != 0 ? id : llmq_cell_create(live, &counts_key, &empty.cell, PG_INT32_MAX);
}

/* Was anything ever counted here? */
bool
llmq_cache_counted(LlmqLive *live)
{
	return llmq_cell_find(live, &counts_key) != 0;
}

/* Adds what is pending to the cell. It pends on when that is not where it was. */
static void
add_pending(LlmqLive *live)
{
	LlmqCellSet set;
	AnswerCounts *counts;
	int			cell;

	llmq_set_init(&set, live);
	cell = llmq_set_add(&set, LLMQ_LIVE_NAME, cell_id(live));
	if (llmq_set_lock(&set) != LLMQ_LOCKED)
		return;
	counts = llmq_set_change(&set, cell);
	for (int i = 0; i < LLMQ_CACHE_EVENTS; i++)
		counts->count[i] += pending[i];
	memset(pending, 0, sizeof(pending));
	npending = 0;
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
	llmq_cell_make_durable_soon(set.lsn);
}

/* Writes all that is pending. */
void
llmq_cache_counts_flush(void)
{
	LlmqLive	live;

	if (npending == 0)
		return;
	flushed_at = GetCurrentTimestamp();
	llmq_live_open(&live, LLMQ_LIVE_NAME + 1, RowExclusiveLock);
	add_pending(&live);
	llmq_live_close(&live);
}

/* Counts one. */
void
llmq_cache_count(LlmqCacheEvent event)
{
	TimestampTz now = GetCurrentTimestamp();

	if (RecoveryInProgress())
		return;
	llmq_flush_at_exit();
	pending[event]++;
	npending++;
	if (!XactReadOnly && (npending >= MAX_KEPT || now - flushed_at >= FLUSH_EVERY || now < flushed_at))
		llmq_cache_counts_flush();
}

/* What has been counted; all zero when nothing was. */
void
llmq_cache_counts_read(LlmqLive *live, int64 *counts)
{
	AnswerCounts found = {0};
	int32		id = llmq_cell_find(live, &counts_key);

	if (id != 0)
		(void) llmq_cell_copy(live, LLMQ_LIVE_NAME, id, &found, sizeof(AnswerCounts));
	memcpy(counts, found.count, sizeof(int64) * LLMQ_CACHE_EVENTS);
}
