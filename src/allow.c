/*
 * allow.c
 *	  llmquota_allow(): may this subject go on? Rate limits for anything that has a name.
 *
 * The limit is the row of llmquota.rate_limit with that scope, else what the caller says. All that is known of a
 * subject is an entry of llmquota.rate_page, until it has its whole burst again (rate_page.c); gcra.c says what is
 * allowed. The decision is made, and what it costs is charged, under the locks of the cells: nobody else decides in
 * between. A subject that there is no room for is refused.
 *
 * Several questions are one: all are allowed, and charged, or none. What only observes is charged if it would allow,
 * and refuses nothing.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "allow.h"
#include "args.h"
#include "counter.h"
#include "duration.h"
#include "name.h"
#include "pick.h"
#include "role.h"
#include "row.h"

PG_FUNCTION_INFO_V1(llmquota_allow);

/* Arguments of llmquota_allow(). */
enum
{
	ARG_SCOPE, ARG_SUBJECT, ARG_AMOUNT, ARG_PER_MS, ARG_COST, ARG_BURST, ARG_ORG
};

/* Columns of llmquota.rate_result, in their order. */
enum
{
	COL_ALLOWED, COL_REMAINING, COL_RETRY_AFTER_MS, COL_RESET_AFTER_MS, COL_AMOUNT, COL_REASON, COL_SCOPE, COL_LIMITS,
	NCOLUMNS
};

/* Raises unless a number that was given is within bounds; not given: the default. */
static int64
number_or(int64 number, const char *what, int64 least, int64 most, int64 otherwise)
{
	if (number == LLMQ_ALLOW_NOT_GIVEN)
		return otherwise;
	if (number < least || number > most)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be between " INT64_FORMAT " and " INT64_FORMAT ", but is " INT64_FORMAT, what, least,
						most, number),
				 errhint("Pass NULL for the default, or what llmquota.rate_limit says.")));
	return number;
}

/* The limit that the caller says; an amount of 0: he says none. */
static LlmqGcraLimit
given_limit(const LlmqAllowArgs *args)
{
	LlmqGcraLimit limit;

	limit.amount = number_or(args->amount, "amount", 1, PG_INT32_MAX, 0);
	limit.period = number_or(args->per_ms, "per_ms", 1, LLMQ_GCRA_LONGEST / 1000, 0) * 1000;
	limit.burst = number_or(args->burst, "burst", 1, PG_INT32_MAX, limit.amount);
	return limit;
}

/* Raises when the caller's limit cannot be one, and there is no other. */
static void
refuse_unless_valid(const LlmqAllowArgs *args, const LlmqGcraLimit *limit)
{
	if (limit->amount == 0 || limit->period == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL where no limit has the name \"%s\"",
						limit->amount == 0 ? "amount" : "per_ms", args->scope),
				 errhint("Pass amount and per_ms, or insert the limit into llmquota.rate_limit.")));
	if (!llmq_gcra_is_valid(limit))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a burst of %d is more than the limit allows in 400 days", limit->burst),
				 errhint("Pass a smaller burst.")));
}

/* Is a limit enforced for this subject? By a hash that is the same everywhere, so that a larger share adds subjects. */
static bool
is_enforced(const LlmqRateLimit *named, const LlmqRateName *name)
{
	uint64		hash;

	if (named->observe)
		return false;
	if (named->rollout >= 1)
		return true;
	hash = hash_bytes_extended((const unsigned char *) named->scope, strlen(named->scope), 0);
	hash = hash_bytes_extended((const unsigned char *) name->org, strlen(name->org), hash);
	hash = hash_bytes_extended((const unsigned char *) name->subject, strlen(name->subject), hash);
	return llmq_in_rollout(hash, named->rollout);
}

/* Works out a question: whose it is, and what the limit is. Raises for what is wrong. */
void
llmq_allow_read(LlmqCatalog *catalog, const LlmqAllowArgs *args, LlmqAsk *ask)
{
	const LlmqRateLimit *named = llmq_names_find(catalog->rate_limits, args->scope);
	const LlmqOrg *org = args->org != NULL ? llmq_role_org(catalog, args->org) : llmq_role_only_org(catalog);

	memset(ask, 0, sizeof(LlmqAsk));
	ask->name = (LlmqRateName) {.kind = 'L',.org = "",.scope = args->scope,.subject = args->subject};
	if (org != NULL)
	{
		ask->name.kind = org->subject.ref.kind;
		ask->name.org = org->subject.ref.name;
	}
	ask->cost = number_or(args->cost, "cost", 0, PG_INT32_MAX, 1);
	ask->limit = given_limit(args);
	ask->enforced = true;
	if (named == NULL)
		refuse_unless_valid(args, &ask->limit);
	else
	{
		ask->limit = named->limit;
		ask->enforced = is_enforced(named, &ask->name);
	}
}

/* Under the locks: decides one question. Is nothing against it? */
static bool
decide(const LlmqRateChange *change, int number, LlmqAsk *ask)
{
	const LlmqRateUse *use = &change->use[number];

	llmq_gcra(&ask->limit, &use->until, change->now, ask->cost, &ask->answer);
	if (!ask->answer.allowed)
		ask->reason = ask->answer.retry_after == LLMQ_GCRA_NEVER ? LLMQ_ALLOW_TOO_LARGE : LLMQ_ALLOW_LIMITED;
	else if (use->place < 0 && ask->cost > 0)
	{
		ask->reason = LLMQ_ALLOW_FULL;
		ask->answer.remaining = 0;
		ask->answer.retry_after = Max(use->room_at + 1 - change->now, 1);
		ask->answer.reset_after = ask->answer.retry_after;
	}
	return ask->reason == LLMQ_ALLOW_FITS || !ask->enforced;
}

