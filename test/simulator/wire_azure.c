/*
 * wire_azure.c
 *	  Azure: OpenAI's chat completions of a deployment, which is in the path.
 *
 * A limit that Azure judges by slices of 10 s is configured as fixed, with a
 * length of 10000 ms and the amount of a slice: that is what its headers show.
 */
#include "wire_openai.h"

#include <stdlib.h>
#include <string.h>

static const char deployments[] = "/openai/deployments/";

typedef struct Error
{
	int			status;
	const char *code;
	const char *message;
} Error;

static const Error errors[SIM_FAILURES] = {
	[SIM_CAPACITY] = {429, "429", "The system is currently experiencing high demand and cannot process your request. "
	"Your request exceeds the maximum usage size allowed during peak load."},
	[SIM_BILLING] = {429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing "
	"details."},
	[SIM_SPEND_CAP] = {403, "403", "The subscription has reached its spending limit and is disabled."},
	[SIM_SPEND_LIMIT] = {403, "403", "The subscription has reached its spending limit and is disabled."},
	[SIM_OVERLOADED] = {503, "ServiceUnavailable", "The service is temporarily unable to process your request. Please "
	"try again later."},
	[SIM_UNAVAILABLE] = {503, "InternalServerError", "The server had an error processing your request. Sorry about "
	"that!"},
	[SIM_SERVER] = {500, "InternalServerError", "Backend returned unexpected response. Please contact Microsoft for "
	"help."},
	[SIM_TIMEOUT] = {408, "Timeout", "The operation was timeout."},
	[SIM_AUTH] = {401, "401", "Access denied due to invalid subscription key or wrong API endpoint. Make sure to "
	"provide a valid key for an active subscription and use a correct regional API endpoint for your resource."},
	[SIM_FORBIDDEN] = {403, "403", "Access denied due to Virtual Network/Firewall rules."},
	[SIM_NOT_FOUND] = {404, "DeploymentNotFound", "The API deployment for this resource does not exist. If you "
	"created the deployment within the last 5 minutes, please wait a moment and try again."},
	[SIM_BAD_REQUEST] = {400, "BadRequest", "The request body is not valid."},
	[SIM_CONTENT] = {400, "content_filter", "The response was filtered due to the prompt triggering Azure OpenAI's "
	"content management policy. Please modify your prompt and retry."}
};

static bool
is_path(SimCall *call, const char *path)
{
	const char *deployment = path + strlen(deployments);
	const char *end;

	if (strncmp(path, deployments, strlen(deployments)) != 0)
		return false;
	end = strchr(deployment, '/');
	if (end == NULL || strcmp(end, "/chat/completions") != 0)
		return false;
	free(call->model);
	call->model = strndup(deployment, end - deployment);
	return true;
}

static void
put_limit(SimCall *call, const char *what, const SimQuota *quota)
{
	char		name[64];

	if (quota == NULL)
		return;
	snprintf(name, sizeof(name), "x-ratelimit-limit-%s", what);
	sim_put_header(call, name, sim_text("%lld", (long long) quota->limit.amount));
	snprintf(name, sizeof(name), "x-ratelimit-remaining-%s", what);
	sim_put_header(call, name, sim_text("%lld", (long long) sim_limit_left(&quota->limit)));
}

static void
headers(SimCall *call)
{
	put_limit(call, "requests", sim_tightest(call, SIM_REQUESTS, false));
	put_limit(call, "tokens", sim_tightest(call, SIM_TOKENS, false));
	sim_put_header(call, "x-ms-region", json_string("Simulated"));
}

static json_t *
rate_error(SimCall *call)
{
	int64_t		wait;
	const SimQuota *quota = sim_blamed(call, &wait);
	bool		is_requests = quota == NULL || quota->metric == SIM_REQUESTS;

	if (wait == SIM_NEVER)
		wait = quota->limit.length;
	call->answer.status = 429;
	sim_put_header(call, "retry-after", sim_text("%lld", (long long) sim_seconds(wait)));
	sim_put_header(call, "retry-after-ms", sim_text("%lld", (long long) (wait + 999) / 1000));
	sim_put_header(call, "x-ms-retry-after-ms", sim_text("%lld", (long long) (wait + 999) / 1000));
	return json_pack("{s:{s:s, s:o}}", "error", "code", "429", "message",
					 sim_text("Requests to the ChatCompletions_Create Operation under Azure OpenAI API version "
							  "2024-10-21 have exceeded %s rate limit of your current OpenAI S0 pricing tier. Please "
							  "retry after %lld seconds. Please go here: https://aka.ms/oai/quotaincrease if you "
							  "would like to further increase the default rate limit.",
							  is_requests ? "call" : "token", (long long) sim_seconds(wait)));
}

static json_t *
error(SimCall *call, SimFailure failure)
{
	if (failure == SIM_RATE)
		return rate_error(call);
	call->answer.status = errors[failure].status;
	return json_pack("{s:{s:s, s:s}}", "error", "code", errors[failure].code, "message", errors[failure].message);
}

const SimWire sim_azure = {"azure", is_path, sim_openai_read, sim_openai_answer, headers, error};
