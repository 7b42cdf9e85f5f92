/*
 * capacity.c
 *	  How many calls, and tokens, limits will let through until some time, if nobody else makes any.
 *
 * Pure functions. The answer is what a caller gets who takes everything the moment it fits:
 *
 * - Of one window between two instants, exactly. A sliding window lets through what is left of it, what leaves it, and
 *	 its amount again each time it has turned; a calendar what is left of its period, and the amount in every one that
 *	 begins. A place in flight comes back after a call's mean duration, those of calls under way evenly over it.
 * - Limits of several windows that hold for the same calls choke each other: what comes back at the end of an hour may
 *	 not get through in what remains of it. So the time is cut in pieces. From one cut to another a chain of limits
 *	 lets through what its narrowest does; or what it lets through up to some cut between, and from there on, if less.
 *	 This is never less than the truth, and mostly the same. Time is cut where calendars begin anew, and where half of
 *	 what a sliding window holds has left.
 * - Nothing gets through before all limits of a chain let something through, nor while a key is left alone.
 * - Keys add up below their account, accounts below what holds for all. So each limit counts once.
 */
#include "postgres.h"

#include "capacity.h"

/* Of the instants that might be cuts, so many are. */
#define MAX_CUTS 16

/* What holds for all, accounts by owner, accounts, keys. */
#define LEVELS 4

/* Not a size: the limit does not count that. */
#define NOT_COUNTED (-1)

/* In their order: now first, the last horizon last. */
typedef struct Cuts
{
	int			n;
	int64		at[MAX_CUTS];
} Cuts;

/* What gets through between any two cuts. */
typedef struct Flow
{
	int64		most[LLMQ_MEASURES][MAX_CUTS][MAX_CUTS];
	int64		from[LLMQ_MEASURES];	/* nothing before */
	int64		at_once;
	int64		in_flight;
	int			keys[MAX_CUTS]; /* not left alone until that cut */
} Flow;

/* As much of a number as has room below "unlimited". */
static int64
saturated(int128 number)
{
	return number < LLMQ_UNLIMITED ? (int64) number : LLMQ_UNLIMITED - 1;
}

static int64
sum_of(int64 a, int64 b)
{
	return a == LLMQ_UNLIMITED || b == LLMQ_UNLIMITED ? LLMQ_UNLIMITED : saturated((int128) a + b);
}

static int64
left_of(const LlmqCapacityLimit *limit)
{
	return saturated(Max((int128) limit->amount - limit->window->sum, 0));
}

/* When a window has turned once, all that is in it now has left. */
static int64
sliding_most(const LlmqCapacityLimit *limit, int64 size, int64 from, int64 until)
{
	const LlmqWindow *window = limit->window;
	int64		first = llmq_window_bucket(window, from);
	int64		passed = llmq_window_bucket(window, until - 1) - first;
	int64		held = llmq_window_held(window, first + passed % LLMQ_BUCKETS - LLMQ_BUCKETS + 1);

	return saturated((int128) (limit->amount / size) * (passed / LLMQ_BUCKETS) +
					 Max(limit->amount - held, 0) / size);
}

static int64
period_end(const LlmqWindow *window)
{
	LlmqWindowShape shape;

	llmq_window_shape_of(window, &shape);
	return shape.period.end;
}

/* Takes from what is left as many requests as fit; of those that take nothing, one stands for all. */
static int128
take(int128 *left, int64 size)
{
	int128		taken;

	if (size == 0)
		return *left >= 0;
	taken = Max(*left, 0) / size;
	*left -= taken * size;
	return taken;
}

/* What the next period begins with, if so much is left of the one before; less than nothing is a debt. */
static int128
next_left(const LlmqCapacityLimit *limit, int128 left)
{
	if (left < 0)
		return limit->amount + (limit->carry_debt ? left : 0);
	return limit->amount + (limit->carry_unspent ? Min(left, limit->amount) : 0);
}

