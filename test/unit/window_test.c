/*
 * window_test.c
 *	  What windows promise, one case at a time.
 *
 *	links: src/window.c src/window_recount.c src/calendar.c
 *
 * window_fuzz.c beside this file finds what nobody thought of.
 */
#include "postgres.h"

#include "tap.h"
#include "window.h"

#define SECOND INT64CONST(1000000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)

/* The first and the last instant that a TimestampTz may be. */
#define FIRST INT64CONST(-211813488000000000)
#define LAST INT64CONST(9223371331199999999)

enum
{
	EDGES, CLOSED, UTILISED, STILL, FORWARD, SLIGHTLY_BACK, FAR_BACK, BACK_LATE, VOIDED, SMALL_REFUND, OWN_BUCKET,
	DEBT, SINCE, CALENDAR, CALENDAR_BACK, SETTLER, CONCURRENCY, WHEN, ZERO, LEFT, OVERFLOWING, END_OF_TIME, SHAPES,
	STALE, SPAN, BARE, REFUSALS, EARLIER, EARLIER_MOVED, RECOUNT, LOOSE, LOOSE_CALENDAR, UNITS, TOTAL, TOTAL_LATER, TOTAL_START, PROMISES
};

static Promise promises[PROMISES] = {
	[EDGES] = {"a charge counts for 60 buckets after its own, and not one microsecond longer"},
	[CLOSED] = {"both ends of an interval of the length belong to it"},
	[UTILISED] = {"a caller that always asks gets 60/61 of the amount per length"},
	[STILL] = {"while the clock stands still the amount is admitted once"},
	[FORWARD] = {"a clock that jumps over the whole ring empties it, over a part of it that part"},
	[SLIGHTLY_BACK] = {"a clock in the bucket before the head counts there, and moves nothing"},
	[FAR_BACK] = {"a clock further back moves the ring as it is, once"},
	[BACK_LATE] = {"what was moved back counts for the length, and at most two buckets longer than otherwise"},
	[VOIDED] = {"a refund of a pick before the move is void, of one after it is honoured"},
	[SMALL_REFUND] = {"a refund never takes more than is there"},
	[OWN_BUCKET] = {"a refund goes to the bucket of its pick, and is void when that is gone"},
	[DEBT] = {"debt goes past the amount, and refuses until it is paid back"},
	[SINCE] = {"a pick from before the window began changes nothing"},
	[CALENDAR] = {"a calendar period ends at its end, and refunds of it are void afterwards"},
	[CALENDAR_BACK] = {"only a later period replaces a period"},
	[SETTLER] = {"a window knows its own shape, and its next period while in the first of the two"},
	[CONCURRENCY] = {"what is in flight is counted, whatever the clock does"},
	[WHEN] = {"the instant at which a request fits is exact"},
	[ZERO] = {"an amount of zero refuses everything, for ever"},
	[LEFT] = {"what is left is never negative"},
	[OVERFLOWING] = {"sums stop at 2^63 - 1, and fall again by what they hold"},
	[END_OF_TIME] = {"instants beyond the end of time are never"},
	[SHAPES] = {"a window is reshaped by all that is stored of its shape, and by nothing else"},
	[STALE] = {"a shape is stale outside its two periods"},
	[SPAN] = {"a bucket is a sixtieth of length and slack, rounded up"},
	[BARE] = {"windows without buckets never touch them"},
	[REFUSALS] = {"refusals and would-be refusals are counted apart, up to 2^63 - 1"},
	[EARLIER] = {"what was used earlier goes to the bucket or period of its time, and nowhere when that is gone"},
	[EARLIER_MOVED] = {"where the ring has moved since, it counts as used now"},
	[RECOUNT] = {"what is counted anew takes the place of what was held then, bucket by bucket, and what came since stays"},
	[LOOSE] = {"a sliding window is loose until all that it held then has left, and after a move as long as before it"},
	[LOOSE_CALENDAR] = {"a calendar window is loose from a clock before its period to the end of the period"},
	[UNITS] = {"a calendar's unit and fiscal month are one byte, which without such a month is the unit alone"},
	[TOTAL] = {"a total never ends: it opens never, knows its own shape, and counts whatever it was picked in it"},
	[TOTAL_LATER] = {"a total that starts later has not begun until then, and begins at zero"},
	[TOTAL_START] = {"a total with another start is another window; all starts before 2000 are one"},
};

/* A sliding window of 60 s: its buckets are the seconds. */
static const LlmqWindowShape sixty_seconds = {.quota = 7, .kind = LLMQ_WINDOW_SLIDING, .span = SECOND};

static const LlmqWindowShape daily = {
	.quota = 8, .kind = LLMQ_WINDOW_CALENDAR, .metric = LLMQ_METRIC_TOKENS, .unit = LLMQ_CALENDAR_DAY, .zone = 99,
	.period = {100 * DAY, 101 * DAY, 102 * DAY + HOUR}
};

static const LlmqWindowShape in_flight = {.quota = 9, .kind = LLMQ_WINDOW_CONCURRENCY};

static LlmqWindow
new_window(const LlmqWindowShape *shape, int64 now)
{
	LlmqWindow	window;

	memset(&window, 0x55, sizeof(window));
	llmq_window_init(&window, shape, 1, now, 0);
	return window;
}

/* The sum at an instant, on a copy. */
static int64
sum_at(LlmqWindow window, const LlmqWindowShape *shape, int64 at)
{
	llmq_window_advance(&window, shape, at, 1);
	return window.sum;
}

