/*
 * pace.h
 *	  How long calls of a model at an account take, and how long an attempt waits for its answer.
 */
#ifndef LLMQ_PACE_H
#define LLMQ_PACE_H

#include "catalog.h"

/* What a backend has last read of it. Times are microseconds. */
typedef struct LlmqPace
{
	struct LlmqPace *next;		/* of the same account */
	const LlmqModel *model;
	int64		latency;		/* decayed mean; 0: not known */
	int64		deviation;		/* likewise of how far calls are from it */
	int64		called_at;		/* when the last of them was recorded; 0: never */
	int64		read_at;
	uint64		noted;			/* llmq_service_noted() then */
} LlmqPace;

extern const LlmqPace *llmq_pace(LlmqLive *live, LlmqAccount *account, LlmqModel *model, int64 now, int64 age);

/* call_timeout.c */
extern int64 llmq_call_timeout(const LlmqPace *pace, int attempt, int64 now);

#endif							/* LLMQ_PACE_H */
