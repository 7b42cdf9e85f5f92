/*
 * request_test.c
 *	  A request has one place in its cell, for as long as it is remembered.
 *
 * links: src/request_entry.c
 */
#include "postgres.h"

#include <stdlib.h>

#include "request.h"
#include "tap.h"

#define SECOND INT64CONST(1000000)

enum
{
	PLACE, FULL, REUSED, TIME, PROMISES
};

static Promise promises[PROMISES] = {
	[PLACE] = {.name = "a request has one place, and keeps it"},
	[FULL] = {.name = "a full cell has no place for a new request, and still that of an old one"},
	[REUSED] = {.name = "the place of one past its time is the next one's"},
	[TIME] = {.name = "a request is remembered at least as long as it should, and less than a second longer"},
};

static int
place_of(const LlmqRequestPage *page, const LlmqRequestKey *key, uint32 now)
{
	int			in_force;

	return llmq_request_place(page, key, now, &in_force);
}

static bool
is_found(const LlmqRequestPage *page, const LlmqRequestKey *key, uint32 now)
{
	return llmq_request_at(page, place_of(page, key, now), key, now).page != 0;
}

static LlmqRequestEntry
entry_of(const LlmqRequestKey *key, uint32 until)
{
	return (LlmqRequestEntry) {
		.hash = {key->hash[0], key->hash[1]},.page = 1,.attempt = 1,.secret = key->hash[1],.until = until
	};
}

static void
test_places(void)
{
	LlmqRequestPage page = {.linear.cell.id = 1,.linear.bits = 1};
	LlmqRequestKey key = {.hash = {1, 2}};
	LlmqRequestKey other = {.hash = {1, 3}};

	for (int i = 0; i < LLMQ_REQUEST_ENTRIES; i++)
	{
		LlmqRequestKey each = {.hash = {1, 10 + i}};

		page.entry[i] = entry_of(&each, i == 40 ? 50 : 100);
	}
	CHECK(&promises[FULL], place_of(&page, &key, 49) < 0, "a place for a new one");
	other.hash[1] = 17;
	CHECK(&promises[FULL], place_of(&page, &other, 49) == 7, "not its place");
	CHECK(&promises[REUSED], place_of(&page, &key, 50) == 40, "not that which is over");
	CHECK(&promises[REUSED], llmq_request_in_force(&page, 50) == LLMQ_REQUEST_ENTRIES - 1, "not one less");
	other.hash[1] = 50;
	CHECK(&promises[REUSED], is_found(&page, &other, 49), "not found before it is over");
	CHECK(&promises[REUSED], !is_found(&page, &other, 50), "found when it is over");
	CHECK(&promises[REUSED], place_of(&page, &other, 50) == 40, "not its own place");
	/* what was never one */
	memset(&page.entry[3], 0, sizeof(LlmqRequestEntry));
	memset(&other, 0, sizeof(other));
	CHECK(&promises[PLACE], !is_found(&page, &other, 49), "an empty place is taken for a request");
}

static void
test_time(void)
{
	for (int i = 0; i < 10000; i++)
	{
		int64		until = 800000000 * SECOND + random() % (3 * SECOND);
		int64		now = until + random() % (4 * SECOND) - 2 * SECOND;
		bool		remembered = llmq_request_seconds_after(until) > llmq_request_seconds(now);

		CHECK(&promises[TIME], remembered ? now < until + SECOND : now >= until, "%d after", (int) (now - until));
	}
}

int
main(void)
{
	srandom(20261122);
	test_places();
	test_time();
	return promises_report(promises, PROMISES);
}
