/*
 * pick_set.c
 *	  llmquota_pick_set: picks for a set of calls of several orgs, fairly, in one statement.
 *
 * Who is next is the org with the fewest calls in flight relative to its weight, those of this set included; of
 * several, that whose next call was given first. Within an org the order is that of the set, and its first refusal is
 * that of all its calls behind it, except that a call which can never fit, or is one of a request that has its call,
 * keeps none of the others. When as many were granted as the caller wants, nobody asks for the others, and they are
 * not answered.
 *
 * To ask for every call by itself would be fair, and slow. So calls are asked for in turns. In one turn as many calls
 * are shared out among the orgs, by the order above, as the last grant has seen to fit the limits that orgs share; then
 * each org asks for its part in batches. When much is left that is one turn for all, with little left it is one call at
 * a time, and others that take room meanwhile can take it from the last in a turn only.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "args.h"
#include "batch.h"
#include "once.h"

PG_FUNCTION_INFO_V1(llmquota_pick_set);

/* Arguments of llmquota_pick_set(). */
enum
{
	ARG_ROUTE, ARG_ORGS, ARG_INPUT_TOKENS, ARG_MAX_OUTPUT_TOKENS, ARG_PRIORITY, ARG_EXCLUDE, ARG_SESSIONS,
	ARG_REQUEST_IDS, ARG_TTL_MS, ARG_PROMPTS, ARG_MAX_COSTS, ARG_AT_MOST, NARGS
};

/* Where an argument of llmquota_pick() comes from: an argument of the set, or the call's element of one. */
typedef struct Source
{
	int			arg;
	Oid			element;		/* invalid: the same for all calls */
} Source;

static const Source sources[] = {
	[LLMQ_PICK_ROUTE] = {ARG_ROUTE},
	[LLMQ_PICK_ORG] = {ARG_ORGS, TEXTOID},
	[LLMQ_PICK_INPUT_TOKENS] = {ARG_INPUT_TOKENS, INT8OID},
	[LLMQ_PICK_MAX_OUTPUT_TOKENS] = {ARG_MAX_OUTPUT_TOKENS, INT8OID},
	[LLMQ_PICK_PRIORITY] = {ARG_PRIORITY},
	[LLMQ_PICK_EXCLUDE] = {ARG_EXCLUDE},
	[LLMQ_PICK_SESSION] = {ARG_SESSIONS, TEXTOID},
	[LLMQ_PICK_REQUEST_ID] = {ARG_REQUEST_IDS, TEXTOID},
	[LLMQ_PICK_TTL_MS] = {ARG_TTL_MS},
	[LLMQ_PICK_PROMPT] = {ARG_PROMPTS, TEXTOID},
	[LLMQ_PICK_RETRY_OF] = {LLMQ_NO_ARG},
	[LLMQ_PICK_MAX_COST] = {ARG_MAX_COSTS, NUMERICOID},
};

/* An argument that has an element for each call. */
typedef struct Elements
{
	Datum	   *values;			/* NULL: it was not given */
	bool	   *nulls;
} Elements;

/* A call of the set. */
typedef struct Member
{
	LlmqCall	call;
	int			next;			/* of the same org; -1: none */
} Member;

/* The calls of an org. */
typedef struct Caller
{
	LlmqPick	request;		/* what they have in common */
	int			first;			/* the next one; -1: none is left */
	int			last;
	int			left;
	int			share;			/* of them, in this turn */
	int64		in_flight;
} Caller;

typedef struct Set
{
	LlmqBatch	batch;
	int			ncalls;
	Elements	elements[NARGS];
	Member	   *member;
	struct names_hash *by_org;
	int			ncallers;
	Caller	  **caller;			/* by their first calls */
	binaryheap *line;			/* whose turn it is */
	int			left;			/* calls that nobody has asked for */
	int			wanted;			/* so many more are to be granted at most */
	int64		room;			/* for so many, as far as is known */
	LlmqPick	pick;			/* the last one */
} Set;

static const char *const argument_names[NARGS] = {
	[ARG_ORGS] = "orgs",[ARG_INPUT_TOKENS] = "input_tokens",[ARG_MAX_OUTPUT_TOKENS] = "max_output_tokens",
	[ARG_SESSIONS] = "sessions",[ARG_REQUEST_IDS] = "request_ids",[ARG_PROMPTS] = "prompts",
	[ARG_MAX_COSTS] = "max_costs"
};

/* Takes an argument apart that has an element for each call; returns how many. */
static int
read_elements(FunctionCallInfo fcinfo, const Source *source, Elements *elements)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(source->arg);
	int16		length;
	bool		by_value;
	char		alignment;
	int			n;

	get_typlenbyvalalign(source->element, &length, &by_value, &alignment);
	deconstruct_array(array, source->element, length, by_value, alignment, &elements->values, &elements->nulls, &n);
	return n;
}

