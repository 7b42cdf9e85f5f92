/*
 * choose.c
 *	  Which candidate a pick tries: steps, models, owners, tiers, and in each tier the key that strategy.c names.
 *
 * Everything here looks at copies of meters and locks nothing; llmq_grant() looks again under the locks and may say no,
 * and then the next best is tried. What is in trouble (avoid.c) is not asked. Accounts are asked before their keys,
 * once in a pick: a full account excludes all its keys.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "pick.h"
#include "wait.h"

/* A tier of up to so many keys is small: none of them is remembered as full. */
#define SMALL_TIER 16

/*
 * How long a full meter is not asked again, at most: capacity can come back early, when calls are released or turn out
 * smaller. Rounded to a tenth so that many return together and the list is searched seldom.
 */
#define REMEMBER_FULL INT64CONST(1000000)
#define RETURN_STEP INT64CONST(100000)

/* How long this backend goes by how long calls took, in microseconds: it says for how long to wait for an answer. */
#define PACE_AGE INT64CONST(1000000)

/* How often the second look may refuse what the first admitted, before the pick gives up on a tier. */
#define MAX_GRANT_ATTEMPTS 64

/* Does the caller not want this key for the model being tried, or has a failed attempt shown that it will not do? */
bool
llmq_excluded(const LlmqPick *pick, const LlmqKey *key)
{
	for (int i = 0; i < pick->nexclude; i++)
	{
		const char *name = pick->exclude[i];

		if (strcmp(name, key->subject.name) == 0 || strcmp(name, key->account->subject.name) == 0 ||
			strcmp(name, pick->model->name) == 0)
			return true;
	}
	return llmq_history_bars(pick, key);
}

/* Asks an account's meters, once in a pick; the answer is kept with it. */
static const LlmqVerdict *
ask_account(LlmqPick *pick, LlmqAccount *account)
{
	LlmqMeters *meters;

	if (account->verdict == NULL)
		account->verdict = MemoryContextAlloc(account->subject.context, sizeof(LlmqVerdict));
	if (account->looked_in == pick->number)
		return account->verdict;

	llmq_verdict_init(account->verdict);
	account->looked_in = pick->number;
	meters = llmq_plan_meters(pick->catalog, &account->subject, pick->model);
	llmq_limits_apply(&pick->live, meters, account);
	if (!llmq_look(pick, meters, account->verdict))
		llmq_refusal_note(pick, account->verdict);
	return account->verdict;
}

/*
 * Puts a full candidate at the end of the tier, where it is not asked for a while; one in trouble until that ends, for
 * the boards' version says when it ends before.
 */
static void
remember_full(const LlmqPick *pick, LlmqTier *tier, int index, const LlmqVerdict *verdict)
{
	LlmqCandidate candidate = tier->candidate[index];
	bool		first = tier->nactive == tier->n;
	bool		in_trouble = verdict->cause.kind != LLMQ_TROUBLE_NONE;
	int64		until = in_trouble ? verdict->when : Min(verdict->when, pick->now + REMEMBER_FULL);

	candidate.full_until = (until / RETURN_STEP + 1) * RETURN_STEP;
	tier->nactive--;
	tier->candidate[index] = tier->candidate[tier->nactive];
	tier->candidate[tier->nactive] = candidate;
	if (first || candidate.full_until < tier->next_return)
		tier->next_return = candidate.full_until;
	if (first || tier->soonest.when <= pick->now || verdict->when < tier->soonest.when)
		tier->soonest = *verdict;
}

/*
 * Brings back the candidates that are to be asked again; all of them when troubles have come or gone, and for who
 * waits: something has come back to one of them.
 */
static void
recall(const LlmqPick *pick, LlmqTier *tier)
{
	int64		now = pick->now;
	int64		next = PG_INT64_MAX;

	if (tier->health_version != llmq_health_version() || pick->waiting_since != 0)
	{
		tier->health_version = llmq_health_version();
		tier->nactive = tier->n;
	}
	if (tier->nactive == tier->n || now < tier->next_return)
		return;
	for (int i = tier->nactive; i < tier->n; i++)
	{
		LlmqCandidate candidate = tier->candidate[i];

		if (candidate.full_until > now)
		{
			next = Min(next, candidate.full_until);
			continue;
		}
		tier->candidate[i] = tier->candidate[tier->nactive];
		tier->candidate[tier->nactive++] = candidate;
	}
	tier->next_return = next;
}

