/*
 * window.c
 *	  Windows: the live counters of one limit, as pure functions.
 *
 * Protocol.  The caller holds the meter's page, or a copy of it, and has read
 * the clock once, after its last lock; that instant is "now" here, the pick's
 * granted_at and every picked_at.  Whatever it does with a window, it first
 * sees that the shape is not stale and calls llmq_window_advance.  Nothing
 * here calls the server, so nothing raises: numbers that would overflow stop
 * at the end of their range, and what was really applied is returned.
 *
 * Sliding.  Time is cut into buckets of 1/60 of the length, rounded up to a
 * microsecond; bucket n holds what was picked while floor(time / span) = n.
 * The ring holds the newest bucket, the head, and the 60 before it.  A bucket
 * leaves whole, 60 buckets after its own end, so nothing leaves before the
 * length has passed, and nothing stays longer than 61 buckets.  Hence
 *
 *		For every closed interval of the window's length, the sum of what
 *		was picked in it is at most the amount; a caller that always asks,
 *		with requests small against the amount, gets the amount once in
 *		every 61 buckets, that is 60/61 of it per length.
 *
 * The clock may step back.  By no more than into the bucket before the head:
 * that bucket is still in the ring and is charged.  Further: the ring moves
 * back as it is, its head to the bucket after the clock's.  (Not to the
 * clock's own: a charge at the end of its bucket, moved to the end of another
 * one, would leave up to a bucket too early.)  All in it ages again from
 * there, and refunds of picks made before are void, for their buckets have
 * other numbers now.  So with a clock that steps back the promise holds for
 * intervals measured by the clock's forward movement, and a charge stays at
 * most two buckets longer than it would have.
 *
 * Calendar.  The sum of one period; only a later period replaces it, so a
 * clock that steps back goes on counting in the period it had reached.
 *
 * Concurrency.  The sum of what is in flight; the clock has no part in it.
 *
 * Loose.  Whoever compares a window with what is known of its leases needs to
 * know when that cannot come out even: when charges have moved with the ring,
 * or count in a period that they were not made in, or when its owner says so.
 * The mark goes when all of that must have left.
 *
 * Alerts.  Somebody is told when a use is reached; which one is next is kept in
 * the window, so that whoever raises the use, with the configuration at hand or
 * without, can say that it is time to look.  A new period does not know it.
 *
 * Debt.  An excess over the reservation always goes to the head, even past
 * the amount.  A refund goes to the bucket of its pick or nowhere.
 */
#include "postgres.h"

#include "common/int.h"
#include "port/pg_bitutils.h"

#include "window.h"

StaticAssertDecl(LLMQ_WINDOW_HEAD_SIZE == 80, "LlmqWindow has padding before its buckets");
StaticAssertDecl(sizeof(LlmqWindow) == 80 + 8 * LLMQ_BUCKETS, "LlmqWindow has padding");
StaticAssertDecl(8 * sizeof(LlmqWindow) <= 8192 - 1024, "eight windows do not fit a page with room to spare");

/*
 * The number of the bucket that an instant belongs to: floor(at / span).
 */
static int64
bucket_number(int64 at, int64 span)
{
	return at / span - (at % span < 0 ? 1 : 0);
}

/*
 * a + b, at most PG_INT64_MAX, for b >= 0.
 */
static int64
add_saturated(int64 a, int64 b)
{
	int64		sum;

	return pg_add_s64_overflow(a, b, &sum) ? PG_INT64_MAX : sum;
}

/*
 * The length of a bucket: (length + slack) / 60, rounded up.
 */
int64
llmq_window_span(int64 length, int64 slack)
{
	int64		whole = add_saturated(Max(length, 1), Max(slack, 0));

	return whole / (LLMQ_BUCKETS - 1) + (whole % (LLMQ_BUCKETS - 1) != 0);
}

/*
 * Is the clock outside the two periods the shape knows?  Then the caller has
 * to let go of its locks and ask llmq_zone_period again.
 */
