/*
 * duration.c
 *	  Durations and instants as providers write them: "1m26.4s", "20ms", "34.07s", "6 seconds", "30", "1500" (in
 *	  milliseconds), "2026-05-01T00:00:00Z", "2026-05-01 at 00:00 UTC", "Sun, 06 Nov 1994 08:49:37 GMT".
 *
 * Pure: no server calls, no allocation, nothing raises. What has no sense, or no room in 64 bits, was not said. The
 * forms are fixed, so none of this depends on a locale or on the server's time zones; an instant without a zone is UTC.
 */
#include "postgres.h"

#include "common/int.h"

#include "duration.h"
#include "provider.h"

typedef struct Unit
{
	const char *name;
	int64		microseconds;
} Unit;

static const Unit units[] = {
	{"ns", 0},
	{"us", 1},
	{"\xc2\xb5s", 1},
	{"ms", 1000},
	{"milliseconds", 1000},
	{"s", USECS_PER_SEC},
	{"sec", USECS_PER_SEC},
	{"second", USECS_PER_SEC},
	{"seconds", USECS_PER_SEC},
	{"m", USECS_PER_MINUTE},
	{"min", USECS_PER_MINUTE},
	{"minute", USECS_PER_MINUTE},
	{"minutes", USECS_PER_MINUTE},
	{"h", USECS_PER_HOUR},
	{"hour", USECS_PER_HOUR},
	{"hours", USECS_PER_HOUR},
	{"d", USECS_PER_DAY},
	{"day", USECS_PER_DAY},
	{"days", USECS_PER_DAY},
};

/* A date and a time of day in UTC. */
typedef struct Moment
{
	int			year;
	int			month;
	int			day;
	int			hour;
	int			minute;
	int			second;
	int64		fraction;		/* microseconds */
	int			offset;			/* minutes east of UTC */
} Moment;

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool
is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || ((unsigned char) c & 0x80) != 0;
}

/* The digits after a decimal point, as millionths; what is finer is dropped. The bytes, the point's included. */
static Size
read_fraction(const char *text, int64 *millionths)
{
	Size		at = 1;
	int64		worth = 100000;

	*millionths = 0;
	if (text[0] != '.' || !is_digit(text[1]))
		return 0;
	for (; is_digit(text[at]); at++, worth /= 10)
		*millionths += (text[at] - '0') * worth;
	return at;
}

/* A number, perhaps with a fraction. */
static Size
read_number(const char *text, int64 *whole, int64 *millionths)
{
	Size		bytes = llmq_read_count(text, whole);

	return bytes == 0 ? 0 : bytes + read_fraction(text + bytes, millionths);
}

/* The unit that a text begins with, as a whole word, perhaps after a space. */
static Size
read_unit(const char *text, const Unit **unit)
{
	Size		space = text[0] == ' ' ? 1 : 0;

	for (int i = 0; i < (int) lengthof(units); i++)
	{
		Size		length = strlen(units[i].name);

		*unit = &units[i];
		if (strncmp(text + space, units[i].name, length) == 0 && !is_letter(text[space + length]))
			return space + length;
	}
	return 0;
}

/* *sum += (whole + millionths / 1,000,000) * unit; false when that does not fit. */
static bool
add_units(int64 *sum, int64 whole, int64 millionths, int64 unit)
{
	int64		product;

	return !pg_mul_s64_overflow(whole, unit, &product) &&
		!pg_add_s64_overflow(*sum, product, sum) &&
		!pg_add_s64_overflow(*sum, millionths * unit / 1000000, sum);
}

/* Numbers with units, one after the other as Go prints them. */
Size
llmq_duration_read(const char *text, int64 *microseconds)
{
	Size		at = 0;

	*microseconds = 0;
	do
	{
		int64		whole;
		int64		millionths = 0;
		const Unit *unit;
		Size		number = read_number(text + at, &whole, &millionths);
		Size		name = number == 0 ? 0 : read_unit(text + at + number, &unit);

		if (name == 0 || !add_units(microseconds, whole, millionths, unit->microseconds))
			return 0;
		at += number + name;
	} while (is_digit(text[at]));
	return at;
}

/* Reads exactly so many digits. */
static bool
take_digits(const char **at, int count, int *value)
{
	*value = 0;
	for (int i = 0; i < count; i++, (*at)++)
	{
		if (!is_digit(**at))
			return false;
		*value = *value * 10 + (**at - '0');
	}
	return true;
}

static bool
take(const char **at, const char *wanted)
{
	Size		length = strlen(wanted);

	if (strncmp(*at, wanted, length) != 0)
		return false;
	*at += length;
	return true;
}

/* Days from 2000-01-01 to a date of the Gregorian calendar. */
static int64
days_since_2000(int year, int month, int day)
{
	/* Years that begin in March end with the leap day. */
	int64		years = month > 2 ? year : year - 1;
	int64		months = month > 2 ? month - 3 : month + 9;

	return years * 365 + years / 4 - years / 100 + years / 400 + (months * 153 + 2) / 5 + day - 1 - 730425;
}

