/*
 * alert_mark.c
 *	  Who changes what is used sees to it that somebody looks when an alert may be due.
 *
 * The flag is in the window, and so in the WAL: it outlives the caller's transaction, a crash and a failover, until
 * maintenance has looked and what it raised has been committed (alert.c). The mark of the use from which on it is set
 * is put there by who has the configuration: the first charge of a window by each plan, and maintenance. Who has none,
 * because he settles a lease, needs no more. That the worker is asked to come at once is only to save time.
 *
 * Under the lock of the meter's page, with the image inside the record being built: neither allocates nor raises.
 */
#include "postgres.h"

#include "alert_mark.h"
#include "budget.h"

/* What this backend wants looked at, until its call ends. */
static LlmqAlertCall wanted;

/* Has the installed SQL alerts? Else windows are left as it knows them. As of the last load of the configuration. */
static bool alerts_active = false;
static int64 alert_recovery = 0;

/* A trouble is looked at by a round that comes by itself within that time. */
#define ROUNDS_APART INT64CONST(60000000)

void
llmq_alerts_activate(bool active, int64 recovery)
{
	alerts_active = active;
	alert_recovery = recovery;
}

/* The amount that use is held against; that a provider allows less is an alert of its own. */
int64
llmq_alert_amount(const LlmqLimit *limit, int64 now)
{
	if (limit->quota->budget == NULL)
		return limit->quota->amount;
	return llmq_budget_amount(limit->quota, limit->subject, now);
}

/* Adds a meter to a call; one that finds no room makes it a call for any. */
void
llmq_alert_call_add(LlmqAlertCall *call, int32 meter)
{
	for (int i = 0; i < Min(call->n, LLMQ_ALERT_METERS); i++)
		if (call->meter[i] == meter)
			return;
	if (call->n < LLMQ_ALERT_METERS)
		call->meter[call->n] = meter;
	call->n = Min(call->n + 1, LLMQ_ALERT_METERS + 1);
}

/* Adds all of another call. */
void
llmq_alert_calls_join(LlmqAlertCall *call, const LlmqAlertCall *other)
{
	for (int i = 0; i < Min(other->n, LLMQ_ALERT_METERS); i++)
		llmq_alert_call_add(call, other->meter[i]);
	if (other->n > LLMQ_ALERT_METERS)
		call->n = LLMQ_ALERT_METERS + 1;
}

/* Has a meter looked at when the call of this backend ends; 0: something that is not in a meter. */
void
llmq_alert_ask(int32 meter)
{
	llmq_alert_call_add(&wanted, meter);
}

/* What has been asked for, once. False: nothing. */
bool
llmq_alert_asked(LlmqAlertCall *call)
{
	*call = wanted;
	wanted.n = 0;
	return call->n > 0;
}

/* When a trouble has lasted so long that somebody should know; at once, if it is known that it will. Else DT_NOEND. */
int64
llmq_trouble_alert_from(const LlmqTrouble *trouble, int64 recovery)
{
	if (trouble->until == PG_INT64_MAX || trouble->until - trouble->since > recovery)
		return trouble->since;
	return trouble->kind == LLMQ_TROUBLE_OPEN ? trouble->since + recovery : DT_NOEND;
}

/* After something has happened: a trouble that comes up, or becomes worse, is to be looked at. */
void
llmq_alert_event(const LlmqHealthEvent *event)
{
	bool		begins = event->kind == LLMQ_EVENT_COOLED || event->kind == LLMQ_EVENT_OPENED ||
		event->kind == LLMQ_EVENT_DISABLED;

	if (alerts_active && begins && llmq_trouble_alert_from(&event->trouble, alert_recovery) < event->at + ROUNDS_APART)
		llmq_alert_ask(0);
}

/* After what is used of a window has risen: asks for a look if that is due. */
void
llmq_alert_risen(LlmqMeterState *state, LlmqWindow *window)
{
	if (alerts_active && llmq_window_note_alert(window))
		llmq_alert_ask(state->cell.id);
}

/*
 * Marks the use at which the next threshold is reached. Where that is another than before, because of what is used or
 * of the configuration, some may have been passed unseen: then somebody has to look now.
 */
static void
set_mark(LlmqWindow *window, const LlmqLimit *limit, int64 now)
{
	int64		amount = llmq_alert_amount(limit, now);
	int64		first = llmq_threshold_next(limit->alert_at, amount, 0);
	int64		next = llmq_threshold_next(limit->alert_at, amount, window->sum);

	if (!llmq_window_is_alert_from(window, next))
		llmq_window_set_alert_from(window, Min(first, next));
}

/* After a window has been charged, by a plan that has no limit for it if that is NULL; before that so much was used. */
void
llmq_alert_charged(LlmqMeterState *state, LlmqWindow *window, LlmqLimit *limit, int64 before, int64 now)
{
	if (!alerts_active)
		return;
	if (window->kind == LLMQ_WINDOW_CONCURRENCY)
	{
		if (limit != NULL && before < limit->alert_first && window->sum >= limit->alert_first)
			window->head = now;
		return;
	}
	if (limit != NULL && (!limit->alert_marked || llmq_window_alert_from(window) == 0))
	{
		set_mark(window, limit, now);
		limit->alert_marked = true;
	}
	llmq_alert_risen(state, window);
}
