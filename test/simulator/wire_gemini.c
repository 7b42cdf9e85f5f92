/*
 * wire_gemini.c
 *	  generateContent as Gemini speaks it.
 *
 * There are no headers about limits: who wants to know reads the body of a
 * 429, which names every limit that refused.  For the day's the delay it asks
 * for is "0s", as Gemini does.  A wrong key is a 400; blocked content a 200.
 */
#include "simulator.h"

#include <stdlib.h>
#include <string.h>

typedef struct Error
{
	int			status;
	const char *name;
	const char *message;
} Error;

static const Error errors[SIM_FAILURES] = {
	[SIM_CAPACITY] = {429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."},
	[SIM_BILLING] = {403, "PERMISSION_DENIED", "This API method requires billing to be enabled. Please enable billing "
	"on project #1 and retry."},
	[SIM_SPEND_CAP] = {429, "RESOURCE_EXHAUSTED", "Your project has exceeded its monthly spending cap. Please go to AI "
	"Studio to manage your project spend cap."},
	[SIM_SPEND_LIMIT] = {429, "RESOURCE_EXHAUSTED", "Your billing account has exceeded its monthly spending limit."},
	[SIM_OVERLOADED] = {503, "UNAVAILABLE", "The model is overloaded. Please try again later."},
	[SIM_UNAVAILABLE] = {503, "UNAVAILABLE", "The service is currently unavailable."},
	[SIM_SERVER] = {500, "INTERNAL", "An internal error has occurred. Please retry or report in "
	"https://developers.generativeai.google/guide/troubleshooting"},
	[SIM_TIMEOUT] = {504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."},
	[SIM_AUTH] = {400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."},
	[SIM_FORBIDDEN] = {403, "PERMISSION_DENIED", "The caller does not have permission"},
	[SIM_NOT_FOUND] = {404, "NOT_FOUND", "The model is not found for API version v1beta, or is not supported for "
	"generateContent. Call ListModels to see the list of available models and their supported methods."},
	[SIM_BAD_REQUEST] = {400, "INVALID_ARGUMENT", "Invalid JSON payload received."}
};

static bool
is_path(SimCall *call, const char *path)
{
	static const char models[] = "/v1beta/models/";
	const char *model = path + strlen(models);
	const char *end;

	if (strncmp(path, models, strlen(models)) != 0)
		return false;
	end = strchr(model, ':');
	if (end == NULL || strcmp(end, ":generateContent") != 0)
		return false;
	free(call->model);
	call->model = strndup(model, end - model);
	return true;
}

static bool
read_body(SimCall *call)
{
	const json_t *maximum = json_object_get(json_object_get(call->body, "generationConfig"), "maxOutputTokens");

	call->input = sim_words(json_object_get(call->body, "contents"));
	call->max_output = maximum != NULL ? json_integer_value(maximum) : 8192;
	return json_is_array(json_object_get(call->body, "contents"));
}

static json_t *
answer(const SimCall *call)
{
	json_t	   *candidate = json_pack("{s:{s:[{s:s}], s:s}, s:s, s:i}", "content", "parts", "text", "It depends.",
									  "role", "model", "finishReason",
									  call->output < call->max_output ? "STOP" : "MAX_TOKENS", "index", 0);
	json_t	   *usage = json_pack("{s:I, s:I, s:I, s:[{s:s, s:I}]}", "promptTokenCount", (json_int_t) call->input,
								  "candidatesTokenCount", (json_int_t) (call->output - call->reasoning),
								  "totalTokenCount", (json_int_t) (call->input + call->output),
								  "promptTokensDetails", "modality", "TEXT", "tokenCount", (json_int_t) call->input);

	if (call->cached > 0)
		json_object_set_new(usage, "cachedContentTokenCount", json_integer(call->cached));
	if (call->reasoning > 0)
		json_object_set_new(usage, "thoughtsTokenCount", json_integer(call->reasoning));
	return json_pack("{s:[o], s:o, s:s, s:o}", "candidates", candidate, "usageMetadata", usage,
					 "modelVersion", call->model, "responseId", sim_text("%lld", (long long) call->id));
}

static void
headers(SimCall *call)
{
}

static json_t *
violation(const SimCall *call, const SimQuota *quota)
{
	const char *period = sim_is_daily(quota) ? "PerDay" : "PerMinute";
	bool		is_requests = quota->metric == SIM_REQUESTS || quota->metric == SIM_IN_FLIGHT;
	json_t	   *id = is_requests ? sim_text("GenerateRequests%sPerProjectPerModel-FreeTier", period) :
		sim_text("GenerateContentInputTokensPerModel%s-FreeTier", period);

	return json_pack("{s:s, s:o, s:{s:s, s:s}, s:o}", "quotaMetric", is_requests ?
					 "generativelanguage.googleapis.com/generate_content_free_tier_requests" :
					 "generativelanguage.googleapis.com/generate_content_free_tier_input_token_count",
					 "quotaId", id, "quotaDimensions", "location", "global", "model", call->model,
					 "quotaValue", sim_text("%lld", (long long) quota->limit.amount));
}

static json_t *
violations(const SimCall *call, const SimQuota *blamed)
{
	json_t	   *all = json_array();

	for (size_t i = 0; i < call->account->nquotas; i++)
	{
		if (call->refused[i] || &call->account->quotas[i] == blamed)
			json_array_append_new(all, violation(call, &call->account->quotas[i]));
	}
	return all;
}

static json_t *
envelope(int status, const char *name, const char *message, json_t *details)
{
	json_t	   *error = json_pack("{s:i, s:s, s:s}", "code", status, "message", message, "status", name);

	if (details != NULL)
		json_object_set_new(error, "details", details);
	return json_pack("{s:o}", "error", error);
}

static json_t *
rate_error(SimCall *call, const SimQuota *quota, int64_t wait)
{
	json_t	   *details;
	json_t	   *delay = sim_is_daily(quota) || wait == SIM_NEVER ? json_string("0s") :
		sim_text("%lld.%06llds", (long long) (wait / 1000000), (long long) (wait % 1000000));

	details = json_pack("[{s:s, s:o}, {s:s, s:[{s:s, s:s}]}, {s:s, s:o}]",
						"@type", "type.googleapis.com/google.rpc.QuotaFailure",
						"violations", violations(call, quota),
						"@type", "type.googleapis.com/google.rpc.Help", "links",
						"description", "Learn more about Gemini API quotas",
						"url", "https://ai.google.dev/gemini-api/docs/rate-limits",
						"@type", "type.googleapis.com/google.rpc.RetryInfo", "retryDelay", delay);
	return envelope(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan and billing "
					"details. For more information on this error, head to: "
					"https://ai.google.dev/gemini-api/docs/rate-limits.", details);
}

static json_t *
blocked(const SimCall *call)
{
	return json_pack("{s:{s:s}, s:{s:I, s:I}, s:s}", "promptFeedback", "blockReason", "PROHIBITED_CONTENT",
					 "usageMetadata", "promptTokenCount", (json_int_t) call->input,
					 "totalTokenCount", (json_int_t) call->input, "modelVersion", call->model);
}

static json_t *
error(SimCall *call, SimFailure failure)
{
	json_t	   *details = NULL;
	const SimQuota *quota = NULL;
	int64_t		wait;

	if (failure == SIM_RATE)
	{
		quota = sim_blamed(call, &wait);
		failure = SIM_CAPACITY;
	}
	call->answer.status = failure == SIM_CONTENT ? 200 : errors[failure].status;
	if (quota != NULL)
		return rate_error(call, quota, wait);
	if (failure == SIM_CONTENT)
		return blocked(call);
	if (failure == SIM_AUTH)
		details = json_pack("[{s:s, s:s, s:s, s:{s:s}}]", "@type", "type.googleapis.com/google.rpc.ErrorInfo",
							"reason", "API_KEY_INVALID", "domain", "googleapis.com", "metadata",
							"service", "generativelanguage.googleapis.com");
	return envelope(errors[failure].status, errors[failure].name, errors[failure].message, details);
}

const SimWire sim_gemini = {"gemini", is_path, read_body, answer, headers, error};
