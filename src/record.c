/*
 * record.c
 *	  llmquota_record, llmquota_release and llmquota_renew: what callers say of a lease after the pick.
 *
 * The order of a record: the transaction gets its id, slot and meters change for good, the ledger row is inserted in
 * the caller's transaction. So a rollback takes back the row and nothing else, and the slot knows that it did.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "advice.h"
#include "args.h"
#include "bill.h"
#include "calibration.h"
#include "catalog.h"
#include "excess.h"
#include "feedback.h"
#include "ledger.h"
#include "name.h"
#include "pick.h"
#include "record.h"
#include "redact.h"
#include "role.h"
#include "row.h"
#include "settle.h"
#include "wait.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(llmquota_record);
PG_FUNCTION_INFO_V1(llmquota_release);
PG_FUNCTION_INFO_V1(llmquota_renew);

/* The longest latency and lease that are believed: 32 days. Lease times are bounded in pick.c too. */
#define MAX_LATENCY_MS PG_INT32_MAX

/* How often settling may be overtaken by somebody else. */
#define MAX_ROUNDS 100

/* Arguments of llmquota_record(), behind the lease and five figures; only ever appended. */
enum
{
	ARG_HTTP_STATUS = 6, ARG_ERROR, ARG_LATENCY, ARG_TAGS, ARG_USAGE, ARG_HEADERS, ARG_COST
};

/* Columns of llmquota.record_result, in their order. */
enum
{
	RECORD_STATUS, RECORD_USAGE_SOURCE, RECORD_ADVICE, RECORD_RETRY_AFTER, RECORD_COST, RECORD_CURRENCY, RECORD_NCOLUMNS
};

/* What came of an attempt to settle. */
typedef struct Settled
{
	const char *status;
	const char *usage_source;
	const char *advice;			/* NULL: nothing is known of the lease */
	int32		retry_after_ms; /* 0: not to be waited for */
	Numeric		cost;			/* NULL: not known */
	const char *currency;
} Settled;

/* What is said of the end of a lease. */
typedef struct Ending
{
	LlmqSettlement settlement;
	LlmqReport *report;			/* NULL: a release */
	LlmqLedgerExtra *extra;
} Ending;

/* Takes llmquota_record's figures out of its arguments. */
static void
read_figures(FunctionCallInfo fcinfo, LlmqSettlement *settlement)
{
	settlement->input = llmq_arg_tokens(fcinfo, 1, "input_tokens");
	settlement->output = llmq_arg_tokens(fcinfo, 2, "output_tokens");
	settlement->cached = llmq_arg_tokens(fcinfo, 3, "cached_tokens");
	settlement->cache_write = llmq_arg_tokens(fcinfo, 4, "cache_write_tokens");
	settlement->reasoning = llmq_arg_tokens(fcinfo, 5, "reasoning_tokens");
	llmq_report_usage(fcinfo, ARG_USAGE, settlement);

	if (Max(settlement->cached, 0) + (int64) Max(settlement->cache_write, 0) > Max(settlement->input, 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cached_tokens and cache_write_tokens exceed input_tokens"),
				 errhint("input_tokens is the whole input, what came from or went to the cache included.")));
	if (settlement->reasoning > Max(settlement->output, 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("reasoning_tokens exceed output_tokens"),
				 errhint("output_tokens is the whole output, reasoning included.")));
}

/* Decides from the arguments how the call ended: see "what a record says" in doc/reference.md. */
static void
read_settlement(FunctionCallInfo fcinfo, LlmqSettlement *settlement)
{
	int32		http_status = llmq_arg_int(fcinfo, ARG_HTTP_STATUS, "http_status", 100, 599);
	bool		has_error = !PG_ARGISNULL(ARG_ERROR);
	bool		success = http_status == LLMQ_NOT_GIVEN ? !has_error : http_status >= 200 && http_status <= 299;

	memset(settlement, 0, sizeof(LlmqSettlement));
	read_figures(fcinfo, settlement);
	settlement->http_status = http_status == LLMQ_NOT_GIVEN ? 0 : http_status;
	settlement->latency_ms = llmq_arg_int(fcinfo, ARG_LATENCY, "latency_ms", 0, MAX_LATENCY_MS);
	settlement->outcome = success ? LLMQ_OUTCOME_OK : LLMQ_OUTCOME_ERROR;
	settlement->answered = http_status != LLMQ_NOT_GIVEN;
	if (settlement->input != LLMQ_NO_TOKENS || settlement->output != LLMQ_NO_TOKENS ||
		(!success && settlement->answered))
		settlement->source = LLMQ_USAGE_REPORTED;
	else
		settlement->source = LLMQ_USAGE_RESERVED;
}