/* The answer when nothing is charged, to one that fits but another does not. */
static void
take_back(const LlmqRateChange *change, int number, LlmqAsk *ask)
{
	LlmqGcraAnswer as_it_is;

	llmq_gcra(&ask->limit, &change->use[number].until, change->now, 0, &as_it_is);
	ask->answer.remaining = as_it_is.remaining;
	ask->answer.reset_after = as_it_is.reset_after;
	ask->answer.until = as_it_is.until;
	ask->answer.moved = as_it_is.moved;
}

/* Decides so many questions, no two about the same subject of the same scope: all are allowed, or none. */
bool
llmq_allow_decide(LlmqAsk *ask, int nasks)
{
	LlmqRateChange change;
	bool		allowed = true;
	bool		full = false;

	if (!llmq_rate_open(&change))
		(void) llmq_relation_oid(LLMQ_REL_RATE_PAGE);
	for (int i = 0; i < nasks; i++)
		llmq_rate_add(&change, &ask[i].name);
	llmq_rate_lock(&change);
	for (int i = 0; i < nasks; i++)
		allowed &= decide(&change, i, &ask[i]);
	for (int i = 0; i < nasks; i++)
	{
		if (!allowed && ask[i].reason == LLMQ_ALLOW_FITS)
			take_back(&change, i, &ask[i]);
		full |= ask[i].reason == LLMQ_ALLOW_FULL;
		if (ask[i].answer.moved && change.use[i].place >= 0)
			llmq_rate_set(&change, i, ask[i].answer.until);
	}
	llmq_rate_close(&change);
	if (full)
		llmq_counter_count(LLMQ_REL_RATE_FULL_COUNT);
	return allowed;
}

/* NULL: it is allowed. */
const char *
llmq_allow_reason_text(LlmqAllowReason reason)
{
	static const char *const texts[] = {
		[LLMQ_ALLOW_FITS] = NULL,[LLMQ_ALLOW_LIMITED] = "rate_limited",[LLMQ_ALLOW_TOO_LARGE] = "too_large",
		[LLMQ_ALLOW_FULL] = "full"
	};

	return texts[reason];
}

/* Answers with what was found of one question. `limits` is what was found of all, or 0. */
Datum
llmq_allow_answer(FunctionCallInfo fcinfo, const LlmqAsk *ask, bool allowed, Datum limits)
{
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {false};

	values[COL_ALLOWED] = BoolGetDatum(allowed);
	values[COL_REMAINING] = Int32GetDatum((int32) ask->answer.remaining);
	values[COL_RETRY_AFTER_MS] = Int32GetDatum(allowed ? 0 : llmq_milliseconds_up(ask->answer.retry_after));
	nulls[COL_RETRY_AFTER_MS] = !allowed && ask->answer.retry_after == LLMQ_GCRA_NEVER;
	values[COL_RESET_AFTER_MS] = Int32GetDatum(llmq_milliseconds_up(ask->answer.reset_after));
	values[COL_AMOUNT] = Int32GetDatum(ask->limit.amount);
	llmq_put_text(values, nulls, COL_REASON, llmq_allow_reason_text(ask->reason));
	llmq_put_text(values, nulls, COL_SCOPE, ask->name.scope);
	values[COL_LIMITS] = limits;
	nulls[COL_LIMITS] = limits == 0;
	return llmq_result_row(fcinfo, values, nulls, NCOLUMNS);
}

/* An integer that may not be given. */
static int64
int_arg(FunctionCallInfo fcinfo, int number)
{
	return llmq_arg_given(fcinfo, number) ? PG_GETARG_INT32(number) : LLMQ_ALLOW_NOT_GIVEN;
}

/* llmquota_allow(scope, subject, amount, per_ms, cost, burst, org) */
Datum
llmquota_allow(PG_FUNCTION_ARGS)
{
	LlmqAllowArgs args;
	LlmqAsk		ask;
	bool		allowed;

	llmq_cell_refuse_if_read_only("llmquota_allow()");
	llmq_pick_refuse_expansion(fcinfo, "llmquota_allow");
	args.scope = llmq_arg_name(fcinfo, ARG_SCOPE, "scope");
	args.subject = llmq_arg_name(fcinfo, ARG_SUBJECT, "subject");
	args.org = llmq_arg_given(fcinfo, ARG_ORG) ? llmq_arg_name(fcinfo, ARG_ORG, "org") : NULL;
	args.amount = int_arg(fcinfo, ARG_AMOUNT);
	args.per_ms = llmq_arg_given(fcinfo, ARG_PER_MS) ? PG_GETARG_INT64(ARG_PER_MS) : LLMQ_ALLOW_NOT_GIVEN;
	args.cost = int_arg(fcinfo, ARG_COST);
	args.burst = int_arg(fcinfo, ARG_BURST);
	llmq_allow_read(llmq_catalog(), &args, &ask);
	allowed = llmq_allow_decide(&ask, 1);
	return llmq_allow_answer(fcinfo, &ask, allowed, 0);
}
