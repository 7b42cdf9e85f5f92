/*
 * once.c
 *	  One call for each request_id: what a pick does that names its request.
 *
 * For as long as the setting idempotency_window says after a grant, a cell of llmquota.request_page remembers which
 * lease the request was granted. A pick looks there first, with nothing held, and asks the lease's slot, or the ledger
 * when the slot has gone, what became of it:
 *
 *		in flight						in_flight
 *		recorded as a success			duplicate, also if the record was rolled back
 *		recorded as a failure			go on, as the request's next attempt
 *		past its time					the same
 *		released						go on: the call was not made
 *		nobody knows any more			duplicate
 *
 * When the pick goes on, the grant locks the request's cell with all others, looks again, and writes the new lease into
 * it in the last of its records: of two picks at once the second finds the lease of the first. A grant that a crash has
 * cut short before that was answered to nobody. What a slot says cannot be taken back by then: a lease past its time is
 * not renewed, and the clock that says so is read before the slot.
 *
 * An org is known here by what live state calls it, which no rename changes.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "inject.h"
#include "once.h"
#include "settle.h"

/*
 * How many cells one pick makes at most to have room for its request. Cells take turns in giving requests away, so
 * that a full one may have to wait for others.
 */
#define MOST_CELLS_MADE 1024

/* The largest number that a slot has room for. */
#define MOST_ATTEMPTS 255

/*
 * Looks for the request. For one that is new room is made when its cell is crowded: here, and not after the grant, so
 * that whatever goes wrong has charged nothing.
 */
static void
look(LlmqPick *pick, int64 now)
{
	LlmqOnce   *once = pick->once;
	int32		max_cells = llmq_linear_cells(&llmq_request_linear, pick->catalog->settings.max_requests);

	for (int i = 0; i < MOST_CELLS_MADE; i++)
	{
		bool		full;

		llmq_request_key(&pick->live, &pick->org->subject.ref, pick->request_id, &once->key);
		llmq_request_look(&pick->live, &once->key, llmq_request_seconds(now), &once->look);
		full = once->look.in_force >= LLMQ_REQUEST_ENTRIES;
		if (once->look.entry.page != 0 || once->look.in_force < LLMQ_REQUEST_CROWDED || (i > 0 && !full))
			return;
		if (!llmq_linear_grow(&pick->live, &llmq_request_linear, max_cells, full))
			return;
	}
}

/* The pick goes on: as the next attempt if the call of before was made, or may have been; else in its place. */
static void
go_on(LlmqOnce *once, bool made, const pg_uuid_t *first_lease)
{
	once->attempt = Min(once->look.entry.attempt + (made ? 1 : 0), MOST_ATTEMPTS);
	once->follows = once->attempt > 1;
	if (first_lease != NULL)
		once->first_lease = *first_lease;
	else
		llmq_lease_uuid(&once->lease_id, &once->first_lease);
}

/* By what its slot says. */
static void
judge_slot(LlmqOnce *once, LlmqLeaseStanding standing, int64 now)
{
	const LlmqSlot *slot = &once->lease.slot;
	bool		live = standing == LLMQ_LEASE_LIVE;

	if (live && !llmq_slot_unfinished(slot) && slot->expires_at > now)
		once->answer = LLMQ_ONCE_IN_FLIGHT;
	else if (!live && slot->settlement.outcome == LLMQ_OUTCOME_OK)
		once->answer = LLMQ_ONCE_DUPLICATE;
	else
		go_on(once, live ? !llmq_slot_unfinished(slot) : slot->settlement.outcome != LLMQ_OUTCOME_RELEASED,
			  &slot->history.first_lease);
}

/* By what the ledger says, when the slot has another lease. */
static void
judge_row(LlmqOnce *once)
{
	const LlmqLedgerRow *row = &once->row;

	once->in_ledger = llmq_ledger_find(&once->lease_id, &once->row);
	if (!once->in_ledger || strcmp(row->status, llmq_outcome_text(LLMQ_OUTCOME_OK)) == 0)
		once->answer = LLMQ_ONCE_DUPLICATE;
	else
		go_on(once, strcmp(row->status, llmq_outcome_text(LLMQ_OUTCOME_RELEASED)) != 0,
			  row->has_first_lease ? &row->first_lease : NULL);
}

