/*
 * strategy.c
 *	  In which order a pick tries what it may choose from: the models of a step, and the keys of a tier.
 *
 * least_used compares the keys of a tier by their headroom: all of up to 16; in a larger tier two chosen at random
 * ("the power of two choices", Mitzenmacher 2001), and when both refuse all others, from a place that moves, so that a
 * refusal is only given when every candidate was read or is remembered as full. The other strategies say which one to
 * ask first, and ask on in their order while candidates refuse; after 16 of them any other that admits will do.
 *
 * A session has its key by rendezvous hashing (Thaler and Ravishankar 1998): every account, and then every key of it,
 * gets a number from the session's name and its own, and the smallest is tried first. So nothing is stored, whoever is
 * out of service loses its own sessions only, and gets them back. The account comes first because it is what providers
 * keep caches of prompts for. Names are those of the first day, so that a rename moves nobody.
 *
 * Nothing is locked here but the page of the tickets, for a moment (turn.c).
 */
#include "postgres.h"

#include <math.h>

#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "miscadmin.h"

#include "pick.h"
#include "pace.h"
#include "turn.h"

#define COMPARE_ALL 16
#define CHOICES 2

/* How many candidates are asked in the order of the strategy. */
#define MAX_ASKED 16

/* So much slower than the fastest is as fast as it: calls are not all sent to one account for a millisecond. */
#define AS_FAST 1.25

/* How long this backend goes by a latency that it has read, in microseconds. */
#define LATENCY_AGE 10000

/* Stands for a weight of 0: after all others. */
#define NO_WEIGHT 1e-12

/* The best of all active candidates, asked from a random place on; the first that admits, if `first` is enough. */
static LlmqKey *
best_of_all(LlmqPick *pick, LlmqTier *tier, bool first)
{
	LlmqKey    *best = NULL;
	double		best_headroom = -1;
	int			at;

	if (tier->nactive == 0)
		return NULL;
	at = (int) pg_prng_uint64_range(&pg_global_prng_state, 0, tier->nactive - 1);
	for (int left = tier->nactive; left > 0 && tier->nactive > 0; left--)
	{
		double		headroom;
		bool		gone;

		at = at % tier->nactive;
		headroom = llmq_ask(pick, tier, at, &gone);
		if (headroom > best_headroom)
		{
			best = tier->candidate[at].key;
			best_headroom = headroom;
			if (first)
				break;
		}
		if (!gone)
			at++;
		if ((left & 0xff) == 0)
			CHECK_FOR_INTERRUPTS();
	}
	return best;
}

/* The better of two chosen at random; NULL when both refuse. */
static LlmqKey *
best_of_two(LlmqPick *pick, LlmqTier *tier)
{
	LlmqKey    *best = NULL;
	double		best_headroom = -1;

	for (int i = 0; i < CHOICES && tier->nactive > 0; i++)
	{
		int			at = (int) pg_prng_uint64_range(&pg_global_prng_state, 0, tier->nactive - 1);
		LlmqKey    *key = tier->candidate[at].key;
		bool		gone;
		double		headroom = llmq_ask(pick, tier, at, &gone);

		if (headroom > best_headroom)
		{
			best = key;
			best_headroom = headroom;
		}
	}
	return best;
}

/* The key of a tier with the most room, of some; it admits the request, as far as a look tells. NULL: none does. */
LlmqKey *
llmq_least_used_key(LlmqPick *pick, LlmqTier *tier)
{
	LlmqKey    *key;

	if (tier->n <= COMPARE_ALL)
		return best_of_all(pick, tier, false);
	key = best_of_two(pick, tier);
	return key != NULL ? key : best_of_all(pick, tier, true);
}

/* Has this pick asked it already? */
static bool
asked(const LlmqPick *pick, const LlmqCandidate *candidate)
{
	return candidate->key->refused_in == pick->number;
}

