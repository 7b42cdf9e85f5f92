/*
 * classify.c
 *	  What a failed call means, from its status, its headers and its body.
 *
 * In this order: what the body says whatever the status (money, keys and models that are told in a 400, capacity in a
 * 429); then the status, or without one the status that the body's error type stands for, as in a stream that broke
 * after its 200; then, without any answer, the caller's word or the words of the error. A refusal for a limit is then
 * looked at more closely: which limit, and until when.
 *
 * Pure but for memory (json_walk.c allocates): no server calls, no time zones, nothing else raises. The caller's own
 * mistakes have no scope, so they hurt no key. Whoever may record may send any body and headers: nothing here trusts
 * them further than a cooldown of 32 days.
 */
#include "postgres.h"

#include "common/int.h"

#include "classify.h"
#include "duration.h"
#include "error_body.h"
#include "limit_text.h"
#include "ratelimit_header.h"
#include "stored.h"

/* Where a rule looks. */
typedef enum Where
{
	IN_NAMES,					/* type, code, status or reason is the text; a body without any contains it */
	IN_MESSAGE					/* the message contains it, in whatever case */
} Where;

/* What a body says whatever the status, or of one status only. */
typedef struct Rule
{
	int			status;			/* 0: any */
	Where		where;
	const char *text;
	LlmqFailureKind kind;
	LlmqBlame scope;		/* LLMQ_BLAME_NONE: that of the kind */
	LlmqUntilKind until;		/* unless the body names an instant */
} Rule;

#define MONEY(where, text, until) {0, where, text, LLMQ_FAILURE_BILLING, LLMQ_BLAME_NONE, until}
#define SAYS(where, text, kind) {0, where, text, LLMQ_FAILURE_##kind, LLMQ_BLAME_NONE, LLMQ_UNTIL_NONE}
#define NO_CAPACITY(text) {429, IN_MESSAGE, text, LLMQ_FAILURE_OVERLOADED, LLMQ_BLAME_NONE, LLMQ_UNTIL_NONE}

/* The first that applies holds. */
static const Rule rules[] = {
	/* Spend limits are by the month; credit is gone until somebody buys more. */
	MONEY(IN_NAMES, "project_spend_limit_exceeded", LLMQ_UNTIL_MONTH),
	MONEY(IN_NAMES, "organization_spend_limit_exceeded", LLMQ_UNTIL_MONTH),
	MONEY(IN_NAMES, "organization_usage_limit_exceeded", LLMQ_UNTIL_MONTH),
	MONEY(IN_NAMES, "enforced_spend_limit_reached", LLMQ_UNTIL_MONTH),
	MONEY(IN_NAMES, "credit_balance_exhausted", LLMQ_UNTIL_NONE),
	MONEY(IN_NAMES, "billing_hard_limit_reached", LLMQ_UNTIL_NONE),
	MONEY(IN_NAMES, "billing_not_active", LLMQ_UNTIL_NONE),
	MONEY(IN_NAMES, "insufficient_quota", LLMQ_UNTIL_NONE),
	MONEY(IN_NAMES, "billing_error", LLMQ_UNTIL_NONE),
	MONEY(IN_MESSAGE, "you will regain access on", LLMQ_UNTIL_MONTH),
	MONEY(IN_MESSAGE, "credit balance is too low", LLMQ_UNTIL_NONE),

	/* One request that is larger than the limit: waiting does not help, and smaller ones still pass. */
	SAYS(IN_MESSAGE, "request too large for", BAD_REQUEST),

	SAYS(IN_NAMES, "content_filter", CONTENT),
	SAYS(IN_NAMES, "content_policy_violation", CONTENT),
	SAYS(IN_NAMES, "ResponsibleAIPolicyViolation", CONTENT),
	SAYS(IN_MESSAGE, "content filtering policy", CONTENT),
	SAYS(IN_MESSAGE, "flagged as potentially violating", CONTENT),

	SAYS(IN_NAMES, "invalid_api_key", AUTH),
	SAYS(IN_NAMES, "API_KEY_INVALID", AUTH),
	SAYS(IN_MESSAGE, "API key not valid", AUTH),
	SAYS(IN_MESSAGE, "API key expired", AUTH),
	SAYS(IN_MESSAGE, "incorrect API key provided", AUTH),

	SAYS(IN_NAMES, "model_not_found", NOT_FOUND),
	SAYS(IN_NAMES, "invalid_model", NOT_FOUND),

	/* A precondition that fails is the account's: its country, or billing that was never set up. */
	{400, IN_NAMES, "FAILED_PRECONDITION", LLMQ_FAILURE_FORBIDDEN, LLMQ_BLAME_ACCOUNT, LLMQ_UNTIL_NONE},

	/* Everybody is refused, not this account. */
	{0, IN_NAMES, "overloaded_error", LLMQ_FAILURE_OVERLOADED, LLMQ_BLAME_PROVIDER, LLMQ_UNTIL_NONE},
	SAYS(IN_NAMES, "server_is_overloaded", OVERLOADED),
	NO_CAPACITY("resource unavailable"),
	NO_CAPACITY("resource_unavailable"),
	NO_CAPACITY("capacity exceeded"),
	NO_CAPACITY("high demand"),
	NO_CAPACITY("overloaded"),
	NO_CAPACITY("temporarily unable to process"),
};

