/*
 * threshold_test.c
 *	  Somebody is told at exactly the use that is a threshold's part of the amount, and of a forecast when it comes true.
 *
 * links: src/threshold.c src/forecast.c src/burn.c src/window.c src/calendar.c
 */
#include "postgres.h"

#include <stdlib.h>

#include "forecast.h"
#include "tap.h"
#include "threshold.h"

#define SECOND INT64CONST(1000000)
#define HOUR (3600 * SECOND)
#define DAY (24 * HOUR)

enum
{
	ORDER, EXACT, NEXT, NOTHING, PACKED, FLAGGED, NEW_PERIOD, FOREIGN, PROPHECY, SILENCE, STEADY, RISING, TOTAL, PROMISES
};

static Promise promises[PROMISES] = {
	[ORDER] = {.name = "thresholds are in order, each once, eight at most"},
	[EXACT] = {.name = "a threshold is reached by the least use that is its part of the amount or more"},
	[NEXT] = {.name = "the next one is the first that is not reached"},
	[NOTHING] = {.name = "an amount of 0, or without thresholds, has none"},
	[PACKED] = {.name = "a window remembers the use at which somebody looks, at most a 2^-25th too early"},
	[FLAGGED] = {.name = "it is flagged when its use is there, and once"},
	[NEW_PERIOD] = {.name = "a new period knows neither"},
	[FOREIGN] = {.name = "nothing else of a window changes for that"},
	[PROPHECY] = {.name = "a period that goes on as it began is used up when the forecast says so"},
	[SILENCE] = {.name = "no forecast of little use, of the beginning, of what is used up, or for after the period"},
	[STEADY] = {.name = "a sliding window whose use stays below its amount is not used up"},
	[RISING] = {.name = "one whose use rises above it is, when the forecast says so"},
	[TOTAL] = {.name = "of a total only a month is looked at"},
};

static LlmqWindow
calendar_window(int64 start, int64 end, int64 now)
{
	LlmqWindowShape shape = {
		.quota = 1,.kind = LLMQ_WINDOW_CALENDAR,.metric = LLMQ_METRIC_REQUESTS,
		.period = {.start = start,.end = end,.next_end = end + DAY}
	};
	LlmqWindow	window;

	llmq_window_init(&window, &shape, 7, now, 0);
	return window;
}

static LlmqWindow
sliding_window(int64 length, int64 now)
{
	LlmqWindowShape shape = {
		.quota = 1,.kind = LLMQ_WINDOW_SLIDING,.metric = LLMQ_METRIC_REQUESTS,.span = llmq_window_span(length, 0)
	};
	LlmqWindow	window;

	llmq_window_init(&window, &shape, 7, now, 0);
	return window;
}

static void
advance(LlmqWindow *window, int64 now)
{
	LlmqWindowShape shape;

	llmq_window_shape_of(window, &shape);
	(void) llmq_window_advance(window, &shape, now, 7);
}

static void
test_order(void)
{
	LlmqThresholds thresholds = {0};
	int64		parts[] = {500, 300, 500, 900, 100, 200, 400, 800, 700, 600};

	for (int i = 0; i < (int) lengthof(parts); i++)
		llmq_threshold_add(&thresholds, parts[i]);
	CHECK(&promises[ORDER], thresholds.n == LLMQ_MAX_THRESHOLDS, "%d", thresholds.n);
	for (int i = 1; i < thresholds.n; i++)
		CHECK(&promises[ORDER], thresholds.part[i - 1] < thresholds.part[i], "at %d", i);
	CHECK(&promises[ORDER], thresholds.part[0] == 100, "first " INT64_FORMAT, thresholds.part[0]);
}

static void
test_exact(void)
{
	for (int i = 0; i < 100000; i++)
	{
		int64		amount = ((int64) random() << 31 | random()) >> (random() % 62);
		int64		part = 1 + random() % LLMQ_THRESHOLD_ONE;
		int64		use = llmq_threshold_use(part, amount);

		CHECK(&promises[EXACT], (int128) use * LLMQ_THRESHOLD_ONE >= (int128) part * amount &&
			  (int128) (use - 1) * LLMQ_THRESHOLD_ONE < (int128) part * amount,
			  INT64_FORMAT " of " INT64_FORMAT ": " INT64_FORMAT, part, amount, use);
	}
	CHECK(&promises[EXACT], llmq_threshold_use(800000000, 10) == 8 && llmq_threshold_use(800000000, 9) == 8 &&
		  llmq_threshold_use(LLMQ_THRESHOLD_ONE, PG_INT64_MAX) == PG_INT64_MAX, "by hand");
}

