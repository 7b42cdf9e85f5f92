/*
 * spread.c
 *	  When refused callers return, so that they do not return as one herd.
 *
 * Pure functions: no server calls, nothing locked, nothing raised.
 *
 * Every caller waits until its request fits, and then somewhere within a width: as wide as it takes for all who wait to
 * return no faster than room returns, at least a share of the wait, at most 44 s. Where in the width is partly told by
 * the org, so that an org's callers stay in their part of it, and partly by chance; over many orgs it is even. What
 * only one org waits for is left to chance. Nobody returns before half of those refused before could have had their
 * turn: else the first seconds would get a part of everybody's width.
 */
#include "postgres.h"

#include <math.h>

#include "spread.h"

/* At the least after a calendar's reset: clocks differ. */
#define RESET_LEAST INT64CONST(1000000)

/* The part of the width that is left to chance. */
#define CHANCE ((double) LLMQ_SPREAD_RANDOM / LLMQ_SPREAD_WIDEST)

/* The time in which room for those who were refused before returns. */
static double
queue_time(const LlmqReturn *caller)
{
	return (double) Max(caller->waiting - 1, 0) * caller->pace;
}

/* How wide callers are spread. */
int64
llmq_spread_width(const LlmqReturn *caller)
{
	double		width = Max((double) caller->wait * caller->share, queue_time(caller));

	return (int64) Min(width, (double) LLMQ_SPREAD_WIDEST);
}

/* What is added to a caller's wait. */
int64
llmq_spread(const LlmqReturn *caller)
{
	double		width = (double) llmq_spread_width(caller);
	double		first = queue_time(caller) <= (double) LLMQ_SPREAD_WIDEST ? queue_time(caller) / 2 : 0;
	double		place = caller->one_org ? caller->random : caller->by_org + caller->random * CHANCE;

	if (caller->at_reset)
		return RESET_LEAST + (int64) (caller->random * (LLMQ_SPREAD_RANDOM - RESET_LEAST)) +
			(int64) (caller->by_org * LLMQ_SPREAD_BY_ORG);
	return (int64) (first + (width - first) * (place - floor(place)));
}