/* The status that an error's name stands for, where there is none, or a 200 that was too early. */
typedef struct NamedStatus
{
	const char *name;
	int			status;
} NamedStatus;

static const NamedStatus named_statuses[] = {
	{"rate_limit_error", 429},
	{"rate_limit_exceeded", 429},
	{"rate_limited", 429},
	{"RESOURCE_EXHAUSTED", 429},
	{"invalid_request_error", 400},
	{"INVALID_ARGUMENT", 400},
	{"authentication_error", 401},
	{"UNAUTHENTICATED", 401},
	{"permission_error", 403},
	{"PERMISSION_DENIED", 403},
	{"not_found_error", 404},
	{"NOT_FOUND", 404},
	{"request_too_large", 413},
	{"api_error", 500},
	{"server_error", 500},
	{"INTERNAL", 500},
	{"service_unavailable_error", 503},
	{"UNAVAILABLE", 503},
	{"timeout_error", 504},
	{"DEADLINE_EXCEEDED", 504},
	{"CANCELLED", 499},
};

/* Words of errors that came instead of an answer; any other is the network's. */
typedef struct Telling
{
	const char *text;
	LlmqFailureKind kind;
} Telling;

static const Telling tellings[] = {
	{"timed out", LLMQ_FAILURE_TIMEOUT},
	{"timedout", LLMQ_FAILURE_TIMEOUT},
	{"timeout", LLMQ_FAILURE_TIMEOUT},
	{"deadline exceeded", LLMQ_FAILURE_TIMEOUT},
	{"cancel", LLMQ_FAILURE_CANCELLED},
	{"AbortError", LLMQ_FAILURE_CANCELLED},
	{"request was aborted", LLMQ_FAILURE_CANCELLED},
};

static const char *const kind_names[] = {
	[LLMQ_FAILURE_NONE] = "none",
	[LLMQ_FAILURE_RATE] = "rate",
	[LLMQ_FAILURE_QUOTA_DAY] = "quota_day",
	[LLMQ_FAILURE_QUOTA_MONTH] = "quota_month",
	[LLMQ_FAILURE_BILLING] = "billing",
	[LLMQ_FAILURE_OVERLOADED] = "overloaded",
	[LLMQ_FAILURE_SERVER] = "server",
	[LLMQ_FAILURE_TIMEOUT] = "timeout",
	[LLMQ_FAILURE_CANCELLED] = "cancelled",
	[LLMQ_FAILURE_NETWORK] = "network",
	[LLMQ_FAILURE_AUTH] = "auth",
	[LLMQ_FAILURE_FORBIDDEN] = "forbidden",
	[LLMQ_FAILURE_BAD_REQUEST] = "bad_request",
	[LLMQ_FAILURE_CONTENT] = "content",
	[LLMQ_FAILURE_NOT_FOUND] = "not_found"
};

