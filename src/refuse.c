/*
 * refuse.c
 *	  Refusals: which limit binds, and what is answered. How they are counted is in refusal_count.c.
 *
 * Within a candidate the latest of the limits that refuse binds, over candidates the earliest. A refusal locks nothing.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "classify.h"
#include "duration.h"
#include "jsonb_member.h"
#include "name.h"
#include "once.h"
#include "pick.h"
#include "role.h"
#include "spread.h"

/* When nothing says when to come back: configuration has to change, or a lease has to end. Milliseconds. */
#define RETRY_CONFIGURATION 30000
#define RETRY_SLOT 1000

/* Notes what refuses, for the line: a meter, or something else. */
void
llmq_want_note(LlmqPick *pick, const LlmqVerdict *verdict)
{
	int32		meter = verdict->meter == NULL ? LLMQ_WANT_OTHER : verdict->meter->id;

	for (int i = 0; i < pick->nwants; i++)
		if (pick->want[i] == meter)
			return;
	if (pick->nwants < LLMQ_LINE_WANTS)
		pick->want[pick->nwants++] = meter;
}

/* Over all candidates the refusal that ends first is the one to report; one that never ends is the last resort. */
void
llmq_refusal_note(LlmqPick *pick, const LlmqVerdict *verdict)
{
	llmq_want_note(pick, verdict);
	if (pick->refusal.admitted || verdict->when < pick->refusal.when)
		pick->refusal = *verdict;
}

/* Is every candidate one that an earlier attempt at the request keeps it from? */
static bool
nothing_is_left(const LlmqPick *pick)
{
	return !pick->any_candidate && pick->retry != NULL && pick->retry->barred;
}

/* The status of a pick that was not granted. */
LlmqRefusalStatus
llmq_refusal_status(const LlmqPick *pick)
{
	if (!pick->org->enabled)
		return LLMQ_REFUSED_DISABLED;
	if (pick->exhausted)
		return LLMQ_REFUSED_ATTEMPTS_EXHAUSTED;
	if (pick->no_slot)
		return LLMQ_REFUSED_NO_LEASE_SLOT;
	if (!pick->any_key)
		return LLMQ_REFUSED_NO_ROUTE;
	if (nothing_is_left(pick))
		return LLMQ_REFUSED_ATTEMPTS_EXHAUSTED;
	if (!pick->any_candidate || pick->refusal.admitted)
		return LLMQ_REFUSED_UNAVAILABLE;
	if (pick->refusal.cause.kind != LLMQ_TROUBLE_NONE)
		return LLMQ_REFUSED_UNAVAILABLE;
	if (pick->refusal.limit->quota->budget != NULL)
		return LLMQ_REFUSED_BUDGET_EXCEEDED;
	if (pick->refusal.when == LLMQ_WHEN_NEVER)
		return LLMQ_REFUSED_TOO_LARGE;
	return pick->refusal.meter->subject->scope == LLMQ_SCOPE_ORG ? LLMQ_REFUSED_RATE_LIMITED :
		LLMQ_REFUSED_OVER_CAPACITY;
}

const char *
llmq_refusal_status_text(LlmqRefusalStatus status)
{
	static const char *const texts[] = {
		[LLMQ_REFUSED_RATE_LIMITED] = "rate_limited",
		[LLMQ_REFUSED_OVER_CAPACITY] = "over_capacity",
		[LLMQ_REFUSED_UNAVAILABLE] = "unavailable",
		[LLMQ_REFUSED_TOO_LARGE] = "too_large",
		[LLMQ_REFUSED_NO_ROUTE] = "no_route",
		[LLMQ_REFUSED_DISABLED] = "disabled",
		[LLMQ_REFUSED_NO_LEASE_SLOT] = "no_lease_slot",
		[LLMQ_REFUSED_ATTEMPTS_EXHAUSTED] = "attempts_exhausted",
		[LLMQ_REFUSED_BUDGET_EXCEEDED] = "budget_exceeded",
	};

	return texts[status];
}

