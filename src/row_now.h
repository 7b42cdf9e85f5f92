/*
 * row_now.h
 *	  A row of an ordinary table as it is now.
 */
#ifndef LLMQ_ROW_NOW_H
#define LLMQ_ROW_NOW_H

#include "postgres.h"

#include "access/genam.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

/* A row, found and held in place. */
typedef struct LlmqRowNow
{
	Relation	rel;
	Snapshot	snapshot;
	SysScanDesc scan;			/* whose slot has the row */
	HeapTuple	tuple;			/* NULL: there is none */
} LlmqRowNow;

extern void llmq_row_now_find(Relation rel, Oid index, int nkeys, ScanKey keys, LlmqRowNow *found);
extern void llmq_row_now_end(LlmqRowNow *found);

#endif							/* LLMQ_ROW_NOW_H */
