/*
 * usage.h
 *	  The token counts in a provider's own usage object.
 */
#ifndef LLMQ_USAGE_H
#define LLMQ_USAGE_H

#include "postgres.h"

/* A count that is not given. */
#define LLMQ_NO_FIGURE (-1)

typedef enum LlmqFiguresAnswer
{
	LLMQ_FIGURES_READ,
	LLMQ_FIGURES_EMPTY,			/* it says that there is none: null */
	LLMQ_FIGURES_NOT_UNDERSTOOD
} LlmqFiguresAnswer;

/*
 * In our own terms: cached and cache_write are parts of input, reasoning is a part of output.  Each is
 * LLMQ_NO_FIGURE or within its whole.
 */
typedef struct LlmqFigures
{
	int32		input;
	int32		cached;
	int32		cache_write;
	int32		output;
	int32		reasoning;
} LlmqFigures;

extern LlmqFiguresAnswer llmq_usage_read(const char *json, Size length, LlmqFigures *usage);

#endif							/* LLMQ_USAGE_H */
