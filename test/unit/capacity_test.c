/*
 * capacity_test.c
 *	  What capacity says is what a caller gets who takes everything the moment it fits.
 *
 * links: src/capacity.c src/window.c src/calendar.c
 *
 * The oracle is such a caller: microsecond by microsecond it tries every key, and charges the real windows, which are
 * some microseconds long here.
 */
#include "postgres.h"

#include <stdlib.h>

#include "capacity.h"
#include "tap.h"

#define MINUTE INT64CONST(60000000)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
#define NOW INT64CONST(1000003)

#define MAX_LIMITS 32
#define MAX_NODES 16
#define PERIODS 8

enum
{
	SLIDING, CALENDAR, ALONE, CONCURRENCY, CHAIN, NARROWEST, TIGHT, TREE, ONCE, APART, UNHEALTHY, UNLIMITED, NOTHING,
	SIZES, SATURATED, RESET, BURST, TOTAL, CARRIED, AT_ONCE, FLIGHT, PROMISES
};

static Promise promises[PROMISES] = {
	[SLIDING] = {.name = "of one sliding window it is exact, whatever is in it, debt too"},
	[CALENDAR] = {.name = "of one calendar it is exact, over several periods"},
	[ALONE] = {.name = "it is exact for a key that is left alone until some time"},
	[CONCURRENCY] = {.name = "calls in flight make room when they end, and each place again and again"},
	[CHAIN] = {.name = "of several limits for the same calls it is never less than what gets through"},
	[NARROWEST] = {.name = "... and never more than the narrowest alone"},
	[TIGHT] = {.name = "... and mostly just that"},
	[TREE] = {.name = "of keys and accounts it is never less"},
	[ONCE] = {.name = "an account's limit counts once, however many keys it has"},
	[APART] = {.name = "limits of keys add up, to that of their account"},
	[UNHEALTHY] = {.name = "a key that is left alone counts from then on, one of which nobody knows not at all"},
	[UNLIMITED] = {.name = "without limits there is no end, unless there is no key"},
	[NOTHING] = {.name = "an amount of zero, or less than a request is large, lets nothing through"},
	[SIZES] = {.name = "requests go by their size, tokens by what counts them, both together by their parts"},
	[SATURATED] = {.name = "the largest amounts are no error, and not unlimited"},
	[RESET] = {.name = "what a calendar gives at the end of a time gets through at the pace of the others"},
	[BURST] = {.name = "so does what was used in a burst and comes back at the end"},
	[TOTAL] = {.name = "a total ends never, and refuses nothing before it begins"},
	[CARRIED] = {.name = "debt and what is unspent count in the next period, where that is so"},
	[AT_ONCE] = {.name = "what can be made at this moment is exact, of keys and accounts too"},
	[FLIGHT] = {.name = "what may be begun now is what limits of concurrency leave to keys that are not left alone"},
};

/* A limit with its real window. */
typedef struct Limit
{
	LlmqCapacityLimit limit;
	LlmqWindow	window;
	LlmqWindowShape shape;
	int64		begins[PERIODS];	/* of a calendar: its periods */
} Limit;

/* A tree being tested. */
typedef struct Tree
{
	int			nlimits;
	Limit		limits[MAX_LIMITS];
	int			nnodes;
	LlmqCapacityNode nodes[MAX_NODES];
	int64		until[LLMQ_HORIZONS];
} Tree;

static int64
draw(int64 least, int64 most)
{
	return least + random() % (most - least + 1);
}

static LlmqCapacityNode *
new_node(Tree *tree, LlmqCapacityNode *above)
{
	LlmqCapacityNode *node = &tree->nodes[tree->nnodes++];

	memset(node, 0, sizeof(LlmqCapacityNode));
	if (above != NULL)
	{
		node->next = above->first;
		above->first = node;
	}
	return node;
}

static LlmqCapacityNode *
new_key(Tree *tree, LlmqCapacityNode *above)
{
	LlmqCapacityNode *key = new_node(tree, above);

	key->is_key = true;
	key->from = NOW;
	return key;
}

