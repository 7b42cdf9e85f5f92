/*
 * explain.c
 *	  llmquota_explain: what a pick with the same arguments would find, candidate by candidate; and the state of a key.
 *
 * Looks at copies and at what is known of troubles, as choose.c does, and changes nothing: no charge, no count of a
 * refusal, no name, and nothing of what this backend remembers of full candidates. So it also works on a hot standby.
 * Candidates come in the order in which a pick asks for them: step, model, own accounts before shared ones, tier; and
 * in a tier the better score first.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "args.h"
#include "classify.h"
#include "pick.h"
#include "role.h"
#include "row.h"

PG_FUNCTION_INFO_V1(llmquota_explain);
PG_FUNCTION_INFO_V1(llmquota_key_state);

/* Columns of llmquota_explain(). */
enum
{
	COL_RANK, COL_STEP, COL_MODEL, COL_PRIORITY, COL_WEIGHT, COL_ACCOUNT, COL_KEY, COL_VERDICT, COL_SCORE, COL_SCOPE,
	COL_SUBJECT, COL_METRIC, COL_PERIOD, COL_QUOTA, COL_AMOUNT, COL_USED, COL_REQUESTED, COL_RETRY_AT, COL_SINCE,
	COL_FAILURE, COL_HTTP_STATUS, COL_LEASE, COL_REASON, NCOLUMNS
};

/* Columns of llmquota_key_state(). */
enum
{
	STATE_STATUS, STATE_SCOPE, STATE_QUOTA, STATE_UNTIL, STATE_SINCE, STATE_FAILURE, STATE_HTTP_STATUS, STATE_LEASE,
	STATE_REASON, STATE_NCOLUMNS
};

/* What is to be said of a candidate. */
typedef struct Finding
{
	LlmqKey    *key;
	const char *verdict;
	bool		available;
	int64		retry_at;		/* LLMQ_WHEN_NEVER: nobody knows, or never */
	LlmqVerdict limits;			/* if they were asked */
	LlmqCause	cause;
	const LlmqTrouble *trouble; /* NULL: none */
} Finding;

/* One answer being put together. */
typedef struct Explaining
{
	LlmqPick	pick;
	ReturnSetInfo *result;
	bool		sees_all;		/* names of shared accounts and keys, and who caused their troubles */
	int			rank;
	int			step;
} Explaining;

/* Asks every limit that holds for a call with this key; of several that refuse the one that does so longest binds. */
static void
ask_limits(LlmqPick *pick, LlmqKey *key, LlmqVerdict *verdict)
{
	LlmqSubject *subjects[LLMQ_COMMON_SUBJECTS + 2];
	int			n = llmq_common_subjects(pick, pick->model, subjects);

	subjects[n++] = &key->account->subject;
	subjects[n++] = &key->subject;
	llmq_verdict_init(verdict);
	for (int i = 0; i < n; i++)
		llmq_look(pick, llmq_plan_meters(pick->catalog, subjects[i], pick->model), verdict);
}

/* The name of a trouble; one that lets a call through to see is half open, also while that call is under way. */
static const char *
trouble_text(const LlmqTrouble *trouble, int64 now)
{
	if (trouble->kind != LLMQ_TROUBLE_COOLING && trouble->until <= now)
		return "half_open";
	return llmq_trouble_text(trouble->kind);
}

static const char *
limit_text(const LlmqVerdict *verdict)
{
	if (verdict->limit->quota->budget != NULL)
		return "budget_exceeded";
	if (verdict->when == LLMQ_WHEN_NEVER)
		return "too_large";
	return verdict->meter->subject->scope == LLMQ_SCOPE_ORG ? "rate_limited" : "over_capacity";
}

/* Asks one candidate. */
static void
examine(LlmqPick *pick, LlmqKey *key, Finding *finding)
{
	LlmqAvoid	avoid;
	bool		avoided = llmq_avoid(key, pick->model, pick->now, &avoid);

	memset(finding, 0, sizeof(Finding));
	finding->key = key;
	finding->cause = avoid.cause;
	finding->trouble = avoid.trouble;
	finding->retry_at = LLMQ_WHEN_NEVER;
	ask_limits(pick, key, &finding->limits);
	if (avoided)
	{
		finding->verdict = trouble_text(avoid.trouble, pick->now);
		if (avoid.until != PG_INT64_MAX)
			finding->retry_at = avoid.until;
	}
	else if (!finding->limits.admitted)
	{
		finding->verdict = limit_text(&finding->limits);
		finding->retry_at = finding->limits.when;
	}
	else
	{
		finding->available = true;
		finding->verdict = avoid.trouble != NULL && avoid.nprobes > 0 ? "half_open" : "available";
	}
	if (llmq_excluded(pick, key))
	{
		finding->available = false;
		finding->verdict = "excluded";
	}
}

