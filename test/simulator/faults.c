/*
 * faults.c
 *	  What the simulator was told to do wrong, and to whose calls.
 *
 * Every fault that matches a call is rolled for it.  The first that says how
 * the call fails is obeyed; stalls add up, headers and cuts are the last's.
 * Callers hold sim_lock().
 */
#include "simulator.h"

#include <string.h>

typedef struct SimFault
{
	struct SimFault *next;
	json_t	   *config;
	double		share;
	int64_t		times;			/* how often it may still hit; -1: always */
	int64_t		hits;
	SimEffect	effect;
} SimFault;

static SimFault *faults = NULL;

/* Failures that providers find before they count. */
static bool
counts_by_nature(SimFailure failure)
{
	return failure == SIM_NO_FAILURE || failure == SIM_SERVER || failure == SIM_UNAVAILABLE || failure == SIM_TIMEOUT ||
		failure == SIM_CONTENT;
}

static bool
read_cut(const char *text, SimCut *cut)
{
	static const char *const names[] = {"", "before", "after", "body"};

	for (int i = 0; i < 4; i++)
	{
		if (strcmp(text, names[i]) == 0)
		{
			*cut = i;
			return true;
		}
	}
	return false;
}

static char *
read_fault(json_t *config, SimFault *fault)
{
	SimEffect  *effect = &fault->effect;
	const char *failure = "",
			   *cut = "";
	json_int_t	times = -1,
				stall_ms = 0;
	int			counted = -1;

	fault->share = 1;
	if (json_unpack(config, "{s?F, s?I, s?s, s?i, s?o, s?o, s?I, s?s, s?b}", "share", &fault->share, "times", &times,
					"failure", &failure, "status", &effect->status, "body", &effect->body, "headers", &effect->headers,
					"stall_ms", &stall_ms, "cut", &cut, "counted", &counted) < 0)
		return sim_format("a fault has a member of the wrong type");
	effect->failure = sim_failure_by_name(failure);
	if ((effect->failure == SIM_NO_FAILURE && *failure != '\0') || !read_cut(cut, &effect->cut))
		return sim_format("unknown failure or cut: %s %s", failure, cut);
	if (effect->status >= 400 && effect->failure == SIM_NO_FAILURE)
		effect->failure = SIM_SERVER;
	effect->uncounted = counted >= 0 ? !counted : !counts_by_nature(effect->failure);
	effect->stall = stall_ms * 1000;
	fault->times = times;
	fault->config = json_incref(config);
	return NULL;
}

/* Adds one fault, or an array of them.  What is wrong with them, malloced. */
char *
sim_add_faults(json_t *rows)
{
	size_t		index;
	json_t	   *row;

	json_array_foreach(rows, index, row)
	{
		SimFault   *fault = sim_allocate(sizeof(SimFault));
		SimFault  **end = &faults;
		char	   *wrong = read_fault(row, fault);

		if (wrong != NULL)
			return wrong;
		while (*end != NULL)
			end = &(*end)->next;
		*end = fault;
	}
	return NULL;
}

/* The faults themselves are kept: calls in flight point into their configuration. */
void
sim_clear_faults(void)
{
	static SimFault *cleared = NULL;

	while (faults != NULL)
	{
		SimFault   *fault = faults;

		faults = fault->next;
		fault->next = cleared;
		cleared = fault;
	}
}

/* Does the fault speak of this?  It does if it says nothing. */
static bool
speaks_of(const SimFault *fault, const char *what, const char *name)
{
	const json_t *wanted = json_object_get(fault->config, what);

	return wanted == NULL || strcmp(json_string_value(wanted), name) == 0;
}

static bool
hits(SimFault *fault, const SimCall *call)
{
	if (fault->times == 0 || !speaks_of(fault, "api", call->wire->name) ||
		!speaks_of(fault, "account", call->account->name) ||
		!speaks_of(fault, "key", call->key->name) || !speaks_of(fault, "model", call->model))
		return false;
	if (fault->share < 1 && sim_random(1, 1000000) > fault->share * 1000000)
		return false;
	fault->times -= fault->times > 0;
	fault->hits++;
	return true;
}

/* Does it say what the answer is? */
static bool
decides(const SimEffect *effect)
{
	return effect->failure != SIM_NO_FAILURE || effect->status != 0 || effect->body != NULL;
}

static void
add_effect(SimEffect *effect, const SimEffect *more)
{
	if (!decides(effect) && decides(more))
	{
		effect->failure = more->failure;
		effect->status = more->status;
		effect->body = json_incref(more->body);
		effect->uncounted = more->uncounted;
	}
	if (more->headers != NULL)
	{
		json_decref(effect->headers);
		effect->headers = json_incref(more->headers);
	}
	effect->stall += more->stall;
	if (more->cut != SIM_NO_CUT)
		effect->cut = more->cut;
}

/* Decides what will happen to a call. */
void
sim_roll_faults(SimCall *call)
{
	for (SimFault *fault = faults; fault != NULL; fault = fault->next)
	{
		if (hits(fault, call))
			add_effect(&call->effect, &fault->effect);
	}
}

/* The faults in force, and how often each has hit. */
json_t *
sim_fault_report(void)
{
	json_t	   *report = json_array();

	for (SimFault *fault = faults; fault != NULL; fault = fault->next)
		json_array_append_new(report, json_pack("{s:O, s:I}", "fault", fault->config,
												"hits", (json_int_t) fault->hits));
	return report;
}
