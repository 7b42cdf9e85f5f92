/*
 * line_order_test.c
 *	  Who is next in the line: fair among orgs, first come first served in an org, with a floor for lower priorities; and
 *	  the counts of the line are those of its places whatever happens.
 *
 * links: src/line_order.c
 */
#include "postgres.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "line.h"
#include "tap.h"

#define SECOND INT64CONST(1000000)
#define LATCH ((Latch *) &line_memory)	/* any that is none */

/* Longer than all of it takes, even under a sanitizer; a search that finds no end ends then. */
#define PATIENCE 300

enum
{
	FEWEST, LONGEST, FIRST, JAIN, WEIGHTS, FLOODED, PRIORITY, FLOOR, OWED, BEST, WANTED, POSITION, CALLED, SERVED, MOST,
	MOST_OF_ORG, FULL, LAPSED, SHOWN, UNSEEN, STAYED, LEFT, MANY_LEFT, FORGOTTEN, REMEMBERED, COUNTS, PROMISES
};

static Promise promises[PROMISES] = {
	[FEWEST] = {.name = "next is the org with the fewest calls in flight, those that are called included"},
	[LONGEST] = {.name = "of several such, the one that was called longest ago"},
	[FIRST] = {.name = "in an org, first come is first served"},
	[JAIN] = {.name = "an org of 150 and nine of 5 are served alike while all of them wait"},
	[WEIGHTS] = {.name = "orgs are served by their weights"},
	[FLOODED] = {.name = "whoever joins beside an org that floods the line is served within a round"},
	[PRIORITY] = {.name = "high comes before normal, and normal before low"},
	[FLOOR] = {.name = "each lower priority has one call in ten, however many wait above it"},
	[OWED] = {.name = "and is owed nothing for when it did not wait"},
	[BEST] = {.name = "who is called is who comparing all with all finds"},
	[WANTED] = {.name = "only who waits for one of the meters is called"},
	[POSITION] = {.name = "a position is what serving the line step by step finds"},
	[CALLED] = {.name = "who is called has the first place"},
	[SERVED] = {.name = "who has a position is served then, give or take two calls of each org of one weight"},
	[MOST] = {.name = "no more wait than may in all"},
	[MOST_OF_ORG] = {.name = "nor of an org; one that leaves makes room"},
	[FULL] = {.name = "the line has room for 16,384, each of an org of its own"},
	[LAPSED] = {.name = "who does not come within a second of being called is passed over, and the next one called"},
	[SHOWN] = {.name = "when he comes again he has kept his place"},
	[UNSEEN] = {.name = "a ticket that was not seen in time leaves the line"},
	[STAYED] = {.name = "who holds a connection stays"},
	[LEFT] = {.name = "what those were called for is told"},
	[MANY_LEFT] = {.name = "as far as there is room for it"},
	[FORGOTTEN] = {.name = "a line that was empty begins anew: with nothing owed and no org known"},
	[REMEMBERED] = {.name = "a line that is never empty knows no end of orgs"},
	[COUNTS] = {.name = "after any sequence all counts are those of the places"},
};

static LlmqLine line_memory;
static LlmqLine *const line = &line_memory;

/* As the server has it, for what is inline in its headers. */
LlmqLine   *llmq_line = NULL;

static TimestampTz clock_now = 1000 * SECOND;

static int
waiting_now(void)
{
	return (int) pg_atomic_read_u32(&line->waiting);
}

static void
begin(void)
{
	for (int i = line->end - 1; i >= 0; i--)
		if (line->place[i].state != LLMQ_PLACE_FREE)
			llmq_line_take_out(line, i);
}

/* Somebody of an org who waits for meter 1, has all the time there is, and may join whoever waits. */
static LlmqJoining
somebody(int32 org, LlmqPriority priority)
{
	return (LlmqJoining) {
		.org = org,.weight = 1,.most = LLMQ_LINE_PLACES,.most_of_org = LLMQ_LINE_PLACES,
		.place = {.since = ++clock_now,.seen_until = DT_NOEND,.priority = priority,.nwants = 1,.want = {1}}
	};
}

