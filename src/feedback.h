/*
 * feedback.h
 *	  What the end of a call teaches.
 */
#ifndef LLMQ_FEEDBACK_H
#define LLMQ_FEEDBACK_H

#include "lease.h"
#include "report.h"

extern void llmq_feedback(LlmqLive *live, const LlmqLeaseId *id, const LlmqSlot *slot, const LlmqReport *report);

#endif							/* LLMQ_FEEDBACK_H */
