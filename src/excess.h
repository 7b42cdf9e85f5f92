/*
 * excess.h
 *	  What a late record owes when its lease's slot is gone.
 */
#ifndef LLMQ_EXCESS_H
#define LLMQ_EXCESS_H

#include "ledger.h"

extern void llmq_charge_excess(const LlmqLedgerRow *row, const LlmqSettlement *settlement,
							   const LlmqCost *cost);

#endif							/* LLMQ_EXCESS_H */
