/*
 * reprice.h
 *	  What calls cost, computed anew: what has become of the costs.
 */
#ifndef LLMQ_REPRICE_H
#define LLMQ_REPRICE_H

#include "funcapi.h"
#include "utils/hsearch.h"
#include "utils/numeric.h"

#include "ledger_scan.h"
#include "price.h"

/* What a row of the ledger says that its call cost. */
typedef struct LlmqStatedCost
{
	Numeric		amount;			/* NULL: nobody knows */
	Numeric		base;			/* likewise */
	char		currency[LLMQ_CURRENCY_SIZE];	/* empty: none */
} LlmqStatedCost;

/* Calls of one day that cost something else now. */
typedef struct LlmqRepriced
{
	int32		day;			/* UTC, since 2000-01-01 */
	LlmqLedgerName *org;		/* as the ledger has it */
	LlmqLedgerName *model;		/* NULL: none */
	LlmqLedgerName *key;		/* likewise */
} LlmqRepriced;

/* What they cost, by what they are. */
typedef struct LlmqDifferences
{
	HTAB	   *sums;
	MemoryContext context;
} LlmqDifferences;

extern void llmq_differences_init(LlmqDifferences *differences);
extern void llmq_differences_add(LlmqDifferences *differences, const LlmqRepriced *call, const LlmqStatedCost *before,
								 const LlmqStatedCost *after);
extern void llmq_differences_write(const LlmqDifferences *differences, const char *base_currency,
								   ReturnSetInfo *result);

#endif							/* LLMQ_REPRICE_H */
