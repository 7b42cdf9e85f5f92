/*
 * retry.c
 *	  llmquota_retry, and what a pick needs to know of the attempt that it is a retry of.
 *
 * A retry is a record and then a pick, with the arguments that the first pick had: the slot of the attempt that failed
 * has them. Nothing is held while it is read; the grant looks at the slot again, under its lock, and counts itself
 * there. A slot that has gone has been retried, or the request's deadline has passed, and then there is no next
 * attempt. An error after the record takes back the ledger's row and nothing else, as any rollback of a record.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "ledger.h"
#include "name.h"
#include "pick.h"
#include "record.h"

PG_FUNCTION_INFO_V1(llmquota_retry);

static void
refuse_unknown(const pg_uuid_t *uuid)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("lease \"%s\" does not exist", llmq_uuid_text(uuid)),
			 errhint("Pass the lease of the attempt that failed, as llmquota_pick answered it.")));
}

static void
refuse_not_failed(const pg_uuid_t *uuid)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the call of lease \"%s\" has not failed", llmq_uuid_text(uuid)),
			 errhint("Only a call that was recorded as failed, or has expired, can be retried.")));
}

static void
refuse_unsettled(const pg_uuid_t *uuid)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("lease \"%s\" is not settled", llmq_uuid_text(uuid)),
			 errhint("Record how its call failed first, or use llmquota_retry().")));
}

/* The slot has another lease: what the ledger says. */
static void
find_in_ledger(LlmqRetry *retry)
{
	LlmqLedgerRow row;

	if (!llmq_ledger_find(&retry->id, &row) || !llmq_record_may_settle(row.org))
		refuse_unknown(&retry->uuid);
	if (strcmp(row.status, llmq_outcome_text(LLMQ_OUTCOME_ERROR)) != 0 &&
		strcmp(row.status, llmq_outcome_text(LLMQ_OUTCOME_EXPIRED)) != 0)
		refuse_not_failed(&retry->uuid);
	retry->gone = true;
	retry->org = row.org;
	retry->route = row.route;
}

static LlmqLeaseStanding
look(LlmqRetry *retry)
{
	LlmqLeaseStanding standing;
	LlmqLive	live;

	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, AccessShareLock);
	standing = llmq_record_look(&live, &retry->id, &retry->lease);
	llmq_live_close(&live);
	return standing;
}

/*
 * The attempt of this lease, which must have failed. Raises when it has not, or there is none that the role may know
 * of. To be called before the pick asks for the configuration.
 */
LlmqRetry *
llmq_retry_find(const pg_uuid_t *lease)
{
	LlmqRetry  *retry = palloc0(sizeof(LlmqRetry));
	LlmqLeaseStanding standing = LLMQ_LEASE_UNKNOWN;
	const char *route;
	uint8		outcome;

	retry->uuid = *lease;
	if (!llmq_lease_parse(lease, &retry->id))
		refuse_unknown(lease);
	standing = look(retry);
	if (standing == LLMQ_LEASE_LIVE)
		refuse_unsettled(lease);
	if (standing == LLMQ_LEASE_UNKNOWN)
	{
		find_in_ledger(retry);
		return retry;
	}
	outcome = retry->lease.slot.settlement.outcome;
	if (outcome != LLMQ_OUTCOME_ERROR && outcome != LLMQ_OUTCOME_EXPIRED)
		refuse_not_failed(lease);
	retry->org = pstrdup(llmq_name_text(retry->lease.slot.org));
	route = llmq_name_text(retry->lease.slot.route);
	retry->route = pstrdup(route);
	return retry;
}

/* The request_id that the attempt was picked with; NULL: none, or its slot has gone. */
const char *
llmq_retry_request_id(const LlmqRetry *retry)
{
	return retry->gone ? NULL : llmq_request_id(&retry->lease.slot);
}

/* Raises when the pick is for another org than the attempt that failed. */
void
llmq_retry_check_org(const LlmqRetry *retry, const LlmqPick *pick)
{
	if (strcmp(llmq_alias_now(pick->catalog, LLMQ_NAME_ORG, retry->org), pick->org->subject.name) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lease \"%s\" is of another org", llmq_uuid_text(&retry->uuid)),
				 errhint("Pass the org of the first pick.")));
}

/* The request of which the lease was an attempt. Its route may be gone meanwhile: that raises. */
static void
read_request(const pg_uuid_t *lease, LlmqPick *pick)
{
	memset(pick, 0, sizeof(LlmqPick));
	pick->retry = llmq_retry_find(lease);
	llmq_request_find_route(pick, pick->retry->org, pick->retry->route,
							"It was there for the first attempt. Record the failure with llmquota_record().");
	llmq_request_take(pick, &pick->retry->lease);
	llmq_pick_begin(pick);
}

/* Raises, before anything is changed, when the lease does not remember all that the first pick excluded. */
static void
refuse_too_many_names(const pg_uuid_t *lease)
{
	LlmqRetry	retry = {.uuid = *lease};

	if (!llmq_lease_parse(lease, &retry.id) || look(&retry) == LLMQ_LEASE_UNKNOWN)
		return;
	if (retry.lease.slot.history.terms & LLMQ_TERM_TOO_MANY)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the pick of lease \"%s\" excluded more names than a lease remembers", llmq_uuid_text(lease)),
				 errhint("Use llmquota_record(), and then llmquota_pick() with retry_of and exclude.")));
}

/*
 * llmquota_retry(lease, ...): llmquota_record() of a failure with the same arguments, and then llmquota_pick() with the
 * arguments that the first pick had, and retry_of.
 */
Datum
llmquota_retry(PG_FUNCTION_ARGS)
{
	LlmqPick	pick;

	llmq_cell_refuse_if_read_only("llmquota_retry()");
	llmq_pick_refuse_expansion(fcinfo, "llmquota_retry");
	if (!PG_ARGISNULL(0))
		refuse_too_many_names(PG_GETARG_UUID_P(0));
	llmq_record_failure(fcinfo);
	read_request(PG_GETARG_UUID_P(0), &pick);
	return llmq_pick_run(fcinfo, &pick);
}
