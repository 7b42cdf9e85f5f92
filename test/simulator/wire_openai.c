/*
 * wire_openai.c
 *	  Chat completions and responses as OpenAI and Groq speak them.
 *
 * Cached input and reasoning are parts of the figures above them.  Groq has
 * the same headers, of which those of requests speak of the day.
 */
#include "wire_openai.h"

#include <stdlib.h>
#include <string.h>

static bool
is_path(SimCall *call, const char *path)
{
	return strcmp(path, "/v1/chat/completions") == 0 || strcmp(path, "/v1/responses") == 0;
}

static bool
is_groq_path(SimCall *call, const char *path)
{
	return strcmp(path, "/openai/v1/chat/completions") == 0 || is_path(call, path);
}

static bool
is_response(const SimCall *call)
{
	return json_object_get(call->body, "input") != NULL;
}

/* The first of the members that is there. */
static int64_t
first_integer(const json_t *body, const char *const *names, int64_t otherwise)
{
	for (; *names != NULL; names++)
	{
		if (json_is_integer(json_object_get(body, *names)))
			return json_integer_value(json_object_get(body, *names));
	}
	return otherwise;
}

bool
sim_openai_read(SimCall *call)
{
	static const char *const maxima[] = {"max_completion_tokens", "max_output_tokens", "max_tokens", NULL};
	const char *model = json_string_value(json_object_get(call->body, "model"));
	const json_t *content = json_object_get(call->body, is_response(call) ? "input" : "messages");

	if (model != NULL && call->model == NULL)
		call->model = strdup(model);
	call->input = sim_words(content);
	call->max_output = first_integer(call->body, maxima, 4096);
	return content != NULL;
}

static json_t *
completion(const SimCall *call)
{
	json_t	   *choice = json_pack("{s:i, s:{s:s, s:s}, s:n, s:s}", "index", 0, "message", "role", "assistant",
								   "content", "It depends.", "logprobs",
								   "finish_reason", call->output < call->max_output ? "stop" : "length");
	json_t	   *usage = json_pack("{s:I, s:I, s:I, s:{s:I, s:I, s:i}, s:{s:I, s:i, s:i, s:i}}",
								  "prompt_tokens", (json_int_t) call->input,
								  "completion_tokens", (json_int_t) call->output,
								  "total_tokens", (json_int_t) (call->input + call->output), "prompt_tokens_details",
								  "cached_tokens", (json_int_t) call->cached,
								  "cache_write_tokens", (json_int_t) call->cache_write, "audio_tokens", 0,
								  "completion_tokens_details", "reasoning_tokens", (json_int_t) call->reasoning,
								  "audio_tokens", 0, "accepted_prediction_tokens", 0,
								  "rejected_prediction_tokens", 0);

	return json_pack("{s:o, s:s, s:I, s:s, s:[o], s:o, s:s}", "id", sim_text("chatcmpl-%lld", (long long) call->id),
					 "object", "chat.completion", "created", (json_int_t) (sim_now() / 1000000), "model", call->model,
					 "choices", choice, "usage", usage, "service_tier", "default");
}

static json_t *
response(const SimCall *call)
{
	json_t	   *message = json_pack("{s:s, s:s, s:s, s:s, s:[{s:s, s:s, s:[]}]}", "type", "message", "id", "msg_1",
									"status", "completed", "role", "assistant", "content", "type", "output_text",
									"text", "It depends.", "annotations");
	json_t	   *usage = json_pack("{s:I, s:{s:I, s:I}, s:I, s:{s:I}, s:I}", "input_tokens", (json_int_t) call->input,
								  "input_tokens_details", "cached_tokens", (json_int_t) call->cached,
								  "cache_write_tokens", (json_int_t) call->cache_write,
								  "output_tokens", (json_int_t) call->output, "output_tokens_details",
								  "reasoning_tokens", (json_int_t) call->reasoning,
								  "total_tokens", (json_int_t) (call->input + call->output));

	return json_pack("{s:o, s:s, s:I, s:s, s:n, s:s, s:[o], s:o}", "id", sim_text("resp_%lld", (long long) call->id),
					 "object", "response", "created_at", (json_int_t) (sim_now() / 1000000),
					 "status", call->output < call->max_output ? "completed" : "incomplete", "error",
					 "model", call->model, "output", message, "usage", usage);
}

json_t *
sim_openai_answer(const SimCall *call)
{
	return is_response(call) ? response(call) : completion(call);
}

/* Limit, what is left, and when it is as at first, of one quota. */
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
	snprintf(name, sizeof(name), "x-ratelimit-reset-%s", what);
	sim_put_header(call, name, sim_duration(sim_limit_empty_after(&quota->limit, sim_now())));
}

static void
put_limits(SimCall *call, bool daily_requests)
{
	const SimQuota *requests = sim_tightest(call, SIM_REQUESTS, daily_requests);
	const SimQuota *tokens = sim_tightest(call, SIM_TOKENS, false);

	if (requests == NULL && !daily_requests)
		requests = sim_tightest(call, SIM_REQUESTS, true);
	put_limit(call, "requests", requests);
	put_limit(call, "tokens", tokens != NULL ? tokens : sim_tightest(call, SIM_TOKENS, true));
}

static void
openai_headers(SimCall *call)
{
	char	   *id = sim_format("req_%lld", (long long) call->id);

	sim_put_header(call, "x-request-id", json_string(id));
	free(id);
	put_limits(call, false);
}

static void
groq_headers(SimCall *call)
{
	put_limits(call, true);
}

const SimWire sim_openai = {
	"openai", is_path, sim_openai_read, sim_openai_answer, openai_headers, sim_openai_error
};
const SimWire sim_groq = {
	"groq", is_groq_path, sim_openai_read, sim_openai_answer, groq_headers, sim_openai_error
};
