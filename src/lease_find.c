/*
 * lease_find.c
 *	  Finds a free slot for a new lease.
 *
 * Looks at one page after the other, under a share lock, and takes nothing: the caller locks the page and checks again.
 * First the page where this backend last found one, if there was another; then those where it ended leases lately;
 * then the next pages, and others at random: when leases take 95 of 100 slots at least one page in twenty has a free
 * one, wherever the free ones are, so a few looks do. When they do not, the pool grows by a page. Of a page little more
 * is read than the states of its slots: only those that may be free are copied out.
 *
 * At the bound of max_leases more pages are looked at, in the end all of them, and a few leases past their time are
 * noted. When the pick has its answer and holds nothing any more, it ends those as maintenance would: their ledger
 * rows are written in the caller's transaction, and their slots are free when it has committed (if it rolls back, the
 * slots name a failed transaction, and maintenance recovers them). A slot whose lease is past its time, or has ended in
 * a transaction that goes on, holds no lease in flight: in place of such slots there may be spare pages, behind those
 * of the bound, which are looked at only when all others are taken. (A lease there does not keep others from the slots
 * of the bound, so that for a while more may be in flight than the setting says, at most twice as many.)
 *
 * A batch takes all that is free in the page it finds, and, when that is too little, in one more. Of pages with one
 * free slot each it would have as many records as picks by themselves: so it wants half of a page, and has the pool
 * grow when the few looks find no such page, as far as that may; then it takes what there is.
 *
 * When nothing was found at all, the backend remembers for a tenth of a second that the pool is full, and then takes no
 * more than the few looks of any pick. It forgets that at once when it ends a lease itself.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "expire.h"
#include "inject.h"
#include "lease.h"

/*
 * Pages that are looked at before the pool grows, so many neighbours before another place is chosen at random: what is
 * near is cheaper to read, most of all for a session that has not touched that part of shared buffers yet.
 */
#define PAGES_TO_TRY 32
#define PAGES_IN_A_ROW 8

/* Pages, all at random, that are looked at once the pool cannot grow, before all of them are. */
#define PAGES_AT_BOUND 256

/* How many pages where it ended leases a backend remembers. */
#define ENDED_PAGES 16

/* How long a backend remembers that the pool was full: microseconds. */
#define FULL_FOR INT64CONST(100000)

/* Leases that one pick ends. More than one, so that ended ones become fewer. */
#define MAX_ENDED 8

/* This backend's place in the pages, whether a free slot is left there, and the number of pages when last counted. */
static int32 current_page = 0;
static bool current_has_room = false;
static int32 known_pages = 0;

/* Pages where this backend has ended leases, the last one first; 0: no more of them. */
static int32 ended_page[ENDED_PAGES];

/* When the pool of so many pages was full; 0: it is not known to be. */
static TimestampTz full_since = 0;
static int32 full_bound = 0;

/* Leases that this pick is to end when it has its answer. */
static int	nnoted = 0;
static LlmqLeaseId noted[MAX_ENDED];

/* One search. */
typedef struct Search
{
	LlmqLive   *live;
	int32		bound;			/* pages that max_leases allows */
	bool		at_bound;
	bool		take_waiting;	/* slots that stay for the next attempt, too */
	TimestampTz now;
	int			wanted;
	int			least;			/* so many that a page is to have */
	int			nfound;
	LlmqFreeSlot *found;
	int64		in_flight;		/* leases seen, once all pages are looked at */
} Search;

/* What one look at a page finds: leases in flight, and copies of the other slots. */
typedef struct Look
{
	bool		for_overdue;	/* such leases are not in flight */
	TimestampTz now;
	int			in_flight;
	int			n;
	int			number[LLMQ_SLOTS];
	LlmqSlot	slot[LLMQ_SLOTS];
} Look;

/* Under the page's lock. */
static void
look_at_slots(const LlmqCellHeader *state, void *argument)
{
	const LlmqLeasePage *page = (const LlmqLeasePage *) state;
	Look	   *look = argument;

	for (int i = 0; i < LLMQ_SLOTS; i++)
	{
		const LlmqSlot *slot = &page->slot[i];

		if (slot->state == LLMQ_SLOT_GRANTED && !(look->for_overdue && llmq_slot_overdue(slot, look->now)))
		{
			look->in_flight++;
			continue;
		}
		look->number[look->n] = i;
		look->slot[look->n++] = *slot;
	}
}

static bool
look_at_page(Search *search, int32 page, Look *look)
{
	look->for_overdue = search->at_bound;
	look->now = search->now;
	look->in_flight = 0;
	look->n = 0;
	if (!llmq_cell_peek(search->live, LLMQ_LIVE_LEASE, page, look_at_slots, look))
		return false;
	search->in_flight += look->in_flight;
	return true;
}

/* At the bound: notes a lease that can be ended. */
static void
note_overdue(Search *search, const LlmqLeaseId *id, const LlmqSlot *slot)
{
	if (!search->at_bound || !llmq_slot_overdue(slot, search->now))
		return;
	for (int i = 0; i < nnoted; i++)
		if (noted[i].secret == id->secret)
			return;
	if (nnoted < MAX_ENDED)
		noted[nnoted++] = *id;
}

