/*
 * allow.h
 *	  What is asked of rate limits.
 */
#ifndef LLMQ_ALLOW_H
#define LLMQ_ALLOW_H

#include "catalog.h"
#include "rate.h"

/* Why something is not allowed. */
typedef enum LlmqAllowReason
{
	LLMQ_ALLOW_FITS,			/* it is */
	LLMQ_ALLOW_LIMITED,
	LLMQ_ALLOW_TOO_LARGE,		/* it never is */
	LLMQ_ALLOW_FULL				/* there is no room for a subject more */
} LlmqAllowReason;

/* Numbers that a caller may give; NULL stands for PG_INT64_MIN. */
typedef struct LlmqAllowArgs
{
	const char *scope;
	const char *subject;
	const char *org;			/* or NULL */
	int64		amount;
	int64		per_ms;
	int64		cost;
	int64		burst;
} LlmqAllowArgs;

#define LLMQ_ALLOW_NOT_GIVEN PG_INT64_MIN

/* One question, and its answer. */
typedef struct LlmqAsk
{
	LlmqRateName name;
	LlmqGcraLimit limit;
	int32		cost;
	bool		enforced;
	LlmqAllowReason reason;
	LlmqGcraAnswer answer;
} LlmqAsk;

/* allow.c */
extern void llmq_allow_read(LlmqCatalog *catalog, const LlmqAllowArgs *args, LlmqAsk *ask);
extern bool llmq_allow_decide(LlmqAsk *ask, int nasks);
extern const char *llmq_allow_reason_text(LlmqAllowReason reason);
extern Datum llmq_allow_answer(FunctionCallInfo fcinfo, const LlmqAsk *ask, bool allowed, Datum limits);

#endif							/* LLMQ_ALLOW_H */
