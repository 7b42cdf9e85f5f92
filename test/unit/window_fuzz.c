/*
 * window_fuzz.c
 *	  Random steps on windows, beside an oracle that keeps every event.
 *
 *		window_fuzz [--seed N] [--steps N]
 *
 *	links: src/window.c src/calendar.c
 *
 * A world is one window and, beside it, a list of everything it was ever
 * charged, from which the oracle computes by plain addition what must count.
 * Its caller picks, records, and sees a clock that stands still, runs, jumps
 * and steps back.  In a tame world callers behave: they charge what fits and
 * never give back more than they took; there the promise of window.c is
 * checked too, at every admission.  (That proves it for every interval: the
 * last admission in an interval sees all others in it, and later ones only
 * give back.)  Wild worlds do anything.
 */
#include "postgres.h"

#include <stdlib.h>

#include "tap.h"
#include "window.h"

#define STEPS_OF_A_WORLD 1000

enum
{
	SUM_SLIDING, SUM_CALENDAR, SUM_CONCURRENCY, WHOLE, MOVED, APPLIED, FITS, WHEN, NEVER_OVER, NEVER_OVER_BACK,
	PERIOD, LEAVES, REFUSED, PROMISES
};

static Promise promises[PROMISES] = {
	[SUM_SLIDING] = {"a sliding window counts what the oracle counts"},
	[SUM_CALENDAR] = {"a calendar window counts what the oracle counts"},
	[SUM_CONCURRENCY] = {"a concurrency window counts what the oracle counts"},
	[WHOLE] = {"the sum is that of the buckets, and none is negative"},
	[MOVED] = {"the ring moves back exactly when the clock is behind the bucket before the head"},
	[APPLIED] = {"a correction applies exactly what the oracle applies"},
	[FITS] = {"a request fits exactly when the oracle has room for it"},
	[WHEN] = {"at the instant of llmq_window_when it fits, one microsecond before it does not"},
	[NEVER_OVER] = {"no closed interval of the length ever admits more than the amount"},
	[NEVER_OVER_BACK] = {"nor with a clock that steps back, by its forward movement"},
	[PERIOD] = {"no calendar period ever admits more than the amount"},
	[LEAVES] = {"nothing counts for longer than 61 buckets"},
	[REFUSED] = {"every refusal is counted"},
};

/* Something that was charged: a pick, or the debt of one. */
typedef struct Event
{
	bool		pick;
	bool		open;			/* not yet recorded */
	int64		picked_at;
	int64		forward;		/* the clock's forward movement until then */
	uint32		generation;
	int64		bucket;			/* bucket or period that it counts in */
	int64		counted;
	int64		reserved;
	int64		promised;		/* its share in the promise */
} Event;

typedef struct World
{
	LlmqWindow	window;
	LlmqWindowShape shape;
	int64		length;
	int64		span;			/* of a bucket, or of what the clock moves by */
	int64		amount;
	int64		now;
	int64		forward;
	int64		head;			/* bucket or period */
	uint32		generation;		/* of the meter */
	uint32		since;
	uint32		rebased;
	int64		refused;
	bool		tame;
	bool		steps_back;
	bool		stepped_back;
	int			events;
	Event		event[2 * STEPS_OF_A_WORLD];
} World;

static uint64 random_state;

/*
 * The next of a fixed sequence of random bits (splitmix64).
 */