static int
put(int32 org, LlmqPriority priority)
{
	LlmqJoining joining = somebody(org, priority);

	return llmq_line_put(line, &joining);
}

static int
put_weighty(int32 org, int weight)
{
	LlmqJoining joining = somebody(org, LLMQ_PRIORITY_NORMAL);

	joining.weight = weight;
	return llmq_line_put(line, &joining);
}

static int32
org_of(int number)
{
	return line->org[line->place[number].org].org;
}

/* Calls the next for meter 1, who takes it; the number that he had, -1: there was nobody. */
static int
call(void)
{
	int32		meter = 1;
	int			number = llmq_line_best(line, &meter, 1);

	if (number >= 0)
		llmq_line_call(line, number, ++clock_now);
	return number;
}

/* Serves the next; his org, -1: there was nobody. */
static int32
serve(void)
{
	int			number = call();
	int32		org = number < 0 ? -1 : org_of(number);

	if (number < 0)
		return -1;
	llmq_line_take_out(line, number);
	llmq_line_org(line, org)->in_flight++;
	return org;
}

static void
test_fewest(void)
{
	int			first;
	int			second;

	begin();
	for (int i = 0; i < 3; i++)
	{
		put(1, LLMQ_PRIORITY_NORMAL);
		put(2, LLMQ_PRIORITY_NORMAL);
	}
	llmq_line_org(line, 1)->in_flight = 2;
	llmq_line_org(line, 2)->in_flight = 1;
	CHECK(&promises[FEWEST], org_of(call()) == 2, "two in flight against one");
	CHECK(&promises[LONGEST], org_of(call()) == 1, "level, and the other was called last");
	CHECK(&promises[FEWEST], org_of(call()) == 2, "three against two");
	CHECK(&promises[LONGEST], org_of(call()) == 1, "level again");
	llmq_line_uncall(line, 2, false);
	CHECK(&promises[LONGEST], org_of(call()) == 1, "it has tried in vain, and lost nothing by that");

	begin();
	first = put(7, LLMQ_PRIORITY_NORMAL);
	second = put(7, LLMQ_PRIORITY_NORMAL);
	CHECK(&promises[FIRST], call() == first && call() == second && call() == -1, "two of an org");
	llmq_line_take_out(line, first);
	first = put(7, LLMQ_PRIORITY_NORMAL);
	llmq_line_uncall(line, second, false);
	CHECK(&promises[FIRST], first < second && call() == second, "a place that was used again is the last one");
}

/* How alike are n numbers: 1 when they are the same. */
static double
jain(const int *served, int n)
{
	double		sum = 0;
	double		squares = 0;

	for (int i = 0; i < n; i++)
	{
		sum += served[i];
		squares += (double) served[i] * served[i];
	}
	return sum * sum / (n * squares);
}

/* Calls of random length: so many at a time, of which one ends before the next is called. Who was served waits again. */
static void
serve_many(int slots, int calls, int *served, int (*again) (int32 org))
{
	int32		flying[70];
	int			n = 0;

	for (int i = 0; i < calls; i++)
	{
		int			ends = random() % slots;

		if (n == slots)
		{
			llmq_line_org(line, flying[ends])->in_flight--;
			flying[ends] = serve();
		}
		else
			flying[ends = n++] = serve();
		served[flying[ends]]++;
		again(flying[ends]);
	}
}

static int
put_normal(int32 org)
{
	return put(org, LLMQ_PRIORITY_NORMAL);
}

static int
put_by_weight(int32 org)
{
	return put_weighty(org, 1 << org);
}

