/*
 * request_page.c
 *	  The cells of llmquota.request_page: where a request is, and more room for more of them.
 *
 * There is one cell at first, and one more whenever a cell is crowded, up to what max_requests allows: see
 * request_entry.c for which cell a request is in. A cell is made empty, and takes over its requests from its parent in
 * one record of the two pages. Before that, whoever looks for a request there goes to the parent; so a crash or an
 * error in between changes nothing but that the next to make room begins with that cell. Only one backend makes room at
 * a time, under the creation lock, and so the ids of the cells that were born have no gaps: what ids stand for relies
 * on that. Cells are never retired, and there are no fewer of them when max_requests is lowered.
 *
 * A look takes a share lock on one page at a time and holds nothing. What it finds is checked again under the locks of
 * the grant (once.c).
 */
#include "postgres.h"

#include "utils/rel.h"

#include "inject.h"
#include "request.h"

/* Each step of a look but the first is one bit more of the hash, or one less, or a cell that is new. */
#define MOST_STEPS (4 * LLMQ_REQUEST_MOST_BITS)

/* How many cells there were when last looked, of which table; and whether all of them have their requests. */
static int32 known_cells = 0;
static bool known_ready = false;
static Oid	known_of = InvalidOid;

/* A look at one cell. */
typedef struct Peek
{
	const LlmqRequestKey *key;
	uint32		now;
	int32		other;			/* where the request is instead; itself: it is here */
	LlmqRequestLook *look;
} Peek;

/* Under the page's lock. What a damaged cell says is not believed: the pick goes on, and the grant will raise. */
static void
peek_at_cell(const LlmqCellHeader *state, void *argument)
{
	const LlmqRequestPage *page = (const LlmqRequestPage *) state;
	Peek	   *peek = argument;
	int			place;

	peek->other = llmq_request_other_cell(page, peek->key->hash[0]);
	if (peek->other != state->id)
		return;
	place = llmq_request_place(page, peek->key, peek->now, &peek->look->in_force);
	peek->look->entry = llmq_request_at(page, place, peek->key, peek->now);
	if (peek->look->entry.page != 0 && !llmq_cell_crc_holds(state))
		memset(&peek->look->entry, 0, sizeof(LlmqRequestEntry));
}

/* How many cells there are, as far as is known; made is the first one if there is none, and this may be written. */
static int32
count_cells(LlmqLive *live, bool again)
{
	Oid			relation = RelationGetRelid(live->rel[LLMQ_LIVE_REQUEST]);

	if (known_of != relation || known_cells == 0 || again)
	{
		known_cells = llmq_cell_last_born(live, LLMQ_LIVE_REQUEST);
		known_ready = false;
	}
	known_of = relation;
	if (known_cells == 0 && live->lockmode == RowExclusiveLock)
	{
		(void) llmq_request_grow(live, 1, true);
		known_cells = llmq_cell_last_born(live, LLMQ_LIVE_REQUEST);
	}
	return known_cells;
}

/* Looks for a request. */
void
llmq_request_look(LlmqLive *live, const LlmqRequestKey *key, uint32 now, LlmqRequestLook *look)
{
	Peek		peek = {.key = key,.now = now,.look = look};
	int32		ncells = count_cells(live, false);
	int32		cell = ncells == 0 ? 0 : llmq_request_cell(key->hash[0], ncells);

	memset(look, 0, sizeof(LlmqRequestLook));
	for (int step = 0; cell != 0 && step < MOST_STEPS; step++)
	{
		if (!llmq_cell_peek(live, LLMQ_LIVE_REQUEST, cell, peek_at_cell, &peek))
		{
			ncells = count_cells(live, true);
			cell = ncells == 0 ? 0 : llmq_request_cell(key->hash[0], ncells);
			continue;
		}
		if (peek.other == cell)
		{
			look->cell = cell;
			known_cells = Max(known_cells, cell);
			return;
		}
		cell = peek.other;
	}
}

/* Makes one more cell, empty: its id, or 0. */
static int32
add_cell(LlmqLive *live, int32 max_cells)
{
	LlmqCellKey key = {.table = LLMQ_LIVE_REQUEST};
	LlmqRequestPage *page = palloc0(sizeof(LlmqRequestPage));
	int32		id;

	page->cell.length = sizeof(LlmqRequestPage);
	id = llmq_cell_create(live, &key, &page->cell, max_cells);
	pfree(page);
	return id;
}

/* The first cell of all has every request, as soon as it knows that. */
static void
begin(LlmqLive *live)
{
	LlmqCellSet set;
	LlmqRequestPage *page;
	int			cell;

	llmq_set_init(&set, live);
	cell = llmq_set_add(&set, LLMQ_LIVE_REQUEST, 1);
	if (llmq_set_lock(&set) != LLMQ_LOCKED)
		return;
	page = llmq_set_change(&set, cell);
	if (page->bits == 0)
	{
		page->bits = 1;
		llmq_set_log(&set, 0);
	}
	llmq_set_unlock(&set);
}

/* Has the last of the cells get its requests from its parent, if it has not. */
static void
take_over(LlmqLive *live, int32 last)
{
	int32		parent_id = llmq_request_parent(last);
	const LlmqRequestPage *page;
	LlmqCellSet set;
	int			parent;
	int			child;

	llmq_set_init(&set, live);
	parent = llmq_set_add(&set, LLMQ_LIVE_REQUEST, parent_id);
	child = llmq_set_add(&set, LLMQ_LIVE_REQUEST, last);
	if (llmq_set_lock(&set) != LLMQ_LOCKED)
		return;
	page = llmq_set_state(&set, child);
	if (page->bits == 0 && llmq_request_may_split(llmq_set_state(&set, parent), last))
	{
		llmq_request_split(llmq_set_change(&set, parent), llmq_set_change(&set, child));
		llmq_set_log(&set, 0);
	}
	llmq_set_unlock(&set);
}

/* Has the last of the cells its requests? */
static bool
is_ready(LlmqLive *live, int32 last)
{
	LlmqRequestPage page;

	return llmq_cell_copy(live, LLMQ_LIVE_REQUEST, last, &page, offsetof(LlmqRequestPage, entry)) && page.bits > 0;
}

static void
make_ready(LlmqLive *live, int32 last)
{
	if (last == 1)
		begin(live);
	else
		take_over(live, last);
}

/*
 * Makes room: one more cell, if there may be so many and nobody else has made one since this backend last counted. Is
 * there more room than there was? Without `wait` not if somebody else is at it. Nothing may be held.
 */
bool
llmq_request_grow(LlmqLive *live, int32 max_cells, bool wait)
{
	int32		known = known_cells;
	int32		last;

	if (known_ready && known >= max_cells)
		return false;
	if (!llmq_cell_try_lock_creation(live, LLMQ_LIVE_REQUEST, wait))
		return false;
	last = llmq_cell_last_born(live, LLMQ_LIVE_REQUEST);
	if (last > 0 && !is_ready(live, last))
		make_ready(live, last);
	else if (last <= known && last < max_cells)
	{
		int32		made = add_cell(live, max_cells);

		LLMQ_INJECT_ERROR("request-cell");
		if (made > 0)
			make_ready(live, made);
		last = Max(last, made);
	}
	known_ready = last > 0 && is_ready(live, last);
	llmq_cell_unlock_creation(live, LLMQ_LIVE_REQUEST);
	known_cells = last;
	return last > known;
}
