/*
 * linear_cell.c
 *	  The cells of tables of hashed entries: where an entry is, and more room for more of them.
 *
 * There is one cell at first, and one more whenever a cell is crowded, up to the table's bound: see linear.c for which
 * cell an entry is in. A cell is made empty, and takes over its entries from its parent in one record of the two pages.
 * Before that, whoever looks for an entry there goes to the parent; so a crash or an error in between changes nothing
 * but that the next to make room begins with that cell. Only one backend makes room at a time, under the creation lock,
 * and so the ids of the cells that were born have no gaps: what ids stand for relies on that. Cells are never retired,
 * and there are no fewer of them when the bound is lowered.
 *
 * A look takes a share lock on one page at a time and holds nothing. What it finds is checked again under the locks of
 * the change.
 */
#include "postgres.h"

#include "utils/rel.h"

#include "inject.h"
#include "linear.h"
#include "siphash.h"

/* Each step of a look but the first is one bit more of the hash, or one less, or a cell that is new. */
#define MOST_STEPS (4 * LLMQ_LINEAR_MOST_BITS)

/* How many cells a table had when last looked, whether all of them had their entries, and its secret. */
typedef struct KnownCells
{
	Oid			of;
	int32		cells;
	bool		ready;
	Oid			secret_of;		/* that of this table is known */
	uint64		secret[2];
} KnownCells;

static KnownCells known[LLMQ_LIVE_COUNT];

/* A look at one cell. */
typedef struct Peek
{
	uint64		hash;
	int32		other;			/* where the entry is instead; itself: it is here */
	LlmqCellPeek peek;
	void	   *argument;
} Peek;

/* Under the page's lock. */
static void
peek_at_cell(const LlmqCellHeader *state, void *argument)
{
	Peek	   *peek = argument;

	peek->other = llmq_linear_other_cell((const LlmqLinearPage *) state, peek->hash);
	if (peek->other == state->id)
		peek->peek(state, peek->argument);
}

/* How many cells there are, as far as is known; made is the first one if there is none, and this may be written. */
static int32
count_cells(LlmqLive *live, const LlmqLinear *linear, bool again)
{
	KnownCells *cells = &known[linear->table];
	Oid			relation = RelationGetRelid(live->rel[linear->table]);

	if (cells->of != relation || cells->cells == 0 || again)
	{
		cells->cells = llmq_cell_last_born(live, linear->table);
		cells->ready = false;
	}
	cells->of = relation;
	if (cells->cells == 0 && live->lockmode == RowExclusiveLock)
	{
		(void) llmq_linear_grow(live, linear, 1, true);
		cells->cells = llmq_cell_last_born(live, linear->table);
	}
	return cells->cells;
}

static int32
first_guess(LlmqLive *live, const LlmqLinear *linear, uint64 hash, bool again)
{
	int32		ncells = count_cells(live, linear, again);

	return ncells == 0 ? 0 : llmq_linear_cell(hash, ncells);
}

/* The cell of a hash, if there are as many cells as this backend knows; 0: there is none. */
int32
llmq_linear_guess(LlmqLive *live, const LlmqLinear *linear, uint64 hash)
{
	return first_guess(live, linear, hash, false);
}

/*
 * The next cell to look at, from one that says where. Has the first cell begin, where a crash or an error has come
 * before that; 0: it cannot.
 */
static int32
next_cell(LlmqLive *live, const LlmqLinear *linear, int32 other)
{
	if (other != 0 || live->lockmode != RowExclusiveLock)
		return other;
	(void) llmq_linear_grow(live, linear, 1, true);
	return 1;
}

/* Calls `peek` with the cell of a hash, under its page's share lock. The cell; 0: none can be had. */
int32
llmq_linear_look(LlmqLive *live, const LlmqLinear *linear, uint64 hash, LlmqCellPeek peek, void *argument)
{
	Peek		look = {.hash = hash,.peek = peek,.argument = argument};
	int32		cell = first_guess(live, linear, hash, false);

	for (int step = 0; cell != 0 && step < MOST_STEPS; step++)
	{
		if (!llmq_cell_peek(live, linear->table, cell, peek_at_cell, &look))
			cell = first_guess(live, linear, hash, true);
		else if (look.other != cell)
			cell = next_cell(live, linear, look.other);
		else
		{
			known[linear->table].cells = Max(known[linear->table].cells, cell);
			return cell;
		}
	}
	return 0;
}

static void
peek_secret(const LlmqCellHeader *state, void *argument)
{
	memcpy(argument, ((const LlmqLinearPage *) state)->secret, sizeof(uint64) * 2);
}

/* Learns the secret, from whatever cell has the hash of 0. Makes the first cell if there is none. */
static void
learn_secret(LlmqLive *live, const LlmqLinear *linear)
{
	Relation	rel = live->rel[linear->table];

	if (llmq_linear_look(live, linear, 0, peek_secret, known[linear->table].secret) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("table \"%s\" has no first cell", RelationGetRelationName(rel)),
				 errhint("Call llmquota_verify().")));
	known[linear->table].secret_of = RelationGetRelid(rel);
}

/*
 * The hash of something, by the secret that the table was born with: nobody can choose what shares a cell with what is
 * others'. It counts where llmq_linear_holds() says so.
 */
