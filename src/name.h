/*
 * name.h
 *	  Small ids for names, for the slots of leases and the keys of meters.
 */
#ifndef LLMQ_NAME_H
#define LLMQ_NAME_H

#include "postgres.h"

#include "cell.h"

/* Stored in llmquota.name.kind. */
#define LLMQ_NAME_ORG		'o'
#define LLMQ_NAME_ROUTE		'r'
#define LLMQ_NAME_MODEL		'm'
#define LLMQ_NAME_FAMILY	'f'
#define LLMQ_NAME_PROVIDER	'p'
#define LLMQ_NAME_ACCOUNT	'a'
#define LLMQ_NAME_KEY		'k'
#define LLMQ_NAME_WORKER	'w'		/* no name: the cell in which the background worker keeps its state */

/* Those of them that are names of something; upper-case ones stand for later uses of a name, see alias.c. */
#define LLMQ_NAME_KINDS "ormfpak"

/* Names over this are refused wherever they come in. */
#define LLMQ_MAX_NAME 128

/* A name with its kind before it and a zero behind it; alias.c puts a number into some. */
#define LLMQ_NAME_KEY_SIZE (LLMQ_MAX_NAME + 16)

/* What live state calls something, and the id of that as this backend remembers it. */
typedef struct LlmqNameRef
{
	char		kind;
	const char *name;			/* that of the first day, if it was renamed since: see alias.c */
	int32		id;				/* in llmquota.name; 0: not known */
	uint32		epoch;			/* in which it was known */
} LlmqNameRef;

/* The state of a cell of llmquota.name. */
typedef struct LlmqNameState
{
	LlmqCellHeader cell;
	int64		since;			/* when it was born; once it is retired, when that was */
} LlmqNameState;

extern int32 llmq_name_find(LlmqNameRef *ref);
extern int32 llmq_name_id(LlmqNameRef *ref, int32 max_names);
extern char *llmq_name_cell(int32 id);
extern const char *llmq_name_text(int32 id);
extern char llmq_name_kind(int32 id);
extern void llmq_name_invalidate(void);

#endif							/* LLMQ_NAME_H */
