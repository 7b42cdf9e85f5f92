/*
 * spread.h
 *	  When refused callers return, so that they do not return as one herd.
 */
#ifndef LLMQ_SPREAD_H
#define LLMQ_SPREAD_H

#include "postgres.h"

/* The widest spread: what design.md gives a calendar's reset, 15 s at random and 29 s by org. Microseconds. */
#define LLMQ_SPREAD_RANDOM INT64CONST(15000000)
#define LLMQ_SPREAD_BY_ORG INT64CONST(29000000)
#define LLMQ_SPREAD_WIDEST (LLMQ_SPREAD_RANDOM + LLMQ_SPREAD_BY_ORG)

/* One refused caller. Times are microseconds. */
typedef struct LlmqReturn
{
	int64		wait;			/* until the request fits */
	int64		waiting;		/* callers refused since the last grant, this one included */
	double		pace;			/* in which room for one such request returns; 0: not known */
	double		share;			/* of the wait, the least spread */
	double		by_org;			/* in [0, 1), the same for all callers of an org */
	double		random;			/* in [0, 1) */
	bool		one_org;		/* all who wait are of one org */
	bool		at_reset;		/* all room returns at once, at a calendar's reset */
} LlmqReturn;

extern int64 llmq_spread_width(const LlmqReturn *caller);
extern int64 llmq_spread(const LlmqReturn *caller);

#endif							/* LLMQ_SPREAD_H */