/* A tree of one account with one key: answers the key. */
static LlmqCapacityNode *
new_chain(Tree *tree)
{
	tree->nlimits = tree->nnodes = 0;
	return new_key(tree, new_node(tree, new_node(tree, NULL)));
}

static void
set_period(Limit *limit, int64 now)
{
	int			i = 0;

	while (limit->begins[i + 1] <= now)
		i++;
	limit->shape.period = (LlmqPeriod) {limit->begins[i], limit->begins[i + 1], limit->begins[i + 2]};
}

static Limit *
new_limit(Tree *tree, LlmqCapacityNode *node, LlmqMetric metric, int64 amount)
{
	Limit	   *limit = &tree->limits[tree->nlimits++];

	memset(limit, 0, sizeof(Limit));
	limit->limit = (LlmqCapacityLimit) {.next = node->limits,.window = &limit->window,.amount = amount,.size = 1};
	limit->shape.metric = metric;
	node->limits = &limit->limit;
	return limit;
}

static Limit *
new_sliding(Tree *tree, LlmqCapacityNode *node, LlmqMetric metric, int64 amount, int64 length)
{
	Limit	   *limit = new_limit(tree, node, metric, amount);

	limit->shape.kind = LLMQ_WINDOW_SLIDING;
	limit->shape.span = llmq_window_span(length, 0);
	llmq_window_init(&limit->window, &limit->shape, 1, NOW - 1000, 0);
	(void) llmq_window_advance(&limit->window, &limit->shape, NOW, 1);
	return limit;
}

/* A calendar whose period of now began some time ago, each as long as the last or a bit longer. */
static Limit *
new_calendar(Tree *tree, LlmqCapacityNode *node, LlmqMetric metric, int64 amount, int64 begin, int64 length)
{
	Limit	   *limit = new_limit(tree, node, metric, amount);

	limit->shape.kind = LLMQ_WINDOW_CALENDAR;
	for (int i = 0; i < PERIODS; i++)
		limit->begins[i] = begin + i * length + i / 2;
	set_period(limit, NOW);
	llmq_window_init(&limit->window, &limit->shape, 1, NOW, 0);
	for (int i = 0; i < LLMQ_LATER_PERIODS; i++)
		if (limit->begins[i + 1] > NOW)
			limit->limit.later[limit->limit.nlater++] = limit->begins[i + 1];
	return limit;
}

static Limit *
new_concurrency(Tree *tree, LlmqCapacityNode *node, int64 amount, int64 used, int64 mean_call)
{
	Limit	   *limit = new_limit(tree, node, LLMQ_METRIC_CONCURRENCY, amount);

	limit->shape.kind = LLMQ_WINDOW_CONCURRENCY;
	llmq_window_init(&limit->window, &limit->shape, 1, NOW, 0);
	(void) llmq_window_charge(&limit->window, NOW, used);
	limit->limit.mean_call = mean_call;
	return limit;
}

/* A limit of any kind but concurrency, in which something was used some time ago or just now, perhaps too much. */
static void
add_random_limit(Tree *tree, LlmqCapacityNode *node, bool only_sliding)
{
	int64		amount = draw(0, draw(1, 3) == 1 ? 5 : 60);
	Limit	   *limit;

	if (only_sliding || draw(0, 2) > 0)
	{
		limit = new_sliding(tree, node, LLMQ_METRIC_REQUESTS, amount, 60 * draw(1, 6) - draw(0, 20));
		llmq_window_init(&limit->window, &limit->shape, 1, NOW - 1000, 0);
		for (int64 at = NOW - draw(0, 400); at <= NOW; at += draw(1, draw(1, 4) == 1 ? 5 : 100))
		{
			(void) llmq_window_advance(&limit->window, &limit->shape, at, 1);
			(void) llmq_window_charge(&limit->window, at, draw(0, amount / 2 + 2));
		}
		(void) llmq_window_advance(&limit->window, &limit->shape, NOW, 1);
	}
	else
	{
		limit = new_calendar(tree, node, LLMQ_METRIC_REQUESTS, amount, NOW - draw(0, 150), draw(150, 400));
		(void) llmq_window_charge(&limit->window, NOW, draw(0, amount + 3));
	}
	limit->limit.size = draw(1, 3) == 1 ? draw(0, 9) : 1;
}

