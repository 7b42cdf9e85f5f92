/*
 * breaker.h
 *	  The circuit breaker: when so many calls fail that no more should be made.
 */
#ifndef LLMQ_BREAKER_H
#define LLMQ_BREAKER_H

#include "postgres.h"

/* The sliding minute, in steps of ten seconds. */
#define LLMQ_BREAKER_STEPS 6
#define LLMQ_BREAKER_STEP_USECS INT64CONST(10000000)

/* Part of a cell's state: fixed-width types, no padding. */
typedef struct LlmqBreaker
{
	int64		step_began;		/* the newest step; a multiple of its length */
	uint32		succeeded[LLMQ_BREAKER_STEPS];	/* the newest first */
	uint32		failed[LLMQ_BREAKER_STEPS];
	uint32		in_a_row;		/* failures since the last success */
	uint32		reserved;
} LlmqBreaker;

StaticAssertDecl(sizeof(LlmqBreaker) == 16 + 8 * LLMQ_BREAKER_STEPS, "LlmqBreaker has no padding");

typedef struct LlmqBreakerRule
{
	int32		in_a_row;		/* so many failures in a row open it */
	int32		min_calls;		/* ... or, of at least so many calls within the minute, */
	double		failure_rate;	/* this share */
	int64		probe_after;	/* microseconds; each time it opens again, twice as long */
} LlmqBreakerRule;

extern bool llmq_breaker_note(LlmqBreaker *breaker, bool failed, int64 now, const LlmqBreakerRule *rule);
extern void llmq_breaker_reset(LlmqBreaker *breaker);
extern int64 llmq_breaker_wait(const LlmqBreakerRule *rule, int times_opened);

#endif							/* LLMQ_BREAKER_H */