void
llmq_linear_hash(LlmqLive *live, const LlmqLinear *linear, const uint8 *bytes, Size length, uint64 *hash)
{
	if (known[linear->table].secret_of != RelationGetRelid(live->rel[linear->table]))
		learn_secret(live, linear);
	llmq_siphash(known[linear->table].secret, bytes, length, hash);
}

/* Is a cell that of a hash, which was made with its secret? If the secret is another one it will be learnt anew. */
bool
llmq_linear_holds(const LlmqLinear *linear, const LlmqLinearPage *page, uint64 hash)
{
	KnownCells *cells = &known[linear->table];

	if (memcmp(page->secret, cells->secret, sizeof(cells->secret)) != 0)
	{
		cells->secret_of = InvalidOid;
		return false;
	}
	return llmq_linear_other_cell(page, hash) == page->cell.id;
}

/* Makes one more cell, empty: its id, or 0. */
static int32
add_cell(LlmqLive *live, const LlmqLinear *linear, int32 max_cells)
{
	LlmqCellKey key = {.table = linear->table};
	LlmqCellHeader *cell = palloc0(linear->length);
	int32		id;

	cell->length = linear->length;
	id = llmq_cell_create(live, &key, cell, max_cells);
	pfree(cell);
	return id;
}

void
llmq_linear_draw(uint64 *secret)
{
	if (!pg_strong_random(secret, sizeof(uint64) * 2))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random bits for a hash")));
}

/* The first cell of all has every entry, as soon as it knows that. The secret is made for it. */
static void
begin(LlmqLive *live, const LlmqLinear *linear)
{
	uint64		secret[2];
	LlmqCellSet set;
	LlmqLinearPage *page;
	int			cell;

	llmq_linear_draw(secret);
	llmq_set_init(&set, live);
	cell = llmq_set_add(&set, linear->table, 1);
	if (llmq_set_lock(&set) != LLMQ_LOCKED)
		return;
	page = llmq_set_change(&set, cell);
	if (page->bits == 0)
	{
		page->bits = 1;
		memcpy(page->secret, secret, sizeof(secret));
		llmq_set_log(&set, 0);
	}
	llmq_set_unlock(&set);
}

/* Has the last of the cells get its entries from its parent, if it has not. */
static void
take_over(LlmqLive *live, const LlmqLinear *linear, int32 last)
{
	int32		parent_id = llmq_linear_parent(last);
	const LlmqLinearPage *page;
	LlmqCellSet set;
	int			parent;
	int			child;

	llmq_set_init(&set, live);
	parent = llmq_set_add(&set, linear->table, parent_id);
	child = llmq_set_add(&set, linear->table, last);
	if (llmq_set_lock(&set) != LLMQ_LOCKED)
		return;
	page = llmq_set_state(&set, child);
	if (page->bits == 0 && llmq_linear_may_split(llmq_set_state(&set, parent), last))
	{
		llmq_linear_split(linear, llmq_set_change(&set, parent), llmq_set_change(&set, child));
		llmq_set_log(&set, 0);
	}
	llmq_set_unlock(&set);
}

/* Has the last of the cells its entries? */
static bool
is_ready(LlmqLive *live, LlmqLiveTable table, int32 last)
{
	LlmqLinearPage page;

	return llmq_cell_copy(live, table, last, &page, sizeof(page)) && page.bits > 0;
}

static void
make_ready(LlmqLive *live, const LlmqLinear *linear, int32 last)
{
	if (last == 1)
		begin(live, linear);
	else
		take_over(live, linear, last);
}

/*
 * Makes room: one more cell, if there may be so many and nobody else has made one since this backend last counted. Is
 * there more room than there was? Without `wait` not if somebody else is at it. Nothing may be held.
 */
bool
llmq_linear_grow(LlmqLive *live, const LlmqLinear *linear, int32 max_cells, bool wait)
{
	KnownCells *cells = &known[linear->table];
	int32		had = cells->cells;
	int32		last;

	if (cells->ready && had >= max_cells)
		return false;
	if (!llmq_cell_try_lock_creation(live, linear->table, wait))
		return false;
	last = llmq_cell_last_born(live, linear->table);
	if (last > 0 && !is_ready(live, linear->table, last))
		make_ready(live, linear, last);
	else if (last <= had && last < max_cells)
	{
		int32		made = add_cell(live, linear, max_cells);

		LLMQ_INJECT_ERROR("linear-cell");
		if (made > 0)
			make_ready(live, linear, made);
		last = Max(last, made);
	}
	cells->ready = last > 0 && is_ready(live, linear->table, last);
	llmq_cell_unlock_creation(live, linear->table);
	cells->cells = last;
	return last > had;
}

/*
 * Makes a cell if there are fewer than so many, as far as is known, and nobody else is at it: for entries that are
 * asked for all the time to be on several pages, however few they are. Nothing may be held.
 */
void
llmq_linear_spread(LlmqLive *live, const LlmqLinear *linear, int32 least)
{
	if (known[linear->table].of != RelationGetRelid(live->rel[linear->table]) || known[linear->table].cells < least)
		(void) llmq_linear_grow(live, linear, least, false);
}