/* The better one first: what is available by its score, and of the rest what comes back sooner. */
static int
compare_findings(const void *a, const void *b)
{
	const Finding *left = a;
	const Finding *right = b;

	if (left->available != right->available)
		return left->available ? -1 : 1;
	if (left->available && left->limits.headroom != right->limits.headroom)
		return left->limits.headroom > right->limits.headroom ? -1 : 1;
	if (left->retry_at != right->retry_at)
		return left->retry_at < right->retry_at ? -1 : 1;
	return strcmp(left->key->subject.name, right->key->subject.name);
}

static void
put_number(Datum *values, bool *nulls, int column, int64 number)
{
	nulls[column] = false;
	values[column] = NumericGetDatum(int64_to_numeric(number));
}

/*
 * The five columns from `since` on: since when a trouble stands, and the response that caused it. The lease, and what
 * somebody said, are only for who may see the subject's name.
 */
static void
put_trouble(const LlmqTrouble *trouble, bool named, int since, Datum *values, bool *nulls)
{
	static const pg_uuid_t no_lease;

	nulls[since] = false;
	values[since] = TimestampTzGetDatum(trouble->since);
	llmq_put_text(values, nulls, since + 1,
				  trouble->failure == LLMQ_FAILURE_NONE ? NULL : llmq_failure_name(trouble->failure));
	nulls[since + 2] = trouble->http_status == 0;
	values[since + 2] = Int32GetDatum(trouble->http_status);
	if (!named)
		return;
	nulls[since + 3] = memcmp(&trouble->lease, &no_lease, sizeof(pg_uuid_t)) == 0;
	values[since + 3] = UUIDPGetDatum(&trouble->lease);
	llmq_put_text(values, nulls, since + 4, trouble->reason[0] == '\0' ? NULL : trouble->reason);
}

/* An amount of what a limit counts; of a budget in its currency. */
static void
put_amount(const LlmqVerdict *verdict, int64 amount, int column, Datum *values, bool *nulls)
{
	nulls[column] = false;
	values[column] = NumericGetDatum(verdict->limit->quota->budget != NULL ? llmq_money_numeric(amount) :
									 int64_to_numeric(amount));
}

/* The id of a limit's row, in llmquota.quota or llmquota.budget. */
static int64
row_of_limit(const LlmqLimit *limit)
{
	return limit->quota->budget != NULL ? limit->quota->budget->id : limit->quota->id;
}

/* The limit that refuses. */
static void
put_limit(const LlmqVerdict *verdict, bool named, Datum *values, bool *nulls)
{
	const LlmqSubject *subject = verdict->meter->subject;
	bool		shown = named || (subject->scope != LLMQ_SCOPE_ACCOUNT && subject->scope != LLMQ_SCOPE_KEY);

	llmq_put_text(values, nulls, COL_SCOPE, llmq_scope_text(llmq_scope_letter(subject->scope)));
	llmq_put_text(values, nulls, COL_SUBJECT, shown ? subject->name : NULL);
	llmq_put_text(values, nulls, COL_METRIC, llmq_metric_text(verdict->limit->quota->metric));
	llmq_put_text(values, nulls, COL_PERIOD, verdict->limit->quota->period);
	put_number(values, nulls, COL_QUOTA, row_of_limit(verdict->limit));
	put_amount(verdict, verdict->amount, COL_AMOUNT, values, nulls);
	put_amount(verdict, verdict->used, COL_USED, values, nulls);
	put_amount(verdict, verdict->requested, COL_REQUESTED, values, nulls);
}

