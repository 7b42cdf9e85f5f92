/*
 * line.c
 *	  The line: joining it, being called, leaving it; and the gate that keeps others from what it waits for.
 *
 * There is one line for the whole database. Who is refused by limits and wants to wait joins it with the meters that
 * refused; he waits for any of them. Whoever gives something back to a meter that is waited for calls the next
 * (line_order.c), by the latch of his backend or, when he has a ticket and is not there, by keeping it for him for a
 * second. Who is called tries an ordinary pick. If it is granted, what else was given back is passed on to the next; if
 * not, he waits for what refuses now, and all that he was called for is passed on. So one event may call several, one
 * after the other, and ends when all that it gave back is taken or wanted by nobody.
 *
 * That a pick is granted is decided under the locks of its pages, as ever: the line decides who may ask. Somebody who
 * is not called is refused by a meter for which others wait (the gate), so nobody overtakes them.
 *
 * A window that slides and a cooldown that ends give back without anybody doing anything. So one of those who hold a
 * connection and wait for a meter is its keeper: he wakes up when something is expected to fit, at least once a second,
 * and calls the next, which need not be him. A ticket's holder does that whenever he shows it.
 *
 * The line's lock is a lightweight lock, taken while no page is locked, and nothing is locked under it. He who waits
 * joins first and then tries again, so what is given back in between is not missed.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "line.h"
#include "name.h"
#include "pick.h"
#include "wait.h"

/* A keeper looks at least so often: configuration may have changed, or somebody who was called did not come. */
#define KEEPER_PATIENCE INT64CONST(1000000)

/* So often it is looked whose time has passed. Microseconds. */
#define LAPSE_PAUSE 10000

/* As many meters as lapse at once are passed on; those of others wait for their keepers. */
#define LAPSED_MOST 64

/* More lease pages than this are not looked through for the calls that an org has in flight: then it is none. */
#define COUNTED_PAGES 4096

static void
lock(void)
{
	LWLockAcquire(&llmq_line->lock, LW_EXCLUSIVE);
}

static void
unlock(void)
{
	LWLockRelease(&llmq_line->lock);
}

/* Under the lock: calls the next for these meters. Is there one? */
static bool
call_next(const int32 *want, int n, TimestampTz now)
{
	int			number = llmq_line_best(llmq_line, want, n);
	LlmqPlace  *place;

	if (number < 0)
		return false;
	place = &llmq_line->place[number];
	llmq_line_call(llmq_line, number, now);
	place->ncalled = Min(n, LLMQ_MAX_METERS);
	memcpy(place->called_for, want, sizeof(int32) * place->ncalled);
	if (place->latch != NULL)
		SetLatch(place->latch);
	return true;
}

/* Under the lock: those of the meters that are not among the others. */
static int
without(const int32 *meters, int n, const int32 *others, int nothers, int32 *left)
{
	int			nleft = 0;

	for (int i = 0; i < n; i++)
	{
		bool		found = false;

		for (int j = 0; j < nothers; j++)
			found |= meters[i] == others[j];
		if (!found)
			left[nleft++] = meters[i];
	}
	return nleft;
}

/*
 * Under the lock: passes on what somebody has waited for and was called for, but for these meters, which are full, or
 * for which he waits himself.
 */
static void
pass_on(const LlmqPlace *place, const int32 *taken, int ntaken, TimestampTz now)
{
	int32		left[LLMQ_LINE_WANTS + LLMQ_MAX_METERS];
	int			n = without(place->want, place->nwants, taken, ntaken, left);

	n += without(place->called_for, place->ncalled, taken, ntaken, left + n);
	if (n > 0)
		(void) call_next(left, n, now);
}

/* Under the lock: when the keeper of a meter has gone, wakes another who can be it. */
static void
find_keeper(int32 meter)
{
	const LlmqLineMeter *known = llmq_line_meter(llmq_line, meter);

	if (known->keeper != 0 || known->waiting == 0)
		return;
	for (int i = 0; i < llmq_line->end; i++)
	{
		const LlmqPlace *place = &llmq_line->place[i];

		if (place->state == LLMQ_PLACE_FREE || place->latch == NULL)
			continue;
		for (int j = 0; j < place->nwants; j++)
			if (place->want[j] == meter)
			{
				SetLatch(place->latch);
				return;
			}
	}
}