/* The cost as the caller knows it. */
static void
read_cost(FunctionCallInfo fcinfo, LlmqLedgerExtra *extra)
{
	extra->cost_given = llmq_arg_given(fcinfo, ARG_COST);
	if (extra->cost_given)
		extra->cost = llmq_arg_money(fcinfo, ARG_COST, "cost");
}

/* Everything beside figures that goes into the ledger. */
static void
read_extra(FunctionCallInfo fcinfo, const LlmqReport *report, LlmqLedgerExtra *extra)
{
	read_cost(fcinfo, extra);
	extra->error = NULL;
	if (report->error != NULL)
	{
		char	   *excerpt = palloc(LLMQ_EXCERPT_SIZE);

		llmq_redact(report->error, report->error_length, excerpt);
		extra->error = excerpt;
	}
	extra->tags = PG_ARGISNULL(ARG_TAGS) ? NULL : PG_GETARG_JSONB_P(ARG_TAGS);
	if (extra->tags != NULL && VARSIZE(extra->tags) > LLMQ_MAX_BODY)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("tags take more than %d bytes", LLMQ_MAX_BODY),
				 errhint("Store large documents elsewhere and tag the call with their identifier.")));
}

/*
 * As llmq_lease_look(). A grant that a crash cut short was answered to nobody, and maintenance takes it back; other
 * orgs' leases do not exist for a role that is bound to an org.
 */
LlmqLeaseStanding
llmq_record_look(LlmqLive *live, const LlmqLeaseId *id, LlmqLease *lease)
{
	LlmqCatalog *catalog = llmq_catalog();
	LlmqLeaseStanding standing = llmq_lease_look(live, id, lease);
	const LlmqSlot *slot = &lease->slot;

	if (standing == LLMQ_LEASE_LIVE && llmq_slot_unfinished(slot))
		return LLMQ_LEASE_UNKNOWN;
	if (standing != LLMQ_LEASE_UNKNOWN && !llmq_role_may_use(catalog, llmq_name_text(slot->org)))
		return LLMQ_LEASE_UNKNOWN;
	return standing;
}

/* May the role settle what the ledger has for this org, perhaps by a name of before? */
bool
llmq_record_may_settle(const char *org)
{
	LlmqCatalog *catalog = llmq_catalog();

	return llmq_role_may_use(catalog, llmq_alias_now(catalog, LLMQ_NAME_ORG, org));
}

/* Brings the ledger to what the slot says: corrects the row that the lease has there already, or adds one. */
static void
write_ledger(LlmqLeaseStanding standing, const LlmqLeaseId *id, const LlmqLease *lease, const LlmqLedgerExtra *extra)
{
	if (standing != LLMQ_LEASE_LIVE && llmq_ledger_correct(id, lease, extra))
		return;
	llmq_ledger_insert(id, lease, extra);
}

/*
 * Settles a lease whose slot has another lease by now: only the ledger knows it. An expired one gets its real figures
 * there, and what exceeds the reservation is charged.
 */
static void
settle_in_ledger(const LlmqLeaseId *id, const Ending *ending, Settled *settled)
{
	LlmqSettlement late = ending->settlement;
	LlmqLedgerRow row;
	LlmqCost	cost;

	if (!llmq_ledger_find(id, &row) || !llmq_record_may_settle(row.org))
		return;
	settled->status = "already_settled";
	settled->usage_source = row.usage_source;
	settled->advice = llmq_advice_text(late.outcome == LLMQ_OUTCOME_OK ? LLMQ_ADVICE_DONE : LLMQ_ADVICE_STOP);
	if (strcmp(row.status, "expired") != 0 || late.outcome == LLMQ_OUTCOME_RELEASED)
		return;
	late.source = LLMQ_USAGE_LATE;
	llmq_report_diagnose(ending->report, row.provider, &late);
	llmq_bill_late(&row, &late, ending->extra, &cost);
	if (llmq_ledger_correct_expired(id, &late, ending->extra, &cost))
	{
		llmq_charge_excess(&row, &late, &cost);
		settled->status = "settled_late";
		settled->usage_source = llmq_usage_source_text(late.source);
	}
}

