/*
 * learn.h
 *	  Learns a provider's limits from its answers.
 */
#ifndef LLMQ_LEARN_H
#define LLMQ_LEARN_H

#include "catalog.h"
#include "lease.h"
#include "report.h"

/* The answer to one call. */
typedef struct LlmqAnswer
{
	LlmqLive   *live;
	LlmqCatalog *catalog;
	const LlmqSlot *slot;
	LlmqAdapter adapter;
	const LlmqReport *report;
	const LlmqNamedLimit *named;	/* the limit that it refused for, or NULL */
	int64		now;
} LlmqAnswer;

extern void llmq_limits_learn(const LlmqAnswer *answer);

#endif							/* LLMQ_LEARN_H */
