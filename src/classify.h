/*
 * classify.h
 *	  What a failed call means: what kind of failure, whose it is, and until when.
 */
#ifndef LLMQ_CLASSIFY_H
#define LLMQ_CLASSIFY_H

#include "datatype/timestamp.h"

#include "provider.h"

/* No cooldown that an answer asks for is longer: 32 days. */
#define LLMQ_UNTIL_MAX (INT64CONST(32) * USECS_PER_DAY)

/* The values of this enum may be stored: append only. */
typedef enum LlmqFailureKind
{
	LLMQ_FAILURE_NONE = 0,		/* no answer of llmq_classify() */
	LLMQ_FAILURE_RATE,
	LLMQ_FAILURE_QUOTA_DAY,
	LLMQ_FAILURE_QUOTA_MONTH,
	LLMQ_FAILURE_BILLING,
	LLMQ_FAILURE_OVERLOADED,
	LLMQ_FAILURE_SERVER,
	LLMQ_FAILURE_TIMEOUT,
	LLMQ_FAILURE_CANCELLED,
	LLMQ_FAILURE_NETWORK,
	LLMQ_FAILURE_AUTH,
	LLMQ_FAILURE_FORBIDDEN,
	LLMQ_FAILURE_BAD_REQUEST,
	LLMQ_FAILURE_CONTENT,
	LLMQ_FAILURE_NOT_FOUND
} LlmqFailureKind;

/* Whose failure it is, hence what another attempt had better avoid. */
typedef enum LlmqBlame
{
	LLMQ_BLAME_NONE = 0,		/* the caller's own, or nobody's */
	LLMQ_BLAME_KEY,
	LLMQ_BLAME_ACCOUNT,			/* with all its models */
	LLMQ_BLAME_ACCOUNT_MODEL,	/* the account's share of the model */
	LLMQ_BLAME_MODEL,			/* the model at that provider, whatever the account */
	LLMQ_BLAME_PROVIDER
} LlmqBlame;

typedef enum LlmqUntilKind
{
	LLMQ_UNTIL_NONE = 0,		/* not said: back off */
	LLMQ_UNTIL_TIME,
	LLMQ_UNTIL_DAY,				/* the end of the day in the provider's time zone */
	LLMQ_UNTIL_MONTH
} LlmqUntilKind;

/* What is known of a call that failed. */
typedef struct LlmqFailure
{
	LlmqAdapter adapter;
	int			status;			/* HTTP status, 0: there was no answer */
	const char *error_class;	/* without a status: the caller's word for it, or NULL */
	const LlmqHeader *headers;
	int			header_count;
	const char *body;			/* of an answer, else an error's text; may be cut */
	Size		length;
	TimestampTz now;
} LlmqFailure;

typedef struct LlmqDiagnosis
{
	LlmqFailureKind kind;
	LlmqBlame scope;
	LlmqNamedLimit limit;		/* the limit that was hit, as far as it is named */
	LlmqUntilKind until_kind;
	TimestampTz until;			/* LLMQ_UNTIL_TIME: after now, at most LLMQ_UNTIL_MAX */
	bool		retryable;		/* the same request may later succeed there, without anybody's doing */
} LlmqDiagnosis;

extern void llmq_classify(const LlmqFailure *failure, LlmqDiagnosis *diagnosis);
extern const char *llmq_failure_name(LlmqFailureKind kind);

#endif							/* LLMQ_CLASSIFY_H */
