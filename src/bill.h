/*
 * bill.h
 *	  What a lease is charged in money when it is recorded.
 */
#ifndef LLMQ_BILL_H
#define LLMQ_BILL_H

#include "ledger.h"
#include "price.h"
#include "settle.h"

extern void llmq_bill_make(const LlmqLease *lease, const LlmqSettlement *settlement, const LlmqLedgerExtra *extra,
						   LlmqBill *bill);
extern void llmq_bill_late(const LlmqLedgerRow *row, const LlmqSettlement *late, const LlmqLedgerExtra *extra,
						   LlmqCost *cost);
extern void llmq_bill_open(const LlmqLease *lease, LlmqCost *cost);
extern void llmq_bill_cost(const LlmqLease *lease, const LlmqLedgerExtra *extra, LlmqCost *cost);

#endif							/* LLMQ_BILL_H */