/* Under the lock: the same of all meters for which somebody waited, who has gone or is not there. */
static void
find_keepers(const LlmqPlace *place)
{
	for (int i = 0; i < place->nwants; i++)
		find_keeper(place->want[i]);
}

/* Under the lock: takes somebody out of the line. */
static void
take_out(int number)
{
	LlmqPlace	left = llmq_line->place[number];

	llmq_line_take_out(llmq_line, number);
	find_keepers(&left);
}

/* Under the lock: who is not there any more is no keeper. */
static void
give_up_keeping(int number)
{
	LlmqPlace  *place = &llmq_line->place[number];

	for (int i = 0; i < place->nwants; i++)
	{
		LlmqLineMeter *meter = llmq_line_meter(llmq_line, place->want[i]);

		if (meter->keeper == number + 1)
			meter->keeper = 0;
	}
	find_keepers(place);
}

/*
 * Under the lock: is the place still that of this ticket? It has been given back otherwise, or was granted to another
 * who showed it, and by now somebody else may be there. NULL: that of a pick without one, which nobody else ends.
 */
static bool
is_still(int number, const LlmqTicket *ticket)
{
	const LlmqPlace *place = &llmq_line->place[number];

	return ticket == NULL || (place->state != LLMQ_PLACE_FREE && place->secret == ticket->at.place.secret);
}

/* Under the lock: sees to those whose time has passed. */
static void
lapse(TimestampTz now)
{
	int32		left[LAPSED_MOST];
	int			n = llmq_line_lapse(llmq_line, now, left, LAPSED_MOST);

	llmq_line->lapsed_at = now;
	for (int i = 0; i < n; i++)
		(void) call_next(&left[i], 1, now);
}

/* Under the lock: the same, unless it was done a moment ago. */
static void
lapse_sometimes(TimestampTz now)
{
	if (now >= llmq_line->lapsed_at + LAPSE_PAUSE || now < llmq_line->lapsed_at)
		lapse(now);
}

/* A trouble has begun, changed or ended: who waits for its end may try. */
void
llmq_line_trouble_changed(void)
{
	int32		want = LLMQ_WANT_OTHER;
	TimestampTz now;

	if (!llmq_line_exists())
		return;
	now = GetCurrentTimestamp();
	lock();
	lapse_sometimes(now);
	(void) call_next(&want, 1, now);
	unlock();
}

/* So many calls have been granted to an org. */
void
llmq_line_granted(int32 org, int calls)
{
	LlmqLineOrg *known;

	if (!llmq_line_exists())
		return;
	lock();
	known = llmq_line_org(llmq_line, org);
	if (known != NULL)
		known->in_flight += calls;
	unlock();
}

/*
 * A lease has been settled; its slot is as it was before. A backend that has not picked yet does not know of the line:
 * it looks, after the change of the pages, so that nobody who has joined before that is missed.
 */
void
llmq_line_ended(LlmqLive *live, const LlmqSlot *slot)
{
	int32		meter[LLMQ_MAX_METERS];
	LlmqLineOrg *known;

	if (llmq_line == NULL)
		llmq_health_look(live);
	if (!llmq_line_exists())
		return;
	for (int i = 0; i < slot->nmeters; i++)
		meter[i] = slot->meter[i].meter;
	lock();
	known = llmq_line_org(llmq_line, slot->org);
	if (known != NULL && known->in_flight > 0 && slot->state == LLMQ_SLOT_GRANTED)
		known->in_flight--;
	(void) call_next(meter, slot->nmeters, GetCurrentTimestamp());
	unlock();
}

/* Has the pick been called for this meter itself? */
static bool
is_called_for(const LlmqPick *pick, int32 meter)
{
	for (int i = 0; i < pick->called_for.n; i++)
		if (pick->called_for.meter[i] == meter)
			return true;
	return false;
}