static bool
admit(LlmqWindow *window, const LlmqWindowShape *shape, int64 now, int64 amount, int64 requested)
{
	llmq_window_advance(window, shape, now, 1);
	if (!llmq_window_fits(window, amount, requested))
		return false;
	llmq_window_charge(window, now, requested);
	return true;
}

static void
test_edges(void)
{
	static const int64 starts[] = {0, -1, 1, SECOND - 1, -SECOND, -SECOND - 1, 61 * SECOND, -1000 * DAY};

	for (int i = 0; i < (int) lengthof(starts); i++)
	{
		LlmqWindow	window = new_window(&sixty_seconds, starts[i]);
		int64		bucket_start = starts[i] - ((starts[i] % SECOND) + SECOND) % SECOND;

		llmq_window_charge(&window, starts[i], 5);
		CHECK(&promises[EDGES], sum_at(window, &sixty_seconds, bucket_start + 61 * SECOND - 1) == 5, "gone early");
		CHECK(&promises[EDGES], sum_at(window, &sixty_seconds, bucket_start + 61 * SECOND) == 0, "gone late");
	}
}

static void
test_closed(void)
{
	for (int64 at = -2 * SECOND; at <= 2 * SECOND; at += SECOND / 8)
	{
		LlmqWindow	window = new_window(&sixty_seconds, at);

		CHECK(&promises[CLOSED], admit(&window, &sixty_seconds, at, 10, 10), "not admitted");
		CHECK(&promises[CLOSED], !admit(&window, &sixty_seconds, at + MINUTE, 10, 1), "admitted at the other end");
	}
}

/*
 * Ask for one at a time until refused, at every tick, for a hundred times the
 * length.
 */
static void
test_utilised(void)
{
	static const int64 lengths[] = {3 * SECOND, MINUTE, HOUR, DAY, 400 * DAY};
	static const int64 amounts[] = {1, 60, 61, 1000, 12345};

	for (int i = 0; i < (int) (lengthof(lengths) * lengthof(amounts)); i++)
	{
		int64		length = lengths[i % lengthof(lengths)];
		int64		amount = amounts[i / lengthof(lengths)];
		int64		start = -length / 2;
		int64		end = start + 100 * length;
		LlmqWindowShape shape = sixty_seconds;
		LlmqWindow	window;
		int64		admitted = 0;

		shape.span = llmq_window_span(length, 0);
		window = new_window(&shape, start);
		for (int64 now = start; now < end; now += shape.span / 3 + 1)
			while (admit(&window, &shape, now, amount, 1))
				admitted++;
		CHECK(&promises[UTILISED], admitted >= 100 * amount * 60 / 61 && admitted <= 100 * amount,
			  INT64_FORMAT " of " INT64_FORMAT " a length of " INT64_FORMAT, admitted, amount, length);
	}
}

static void
test_still(void)
{
	LlmqWindow	window = new_window(&sixty_seconds, 12345);
	int			admitted = 0;

	for (int i = 0; i < 1000; i++)
		admitted += admit(&window, &sixty_seconds, 12345, 17, 1);
	CHECK(&promises[STILL], admitted == 17, "%d of 17", admitted);
}

static void
test_forward(void)
{
	LlmqWindow	window = new_window(&sixty_seconds, 0);

	for (int second = 0; second < 61; second++)
		admit(&window, &sixty_seconds, second * SECOND, 1000, 1);
	CHECK(&promises[FORWARD], window.sum == 61, INT64_FORMAT, window.sum);
	for (int second = 60; second < 121; second++)
		CHECK(&promises[FORWARD], sum_at(window, &sixty_seconds, second * SECOND) == 121 - second,
			  "after %d s", second);
	for (int64 ahead = 121 * SECOND; ahead < 300000 * DAY; ahead *= 3)
		CHECK(&promises[FORWARD], sum_at(window, &sixty_seconds, ahead) == 0, "after " INT64_FORMAT, ahead);
}

static void
test_slightly_back(void)
{
	int64		now = 100 * SECOND;
	LlmqWindow	window = new_window(&sixty_seconds, now);

	CHECK(&promises[SLIGHTLY_BACK], !llmq_window_advance(&window, &sixty_seconds, now - 1, 1), "moved");
	CHECK(&promises[SLIGHTLY_BACK], !llmq_window_advance(&window, &sixty_seconds, now - SECOND, 1), "moved");
	CHECK(&promises[SLIGHTLY_BACK], window.head == 100 && window.rebased == 1, "head " INT64_FORMAT, window.head);

	llmq_window_charge(&window, now - 1, 5);
	llmq_window_charge(&window, now, 3);
	CHECK(&promises[SLIGHTLY_BACK], sum_at(window, &sixty_seconds, now + MINUTE - 1) == 8, "gone early");
	CHECK(&promises[SLIGHTLY_BACK], sum_at(window, &sixty_seconds, now + MINUTE) == 3, "gone late");

	/* and its refund finds it there */
	CHECK(&promises[SLIGHTLY_BACK], llmq_window_correct(&window, now - 1, 1, -5) == -5, "not given back");
	CHECK(&promises[SLIGHTLY_BACK], sum_at(window, &sixty_seconds, now + MINUTE) == 3, "from another bucket");
}

