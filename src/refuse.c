/*
 * refuse.c
 *	  Refusals: which limit binds, what is answered, and how they are counted.
 *
 * Within a candidate the latest of the limits that refuse binds, over candidates the earliest. A refusal locks nothing.
 * Its count is kept in the backend and written into the windows in batches: at once when nothing was written for a
 * tenth of a second, else with the next refusal after that, when the list is full, or when the backend ends.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "pick.h"
#include "role.h"

/* How many different quotas may have refusals pending, and how long they may pend: microseconds. */
#define MAX_PENDING 64
#define FLUSH_EVERY INT64CONST(100000)

/* When nothing says when to come back: configuration has to change, or a lease has to end. Milliseconds. */
#define RETRY_CONFIGURATION 30000
#define RETRY_SLOT 1000

/* The spread after a calendar reset: so much at random, so much by org. Microseconds; design.md's defaults. */
#define RESET_RANDOM_LEAST INT64CONST(1000000)
#define RESET_RANDOM_MOST INT64CONST(15000000)
#define RESET_BY_ORG INT64CONST(29000000)

typedef struct PendingRefusals
{
	int32		meter;
	int64		quota;
	int64		times;
} PendingRefusals;

/* Refusals not yet counted in their windows. */
static PendingRefusals pending[MAX_PENDING];
static int	npending = 0;
static TimestampTz flushed_at = 0;

/* Over all candidates the refusal that ends first is the one to report; one that never ends is the last resort. */
void
llmq_refusal_note(LlmqPick *pick, const LlmqVerdict *verdict)
{
	if (pick->refusal.admitted || verdict->when < pick->refusal.when)
		pick->refusal = *verdict;
}

/* Adds pending refusals to one meter's windows. */
static void
flush_one(LlmqLive *live, const PendingRefusals *refusals)
{
	LlmqCellSet set;
	int			cell;

	llmq_set_init(&set, live);
	cell = llmq_set_add(&set, LLMQ_LIVE_METER, refusals->meter);
	if (llmq_set_lock(&set) != LLMQ_LOCKED)
		return;
	llmq_meter_count_refusals(llmq_set_change(&set, cell), refusals->quota, true, refusals->times);
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
	llmq_cell_make_durable_soon(set.lsn);
}

/* Writes all pending refusals. Not durable at once: counts of refusals may be lost in a crash, like statistics. */
void
llmq_refusals_flush(void)
{
	LlmqLive	live;
	int			count = npending;

	if (count == 0)
		return;
	npending = 0;
	flushed_at = GetCurrentTimestamp();
	llmq_live_open(&live, LLMQ_LIVE_METER + 1, RowExclusiveLock);
	for (int i = 0; i < count; i++)
		flush_one(&live, &pending[i]);
	llmq_live_close(&live);
}

/*
 * At the end of a backend; in a transaction of its own, as temporary tables are removed. Nothing can interrupt it
 * there, so it waits for no table lock, and does without when the extension is gone.
 */
static void
flush_at_exit(int code, Datum arg)
{
	Oid			schema;
	Oid			meter;

	if (npending == 0 || code != 0)
		return;
	AbortOutOfAnyTransaction();
	StartTransactionCommand();
	schema = get_namespace_oid(LLMQ_SCHEMA, true);
	meter = OidIsValid(schema) ? get_relname_relid("meter", schema) : InvalidOid;
	if (OidIsValid(meter) && ConditionalLockRelationOid(meter, RowExclusiveLock))
		llmq_refusals_flush();
	CommitTransactionCommand();
}

/* Would counting give a cell to an org that nobody has listed and that was never granted anything? */
static bool
is_made_up(const LlmqPick *pick, const LlmqMeter *meter)
{
	return meter->subject->scope == LLMQ_SCOPE_ORG && !pick->org->listed;
}

/* Counts a refusal of the limit in the verdict. */
void
llmq_refusal_count(LlmqPick *pick, const LlmqVerdict *verdict)
{
	static int	registered_by = 0;
	int			i = 0;

	if (verdict->meter == NULL || (verdict->meter->id == 0 && is_made_up(pick, verdict->meter)))
		return;
	if (registered_by != MyProcPid)
	{
		before_shmem_exit(flush_at_exit, (Datum) 0);
		registered_by = MyProcPid;
	}
	llmq_meter_ensure(&pick->live, pick->catalog, verdict->meter);
	while (i < npending && (pending[i].meter != verdict->meter->id || pending[i].quota != verdict->limit->quota->id))
		i++;
	if (i == npending)
		pending[npending++] = (PendingRefusals) {.meter = verdict->meter->id,.quota = verdict->limit->quota->id};
	pending[i].times++;
	if (npending == MAX_PENDING || pick->now - flushed_at >= FLUSH_EVERY || pick->now < flushed_at)
		llmq_refusals_flush();
}

