/*
 * linear.c
 *	  Entries in cells by their hashes: which cell a hash belongs to, and what a new cell takes over.
 *
 * Linear hashing. There are n cells, numbered from 1, and more are made one at a time. With the number of bits that
 * n - 1 has, the last bits of a hash are a cell's number less one, if there is such a cell; else those but the first of
 * these bits are. So cell n + 1 takes over some of the entries of one other cell, its parent, whose number is its own
 * without the highest bit, and of no other. A cell knows of how many bits it is, and whoever comes to the wrong one, by
 * a number of cells that was true a moment ago, learns there where to look next.
 *
 * Pure functions: no server calls.
 */
#include "postgres.h"

#include "port/pg_bitutils.h"

#include "linear.h"

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
llmq_linear_cell(uint64 hash, int32 ncells)
{
	uint32		bits = bits_below(ncells);
	uint64		index = hash & mask_of(bits);

	if (index >= (uint64) ncells)
		index &= mask_of(bits - 1);
	return (int32) index + 1;
}

/* The cell from which this one takes over its entries; 0 for the first, which takes over none. */
int32
llmq_linear_parent(int32 cell)
{
	if (cell <= 1)
		return 0;
	return cell - (1 << pg_leftmost_one_pos32((uint32) cell - 1));
}

/* What the `bits` of a cell are, when there are so many cells. */
uint32
llmq_linear_bits(int32 cell, int32 ncells)
{
	uint32		bits = bits_below(ncells);

	/* of the last round of growth: neither a new cell nor one that has given any away */
	if (bits > 0 && cell - 1 < (1 << (bits - 1)) && cell - 1 >= ncells - (1 << (bits - 1)))
		bits--;
	return bits + 1;
}

/*
 * Where else to look for a hash than in this cell; the cell itself when it is the one. By the first bit that is not the
 * cell's: that cell has been made, for this one has given entries to it; of more bits there may be none yet.
 */
int32
llmq_linear_other_cell(const LlmqLinearPage *page, uint64 hash)
{
	uint64		differ;

	if (page->bits == 0)
		return llmq_linear_parent(page->cell.id);
	differ = (hash ^ (uint64) (page->cell.id - 1)) & mask_of(page->bits - 1);
	if (differ == 0)
		return page->cell.id;
	return (int32) (hash & mask_of(pg_rightmost_one_pos64(differ) + 1)) + 1;
}

/* How many cells there may be for so many entries: a power of two, so that all are of one size then. */
int32
llmq_linear_cells(const LlmqLinear *linear, int32 most)
{
	int32		cells = 1;

	while (cells < (most + linear->share - 1) / linear->share)
		cells *= 2;
	return cells;
}

/* Is it the turn of this new cell to get its entries from the page, its parent? */
bool
llmq_linear_may_split(const LlmqLinearPage *page, int32 child)
{
	return page->bits == bits_below(child);
}

/* Gives a new cell the entries that are its, of those of its parent, and the secret. */
void
llmq_linear_split(const LlmqLinear *linear, LlmqLinearPage *page, LlmqLinearPage *child)
{
	char	   *entry = (char *) (page + 1);
	char	   *free = (char *) (child + 1);

	page->bits++;
	child->bits = page->bits;
	memcpy(child->secret, page->secret, sizeof(child->secret));
	for (int i = 0; i < linear->entries; i++, entry += linear->size)
	{
		const uint64 *hash = (const uint64 *) entry;

		if ((hash[0] == 0 && hash[1] == 0) || llmq_linear_other_cell(page, hash[0]) == page->cell.id)
			continue;
		memcpy(free, entry, linear->size);
		memset(entry, 0, linear->size);
		free += linear->size;
	}
}
