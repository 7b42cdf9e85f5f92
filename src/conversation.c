/*
 * conversation.c
 *	  Reads, locks and writes the rows of llmquota.conversation.
 *
 * An ordinary table: what is written goes with the caller's transaction, waits for another's that has written the same
 * row, and is seen by others when it commits. Rows are found by the primary key and changed where they are (HOT: no
 * other column is in an index), past the executor's planner and privileges, as the ledger's are.
 *
 * Whatever the isolation level, what counts is what is there now: a reader goes by a fresh snapshot, a writer by the
 * last version of the row, which it locks. Of two that write a first row at once one waits for the other: each takes a
 * lock for the key, looks again, and holds the lock until its row can be seen, and waited for.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "conversation.h"
#include "ledger.h"
#include "relation.h"
#include "row_now.h"

/* Columns of llmquota.conversation, in their order. */
enum
{
	COL_ORG, COL_CHANNEL, COL_USER_ID, COL_ORG_KIND, COL_VERSION, COL_STATE, COL_TTL, COL_UPDATED_AT, COL_EXPIRES_AT,
	NCOLUMNS
};

static void
init_text_key(LlmqConversations *table, int column, const char *text)
{
	ScanKeyInit(&table->key[column], column + 1, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(text));
}

/* Opens the table for one key. */
void
llmq_conversations_open(LlmqConversations *table, const LlmqConversationKey *key, LOCKMODE lockmode)
{
	table->rel = table_open(llmq_relation_oid(LLMQ_REL_CONVERSATION), lockmode);
	table->lockmode = lockmode;
	table->index = llmq_relation_oid(LLMQ_REL_CONVERSATION_KEY);
	table->row = table_slot_create(table->rel, NULL);
	table->contended = false;
	init_text_key(table, COL_ORG, key->org->name);
	init_text_key(table, COL_CHANNEL, key->channel);
	init_text_key(table, COL_USER_ID, key->user_id);
	ScanKeyInit(&table->key[COL_ORG_KIND], COL_ORG_KIND + 1, BTEqualStrategyNumber, F_CHAREQ,
				CharGetDatum(key->org->kind));
}

/* Lets go of it. Its lock stays to the end of the transaction, as with any table that was written. */
void
llmq_conversations_close(LlmqConversations *table)
{
	ExecDropSingleTupleTableSlot(table->row);
	table_close(table->rel, table->lockmode == AccessShareLock ? AccessShareLock : NoLock);
}

/* Takes the row apart. What it says lasts as long as the row is held. */
static void
take_apart(LlmqConversations *table, LlmqConversation *found)
{
	Datum	   *values = table->row->tts_values;

	slot_getallattrs(table->row);
	found->version = DatumGetInt32(values[COL_VERSION]);
	found->state = table->row->tts_isnull[COL_STATE] ? 0 : values[COL_STATE];
	found->ttl = DatumGetInt64(values[COL_TTL]) * 1000;
	found->updated_at = DatumGetTimestampTz(values[COL_UPDATED_AT]);
	found->expires_at = DatumGetTimestampTz(values[COL_EXPIRES_AT]);
}

/* Reads the row as it is committed now, or as this transaction has it. */
void
llmq_conversation_read(LlmqConversations *table, LlmqConversation *found)
{
	LlmqRowNow	now;

	memset(found, 0, sizeof(LlmqConversation));
	llmq_row_now_find(table->rel, table->index, LLMQ_CONVERSATION_KEYS, table->key, &now);
	if (now.tuple != NULL)
	{
		ExecCopySlot(table->row, now.scan->slot);
		take_apart(table, found);
	}
	llmq_row_now_end(&now);
}

/*
 * Finds the row that there is, in whatever version; one that another transaction has just made is waited for. When
 * nobody is changing it, what is found is the last version.
 */
void
llmq_conversation_find(LlmqConversations *table, LlmqConversation *found)
{
	TransactionId maker;

	memset(found, 0, sizeof(LlmqConversation));
	do
	{
		SnapshotData dirty;
		SysScanDesc scan;

		InitDirtySnapshot(dirty);
		table->contended = false;
		scan = systable_beginscan(table->rel, table->index, true, &dirty, LLMQ_CONVERSATION_KEYS, table->key);
		maker = InvalidTransactionId;
		if (systable_getnext(scan) != NULL)
		{
			maker = dirty.xmin;
			table->contended = TransactionIdIsValid(dirty.xmax);
			ExecCopySlot(table->row, scan->slot);
			take_apart(table, found);
		}
		systable_endscan(scan);
		if (TransactionIdIsValid(maker))
		{
			XactLockTableWait(maker, table->rel, &table->row->tts_tid, XLTW_FetchUpdated);
			memset(found, 0, sizeof(LlmqConversation));
		}
	} while (TransactionIdIsValid(maker));
}

