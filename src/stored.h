/*
 * stored.h
 *	  Numbers in live state: another session may have the library of a later version, and write what this one does not
 *	  know.
 */
#ifndef LLMQ_STORED_H
#define LLMQ_STORED_H

#include "postgres.h"

/* What a stored number stands for. */
#define LLMQ_STORED_TEXT(texts, number) ((Size) (number) < lengthof(texts) ? (texts)[number] : "unknown")

#endif							/* LLMQ_STORED_H */
