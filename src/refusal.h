/*
 * refusal.h
 *	  Refusals on their way into history: counted in live state, with the first of each minute in full.
 */
#ifndef LLMQ_REFUSAL_H
#define LLMQ_REFUSAL_H

#include "cell.h"

/* Why a pick was refused. The values are stored: append only. */
typedef enum LlmqRefusalStatus
{
	LLMQ_REFUSED_RATE_LIMITED,
	LLMQ_REFUSED_OVER_CAPACITY,
	LLMQ_REFUSED_UNAVAILABLE,
	LLMQ_REFUSED_TOO_LARGE,
	LLMQ_REFUSED_NO_ROUTE,
	LLMQ_REFUSED_DISABLED,
	LLMQ_REFUSED_NO_LEASE_SLOT,
	LLMQ_REFUSED_ATTEMPTS_EXHAUSTED,
	LLMQ_REFUSED_BUDGET_EXCEEDED
} LlmqRefusalStatus;

#define LLMQ_REFUSAL_STATUSES (LLMQ_REFUSED_BUDGET_EXCEEDED + 1)

/* Statuses that 0.1.0 has room for in a page. */
#define LLMQ_REFUSAL_COUNTED 8

/* The texts of an entry, one behind the other, none with an end. */
typedef enum LlmqRefusalText
{
	LLMQ_REFUSAL_ORG,
	LLMQ_REFUSAL_ROUTE,
	LLMQ_REFUSAL_SUBJECT,		/* that refused; empty where the org did */
	LLMQ_REFUSAL_PART,			/* a model or family */
	LLMQ_REFUSAL_PERIOD,
	LLMQ_REFUSAL_REQUEST_ID,
	LLMQ_REFUSAL_TEXTS
} LlmqRefusalText;

/*
 * Refusals of one org, route, status and quota within one minute, and the first of them. Fixed-width types, no padding;
 * `size` is a multiple of 8.
 */
typedef struct LlmqRefusalEntry
{
	uint64		drained_by;		/* the transaction that writes it into history; 0: none has come */
	int64		minute;			/* that it is of; 0: lost its details, see refusal_page.c */
	int64		quota;			/* 0: none */
	int64		count;
	int64		tokens;			/* asked for, in all */
	int64		first_at;
	int64		last_at;
	int64		amount;			/* this and what follows: of the first */
	int64		used;
	int64		requested;
	int64		retry_at;
	int32		input_tokens;	/* LLMQ_NOT_GIVEN, as the next */
	int32		output_tokens;
	uint32		hash;			/* of what it is counted by */
	uint16		size;			/* in all */
	uint8		status;			/* LlmqRefusalStatus */
	uint8		scope;
	uint8		metric;
	uint8		part;			/* LlmqPart */
	uint8		priority;		/* LlmqPriority */
	uint8		shared;			/* the subject is an account or key of all */
	uint8		length[LLMQ_REFUSAL_TEXTS];
	uint8		reserved[6];
	char		text[FLEXIBLE_ARRAY_MEMBER];
} LlmqRefusalEntry;

StaticAssertDecl(offsetof(LlmqRefusalEntry, text) == 120, "LlmqRefusalEntry has padding");

/* What an entry can take at most: three names, a period and a label. */
#define LLMQ_REFUSAL_MOST_BYTES (120 + 6 * 128)

/* The state of a cell of llmquota.refusal_page. */
#define LLMQ_REFUSAL_ROOM 7872

typedef struct LlmqRefusalPage
{
	LlmqCellHeader cell;
	uint32		used;			/* bytes of entries */
	uint32		over_budget;	/* counted of the status that counted[] has no room for; starts anew when it is full */
	int64		counted[LLMQ_REFUSAL_COUNTED];	/* by status, since the page was made */
	char		entries[LLMQ_REFUSAL_ROOM];
} LlmqRefusalPage;

StaticAssertDecl(sizeof(LlmqRefusalPage) <= LLMQ_MAX_STATE, "a page of refusals fits a page");

/* Entries in turn: `for (at = 0; at < used; at += entry(base, at)->size)`. */
static inline LlmqRefusalEntry *
llmq_refusal_entry(char *base, uint32 at)
{
	return (LlmqRefusalEntry *) (base + at);
}

/* Where a text of an entry begins. */
static inline const char *
llmq_refusal_text(const LlmqRefusalEntry *entry, LlmqRefusalText which)
{
	const char *text = entry->text;

	for (int i = 0; i < (int) which; i++)
		text += entry->length[i];
	return text;
}

/* The limit that refused, as people are told. */
typedef struct LlmqRefusalLimit
{
	int			scope;
	const char *subject;		/* NULL: not to be named */
	const char *model;			/* or NULL, as the next two */
	const char *family;
	const char *period;
	int			metric;
	int64		amount;
	int64		used;
	int64		requested;
	int64		quota;
	int64		retry_at;
} LlmqRefusalLimit;

/* refuse.c */
extern const char *llmq_refusal_status_text(LlmqRefusalStatus status);
extern Datum llmq_refusal_limit_jsonb(const LlmqRefusalLimit *limit);

/* refusal_page.c */
extern int64 llmq_refusal_counted(const LlmqRefusalPage *page, int status);
extern bool llmq_refusal_merge(char *base, uint32 *used, uint32 room, const LlmqRefusalEntry *entry);
extern void llmq_refusal_pages_write(LlmqLive *live, char *entries, uint32 *used);

#endif							/* LLMQ_REFUSAL_H */
