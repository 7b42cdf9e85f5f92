/*
 * ticket.c
 *	  Tickets: places in the line that need no connection.
 *
 * A ticket is a slot of a lease page that waits: it holds what the pick asked for, and has the uuid that the lease
 * will have. So a ticket is on disk, survives a restart, and cannot be guessed; and its grant is that of any pick, into
 * this slot (grant.c). It is charged to no meter. When nobody has shown it for the setting ticket_ttl it leaves the
 * line, and maintenance frees its slot.
 *
 * In the slot it says until when that is, and generously: so much that a ticket which is shown for as long as may be,
 * and then not for a ttl, still has its slot; and one ttl more, so that showing a ticket mostly changes no page.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "args.h"
#include "name.h"
#include "role.h"
#include "row.h"
#include "settle.h"
#include "wait.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(llmquota_claim);

/* How often a page may move, or another be faster, before the call gives up. */
#define MAX_ATTEMPTS 1000

/* What is written into the slot when a ticket is shown, and what has to be left of it then: times its ttl. */
#define TTLS_WRITTEN 3
#define TTLS_LEFT 2

/* What a ticket remembers of the request. */
static void
fill(LlmqPick *pick, LlmqLease *lease)
{
	LlmqSlot   *slot = &lease->slot;

	memset(lease, 0, sizeof(LlmqLease));
	slot->state = LLMQ_SLOT_WAITING;
	slot->secret = llmq_lease_secret();
	llmq_request_fill(pick, slot);
	slot->reserved_input = Max(pick->input_tokens, 0);
	slot->reserved_output = Max(pick->output_tokens, 0);
	if (!pick->max_cost_given)
		return;
	lease->money.secret = slot->secret;
	lease->money.told = true;
	lease->money.reserved[0] = pick->max_cost;
}

/* Writes the ticket into the slot that was found for it. False when that has changed, or has no room for money yet. */
static bool
write_there(LlmqLive *live, LlmqLease *lease, LlmqTicket *ticket)
{
	const LlmqLeaseId *place = &ticket->at.place;
	const LlmqLeasePage *page;
	LlmqCellSet set;
	bool		narrow;
	bool		fits;

	llmq_set_init(&set, live);
	(void) llmq_set_add(&set, LLMQ_LIVE_LEASE, place->page);
	if (llmq_set_lock(&set) != LLMQ_LOCKED)
		return false;
	page = llmq_set_state(&set, 0);
	narrow = lease->money.secret != 0 && !llmq_lease_page_has_money(page);
	fits = !narrow && llmq_slot_unchanged(&page->slot[place->slot], &ticket->at.seen);
	if (fits)
	{
		lease->slot.granted_at = GetCurrentTimestamp();
		lease->slot.expires_at = lease->slot.granted_at + TTLS_WRITTEN * ticket->ttl;
		llmq_lease_put(llmq_set_change(&set, 0), place->slot, lease);
		llmq_set_log(&set, 0);
	}
	llmq_set_unlock(&set);
	if (narrow)
		llmq_lease_page_widen(live, place->page);
	if (fits)
		llmq_cell_make_durable(set.lsn);
	return fits;
}

/* Writes the ticket into a free slot. False when there is none. */
static bool
write_ticket(LlmqPick *pick, LlmqLive *live, LlmqLease *lease, LlmqTicket *ticket)
{
	for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++)
	{
		CHECK_FOR_INTERRUPTS();
		if (llmq_lease_find_free(live, pick->catalog->settings.max_leases, 1, &ticket->at) == 0)
			return false;
		if (!write_there(live, lease, ticket))
			continue;
		ticket->at.place.secret = lease->slot.secret;
		ticket->at.place.day = llmq_lease_day(lease->slot.granted_at);
		ticket->at.seen = lease->slot;
		return true;
	}
	return false;
}

/* Puts a ticket into the line. Its number; -1: as many as may wait do so. */
static int
join(LlmqPick *pick, LlmqTicket *ticket, Latch *latch)
{
	const LlmqLeaseId *at = &ticket->at.place;
	const LlmqSlot *slot = &ticket->at.seen;
	LlmqPlace	place = {
		.secret = at->secret,.page = at->page,.slot = at->slot,.since = slot->granted_at,.route = slot->route,
		.seen_until = GetCurrentTimestamp() + ticket->ttl,.latch = latch,.priority = pick->priority
	};

	return llmq_line_join(pick, &place);
}

