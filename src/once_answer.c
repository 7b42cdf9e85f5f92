/*
 * once_answer.c
 *	  What a pick is told whose request has a call already.
 *
 * Of a call in flight its lease and when that expires; of one that is done what the ledger says, or will say: the
 * record's transaction may not have ended, or have been rolled back.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "bill.h"
#include "jsonb_member.h"
#include "name.h"
#include "once.h"

const char *
llmq_once_status_text(LlmqOnceAnswer answer)
{
	return answer == LLMQ_ONCE_IN_FLIGHT ? "in_flight" : "duplicate";
}

/* The lease that the request has. */
pg_uuid_t
llmq_once_lease(const LlmqOnce *once)
{
	pg_uuid_t	uuid;

	llmq_lease_uuid(&once->lease_id, &uuid);
	return uuid;
}

/* A text of the ledger, where NULL is read as empty, or one that need not last until all members are there. */
static void
push_text(JsonbParseState **state, const char *name, const char *text)
{
	llmq_member_text(state, name, text == NULL || text[0] == '\0' ? NULL : pstrdup(text));
}

/* A number of tokens, which may not be known. */
static void
push_tokens(JsonbParseState **state, const char *name, int64 tokens)
{
	llmq_member_numeric(state, name, tokens == LLMQ_NO_TOKENS ? NULL : int64_to_numeric(tokens));
}

static void
push_time(JsonbParseState **state, const char *name, int64 at)
{
	char	   *text = palloc(MAXDATELEN + 1);

	llmq_member_text(state, name, JsonEncodeDateTime(text, TimestampTzGetDatum(at), TIMESTAMPTZOID, NULL));
}

static void
push_cost(JsonbParseState **state, Numeric cost, const char *currency)
{
	if (cost != NULL)
		cost = DatumGetNumeric(DirectFunctionCall1(numeric_trim_scale, NumericGetDatum(cost)));
	llmq_member_numeric(state, "cost", cost);
	push_text(state, "currency", cost == NULL ? NULL : currency);
}

/* A call of which the slot says how it ended. What it cost comes last: that may ask for the configuration anew. */
static void
push_slot(JsonbParseState **state, const LlmqLease *lease)
{
	const LlmqSettlement *settlement = &lease->slot.settlement;
	LlmqLedgerExtra nothing = {0};
	LlmqCost	cost;

	push_text(state, "status", llmq_outcome_text(settlement->outcome));
	push_text(state, "usage_source", llmq_usage_source_text(settlement->source));
	push_text(state, "model", llmq_name_text(lease->slot.model));
	push_tokens(state, "input_tokens", settlement->input);
	push_tokens(state, "output_tokens", settlement->output);
	push_time(state, "recorded_at", lease->slot.settled_at);
	llmq_bill_cost(lease, &nothing, &cost);
	push_cost(state, cost.known ? llmq_money_numeric(cost.amount) : NULL, cost.currency);
}

/* A call that the ledger knows. */
static void
push_row(JsonbParseState **state, const LlmqLedgerRow *row)
{
	push_text(state, "status", row->status);
	push_text(state, "usage_source", row->usage_source);
	push_text(state, "model", row->model);
	push_tokens(state, "input_tokens", row->input_tokens);
	push_tokens(state, "output_tokens", row->output_tokens);
	push_time(state, "recorded_at", row->recorded_at);
	push_cost(state, row->cost, row->currency);
}

/* The ledger may have been told the cost, which no slot knows. */
static void
push_outcome(JsonbParseState **state, LlmqOnce *once)
{
	if (once->in_slot)
		once->in_ledger = llmq_ledger_find(&once->lease_id, &once->row) &&
			strcmp(once->row.status, llmq_outcome_text(once->lease.slot.settlement.outcome)) == 0;
	if (once->in_ledger)
		push_row(state, &once->row);
	else if (once->in_slot)
		push_slot(state, &once->lease);
	else
		push_text(state, "status", NULL);
}

/* The column `refusal` of such an answer. The configuration may be another one after this. */
Datum
llmq_once_jsonb(const LlmqPick *pick)
{
	LlmqOnce   *once = pick->once;
	JsonbParseState *state = NULL;
	pg_uuid_t	uuid = llmq_once_lease(once);

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	llmq_member_text(&state, "request_id", pick->request_id);
	llmq_member_text(&state, "lease", llmq_uuid_text(&uuid));
	llmq_member_number(&state, "attempt", once->look.entry.attempt);
	if (once->answer == LLMQ_ONCE_IN_FLIGHT)
		push_time(&state, "expires_at", once->lease.slot.expires_at);
	else
		push_outcome(&state, once);
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}