/* When to ask again for what nobody knows the end of: somebody has to enable it. Microseconds. */
#define RETRY_DISABLED INT64CONST(30000000)

/* What a trouble says to the request. */
static void
refuse_for_trouble(const LlmqPick *pick, const LlmqAvoid *avoid, LlmqVerdict *verdict)
{
	verdict->admitted = false;
	verdict->full = true;
	verdict->cause = avoid->cause;
	verdict->when = avoid->until == PG_INT64_MAX ? pick->now + RETRY_DISABLED : avoid->until;
}

/* What troubles, and then the meters of account and key, say to the request; headroom is that of the tightest. */
static bool
admits(LlmqPick *pick, LlmqKey *key, LlmqVerdict *verdict)
{
	const LlmqVerdict *account;
	LlmqAvoid	avoid;

	llmq_verdict_init(verdict);
	if (llmq_history_waits(pick, verdict))
	{
		llmq_refusal_note(pick, verdict);
		return false;
	}
	if (llmq_avoid(key, pick->model, pick->now, &avoid))
	{
		refuse_for_trouble(pick, &avoid, verdict);
		llmq_refusal_note(pick, verdict);
		return false;
	}
	account = ask_account(pick, key->account);
	if (!account->admitted)
	{
		*verdict = *account;
		return false;
	}
	if (!llmq_look(pick, llmq_plan_meters(pick->catalog, &key->subject, pick->model), verdict))
	{
		llmq_refusal_note(pick, verdict);
		return false;
	}
	verdict->headroom = Min(verdict->headroom, account->headroom);
	return true;
}

/*
 * Asks one candidate: its headroom, or -1 when it refuses or is excluded. `*gone` says that it was put among the full
 * ones, so that another candidate has its place now.
 */
double
llmq_ask(LlmqPick *pick, LlmqTier *tier, int index, bool *gone)
{
	LlmqKey    *key = tier->candidate[index].key;
	LlmqVerdict verdict;

	*gone = false;
	pick->any_key = true;
	if ((pick->nexclude > 0 || pick->retry != NULL) && llmq_excluded(pick, key))
		return -1;
	pick->any_candidate = true;
	if (admits(pick, key, &verdict))
		return key->refused_in == pick->number ? -1 : verdict.headroom;
	if (verdict.full && tier->n > SMALL_TIER)
	{
		remember_full(pick, tier, index, &verdict);
		*gone = true;
	}
	return -1;
}

/* The key of a tier to try next; whichever admits, when it is only looked for: nobody takes a turn for that. */
static LlmqKey *
next_key(LlmqPick *pick, LlmqTier *tier, bool only_look)
{
	LlmqKey    *key;

	recall(pick, tier);
	key = only_look ? llmq_least_used_key(pick, tier) : llmq_strategy_key(pick, tier);
	if (key == NULL && tier->nactive < tier->n)
	{
		pick->any_key = pick->any_candidate = true;
		llmq_refusal_note(pick, &tier->soonest);
	}
	return key;
}

/* Remembers, for this pick, that the second look refused what the first had admitted. */
static void
note_second_refusal(LlmqPick *pick, LlmqKey *key, const LlmqVerdict *verdict)
{
	pick->common_refused = verdict->common;
	if (verdict->meter->subject->scope == LLMQ_SCOPE_ACCOUNT)
		*key->account->verdict = *verdict;
	else
		key->refused_in = pick->number;
	llmq_refusal_note(pick, verdict);
}