/* The slot into which a ticket is granted, as it is now. False when it is not that ticket any more. */
bool
llmq_ticket_place(LlmqPick *pick, LlmqFreeSlot *place)
{
	LlmqLeasePage page;

	*place = pick->ticket->at;
	if (!llmq_cell_copy(&pick->live, LLMQ_LIVE_LEASE, place->place.page, &page, sizeof(page)))
		return false;
	place->seen = page.slot[place->place.slot];
	return place->seen.state == LLMQ_SLOT_WAITING && place->seen.secret == place->place.secret;
}

/* One call of llmquota_claim. */
typedef struct Claim
{
	LlmqTicket	ticket;
	LlmqLease	lease;			/* that the slot has, or is to have */
	bool		gone;			/* from the line, while it waited there */
} Claim;

/* What a slot has become. */
typedef enum Standing
{
	STANDING_UNKNOWN,			/* it is of no ticket of this uuid, or its lease has ended */
	STANDING_WAITING,
	STANDING_GRANTED
} Standing;

/* Looks at the ticket's slot. One that the role may not know of does not exist. */
static Standing
look(Claim *claim)
{
	const LlmqSlot *slot = &claim->lease.slot;
	LlmqCatalog *catalog = llmq_catalog();
	LlmqLeasePage page;
	LlmqLive	live;
	bool		found;

	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, AccessShareLock);
	llmq_health_look(&live);
	found = llmq_cell_copy(&live, LLMQ_LIVE_LEASE, claim->ticket.at.place.page, &page, sizeof(page));
	llmq_live_close(&live);
	if (!found)
		return STANDING_UNKNOWN;
	llmq_lease_copy(&page, claim->ticket.at.place.slot, &claim->lease);
	claim->ticket.at.seen = *slot;
	if (slot->secret != claim->ticket.at.place.secret || !llmq_role_may_use(catalog, llmq_name_text(slot->org)))
		return STANDING_UNKNOWN;
	if (slot->state == LLMQ_SLOT_WAITING)
		return STANDING_WAITING;
	return slot->state == LLMQ_SLOT_GRANTED && !llmq_slot_unfinished(slot) ? STANDING_GRANTED : STANDING_UNKNOWN;
}

/* The pick that the ticket stands for. */
static void
read_request(void *argument, LlmqPick *pick)
{
	Claim	   *claim = argument;

	llmq_request_resume(&claim->lease, pick);
	pick->ticket = &claim->ticket;
	pick->waiting_since = claim->lease.slot.granted_at;
}

/* Notes in the slot that the ticket was shown, if that is due. */
static void
extend(Claim *claim, const LlmqPick *pick)
{
	LlmqTicket *ticket = &claim->ticket;
	LlmqLive	live;

	ticket->ttl = pick->catalog->settings.ticket_ttl;
	if (ticket->at.seen.expires_at >= GetCurrentTimestamp() + TTLS_LEFT * ticket->ttl)
		return;
	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, RowExclusiveLock);
	(void) llmq_lease_extend(&live, &ticket->at.place, TTLS_WRITTEN * ticket->ttl, &ticket->at.seen);
	llmq_live_close(&live);
}

/*
 * Has the ticket in the line, with a latch if its holder stays. Its number, -1 when there is no room. One that the line
 * has forgotten, because the server was started since, joins it where it was.
 */
static int
appear(Claim *claim, LlmqPick *pick, Latch *latch)
{
	int			number = llmq_line_find(&claim->ticket.at.place);

	if (number >= 0 && llmq_line_appear(number, &claim->ticket, latch))
		return number;
	if (llmq_pick_attempt(pick))
		return -1;
	return llmq_may_wait(pick) ? join(pick, &claim->ticket, latch) : -1;
}

/*
 * Waits for as long as the call may, and no longer than a ticket is kept, if its turn is likely to come meanwhile:
 * others would only keep a connection from those who can use it.
 */
