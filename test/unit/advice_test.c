/*
 * advice_test.c
 *	  Callers are told what can still help, and never to try what cannot.
 *
 * links: src/advice.c
 */
#include "postgres.h"

#include "advice.h"
#include "tap.h"

#define SECOND INT64CONST(1000000)

enum
{
	FINAL, FALLBACK, BACKOFF, NAMED, DEADLINE, NOBODY, SILENT, PROMISES
};

static Promise promises[PROMISES] = {
	[FINAL] = {.name = "what the caller did wrong or broke off is not tried again"},
	[FALLBACK] = {.name = "another candidate is tried at once"},
	[BACKOFF] = {.name = "without one a retry waits 1, 2, 4 seconds and up to half a second"},
	[NAMED] = {.name = "and for as long as the provider asks"},
	[DEADLINE] = {.name = "but no longer than the request's deadline"},
	[NOBODY] = {.name = "what only somebody's doing can end is not waited for"},
	[SILENT] = {.name = "a wait is said with a retry, and with nothing else"},
};

static const LlmqSituation overloaded = {
	.failure = LLMQ_FAILURE_OVERLOADED,.retryable = true,.attempt = 1,.left = 30 * SECOND
};

static LlmqAdviceKind
advise(LlmqSituation situation, int32 *wait)
{
	LlmqAdviceKind kind = llmq_advise(&situation, wait);

	CHECK(&promises[SILENT], (kind == LLMQ_ADVICE_RETRY) == (*wait > 0), "advice %d, %d ms", kind, *wait);
	return kind;
}

static void
test_failures(void)
{
	for (int failure = LLMQ_FAILURE_RATE; failure <= LLMQ_FAILURE_NOT_FOUND; failure++)
	{
		LlmqSituation situation = overloaded;
		bool		final = failure == LLMQ_FAILURE_BAD_REQUEST || failure == LLMQ_FAILURE_CONTENT ||
			failure == LLMQ_FAILURE_CANCELLED;
		int32		wait;

		situation.failure = failure;
		situation.alternative = true;
		CHECK(&promises[final ? FINAL : FALLBACK],
			  advise(situation, &wait) == (final ? LLMQ_ADVICE_STOP : LLMQ_ADVICE_FALLBACK), "failure %d", failure);
		situation.alternative = false;
		situation.retryable = false;
		CHECK(&promises[NOBODY], advise(situation, &wait) == LLMQ_ADVICE_STOP, "failure %d", failure);
		situation.alternative = true;
		situation.left = 0;
		CHECK(&promises[DEADLINE], advise(situation, &wait) == LLMQ_ADVICE_STOP, "failure %d", failure);
	}
}

static void
test_waits(void)
{
	for (int attempt = 1; attempt <= 4; attempt++)
	{
		LlmqSituation situation = overloaded;
		int32		wait;

		situation.attempt = attempt;
		CHECK(&promises[BACKOFF], advise(situation, &wait) == LLMQ_ADVICE_RETRY && wait == 1000 << (attempt - 1), "%d", wait);
		situation.random = 0.999;
		CHECK(&promises[BACKOFF], advise(situation, &wait) == LLMQ_ADVICE_RETRY && wait == (1000 << (attempt - 1)) + 500,
			  "%d", wait);
		situation.named = 20 * SECOND;
		CHECK(&promises[NAMED], advise(situation, &wait) == LLMQ_ADVICE_RETRY && wait == 20000, "%d", wait);
		situation.named = 30 * SECOND;
		CHECK(&promises[DEADLINE], advise(situation, &wait) == LLMQ_ADVICE_STOP, "named");
		situation.named = 0;
		situation.left = SECOND << (attempt - 1);
		CHECK(&promises[DEADLINE], advise(situation, &wait) == LLMQ_ADVICE_STOP, "attempt %d", attempt);
	}
}

int
main(void)
{
	test_failures();
	test_waits();
	return promises_report(promises, PROMISES);
}
