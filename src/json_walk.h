/*
 * json_walk.h
 *	  Every value of a JSON text, with its path, in one pass.
 */
#ifndef LLMQ_JSON_WALK_H
#define LLMQ_JSON_WALK_H

#include "postgres.h"

typedef enum LlmqJsonKind
{
	LLMQ_JSON_OBJECT,			/* one begins; it has no value */
	LLMQ_JSON_STRING,
	LLMQ_JSON_NUMBER,
	LLMQ_JSON_BOOLEAN,
	LLMQ_JSON_NULL
} LlmqJsonKind;

/*
 * Names are joined by points, "[]" stands for any element of a list: error.details[].reason.  A list around everything
 * has no part in the path.  The value is only there during the call.
 */
typedef void (*LlmqJsonVisit) (void *state, const char *path, LlmqJsonKind kind, const char *value);

extern bool llmq_json_walk(const char *text, Size length, LlmqJsonVisit visit, void *state);

#endif							/* LLMQ_JSON_WALK_H */
