/*
 * ratelimit_header.c
 *	  The limits that a provider advertises: x-ratelimit-limit-requests, anthropic-ratelimit-input-tokens-reset,
 *	  x-ratelimit-remaining-tokens-month and their like.
 *
 * Pure: no server calls, no allocation, nothing raises. Three headers speak of one limit: its amount, what remains, and
 * when all of it will be there again. What is not positive was not said. What is known to be something else than it
 * seems is left out: Azure's requests are those of a slice of 1 or 10 seconds, and what remains of Anthropic's tokens
 * is rounded to the thousand.
 */
#include "postgres.h"

#include "duration.h"
#include "ratelimit_header.h"

/* A limit's name in headers. Of two names for the same thing the tighter limit holds. */
typedef struct Noun
{
	const char *name;
	LlmqMetric	metric;
} Noun;

static const Noun nouns[] = {
	{"requests", LLMQ_METRIC_REQUESTS},
	{"req", LLMQ_METRIC_REQUESTS},
	{"tokens", LLMQ_METRIC_TOKENS},
	{"project-tokens", LLMQ_METRIC_TOKENS},
	{"input-tokens", LLMQ_METRIC_INPUT_TOKENS},
	{"output-tokens", LLMQ_METRIC_OUTPUT_TOKENS},
};

static const char *const spans[] = {
	[LLMQ_SPAN_SECOND] = "-second",
	[LLMQ_SPAN_MINUTE] = "-minute",
	[LLMQ_SPAN_HOUR] = "-hour",
	[LLMQ_SPAN_DAY] = "-day",
	[LLMQ_SPAN_MONTH] = "-month"
};

typedef enum Fact
{
	FACT_LIMIT,
	FACT_REMAINING,
	FACT_RESET
} Fact;

static const char *const facts[] = {
	[FACT_LIMIT] = "limit",
	[FACT_REMAINING] = "remaining",
	[FACT_RESET] = "reset"
};

/* A header's name, taken apart. */
typedef struct Topic
{
	Fact		fact;
	int			noun;
	LlmqSpan	span;			/* LLMQ_SPAN_UNKNOWN: not in the name */
} Topic;

/* What is known of a limit until all headers have been read. */
typedef struct Sighting
{
	Topic		topic;
	LlmqObserved seen;
} Sighting;

/* Is it the whole text from here on? */
static bool
is_rest(const char *text, Size length, const char *wanted)
{
	return length == strlen(wanted) && pg_strncasecmp(text, wanted, length) == 0;
}

/* Takes the span off the end of a name. */
static LlmqSpan
cut_span(const char *name, Size *length)
{
	for (int i = LLMQ_SPAN_SECOND; i < (int) lengthof(spans); i++)
	{
		Size		suffix = strlen(spans[i]);

		if (*length > suffix && is_rest(name + *length - suffix, suffix, spans[i]))
		{
			*length -= suffix;
			return (LlmqSpan) i;
		}
	}
	return LLMQ_SPAN_UNKNOWN;
}

static bool
find_noun(const char *name, Size length, int *noun)
{
	for (*noun = 0; *noun < (int) lengthof(nouns); (*noun)++)
		if (is_rest(name, length, nouns[*noun].name))
			return true;
	return false;
}

/* x-ratelimit-FACT-NOUN[-SPAN] */
static bool
parse_common(const char *name, Topic *topic)
{
	for (int fact = FACT_LIMIT; fact <= FACT_RESET; fact++)
	{
		Size		prefix = strlen(facts[fact]);
		Size		length;

		if (pg_strncasecmp(name, facts[fact], prefix) != 0 || name[prefix] != '-')
			continue;
		name += prefix + 1;
		length = strlen(name);
		topic->fact = (Fact) fact;
		topic->span = cut_span(name, &length);
		return find_noun(name, length, &topic->noun);
	}
	return false;
}

/* anthropic-ratelimit-NOUN-FACT */
static bool
parse_anthropic(const char *name, Topic *topic)
{
	const char *dash = strrchr(name, '-');

	topic->span = LLMQ_SPAN_MINUTE;
	for (int fact = FACT_LIMIT; dash != NULL && fact <= FACT_RESET; fact++)
	{
		topic->fact = (Fact) fact;
		if (pg_strcasecmp(dash + 1, facts[fact]) == 0)
			return find_noun(name, dash - name, &topic->noun);
	}
	return false;
}

static bool
parse_name(LlmqAdapter adapter, const char *name, Topic *topic)
{
	static const char common[] = "x-ratelimit-";
	static const char anthropic[] = "anthropic-ratelimit-";
	bool		known = false;

	if (pg_strncasecmp(name, common, sizeof(common) - 1) == 0)
		known = parse_common(name + sizeof(common) - 1, topic);
	else if (pg_strncasecmp(name, anthropic, sizeof(anthropic) - 1) == 0)
		known = parse_anthropic(name + sizeof(anthropic) - 1, topic);
	return known && !(adapter == LLMQ_ADAPTER_AZURE && nouns[topic->noun].metric == LLMQ_METRIC_REQUESTS);
}

