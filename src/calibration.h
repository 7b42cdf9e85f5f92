/*
 * calibration.h
 *	  What calls have taught about a model's input tokens: how its tokenizer counts, and how many a call mostly has.
 */
#ifndef LLMQ_CALIBRATION_H
#define LLMQ_CALIBRATION_H

#include "cell.h"
#include "estimate.h"
#include "lease.h"

/* The state of a cell of llmquota.health of the kind LLMQ_HEALTH_CALIBRATION. Fixed-width types, no padding. */
typedef struct LlmqModelTokens
{
	LlmqCellHeader cell;
	LlmqCalibration calibration;
	int64		calls;			/* that have taught something */
	int64		mean;			/* decayed mean of their input tokens, in 1/256 */
	int32		model;			/* an id of llmquota.name */
	int32		reserved;
	char		room[LLMQ_MIN_STATE];	/* so that it has a page of its own; for what later versions keep */
} LlmqModelTokens;

extern const LlmqModelTokens *llmq_model_tokens(LlmqLive *live, int32 model);
extern int32 llmq_model_mean(const LlmqModelTokens *tokens);
extern void llmq_model_tokens_learn(LlmqLive *live, const LlmqSlot *slot, int32 supposed);

#endif							/* LLMQ_CALIBRATION_H */
