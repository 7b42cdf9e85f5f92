/*
 * line_order.c
 *	  Who is next in the line, and what changes when somebody comes or goes. On the memory alone: no server calls.
 *
 * Of those who wait for a meter the next is one of the highest priority; among these, of the org with the fewest calls
 * in flight relative to its weight; of several such, that which has waited longest since one of it was called; in an
 * org, he who has waited longest. So within an org and a priority first come is first served, and an org that floods
 * the line delays itself. A call counts as in flight from when somebody is called for it: else several calls in a row
 * would go to the same org.
 *
 * Lower priorities have a floor: one that has been passed over often enough is owed a call, and gets it.
 *
 * All of this is under the line's lock. A walk goes over all places that have been used, at most 16,384: some tens of
 * microseconds when thousands wait.
 */
#include "postgres.h"

#include <math.h>

#include "common/hashfn.h"

#include "line.h"

/* A priority that has been passed over so often is owed the next call: one in ten is its own. */
#define FLOOR 9

/* As many orgs as the table has at most: a search that finds nothing ends soon, then. */
#define MOST_ORGS (LLMQ_LINE_ORGS / 4 * 3)

/* Who goes first, and the other way round. */
static const LlmqPriority by_rank[LLMQ_PRIORITIES] = {LLMQ_PRIORITY_HIGH, LLMQ_PRIORITY_NORMAL, LLMQ_PRIORITY_LOW};
static const int ranks[LLMQ_PRIORITIES] = {
	[LLMQ_PRIORITY_HIGH] = 0,[LLMQ_PRIORITY_NORMAL] = 1,[LLMQ_PRIORITY_LOW] = 2
};

/* Has this place of the table an org of this line? */
static bool
is_taken(const LlmqLine *line, const LlmqLineOrg *org)
{
	return org->filling == line->filling;
}

/* How many of an org are in the line. */
static int
count(const LlmqLineOrg *org)
{
	int			n = org->called;

	for (int i = 0; i < LLMQ_PRIORITIES; i++)
		n += org->waiting[i];
	return n;
}

/* Looks an org up; where it is not there `vacant` is where it can be put. */
static LlmqLineOrg *
find_org(LlmqLine *line, int32 org, LlmqLineOrg **vacant)
{
	uint32		at = murmurhash32(org) % LLMQ_LINE_ORGS;

	*vacant = NULL;
	for (; is_taken(line, &line->org[at]); at = (at + 1) % LLMQ_LINE_ORGS)
	{
		if (line->org[at].org == org)
			return &line->org[at];
		if (*vacant == NULL && count(&line->org[at]) == 0)
			*vacant = &line->org[at];
	}
	if (*vacant == NULL)
		*vacant = &line->org[at];
	return NULL;
}

/* An org that waits, or has waited; NULL: it has not. */
LlmqLineOrg *
llmq_line_org(LlmqLine *line, int32 org)
{
	LlmqLineOrg *vacant;

	return find_org(line, org, &vacant);
}

/* Puts an org that is not there into the table. */
static LlmqLineOrg *
put_org(LlmqLine *line, const LlmqLineOrg *org)
{
	LlmqLineOrg *vacant;

	(void) find_org(line, org->org, &vacant);
	line->norgs += !is_taken(line, vacant);
	*vacant = *org;
	return vacant;
}

/*
 * Forgets the orgs of which nobody is in the line. Those that stay move, each to where its search begins or as near as
 * can be; they are taken in the order of the table from a free place on, so none meets one that has not moved yet.
 */
static void
forget_orgs(LlmqLine *line)
{
	int			free = 0;

	while (is_taken(line, &line->org[free]))
		free++;
	for (int i = 0; i < line->end; i++)
		if (line->place[i].state != LLMQ_PLACE_FREE)
			line->place[i].org = line->org[line->place[i].org].org;
	for (int i = 1; i < LLMQ_LINE_ORGS; i++)
	{
		LlmqLineOrg *at = &line->org[(free + i) % LLMQ_LINE_ORGS];
		LlmqLineOrg org = *at;

		if (!is_taken(line, at))
			continue;
		at->filling = 0;
		line->norgs--;
		if (count(&org) > 0)
			(void) put_org(line, &org);
	}
	for (int i = 0; i < line->end; i++)
		if (line->place[i].state != LLMQ_PLACE_FREE)
			line->place[i].org = llmq_line_org(line, line->place[i].org) - line->org;
}