/* A whole positive number, else 0. */
static int64
positive(const char *value)
{
	int64		number;
	Size		bytes;

	value += strspn(value, " \t");
	bytes = llmq_read_count(value, &number);
	return value[bytes + strspn(value + bytes, " \t")] == '\0' ? number : 0;
}

/* Does it say "0"? */
static bool
is_zero(const char *value)
{
	value += strspn(value, " \t");
	return value[0] == '0' && value[1 + strspn(value + 1, " \t")] == '\0';
}

static bool
is_rounded(LlmqAdapter adapter, int noun)
{
	return adapter == LLMQ_ADAPTER_ANTHROPIC && nouns[noun].metric != LLMQ_METRIC_REQUESTS;
}

static void
note(LlmqAdapter adapter, const char *value, TimestampTz now, Fact fact, Sighting *sighting)
{
	LlmqObserved *seen = &sighting->seen;
	TimestampTz until;

	switch (fact)
	{
		case FACT_LIMIT:
			seen->amount = positive(value);
			break;
		case FACT_REMAINING:
			seen->remaining = is_rounded(adapter, sighting->topic.noun) ? 0 : positive(value);
			seen->exhausted = adapter != LLMQ_ADAPTER_AZURE && is_zero(value);
			break;
		case FACT_RESET:
			if (llmq_duration_until(value, USECS_PER_SEC, now, &until) && until > now)
				seen->resets_at = until;
			break;
	}
}

/* The sighting of a topic's limit, a new one perhaps; NULL when there are too many. */
static Sighting *
find_sighting(Sighting *sightings, int *count, const Topic *topic)
{
	Sighting   *sighting;

	for (int i = 0; i < *count; i++)
		if (sightings[i].topic.noun == topic->noun && sightings[i].topic.span == topic->span)
			return &sightings[i];
	if (*count == LLMQ_MAX_OBSERVED)
		return NULL;
	sighting = &sightings[(*count)++];
	memset(sighting, 0, sizeof(Sighting));
	sighting->topic = *topic;
	sighting->seen.resets_at = DT_NOBEGIN;
	return sighting;
}

/*
 * The span of a limit whose headers do not name it. OpenAI counts requests by the minute or by the day and calls both
 * the same; but as the limit refills evenly, the time until all of it is there again tells them apart.
 */
static LlmqSpan
usual_span(LlmqAdapter adapter, LlmqMetric metric, const LlmqObserved *seen, TimestampTz now)
{
	int64		used = seen->amount - seen->remaining;

	if (metric != LLMQ_METRIC_REQUESTS || adapter == LLMQ_ADAPTER_ANTHROPIC)
		return LLMQ_SPAN_MINUTE;
	if (adapter == LLMQ_ADAPTER_GROQ)
		return LLMQ_SPAN_DAY;
	if (seen->resets_at == DT_NOBEGIN || used <= 0 || (seen->remaining == 0 && !seen->exhausted))
		return LLMQ_SPAN_MINUTE;
	return (double) (seen->resets_at - now) * seen->amount / used > USECS_PER_HOUR ? LLMQ_SPAN_DAY : LLMQ_SPAN_MINUTE;
}

/* Adds what was seen, or the tighter of two that are about the same. */
static void
add_observed(LlmqObserved *observed, int *count, const LlmqObserved *seen)
{
	LlmqObserved *place = observed;

	if (seen->amount == 0 && seen->remaining == 0 && !seen->exhausted)
		return;
	while (place < observed + *count && (place->metric != seen->metric || place->span != seen->span))
		place++;
	if (place == observed + *count)
		(*count)++;
	else if (seen->amount == 0 || (place->amount != 0 && place->amount <= seen->amount))
		return;
	*place = *seen;
}

/* Lists what the headers say of limits; the number of them. */
int
llmq_ratelimit_headers(LlmqAdapter adapter, const LlmqHeader *headers, int count, TimestampTz now,
					   LlmqObserved observed[LLMQ_MAX_OBSERVED])
{
	Sighting	sightings[LLMQ_MAX_OBSERVED];
	int			sighted = 0;
	int			listed = 0;

	for (int i = 0; i < count; i++)
	{
		Topic		topic;
		Sighting   *sighting = NULL;

		if (headers[i].value != NULL && parse_name(adapter, headers[i].name, &topic))
			sighting = find_sighting(sightings, &sighted, &topic);
		if (sighting != NULL)
			note(adapter, headers[i].value, now, topic.fact, sighting);
	}

	for (int i = 0; i < sighted; i++)
	{
		LlmqObserved *seen = &sightings[i].seen;

		seen->metric = nouns[sightings[i].topic.noun].metric;
		seen->span = sightings[i].topic.span;
		if (seen->amount != 0 && seen->remaining > seen->amount)
			seen->remaining = 0;
		if (seen->span == LLMQ_SPAN_UNKNOWN)
			seen->span = usual_span(adapter, seen->metric, seen, now);
		add_observed(observed, &listed, seen);
	}
	return listed;
}
