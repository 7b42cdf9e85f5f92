/*
 * health_event.c
 *	  What happened to keys, accounts, models and providers: the ring of last events, and what the server's log says.
 *
 * Every change that is an event is numbered and put into the ring in the record that makes it (health_change.c), so it
 * is there whatever becomes of the transaction that caused it. Maintenance notes on the first board up to which number
 * it writes them into llmquota.event, and in which transaction: when that has committed they are kept, and when it has
 * failed the next maintenance writes them again. So each event is there once. What opens or closes a breaker, or
 * disables or enables a key, is one line of the log besides.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "catalog.h"
#include "classify.h"
#include "health.h"
#include "health_board.h"
#include "maintain.h"
#include "row.h"
#include "sql.h"
#include "xact_end.h"

PG_FUNCTION_INFO_V1(llmquota_drain_events);

/* Columns of llmquota_drain_events(). */
enum
{
	COL_AT, COL_NUMBER, COL_KIND, COL_SCOPE, COL_SUBJECT, COL_MODEL, COL_SINCE, COL_UNTIL, COL_FAILURE, COL_HTTP_STATUS,
	COL_LEASE, COL_REASON, NCOLUMNS
};

/* The id of a page of the ring; 0 when there is none, unless it is to be created. */
int32
llmq_events_id(LlmqLive *live, int32 page, bool create)
{
	LlmqCellKey key = {.table = LLMQ_LIVE_HEALTH,.kind = LLMQ_HEALTH_EVENTS,.subject = page};
	LlmqHealthEvents *events;
	int32		id = llmq_cell_find(live, &key);

	if (id != 0 || !create)
		return id;
	events = palloc0(sizeof(LlmqHealthEvents));
	events->cell.length = sizeof(LlmqHealthEvents);
	id = llmq_cell_create(live, &key, &events->cell, PG_INT32_MAX);
	pfree(events);
	return id;
}

/* Writes an event to the server's log, if it is one of a breaker or of a disabled key. No lock may be held. */
void
llmq_health_log(const LlmqHealthEvent *event)
{
	const LlmqTrouble *trouble = &event->trouble;

	switch ((LlmqHealthEventKind) event->kind)
	{
		case LLMQ_EVENT_OPENED:
			ereport(LOG_SERVER_ONLY,
					(errmsg("breaker of %s opened until %s%s", llmq_patient_describe(&trouble->patient),
							timestamptz_to_str(trouble->until), llmq_trouble_explain(trouble))));
			break;
		case LLMQ_EVENT_CLOSED:
			ereport(LOG_SERVER_ONLY, (errmsg("breaker of %s closed", llmq_patient_describe(&trouble->patient))));
			break;
		case LLMQ_EVENT_DISABLED:
			ereport(LOG_SERVER_ONLY,
					(errmsg("%s disabled%s", llmq_patient_describe(&trouble->patient), llmq_trouble_explain(trouble))));
			break;
		case LLMQ_EVENT_ENABLED:
			ereport(LOG_SERVER_ONLY, (errmsg("%s enabled", llmq_patient_describe(&trouble->patient))));
			break;
		default:
			break;
	}
}

/* Does the event end a trouble? */
static bool
is_end(const LlmqHealthEvent *event)
{
	return event->kind == LLMQ_EVENT_CLEARED || event->kind == LLMQ_EVENT_CLOSED || event->kind == LLMQ_EVENT_ENABLED;
}