static void
test_fairness(void)
{
	int			served[10] = {0};
	int			weighed[3] = {0};

	begin();
	for (int i = 0; i < 150; i++)
		put_normal(0);
	for (int i = 0; i < 45; i++)
		put_normal(1 + i % 9);
	serve_many(15, 20000, served, put_normal);
	CHECK(&promises[JAIN], jain(served, 10) >= 0.99, "%.4f", jain(served, 10));

	begin();
	for (int i = 0; i < 90; i++)
		put_by_weight(i % 3);
	serve_many(70, 21000, weighed, put_by_weight);
	for (int i = 0; i < 3; i++)
		CHECK(&promises[WEIGHTS], abs(weighed[i] - 3000 * (1 << i)) < 300 * (1 << i), "%d for weight %d", weighed[i], 1 << i);

	begin();
	for (int i = 0; i < 500; i++)
		put_normal(1);
	for (int i = 0; i < 8; i++)
		serve();
	put_normal(2);
	CHECK(&promises[FLOODED], serve() == 2, "the first of another org");
}

static void
test_priorities(void)
{
	int			served[LLMQ_PRIORITIES] = {0};
	int			low;

	begin();
	low = put(1, LLMQ_PRIORITY_LOW);
	put(1, LLMQ_PRIORITY_NORMAL);
	put(2, LLMQ_PRIORITY_HIGH);
	llmq_line_org(line, 2)->in_flight = 50;
	CHECK(&promises[PRIORITY], line->place[call()].priority == LLMQ_PRIORITY_HIGH, "high, however much is in flight");
	CHECK(&promises[PRIORITY], line->place[call()].priority == LLMQ_PRIORITY_NORMAL, "normal");
	CHECK(&promises[PRIORITY], call() == low, "low");

	begin();
	for (int i = 0; i < 1000; i++)
	{
		int			number;

		for (int priority = 0; priority < LLMQ_PRIORITIES; priority++)
			while (llmq_line_org(line, 1) == NULL || llmq_line_org(line, 1)->waiting[priority] < 2)
				put(1, priority);
		number = call();
		served[line->place[number].priority]++;
		llmq_line_take_out(line, number);
	}
	for (int i = 0; i < LLMQ_PRIORITIES; i++)
		CHECK(&promises[FLOOR], i == LLMQ_PRIORITY_HIGH || (served[i] >= 90 && served[i] <= 100),
			  "%d of 1000 for priority %d", served[i], i);
}

static void
test_owed(void)
{
	int			longest = 0;

	begin();
	for (int i = 0; i < 100; i++)
		put(1, LLMQ_PRIORITY_HIGH);
	for (int i = 0; i < 50; i++)
		llmq_line_take_out(line, call());
	put(1, LLMQ_PRIORITY_LOW);
	while (line->place[call()].priority == LLMQ_PRIORITY_HIGH)
		longest++;
	CHECK(&promises[OWED], longest == 9, "%d were called before it", longest);
}

static bool
goes_first(LlmqPriority a, LlmqPriority b)
{
	return a != b && (a == LLMQ_PRIORITY_HIGH || b == LLMQ_PRIORITY_LOW);
}

/* Comparing two, from what the head of line_order.c says. */
static bool
comes_first(const LlmqPlace *a, const LlmqPlace *b)
{
	const LlmqLineOrg *org_a = &line->org[a->org];
	const LlmqLineOrg *org_b = &line->org[b->org];
	double		load_a = (double) (org_a->in_flight + org_a->called) / org_a->weight;
	double		load_b = (double) (org_b->in_flight + org_b->called) / org_b->weight;

	if (a->priority != b->priority)
		return goes_first(a->priority, b->priority);
	if (fabs(load_a - load_b) > 1e-9)
		return load_a < load_b;
	if (org_a->called_at != org_b->called_at)
		return org_a->called_at < org_b->called_at;
	return a->number < b->number;
}

static bool
may_be_called(const LlmqPlace *place, int32 meter)
{
	bool		wants = false;

	for (int i = 0; i < place->nwants; i++)
		wants |= place->want[i] == meter;
	return place->state == LLMQ_PLACE_WAITING && !place->absent && wants;
}