/* Grants on this key, which looks as if it admitted the request. */
static LlmqGrant
grant(LlmqPick *pick, LlmqKey *key)
{
	LlmqVerdict verdict;
	LlmqAvoid	avoid;
	LlmqGrant	done;

	if (llmq_avoid(key, pick->model, pick->now, &avoid) || !llmq_probes_claim(pick, &avoid))
	{
		key->refused_in = pick->number;
		return LLMQ_GRANT_REFUSED;
	}
	pick->pace = llmq_pace(&pick->live, key->account, pick->model, pick->now, PACE_AGE);
	/* a probe is one call */
	done = llmq_grant(pick, key, avoid.nprobes > 0 ? 1 : Max(pick->nbatch, 1), &verdict);
	if (done == LLMQ_GRANT_REFUSED)
		note_second_refusal(pick, key, &verdict);
	if (done != LLMQ_GRANT_DONE)
		llmq_probes_give_back(pick, &avoid, avoid.nprobes);
	return done;
}

/* Tries the keys of a tier, the least used first, until one is granted or none is left. */
static bool
try_tier(LlmqPick *pick, LlmqTier *tier)
{
	for (int attempt = 0; attempt < MAX_GRANT_ATTEMPTS && !pick->common_refused; attempt++)
	{
		LlmqKey    *key = next_key(pick, tier, false);
		LlmqGrant	done;

		if (key == NULL)
			return false;
		done = grant(pick, key);
		if (done == LLMQ_GRANT_REFUSED)
			continue;
		pick->downgrade.outdated = done == LLMQ_GRANT_DOWNGRADE;
		pick->no_slot = done == LLMQ_GRANT_NO_SLOT || done == LLMQ_GRANT_EXHAUSTED;
		return done == LLMQ_GRANT_DONE;
	}
	return false;
}

/* Is there no use in trying other keys of the model? */
static bool
is_over(const LlmqPick *pick)
{
	return pick->no_slot || pick->common_refused || pick->downgrade.outdated;
}

/* Tries the tiers of one owner's accounts; with `only_look` says whether some key admits the request. */
static bool
try_pool(LlmqPick *pick, const char *owner, bool only_look)
{
	LlmqPool   *pool = llmq_pool(pick->catalog, pick->model, owner);

	for (int i = 0; i < pool->ntiers && !is_over(pick); i++)
		if (only_look ? next_key(pick, &pool->tier[i], true) != NULL : try_tier(pick, &pool->tier[i]))
			return true;
	return false;
}

/* Tries the org's own accounts, then the shared ones. */
static bool
try_pools(LlmqPick *pick, bool only_look)
{
	if (pick->org->owns_accounts && try_pool(pick, pick->org->subject.name, only_look))
		return true;
	return pick->org->shared_keys && !is_over(pick) && try_pool(pick, NULL, only_look);
}

/* May the meter refuse, because little is left, or because others wait for it? */
static bool
is_worth_a_look(const LlmqPick *pick, const LlmqMeter *meter)
{
	return llmq_meter_is_tight(meter, pick->now) || llmq_line_bars(pick, meter->id);
}

/*
 * Asks the limits that hold whatever the key: those of everybody, the provider and the org. They are the pages that
 * most picks change, and there is nothing to choose between, so they are only looked at when one may refuse.
 */
static bool
common_limits_admit(LlmqPick *pick, LlmqVerdict *verdict)
{
	LlmqSubject *subjects[LLMQ_COMMON_SUBJECTS];
	int			n = llmq_common_subjects(pick, pick->model, subjects);
	LlmqMeters *meters[LLMQ_COMMON_SUBJECTS];
	bool		tight = false;

	llmq_verdict_init(verdict);
	for (int i = 0; i < n; i++)
	{
		meters[i] = llmq_plan_meters(pick->catalog, subjects[i], pick->model);
		for (int j = 0; j < meters[i]->n; j++)
			tight |= is_worth_a_look(pick, meters[i]->meter[j]);
	}
	for (int i = 0; tight && i < n; i++)
		llmq_look(pick, meters[i], verdict);
	return verdict->admitted;
}

/* The number of the last model tried: never used twice, also when a pick ends with an error. */
static uint64 last_number = 0;

/*
 * Tries one model once, or only looks whether it could be called. When a common limit refuses, the keys are only looked
 * at: each of them would be refused until the later of the common limit's and its own time.
 */
