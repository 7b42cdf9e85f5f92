/*
 * duration.h
 *	  Durations and instants as providers write them.
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

#endif							/* LLMQ_DURATION_H */
