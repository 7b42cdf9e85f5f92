/*
 * redact.h
 *	  Excerpts of providers' error bodies that are fit to be stored.
 */
#ifndef LLMQ_REDACT_H
#define LLMQ_REDACT_H

#include "postgres.h"

/* Of a body no more is read, and of an excerpt no more is stored: bytes and characters. */
#define LLMQ_MAX_BODY 65536
#define LLMQ_MAX_EXCERPT 500

/* An excerpt takes at most so many bytes, the closing zero included. */
#define LLMQ_EXCERPT_SIZE (LLMQ_MAX_EXCERPT * 4 + 1)

extern void llmq_redact(const char *body, Size length, char *excerpt);

#endif							/* LLMQ_REDACT_H */
