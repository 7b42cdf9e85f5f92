/*
 * maintain.h
 *	  What maintenance does, part by part.
 */
#ifndef LLMQ_MAINTAIN_H
#define LLMQ_MAINTAIN_H

#include "catalog.h"
#include "cell.h"

/* partition.c */
extern int	llmq_partitions_create(const LlmqSettings *settings, int64 *moved);

#endif							/* LLMQ_MAINTAIN_H */
