/*
 * session.c
 *	  llmquota_session_put(), llmquota_session_get() and llmquota_session_drop(): what instances of an application share
 *	  about a conversation.
 *
 * A put says which version it replaces, and is told of another one that is there: so of two deliveries that have read
 * the same conversation one comes second and knows. Versions of a conversation only grow; one that was dropped leaves
 * a row without a state for as long as it would have lived, so that no version of before means another state. What has
 * expired is as good as none, whether it has been pruned or not.
 *
 * A get puts the end off, but writes only when a quarter of the time to live is gone, and not where it would have to
 * wait for somebody. On a hot standby and in a read-only transaction it only reads.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "args.h"
#include "catalog.h"
#include "compat.h"
#include "conversation.h"
#include "counter.h"
#include "digest.h"
#include "inject.h"
#include "pick.h"
#include "relation.h"
#include "role.h"
#include "row.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(llmquota_session_put);
PG_FUNCTION_INFO_V1(llmquota_session_get);
PG_FUNCTION_INFO_V1(llmquota_session_drop);
PG_FUNCTION_INFO_V1(llmquota_session_id);

/* Columns of llmquota.session_result, in their order. */
enum
{
	COL_STATUS, COL_VERSION, COL_STATE, COL_SESSION, COL_UPDATED_AT, COL_EXPIRES_AT, NCOLUMNS
};

/* Bytes of the hash that a session is called by. */
#define ID_BYTES 16

/* The longest time to live: 400 days. */
#define MAX_TTL_MS (INT64CONST(400) * 86400000)

/* A call that is under way. */
typedef struct Session
{
	const LlmqSettings *settings;
	LlmqConversationKey key;
	LlmqConversations table;
	TimestampTz now;
	int32		expected;		/* the version that is to be there, 0: none; or LLMQ_NOT_GIVEN */
	LlmqConversation found;
	LlmqConversation change;	/* what becomes of it; without a state it is dropped */
	const char *status;
} Session;

/* What a conversation is called in picks and in the ledger: the same for whoever asks, palloc'd. */
static char *
session_id(const char *channel, const char *user_id)
{
	StringInfoData bytes;
	char	   *id;

	initStringInfo(&bytes);
	pq_sendint32(&bytes, strlen(channel));
	appendStringInfoString(&bytes, channel);
	appendStringInfoString(&bytes, user_id);
	id = llmq_digest(&bytes, ID_BYTES);
	pfree(bytes.data);
	return id;
}

/* What all three functions are given, and what they look at. */
static void
begin(FunctionCallInfo fcinfo, Session *session)
{
	LlmqCatalog *catalog = llmq_catalog();

	memset(session, 0, sizeof(Session));
	session->settings = &catalog->settings;
	session->key.org = &llmq_role_org(catalog, llmq_arg_name(fcinfo, 0, "org"))->subject.ref;
	session->key.channel = llmq_arg_name(fcinfo, 1, "channel");
	session->key.user_id = llmq_arg_name(fcinfo, 2, "user_id");
	session->now = GetCurrentTimestamp();
}

/* Answers with a version, its state where it is given, and when it ends. */
static Datum
answer(FunctionCallInfo fcinfo, const Session *session, const LlmqConversation *shown, Datum state)
{
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {false};

	llmq_put_text(values, nulls, COL_STATUS, session->status);
	values[COL_VERSION] = Int32GetDatum(shown->version);
	values[COL_STATE] = state;
	nulls[COL_STATE] = state == 0;
	llmq_put_text(values, nulls, COL_SESSION, session_id(session->key.channel, session->key.user_id));
	values[COL_UPDATED_AT] = TimestampTzGetDatum(shown->updated_at);
	values[COL_EXPIRES_AT] = TimestampTzGetDatum(shown->expires_at);
	nulls[COL_UPDATED_AT] = nulls[COL_EXPIRES_AT] = shown->version == 0;
	return llmq_result_row(fcinfo, values, nulls, NCOLUMNS);
}

