/*
 * pick.c
 *	  llmquota_pick: the right to make one call.
 *
 * Arguments are checked before anything is touched. A refusal is a row, never an error, and writes nothing but its
 * count. What a grant charges is not undone when the caller's transaction rolls back: the provider will have been paid.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "nodes/execnodes.h"
#include "nodes/nodeFuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "args.h"
#include "config_change.h"
#include "duration.h"
#include "name.h"
#include "once.h"
#include "pick.h"
#include "prompt.h"
#include "role.h"
#include "row.h"
#include "settle.h"
#include "wait.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(llmquota_pick);

/* More names than this to exclude is a mistake. */
#define MAX_EXCLUDE 1000

/* Columns of llmquota.pick_result, in their order. */
enum
{
	COL_STATUS, COL_LEASE, COL_KEY, COL_SECRET_REF, COL_ACCOUNT, COL_PROVIDER, COL_BASE_URL, COL_MODEL,
	COL_PROVIDER_MODEL, COL_ATTEMPT, COL_MAX_OUTPUT, COL_GRANTED_AT, COL_EXPIRES_AT, COL_RETRY_AFTER, COL_REFUSAL,
	COL_TIMEOUT, COL_DOWNGRADED,
	NCOLUMNS
};

StaticAssertDecl(NCOLUMNS == LLMQ_PICK_COLUMNS, "an answer has all columns");

/*
 * The last call from an expression, until the memory in which the expression is evaluated is reset: what two columns
 * of (llmquota_pick(...)).* have in common.
 */
typedef struct LastCall
{
	MemoryContext context;
	FmgrInfo   *flinfo;
	bool		granted;		/* a new lease, or a ticket */
	LlmqLeaseId lease;
} LastCall;

static LastCall last_call;

static void
forget_last_call(void *arg)
{
	last_call.context = NULL;
}

/*
 * Gives back what the first column's call was granted, or its ticket. Its ledger row is written by maintenance: this
 * call fails.
 */
static void
release_last_call(void)
{
	LlmqSettlement release = llmq_settlement_without_figures(LLMQ_OUTCOME_RELEASED, LLMQ_USAGE_NONE);
	LlmqBill	bill = {0};
	LlmqLive	live;
	LlmqLease	lease;

	if (llmq_ticket_release(&last_call.lease))
		return;
	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, RowExclusiveLock);
	if (llmq_lease_look(&live, &last_call.lease, &lease) == LLMQ_LEASE_LIVE)
		(void) llmq_lease_settle(&live, &last_call.lease, &release, &bill, &lease);
	llmq_live_close(&live);
}

/*
 * PostgreSQL expands (f(...)).* into one call for each column. A second call of the same text by another expression
 * while the same row is being evaluated is such an expansion.
 */
void
llmq_pick_refuse_expansion(FunctionCallInfo fcinfo, const char *function)
{
	MemoryContextCallback *callback;
	Node	   *call = fcinfo->flinfo->fn_expr;

	if (fcinfo->resultinfo != NULL || call == NULL)
		return;
	if (last_call.context == CurrentMemoryContext && last_call.flinfo != fcinfo->flinfo &&
		exprLocation(call) == exprLocation(last_call.flinfo->fn_expr) && equal(call, last_call.flinfo->fn_expr))
	{
		if (last_call.granted)
			release_last_call();
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("(%s(...)).* would call once for every column", function),
				 errhint("Use SELECT * FROM %s(...).", function)));
	}
	if (last_call.context != CurrentMemoryContext)
	{
		callback = palloc0(sizeof(MemoryContextCallback));
		callback->func = forget_last_call;
		MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	}
	last_call.context = CurrentMemoryContext;
	last_call.flinfo = fcinfo->flinfo;
	last_call.granted = false;
}

/* The priority of the request: what it says, else the org's. */
static LlmqPriority
read_priority(FunctionCallInfo fcinfo, const LlmqOrg *org)
{
	char	   *word = llmq_arg_text(fcinfo, LLMQ_PICK_PRIORITY);
	LlmqPriority priority = org->priority;

	if (word != NULL && !llmq_priority_named(word, &priority))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("priority \"%s\" is not known", word),
				 errhint("Priorities are \"high\", \"normal\" and \"low\".")));
	return priority;
}

