/*
 * batch.h
 *	  Picks for many calls in one statement.
 */
#ifndef LLMQ_BATCH_H
#define LLMQ_BATCH_H

#include "fmgr.h"
#include "nodes/execnodes.h"

#include "pick.h"

/* More calls than this at once are a mistake. */
#define LLMQ_MOST_PICKS 10000

/* The answers of one statement. */
typedef struct LlmqBatch
{
	ReturnSetInfo *result;
	bool		placed;			/* rows begin with a place */
	MemoryContext context;		/* of one question */
	int64		expires_at;		/* the first of the leases */
	XLogRecPtr	lsn;
} LlmqBatch;

extern void llmq_batch_begin(FunctionCallInfo fcinfo, const char *function, LlmqBatch *batch);
extern bool llmq_batch_ask(LlmqBatch *batch, LlmqPick *pick);
extern void llmq_batch_put(const LlmqBatch *batch, const LlmqPick *pick, int number, int place);
extern void llmq_batch_end(LlmqBatch *batch, LlmqPick *pick);
extern LlmqCall llmq_batch_call(const LlmqPick *pick);

#endif							/* LLMQ_BATCH_H */