bool
llmq_window_stale(const LlmqWindowShape *shape, int64 now)
{
	return shape->kind == LLMQ_WINDOW_CALENDAR &&
		(now < shape->period.start || now >= shape->period.next_end);
}

/*
 * The shape a window has, as far as it knows: for whoever settles a lease and
 * has no configuration at hand.  Stale when the window doesn't know the period
 * after its own.
 */
void
llmq_window_shape_of(const LlmqWindow *window, LlmqWindowShape *shape)
{
	shape->quota = window->quota;
	shape->kind = window->kind;
	shape->metric = window->metric;
	shape->unit = window->unit;
	shape->zone = window->zone;
	shape->span = window->span;
	shape->period.start = window->head;
	shape->period.end = add_saturated(window->head, window->span);
	shape->period.next_end = add_saturated(shape->period.end, window->next_span);
}

/*
 * Is the window what the configuration wants?  If not, its owner raises the
 * meter's generation and begins it anew.  The amount is not part of a shape.
 */
bool
llmq_window_same_shape(const LlmqWindow *window, const LlmqWindowShape *shape)
{
	if (window->quota != shape->quota ||
		window->kind != shape->kind ||
		window->metric != shape->metric)
		return false;

	switch (shape->kind)
	{
		case LLMQ_WINDOW_SLIDING:
			return window->span == shape->span;
		case LLMQ_WINDOW_CALENDAR:
			return window->unit == shape->unit && window->zone == shape->zone;
		default:
			return true;
	}
}

/*
 * Mark a window as loose until all that it may hold by now has left.
 */
void
llmq_window_loosen(LlmqWindow *window)
{
	if (window->kind == LLMQ_WINDOW_SLIDING)
	{
		int64		until = add_saturated(window->head, LLMQ_BUCKETS);

		if (!(window->flags & LLMQ_WINDOW_LOOSE) || until > window->next_span)
			window->next_span = until;
	}
	window->flags |= LLMQ_WINDOW_LOOSE;
}

/*
 * Enter the shape's current period, or its next one, when that is later than
 * the window's.
 */
static void
advance_calendar(LlmqWindow *window, const LlmqPeriod *period, int64 now)
{
	int64		start = now < period->end ? period->start : period->end;
	int64		end = now < period->end ? period->end : period->next_end;

	if (start < window->head)
	{
		llmq_window_loosen(window);
		return;
	}
	if (start > window->head)
	{
		window->sum = 0;
		window->next_span = 0;
		window->rebased = 0;
		window->flags &= ~(LLMQ_WINDOW_LOOSE | LLMQ_WINDOW_ALERT | LLMQ_WINDOW_CARRIED);
	}
	window->head = start;
	window->span = end - start;
	if (now < period->end)
		window->next_span = period->next_end - period->end;
}

/*
 * Begin to count at zero, for picks of this generation of the meter and later
 * ones.  The window is at the clock afterwards.
 */
void
llmq_window_init(LlmqWindow *window, const LlmqWindowShape *shape,
				 uint32 generation, int64 now, uint8 flags)
{
	memset(window, 0, LLMQ_WINDOW_HEAD_SIZE);
	window->quota = shape->quota;
	window->kind = shape->kind;
	window->metric = shape->metric;
	window->flags = flags;
	window->since = generation;
	window->rebased = generation;
	window->began_at = now;

	if (shape->kind == LLMQ_WINDOW_SLIDING)
	{
		memset(window->bucket, 0, sizeof(window->bucket));
		window->span = Max(shape->span, 1);
		window->head = bucket_number(now, window->span);
	}
	else if (shape->kind == LLMQ_WINDOW_CALENDAR)
	{
		window->unit = shape->unit;
		window->zone = shape->zone;
		window->rebased = 0;
		window->head = PG_INT64_MIN;
		advance_calendar(window, &shape->period, now);
	}
}

/*
 * Bring a sliding window to the clock.  True when the ring had to move back.
 */
