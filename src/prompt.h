/*
 * prompt.h
 *	  Prompts that callers pass, for the number of their tokens.
 */
#ifndef LLMQ_PROMPT_H
#define LLMQ_PROMPT_H

#include "fmgr.h"

#include "calibration.h"

extern void llmq_prompt_read(FunctionCallInfo fcinfo, int argument, const char *what, LlmqTextFeatures *features);
extern int32 llmq_prompt_tokens(const LlmqTextFeatures *features, const LlmqModelTokens *known);

#endif							/* LLMQ_PROMPT_H */
