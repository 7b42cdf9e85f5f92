/*
 * counter.h
 *	  Numbers that are kept in sequences: counted up by all at once, and not rolled back.
 */
#ifndef LLMQ_COUNTER_H
#define LLMQ_COUNTER_H

#include "relation.h"

extern int64 llmq_counter_read(LlmqRelation sequence);
extern void llmq_counter_count(LlmqRelation sequence);

#endif							/* LLMQ_COUNTER_H */
