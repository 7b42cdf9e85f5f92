/*
 * zone.c
 *	  Calendar periods in a named time zone, on the server's own tz data.
 *
 * Protocol.  These functions may read tz files and allocate in the server's
 * cache of zones, so they are called before any page is locked, and only when
 * a period that was computed earlier has passed.  They change nothing else and
 * raise nothing for a wrong name: they return false, and the caller says what
 * was wrong.
 *
 * A name means what it means to SET timezone: CET, for one, has a summer time,
 * while AT TIME ZONE 'CET' is an abbreviation of one hour east.
 *
 * The day D begins at the first instant whose local date is D or later.  That
 * is midnight; or where the clocks skip midnight, the end of the gap; where
 * they show it twice, the first time; and a day that the zone left out
 * altogether has no length.  Weeks (from Monday), months, quarters and years
 * begin with their first day, and each lasts until the next one that begins
 * later.  So periods follow each other without gap or overlap, and none of
 * them is empty.  Years may begin with another month than January, and their
 * quarters with them.
 *
 * A total has one period, which never ends, and no zone.
 */
#include "postgres.h"

#include "common/int.h"
#include "pgtime.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "zone.h"

/* Seconds from 1970, of pg_time_t, to 2000, of TimestampTz. */
#define EPOCH_SECONDS ((pg_time_t) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)

/* More than the largest offset that a zone may have, which is 167 hours. */
#define OFFSET_BOUND ((pg_time_t) 8 * SECS_PER_DAY)

/*
 * The zone of this name, or NULL.
 */
static pg_tz *
find_zone(const char *name)
{
	pg_tz	   *zone = pg_tzset(name);

	return zone != NULL && pg_tz_acceptable(zone) ? zone : NULL;
}

/*
 * The local date, as a Julian day, at a second.  False when out of range.
 */
static bool
local_date(const pg_tz *zone, pg_time_t second, int *date)
{
	struct pg_tm *tm = pg_localtime(&second, zone);

	if (tm == NULL)
		return false;
	*date = date2j(tm->tm_year + 1900, tm->tm_mon + 1, tm->tm_mday);
	return *date >= 0;
}

/*
 * The first second whose local date is the given one or later.
 *
 * From a time that is certainly before it, go from one change of the offset to
 * the next, until local midnight is reached within a stretch or was jumped over
 * at its beginning.
 */
static bool
date_start(const pg_tz *zone, int date, pg_time_t *start)
{
	pg_time_t	local_midnight = (pg_time_t) (date - UNIX_EPOCH_JDATE) * SECS_PER_DAY;
	pg_time_t	stretch = local_midnight - OFFSET_BOUND;

	for (;;)
	{
		struct pg_tm *tm = pg_localtime(&stretch, zone);
		pg_time_t	midnight;
		pg_time_t	change;
		long int	gmtoff;
		int			isdst;
		int			found;

		if (tm == NULL)
			return false;
		midnight = local_midnight - tm->tm_gmtoff;

		found = pg_next_dst_boundary(&stretch, &gmtoff, &isdst, &change, &gmtoff, &isdst, zone);
		if (found < 0)
			return false;
		if (found == 0 || midnight < change)
		{
			*start = Max(midnight, stretch);
			return true;
		}
		stretch = change;
	}
}

/*
 * The first day of the period, this one (later = 0) or the next one (later =
 * 1), that a date belongs to.
 */
static int
period_date(uint8 unit, int date, int later)
{
	int			length;			/* of a period, in months */
	int			passed;			/* of a fiscal year, before this month */
	int			year;
	int			month;
	int			day;

	switch (llmq_unit_calendar(unit))
	{
		case LLMQ_CALENDAR_DAY:
			return date + later;
		case LLMQ_CALENDAR_WEEK:
			return date - date % 7 + 7 * later; /* Julian day 0 was a Monday */
		case LLMQ_CALENDAR_MONTH:
			length = 1;
			break;
		case LLMQ_CALENDAR_QUARTER:
			length = 3;
			break;
		default:
			length = MONTHS_PER_YEAR;
			break;
	}
	j2date(date, &year, &month, &day);
	passed = (month + MONTHS_PER_YEAR - llmq_unit_fiscal_month(unit)) % MONTHS_PER_YEAR;
	month += length * later - passed % length;
	if (month > MONTHS_PER_YEAR)
		return date2j(year + 1, month - MONTHS_PER_YEAR, 1);
	return month < 1 ? date2j(year - 1, month + MONTHS_PER_YEAR, 1) : date2j(year, month, 1);
}