/* The place of the org of somebody who joins. One in which nobody waits any more makes room. */
static LlmqLineOrg *
make_org(LlmqLine *line, const LlmqJoining *joining)
{
	LlmqLineOrg *org = llmq_line_org(line, joining->org);

	if (org == NULL)
	{
		LlmqLineOrg new = {
			.org = joining->org,.filling = line->filling,.in_flight = joining->in_flight,
			.called_at = joining->place.since
		};

		if (line->norgs >= MOST_ORGS)
			forget_orgs(line);
		org = put_org(line, &new);
	}
	org->weight = joining->weight;
	return org;
}

static bool
wants(const LlmqPlace *place, int32 meter)
{
	for (int i = 0; i < place->nwants; i++)
		if (place->want[i] == meter)
			return true;
	return false;
}

static bool
wants_one_of(const LlmqPlace *place, const int32 *want, int n)
{
	for (int i = 0; i < n; i++)
		if (wants(place, want[i]))
			return true;
	return false;
}

/* Is it a ticket that nobody has shown for too long? */
static bool
is_unseen(const LlmqPlace *place, TimestampTz now)
{
	return place->seen_until <= now && place->latch == NULL;
}

/* Does anybody wait for one of these very meters? Tickets that are to leave the line are in nobody's way. */
bool
llmq_line_is_wanted(const LlmqLine *line, const int32 *meter, int n, TimestampTz now)
{
	for (int i = 0; i < line->end; i++)
	{
		const LlmqPlace *place = &line->place[i];

		if (place->state != LLMQ_PLACE_FREE && !is_unseen(place, now) && wants_one_of(place, meter, n))
			return true;
	}
	return false;
}

/* Is somebody called who waits for one of these meters? */
bool
llmq_line_is_called_for(const LlmqLine *line, const int32 *meter, int n)
{
	for (int i = 0; i < line->end; i++)
		if (line->place[i].state == LLMQ_PLACE_CALLED && wants_one_of(&line->place[i], meter, n))
			return true;
	return false;
}

/* Has the first waited for longer than the second? */
static bool
came_before(const LlmqPlace *a, const LlmqPlace *b)
{
	return a->since < b->since || (a->since == b->since && a->number < b->number);
}

/* Is the first place before the second, both of one priority? */
static bool
is_before(const LlmqLine *line, const LlmqPlace *a, const LlmqPlace *b)
{
	const LlmqLineOrg *org_a = &line->org[a->org];
	const LlmqLineOrg *org_b = &line->org[b->org];
	int64		load_a = (int64) (org_a->in_flight + org_a->called) * org_b->weight;
	int64		load_b = (int64) (org_b->in_flight + org_b->called) * org_a->weight;

	if (load_a != load_b)
		return load_a < load_b;
	if (org_a->called_at != org_b->called_at)
		return org_a->called_at < org_b->called_at;
	return came_before(a, b);
}

/* The first of each priority among those who wait for one of the meters and can be called; -1: there is none. */
static void
find_first(const LlmqLine *line, const int32 *want, int n, int first[LLMQ_PRIORITIES])
{
	for (int i = 0; i < LLMQ_PRIORITIES; i++)
		first[i] = -1;
	for (int i = 0; i < line->end; i++)
	{
		const LlmqPlace *place = &line->place[i];
		int		   *best = &first[place->priority];

		if (place->state != LLMQ_PLACE_WAITING || place->absent || !wants_one_of(place, want, n))
			continue;
		if (*best < 0 || is_before(line, place, &line->place[*best]))
			*best = i;
	}
}

/*
 * Who is to be called when one of the meters may have room; -1: nobody. What lower priorities are owed is counted, so
 * he has to be called.
 */
int
llmq_line_best(LlmqLine *line, const int32 *want, int n)
{
	int			first[LLMQ_PRIORITIES];
	int			best = -1;

	find_first(line, want, n, first);
	for (int rank = LLMQ_PRIORITIES - 1; rank >= 0 && best < 0; rank--)
	{
		LlmqPriority priority = by_rank[rank];

		if (first[priority] >= 0 && line->owed[priority] >= FLOOR)
		{
			line->owed[priority] = 0;
			best = first[priority];
		}
	}
	for (int rank = 0; rank < LLMQ_PRIORITIES; rank++)
	{
		LlmqPriority priority = by_rank[rank];

		if (first[priority] < 0 || first[priority] == best)
			continue;
		if (best < 0)
			best = first[priority];
		else if (ranks[line->place[best].priority] < rank)
			line->owed[priority]++;
	}
	return best;
}

/* Whose turn is it, of two orgs that have had the same? The one's that has waited longer, and so in every round. */
static bool
is_first_of_equals(const LlmqLineOrg *a, const LlmqLineOrg *b)
{
	return a->called_at < b->called_at || (a->called_at == b->called_at && a < b);
}