static void
set_horizons(Tree *tree)
{
	tree->until[0] = NOW + draw(1, 40);
	tree->until[1] = tree->until[0] + draw(1, 200);
	tree->until[2] = tree->until[1] + draw(1, 400);
}

static bool
all_fit(Tree *tree, const LlmqCapacityNode *node)
{
	for (const LlmqCapacityLimit *limit = node->limits; limit != NULL; limit = limit->next)
		if (!llmq_window_fits(limit->window, limit->amount, limit->size))
			return false;
	return true;
}

static void
charge_all(Tree *tree, const LlmqCapacityNode *node, int64 now)
{
	for (LlmqCapacityLimit *limit = node->limits; limit != NULL; limit = limit->next)
		(void) llmq_window_charge(unconstify(LlmqWindow *, limit->window), now, limit->size);
}

static void
advance_all(Tree *tree, int64 now)
{
	for (int i = 0; i < tree->nlimits; i++)
	{
		Limit	   *limit = &tree->limits[i];

		if (limit->shape.kind == LLMQ_WINDOW_CALENDAR)
		{
			int64		left = limit->limit.amount - limit->window.sum;
			int64		began = limit->window.head;

			set_period(limit, now);
			(void) llmq_window_advance(&limit->window, &limit->shape, now, 1);
			if (limit->window.head > began && left < 0 && limit->limit.carry_debt)
				limit->window.sum = -left;
			if (limit->window.head > began && left > 0 && limit->limit.carry_unspent)
				limit->window.sum = -Min(left, limit->limit.amount);
			continue;
		}
		(void) llmq_window_advance(&limit->window, &limit->shape, now, 1);
	}
}

/* No limit here is larger: who gets so many at once gets so many as he likes. */
#define PLENTY 200
#define ENDLESS INT64CONST(1000000000)

/* How many requests the keys below a node, the last of a path, let through at this moment. */
static int64
take(Tree *tree, const LlmqCapacityNode *path[3], int level, int64 now)
{
	const LlmqCapacityNode *node = path[level];
	int64		taken = 0;

	for (const LlmqCapacityNode *child = node->first; child != NULL; child = child->next)
	{
		path[level + 1] = child;
		taken += take(tree, path, level + 1, now);
	}
	while (node->is_key && node->from <= now)
	{
		if (taken == PLENTY)
			return ENDLESS;
		for (int i = 0; i <= level; i++)
			if (!all_fit(tree, path[i]))
				return taken;
		for (int i = 0; i <= level; i++)
			charge_all(tree, path[i], now);
		taken++;
	}
	return taken;
}

/* What a caller gets who takes everything the moment it fits; answers how many at once. Windows are then as before. */
static int64
run_oracle(Tree *tree, int64 taken[LLMQ_HORIZONS])
{
	int64		at_once = 0;
	static LlmqWindow kept[MAX_LIMITS];
	int64		sum = 0;
	int			next = 0;

	for (int i = 0; i < tree->nlimits; i++)
		kept[i] = tree->limits[i].window;
	for (int64 now = NOW; next < LLMQ_HORIZONS; now++)
	{
		const LlmqCapacityNode *path[3] = {&tree->nodes[0]};

		if (now == tree->until[next])
			taken[next++] = sum < ENDLESS ? sum : LLMQ_UNLIMITED;
		if (next == LLMQ_HORIZONS)
			break;
		advance_all(tree, now);
		if (sum < ENDLESS)
			sum += take(tree, path, 0, now);
		if (now == NOW)
			at_once = sum;
	}
	for (int i = 0; i < tree->nlimits; i++)
		tree->limits[i].window = kept[i];
	return at_once < ENDLESS ? at_once : LLMQ_UNLIMITED;
}

