/*
 * meter.c
 *	  What a meter's windows say to a request, and how they are charged and corrected.
 *
 * Pure logic on a meter's state and its plan. llmq_meter_check() takes any copy; the functions that change a state are
 * given the image inside the WAL record being built, with the page locked: they neither allocate nor raise.
 */
#include "postgres.h"

#include "common/int.h"
#include "common/int128.h"

#include "alert_mark.h"
#include "budget.h"
#include "meter.h"

/* A wait for a call in flight that nobody can estimate yet, and the least that is ever said: microseconds. */
#define UNKNOWN_CALL INT64CONST(1000000)
#define LEAST_WAIT INT64CONST(50000)

/* When to ask again for more than the provider is known to allow at once: limits are being tried out. Microseconds. */
#define PROBE_WAIT INT64CONST(30000000)

/*
 * A meter is tight when less than an eighth would be left, and for a second after (microseconds).
 */
#define TIGHT_HEADROOM 0.125
#define TIGHT_FOR INT64CONST(1000000)

/*
 * How long what was seen of a meter with plenty left is good enough to compare it with others (microseconds): to read a
 * page that other processors change all the time costs as much as the rest of a look.
 */
#define SEEN_FOR INT64CONST(10000)

/*
 * How long a call may go on with a plan that is no longer the newest, in microseconds: until then it does not take out
 * what a newer plan has begun.
 */
#define STALE_PLAN_FOR INT64CONST(60000000)

/* Share of a new duration in the decayed mean: one eighth, as TCP smooths its round trips (RFC 6298). */
#define MEAN_CALL_SHARE 8

void
llmq_verdict_init(LlmqVerdict *verdict)
{
	memset(verdict, 0, sizeof(LlmqVerdict));
	verdict->admitted = true;
	verdict->headroom = 1;
}

/* How much of a metric a call counts for. */
int64
llmq_use_counted(const LlmqUse *use, LlmqMetric metric, uint8 window_flags, int64 quota)
{
	int64		input = use->input - ((window_flags & LLMQ_WINDOW_NOT_CACHED) ? use->cached : 0);

	switch (metric)
	{
		case LLMQ_METRIC_REQUESTS:
			return use->request && !(use->failed && (window_flags & LLMQ_WINDOW_NOT_FAILURES)) ? 1 : 0;
		case LLMQ_METRIC_INPUT_TOKENS:
			return input;
		case LLMQ_METRIC_OUTPUT_TOKENS:
			return use->output;
		case LLMQ_METRIC_TOKENS:
			return input + use->output;
		case LLMQ_METRIC_CONCURRENCY:
			return use->in_flight ? 1 : 0;
		case LLMQ_METRIC_COST:
			return llmq_costs_in(&use->costs, llmq_currency_of_window(quota));
	}
	return 0;
}

/* How much of a limit a call counts for. */
static int64
requested_of(const LlmqLimit *limit, const LlmqUse *use)
{
	return llmq_use_counted(use, limit->quota->metric, limit->quota->window_flags, limit->quota->id);
}

/* What of a limit's amount this request may use: a share can be kept for high priority. */
static int64
usable_amount(const LlmqLimit *limit, int64 amount, bool high_priority)
{
	if (high_priority || limit->quota->high_priority_share <= 0)
		return amount;
	return amount - (int64) ((double) amount * limit->quota->high_priority_share);
}

/* The amount that holds: the configured one, or less when the provider says so. */
int64
llmq_limit_amount(const LlmqLimit *limit, int64 now)
{
	if (limit->quota->budget != NULL)
		return llmq_budget_amount(limit->quota, limit->subject, now);
	if (limit->learned.amount == 0)
		return limit->quota->amount;
	return llmq_learned_amount(&limit->learned, limit->quota->amount, limit->learned_ttl, now);
}

