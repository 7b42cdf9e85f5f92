/*
 * wire_anthropic.c
 *	  Messages as Anthropic speaks them.
 *
 * The input figures of a usage exclude one another.  A reset is an instant;
 * what is left of tokens is rounded to the thousand, as Anthropic does.
 */
#include "simulator.h"

#include <stdlib.h>
#include <string.h>

typedef struct Error
{
	int			status;
	const char *type;
	const char *message;
} Error;

static const Error errors[SIM_FAILURES] = {
	[SIM_CAPACITY] = {529, "overloaded_error", "Overloaded"},
	[SIM_BILLING] = {402, "billing_error", "Your credit balance is too low to access the Anthropic API. Please go to "
	"Plans & Billing to upgrade or purchase credits."},
	[SIM_OVERLOADED] = {529, "overloaded_error", "Overloaded"},
	[SIM_UNAVAILABLE] = {503, "api_error", "Service unavailable"},
	[SIM_SERVER] = {500, "api_error", "Internal server error"},
	[SIM_TIMEOUT] = {504, "timeout_error", "Request timed out"},
	[SIM_AUTH] = {401, "authentication_error", "invalid x-api-key"},
	[SIM_FORBIDDEN] = {403, "permission_error", "Your API key does not have permission to use the specified resource."},
	[SIM_NOT_FOUND] = {404, "not_found_error", "model not found"},
	[SIM_BAD_REQUEST] = {400, "invalid_request_error", "max_tokens: Field required"},
	[SIM_CONTENT] = {400, "invalid_request_error", "Output blocked by content filtering policy"}
};

static bool
is_path(SimCall *call, const char *path)
{
	return strcmp(path, "/v1/messages") == 0;
}

static bool
read_body(SimCall *call)
{
	const char *model = json_string_value(json_object_get(call->body, "model"));

	if (model == NULL || !json_is_array(json_object_get(call->body, "messages")))
		return false;
	call->model = strdup(model);
	call->input = sim_words(json_object_get(call->body, "messages")) +
		sim_words(json_object_get(call->body, "system"));
	call->max_output = json_integer_value(json_object_get(call->body, "max_tokens"));
	return true;
}

static json_t *
answer(const SimCall *call)
{
	json_t	   *usage = json_pack("{s:I, s:I, s:I, s:{s:I, s:i}, s:I, s:s}",
								  "input_tokens", (json_int_t) (call->input - call->cached - call->cache_write),
								  "cache_creation_input_tokens", (json_int_t) call->cache_write,
								  "cache_read_input_tokens", (json_int_t) call->cached,
								  "cache_creation", "ephemeral_5m_input_tokens", (json_int_t) call->cache_write,
								  "ephemeral_1h_input_tokens", 0, "output_tokens", (json_int_t) call->output,
								  "service_tier", "standard");

	return json_pack("{s:o, s:s, s:s, s:s, s:[{s:s, s:s}], s:s, s:n, s:o}",
					 "id", sim_text("msg_%lld", (long long) call->id), "type", "message", "role", "assistant",
					 "model", call->model, "content", "type", "text", "text", "It depends.",
					 "stop_reason", call->output < call->max_output ? "end_turn" : "max_tokens", "stop_sequence",
					 "usage", usage);
}

static void
put_limit(SimCall *call, const char *what, const SimQuota *quota)
{
	char		name[64];
	int64_t		left;

	if (quota == NULL)
		return;
	left = sim_limit_left(&quota->limit);
	if (quota->metric != SIM_REQUESTS)
		left = (left + 500) / 1000 * 1000;
	snprintf(name, sizeof(name), "anthropic-ratelimit-%s-limit", what);
	sim_put_header(call, name, sim_text("%lld", (long long) quota->limit.amount));
	snprintf(name, sizeof(name), "anthropic-ratelimit-%s-remaining", what);
	sim_put_header(call, name, sim_text("%lld", (long long) left));
	snprintf(name, sizeof(name), "anthropic-ratelimit-%s-reset", what);
	sim_put_header(call, name, sim_instant(sim_now() + sim_limit_empty_after(&quota->limit, sim_now())));
}

static void
headers(SimCall *call)
{
	put_limit(call, "requests", sim_tightest(call, SIM_REQUESTS, false));
	put_limit(call, "input-tokens", sim_tightest(call, SIM_INPUT_TOKENS, false));
	put_limit(call, "output-tokens", sim_tightest(call, SIM_OUTPUT_TOKENS, false));
	put_limit(call, "tokens", sim_tightest(call, SIM_TOKENS, false));
	sim_put_header(call, "anthropic-organization-id", json_string(call->account->name));
	sim_put_header(call, "request-id", sim_text("req_%lld", (long long) call->id));
}

static const char *
unit(const SimQuota *quota)
{
	switch (quota != NULL ? quota->metric : SIM_REQUESTS)
	{
		case SIM_INPUT_TOKENS:
		case SIM_TOKENS:
			return "input tokens per minute";
		case SIM_OUTPUT_TOKENS:
			return "output tokens per minute";
		default:
			return "requests per minute";
	}
}

static json_t *
envelope(const SimCall *call, const char *type, json_t *message)
{
	return json_pack("{s:s, s:{s:s, s:o}, s:o}", "type", "error", "error", "type", type, "message", message,
					 "request_id", sim_text("req_%lld", (long long) call->id));
}

static json_t *
rate_error(SimCall *call)
{
	int64_t		wait;
	const SimQuota *quota = sim_blamed(call, &wait);

	call->answer.status = 429;
	if (wait != SIM_NEVER)
		sim_put_header(call, "retry-after", sim_text("%lld", (long long) sim_seconds(wait)));
	if (quota != NULL && quota->metric == SIM_IN_FLIGHT)
		return envelope(call, "rate_limit_error", json_string("Number of concurrent connections has exceeded your "
															  "rate limit. Please try again later."));
	return envelope(call, "rate_limit_error",
					sim_text("This request would exceed your organization's rate limit of %lld %s. For details, "
							 "refer to: https://docs.claude.com/en/api/rate-limits. You can see the response headers "
							 "for current usage.", quota != NULL ? (long long) quota->limit.amount : 0, unit(quota)));
}

/* The cap of Anthropic (429, no retry-after), and one that the customer has set (400). */
static json_t *
spend_error(SimCall *call, SimFailure failure)
{
	json_t	   *instant = sim_instant(sim_next_month(sim_now()));
	json_t	   *message;
	json_t	   *error;

	call->answer.status = failure == SIM_SPEND_CAP ? 400 : 429;
	message = sim_text(failure == SIM_SPEND_CAP ?
					   "You have reached your specified API usage limits. You will regain access on %.10s at "
					   "00:00 UTC." :
					   "Your organization has reached its monthly spend limit. Access resumes at %.10s 00:00 UTC.",
					   json_string_value(instant));
	json_decref(instant);
	error = envelope(call, failure == SIM_SPEND_CAP ? "invalid_request_error" : "rate_limit_error", message);
	if (failure == SIM_SPEND_LIMIT)
		json_object_set_new(json_object_get(error, "error"), "details",
							json_pack("{s:s}", "error_code", "enforced_spend_limit_reached"));
	return error;
}

static json_t *
error(SimCall *call, SimFailure failure)
{
	if (failure == SIM_RATE)
		return rate_error(call);
	if (failure == SIM_SPEND_CAP || failure == SIM_SPEND_LIMIT)
		return spend_error(call, failure);
	call->answer.status = errors[failure].status;
	return envelope(call, errors[failure].type, json_string(errors[failure].message));
}

const SimWire sim_anthropic = {"anthropic", is_path, read_body, answer, headers, error};
