/*
 * wait.c
 *	  Picks that wait: in the call, or with a ticket.
 *
 * A pick that is refused by limits, and may wait, joins the line and sleeps on its latch until it is called, its time
 * as a keeper has come, or its deadline has (line.c). Then it tries, each time with its arguments read anew. Nothing is
 * held while it sleeps: no page, no lock, no relation. Cancel, timeout, termination and shutdown end it as they end any
 * sleep, and so does a client that has gone; whatever ends it, it leaves the line.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "duration.h"
#include "name.h"
#include "wait.h"
#include "worker.h"

/*
 * Does the limit that refuses come back only after anybody would wait for it, with its next day or month? Who waited
 * for that would keep others from what is left for them. (Of a window that slides something may always come back.)
 */
static bool
is_hopeless(const LlmqPick *pick)
{
	const LlmqLimit *limit = pick->refusal.limit;
	int64		patience = pick->wait_ms > 0 && !pick->queue ? pick->wait_ms : LLMQ_MAX_WAIT_MS;

	return limit != NULL && limit->shape.kind == LLMQ_WINDOW_CALENDAR &&
		pick->refusal.when > GetCurrentTimestamp() + patience * 1000;
}

/* Is it refused by what comes back by itself, so that waiting may help? */
bool
llmq_may_wait(const LlmqPick *pick)
{
	switch (llmq_refusal_status(pick))
	{
		case LLMQ_REFUSED_RATE_LIMITED:
		case LLMQ_REFUSED_OVER_CAPACITY:
		case LLMQ_REFUSED_UNAVAILABLE:
		case LLMQ_REFUSED_BUDGET_EXCEEDED:
			return pick->nwants > 0 && pick->refusal.when != LLMQ_WHEN_NEVER && !is_hopeless(pick);
		default:
			return false;
	}
}

/* As many as may wait with a connection. */
int
llmq_max_held(const LlmqSettings *settings)
{
	return settings->max_held_waiters >= 0 ? settings->max_held_waiters : MaxConnections / 4;
}

/* Sleeps until something happens to the latch, the client or the postmaster, or so long. What? */
static uint32
wait_for_event(long milliseconds)
{
	WaitEvent	event = {0};

	if (FeBeWaitSet == NULL || !WaitEventSetCanReportClosed())
		return WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds, PG_WAIT_EXTENSION);
	ModifyWaitEvent(FeBeWaitSet, LLMQ_CLIENT_SOCKET_POSITION, WL_SOCKET_CLOSED, NULL);
	(void) WaitEventSetWait(FeBeWaitSet, milliseconds, &event, 1, PG_WAIT_EXTENSION);
	return event.events;
}

/* Sleeps until somebody wakes us up, or then. A client that has gone ends the session, as the server's check does. */
static void
sleep_until(TimestampTz until)
{
	uint32		events = wait_for_event(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until));

	if (events & WL_POSTMASTER_DEATH)
		proc_exit(1);
	if (events & WL_SOCKET_CLOSED)
	{
		ClientConnectionLost = true;
		InterruptPending = true;
	}
	ResetLatch(MyLatch);
}

/* Tries once more. Is it granted? Else it is in the line for what refuses now, or there is nothing to wait for. */
static bool
try_again(LlmqWaiting *waiting, LlmqPick *pick, const LlmqCalledFor *called_for)
{
	waiting->read(waiting->argument, pick);
	pick->waiting_since = waiting->since;
	pick->called_for = *called_for;
	if (llmq_pick_attempt(pick))
	{
		llmq_line_served(waiting->number, pick);
		waiting->number = -1;
		return true;
	}
	if (llmq_may_wait(pick))
		llmq_line_refused(waiting->number, pick);
	else
	{
		llmq_line_leave(waiting->number, waiting->ticket);
		waiting->number = -1;
	}
	return false;
}

