/*
 * once_answer.c
 *	  What a pick is told whose request has a call already.
 *
 * Of a call in flight its lease and when that expires; of one that is done what the ledger says, or will say: the
 * record's transaction may not have ended, or have been rolled back.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "bill.h"
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

static void
put_name(StringInfo json, const char *name)
{
	appendStringInfoString(json, json->len > 1 ? ", " : "");
	escape_json(json, name);
	appendStringInfoString(json, ": ");
}

static void
put_text(StringInfo json, const char *name, const char *text)
{
	put_name(json, name);
	if (text == NULL || text[0] == '\0')
		appendStringInfoString(json, "null");
	else
		escape_json(json, text);
}

/* A number of tokens, which may not be known. */
static void
put_tokens(StringInfo json, const char *name, int64 tokens)
{
	put_name(json, name);
	if (tokens == LLMQ_NO_TOKENS)
		appendStringInfoString(json, "null");
	else
		appendStringInfo(json, INT64_FORMAT, tokens);
}

static void
put_time(StringInfo json, const char *name, int64 at)
{
	char		text[MAXDATELEN + 1];

	put_text(json, name, JsonEncodeDateTime(text, TimestampTzGetDatum(at), TIMESTAMPTZOID, NULL));
}

static void
put_cost(StringInfo json, Numeric cost, const char *currency)
{
	put_name(json, "cost");
	appendStringInfoString(json, cost == NULL ? "null" : numeric_normalize(cost));
	put_text(json, "currency", cost == NULL ? NULL : currency);
}

/* A call of which the slot says how it ended. What it cost comes last: that may ask for the configuration anew. */
static void
put_slot(StringInfo json, const LlmqLease *lease)
{
	const LlmqSettlement *settlement = &lease->slot.settlement;
	LlmqLedgerExtra nothing = {0};
	LlmqCost	cost;

	put_text(json, "status", llmq_outcome_text(settlement->outcome));
	put_text(json, "usage_source", llmq_usage_source_text(settlement->source));
	put_text(json, "model", llmq_name_text(lease->slot.model));
	put_tokens(json, "input_tokens", settlement->input);
	put_tokens(json, "output_tokens", settlement->output);
	put_time(json, "recorded_at", lease->slot.settled_at);
	llmq_bill_cost(lease, &nothing, &cost);
	put_cost(json, cost.known ? llmq_money_numeric(cost.amount) : NULL, cost.currency);
}

/* A call that the ledger knows. */
static void
put_row(StringInfo json, const LlmqLedgerRow *row)
{
	put_text(json, "status", row->status);
	put_text(json, "usage_source", row->usage_source);
	put_text(json, "model", row->model);
	put_tokens(json, "input_tokens", row->input_tokens);
	put_tokens(json, "output_tokens", row->output_tokens);
	put_time(json, "recorded_at", row->recorded_at);
	put_cost(json, row->cost, row->currency);
}

/* The ledger may have been told the cost, which no slot knows. */
static void
put_outcome(StringInfo json, LlmqOnce *once)
{
	if (once->in_slot)
		once->in_ledger = llmq_ledger_find(&once->lease_id, &once->row) &&
			strcmp(once->row.status, llmq_outcome_text(once->lease.slot.settlement.outcome)) == 0;
	if (once->in_ledger)
		put_row(json, &once->row);
	else if (once->in_slot)
		put_slot(json, &once->lease);
	else
		put_text(json, "status", NULL);
}

/* The column `refusal` of such an answer. The configuration may be another one after this. */
Datum
llmq_once_jsonb(const LlmqPick *pick)
{
	LlmqOnce   *once = pick->once;
	StringInfoData json;
	pg_uuid_t	uuid = llmq_once_lease(once);

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	put_text(&json, "request_id", pick->request_id);
	put_text(&json, "lease", DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&uuid))));
	put_tokens(&json, "attempt", once->look.entry.attempt);
	if (once->answer == LLMQ_ONCE_IN_FLIGHT)
		put_time(&json, "expires_at", once->lease.slot.expires_at);
	else
		put_outcome(&json, once);
	appendStringInfoChar(&json, '}');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}