static int
best_by_comparing(int32 meter)
{
	int			best = -1;

	for (int i = 0; i < LLMQ_LINE_PLACES; i++)
		if (may_be_called(&line->place[i], meter) && (best < 0 || comes_first(&line->place[i], &line->place[best])))
			best = i;
	return best;
}

/* A line of many orgs, priorities and meters, in the midst of its work. */
static void
fill_at_random(int n, int norgs, int npriorities)
{
	begin();
	for (int i = 0; i < n; i++)
	{
		LlmqJoining joining = somebody(1 + random() % norgs, random() % npriorities);

		joining.weight = 1 + joining.org % 3;
		joining.in_flight = random() % 5;
		joining.place.nwants = 1 + random() % 2;
		joining.place.want[0] = 1 + random() % 3;
		joining.place.want[1] = 4;
		(void) llmq_line_put(line, &joining);
	}
	for (int i = random() % (1 + n / 4); i > 0; i--)
		(void) call();
}

static void
test_best(void)
{
	for (int i = 0; i < 2000; i++)
	{
		int32		meter = 1 + random() % 5;
		int			expected;
		int			number;

		if (i % 10 == 0)
			fill_at_random(1 + random() % 40, 1 + random() % 8, LLMQ_PRIORITIES);
		memset(line->owed, 0, sizeof(line->owed));
		expected = best_by_comparing(meter);
		number = llmq_line_best(line, &meter, 1);
		CHECK(&promises[BEST], number == expected, "%d, not %d", number, expected);
		CHECK(&promises[WANTED], number < 0 ? meter == 5 || expected < 0 : may_be_called(&line->place[number], meter),
			  "meter %d", meter);
		if (number >= 0)
			llmq_line_call(line, number, ++clock_now);
	}
	fill_at_random(40, 8, LLMQ_PRIORITIES);
	for (int32 meter = 1; meter <= 5; meter++)
	{
		bool		wanted = false;

		for (int i = 0; i < line->end; i++)
			wanted |= line->place[i].state == LLMQ_PLACE_CALLED && line->place[i].want[0] == meter;
		CHECK(&promises[WANTED], llmq_line_is_wanted(line, &meter, 1, clock_now) == (wanted || best_by_comparing(meter) >= 0),
			  "meter %d", meter);
	}
}

/* Does somebody wait for a meter for which the other waits, too? */
static bool
waits_for_the_same(const LlmqPlace *place, const LlmqPlace *other)
{
	if (other->state == LLMQ_PLACE_FREE)
		return false;
	for (int i = 0; i < place->nwants; i++)
		for (int j = 0; j < other->nwants; j++)
			if (place->want[i] == other->want[j])
				return true;
	return false;
}

/* The calls of an org that have to end before it has its share of those in flight, which end in the order they began. */
static int
more_than_its_share(const LlmqLineOrg *org, const LlmqPlace *to)
{
	bool		seen[LLMQ_LINE_ORGS] = {false};
	double		load = 0;
	double		weight = 0;

	for (int i = 0; i < line->end; i++)
	{
		const LlmqLineOrg *other = &line->org[line->place[i].org];

		if (!waits_for_the_same(to, &line->place[i]) || seen[line->place[i].org])
			continue;
		seen[line->place[i].org] = true;
		load += other->in_flight + other->called;
		weight += other->weight;
	}
	return Max(org->in_flight + org->called - (int) ceil(load / weight * org->weight), 0);
}

/* Is the first served before the second of the same priority, when their orgs have had so many? */
static bool
is_served_before(const LlmqPlace *a, const LlmqPlace *b, const int *had)
{
	const LlmqLineOrg *org_a = &line->org[a->org];
	const LlmqLineOrg *org_b = &line->org[b->org];
	int			had_a = had[a->org] * org_b->weight;
	int			had_b = had[b->org] * org_a->weight;

	if (a->org == b->org)
		return a->number < b->number;
	if (had_a != had_b)
		return had_a < had_b;
	return org_a->called_at < org_b->called_at || (org_a->called_at == org_b->called_at && org_a < org_b);
}

