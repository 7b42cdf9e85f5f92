/*
 * wire_mistral.c
 *	  Mistral: OpenAI's chat completions, with names of its own for limits.
 */
#include "wire_openai.h"

#include <string.h>

static bool
is_path(SimCall *call, const char *path)
{
	return strcmp(path, "/v1/chat/completions") == 0;
}

static void
put_limit(SimCall *call, const char *what, const SimQuota *quota)
{
	char		name[64];

	if (quota == NULL)
		return;
	snprintf(name, sizeof(name), "x-ratelimit-limit-%s-minute", what);
	sim_put_header(call, name, sim_text("%lld", (long long) quota->limit.amount));
	snprintf(name, sizeof(name), "x-ratelimit-remaining-%s-minute", what);
	sim_put_header(call, name, sim_text("%lld", (long long) sim_limit_left(&quota->limit)));
}

static void
headers(SimCall *call)
{
	put_limit(call, "req", sim_tightest(call, SIM_REQUESTS, false));
	put_limit(call, "tokens", sim_tightest(call, SIM_TOKENS, false));
	sim_put_header(call, "x-ratelimit-tokens-query-cost", sim_text("%lld", (long long) (call->input + call->output)));
}

static json_t *
error(SimCall *call, SimFailure failure)
{
	int64_t		wait;
	const SimQuota *quota;

	if (failure != SIM_RATE)
		return sim_openai_error(call, failure);
	quota = sim_blamed(call, &wait);
	call->answer.status = 429;
	if (wait != SIM_NEVER)
		sim_put_header(call, "retry-after", sim_text("%lld", (long long) sim_seconds(wait)));
	return json_pack("{s:s, s:s, s:s, s:n, s:s}", "object", "error",
					 "message", quota == NULL || quota->metric == SIM_REQUESTS ? "Requests rate limit exceeded" :
					 "Tokens rate limit exceeded", "type", "rate_limited", "param", "code", "1300");
}

const SimWire sim_mistral = {"mistral", is_path, sim_openai_read, sim_openai_answer, headers, error};
