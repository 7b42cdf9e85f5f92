/*
 * config.c
 *	  The accounts: who may call, what is enforced.  README.md has the members.
 *
 * Callers hold sim_lock().  A configuration that is replaced is kept, because
 * calls in flight point into it.  Texts stay where jansson has them.
 */
#include "simulator.h"

#include <stdlib.h>
#include <string.h>

typedef struct SimConfig
{
	struct SimConfig *previous;
	size_t		count;
	SimAccount *accounts;
} SimConfig;

static SimConfig *config = NULL;

static int
choice(const char *text, const char *const *names)
{
	for (int i = 0; names[i] != NULL; i++)
	{
		if (strcmp(text, names[i]) == 0)
			return i;
	}
	return -1;
}

SimAccount *
sim_account(size_t number)
{
	return config != NULL && number < config->count ? &config->accounts[number] : NULL;
}

SimAccount *
sim_account_by_name(const char *name)
{
	SimAccount *account;

	for (size_t i = 0; (account = sim_account(i)) != NULL; i++)
	{
		if (strcmp(account->name, name) == 0)
			return account;
	}
	return NULL;
}

/* Sets account and key of whoever brings a secret. */
bool
sim_find_key(SimCall *call, const char *secret)
{
	SimAccount *account;

	for (size_t i = 0; (account = sim_account(i)) != NULL; i++)
	{
		for (size_t j = 0; j < account->nkeys; j++)
		{
			if (strcmp(account->keys[j].secret, secret) != 0)
				continue;
			call->account = account;
			call->key = &account->keys[j];
			return true;
		}
	}
	return false;
}

/* From and to, in milliseconds: [from, to], or one number for both. */
static void
read_span(const json_t *value, int64_t span[2])
{
	for (int i = 0; i < 2 && value != NULL; i++)
	{
		const json_t *number = json_is_array(value) ? json_array_get(value, i) : value;

		span[i] = (int64_t) (json_number_value(number) * 1000);
	}
}

static char *
read_limit(const json_t *row, const char *kind, SimLimit *limit)
{
	static const char *const kinds[] = {"bucket", "sliding", "fixed", "day", "concurrency", NULL};
	int			which = choice(kind, kinds);
	int64_t		now = sim_now();
	const json_t *ends = json_object_get(row, "ends_in_ms");
	const json_t *burst = json_object_get(row, "burst");
	const json_t *length = json_object_get(row, "length_ms");
	const json_t *zone = json_object_get(row, "zone");

	if (which < 0)
		return sim_format("unknown kind of limit: %s", kind);
	limit->kind = which;
	limit->amount = json_integer_value(json_object_get(row, "amount"));
	limit->burst = burst ? json_integer_value(burst) : limit->amount;
	limit->zone = zone ? json_string_value(zone) : "UTC";
	if (which != SIM_CONCURRENCY)
		limit->length = length ? json_integer_value(length) * 1000 : which == SIM_DAY ? 0 : 60000000;
	if (ends != NULL)
		limit->end = now + json_integer_value(ends) * 1000;
	if (limit->kind == SIM_BUCKET && limit->length <= 0)
		return sim_format("a limit needs a length");
	sim_limit_init(limit, now);
	return NULL;
}

static const char *
default_name(const json_t *row, const char *metric, const char *kind)
{
	char	   *name = sim_format("%s/%s", metric, kind);

	json_object_set_new((json_t *) row, "name", json_string(name));
	free(name);
	return json_string_value(json_object_get(row, "name"));
}

static char *
read_quota(const json_t *row, SimQuota *quota)
{
	static const char *const metrics[] = {"requests", "input_tokens", "output_tokens", "tokens", "concurrency", NULL};
	static const char *const outputs[] = {"corrected", "maximum", "produced", NULL};
	const char *metric = "requests",
			   *kind = "sliding",
			   *output = "corrected",
			   *name = NULL;
	json_t	   *models = NULL,
			   *amount,
			   *value;
	int			counts_cached = 1;
	size_t		index;

	if (json_unpack((json_t *) row, "{s:s, s?s, s:o, s?s, s?s, s?o, s?b}", "metric", &metric, "kind", &kind,
					"amount", &amount, "output", &output, "name", &name, "models", &models,
					"counts_cached", &counts_cached) < 0)
		return sim_format("a limit needs metric and amount");
	if (choice(metric, metrics) < 0 || choice(output, outputs) < 0)
		return sim_format("unknown metric or output: %s, %s", metric, output);
	quota->name = name ? name : default_name(row, metric, kind);
	quota->metric = choice(metric, metrics);
	quota->output = choice(output, outputs);
	quota->counts_cached = counts_cached;
	json_array_foreach(models, index, value)
	{
		if (index < SIM_MAX_MODELS)
			quota->models[quota->nmodels++] = json_string_value(value);
	}
	return read_limit(row, kind, &quota->limit);
}

static char *
read_quotas(const json_t *rows, SimAccount *account)
{
	char	   *wrong = NULL;
	size_t		index;
	json_t	   *row;

	account->nquotas = json_array_size(rows);
	if (account->nquotas > SIM_MAX_QUOTAS)
		return sim_format("%s: more than %d limits", account->name, SIM_MAX_QUOTAS);
	account->quotas = sim_allocate((account->nquotas + 1) * sizeof(SimQuota));
	json_array_foreach(rows, index, row)
	{
		if ((wrong = read_quota(row, &account->quotas[index])) != NULL)
			break;
	}
	return wrong;
}

static void
read_keys(const json_t *keys, SimAccount *account)
{
	const char *name;
	json_t	   *secret;
	SimKey	   *key;

	key = account->keys = sim_allocate((json_object_size(keys) + 1) * sizeof(SimKey));
	json_object_foreach((json_t *) keys, name, secret)
		*key++ = (SimKey) {.name = name, .secret = json_string_value(secret)};
	account->nkeys = json_object_size(keys);
}

static char *
read_account(json_t *row, SimAccount *account)
{
	const char *api;
	json_t	   *keys,
			   *limits = NULL;
	int			counts_refused = 0;

	account->config = json_incref(row);
	if (json_unpack(row, "{s:s, s:s, s:o, s?o, s?b}", "account", &account->name, "api", &api, "keys", &keys,
					"limits", &limits, "counts_refused", &counts_refused) < 0)
		return sim_format("an account needs account, api and keys");
	account->wire = sim_wire_by_name(api);
	if (account->wire == NULL)
		return sim_format("%s: unknown api: %s", account->name, api);
	account->models = json_object_get(row, "models");
	account->counts_refused = counts_refused;
	account->delay[1] = 50000;
	read_span(json_object_get(row, "delay_ms"), account->delay);
	read_span(json_object_get(row, "latency_ms"), account->latency);
	account->answered = json_object();
	read_keys(keys, account);
	return read_quotas(limits, account);
}

/* Replaces all accounts.  What is wrong with the new ones, malloced; then the old ones stay. */
char *
sim_set_accounts(json_t *accounts)
{
	SimConfig  *new = sim_allocate(sizeof(SimConfig));
	char	   *wrong = NULL;
	size_t		index;
	json_t	   *row;

	new->count = json_array_size(accounts);
	new->accounts = sim_allocate((new->count + 1) * sizeof(SimAccount));
	json_array_foreach(accounts, index, row)
	{
		if ((wrong = read_account(row, &new->accounts[index])) != NULL)
			return wrong;
	}
	new->previous = config;
	config = new;
	return NULL;
}
