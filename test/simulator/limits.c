/*
 * limits.c
 *	  The kinds of limits that providers enforce, each exact to a microsecond.
 *
 * Nothing here is taken from the extension, whose windows are judged by these:
 * a sliding window remembers every charge, a bucket is one fraction, and a
 * period is its end.  A charge at t counts in a sliding window until t plus
 * the length, not included.
 *
 * A charge is made without asking whether it fits: that is for the caller to
 * do first, for all limits of a call.  So a limit can be in debt, when a call
 * produced more than was known, and refuses until it is paid back.
 *
 * Functions on a plain struct, without locks and without a clock of their own.
 * Amounts times lengths stay below 2^63: 10^10 tokens a minute do.
 */
#include "limits.h"

#include <stdlib.h>
#include <string.h>

#include "day.h"

static int64_t
next_end(const SimLimit *limit, int64_t now)
{
	if (limit->length == 0)
		return sim_next_midnight(limit->zone, now);
	if (limit->end == 0)
		return (now / limit->length + 1) * limit->length;
	return limit->end + ((now - limit->end) / limit->length + 1) * limit->length;
}

static bool
has_periods(const SimLimit *limit)
{
	return limit->kind == SIM_FIXED || limit->kind == SIM_DAY;
}

/*
 * Begin with nothing used.  Kind, amount, length, zone and burst have been
 * set, and the end too where it is not to be found by the clock.
 */
void
sim_limit_init(SimLimit *limit, int64_t now)
{
	if (has_periods(limit) && limit->end == 0)
		limit->end = next_end(limit, now);
	limit->used = 0;
	limit->credit = limit->burst * limit->length;
	limit->updated = now;
	limit->entries = NULL;
	limit->capacity = limit->first = limit->next = 0;
}

void
sim_limit_free(SimLimit *limit)
{
	free(limit->entries);
}

static void
refill(SimLimit *limit, int64_t now)
{
	int64_t		full = limit->burst * limit->length;
	int64_t		elapsed = now - limit->updated;

	if (elapsed <= 0)
		return;
	limit->updated = now;
	if (limit->amount == 0)
		return;
	if (elapsed > (full - limit->credit) / limit->amount)
		limit->credit = full;
	else
		limit->credit += elapsed * limit->amount;
}

static SimEntry *
entry(const SimLimit *limit, int64_t number)
{
	return &limit->entries[number % limit->capacity];
}

static void
forget_old(SimLimit *limit, int64_t now)
{
	while (limit->first < limit->next && entry(limit, limit->first)->at + limit->length <= now)
		limit->used -= entry(limit, limit->first++)->amount;
}

void
sim_limit_advance(SimLimit *limit, int64_t now)
{
	if (limit->kind == SIM_BUCKET)
		refill(limit, now);
	else if (limit->kind == SIM_SLIDING)
		forget_old(limit, now);
	else if (has_periods(limit) && now >= limit->end)
	{
		limit->end = next_end(limit, now);
		limit->used = 0;
	}
}

bool
sim_limit_fits(const SimLimit *limit, int64_t requested)
{
	if (limit->kind == SIM_BUCKET)
		return limit->credit >= requested * limit->length;
	return limit->used + requested <= limit->amount;
}

/*
 * What counts now.  Of a bucket: what it lacks, rounded up.
 */
int64_t
sim_limit_used(const SimLimit *limit)
{
	if (limit->kind != SIM_BUCKET)
		return limit->used;
	return (limit->burst * limit->length - limit->credit + limit->length - 1) / limit->length;
}

int64_t
sim_limit_left(const SimLimit *limit)
{
	int64_t		left = (limit->kind == SIM_BUCKET ? limit->burst : limit->amount) - sim_limit_used(limit);

	return left > 0 ? left : 0;
}

/* In how long enough of a sliding window will have been forgotten. */
static int64_t
wait_for_old(const SimLimit *limit, int64_t now, int64_t excess)
{
	for (int64_t number = limit->first; number < limit->next; number++)
	{
		excess -= entry(limit, number)->amount;
		if (excess <= 0)
			return entry(limit, number)->at + limit->length - now;
	}
	return SIM_NEVER;
}

static int64_t
wait_for_credit(const SimLimit *limit, int64_t credit)
{
	if (limit->amount == 0)
		return SIM_NEVER;
	return (credit - limit->credit + limit->amount - 1) / limit->amount;
}

/*
 * In how many microseconds it will fit, if nothing else comes: 0 if it does
 * now.  Nobody knows when a call in flight ends: 1 second is as good as any.
 */
int64_t
sim_limit_wait(const SimLimit *limit, int64_t now, int64_t requested)
{
	if (sim_limit_fits(limit, requested))
		return 0;
	if (requested > (limit->kind == SIM_BUCKET ? limit->burst : limit->amount))
		return SIM_NEVER;
	switch (limit->kind)
	{
		case SIM_BUCKET:
			return wait_for_credit(limit, requested * limit->length);
		case SIM_SLIDING:
			return wait_for_old(limit, now, limit->used + requested - limit->amount);
		case SIM_CONCURRENCY:
			return 1000000;
		default:
			return limit->end - now;
	}
}

/*
 * In how many microseconds it will be as if nothing had been used.
 */
int64_t
sim_limit_empty_after(const SimLimit *limit, int64_t now)
{
	if (sim_limit_used(limit) == 0)
		return 0;
	switch (limit->kind)
	{
		case SIM_BUCKET:
			return wait_for_credit(limit, limit->burst * limit->length);
		case SIM_SLIDING:
			return entry(limit, limit->next - 1)->at + limit->length - now;
		case SIM_CONCURRENCY:
			return 1000000;
		default:
			return limit->end - now;
	}
}

static void
grow(SimLimit *limit)
{
	int64_t		capacity = limit->capacity == 0 ? 64 : 2 * limit->capacity;
	SimEntry   *entries = malloc(capacity * sizeof(SimEntry));

	if (entries == NULL)
		abort();
	for (int64_t number = limit->first; number < limit->next; number++)
		entries[number % capacity] = *entry(limit, number);
	free(limit->entries);
	limit->entries = entries;
	limit->capacity = capacity;
}

/* The change of what counts now, wherever it is kept. */
static void
add(SimLimit *limit, int64_t amount)
{
	if (limit->kind == SIM_BUCKET)
		limit->credit -= amount * limit->length;
	else
		limit->used += amount;
}

SimCharge
sim_limit_charge(SimLimit *limit, int64_t now, int64_t requested)
{
	SimCharge	charge = {.amount = requested, .entry = limit->next, .end = limit->end};

	if (limit->kind == SIM_SLIDING)
	{
		if (limit->next - limit->first == limit->capacity)
			grow(limit);
		*entry(limit, limit->next++) = (SimEntry) {.at = now, .amount = requested};
	}
	add(limit, requested);
	return charge;
}

/*
 * Make a charge what it would have been with another amount.  One that does
 * not count any more is left.
 */
void
sim_limit_correct(SimLimit *limit, SimCharge *charge, int64_t amount)
{
	int64_t		change = amount - charge->amount;

	if (limit->kind == SIM_SLIDING && charge->entry < limit->first)
		return;
	if (has_periods(limit) && charge->end != limit->end)
		return;
	if (limit->kind == SIM_SLIDING)
		entry(limit, charge->entry)->amount = amount;
	add(limit, change);
	if (limit->kind == SIM_BUCKET && limit->credit > limit->burst * limit->length)
		limit->credit = limit->burst * limit->length;
	charge->amount = amount;
}