/* Takes the arrays apart. Raises when they do not have an element for each of the orgs. */
static void
read_arrays(FunctionCallInfo fcinfo, Set *set)
{
	for (Size i = 0; i < lengthof(sources); i++)
	{
		const Source *source = &sources[i];
		int			n;

		if (!OidIsValid(source->element) || !llmq_arg_given(fcinfo, source->arg))
			continue;
		n = read_elements(fcinfo, source, &set->elements[source->arg]);
		if (source->arg == ARG_ORGS)
			set->ncalls = n;
		else if (n != set->ncalls)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s has %d elements, but orgs has %d", argument_names[source->arg], n, set->ncalls),
					 errhint("Pass an element for each call, NULL where it is not given, or no array.")));
	}
	if (set->ncalls > LLMQ_MOST_PICKS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("orgs has %d elements", set->ncalls),
				 errhint("Pick for at most %d calls at once.", LLMQ_MOST_PICKS)));
}

/* How many calls are to be granted at most. */
static int
read_at_most(FunctionCallInfo fcinfo)
{
	int			at_most = llmq_arg_int(fcinfo, ARG_AT_MOST, "at_most", 0, PG_INT32_MAX);

	return at_most == LLMQ_NOT_GIVEN ? PG_INT32_MAX : at_most;
}

/* The request for one call, as llmquota_pick() would be asked; the configuration is there already. */
static void
read_request(FunctionCallInfo fcinfo, const Set *set, int number, LlmqPick *pick)
{
	LOCAL_FCINFO(call, lengthof(sources));

	InitFunctionCallInfoData(*call, fcinfo->flinfo, lengthof(sources), fcinfo->fncollation, NULL, NULL);
	for (Size i = 0; i < lengthof(sources); i++)
	{
		int			arg = sources[i].arg;
		NullableDatum *to = &call->args[i];
		const Elements *elements = OidIsValid(sources[i].element) ? &set->elements[arg] : NULL;

		to->isnull = !llmq_arg_given(fcinfo, arg) || (elements != NULL && elements->nulls[number]);
		if (!to->isnull)
			to->value = elements != NULL ? elements->values[number] : fcinfo->args[arg].value;
	}
	llmq_pick_read_request(call, pick);
}

/* Adds a call to those of its org. */
static void
add_member(Set *set, int number, const LlmqPick *pick)
{
	Caller	   *caller = llmq_names_find(set->by_org, pick->org->subject.name);
	Member	   *member = &set->member[number];

	*member = (Member) {.call = llmq_batch_call(pick),.next = -1};
	if (caller == NULL)
	{
		caller = palloc0(sizeof(Caller));
		caller->request = *pick;
		caller->first = number;
		set->caller[set->ncallers++] = caller;
		llmq_names_put(set->by_org, pick->org->subject.name, caller);
	}
	else
		set->member[caller->last].next = number;
	caller->last = number;
	caller->left++;
}

/* Reads all calls: raises for what is wrong before anything is asked for. */
static void
read_set(FunctionCallInfo fcinfo, Set *set)
{
	LlmqCatalog *catalog = llmq_catalog();

	set->member = palloc(sizeof(Member) * set->ncalls);
	set->caller = palloc(sizeof(Caller *) * set->ncalls);
	set->by_org = llmq_names_create(CurrentMemoryContext);
	set->left = set->ncalls;
	for (int i = 0; i < set->ncalls; i++)
	{
		LlmqPick	pick = {.catalog = catalog};

		CHECK_FOR_INTERRUPTS();
		read_request(fcinfo, set, i, &pick);
		add_member(set, i, &pick);
	}
}

/* The most that a window of the org's concurrency counts; 0 where no quota has one. */
static int64
count_in_flight(LlmqPick *pick, LlmqLive *live, LlmqMeterState *scratch)
{
	LlmqMeters *meters = llmq_plan_meters(pick->catalog, &pick->org->subject, pick->route->step[0].choice[0].model);
	int64		most = 0;

	for (int i = 0; i < meters->n; i++)
	{
		if (!llmq_meter_read(live, meters->meter[i], scratch))
			continue;
		for (LlmqWindow *window = llmq_meter_first(scratch); window != NULL; window = llmq_meter_next(scratch, window))
			if (window->metric == LLMQ_METRIC_CONCURRENCY)
				most = Max(most, window->sum);
	}
	return most;
}

/* Finds out how many calls of each org are in flight. */
static void
look_at_orgs(Set *set)
{
	LlmqMeterState *scratch = palloc(LLMQ_MAX_STATE);
	LlmqLive	live;

	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, RowExclusiveLock);
	for (int i = 0; i < set->ncallers; i++)
		set->caller[i]->in_flight = count_in_flight(&set->caller[i]->request, &live, scratch);
	llmq_live_close(&live);
	pfree(scratch);
}