/* Is a record of a lease in this standing a late one? One that was late and rolled back is late again. */
static bool
is_late(LlmqLeaseStanding standing, const LlmqSlot *slot, const LlmqSettlement *settlement)
{
	if (settlement->outcome == LLMQ_OUTCOME_RELEASED)
		return false;
	return standing == LLMQ_LEASE_EXPIRED ||
		(standing == LLMQ_LEASE_OPEN && slot->settlement.source == LLMQ_USAGE_LATE);
}

/*
 * One attempt to settle a lease in its slot, as far as it is live, open or (for a record) expired. False when it is
 * none of these, or somebody else was first; `standing` and `slot` say what it was.
 */
static bool
try_settle_in_slot(const LlmqLeaseId *id, Ending *ending, LlmqLease *lease, LlmqLeaseStanding *standing)
{
	LlmqSettlement *settlement = &ending->settlement;
	const LlmqSlot *slot = &lease->slot;
	LlmqBill	bill;
	LlmqLive	live;
	bool		done = false;

	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, RowExclusiveLock);
	*standing = llmq_record_look(&live, id, lease);
	if (is_late(*standing, slot, settlement))
		settlement->source = LLMQ_USAGE_LATE;
	if (*standing == LLMQ_LEASE_LIVE || *standing == LLMQ_LEASE_OPEN ||
		(*standing == LLMQ_LEASE_EXPIRED && settlement->source == LLMQ_USAGE_LATE))
	{
		if (ending->report != NULL)
			llmq_report_diagnose(ending->report, llmq_name_text(slot->provider), settlement);
		llmq_bill_make(lease, settlement, ending->extra, &bill);
		done = llmq_lease_settle(&live, id, settlement, &bill, lease);
	}
	llmq_live_close(&live);
	return done;
}

/* May another attempt succeed? Not when the lease is settled for good, or was never here. */
static bool
may_try_again(LlmqLeaseStanding standing, const LlmqSettlement *settlement)
{
	switch (standing)
	{
		case LLMQ_LEASE_LIVE:
		case LLMQ_LEASE_OPEN:
		case LLMQ_LEASE_EXPIRING:
			return true;
		case LLMQ_LEASE_EXPIRED:
			return settlement->outcome != LLMQ_OUTCOME_RELEASED;
		default:
			return false;
	}
}

/* Settles a lease in its slot, however often somebody else gets in between; waits for whoever is just expiring it. */
static bool
settle_in_slot(const LlmqLeaseId *id, Ending *ending, LlmqLease *lease, LlmqLeaseStanding *standing)
{
	for (int round = 0; round < MAX_ROUNDS; round++)
	{
		CHECK_FOR_INTERRUPTS();
		if (try_settle_in_slot(id, ending, lease, standing))
			return true;
		if (!may_try_again(*standing, &ending->settlement))
			return false;
		if (*standing == LLMQ_LEASE_EXPIRING)
			XactLockTableWait(XidFromFullTransactionId(FullTransactionIdFromU64(lease->slot.settled_by)), NULL,
							  NULL, XLTW_None);
	}
	elog(ERROR, "lease keeps changing");
}

/* Learns from how the call went; not again from a record that is repeated because its transaction had failed. */
static void
learn(const LlmqLeaseId *id, const LlmqSlot *slot, const LlmqReport *report)
{
	LlmqLive	live;

	llmq_live_open(&live, LLMQ_LIVE_HEALTH + 1, RowExclusiveLock);
	if (llmq_live_has(&live, LLMQ_LIVE_HEALTH))
	{
		llmq_feedback(&live, id, slot, report);
		llmq_model_tokens_learn(&live, slot, llmq_catalog()->settings.default_input_tokens);
	}
	llmq_live_close(&live);
}

/* What the ledger says that the lease cost. */
static void
answer_cost(const LlmqLeaseId *id, Settled *settled)
{
	LlmqLedgerRow row;

	if (!llmq_ledger_find(id, &row))
		return;
	settled->cost = row.cost;
	settled->currency = row.currency;
}