const char *
llmq_failure_name(LlmqFailureKind kind)
{
	return LLMQ_STORED_TEXT(kind_names, kind);
}

/* Does the body bear this name? One that is no JSON, such as an exception's text, bears all it contains. */
static bool
is_named(const LlmqErrorBody *body, const char *name)
{
	if (!body->structured)
		return strstr(body->message, name) != NULL;
	return strcmp(body->code, name) == 0 || strcmp(body->type, name) == 0 || strcmp(body->status, name) == 0 ||
		strcmp(body->reason, name) == 0;
}

/* The rule that applies, or NULL. */
static const Rule *
find_rule(const LlmqErrorBody *body, int status)
{
	for (int i = 0; i < (int) lengthof(rules); i++)
	{
		const Rule *rule = &rules[i];

		if (rule->status != 0 && rule->status != status)
			continue;
		if (rule->where == IN_NAMES ? is_named(body, rule->text) : llmq_find_text(body->message, rule->text) != NULL)
			return rule;
	}
	return NULL;
}

/* The status, or the one that the body stands for or bears as its code; 0: neither. */
static int
telling_status(const LlmqErrorBody *body, int status)
{
	int64		code;
	Size		digits = llmq_read_count(body->code, &code);

	if (status >= 400)
		return status;
	if (digits > 0 && body->code[digits] == '\0' && code >= 400 && code <= 599)
		return (int) code;
	for (int i = 0; i < (int) lengthof(named_statuses); i++)
		if (is_named(body, named_statuses[i].name))
			return named_statuses[i].status;
	return status;
}

static LlmqFailureKind
kind_of_status(int status)
{
	switch (status)
	{
		case 401:
			return LLMQ_FAILURE_AUTH;
		case 402:
			return LLMQ_FAILURE_BILLING;
		case 403:
			return LLMQ_FAILURE_FORBIDDEN;
		case 404:
		case 410:
			return LLMQ_FAILURE_NOT_FOUND;
		case 408:
		case 504:
		case 524:				/* Cloudflare's */
			return LLMQ_FAILURE_TIMEOUT;
		case 429:
			return LLMQ_FAILURE_RATE;
		case 498:				/* Groq's, for its flexible tier */
		case 503:
		case 529:				/* Anthropic's */
			return LLMQ_FAILURE_OVERLOADED;
		case 499:
			return LLMQ_FAILURE_CANCELLED;
		default:
			return status >= 400 && status < 500 ? LLMQ_FAILURE_BAD_REQUEST : LLMQ_FAILURE_SERVER;
	}
}

/* Without any answer. */
static LlmqFailureKind
kind_of_words(const char *error_class, const char *message)
{
	for (int i = LLMQ_FAILURE_RATE; error_class != NULL && i < (int) lengthof(kind_names); i++)
		if (pg_strcasecmp(error_class, kind_names[i]) == 0)
			return (LlmqFailureKind) i;
	for (int i = 0; i < (int) lengthof(tellings); i++)
		if (llmq_find_text(message, tellings[i].text) != NULL)
			return tellings[i].kind;
	return LLMQ_FAILURE_NETWORK;
}

static LlmqBlame
scope_of_kind(LlmqFailureKind kind)
{
	switch (kind)
	{
		case LLMQ_FAILURE_RATE:
		case LLMQ_FAILURE_QUOTA_DAY:
		case LLMQ_FAILURE_QUOTA_MONTH:
			return LLMQ_BLAME_ACCOUNT_MODEL;
		case LLMQ_FAILURE_BILLING:
			return LLMQ_BLAME_ACCOUNT;
		case LLMQ_FAILURE_OVERLOADED:
		case LLMQ_FAILURE_SERVER:
		case LLMQ_FAILURE_TIMEOUT:
		case LLMQ_FAILURE_NOT_FOUND:
			return LLMQ_BLAME_MODEL;
		case LLMQ_FAILURE_NETWORK:
			return LLMQ_BLAME_PROVIDER;
		case LLMQ_FAILURE_AUTH:
		case LLMQ_FAILURE_FORBIDDEN:
			return LLMQ_BLAME_KEY;
		default:
			return LLMQ_BLAME_NONE;
	}
}

