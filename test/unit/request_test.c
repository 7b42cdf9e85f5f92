/*
 * request_test.c
 *	  A request is found in its cell, however many cells there are by now and whatever the searcher knows of that; and
 *	  it has one place there, for as long as it is remembered.
 *
 * links: src/request_entry.c
 */
#include "postgres.h"

#include <stdlib.h>

#include "request.h"
#include "tap.h"

#define CELLS 300
#define REQUESTS 9000
#define SECOND INT64CONST(1000000)

enum
{
	NUMBER, FOUND, STEPS, NEW, BITS, KEPT, TURN, PLACE, FULL, REUSED, TIME, BOUND, PROMISES
};

static Promise promises[PROMISES] = {
	[NUMBER] = {.name = "a hash has a cell among those that there are"},
	[FOUND] = {.name = "a request is found in its cell, by any number of cells that was true once"},
	[STEPS] = {.name = "... and soon"},
	[NEW] = {.name = "... also while a new cell has not got its requests"},
	[BITS] = {.name = "of how many bits a cell is follows from how many there are"},
	[KEPT] = {.name = "no request is lost when there are more cells, and none is twice"},
	[TURN] = {.name = "a cell gives requests to a new cell when it is its turn, and once"},
	[PLACE] = {.name = "a request has one place, and keeps it"},
	[FULL] = {.name = "a full cell has no place for a new request, and still that of an old one"},
	[REUSED] = {.name = "the place of one past its time is the next one's"},
	[TIME] = {.name = "a request is remembered at least as long as it should, and less than a second longer"},
	[BOUND] = {.name = "there are cells enough for as many requests as there may be, and not four times as many"},
};

static LlmqRequestPage pages[CELLS + 1];
static LlmqRequestKey keys[REQUESTS];

static uint64
random_bits(void)
{
	uint64		bits = 0;

	for (int i = 0; i < 5; i++)
		bits = bits << 15 ^ (uint64) random();
	return bits;
}

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

/* The cell in which a request is found from one on; 0 when it is not. Counts the steps. */
static int32
search(int32 cell, const LlmqRequestKey *key, int *steps)
{
	for (*steps = 1; *steps < 100 && cell > 0 && cell <= CELLS; (*steps)++)
	{
		int32		other = llmq_request_other_cell(&pages[cell], key->hash[0]);

		if (other == cell)
			return is_found(&pages[cell], key, 1) ? cell : 0;
		cell = other;
	}
	return 0;
}

static int
count_all(int32 ncells)
{
	int			n = 0;

	for (int32 cell = 1; cell <= ncells; cell++)
		n += llmq_request_in_force(&pages[cell], 1);
	return n;
}

/* All requests that were put in are found, from wherever the search begins. */
static void
check_found(int nkeys, int32 ncells, Promise *promise)
{
	for (int i = 0; i < nkeys; i += 7)
	{
		int32		guess = 1 + random() % ncells;
		int32		from = llmq_request_cell(keys[i].hash[0], guess);
		int			steps;

		CHECK(&promises[NUMBER], from >= 1 && from <= guess, "cell %d of %d", from, guess);
		CHECK(promise, search(from, &keys[i], &steps) > 0, "not from cell %d, of %d", from, ncells);
		CHECK(&promises[STEPS], steps <= 12, "%d steps from cell %d, of %d", steps, from, ncells);
	}
}

/* One more cell. */
static void
grow(int nkeys, int32 ncells)
{
	int32		made = ncells + 1;
	int32		parent = llmq_request_parent(made);

	pages[made].cell.id = made;
	check_found(nkeys, made, &promises[NEW]);
	CHECK(&promises[TURN], llmq_request_may_split(&pages[parent], made), "cell %d to %d", parent, made);
	llmq_request_split(&pages[parent], &pages[made]);
	CHECK(&promises[TURN], !llmq_request_may_split(&pages[parent], made), "cell %d to %d again", parent, made);
	CHECK(&promises[KEPT], count_all(made) == nkeys, "%d of %d with %d cells", count_all(made), nkeys, made);
	for (int32 cell = 1; cell <= made; cell++)
		CHECK(&promises[BITS], pages[cell].bits == llmq_request_bits(cell, made), "cell %d of %d: %u, not %u", cell, made,
			  pages[cell].bits, llmq_request_bits(cell, made));
}

/* Requests come, and there is another cell whenever one is crowded. */
static void
test_growth(void)
{
	int32		ncells = 1;
	int			n;

	pages[1].cell.id = 1;
	pages[1].bits = llmq_request_bits(1, 1);
	for (n = 0; n < REQUESTS && ncells < CELLS; n++)
	{
		int32		cell;
		int			place;

		keys[n].hash[0] = random_bits();
		keys[n].hash[1] = random_bits();
		cell = llmq_request_cell(keys[n].hash[0], ncells);
		place = place_of(&pages[cell], &keys[n], 1);
		CHECK(&promises[PLACE], place >= 0, "none of %d in cell %d of %d", llmq_request_in_force(&pages[cell], 1), cell,
			  ncells);
		pages[cell].entry[place] = entry_of(&keys[n], 1000);
		CHECK(&promises[PLACE], place_of(&pages[cell], &keys[n], 1) == place, "another than %d", place);
		if (llmq_request_in_force(&pages[cell], 1) >= LLMQ_REQUEST_CROWDED)
			grow(n + 1, ncells++);
	}
	check_found(n, ncells, &promises[FOUND]);
	CHECK(&promises[FOUND], ncells > 100, "%d cells only", ncells);
}

static void
test_places(void)
{
	LlmqRequestPage page = {.cell.id = 1,.bits = 1};
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

static void
test_bound(void)
{
	for (int32 most = 1; most < 20000000; most += 1 + most / 3)
	{
		int64		cells = llmq_request_cells(most);

		CHECK(&promises[BOUND], cells * LLMQ_REQUESTS_PER_CELL >= most, "%d cells for %d", (int) cells, most);
		CHECK(&promises[BOUND], cells == 1 || cells * LLMQ_REQUEST_ENTRIES < INT64CONST(4) * most, "%d cells for %d",
			  (int) cells, most);
		CHECK(&promises[BOUND], (cells & (cells - 1)) == 0 && cells <= 1 << LLMQ_REQUEST_MOST_BITS, "%d cells",
			  (int) cells);
	}
}

int
main(void)
{
	srandom(20261122);
	test_growth();
	test_places();
	test_time();
	test_bound();
	return promises_report(promises, PROMISES);
}