static bool
try_model_once(LlmqPick *pick, bool only_look)
{
	LlmqVerdict common;

	llmq_verdict_init(&pick->refusal);
	pick->common_refused = false;
	pick->now = GetCurrentTimestamp();
	pick->number = ++last_number;
	if (common_limits_admit(pick, &common))
		return try_pools(pick, only_look);
	llmq_want_note(pick, &common);
	pick->downgrade.outdated = common.outdated;
	if (common.outdated)
		return false;
	if (try_pools(pick, true) || pick->refusal.admitted || pick->refusal.when < common.when)
		pick->refusal = common;
	return false;
}

/*
 * Tries one model. A common limit that nobody had looked at may refuse under the lock: then it has become tight, and
 * the model is tried again with a look.
 */
static bool
try_model(LlmqPick *pick)
{
	bool		granted = false;

	llmq_set_demand(pick);
	pick->common_refused = true;
	for (int attempt = 0; attempt < MAX_GRANT_ATTEMPTS && !granted && pick->common_refused; attempt++)
		granted = try_model_once(pick, false);
	return granted;
}

/*
 * Where no key serves any model that budgets have answer: finds out what there is to say of the model that was asked
 * for. When only the budget keeps it from being called, nothing refuses.
 */
static void
look_at_requested(LlmqPick *pick)
{
	pick->model = pick->downgrade.requested;
	llmq_set_demand(pick);
	(void) try_model_once(pick, true);
}

/* Of what has refused so far, the refusal that ends first is kept. */
static void
keep_soonest(const LlmqPick *pick, LlmqVerdict *soonest)
{
	if (!pick->refusal.admitted && (soonest->admitted || pick->refusal.when < soonest->when))
		*soonest = pick->refusal;
}

/*
 * Tries a model, or what budgets have answer in its place; `soonest` is of what has refused so far, the refusal that
 * ends first.
 */
static bool
try_answers(LlmqPick *pick, LlmqModel *model, LlmqVerdict *soonest)
{
	LlmqModel  *answer = llmq_downgrade(pick, model);
	bool		granted = false;

	while (answer != NULL && !granted && !pick->no_slot && !pick->downgrade.outdated)
	{
		pick->model = answer;
		granted = try_model(pick);
		keep_soonest(pick, soonest);
		answer = granted ? NULL : llmq_downgrade_next(pick);
	}
	if (!granted && !pick->any_key && !pick->downgrade.outdated && pick->downgrade.requested != NULL)
	{
		look_at_requested(pick);
		keep_soonest(pick, soonest);
	}
	return granted;
}

/* Tries one model of a step. Where under the lock a budget turns out to have reached another step, all begins anew. */
static bool
try_choice(LlmqPick *pick, const LlmqChoice *choice, LlmqVerdict *soonest)
{
	bool		granted = false;

	if (!choice->model->enabled)
		return false;
	for (int attempt = 0; attempt < MAX_GRANT_ATTEMPTS && !granted; attempt++)
	{
		granted = try_answers(pick, choice->model, soonest);
		if (!pick->downgrade.outdated)
			break;
	}
	return granted;
}

/* Tries the models of a step. */
static bool
try_step(LlmqPick *pick, int number, LlmqVerdict *soonest)
{
	const LlmqStep *step = &pick->route->step[number];
	LlmqChoice *order;
	bool		granted = false;
	int			n;

	if (step->nchoices == 1)
		return try_choice(pick, step->choice, soonest);
	order = llmq_strategy_order(pick, number, &n);
	for (int i = 0; i < n && !granted && !pick->no_slot; i++)
		granted = try_choice(pick, &order[i], soonest);
	pfree(order);
	return granted;
}

/* Tries the steps of the route in their order: one is left only when all its candidates refuse. */
static bool
try_steps(LlmqPick *pick, LlmqVerdict *soonest)
{
	bool		granted = false;

	for (int i = 0; i < pick->route->nsteps && !granted && !pick->no_slot; i++)
		granted = try_step(pick, i, soonest);
	return granted;
}

/* Chooses and grants. True when a lease was granted; otherwise the pick says why not. */
bool
llmq_choose(LlmqPick *pick)
{
	LlmqVerdict soonest;
	bool		granted = false;

	llmq_verdict_init(&soonest);
	granted = try_steps(pick, &soonest);
	if (!granted && !pick->no_slot && llmq_history_same_model(pick))
		granted = try_steps(pick, &soonest);
	pick->refusal = soonest;
	return granted;
}
