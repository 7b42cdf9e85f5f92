/*
 * lease_find.c
 *	  Finds a free slot for a new lease.
 *
 * Looks at copies of pages and locks nothing: the caller checks again under the page's lock. First the page where
 * this backend last found one and the next, then others at random: when leases take 95 of 100 slots at least one page
 * in twenty has a free one, wherever the free ones are, so a few looks do. When they do not, the pool grows by a
 * page.
 *
 * At the bound of max_leases more pages are looked at, in the end all of them, and a few leases past their time are
 * noted. When the pick has its answer and holds nothing any more, it ends those as maintenance would: their ledger
 * rows are written in the caller's transaction, and their slots are free when it has committed (if it rolls back, the
 * slots name a failed transaction, and maintenance recovers them). A slot whose lease is past its time, or has ended in
 * a transaction that goes on, holds no lease in flight: in place of such slots there may be spare pages, behind those
 * of the bound, which are looked at only when all others are taken. (A lease there does not keep others from the slots
 * of the bound, so that for a while more may be in flight than the setting says, at most twice as many.)
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "expire.h"
#include "lease.h"

/* Pages that are looked at before the pool grows; and, once it cannot, before all of them are. */
#define PAGES_TO_TRY 16
#define PAGES_AT_BOUND 256

/* Leases that one pick ends. More than one, so that ended ones become fewer. */
#define MAX_ENDED 8

/* This backend's place in the pages, and their number when last counted. */
static int32 current_page = 0;
static int32 known_pages = 0;

/* Leases that this pick is to end when it has its answer. */
static int	nnoted = 0;
static LlmqLeaseId noted[MAX_ENDED];

/* One search. */
typedef struct Search
{
	LlmqLive   *live;
	int32		bound;			/* pages that max_leases allows */
	bool		at_bound;
	TimestampTz now;
	LlmqLeaseId *place;			/* what was found */
	LlmqSlot   *seen;
	int64		in_flight;		/* leases seen, once all pages are looked at */
} Search;

/* At the bound: counts a slot that has no room for a new lease, or notes that its lease can be ended. */
static void
note_taken(Search *search, const LlmqLeaseId *id, const LlmqSlot *slot)
{
	if (!llmq_slot_overdue(slot, search->now))
	{
		search->in_flight += slot->state == LLMQ_SLOT_GRANTED;
		return;
	}
	for (int i = 0; i < nnoted; i++)
		if (noted[i].secret == id->secret)
			return;
	if (nnoted < MAX_ENDED)
		noted[nnoted++] = *id;
}

/* Looks for a free slot in one page; false when it has none. */
static bool
find_in_page(Search *search, int32 page)
{
	LlmqLeasePage copy;

	if (!llmq_cell_copy(search->live, LLMQ_LIVE_LEASE, page, &copy, sizeof(copy)))
		return false;
	for (int i = 0; i < LLMQ_SLOTS; i++)
	{
		const LlmqSlot *slot = &copy.slot[i];
		LlmqLeaseId id = {
			.page = page,.slot = i,.day = llmq_lease_day(slot->granted_at),.secret = slot->secret
		};

		if (llmq_slot_reusable(slot))
		{
			*search->place = id;
			*search->seen = *slot;
			current_page = page;
			return true;
		}
		if (search->at_bound)
			note_taken(search, &id, slot);
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

/*
 * Looks at up to `tries` of the pages: at all, or at that where the last one was found, the one after it, whose address
 * is known most of the time, and random ones.
 */
static bool
find_in_some(Search *search, int32 pages, int tries)
{
	if (pages <= 0)
		return false;
	if (current_page < 1 || current_page > pages)
		current_page = (int32) pg_prng_uint64_range(&pg_global_prng_state, 1, pages);
	if (pages <= tries)
		return find_in_turn(search, current_page, pages);
	for (int i = 0; i < tries; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (find_in_page(search, current_page))
			return true;
		if (i == 0)
			current_page = current_page % pages + 1;
		else
			current_page = (int32) pg_prng_uint64_range(&pg_global_prng_state, 1, pages);
	}
	return false;
}

/* Makes one more lease page, if there may be so many. */
static bool
add_page(Search *search, int32 max_pages)
{
	LlmqCellKey key = {.table = LLMQ_LIVE_LEASE};
	LlmqLeasePage *page = palloc0(sizeof(LlmqLeasePage));
	int32		id;

	page->cell.length = sizeof(LlmqLeasePage);
	id = llmq_cell_create(search->live, &key, &page->cell, max_pages);
	pfree(page);
	if (id == 0)
		return false;
	known_pages = id;
	return true;
}

/* Counts the leases in flight in a spare page. Has it a free slot? */
static bool
count_in_page(Search *search, int32 page)
{
	LlmqLeasePage copy;
	bool		room = false;

	if (!llmq_cell_copy(search->live, LLMQ_LIVE_LEASE, page, &copy, sizeof(copy)))
		return false;
	for (int i = 0; i < LLMQ_SLOTS; i++)
	{
		room |= llmq_slot_reusable(&copy.slot[i]);
		if (copy.slot[i].state == LLMQ_SLOT_GRANTED && copy.slot[i].expires_at > search->now)
			search->in_flight++;
	}
	return room;
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

/* The pool is as large as it may be. */
static bool
find_at_bound(Search *search)
{
	bool		found;

	search->at_bound = true;
	search->now = GetCurrentTimestamp();
	nnoted = 0;
	found = search->bound > PAGES_AT_BOUND && find_in_some(search, search->bound, PAGES_AT_BOUND);
	if (!found)
	{
		search->in_flight = 0;
		found = find_in_turn(search, Max(current_page, 1), search->bound);
	}
	/* while a transaction goes on, late records of what it has ended wait for it: better leave that to others */
	if (found && IsTransactionBlock())
		nnoted = 0;
	return found || find_spare(search);
}

/* Go on elsewhere: somebody else is busy in this page. */
void
llmq_lease_avoid(int32 page)
{
	if (current_page == page)
		current_page = 0;
}

/*
 * Finds a slot for a new lease and says how it looked. False when `max_leases` are in use. The slot is not taken yet.
 * The pick ends with llmq_lease_end_noted().
 */
bool
llmq_lease_find_free(LlmqLive *live, int32 max_leases, LlmqLeaseId *place, LlmqSlot *seen)
{
	Search		search = {.live = live,.place = place,.seen = seen};

	search.bound = (max_leases + LLMQ_SLOTS - 1) / LLMQ_SLOTS;
	if (find_in_some(&search, Min(known_pages, search.bound), PAGES_TO_TRY))
		return true;
	known_pages = llmq_cell_last_id(live, LLMQ_LIVE_LEASE);
	if (find_in_some(&search, Min(known_pages, search.bound), PAGES_TO_TRY))
		return true;
	/* others may have filled the new page before we look */
	while (known_pages < search.bound && add_page(&search, search.bound))
		if (find_in_page(&search, known_pages))
			return true;
	known_pages = llmq_cell_last_id(live, LLMQ_LIVE_LEASE);
	return find_at_bound(&search);
}

/*
 * Ends leases that are past their time, and others that maintenance would see to, in the current transaction: those
 * that were met when slots ran short. Nothing may be held, and nothing of the configuration in use: this writes to the
 * ledger. The next search begins there.
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
	current_page = lease[0].page;
}