static void
read_exclude(FunctionCallInfo fcinfo, LlmqPick *pick)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	if (!llmq_arg_given(fcinfo, LLMQ_PICK_EXCLUDE))
		return;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(LLMQ_PICK_EXCLUDE), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls,
					  &count);
	if (count > MAX_EXCLUDE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("exclude has %d elements", count),
				 errhint("Give at most %d names.", MAX_EXCLUDE)));
	pick->exclude = palloc(sizeof(char *) * Max(count, 1));
	for (int i = 0; i < count; i++)
		if (!nulls[i])
			pick->exclude[pick->nexclude++] = TextDatumGetCString(elements[i]);
}

/* What the caller says that the call costs at most. */
static void
read_max_cost(FunctionCallInfo fcinfo, LlmqPick *pick)
{
	pick->max_cost_given = llmq_arg_given(fcinfo, LLMQ_PICK_MAX_COST);
	if (pick->max_cost_given)
		pick->max_cost = llmq_arg_money(fcinfo, LLMQ_PICK_MAX_COST, "max_cost");
}

/* Whose request it is. */
static void
read_org(FunctionCallInfo fcinfo, LlmqPick *pick)
{
	pick->org = llmq_role_org(pick->catalog, llmq_arg_name(fcinfo, LLMQ_PICK_ORG, "org"));
}

static void
read_route(FunctionCallInfo fcinfo, LlmqPick *pick)
{
	char	   *name = llmq_arg_name(fcinfo, LLMQ_PICK_ROUTE, "route");

	pick->route = llmq_catalog_route(pick->catalog, name, pick->org->subject.name);
	if (pick->route == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("route \"%s\" does not exist", name),
				 errhint("A route is a name in llmquota.route, or that of a model in llmquota.model.")));
}

/* Has a batch's pick ask for one of its calls. Its demand is to be set anew. */
void
llmq_pick_take_call(LlmqPick *pick, const LlmqCall *call)
{
	pick->input_tokens = call->input_tokens;
	pick->output_tokens = call->output_tokens;
	pick->prompt = call->prompt;
	pick->max_cost_given = call->max_cost_given;
	pick->max_cost = call->max_cost;
	pick->session = call->session;
	pick->request_id = call->request_id;
	llmq_history_begin(pick);
}

/* What follows from a request that has been read. */
void
llmq_pick_begin(LlmqPick *pick)
{
	pick->demand.tentative = llmq_config_is_tentative();
	llmq_verdict_init(&pick->refusal);
	llmq_history_begin(pick);
}

/* Takes the request out of the arguments; its catalog is there. Raises for what is wrong. */
void
llmq_pick_read_request(FunctionCallInfo fcinfo, LlmqPick *pick)
{
	read_org(fcinfo, pick);
	if (pick->retry != NULL)
		llmq_retry_check_org(pick->retry, pick);
	read_route(fcinfo, pick);
	pick->input_tokens = llmq_arg_tokens(fcinfo, LLMQ_PICK_INPUT_TOKENS, "input_tokens");
	pick->output_tokens = llmq_arg_tokens(fcinfo, LLMQ_PICK_MAX_OUTPUT_TOKENS, "max_output_tokens");
	if (pick->input_tokens == LLMQ_NOT_GIVEN)
		llmq_prompt_read(fcinfo, LLMQ_PICK_PROMPT, "prompt", &pick->prompt);
	pick->priority = read_priority(fcinfo, pick->org);
	read_exclude(fcinfo, pick);
	read_max_cost(fcinfo, pick);
	pick->session = llmq_arg_label(fcinfo, LLMQ_PICK_SESSION, "session");
	pick->request_id = llmq_arg_label(fcinfo, LLMQ_PICK_REQUEST_ID, "request_id");
	if (pick->request_id == NULL && pick->retry != NULL)
		pick->request_id = llmq_retry_request_id(pick->retry);
	pick->ttl_ms = llmq_arg_int(fcinfo, LLMQ_PICK_TTL_MS, "ttl_ms", 1, LLMQ_MAX_TTL_MS);
	if (pick->ttl_ms == LLMQ_NOT_GIVEN)
		pick->ttl_ms = Max(pick->catalog->settings.lease_ttl_ms, pick->route->option->deadline_ms);
	pick->wait_ms = llmq_arg_int(fcinfo, LLMQ_PICK_WAIT_MS, "wait_ms", 0, LLMQ_MAX_WAIT_MS);
	pick->queue = llmq_arg_given(fcinfo, LLMQ_PICK_QUEUE) && PG_GETARG_BOOL(LLMQ_PICK_QUEUE);
	llmq_pick_begin(pick);
}