static bool
advance_sliding(LlmqWindow *window, int64 now)
{
	int64		number = bucket_number(now, window->span);
	int64		steps;

	if (pg_sub_s64_overflow(number, window->head, &steps))
		steps = number < window->head ? -LLMQ_BUCKETS : LLMQ_BUCKETS;

	if (steps >= LLMQ_BUCKETS)
	{
		memset(window->bucket, 0, sizeof(window->bucket));
		window->sum = 0;
		window->head = number;
		return false;
	}

	for (; steps > 0; steps--)
	{
		int64	   *oldest = &window->bucket[llmq_bucket_place(++window->head)];

		window->sum -= *oldest;
		*oldest = 0;
	}
	return steps < -1;
}

/*
 * Move a ring back as it is, so that its head is the bucket after the clock's.
 */
static void
move_back(LlmqWindow *window, int64 now)
{
	int64		number = bucket_number(now, window->span) + 1;
	int64		moved[LLMQ_BUCKETS];

	for (int age = 0; age < LLMQ_BUCKETS; age++)
		moved[age] = window->bucket[llmq_bucket_place(window->head - age)];
	for (int age = 0; age < LLMQ_BUCKETS; age++)
		window->bucket[llmq_bucket_place(number - age)] = moved[age];
	window->head = number;
}

/*
 * Bring a window to the clock.  The shape is the window's and not stale;
 * generation is the meter's present one.
 *
 * True when the clock had stepped back so far that the ring was moved.  Every
 * pick up to now is of this generation or an older one, and its refund has
 * become void.  Before it goes on, the caller has to raise the meter's
 * generation by one (once, however many of its windows say so), so that the
 * picks from now on are of a newer one and their refunds are honoured.
 */
bool
llmq_window_advance(LlmqWindow *window, const LlmqWindowShape *shape,
					int64 now, uint32 generation)
{
	if (window->kind == LLMQ_WINDOW_CALENDAR)
		advance_calendar(window, &shape->period, now);

	if (window->kind != LLMQ_WINDOW_SLIDING)
		return false;
	if (advance_sliding(window, now))
	{
		llmq_window_loosen(window);
		move_back(window, now);
		window->rebased = generation + 1;
		return true;
	}
	if ((window->flags & LLMQ_WINDOW_LOOSE) && window->head >= window->next_span)
	{
		window->flags &= ~LLMQ_WINDOW_LOOSE;
		window->next_span = 0;
	}
	return false;
}

/*
 * Has the window begun?  Only a total may begin later than it is counted in,
 * and until then it is in a period that has an end; nobody should be refused
 * for what is used in that.
 */
bool
llmq_window_begun(const LlmqWindow *window)
{
	return window->kind != LLMQ_WINDOW_CALENDAR ||
		llmq_unit_calendar(window->unit) != LLMQ_CALENDAR_TOTAL ||
		add_saturated(window->head, window->span) == LLMQ_WHEN_NEVER;
}

/*
 * Would the amount admit the request now?  An amount of zero never does, not
 * even a request of zero.
 */
bool
llmq_window_fits(const LlmqWindow *window, int64 amount, int64 requested)
{
	int64		sum;

	return amount > 0 &&
		!pg_add_s64_overflow(window->sum, Max(requested, 0), &sum) &&
		sum <= amount;
}

/*
 * How much the amount would admit now; never negative, debt or not.
 */
int64
llmq_window_left(const LlmqWindow *window, int64 amount)
{
	return amount > window->sum ? amount - window->sum : 0;
}

/*
 * The instant at which enough of the oldest buckets will have left for the sum
 * to be no more than the target.  A bucket leaves when the bucket 61 later
 * begins.
 */
static int64
when_sum_falls_to(const LlmqWindow *window, int64 target)
{
	int64		sum = window->sum;
	int64		head = window->head;
	int64		begins;

	while (sum > target && head < window->head + LLMQ_BUCKETS)
		sum -= window->bucket[llmq_bucket_place(++head)];

	return pg_mul_s64_overflow(head, window->span, &begins) ? LLMQ_WHEN_NEVER : begins;
}

