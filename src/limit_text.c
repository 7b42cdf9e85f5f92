/*
 * limit_text.c
 *	  Which limit a refusal means, from its words: "on tokens per min (TPM): Limit 30000, Used 29000, Requested 1500",
 *	  "your rate limit of 50,000 input tokens per minute", "GenerateRequestsPerDayPerProjectPerModel".
 *
 * Pure: no server calls, no allocation, nothing raises. What is not recognised is unknown.
 */
#include "postgres.h"

#include "duration.h"
#include "limit_text.h"

typedef struct Word
{
	const char *text;
	int			meaning;
} Word;

/* What stands before "per", the longer first. */
static const Word metrics[] = {
	{"input tokens", LLMQ_METRIC_INPUT_TOKENS},
	{"output tokens", LLMQ_METRIC_OUTPUT_TOKENS},
	{"tokens", LLMQ_METRIC_TOKENS},
	{"requests", LLMQ_METRIC_REQUESTS},
};

/* What stands behind it. */
static const Word spans[] = {
	{"sec", LLMQ_SPAN_SECOND},
	{"min", LLMQ_SPAN_MINUTE},
	{"hour", LLMQ_SPAN_HOUR},
	{"day", LLMQ_SPAN_DAY},
	{"month", LLMQ_SPAN_MONTH},
};

/* Messages that name a metric without a span, or both in other words. */
typedef struct Phrase
{
	const char *text;
	int			metric;
	LlmqSpan	span;
} Phrase;

static const Phrase phrases[] = {
	{"exceeded token rate limit", LLMQ_METRIC_TOKENS, LLMQ_SPAN_MINUTE},
	{"exceeded the token rate limit", LLMQ_METRIC_TOKENS, LLMQ_SPAN_MINUTE},
	{"exceeded call rate limit", LLMQ_METRIC_REQUESTS, LLMQ_SPAN_UNKNOWN},
	{"exceeded the call rate limit", LLMQ_METRIC_REQUESTS, LLMQ_SPAN_UNKNOWN},
	{"Requests rate limit exceeded", LLMQ_METRIC_REQUESTS, LLMQ_SPAN_UNKNOWN},
	{"concurrent connections", LLMQ_METRIC_CONCURRENCY, LLMQ_SPAN_UNKNOWN},
	{"concurrent requests", LLMQ_METRIC_CONCURRENCY, LLMQ_SPAN_UNKNOWN},
};

/* Parts of Gemini's quota ids and metrics, the longer first. */
static const Word quota_metrics[] = {
	{"InputToken", LLMQ_METRIC_INPUT_TOKENS},
	{"input_token", LLMQ_METRIC_INPUT_TOKENS},
	{"OutputToken", LLMQ_METRIC_OUTPUT_TOKENS},
	{"output_token", LLMQ_METRIC_OUTPUT_TOKENS},
	{"Token", LLMQ_METRIC_TOKENS},
	{"Request", LLMQ_METRIC_REQUESTS},
};

static const Word quota_spans[] = {
	{"PerDay", LLMQ_SPAN_DAY},
	{"PerMinute", LLMQ_SPAN_MINUTE},
};

/* A number of which thousands may be set apart by commas. */
static int64
read_amount(const char *text)
{
	int64		amount = 0;

	for (int digits = 0; digits < 18; text++)
	{
		if (*text == ',' && digits > 0 && text[1] >= '0' && text[1] <= '9')
			continue;
		if (*text < '0' || *text > '9')
			return amount;
		amount = amount * 10 + (*text - '0');
		digits++;
	}
	return 0;
}

/* The number that ends before `end`, a blank between. */
static int64
read_amount_before(const char *text, const char *end)
{
	const char *begin = end;

	if (begin == text || begin[-1] != ' ')
		return 0;
	begin--;
	while (begin > text && ((begin[-1] >= '0' && begin[-1] <= '9') || begin[-1] == ','))
		begin--;
	return read_amount(begin);
}

/* "Limit 30000", "Limit: 3 / min" */
static int64
read_amount_after(const char *text)
{
	int64		amount = 0;

	while (amount == 0 && (text = llmq_find_text(text, "limit")) != NULL)
	{
		text += strlen("limit");
		amount = read_amount(text + strspn(text, ": "));
	}
	return amount;
}

/* The word that ends before `end`. */
static const Word *
word_before(const char *text, const char *end)
{
	for (int i = 0; i < (int) lengthof(metrics); i++)
	{
		Size		length = strlen(metrics[i].text);

		if ((Size) (end - text) >= length && pg_strncasecmp(end - length, metrics[i].text, length) == 0)
			return &metrics[i];
	}
	return NULL;
}

static const Word *
word_at(const char *text)
{
	for (int i = 0; i < (int) lengthof(spans); i++)
		if (pg_strncasecmp(text, spans[i].text, strlen(spans[i].text)) == 0)
			return &spans[i];
	return NULL;
}

/* METRIC per SPAN, with the amount before or behind. */
static bool
find_metric_per_span(const char *message, LlmqNamedLimit *limit)
{
	static const char per[] = " per ";
	const char *at = message;

	while ((at = llmq_find_text(at, per)) != NULL)
	{
		const Word *metric = word_before(message, at);
		const Word *span = word_at(at + sizeof(per) - 1);

		at += sizeof(per) - 1;
		if (span == NULL)
			continue;
		limit->span = (LlmqSpan) span->meaning;
		if (metric == NULL)
			continue;
		limit->metric = metric->meaning;
		limit->amount = read_amount_before(message, at - (sizeof(per) - 1) - strlen(metric->text));
		if (limit->amount == 0)
			limit->amount = read_amount_after(at);
		return true;
	}
	return limit->span != LLMQ_SPAN_UNKNOWN;
}

void
llmq_limit_in_message(const char *message, LlmqNamedLimit *limit)
{
	limit->metric = LLMQ_METRIC_UNKNOWN;
	limit->span = LLMQ_SPAN_UNKNOWN;
	limit->amount = 0;

	if (find_metric_per_span(message, limit))
		return;
	for (int i = 0; i < (int) lengthof(phrases); i++)
		if (llmq_find_text(message, phrases[i].text) != NULL)
		{
			limit->metric = phrases[i].metric;
			limit->span = phrases[i].span;
			return;
		}
}

/* The first word of a list that the text contains, else `otherwise`. */
static int
meaning_in(const char *text, const Word *words, int count, int otherwise)
{
	for (int i = 0; i < count; i++)
		if (llmq_find_text(text, words[i].text) != NULL)
			return words[i].meaning;
	return otherwise;
}

/* Gemini's ids say everything but the amount. */
void
llmq_limit_in_quota_id(const char *quota_id, LlmqNamedLimit *limit)
{
	limit->metric = meaning_in(quota_id, quota_metrics, lengthof(quota_metrics), LLMQ_METRIC_UNKNOWN);
	limit->span = (LlmqSpan) meaning_in(quota_id, quota_spans, lengthof(quota_spans), LLMQ_SPAN_UNKNOWN);
	limit->amount = 0;
}

bool
llmq_wait_in_message(const char *message, int64 *wait)
{
	static const char *const openings[] = {"try again in ", "retry after ", "retry in "};

	for (int i = 0; i < (int) lengthof(openings); i++)
	{
		const char *found = llmq_find_text(message, openings[i]);

		if (found != NULL && llmq_duration_read(found + strlen(openings[i]), wait) > 0)
			return true;
	}
	return false;
}
