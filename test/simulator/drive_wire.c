/*
 * drive_wire.c
 *	  The wire formats, as the driver's side has them.
 *
 * A body is small and says in "simulate" what it stands for.
 */
#include "drive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool
is(const char *adapter, const char *name)
{
	return adapter != NULL && strcmp(adapter, name) == 0;
}

static char *
join(const char *first, const char *second, const char *third, const char *fourth)
{
	char	   *text;

	if (asprintf(&text, "%s%s%s%s", first, second, third, fourth) < 0)
		drive_fail("memory", "there is none");
	return text;
}

char *
drive_url(const char *adapter, const DrivePick *pick)
{
	if (is(adapter, "anthropic"))
		return join(pick->base_url, "/messages", "", "");
	if (is(adapter, "gemini"))
		return join(pick->base_url, "/models/", pick->provider_model, ":generateContent");
	if (is(adapter, "azure"))
		return join(pick->base_url, "/openai/deployments/", pick->provider_model,
					"/chat/completions?api-version=2024-10-21");
	return join(pick->base_url, "/chat/completions", "", "");
}

char *
drive_key_header(const char *adapter, const DrivePick *pick)
{
	if (is(adapter, "anthropic"))
		return join("x-api-key: ", pick->secret, "", "");
	if (is(adapter, "gemini"))
		return join("x-goog-api-key: ", pick->secret, "", "");
	if (is(adapter, "azure"))
		return join("api-key: ", pick->secret, "", "");
	return join("Authorization: Bearer ", pick->secret, "", "");
}

json_t *
drive_body(const char *adapter, const DriveRequest *request, const DrivePick *pick)
{
	json_t	   *body;

	if (is(adapter, "gemini"))
		body = json_pack("{s:[{s:s, s:[{s:s}]}], s:{s:I}}", "contents", "role", "user", "parts", "text", "Why?",
						 "generationConfig", "maxOutputTokens", (json_int_t) pick->max_output);
	else
		body = json_pack("{s:s, s:I, s:[{s:s, s:s}]}", "model", pick->provider_model,
						 "max_tokens", (json_int_t) pick->max_output, "messages", "role", "user", "content", "Why?");
	json_object_set_new(body, "simulate", json_pack("{s:I, s:I}", "input_tokens", (json_int_t) request->input,
													"output_tokens", (json_int_t) request->output));
	return body;
}

/* What the answer says was used, as the provider says it. */
void
drive_read_usage(DriveAnswer *answer)
{
	json_t	   *body = json_loadb(answer->body, answer->length, 0, NULL);
	const json_t *usage = json_object_get(body, "usage");

	if (usage == NULL)
		usage = json_object_get(body, "usageMetadata");
	if (usage != NULL)
		answer->usage = json_dumps(usage, JSON_COMPACT);
	json_decref(body);
}