/* Do others wait for the meter, before the pick? */
bool
llmq_line_bars(const LlmqPick *pick, int32 meter)
{
	bool		bars;

	if (!llmq_line_exists() || meter == 0 || llmq_line_meter(llmq_line, meter)->waiting == 0)
		return false;
	if (is_called_for(pick, meter))
		return false;
	LWLockAcquire(&llmq_line->lock, LW_SHARED);
	bars = llmq_line_is_wanted(llmq_line, &meter, 1, pick->now);
	LWLockRelease(&llmq_line->lock);
	return bars;
}

/* What is counted of an org's leases, walking over their pages. */
typedef struct Counting
{
	int32		org;
	int32		in_flight;
} Counting;

static void
count_page(const LlmqCellHeader *state, HeapTuple tuple, void *argument)
{
	const LlmqLeasePage *page = (const LlmqLeasePage *) state;
	Counting   *counting = argument;

	for (int i = 0; i < LLMQ_SLOTS; i++)
		counting->in_flight += page->slot[i].state == LLMQ_SLOT_GRANTED && page->slot[i].org == counting->org;
}

/* How many calls an org has in flight. */
static int32
count_in_flight(int32 org)
{
	Counting	counting = {.org = org};
	LlmqLive	live;

	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, AccessShareLock);
	if (llmq_cell_last_id(&live, LLMQ_LIVE_LEASE) <= COUNTED_PAGES)
		llmq_cell_walk(&live, LLMQ_LIVE_LEASE, count_page, &counting);
	llmq_live_close(&live);
	return counting.in_flight;
}

/* Is it known how many calls an org has in flight, because it waits already? */
static bool
is_counted(int32 org)
{
	bool		counted = false;

	if (!llmq_line_exists())
		return false;
	LWLockAcquire(&llmq_line->lock, LW_SHARED);
	counted = llmq_line_org(llmq_line, org) != NULL;
	LWLockRelease(&llmq_line->lock);
	return counted;
}

/* What the line is told of a pick that was refused. */
static void
describe(const LlmqPick *pick, LlmqPlace *place)
{
	const LlmqVerdict *refusal = &pick->refusal;

	place->retry_at = refusal->when;
	if (refusal->limit != NULL && refusal->limit->shape.kind == LLMQ_WINDOW_CONCURRENCY)
		place->retry_at = DT_NOEND; /* what comes back calls */
	place->scope = LLMQ_SCOPE_COUNT;
	if (refusal->meter != NULL)
	{
		place->scope = refusal->meter->subject->scope;
		place->metric = refusal->limit->quota->metric;
		place->subject = refusal->meter->subject->ref.id;
	}
}

/*
 * Puts the refused pick at the end of the line, as what is in `place` of a ticket or a latch. Its number; -1: as many
 * as may wait do so already. Where nobody else waits for the same he is called at once, to try again: something may
 * have come back before he was in the line.
 */
int
llmq_line_join(const LlmqPick *pick, const LlmqPlace *place)
{
	const LlmqSettings *settings = &pick->catalog->settings;
	LlmqJoining joining = {
		.org = llmq_subject_id(pick->catalog, &pick->org->subject),.weight = pick->org->weight,.place = *place,
		.most = settings->max_waiting,.most_of_org = settings->max_waiting_org
	};
	TimestampTz now = GetCurrentTimestamp();
	int			number;
	bool		alone;

	llmq_line_open();
	describe(pick, &joining.place);
	joining.place.nwants = pick->nwants;
	memcpy(joining.place.want, pick->want, sizeof(int32) * pick->nwants);
	if (!is_counted(joining.org))
		joining.in_flight = count_in_flight(joining.org);
	lock();
	lapse(now);
	if (pg_atomic_read_u32(&llmq_line->waiting) == 0)
		llmq_line->departed_at = now;	/* time in which nobody waited says nothing */
	alone = !llmq_line_is_wanted(llmq_line, joining.place.want, joining.place.nwants, now);
	number = llmq_line_put(llmq_line, &joining);
	if (number >= 0 && alone)
	{
		llmq_line_call(llmq_line, number, now);
		llmq_line->place[number].ncalled = 0;
	}
	unlock();
	return number;
}