/* A number above 0 that is smaller the larger the weight, from one that is random, or looks so. */
static double
lot(uint64 random, int32 weight)
{
	double		fraction = ((random >> 11) + 1) * (1.0 / (UINT64CONST(1) << 53));

	return (1e-9 - log(fraction)) / (weight > 0 ? weight : NO_WEIGHT);
}

/* The candidate to ask next, of those that have not been asked; -1 when there is none. One for each strategy. */
typedef int (*Chooser) (LlmqPick *pick, LlmqTier *tier);

/* Each with the probability that its weight is of the sum. */
static int
next_by_weight(LlmqPick *pick, LlmqTier *tier)
{
	int64		sum = 0;
	int			last = -1;

	for (int i = 0; i < tier->nactive; i++)
		if (!asked(pick, &tier->candidate[i]))
			sum += tier->candidate[i].key->weight;
	if (sum > 0)
		sum = (int64) pg_prng_uint64_range(&pg_global_prng_state, 1, sum);
	for (int i = 0; i < tier->nactive; i++)
	{
		if (asked(pick, &tier->candidate[i]))
			continue;
		last = i;
		sum -= tier->candidate[i].key->weight;
		if (sum <= 0)
			break;
	}
	return last;
}

/* In the configured order, from the one whose turn it is. */
static int
next_in_order(LlmqPick *pick, LlmqTier *tier)
{
	int			best = -1;
	int			best_distance = tier->n;

	for (int i = 0; i < tier->nactive; i++)
	{
		const LlmqCandidate *candidate = &tier->candidate[i];
		int			distance = candidate->rank - tier->turn;

		if (distance < 0)
			distance += tier->n;
		if (distance < best_distance && !asked(pick, candidate))
		{
			best = i;
			best_distance = distance;
		}
	}
	return best;
}

/* What stands for a session now: another number after each of its times to live, which do not all begin together. */
static uint64
session_number(const LlmqPick *pick)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) pick->session, strlen(pick->session), 0);
	int64		ttl = pick->route->option->session_ttl;
	int64		period = ttl == 0 ? 0 : (pick->now + (int64) (hash % (uint64) ttl)) / ttl;

	return hash_combine64(hash, hash_bytes_uint32_extended((uint32) period, 0));
}

static double
session_lot(uint64 session, const LlmqNameRef *ref, int32 weight)
{
	return lot(hash_bytes_extended((const unsigned char *) ref->name, strlen(ref->name), session), weight);
}

/* That of the session: first by account, then by key. */
static int
next_of_session(LlmqPick *pick, LlmqTier *tier)
{
	uint64		session = session_number(pick);
	int			best = -1;
	double		best_account = 0;
	double		best_key = 0;

	for (int i = 0; i < tier->nactive; i++)
	{
		const LlmqCandidate *candidate = &tier->candidate[i];
		LlmqKey    *key = candidate->key;
		double		account = session_lot(session, &key->account->subject.ref, candidate->account_weight);
		double		by_key;

		if (asked(pick, candidate) || (best >= 0 && account > best_account))
			continue;
		by_key = session_lot(session, &key->subject.ref, key->weight);
		if (best >= 0 && account == best_account && by_key >= best_key)
			continue;
		best = i;
		best_account = account;
		best_key = by_key;
	}
	return best;
}

/* The mean duration of calls with a candidate, in microseconds; 0 when it is not known. */
static int64
latency(LlmqPick *pick, const LlmqCandidate *candidate)
{
	return llmq_pace(&pick->live, candidate->key->account, pick->model, pick->now, LATENCY_AGE)->latency;
}

/* Notes which candidates are compared by their latency: all that were not asked, or some of many. */
static int
sample(LlmqPick *pick, LlmqTier *tier, int found[COMPARE_ALL])
{
	int			n = 0;
	bool		all = tier->nactive <= COMPARE_ALL;

	for (int i = 0; i < Min(tier->nactive, COMPARE_ALL); i++)
	{
		int			at = all ? i : (int) pg_prng_uint64_range(&pg_global_prng_state, 0, tier->nactive - 1);

		if (!asked(pick, &tier->candidate[at]))
			found[n++] = at;
	}
	return n;
}

