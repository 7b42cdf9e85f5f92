/*
 * expire.h
 *	  Leases that nobody ended.
 */
#ifndef LLMQ_EXPIRE_H
#define LLMQ_EXPIRE_H

#include "lease.h"

extern bool llmq_slot_overdue(const LlmqSlot *slot, TimestampTz now);
extern bool llmq_overdue_settle(LlmqLive *live, const LlmqLeaseId *id, TimestampTz now);

#endif							/* LLMQ_EXPIRE_H */
