/*
 * call.c
 *	  The life of a call: read, delayed, counted, served, answered.
 *
 * Where it has to wait, a step answers the instant at which the next is due;
 * the server suspends the connection until then.  Who cannot be told apart
 * from nobody (wrong secret, wrong path) is answered at once and not counted.
 * Takes sim_lock() itself.
 */
#include "simulator.h"

#include <stdlib.h>
#include <string.h>

static void
note_answer(SimCall *call)
{
	json_t	   *place;
	char		status[16];
	const char *path[] = {call->model ? call->model : "", call->key ? call->key->name : ""};

	if (call->account == NULL)
		return;
	place = call->account->answered;
	for (int i = 0; i < 2; i++)
	{
		if (json_object_get(place, path[i]) == NULL)
			json_object_set_new(place, path[i], json_object());
		place = json_object_get(place, path[i]);
	}
	strcpy(status, "cut");
	if (call->answer.cut == SIM_NO_CUT)
		snprintf(status, sizeof(status), "%d", call->answer.status);
	json_object_set_new(place, status, json_integer(json_integer_value(json_object_get(place, status)) + 1));
}

static void
set_body(SimAnswer *answer, json_t *body)
{
	if (answer->body != NULL)
		free(answer->body);
	answer->content_type = json_is_string(body) ? "text/html" : "application/json";
	answer->body = json_is_string(body) ? strdup(json_string_value(body)) : json_dumps(body, JSON_COMPACT);
	json_decref(body);
}

/* What faults say overrules what is true. */
static void
apply_effect(SimCall *call)
{
	const char *name;
	json_t	   *value;

	if (call->effect.status != 0)
		call->answer.status = call->effect.status;
	if (call->effect.body != NULL)
		set_body(&call->answer, json_incref(call->effect.body));
	json_object_foreach(call->effect.headers, name, value)
	{
		if (json_is_null(value))
			json_object_del(call->answer.headers, name);
		else
			json_object_set(call->answer.headers, name, value);
	}
	call->answer.cut = call->effect.cut;
}

static void
answer(SimCall *call, SimFailure failure)
{
	json_t	   *body = NULL;

	call->answer.headers = json_object();
	call->answer.status = 200;
	if (call->account != NULL && call->model != NULL)
		call->wire->headers(call);
	body = failure == SIM_NO_FAILURE ? call->wire->answer(call) : call->wire->error(call, failure);
	set_body(&call->answer, body);
	apply_effect(call);
	call->stage = SIM_ANSWERED;
	note_answer(call);
	sim_log(call);
}

static void
wrong_path(SimCall *call)
{
	call->answer.headers = json_object();
	call->answer.status = 404;
	set_body(&call->answer, json_pack("{s:{s:s}}", "error", "message", "Unknown request URL"));
	call->stage = SIM_ANSWERED;
}

static int64_t
simulated(const json_t *wishes, const char *name, int64_t otherwise)
{
	const json_t *wish = json_object_get(wishes, name);

	return wish != NULL ? json_integer_value(wish) : otherwise;
}

/* A body may say what tokens it stands for, so that it can be small: {"simulate": {...}}. */
static void
read_wishes(SimCall *call)
{
	const json_t *wishes = json_object_get(call->body, "simulate");
	int64_t		latency = simulated(wishes, "latency_ms", -1);

	call->input = simulated(wishes, "input_tokens", call->input);
	call->cached = simulated(wishes, "cached_tokens", 0);
	call->cache_write = simulated(wishes, "cache_write_tokens", 0);
	call->output = simulated(wishes, "output_tokens", sim_random(1, call->max_output));
	if (call->output > call->max_output)
		call->output = call->max_output;
	call->reasoning = simulated(wishes, "reasoning_tokens", 0);
	call->latency = latency >= 0 ? latency * 1000 : -1;
}

static bool
has_model(const SimCall *call)
{
	size_t		index;
	json_t	   *model;

	json_array_foreach(call->account->models, index, model)
	{
		if (strcmp(json_string_value(model), call->model) == 0)
			return true;
	}
	return call->account->models == NULL;
}

static SimFailure
examine(SimCall *call, const char *path, const char *secret)
{
	if (!sim_find_key(call, secret))
		return SIM_AUTH;
	call->wire = call->account->wire;
	if (!call->wire->is_path(call, path))
		return SIM_NOT_FOUND;
	call->body = json_loadb(call->text, call->length, 0, NULL);
	if (!json_is_object(call->body) || !call->wire->read(call) || call->model == NULL || call->max_output < 1)
		return SIM_BAD_REQUEST;
	return has_model(call) ? SIM_NO_FAILURE : SIM_NOT_FOUND;
}

/*
 * The whole request is here.
 */
void
sim_call_read(SimCall *call, const char *path, const char *secret)
{
	static int64_t calls = 0;
	SimFailure	failure;

	sim_lock();
	call->id = ++calls;
	call->received = sim_now();
	call->wire = sim_wire_by_path(call, path);
	if (call->wire == NULL)
		wrong_path(call);
	else if ((failure = examine(call, path, secret)) != SIM_NO_FAILURE)
		answer(call, failure);
	else
	{
		read_wishes(call);
		sim_roll_faults(call);
	}
	sim_unlock();
}

/* Counted, or refused: how long it takes until it is answered. */
static int64_t
count(SimCall *call, int64_t now)
{
	const int64_t *latency = call->account->latency;

	call->stage = SIM_SERVED;
	if (call->effect.cut == SIM_CUT_BEFORE || call->effect.uncounted || !sim_admit(call, now))
		return call->effect.stall;
	if (call->effect.failure != SIM_NO_FAILURE)
		call->output = call->reasoning = 0;
	return call->effect.stall + (call->latency >= 0 ? call->latency : sim_random(latency[0], latency[1]));
}

static void
finish(SimCall *call, int64_t now)
{
	SimFailure	failure = call->effect.failure;
	int64_t		wait;

	if (sim_refusing(call, &wait) != NULL)
		failure = SIM_RATE;
	sim_settle(call, now);
	answer(call, failure);
}

static int64_t
step(SimCall *call, int64_t now)
{
	if (call->stage == SIM_READING)
	{
		call->stage = SIM_DELAYED;
		return sim_random(call->account->delay[0], call->account->delay[1]);
	}
	if (call->stage == SIM_DELAYED)
		return count(call, now);
	finish(call, now);
	return 0;
}

/*
 * What is due now.  When the next step is; 0: it has been answered.
 */
int64_t
sim_call_step(SimCall *call)
{
	int64_t		now;
	int64_t		wait = 0;

	sim_lock();
	now = sim_now();
	while (call->stage != SIM_ANSWERED && wait == 0)
		wait = step(call, now);
	sim_unlock();
	return wait > 0 ? now + wait : 0;
}

/*
 * The connection is done with it; perhaps because the client has gone.
 */
void
sim_call_free(SimCall *call)
{
	sim_lock();
	if (call->stage != SIM_ANSWERED && call->account != NULL)
	{
		sim_settle(call, sim_now());
		sim_log(call);
	}
	json_decref(call->body);
	json_decref(call->answer.headers);
	json_decref(call->effect.body);
	json_decref(call->effect.headers);
	sim_unlock();
	free(call->answer.body);
	free(call->model);
	free(call->text);
	free(call);
}
