/*
 * remedy.h
 *	  What is done about troubles, and when they are over.
 */
#ifndef LLMQ_REMEDY_H
#define LLMQ_REMEDY_H

#include "breaker.h"
#include "health.h"

/* The call that shows something, for everything that is changed because of it. */
typedef struct LlmqEvidence
{
	pg_uuid_t	lease;
	int64		granted_at;
	int64		now;
	uint8		failure;		/* LlmqFailureKind */
	int16		http_status;
} LlmqEvidence;

extern void llmq_remedy_cool(LlmqLive *live, const LlmqPatient *who, const LlmqEvidence *evidence, int64 until);
extern void llmq_remedy_open(LlmqLive *live, const LlmqPatient *who, const LlmqEvidence *evidence,
							 const LlmqBreakerRule *rule);
extern void llmq_remedy_disable(LlmqLive *live, const LlmqPatient *who, const LlmqEvidence *evidence, int64 until);
extern void llmq_remedy_failed(LlmqLive *live, const LlmqPatient *who, const LlmqEvidence *evidence,
							   const LlmqBreakerRule *rule);
extern void llmq_remedy_succeeded(LlmqLive *live, const LlmqPatient *who, const LlmqEvidence *evidence);
extern void llmq_remedy_probing(LlmqLive *live, const LlmqPatient *who, const LlmqEvidence *evidence, int64 until);

#endif							/* LLMQ_REMEDY_H */