/* Those who wait for the same as somebody: they are what he can be behind. */
typedef struct Rivals
{
	const LlmqPlace *place;		/* he */
	int			before;			/* of his own org and priority, those who have waited longer */
	int			called;			/* those who may try by now */
	int64		load;			/* calls in flight of all their orgs */
	int64		weight;			/* of these orgs */
} Rivals;

static bool
is_rival(const LlmqPlace *place, const LlmqPlace *other)
{
	return other->state != LLMQ_PLACE_FREE && wants_one_of(other, place->want, place->nwants);
}

/* Is this the first time that a walk sees an org? */
static bool
is_first_sight(const LlmqLine *line, LlmqLineOrg *org)
{
	bool		first = org->walk != line->last_walk;

	org->walk = line->last_walk;
	return first;
}

/* Finds them: how many wait of each org and priority is in `rivals` of the org. */
static void
find_rivals(LlmqLine *line, Rivals *rivals)
{
	const LlmqPlace *place = rivals->place;

	line->last_walk++;
	for (int i = 0; i < line->end; i++)
	{
		const LlmqPlace *other = &line->place[i];
		LlmqLineOrg *org = &line->org[other->org];

		if (!is_rival(place, other))
			continue;
		if (is_first_sight(line, org))
		{
			memset(org->rivals, 0, sizeof(org->rivals));
			rivals->load += org->in_flight + org->called;
			rivals->weight += org->weight;
		}
		if (other->state == LLMQ_PLACE_CALLED)
			rivals->called++;
		else
			org->rivals[other->priority]++;
		rivals->before += other->state == LLMQ_PLACE_WAITING && other->org == place->org &&
			other->priority == place->priority && came_before(other, place);
	}
}

/* How many of an org's calls have to end before it has no more than its share: until then it is not its turn. */
static int
excess(const LlmqLineOrg *org, double mean)
{
	return Max(org->in_flight + org->called - (int) ceil(mean * org->weight), 0);
}

/*
 * How many of another org's places come before an org's one that has `turn` others to come before: those that have
 * fewer before them, relative to the weights.
 */
static int
ahead_of(const LlmqLineOrg *other, const LlmqLineOrg *own, int64 turn, double mean, int priority)
{
	int64		turns = turn * other->weight / own->weight;

	if (turn * other->weight % own->weight != 0 || is_first_of_equals(other, own))
		turns++;
	return (int) Min(Max(turns - excess(other, mean), 0), other->rivals[priority]);
}

/* How many are of higher priorities, or of other orgs and come before one who has these rivals. */
static int
others_ahead(LlmqLine *line, const LlmqLineOrg *own, const Rivals *rivals)
{
	const LlmqPlace *place = rivals->place;
	double		mean = (double) rivals->load / Max(rivals->weight, 1);
	int64		turn = rivals->before + excess(own, mean);
	int			ahead = 0;

	line->last_walk++;
	for (int i = 0; i < line->end; i++)
	{
		const LlmqPlace *other = &line->place[i];
		LlmqLineOrg *org = &line->org[other->org];

		if (!is_rival(place, other) || !is_first_sight(line, org))
			continue;
		for (int rank = 0; rank < ranks[place->priority]; rank++)
			ahead += org->rivals[by_rank[rank]];
		if (org != own)
			ahead += ahead_of(org, own, turn, mean, place->priority);
	}
	return ahead;
}

/*
 * Which place somebody has, from 1, among those who wait for one of the meters that he waits for, if calls end in the
 * order in which they began and nobody else comes. Who is called has the first.
 */
int
llmq_line_position(LlmqLine *line, const LlmqPlace *place)
{
	Rivals		rivals = {.place = place};

	if (place->state == LLMQ_PLACE_CALLED)
		return 1;
	find_rivals(line, &rivals);
	return 1 + rivals.before + rivals.called + others_ahead(line, &line->org[place->org], &rivals);
}

/* Changes for which meters somebody waits. */
void
llmq_line_want(LlmqLine *line, int number, const int32 *want, int n)
{
	LlmqPlace  *place = &line->place[number];

	for (int i = 0; i < place->nwants; i++)
	{
		LlmqLineMeter *meter = llmq_line_meter(line, place->want[i]);

		meter->waiting--;
		if (meter->keeper == number + 1)
			meter->keeper = 0;
	}
	place->nwants = Min(n, LLMQ_LINE_WANTS);
	for (int i = 0; i < place->nwants; i++)
	{
		place->want[i] = want[i];
		llmq_line_meter(line, want[i])->waiting++;
	}
}

