/*
 * verify_window.c
 *	  Do windows hold what leases and ledger add up to?
 *
 * For llmquota_verify(), on copies of one moment. What a lease counts for is known: while its slot is there from the
 * slot, by meter and generation; afterwards from its row in the ledger, which names the subjects and the time. What a
 * window must hold at least, and can hold at most, is added up from these and compared with its sum:
 *
 *	- A lease picked within the buckets of the window (or its period) counts with all that it used. One picked before
 *	  counts at most with what it exceeded its reservation by, because an excess goes to the running bucket. Of money
 *	  only its slot knows what that was: a pick's max_cost is not in the ledger.
 *	- The ledger knows no generations. That a row is counted is certain only if it was picked after the window began,
 *	  and since the configuration last changed: before, its subject may have been without this limit.
 *	- A row that was recorded late counts with what was reserved or with what was used, depending on whether its slot
 *	  was there still.
 *	- What was picked before the window began was added by maintenance, as it was known then, once that has completed
 *	  the window.
 *	- A window marked loose cannot be compared (see window.c), and one that no quota has any more need not be.
 *
 * A call that was under way when the configuration changed may have missed that: hence MISSED_CHANGE.
 */
#include "postgres.h"

#include "common/int.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "config_change.h"
#include "name.h"
#include "seed.h"
#include "verify.h"

/* How long a call can go on with the configuration that it found when it began, in microseconds. */
#define MISSED_CHANGE INT64CONST(5000000)

/* What one window must, and can, hold. */
typedef struct Tally
{
	const LlmqWindow *window;
	bool		compared;
	bool		bounded;		/* the ledger still has all that it can hold */
	int64		least;
	int64		most;
} Tally;

typedef struct MeterTallies
{
	int			n;
	Tally	   *tally;
} MeterTallies;

typedef struct LlmqTallies
{
	LlmqVerify *verify;
	TimestampTz certain_from;	/* the configuration has been the same since */
	TimestampTz kept_from;		/* retention has dropped no day since */
	TimestampTz from;			/* when the first of the windows that are compared begins */
	bool		budgets_follow; /* to costs of the ledger that have changed: they are not compared before they have */
	int32		last_meter;
	MeterTallies *meter;
} LlmqTallies;

/* When a lease was picked, as a window sees it. */
typedef enum Place
{
	PLACE_BEFORE,
	PLACE_WITHIN,
	PLACE_AFTER
} Place;

/* The number of a sliding window's bucket at an instant. */
static int64
bucket_at(const LlmqWindow *window, TimestampTz at)
{
	return at / window->span - (at % window->span < 0 ? 1 : 0);
}

static Place
place_of(const LlmqWindow *window, TimestampTz at)
{
	if (window->kind == LLMQ_WINDOW_SLIDING)
	{
		int64		bucket = bucket_at(window, at);

		if (bucket > window->head)
			return PLACE_AFTER;
		return bucket <= window->head - LLMQ_BUCKETS ? PLACE_BEFORE : PLACE_WITHIN;
	}
	return at < window->head ? PLACE_BEFORE : at >= window->head + window->span ? PLACE_AFTER : PLACE_WITHIN;
}

/* When what a window holds began: of a sliding one, with its oldest bucket. */
static TimestampTz
start_of(const LlmqWindow *window)
{
	return window->kind == LLMQ_WINDOW_SLIDING ? (window->head - LLMQ_BUCKETS + 1) * window->span : window->head;
}

static bool
is_planned(const LlmqMeter *plan, const LlmqWindow *window)
{
	for (int i = 0; plan != NULL && i < plan->nlimits; i++)
		if (llmq_window_same_shape(window, &plan->limit[i].shape))
			return true;
	return false;
}