/*
 * The earliest instant at which the request will fit if nothing else is
 * charged: now, if it does already; LLMQ_WHEN_NEVER, if it is larger than the
 * amount or that is zero; LLMQ_WHEN_UNKNOWN, if it waits for calls in flight.
 */
int64
llmq_window_when(const LlmqWindow *window, int64 now, int64 amount, int64 requested)
{
	requested = Max(requested, 0);
	if (amount <= 0 || requested > amount)
		return LLMQ_WHEN_NEVER;
	if (llmq_window_fits(window, amount, requested))
		return now;

	switch (window->kind)
	{
		case LLMQ_WINDOW_SLIDING:
			return when_sum_falls_to(window, amount - requested);
		case LLMQ_WINDOW_CALENDAR:
			return add_saturated(window->head, window->span);
		default:
			return LLMQ_WHEN_UNKNOWN;
	}
}

/*
 * The number of the bucket of a sliding window that an instant belongs to.
 */
int64
llmq_window_bucket(const LlmqWindow *window, int64 at)
{
	return bucket_number(at, window->span);
}

/*
 * What a sliding window counts that is in this bucket or a newer one: so much
 * will still count in the bucket 60 later, if nothing else is charged.
 */
int64
llmq_window_held(const LlmqWindow *window, int64 number)
{
	int64		held = 0;

	if (number <= window->head - LLMQ_BUCKETS + 1)
		return window->sum;
	for (; number <= window->head; number++)
		held += window->bucket[llmq_bucket_place(number)];
	return held;
}

/*
 * Add to the sum, and to one of the buckets if the window has any, as much as
 * 64 bits have room for.  When that is less, the window no longer knows what
 * its leases add up to.
 */
static int64
add_to_bucket(LlmqWindow *window, int64 number, int64 value)
{
	int64		applied = window->sum < 0 ? value : Min(value, PG_INT64_MAX - window->sum);

	if (applied < value)
		llmq_window_loosen(window);
	window->sum += applied;
	if (window->kind == LLMQ_WINDOW_SLIDING)
		window->bucket[llmq_bucket_place(number)] += applied;
	return applied;
}

/*
 * Count a pick made now, whether it fits or not.  Returns what was counted.
 */
int64
llmq_window_charge(LlmqWindow *window, int64 now, int64 requested)
{
	int64		number = window->kind == LLMQ_WINDOW_SLIDING ? bucket_number(now, window->span) : 0;

	return add_to_bucket(window, number, Max(requested, 0));
}

/*
 * Where a pick of this window still counts: its bucket, or the sum of its
 * period or of what is in flight.  NULL when its bucket or period is gone, or
 * has moved.
 */
static int64 *
find_pick(LlmqWindow *window, int64 picked_at, uint32 pick_generation)
{
	int64		number;
	int64		age;

	switch (window->kind)
	{
		case LLMQ_WINDOW_SLIDING:
			number = bucket_number(picked_at, window->span);
			if (pick_generation < window->rebased ||
				pg_sub_s64_overflow(window->head, number, &age) ||
				age < 0 || age >= LLMQ_BUCKETS)
				return NULL;
			return &window->bucket[llmq_bucket_place(number)];
		case LLMQ_WINDOW_CALENDAR:
			if (picked_at < window->head ||
				picked_at >= add_saturated(window->head, window->span))
				return NULL;
			return &window->sum;
		default:
			return &window->sum;
	}
}

/*
 * Take back from where a pick counts as much as is there.
 */
static int64
refund(LlmqWindow *window, int64 *counted, int64 delta)
{
	/* what was handed on by the period before may have the sum begin below zero */
	int64		applied = (window->flags & LLMQ_WINDOW_CARRIES) ? delta : Max(delta, -*counted);

	*counted += applied;
	if (counted != &window->sum)
		window->sum += applied;
	return applied;
}