/* One at random of the fastest, and of those nobody knows anything of; when the pick explores, of all. */
static int
next_by_latency(LlmqPick *pick, LlmqTier *tier)
{
	int			found[COMPARE_ALL];
	int			n = sample(pick, tier, found);
	double		fastest = 0;
	int			as_fast = 0;

	if (n == 0)
		return -1;
	for (int i = 0; i < n; i++)
	{
		int64		known = latency(pick, &tier->candidate[found[i]]);

		if (known > 0 && (fastest == 0 || known < fastest))
			fastest = known;
	}
	for (int i = 0; i < n; i++)
		if (tier->exploring || latency(pick, &tier->candidate[found[i]]) <= fastest * AS_FAST)
			found[as_fast++] = found[i];
	return found[pg_prng_uint64_range(&pg_global_prng_state, 0, as_fast - 1)];
}

/* Asks candidates in the order of a strategy until one admits the request. */
static LlmqKey *
first_in_order(LlmqPick *pick, LlmqTier *tier, Chooser next)
{
	for (int i = 0; i < MAX_ASKED; i++)
	{
		int			at = next(pick, tier);
		LlmqKey    *key;
		bool		gone;

		if (at < 0)
			break;
		key = tier->candidate[at].key;
		if (llmq_ask(pick, tier, at, &gone) >= 0)
			return key;
		key->refused_in = pick->number;
	}
	return best_of_all(pick, tier, true);
}

/* The next ticket among the keys of a tier, or the models of a step: its number modulo `n`. */
static int64
take_ticket(LlmqPick *pick, bool own, LlmqModel *model, int place, int64 n)
{
	int32		max_names = pick->catalog->settings.max_subjects;
	LlmqTurnKey key = {
		.route = llmq_name_id(&pick->route->ref, max_names),
		.model = model == NULL ? 0 : llmq_name_id(&model->ref, max_names),
		.place = place * 2 + own,
	};

	if (own || pick->route->own)
		key.org = llmq_subject_id(pick->catalog, &pick->org->subject);
	return llmq_turn_take(&pick->live, &key) % n;
}

/* What is settled once in a pick: whose turn it is, and whether it explores. */
static void
begin(LlmqPick *pick, LlmqTier *tier)
{
	const LlmqRouteOption *option = pick->route->option;

	if (tier->begun_in == pick->number)
		return;
	tier->begun_in = pick->number;
	tier->turn = 0;
	llmq_tier_rank(tier);
	if (option->strategy == LLMQ_ROUND_ROBIN && tier->n > 1)
		tier->turn = take_ticket(pick, tier->own, pick->model, tier->place, tier->n);
	tier->exploring = option->strategy == LLMQ_LOWEST_LATENCY &&
		pg_prng_double(&pg_global_prng_state) < option->explore;
}

/* The key of a tier that a pick tries next by its route's strategy; likewise. */
LlmqKey *
llmq_strategy_key(LlmqPick *pick, LlmqTier *tier)
{
	static const Chooser choosers[] = {
		[LLMQ_WEIGHTED] = next_by_weight,
		[LLMQ_ROUND_ROBIN] = next_in_order,
		[LLMQ_LOWEST_LATENCY] = next_by_latency,
		[LLMQ_CHEAPEST] = next_in_order,
		[LLMQ_STICKY] = next_of_session,
	};
	LlmqStrategy strategy = pick->route->option->strategy;

	if (strategy == LLMQ_LEAST_USED || (strategy == LLMQ_STICKY && pick->session == NULL))
		return llmq_least_used_key(pick, tier);
	begin(pick, tier);
	return first_in_order(pick, tier, choosers[strategy]);
}

/* A model of a step, and its place among the others: the smallest first. */
typedef struct Place
{
	double		place;
	LlmqChoice	choice;
} Place;

static int
compare_places(const void *a, const void *b)
{
	double		left = ((const Place *) a)->place;
	double		right = ((const Place *) b)->place;

	return left < right ? -1 : left > right ? 1 : 0;
}

