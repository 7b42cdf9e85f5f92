/*
 * batch.c
 *	  Picks for many calls in one statement: llmquota_pick_many, and what it shares with llmquota_pick_set.
 *
 * A batch is asked for in parts. Each is a pick that grants as many of the first calls as one lock of meters and lease
 * pages can take (grant.c), on the key that the route's strategy names now; so a batch goes on with another key where
 * one is full, and with a cheaper model where a budget has come to a step. The first refusal ends it: what was granted
 * stays granted. All of it is made durable at the end, before anybody is told.
 *
 * An error in the middle, such as a cancel, leaves what had been granted to expire: nobody was told of it.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "args.h"
#include "batch.h"

PG_FUNCTION_INFO_V1(llmquota_pick_many);

/* Arguments of llmquota_pick_many(). */
enum
{
	ARG_ROUTE, ARG_ORG, ARG_N, ARG_INPUT_TOKENS, ARG_MAX_OUTPUT_TOKENS, ARG_PRIORITY, ARG_EXCLUDE, ARG_SESSION,
	ARG_TTL_MS, ARG_PROMPT, ARG_MAX_COST
};

/* Those arguments of llmquota_pick() that a batch has, in their places there. */
static const int pick_args[] = {
	[LLMQ_PICK_ROUTE] = ARG_ROUTE,
	[LLMQ_PICK_ORG] = ARG_ORG,
	[LLMQ_PICK_INPUT_TOKENS] = ARG_INPUT_TOKENS,
	[LLMQ_PICK_MAX_OUTPUT_TOKENS] = ARG_MAX_OUTPUT_TOKENS,
	[LLMQ_PICK_PRIORITY] = ARG_PRIORITY,
	[LLMQ_PICK_EXCLUDE] = ARG_EXCLUDE,
	[LLMQ_PICK_SESSION] = ARG_SESSION,
	[LLMQ_PICK_REQUEST_ID] = LLMQ_NO_ARG,
	[LLMQ_PICK_TTL_MS] = ARG_TTL_MS,
	[LLMQ_PICK_PROMPT] = ARG_PROMPT,
	[LLMQ_PICK_RETRY_OF] = LLMQ_NO_ARG,
	[LLMQ_PICK_MAX_COST] = ARG_MAX_COST,
};

/*
 * Begins to put out answers. In a select list PostgreSQL would expand (f(...)).* into a batch for each column: there
 * such a function is refused, and it cannot be told from others.
 */
void
llmq_batch_begin(FunctionCallInfo fcinfo, const char *function, LlmqBatch *batch)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	if (result != NULL && IsA(result, ReturnSetInfo) && !(result->allowedModes & SFRM_Materialize_Preferred))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s(...) cannot be called in a select list", function),
				 errhint("Use SELECT * FROM %s(...).", function)));
	InitMaterializedSRF(fcinfo, 0);
	memset(batch, 0, sizeof(LlmqBatch));
	batch->result = result;
	batch->context = AllocSetContextCreate(CurrentMemoryContext, "llmquota batch", ALLOCSET_DEFAULT_SIZES);
	batch->expires_at = DT_NOEND;
}

/* What is a request's own in a batch. */
LlmqCall
llmq_batch_call(const LlmqPick *pick)
{
	return (LlmqCall) {
		.input_tokens = pick->input_tokens,.output_tokens = pick->output_tokens,.prompt = pick->prompt,
		.max_cost_given = pick->max_cost_given,.max_cost = pick->max_cost,.session = pick->session,
		.request_id = pick->request_id
	};
}

/* Asks for the pick's part of the batch. False: its first call is refused. */
bool
llmq_batch_ask(LlmqBatch *batch, LlmqPick *pick)
{
	MemoryContext caller;
	bool		granted;

	CHECK_FOR_INTERRUPTS();
	MemoryContextReset(batch->context);
	caller = MemoryContextSwitchTo(batch->context);
	granted = llmq_pick_try(pick);
	MemoryContextSwitchTo(caller);
	if (granted)
	{
		batch->expires_at = Min(batch->expires_at, pick->expires_at);
		batch->lsn = pick->lsn;
	}
	return granted;
}

