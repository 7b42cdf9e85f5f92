/*
 * duration_test.c
 *	  Durations and instants in all the forms that providers use, and what is none.
 *
 *	links: src/duration.c src/provider.c
 */
#include "postgres.h"

#include <time.h>

#include "duration.h"
#include "tap.h"

#undef snprintf

#define NOW (INT64CONST(848620800) * USECS_PER_SEC)

enum
{
	GO, WORDS, NONE, ENDS, OVERFLOW, BARE, RFC3339, HTTP, IMPOSSIBLE, CALENDAR, WHOLE, PROMISES
};

static Promise promises[PROMISES] = {
	[GO] = {"durations as Go prints them"},
	[WORDS] = {"durations in words"},
	[NONE] = {"what is no duration is not read"},
	[ENDS] = {"a duration ends where it ends"},
	[OVERFLOW] = {"what does not fit 64 bits was not said"},
	[BARE] = {"a bare number has the unit of its header"},
	[RFC3339] = {"instants of RFC 3339 and in prose"},
	[HTTP] = {"dates of HTTP"},
	[IMPOSSIBLE] = {"days and times that there are not"},
	[CALENDAR] = {"every day of four centuries is that of the C library"},
	[WHOLE] = {"a header is read to its end"},
};

static void
check_duration(Promise *promise, const char *text, int64 expected, Size bytes)
{
	int64		read;
	Size		taken = llmq_duration_read(text, &read);

	CHECK(promise, taken == bytes && (bytes == 0 || read == expected), "\"%s\": %lld in %zu bytes", text,
		  (long long) read, taken);
}

/* All of the text. */
static void
check_whole(Promise *promise, const char *text, int64 expected)
{
	check_duration(promise, text, expected, strlen(text));
}

static void
durations(void)
{
	check_whole(&promises[GO], "1s", 1000000);
	check_whole(&promises[GO], "6m0s", 360000000);
	check_whole(&promises[GO], "1m26.4s", 86400000);
	check_whole(&promises[GO], "20ms", 20000);
	check_whole(&promises[GO], "1h2m3.5s", INT64CONST(3723500000));
	check_whole(&promises[GO], "500us", 500);
	check_whole(&promises[GO], "500\xc2\xb5s", 500);
	check_whole(&promises[GO], "999ns", 0);
	check_whole(&promises[GO], "0s", 0);
	check_whole(&promises[GO], "34.074824224s", 34074824);
	check_whole(&promises[GO], "1d", USECS_PER_DAY);

	check_whole(&promises[WORDS], "6 seconds", 6000000);
	check_whole(&promises[WORDS], "1 second", 1000000);
	check_whole(&promises[WORDS], "2 minutes", 120000000);
	check_whole(&promises[WORDS], "24 hours", USECS_PER_DAY);
	check_whole(&promises[WORDS], "3 days", 3 * USECS_PER_DAY);
	check_whole(&promises[WORDS], "250 milliseconds", 250000);

	check_duration(&promises[NONE], "", 0, 0);
	check_duration(&promises[NONE], "s", 0, 0);
	check_duration(&promises[NONE], "-5s", 0, 0);
	check_duration(&promises[NONE], "5", 0, 0);
	check_duration(&promises[NONE], "5 parsecs", 0, 0);
	check_duration(&promises[NONE], "5.s", 0, 0);
	check_duration(&promises[NONE], ".5s", 0, 0);
	check_duration(&promises[NONE], "1e3s", 0, 0);
	check_duration(&promises[NONE], "soon", 0, 0);
	check_duration(&promises[NONE], "1m26", 0, 0);

	check_duration(&promises[ENDS], "6ms. Visit", 6000, 3);
	check_duration(&promises[ENDS], "1m26.4s. 2 more", 86400000, 7);
	check_duration(&promises[ENDS], "60 seconds, please", 60000000, 10);

	check_duration(&promises[OVERFLOW], "999999999999999999999s", 0, 0);
	check_duration(&promises[OVERFLOW], "999999999999999999d", 0, 0);
	check_duration(&promises[OVERFLOW], "100000000d100000000d", 0, 0);
}

static void
check_until(Promise *promise, const char *value, int64 unit, bool good, TimestampTz expected)
{
	TimestampTz until = 0;
	bool		read = llmq_duration_until(value, unit, NOW, &until);

	CHECK(promise, read == good && (!good || until == expected), "\"%s\": %d, " INT64_FORMAT, value, read, until - NOW);
}