/* Begins the tallies of one meter. */
static void
add_meter(LlmqTallies *tallies, LlmqCatalog *catalog, const LlmqVerifyCell *cell)
{
	const LlmqMeterState *state = (const LlmqMeterState *) cell->state;
	const LlmqMeter *plan;
	MeterTallies *meter = &tallies->meter[cell->id];
	LlmqCellKey key;

	llmq_cell_key(cell->tuple, LLMQ_LIVE_METER, &key);
	plan = llmq_plan_of_cell(catalog, &key);

	for (const LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		meter->n++;
	meter->tally = palloc0(sizeof(Tally) * Max(meter->n, 1));
	meter->n = 0;
	for (const LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
	{
		Tally	   *tally = &meter->tally[meter->n++];

		tally->window = window;
		tally->compared = window->kind != LLMQ_WINDOW_CONCURRENCY && !(window->flags & LLMQ_WINDOW_LOOSE) &&
			!(tallies->budgets_follow && window->metric == LLMQ_METRIC_COST) && is_planned(plan, window);
		tally->bounded = start_of(window) >= tallies->kept_from;
		if (tally->compared)
			tallies->from = Min(tallies->from, start_of(window));
	}
}

/* Begins to add up, for every window that was copied. */
LlmqTallies *
llmq_tallies_create(LlmqVerify *verify)
{
	LlmqVerifyTable *meters = &verify->table[LLMQ_LIVE_METER];
	LlmqTallies *tallies = palloc0(sizeof(LlmqTallies));
	LlmqCatalog *catalog = llmq_catalog();

	tallies->verify = verify;
	tallies->from = PG_INT64_MAX;
	tallies->budgets_follow = llmq_recount_requested(verify->snapshot);
	tallies->kept_from = verify->now - (catalog->settings.usage_retention_days - 1) * USECS_PER_DAY;
	tallies->last_meter = meters->last_id;
	tallies->meter = palloc_extended(sizeof(MeterTallies) * ((Size) meters->last_id + 1),
									 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int32 id = 1; id <= meters->last_id; id++)
		if (meters->by_id[id] != NULL)
			add_meter(tallies, catalog, meters->by_id[id]);
	/* last: a change that was not seen above is noted here */
	tallies->certain_from = llmq_config_changed_at() + MISSED_CHANGE;
	return tallies;
}

/* When the first of the windows begins; no lease that ended before matters. */
TimestampTz
llmq_tallies_from(const LlmqTallies *tallies)
{
	return tallies->from;
}

/* Is it certain that this window counts the lease? Its cost it may only have been told. */
static bool
is_certain(const LlmqTallies *tallies, const Tally *tally, const LlmqTallied *lease)
{
	const LlmqWindow *window = tally->window;

	if (lease->knows_generation)
		return lease->generation >= window->since &&
			(window->metric != LLMQ_METRIC_COST ||
			 llmq_costs_have(&lease->reserved.costs, llmq_currency_of_window(window->quota)));
	return lease->picked_at >= tally->window->began_at && lease->picked_at >= tallies->certain_from;
}

/*
 * Has maintenance told the window of the lease, when it completed it? By the names of today, if those were the same
 * then; and by what was known then, which may have been no more than the reservation.
 */
static bool
was_told(const LlmqTallies *tallies, const Tally *tally, const LlmqTallied *lease)
{
	return !(tally->window->flags & LLMQ_WINDOW_SEEDING) && lease->picked_at < tally->window->began_at &&
		tallies->certain_from - MISSED_CHANGE <= tally->window->began_at;
}

/*
 * How much a window counts of a lease: number 0 of what was reserved, 1 and 2 of what it may have used. Money counts as
 * it was charged, or as it was told, by the rates of now.
 */
static int64
counted(const LlmqWindow *window, const LlmqTallied *lease, int number, bool charged)
{
	const LlmqUse *use = number == 0 ? &lease->reserved : &lease->use[number - 1];
	LlmqCurrency currency = llmq_currency_of_window(window->quota);

	if (window->metric != LLMQ_METRIC_COST || (charged && llmq_costs_have(&use->costs, currency)))
		return llmq_use_counted(use, window->metric, window->flags, window->quota);
	return use->request ? llmq_cost_in(lease->catalog, &lease->cost[number], lease->picked_at, currency) : 0;
}

/* Adds up as a window does: to no more than 64 bits have room for. */
static void
add(int64 *sum, int64 value)
{
	if (pg_add_s64_overflow(*sum, value, sum))
		*sum = PG_INT64_MAX;
}

/* What a lease has reserved of a window for certain. */
static int64
certainly_reserved(const LlmqWindow *window, const LlmqTallied *lease, int64 reserved)
{
	return window->metric == LLMQ_METRIC_COST && !lease->knows_generation ? 0 : reserved;
}

static void
tally_window(const LlmqTallies *tallies, Tally *tally, const LlmqTallied *lease)
{
	const LlmqWindow *window = tally->window;
	bool		certain = is_certain(tallies, tally, lease);
	int64		reserved = counted(window, lease, 0, certain);
	int64		one = counted(window, lease, 1, certain);
	int64		other = counted(window, lease, 2, certain);
	int64		most = Max(one, other);

	if (!certain && lease->knows_generation && (window->flags & LLMQ_WINDOW_SEEDING))
		return;
	if (lease->picked_at < window->began_at)
		most = Max(most, reserved);
	switch (place_of(window, lease->picked_at))
	{
		case PLACE_WITHIN:
			add(&tally->most, most);
			if (certain)
				add(&tally->least, Min(one, other));
			else if (was_told(tallies, tally, lease))
				add(&tally->least, Min(Min(one, other), reserved));
			break;
		case PLACE_AFTER:
			add(&tally->most, most);
			break;
		case PLACE_BEFORE:
			if (place_of(window, lease->recorded_at) != PLACE_BEFORE)
				add(&tally->most, Max(most - certainly_reserved(window, lease, reserved), 0));
			break;
	}
}

/* Adds a lease to what the windows of a meter must and can hold. */
void
llmq_tally(LlmqTallies *tallies, int32 meter, const LlmqTallied *lease)
{
	if (meter < 1 || meter > tallies->last_meter)
		return;
	for (int i = 0; i < tallies->meter[meter].n; i++)
		if (tallies->meter[meter].tally[i].compared)
			tally_window(tallies, &tallies->meter[meter].tally[i], lease);
}

static void
report(LlmqVerify *verify, const LlmqVerifyCell *cell, const Tally *tally)
{
	bool		less = tally->window->sum < tally->least;
	bool		is_cost = tally->window->metric == LLMQ_METRIC_COST;

	llmq_verify_report(verify, &(LlmqFinding) {
		.object = "window",
		.subject = psprintf("%s, %s " INT64_FORMAT, llmq_verify_subject(verify, cell),
							is_cost ? "budget" : "quota",
							is_cost ? llmq_budget_of_window(tally->window->quota) : tally->window->quota),
		.problem = less ? "holds less than leases and ledger show" : "holds more than leases and ledger show",
		.expected = psprintf(tally->least == tally->most ? INT64_FORMAT : less ? "at least " INT64_FORMAT :
							 "at most " INT64_FORMAT, less ? tally->least : tally->most),
		.found = psprintf(INT64_FORMAT, tally->window->sum),
		.repaired = llmq_repair_note_meter(verify, cell->id),
	});
}

/* Compares what was added up with what the windows hold. */
void
llmq_tallies_compare(LlmqTallies *tallies)
{
	LlmqVerify *verify = tallies->verify;

	for (int32 id = 1; id <= tallies->last_meter; id++)
	{
		MeterTallies *meter = &tallies->meter[id];

		for (int i = 0; i < meter->n; i++)
		{
			Tally	   *tally = &meter->tally[i];

			if (tally->compared && (tally->window->sum < tally->least ||
									(tally->bounded && tally->window->sum > tally->most)))
				report(verify, verify->table[LLMQ_LIVE_METER].by_id[id], tally);
		}
	}
}
