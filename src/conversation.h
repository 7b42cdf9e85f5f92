/*
 * conversation.h
 *	  The rows of llmquota.conversation.
 */
#ifndef LLMQ_CONVERSATION_H
#define LLMQ_CONVERSATION_H

#include "postgres.h"

#include "access/skey.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "utils/rel.h"

#include "name.h"

/* The columns of its key. */
#define LLMQ_CONVERSATION_KEYS 4

/* Whose conversation it is. */
typedef struct LlmqConversationKey
{
	const LlmqNameRef *org;
	const char *channel;
	const char *user_id;
} LlmqConversationKey;

/* What a row says. */
typedef struct LlmqConversation
{
	int32		version;		/* 0: there is no row */
	Datum		state;			/* NULL (0): it was dropped */
	int64		ttl;			/* microseconds */
	TimestampTz updated_at;
	TimestampTz expires_at;
} LlmqConversation;

/* The table, opened for one key. */
typedef struct LlmqConversations
{
	Relation	rel;
	LOCKMODE	lockmode;
	Oid			index;
	ScanKeyData key[LLMQ_CONVERSATION_KEYS];
	TupleTableSlot *row;		/* the one that was read or locked */
	bool		contended;		/* somebody is changing it */
} LlmqConversations;

extern void llmq_conversations_open(LlmqConversations *table, const LlmqConversationKey *key, LOCKMODE lockmode);
extern void llmq_conversations_close(LlmqConversations *table);
extern void llmq_conversation_read(LlmqConversations *table, LlmqConversation *found);
extern void llmq_conversation_find(LlmqConversations *table, LlmqConversation *found);
extern bool llmq_conversation_lock(LlmqConversations *table, bool wait, LlmqConversation *found);
extern void llmq_conversation_begin_insert(LlmqConversations *table);
extern void llmq_conversation_end_insert(LlmqConversations *table);
extern void llmq_conversation_insert(LlmqConversations *table, const LlmqConversation *conversation);
extern void llmq_conversation_update(LlmqConversations *table, const LlmqConversation *conversation);

/* Is there a conversation that has not expired? */
static inline bool
llmq_conversation_is_live(const LlmqConversation *conversation, TimestampTz now)
{
	return conversation->state != 0 && conversation->expires_at > now;
}

#endif							/* LLMQ_CONVERSATION_H */