/*
 * Locks the row that was found, in its last version, which is then what was found. False when it is gone; and, for one
 * who does not wait, when somebody is changing it or has. Raises when the statement that calls has changed it by hand.
 */
bool
llmq_conversation_lock(LlmqConversations *table, bool wait, LlmqConversation *found)
{
	ItemPointerData tid = table->row->tts_tid;
	TM_FailureData failure;
	TM_Result	result;

	ExecClearTuple(table->row);
	result = table_tuple_lock(table->rel, &tid, GetLatestSnapshot(), table->row, GetCurrentCommandId(true),
							  LockTupleNoKeyExclusive, wait ? LockWaitBlock : LockWaitSkip,
							  wait ? TUPLE_LOCK_FLAG_FIND_LAST_VERSION : 0, &failure);
	if (result == TM_SelfModified || result == TM_Invisible)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("the conversation was changed by the statement that calls"),
				 errhint("Do not change llmquota.conversation in the same statement.")));
	if (result != TM_Ok)
		return false;
	take_apart(table, found);
	return true;
}

/* The lock of a key that has no row. Others with the same hash wait a moment. */
static uint32
key_lock(const LlmqConversations *table)
{
	uint32		hash = 0;

	for (int i = COL_ORG; i <= COL_USER_ID; i++)
	{
		text	   *part = DatumGetTextPP(table->key[i].sk_argument);

		hash = hash_combine(hash, hash_bytes((const unsigned char *) VARDATA_ANY(part), VARSIZE_ANY_EXHDR(part)));
	}
	return hash;
}

/* To be called when no row was found, and before that is looked for again: nobody else inserts one until the end. */
void
llmq_conversation_begin_insert(LlmqConversations *table)
{
	LockDatabaseObject(RelationGetRelid(table->rel), key_lock(table), 0, ExclusiveLock);
}

void
llmq_conversation_end_insert(LlmqConversations *table)
{
	UnlockDatabaseObject(RelationGetRelid(table->rel), key_lock(table), 0, ExclusiveLock);
}

/* Puts into a row what changes of it. */
static void
set_columns(TupleTableSlot *row, const LlmqConversation *conversation)
{
	row->tts_values[COL_VERSION] = Int32GetDatum(conversation->version);
	row->tts_values[COL_STATE] = conversation->state;
	row->tts_isnull[COL_STATE] = conversation->state == 0;
	row->tts_values[COL_TTL] = Int64GetDatum(conversation->ttl / 1000);
	row->tts_values[COL_UPDATED_AT] = TimestampTzGetDatum(conversation->updated_at);
	row->tts_values[COL_EXPIRES_AT] = TimestampTzGetDatum(conversation->expires_at);
}

/* Inserts the row of the key. The statement that calls sees it at once. */
void
llmq_conversation_insert(LlmqConversations *table, const LlmqConversation *conversation)
{
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *target = llmq_ledger_target(table->rel, estate);
	TupleTableSlot *row = ExecInitExtraTupleSlot(estate, RelationGetDescr(table->rel), &TTSOpsVirtual);

	memset(row->tts_isnull, true, sizeof(bool) * row->tts_tupleDescriptor->natts);
	memset(row->tts_isnull, false, sizeof(bool) * NCOLUMNS);
	for (int i = 0; i < LLMQ_CONVERSATION_KEYS; i++)
		row->tts_values[i] = table->key[i].sk_argument;
	set_columns(row, conversation);
	ExecStoreVirtualTuple(row);
	ExecSimpleRelationInsert(target, estate, row);
	llmq_ledger_target_end(target, estate);
	CommandCounterIncrement();
}

/* Updates the row that is locked. The statement that calls sees it at once. */
void
llmq_conversation_update(LlmqConversations *table, const LlmqConversation *conversation)
{
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *target = llmq_ledger_target(table->rel, estate);
	TupleTableSlot *row = ExecInitExtraTupleSlot(estate, RelationGetDescr(table->rel), &TTSOpsVirtual);
	EPQState	epq;

	llmq_plan_qual_init_compat(&epq, estate);
	ExecCopySlot(row, table->row);
	set_columns(row, conversation);
	ExecSimpleRelationUpdate(target, estate, &epq, table->row, row);
	EvalPlanQualEnd(&epq);
	llmq_ledger_target_end(target, estate);
	CommandCounterIncrement();
}