static void
test_far_back(void)
{
	static const int64 steps[] = {SECOND + 1, 2 * SECOND, 61 * SECOND, 100 * SECOND, 1000 * DAY};

	for (int i = 0; i < (int) lengthof(steps); i++)
	{
		int64		now = 100 * SECOND;
		int64		back = now - steps[i];
		LlmqWindow	window = new_window(&sixty_seconds, now - 2 * SECOND);

		llmq_window_charge(&window, now - 2 * SECOND, 5);
		admit(&window, &sixty_seconds, now, 100, 3);
		CHECK(&promises[FAR_BACK], llmq_window_advance(&window, &sixty_seconds, back, 1), "not moved");
		CHECK(&promises[FAR_BACK], window.sum == 8, "sum " INT64_FORMAT, window.sum);
		CHECK(&promises[FAR_BACK], !llmq_window_advance(&window, &sixty_seconds, back, 2), "moved again");

		back -= ((back % SECOND) + SECOND) % SECOND;
		CHECK(&promises[FAR_BACK], sum_at(window, &sixty_seconds, back + MINUTE - 1) == 8, "5 gone early");
		CHECK(&promises[FAR_BACK], sum_at(window, &sixty_seconds, back + MINUTE) == 3, "5 gone late");
		CHECK(&promises[FAR_BACK], sum_at(window, &sixty_seconds, back + 62 * SECOND - 1) == 3, "3 gone early");
		CHECK(&promises[FAR_BACK], sum_at(window, &sixty_seconds, back + 62 * SECOND) == 0, "3 gone late");
	}
}

/*
 * How long a charge counts, by the clock's forward movement, when the clock
 * steps back at some time after it, for all positions within the buckets.
 */
static void
test_back_late(void)
{
	for (int64 charged = 0; charged < SECOND; charged += SECOND / 10 - 1)
		for (int64 waited = 0; waited < 4 * SECOND; waited += SECOND / 10)
			for (int64 back = 0; back < 3 * SECOND; back += SECOND / 10 + 1)
			{
				LlmqWindow	window = new_window(&sixty_seconds, charged);
				int64		now = charged + waited;
				int64		counted;

				llmq_window_charge(&window, charged, 1);
				llmq_window_advance(&window, &sixty_seconds, now, 1);
				now -= back;
				llmq_window_advance(&window, &sixty_seconds, now, 1);
				counted = waited + llmq_window_when(&window, now, 1, 1) - now;
				CHECK(&promises[BACK_LATE], counted > MINUTE && counted <= 63 * SECOND + (back < 2 * SECOND ? back : 0),
					  "counted " INT64_FORMAT, counted);
			}
}

static void
test_voided(void)
{
	int64		now = 1000 * SECOND;
	int64		back = 500 * SECOND + 1;
	LlmqWindow	window = new_window(&sixty_seconds, now);
	uint32		generation = 4;

	llmq_window_charge(&window, now, 5);
	CHECK(&promises[VOIDED], llmq_window_advance(&window, &sixty_seconds, back, generation), "not moved");
	generation++;
	llmq_window_charge(&window, back, 7);

	CHECK(&promises[VOIDED], llmq_window_correct(&window, now, 4, -5) == 0, "before, by its clock");
	CHECK(&promises[VOIDED], llmq_window_correct(&window, back, 4, -5) == 0, "before, at the same instant");
	CHECK(&promises[VOIDED], llmq_window_correct(&window, back, generation, -7) == -7, "after");
	CHECK(&promises[VOIDED], window.sum == 5, "sum " INT64_FORMAT, window.sum);
	CHECK(&promises[VOIDED], llmq_window_correct(&window, now, 4, 2) == 2, "debt of a pick before");
}

static void
test_refunds(void)
{
	LlmqWindow	window = new_window(&sixty_seconds, 0);

	llmq_window_charge(&window, 0, 5);
	CHECK(&promises[SMALL_REFUND], llmq_window_correct(&window, SECOND - 1, 1, -9) == -5, "more than there was");
	CHECK(&promises[SMALL_REFUND], llmq_window_correct(&window, 0, 1, PG_INT64_MIN) == 0, "from nothing");

	llmq_window_charge(&window, 0, 5);
	admit(&window, &sixty_seconds, SECOND, 100, 6);
	CHECK(&promises[OWN_BUCKET], llmq_window_correct(&window, 0, 1, -2) == -2, "not given back");
	CHECK(&promises[OWN_BUCKET], sum_at(window, &sixty_seconds, 61 * SECOND) == 6, "from another bucket");
	llmq_window_advance(&window, &sixty_seconds, 61 * SECOND, 1);
	CHECK(&promises[OWN_BUCKET], llmq_window_correct(&window, 0, 1, -3) == 0, "from a bucket that is gone");
	CHECK(&promises[OWN_BUCKET], llmq_window_correct(&window, 62 * SECOND, 1, -3) == 0, "from a bucket to come");
	CHECK(&promises[OWN_BUCKET], llmq_window_correct(&window, SECOND, 1, -6) == -6, "not from the oldest bucket");
}

static void
test_debt(void)
{
	LlmqWindow	window = new_window(&sixty_seconds, 0);

	llmq_window_charge(&window, 0, 10);
	llmq_window_advance(&window, &sixty_seconds, 30 * SECOND, 1);
	CHECK(&promises[DEBT], llmq_window_correct(&window, 0, 1, 25) == 25, "not all charged");
	CHECK(&promises[DEBT], !llmq_window_fits(&window, 10, 0), "fits");
	CHECK(&promises[DEBT], sum_at(window, &sixty_seconds, 61 * SECOND) == 25, "in another bucket");
	CHECK(&promises[DEBT], llmq_window_when(&window, 30 * SECOND, 10, 1) == 91 * SECOND, "not until it is paid");
	CHECK(&promises[DEBT], llmq_window_when(&window, 30 * SECOND, 30, 5) == 61 * SECOND, "not when it fits");
}