/* Answers with the conversation that is there, if there is one. */
static Datum
answer_found(FunctionCallInfo fcinfo, const Session *session)
{
	static const LlmqConversation none = {0};

	if (!llmq_conversation_is_live(&session->found, session->now))
		return answer(fcinfo, session, &none, 0);
	return answer(fcinfo, session, &session->found, PointerGetDatum(PG_DETOAST_DATUM(session->found.state)));
}

/* Is what was found what the caller expects? */
static bool
is_expected(const Session *session)
{
	bool		live = llmq_conversation_is_live(&session->found, session->now);

	return session->expected == LLMQ_NOT_GIVEN || session->expected == (live ? session->found.version : 0);
}

/* Makes the first version, of a conversation of which no row was found. False: there is one by now. */
static bool
store_first(Session *session)
{
	bool		is_first;

	if (session->expected > 0)
	{
		session->status = "conflict";
		return true;
	}
	if (llmq_counter_read(LLMQ_REL_CONVERSATION_COUNT) >= session->settings->max_conversations)
	{
		session->status = "full";
		return true;
	}
	LLMQ_INJECT_GATE("conversation");
	llmq_conversation_begin_insert(&session->table);
	llmq_conversation_find(&session->table, &session->found);
	is_first = session->found.version == 0;
	if (is_first)
	{
		session->change.version = 1;
		llmq_conversation_insert(&session->table, &session->change);
		llmq_counter_count(LLMQ_REL_CONVERSATION_COUNT);
		session->status = "stored";
	}
	llmq_conversation_end_insert(&session->table);
	return is_first;
}

/* Replaces what was found and is locked. */
static void
replace(Session *session)
{
	session->change.version = session->found.version == PG_INT32_MAX ? 1 : session->found.version + 1;
	llmq_conversation_update(&session->table, &session->change);
}

/* Finds the row, and locks it unless it is not as expected anyhow. False: somebody was faster, look again. */
static bool
lock_expected(Session *session)
{
	if (!session->table.contended && !is_expected(session))
		return true;
	return llmq_conversation_lock(&session->table, true, &session->found);
}

/* Stores a version, or finds out why not. False: look again. */
static bool
store(Session *session)
{
	llmq_conversation_find(&session->table, &session->found);
	if (session->found.version == 0)
		return store_first(session);
	if (!lock_expected(session))
		return false;
	session->status = is_expected(session) ? "stored" : "conflict";
	if (is_expected(session))
		replace(session);
	return true;
}

/* Drops the conversation, or finds out why not. False: look again. */
static bool
drop(Session *session)
{
	llmq_conversation_find(&session->table, &session->found);
	if (session->found.version != 0 && !lock_expected(session))
		return false;
	if (!llmq_conversation_is_live(&session->found, session->now))
		session->status = "none";
	else if (!is_expected(session))
		session->status = "conflict";
	else
	{
		session->status = "dropped";
		session->change.ttl = session->found.ttl;
		session->change.expires_at = session->now + session->found.ttl;
		replace(session);
	}
	return true;
}

/* The time to live that the caller asks for, in microseconds. */
static int64
read_ttl(FunctionCallInfo fcinfo, const LlmqSettings *settings)
{
	int64		ttl_ms;

	if (!llmq_arg_given(fcinfo, 4))
		return settings->conversation_ttl;
	ttl_ms = PG_GETARG_INT64(4);
	if (ttl_ms < 1 || ttl_ms > MAX_TTL_MS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("ttl_ms must be between 1 and " INT64_FORMAT ", but is " INT64_FORMAT, MAX_TTL_MS, ttl_ms),
				 errhint("Pass NULL for the default, the setting conversation_ttl.")));
	return ttl_ms * 1000;
}

/* The state to be stored. */
static Datum
read_state(FunctionCallInfo fcinfo, const LlmqSettings *settings)
{
	Jsonb	   *state;
	int			size;

	if (!llmq_arg_given(fcinfo, 3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("state must not be NULL"),
				 errhint("Call llmquota_session_drop() to end a conversation.")));
	state = PG_GETARG_JSONB_P(3);
	size = VARSIZE(state);
	if (size > settings->max_conversation_bytes)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("state has %d bytes, more than %d", size, settings->max_conversation_bytes),
				 errhint("Keep less of the conversation, or raise max_conversation_bytes in llmquota.setting.")));
	return JsonbPGetDatum(state);
}