/* Capacity against the oracle: the promise that they are equal. */
static void
expect_exact(Promise *promise, Tree *tree)
{
	LlmqCapacity capacity[LLMQ_HORIZONS];
	int64		taken[LLMQ_HORIZONS];

	set_horizons(tree);
	llmq_capacity(&tree->nodes[0], NOW, tree->until, capacity);
	CHECK(&promises[AT_ONCE], capacity[0].at_once == run_oracle(tree, taken), INT64_FORMAT, capacity[0].at_once);
	for (int i = 0; i < LLMQ_HORIZONS; i++)
		CHECK(promise, capacity[i].most[LLMQ_MEASURE_REQUESTS] == taken[i],
			  INT64_FORMAT " us: " INT64_FORMAT " said, " INT64_FORMAT " taken", tree->until[i] - NOW,
			  capacity[i].most[LLMQ_MEASURE_REQUESTS], taken[i]);
}

static void
test_single(void)
{
	static Tree tree;

	for (int round = 0; round < 20000; round++)
	{
		LlmqCapacityNode *key = new_chain(&tree);
		LlmqCapacityNode *nodes[] = {key, &tree.nodes[1], &tree.nodes[0]};

		add_random_limit(&tree, nodes[round % 3], true);
		expect_exact(&promises[SLIDING], &tree);
		key->from = NOW + draw(0, 400);
		expect_exact(&promises[ALONE], &tree);

		key = new_chain(&tree);
		do
		{
			tree.nlimits = 0;
			key->limits = NULL;
			add_random_limit(&tree, key, false);
		} while (tree.limits[0].shape.kind != LLMQ_WINDOW_CALENDAR);
		expect_exact(&promises[CALENDAR], &tree);
		key->from = NOW + draw(0, 400);
		expect_exact(&promises[ALONE], &tree);
		(void) llmq_window_charge(&tree.limits[0].window, NOW, draw(0, 100));
		tree.limits[0].limit.carry_debt = draw(0, 1);
		tree.limits[0].limit.carry_unspent = draw(0, 1);
		expect_exact(&promises[CARRIED], &tree);
	}
}

/* Calls that last just so long: those under way end evenly over that, and each place is taken again at once. */
static void
test_concurrency(void)
{
	static Tree tree;

	for (int round = 0; round < 10000; round++)
	{
		int64		amount = draw(0, 10);
		int64		used = draw(0, amount);
		int64		mean = 1000 * draw(1, 9) + 7;
		int64		length = draw(1, 60000);
		int64		taken = 0;
		LlmqCapacity capacity[LLMQ_HORIZONS];

		(void) new_concurrency(&tree, new_chain(&tree), amount, used, mean);
		tree.until[0] = NOW + length;
		tree.until[1] = tree.until[2] = NOW + 60000;
		for (int place = 0; place < amount; place++)
			for (double at = place < used ? (double) mean * (place + 1) / used : 0; at < length; at += mean)
				taken++;
		llmq_capacity(&tree.nodes[0], NOW, tree.until, capacity);
		if (used * length % mean != 0)
			CHECK(&promises[CONCURRENCY], capacity[0].most[LLMQ_MEASURE_REQUESTS] == taken,
				  INT64_FORMAT " of " INT64_FORMAT " taken, " INT64_FORMAT " us each: " INT64_FORMAT " said, "
				  INT64_FORMAT " taken within " INT64_FORMAT " us", used, amount, mean,
				  capacity[0].most[LLMQ_MEASURE_REQUESTS], taken, length);
		CHECK(&promises[FLIGHT], capacity[0].in_flight == amount - used, INT64_FORMAT, capacity[0].in_flight);
	}
	(void) new_concurrency(&tree, new_chain(&tree), 5, 5, 0);
	set_horizons(&tree);
	{
		LlmqCapacity capacity[LLMQ_HORIZONS];

		llmq_capacity(&tree.nodes[0], NOW, tree.until, capacity);
		CHECK(&promises[CONCURRENCY], capacity[0].most[LLMQ_MEASURE_REQUESTS] == LLMQ_UNLIMITED && capacity[0].in_flight == 0,
			  "a duration that nobody knows limits nothing");
	}
}

