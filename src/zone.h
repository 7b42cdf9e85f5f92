/*
 * zone.h
 *	  Calendar periods in a named time zone, on the server's own tz data.
 */
#ifndef LLMQ_ZONE_H
#define LLMQ_ZONE_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "window.h"

/* Not under a content lock: these may allocate and read tz files. */
extern bool llmq_zone_known(const char *name);
extern bool llmq_zone_period(const char *name, uint8 unit, TimestampTz at, LlmqPeriod *period);

/* What LlmqWindowShape.zone holds; the same for names that differ only in case. */
extern uint32 llmq_zone_hash(const char *name);

/* For people; may allocate. */
extern const char *llmq_unit_text(uint8 unit);

#endif							/* LLMQ_ZONE_H */