/*
 * Serves those of his priority who wait for the same step by step until it is the turn of the one at a place: in which
 * step of all. Those who are called and those of higher priorities go first.
 */
static int
serve_until(int place)
{
	static int	had[LLMQ_LINE_ORGS];
	bool		served[LLMQ_LINE_PLACES];
	int			step = 1;

	for (int i = 0; i < line->end; i++)
	{
		const LlmqPlace *at = &line->place[i];
		bool		is_there = waits_for_the_same(&line->place[place], at);
		bool		before = at->state == LLMQ_PLACE_CALLED || goes_first(at->priority, line->place[place].priority);

		served[i] = !is_there || before || at->priority != line->place[place].priority;
		step += is_there && before;
		had[at->org] = more_than_its_share(&line->org[at->org], &line->place[place]);
	}
	for (;; step++)
	{
		int			next = -1;

		for (int i = 0; i < line->end; i++)
			if (!served[i] && (next < 0 || is_served_before(&line->place[i], &line->place[next], had)))
				next = i;
		if (next == place)
			return step;
		served[next] = true;
		had[line->place[next].org]++;
	}
}

static void
test_positions(void)
{
	for (int i = 0; i < 200; i++)
	{
		fill_at_random(1 + random() % 40, 1 + random() % 8, 1 + random() % LLMQ_PRIORITIES);
		for (int j = 0; j < line->end; j++)
		{
			int			position = llmq_line_position(line, &line->place[j]);

			if (line->place[j].state == LLMQ_PLACE_CALLED)
				CHECK(&promises[CALLED], position == 1, "%d", position);
			else
				CHECK(&promises[POSITION], position == serve_until(j), "%d, not %d", position, serve_until(j));
		}
	}
}

/* Of a line in which so many orgs of one weight wait and `slots` calls are in flight, the one that began first ends with every step. */
static void
test_served_of(int norgs, int slots, int n)
{
	int32		flying[50] = {0};
	int			position[50];
	uint64		number[50];

	begin();
	for (int i = 0; i < n; i++)
		put_normal(random() % norgs);
	for (int i = 0; i < slots; i++)
	{
		flying[i] = serve();
		put_normal(flying[i]);
	}
	for (int i = 0; i < n; i++)
	{
		position[i] = llmq_line_position(line, &line->place[i]);
		number[i] = line->place[i].number;
	}
	for (int i = 1; i <= n; i++)
	{
		int			next;
		int			who = 0;

		if (slots > 0 && llmq_line_org(line, flying[i % slots]) != NULL)
			llmq_line_org(line, flying[i % slots])->in_flight--;
		next = call();
		while (number[who] != line->place[next].number)
			who++;
		CHECK(&promises[SERVED], abs(i - position[who]) <= 2 * norgs, "position %d of %d with %d slots, served %d",
			  position[who], n, slots, i);
		if (slots > 0)
			flying[i % slots] = org_of(next);
		llmq_line_org(line, org_of(next))->in_flight++;
		llmq_line_take_out(line, next);
	}
}

static void
test_served(void)
{
	for (int i = 0; i < 300; i++)
		test_served_of(1 + random() % 6, random() % 20, 20 + random() % 30);
}