static LlmqWindow *
find_window(const LlmqMeterState *state, const LlmqWindowShape *shape)
{
	LlmqWindow *window;

	for (window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		if (llmq_window_same_shape(window, shape))
			return window;
	return NULL;
}

/*
 * When one of `used` calls in flight will have ended: with n of them one ends every n-th part of a call's duration, and
 * the first one at the latest when its lease expires.
 */
static int64
estimate_return(int64 used, const LlmqMeterState *state, int64 now)
{
	int64		mean_call = state != NULL && state->mean_call > 0 ? state->mean_call : UNKNOWN_CALL;
	int64		wait = mean_call / Max(used, 1);

	if (state != NULL && state->next_expiry > now)
		wait = Min(wait, state->next_expiry - now);
	return now + Max(wait, LEAST_WAIT);
}

/*
 * Brings the window of a limit to the clock, as llmq_window_advance() does, and with it what the period that has ended
 * hands on: that cannot be told from leases.
 */
bool
llmq_limit_advance(const LlmqLimit *limit, LlmqWindow *window, int64 now, uint32 generation)
{
	int64		began = window->head;
	int64		length = window->span;
	int64		used = window->sum;
	bool		moved_back = llmq_window_advance(window, &limit->shape, now, generation);

	if ((limit->quota->window_flags & LLMQ_WINDOW_CARRIES) && window->head > began && length > 0)
	{
		window->sum = llmq_budget_carried(limit->quota,
										  llmq_budget_held(limit->quota, limit->subject, began, began + length),
										  used, llmq_periods_between(window->unit, began, window->head));
		if (window->sum != 0)
		{
			llmq_window_loosen(window);
			window->flags |= LLMQ_WINDOW_CARRIED;
		}
	}
	return moved_back;
}

/* A limit's window, brought to the clock in the copy; `empty` when the meter has none yet. */
static LlmqWindow *
window_now(LlmqMeterState *copy, const LlmqLimit *limit, int64 now, LlmqWindow *empty)
{
	LlmqWindow *window = copy != NULL ? find_window(copy, &limit->shape) : NULL;

	if (window == NULL)
	{
		llmq_window_init(empty, &limit->shape, 0, now, 0);
		return empty;
	}
	if (llmq_limit_advance(limit, window, now, copy->generation))
		copy->generation++;
	return window;
}

/* Adds what somebody says to a verdict: of several refusals the one that ends last stays. */
static void
add_verdict(LlmqVerdict *verdict, const LlmqVerdict *other)
{
	double		headroom = Min(verdict->headroom, other->headroom);
	bool		full = verdict->full || other->full;
	bool		common = verdict->common || other->common;
	bool		outdated = verdict->outdated || other->outdated;

	if (!other->admitted && (verdict->admitted || other->when > verdict->when))
		*verdict = *other;
	verdict->headroom = headroom;
	verdict->full = full;
	verdict->common = common;
	verdict->outdated = outdated;
}

/* In which time room for one request returns: a window's share of its length, or a part of a call's duration. */
static double
pace(const LlmqQuota *quota, const LlmqMeterState *state, int64 amount, int64 requested)
{
	if (amount <= 0)
		return 0;
	if (quota->kind == LLMQ_WINDOW_CONCURRENCY)
		return (double) (state != NULL && state->mean_call > 0 ? state->mean_call : UNKNOWN_CALL) / (double) amount;
	return (double) quota->length * (double) requested / (double) amount;
}

/* How many steps of a limit's budget have been reached with so much used; none before it begins. */
static int
steps_reached(const LlmqLimit *limit, int64 used, int64 now)
{
	const LlmqBudget *budget = limit->quota->budget;

	if (budget == NULL || !limit->enforced || budget->starts_at > now)
		return 0;
	return llmq_budget_steps(budget, llmq_limit_amount(limit, now), used);
}

/* The same by what this backend has seen of it last. */
int
llmq_limit_steps(const LlmqLimit *limit, int64 now)
{
	return steps_reached(limit, limit->seen, now);
}

/* Does a limit refuse what does not fit? */
static bool
refuses(const LlmqLimit *limit, int64 requested)
{
	const LlmqBudget *budget = limit->quota->budget;

	if (!limit->enforced || budget == NULL)
		return limit->enforced;
	return budget->hard_stop && !(budget->free_when_spent && requested == 0);
}

/* How much has to be left for a request: with a budget, what costs nothing needs something to be left, too. */
static int64
needed_by(const LlmqLimit *limit, int64 requested)
{
	return limit->quota->budget == NULL ? requested : Max(requested, 1);
}

/*
 * When a request fits, if debts are carried on: the period after this one may begin with a debt, too, which each pays
 * back by as much as it could spend. Nobody knows here how long each will be.
 */
static int64
debt_paid(const LlmqLimit *limit, const LlmqWindow *window, int64 requested, int64 next)
{
	const LlmqQuota *quota = limit->quota;
	int128		lacking = (int128) window->sum + requested - quota->amount;
	int64		longer;

	if (quota->budget == NULL || !quota->budget->carry_debt || quota->amount == 0 || next == LLMQ_WHEN_NEVER)
		return next;
	if (pg_mul_s64_overflow((int64) ((lacking - 1) / quota->amount), llmq_period_mean(quota->unit), &longer) ||
		pg_add_s64_overflow(next, longer, &next))
		return LLMQ_WHEN_NEVER;
	return next;
}

static void
check_limit(LlmqVerdict *verdict, const LlmqLimit *limit, const LlmqWindow *window, const LlmqMeterState *state,
			const LlmqDemand *demand, int64 now)
{
	int64		whole = llmq_limit_amount(limit, now);
	int64		amount = usable_amount(limit, whole, demand->high_priority);
	int64		requested = requested_of(limit, &demand->use);
	LlmqVerdict refusal = {
		.limit = limit,.amount = whole,.used = window->sum,.requested = requested,.headroom = 1
	};

	verdict->outdated |= steps_reached(limit, window->sum, now) > limit->acted_on;
	if (!refuses(limit, requested) || !llmq_window_begun(window))
		return;
	requested = needed_by(limit, requested);
	if (llmq_window_fits(window, amount, requested))
	{
		verdict->headroom = Min(verdict->headroom,
								(double) (llmq_window_left(window, amount) - requested) / (double) amount);
		return;
	}
	refusal.when = debt_paid(limit, window, requested, llmq_window_when(window, now, amount, requested));
	if (refusal.when == LLMQ_WHEN_UNKNOWN)
		refusal.when = estimate_return(window->sum, state, now);
	if (refusal.when == LLMQ_WHEN_NEVER && limit->quota->budget == NULL &&
		requested <= usable_amount(limit, limit->quota->amount, demand->high_priority))
		refusal.when = Max(limit->learned.observed_at + limit->learned_ttl, now + PROBE_WAIT);
	refusal.full = !llmq_window_fits(window, amount, 1);
	refusal.waiting = state == NULL ? 0 : state->waiting;
	refusal.pace = pace(limit->quota, state, amount, requested);
	add_verdict(verdict, &refusal);
}

/*
 * Asks every limit of a meter; adds what they say to the verdict. The private copy of its state is brought to the
 * clock; it is NULL for a meter that has counted nothing yet. Calendar shapes must not be stale.
 */
void
llmq_meter_check(LlmqMeter *meter, LlmqMeterState *copy, const LlmqDemand *demand, int64 now, LlmqVerdict *verdict)
{
	LlmqScope	scope = meter->subject->scope;
	bool		is_common = scope != LLMQ_SCOPE_ACCOUNT && scope != LLMQ_SCOPE_KEY;
	LlmqVerdict own;

	llmq_verdict_init(&own);
	for (int i = 0; i < meter->nlimits; i++)
	{
		LlmqWindow	empty;
		LlmqWindow *window = window_now(copy, &meter->limit[i], now, &empty);

		check_limit(&own, &meter->limit[i], window, copy, demand, now);
		meter->limit[i].seen = window->sum;
	}
	meter->seen_at = now;
	own.meter = meter;
	own.common = !own.admitted && is_common;
	/* nobody downgrades for what one key has spent: another one may serve */
	own.outdated &= is_common;
	if (!own.admitted || own.headroom < TIGHT_HEADROOM)
		meter->tight_until = now + TIGHT_FOR;
	add_verdict(verdict, &own);
}

/* How many more such calls the limits of a meter admit, by a copy of its state that has been brought to the clock. */
int64
llmq_meter_room(LlmqMeter *meter, LlmqMeterState *copy, const LlmqDemand *demand, int64 now)
{
	int64		room = PG_INT64_MAX;

	for (int i = 0; i < meter->nlimits; i++)
	{
		const LlmqLimit *limit = &meter->limit[i];
		int64		requested = requested_of(limit, &demand->use);
		LlmqWindow	empty;
		const LlmqWindow *window = window_now(copy, limit, now, &empty);
		int64		amount = usable_amount(limit, llmq_limit_amount(limit, now), demand->high_priority);

		if (refuses(limit, requested) && llmq_window_begun(window) && requested > 0)
			room = Min(room, Max(llmq_window_left(window, amount), 0) / requested);
	}
	return room;
}

/*
 * Is a look at the meter worth while before its lock, because it may refuse? A meter that had much left a moment ago is
 * only asked under the lock: reading it would get in the way of those who change it.
 */
bool
llmq_meter_is_tight(const LlmqMeter *meter, int64 now)
{
	return meter->id == 0 || meter->tight_until > now;
}

/*
 * Answers for a meter by what this backend saw of it a moment ago, the own charges since included. False when that is
 * too long ago, or too little was left to rely on it: then it has to be looked at.
 */
bool
llmq_meter_recall(const LlmqMeter *meter, const LlmqDemand *demand, int64 now, LlmqVerdict *verdict)
{
	double		headroom = verdict->headroom;

	if (meter->id == 0 || now < meter->seen_at || now - meter->seen_at >= SEEN_FOR || llmq_meter_stale(meter, now))
		return false;
	for (int i = 0; i < meter->nlimits; i++)
	{
		const LlmqLimit *limit = &meter->limit[i];
		double		amount = usable_amount(limit, llmq_limit_amount(limit, now), demand->high_priority);
		int64		requested = requested_of(limit, &demand->use);
		double		used = (double) limit->seen + needed_by(limit, requested);

		if (!refuses(limit, requested))
			continue;
		if (amount - used < amount * TIGHT_HEADROOM)
			return false;
		headroom = Min(headroom, (amount - used) / amount);
	}
	verdict->headroom = headroom;
	return true;
}

/* Has a limit of the meter no room for another call, by what this backend has just seen of it? */
bool
llmq_meter_is_full(const LlmqMeter *meter, int64 now)
{
	for (int i = 0; i < meter->nlimits; i++)
		if (refuses(&meter->limit[i], 1) && meter->limit[i].seen >= llmq_limit_amount(&meter->limit[i], now))
			return true;
	return false;
}

/*
 * Refuses for a meter for which others wait: whoever does not would overtake them. What is left there is for them, so
 * it is as good as full.
 */
void
llmq_meter_bar(LlmqMeter *meter, int64 now, LlmqVerdict *verdict)
{
	LlmqScope	scope = meter->subject->scope;
	const LlmqLimit *limit = &meter->limit[0];
	LlmqVerdict barred = {
		.full = true,.common = scope != LLMQ_SCOPE_ACCOUNT && scope != LLMQ_SCOPE_KEY,.headroom = 1,
		.when = now + UNKNOWN_CALL,.meter = meter,.limit = limit,.amount = llmq_limit_amount(limit, now),
		.used = limit->seen
	};

	add_verdict(verdict, &barred);
}

/* Has the clock left the periods that the plan knows? Then locks have to be released and the plan refreshed. */
bool
llmq_meter_stale(const LlmqMeter *meter, int64 now)
{
	for (int i = 0; i < meter->nlimits; i++)
		if (llmq_window_stale(&meter->limit[i].shape, now))
			return true;
	return false;
}

/* The limit that a window counts for; NULL when the plan has none. */
static LlmqLimit *
limit_of(const LlmqMeter *meter, const LlmqWindow *window)
{
	for (int i = 0; i < meter->nlimits; i++)
		if (llmq_window_same_shape(window, &meter->limit[i].shape))
			return &meter->limit[i];
	return NULL;
}

/*
 * Does a window stay that is in none of the plan's quotas? Others may have a newer plan than this call, which has begun
 * the window; and a change of the configuration that this transaction has made may still be rolled back. What stays
 * counts this call like any other window, so that every window of a meter counts every lease since it began.
 */
static bool
stays_unplanned(const LlmqWindow *window, const LlmqDemand *demand, int64 now)
{
	LlmqWindowShape shape;

	llmq_window_shape_of(window, &shape);
	return !llmq_window_stale(&shape, now) && (demand->tentative || now - window->began_at < STALE_PLAN_FOR);
}

/*
 * The bytes that a state needs for the plan's windows and for those that stay without being in it. (When even the
 * largest meter has no room for them, they go.)
 */
int
llmq_meter_bytes_needed(const LlmqMeter *meter, const LlmqMeterState *state, const LlmqDemand *demand, int64 now)
{
	int			planned = 0;
	int			kept = 0;
	LlmqWindow *window;

	for (int i = 0; i < meter->nlimits; i++)
		planned += llmq_window_size(meter->limit[i].shape.kind);
	for (window = state == NULL ? NULL : llmq_meter_first(state); window != NULL;
		 window = llmq_meter_next(state, window))
		if (limit_of(meter, window) == NULL && stays_unplanned(window, demand, now))
			kept += llmq_window_size(window->kind);
	return planned + kept <= LLMQ_METER_MOST_BYTES ? planned + kept : planned;
}

/* Takes out windows whose quotas are gone, by moving the others together; those that would stay only if `all`. */
static void
drop_unplanned(const LlmqMeter *meter, LlmqMeterState *state, const LlmqDemand *demand, int64 now, bool all)
{
	char	   *from = state->windows;
	char	   *to = state->windows;
	char	   *end = state->windows + state->used;

	while (from < end)
	{
		LlmqWindow *window = (LlmqWindow *) from;
		int			size = llmq_window_size(window->kind);

		if (limit_of(meter, window) != NULL || (!all && stays_unplanned(window, demand, now)))
		{
			memmove(to, from, size);
			to += size;
		}
		from += size;
	}
	state->used = to - state->windows;
}

/* Begins the window of a limit; the state has room. */
static void
begin_window(LlmqMeterState *state, const LlmqLimit *limit, int64 now)
{
	LlmqWindow *window = (LlmqWindow *) (state->windows + state->used);

	state->used += llmq_window_size(limit->shape.kind);
	state->generation++;
	llmq_window_init(window, &limit->shape, state->generation, now, LLMQ_WINDOW_SEEDING);
}

/* Are the windows of a state those of the plan? If not, says how many bytes the missing ones take. */
static bool
is_planned(const LlmqMeter *meter, const LlmqMeterState *state, int *missing)
{
	int			n = 0;

	*missing = 0;
	for (const LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		n++;
	for (int i = 0; i < meter->nlimits; i++)
		if (find_window(state, &meter->limit[i].shape) == NULL)
			*missing += llmq_window_size(meter->limit[i].shape.kind);
	return *missing == 0 && n == meter->nlimits;
}

/* Begins the windows of the plan that are missing, and takes out what does not stay. */
static void
reshape(const LlmqMeter *meter, LlmqMeterState *state, const LlmqDemand *demand, int64 now)
{
	int			missing;

	if (is_planned(meter, state, &missing))
		return;
	drop_unplanned(meter, state, demand, now, false);
	if (state->used + missing > state->room)
		drop_unplanned(meter, state, demand, now, true);
	for (int i = 0; i < meter->nlimits; i++)
		if (find_window(state, &meter->limit[i].shape) == NULL)
			begin_window(state, &meter->limit[i], now);
}

/* What a window counts may change with its quota; what it has counted differently stays for a while. */
static void
set_counting(LlmqWindow *window, uint8 counting)
{
	const uint8 state = LLMQ_WINDOW_SEEDING | LLMQ_WINDOW_LOOSE | LLMQ_WINDOW_ALERT | LLMQ_WINDOW_CARRIED;

	if ((window->flags & ~state) == counting)
		return;
	window->flags = (window->flags & state) | counting;
	if (window->sum > 0)
		llmq_window_loosen(window);
}

/* Brings all windows to the clock. A new generation begins when one of them had to be moved back. */
static void
advance_windows(const LlmqMeter *meter, LlmqMeterState *state, int64 now)
{
	bool		moved_back = false;

	for (LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
	{
		const LlmqLimit *limit = limit_of(meter, window);
		LlmqWindowShape shape;

		if (limit == NULL)
			llmq_window_shape_of(window, &shape);
		if (limit != NULL)
			moved_back |= llmq_limit_advance(limit, window, now, state->generation);
		else
			moved_back |= llmq_window_advance(window, &shape, now, state->generation);
		if (limit != NULL)
			set_counting(window, limit->quota->window_flags);
	}
	if (moved_back)
		state->generation++;
}

/*
 * Charges a use to every window, admitted or not, and returns the generation for the lease's slot to remember. Observed
 * limits that would have refused count that.
 */
uint32
llmq_meter_charge(LlmqMeter *meter, LlmqMeterState *state, const LlmqDemand *demand, int64 now)
{
	int64		expiry = now + demand->lease_ttl;

	reshape(meter, state, demand, now);
	advance_windows(meter, state, now);
	for (LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
	{
		LlmqLimit  *limit = limit_of(meter, window);
		int64		requested = llmq_use_counted(&demand->use, window->metric, window->flags, window->quota);
		int64		before;

		if (limit != NULL && !limit->enforced && !llmq_window_fits(window, llmq_limit_amount(limit, now), requested))
			llmq_window_refuse(window, false, 1);
		before = window->sum;
		(void) llmq_window_charge(window, now, requested);
		if (limit != NULL)
			limit->seen = window->sum;
		llmq_alert_charged(state, window, limit, before, now);
	}
	if (state->next_expiry <= now || expiry < state->next_expiry)
		state->next_expiry = expiry;
	state->waiting = 0;
	state->used_at = now;
	return state->generation;
}

/* Remembers how long calls take: a concurrency limit's only hint of when to come back. */
static void
note_duration(LlmqMeterState *state, int64 duration)
{
	if (duration <= 0)
		return;
	state->mean_call = state->mean_call == 0 ? duration :
		state->mean_call + (duration - state->mean_call) / MEAN_CALL_SHARE;
}

/*
 * Does a correction leave in a window what shows nowhere else? What is not given back was reserved, and the ledger has
 * that, but in money.
 */
static bool
loosens(const LlmqCorrection *correction, const LlmqWindow *window, int64 delta)
{
	if (delta < 0 && correction->only_more)
		return window->metric == LLMQ_METRIC_COST;
	return correction->loosens;
}

/* Changes what a lease is charged for, in every window that counted it. Needs no configuration: it may have changed. */
void
llmq_meter_correct(LlmqMeterState *state, const LlmqCorrection *correction)
{
	bool		moved_back = false;
	LlmqWindow *window;

	for (window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
	{
		LlmqWindowShape shape;
		int64		delta;

		llmq_window_shape_of(window, &shape);
		if (!llmq_window_stale(&shape, correction->now) && !(window->flags & LLMQ_WINDOW_CARRIES))
			moved_back |= llmq_window_advance(window, &shape, correction->now, state->generation);
		delta = llmq_use_counted(&correction->to, window->metric, window->flags, window->quota) -
			llmq_use_counted(&correction->from, window->metric, window->flags, window->quota);
		if (delta != 0 && loosens(correction, window, delta))
			llmq_window_loosen(window);
		if (correction->only_more)
			delta = Max(delta, 0);
		if (delta != 0)
			(void) llmq_window_correct(window, correction->picked_at, correction->generation, delta);
		if (delta > 0)
			llmq_alert_risen(state, window);
	}
	if (moved_back)
		state->generation++;
	if (correction->from.in_flight && !correction->to.in_flight && correction->to.request)
		note_duration(state, correction->now - correction->picked_at);
	state->used_at = correction->now;
}

/* Begins the windows of the plan that a state lacks, without charging them. False when it has too little room. */
bool
llmq_meter_begin(const LlmqMeter *meter, LlmqMeterState *state, int64 now)
{
	const LlmqDemand none = {0};

	if (llmq_meter_bytes_needed(meter, state, &none, now) > state->room)
		return false;
	reshape(meter, state, &none, now);
	advance_windows(meter, state, now);
	return true;
}

/*
 * How a limit stands to a demand at the clock, by a copy of its meter's state, NULL when it has none yet. The window of
 * `stand` has room for what it is. False: the limit refuses nothing.
 */
bool
llmq_meter_limit(const LlmqLimit *limit, LlmqMeterState *copy, const LlmqDemand *demand, int64 now,
				 LlmqLimitState *stand)
{
	LlmqWindow	empty;
	const LlmqWindow *window = window_now(copy, limit, now, &empty);

	memcpy(stand->window, window, llmq_window_size(window->kind));
	stand->requested = requested_of(limit, &demand->use);
	stand->amount = usable_amount(limit, llmq_limit_amount(limit, now), demand->high_priority);
	/* what costs nothing needs something to be left, too */
	if (limit->quota->budget != NULL && stand->requested == 0)
		stand->amount--;
	return refuses(limit, stand->requested);
}
