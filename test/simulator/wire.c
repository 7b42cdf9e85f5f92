/*
 * wire.c
 *	  The wire formats there are, and the failures they can tell of.
 */
#include "simulator.h"

#include <string.h>

static const SimWire *const wires[] = {&sim_openai, &sim_groq, &sim_mistral, &sim_azure, &sim_anthropic, &sim_gemini};

static const char *const failures[SIM_FAILURES] = {
	[SIM_NO_FAILURE] = "none", [SIM_RATE] = "rate", [SIM_CAPACITY] = "capacity", [SIM_BILLING] = "billing",
	[SIM_SPEND_CAP] = "spend_cap", [SIM_SPEND_LIMIT] = "spend_limit", [SIM_OVERLOADED] = "overloaded",
	[SIM_UNAVAILABLE] = "unavailable", [SIM_SERVER] = "server", [SIM_TIMEOUT] = "timeout", [SIM_AUTH] = "auth",
	[SIM_FORBIDDEN] = "forbidden", [SIM_NOT_FOUND] = "not_found", [SIM_BAD_REQUEST] = "bad_request",
	[SIM_CONTENT] = "content"
};

const SimWire *
sim_wire_by_name(const char *name)
{
	for (size_t i = 0; i < sizeof(wires) / sizeof(wires[0]); i++)
	{
		if (strcmp(wires[i]->name, name) == 0)
			return wires[i];
	}
	return NULL;
}

/* The first that has such a path: who answers when nobody knows the key. */
const SimWire *
sim_wire_by_path(SimCall *call, const char *path)
{
	for (size_t i = 0; i < sizeof(wires) / sizeof(wires[0]); i++)
	{
		if (wires[i]->is_path(call, path))
			return wires[i];
	}
	return NULL;
}

/* SIM_NO_FAILURE if there is none of that name. */
SimFailure
sim_failure_by_name(const char *name)
{
	for (int i = SIM_NO_FAILURE + 1; i < SIM_FAILURES; i++)
	{
		if (strcmp(failures[i], name) == 0)
			return i;
	}
	return SIM_NO_FAILURE;
}

const char *
sim_failure_name(SimFailure failure)
{
	return failures[failure];
}
