/*
 * replay.h
 *	  Has calls that were made once be asked for again, one by one, under a rule that is proposed.
 */
#ifndef LLMQ_REPLAY_H
#define LLMQ_REPLAY_H

#include "funcapi.h"
#include "lib/pairingheap.h"

#include "catalog.h"
#include "ledger_scan.h"

/* The most meters that one call touches under one rule. */
#define LLMQ_REPLAY_METERS Max(LLMQ_PART_COUNT, LLMQ_MAX_LEVELS)

/* A call of the ledger. Who is meant by the numbers, the replay knows. */
typedef struct LlmqReplayCall
{
	int64		picked_at;
	int64		recorded_at;
	int64		cost;			/* in the currency of the rule */
	int32		reserved_input;
	int32		reserved_output;
	int32		org;
	int32		subject;		/* of the rule's scope; its org's number where that says it, or there is none */
	int32		model;
	LlmqSettlement settlement;
	bool		cost_known;
	bool		cost_given;		/* by the application */
} LlmqReplayCall;

/* What became of a call. */
typedef struct LlmqReplayFate
{
	int64		at;
	int64		amount;			/* of what the rule limits, that it used */
	int64		used;			/* in the window after it */
	bool		refused;
	bool		downgraded;
} LlmqReplayFate;

/* What became of calls. */
typedef struct LlmqReplayCounts
{
	int64		calls;
	int64		refused;
	int64		downgraded;
	int128		amount_refused;
	int128		amount_downgraded;
	int64		most_used;
	int64		first_at;		/* that was refused or downgraded, if any was */
	int64		last_at;
} LlmqReplayCounts;

/* What became of the calls of an hour, by meter and org, and of all. */
typedef struct LlmqReplayReport
{
	ReturnSetInfo *result;
	const LlmqQuota *rule;
	int64		hour;			/* that is being counted: when it began */
	struct hour_hash *counts;
	LlmqReplayCounts total;
} LlmqReplayReport;

/* Things of one kind by their numbers: from 0, as they were met. */
typedef struct LlmqReplayThings
{
	int			n;
	int			size;
	void	  **thing;
} LlmqReplayThings;

typedef struct LlmqReplay
{
	LlmqCatalog *catalog;		/* of its own */
	const LlmqQuota *rule;
	TimestampTz since;			/* calls before are counted, and let through, as when a limit is new */
	LlmqReplayThings orgs;		/* LlmqOrg */
	LlmqReplayThings subjects;	/* LlmqSubject */
	LlmqReplayThings models;	/* LlmqModel */
	LlmqReplayThings meters;	/* LlmqMeterState, by what LlmqMeter.id says */
	pairingheap *open;			/* calls under way, by when they ended */
	MemoryContext open_context;
	int64		unpriced;		/* calls of which nobody knows what they cost */
	LlmqReplayReport report;
} LlmqReplay;

/* replay.c */
extern void llmq_replay_begin(LlmqReplay *replay, MemoryContext context, ReturnSetInfo *result);
extern LlmqNamed llmq_replay_named(const LlmqReplay *replay);
extern bool llmq_replay_names(LlmqReplay *replay, const LlmqUsageRow *row, LlmqReplayCall *call);
extern void llmq_replay_call(LlmqReplay *replay, const LlmqReplayCall *call);

/* replay_price.c */
extern bool llmq_replay_price(const LlmqReplay *replay, const LlmqReplayCall *call, const LlmqModel *model,
							  LlmqUse *reserved, LlmqUse *recorded);
extern bool llmq_replay_is_cheaper(const LlmqReplay *replay, const LlmqReplayCall *call, const LlmqModel *model,
								   const LlmqModel *than);

/* replay_report.c */
extern void llmq_replay_report_begin(LlmqReplayReport *report, const LlmqQuota *rule, ReturnSetInfo *result);
extern void llmq_replay_add(LlmqReplayCounts *counts, const LlmqReplayFate *fate);
extern void llmq_replay_count(LlmqReplayReport *report, const LlmqMeter *meter, const LlmqOrg *org,
							  const LlmqReplayFate *fate);
extern void llmq_replay_report_end(LlmqReplayReport *report);

#endif							/* LLMQ_REPLAY_H */
