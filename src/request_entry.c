/*
 * request_entry.c
 *	  Requests in their cells: which cell a hash belongs to, and which place in it.
 *
 * Linear hashing. There are n cells, numbered from 1, and more are made one at a time. With the number of bits that
 * n - 1 has, the last bits of a hash are a cell's number less one, if there is such a cell; else those but the first of
 * these bits are. So cell n + 1 takes over some of the requests of one other cell, its parent, whose number is its own
 * without the highest bit, and of no other. A cell knows of how many bits it is, and whoever comes to the wrong one, by
 * a number of cells that was true a moment ago, learns there where to look next.
 *
 * An entry past its time is as good as none, and its place is the next one's. Pure functions: no server calls.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/pg_bitutils.h"

#include "request.h"

/* The whole seconds before an instant, which is after 2000-01-01. */
uint32
llmq_request_seconds(int64 at)
{
	return (uint32) Min(at / USECS_PER_SEC, PG_UINT32_MAX);
}

/* The whole seconds after it. */
uint32
llmq_request_seconds_after(int64 at)
{
	return llmq_request_seconds(at + USECS_PER_SEC - 1);
}

/* The number with so many bits set, the last ones. */
static uint64
mask_of(uint32 bits)
{
	return (UINT64CONST(1) << bits) - 1;
}

/* How many bits the numbers below this one have. */
static uint32
bits_below(int32 number)
{
	return number <= 1 ? 0 : pg_leftmost_one_pos32((uint32) number - 1) + 1;
}

/* The cell of a hash, when there are so many cells. */
int32
llmq_request_cell(uint64 hash, int32 ncells)
{
	uint32		bits = bits_below(ncells);
	uint64		index = hash & mask_of(bits);

	if (index >= (uint64) ncells)
		index &= mask_of(bits - 1);
	return (int32) index + 1;
}

/* The cell from which this one takes over its requests; 0 for the first, which takes over none. */
int32
llmq_request_parent(int32 cell)
{
	if (cell <= 1)
		return 0;
	return cell - (1 << pg_leftmost_one_pos32((uint32) cell - 1));
}

/* What the `bits` of a cell are, when there are so many cells. */
uint32
llmq_request_bits(int32 cell, int32 ncells)
{
	uint32		bits = bits_below(ncells);

	/* of the last round of growth: neither a new cell nor one that has given any away */
	if (bits > 0 && cell - 1 < (1 << (bits - 1)) && cell - 1 >= ncells - (1 << (bits - 1)))
		bits--;
	return bits + 1;
}

/*
 * Where else to look for a hash than in this cell; the cell itself when it is the one. By the first bit that is not the
 * cell's: that cell has been made, for this one has given requests to it; of more bits there may be none yet.
 */
int32
llmq_request_other_cell(const LlmqRequestPage *page, uint64 hash)
{
	uint64		differ;

	if (page->bits == 0)
		return llmq_request_parent(page->cell.id);
	differ = (hash ^ (uint64) (page->cell.id - 1)) & mask_of(page->bits - 1);
	if (differ == 0)
		return page->cell.id;
	return (int32) (hash & mask_of(pg_rightmost_one_pos64(differ) + 1)) + 1;
}

/* How many cells there may be: a power of two, so that all are of one size when they are that many. */
int32
llmq_request_cells(int32 max_requests)
{
	int32		cells = 1;

	while (cells < (max_requests + LLMQ_REQUESTS_PER_CELL - 1) / LLMQ_REQUESTS_PER_CELL)
		cells *= 2;
	return cells;
}

static bool
is_of(const LlmqRequestEntry *entry, const LlmqRequestKey *key)
{
	return entry->hash[0] == key->hash[0] && entry->hash[1] == key->hash[1] && entry->page != 0;
}

/*
 * The place for a request: its own if it has one, else one that is free; -1: there is none. And how many the cell
 * remembers: when it has its own, of the places before it.
 */
int
llmq_request_place(const LlmqRequestPage *page, const LlmqRequestKey *key, uint32 now, int *in_force)
{
	int			place = -1;

	*in_force = 0;
	for (int i = 0; i < LLMQ_REQUEST_ENTRIES; i++)
	{
		const LlmqRequestEntry *entry = &page->entry[i];

		if (is_of(entry, key))
			return i;
		if (entry->until > now)
			(*in_force)++;
		else if (place < 0)
			place = i;
	}
	return place;
}

/* What a place remembers of a request; all zero: nothing. */
LlmqRequestEntry
llmq_request_at(const LlmqRequestPage *page, int place, const LlmqRequestKey *key, uint32 now)
{
	if (place >= 0 && is_of(&page->entry[place], key) && page->entry[place].until > now)
		return page->entry[place];
	return (LlmqRequestEntry) {0};
}

/* How many requests the cell remembers. */
int
llmq_request_in_force(const LlmqRequestPage *page, uint32 now)
{
	int			n = 0;

	for (int i = 0; i < LLMQ_REQUEST_ENTRIES; i++)
		n += page->entry[i].until > now;
	return n;
}

/* Is it the turn of this new cell to get its requests from the page, its parent? */
bool
llmq_request_may_split(const LlmqRequestPage *page, int32 child)
{
	return page->bits == bits_below(child);
}

/* Gives a new cell the requests that are its, of those of its parent. */
void
llmq_request_split(LlmqRequestPage *page, LlmqRequestPage *child)
{
	int			n = 0;

	page->bits++;
	child->bits = page->bits;
	for (int i = 0; i < LLMQ_REQUEST_ENTRIES; i++)
	{
		LlmqRequestEntry *entry = &page->entry[i];

		if (entry->page == 0 || llmq_request_other_cell(page, entry->hash[0]) == page->cell.id)
			continue;
		child->entry[n++] = *entry;
		memset(entry, 0, sizeof(LlmqRequestEntry));
	}
}