/* Did some candidate say why not? */
static bool
has_reason(const LlmqPick *pick)
{
	return pick->org->enabled && !pick->exhausted && !pick->no_slot && pick->any_candidate && !pick->refusal.admitted;
}

/* Is there a limit to name in the answer? */
bool
llmq_refusal_has_limit(const LlmqPick *pick)
{
	return has_reason(pick) && pick->refusal.cause.kind == LLMQ_TROUBLE_NONE;
}

/* A number in [0, 1) that is the same for an org everywhere. */
static double
fraction_of_org(const LlmqPick *pick)
{
	const char *name = pick->org->subject.name;

	return hash_bytes((const unsigned char *) name, strlen(name)) / 4294967296.0;
}

/* What is added to the true wait so that refused callers do not return as one herd: microseconds. */
static int64
spread(const LlmqPick *pick, int64 wait)
{
	LlmqReturn	caller = {
		.wait = wait,.waiting = pick->waiting,.pace = pick->refusal.pace,
		.share = pick->catalog->settings.refusal_spread,.by_org = fraction_of_org(pick),
		.random = pg_prng_double(&pg_global_prng_state)
	};

	caller.one_org = pick->refusal.meter != NULL && pick->refusal.meter->subject->scope == LLMQ_SCOPE_ORG;
	caller.at_reset = pick->refusal.limit != NULL && pick->refusal.limit->shape.kind == LLMQ_WINDOW_CALENDAR;
	return llmq_spread(&caller);
}

/* When to ask again, in milliseconds from now; -1 when asking again cannot help. */
int32
llmq_refusal_retry_ms(const LlmqPick *pick)
{
	int64		wait;

	if (llmq_refusal_status(pick) == LLMQ_REFUSED_ATTEMPTS_EXHAUSTED)
		return -1;
	if (!has_reason(pick))
		return pick->no_slot ? RETRY_SLOT : RETRY_CONFIGURATION;
	if (pick->refusal.when == LLMQ_WHEN_NEVER)
		return -1;
	wait = Max(pick->refusal.when - pick->now, 0);
	wait += spread(pick, wait);
	return Max(llmq_milliseconds_up(wait), 1);
}

/* Is this an account or key that is not the org's own? */
static bool
is_shared(const LlmqSubject *subject)
{
	if (subject->scope == LLMQ_SCOPE_ACCOUNT)
		return ((const LlmqAccount *) subject)->org == NULL;
	return subject->scope == LLMQ_SCOPE_KEY && ((const LlmqKey *) subject)->account->org == NULL;
}

/* Is the subject whose limit refuses an account or key that is not the org's own, or an org above it? */
bool
llmq_refusal_is_shared(const LlmqPick *pick)
{
	const LlmqSubject *subject = pick->refusal.meter->subject;

	if (subject->scope == LLMQ_SCOPE_PARENT)
		return strcmp(subject->name, pick->org->subject.name) != 0;
	return is_shared(subject);
}

/* An amount of what a limit counts. */
static void
push_amount(JsonbParseState **state, const char *name, const LlmqRefusalLimit *limit, int64 amount)
{
	llmq_member_numeric(state, name,
						limit->metric == LLMQ_METRIC_COST ? llmq_money_numeric(amount) : int64_to_numeric(amount));
}

static const char *
retry_at_text(int64 retry_at)
{
	if (retry_at == LLMQ_WHEN_NEVER)
		return NULL;
	return TextDatumGetCString(DirectFunctionCall2(timestamptz_to_char, TimestampTzGetDatum(retry_at),
												   CStringGetTextDatum("YYYY-MM-DD\"T\"HH24:MI:SS.USTZH:TZM")));
}