static bool
wait_with_ticket(Claim *claim, LlmqPick *pick, int32 wait_ms)
{
	int64		wait = Min(wait_ms * INT64CONST(1000), claim->ticket.ttl);
	TimestampTz now = GetCurrentTimestamp();
	LlmqWaiting waiting = {
		.read = read_request,.argument = claim,.since = claim->ticket.at.seen.granted_at,.deadline = now,
		.ticket = &claim->ticket
	};
	bool		granted;

	waiting.number = appear(claim, pick, MyLatch);
	if (waiting.number < 0)
		return pick->ngranted > 0;
	pick->position = llmq_line_position_of(waiting.number, &claim->ticket);
	if (llmq_line_held() <= llmq_max_held(&pick->catalog->settings) && llmq_line_is_near(pick->position, wait))
	{
		waiting.deadline = now + wait;
		pick->position = 0;
	}
	llmq_line_show(waiting.number, &claim->ticket);
	granted = llmq_wait_stay(&waiting, pick);
	if (waiting.gone)
		waiting.number = llmq_line_find(&claim->ticket.at.place);
	claim->gone = waiting.gone && waiting.number < 0;
	pick->queued = !granted && waiting.number >= 0;
	if (pick->queued)
	{
		pick->granted[0].lease = claim->ticket.at.place;
		pick->expires_at = GetCurrentTimestamp() + claim->ticket.ttl;
		llmq_wait_tell(pick, waiting.number, &claim->ticket);
	}
	return granted;
}

/*
 * Gives the refused pick a ticket, which is its lease then, and tries once more if nobody waits before it: something
 * may have come back before it was in line, and nobody else would be called for that in its place. It stays refused
 * when as many wait as may, or no slot is free.
 */
void
llmq_ticket_make(LlmqPick *pick)
{
	Claim		claim = {.ticket.ttl = pick->catalog->settings.ticket_ttl};
	LlmqTicket *ticket = &claim.ticket;
	LlmqLive	live;
	bool		written;
	int			number;

	fill(pick, &claim.lease);
	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, RowExclusiveLock);
	written = write_ticket(pick, &live, &claim.lease, ticket);
	number = written ? join(pick, ticket, NULL) : -1;
	if (written && number < 0)
		(void) llmq_lease_free(&live, &ticket->at.place, &ticket->at.seen);
	llmq_live_close(&live);
	if (number < 0)
		return;
	if (!wait_with_ticket(&claim, pick, 0) && !pick->queued)
		(void) llmq_ticket_release(&ticket->at.place);
	pick->ticket = NULL;
}

/* llmquota_claim(ticket, wait_ms): the lease of a ticket, if it is its turn; else where it is in the line. */
Datum
llmquota_claim(PG_FUNCTION_ARGS)
{
	int32		wait_ms = llmq_arg_int(fcinfo, 1, "wait_ms", 0, LLMQ_MAX_WAIT_MS);
	Claim		claim = {0};
	LlmqPick	pick;
	Standing	standing;

	llmq_cell_refuse_if_read_only("llmquota_claim()");
	llmq_pick_refuse_expansion(fcinfo, "llmquota_claim");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("ticket must not be NULL"),
				 errhint("Pass the uuid in the column lease of the row with the status queued.")));
	standing = llmq_lease_parse(PG_GETARG_UUID_P(0), &claim.ticket.at.place) ? look(&claim) : STANDING_UNKNOWN;
	if (standing == STANDING_WAITING)
	{
		bool		granted;

		read_request(&claim, &pick);
		extend(&claim, &pick);
		granted = wait_with_ticket(&claim, &pick, Max(wait_ms, 0));
		/* another claim of the same ticket may have been first */
		standing = granted || pick.queued || !(pick.no_slot || claim.gone) ? STANDING_WAITING : look(&claim);
		if (claim.gone && standing == STANDING_WAITING)
			standing = STANDING_UNKNOWN;
		if (!granted && !pick.queued && standing == STANDING_WAITING)
			(void) llmq_ticket_release(&claim.ticket.at.place);
		if (standing == STANDING_WAITING)
			return llmq_pick_finish(fcinfo, &pick);
	}
	if (standing == STANDING_GRANTED && llmq_request_granted(&claim.lease, &claim.ticket, &pick))
		return llmq_pick_finish(fcinfo, &pick);
	return llmq_pick_answer_unknown(fcinfo);
}

/* Gives a ticket back: its holder waits no longer. Was it one? */
bool
llmq_ticket_release(const LlmqLeaseId *id)
{
	Claim		claim = {.ticket.at.place = *id};
	LlmqLive	live;
	bool		freed = false;
	int			number;

	for (int attempt = 0; !freed && attempt < MAX_ATTEMPTS; attempt++)
	{
		if (look(&claim) != STANDING_WAITING)
			return false;
		number = llmq_line_find(id);
		if (number >= 0)
			llmq_line_leave(number, &claim.ticket);
		llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, RowExclusiveLock);
		freed = llmq_lease_free(&live, id, &claim.ticket.at.seen);
		llmq_live_close(&live);
	}
	return freed;
}