static int64
calendar_most(const LlmqCapacityLimit *limit, int64 size, int64 from, int64 until)
{
	int128		left = (int128) limit->amount - limit->window->sum;
	int128		most = 0;

	if (from < period_end(limit->window))
	{
		if (!llmq_window_begun(limit->window))
			return LLMQ_UNLIMITED;
		most = take(&left, size);
	}
	for (int i = 0; i < limit->nlater && limit->later[i] < until; i++)
	{
		left = next_left(limit, left);
		if (i + 1 == limit->nlater || limit->later[i + 1] > from)
			most += take(&left, size);
	}
	return size == 0 && most > 0 ? LLMQ_UNLIMITED : saturated(most);
}

static int64
concurrency_most(const LlmqCapacityLimit *limit, int64 from, int64 until)
{
	int64		left = left_of(limit);
	int64		busy = limit->amount - left;
	int128		time = until - from;

	if (limit->mean_call == 0)
		return LLMQ_UNLIMITED;
	return saturated(left * ((time + limit->mean_call - 1) / limit->mean_call) + busy * time / limit->mean_call);
}

/* What a limit lets through, in requests of a size, to who begins at one instant and ends before the other. */
static int64
limit_most(const LlmqCapacityLimit *limit, int64 size, int64 from, int64 until)
{
	if (from >= until || limit->amount <= 0)
		return 0;
	if (limit->window->kind == LLMQ_WINDOW_CONCURRENCY)
		return concurrency_most(limit, from, until);
	if (limit->window->kind == LLMQ_WINDOW_CALENDAR)
		return calendar_most(limit, size, from, until);
	return size == 0 ? LLMQ_UNLIMITED : sliding_most(limit, size, from, until);
}

/* What the limit counts for one of a measure. */
static int64
size_of(const LlmqCapacityLimit *limit, LlmqMeasure measure)
{
	LlmqMetric	metric = limit->window->metric;

	switch (measure)
	{
		case LLMQ_MEASURE_REQUESTS:
			return limit->size;
		case LLMQ_MEASURE_INPUT:
			return metric == LLMQ_METRIC_INPUT_TOKENS || metric == LLMQ_METRIC_TOKENS ? 1 : NOT_COUNTED;
		case LLMQ_MEASURE_OUTPUT:
			return metric == LLMQ_METRIC_OUTPUT_TOKENS || metric == LLMQ_METRIC_TOKENS ? 1 : NOT_COUNTED;
		case LLMQ_MEASURE_TOKENS:
			return metric == LLMQ_METRIC_TOKENS ? 1 : NOT_COUNTED;
	}
	return NOT_COUNTED;
}

/* Cuts the time at an instant within it, while there is room for another cut. */
static void
add_cut(Cuts *cuts, int64 at)
{
	int			place = cuts->n;

	if (cuts->n == MAX_CUTS)
		return;
	while (place > 0 && cuts->at[place - 1] > at)
		place--;
	if (place > 0 && cuts->at[place - 1] == at)
		return;
	memmove(&cuts->at[place + 1], &cuts->at[place], sizeof(int64) * (cuts->n - place));
	cuts->at[place] = at;
	cuts->n++;
}

/* When much comes back at once. Beyond the last horizon, or before now: that does not matter. */
static int64
turn_of(const LlmqWindow *window, int64 now)
{
	if (window->kind == LLMQ_WINDOW_CALENDAR)
		return period_end(window);
	if (window->kind == LLMQ_WINDOW_SLIDING && window->sum > 0)
		return llmq_window_when(window, now, window->sum, window->sum - window->sum / 2);
	return now;
}

/* Cuts the time by the limits of all nodes of a level. */
static void
add_cuts(Cuts *cuts, const LlmqCapacityNode *node, int level)
{
	int64		now = cuts->at[0];

	if (cuts->n == MAX_CUTS)
		return;
	for (const LlmqCapacityLimit *limit = level == 0 ? node->limits : NULL; limit != NULL; limit = limit->next)
	{
		int64		turn = turn_of(limit->window, now);

		if (turn > now && turn < cuts->at[cuts->n - 1])
			add_cut(cuts, turn);
	}
	for (const LlmqCapacityNode *child = level == 0 ? NULL : node->first; child != NULL; child = child->next)
		add_cuts(cuts, child, level - 1);
}