/* The members of a limit that refused. */
static void
push_limit(JsonbParseState **state, const LlmqRefusalLimit *limit)
{
	llmq_member_text(state, "scope", llmq_scope_name(limit->scope));
	llmq_member_text(state, "subject", limit->subject);
	llmq_member_text(state, "model", limit->model);
	if (limit->family != NULL)
		llmq_member_text(state, "family", limit->family);
	llmq_member_text(state, "metric", llmq_metric_text(limit->metric));
	llmq_member_text(state, "period", limit->period);
	push_amount(state, "amount", limit, limit->amount);
	push_amount(state, "used", limit, limit->used);
	push_amount(state, "requested", limit, limit->requested);
	if (limit->metric == LLMQ_METRIC_COST)
	{
		char	   *currency = palloc(LLMQ_CURRENCY_SIZE);

		llmq_currency_text(llmq_currency_of_window(limit->quota), currency);
		llmq_member_text(state, "currency", currency);
		llmq_member_number(state, "budget", llmq_budget_of_window(limit->quota));
	}
	else
		llmq_member_number(state, "quota", limit->quota);
	llmq_member_text(state, "retry_at", retry_at_text(limit->retry_at));
}

/* A limit that refused, as jsonb. */
Datum
llmq_refusal_limit_jsonb(const LlmqRefusalLimit *limit)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_limit(&state, limit);
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/* The members of the trouble that keeps the pick from its candidates. */
static void
push_trouble(JsonbParseState **state, const LlmqPick *pick)
{
	const LlmqCause *cause = &pick->refusal.cause;
	const LlmqSubject *subject = cause->subject;

	llmq_member_text(state, "scope", subject == NULL ? "model" : llmq_scope_name(subject->scope));
	if (subject != NULL && (!is_shared(subject) || llmq_role_is_admin(pick->catalog)))
		llmq_member_text(state, "subject", subject->name);
	llmq_member_text(state, "model", cause->model == NULL ? NULL : cause->model->name);
	llmq_member_text(state, "trouble", llmq_trouble_text((LlmqTroubleKind) cause->kind));
	llmq_member_text(state, "failure", cause->failure == LLMQ_FAILURE_NONE ? NULL : llmq_failure_name(cause->failure));
	llmq_member_text(state, "retry_at", retry_at_text(pick->refusal.when));
}

/* The members of the quota that refused. The name of what others share is for administrators only. */
static void
push_quota(JsonbParseState **state, const LlmqPick *pick)
{
	const LlmqVerdict *refusal = &pick->refusal;
	const LlmqMeter *meter = refusal->meter;
	LlmqRefusalLimit limit = {
		.amount = refusal->amount,.used = refusal->used,.requested = refusal->requested,.retry_at = refusal->when
	};

	limit.scope = meter->subject->scope;
	if (!llmq_refusal_is_shared(pick) || llmq_role_is_admin(pick->catalog))
		limit.subject = meter->subject->name;
	limit.model = meter->part == LLMQ_PART_MODEL ? meter->part_name : NULL;
	limit.family = meter->part == LLMQ_PART_FAMILY ? meter->part_name : NULL;
	limit.metric = refusal->limit->quota->metric;
	limit.period = refusal->limit->quota->period;
	limit.quota = refusal->limit->quota->id;
	push_limit(state, &limit);
}