static int64
narrowest(const Tree *tree, int horizon)
{
	int64		least = LLMQ_UNLIMITED;

	for (int i = 0; i < tree->nlimits; i++)
	{
		LlmqCapacityLimit alone = tree->limits[i].limit;
		LlmqCapacityNode key = {.is_key = true,.from = NOW,.limits = &alone};
		LlmqCapacity capacity[LLMQ_HORIZONS];

		alone.next = NULL;
		llmq_capacity(&key, NOW, tree->until, capacity);
		least = Min(least, capacity[horizon].most[LLMQ_MEASURE_REQUESTS]);
	}
	return least;
}

/* Two to four limits for the same calls, at whatever level. */
static void
test_chains(void)
{
	static Tree tree;
	int			exact = 0;
	int			checked = 0;
	int64		said_in_all = 0;
	int64		taken_in_all = 0;

	for (int round = 0; round < 20000; round++)
	{
		LlmqCapacity capacity[LLMQ_HORIZONS];
		int64		taken[LLMQ_HORIZONS];

		(void) new_chain(&tree);
		for (int64 n = draw(2, 4); n > 0; n--)
			add_random_limit(&tree, &tree.nodes[draw(0, 2)], false);
		set_horizons(&tree);
		llmq_capacity(&tree.nodes[0], NOW, tree.until, capacity);
		CHECK(&promises[AT_ONCE], capacity[0].at_once == run_oracle(&tree, taken), INT64_FORMAT, capacity[0].at_once);
		for (int i = 0; i < LLMQ_HORIZONS; i++)
		{
			int64		said = capacity[i].most[LLMQ_MEASURE_REQUESTS];

			CHECK(&promises[CHAIN], said >= taken[i], INT64_FORMAT " said, " INT64_FORMAT " taken", said, taken[i]);
			CHECK(&promises[NARROWEST], said <= narrowest(&tree, i), INT64_FORMAT " said, " INT64_FORMAT " alone", said,
				  narrowest(&tree, i));
			if (taken[i] == LLMQ_UNLIMITED)
				continue;
			checked++;
			exact += said == taken[i];
			said_in_all += said;
			taken_in_all += taken[i];
		}
	}
	CHECK(&promises[TIGHT], exact * 100.0 / checked >= 99, "%.1f %% are exact", exact * 100.0 / checked);
	CHECK(&promises[TIGHT], said_in_all <= taken_in_all * 1.01, INT64_FORMAT " said, " INT64_FORMAT " taken",
		  said_in_all, taken_in_all);
	printf("# of several limits %.1f %% are exact, all together %.2f %% too much\n", exact * 100.0 / checked,
		   (said_in_all - taken_in_all) * 100.0 / taken_in_all);
}

/* Up to three accounts with up to three keys each, with limits anywhere. */
static void
test_trees(void)
{
	static Tree tree;

	for (int round = 0; round < 20000; round++)
	{
		LlmqCapacity capacity[LLMQ_HORIZONS];
		int64		taken[LLMQ_HORIZONS];

		tree.nlimits = tree.nnodes = 0;
		(void) new_node(&tree, NULL);
		for (int64 accounts = draw(0, 3); accounts > 0; accounts--)
		{
			LlmqCapacityNode *account = new_node(&tree, &tree.nodes[0]);

			for (int64 keys = draw(1, 3); keys > 0; keys--)
				new_key(&tree, account)->from = draw(0, 3) > 0 ? NOW : draw(0, 1) ? NOW + draw(0, 400) : LLMQ_WHEN_NEVER;
		}
		for (int64 n = draw(0, 8); n > 0; n--)
		{
			LlmqCapacityNode *node = &tree.nodes[draw(0, tree.nnodes - 1)];
			int64		size = node->limits == NULL ? 0 : node->limits->size;

			add_random_limit(&tree, node, false);
			if (size != 0)
				node->limits->size = size;
		}
		set_horizons(&tree);
		llmq_capacity(&tree.nodes[0], NOW, tree.until, capacity);
		CHECK(&promises[AT_ONCE], capacity[0].at_once == run_oracle(&tree, taken), INT64_FORMAT, capacity[0].at_once);
		for (int i = 0; i < LLMQ_HORIZONS; i++)
			CHECK(&promises[TREE], capacity[i].most[LLMQ_MEASURE_REQUESTS] >= taken[i],
				  INT64_FORMAT " said, " INT64_FORMAT " taken", capacity[i].most[LLMQ_MEASURE_REQUESTS], taken[i]);
	}
}

