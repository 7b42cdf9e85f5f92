/*
 * linear_test.c
 *	  An entry is found in its cell, however many cells there are by now and whatever the searcher knows of that.
 *
 * links: src/linear.c
 */
#include "postgres.h"

#include <stdlib.h>

#include "linear.h"
#include "tap.h"

#define CELLS 300
#define ENTRIES 9000
#define PLACES 100
#define CROWDED 60

enum
{
	NUMBER, FOUND, STEPS, NEW, BITS, KEPT, TURN, ROOM, BOUND, PROMISES
};

static Promise promises[PROMISES] = {
	[NUMBER] = {.name = "a hash has a cell among those that there are"},
	[FOUND] = {.name = "an entry is found in its cell, by any number of cells that was true once"},
	[STEPS] = {.name = "... and soon"},
	[NEW] = {.name = "... also while a new cell has not got its entries"},
	[BITS] = {.name = "of how many bits a cell is follows from how many there are"},
	[KEPT] = {.name = "no entry is lost when there are more cells, and none is twice"},
	[TURN] = {.name = "a cell gives entries to a new cell when it is its turn, and once"},
	[ROOM] = {.name = "there is room when there is another cell whenever one is crowded"},
	[BOUND] = {.name = "there are cells enough for as many entries as there may be, and not four times as many"},
};

/* More than its hash is carried with an entry. */
typedef struct Entry
{
	uint64		hash[2];
	uint64		told;
} Entry;

typedef struct TestPage
{
	LlmqLinearPage linear;
	Entry		entry[PLACES];
} TestPage;

static const LlmqLinear linear = {
	.length = sizeof(TestPage),.size = sizeof(Entry),.entries = PLACES,.share = 56
};

static const uint64 secret[2] = {UINT64CONST(0x0123456789abcdef), UINT64CONST(0xfedcba9876543210)};
static TestPage pages[CELLS + 1];
static Entry entries[ENTRIES];

static uint64
random_bits(void)
{
	uint64		bits = 0;

	for (int i = 0; i < 5; i++)
		bits = bits << 15 ^ (uint64) random();
	return bits;
}

/* The place of an entry, or of none; -1. */
static int
place_of(const TestPage *page, const Entry *entry)
{
	for (int i = 0; i < PLACES; i++)
		if (memcmp(&page->entry[i], entry, sizeof(Entry)) == 0)
			return i;
	return -1;
}

/* The cell in which an entry is found from one on; 0 when it is not. Counts the steps. */
static int32
search(int32 cell, const Entry *entry, int *steps)
{
	for (*steps = 1; *steps < 100 && cell > 0 && cell <= CELLS; (*steps)++)
	{
		int32		other = llmq_linear_other_cell(&pages[cell].linear, entry->hash[0]);

		if (other == cell)
			return place_of(&pages[cell], entry) >= 0 ? cell : 0;
		cell = other;
	}
	return 0;
}

static int
count(const TestPage *page)
{
	int			n = 0;

	for (int i = 0; i < PLACES; i++)
		n += page->entry[i].told != 0;
	return n;
}

static int
count_all(int32 ncells)
{
	int			n = 0;

	for (int32 cell = 1; cell <= ncells; cell++)
		n += count(&pages[cell]);
	return n;
}

/* All entries that were put in are found, from wherever the search begins. */
static void
check_found(int n, int32 ncells, Promise *promise)
{
	for (int i = 0; i < n; i += 7)
	{
		int32		guess = 1 + random() % ncells;
		int32		from = llmq_linear_cell(entries[i].hash[0], guess);
		int			steps;

		CHECK(&promises[NUMBER], from >= 1 && from <= guess, "cell %d of %d", from, guess);
		CHECK(promise, search(from, &entries[i], &steps) > 0, "not from cell %d, of %d", from, ncells);
		CHECK(&promises[STEPS], steps <= 12, "%d steps from cell %d, of %d", steps, from, ncells);
	}
}

/* One more cell. */
static void
grow(int n, int32 ncells)
{
	int32		made = ncells + 1;
	int32		parent_id = llmq_linear_parent(made);
	LlmqLinearPage *parent = &pages[parent_id].linear;

	pages[made].linear.cell.id = made;
	check_found(n, made, &promises[NEW]);
	CHECK(&promises[TURN], llmq_linear_may_split(parent, made), "cell %d to %d", parent_id, made);
	llmq_linear_split(&linear, parent, &pages[made].linear);
	CHECK(&promises[TURN], !llmq_linear_may_split(parent, made), "cell %d to %d again", parent_id, made);
	CHECK(&promises[KEPT], count_all(made) == n, "%d of %d with %d cells", count_all(made), n, made);
	CHECK(&promises[KEPT], memcmp(pages[made].linear.secret, secret, sizeof(secret)) == 0, "the secret, by cell %d", made);
	for (int32 cell = 1; cell <= made; cell++)
		CHECK(&promises[BITS], pages[cell].linear.bits == llmq_linear_bits(cell, made), "cell %d of %d: %u, not %u",
			  cell, made, pages[cell].linear.bits, llmq_linear_bits(cell, made));
}

/* Entries come, and there is another cell whenever one is crowded. */
static void
test_growth(void)
{
	const Entry none = {0};
	int32		ncells = 1;
	int			n;

	pages[1].linear.cell.id = 1;
	pages[1].linear.bits = llmq_linear_bits(1, 1);
	memcpy(pages[1].linear.secret, secret, sizeof(secret));
	for (n = 0; n < ENTRIES && ncells < CELLS; n++)
	{
		int32		cell;
		int			place;

		entries[n] = (Entry) {.hash = {random_bits(), random_bits()},.told = n + 1};
		cell = llmq_linear_cell(entries[n].hash[0], ncells);
		place = place_of(&pages[cell], &none);
		CHECK(&promises[ROOM], place >= 0, "none of %d in cell %d of %d", count(&pages[cell]), cell, ncells);
		pages[cell].entry[place] = entries[n];
		if (count(&pages[cell]) >= CROWDED)
			grow(n + 1, ncells++);
	}
	check_found(n, ncells, &promises[FOUND]);
	CHECK(&promises[FOUND], ncells > 100, "%d cells only", ncells);
}

static void
test_bound(void)
{
	for (int32 most = 1; most < 20000000; most += 1 + most / 3)
	{
		int64		cells = llmq_linear_cells(&linear, most);

		CHECK(&promises[BOUND], cells * linear.share >= most, "%d cells for %d", (int) cells, most);
		CHECK(&promises[BOUND], cells == 1 || cells * PLACES < INT64CONST(4) * most, "%d cells for %d", (int) cells,
			  most);
		CHECK(&promises[BOUND], (cells & (cells - 1)) == 0 && cells <= 1 << LLMQ_LINEAR_MOST_BITS, "%d cells",
			  (int) cells);
	}
}

int
main(void)
{
	srandom(20261122);
	test_growth();
	test_bound();
	return promises_report(promises, PROMISES);
}