/*
 * Correct what a pick was charged, and return what was really applied.
 *
 * More than it was charged goes to the head, past the amount if need be.  Less
 * goes to the bucket or period of the pick, which never falls below zero, and
 * is void when that is gone.  A pick that this window never counted changes
 * nothing.
 */
int64
llmq_window_correct(LlmqWindow *window, int64 picked_at, uint32 pick_generation, int64 delta)
{
	int64	   *counted;

	if (pick_generation < window->since)
		return 0;
	if (delta >= 0)
		return add_to_bucket(window, window->head, delta);

	counted = find_pick(window, picked_at, pick_generation);
	return counted != NULL ? refund(window, counted, delta) : 0;
}

/*
 * Count what was used at an instant before now and not counted then: in the
 * bucket or period of that time, unless that is gone.  Where the ring has
 * moved since, nobody knows any more which bucket that is, and it counts as
 * used now.  Returns what was really counted.
 */
int64
llmq_window_add_earlier(LlmqWindow *window, int64 at, int64 used)
{
	int64		number = window->head;

	if (used <= 0)
		return 0;
	if (window->kind == LLMQ_WINDOW_SLIDING && window->rebased == window->since)
		number = Min(number, bucket_number(at, window->span));
	if (window->kind == LLMQ_WINDOW_SLIDING && window->head - number >= LLMQ_BUCKETS)
		return 0;
	if (window->kind == LLMQ_WINDOW_CALENDAR &&
		(at < window->head || at >= add_saturated(window->head, window->span)))
		return 0;
	return add_to_bucket(window, number, used);
}

/*
 * Count refusals, or what would have been refusals if the window only observes.
 */
void
llmq_window_refuse(LlmqWindow *window, bool enforced, int64 times)
{
	int64	   *count = enforced ? &window->refused : &window->would_refuse;

	*count = add_saturated(*count, times);
}

/*
 * A use in 32 bits, rounded down: its first 26 binary digits, and how many
 * follow.
 */
#define ALERT_DIGITS 26

static uint32
pack_use(int64 use)
{
	int			behind = 0;

	if (use <= 0)
		return 0;
	if (use >> ALERT_DIGITS != 0)
		behind = pg_leftmost_one_pos64(use) + 1 - ALERT_DIGITS;
	return (uint32) behind << ALERT_DIGITS | (uint32) (use >> behind);
}

/*
 * Where it is: in a field that windows of this kind have no other use for.
 */
static uint32 *
alert_place(LlmqWindow *window)
{
	return window->kind == LLMQ_WINDOW_CALENDAR ? &window->rebased : &window->zone;
}

/*
 * The use from which on somebody has to look; 0 when nobody has said so far.
 */
int64
llmq_window_alert_from(const LlmqWindow *window)
{
	uint32		packed = *alert_place(unconstify(LlmqWindow *, window));

	return (int64) (packed & ((1 << ALERT_DIGITS) - 1)) << (packed >> ALERT_DIGITS);
}

/*
 * Is this what was said?
 */
bool
llmq_window_is_alert_from(const LlmqWindow *window, int64 use)
{
	return *alert_place(unconstify(LlmqWindow *, window)) == pack_use(use);
}

/*
 * Say from which use on somebody has to look: the least bit earlier at most.
 */
void
llmq_window_set_alert_from(LlmqWindow *window, int64 use)
{
	*alert_place(window) = pack_use(use);
}

/*
 * After the use has risen: mark a window that somebody has to look at.  True
 * when it was not marked before.
 */
bool
llmq_window_note_alert(LlmqWindow *window)
{
	if ((window->flags & LLMQ_WINDOW_ALERT) || window->kind == LLMQ_WINDOW_CONCURRENCY ||
		window->sum < llmq_window_alert_from(window))
		return false;
	window->flags |= LLMQ_WINDOW_ALERT;
	return true;
}