static int64
requests(Tree *tree, int horizon)
{
	static const int64 until[] = {NOW + MINUTE, NOW + HOUR, NOW + DAY};
	LlmqCapacity capacity[LLMQ_HORIZONS];

	llmq_capacity(&tree->nodes[0], NOW, until, capacity);
	return capacity[horizon].most[LLMQ_MEASURE_REQUESTS];
}

static void
test_counting(void)
{
	static Tree tree;
	LlmqCapacityNode *account;
	LlmqCapacityNode *key = new_chain(&tree);

	account = &tree.nodes[1];
	(void) new_sliding(&tree, account, LLMQ_METRIC_REQUESTS, 100, HOUR);
	CHECK(&promises[ONCE], requests(&tree, 0) == 100, "one key");
	for (int i = 0; i < 4; i++)
		key = new_key(&tree, account);
	CHECK(&promises[ONCE], requests(&tree, 0) == 100, "five keys");

	(void) new_chain(&tree);
	account = &tree.nodes[1];
	for (int i = 0; i < 2; i++)
	{
		key = new_key(&tree, account);
		(void) new_sliding(&tree, key, LLMQ_METRIC_REQUESTS, 30, HOUR);
	}
	CHECK(&promises[UNLIMITED], requests(&tree, 0) == LLMQ_UNLIMITED, "the third key has no limit");
	tree.nodes[2].from = LLMQ_WHEN_NEVER;
	CHECK(&promises[APART], requests(&tree, 0) == 60, INT64_FORMAT, requests(&tree, 0));
	key->from = NOW + 2 * MINUTE;
	CHECK(&promises[UNHEALTHY], requests(&tree, 0) == 30 && requests(&tree, 1) == 60, INT64_FORMAT " and " INT64_FORMAT,
		  requests(&tree, 0), requests(&tree, 1));
	(void) new_sliding(&tree, account, LLMQ_METRIC_REQUESTS, 40, HOUR);
	CHECK(&promises[APART], requests(&tree, 1) == 40, "with the account's limit " INT64_FORMAT, requests(&tree, 1));
	key->from = LLMQ_WHEN_NEVER;
	CHECK(&promises[UNHEALTHY], requests(&tree, 1) == 30, INT64_FORMAT, requests(&tree, 1));

	tree.nlimits = tree.nnodes = 0;
	(void) new_node(&tree, NULL);
	CHECK(&promises[UNLIMITED], requests(&tree, 2) == 0, "no key");
	(void) new_node(&tree, &tree.nodes[0]);
	CHECK(&promises[UNLIMITED], requests(&tree, 2) == 0, "an account without keys");
}