/* Does what a put or a drop is for, until it has been done or is not to be, and lets go of the table. */
static Datum
finish_change(FunctionCallInfo fcinfo, Session *session, bool (*change) (Session *session))
{
	static const LlmqConversation none = {0};
	Datum		row;

	session->change.updated_at = session->now;
	llmq_conversations_open(&session->table, &session->key, RowExclusiveLock);
	while (!change(session))
		CHECK_FOR_INTERRUPTS();
	if (session->change.version == 0)
		row = answer_found(fcinfo, session);
	else
		row = answer(fcinfo, session, session->change.state != 0 ? &session->change : &none, 0);
	llmq_conversations_close(&session->table);
	llmq_worker_look(DT_NOEND);
	return row;
}

/* llmquota_session_put(org, channel, user_id, state, ttl_ms, version) */
Datum
llmquota_session_put(PG_FUNCTION_ARGS)
{
	Session		session;

	llmq_cell_refuse_if_read_only("llmquota_session_put()");
	llmq_pick_refuse_expansion(fcinfo, "llmquota_session_put");
	begin(fcinfo, &session);
	session.expected = llmq_arg_int(fcinfo, 5, "version", 0, PG_INT32_MAX);
	session.change.state = read_state(fcinfo, session.settings);
	session.change.ttl = read_ttl(fcinfo, session.settings);
	session.change.expires_at = session.now + session.change.ttl;
	return finish_change(fcinfo, &session, store);
}

/* llmquota_session_drop(org, channel, user_id, version) */
Datum
llmquota_session_drop(PG_FUNCTION_ARGS)
{
	Session		session;

	llmq_cell_refuse_if_read_only("llmquota_session_drop()");
	llmq_pick_refuse_expansion(fcinfo, "llmquota_session_drop");
	begin(fcinfo, &session);
	session.expected = llmq_arg_int(fcinfo, 3, "version", 0, PG_INT32_MAX);
	return finish_change(fcinfo, &session, drop);
}

/* Puts off the end of a conversation that was read, if nobody is changing it. */
static void
extend(Session *session)
{
	if (!llmq_conversation_lock(&session->table, false, &session->found))
		return;
	session->found.expires_at = session->now + session->found.ttl;
	llmq_conversation_update(&session->table, &session->found);
}

/* Is a good part of its time gone? */
static bool
is_to_be_extended(const Session *session)
{
	const LlmqConversation *found = &session->found;

	return llmq_conversation_is_live(found, session->now) && found->expires_at - session->now < found->ttl / 4 * 3;
}

/* llmquota_session_get(org, channel, user_id) */
Datum
llmquota_session_get(PG_FUNCTION_ARGS)
{
	bool		may_write = !XactReadOnly && !RecoveryInProgress() && !IsInParallelMode();
	Session		session;
	Datum		state = 0;
	Datum		row;

	begin(fcinfo, &session);
	llmq_conversations_open(&session.table, &session.key, may_write ? RowExclusiveLock : AccessShareLock);
	llmq_conversation_read(&session.table, &session.found);
	session.status = llmq_conversation_is_live(&session.found, session.now) ? "found" : "none";
	if (may_write && is_to_be_extended(&session))
	{
		state = PointerGetDatum(PG_DETOAST_DATUM_COPY(session.found.state));
		extend(&session);
		row = answer(fcinfo, &session, &session.found, state);
	}
	else
		row = answer_found(fcinfo, &session);
	llmq_conversations_close(&session.table);
	return row;
}

/* llmquota_session_id(channel, user_id) */
Datum
llmquota_session_id(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(session_id(llmq_arg_name(fcinfo, 0, "channel"),
												llmq_arg_name(fcinfo, 1, "user_id"))));
}