/* The heap's order: the greatest is whose turn it is. */
static int
compare_callers(Datum a, Datum b, void *arg)
{
	const Caller *left = (const Caller *) DatumGetPointer(a);
	const Caller *right = (const Caller *) DatumGetPointer(b);
	int64		of_left = (left->in_flight + left->share) * right->request.org->weight;
	int64		of_right = (right->in_flight + right->share) * left->request.org->weight;

	if (of_left != of_right)
		return of_left < of_right ? 1 : -1;
	return left->first < right->first ? 1 : -1;
}

/* Shares so many calls out among the orgs. */
static void
share_out(Set *set, int64 calls)
{
	binaryheap_reset(set->line);
	for (int i = 0; i < set->ncallers; i++)
	{
		set->caller[i]->share = 0;
		if (set->caller[i]->left > 0)
			binaryheap_add_unordered(set->line, PointerGetDatum(set->caller[i]));
	}
	binaryheap_build(set->line);
	for (; calls > 0 && !binaryheap_empty(set->line); calls--)
	{
		Caller	   *caller = (Caller *) DatumGetPointer(binaryheap_first(set->line));

		if (++caller->share == caller->left)
			(void) binaryheap_remove_first(set->line);
		else
			binaryheap_replace_first(set->line, PointerGetDatum(caller));
	}
}

/* Can two calls be asked for together? Not with different sessions, or for a request that has one call only. */
static bool
go_together(const Caller *caller, const LlmqCall *one, const LlmqCall *other)
{
	if (one->request_id != NULL || other->request_id != NULL)
		return false;
	if (caller->request.route->option->strategy != LLMQ_STICKY || one->session == other->session)
		return true;
	return one->session != NULL && other->session != NULL && strcmp(one->session, other->session) == 0;
}

/* The next calls of an org that can be asked for together. */
static int
next_calls(const Set *set, const Caller *caller, LlmqCall calls[LLMQ_MAX_BATCH])
{
	int			number = caller->first;
	int			n = 0;

	while (n < Min(caller->share, LLMQ_MAX_BATCH) &&
		   (n == 0 || go_together(caller, &calls[0], &set->member[number].call)))
	{
		calls[n++] = set->member[number].call;
		number = set->member[number].next;
	}
	return n;
}

/* Answers so many of an org's next calls by what the last pick said: each by its own lease, or all by the refusal. */
static void
answer(Set *set, Caller *caller, int calls)
{
	for (int i = 0; i < calls; i++)
	{
		llmq_batch_put(&set->batch, &set->pick, i, caller->first + 1);
		caller->first = set->member[caller->first].next;
	}
	caller->left -= calls;
	caller->share -= Min(calls, caller->share);
	set->left -= calls;
}

/* An org's first call has been refused. */
static void
answer_refusal(Set *set, Caller *caller)
{
	bool		only_this = llmq_once_answer(&set->pick) != LLMQ_ONCE_NONE ||
		llmq_refusal_status(&set->pick) == LLMQ_REFUSED_TOO_LARGE;

	answer(set, caller, only_this ? 1 : caller->left);
	/* what others are told meanwhile is not known: to each once what is its turn */
	set->room = set->ncallers;
}

/* Asks for an org's share of this turn. */
static void
ask(Set *set, Caller *caller)
{
	LlmqCall	calls[LLMQ_MAX_BATCH];

	while (caller->share > 0)
	{
		LlmqPick   *pick = &set->pick;

		*pick = caller->request;
		pick->nbatch = next_calls(set, caller, calls);
		pick->batch = calls;
		llmq_pick_take_call(pick, &calls[0]);
		if (!llmq_batch_ask(&set->batch, pick))
		{
			answer_refusal(set, caller);
			continue;
		}
		set->room = pick->room;
		caller->in_flight += pick->ngranted;
		set->wanted -= pick->ngranted;
		answer(set, caller, pick->ngranted);
	}
}

/*
 * llmquota_pick_set(route, orgs, input_tokens, max_output_tokens, priority, exclude, sessions, request_ids, ttl_ms,
 * prompts, max_costs, at_most)
 */
Datum
llmquota_pick_set(PG_FUNCTION_ARGS)
{
	Set			set = {0};

	llmq_cell_refuse_if_read_only("llmquota_pick_set()");
	llmq_batch_begin(fcinfo, "llmquota_pick_set", &set.batch);
	set.batch.placed = true;
	read_arrays(fcinfo, &set);
	set.wanted = read_at_most(fcinfo);
	if (set.ncalls == 0)
		return (Datum) 0;
	read_set(fcinfo, &set);
	if (set.ncallers > 1)
		look_at_orgs(&set);
	set.line = binaryheap_allocate(set.ncallers, compare_callers, NULL);
	set.room = 1;
	while (set.left > 0 && set.wanted > 0)
	{
		share_out(&set, Min(set.ncallers > 1 ? Max(set.room, 1) : set.left, set.wanted));
		for (int i = 0; i < set.ncallers; i++)
			ask(&set, set.caller[i]);
	}
	llmq_batch_end(&set.batch, &set.pick);
	return (Datum) 0;
}