/* What the caller should do next, now that the call has failed as this record says. */
static void
advise(const LlmqSlot *slot, const Ending *ending, Settled *settled)
{
	const LlmqDiagnosis *diagnosis = &ending->report->diagnosis;
	TimestampTz now = ending->report->diagnosed_at;
	LlmqSlot	ended = *slot;
	LlmqLive	live;
	LlmqSituation situation = {
		.failure = diagnosis->kind,.retryable = diagnosis->retryable,.attempt = slot->attempt,
		.left = slot->granted_at + slot->history.deadline_ms * INT64CONST(1000) - now,
		.random = pg_prng_double(&pg_global_prng_state)
	};

	ended.settlement = ending->settlement;
	if (diagnosis->until_kind == LLMQ_UNTIL_TIME)
		situation.named = Max(diagnosis->until - now, 0);
	else if (diagnosis->until_kind != LLMQ_UNTIL_NONE)
		situation.retryable = false;	/* not before the request's deadline */
	if (situation.left > 0)
	{
		llmq_live_open(&live, LLMQ_LIVE_HEALTH + 1, RowExclusiveLock);
		situation.alternative = llmq_alternative(&live, &ended);
		llmq_live_close(&live);
	}
	settled->advice = llmq_advice_text(llmq_advise(&situation, &settled->retry_after_ms));
}

/* Writes the ledger row of a lease that was settled in its slot, learns from it, and says what came of it. */
static void
complete(LlmqLeaseStanding standing, const LlmqLeaseId *id, const LlmqLease *lease, const Ending *ending,
		 Settled *settled)
{
	LlmqCost	cost;

	write_ledger(standing, id, lease, ending->extra);
	if (standing != LLMQ_LEASE_OPEN)
		learn(id, &lease->slot, ending->report);
	/* the caller is told now, whatever becomes of a transaction that goes on */
	if (IsTransactionBlock() || IsSubTransaction())
		llmq_cell_make_durable(XactLastRecEnd);
	settled->status = ending->settlement.source == LLMQ_USAGE_LATE ? "settled_late" : "settled";
	settled->usage_source = llmq_usage_source_text(ending->settlement.source);
	llmq_bill_cost(lease, ending->extra, &cost);
	settled->cost = cost.known ? llmq_money_numeric(cost.amount) : NULL;
	settled->currency = pstrdup(cost.currency);
}

/*
 * Settles a lease and writes its ledger row. A record may come after expiry, and is then settled late; a release may
 * not.
 */
static void
settle(const pg_uuid_t *uuid, Ending *ending, Settled *settled)
{
	LlmqLeaseId id;
	LlmqLease	lease;
	LlmqLeaseStanding standing;

	settled->status = "unknown_lease";
	settled->usage_source = NULL;
	settled->advice = NULL;
	settled->retry_after_ms = 0;
	settled->cost = NULL;
	if (!llmq_lease_parse(uuid, &id))
		return;
	if (settle_in_slot(&id, ending, &lease, &standing))
		complete(standing, &id, &lease, ending, settled);
	else if (standing == LLMQ_LEASE_UNKNOWN)
	{
		settle_in_ledger(&id, ending, settled);
		if (strcmp(settled->status, "unknown_lease") != 0)
			answer_cost(&id, settled);
	}
	else
	{
		settled->status = "already_settled";
		settled->usage_source = llmq_usage_source_text(lease.slot.settlement.source);
		answer_cost(&id, settled);
		if (ending->report != NULL)
			llmq_report_diagnose(ending->report, llmq_name_text(lease.slot.provider), &ending->settlement);
	}
	if (ending->report == NULL || standing == LLMQ_LEASE_UNKNOWN)
		return;
	if (ending->settlement.outcome == LLMQ_OUTCOME_ERROR)
		advise(&lease.slot, ending, settled);
	else
		settled->advice = llmq_advice_text(LLMQ_ADVICE_DONE);
}

/* The lease argument, which must be given. */
static pg_uuid_t *
lease_argument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("lease must not be NULL"),
				 errhint("Pass the lease that llmquota_pick answered; a refused pick has none to record.")));
	return PG_GETARG_UUID_P(0);
}

/* Settles what record's arguments say. */
static void
record(FunctionCallInfo fcinfo, Settled *settled)
{
	pg_uuid_t  *uuid = lease_argument(fcinfo);
	LlmqReport	report;
	LlmqLedgerExtra extra;
	Ending		ending = {.report = &report,.extra = &extra};

	read_settlement(fcinfo, &ending.settlement);
	llmq_report_read(fcinfo, ARG_ERROR, ARG_HEADERS, &report);
	read_extra(fcinfo, &report, &extra);
	settle(uuid, &ending, settled);
}

