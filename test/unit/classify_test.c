/*
 * classify_test.c
 *	  Every refusal of test/corpus is understood as its file says: kind, limit, scope, until when, and the limits that
 *	  its headers advertise.
 *
 *	links: src/classify.c src/duration.c src/error_body.c src/json_walk.c src/limit_text.c
 *	links: src/provider.c src/ratelimit_header.c
 */
#include "postgres.h"

#include <time.h>

#include "corpus.h"
#include "ratelimit_header.h"
#include "redact.h"
#include "tap.h"

#undef snprintf

static Promise promises[CORPUS_MAX_FILES + 8];
static int	npromises = 0;

static const char *
metric_name(int metric)
{
	static const char *const names[] = {
		[LLMQ_METRIC_REQUESTS] = "requests",
		[LLMQ_METRIC_INPUT_TOKENS] = "input_tokens",
		[LLMQ_METRIC_OUTPUT_TOKENS] = "output_tokens",
		[LLMQ_METRIC_TOKENS] = "tokens",
		[LLMQ_METRIC_CONCURRENCY] = "concurrency"
	};

	return metric == LLMQ_METRIC_UNKNOWN ? "-" : names[metric];
}

static const char *
span_name(LlmqSpan span)
{
	static const char *const names[] = {
		[LLMQ_SPAN_UNKNOWN] = "-",
		[LLMQ_SPAN_SECOND] = "second",
		[LLMQ_SPAN_MINUTE] = "minute",
		[LLMQ_SPAN_HOUR] = "hour",
		[LLMQ_SPAN_DAY] = "day",
		[LLMQ_SPAN_MONTH] = "month"
	};

	return names[span];
}

/* An instant as the C library prints it. */
static const char *
instant_text(TimestampTz instant)
{
	static char text[64];
	time_t		seconds = (instant - instant % USECS_PER_SEC) / USECS_PER_SEC + INT64CONST(946684800);
	struct tm	parts;
	size_t		length;

	gmtime_r(&seconds, &parts);
	length = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
	if (instant % USECS_PER_SEC != 0)
		length += snprintf(text + length, sizeof(text) - length, ".%06d", (int) (instant % USECS_PER_SEC));
	snprintf(text + length, sizeof(text) - length, "Z");
	return text;
}

static const char *
until_text(const LlmqDiagnosis *diagnosis)
{
	switch (diagnosis->until_kind)
	{
		case LLMQ_UNTIL_TIME:
			return instant_text(diagnosis->until);
		case LLMQ_UNTIL_DAY:
			return "day";
		case LLMQ_UNTIL_MONTH:
			return "month";
		default:
			return "none";
	}
}

/* A diagnosis in the words of the corpus. */
static void
diagnosis_text(const LlmqDiagnosis *diagnosis, char *text, size_t size)
{
	static const char *const scopes[] = {
		[LLMQ_BLAME_NONE] = "none",
		[LLMQ_BLAME_KEY] = "key",
		[LLMQ_BLAME_ACCOUNT] = "account",
		[LLMQ_BLAME_ACCOUNT_MODEL] = "account_model",
		[LLMQ_BLAME_MODEL] = "model",
		[LLMQ_BLAME_PROVIDER] = "provider"
	};
	char		amount[32] = "";

	if (diagnosis->limit.amount != 0)
		snprintf(amount, sizeof(amount), "=%lld", (long long) diagnosis->limit.amount);
	snprintf(text, size, "%s %s/%s%s %s until=%s %s", llmq_failure_name(diagnosis->kind),
			 metric_name(diagnosis->limit.metric), span_name(diagnosis->limit.span), amount, scopes[diagnosis->scope],
			 until_text(diagnosis), diagnosis->retryable ? "retryable" : "final");
}

/* The limits that the headers advertise, a line for each. */
static void
observed_text(const LlmqFailure *failure, char *text, size_t size)
{
	LlmqObserved observed[LLMQ_MAX_OBSERVED];
	int			count = llmq_ratelimit_headers(failure->adapter, failure->headers, failure->header_count,
											   failure->now, observed);
	size_t		at = 0;

	text[0] = '\0';
	for (int i = 0; i < count; i++)
	{
		at += snprintf(text + at, size - at, "%s/%s", metric_name(observed[i].metric), span_name(observed[i].span));
		if (observed[i].amount != 0)
			at += snprintf(text + at, size - at, " limit=%lld", (long long) observed[i].amount);
		if (observed[i].remaining != 0)
			at += snprintf(text + at, size - at, " remaining=%lld", (long long) observed[i].remaining);
		if (observed[i].exhausted)
			at += snprintf(text + at, size - at, " exhausted");
		if (observed[i].resets_at != DT_NOBEGIN)
			at += snprintf(text + at, size - at, " resets=%s", instant_text(observed[i].resets_at));
		at += snprintf(text + at, size - at, "\n");
	}
}