/* What became of the lease that is remembered. */
static void
judge(LlmqPick *pick, int64 now)
{
	LlmqOnce   *once = pick->once;
	LlmqLeaseStanding standing;

	once->lease_id = llmq_request_lease(&once->look.entry);
	standing = llmq_lease_look(&pick->live, &once->lease_id, &once->lease);
	once->in_slot = standing != LLMQ_LEASE_UNKNOWN;
	if (once->in_slot)
		judge_slot(once, standing, now);
	else
		judge_row(once);
}

/* Looks for the request of a pick. False: it has its answer; a retry of the same request is none of the first's. */
bool
llmq_once_look(LlmqPick *pick)
{
	LlmqOnce   *once = pick->once;
	int64		now = GetCurrentTimestamp();

	once->answer = LLMQ_ONCE_NONE;
	once->attempt = 1;
	once->follows = false;
	look(pick, now);
	if (once->look.entry.page != 0)
		judge(pick, now);
	else if (once->look.cell == 0 || once->look.in_force >= LLMQ_REQUEST_ENTRIES)
		once->answer = LLMQ_ONCE_FULL;
	if (pick->retry == NULL)
		pick->attempt = once->attempt;
	pick->no_slot = once->answer != LLMQ_ONCE_NONE;
	return once->answer == LLMQ_ONCE_NONE;
}

/*
 * Begins with the request of a pick, if it names one and requests are remembered. False: it has its answer. The live
 * tables are open.
 */
bool
llmq_once_begin(LlmqPick *pick)
{
	if (pick->request_id == NULL || pick->request_id[0] == '\0' || pick->catalog->settings.idempotency_window == 0)
		return true;
	if (!llmq_live_add(&pick->live, LLMQ_LIVE_REQUEST))
		return true;
	pick->once = palloc0(sizeof(LlmqOnce));
	return llmq_once_look(pick);
}

/*
 * Under the locks of a grant: is the request remembered as it was seen, and is there a place for it? Keeps the place.
 */
bool
llmq_once_as_seen(const LlmqPick *pick, const LlmqRequestPage *page)
{
	LlmqOnce   *once = pick->once;
	uint32		now = llmq_request_seconds(pick->now);
	int			in_force;

	if (!llmq_linear_holds(&llmq_request_linear, &page->linear, once->key.hash[0]))
		return false;
	once->place = llmq_request_place(page, &once->key, now, &in_force);
	return once->place >= 0 &&
		llmq_request_at(page, once->place, &once->key, now).secret == once->look.entry.secret;
}

/* Under the locks of a grant: writes the new lease down in a copy of the request's cell. */
void
llmq_once_note(const LlmqPick *pick, const LlmqLeaseId *lease, const LlmqSlot *slot, LlmqRequestPage *page)
{
	const LlmqOnce *once = pick->once;
	int64		window = pick->catalog->settings.idempotency_window;

	page->entry[once->place] = (LlmqRequestEntry) {
		.hash = {once->key.hash[0], once->key.hash[1]},.secret = slot->secret,.page = lease->page,
		.day = (uint16) llmq_lease_day(slot->granted_at),.slot = lease->slot,.attempt = slot->attempt,
		.until = llmq_request_seconds_after(Max(slot->granted_at + window, slot->expires_at)),.org = once->key.org
	};
}

/* The first lease of the request, when this pick is a later attempt at it. */
bool
llmq_once_first_lease(const LlmqPick *pick, pg_uuid_t *first_lease)
{
	if (pick->once == NULL || !pick->once->follows)
		return false;
	*first_lease = pick->once->first_lease;
	return true;
}

/* What the pick is answered because of its request. */
LlmqOnceAnswer
llmq_once_answer(const LlmqPick *pick)
{
	return pick->once == NULL ? LLMQ_ONCE_NONE : pick->once->answer;
}