static void
put_event(ReturnSetInfo *result, LlmqHealthEvent *event)
{
	LlmqTrouble *trouble = &event->trouble;
	LlmqPatientNames names = llmq_patient_names(&trouble->patient);
	static const pg_uuid_t no_lease;
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {false};

	values[COL_AT] = TimestampTzGetDatum(event->at);
	values[COL_NUMBER] = Int64GetDatum(event->number);
	llmq_put_text(values, nulls, COL_KIND, llmq_health_event_text(event->kind));
	llmq_put_text(values, nulls, COL_SCOPE, names.scope);
	llmq_put_text(values, nulls, COL_SUBJECT, names.subject);
	llmq_put_text(values, nulls, COL_MODEL, names.model);
	values[COL_SINCE] = TimestampTzGetDatum(trouble->since);
	nulls[COL_UNTIL] = !is_end(event) && trouble->until == PG_INT64_MAX;
	values[COL_UNTIL] = TimestampTzGetDatum(is_end(event) ? event->at : trouble->until);
	llmq_put_text(values, nulls, COL_FAILURE,
				  trouble->failure == LLMQ_FAILURE_NONE ? NULL : llmq_failure_name(trouble->failure));
	nulls[COL_HTTP_STATUS] = trouble->http_status == 0;
	values[COL_HTTP_STATUS] = Int32GetDatum(trouble->http_status);
	nulls[COL_LEASE] = memcmp(&trouble->lease, &no_lease, sizeof(pg_uuid_t)) == 0;
	values[COL_LEASE] = UUIDPGetDatum(&trouble->lease);
	llmq_put_text(values, nulls, COL_REASON, trouble->reason[0] == '\0' ? NULL : trouble->reason);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The number of the last event that is in llmquota.event, seen from this transaction. */
static int64
kept(const LlmqHealthBoard *first)
{
	switch (first->keeping_by == 0 ? LLMQ_XACT_FAILED : llmq_xact_end(first->keeping_by))
	{
		case LLMQ_XACT_FAILED:
			return first->kept;
		case LLMQ_XACT_OPEN:
			return first->events;	/* a prepared one: nobody writes anything before it has ended */
		case LLMQ_XACT_OWN:
		case LLMQ_XACT_COMMITTED:
		case LLMQ_XACT_TOO_OLD:
			break;
	}
	return first->keeping;
}

/* Puts out the events of one page that come after a number, up to another. */
static void
put_page(LlmqLive *live, int32 page, int64 after, int64 last, ReturnSetInfo *result)
{
	LlmqHealthEvents *events = palloc(sizeof(LlmqHealthEvents));
	int32		id = llmq_events_id(live, page, false);

	if (id != 0 && llmq_cell_copy(live, LLMQ_LIVE_HEALTH, id, events, sizeof(LlmqHealthEvents)))
	{
		for (int i = 0; i < LLMQ_EVENTS_PER_PAGE; i++)
			if (events->event[i].number > after && events->event[i].number <= last)
				put_event(result, &events->event[i]);
	}
	pfree(events);
}

/* Notes on the first board that this transaction writes the events after `after`, up to `last`. */
static bool
note_keeping(LlmqLive *live, int32 first_id, int64 after, int64 last)
{
	uint64		xid = U64FromFullTransactionId(GetCurrentFullTransactionId());
	LlmqHealthBoard *first;
	LlmqCellSet set;
	int			cell;

	llmq_set_init(&set, live);
	cell = llmq_set_add(&set, LLMQ_LIVE_HEALTH, first_id);
	if (llmq_set_lock(&set) != LLMQ_LOCKED)
		return false;
	first = llmq_set_change(&set, cell);
	first->kept = after;
	first->keeping = last;
	first->keeping_by = xid;
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
	return true;
}

/* llmquota_drain_events(): what is in live state and not in llmquota.event, for whoever inserts it there now */
Datum
llmquota_drain_events(PG_FUNCTION_ARGS)
{
	LlmqHealthBoard first;
	LlmqLive	live;
	int32		first_id;

	llmq_cell_refuse_if_read_only("llmquota_drain_events()");
	InitMaterializedSRF(fcinfo, 0);
	(void) llmq_catalog();		/* what things are called now */
	llmq_live_open(&live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	first_id = llmq_board_id(&live, 0, false);
	if (first_id != 0 &&
		llmq_cell_copy(&live, LLMQ_LIVE_HEALTH, first_id, &first, offsetof(LlmqHealthBoard, trouble)))
	{
		int64		after = kept(&first);

		if (after < first.events && note_keeping(&live, first_id, after, first.events))
			for (int32 page = 0; page < LLMQ_EVENT_PAGES; page++)
				put_page(&live, page, after, first.events, (ReturnSetInfo *) fcinfo->resultinfo);
	}
	llmq_live_close(&live);
	return (Datum) 0;
}

/* Writes the events into llmquota.event that are not there yet. Answers how many. */
int64
llmq_events_keep_step(const LlmqMaintenance *maintenance)
{
	if (!OidIsValid(llmq_relation_oid_if_any(LLMQ_REL_HEALTH)))
		return 0;				/* the SQL is of a version without */
	return llmq_sql_step("llmquota_keep_events", maintenance->deadline);
}
