/*
 * quota.c
 *	  What a call means to the limits of its account: whether it is let in,
 *	  what it is charged, what is made of that at its end.
 *
 * All limits that count the model must let a call in, and then all are charged
 * at once; a refused call charges nothing, unless the account counts refused
 * calls as requests, as some providers do.  Callers hold sim_lock().
 */
#include "simulator.h"

#include <string.h>

bool
sim_quota_counts(const SimQuota *quota, const char *model)
{
	for (size_t i = 0; i < quota->nmodels; i++)
	{
		if (strcmp(quota->models[i], model) == 0)
			return true;
	}
	return quota->nmodels == 0;
}

SimQuota *
sim_quota_by_name(SimAccount *account, const char *name)
{
	for (size_t i = 0; i < account->nquotas; i++)
	{
		if (strcmp(account->quotas[i].name, name) == 0)
			return &account->quotas[i];
	}
	return NULL;
}

bool
sim_is_daily(const SimQuota *quota)
{
	return quota->limit.kind == SIM_DAY;
}

static int64_t
tokens(const SimQuota *quota, const SimCall *call, int64_t output)
{
	int64_t		input = call->input - (quota->counts_cached ? 0 : call->cached);

	if (quota->metric == SIM_TOKENS)
		return input + output;
	return quota->metric == SIM_INPUT_TOKENS ? input : output;
}

/* What a call is charged when it comes. */
int64_t
sim_requested(const SimQuota *quota, const SimCall *call)
{
	if (quota->metric == SIM_REQUESTS || quota->metric == SIM_IN_FLIGHT)
		return 1;
	return tokens(quota, call, quota->output == SIM_PRODUCED ? 0 : call->max_output);
}

/* And what stays of that at its end. */
static int64_t
remains(const SimQuota *quota, const SimCall *call)
{
	if (quota->metric == SIM_REQUESTS || quota->metric == SIM_IN_FLIGHT)
		return quota->metric == SIM_REQUESTS;
	return tokens(quota, call, quota->output == SIM_MAXIMUM ? call->max_output : call->output);
}

/* When the history begins: with the first charge, of periods with the one that it falls in. */
static int64_t
beginning(const SimLimit *limit, int64_t at)
{
	bool		has_periods = limit->kind == SIM_FIXED || (limit->kind == SIM_DAY && limit->length != 0);

	return has_periods ? limit->end - limit->length : at;
}

/* Into the history, and the highest point.  What was charged before the history began is not in it. */
static void
note(SimQuota *quota, int64_t at, int64_t amount)
{
	int64_t		used = sim_limit_used(&quota->limit);
	int64_t		window;

	quota->peak = used > quota->peak ? used : quota->peak;
	if (quota->since == 0 || at < quota->since)
		return;
	quota->admitted += amount;
	window = quota->limit.length != 0 ? (at - quota->since) / quota->limit.length : 0;
	if (window < SIM_MAX_WINDOWS)
		quota->windows[window] += amount;
}

static void
charge(SimCall *call, size_t number, int64_t now, int64_t amount)
{
	SimQuota   *quota = &call->account->quotas[number];

	call->charges[number] = sim_limit_charge(&quota->limit, now, amount);
	call->charged[number] = true;
	if (quota->since == 0)
		quota->since = beginning(&quota->limit, now);
	note(quota, now, amount);
}

/* What must be left: what only counts later is refused when nothing is. */
static int64_t
needed(const SimQuota *quota, const SimCall *call)
{
	int64_t		requested = sim_requested(quota, call);

	return requested > 0 ? requested : 1;
}

static bool
is_refused(SimCall *call, size_t number, int64_t now)
{
	SimQuota   *quota = &call->account->quotas[number];

	sim_limit_advance(&quota->limit, now);
	call->refused[number] = !sim_limit_fits(&quota->limit, needed(quota, call));
	quota->refused += call->refused[number];
	return call->refused[number];
}

/*
 * Count a call; false if it is refused, call->refused says by which.
 */
