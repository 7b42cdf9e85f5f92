/*
 * line_rows.c
 *	  What is seen of the line: llmquota_line_rows(), for llmquota.waiting; and how many wait, for llmquota_metrics().
 *
 * The line is copied under its lock; positions, each a walk over it, are worked out on the copy, without the lock: ten
 * thousand of them take most of a second.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "cell.h"
#include "health.h"
#include "name.h"
#include "row.h"
#include "wait.h"

PG_FUNCTION_INFO_V1(llmquota_line_rows);

/* Columns of llmquota_line_rows(). */
enum
{
	COL_ORG, COL_ROUTE, COL_PRIORITY, COL_SINCE, COL_POSITION, COL_KIND, COL_CALLED, COL_SCOPE, COL_SUBJECT, COL_METRIC,
	COL_TICKET, NCOLUMNS
};

/* Is this one who waits? Tickets that nobody has shown for long do not, though nobody has taken them out yet. */
static bool
waits(const LlmqPlace *place, TimestampTz now)
{
	return place->state != LLMQ_PLACE_FREE && (place->seen_until > now || place->latch != NULL);
}

/* How many wait in their calls, and how many with tickets. */
void
llmq_line_count(int *held, int *tickets)
{
	TimestampTz now = GetCurrentTimestamp();

	*held = 0;
	*tickets = 0;
	if (!llmq_line_exists())
		return;
	LWLockAcquire(&llmq_line->lock, LW_SHARED);
	for (int i = 0; i < llmq_line->end; i++)
	{
		const LlmqPlace *place = &llmq_line->place[i];

		if (waits(place, now))
			*(place->secret == 0 ? held : tickets) += 1;
	}
	LWLockRelease(&llmq_line->lock);
}

/* Copies what places, orgs and positions need of the line. Its lock and its meters are not copied. */
static LlmqLine *
copy_line(void)
{
	LlmqLine   *copy = palloc0(sizeof(LlmqLine));

	LWLockAcquire(&llmq_line->lock, LW_SHARED);
	copy->filling = llmq_line->filling;
	copy->last_walk = llmq_line->last_walk;
	copy->end = llmq_line->end;
	memcpy(copy->org, llmq_line->org, sizeof(copy->org));
	memcpy(copy->place, llmq_line->place, sizeof(LlmqPlace) * llmq_line->end);
	LWLockRelease(&llmq_line->lock);
	return copy;
}

static void
put_place(ReturnSetInfo *result, LlmqLine *line, const LlmqPlace *place)
{
	bool		has_ticket = place->secret != 0;
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {false};
	LlmqLeaseId id = {
		.page = place->page,.slot = place->slot,.day = llmq_lease_day(place->since),.secret = place->secret
	};
	pg_uuid_t	uuid;

	llmq_put_text(values, nulls, COL_ORG, llmq_name_text(line->org[place->org].org));
	llmq_put_text(values, nulls, COL_ROUTE, llmq_name_text(place->route));
	llmq_put_text(values, nulls, COL_PRIORITY, llmq_priority_text(place->priority));
	values[COL_SINCE] = TimestampTzGetDatum(place->since);
	values[COL_POSITION] = Int32GetDatum(llmq_line_position(line, place));
	llmq_put_text(values, nulls, COL_KIND, has_ticket ? "ticket" : "held");
	values[COL_CALLED] = BoolGetDatum(place->state == LLMQ_PLACE_CALLED);
	llmq_put_text(values, nulls, COL_SCOPE, place->scope < LLMQ_SCOPE_COUNT ? llmq_scope_name(place->scope) : NULL);
	llmq_put_text(values, nulls, COL_SUBJECT, place->subject != 0 ? llmq_name_text(place->subject) : NULL);
	llmq_put_text(values, nulls, COL_METRIC,
				  place->scope < LLMQ_SCOPE_COUNT ? llmq_metric_text(place->metric) : NULL);
	llmq_lease_uuid(&id, &uuid);
	values[COL_TICKET] = UUIDPGetDatum(&uuid);
	nulls[COL_TICKET] = !has_ticket;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* llmquota_line_rows() -> the columns of llmquota.waiting */
Datum
llmquota_line_rows(PG_FUNCTION_ARGS)
{
	LlmqLine   *line;
	LlmqLive	live;

	InitMaterializedSRF(fcinfo, 0);
	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, AccessShareLock);
	llmq_health_look(&live);
	llmq_live_close(&live);
	if (!llmq_line_exists())
		return (Datum) 0;
	line = copy_line();
	for (int i = 0; i < line->end; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (waits(&line->place[i], GetCurrentTimestamp()))
			put_place((ReturnSetInfo *) fcinfo->resultinfo, line, &line->place[i]);
	}
	return (Datum) 0;
}