static void
test_extremes(void)
{
	static Tree tree;
	LlmqCapacityNode *key = new_chain(&tree);
	Limit	   *limit = new_sliding(&tree, key, LLMQ_METRIC_REQUESTS, 0, MINUTE);

	CHECK(&promises[NOTHING], requests(&tree, 2) == 0, "of zero");
	limit->limit.amount = 4;
	limit->limit.size = 5;
	CHECK(&promises[NOTHING], requests(&tree, 2) == 0, "4 and 5");
	limit->limit.size = 0;
	CHECK(&promises[NOTHING], requests(&tree, 2) == LLMQ_UNLIMITED, "a size of zero");
	limit->limit.amount = 0;
	CHECK(&promises[NOTHING], requests(&tree, 2) == 0, "zero of zero");
	limit->limit.amount = PG_INT64_MAX;
	limit->limit.size = 1;
	for (int i = 0; i < LLMQ_HORIZONS; i++)
		CHECK(&promises[SATURATED], requests(&tree, i) == LLMQ_UNLIMITED - 1, INT64_FORMAT, requests(&tree, i));
	(void) llmq_window_charge(&limit->window, NOW, PG_INT64_MAX);
	CHECK(&promises[SATURATED], requests(&tree, 0) == 0 && requests(&tree, 2) == LLMQ_UNLIMITED - 1, "full");
	key = new_key(&tree, &tree.nodes[1]);
	limit = new_calendar(&tree, key, LLMQ_METRIC_REQUESTS, PG_INT64_MAX, NOW, MINUTE);
	CHECK(&promises[SATURATED], requests(&tree, 0) == LLMQ_UNLIMITED - 1, "two keys");
	(void) new_concurrency(&tree, key, PG_INT64_MAX, 7, 1);
	CHECK(&promises[SATURATED], requests(&tree, 2) == LLMQ_UNLIMITED - 1, "with concurrency");
}

static void
test_measures(void)
{
	static const int64 until[] = {NOW + MINUTE, NOW + HOUR, NOW + DAY};
	static Tree tree;
	LlmqCapacityNode *key = new_chain(&tree);
	LlmqCapacity capacity[LLMQ_HORIZONS];
	int64	   *most = capacity[0].most;

	new_sliding(&tree, key, LLMQ_METRIC_INPUT_TOKENS, 1000, HOUR)->limit.size = 300;
	llmq_capacity(&tree.nodes[0], NOW, until, capacity);
	CHECK(&promises[SIZES], most[LLMQ_MEASURE_REQUESTS] == 3 && most[LLMQ_MEASURE_INPUT] == 1000 &&
		  most[LLMQ_MEASURE_OUTPUT] == LLMQ_UNLIMITED && most[LLMQ_MEASURE_TOKENS] == LLMQ_UNLIMITED, "input");
	new_sliding(&tree, key, LLMQ_METRIC_OUTPUT_TOKENS, 500, HOUR)->limit.size = 200;
	llmq_capacity(&tree.nodes[0], NOW, until, capacity);
	CHECK(&promises[SIZES], most[LLMQ_MEASURE_REQUESTS] == 2 && most[LLMQ_MEASURE_OUTPUT] == 500 &&
		  most[LLMQ_MEASURE_TOKENS] == 1500, "output");
	new_sliding(&tree, &tree.nodes[1], LLMQ_METRIC_TOKENS, 800, HOUR)->limit.size = 500;
	llmq_capacity(&tree.nodes[0], NOW, until, capacity);
	CHECK(&promises[SIZES], most[LLMQ_MEASURE_REQUESTS] == 1 && most[LLMQ_MEASURE_INPUT] == 800 &&
		  most[LLMQ_MEASURE_OUTPUT] == 500 && most[LLMQ_MEASURE_TOKENS] == 800, "both");
	new_sliding(&tree, key, LLMQ_METRIC_REQUESTS, 0, HOUR);
	llmq_capacity(&tree.nodes[0], NOW, until, capacity);
	CHECK(&promises[SIZES], most[LLMQ_MEASURE_REQUESTS] == 0 && most[LLMQ_MEASURE_TOKENS] == 800, "no requests");

	key->from = NOW + 1;
	(void) new_concurrency(&tree, key, 5, 2, 0);
	llmq_capacity(&tree.nodes[0], NOW, until, capacity);
	CHECK(&promises[FLIGHT], capacity[0].in_flight == 0 && capacity[0].keys == 1, "left alone");
	(void) new_key(&tree, &tree.nodes[1]);
	llmq_capacity(&tree.nodes[0], NOW, until, capacity);
	CHECK(&promises[FLIGHT], capacity[0].in_flight == LLMQ_UNLIMITED && capacity[0].keys == 2, "another without limit");
}

