/*
 * linear.h
 *	  Live tables whose cells hold entries by their hashes. See linear.c for which cell an entry is in.
 */
#ifndef LLMQ_LINEAR_H
#define LLMQ_LINEAR_H

#include "cell.h"

/* What such a table is like. */
typedef struct LlmqLinear
{
	LlmqLiveTable table;
	uint16		length;			/* of a state */
	uint16		size;			/* of an entry; it begins with the two halves of its hash, both zero: there is none */
	uint16		entries;		/* of a cell */
	uint16		share;			/* so many of each cell are counted on: hashes do not fill all cells alike */
} LlmqLinear;

/*
 * The state of a cell begins with this, and its entries follow. It has the hashes that end with the same bits, those of
 * its id less one.
 */
typedef struct LlmqLinearPage
{
	LlmqCellHeader cell;
	uint32		bits;			/* so many, and one; 0: it was made, but its entries are still in another cell */
	uint32		reserved;
	uint64		secret[2];		/* the key of the hashes; the same in all cells */
} LlmqLinearPage;

StaticAssertDecl(sizeof(LlmqLinearPage) == 48, "LlmqLinearPage has no padding");

/* Cells are twice as many at most, with every bit more of a hash. */
#define LLMQ_LINEAR_MOST_BITS 30

/* linear.c */
extern int32 llmq_linear_cell(uint64 hash, int32 ncells);
extern int32 llmq_linear_other_cell(const LlmqLinearPage *page, uint64 hash);
extern int32 llmq_linear_parent(int32 cell);
extern uint32 llmq_linear_bits(int32 cell, int32 ncells);
extern int32 llmq_linear_cells(const LlmqLinear *linear, int32 most);
extern bool llmq_linear_may_split(const LlmqLinearPage *page, int32 child);
extern void llmq_linear_split(const LlmqLinear *linear, LlmqLinearPage *page, LlmqLinearPage *child);

/* linear_cell.c */
extern void llmq_linear_hash(LlmqLive *live, const LlmqLinear *linear, const uint8 *bytes, Size length, uint64 *hash);
extern bool llmq_linear_holds(const LlmqLinear *linear, const LlmqLinearPage *page, uint64 hash);
extern int32 llmq_linear_look(LlmqLive *live, const LlmqLinear *linear, uint64 hash, LlmqCellPeek peek, void *argument);
extern int32 llmq_linear_guess(LlmqLive *live, const LlmqLinear *linear, uint64 hash);
extern void llmq_linear_spread(LlmqLive *live, const LlmqLinear *linear, int32 least);
extern void llmq_linear_draw(uint64 *secret);
extern bool llmq_linear_grow(LlmqLive *live, const LlmqLinear *linear, int32 max_cells, bool wait);

#endif							/* LLMQ_LINEAR_H */
