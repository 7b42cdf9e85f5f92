/*
 * gcra.h
 *	  The generic cell rate algorithm, exact.
 */
#ifndef LLMQ_GCRA_H
#define LLMQ_GCRA_H

#include "postgres.h"

/* So much in so many microseconds, and so much of it at once. */
typedef struct LlmqGcraLimit
{
	int32		amount;			/* from 1 */
	int64		period;			/* from 1 */
	int32		burst;			/* from 1 */
} LlmqGcraLimit;

/* A time that is no whole number of microseconds: `part` of `of` more. Fixed-width types, no padding. */
typedef struct LlmqGcraTime
{
	int64		at;
	uint32		part;
	uint32		of;
} LlmqGcraTime;

/* The longest time after which a subject may have used everything at once: 400 days. */
#define LLMQ_GCRA_LONGEST (INT64CONST(400) * 86400000000)

#define LLMQ_GCRA_NEVER (-1)

typedef struct LlmqGcraAnswer
{
	bool		allowed;
	bool		moved;			/* `until` is another than it was */
	int64		remaining;		/* of the burst, at once */
	int64		retry_after;	/* microseconds until so much is allowed; LLMQ_GCRA_NEVER: it is more than the burst */
	int64		reset_after;	/* microseconds until the whole burst is there again */
	LlmqGcraTime until;			/* then it is */
} LlmqGcraAnswer;

extern bool llmq_gcra_is_valid(const LlmqGcraLimit *limit);
extern void llmq_gcra(const LlmqGcraLimit *limit, const LlmqGcraTime *until, int64 now, int32 cost,
					  LlmqGcraAnswer *answer);

#endif							/* LLMQ_GCRA_H */