static uint64
random_bits(void)
{
	uint64		z = (random_state += UINT64CONST(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64CONST(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

/* Uniform in [low, high]. */
static int64
random_between(int64 low, int64 high)
{
	return low + (int64) (random_bits() % ((uint64) (high - low) + 1));
}

/* Of every order of magnitude in [low, high] alike, low > 0. */
static int64
random_magnitude(int64 low, int64 high)
{
	int64		top = low;

	while (top < high / 2 && random_bits() % 16 != 0)
		top *= 2;
	return random_between(low, Min(2 * top, high));
}

static bool
one_in(int n)
{
	return random_bits() % n == 0;
}

/* Floor of a / b, in another way than window.c's. */
static int64
floor_of(int64 a, int64 b)
{
	return a >= 0 ? a / b : -((-a + b - 1) / b);
}

/*
 * The beginnings of irregular periods.
 */
static int64
period_begins(int64 length, int64 number)
{
	uint64		hash = (uint64) number * UINT64CONST(0x9E3779B97F4A7C15);

	return number * length + (int64) ((hash >> 40) % (length / 8));
}

static int64
period_number(int64 length, int64 at)
{
	int64		number = floor_of(at, length);

	return at < period_begins(length, number) ? number - 1 : number;
}

static LlmqPeriod
period_at(int64 length, int64 at)
{
	int64		number = period_number(length, at);

	return (LlmqPeriod) {period_begins(length, number), period_begins(length, number + 1),
						 period_begins(length, number + 2)};
}

static int64
oracle_number(const World *world, int64 at)
{
	switch (world->shape.kind)
	{
		case LLMQ_WINDOW_SLIDING:
			return floor_of(at, world->span);
		case LLMQ_WINDOW_CALENDAR:
			return period_number(world->length, at);
		default:
			return 0;
	}
}

static bool
oracle_counts(const World *world, const Event *event)
{
	int			kept = world->shape.kind == LLMQ_WINDOW_SLIDING ? 61 : 1;

	return event->bucket > world->head - kept;
}

static int64
oracle_sum(const World *world)
{
	int64		sum = 0;

	for (int i = 0; i < world->events; i++)
		if (oracle_counts(world, &world->event[i]))
			sum += world->event[i].counted;
	return sum;
}

/*
 * Bring the oracle to the clock; did everything move back?
 */
static bool
oracle_advance(World *world)
{
	int64		number = oracle_number(world, world->now);
	int64		shift = number + 1 - world->head;

	if (number > world->head)
		world->head = number;
	if (world->shape.kind != LLMQ_WINDOW_SLIDING || shift >= 0)
		return false;

	for (int i = 0; i < world->events; i++)
		if (oracle_counts(world, &world->event[i]))
			world->event[i].bucket += shift;
		else
			world->event[i].counted = 0;
	world->head += shift;
	world->rebased = world->generation + 1;
	return true;
}

/*
 * Take back from the events of a bucket, the given one first.
 */
static int64
oracle_refund(World *world, Event *first, int64 delta)
{
	int64		number = oracle_number(world, first->picked_at);
	int64		wanted = -delta;

	if (world->shape.kind == LLMQ_WINDOW_SLIDING && first->generation < world->rebased)
		return 0;
	if (number > world->head)
		return 0;
	for (int i = -1; i < world->events; i++)
	{
		Event	   *event = i < 0 ? first : &world->event[i];
		int64		taken = Min(wanted, event->counted);

		if (event->bucket != number || !oracle_counts(world, event))
			continue;
		event->counted -= taken;
		wanted -= taken;
	}
	return delta + wanted;
}

static Event *
add_event(World *world, int64 counted)
{
	Event	   *event = &world->event[world->events++];

	memset(event, 0, sizeof(*event));
	event->counted = counted;
	event->bucket = world->head;
	event->picked_at = world->now;
	event->forward = world->forward;
	event->generation = world->generation;
	return event;
}

/*
 * Begin the window, or begin it anew.
 */
static void
begin(World *world)
{
	world->events = 0;
	world->generation++;
	world->since = world->rebased = world->generation;
	world->refused = 0;
	if (world->shape.kind == LLMQ_WINDOW_CALENDAR)
		world->shape.period = period_at(world->length, world->now);
	memset(&world->window, 0x55, sizeof(world->window));
	llmq_window_init(&world->window, &world->shape, world->generation, world->now, 0);
	world->head = oracle_number(world, world->now);
}

static void
create(World *world)
{
	static const int64 amounts[] = {1, 2, 60, 61, 1000, 1000000, INT64CONST(1000000000000)};

	memset(world, 0, offsetof(World, event));
	world->length = one_in(3) ? LLMQ_LENGTH_MIN * 60 : random_magnitude(LLMQ_LENGTH_MIN, LLMQ_LENGTH_MAX);
	world->amount = amounts[random_bits() % lengthof(amounts)];
	world->now = one_in(2) ? random_between(-world->length, 0)
		: random_between(INT64CONST(-100000000000000000), INT64CONST(1000000000000000000));
	world->generation = random_between(1, 1000);
	world->tame = !one_in(3);
	world->steps_back = one_in(2);
	world->shape.quota = random_between(1, 1000);
	world->shape.kind = one_in(4) ? LLMQ_WINDOW_CALENDAR : one_in(8) ? LLMQ_WINDOW_CONCURRENCY : LLMQ_WINDOW_SLIDING;
	world->shape.span = world->span = llmq_window_span(world->length, one_in(2) ? 250000 : 0);
	begin(world);
}

/*
 * How far the clock goes: often to, or just before, or just after the edge of
 * a bucket or of the window.
 */
static int64
random_movement(const World *world)
{
	int64		span = world->span;
	int64		to_edge = span - (world->now - floor_of(world->now, span) * span);

	switch (random_bits() % 12)
	{
		case 0:
			return 1;
		case 1:
			return to_edge + random_between(-1, 1);
		case 2:
			return random_between(0, 61) * span + to_edge + random_between(-1, 1);
		case 3:
			return world->length + random_between(-1, 1);
		case 4:
			return random_between(0, 2 * span);
		case 5:
			return one_in(20) ? random_between(0, 200 * world->length) : random_between(0, world->length);
		case 6:
		case 7:
			return random_between(0, span / 4);
		default:
			return 0;
	}
}

static void
move_clock(World *world)
{
	int64		movement = random_movement(world);

	if (world->steps_back && one_in(6))
	{
		world->stepped_back = true;
		world->now -= movement;
		return;
	}
	world->now += movement;
	world->forward += movement;
}

/*
 * What every caller does first.
 */
static void
advance(World *world)
{
	bool		moved;
	bool		expected;

	/* whoever settles has only what the window itself knows */
	if (one_in(3))
		llmq_window_shape_of(&world->window, &world->shape);
	if (llmq_window_stale(&world->shape, world->now))
		world->shape.period = period_at(world->length, world->now);
	expected = oracle_advance(world);
	moved = llmq_window_advance(&world->window, &world->shape, world->now, world->generation);
	CHECK(&promises[MOVED], moved == expected, "moved %d, expected %d", moved, expected);
	if (expected)
		world->generation++;
}

static int64
random_request(const World *world)
{
	switch (random_bits() % 6)
	{
		case 0:
			return world->amount;
		case 1:
			return random_between(0, world->amount);
		case 2:
			return world->amount + random_between(0, 2);
		case 3:
			return 1;
		default:
			return world->amount / 20;
	}
}

static void
check_promise(World *world)
{
	int64		sum = 0;

	for (int i = 0; i < world->events; i++)
	{
		Event	   *event = &world->event[i];

		if (world->shape.kind == LLMQ_WINDOW_SLIDING
			? event->forward >= world->forward - world->length
			: oracle_number(world, event->picked_at) == oracle_number(world, world->now))
			sum += event->promised;
	}
	if (world->shape.kind == LLMQ_WINDOW_SLIDING)
		CHECK(&promises[world->stepped_back ? NEVER_OVER_BACK : NEVER_OVER], sum <= world->amount,
			  INT64_FORMAT " of " INT64_FORMAT " within " INT64_FORMAT " us", sum, world->amount, world->length);
	else if (world->shape.kind == LLMQ_WINDOW_CALENDAR && !world->stepped_back)
		CHECK(&promises[PERIOD], sum <= world->amount, INT64_FORMAT " of " INT64_FORMAT, sum, world->amount);
}

static void
pick(World *world)
{
	int64		requested = random_request(world);
	bool		expected = oracle_sum(world) + requested <= world->amount;
	bool		fits = llmq_window_fits(&world->window, world->amount, requested);
	Event	   *event;

	CHECK(&promises[FITS], fits == expected, "fits %d, expected %d, for " INT64_FORMAT " of " INT64_FORMAT,
		  fits, expected, requested, world->amount);
	if (!fits)
	{
		llmq_window_refuse(&world->window, true, 1);
		world->refused++;
		if (world->tame)
			return;
	}
	llmq_window_charge(&world->window, world->now, requested);
	event = add_event(world, requested);
	if (world->shape.kind == LLMQ_WINDOW_SLIDING)
		event->bucket = oracle_number(world, world->now);
	event->pick = event->open = true;
	event->reserved = event->promised = requested;
	if (world->tame)
		check_promise(world);
}

/*
 * Record a random pick, more often a late one.
 */
static void
record(World *world)
{
	Event	   *event;
	int64		actual;
	int64		delta;
	int64		expected = 0;
	int64		applied;

	if (world->events == 0)
		return;
	event = &world->event[one_in(2) ? random_between(0, world->events - 1)
						  : random_between(Max(world->events - 5, 0), world->events - 1)];
	if (!event->pick || (world->tame && !event->open))
		return;

	actual = one_in(3) ? 0 : random_between(0, one_in(4) ? 2 * event->reserved : event->reserved);
	delta = actual - event->reserved;
	if (!world->tame && one_in(10))
		delta = one_in(2) ? -PG_INT64_MAX : -world->amount;
	event->open = false;
	event->promised = Min(actual, event->reserved);
	if (!world->tame && one_in(10))
		event->generation = world->since - 1;

	if (event->generation >= world->since && delta < 0)
		expected = oracle_refund(world, event, delta);
	else if (event->generation >= world->since && delta > 0)
		expected = add_event(world, delta)->counted;

	applied = llmq_window_correct(&world->window, event->picked_at, event->generation, delta);
	CHECK(&promises[APPLIED], applied == expected, INT64_FORMAT " for " INT64_FORMAT ", expected " INT64_FORMAT,
		  applied, delta, expected);
}

static bool
fits_at(const World *world, int64 at, int64 requested)
{
	LlmqWindow	window = world->window;
	LlmqWindowShape shape = world->shape;

	if (shape.kind == LLMQ_WINDOW_CALENDAR)
		shape.period = period_at(world->length, at);
	llmq_window_advance(&window, &shape, at, 0);
	return llmq_window_fits(&window, world->amount, requested);
}

static void
check_when(const World *world)
{
	int64		requested = random_request(world);
	int64		when = llmq_window_when(&world->window, world->now, world->amount, requested);
	bool		fits = oracle_sum(world) + requested <= world->amount;
	bool		right;

	if (requested > world->amount)
		right = when == LLMQ_WHEN_NEVER;
	else if (fits)
		right = when == world->now;
	else if (world->shape.kind == LLMQ_WINDOW_CONCURRENCY)
		right = when == LLMQ_WHEN_UNKNOWN;
	else
		right = when > world->now && fits_at(world, when, requested) && !fits_at(world, when - 1, requested);
	CHECK(&promises[WHEN], right, INT64_FORMAT " from now, for " INT64_FORMAT " of " INT64_FORMAT,
		  when - world->now, requested, world->amount);
}

/*
 * The window against the oracle.
 */
static void
check(const World *world)
{
	const LlmqWindow *window = &world->window;
	int64		expected = oracle_sum(world);
	int64		in_buckets = 0;
	bool		negative = false;
	bool		overdue = false;

	CHECK(&promises[SUM_SLIDING + world->shape.kind - LLMQ_WINDOW_SLIDING], window->sum == expected,
		  "sum " INT64_FORMAT ", expected " INT64_FORMAT, window->sum, expected);
	CHECK(&promises[REFUSED], window->refused == world->refused, INT64_FORMAT, window->refused);
	if (world->shape.kind != LLMQ_WINDOW_SLIDING)
		return;

	for (int i = 0; i < LLMQ_BUCKETS; i++)
	{
		in_buckets += window->bucket[i];
		negative |= window->bucket[i] < 0;
	}
	CHECK(&promises[WHOLE], window->sum == in_buckets && !negative, "sum " INT64_FORMAT ", buckets " INT64_FORMAT,
		  window->sum, in_buckets);

	if (world->stepped_back)
		return;
	for (int i = 0; i < world->events; i++)
		overdue |= oracle_counts(world, &world->event[i]) &&
			world->now - world->event[i].picked_at >= 61 * world->span;
	CHECK(&promises[LEAVES], !overdue, "an event is late");
}

static void
step(World *world)
{
	move_clock(world);
	advance(world);
	if (one_in(100))
		world->generation++;
	if (!world->tame && one_in(500))
		begin(world);
	if (one_in(3))
		record(world);
	else
		pick(world);
	check(world);
	check_when(world);
}

int
main(int argc, char **argv)
{
	static World world;
	uint64		seed = 20260101;
	long		steps = 1000000;

	for (int i = 1; i + 1 < argc; i += 2)
	{
		if (strcmp(argv[i], "--seed") == 0)
			seed = strtoull(argv[i + 1], NULL, 10);
		else if (strcmp(argv[i], "--steps") == 0)
			steps = strtol(argv[i + 1], NULL, 10);
	}
	printf("# window_fuzz --seed " UINT64_FORMAT " --steps %ld\n", seed, steps);
	random_state = seed;

	for (long i = 0; i < steps; i++)
	{
		if (i % STEPS_OF_A_WORLD == 0)
			create(&world);
		step(&world);
	}
	return promises_report(promises, PROMISES);
}
