/*
 * name.h
 *	  Small ids for names, for the slots of leases and the keys of meters.
 */
#ifndef LLMQ_NAME_H
#define LLMQ_NAME_H

#include "postgres.h"

/* Stored in llmquota.name.kind. */
#define LLMQ_NAME_ORG		'o'
#define LLMQ_NAME_ROUTE		'r'
#define LLMQ_NAME_MODEL		'm'
#define LLMQ_NAME_FAMILY	'f'
#define LLMQ_NAME_PROVIDER	'p'
#define LLMQ_NAME_ACCOUNT	'a'
#define LLMQ_NAME_KEY		'k'
#define LLMQ_NAME_WORKER	'w'		/* no name: the cell in which the background worker keeps its state */

/* Names over this are refused wherever they come in. */
#define LLMQ_MAX_NAME 128

extern int32 llmq_name_find(char kind, const char *name);
extern int32 llmq_name_id(char kind, const char *name, int32 max_id);
extern const char *llmq_name_text(int32 id);
extern char llmq_name_kind(int32 id);
extern void llmq_name_invalidate(void);

#endif							/* LLMQ_NAME_H */