/* Takes the request out of the arguments of llmquota_pick(). Nothing has been changed when this raises. */
void
llmq_pick_read(FunctionCallInfo fcinfo, LlmqPick *pick)
{
	memset(pick, 0, sizeof(LlmqPick));
	if (llmq_arg_given(fcinfo, LLMQ_PICK_RETRY_OF))
		pick->retry = llmq_retry_find(PG_GETARG_UUID_P(LLMQ_PICK_RETRY_OF));
	pick->catalog = llmq_catalog();
	llmq_pick_read_request(fcinfo, pick);
}

/*
 * How long to wait for the answer, in milliseconds: as long as calls like it take, within the request's deadline and
 * the lease's life.
 */
static int32
timeout_ms(const LlmqPick *pick)
{
	int64		deadline = pick->granted_at + pick->route->option->deadline_ms * INT64CONST(1000);
	int64		timeout = llmq_call_timeout(pick->pace, pick->attempt, pick->granted_at);

	if (pick->retry != NULL)
		deadline = pick->retry->deadline;
	timeout = Min(timeout, Min(deadline, pick->expires_at) - pick->granted_at);
	return (int32) Max(timeout / 1000, 1);
}

/* The row of one of the leases that were granted. */
static void
grant_columns(const LlmqPick *pick, const LlmqGranted *granted, LlmqAnswer *answer)
{
	const LlmqKey *key = pick->key;
	Datum	   *values = answer->values;
	bool	   *nulls = answer->nulls;

	memset(nulls, false, sizeof(bool) * NCOLUMNS);
	llmq_lease_uuid(&granted->lease, &answer->lease);
	llmq_put_text(values, nulls, COL_STATUS, "granted");
	values[COL_LEASE] = UUIDPGetDatum(&answer->lease);
	llmq_put_text(values, nulls, COL_KEY, key->subject.name);
	llmq_put_text(values, nulls, COL_SECRET_REF, key->secret_ref);
	llmq_put_text(values, nulls, COL_ACCOUNT, key->account->subject.name);
	llmq_put_text(values, nulls, COL_PROVIDER, key->account->provider->subject.name);
	llmq_put_text(values, nulls, COL_BASE_URL, key->account->base_url);
	llmq_put_text(values, nulls, COL_MODEL, pick->model->name);
	llmq_put_text(values, nulls, COL_PROVIDER_MODEL, pick->model->provider_model);
	values[COL_ATTEMPT] = Int32GetDatum(pick->attempt);
	values[COL_MAX_OUTPUT] = Int32GetDatum(granted->output_tokens);
	values[COL_GRANTED_AT] = TimestampTzGetDatum(pick->granted_at);
	values[COL_EXPIRES_AT] = TimestampTzGetDatum(pick->expires_at);
	values[COL_TIMEOUT] = Int32GetDatum(timeout_ms(pick));
	values[COL_DOWNGRADED] = BoolGetDatum(pick->downgrade.requested != NULL);
	nulls[COL_RETRY_AFTER] = true;
	nulls[COL_REFUSAL] = true;
}

static void
refusal_columns(const LlmqPick *pick, Datum *values, bool *nulls)
{
	int32		retry_ms = llmq_refusal_retry_ms(pick);

	memset(nulls, true, sizeof(bool) * NCOLUMNS);
	llmq_put_text(values, nulls, COL_STATUS, llmq_refusal_status_text(llmq_refusal_status(pick)));
	values[COL_RETRY_AFTER] = Int32GetDatum(retry_ms);
	nulls[COL_RETRY_AFTER] = retry_ms < 0;
	values[COL_REFUSAL] = llmq_refusal_jsonb(pick);
	nulls[COL_REFUSAL] = false;
}

