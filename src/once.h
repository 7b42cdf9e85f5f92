/*
 * once.h
 *	  One call for each request_id.
 */
#ifndef LLMQ_ONCE_H
#define LLMQ_ONCE_H

#include "ledger.h"
#include "pick.h"
#include "request.h"

/* What a pick is answered that is not the first of its request. */
typedef enum LlmqOnceAnswer
{
	LLMQ_ONCE_NONE,				/* that depends on the limits */
	LLMQ_ONCE_IN_FLIGHT,
	LLMQ_ONCE_DUPLICATE,
	LLMQ_ONCE_FULL				/* there is no room to remember it */
} LlmqOnceAnswer;

/* The request of a pick, and what is known of its call. */
typedef struct LlmqOnce
{
	LlmqRequestKey key;
	LlmqRequestLook look;
	int			place;			/* in its cell, while that is locked */
	LlmqOnceAnswer answer;
	LlmqLeaseId lease_id;		/* of what is remembered, as all that follows */
	bool		in_slot;
	LlmqLease	lease;			/* if it is in a slot */
	bool		in_ledger;
	LlmqLedgerRow row;			/* if it is there, and in no slot any more */
	int			attempt;		/* that this pick would be */
	bool		follows;		/* on a call that was made, or may have been */
	pg_uuid_t	first_lease;	/* then: of the request */
} LlmqOnce;

/* once.c */
extern bool llmq_once_begin(LlmqPick *pick);
extern bool llmq_once_look(LlmqPick *pick);
extern bool llmq_once_as_seen(const LlmqPick *pick, const LlmqRequestPage *page);
extern void llmq_once_note(const LlmqPick *pick, const LlmqLeaseId *lease, const LlmqSlot *slot, LlmqRequestPage *page);
extern bool llmq_once_first_lease(const LlmqPick *pick, pg_uuid_t *first_lease);
extern LlmqOnceAnswer llmq_once_answer(const LlmqPick *pick);

/* once_answer.c */
extern pg_uuid_t llmq_once_lease(const LlmqOnce *once);
extern const char *llmq_once_status_text(LlmqOnceAnswer answer);
extern Datum llmq_once_jsonb(const LlmqPick *pick);

#endif							/* LLMQ_ONCE_H */
