/*
 * burn.h
 *	  How fast a limit is being used up, and when it will be.
 *
 * Pure functions on a window that is at the clock.
 */
#ifndef LLMQ_BURN_H
#define LLMQ_BURN_H

#include "window.h"

/* A rate: so much of what a window counts, in so many microseconds. */
typedef struct LlmqBurn
{
	int64		use;
	int64		time;			/* at least 1 */
} LlmqBurn;

extern LlmqBurn llmq_burn_of(const LlmqWindow *window, int64 now);
extern int64 llmq_burn_exhausted_at(const LlmqWindow *window, int64 amount, LlmqBurn burn, int64 now);

#endif							/* LLMQ_BURN_H */