/* A key without limits. */
static void
flow_of_key(const Cuts *cuts, const LlmqCapacityNode *key, Flow *flow)
{
	for (LlmqMeasure measure = 0; measure < LLMQ_MEASURES; measure++)
	{
		flow->from[measure] = Max(key->from, cuts->at[0]);
		for (int i = 0; i < cuts->n; i++)
			for (int j = i + 1; j < cuts->n; j++)
				flow->most[measure][i][j] = LLMQ_UNLIMITED;
	}
	for (int j = 0; j < cuts->n; j++)
		flow->keys[j] = key->from < cuts->at[j];
	flow->at_once = flow->in_flight = key->from <= cuts->at[0] ? LLMQ_UNLIMITED : 0;
}

static void
flow_of_nothing(const Cuts *cuts, Flow *flow)
{
	for (LlmqMeasure measure = 0; measure < LLMQ_MEASURES; measure++)
	{
		flow->from[measure] = LLMQ_WHEN_NEVER;
		for (int i = 0; i < cuts->n; i++)
			for (int j = i + 1; j < cuts->n; j++)
				flow->most[measure][i][j] = 0;
	}
	memset(flow->keys, 0, sizeof(flow->keys));
	flow->at_once = flow->in_flight = 0;
}

static void
add_flow(const Cuts *cuts, Flow *flow, const Flow *other)
{
	for (LlmqMeasure measure = 0; measure < LLMQ_MEASURES; measure++)
	{
		flow->from[measure] = Min(flow->from[measure], other->from[measure]);
		for (int i = 0; i < cuts->n; i++)
			for (int j = i + 1; j < cuts->n; j++)
				flow->most[measure][i][j] = sum_of(flow->most[measure][i][j], other->most[measure][i][j]);
	}
	for (int j = 0; j < cuts->n; j++)
		flow->keys[j] += other->keys[j];
	flow->at_once = sum_of(flow->at_once, other->at_once);
	flow->in_flight = sum_of(flow->in_flight, other->in_flight);
}

/* When does a limit let something of this size through? With what is left unspent, more may fit the next period. */
static int64
opens_at(const LlmqCapacityLimit *limit, int64 size, int64 now)
{
	if (limit->carry_unspent)
		return llmq_window_fits(limit->window, limit->amount, size) ? now : period_end(limit->window);
	return llmq_window_when(limit->window, now, limit->amount, size);
}

/* Puts off the beginning of a flow until the limit lets something through. */
static void
delay(Flow *flow, const LlmqCapacityLimit *limit, int64 now)
{
	if (limit->window->kind == LLMQ_WINDOW_CONCURRENCY || !llmq_window_begun(limit->window))
		return;
	for (LlmqMeasure measure = 0; measure < LLMQ_MEASURES; measure++)
	{
		int64		size = size_of(limit, measure);

		if (size != NOT_COUNTED)
			flow->from[measure] = Max(flow->from[measure], opens_at(limit, size, now));
	}
}

/* Takes from what may be made at this moment what the limit does not let through. */
static void
narrow_now(Flow *flow, const LlmqCapacityLimit *limit)
{
	int64		left = left_of(limit);

	if (limit->window->kind == LLMQ_WINDOW_CONCURRENCY)
		flow->in_flight = Min(flow->in_flight, left);
	if (!llmq_window_begun(limit->window))
		return;
	if (!llmq_window_fits(limit->window, limit->amount, limit->size))
		flow->at_once = 0;
	else if (limit->size > 0)
		flow->at_once = Min(flow->at_once, left / limit->size);
}

