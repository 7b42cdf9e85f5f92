/*
 * request_entry.c
 *	  Requests in their cells, which are found by linear hashing (linear.c): which place a request has in its cell.
 *
 * An entry past its time is as good as none, and its place is the next one's. Pure functions: no server calls.
 */
#include "postgres.h"

#include "datatype/timestamp.h"

#include "request.h"

const LlmqLinear llmq_request_linear = {
	.table = LLMQ_LIVE_REQUEST,.length = sizeof(LlmqRequestPage),.size = sizeof(LlmqRequestEntry),
	.entries = LLMQ_REQUEST_ENTRIES,.share = LLMQ_REQUESTS_PER_CELL
};

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
