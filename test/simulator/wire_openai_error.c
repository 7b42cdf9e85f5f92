/*
 * wire_openai_error.c
 *	  How OpenAI says no.
 *
 * The message of a 429 names the limit, its value, and the time to wait; the
 * same time is in the headers.
 */
#include "wire_openai.h"

#include <string.h>

typedef struct Error
{
	int			status;
	const char *type;
	const char *code;			/* NULL: null */
	const char *message;
} Error;

static const Error errors[SIM_FAILURES] = {
	[SIM_CAPACITY] = {429, "resource_unavailable", "resource_unavailable",
	"The requested resource is temporarily unavailable. You have not been charged. Please try again later."},
	[SIM_BILLING] = {429, "insufficient_quota", "insufficient_quota",
		"You exceeded your current quota, please check your plan and billing details. For more information on this "
	"error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."},
	[SIM_SPEND_CAP] = {429, "insufficient_quota", "project_spend_limit_exceeded",
	"This project has reached its monthly spend limit."},
	[SIM_SPEND_LIMIT] = {429, "insufficient_quota", "organization_spend_limit_exceeded",
	"Your organization has reached its monthly spend limit."},
	[SIM_OVERLOADED] = {503, "server_error", NULL,
		"The server is currently overloaded with other requests. Sorry about that! You can retry your request, or "
	"contact us through our help center at help.openai.com if the error persists."},
	[SIM_UNAVAILABLE] = {503, "server_error", NULL, "The engine is currently overloaded, please try again later"},
	[SIM_SERVER] = {500, "server_error", NULL,
	"The server had an error while processing your request. Sorry about that!"},
	[SIM_AUTH] = {401, "invalid_request_error", "invalid_api_key",
		"Incorrect API key provided: sk-te***************one. You can find your API key at "
	"https://platform.openai.com/account/api-keys."},
	[SIM_FORBIDDEN] = {403, "request_forbidden", "unsupported_country_region_territory",
	"Country, region, or territory not supported"},
	[SIM_NOT_FOUND] = {404, "invalid_request_error", "model_not_found",
	"The model does not exist or you do not have access to it."},
	[SIM_BAD_REQUEST] = {400, "invalid_request_error", NULL, "We could not parse the JSON body of your request."},
	[SIM_CONTENT] = {400, "invalid_request_error", "content_policy_violation",
	"Your request was rejected as a result of our safety system."}
};

static const char *
unit(const SimQuota *quota)
{
	if (quota->metric == SIM_REQUESTS || quota->metric == SIM_IN_FLIGHT)
		return sim_is_daily(quota) ? "requests per day (RPD)" : "requests per min (RPM)";
	return sim_is_daily(quota) ? "tokens per day (TPD)" : "tokens per min (TPM)";
}

static json_t *
rate_message(SimCall *call, const SimQuota *quota, int64_t wait)
{
	json_t	   *again = sim_duration(wait == SIM_NEVER ? 0 : wait);
	json_t	   *message;

	if (wait == SIM_NEVER)
		message = sim_text("Request too large for %s in organization org-simulator on %s: Limit %lld, Requested %lld. "
						   "The input or output tokens must be reduced in order to run successfully.",
						   call->model, unit(quota), (long long) quota->limit.amount,
						   (long long) sim_requested(quota, call));
	else
		message = sim_text("Rate limit reached for %s in organization org-simulator on %s: Limit %lld, Used %lld, "
						   "Requested %lld. Please try again in %s. Visit "
						   "https://platform.openai.com/account/rate-limits to learn more.",
						   call->model, unit(quota), (long long) quota->limit.amount,
						   (long long) sim_limit_used(&quota->limit), (long long) sim_requested(quota, call),
						   json_string_value(again));
	json_decref(again);
	return message;
}

static json_t *
rate_error(SimCall *call, const SimQuota *quota, int64_t wait)
{
	bool		is_requests = quota->metric == SIM_REQUESTS || quota->metric == SIM_IN_FLIGHT;

	call->answer.status = 429;
	if (wait != SIM_NEVER)
	{
		sim_put_header(call, "retry-after", sim_text("%lld", (long long) sim_seconds(wait)));
		if (call->wire == &sim_openai)
			sim_put_header(call, "retry-after-ms", sim_text("%lld", (long long) (wait + 999) / 1000));
	}
	return json_pack("{s:{s:o, s:s, s:n, s:s}}", "error", "message", rate_message(call, quota, wait),
					 "type", is_requests ? "requests" : "tokens", "param", "code", "rate_limit_exceeded");
}

json_t *
sim_openai_error(SimCall *call, SimFailure failure)
{
	const Error *error = &errors[failure];

	if (failure == SIM_RATE)
	{
		int64_t		wait;
		const SimQuota *quota = sim_blamed(call, &wait);

		if (quota != NULL)
			return rate_error(call, quota, wait);
		error = &errors[SIM_CAPACITY];
	}
	if (failure == SIM_TIMEOUT)
	{
		call->answer.status = 504;
		return json_string("<html><head><title>504 Gateway Time-out</title></head></html>");
	}
	call->answer.status = error->status;
	return json_pack("{s:{s:s, s:s, s:n, s:s?}}", "error", "message", error->message, "type", error->type,
					 "param", "code", error->code);
}
