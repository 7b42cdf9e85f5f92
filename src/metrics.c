/*
 * metrics.c
 *	  What monitoring counts in live state.
 *
 * Reads lease pages, pages of refusals and those of hashed entries as views do: each copied under a share lock, one at
 * a time, nothing held. Counts of picks are kept in the pages, in the records that grant and count them anyway, and
 * only grow. Who waits is in the memory of the line. Works on a hot standby, where nobody does.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "counter.h"
#include "cache.h"
#include "expire.h"
#include "line.h"
#include "pick.h"
#include "rate.h"
#include "request.h"
#include "row.h"

PG_FUNCTION_INFO_V1(llmquota_live_counts);

/* What is summed up in a walk. */
typedef struct LiveCounts
{
	TimestampTz now;
	int64		granted;
	int64		leases;
	int64		overdue;		/* slots that maintenance has to see to */
	TimestampTz oldest;			/* since when the first of them has been so */
	int64		refused[LLMQ_REFUSAL_STATUSES];
	int			held;			/* who wait in their calls */
	int			tickets;		/* ... and with tickets */
	int64		requests;		/* that are remembered */
	int64		answers[LLMQ_CACHE_EVENTS];
	int64		subjects;		/* of rate limits, and claims, that are not over */
} LiveCounts;

static void
count_slot(LiveCounts *counts, const LlmqSlot *slot)
{
	TimestampTz since = slot->state == LLMQ_SLOT_SETTLED ? slot->settled_at : slot->expires_at;

	if (slot->state == LLMQ_SLOT_GRANTED && slot->expires_at > counts->now)
		counts->leases++;
	/* a slot kept for late records is no row that is missing */
	if (!llmq_slot_reusable(slot) && llmq_slot_overdue(slot, counts->now))
	{
		counts->overdue++;
		counts->oldest = Min(counts->oldest, since);
	}
}

static void
visit_lease_page(const LlmqCellHeader *state, HeapTuple tuple, void *argument)
{
	const LlmqLeasePage *page = (const LlmqLeasePage *) state;
	LiveCounts *counts = argument;

	counts->granted += page->granted;
	for (int i = 0; i < LLMQ_SLOTS; i++)
		count_slot(counts, &page->slot[i]);
}

static void
visit_refusal_page(const LlmqCellHeader *state, HeapTuple tuple, void *argument)
{
	const LlmqRefusalPage *page = (const LlmqRefusalPage *) state;
	LiveCounts *counts = argument;

	for (int i = 0; i < LLMQ_REFUSAL_STATUSES; i++)
		counts->refused[i] += llmq_refusal_counted(page, i);
}

static void
visit_request_page(const LlmqCellHeader *state, HeapTuple tuple, void *argument)
{
	LiveCounts *counts = argument;

	counts->requests += llmq_request_in_force((const LlmqRequestPage *) state, llmq_request_seconds(counts->now));
}

static void
visit_rate_page(const LlmqCellHeader *state, HeapTuple tuple, void *argument)
{
	LiveCounts *counts = argument;

	counts->subjects += llmq_rate_in_force((const LlmqRatePage *) state, counts->now);
}

/* Puts out one count, of a status or kind; NULL: of none. */
static void
put_count(ReturnSetInfo *result, const char *name, const char *status, double value)
{
	Datum		values[3];
	bool		nulls[3] = {false};

	llmq_put_text(values, nulls, 0, name);
	llmq_put_text(values, nulls, 1, status);
	values[2] = Float8GetDatum(value);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
put_counts(ReturnSetInfo *result, const LiveCounts *counts)
{
	double		lag = counts->overdue == 0 ? 0 : (double) (counts->now - counts->oldest) / USECS_PER_SEC;

	put_count(result, "picks_total", "granted", counts->granted);
	for (int i = 0; i < LLMQ_REFUSAL_STATUSES; i++)
		put_count(result, "picks_total", llmq_refusal_status_text(i), counts->refused[i]);
	put_count(result, "leases", NULL, counts->leases);
	put_count(result, "leases_overdue", NULL, counts->overdue);
	put_count(result, "ledger_lag_seconds", NULL, Max(lag, 0));
	put_count(result, "waiting", "held", counts->held);
	put_count(result, "waiting", "ticket", counts->tickets);
	put_count(result, "requests", NULL, counts->requests);
	put_count(result, "answers_total", "fresh", counts->answers[LLMQ_CACHE_FRESH]);
	put_count(result, "answers_total", "stale", counts->answers[LLMQ_CACHE_STALE]);
	put_count(result, "answers_total", "miss", counts->answers[LLMQ_CACHE_MISS]);
	put_count(result, "answer_refreshes_total", NULL, counts->answers[LLMQ_CACHE_REFRESH]);
	put_count(result, "answers_stored_total", NULL, counts->answers[LLMQ_CACHE_STORED]);
	put_count(result, "rate_subjects", NULL, counts->subjects);
	put_count(result, "rate_full_total", NULL, llmq_counter_read(LLMQ_REL_RATE_FULL_COUNT));
	put_count(result, "conversations", NULL, llmq_counter_read(LLMQ_REL_CONVERSATION_COUNT));
}

/* llmquota_live_counts() -> (name, status, value). What this backend has not counted yet is counted first. */
Datum
llmquota_live_counts(PG_FUNCTION_ARGS)
{
	LiveCounts	counts = {.now = GetCurrentTimestamp(),.oldest = DT_NOEND};
	LlmqLive	live;

	InitMaterializedSRF(fcinfo, 0);
	if (!RecoveryInProgress() && !XactReadOnly)
	{
		llmq_refusals_flush();
		llmq_cache_counts_flush();
	}
	llmq_live_open(&live, LLMQ_LIVE_COUNT, AccessShareLock);
	llmq_health_look(&live);
	llmq_cell_walk(&live, LLMQ_LIVE_LEASE, visit_lease_page, &counts);
	llmq_cell_walk(&live, LLMQ_LIVE_REFUSAL, visit_refusal_page, &counts);
	if (llmq_live_has(&live, LLMQ_LIVE_REQUEST))
		llmq_cell_walk(&live, LLMQ_LIVE_REQUEST, visit_request_page, &counts);
	llmq_cache_counts_read(&live, counts.answers);
	if (llmq_live_has(&live, LLMQ_LIVE_RATE))
		llmq_cell_walk(&live, LLMQ_LIVE_RATE, visit_rate_page, &counts);
	llmq_live_close(&live);
	llmq_line_count(&counts.held, &counts.tickets);
	put_counts((ReturnSetInfo *) fcinfo->resultinfo, &counts);
	return (Datum) 0;
}
