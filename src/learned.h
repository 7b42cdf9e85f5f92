/*
 * learned.h
 *	  What a provider says of its limits, and how far that holds.
 */
#ifndef LLMQ_LEARNED_H
#define LLMQ_LEARNED_H

#include "postgres.h"

#include "provider.h"

/* Limits that are remembered of a model at an account. */
#define LLMQ_MAX_LEARNED 8

/* Part of a cell's state: fixed-width types, no padding. */
typedef struct LlmqLearned
{
	int64		amount;			/* 0: a free place */
	int64		observed_at;	/* when an answer last said so */
	int64		corrected_at;	/* when a meter that was behind was last told so; 0: never */
	uint8		metric;			/* LlmqMetric */
	uint8		span;			/* LlmqSpan */
	uint8		named;			/* in a refusal, and not only in headers */
	uint8		reserved[5];
} LlmqLearned;

StaticAssertDecl(sizeof(LlmqLearned) == 32, "LlmqLearned has no padding");

/* One answer's word of a limit. */
typedef struct LlmqLesson
{
	LlmqMetric	metric;
	LlmqSpan	span;
	int64		amount;			/* positive */
	int64		remaining;		/* 0: not said */
	bool		named;
	int64		now;
	int64		ttl;			/* so long it holds: microseconds */
} LlmqLesson;

typedef enum LlmqLearning
{
	LLMQ_LEARNING_NOTHING,
	LLMQ_LEARNING_CONFIRMED,	/* it holds for longer */
	LLMQ_LEARNING_NEW			/* a limit that was not known, or with another amount */
} LlmqLearning;

extern int64 llmq_span_length(LlmqSpan span);
extern bool llmq_learned_is_about(LlmqSpan span, const LlmqWindowShape *shape, int64 length);
extern bool llmq_learned_bounds(LlmqSpan span, const LlmqWindowShape *shape, int64 length);
extern LlmqLearned *llmq_learned_find(LlmqLearned *list, LlmqMetric metric, LlmqSpan span);
extern LlmqLearning llmq_learn(LlmqLearned *list, const LlmqLesson *lesson);
extern int64 llmq_learned_amount(const LlmqLearned *learned, int64 configured, int64 ttl, int64 now);
extern int64 llmq_learned_behind(const LlmqLesson *lesson, int64 amount, int64 used, int64 granted_at);

#endif							/* LLMQ_LEARNED_H */
