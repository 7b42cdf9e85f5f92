/*
 * duration.h
 *	  Durations and instants: as providers write them, and as callers are told of them.
 */
#ifndef LLMQ_DURATION_H
#define LLMQ_DURATION_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* What a text begins with: the bytes that were read, or 0. */
extern Size llmq_duration_read(const char *text, int64 *microseconds);
extern Size llmq_instant_read(const char *text, TimestampTz *instant);

/* What a whole header says; `unit` is that of a bare number, in microseconds. */
extern bool llmq_duration_until(const char *value, int64 unit, TimestampTz now, TimestampTz *until);

/* Whole milliseconds, rounded up, as far as an integer goes. */
static inline int32
llmq_milliseconds_up(int64 microseconds)
{
	return (int32) Min((microseconds + 999) / 1000, PG_INT32_MAX);
}

#endif							/* LLMQ_DURATION_H */