static void
test_bounds(void)
{
	LlmqJoining joining = somebody(1, LLMQ_PRIORITY_NORMAL);

	begin();
	joining.most = 5;
	joining.most_of_org = 3;
	for (int i = 0; i < 3; i++)
		CHECK(&promises[MOST_OF_ORG], llmq_line_put(line, &joining) == i, "%d of an org", i);
	CHECK(&promises[MOST_OF_ORG], llmq_line_put(line, &joining) == -1, "a fourth one of an org");
	joining.org = 2;
	for (int i = 3; i < 5; i++)
		CHECK(&promises[MOST], llmq_line_put(line, &joining) == i, "%d in all", i);
	CHECK(&promises[MOST], llmq_line_put(line, &joining) == -1, "a sixth one");
	llmq_line_take_out(line, 1);
	CHECK(&promises[MOST_OF_ORG], llmq_line_put(line, &joining) == 1, "in the place of another");
	joining.most = 0;
	begin();
	CHECK(&promises[MOST], llmq_line_put(line, &joining) == -1, "nobody may wait");

	for (int i = 0; i < LLMQ_LINE_PLACES; i++)
		CHECK(&promises[FULL], put(i, LLMQ_PRIORITY_NORMAL) == i, "place %d", i);
	for (int i = 0; i < 20000; i++)
		CHECK(&promises[FULL], put(-1 - i, LLMQ_PRIORITY_NORMAL) == -1, "more");
	for (int i = 0; i < LLMQ_LINE_PLACES; i++)
		CHECK(&promises[FULL], org_of(i) == i && llmq_line_org(line, i) != NULL, "the org of place %d", i);
	llmq_line_take_out(line, 77);
	CHECK(&promises[FULL], put(-1, LLMQ_PRIORITY_NORMAL) == 77, "the place that was left");
}

static void
test_lapses(void)
{
	int32		left[4];
	int			away;
	int			next;
	int			ticket;
	int			held;
	LlmqJoining joining;

	begin();
	away = put(1, LLMQ_PRIORITY_NORMAL);
	next = put(1, LLMQ_PRIORITY_NORMAL);
	CHECK(&promises[LAPSED], call() == away, "the first");
	CHECK(&promises[LAPSED], llmq_line_lapse(line, line->place[away].called_at + SECOND - 1, left, 4) == 0, "not yet");
	CHECK(&promises[LAPSED], llmq_line_is_called_for(line, line->place[next].want, 1), "it is kept for him");
	CHECK(&promises[LEFT], llmq_line_lapse(line, line->place[away].called_at + SECOND, left, 4) == 1 && left[0] == 1,
		  "of one who did not come");
	CHECK(&promises[LAPSED], !llmq_line_is_called_for(line, line->place[next].want, 1), "nothing is kept for him");
	CHECK(&promises[LAPSED], call() == next && call() == -1, "the next one, and nobody else");
	CHECK(&promises[SHOWN], llmq_line_position(line, &line->place[away]) == 2, "behind him who is called");
	line->place[away].absent = false;
	llmq_line_uncall(line, next, false);
	CHECK(&promises[SHOWN], call() == away, "he is the first again");

	begin();
	joining = somebody(1, LLMQ_PRIORITY_NORMAL);
	joining.place.secret = 1;
	joining.place.nwants = 3;
	joining.place.want[1] = 5;
	joining.place.want[2] = 6;
	joining.place.seen_until = clock_now + 10 * SECOND;
	ticket = llmq_line_put(line, &joining);
	CHECK(&promises[UNSEEN], llmq_line_is_wanted(line, &joining.place.want[1], 1, joining.place.seen_until - 1) &&
		  !llmq_line_is_wanted(line, &joining.place.want[1], 1, joining.place.seen_until), "then it bars nobody");
	joining.place.latch = LATCH;
	held = llmq_line_put(line, &joining);
	CHECK(&promises[STAYED], line->held == 1, "%d are held", line->held);
	CHECK(&promises[UNSEEN], llmq_line_lapse(line, joining.place.seen_until - 1, left, 4) == 0, "not yet");
	line->place[ticket].seen_until += SECOND;
	CHECK(&promises[UNSEEN], llmq_line_lapse(line, joining.place.seen_until, left, 4) == 0, "it was shown meanwhile");
	CHECK(&promises[LEFT], llmq_line_lapse(line, joining.place.seen_until + SECOND, left, 4) == 3 && left[0] == 1 &&
		  left[1] == 5 && left[2] == 6, "of a ticket");
	CHECK(&promises[UNSEEN], line->place[ticket].state == LLMQ_PLACE_FREE, "it is not there any more");
	CHECK(&promises[STAYED], line->place[held].state == LLMQ_PLACE_WAITING && line->held == 1, "he with a connection");

	begin();
	for (int i = 0; i < 7; i++)
		put(1, LLMQ_PRIORITY_NORMAL);
	while (call() >= 0)
		;
	CHECK(&promises[MANY_LEFT], llmq_line_lapse(line, clock_now + SECOND, left, 4) == 4, "four of seven");
	CHECK(&promises[LAPSED], call() == -1, "all of them are passed over");
}

