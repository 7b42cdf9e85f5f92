/*
 * rate_entry.c
 *	  Entries of llmquota.rate_page in their cells, which are found by linear hashing (linear.c).
 *
 * An entry past its time is as good as none, and its place is the next one's. Pure functions: no server calls.
 */
#include "postgres.h"

#include "rate.h"

const LlmqLinear llmq_rate_linear = {
	.table = LLMQ_LIVE_RATE,.length = sizeof(LlmqRatePage),.size = sizeof(LlmqRateEntry),
	.entries = LLMQ_RATE_ENTRIES,.share = LLMQ_RATES_PER_CELL
};

/* The place of an entry, which may be past its time; -1: it has none. */
int
llmq_rate_place(const LlmqRatePage *page, const uint64 *hash)
{
	for (int i = 0; i < LLMQ_RATE_ENTRIES; i++)
		if (page->entry[i].hash[0] == hash[0] && page->entry[i].hash[1] == hash[1])
			return i;
	return -1;
}

/* The next place from one on whose entry, if it has one, is past its time; -1: there is none. */
int
llmq_rate_free_place(const LlmqRatePage *page, int64 now, int from)
{
	for (int i = from; i < LLMQ_RATE_ENTRIES; i++)
		if (!llmq_rate_is_in_force(&page->entry[i], now))
			return i;
	return -1;
}

/* How many entries of a cell are not past their time. */
int
llmq_rate_in_force(const LlmqRatePage *page, int64 now)
{
	int			n = 0;

	for (int i = 0; i < LLMQ_RATE_ENTRIES; i++)
		n += llmq_rate_is_in_force(&page->entry[i], now);
	return n;
}

/* When the first entry of a full cell is past its time, to the microsecond before. */
int64
llmq_rate_first_end(const LlmqRatePage *page)
{
	int64		first = page->entry[0].until.at;

	for (int i = 1; i < LLMQ_RATE_ENTRIES; i++)
		first = Min(first, page->entry[i].until.at);
	return first;
}
