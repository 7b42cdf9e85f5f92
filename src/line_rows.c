/*
 * line_rows.c
 *	  What is seen of the line: llmquota_line_rows(), for llmquota.waiting; and how many wait, for llmquota_metrics().
 *
 * The places are copied under the line's lock and put out without it.
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

/* One who waits, with what the line says of him. */
typedef struct Copied
{
	LlmqPlace	place;
	int32		org;
	int			position;
} Copied;

/* How many wait in their calls, and how many with tickets. */
void
llmq_line_count(int *held, int *tickets)
{
	*held = 0;
	*tickets = 0;
	if (!llmq_line_exists())
		return;
	LWLockAcquire(&llmq_line->lock, LW_SHARED);
	for (int i = 0; i < llmq_line->end; i++)
	{
		const LlmqPlace *place = &llmq_line->place[i];

		if (place->state != LLMQ_PLACE_FREE)
			*(place->secret == 0 ? held : tickets) += 1;
	}
	LWLockRelease(&llmq_line->lock);
}

/* Copies all who wait; how many. */
static int
copy_line(Copied **copied)
{
	TimestampTz now = GetCurrentTimestamp();
	int			n = 0;

	*copied = palloc(sizeof(Copied) * LLMQ_LINE_PLACES);
	if (llmq_line == NULL)
		return 0;
	LWLockAcquire(&llmq_line->lock, LW_EXCLUSIVE);
	for (int i = 0; i < llmq_line->end; i++)
	{
		const LlmqPlace *place = &llmq_line->place[i];

		if (place->state == LLMQ_PLACE_FREE || (place->seen_until <= now && place->latch == NULL))
			continue;
		(*copied)[n].place = *place;
		(*copied)[n].org = llmq_line->org[place->org].org;
		(*copied)[n++].position = llmq_line_position(llmq_line, place);
	}
	LWLockRelease(&llmq_line->lock);
	return n;
}

static void
put_place(ReturnSetInfo *result, const Copied *copied)
{
	const LlmqPlace *place = &copied->place;
	bool		has_ticket = place->secret != 0;
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {false};
	LlmqLeaseId id = {
		.page = place->page,.slot = place->slot,.day = llmq_lease_day(place->since),.secret = place->secret
	};
	pg_uuid_t	uuid;

	llmq_put_text(values, nulls, COL_ORG, llmq_name_text(copied->org));
	llmq_put_text(values, nulls, COL_ROUTE, llmq_name_text(place->route));
	llmq_put_text(values, nulls, COL_PRIORITY, llmq_priority_text(place->priority));
	values[COL_SINCE] = TimestampTzGetDatum(place->since);
	values[COL_POSITION] = Int32GetDatum(copied->position);
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
	Copied	   *copied;
	LlmqLive	live;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, AccessShareLock);
	llmq_health_look(&live);
	llmq_live_close(&live);
	n = copy_line(&copied);
	for (int i = 0; i < n; i++)
		put_place((ReturnSetInfo *) fcinfo->resultinfo, &copied[i]);
	return (Datum) 0;
}
