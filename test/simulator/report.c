/*
 * report.c
 *	  GET /_report: what was counted, and what was answered.
 *
 * README.md says what the members mean.  Callers hold sim_lock().
 */
#include "simulator.h"

static const char *const metrics[] = {"requests", "input_tokens", "output_tokens", "tokens", "concurrency"};
static const char *const kinds[] = {"bucket", "sliding", "fixed", "day", "concurrency"};

static json_t *
milliseconds(int64_t microseconds)
{
	return json_integer(microseconds / 1000);
}

/* What was charged in each length since the first charge; the last one still runs. */
static json_t *
windows(const SimQuota *quota, int64_t now)
{
	json_t	   *sums = json_array();
	int64_t		count = 0;

	if (quota->since != 0 && quota->limit.length != 0)
		count = (now - quota->since) / quota->limit.length + 1;
	for (int64_t i = 0; i < count && i < SIM_MAX_WINDOWS; i++)
		json_array_append_new(sums, json_integer(quota->windows[i]));
	return sums;
}

static json_t *
quota_report(SimQuota *quota, int64_t now)
{
	json_t	   *models = json_array();

	sim_limit_advance(&quota->limit, now);
	for (size_t i = 0; i < quota->nmodels; i++)
		json_array_append_new(models, json_string(quota->models[i]));
	return json_pack("{s:s, s:s, s:s, s:o, s:I, s:o, s:I, s:I, s:I, s:I, s:o, s:o}", "name", quota->name,
					 "metric", metrics[quota->metric], "kind", kinds[quota->limit.kind], "models", models,
					 "amount", (json_int_t) quota->limit.amount, "length_ms", milliseconds(quota->limit.length),
					 "used", (json_int_t) sim_limit_used(&quota->limit), "peak", (json_int_t) quota->peak,
					 "charged", (json_int_t) quota->admitted, "refused", (json_int_t) quota->refused,
					 "since_ms", milliseconds(quota->since), "windows", windows(quota, now));
}

static json_t *
account_report(SimAccount *account, int64_t now)
{
	json_t	   *limits = json_array();

	for (size_t i = 0; i < account->nquotas; i++)
		json_array_append_new(limits, quota_report(&account->quotas[i], now));
	return json_pack("{s:s, s:s, s:o, s:o}", "account", account->name, "api", account->wire->name,
					 "answered", json_deep_copy(account->answered), "limits", limits);
}

json_t *
sim_report(void)
{
	int64_t		now = sim_now();
	json_t	   *accounts = json_array();
	SimAccount *account;

	for (size_t i = 0; (account = sim_account(i)) != NULL; i++)
		json_array_append_new(accounts, account_report(account, now));
	return json_pack("{s:o, s:o, s:o}", "now_ms", milliseconds(now), "accounts", accounts,
					 "faults", sim_fault_report());
}