/* What keeps calls from the candidate. */
static void
put_cause(const Finding *finding, bool named, Datum *values, bool *nulls)
{
	const LlmqSubject *subject = finding->cause.subject;

	if (finding->trouble != NULL)
	{
		llmq_put_text(values, nulls, COL_SCOPE, llmq_health_scope_text(finding->trouble->patient.scope));
		put_trouble(finding->trouble, named, COL_SINCE, values, nulls);
	}
	if (finding->cause.kind == LLMQ_TROUBLE_NONE)
	{
		if (!finding->limits.admitted)
			put_limit(&finding->limits, named, values, nulls);
	}
	else if (subject != NULL && (named || subject->scope == LLMQ_SCOPE_PROVIDER))
		llmq_put_text(values, nulls, COL_SUBJECT, subject->name);
	nulls[COL_RETRY_AT] = finding->retry_at == LLMQ_WHEN_NEVER;
	values[COL_RETRY_AT] = TimestampTzGetDatum(finding->retry_at);
}

/* Does an org above refuse, whose name is not for everybody? */
static bool
is_above(const Explaining *explaining, const Finding *finding)
{
	const LlmqSubject *subject;

	if (explaining->sees_all || finding->limits.admitted || finding->cause.kind != LLMQ_TROUBLE_NONE)
		return false;
	subject = finding->limits.meter->subject;
	return subject->scope == LLMQ_SCOPE_PARENT && strcmp(subject->name, explaining->pick.org->subject.name) != 0;
}

static void
put_finding(Explaining *explaining, const Finding *finding)
{
	const LlmqKey *key = finding->key;
	bool		named = explaining->sees_all || key->account->org != NULL;
	Datum		values[NCOLUMNS] = {0};
	bool		nulls[NCOLUMNS];

	memset(nulls, true, sizeof(nulls));
	nulls[COL_RANK] = nulls[COL_STEP] = nulls[COL_PRIORITY] = nulls[COL_WEIGHT] = false;
	values[COL_RANK] = Int32GetDatum(++explaining->rank);
	values[COL_STEP] = Int32GetDatum(explaining->step);
	values[COL_PRIORITY] = Int32GetDatum(key->priority);
	values[COL_WEIGHT] = Int32GetDatum(key->weight);
	llmq_put_text(values, nulls, COL_MODEL, explaining->pick.model->name);
	llmq_put_text(values, nulls, COL_ACCOUNT, named ? key->account->subject.name : NULL);
	llmq_put_text(values, nulls, COL_KEY, named ? key->subject.name : NULL);
	llmq_put_text(values, nulls, COL_VERDICT, finding->verdict);
	nulls[COL_SCORE] = !finding->limits.admitted;
	if (finding->limits.admitted)
		values[COL_SCORE] = DirectFunctionCall1(float8_numeric, Float8GetDatum(finding->limits.headroom));
	put_cause(finding, named, values, nulls);
	nulls[COL_SUBJECT] |= is_above(explaining, finding);
	tuplestore_putvalues(explaining->result->setResult, explaining->result->setDesc, values, nulls);
}

static void
explain_tier(Explaining *explaining, const LlmqTier *tier)
{
	Finding    *findings = palloc(sizeof(Finding) * tier->n);

	for (int i = 0; i < tier->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		examine(&explaining->pick, tier->candidate[i].key, &findings[i]);
	}
	qsort(findings, tier->n, sizeof(Finding), compare_findings);
	for (int i = 0; i < tier->n; i++)
		put_finding(explaining, &findings[i]);
	pfree(findings);
}

static void
explain_pool(Explaining *explaining, const char *owner)
{
	LlmqPool   *pool = llmq_pool(explaining->pick.catalog, explaining->pick.model, owner);

	for (int i = 0; i < pool->ntiers; i++)
		explain_tier(explaining, &pool->tier[i]);
}

static void
explain_model(Explaining *explaining, LlmqModel *model)
{
	LlmqPick   *pick = &explaining->pick;

	pick->model = model;
	pick->now = GetCurrentTimestamp();
	llmq_set_demand(pick);
	if (pick->org->owns_accounts)
		explain_pool(explaining, pick->org->subject.name);
	if (pick->org->shared_keys)
		explain_pool(explaining, NULL);
}

/* A model of a step, or those that budgets have answer in its place. */
static void
explain_choice(Explaining *explaining, LlmqModel *model)
{
	LlmqModel  *answer = model->enabled ? llmq_downgrade(&explaining->pick, model) : NULL;

	for (; answer != NULL; answer = llmq_downgrade_next(&explaining->pick))
		explain_model(explaining, answer);
}