static void
test_next(void)
{
	LlmqThresholds thresholds = {.n = 2,.part = {800000000, 950000000}};
	LlmqThresholds none = {0};

	CHECK(&promises[NEXT], llmq_threshold_next(&thresholds, 100, -5) == 80, "below zero");
	CHECK(&promises[NEXT], llmq_threshold_next(&thresholds, 100, 79) == 80, "at 79");
	CHECK(&promises[NEXT], llmq_threshold_next(&thresholds, 100, 80) == 95, "at 80");
	CHECK(&promises[NEXT], llmq_threshold_next(&thresholds, 100, 95) == LLMQ_NO_THRESHOLD, "at 95");
	CHECK(&promises[NOTHING], llmq_threshold_next(&thresholds, 0, 0) == LLMQ_NO_THRESHOLD, "of nothing");
	CHECK(&promises[NOTHING], llmq_threshold_next(&thresholds, -1, 0) == LLMQ_NO_THRESHOLD, "of no limit");
	CHECK(&promises[NOTHING], llmq_threshold_next(&none, 100, 0) == LLMQ_NO_THRESHOLD, "without");
}

static void
test_packed(void)
{
	LlmqWindow	calendar = calendar_window(0, DAY, HOUR);
	LlmqWindow	sliding = sliding_window(HOUR, HOUR);

	CHECK(&promises[PACKED], llmq_window_alert_from(&calendar) == 0 && llmq_window_alert_from(&sliding) == 0,
		  "one that begins knows something");
	for (int i = 0; i < 100000; i++)
	{
		int64		use = 1 + (((int64) random() << 31 | random()) >> (random() % 62));
		LlmqWindow *window = i % 2 == 0 ? &calendar : &sliding;
		int64		from;

		llmq_window_set_alert_from(window, use);
		from = llmq_window_alert_from(window);
		CHECK(&promises[PACKED], from <= use && use - from <= use >> 25 && llmq_window_is_alert_from(window, use),
			  INT64_FORMAT " became " INT64_FORMAT, use, from);
	}
	llmq_window_set_alert_from(&calendar, PG_INT64_MAX);
	CHECK(&promises[PACKED], llmq_window_alert_from(&calendar) > PG_INT64_MAX / 2, "never");
}

static void
test_flag(void)
{
	LlmqWindow	window = calendar_window(0, DAY, HOUR);
	LlmqWindow	before;

	llmq_window_set_alert_from(&window, 80);
	(void) llmq_window_charge(&window, HOUR, 79);
	CHECK(&promises[FLAGGED], !llmq_window_note_alert(&window) && !(window.flags & LLMQ_WINDOW_ALERT), "at 79");
	(void) llmq_window_charge(&window, HOUR, 1);
	before = window;
	CHECK(&promises[FLAGGED], llmq_window_note_alert(&window), "at 80");
	CHECK(&promises[FLAGGED], !llmq_window_note_alert(&window), "again");
	before.flags |= LLMQ_WINDOW_ALERT;
	CHECK(&promises[FOREIGN], memcmp(&before, &window, LLMQ_WINDOW_HEAD_SIZE) == 0, "by the flag");
	llmq_window_set_alert_from(&window, 95);
	CHECK(&promises[FOREIGN], window.zone == before.zone && window.since == before.since && window.sum == before.sum,
		  "by the mark");
	advance(&window, DAY + HOUR);
	CHECK(&promises[NEW_PERIOD], window.head == DAY && window.sum == 0, "there is none");
	CHECK(&promises[NEW_PERIOD], !(window.flags & LLMQ_WINDOW_ALERT) && llmq_window_alert_from(&window) == 0, "it knows");
}

static void
test_sliding_flag(void)
{
	LlmqWindow	window = sliding_window(HOUR, HOUR);
	uint32		rebased = window.rebased;
	LlmqWindowShape shape;

	llmq_window_shape_of(&window, &shape);
	shape.zone = 0;
	llmq_window_set_alert_from(&window, 80);
	CHECK(&promises[FOREIGN], window.rebased == rebased && llmq_window_same_shape(&window, &shape), "of a sliding window");
	(void) llmq_window_charge(&window, HOUR, 80);
	CHECK(&promises[FLAGGED], llmq_window_note_alert(&window), "sliding, at 80");
	window.kind = LLMQ_WINDOW_CONCURRENCY;
	window.flags = 0;
	CHECK(&promises[FLAGGED], !llmq_window_note_alert(&window), "concurrency");
}