/* An instant that was named: one that has passed says nothing, and none is believed to be very far away. */
static void
set_until(LlmqDiagnosis *diagnosis, TimestampTz now, TimestampTz until)
{
	if (until <= now)
		return;
	diagnosis->until_kind = LLMQ_UNTIL_TIME;
	diagnosis->until = Min(until, now + LLMQ_UNTIL_MAX);
}

/* When to come back, as a header says. */
static bool
until_in_headers(const LlmqFailure *failure, TimestampTz *until)
{
	static const struct
	{
		const char *name;
		int64		unit;
	}			names[] = {
		{"retry-after-ms", 1000},
		{"x-ms-retry-after-ms", 1000},
		{"retry-after", USECS_PER_SEC},
	};

	for (int i = 0; i < (int) lengthof(names); i++)
	{
		const char *value = llmq_header(failure->headers, failure->header_count, names[i].name);

		if (value != NULL && llmq_duration_until(value, names[i].unit, failure->now, until) && *until > failure->now)
			return true;
	}
	return false;
}

/* When to come back: a header's word, else the body's. */
static void
find_until(const LlmqFailure *failure, const LlmqErrorBody *body, LlmqDiagnosis *diagnosis)
{
	TimestampTz until;
	int64		wait = body->retry_delay;

	if (until_in_headers(failure, &until))
		set_until(diagnosis, failure->now, until);
	else if ((wait > 0 || llmq_wait_in_message(body->message, &wait)) &&
			 !pg_add_s64_overflow(failure->now, wait, &until))
		set_until(diagnosis, failure->now, until);
}

/* The instant that a message about money names. */
static void
find_instant(const LlmqErrorBody *body, TimestampTz now, LlmqDiagnosis *diagnosis)
{
	TimestampTz until;

	for (const char *at = body->message; *at != '\0'; at++)
		if (llmq_instant_read(at, &until) > 0)
		{
			set_until(diagnosis, now, until);
			return;
		}
}

/*
 * Of the limits of which a header says that nothing remains, the one of the longest period; only of the metric that the
 * message names, if it does.
 */
static TimestampTz
find_exhausted(const LlmqFailure *failure, LlmqNamedLimit *limit)
{
	LlmqObserved observed[LLMQ_MAX_OBSERVED];
	int			count = llmq_ratelimit_headers(failure->adapter, failure->headers, failure->header_count,
											   failure->now, observed);
	int			metric = limit->metric;
	TimestampTz resets_at = DT_NOBEGIN;

	for (int i = 0; i < count; i++)
	{
		if (!observed[i].exhausted || observed[i].span <= limit->span)
			continue;
		if (metric != LLMQ_METRIC_UNKNOWN && metric != (int) observed[i].metric)
			continue;
		limit->metric = observed[i].metric;
		limit->span = observed[i].span;
		limit->amount = observed[i].amount;
		resets_at = observed[i].resets_at;
	}
	return resets_at;
}

/* Which limit was hit, and when there is room again in that one. */
static void
look_at_limit(const LlmqFailure *failure, const LlmqErrorBody *body, LlmqDiagnosis *diagnosis)
{
	LlmqNamedLimit *limit = &diagnosis->limit;
	TimestampTz resets_at = DT_NOBEGIN;

	if (body->violated)
		*limit = body->limit;
	else
		llmq_limit_in_message(body->message, limit);
	if (limit->span == LLMQ_SPAN_UNKNOWN)
		resets_at = find_exhausted(failure, limit);

	if (limit->span == LLMQ_SPAN_MONTH)
	{
		diagnosis->kind = LLMQ_FAILURE_QUOTA_MONTH;
		diagnosis->until_kind = LLMQ_UNTIL_MONTH;
		if (resets_at != DT_NOBEGIN)
			set_until(diagnosis, failure->now, resets_at);
	}
	else if (limit->span == LLMQ_SPAN_DAY)
	{
		diagnosis->kind = LLMQ_FAILURE_QUOTA_DAY;
		diagnosis->until_kind = LLMQ_UNTIL_DAY;
		/* Gemini's days end at midnight, whatever its retryDelay says; those of others refill all the time. */
		if (failure->adapter != LLMQ_ADAPTER_GEMINI)
			find_until(failure, body, diagnosis);
	}
	else
		find_until(failure, body, diagnosis);
}

