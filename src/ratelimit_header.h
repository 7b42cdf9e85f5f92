/*
 * ratelimit_header.h
 *	  The limits that a provider advertises in the headers of its answers.
 */
#ifndef LLMQ_RATELIMIT_HEADER_H
#define LLMQ_RATELIMIT_HEADER_H

#include "datatype/timestamp.h"

#include "provider.h"

/* More than any provider sends; more are not read. */
#define LLMQ_MAX_OBSERVED 16

/* What one answer says of a limit.  Zero, DT_NOBEGIN: it does not say, or not so that it may be believed. */
typedef struct LlmqObserved
{
	LlmqMetric	metric;
	LlmqSpan	span;			/* always known */
	int64		amount;
	int64		remaining;
	TimestampTz resets_at;		/* when all of it is there again */
	bool		exhausted;		/* nothing remains, it says: believed only beside a 429 that names no limit */
} LlmqObserved;

extern int	llmq_ratelimit_headers(LlmqAdapter adapter, const LlmqHeader *headers, int count, TimestampTz now,
								   LlmqObserved observed[LLMQ_MAX_OBSERVED]);

#endif							/* LLMQ_RATELIMIT_HEADER_H */
