/*
 * cooldown.h
 *	  For how long what has failed is left alone.
 */
#ifndef LLMQ_COOLDOWN_H
#define LLMQ_COOLDOWN_H

#include "postgres.h"

/* No cooldown is longer, whoever asks for it: 32 days, so that a month's quota may be waited for. */
#define LLMQ_LONGEST_COOLDOWN INT64CONST(2764800000000)

/* After so many failures without a success between them the cooldown grows no more. */
#define LLMQ_COOLDOWN_LEVELS 8

extern int64 llmq_cooldown_backoff(int level, uint32 subject_hash, double random);
extern int64 llmq_cooldown_until(int64 named, int64 now);

#endif							/* LLMQ_COOLDOWN_H */
