/*
 * record.h
 *	  What records and retries share.
 */
#ifndef LLMQ_RECORD_H
#define LLMQ_RECORD_H

#include "fmgr.h"

#include "settle.h"

extern LlmqLeaseStanding llmq_record_look(LlmqLive *live, const LlmqLeaseId *id, LlmqLease *lease);
extern bool llmq_record_may_settle(const char *org);
extern void llmq_record_failure(FunctionCallInfo fcinfo);

#endif							/* LLMQ_RECORD_H */