/* Under the lock: somebody leaves the line, as he was. Another who waits with the same ticket is told. */
static LlmqPlace
depart(int number, TimestampTz now)
{
	LlmqPlace	left = llmq_line->place[number];

	take_out(number);
	if (left.latch != NULL && left.latch != MyLatch)
		SetLatch(left.latch);
	llmq_line_note_departure(llmq_line, now);
	return left;
}

/* Somebody leaves the line without having been granted anything. What he was in the way of is passed on. */
void
llmq_line_leave(int number, const LlmqTicket *ticket)
{
	TimestampTz now = GetCurrentTimestamp();

	lock();
	if (is_still(number, ticket))
	{
		LlmqPlace	left = depart(number, now);

		if (left.state != LLMQ_PLACE_CALLED)
			left.ncalled = 0;
		pass_on(&left, NULL, 0, now);
	}
	unlock();
}

/* Who was called has been granted a lease; those of its meters that are full now are `pick->full`. */
void
llmq_line_served(int number, const LlmqPick *pick)
{
	TimestampTz now = GetCurrentTimestamp();

	lock();
	if (is_still(number, pick->ticket))
	{
		LlmqPlace	served = depart(number, now);

		pass_on(&served, pick->full, pick->nfull, now);
	}
	unlock();
}

/* Under the lock: notes that somebody looks whether what he waits for fits. */
static void
note_look(const LlmqPlace *place, TimestampTz now)
{
	for (int i = 0; i < place->nwants; i++)
		llmq_line_meter(llmq_line, place->want[i])->looked_at = now;
}

/* Who was called has been refused: he waits on, for what refuses now, and watches over that. */
void
llmq_line_refused(int number, const LlmqPick *pick)
{
	LlmqPlace  *place = &llmq_line->place[number];
	TimestampTz now = GetCurrentTimestamp();

	lock();
	if (is_still(number, pick->ticket))
	{
		LlmqPlace	before = *place;

		llmq_line_uncall(llmq_line, number, false);
		llmq_line_want(llmq_line, number, pick->want, pick->nwants);
		describe(pick, place);
		for (int i = 0; place->latch != NULL && i < place->nwants; i++)
			llmq_line_meter(llmq_line, place->want[i])->keeper = number + 1;
		note_look(place, now);
		find_keepers(&before);
		pass_on(&before, place->want, place->nwants, now);
	}
	unlock();
}

/*
 * Under the lock: is somebody to look? When something is expected to fit by now, and nobody has looked since; or nobody
 * has looked for long.
 */
static bool
is_due(const LlmqPlace *place, TimestampTz now)
{
	for (int i = 0; i < place->nwants; i++)
	{
		TimestampTz looked_at = llmq_line_meter(llmq_line, place->want[i])->looked_at;

		if ((place->retry_at <= now && looked_at < place->retry_at) || looked_at + KEEPER_PATIENCE <= now)
			return true;
	}
	return false;
}

/*
 * Under the lock: when somebody is to look as a keeper, which he is of all meters that he waits for and nobody keeps
 * yet. DT_NOEND: he is of none.
 */
static TimestampTz
next_look(int number)
{
	LlmqPlace  *place = &llmq_line->place[number];
	TimestampTz next = DT_NOEND;

	for (int i = 0; i < place->nwants; i++)
	{
		LlmqLineMeter *meter = llmq_line_meter(llmq_line, place->want[i]);

		if (meter->keeper == 0)
			meter->keeper = number + 1;
		if (meter->keeper == number + 1)
			next = Min(next, Min(place->retry_at, meter->looked_at + KEEPER_PATIENCE));
	}
	return next;
}

/*
 * What is somebody to do? What he waits for is copied, for llmq_line_bars() when he has been called. Else says if he
 * must not sleep until `sleep_until`: as a keeper, only until the next is to be called.
 */