/* Plays on as the period has begun: the forecast's time is that of the first charge that reaches the amount. */
static void
test_calendar_forecast(void)
{
	for (int i = 0; i < 1000; i++)
	{
		int64		amount = 1000 + random() % 100000;
		int64		passed = HOUR + random() % (20 * 3600) * SECOND;
		int64		used = amount / 4 + 1 + random() % (amount / 2);
		LlmqWindow	window = calendar_window(0, DAY, passed);
		int64		at;
		double		true_at = (double) passed * amount / used;

		(void) llmq_window_charge(&window, passed, used);
		at = llmq_forecast(&window, amount, HOUR, passed);
		if (true_at >= (double) DAY + SECOND)
			CHECK(&promises[SILENCE], at == LLMQ_FORECAST_NONE, "at %f of a day", true_at / DAY);
		else if (true_at < (double) DAY - SECOND)
			CHECK(&promises[PROPHECY], llabs(at - (int64) true_at) < SECOND, INT64_FORMAT " for %f", at, true_at);
	}
}

static void
test_silence(void)
{
	LlmqWindow	window = calendar_window(0, DAY, HOUR);

	(void) llmq_window_charge(&window, HOUR, 24);
	CHECK(&promises[SILENCE], llmq_forecast(&window, 100, 0, HOUR) == LLMQ_FORECAST_NONE, "little use");
	(void) llmq_window_charge(&window, HOUR, 1);
	CHECK(&promises[SILENCE], llmq_forecast(&window, 100, HOUR + 1, HOUR) == LLMQ_FORECAST_NONE, "the beginning");
	CHECK(&promises[PROPHECY], llmq_forecast(&window, 100, HOUR, HOUR) == 4 * HOUR, "a quarter in an hour");
	(void) llmq_window_charge(&window, HOUR, 75);
	CHECK(&promises[SILENCE], llmq_forecast(&window, 100, 0, HOUR) == LLMQ_FORECAST_NONE, "used up");
	CHECK(&promises[SILENCE], llmq_forecast(&window, 0, 0, HOUR) == LLMQ_FORECAST_NONE, "no amount");
	window.kind = LLMQ_WINDOW_CONCURRENCY;
	CHECK(&promises[SILENCE], llmq_forecast(&window, 200, 0, HOUR) == LLMQ_FORECAST_NONE, "concurrency");
}

/* Charges `rate` a minute from one minute to another. */
static void
play(LlmqWindow *window, int from, int to, int rate)
{
	for (int minute = from; minute < to; minute++)
	{
		advance(window, minute * 60 * SECOND + 1);
		(void) llmq_window_charge(window, minute * 60 * SECOND + 1, rate);
	}
}

static void
test_sliding_forecast(void)
{
	LlmqWindow	window = sliding_window(HOUR, 0);
	int64		now = 200 * 60 * SECOND;
	int64		at;
	int			minute;

	play(&window, 0, 200, 10);
	for (int64 amount = 625; amount < 2000; amount += 25)
		CHECK(&promises[STEADY], llmq_forecast(&window, amount, 0, now) == LLMQ_FORECAST_NONE, "of " INT64_FORMAT, amount);
	play(&window, 200, 215, 30);
	now = 215 * 60 * SECOND - 1;
	at = llmq_forecast(&window, 1200, 0, now);
	CHECK(&promises[RISING], at > now, "nothing is seen");
	for (minute = 215; minute < 300 && window.sum < 1200; minute++)
		play(&window, minute, minute + 1, 30);
	CHECK(&promises[RISING], llabs(at - minute * 60 * SECOND) <= 120 * SECOND, "minute %d for " INT64_FORMAT, minute,
		  at / SECOND / 60);
	CHECK(&promises[RISING], llmq_forecast(&window, 5000, 0, at) == LLMQ_FORECAST_NONE, "of more than ever comes");
}

static void
test_total(void)
{
	LlmqWindow	window;
	LlmqWindowShape shape = {
		.quota = 1,.kind = LLMQ_WINDOW_CALENDAR,.metric = LLMQ_METRIC_COST,.unit = llmq_unit(LLMQ_CALENDAR_TOTAL, 1)
	};

	llmq_total_period(0, DAY, &shape.period);
	llmq_window_init(&window, &shape, 7, 100 * DAY, 0);
	(void) llmq_window_charge(&window, 100 * DAY, 800);
	CHECK(&promises[TOTAL], llmq_forecast(&window, 1000, HOUR, 100 * DAY) == 125 * DAY, "25 days");
	CHECK(&promises[TOTAL], llmq_forecast(&window, 1200, HOUR, 100 * DAY) == LLMQ_FORECAST_NONE, "50 days");
}

int
main(void)
{
	srandom(1);
	test_order();
	test_exact();
	test_next();
	test_packed();
	test_flag();
	test_sliding_flag();
	test_calendar_forecast();
	test_silence();
	test_sliding_forecast();
	test_total();
	return promises_report(promises, PROMISES);
}
