/*
 * provider.h
 *	  What the readers of providers' answers share: who speaks, in which headers, and the limit that is meant.
 */
#ifndef LLMQ_PROVIDER_H
#define LLMQ_PROVIDER_H

#include "postgres.h"

#include "window.h"

/* The dialects that differ; whoever else speaks one that is like OpenAI's is OTHER. */
typedef enum LlmqAdapter
{
	LLMQ_ADAPTER_OTHER = 0,
	LLMQ_ADAPTER_OPENAI,
	LLMQ_ADAPTER_ANTHROPIC,
	LLMQ_ADAPTER_GEMINI,
	LLMQ_ADAPTER_AZURE,
	LLMQ_ADAPTER_GROQ,
	LLMQ_ADAPTER_MISTRAL
} LlmqAdapter;

typedef struct LlmqHeader
{
	const char *name;			/* in any case */
	const char *value;
} LlmqHeader;

/* The period of a provider's limit, in the order of length. */
typedef enum LlmqSpan
{
	LLMQ_SPAN_UNKNOWN = 0,
	LLMQ_SPAN_SECOND,
	LLMQ_SPAN_MINUTE,
	LLMQ_SPAN_HOUR,
	LLMQ_SPAN_DAY,
	LLMQ_SPAN_MONTH
} LlmqSpan;

/* In the place of a LlmqMetric. */
#define LLMQ_METRIC_UNKNOWN (-1)

/* A limit as far as an answer names it. */
typedef struct LlmqNamedLimit
{
	int			metric;			/* LlmqMetric, or LLMQ_METRIC_UNKNOWN */
	LlmqSpan	span;
	int64		amount;			/* 0: not named */
} LlmqNamedLimit;

extern LlmqAdapter llmq_adapter(const char *name);
extern const char *llmq_header(const LlmqHeader *headers, int count, const char *name);

/* Plain text: as strstr(), whatever the case; a number of one to eighteen digits, its bytes or 0. */
extern const char *llmq_find_text(const char *text, const char *wanted);
extern Size llmq_read_count(const char *text, int64 *count);

#endif							/* LLMQ_PROVIDER_H */
