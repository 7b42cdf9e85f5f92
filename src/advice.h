/*
 * advice.h
 *	  What a caller whose call has ended should do next.
 */
#ifndef LLMQ_ADVICE_H
#define LLMQ_ADVICE_H

#include "classify.h"

typedef enum LlmqAdviceKind
{
	LLMQ_ADVICE_DONE,
	LLMQ_ADVICE_RETRY,			/* after a while */
	LLMQ_ADVICE_FALLBACK,		/* at once, with another candidate */
	LLMQ_ADVICE_STOP
} LlmqAdviceKind;

/* What is known of a failed attempt. Times are microseconds. */
typedef struct LlmqSituation
{
	LlmqFailureKind failure;
	bool		retryable;		/* it may later succeed, without anybody's doing */
	bool		alternative;	/* another candidate may be tried */
	int			attempt;		/* from 1 */
	int64		left;			/* until the request's deadline; none: there is no next attempt */
	int64		named;			/* the wait that the provider asked for; 0: none */
	double		random;			/* in [0, 1) */
} LlmqSituation;

extern LlmqAdviceKind llmq_advise(const LlmqSituation *situation, int32 *retry_after_ms);
extern const char *llmq_advice_text(LlmqAdviceKind kind);

#endif							/* LLMQ_ADVICE_H */
