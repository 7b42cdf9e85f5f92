/*
 * error_body.h
 *	  What a provider's error body says, in one form for all of them.
 */
#ifndef LLMQ_ERROR_BODY_H
#define LLMQ_ERROR_BODY_H

#include "provider.h"

#define LLMQ_ERROR_NAME 64
#define LLMQ_ERROR_MESSAGE 4096

/* Texts are cut to their places, and empty when the body has none. */
typedef struct LlmqErrorBody
{
	char		type[LLMQ_ERROR_NAME];	/* rate_limit_error, insufficient_quota */
	char		code[LLMQ_ERROR_NAME];	/* rate_limit_exceeded, 429 */
	char		status[LLMQ_ERROR_NAME];	/* RESOURCE_EXHAUSTED */
	char		reason[LLMQ_ERROR_NAME];	/* in the details: API_KEY_INVALID */
	char		message[LLMQ_ERROR_MESSAGE];	/* of what is not JSON: its beginning */
	bool		structured;		/* it has a type, code, status or reason */
	bool		violated;		/* it names the quota that is exhausted: */
	bool		per_model;
	LlmqNamedLimit limit;		/* the one of the longest period */
	int64		retry_delay;	/* microseconds, 0: none */
} LlmqErrorBody;

extern void llmq_error_body_read(const char *text, Size length, LlmqErrorBody *body);

#endif							/* LLMQ_ERROR_BODY_H */