/* What comes back shortly before the end: 60 a minute are all that gets through then. */
static void
test_late_returns(void)
{
	static Tree tree;
	LlmqCapacityNode *key = new_chain(&tree);
	Limit	   *limit;

	(void) new_sliding(&tree, key, LLMQ_METRIC_REQUESTS, 60, MINUTE);
	limit = new_calendar(&tree, &tree.nodes[1], LLMQ_METRIC_REQUESTS, 10000, NOW + 50 * MINUTE - DAY, DAY);
	(void) llmq_window_charge(&limit->window, NOW, 9995);
	CHECK(&promises[RESET], requests(&tree, 1) == 5 + 600, "5 now, ten minutes: " INT64_FORMAT, requests(&tree, 1));
	(void) llmq_window_charge(&limit->window, NOW, 1000);
	CHECK(&promises[RESET], requests(&tree, 1) == 600, "ten minutes: " INT64_FORMAT, requests(&tree, 1));
	CHECK(&promises[RESET], requests(&tree, 2) == 10000, "the day's: " INT64_FORMAT, requests(&tree, 2));

	key = new_chain(&tree);
	(void) new_sliding(&tree, key, LLMQ_METRIC_REQUESTS, 60, MINUTE);
	limit = new_sliding(&tree, &tree.nodes[0], LLMQ_METRIC_REQUESTS, 1000, HOUR);
	llmq_window_init(&limit->window, &limit->shape, 1, NOW - 10 * MINUTE, 0);
	(void) llmq_window_charge(&limit->window, NOW - 10 * MINUTE, 990);
	(void) llmq_window_advance(&limit->window, &limit->shape, NOW, 1);
	CHECK(&promises[BURST], requests(&tree, 1) >= 10 + 540 && requests(&tree, 1) <= 10 + 600,
		  "10 now, and nine to ten minutes: " INT64_FORMAT, requests(&tree, 1));
}

static void
test_total(void)
{
	static Tree tree;
	Limit	   *limit = new_limit(&tree, new_chain(&tree), LLMQ_METRIC_REQUESTS, 10);

	limit->shape.kind = LLMQ_WINDOW_CALENDAR;
	limit->shape.unit = LLMQ_CALENDAR_TOTAL;
	llmq_total_period(0, NOW, &limit->shape.period);
	llmq_window_init(&limit->window, &limit->shape, 1, NOW, 0);
	(void) llmq_window_charge(&limit->window, NOW, 4);
	CHECK(&promises[TOTAL], requests(&tree, 0) == 6 && requests(&tree, 2) == 6, INT64_FORMAT, requests(&tree, 2));
	(void) llmq_window_charge(&limit->window, NOW, 10);
	CHECK(&promises[TOTAL], requests(&tree, 2) == 0, "debt: " INT64_FORMAT, requests(&tree, 2));

	limit->limit.later[limit->limit.nlater++] = NOW + 2 * MINUTE;
	llmq_total_period(NOW + 2 * MINUTE, NOW, &limit->shape.period);
	llmq_window_init(&limit->window, &limit->shape, 1, NOW, 0);
	(void) llmq_window_charge(&limit->window, NOW, 400);
	CHECK(&promises[TOTAL], requests(&tree, 0) == LLMQ_UNLIMITED, "not yet");
	tree.nodes[2].from = NOW + 2 * MINUTE;
	CHECK(&promises[TOTAL], requests(&tree, 1) == 10, "when it has begun: " INT64_FORMAT, requests(&tree, 1));
}

int
main(void)
{
	test_single();
	test_concurrency();
	test_chains();
	test_trees();
	test_counting();
	test_extremes();
	test_measures();
	test_late_returns();
	test_total();
	return promises_report(promises, PROMISES);
}