/* A free place; -1: there is none. */
static int
find_free(LlmqLine *line)
{
	int			number = line->free_from;

	while (number < line->end && line->place[number].state != LLMQ_PLACE_FREE)
		number++;
	line->free_from = number;
	if (number == line->end && line->end < LLMQ_LINE_PLACES)
		line->end++;
	return number < line->end ? number : -1;
}

/* Begins a new line: what was counted when there was one before holds no longer. */
static void
begin(LlmqLine *line)
{
	line->end = 0;
	line->free_from = 0;
	line->norgs = 0;
	line->filling++;
	memset(line->owed, 0, sizeof(line->owed));
}

/*
 * Puts somebody at the end of the line. -1: as many as may wait do so already, in all or of his org.
 */
int
llmq_line_put(LlmqLine *line, const LlmqJoining *joining)
{
	int			waiting = (int) pg_atomic_read_u32(&line->waiting);
	LlmqLineOrg *org;
	LlmqPlace  *place;
	int			number;

	if (waiting == 0)
		begin(line);
	org = make_org(line, joining);
	number = waiting < joining->most && count(org) < joining->most_of_org ? find_free(line) : -1;
	if (number < 0)
		return -1;
	place = &line->place[number];
	*place = joining->place;
	line->secret[number] = place->secret;
	place->state = LLMQ_PLACE_WAITING;
	place->org = org - line->org;
	place->number = ++line->last_number;
	place->nwants = 0;
	org->waiting[place->priority]++;
	line->held += place->latch != NULL;
	llmq_line_want(line, number, joining->place.want, joining->place.nwants);
	pg_atomic_fetch_add_u32(&line->waiting, 1);
	return number;
}

/* Calls somebody: he may try, for as long as that is kept for him. */
void
llmq_line_call(LlmqLine *line, int number, TimestampTz now)
{
	LlmqPlace  *place = &line->place[number];
	LlmqLineOrg *org = &line->org[place->org];

	place->state = LLMQ_PLACE_CALLED;
	place->called_at = now;
	place->org_called_at = org->called_at;
	org->called_at = now;
	org->called++;
	org->waiting[place->priority]--;
}

/* Takes back that somebody was called: he did not come, or has tried in vain, which is no turn of his org. */
void
llmq_line_uncall(LlmqLine *line, int number, bool absent)
{
	LlmqPlace  *place = &line->place[number];
	LlmqLineOrg *org = &line->org[place->org];

	if (place->state != LLMQ_PLACE_CALLED)
		return;
	place->state = LLMQ_PLACE_WAITING;
	place->absent = absent;
	org->called--;
	org->waiting[place->priority]++;
	if (!absent && org->called_at == place->called_at)
		org->called_at = place->org_called_at;
}

/* Takes somebody out of the line. */
void
llmq_line_take_out(LlmqLine *line, int number)
{
	LlmqPlace  *place = &line->place[number];

	/* it was his org's turn, whatever came of it */
	llmq_line_uncall(line, number, true);
	llmq_line_want(line, number, NULL, 0);
	line->org[place->org].waiting[place->priority]--;
	line->held -= place->latch != NULL;
	line->secret[number] = 0;
	place->state = LLMQ_PLACE_FREE;
	line->free_from = Min(line->free_from, number);
	while (line->end > 0 && line->place[line->end - 1].state == LLMQ_PLACE_FREE)
		line->end--;
	pg_atomic_fetch_sub_u32(&line->waiting, 1);
}

/*
 * Sees to those whose time has passed: who did not come within the time that a call is kept is passed over until he
 * asks again, and tickets that nobody has shown for long leave the line. What they had been called for: up to `most`
 * meters, how many.
 */
int
llmq_line_lapse(LlmqLine *line, TimestampTz now, int32 *left, int most)
{
	int			n = 0;

	for (int i = 0; i < line->end; i++)
	{
		LlmqPlace  *place = &line->place[i];
		bool		called = place->state == LLMQ_PLACE_CALLED;

		if (place->state == LLMQ_PLACE_FREE)
			continue;
		if (is_unseen(place, now))
		{
			for (int j = 0; j < place->nwants && n < most; j++)
				left[n++] = place->want[j];
			llmq_line_take_out(line, i);
		}
		else if (called && now - place->called_at >= LLMQ_CALLED_FOR)
		{
			for (int j = 0; j < place->nwants && n < most; j++)
				left[n++] = place->want[j];
			llmq_line_uncall(line, i, true);
		}
	}
	return n;
}
