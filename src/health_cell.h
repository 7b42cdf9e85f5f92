/*
 * health_cell.h
 *	  Finds cells of llmquota.health that every call goes to.
 */
#ifndef LLMQ_HEALTH_CELL_H
#define LLMQ_HEALTH_CELL_H

#include "cell.h"

/* What names a cell of llmquota.health. */
typedef struct LlmqHealthKey
{
	char		kind;
	int32		subject;
	int32		part;
} LlmqHealthKey;

extern int32 llmq_health_cell(LlmqLive *live, const LlmqHealthKey *key, Size size);
extern void llmq_health_cells_forget(void);

#endif							/* LLMQ_HEALTH_CELL_H */
