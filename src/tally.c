/*
 * tally.c
 *	  What maintenance keeps of the live tables: how many cells were retired, and how far the sweep over each has come.
 *
 * One cell of llmquota.name, of a kind that no caller's name has, changed in place as every other. Retired cells are
 * counted in the record that marks them, under the creation lock, and so ids given out less ids retired is how many
 * cells there are: nobody has to count them.
 *
 * A sweep goes over a table once in a while, however often maintenance is run: each run takes as large a part as the
 * time since the last one. A small table is looked at whole each time.
 */
#include "postgres.h"

#include "storage/bufmgr.h"

#include "cell.h"

#define TALLY_KIND '#'
#define TALLY_NAME "tally"

/* The places of the sweeps in the tally, which are stored: none ever changes. */
static const uint8 places[LLMQ_LIVE_COUNT] = {
	[LLMQ_LIVE_METER] = 0,[LLMQ_LIVE_LEASE] = 1,[LLMQ_LIVE_NAME] = 2,[LLMQ_LIVE_REFUSAL] = 3,[LLMQ_LIVE_HEALTH] = 4,
	[LLMQ_LIVE_REQUEST] = 6,[LLMQ_LIVE_RATE] = 7
};

/*
 * That which looks at meters for alerts, beside the one that looks for idle ones. In its place of `retired` is what
 * stands for the thresholds that all windows have been held against; 0: none yet.
 */
#define ALERTS_SWEEP 5

/* Tables up to these are looked at whole, by place; and the most that one run takes of a larger one. Blocks. */
static const BlockNumber small_table[LLMQ_TALLY_ROOM] = {256, 256, 8, 64, 256, 20000, 256, 256};

#define LARGEST_PART 20000

StaticAssertDecl(sizeof(LlmqTally) == 184, "LlmqTally has no padding");

static const LlmqCellKey tally_key = {.table = LLMQ_LIVE_NAME,.kind = TALLY_KIND,.name = TALLY_NAME};

/* The id of the tally, which is created if there is none. */
int32
llmq_tally_id(LlmqLive *live)
{
	LlmqTally	empty = {.cell.length = sizeof(LlmqTally)};
	int32		id = llmq_cell_find(live, &tally_key);

	return id != 0 ? id : llmq_cell_create(live, &tally_key, &empty.cell, PG_INT32_MAX);
}

/* The tally as it is; all zero when there is none. */
static void
read_tally(LlmqLive *live, LlmqTally *tally)
{
	int32		id = llmq_cell_find(live, &tally_key);

	memset(tally, 0, sizeof(LlmqTally));
	if (id != 0)
		(void) llmq_cell_copy(live, LLMQ_LIVE_NAME, id, tally, sizeof(LlmqTally));
}

/* Locks the tally, to be changed; NULL: it could not be, and nothing is locked. */
LlmqTally *
llmq_tally_lock(LlmqLive *live, LlmqCellSet *set)
{
	int			cell;

	llmq_set_init(set, live);
	cell = llmq_set_add(set, LLMQ_LIVE_NAME, llmq_tally_id(live));
	return llmq_set_lock(set) == LLMQ_LOCKED ? llmq_set_change(set, cell) : NULL;
}

/* Under the lock of the tally: counts a retired cell of a table. */
void
llmq_tally_count(LlmqTally *tally, LlmqLiveTable table)
{
	tally->retired[places[table]]++;
}

/* How many cells of a table have been retired. */
int64
llmq_tally_retired(LlmqLive *live, LlmqLiveTable table)
{
	LlmqTally	tally;

	read_tally(live, &tally);
	return tally.retired[places[table]];
}

/* How many blocks are due, if all of them are in the time of a pass. */
static BlockNumber
blocks_due(const LlmqTally *tally, int sweep, BlockNumber nblocks, int64 pass, int64 now)
{
	int64		since = now - tally->swept_at[sweep];

	if (since < 0 || since >= pass)
		return nblocks;
	return (BlockNumber) ((double) since / (double) pass * nblocks);
}

/* The part of a table that is due now in a sweep, when the whole is to be looked at in the time of a pass. */
static void
range_of(LlmqLive *live, LlmqCellRange *range, int64 pass, int64 now)
{
	BlockNumber nblocks = llmq_live_has(live, range->table) ? RelationGetNumberOfBlocks(live->rel[range->table]) : 0;
	LlmqTally	tally;

	range->first = 0;
	range->count = nblocks;
	range->nblocks = nblocks;
	if (nblocks <= small_table[range->sweep])
		return;
	read_tally(live, &tally);
	range->first = tally.next_block[range->sweep] % nblocks;
	range->count = Min(blocks_due(&tally, range->sweep, nblocks, pass, now), LARGEST_PART);
	range->count = Min(range->count, nblocks - range->first);
}

/* That of a live table that is swept for what nobody needs. */
void
llmq_tally_range(LlmqLive *live, LlmqLiveTable table, int64 pass, int64 now, LlmqCellRange *range)
{
	range->table = table;
	range->sweep = places[table];
	range_of(live, range, pass, now);
}

/* That of the meters that are looked at for alerts. */
void
llmq_tally_alerts_range(LlmqLive *live, int64 pass, int64 now, LlmqCellRange *range)
{
	range->table = LLMQ_LIVE_METER;
	range->sweep = ALERTS_SWEEP;
	range_of(live, range, pass, now);
}

/*
 * Notes that a part has been looked at. What was due beyond it stays due. The end of the table is where it was when the
 * part was worked out: else one that grows in every round would never be looked at from its beginning again.
 */
void
llmq_tally_advance(LlmqLive *live, const LlmqCellRange *range, int64 pass, int64 now)
{
	BlockNumber nblocks = range->nblocks;
	LlmqCellSet set;
	LlmqTally  *tally;
	BlockNumber due;

	if (nblocks <= small_table[range->sweep] || range->count == 0)
		return;
	tally = llmq_tally_lock(live, &set);
	if (tally == NULL)
		return;
	due = Max(blocks_due(tally, range->sweep, nblocks, pass, now), range->count);
	tally->next_block[range->sweep] = (range->first + range->count) % nblocks;
	tally->swept_at[range->sweep] = now - (int64) ((double) (due - range->count) / (double) nblocks * pass);
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
}

/* What stands for the thresholds that all windows have been held against. */
int64
llmq_tally_thresholds(LlmqLive *live)
{
	LlmqTally	tally;

	read_tally(live, &tally);
	return tally.retired[ALERTS_SWEEP];
}

/* Notes that they have been. */
void
llmq_tally_set_thresholds(LlmqLive *live, int64 thresholds)
{
	LlmqCellSet set;
	LlmqTally  *tally = llmq_tally_lock(live, &set);

	if (tally == NULL)
		return;
	tally->retired[ALERTS_SWEEP] = thresholds;
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
}
