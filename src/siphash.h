/*
 * siphash.h
 *	  A keyed hash of 128 bits.
 */
#ifndef LLMQ_SIPHASH_H
#define LLMQ_SIPHASH_H

#include "postgres.h"

extern void llmq_siphash(const uint64 *key, const uint8 *bytes, Size length, uint64 *hash);

#endif							/* LLMQ_SIPHASH_H */