/*
 * llmquota_record(lease, input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens,
 * http_status, error, latency_ms, tags, usage, headers)
 */
Datum
llmquota_record(PG_FUNCTION_ARGS)
{
	Settled		settled;
	Datum		values[RECORD_NCOLUMNS];
	bool		nulls[RECORD_NCOLUMNS] = {false};

	llmq_cell_refuse_if_read_only("llmquota_record()");
	record(fcinfo, &settled);

	llmq_put_text(values, nulls, RECORD_STATUS, settled.status);
	llmq_put_text(values, nulls, RECORD_ADVICE, settled.advice);
	values[RECORD_RETRY_AFTER] = Int32GetDatum(settled.retry_after_ms);
	nulls[RECORD_RETRY_AFTER] = settled.retry_after_ms == 0;
	values[RECORD_COST] = NumericGetDatum(settled.cost);
	nulls[RECORD_COST] = settled.cost == NULL;
	llmq_put_text(values, nulls, RECORD_CURRENCY, settled.cost == NULL ? NULL : settled.currency);
	llmq_put_text(values, nulls, RECORD_USAGE_SOURCE, settled.usage_source);
	llmq_worker_look(DT_NOEND);
	PG_RETURN_DATUM(llmq_result_row(fcinfo, values, nulls, lengthof(values)));
}

/*
 * Records a failure, for a function that has llmquota_record's arguments as its first; what was recorded before stands.
 * Raises for a success: there is nothing to retry.
 */
void
llmq_record_failure(FunctionCallInfo fcinfo)
{
	int32		http_status = llmq_arg_int(fcinfo, ARG_HTTP_STATUS, "http_status", 100, 599);
	Settled		settled;

	if (http_status == LLMQ_NOT_GIVEN ? PG_ARGISNULL(ARG_ERROR) : http_status >= 200 && http_status <= 299)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a call that has not failed cannot be retried"),
				 errhint("Pass http_status or error of the failure; record a success with llmquota_record().")));
	record(fcinfo, &settled);
}

/* llmquota_release(lease): the call was not made; or will not be, of a ticket. */
Datum
llmquota_release(PG_FUNCTION_ARGS)
{
	LlmqLeaseId id;
	pg_uuid_t  *uuid = lease_argument(fcinfo);
	LlmqLedgerExtra extra = {0};
	Ending		ending = {.extra = &extra};
	Settled		settled;

	llmq_cell_refuse_if_read_only("llmquota_release()");
	if (llmq_lease_parse(uuid, &id) && llmq_ticket_release(&id))
		PG_RETURN_TEXT_P(cstring_to_text("released"));
	ending.settlement = llmq_settlement_without_figures(LLMQ_OUTCOME_RELEASED, LLMQ_USAGE_NONE);
	settle(uuid, &ending, &settled);
	PG_RETURN_TEXT_P(cstring_to_text(strcmp(settled.status, "settled") == 0 ? "released" : settled.status));
}

/* llmquota_renew(lease, ttl_ms): the call takes longer. NULL: the lease is no longer live. */
Datum
llmquota_renew(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *uuid = lease_argument(fcinfo);
	int32		ttl_ms = llmq_arg_int(fcinfo, 1, "ttl_ms", 1, LLMQ_MAX_TTL_MS);
	LlmqLeaseId id;
	LlmqLive	live;
	LlmqLease	lease;
	bool		renewed = false;

	llmq_cell_refuse_if_read_only("llmquota_renew()");
	if (ttl_ms == LLMQ_NOT_GIVEN)
		ttl_ms = llmq_catalog()->settings.lease_ttl_ms;
	if (!llmq_lease_parse(uuid, &id))
		PG_RETURN_NULL();
	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, RowExclusiveLock);
	for (int round = 0; !renewed && round < MAX_ROUNDS; round++)
	{
		if (llmq_record_look(&live, &id, &lease) != LLMQ_LEASE_LIVE ||
			lease.slot.expires_at <= GetCurrentTimestamp())
			break;
		renewed = llmq_lease_extend(&live, &id, ttl_ms * INT64CONST(1000), &lease.slot);
	}
	if (renewed)
		llmq_feedback_renewed(&live, &lease.slot);
	llmq_live_close(&live);
	if (!renewed)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(lease.slot.expires_at);
}
