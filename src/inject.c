/*
 * inject.c
 *	  Faults on demand, in testing builds only.
 *
 * One superuser setting, llmquota.inject, names the points at which the server is to fail. A shipped build has neither
 * the setting nor the points.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#include "inject.h"

#ifdef LLMQ_TESTING

char	   *llmq_inject;

void
llmq_inject_init(void)
{
	DefineCustomStringVariable("llmquota.inject",
							   "The points at which a testing build of llmquota fails.",
							   NULL,
							   &llmq_inject,
							   "",
							   PGC_SUSET,
							   0,
							   NULL, NULL, NULL);
}

/* What the setting, a list "point,point:times", has behind the name of a point; NULL when that is not in it. */
static const char *
behind(const char *point)
{
	Size		length = strlen(point);

	for (const char *at = llmq_inject; at != NULL; at = strchr(at, ','))
	{
		at += *at == ',';
		if (strncmp(at, point, length) == 0 && strchr(",:", at[length]) != NULL)
			return at + length;
	}
	return NULL;
}

/* Is this a point that the test asked for? */
bool
llmq_injected(const char *point)
{
	return behind(point) != NULL;
}

/* Raises at the point that the test asked for. */
void
llmq_inject_error(const char *point)
{
	if (llmq_injected(point))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("injected fault at \"%s\"", point)));
}

/* Is this a point that the test asked for, and is it passed as often as it said? */
static bool
reached(const char *point)
{
	static int	passed = 0;
	const char *times = behind(point);

	return times != NULL && ++passed >= (*times == ':' ? atoi(times + 1) : 1);
}

/* Crashes the server at the point that the test asked for, once everything up to this record is on disk. */
void
llmq_inject_crash(const char *point, XLogRecPtr lsn)
{
	if (!reached(point))
		return;
	XLogFlush(lsn);
	kill(MyProcPid, SIGKILL);
}

/* Waits at the point that the test asked for, until it is interrupted. */
void
llmq_inject_hang(const char *point)
{
	while (llmq_injected(point))
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Waits at the point that the test asked for while somebody has the advisory lock 0, as isolation tests can see. */
void
llmq_inject_gate(const char *point)
{
	int			guc_level;

	if (!llmq_injected(point))
		return;
	guc_level = NewGUCNestLevel();
	(void) set_config_option("lock_timeout", "0", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) DirectFunctionCall1(pg_advisory_lock_int8, Int64GetDatum(0));
	(void) DirectFunctionCall1(pg_advisory_unlock_int8, Int64GetDatum(0));
	AtEOXact_GUC(false, guc_level);
}

#endif							/* LLMQ_TESTING */
