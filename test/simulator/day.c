/*
 * day.c
 *	  Midnight in a zone, by the C library.
 *
 * The zone of the process is changed for that and stays: nothing else in the
 * simulator asks for local time, and callers hold its lock.
 */
#include "day.h"

#include <stdlib.h>
#include <time.h>

/*
 * The first midnight after now, in microseconds since 1970.  Not for zones
 * that put the clock forward at midnight.
 */
int64_t
sim_next_midnight(const char *zone, int64_t now)
{
	time_t		seconds = now / 1000000;
	struct tm	local;

	setenv("TZ", zone, 1);
	tzset();
	localtime_r(&seconds, &local);
	local.tm_mday++;
	local.tm_hour = local.tm_min = local.tm_sec = 0;
	local.tm_isdst = -1;
	return (int64_t) mktime(&local) * 1000000;
}
