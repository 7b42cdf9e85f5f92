/*
 * service.h
 *	  What calls have shown of a model at an account, and of a provider: how often they fail, and how long they take.
 */
#ifndef LLMQ_SERVICE_H
#define LLMQ_SERVICE_H

#include "breaker.h"
#include "cell.h"
#include "learned.h"
#include "name.h"

/* The state of a cell of llmquota.health of the kinds 's' and 'p'. Fixed-width types, no padding. */
typedef struct LlmqService
{
	LlmqCellHeader cell;
	LlmqBreaker breaker;
	int64		calls;			/* that were answered or failed, since the cell was made */
	int64		latency;		/* decayed mean of answered calls in microseconds, 0 when not known */
	int64		called_at;		/* when the last of them was recorded */
	int64		deviation;		/* likewise of how far calls are from it, those included that were given up */
	int32		account;		/* ids of llmquota.name, as the next; 0: no limit is known */
	int32		model;
	LlmqLearned learned[LLMQ_MAX_LEARNED];	/* limits of the model at the account */
	char		room[LLMQ_MIN_STATE / 2];	/* so that it has a page of its own; for what later versions keep */
} LlmqService;

StaticAssertDecl(sizeof(LlmqService) >= LLMQ_MIN_STATE && sizeof(LlmqService) % 8 == 0, "a service has its own page");

/* What one call has shown. */
typedef struct LlmqServiceCall
{
	int32		provider;		/* ids of llmquota.name */
	int32		account;
	int32		model;
	bool		failed;
	bool		timed_out;
	int64		now;
	int64		latency;		/* microseconds, negative when not given */
	const LlmqBreakerRule *rule;
	bool		service_opens;	/* what the breakers say to it */
	bool		provider_opens;
} LlmqServiceCall;

extern uint64 llmq_service_noted(void);
extern void llmq_service_note(LlmqLive *live, LlmqServiceCall *call);
extern int32 llmq_service_id(LlmqLive *live, int32 account, int32 model, bool create);
extern bool llmq_service_find(LlmqLive *live, LlmqNameRef *account, LlmqNameRef *model, LlmqService *service);
extern bool llmq_service_read(LlmqLive *live, int32 account, int32 model, LlmqService *service);

#endif							/* LLMQ_SERVICE_H */