/* Can a slot take a new lease? What failed attempts leave to the next ones gives way last. */
static bool
is_free(const Search *search, const LlmqSlot *slot)
{
	return llmq_slot_reusable(slot) && (search->take_waiting || !llmq_slot_awaits_retry(slot));
}

/* Looks for free slots in one page; false when it has too few, or they have been found. */
static bool
find_in_page(Search *search, int32 page)
{
	int			before = search->nfound;
	Look		look;

	if ((before > 0 && search->found[0].place.page == page) || !look_at_page(search, page, &look))
		return false;
	for (int i = 0; i < look.n; i++)
	{
		const LlmqSlot *slot = &look.slot[i];
		LlmqLeaseId id = {
			.page = page,.slot = look.number[i],.day = llmq_lease_day(slot->granted_at),.secret = slot->secret
		};

		if (!is_free(search, slot))
		{
			note_overdue(search, &id, slot);
			continue;
		}
		search->found[search->nfound].place = id;
		search->found[search->nfound++].seen = *slot;
		current_page = page;
		current_has_room = i + 1 < look.n;
		if (search->nfound == search->wanted)
			return true;
	}
	if (search->nfound >= before + search->least)
		return true;
	search->nfound = before;
	return false;
}

/* Looks where this backend has ended leases; each such page once. */
static bool
find_where_ended(Search *search, int32 pages)
{
	while (ended_page[0] != 0)
	{
		int32		page = ended_page[0];

		memmove(&ended_page[0], &ended_page[1], sizeof(ended_page) - sizeof(ended_page[0]));
		ended_page[ENDED_PAGES - 1] = 0;
		if (page <= pages && find_in_page(search, page))
			return true;
	}
	return false;
}

/* Looks at pages one after the other, from one of them on. */
static bool
find_in_turn(Search *search, int32 from, int32 pages)
{
	for (int32 i = 0; i < pages; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (find_in_page(search, 1 + (from - 1 + i) % pages))
			return true;
	}
	return false;
}

static int32
random_page(int32 pages)
{
	return (int32) pg_prng_uint64_range(&pg_global_prng_state, 1, pages);
}

/* Looks at some pages here and there. The next search begins where this one has come to. */
static bool
find_here_and_there(Search *search, int32 pages)
{
	int			tries = search->at_bound ? PAGES_AT_BOUND : PAGES_TO_TRY;
	int			in_a_row = search->at_bound ? 1 : PAGES_IN_A_ROW;

	for (int i = 1; i <= tries; i++)
	{
		int32		page = i % in_a_row == 0 ? random_page(pages) : current_page % pages + 1;

		CHECK_FOR_INTERRUPTS();
		current_page = page;
		current_has_room = false;
		if (find_in_page(search, page))
			return true;
	}
	return false;
}

/* Looks at a few pages, or all when there are few: first at those that are most likely to have a free slot. */
static bool
find_in_some(Search *search, int32 pages)
{
	if (pages <= 0)
		return false;
	if (current_page < 1 || current_page > pages)
	{
		current_page = random_page(pages);
		current_has_room = true;
	}
	if (pages <= PAGES_TO_TRY)
		return find_in_turn(search, current_page, pages);
	return (current_has_room && find_in_page(search, current_page)) || find_where_ended(search, pages) ||
		find_here_and_there(search, pages);
}

/* Makes one more lease page, if there may be so many. */
static bool
add_page(Search *search, int32 max_pages)
{
	LlmqCellKey key = {.table = LLMQ_LIVE_LEASE};
	LlmqLeasePage *page = palloc0(sizeof(LlmqLeasePage));
	int32		id;

	page->cell.length = LLMQ_INJECTED("narrow-page") ? LLMQ_LEASE_PAGE_OLD_SIZE : sizeof(LlmqLeasePage);
	id = llmq_cell_create(search->live, &key, &page->cell, max_pages);
	pfree(page);
	if (id == 0)
		return false;
	known_pages = id;
	return true;
}

static void
fill_wider(LlmqCellHeader *wider, const LlmqCellHeader *old)
{
	LlmqLeasePage *to = (LlmqLeasePage *) wider;
	const LlmqLeasePage *from = (const LlmqLeasePage *) old;

	to->granted = from->granted;
	memcpy(to->slot, from->slot, sizeof(to->slot));
}

/* Gives a page of 0.1.0 room for what its leases are charged in money. */
void
llmq_lease_page_widen(LlmqLive *live, int32 id)
{
	LlmqCellKey key = {.table = LLMQ_LIVE_LEASE};
	LlmqLeasePage *page = palloc0(sizeof(LlmqLeasePage));

	page->cell.length = sizeof(LlmqLeasePage);
	page->cell.id = id;
	(void) llmq_cell_grow(live, &key, &page->cell, fill_wider);
	pfree(page);
}

/* Counts the leases in flight in a spare page. Has it a free slot? */
static bool
count_in_page(Search *search, int32 page)
{
	Look		look;

	if (!look_at_page(search, page, &look))
		return false;
	for (int i = 0; i < look.n; i++)
		if (is_free(search, &look.slot[i]))
			return true;
	return false;
}