/* The instant of a moment; false when there is no such day or time. */
static bool
moment_instant(const Moment *moment, TimestampTz *instant)
{
	static const int lengths[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool		leap = moment->year % 4 == 0 && (moment->year % 100 != 0 || moment->year % 400 == 0);
	int64		minutes;

	if (moment->month < 1 || moment->month > 12 || moment->day < 1 || moment->day > lengths[moment->month - 1] ||
		(moment->month == 2 && moment->day == 29 && !leap))
		return false;
	if (moment->year < 1970 || moment->hour > 23 || moment->minute > 59 || moment->second > 60)
		return false;
	minutes = (days_since_2000(moment->year, moment->month, moment->day) * 24 + moment->hour) * 60 + moment->minute -
		moment->offset;
	*instant = (minutes * 60 + moment->second) * USECS_PER_SEC + moment->fraction;
	return true;
}

/* "HH:MM", perhaps with seconds and their fraction. */
static bool
take_time(const char **at, Moment *moment)
{
	if (!take_digits(at, 2, &moment->hour) || !take(at, ":") || !take_digits(at, 2, &moment->minute))
		return false;
	if (!take(at, ":"))
		return true;
	if (!take_digits(at, 2, &moment->second))
		return false;
	*at += read_fraction(*at, &moment->fraction);
	return true;
}

/* "Z", "+02:00", " UTC", or nothing at all. */
static bool
take_zone(const char **at, Moment *moment)
{
	int			sign = **at == '-' ? -1 : 1;
	int			hours;
	int			minutes;

	if (take(at, "Z") || take(at, " UTC") || take(at, " GMT") || !(take(at, "+") || take(at, "-")))
		return true;
	if (!take_digits(at, 2, &hours) || !take(at, ":") || !take_digits(at, 2, &minutes))
		return false;
	moment->offset = sign * (hours * 60 + minutes);
	return hours <= 23 && minutes <= 59;
}

/* RFC 3339, and the same in prose: "2026-05-01 at 00:00 UTC"; a date alone is its midnight. */
static bool
take_date_and_time(const char **at, Moment *moment)
{
	const char *rest;

	if (!take_digits(at, 4, &moment->year) || !take(at, "-") || !take_digits(at, 2, &moment->month) ||
		!take(at, "-") || !take_digits(at, 2, &moment->day) || is_digit(**at))
		return false;
	rest = *at;
	if (!(take(&rest, "T") || take(&rest, "t") || take(&rest, " at ") || take(&rest, " ")) || !is_digit(*rest))
		return true;
	*at = rest;
	return take_time(at, moment) && take_zone(at, moment);
}

/* The date of RFC 9110: "Sun, 06 Nov 1994 08:49:37 GMT". */
static bool
take_http_date(const char **at, Moment *moment)
{
	static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
		"Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};

	for (int i = 0; i < 3; i++, (*at)++)
		if (!is_letter(**at))
			return false;
	if (!take(at, ", ") || !take_digits(at, 2, &moment->day) || !take(at, " "))
		return false;
	for (int i = 0; i < (int) lengthof(months); i++)
		if (moment->month == 0 && take(at, months[i]))
			moment->month = i + 1;
	return take(at, " ") && take_digits(at, 4, &moment->year) && take(at, " ") && take_time(at, moment) &&
		take(at, " GMT");
}

Size
llmq_instant_read(const char *text, TimestampTz *instant)
{
	Moment		moment;
	const char *at = text;
	bool		taken;

	memset(&moment, 0, sizeof(Moment));
	taken = is_digit(*text) ? take_date_and_time(&at, &moment) : take_http_date(&at, &moment);
	return taken && moment_instant(&moment, instant) ? at - text : 0;
}

/* A header's instant: a bare number of units, a duration from now, or an instant; nothing else may follow. */
bool
llmq_duration_until(const char *value, int64 unit, TimestampTz now, TimestampTz *until)
{
	int64		whole;
	int64		millionths = 0;
	int64		duration = 0;
	Size		bytes;

	while (*value == ' ' || *value == '\t')
		value++;
	bytes = read_number(value, &whole, &millionths);
	if (bytes > 0 && value[bytes + strspn(value + bytes, " \t")] == '\0')
		return add_units(&duration, whole, millionths, unit) && !pg_add_s64_overflow(now, duration, until);

	bytes = llmq_duration_read(value, &duration);
	if (bytes > 0 && value[bytes + strspn(value + bytes, " \t")] == '\0')
		return !pg_add_s64_overflow(now, duration, until);

	bytes = llmq_instant_read(value, until);
	return bytes > 0 && value[bytes + strspn(value + bytes, " \t")] == '\0';
}