/* Waits until it is granted, there is nothing to wait for any more, or the deadline has come. Is it granted? */
static bool
stay(LlmqWaiting *waiting, LlmqPick *pick, MemoryContext context)
{
	for (;;)
	{
		TimestampTz until = waiting->deadline;
		TimestampTz now;
		LlmqTurn	turn;
		LlmqCalledFor called_for;

		CHECK_FOR_INTERRUPTS();
		turn = llmq_line_turn(waiting->number, waiting->ticket, &called_for, &until);
		if (turn == LLMQ_TURN_CALLED)
		{
			MemoryContextReset(context);
			if (try_again(waiting, pick, &called_for))
				return true;
			if (waiting->number < 0)
				return false;
			continue;
		}
		if (turn == LLMQ_TURN_GONE)
		{
			waiting->gone = true;
			waiting->number = -1;
			return false;
		}
		now = GetCurrentTimestamp();
		if (now >= waiting->deadline)
			return false;
		if (now < until)
			sleep_until(until);
		else
		{
			llmq_line_keep(waiting->number, waiting->ticket);
			llmq_worker_look_meanwhile();
		}
	}
}

/* However a wait ends that is not granted: he of a ticket goes away for a while, any other leaves the line. */
static void
end_waiting(int code, Datum argument)
{
	LlmqWaiting *waiting = (LlmqWaiting *) DatumGetPointer(argument);

	llmq_line_is_held = false;
	if (waiting->number < 0)
		return;
	if (waiting->ticket == NULL)
		llmq_line_leave(waiting->number, NULL);
	else
		(void) llmq_line_appear(waiting->number, waiting->ticket, NULL);
}

/*
 * Waits in the line, in which the call has a place. Is it granted? What was said of it last is in the pick, with its
 * position in the line, unless that is there already and nothing has changed.
 */
bool
llmq_wait_stay(LlmqWaiting *waiting, LlmqPick *pick)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "llmquota wait", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	bool		granted;

	llmq_line_is_held = true;
	PG_ENSURE_ERROR_CLEANUP(end_waiting, PointerGetDatum(waiting));
	{
		granted = stay(waiting, pick, context);
	}
	PG_END_ENSURE_ERROR_CLEANUP(end_waiting, PointerGetDatum(waiting));
	MemoryContextSwitchTo(caller);
	if (!granted && waiting->number >= 0 && pick->position == 0)
		pick->position = llmq_line_position_of(waiting->number, waiting->ticket);
	end_waiting(0, PointerGetDatum(waiting));
	return granted;
}

/* Waits without a ticket, for as long as the call may. Is it granted? */
static bool
wait_held(LlmqPick *pick, LlmqRequestReader read, void *argument)
{
	TimestampTz now = GetCurrentTimestamp();
	LlmqPlace	place = {
		.since = now,.seen_until = DT_NOEND,.latch = MyLatch,.priority = pick->priority,
		.route = llmq_name_id(&pick->route->ref, pick->catalog->settings.max_subjects)
	};
	LlmqWaiting waiting = {
		.read = read,.argument = argument,.since = now,.deadline = now + pick->wait_ms * INT64CONST(1000)
	};

	waiting.number = llmq_line_join(pick, &place);
	if (waiting.number < 0)
		return false;
	return llmq_wait_stay(&waiting, pick);
}

/*
 * What a pick does that was refused and may wait: it waits in the call; where that is not wanted, or as many do so as
 * may, or it was in vain and a ticket is wanted, it gets a ticket.
 */
void
llmq_wait_in_call(LlmqPick *pick, LlmqRequestReader read, void *argument)
{
	bool		hold = pick->wait_ms > 0 && llmq_line_held() < llmq_max_held(&pick->catalog->settings);
	bool		queue = pick->queue || (pick->wait_ms > 0 && !hold);

	if (hold && wait_held(pick, read, argument))
		return;
	if (queue && llmq_may_wait(pick))
		llmq_ticket_make(pick);
}

/* What a ticket's holder is told: his position, and when he is to come again. */
void
llmq_wait_tell(LlmqPick *pick, int number, const LlmqTicket *ticket)
{
	if (pick->position == 0)
		pick->position = llmq_line_position_of(number, ticket);
	pick->return_ms = llmq_milliseconds_up(llmq_line_return(pick->position));
}
