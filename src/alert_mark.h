/*
 * alert_mark.h
 *	  Who changes what is used sees to it that somebody looks when an alert may be due.
 */
#ifndef LLMQ_ALERT_MARK_H
#define LLMQ_ALERT_MARK_H

#include "health.h"
#include "meter.h"

/* Whoever asks for a look may name so many meters. */
#define LLMQ_ALERT_METERS 32

/* The meters that this backend wants looked at; more than LLMQ_ALERT_METERS: any. */
typedef struct LlmqAlertCall
{
	int			n;
	int32		meter[LLMQ_ALERT_METERS];
} LlmqAlertCall;

extern void llmq_alerts_activate(bool active, int64 recovery);
extern int64 llmq_trouble_alert_from(const LlmqTrouble *trouble, int64 recovery);
extern void llmq_alert_event(const LlmqHealthEvent *event);
extern int64 llmq_alert_amount(const LlmqLimit *limit, int64 now);
extern void llmq_alert_charged(LlmqMeterState *state, LlmqWindow *window, LlmqLimit *limit, int64 before, int64 now);
extern void llmq_alert_risen(LlmqMeterState *state, LlmqWindow *window);
extern void llmq_alert_ask(int32 meter);
extern bool llmq_alert_asked(LlmqAlertCall *call);
extern void llmq_alert_calls_join(LlmqAlertCall *call, const LlmqAlertCall *other);
extern void llmq_alert_call_add(LlmqAlertCall *call, int32 meter);

#endif							/* LLMQ_ALERT_MARK_H */
