/*
 * threshold.h
 *	  The parts of a limit's amount at which somebody is told.
 *
 * Pure functions on plain structs: nothing here calls the server, allocates or raises, so all of it may be used under a
 * content lock.
 */
#ifndef LLMQ_THRESHOLD_H
#define LLMQ_THRESHOLD_H

#include "postgres.h"

/* A threshold is a number of 1e-9 of the amount. */
#define LLMQ_THRESHOLD_ONE INT64CONST(1000000000)

#define LLMQ_MAX_THRESHOLDS 8

/* No use reaches that: all thresholds have been reached, or there is none. */
#define LLMQ_NO_THRESHOLD PG_INT64_MAX

/* In ascending order. */
typedef struct LlmqThresholds
{
	int			n;
	int64		part[LLMQ_MAX_THRESHOLDS];	/* above 0, up to LLMQ_THRESHOLD_ONE */
} LlmqThresholds;

extern void llmq_threshold_add(LlmqThresholds *thresholds, int64 part);
extern int64 llmq_threshold_use(int64 part, int64 amount);
extern int64 llmq_threshold_next(const LlmqThresholds *thresholds, int64 amount, int64 used);

#endif							/* LLMQ_THRESHOLD_H */
