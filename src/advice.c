/*
 * advice.c
 *	  What a caller whose call has failed should do next.
 *
 * Pure functions: no server calls, nothing locked, nothing raised.
 */
#include "postgres.h"

#include "advice.h"
#include "duration.h"

/* 1, 2, 4 s and so on, plus 0 to 500 ms: microseconds. */
#define FIRST_BACKOFF INT64CONST(1000000)
#define BACKOFF_JITTER 500000.0
#define MOST_DOUBLINGS 10

/* Would any attempt fail in the same way? */
static bool
is_final(LlmqFailureKind failure)
{
	return failure == LLMQ_FAILURE_BAD_REQUEST || failure == LLMQ_FAILURE_CONTENT || failure == LLMQ_FAILURE_CANCELLED;
}

/*
 * What to do about a failure: another candidate at once, as long as there is one and time is left; else the same again
 * after a wait, when that may help and ends before the deadline. How long to wait, in milliseconds, is said for that
 * only.
 */
LlmqAdviceKind
llmq_advise(const LlmqSituation *situation, int32 *retry_after_ms)
{
	int			doublings = Min(Max(situation->attempt - 1, 0), MOST_DOUBLINGS);
	int64		wait = (FIRST_BACKOFF << doublings) + (int64) (situation->random * BACKOFF_JITTER);

	*retry_after_ms = 0;
	if (is_final(situation->failure) || situation->left <= 0)
		return LLMQ_ADVICE_STOP;
	if (situation->alternative)
		return LLMQ_ADVICE_FALLBACK;
	wait = Max(wait, situation->named);
	if (!situation->retryable || wait >= situation->left)
		return LLMQ_ADVICE_STOP;
	*retry_after_ms = llmq_milliseconds_up(wait);
	return LLMQ_ADVICE_RETRY;
}

const char *
llmq_advice_text(LlmqAdviceKind kind)
{
	static const char *const texts[] = {
		[LLMQ_ADVICE_DONE] = "done",
		[LLMQ_ADVICE_RETRY] = "retry",
		[LLMQ_ADVICE_FALLBACK] = "fallback",
		[LLMQ_ADVICE_STOP] = "stop"
	};

	return texts[kind];
}
