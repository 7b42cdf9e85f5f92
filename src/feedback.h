/*
 * feedback.h
 *	  What the end of a call teaches.
 */
#ifndef LLMQ_FEEDBACK_H
#define LLMQ_FEEDBACK_H

#include "lease.h"
#include "report.h"

extern void llmq_feedback(LlmqLive *live, const LlmqLeaseId *id, const LlmqSlot *slot, const LlmqReport *report);
extern void llmq_feedback_renewed(LlmqLive *live, const LlmqSlot *slot);

#endif							/* LLMQ_FEEDBACK_H */
