/*
 * report.h
 *	  What a record passes on of the provider's answer.
 */
#ifndef LLMQ_REPORT_H
#define LLMQ_REPORT_H

#include "fmgr.h"

#include "catalog.h"
#include "classify.h"
#include "lease.h"
#include "provider.h"

/* What a record says of a call beside its figures. */
typedef struct LlmqReport
{
	const char *error;			/* the provider's body or the caller's words, with a zero behind it; or NULL */
	Size		error_length;
	const LlmqHeader *headers;
	int			nheaders;
	LlmqDiagnosis diagnosis;	/* of a failure, by llmq_report_diagnose() */
	TimestampTz diagnosed_at;
} LlmqReport;

extern void llmq_report_read(FunctionCallInfo fcinfo, int error, int headers, LlmqReport *report);
extern void llmq_report_diagnose(LlmqReport *report, const char *provider, LlmqSettlement *settlement);
extern void llmq_report_usage(FunctionCallInfo fcinfo, int argument, LlmqSettlement *settlement);

#endif							/* LLMQ_REPORT_H */