/* The smallest latency of some of a model's candidates. */
static double
model_latency(LlmqPick *pick, LlmqModel *model)
{
	LlmqPool   *pool = NULL;
	double		fastest = 0;

	pick->model = model;
	if (pick->org->owns_accounts)
		pool = llmq_pool(pick->catalog, model, pick->org->subject.name);
	if (pool == NULL || pool->ntiers == 0)
		pool = llmq_pool(pick->catalog, model, NULL);
	for (int i = 0; pool->ntiers > 0 && i < Min(pool->tier[0].n, COMPARE_ALL); i++)
	{
		int64		known = latency(pick, &pool->tier[0].candidate[i]);

		if (known > 0 && (fastest == 0 || known < fastest))
			fastest = known;
	}
	return fastest;
}

/* Gives each model of a step a place by chance: its weight is its share of the first places. */
static void
place_by_weight(Place *places, int n, uint64 session)
{
	for (int i = 0; i < n; i++)
	{
		const LlmqChoice *choice = &places[i].choice;

		places[i].place = session == 0 ? lot(pg_prng_uint64(&pg_global_prng_state), choice->weight) :
			session_lot(session, &choice->model->ref, choice->weight);
	}
}

/* Places models by their latency; those as fast as the fastest, or not known, by their weights before others. */
static void
place_by_latency(LlmqPick *pick, Place *places, int n)
{
	double		fastest = 0;

	for (int i = 0; i < n; i++)
	{
		places[i].place = model_latency(pick, places[i].choice.model);
		if (places[i].place > 0 && (fastest == 0 || places[i].place < fastest))
			fastest = places[i].place;
	}
	for (int i = 0; i < n; i++)
		if (places[i].place <= fastest * AS_FAST)
			places[i].place = -1 / (1 + lot(pg_prng_uint64(&pg_global_prng_state), places[i].choice.weight));
}

/* Begins with the model whose turn it is: each has as many in a row as its weight says. */
static void
place_by_turn(LlmqPick *pick, Place *places, int n, int step)
{
	int64		sum = 0;
	int64		ticket;
	int			first = 0;

	for (int i = 0; i < n; i++)
		sum += places[i].choice.weight;
	ticket = take_ticket(pick, false, NULL, step, sum > 0 ? sum : n);
	if (sum == 0)
		first = (int) ticket;
	else
		while (ticket >= places[first].choice.weight)
			ticket -= places[first++].choice.weight;
	for (int i = 0; i < n; i++)
		places[i].place = (i - first + n) % n;
}

/* The enabled models of a step in the order in which the pick tries them, `n` of them, allocated. */
LlmqChoice *
llmq_strategy_order(LlmqPick *pick, int number, int *n)
{
	const LlmqRouteOption *option = pick->route->option;
	const LlmqStep *step = &pick->route->step[number];
	Place	   *places = palloc0(sizeof(Place) * step->nchoices);
	LlmqChoice *order = palloc(sizeof(LlmqChoice) * step->nchoices);

	*n = 0;
	for (int i = 0; i < step->nchoices; i++)
		if (step->choice[i].model->enabled)
			places[(*n)++].choice = step->choice[i];
	if (*n > 1 && option->strategy == LLMQ_ROUND_ROBIN)
		place_by_turn(pick, places, *n, number);
	else if (option->strategy == LLMQ_STICKY && pick->session != NULL)
		place_by_weight(places, *n, session_number(pick));
	else if (option->strategy == LLMQ_LOWEST_LATENCY && pg_prng_double(&pg_global_prng_state) >= option->explore)
		place_by_latency(pick, places, *n);
	else if (option->strategy == LLMQ_CHEAPEST)
		for (int i = 0; i < *n; i++)
			places[i].place = i;
	else
		place_by_weight(places, *n, 0);
	qsort(places, *n, sizeof(Place), compare_places);
	for (int i = 0; i < *n; i++)
		order[i] = places[i].choice;
	pfree(places);
	return order;
}