static void
test_since(void)
{
	static const LlmqWindowShape *const shapes[] = {&sixty_seconds, &daily, &in_flight};

	for (int i = 0; i < (int) lengthof(shapes); i++)
	{
		int64		now = 100 * DAY;
		LlmqWindow	window = new_window(shapes[i], now);

		llmq_window_init(&window, shapes[i], 5, now, LLMQ_WINDOW_SEEDING);
		llmq_window_charge(&window, now, 10);
		CHECK(&promises[SINCE], llmq_window_correct(&window, now, 4, -5) == 0, "refund");
		CHECK(&promises[SINCE], llmq_window_correct(&window, now, 4, 5) == 0, "debt");
		CHECK(&promises[SINCE], window.sum == 10, "sum " INT64_FORMAT, window.sum);
		CHECK(&promises[SINCE], llmq_window_correct(&window, now, 5, -5) == -5, "refund of its own");
		CHECK(&promises[SINCE], window.flags == LLMQ_WINDOW_SEEDING && window.began_at == now, "not marked");
	}
}

static void
test_calendar(void)
{
	int64		now = 100 * DAY;
	LlmqWindow	window = new_window(&daily, now);

	CHECK(&promises[CALENDAR], admit(&window, &daily, now, 10, 8), "not admitted");
	CHECK(&promises[CALENDAR], !admit(&window, &daily, 101 * DAY - 1, 10, 3), "admitted too much");
	CHECK(&promises[CALENDAR], llmq_window_when(&window, now, 10, 3) == 101 * DAY, "not at its end");
	CHECK(&promises[CALENDAR], llmq_window_when(&window, now, 10, 2) == now, "not now");
	CHECK(&promises[CALENDAR], llmq_window_correct(&window, now, 1, -3) == -3, "not given back");
	CHECK(&promises[CALENDAR], llmq_window_correct(&window, now, 1, -9) == -5, "more than there was");

	/* the clock passes the end after the shape was computed */
	CHECK(&promises[CALENDAR], admit(&window, &daily, 101 * DAY, 10, 10), "not admitted in the next one");
	CHECK(&promises[CALENDAR], llmq_window_correct(&window, 101 * DAY - 1, 1, -3) == 0, "given back to the next one");
	CHECK(&promises[CALENDAR], llmq_window_when(&window, 101 * DAY, 10, 1) == 102 * DAY + HOUR, "not at its own end");
	CHECK(&promises[CALENDAR], llmq_window_correct(&window, 102 * DAY + HOUR, 1, -1) == 0, "given back from later");
}

static void
test_calendar_back(void)
{
	LlmqWindow	window = new_window(&daily, 101 * DAY);

	llmq_window_charge(&window, 101 * DAY, 8);
	CHECK(&promises[CALENDAR_BACK], !admit(&window, &daily, 101 * DAY - 1, 10, 3), "replaced by the one before");
	CHECK(&promises[CALENDAR_BACK], window.head == 101 * DAY && window.span == DAY + HOUR, "not the later one");
	CHECK(&promises[CALENDAR_BACK], llmq_window_when(&window, 100 * DAY, 10, 3) == 102 * DAY + HOUR, "not at its end");
	CHECK(&promises[CALENDAR_BACK], admit(&window, &daily, 100 * DAY, 10, 2), "not counted on");
	CHECK(&promises[CALENDAR_BACK], llmq_window_correct(&window, 101 * DAY, 1, -8) == -8, "not given back");
	CHECK(&promises[CALENDAR_BACK], sum_at(window, &daily, 101 * DAY) == 2, "replaced by itself");
}

static void
test_settler(void)
{
	LlmqWindow	window = new_window(&daily, 100 * DAY);
	LlmqWindowShape shape;

	llmq_window_shape_of(&window, &shape);
	CHECK(&promises[SETTLER], llmq_window_same_shape(&window, &shape), "not its own shape");
	CHECK(&promises[SETTLER], memcmp(&shape.period, &daily.period, sizeof(LlmqPeriod)) == 0, "not its own period");

	llmq_window_advance(&window, &shape, 101 * DAY, 1);
	llmq_window_shape_of(&window, &shape);
	CHECK(&promises[SETTLER], shape.period.start == 101 * DAY && !llmq_window_stale(&shape, 102 * DAY), "not the next");
	CHECK(&promises[SETTLER], llmq_window_stale(&shape, 102 * DAY + HOUR), "knows a period it was not told");

	window = new_window(&sixty_seconds, 0);
	llmq_window_shape_of(&window, &shape);
	CHECK(&promises[SETTLER], llmq_window_same_shape(&window, &shape) && !llmq_window_stale(&shape, DAY), "sliding");
}

static void
test_concurrency(void)
{
	LlmqWindow	window = new_window(&in_flight, 0);

	CHECK(&promises[CONCURRENCY], admit(&window, &in_flight, 0, 2, 1), "the first");
	CHECK(&promises[CONCURRENCY], admit(&window, &in_flight, DAY, 2, 1), "the second");
	CHECK(&promises[CONCURRENCY], !admit(&window, &in_flight, 900 * DAY, 2, 1), "the third");
	CHECK(&promises[CONCURRENCY], llmq_window_when(&window, 0, 2, 1) == LLMQ_WHEN_UNKNOWN, "knows when");
	CHECK(&promises[CONCURRENCY], llmq_window_correct(&window, 0, 1, -1) == -1, "not let go");
	CHECK(&promises[CONCURRENCY], admit(&window, &in_flight, -900 * DAY, 2, 1), "the next");
	CHECK(&promises[CONCURRENCY], llmq_window_correct(&window, 0, 1, -5) == -2, "below zero");
	CHECK(&promises[CONCURRENCY], window.sum == 0, "sum " INT64_FORMAT, window.sum);
}

