/*
 * meter_walk.h
 *	  Goes through the windows of all meters, for whoever shows them.
 */
#ifndef LLMQ_METER_WALK_H
#define LLMQ_METER_WALK_H

#include "meter.h"

struct LlmqMeterWalk;

typedef void (*LlmqWindowVisit) (const struct LlmqMeterWalk *walk, const LlmqWindow *window, const LlmqQuota *quota);

/* A walk. Its first fields are the caller's. */
typedef struct LlmqMeterWalk
{
	LlmqWindowVisit visit;		/* sees each window that a quota or budget has, brought to the clock */
	void	   *context;
	LlmqCatalog *catalog;
	int64		now;
	LlmqQuotaList quotas;
	/* the meter at hand */
	LlmqScope	scope;
	const char *subject;
	LlmqPart	part;
	const char *part_name;		/* NULL with LLMQ_PART_ALL */
} LlmqMeterWalk;

extern void llmq_meter_walk(LlmqMeterWalk *walk);
extern int64 llmq_meter_walk_amount(const LlmqMeterWalk *walk, const LlmqQuota *quota);
extern const char *llmq_meter_walk_period(const LlmqMeterWalk *walk, const LlmqWindow *window, const LlmqQuota *quota);
extern bool llmq_meter_walk_resets_at(const LlmqWindow *window, int64 *at);

#endif							/* LLMQ_METER_WALK_H */