bool
sim_admit(SimCall *call, int64_t now)
{
	SimAccount *account = call->account;
	bool		admitted = true;

	call->counted = now;
	for (size_t i = 0; i < account->nquotas; i++)
	{
		if (sim_quota_counts(&account->quotas[i], call->model) && is_refused(call, i, now))
			admitted = false;
	}
	for (size_t i = 0; i < account->nquotas; i++)
	{
		SimQuota   *quota = &account->quotas[i];

		if (!sim_quota_counts(quota, call->model))
			continue;
		if (admitted || (account->counts_refused && quota->metric == SIM_REQUESTS))
			charge(call, i, now, sim_requested(quota, call));
	}
	return admitted;
}

/*
 * The end of a call that was counted.
 */
void
sim_settle(SimCall *call, int64_t now)
{
	for (size_t i = 0; call->account != NULL && i < call->account->nquotas; i++)
	{
		SimQuota   *quota = &call->account->quotas[i];
		int64_t		before = call->charges[i].amount;

		if (!call->charged[i])
			continue;
		sim_limit_advance(&quota->limit, now);
		sim_limit_correct(&quota->limit, &call->charges[i], remains(quota, call));
		if (quota->metric != SIM_IN_FLIGHT)
			note(quota, call->counted, remains(quota, call) - before);
		call->charged[i] = false;
	}
}

static bool
tighter(const SimQuota *quota, const SimQuota *other)
{
	if (other == NULL)
		return true;
	return (double) sim_limit_left(&quota->limit) / (quota->limit.amount + 1) <
		(double) sim_limit_left(&other->limit) / (other->limit.amount + 1);
}

/*
 * Of the quotas of a metric, by the day or not, that count a call: the one
 * with the smallest share left.  NULL if there is none.
 */
const SimQuota *
sim_tightest(const SimCall *call, SimMetric metric, bool daily)
{
	const SimQuota *tightest = NULL;

	for (size_t i = 0; i < call->account->nquotas; i++)
	{
		SimQuota   *quota = &call->account->quotas[i];

		if (quota->metric != metric || sim_is_daily(quota) != daily || !sim_quota_counts(quota, call->model))
			continue;
		sim_limit_advance(&quota->limit, sim_now());
		if (tighter(quota, tightest))
			tightest = quota;
	}
	return tightest;
}

/*
 * Of the quotas that refused a call, the one that is the last to yield, and in
 * how many microseconds that will be, or SIM_NEVER.  NULL if none did.
 */
const SimQuota *
sim_refusing(const SimCall *call, int64_t *wait)
{
	const SimQuota *last = NULL;

	*wait = -1;
	for (size_t i = 0; call->account != NULL && i < call->account->nquotas; i++)
	{
		const SimQuota *quota = &call->account->quotas[i];
		int64_t		this_wait;

		if (!call->refused[i])
			continue;
		this_wait = sim_limit_wait(&quota->limit, call->counted, needed(quota, call));
		if (this_wait <= *wait)
			continue;
		*wait = this_wait;
		last = quota;
	}
	return last;
}

/*
 * The same for a call that was told to be refused: then the tightest limit of
 * requests is blamed, or nothing if there is none, for a second.
 */
const SimQuota *
sim_blamed(const SimCall *call, int64_t *wait)
{
	const SimQuota *quota = sim_refusing(call, wait);

	if (quota != NULL)
		return quota;
	*wait = 1000000;
	quota = sim_tightest(call, SIM_REQUESTS, false);
	return quota != NULL ? quota : sim_tightest(call, SIM_REQUESTS, true);
}

/* History and highest points begin anew, as of the next call. */
void
sim_restart_history(SimAccount *account)
{
	for (size_t i = 0; i < account->nquotas; i++)
	{
		SimQuota   *quota = &account->quotas[i];

		quota->peak = quota->admitted = quota->refused = quota->since = 0;
		memset(quota->windows, 0, sizeof(quota->windows));
	}
	json_object_clear(account->answered);
}