static void
test_when(void)
{
	LlmqWindow	window = new_window(&sixty_seconds, 0);

	for (int second = 0; second < 10; second++)
		admit(&window, &sixty_seconds, second * SECOND + 5, 1000, 10);
	CHECK(&promises[WHEN], llmq_window_when(&window, 9 * SECOND, 101, 1) == 9 * SECOND, "not now");
	for (int requested = 1; requested <= 100; requested++)
		CHECK(&promises[WHEN],
			  llmq_window_when(&window, 9 * SECOND, 100, requested) == (61 + (requested - 1) / 10) * SECOND,
			  "of %d", requested);
	CHECK(&promises[WHEN], llmq_window_when(&window, 9 * SECOND, 100, 101) == LLMQ_WHEN_NEVER, "more than the amount");
}

static void
test_zero(void)
{
	static const LlmqWindowShape *const shapes[] = {&sixty_seconds, &daily, &in_flight};

	for (int i = 0; i < (int) lengthof(shapes); i++)
	{
		LlmqWindow	window = new_window(shapes[i], 0);

		for (int requested = -1; requested <= 1; requested++)
		{
			CHECK(&promises[ZERO], !llmq_window_fits(&window, 0, requested), "%d fits", requested);
			CHECK(&promises[ZERO], llmq_window_when(&window, 0, 0, requested) == LLMQ_WHEN_NEVER, "%d will", requested);
		}
		CHECK(&promises[ZERO], llmq_window_fits(&window, 1, 0), "zero does not fit one");
		CHECK(&promises[ZERO], llmq_window_charge(&window, 0, -5) == 0 && window.sum == 0, "charged less than zero");
	}
}

static void
test_left(void)
{
	LlmqWindow	window = new_window(&sixty_seconds, 0);

	llmq_window_charge(&window, 0, 10);
	CHECK(&promises[LEFT], llmq_window_left(&window, 15) == 5, "not what is left");
	CHECK(&promises[LEFT], llmq_window_left(&window, 10) == 0, "not nothing");
	CHECK(&promises[LEFT], llmq_window_left(&window, 5) == 0, "not nothing, in debt");
}

static void
test_overflowing(void)
{
	LlmqWindow	window = new_window(&sixty_seconds, 0);

	llmq_window_charge(&window, 0, 10);
	llmq_window_advance(&window, &sixty_seconds, SECOND, 1);
	CHECK(&promises[OVERFLOWING], llmq_window_charge(&window, SECOND, PG_INT64_MAX) == PG_INT64_MAX - 10, "charge");
	CHECK(&promises[OVERFLOWING], llmq_window_charge(&window, SECOND, PG_INT64_MAX) == 0, "charge of a full one");
	CHECK(&promises[OVERFLOWING], llmq_window_correct(&window, 0, 1, PG_INT64_MAX) == 0, "debt of a full one");
	CHECK(&promises[OVERFLOWING], window.sum == PG_INT64_MAX, "sum " INT64_FORMAT, window.sum);
	CHECK(&promises[OVERFLOWING], !llmq_window_fits(&window, PG_INT64_MAX, PG_INT64_MAX), "fits");
	CHECK(&promises[OVERFLOWING], llmq_window_fits(&window, PG_INT64_MAX, 0), "nothing does not fit");
	CHECK(&promises[OVERFLOWING], llmq_window_when(&window, SECOND, PG_INT64_MAX, 11) == 62 * SECOND, "when");
	CHECK(&promises[OVERFLOWING], sum_at(window, &sixty_seconds, 61 * SECOND) == PG_INT64_MAX - 10, "falls");
	CHECK(&promises[OVERFLOWING], llmq_window_correct(&window, SECOND, 1, PG_INT64_MIN) == 10 - PG_INT64_MAX, "refund");
	CHECK(&promises[OVERFLOWING], window.sum == 10, "sum " INT64_FORMAT, window.sum);
}

static void
test_end_of_time(void)
{
	LlmqWindowShape shape = sixty_seconds;
	LlmqWindow	window;

	shape.span = 400 * DAY;
	window = new_window(&shape, LAST);
	llmq_window_charge(&window, LAST, 10);
	CHECK(&promises[END_OF_TIME], llmq_window_when(&window, LAST, 10, 1) == LLMQ_WHEN_NEVER, "not never");

	for (shape.span = 1; shape.span <= LLMQ_LENGTH_MAX; shape.span *= 10)
	{
		window = new_window(&shape, FIRST);
		llmq_window_charge(&window, FIRST, 10);
		CHECK(&promises[END_OF_TIME], sum_at(window, &shape, LAST) == 0, "still there");
		window = new_window(&shape, LAST);
		llmq_window_charge(&window, LAST, 10);
		CHECK(&promises[END_OF_TIME], sum_at(window, &shape, FIRST) == 10, "not moved");
		CHECK(&promises[END_OF_TIME], llmq_window_correct(&window, FIRST, 1, -10) == 0, "given back");
	}
}