static void
check_case(const CorpusCase *one)
{
	Promise    *promise = &promises[npromises++];
	LlmqDiagnosis diagnosis;
	char		text[1024];

	promise->name = one->name;
	llmq_classify(&one->failure, &diagnosis);
	diagnosis_text(&diagnosis, text, sizeof(text));
	CHECK(promise, strcmp(text, one->expect) == 0, "is \"%s\"", text);
	observed_text(&one->failure, text, sizeof(text));
	CHECK(promise, strcmp(text, one->observe) == 0, "its headers say \"%s\"", text);
}

/* The kind of a 429 with this body, which may hold any bytes. */
static LlmqFailureKind
kind_of_body(const char *body, size_t length)
{
	LlmqFailure failure = {.adapter = LLMQ_ADAPTER_OPENAI, .status = 429, .now = CORPUS_NOW};
	LlmqDiagnosis diagnosis;

	failure.body = body;
	failure.length = length;
	llmq_classify(&failure, &diagnosis);
	return diagnosis.kind;
}

/* What files cannot hold. */
static void
check_bytes(void)
{
	static const char zeros[] = "429\0 insufficient_quota\0";
	static char large[LLMQ_MAX_BODY + 100];
	Promise    *zero = &promises[npromises++];
	Promise    *size = &promises[npromises++];
	int			length;

	zero->name = "zeros are but blanks";
	CHECK(zero, kind_of_body(zeros, sizeof(zeros)) == LLMQ_FAILURE_BILLING, "is not found behind a zero");

	size->name = "what is behind 64 kB is not read, what is before it is";
	length = snprintf(large, sizeof(large), "{\"a\":\"%0*d\",\"code\":\"insufficient_quota\"}", LLMQ_MAX_BODY - 10, 0);
	CHECK(size, kind_of_body(large, length) == LLMQ_FAILURE_RATE, "is read");
	length = snprintf(large, sizeof(large), "{\"code\":\"insufficient_quota\",\"a\":\"%0*d\"}", LLMQ_MAX_BODY - 10, 0);
	CHECK(size, kind_of_body(large, length) == LLMQ_FAILURE_BILLING, "is not read");
}

/* Every name of a limit at once. */
static void
check_many_headers(void)
{
	static const char *const nouns[] = {"requests", "req", "tokens", "project-tokens", "input-tokens", "output-tokens"};
	static const char *const spans[] = {"", "-second", "-minute", "-hour", "-day", "-month"};
	Promise    *promise = &promises[npromises++];
	char		names[lengthof(nouns) * lengthof(spans)][64];
	LlmqHeader	headers[lengthof(names)];
	LlmqObserved observed[LLMQ_MAX_OBSERVED];
	int			count;

	promise->name = "of more limits than any provider has, some are listed";
	for (int i = 0; i < (int) lengthof(names); i++)
	{
		snprintf(names[i], sizeof(names[i]), "X-RateLimit-Limit-%s%s", nouns[i / lengthof(spans)],
				 spans[i % lengthof(spans)]);
		headers[i] = (LlmqHeader) {names[i], "7"};
	}
	count = llmq_ratelimit_headers(LLMQ_ADAPTER_OTHER, headers, lengthof(headers), CORPUS_NOW, observed);
	CHECK(promise, count > 4 && count <= LLMQ_MAX_OBSERVED, "%d are", count);
}

/* What an answer that is the caller's own doing may never do. */
static void
check_innocence(CorpusCase **cases, int count)
{
	Promise    *promise = &promises[npromises++];

	promise->name = "the caller's own mistakes have no scope and no cooldown";
	for (int i = 0; i < count; i++)
	{
		LlmqDiagnosis diagnosis;

		llmq_classify(&cases[i]->failure, &diagnosis);
		if (diagnosis.kind == LLMQ_FAILURE_BAD_REQUEST || diagnosis.kind == LLMQ_FAILURE_CONTENT ||
			diagnosis.kind == LLMQ_FAILURE_CANCELLED)
			CHECK(promise, diagnosis.scope == LLMQ_BLAME_NONE && diagnosis.until_kind == LLMQ_UNTIL_NONE,
				  "%s", cases[i]->name);
	}
}

/* Every kind there is has a case. */
static void
check_kinds(CorpusCase **cases, int count)
{
	Promise    *promise = &promises[npromises++];
	bool		seen[LLMQ_FAILURE_NOT_FOUND + 1] = {true};

	promise->name = "every kind of failure is in the corpus";
	for (int i = 0; i < count; i++)
	{
		LlmqDiagnosis diagnosis;

		llmq_classify(&cases[i]->failure, &diagnosis);
		seen[diagnosis.kind] = true;
	}
	for (int i = 0; i < (int) lengthof(seen); i++)
		CHECK(promise, seen[i], "%s is not", llmq_failure_name((LlmqFailureKind) i));
}

int
main(void)
{
	static CorpusCase *cases[CORPUS_MAX_FILES];
	int			count = corpus_read(cases);
	int			status;

	for (int i = 0; i < count; i++)
		check_case(cases[i]);
	check_bytes();
	check_many_headers();
	check_innocence(cases, count);
	check_kinds(cases, count);
	status = promises_report(promises, npromises);
	for (int i = 0; i < count; i++)
		free(cases[i]);
	return status;
}