/* The row of a ticket. */
static void
ticket_columns(const LlmqPick *pick, LlmqAnswer *answer)
{
	Datum	   *values = answer->values;
	bool	   *nulls = answer->nulls;

	refusal_columns(pick, values, nulls);
	llmq_lease_uuid(&pick->granted[0].lease, &answer->lease);
	llmq_put_text(values, nulls, COL_STATUS, "queued");
	values[COL_LEASE] = UUIDPGetDatum(&answer->lease);
	nulls[COL_LEASE] = false;
	values[COL_EXPIRES_AT] = TimestampTzGetDatum(pick->expires_at);
	nulls[COL_EXPIRES_AT] = false;
	values[COL_RETRY_AFTER] = Int32GetDatum(pick->return_ms);
	nulls[COL_RETRY_AFTER] = false;
}

/* Is it its request, and no limit, that has kept the pick from being granted? That is no refusal. */
static bool
is_repeated(const LlmqPick *pick)
{
	LlmqOnceAnswer answer = llmq_once_answer(pick);

	return answer == LLMQ_ONCE_IN_FLIGHT || answer == LLMQ_ONCE_DUPLICATE;
}

/* The row of such a pick. */
static void
once_columns(const LlmqPick *pick, LlmqAnswer *answer)
{
	const LlmqOnce *once = pick->once;
	const LlmqSlot *slot = &once->lease.slot;
	bool		in_flight = once->answer == LLMQ_ONCE_IN_FLIGHT;
	int64		left = slot->expires_at - GetCurrentTimestamp();
	Datum	   *values = answer->values;
	bool	   *nulls = answer->nulls;

	memset(nulls, true, sizeof(bool) * NCOLUMNS);
	llmq_put_text(values, nulls, COL_STATUS, llmq_once_status_text(once->answer));
	nulls[COL_LEASE] = nulls[COL_ATTEMPT] = nulls[COL_EXPIRES_AT] = nulls[COL_RETRY_AFTER] = !in_flight;
	answer->lease = llmq_once_lease(once);
	values[COL_LEASE] = UUIDPGetDatum(&answer->lease);
	values[COL_ATTEMPT] = Int32GetDatum(slot->attempt);
	values[COL_EXPIRES_AT] = TimestampTzGetDatum(slot->expires_at);
	values[COL_RETRY_AFTER] = Int32GetDatum(Max(llmq_milliseconds_up(left), 1));
	nulls[COL_REFUSAL] = false;
	values[COL_REFUSAL] = llmq_once_jsonb(pick);
}

/* The row of one of the leases, or when there are none of the ticket or the refusal. */
void
llmq_pick_answer(const LlmqPick *pick, int number, LlmqAnswer *answer)
{
	if (pick->ngranted > 0)
		grant_columns(pick, &pick->granted[number], answer);
	else if (is_repeated(pick))
		once_columns(pick, answer);
	else if (pick->queued)
		ticket_columns(pick, answer);
	else
		refusal_columns(pick, answer->values, answer->nulls);
}

/* Counts in the window that refused, if one did; the live tables are open. */
static void
count_in_window(LlmqPick *pick)
{
	if (!pick->no_slot)
		llmq_refusal_count_in_window(pick);
	pick->counted = true;
}

/* Looks for a candidate and charges it. Is there one? With `counts` it counts in the window when there is none. */
static bool
look_for(LlmqPick *pick, bool counts)
{
	bool		granted = false;

	pick->nwants = 0;
	pick->nfull = 0;
	pick->exhausted = llmq_history_is_over(pick);
	pick->counted = !pick->org->enabled || pick->exhausted;
	if (pick->counted)
		return false;
	pick->scratch = palloc(LLMQ_MAX_STATE);
	llmq_live_open(&pick->live, LLMQ_LIVE_LEASE + 1, RowExclusiveLock);
	llmq_health_look(&pick->live);
	granted = llmq_once_begin(pick) && llmq_choose(pick);
	if (!granted && counts)
		count_in_window(pick);
	llmq_live_close(&pick->live);
	pfree(pick->scratch);
	return granted;
}