/* The status of a pick that was not granted. */
const char *
llmq_refusal_status(const LlmqPick *pick)
{
	if (!pick->org->enabled)
		return "disabled";
	if (pick->no_slot)
		return "no_lease_slot";
	if (!pick->any_key)
		return "no_route";
	if (!pick->any_candidate || pick->refusal.admitted)
		return "unavailable";
	if (pick->refusal.when == LLMQ_WHEN_NEVER)
		return "too_large";
	return pick->refusal.meter->subject->scope == LLMQ_SCOPE_ORG ? "rate_limited" : "over_capacity";
}

/* Is there a limit to name in the answer? */
static bool
has_limit(const LlmqPick *pick)
{
	return pick->org->enabled && !pick->no_slot && pick->any_candidate && !pick->refusal.admitted;
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
	double		random = pg_prng_double(&pg_global_prng_state);

	if (pick->refusal.limit->shape.kind == LLMQ_WINDOW_CALENDAR)
		return RESET_RANDOM_LEAST + (int64) (random * (RESET_RANDOM_MOST - RESET_RANDOM_LEAST)) +
			(int64) (fraction_of_org(pick) * RESET_BY_ORG);
	return (int64) (wait * pick->catalog->settings.refusal_spread * (fraction_of_org(pick) + random) / 2);
}

/* When to ask again, in milliseconds from now; -1 when asking again cannot help. */
int32
llmq_refusal_retry_ms(const LlmqPick *pick)
{
	int64		wait;

	if (!has_limit(pick))
		return pick->no_slot ? RETRY_SLOT : RETRY_CONFIGURATION;
	if (pick->refusal.when == LLMQ_WHEN_NEVER)
		return -1;
	wait = Max(pick->refusal.when - pick->now, 0);
	wait += spread(pick, wait);
	return (int32) Min(Max((wait + 999) / 1000, 1), PG_INT32_MAX);
}

/* May this caller read the name of the subject that refuses? An account's or key's only if it is the org's own. */
static bool
may_name_subject(const LlmqPick *pick)
{
	LlmqSubject *subject = pick->refusal.meter->subject;
	const char *owner;

	if (subject->scope == LLMQ_SCOPE_ACCOUNT)
		owner = ((LlmqAccount *) subject)->org;
	else if (subject->scope == LLMQ_SCOPE_KEY)
		owner = ((LlmqKey *) subject)->account->org;
	else
		return true;
	return owner != NULL || llmq_role_is_admin(pick->catalog);
}

static void
push(JsonbParseState **state, const char *name, JsonbValue *value)
{
	JsonbValue	key = {.type = jbvString,.val.string = {.val = unconstify(char *, name),.len = strlen(name)}};

	pushJsonbValue(state, WJB_KEY, &key);
	pushJsonbValue(state, WJB_VALUE, value);
}

static void
push_text(JsonbParseState **state, const char *name, const char *text)
{
	JsonbValue	value = {.type = jbvNull};

	if (text != NULL)
	{
		value.type = jbvString;
		value.val.string.val = unconstify(char *, text);
		value.val.string.len = strlen(text);
	}
	push(state, name, &value);
}

static void
push_number(JsonbParseState **state, const char *name, int64 number)
{
	JsonbValue	value = {.type = jbvNumeric};

	value.val.numeric = int64_to_numeric(number);
	push(state, name, &value);
}

static const char *
retry_at_text(const LlmqPick *pick)
{
	if (pick->refusal.when == LLMQ_WHEN_NEVER)
		return NULL;
	return TextDatumGetCString(DirectFunctionCall2(timestamptz_to_char, TimestampTzGetDatum(pick->refusal.when),
												   CStringGetTextDatum("YYYY-MM-DD\"T\"HH24:MI:SS.USTZH:TZM")));
}

/* The limit that refused, as jsonb; 0 when none did. */
Datum
llmq_refusal_jsonb(const LlmqPick *pick)
{
	static const char *const scopes[] = {"global", "provider", "account", "key", "org"};
	static const char *const metrics[] = {"requests", "input_tokens", "output_tokens", "tokens", "concurrency"};
	const LlmqVerdict *refusal = &pick->refusal;
	JsonbParseState *state = NULL;

	if (!has_limit(pick))
		return (Datum) 0;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_text(&state, "scope", scopes[refusal->meter->subject->scope]);
	push_text(&state, "subject", may_name_subject(pick) ? refusal->meter->subject->name : NULL);
	push_text(&state, "model", refusal->meter->part == LLMQ_PART_MODEL ? refusal->meter->part_name : NULL);
	if (refusal->meter->part == LLMQ_PART_FAMILY)
		push_text(&state, "family", refusal->meter->part_name);
	push_text(&state, "metric", metrics[refusal->limit->quota->metric]);
	push_text(&state, "period", refusal->limit->quota->period);
	push_number(&state, "amount", refusal->amount);
	push_number(&state, "used", refusal->used);
	push_number(&state, "requested", refusal->requested);
	push_number(&state, "quota", refusal->limit->quota->id);
	push_text(&state, "retry_at", retry_at_text(pick));
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}