#define DIFFERS(shape, field) \
	do { \
		LlmqWindow	mine = new_window(&(shape), 100 * DAY); \
		LlmqWindowShape other = (shape); \
		CHECK(&promises[SHAPES], llmq_window_same_shape(&mine, &other), "not itself"); \
		other.field++; \
		CHECK(&promises[SHAPES], !llmq_window_same_shape(&mine, &other), "the same with another " #field); \
	} while (0)

static void
test_shapes(void)
{
	LlmqWindow	window = new_window(&daily, 100 * DAY);
	LlmqWindowShape tomorrow = daily;

	DIFFERS(sixty_seconds, quota);
	DIFFERS(sixty_seconds, kind);
	DIFFERS(sixty_seconds, metric);
	DIFFERS(sixty_seconds, span);
	DIFFERS(daily, unit);
	DIFFERS(daily, zone);
	DIFFERS(in_flight, quota);

	tomorrow.period = (LlmqPeriod) {101 * DAY, 102 * DAY, 103 * DAY};
	CHECK(&promises[SHAPES], llmq_window_same_shape(&window, &tomorrow), "not the same on another day");
}

static void
test_stale(void)
{
	CHECK(&promises[STALE], llmq_window_stale(&daily, 100 * DAY - 1), "before");
	CHECK(&promises[STALE], !llmq_window_stale(&daily, 100 * DAY), "in the first");
	CHECK(&promises[STALE], !llmq_window_stale(&daily, 102 * DAY + HOUR - 1), "in the next");
	CHECK(&promises[STALE], llmq_window_stale(&daily, 102 * DAY + HOUR), "after");
	CHECK(&promises[STALE], !llmq_window_stale(&sixty_seconds, 900 * DAY), "sliding");
	CHECK(&promises[STALE], !llmq_window_stale(&in_flight, 900 * DAY), "concurrency");
}

static void
test_units(void)
{
	for (LlmqCalendarUnit calendar = LLMQ_CALENDAR_DAY; calendar <= LLMQ_CALENDAR_TOTAL; calendar++)
	{
		CHECK(&promises[UNITS], llmq_unit(calendar, 1) == calendar, "not the unit alone");
		for (int month = 1; month <= 12; month++)
		{
			uint8		unit = llmq_unit(calendar, month);

			CHECK(&promises[UNITS], llmq_unit_calendar(unit) == calendar, "another unit");
			CHECK(&promises[UNITS], llmq_unit_fiscal_month(unit) == month, "another month");
		}
	}
}

/* What a budget without a calendar is, at an instant. */
static LlmqWindowShape
total_shape(int64 starts_at, int64 at)
{
	LlmqWindowShape shape = {
		.quota = 10, .kind = LLMQ_WINDOW_CALENDAR, .unit = llmq_unit(LLMQ_CALENDAR_TOTAL, 1),
		.zone = llmq_total_hash(starts_at)
	};

	llmq_total_period(starts_at, at, &shape.period);
	CHECK(&promises[TOTAL], shape.period.start <= at && at < shape.period.end, "another period");
	CHECK(&promises[TOTAL], at < starts_at || shape.period.end == LLMQ_WHEN_NEVER, "it ends");
	return shape;
}

static void
test_total(void)
{
	static const int64 starts[] = {PG_INT64_MIN, FIRST, -1, 0, 100 * DAY, LAST};

	for (int i = 0; i < (int) lengthof(starts); i++)
	{
		int64		start = Max(starts[i], 0);
		LlmqWindowShape shape = total_shape(starts[i], start);
		LlmqWindow	window = new_window(&shape, start);

		CHECK(&promises[TOTAL], admit(&window, &shape, start, 10, 8), "not admitted");
		CHECK(&promises[TOTAL], !admit(&window, &shape, LAST, 10, 3), "admitted too much");
		CHECK(&promises[TOTAL], llmq_window_when(&window, LAST, 10, 3) == LLMQ_WHEN_NEVER, "opens again");
		CHECK(&promises[TOTAL], llmq_window_begun(&window), "not begun");
		llmq_window_shape_of(&window, &shape);
		CHECK(&promises[TOTAL], shape.period.start == start && shape.period.end == LLMQ_WHEN_NEVER, "another shape");
		CHECK(&promises[TOTAL], !llmq_window_stale(&shape, LAST) && !llmq_window_stale(&shape, start), "stale");
		CHECK(&promises[TOTAL], llmq_window_correct(&window, start - 1, 1, -1) == 0, "given back from before");
		CHECK(&promises[TOTAL], llmq_window_add_earlier(&window, start - 1, 1) == 0, "added from before");
		CHECK(&promises[TOTAL], llmq_window_correct(&window, start, 1, -8) == -8, "not given back");
		CHECK(&promises[TOTAL], llmq_window_add_earlier(&window, start, 4) == 4 && window.sum == 4, "not added");
	}
	CHECK(&promises[TOTAL_START], llmq_total_hash(FIRST) == 0 && llmq_total_hash(0) == 0, "not one");
	CHECK(&promises[TOTAL_START], llmq_total_hash(DAY) != 0 && llmq_total_hash(DAY) != llmq_total_hash(2 * DAY), "one");
}

static void
test_total_later(void)
{
	static const int64 starts[] = {0, 100 * DAY, LAST};

	for (int i = 0; i < (int) lengthof(starts); i++)
	{
		int64		start = starts[i];
		int64		before = start == 0 ? FIRST : start - 1;
		LlmqWindowShape shape = total_shape(start, before);
		LlmqWindow	window = new_window(&shape, before);

		CHECK(&promises[TOTAL_LATER], !llmq_window_begun(&window), "begun");
		CHECK(&promises[TOTAL_LATER], shape.period.start >= FIRST, "begins before the beginning of time");
		CHECK(&promises[TOTAL_LATER], window.head + window.span == start, "does not last until its start");
		llmq_window_charge(&window, before, 7);
		llmq_window_shape_of(&window, &shape);
		CHECK(&promises[TOTAL_LATER], !llmq_window_stale(&shape, LAST), "stale");
		llmq_window_advance(&window, &shape, start, 1);
		CHECK(&promises[TOTAL_LATER], llmq_window_begun(&window) && window.sum == 0, "not begun at zero");
		CHECK(&promises[TOTAL_LATER], window.head == start && window.head + window.span == LLMQ_WHEN_NEVER, "ends");
	}
	CHECK(&promises[TOTAL_LATER], llmq_window_begun(&(LlmqWindow) {.kind = LLMQ_WINDOW_SLIDING}), "sliding");
}

static void
test_span(void)
{
	CHECK(&promises[SPAN], llmq_window_span(MINUTE, 0) == SECOND, "a minute");
	CHECK(&promises[SPAN], llmq_window_span(MINUTE, 1) == SECOND + 1, "a minute and a bit");
	CHECK(&promises[SPAN], llmq_window_span(MINUTE, 250000) == 1004167, "a minute and a quarter second");
	CHECK(&promises[SPAN], llmq_window_span(MINUTE, -250000) == SECOND, "negative slack");
	CHECK(&promises[SPAN], llmq_window_span(LLMQ_LENGTH_MIN, 0) == 16667, "a second");
	CHECK(&promises[SPAN], llmq_window_span(LLMQ_LENGTH_MAX, 0) == INT64CONST(576000000000), "400 days");
	CHECK(&promises[SPAN], llmq_window_span(PG_INT64_MIN, 0) == 1, "nothing");
	CHECK(&promises[SPAN], llmq_window_span(PG_INT64_MAX, PG_INT64_MAX) == PG_INT64_MAX / 60 + 1, "too much");
}

static void
test_bare(void)
{
	static const LlmqWindowShape *const shapes[] = {&daily, &in_flight};
	char		untouched[sizeof(LlmqWindow)];

	memset(untouched, 0x55, sizeof(untouched));
	for (int i = 0; i < (int) lengthof(shapes); i++)
	{
		LlmqWindow	window = new_window(shapes[i], 100 * DAY);

		admit(&window, shapes[i], 100 * DAY, 10, 5);
		llmq_window_correct(&window, 100 * DAY, 1, 7);
		llmq_window_correct(&window, 100 * DAY, 1, -1);
		llmq_window_advance(&window, shapes[i], 101 * DAY, 1);
		llmq_window_advance(&window, shapes[i], 0, 1);
		llmq_window_when(&window, 0, 10, 5);
		CHECK(&promises[BARE], memcmp(window.bucket, untouched, sizeof(window.bucket)) == 0, "touched");
	}
}

static void
test_refusals(void)
{
	LlmqWindow	window = new_window(&in_flight, 0);

	llmq_window_refuse(&window, true, 1);
	llmq_window_refuse(&window, true, 4);
	llmq_window_refuse(&window, false, 3);
	CHECK(&promises[REFUSALS], window.refused == 5 && window.would_refuse == 3, INT64_FORMAT, window.refused);
	llmq_window_refuse(&window, true, PG_INT64_MAX);
	CHECK(&promises[REFUSALS], window.refused == PG_INT64_MAX, INT64_FORMAT, window.refused);
}

static void
test_earlier(void)
{
	LlmqWindow	window = new_window(&sixty_seconds, 100 * SECOND);
	LlmqWindow	day = new_window(&daily, 100 * DAY + HOUR);
	LlmqWindow	calls = new_window(&in_flight, 0);

	CHECK(&promises[EARLIER], llmq_window_add_earlier(&window, 70 * SECOND, 5) == 5, "%d", 0);
	CHECK(&promises[EARLIER], llmq_window_add_earlier(&window, 40 * SECOND, 3) == 3, "%d", 0);
	CHECK(&promises[EARLIER], llmq_window_add_earlier(&window, 40 * SECOND - 1, 7) == 0, "%d", 0);
	CHECK(&promises[EARLIER], llmq_window_add_earlier(&window, 70 * SECOND, -1) == 0, "%d", 0);
	CHECK(&promises[EARLIER], window.sum == 8, INT64_FORMAT, window.sum);
	(void) llmq_window_advance(&window, &sixty_seconds, 131 * SECOND - 1, 1);
	CHECK(&promises[EARLIER], window.sum == 5, INT64_FORMAT, window.sum);
	(void) llmq_window_advance(&window, &sixty_seconds, 131 * SECOND, 1);
	CHECK(&promises[EARLIER], window.sum == 0, INT64_FORMAT, window.sum);

	CHECK(&promises[EARLIER], llmq_window_add_earlier(&day, 100 * DAY, 2) == 2, "%d", 0);
	CHECK(&promises[EARLIER], llmq_window_add_earlier(&day, 100 * DAY - 1, 2) == 0, "%d", 0);
	CHECK(&promises[EARLIER], llmq_window_add_earlier(&calls, 0, 1) == 1 && calls.sum == 1, INT64_FORMAT, calls.sum);
}

static void
test_earlier_moved(void)
{
	LlmqWindow	window = new_window(&sixty_seconds, 100 * SECOND);

	(void) llmq_window_advance(&window, &sixty_seconds, 50 * SECOND, 1);
	CHECK(&promises[EARLIER_MOVED], llmq_window_add_earlier(&window, 20 * SECOND, 5) == 5, "%d", 0);
	CHECK(&promises[EARLIER_MOVED], window.bucket[window.head % LLMQ_BUCKETS] == 5, INT64_FORMAT, window.head);
}

static void
test_recount(void)
{
	LlmqWindow	window = new_window(&sixty_seconds, 100 * SECOND);
	LlmqWindow	day = new_window(&daily, 100 * DAY + HOUR);
	int64		sums[LLMQ_BUCKETS] = {0};
	LlmqWindow	then;

	(void) llmq_window_charge(&window, 100 * SECOND, 7);
	(void) llmq_window_advance(&window, &sixty_seconds, 110 * SECOND, 1);
	(void) llmq_window_charge(&window, 110 * SECOND, 5);
	then = window;
	(void) llmq_window_charge(&window, 110 * SECOND, 2);
	(void) llmq_window_correct(&window, 100 * SECOND, 1, -3);
	(void) llmq_window_advance(&window, &sixty_seconds, 120 * SECOND, 1);
	(void) llmq_window_charge(&window, 120 * SECOND, 1);
	/* of 7 and 5, it ought to have been 20 and 11: 4 and 7 have become 17 and 13 */
	sums[100 - 50] = 20;
	sums[110 - 50] = 11;
	CHECK(&promises[RECOUNT], llmq_window_recount(&window, &then, 50, sums), "not done");
	CHECK(&promises[RECOUNT], window.sum == 17 + 13 + 1, INT64_FORMAT, window.sum);
	(void) llmq_window_advance(&window, &sixty_seconds, 161 * SECOND, 1);
	CHECK(&promises[RECOUNT], window.sum == 13 + 1, INT64_FORMAT, window.sum);
	/* again, as of before: what has left is nowhere, and what was held is replaced by what it is already */
	sums[110 - 50] = 5;
	CHECK(&promises[RECOUNT], llmq_window_recount(&window, &then, 50, sums) && window.sum == 13 + 1, INT64_FORMAT, window.sum);
	/* never less than nothing */
	sums[110 - 50] = -100;
	CHECK(&promises[RECOUNT], llmq_window_recount(&window, &then, 50, sums) && window.sum == 1, INT64_FORMAT, window.sum);
	/* a ring that has moved back */
	then.rebased--;
	CHECK(&promises[RECOUNT], !llmq_window_recount(&window, &then, 50, sums) && window.sum == 1, INT64_FORMAT, window.sum);

	(void) llmq_window_charge(&day, 100 * DAY + HOUR, 10);
	then = day;
	(void) llmq_window_charge(&day, 100 * DAY + HOUR, 1);
	sums[0] = 4;
	CHECK(&promises[RECOUNT], llmq_window_recount(&day, &then, 0, sums) && day.sum == 5, INT64_FORMAT, day.sum);
	then.head -= DAY;
	CHECK(&promises[RECOUNT], llmq_window_recount(&day, &then, 0, sums) && day.sum == 5, INT64_FORMAT, day.sum);
}

static bool
is_loose(LlmqWindow *window, const LlmqWindowShape *shape, int64 now)
{
	(void) llmq_window_advance(window, shape, now, 1);
	return (window->flags & LLMQ_WINDOW_LOOSE) != 0;
}

static void
test_loose(void)
{
	LlmqWindow	window = new_window(&sixty_seconds, 100 * SECOND);

	CHECK(&promises[LOOSE], !is_loose(&window, &sixty_seconds, 101 * SECOND), "%d", 0);
	llmq_window_loosen(&window);
	CHECK(&promises[LOOSE], is_loose(&window, &sixty_seconds, 162 * SECOND - 1), "%d", 0);
	CHECK(&promises[LOOSE], !is_loose(&window, &sixty_seconds, 162 * SECOND), "%d", 0);
	/* the clock steps back by 100 seconds: what was picked in what is now the future must have passed, too */
	CHECK(&promises[LOOSE], is_loose(&window, &sixty_seconds, 62 * SECOND), "%d", 0);
	CHECK(&promises[LOOSE], is_loose(&window, &sixty_seconds, 223 * SECOND - 1), "%d", 0);
	CHECK(&promises[LOOSE], !is_loose(&window, &sixty_seconds, 223 * SECOND), "%d", 0);
}

static void
test_loose_calendar(void)
{
	LlmqWindowShape before = daily;
	LlmqWindowShape after = daily;
	LlmqWindow	day = new_window(&daily, 100 * DAY + HOUR);

	before.period = (LlmqPeriod) {99 * DAY, 100 * DAY, 101 * DAY};
	after.period = (LlmqPeriod) {101 * DAY, 102 * DAY + HOUR, 103 * DAY};
	CHECK(&promises[LOOSE_CALENDAR], !is_loose(&day, &daily, 100 * DAY + 2 * HOUR), "%d", 0);
	CHECK(&promises[LOOSE_CALENDAR], is_loose(&day, &before, 100 * DAY - 1), "%d", 0);
	CHECK(&promises[LOOSE_CALENDAR], is_loose(&day, &daily, 100 * DAY + 3 * HOUR), "%d", 0);
	CHECK(&promises[LOOSE_CALENDAR], !is_loose(&day, &after, 101 * DAY), "%d", 0);
}

int
main(void)
{
	test_edges();
	test_closed();
	test_utilised();
	test_still();
	test_forward();
	test_slightly_back();
	test_far_back();
	test_back_late();
	test_voided();
	test_refunds();
	test_debt();
	test_since();
	test_calendar();
	test_calendar_back();
	test_settler();
	test_concurrency();
	test_when();
	test_zero();
	test_left();
	test_overflowing();
	test_end_of_time();
	test_shapes();
	test_stale();
	test_span();
	test_bare();
	test_refusals();
	test_earlier();
	test_earlier_moved();
	test_recount();
	test_loose();
	test_loose_calendar();
	test_units();
	test_total();
	test_total_later();
	return promises_report(promises, PROMISES);
}
