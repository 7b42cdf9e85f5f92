/*
 * limit_text.h
 *	  Which limit a refusal means, from its words.
 */
#ifndef LLMQ_LIMIT_TEXT_H
#define LLMQ_LIMIT_TEXT_H

#include "provider.h"

extern void llmq_limit_in_message(const char *message, LlmqNamedLimit *limit);
extern void llmq_limit_in_quota_id(const char *quota_id, LlmqNamedLimit *limit);

/* The wait that a message asks for, in microseconds; false when it does not. */
extern bool llmq_wait_in_message(const char *message, int64 *wait);

#endif							/* LLMQ_LIMIT_TEXT_H */
