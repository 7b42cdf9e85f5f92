/*
 * prune.h
 *	  Deletes rows that are past their time from tables that have no index on it.
 */
#ifndef LLMQ_PRUNE_H
#define LLMQ_PRUNE_H

#include "maintain.h"

/* A table whose rows expire. */
typedef struct LlmqPruned
{
	const char *relation;		/* its name in llmquota, and in llmquota.pruning */
	const char *expiry;			/* the column that says when a row may go */
	const char *counter;		/* a sequence that counts its rows (counter.c); NULL: none does */
} LlmqPruned;

extern int64 llmq_prune(const LlmqPruned *pruned, const LlmqMaintenance *maintenance);

#endif							/* LLMQ_PRUNE_H */
