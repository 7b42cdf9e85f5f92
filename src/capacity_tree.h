/*
 * capacity_tree.h
 *	  What calls of a model go through, as capacity.h has it.
 */
#ifndef LLMQ_CAPACITY_TREE_H
#define LLMQ_CAPACITY_TREE_H

#include "capacity.h"
#include "pick.h"

/* Which of the accounts that an org may use. */
typedef enum LlmqAccounts
{
	LLMQ_ACCOUNTS_ALL,
	LLMQ_ACCOUNTS_OWN,
	LLMQ_ACCOUNTS_SHARED
} LlmqAccounts;

typedef struct LlmqCapacityTree
{
	LlmqCapacityNode top;		/* with the limits that hold whatever the key */
	LlmqCapacityNode own;
	LlmqCapacityNode shared;
	int64		until[LLMQ_HORIZONS];
} LlmqCapacityTree;

extern void llmq_capacity_tree(LlmqPick *pick, LlmqCapacityTree *tree);
extern void llmq_capacity_ask(LlmqCapacityTree *tree, int64 now, LlmqAccounts accounts,
							  LlmqCapacity capacity[LLMQ_HORIZONS]);

#endif							/* LLMQ_CAPACITY_TREE_H */
