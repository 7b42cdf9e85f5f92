/*
 * request.h
 *	  Requests that are remembered, so that each makes one call.
 */
#ifndef LLMQ_REQUEST_H
#define LLMQ_REQUEST_H

#include "postgres.h"

#include "cell.h"
#include "lease.h"
#include "linear.h"

/* What stands for a request. */
typedef struct LlmqRequestKey
{
	uint64		hash[2];		/* of its org and its id; the first half says in which cell it is */
	uint32		org;			/* of the org alone */
} LlmqRequestKey;

/* The lease that a request was granted last. Fixed-width types, no padding; all zero: none. */
typedef struct LlmqRequestEntry
{
	uint64		hash[2];
	uint64		secret;			/* this and the next three: the lease */
	int32		page;
	uint16		day;
	uint8		slot;
	uint8		attempt;		/* of the request, from 1 */
	uint32		until;			/* then it is forgotten: seconds since 2000-01-01 */
	uint32		org;
} LlmqRequestEntry;

StaticAssertDecl(sizeof(LlmqRequestEntry) == 40, "LlmqRequestEntry has no padding");

/* As many as two cells to a page leave room for. */
#define LLMQ_REQUEST_ENTRIES 100

/*
 * With so many in force a cell is crowded, and there should be more cells: long before it is full, because cells take
 * turns in giving requests away, and hashes do not fill all cells alike.
 */
#define LLMQ_REQUEST_CROWDED 60

/* So many of each cell are counted on: hashes do not fill all cells alike. */
#define LLMQ_REQUESTS_PER_CELL 56

/* The state of a cell of llmquota.request_page. */
typedef struct LlmqRequestPage
{
	LlmqLinearPage linear;
	LlmqRequestEntry entry[LLMQ_REQUEST_ENTRIES];
} LlmqRequestPage;

StaticAssertDecl(sizeof(LlmqRequestPage) == 48 + 40 * LLMQ_REQUEST_ENTRIES, "LlmqRequestPage has no padding");

/* What one look finds of a request. */
typedef struct LlmqRequestLook
{
	int32		cell;			/* the request's; 0: none can be had */
	LlmqRequestEntry entry;		/* all zero: it is not remembered */
	int			in_force;		/* entries of the cell */
} LlmqRequestLook;

/* request_entry.c */
extern uint32 llmq_request_seconds(int64 at);
extern uint32 llmq_request_seconds_after(int64 at);
extern int	llmq_request_place(const LlmqRequestPage *page, const LlmqRequestKey *key, uint32 now, int *in_force);
extern LlmqRequestEntry llmq_request_at(const LlmqRequestPage *page, int place, const LlmqRequestKey *key, uint32 now);
extern int	llmq_request_in_force(const LlmqRequestPage *page, uint32 now);
extern const LlmqLinear llmq_request_linear;

/* request_page.c */
extern uint32 llmq_request_org(const LlmqNameRef *org);
extern void llmq_request_key(LlmqLive *live, const LlmqNameRef *org, const char *request_id, LlmqRequestKey *key);
extern void llmq_request_look(LlmqLive *live, const LlmqRequestKey *key, uint32 now, LlmqRequestLook *look);

static inline LlmqLeaseId
llmq_request_lease(const LlmqRequestEntry *entry)
{
	return (LlmqLeaseId) {.page = entry->page,.slot = entry->slot,.day = entry->day,.secret = entry->secret};
}

#endif							/* LLMQ_REQUEST_H */