/* A 429 of Gemini that names neither quota nor delay is about capacity that all share. */
static bool
is_shared_capacity(const LlmqFailure *failure, const LlmqErrorBody *body)
{
	return failure->adapter == LLMQ_ADAPTER_GEMINI && !body->violated && body->retry_delay == 0 &&
		is_named(body, "RESOURCE_EXHAUSTED") && llmq_find_text(body->message, "your current quota") == NULL;
}

static LlmqBlame
scope_of_limit(LlmqAdapter adapter, const LlmqErrorBody *body)
{
	/* Mistral's limits hang on the organization; Gemini says what its quotas hang on. */
	if (adapter == LLMQ_ADAPTER_MISTRAL || (body->violated && !body->per_model))
		return LLMQ_BLAME_ACCOUNT;
	return LLMQ_BLAME_ACCOUNT_MODEL;
}

/* Kind and scope, and what a rule knows of the time. */
static void
find_kind(const LlmqFailure *failure, const LlmqErrorBody *body, LlmqDiagnosis *diagnosis)
{
	int			status = telling_status(body, failure->status);
	const Rule *rule = find_rule(body, status);

	if (rule != NULL)
	{
		diagnosis->kind = rule->kind;
		diagnosis->scope = rule->scope;
		diagnosis->until_kind = rule->until;
	}
	else if (status == 0)
		diagnosis->kind = kind_of_words(failure->error_class, body->message);
	else if (status == 429 && is_shared_capacity(failure, body))
		diagnosis->kind = LLMQ_FAILURE_OVERLOADED;
	else
		diagnosis->kind = kind_of_status(status);

	if (diagnosis->scope == LLMQ_BLAME_NONE)
		diagnosis->scope = scope_of_kind(diagnosis->kind);
	if (diagnosis->kind == LLMQ_FAILURE_OVERLOADED && status == 529)
		diagnosis->scope = LLMQ_BLAME_PROVIDER;
}

void
llmq_classify(const LlmqFailure *failure, LlmqDiagnosis *diagnosis)
{
	LlmqErrorBody body;

	memset(diagnosis, 0, sizeof(LlmqDiagnosis));
	diagnosis->limit.metric = LLMQ_METRIC_UNKNOWN;
	llmq_error_body_read(failure->body, failure->length, &body);
	find_kind(failure, &body, diagnosis);

	switch (diagnosis->kind)
	{
		case LLMQ_FAILURE_RATE:
			look_at_limit(failure, &body, diagnosis);
			diagnosis->scope = scope_of_limit(failure->adapter, &body);
			break;
		case LLMQ_FAILURE_BILLING:
			find_instant(&body, failure->now, diagnosis);
			break;
		case LLMQ_FAILURE_BAD_REQUEST:
			llmq_limit_in_message(body.message, &diagnosis->limit);
			break;
		case LLMQ_FAILURE_OVERLOADED:
		case LLMQ_FAILURE_SERVER:
		case LLMQ_FAILURE_TIMEOUT:
			find_until(failure, &body, diagnosis);
			break;
		default:
			break;
	}
	diagnosis->retryable = diagnosis->kind == LLMQ_FAILURE_RATE || diagnosis->kind == LLMQ_FAILURE_QUOTA_DAY ||
		diagnosis->kind == LLMQ_FAILURE_QUOTA_MONTH || diagnosis->kind == LLMQ_FAILURE_OVERLOADED ||
		diagnosis->kind == LLMQ_FAILURE_SERVER || diagnosis->kind == LLMQ_FAILURE_TIMEOUT ||
		diagnosis->kind == LLMQ_FAILURE_NETWORK;
}