/* llmquota_explain(what llmquota_pick takes) */
Datum
llmquota_explain(PG_FUNCTION_ARGS)
{
	Explaining	explaining = {0};
	LlmqPick   *pick = &explaining.pick;

	llmq_pick_read(fcinfo, pick);
	InitMaterializedSRF(fcinfo, 0);
	explaining.result = (ReturnSetInfo *) fcinfo->resultinfo;
	explaining.sees_all = llmq_role_is_admin(pick->catalog);
	pick->scratch = palloc(LLMQ_MAX_STATE);
	llmq_live_open(&pick->live, LLMQ_LIVE_COUNT, AccessShareLock);
	llmq_health_look(&pick->live);
	for (int i = 0; i < pick->route->nsteps && pick->org->enabled; i++)
	{
		const LlmqStep *step = &pick->route->step[i];

		explaining.step = i + 1;
		for (int j = 0; j < step->nchoices; j++)
			explain_choice(&explaining, step->choice[j].model);
	}
	llmq_live_close(&pick->live);
	return (Datum) 0;
}

/* What keeps a key from being used for the smallest call of a model. */
static void
find_state(LlmqKey *key, LlmqModel *model, Finding *finding, int64 *now)
{
	LlmqPick	pick = {.catalog = llmq_catalog(),.model = model};

	pick.demand.use = (LlmqUse) {.input = 1,.output = 1,.request = true,.in_flight = true};
	pick.scratch = palloc(LLMQ_MAX_STATE);
	pick.now = *now = GetCurrentTimestamp();
	llmq_live_open(&pick.live, LLMQ_LIVE_COUNT, AccessShareLock);
	llmq_health_look(&pick.live);
	examine(&pick, key, finding);
	llmq_live_close(&pick.live);
	pfree(pick.scratch);
}

/* llmquota_key_state(key, model): a row of llmquota.key_status */
Datum
llmquota_key_state(PG_FUNCTION_ARGS)
{
	LlmqCatalog *catalog = llmq_catalog();
	LlmqKey    *key = llmq_catalog_key(catalog, llmq_arg_name(fcinfo, 0, "key"));
	LlmqModel  *model = llmq_catalog_model(catalog, llmq_arg_name(fcinfo, 1, "model"));
	Datum		values[STATE_NCOLUMNS] = {0};
	bool		nulls[STATE_NCOLUMNS];
	Finding		finding;
	int64		now;

	memset(nulls, true, sizeof(nulls));
	llmq_put_text(values, nulls, STATE_STATUS, "disabled");
	if (key == NULL || model == NULL || !model->enabled)
	{
		llmq_put_text(values, nulls, STATE_REASON, "not enabled");
		return llmq_result_row(fcinfo, values, nulls, STATE_NCOLUMNS);
	}
	find_state(key, model, &finding, &now);
	if (finding.trouble != NULL)
	{
		llmq_put_text(values, nulls, STATE_STATUS, trouble_text(finding.trouble, now));
		llmq_put_text(values, nulls, STATE_SCOPE, llmq_health_scope_text(finding.trouble->patient.scope));
		put_trouble(finding.trouble, true, STATE_SINCE, values, nulls);
	}
	else if (!finding.limits.admitted)
	{
		const LlmqBudget *budget = finding.limits.limit->quota->budget;

		llmq_put_text(values, nulls, STATE_STATUS, "exhausted");
		llmq_put_text(values, nulls, STATE_SCOPE,
					  llmq_scope_text(llmq_scope_letter(finding.limits.meter->subject->scope)));
		nulls[STATE_QUOTA] = budget != NULL;
		values[STATE_QUOTA] = Int64GetDatum(finding.limits.limit->quota->id);
		llmq_put_text(values, nulls, STATE_REASON,
					  budget == NULL ? NULL : psprintf("budget " INT64_FORMAT, budget->id));
	}
	else
		llmq_put_text(values, nulls, STATE_STATUS, "healthy");
	nulls[STATE_UNTIL] = finding.retry_at == LLMQ_WHEN_NEVER;
	values[STATE_UNTIL] = TimestampTzGetDatum(finding.retry_at);
	return llmq_result_row(fcinfo, values, nulls, STATE_NCOLUMNS);
}