/* One attempt that failed. Account and key are named as in push_quota(). */
static void
push_attempt(JsonbParseState **state, const LlmqPick *pick, const LlmqTried *tried)
{
	const LlmqAccount *account = NULL;
	const char *name = llmq_name_text(tried->name[1]);

	if (name != NULL)
		account = (const LlmqAccount *) llmq_catalog_subject(pick->catalog, LLMQ_SCOPE_ACCOUNT, name);
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	llmq_member_text(state, "model", llmq_name_text(tried->name[2]));
	llmq_member_text(state, "error_class",
					 tried->failure == LLMQ_FAILURE_NONE ? NULL : llmq_failure_name(tried->failure));
	if (tried->http_status != 0)
		llmq_member_number(state, "http_status", tried->http_status);
	if ((account != NULL && account->org != NULL) || llmq_role_is_admin(pick->catalog))
	{
		llmq_member_text(state, "account", llmq_name_text(tried->name[1]));
		llmq_member_text(state, "key", llmq_name_text(tried->name[0]));
	}
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/* What budgets would have had answer, but no key can serve now. */
static void
push_downgrades(JsonbParseState **state, const LlmqPick *pick)
{
	const LlmqDowngrade *downgrade = &pick->downgrade;
	JsonbValue	key = {.type = jbvString,.val.string = {.val = "downgrades",.len = strlen("downgrades")}};

	llmq_member_text(state, "requested_model", downgrade->requested->name);
	pushJsonbValue(state, WJB_KEY, &key);
	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < downgrade->ntried; i++)
	{
		JsonbValue	name = {.type = jbvString};

		name.val.string.val = unconstify(char *, downgrade->tried[i]->name);
		name.val.string.len = strlen(downgrade->tried[i]->name);
		pushJsonbValue(state, WJB_ELEM, &name);
	}
	pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

/* What was tried before, and why each attempt failed; oldest first. */
static void
push_tried(JsonbParseState **state, const LlmqPick *pick)
{
	JsonbValue	key = {.type = jbvString,.val.string = {.val = "tried",.len = strlen("tried")}};

	pushJsonbValue(state, WJB_KEY, &key);
	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < LLMQ_MAX_TRIED; i++)
		if (pick->history.tried[i].kind == LLMQ_TRIED_ATTEMPT)
			push_attempt(state, pick, &pick->history.tried[i]);
	pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

/* The setting that bounds what there is no room for: leases, or requests that are remembered. */
static void
push_slots(JsonbParseState **state, const LlmqPick *pick)
{
	bool		requests = llmq_once_answer(pick) == LLMQ_ONCE_FULL;

	llmq_member_text(state, "setting", requests ? "max_requests" : "max_leases");
	llmq_member_number(state, "amount",
					   requests ? pick->catalog->settings.max_requests : pick->catalog->settings.max_leases);
}

/* Where neither limit nor trouble refused: what about the call, or the configuration, did. */
static void
push_circumstance(JsonbParseState **state, const LlmqPick *pick)
{
	switch (llmq_refusal_status(pick))
	{
		case LLMQ_REFUSED_DISABLED:
			llmq_member_text(state, "scope", llmq_scope_name(LLMQ_SCOPE_ORG));
			llmq_member_text(state, "subject", pick->org->subject.name);
			break;
		case LLMQ_REFUSED_NO_ROUTE:
			llmq_member_text(state, "route", pick->route->name);
			break;
		case LLMQ_REFUSED_NO_LEASE_SLOT:
			push_slots(state, pick);
			break;
		case LLMQ_REFUSED_UNAVAILABLE:
			if (pick->any_candidate && pick->downgrade.requested != NULL)
				llmq_member_number(state, "budget", pick->downgrade.budget);
			else
				llmq_member_number(state, "excluded", pick->nexclude);
			break;
		default:
			break;
	}
}

/* What refused, as jsonb. */
Datum
llmq_refusal_jsonb(const LlmqPick *pick)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (pick->queued && pick->nwants == 0)
		;						/* a ticket that was shown: it was not its turn to ask */
	else if (!has_reason(pick))
		push_circumstance(&state, pick);
	else if (pick->refusal.cause.kind != LLMQ_TROUBLE_NONE)
		push_trouble(&state, pick);
	else
		push_quota(&state, pick);
	if (pick->position > 0)
		llmq_member_number(&state, "position", pick->position);
	if (pick->downgrade.requested != NULL)
		push_downgrades(&state, pick);
	if (pick->retry != NULL)
		push_tried(&state, pick);
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}
