/*
 * digest.h
 *	  Names for what is too long to be one.
 */
#ifndef LLMQ_DIGEST_H
#define LLMQ_DIGEST_H

#include "postgres.h"

#include "lib/stringinfo.h"

extern char *llmq_digest(const StringInfoData *bytes, int length);

#endif							/* LLMQ_DIGEST_H */