/*
 * Looks for a candidate and charges it; counts the refusal when there is none. What was granted is not durable yet.
 */
bool
llmq_pick_try(LlmqPick *pick)
{
	bool		granted = look_for(pick, true);

	if (!granted && !is_repeated(pick))
		llmq_refusal_count(pick);
	return granted;
}

/* The same of a pick that may wait: its refusal is counted when it is answered. */
bool
llmq_pick_attempt(LlmqPick *pick)
{
	return look_for(pick, false);
}

/* Counts the refusal of a pick that could wait. */
static void
count_refusal(LlmqPick *pick)
{
	if (!pick->counted)
	{
		llmq_live_open(&pick->live, LLMQ_LIVE_LEASE + 1, RowExclusiveLock);
		count_in_window(pick);
		llmq_live_close(&pick->live);
	}
	llmq_refusal_count(pick);
}

/*
 * What a call ends with, when its answers have been made: its first lease expires then; DT_NOEND: it has none. The
 * configuration is not in use any more.
 */
void
llmq_pick_end(const LlmqPick *pick, int64 expires_at)
{
	llmq_cell_make_durable(pick->lsn);
	if (pick->demand.tentative)
		llmq_config_note_change();
	llmq_worker_look(expires_at);
	llmq_lease_end_noted();
}

/* Answers a call. What it was refused has been counted. */
static Datum
answer_call(FunctionCallInfo fcinfo, LlmqPick *pick)
{
	LlmqAnswer	answer;
	Datum		row;

	last_call.granted = pick->ticket == NULL && (pick->ngranted > 0 || pick->queued);
	last_call.lease = pick->granted[0].lease;
	llmq_pick_answer(pick, 0, &answer);
	row = llmq_result_row(fcinfo, answer.values, answer.nulls, NCOLUMNS);
	llmq_pick_end(pick, pick->ngranted > 0 ? pick->expires_at : DT_NOEND);
	return row;
}

/* Answers a call that could wait. */
Datum
llmq_pick_finish(FunctionCallInfo fcinfo, LlmqPick *pick)
{
	if (pick->ngranted == 0 && !pick->queued && !is_repeated(pick))
		count_refusal(pick);
	return answer_call(fcinfo, pick);
}

/* The answer about a ticket that nobody knows. */
Datum
llmq_pick_answer_unknown(FunctionCallInfo fcinfo)
{
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS];

	memset(nulls, true, sizeof(nulls));
	llmq_put_text(values, nulls, COL_STATUS, "unknown_lease");
	return llmq_result_row(fcinfo, values, nulls, NCOLUMNS);
}

/* Runs a pick whose request has been read, and makes its answer. */
Datum
llmq_pick_run(FunctionCallInfo fcinfo, LlmqPick *pick)
{
	(void) llmq_pick_try(pick);
	return answer_call(fcinfo, pick);
}

/* For a pick that waits: its arguments once more. */
static void
read_again(void *argument, LlmqPick *pick)
{
	llmq_pick_read(argument, pick);
}

/*
 * llmquota_pick(route, org, input_tokens, max_output_tokens, priority, exclude, session, request_id, ttl_ms, prompt,
 * retry_of, max_cost, wait_ms, queue)
 */
Datum
llmquota_pick(PG_FUNCTION_ARGS)
{
	LlmqPick	pick;

	llmq_cell_refuse_if_read_only("llmquota_pick()");
	llmq_pick_refuse_expansion(fcinfo, "llmquota_pick");
	llmq_pick_read(fcinfo, &pick);
	if (pick.wait_ms <= 0 && !pick.queue)
		return llmq_pick_run(fcinfo, &pick);
	if (!llmq_pick_attempt(&pick) && llmq_may_wait(&pick))
		llmq_wait_in_call(&pick, read_again, fcinfo);
	return llmq_pick_finish(fcinfo, &pick);
}