/*
 * Go on to the next period that begins later than the given second, and say
 * when.  *date is the first day of a period that begins no later than that.
 */
static bool
next_start(const pg_tz *zone, uint8 unit, int *date, pg_time_t after, pg_time_t *start)
{
	do
	{
		*date = period_date(unit, *date, 1);
		if (!date_start(zone, *date, start))
			return false;
	} while (*start <= after);
	return true;
}

/*
 * As a timestamp.  False when it is not one.
 */
static bool
to_timestamp(pg_time_t second, int64 *result)
{
	return !pg_mul_s64_overflow(second - EPOCH_SECONDS, USECS_PER_SEC, result) &&
		IS_VALID_TIMESTAMP(*result);
}

/*
 * Is this a zone that llmq_zone_period takes?
 */
bool
llmq_zone_known(const char *name)
{
	return find_zone(name) != NULL;
}

/*
 * The period that contains an instant, and the end of the one after it.  False
 * for an unknown zone, at the ends of time, or for a total, which has none.
 */
bool
llmq_zone_period(const char *name, uint8 unit, TimestampTz at, LlmqPeriod *period)
{
	pg_tz	   *zone = find_zone(name);
	pg_time_t	second;
	pg_time_t	start;
	pg_time_t	end;
	pg_time_t	next_end;
	int			date;

	if (zone == NULL || !IS_VALID_TIMESTAMP(at) || llmq_unit_calendar(unit) > LLMQ_CALENDAR_YEAR)
		return false;
	second = at / USECS_PER_SEC - (at % USECS_PER_SEC < 0 ? 1 : 0) + EPOCH_SECONDS;

	if (!local_date(zone, second, &date))
		return false;
	date = period_date(unit, date, 0);
	if (!date_start(zone, date, &end))
		return false;

	/* where clocks went back over midnight, the date's own period has ended */
	do
	{
		start = end;
		if (!next_start(zone, unit, &date, start, &end))
			return false;
	} while (end <= second);

	return next_start(zone, unit, &date, end, &next_end) &&
		to_timestamp(start, &period->start) &&
		to_timestamp(end, &period->end) &&
		to_timestamp(next_end, &period->next_end);
}

/*
 * "day"; "quarter from April".
 */
const char *
llmq_unit_text(uint8 unit)
{
	static const char *const names[] = {
		[LLMQ_CALENDAR_DAY] = "day",
		[LLMQ_CALENDAR_WEEK] = "week",
		[LLMQ_CALENDAR_MONTH] = "month",
		[LLMQ_CALENDAR_QUARTER] = "quarter",
		[LLMQ_CALENDAR_YEAR] = "year",
		[LLMQ_CALENDAR_TOTAL] = "total"
	};
	static const char *const month_names[] = {
		"January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
		"December"
	};
	LlmqCalendarUnit calendar = llmq_unit_calendar(unit);
	int			month = llmq_unit_fiscal_month(unit);

	if (calendar > LLMQ_CALENDAR_TOTAL || month > MONTHS_PER_YEAR)
		return "unknown";
	return month == 1 ? names[calendar] : psprintf("%s from %s", names[calendar], month_names[month - 1]);
}

/*
 * A hash of the name that stays what it is, since it is stored: 32-bit FNV-1a.
 */
uint32
llmq_zone_hash(const char *name)
{
	uint32		hash = 2166136261U;

	for (; *name != '\0'; name++)
		hash = (hash ^ pg_ascii_tolower((unsigned char) *name)) * 16777619U;
	return hash;
}