/* Puts out the answer to one call: what was granted in its place, or the refusal. */
void
llmq_batch_put(const LlmqBatch *batch, const LlmqPick *pick, int number, int place)
{
	TupleDesc	desc = batch->result->setDesc;
	int			before = batch->placed ? 1 : 0;
	MemoryContext caller = MemoryContextSwitchTo(batch->context);
	Datum	   *values = palloc0(sizeof(Datum) * (Max(desc->natts, before + LLMQ_PICK_COLUMNS)));
	bool	   *nulls = palloc(sizeof(bool) * (Max(desc->natts, before + LLMQ_PICK_COLUMNS)));
	LlmqAnswer	answer;

	llmq_pick_answer(pick, number, &answer);
	memset(nulls, true, sizeof(bool) * desc->natts);
	values[0] = Int32GetDatum(place);
	nulls[0] = false;
	memcpy(values + before, answer.values, sizeof(answer.values));
	memcpy(nulls + before, answer.nulls, sizeof(answer.nulls));
	tuplestore_putvalues(batch->result->setResult, desc, values, nulls);
	MemoryContextSwitchTo(caller);
}

/* Ends a batch, of which this was the last pick. */
void
llmq_batch_end(LlmqBatch *batch, LlmqPick *pick)
{
	MemoryContextDelete(batch->context);
	pick->lsn = batch->lsn;
	llmq_pick_end(pick, batch->expires_at);
}

/* The request for one call, as llmquota_pick() would be asked. */
static void
read_request(FunctionCallInfo fcinfo, LlmqPick *pick)
{
	LOCAL_FCINFO(call, lengthof(pick_args));

	InitFunctionCallInfoData(*call, fcinfo->flinfo, lengthof(pick_args), fcinfo->fncollation, NULL, NULL);
	for (Size i = 0; i < lengthof(pick_args); i++)
	{
		call->args[i].isnull = !llmq_arg_given(fcinfo, pick_args[i]);
		if (!call->args[i].isnull)
			call->args[i].value = fcinfo->args[pick_args[i]].value;
	}
	llmq_pick_read(call, pick);
}

/* How many calls are to be made. */
static int
read_n(FunctionCallInfo fcinfo)
{
	int			n;

	if (!llmq_arg_given(fcinfo, ARG_N))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("n must not be NULL"),
				 errhint("Pass how many calls are to be made.")));
	n = PG_GETARG_INT32(ARG_N);
	if (n < 0 || n > LLMQ_MOST_PICKS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("n must be between 0 and %d, but is %d", LLMQ_MOST_PICKS, n),
				 errhint("Ask for more when these have been recorded.")));
	return n;
}

/*
 * llmquota_pick_many(route, org, n, input_tokens, max_output_tokens, priority, exclude, session, ttl_ms, prompt,
 * max_cost)
 */
Datum
llmquota_pick_many(PG_FUNCTION_ARGS)
{
	LlmqBatch	batch;
	LlmqPick	request;
	LlmqPick	pick;
	LlmqCall	calls[LLMQ_MAX_BATCH];
	bool		granted = true;
	int			left;

	llmq_cell_refuse_if_read_only("llmquota_pick_many()");
	llmq_batch_begin(fcinfo, "llmquota_pick_many", &batch);
	left = read_n(fcinfo);
	read_request(fcinfo, &request);
	for (int i = 0; i < LLMQ_MAX_BATCH; i++)
		calls[i] = llmq_batch_call(&request);
	pick = request;
	while (left > 0 && granted)
	{
		pick = request;
		pick.nbatch = Min(left, LLMQ_MAX_BATCH);
		pick.batch = calls;
		granted = llmq_batch_ask(&batch, &pick);
		for (int i = 0; i < Max(pick.ngranted, 1); i++)
			llmq_batch_put(&batch, &pick, i, 0);
		left -= pick.ngranted;
	}
	llmq_batch_end(&batch, &pick);
	return (Datum) 0;
}