/* Takes from a flow what the limit does not let through. */
static void
narrow(Flow *flow, const Cuts *cuts, const LlmqCapacityLimit *limit)
{
	for (LlmqMeasure measure = 0; measure < LLMQ_MEASURES; measure++)
	{
		int64		size = size_of(limit, measure);

		for (int i = 0; i < cuts->n && size != NOT_COUNTED; i++)
			for (int j = i + 1; j < cuts->n; j++)
			{
				int64		from = Max(cuts->at[i], flow->from[measure]);

				flow->most[measure][i][j] = Min(flow->most[measure][i][j],
												limit_most(limit, size, from, cuts->at[j]));
			}
	}
}

/* From one cut to another no more gets through than to any cut between, and from there on. Shorter times come first. */
static void
close_measure(const Cuts *cuts, int64 most[MAX_CUTS][MAX_CUTS])
{
	for (int pieces = 2; pieces < cuts->n; pieces++)
		for (int i = 0; i + pieces < cuts->n; i++)
			for (int k = i + 1; k < i + pieces; k++)
				most[i][i + pieces] = Min(most[i][i + pieces], sum_of(most[i][k], most[k][i + pieces]));
}

/* What follows when all limits have had their say. */
static void
close_flow(const Cuts *cuts, Flow *flow)
{
	for (LlmqMeasure measure = 0; measure < LLMQ_MEASURES; measure++)
	{
		for (int i = 0; i < cuts->n; i++)
			for (int j = i + 1; j < cuts->n; j++)
				if (flow->from[measure] >= cuts->at[j])
					flow->most[measure][i][j] = 0;
		close_measure(cuts, flow->most[measure]);
	}
	for (int i = 0; i < cuts->n; i++)
		for (int j = i + 1; j < cuts->n; j++)
			flow->most[LLMQ_MEASURE_TOKENS][i][j] = Min(flow->most[LLMQ_MEASURE_TOKENS][i][j],
														sum_of(flow->most[LLMQ_MEASURE_INPUT][i][j],
															   flow->most[LLMQ_MEASURE_OUTPUT][i][j]));
}

static void
flow_of(const Cuts *cuts, const LlmqCapacityNode *node, Flow *flow)
{
	Flow		below;

	if (node->is_key)
		flow_of_key(cuts, node, flow);
	else
		flow_of_nothing(cuts, flow);
	for (const LlmqCapacityNode *child = node->first; child != NULL; child = child->next)
	{
		flow_of(cuts, child, &below);
		add_flow(cuts, flow, &below);
	}
	for (const LlmqCapacityLimit *limit = node->limits; limit != NULL; limit = limit->next)
		delay(flow, limit, cuts->at[0]);
	for (const LlmqCapacityLimit *limit = node->limits; limit != NULL; limit = limit->next)
	{
		narrow_now(flow, limit);
		narrow(flow, cuts, limit);
	}
	close_flow(cuts, flow);
}

/* What all keys together let through from now on, before each of the times given; these come one after another. */
void
llmq_capacity(const LlmqCapacityNode *top, int64 now, const int64 until[LLMQ_HORIZONS],
			  LlmqCapacity capacity[LLMQ_HORIZONS])
{
	Cuts		cuts = {.n = 1,.at = {now}};
	Flow		flow;

	for (int i = 0; i < LLMQ_HORIZONS; i++)
		add_cut(&cuts, until[i]);
	for (int level = 0; level < LEVELS; level++)
		add_cuts(&cuts, top, level);
	flow_of(&cuts, top, &flow);
	for (int i = 0; i < LLMQ_HORIZONS; i++)
	{
		int			j = 0;

		while (cuts.at[j] < until[i])
			j++;
		capacity[i].keys = flow.keys[j];
		capacity[i].at_once = flow.at_once;
		capacity[i].in_flight = flow.in_flight;
		for (LlmqMeasure measure = 0; measure < LLMQ_MEASURES; measure++)
			capacity[i].most[measure] = flow.most[measure][0][j];
	}
}