LlmqTurn
llmq_line_turn(int number, const LlmqTicket *ticket, LlmqCalledFor *called_for, TimestampTz *sleep_until)
{
	LlmqPlace  *place = &llmq_line->place[number];
	LlmqTurn	turn = LLMQ_TURN_GONE;

	lock();
	if (is_still(number, ticket) && place->latch == MyLatch)
	{
		turn = place->state == LLMQ_PLACE_CALLED ? LLMQ_TURN_CALLED : LLMQ_TURN_WAIT;
		place->absent = false;
		called_for->n = place->nwants;
		memcpy(called_for->meter, place->want, sizeof(int32) * place->nwants);
		if (turn == LLMQ_TURN_WAIT)
			*sleep_until = Min(*sleep_until, next_look(number));
	}
	unlock();
	return turn;
}

/*
 * Under the lock: something is expected to fit, or may fit for a reason that calls nobody: calls the next. In the other
 * case nobody is needed where somebody is called already: he will see, and what he was called for is kept for him.
 */
static void
keep(LlmqPlace *place, TimestampTz now)
{
	bool		expected = place->retry_at <= now;

	place->retry_at = DT_NOEND;
	note_look(place, now);
	if (expected || !llmq_line_is_called_for(llmq_line, place->want, place->nwants))
		(void) call_next(place->want, place->nwants, now);
}

/* The keeper's time has come: calls the next, and looks again later unless somebody relieves him. */
void
llmq_line_keep(int number, const LlmqTicket *ticket)
{
	TimestampTz now = GetCurrentTimestamp();

	lock();
	lapse_sometimes(now);
	if (is_still(number, ticket))
		keep(&llmq_line->place[number], now);
	unlock();
}

/*
 * A ticket is shown: if something was expected to fit by now, and nobody has looked since, or nobody has looked for
 * long, the next is called.
 */
void
llmq_line_show(int number, const LlmqTicket *ticket)
{
	LlmqPlace  *place = &llmq_line->place[number];
	TimestampTz now = GetCurrentTimestamp();

	lock();
	lapse_sometimes(now);
	if (is_still(number, ticket) && is_due(place, now))
		keep(place, now);
	unlock();
}

/* Where somebody is in the line, from 1; 0: he is there no longer. */
int
llmq_line_position_of(int number, const LlmqTicket *ticket)
{
	int			position = 0;

	lock();
	if (is_still(number, ticket))
		position = llmq_line_position(llmq_line, &llmq_line->place[number]);
	unlock();
	return position;
}

/* The place of a ticket; -1: it is not in the line. */
int
llmq_line_find(const LlmqLeaseId *ticket)
{
	int			number = -1;

	if (!llmq_line_exists())
		return -1;
	LWLockAcquire(&llmq_line->lock, LW_SHARED);
	for (int i = 0; i < llmq_line->end && number < 0; i++)
		if (llmq_line->secret[i] == ticket->secret)
			number = i;
	LWLockRelease(&llmq_line->lock);
	return number;
}

/* Under the lock: somebody who is there now has missed that he was called, or is about to; it is his turn still. */
static void
call_again(int number, TimestampTz now)
{
	LlmqPlace  *place = &llmq_line->place[number];

	if (place->absent)
	{
		llmq_line_call(llmq_line, number, now);
		place->ncalled = 0;
	}
	else if (place->state == LLMQ_PLACE_CALLED)
		place->called_at = now;
	place->absent = false;
}

/*
 * The holder of a ticket is there, and stays for a while if he brings a latch, else goes. Who stayed with the same
 * ticket is told that another does now. False when the ticket has left the line meanwhile.
 */
bool
llmq_line_appear(int number, const LlmqTicket *ticket, Latch *latch)
{
	LlmqPlace  *place = &llmq_line->place[number];
	TimestampTz now = GetCurrentTimestamp();
	bool		there;

	lock();
	there = is_still(number, ticket) && (latch != NULL || place->latch == MyLatch);
	if (there)
	{
		if (place->latch != NULL && place->latch != MyLatch)
			SetLatch(place->latch);
		llmq_line->held += (latch != NULL) - (place->latch != NULL);
		place->latch = latch;
		place->seen_until = now + ticket->ttl;
		if (latch != NULL)
			call_again(number, now);
		else
			give_up_keeping(number);
	}
	unlock();
	return there;
}

/* How many wait with a connection. */
int
llmq_line_held(void)
{
	return llmq_line == NULL ? 0 : llmq_line->held;
}