/*
 * Looks for a free slot behind the pages of the bound, when all of those are taken, but not all by leases in flight.
 * There are at most as many such pages again: one transaction cannot fill the disk with slots that wait for its end.
 */
static bool
find_spare(Search *search)
{
	int64		most = (int64) search->bound * LLMQ_SLOTS;
	int32		with_room = 0;

	for (int32 page = search->bound + 1; page <= known_pages && search->in_flight < most; page++)
		if (count_in_page(search, page))
			with_room = page;
	if (search->in_flight >= most)
		return false;
	if (with_room != 0 && find_in_page(search, with_room))
		return true;
	while (add_page(search, 2 * search->bound))
		if (find_in_page(search, known_pages))
			return true;
	return false;
}

/* Takes what a failed attempt left, when there is nothing else: a call that can be made is worth more. */
static bool
find_waiting(Search *search)
{
	search->take_waiting = true;
	return find_in_turn(search, Max(current_page, 1), search->bound);
}

/* The pool is as large as it may be. */
static bool
find_at_bound(Search *search)
{
	bool		found;

	search->at_bound = true;
	nnoted = 0;
	found = search->bound > PAGES_AT_BOUND && find_in_some(search, search->bound);
	if (!found)
	{
		search->in_flight = 0;
		found = find_in_turn(search, Max(current_page, 1), search->bound);
	}
	/* while a transaction goes on, late records of what it has ended wait for it: better leave that to others */
	if (found && IsTransactionBlock())
		nnoted = 0;
	return found || find_spare(search) || find_waiting(search);
}

/* The pool has as many pages as it may have, as far as known: was it full a moment ago? */
static bool
was_full(const Search *search)
{
	return full_since != 0 && full_bound == search->bound && search->now >= full_since &&
		search->now < full_since + FULL_FOR;
}

/* This backend has ended a lease: when its transaction has committed, a slot is free there. */
void
llmq_lease_ended(int32 page)
{
	full_since = 0;
	if (ended_page[0] == page)
		return;
	memmove(&ended_page[1], &ended_page[0], sizeof(ended_page) - sizeof(ended_page[0]));
	ended_page[0] = page;
}

/* Go on elsewhere: somebody else is busy in this page. */
void
llmq_lease_avoid(int32 page)
{
	if (current_page == page)
		current_page = 0;
}

/* Takes any page with a free slot from now on. False: it did already. */
static bool
take_any(Search *search)
{
	bool		wanted_more = search->least > 1;

	search->least = 1;
	return wanted_more;
}

/* Looks for a page with a free slot, wherever there may be one. */
static bool
find(Search *search)
{
	int32		pages;

	if (find_in_some(search, Min(known_pages, search->bound)))
		return true;
	search->now = GetCurrentTimestamp();
	if (was_full(search))
		return take_any(search) && find_in_some(search, Min(known_pages, search->bound));
	pages = known_pages;
	known_pages = llmq_cell_last_id(search->live, LLMQ_LIVE_LEASE);
	if (known_pages != pages && find_in_some(search, Min(known_pages, search->bound)))
		return true;
	/* others may have filled the new page before we look */
	while (known_pages < search->bound && add_page(search, search->bound))
		if (find_in_page(search, known_pages))
			return true;
	known_pages = llmq_cell_last_id(search->live, LLMQ_LIVE_LEASE);
	(void) take_any(search);
	if (find_at_bound(search))
		return true;
	full_since = search->now;
	full_bound = search->bound;
	return false;
}

/*
 * Finds slots for so many new leases, at most those of LLMQ_BATCH_PAGES pages, and says how they looked; how many, 0
 * when `max_leases` are in use. They are not taken yet, and those of a page stand together. The pick ends with
 * llmq_lease_end_noted().
 */
int
llmq_lease_find_free(LlmqLive *live, int32 max_leases, int wanted, LlmqFreeSlot *found)
{
	Search		search = {.live = live,.wanted = wanted,.least = Min(wanted, LLMQ_SLOTS / 2),.found = found};

	search.bound = (max_leases + LLMQ_SLOTS - 1) / LLMQ_SLOTS;
	if (find(&search) && search.nfound < wanted && !search.at_bound)
		(void) find_in_some(&search, Min(known_pages, search.bound));
	return search.nfound;
}

/*
 * Ends leases that are past their time, and others that maintenance would see to, in the current transaction: those
 * that were met when slots ran short. Nothing may be held, and nothing of the configuration in use: this writes to the
 * ledger.
 */
void
llmq_lease_end_noted(void)
{
	int			n = nnoted;
	LlmqLeaseId lease[MAX_ENDED];
	TimestampTz now;
	LlmqLive	live;

	if (n == 0)
		return;
	now = GetCurrentTimestamp();
	memcpy(lease, noted, sizeof(LlmqLeaseId) * n);
	nnoted = 0;
	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, RowExclusiveLock);
	for (int i = 0; i < n; i++)
		(void) llmq_overdue_settle(&live, &lease[i], now);
	llmq_live_close(&live);
}