static void
test_begin(void)
{
	begin();
	for (int i = 0; i < 8; i++)
		put(1, LLMQ_PRIORITY_HIGH);
	put(2, LLMQ_PRIORITY_LOW);
	for (int i = 0; i < 8; i++)
		serve();
	CHECK(&promises[FORGOTTEN], llmq_line_org(line, 1) != NULL && llmq_line_org(line, 1)->in_flight == 8, "known");
	serve();
	put(3, LLMQ_PRIORITY_HIGH);
	CHECK(&promises[FORGOTTEN], llmq_line_org(line, 1) == NULL && llmq_line_org(line, 2) == NULL, "orgs");
	CHECK(&promises[FORGOTTEN], line->owed[LLMQ_PRIORITY_LOW] == 0 && line->owed[LLMQ_PRIORITY_NORMAL] == 0, "owed");
	CHECK(&promises[FORGOTTEN], line->end == 1, "%d places are looked at", line->end);

}

static void
test_many_orgs(void)
{
	begin();
	for (int i = 0; i < 500; i++)
		put(i, LLMQ_PRIORITY_HIGH);
	for (int i = 0; i < 16 * LLMQ_LINE_ORGS; i++)
		llmq_line_take_out(line, put(1000 + i, LLMQ_PRIORITY_NORMAL));
	CHECK(&promises[REMEMBERED], llmq_line_org(line, 999) == NULL, "one that never waited");
	for (int i = 0; i < 500; i++)
		CHECK(&promises[REMEMBERED], org_of(i) == i && llmq_line_org(line, i) == &line->org[line->place[i].org] &&
			  line->org[line->place[i].org].waiting[LLMQ_PRIORITY_HIGH] == 1, "org %d, which waits all the time", i);
	for (int i = 0; i < 500; i++)
		CHECK(&promises[REMEMBERED], org_of(call()) == i, "org %d is called", i);
}

/* What counting the places finds, of an org. */
static void
check_org(int at, const char *after)
{
	const LlmqLineOrg *org = &line->org[at];
	int			called = 0;
	int			waiting[LLMQ_PRIORITIES] = {0};

	for (int i = 0; i < LLMQ_LINE_PLACES; i++)
	{
		const LlmqPlace *place = &line->place[i];

		if (place->state == LLMQ_PLACE_FREE || place->org != at)
			continue;
		called += place->state == LLMQ_PLACE_CALLED;
		waiting[place->priority] += place->state == LLMQ_PLACE_WAITING;
	}
	CHECK(&promises[COUNTS], org->called == called, "%d called of org %d after %s, not %d", org->called, org->org, after, called);
	for (int i = 0; i < LLMQ_PRIORITIES; i++)
		CHECK(&promises[COUNTS], org->waiting[i] == waiting[i], "%d of priority %d wait after %s, not %d", org->waiting[i], i,
			  after, waiting[i]);
}