static void
headers(void)
{
	check_until(&promises[OVERFLOW], "999999999999999999", USECS_PER_SEC, false, 0);
	check_until(&promises[OVERFLOW], "9223372036854", USECS_PER_SEC, false, 0);

	check_until(&promises[BARE], "30", USECS_PER_SEC, true, NOW + 30000000);
	check_until(&promises[BARE], "30", 1000, true, NOW + 30000);
	check_until(&promises[BARE], "33011.382867", USECS_PER_SEC, true, NOW + INT64CONST(33011382867));
	check_until(&promises[BARE], "0.5", 1000, true, NOW + 500);
	check_until(&promises[BARE], "1m", 1000, true, NOW + 60000000);

	check_until(&promises[WHOLE], "  7\t", USECS_PER_SEC, true, NOW + 7000000);
	check_until(&promises[WHOLE], "7s  ", USECS_PER_SEC, true, NOW + 7000000);
	check_until(&promises[WHOLE], "7 8", USECS_PER_SEC, false, 0);
	check_until(&promises[WHOLE], "7s, 8s", USECS_PER_SEC, false, 0);
	check_until(&promises[WHOLE], "-1", USECS_PER_SEC, false, 0);
	check_until(&promises[WHOLE], "1e3", USECS_PER_SEC, false, 0);
	check_until(&promises[WHOLE], "", USECS_PER_SEC, false, 0);
	check_until(&promises[WHOLE], "2026-11-22T00:00:01Z!", USECS_PER_SEC, false, 0);
	check_until(&promises[WHOLE], "2026-11-22T00:00:01Z", USECS_PER_SEC, true, NOW + 1000000);
	check_until(&promises[WHOLE], "Sun, 22 Nov 2026 00:00:01 GMT", USECS_PER_SEC, true, NOW + 1000000);
}

static void
check_instant(Promise *promise, const char *text, Size bytes, TimestampTz expected)
{
	TimestampTz instant = 0;
	Size		taken = llmq_instant_read(text, &instant);

	CHECK(promise, taken == bytes && (bytes == 0 || instant == expected), "\"%s\": " INT64_FORMAT " in %zu bytes",
		  text, instant, taken);
}

static void
instants(void)
{
	check_instant(&promises[RFC3339], "2000-01-01T00:00:00Z", 20, 0);
	check_instant(&promises[RFC3339], "2026-11-22T00:00:00.25Z", 23, NOW + 250000);
	check_instant(&promises[RFC3339], "2026-11-22T02:30:00+02:30", 25, NOW);
	check_instant(&promises[RFC3339], "2026-11-21T19:00:00-05:00 and on", 25, NOW);
	check_instant(&promises[RFC3339], "2026-11-22 at 00:00 UTC.", 23, NOW);
	check_instant(&promises[RFC3339], "2026-11-22 00:00:00 GMT", 23, NOW);
	check_instant(&promises[RFC3339], "2026-11-22", 10, NOW);
	check_instant(&promises[RFC3339], "2026-11-22.", 10, NOW);
	check_instant(&promises[RFC3339], "2026-11-22 at noon", 10, NOW);
	check_instant(&promises[RFC3339], "1999-12-31T23:59:60Z", 20, 0);

	check_instant(&promises[HTTP], "Sun, 06 Nov 1994 08:49:37 GMT", 29,
				  (INT64CONST(784111777) - INT64CONST(946684800)) * USECS_PER_SEC);
	check_instant(&promises[HTTP], "Sun, 06 Nvo 1994 08:49:37 GMT", 0, 0);
	check_instant(&promises[HTTP], "Sun, 06 Nov 1994 08:49:37 CET", 0, 0);
	check_instant(&promises[HTTP], "Sunday, 06-Nov-94 08:49:37 GMT", 0, 0);

	check_instant(&promises[IMPOSSIBLE], "2026-02-29", 0, 0);
	check_instant(&promises[IMPOSSIBLE], "2100-02-29", 0, 0);
	check_instant(&promises[IMPOSSIBLE], "2026-13-01", 0, 0);
	check_instant(&promises[IMPOSSIBLE], "2026-00-01", 0, 0);
	check_instant(&promises[IMPOSSIBLE], "2026-01-00", 0, 0);
	check_instant(&promises[IMPOSSIBLE], "2026-01-301", 0, 0);
	check_instant(&promises[IMPOSSIBLE], "2026-01-01T24:00:00Z", 0, 0);
	check_instant(&promises[IMPOSSIBLE], "2026-01-01T00:60:00Z", 0, 0);
	check_instant(&promises[IMPOSSIBLE], "2026-01-01T00:00:00+24:00", 0, 0);
	check_instant(&promises[IMPOSSIBLE], "0001-01-01", 0, 0);
	check_instant(&promises[IMPOSSIBLE], "2026-1-1", 0, 0);
}

/* From 1970 on. */
static void
calendar(void)
{
	for (int64 day = 0; day < 366 * 400; day++)
	{
		time_t		seconds = day * 86400;
		struct tm	parts;
		char		text[32];

		gmtime_r(&seconds, &parts);
		strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
		check_instant(&promises[CALENDAR], text, 20, (day - 10957) * USECS_PER_DAY);
	}
}

int
main(void)
{
	durations();
	headers();
	instants();
	calendar();
	return promises_report(promises, PROMISES);
}
