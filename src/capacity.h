/*
 * capacity.h
 *	  How many calls, and tokens, limits will let through until some time, if nobody else makes any.
 *
 * Pure functions on plain structs: nothing here calls the server, allocates or raises.
 */
#ifndef LLMQ_CAPACITY_H
#define LLMQ_CAPACITY_H

#include "window.h"

/* As many as somebody likes. What is counted stays below. */
#define LLMQ_UNLIMITED PG_INT64_MAX

/* For how many times at once capacity can be asked. */
#define LLMQ_HORIZONS 3

/* What is counted, each by itself. */
typedef enum LlmqMeasure
{
	LLMQ_MEASURE_REQUESTS,		/* of one size */
	LLMQ_MEASURE_INPUT,			/* tokens, whatever the size of requests */
	LLMQ_MEASURE_OUTPUT,
	LLMQ_MEASURE_TOKENS			/* both together */
} LlmqMeasure;

#define LLMQ_MEASURES (LLMQ_MEASURE_TOKENS + 1)

/* So many later periods of a calendar may begin within the last horizon. */
#define LLMQ_LATER_PERIODS 4

/* One limit, and what of it is used. */
typedef struct LlmqCapacityLimit
{
	struct LlmqCapacityLimit *next;
	const LlmqWindow *window;	/* brought to the clock */
	int64		amount;			/* of which this may be used */
	int64		size;			/* what one request counts for */
	bool		carry_debt;		/* of a calendar: a period begins with what the one before lacks, or has left */
	bool		carry_unspent;
	int64		mean_call;		/* of concurrency: how long a call takes, in microseconds; 0: not known */
	int64		later[LLMQ_LATER_PERIODS];	/* of a calendar: when its next periods begin, as far as that matters */
	int			nlater;
} LlmqCapacityLimit;

/* A key, or what several have in common: their account, or everything. */
typedef struct LlmqCapacityNode
{
	struct LlmqCapacityNode *next;	/* beside it */
	struct LlmqCapacityNode *first; /* below it */
	bool		is_key;
	int64		from;			/* a key: it is left alone until then; LLMQ_WHEN_NEVER: nobody knows how long */
	LlmqCapacityLimit *limits;
} LlmqCapacityNode;

typedef struct LlmqCapacity
{
	int			keys;			/* not left alone all the time */
	int64		most[LLMQ_MEASURES];	/* or LLMQ_UNLIMITED, as the next */
	int64		at_once;		/* requests of that size that may be made at this moment */
	int64		in_flight;		/* the same as far as concurrency goes */
} LlmqCapacity;

extern void llmq_capacity(const LlmqCapacityNode *top, int64 now, const int64 until[LLMQ_HORIZONS],
						  LlmqCapacity capacity[LLMQ_HORIZONS]);

#endif							/* LLMQ_CAPACITY_H */