/* Compares all counts with the places. Meters of the test are below 8, its orgs below 10. */
static void
check_counts(const char *after)
{
	int			waiting = 0;
	int			held = 0;
	int			end = 0;
	int			norgs = 0;
	uint32		wanting[8] = {0};

	for (int i = 0; i < LLMQ_LINE_PLACES; i++)
	{
		const LlmqPlace *place = &line->place[i];

		if (place->state == LLMQ_PLACE_FREE)
			continue;
		waiting++;
		end = i + 1;
		held += place->latch != NULL;
		for (int j = 0; j < place->nwants; j++)
			wanting[place->want[j]]++;
	}
	CHECK(&promises[COUNTS], waiting_now() == waiting, "%d wait after %s, not %d", waiting_now(), after, waiting);
	CHECK(&promises[COUNTS], line->held == held, "%d are held after %s, not %d", line->held, after, held);
	CHECK(&promises[COUNTS], waiting == 0 || line->end == end, "the end is %d after %s, not %d", line->end, after, end);
	for (int i = 0; i < line->free_from && i < line->end; i++)
		CHECK(&promises[COUNTS], line->place[i].state != LLMQ_PLACE_FREE, "%d is free, and before the first such", i);
	for (int i = 0; i < 8; i++)
		CHECK(&promises[COUNTS], line->meter[i].waiting == wanting[i], "%u wait for meter %d after %s, not %u",
			  line->meter[i].waiting, i, after, wanting[i]);
	for (int i = 0; i < LLMQ_LINE_ORGS; i++)
		norgs += line->org[i].filling == line->filling;
	CHECK(&promises[COUNTS], line->norgs == norgs, "%d orgs after %s, not %d", line->norgs, after, norgs);
	for (int i = 0; i < 10; i++)
		if (waiting > 0 && llmq_line_org(line, i) != NULL)
			check_org(llmq_line_org(line, i) - line->org, after);
}

static int
random_place(void)
{
	return line->end == 0 ? -1 : random() % line->end;
}

static int
random_wants(int32 *want)
{
	int			n = random() % 3;

	for (int i = 0; i < n; i++)
		want[i] = (i == 0 ? 0 : want[i - 1]) + 1 + random() % 3;
	return n;
}

/* Something happens to the line. What? */
static const char *
happen(int what)
{
	LlmqJoining joining = somebody(random() % 10, random() % LLMQ_PRIORITIES);
	int			number = random_place();
	int32		want[8];

	if (what < 4)
	{
		joining.most = 60;
		joining.most_of_org = 9;
		joining.place.nwants = random_wants(joining.place.want);
		joining.place.latch = random() % 2 == 0 ? LATCH : NULL;
		joining.place.seen_until = random() % 2 == 0 ? clock_now + 50 : DT_NOEND;
		(void) llmq_line_put(line, &joining);
		return "joining";
	}
	if (number < 0 || line->place[number].state == LLMQ_PLACE_FREE)
		return "nothing";
	switch (what)
	{
		case 4:
			llmq_line_take_out(line, number);
			return "leaving";
		case 5:
			llmq_line_uncall(line, number, random() % 2 == 0);
			return "coming in vain";
		case 6:
			llmq_line_want(line, number, want, random_wants(want));
			return "wanting something else";
		case 7:
			clock_now += random() % 20 == 0 ? SECOND : 10;
			(void) llmq_line_lapse(line, clock_now, want, lengthof(want));
			return "lapsing";
		default:
			number = llmq_line_best(line, want, random_wants(want));
			if (number >= 0)
				llmq_line_call(line, number, ++clock_now);
			return "calling";
	}
}

static void
test_counts(void)
{
	begin();
	for (int i = 0; i < 50000; i++)
	{
		const char *what = happen(random() % 10);

		if (i % 10 == 0 || i < 1000)
			check_counts(what);
	}
	begin();
	check_counts("the end");
}

int
main(void)
{
	alarm(PATIENCE);
	srandom(4711);
	test_fewest();
	test_fairness();
	test_priorities();
	test_owed();
	test_best();
	test_positions();
	test_served();
	test_bounds();
	test_lapses();
	test_begin();
	test_many_orgs();
	test_counts();
	return promises_report(promises, PROMISES);
}
