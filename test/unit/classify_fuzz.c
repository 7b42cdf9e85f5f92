/*
 * classify_fuzz.c
 *	  The corpus, cut and mutated: whatever comes in, nothing breaks, and what comes out keeps its bounds.
 *
 *		classify_fuzz [--seed N] [--steps N]
 *
 *	links: src/classify.c src/duration.c src/error_body.c src/json_walk.c src/limit_text.c
 *	links: src/provider.c src/ratelimit_header.c src/usage.c
 *
 * Bodies are in memory of just their length, so that AddressSanitizer notices a byte that is read behind them.
 */
#include "postgres.h"

#include "corpus.h"
#include "ratelimit_header.h"
#include "redact.h"
#include "tap.h"
#include "usage.h"

#define MAX_TEXT (2 * LLMQ_MAX_BODY)

enum
{
	KIND, UNTIL, LIMIT, INNOCENT, HEADERS, USAGE, CUT, PROMISES
};

static Promise promises[PROMISES] = {
	[KIND] = {"there always is a kind, and a scope that fits it"},
	[UNTIL] = {"an instant is after now, and within 32 days"},
	[LIMIT] = {"a limit's amount is not negative, its period and metric are known ones"},
	[INNOCENT] = {"the caller's own mistakes never have a scope or an instant"},
	[HEADERS] = {"advertised limits are positive, and listed once"},
	[USAGE] = {"parts of usage are within their wholes"},
	[CUT] = {"a body of more than 64 kB is as its first 64 kB"},
};

typedef struct Text
{
	size_t		length;
	char		data[MAX_TEXT];
} Text;

static CorpusCase *cases[CORPUS_MAX_FILES];
static int	ncases;
static uint64 random_state = 1;

/* The next of a fixed sequence of random bits (splitmix64). */
static uint64
random_bits(void)
{
	uint64		z = (random_state += UINT64CONST(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64CONST(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

/* In [0, n). */
static size_t
random_below(size_t n)
{
	return n == 0 ? 0 : random_bits() % n;
}

static const CorpusCase *
random_case(void)
{
	return cases[random_below(ncases)];
}

/* Puts bytes into a text in place of others. */
static void
splice(Text *text, size_t at, size_t removed, const char *bytes, size_t added)
{
	removed = Min(removed, text->length - at);
	added = Min(added, MAX_TEXT - (text->length - removed));
	memmove(text->data + at + added, text->data + at + removed, text->length - at - removed);
	memcpy(text->data + at, bytes, added);
	text->length += added - removed;
}

static void
insert_fragment(Text *text, size_t at)
{
	static const char *const fragments[] = {
		"\"", "\\", "\\u0000", "\\ud800", "{", "}", "[", "]", ",", ":", "null", "-1", "0", "1e999", "\x01", "\xc3",
		"99999999999999999999999999", "9223372036854775807", "2147483647", "{\"error\":", "{\"usage\":",
		"\"violations\":[", "{\"quotaId\":\"PerDayRequestsPerModel\"}", "\"retryDelay\":\"99999999999h\"",
		" per ", " tokens per min: Limit ", "try again in ", "2026-02-30", "9999-12-31T23:59:59Z", "1m1m1m",
		"0.0000001s",
		"{\"prompt_tokens\":", "{\"input_tokens\":2147483647,\"cache_read_input_tokens\":",
		"insufficient_quota",
	};
	const char *fragment = fragments[random_below(lengthof(fragments))];

	splice(text, at, random_below(3) == 0 ? strlen(fragment) : 0, fragment, strlen(fragment));
}

/* The same few bytes, very often. */
static void
insert_run(Text *text, size_t at)
{
	static const char *const units[] = {"[", "{\"a\":", "[{\"error\":", "9", "\\", " ", "\"a\",", "1,",
	"\\u0041", "1s"};
	const char *unit = units[random_below(lengthof(units))];
	size_t		times = random_below(random_below(20) == 0 ? 40000 : 200);
	Text	   *run = malloc(sizeof(Text));

	run->length = 0;
	while (times-- > 0 && run->length + strlen(unit) <= MAX_TEXT)
		splice(run, run->length, 0, unit, strlen(unit));
	splice(text, at, 0, run->data, run->length);
	free(run);
}

static void
mutate(Text *text)
{
	size_t		at = random_below(text->length + 1);
	const CorpusCase *other;

	switch (random_below(8))
	{
		case 0:
			text->length = at;
			break;
		case 1:
			if (at < text->length)
				text->data[at] = (char) random_bits();
			break;
		case 2:
			splice(text, at, random_below(16), "", 0);
			break;
		case 3:
			insert_run(text, at);
			break;
		case 4:
			other = random_case();
			splice(text, at, random_below(text->length), other->failure.body, other->failure.length);
			break;
		case 5:
			if (at < text->length)
				text->data[at] = '\0';
			break;
		default:
			insert_fragment(text, at);
	}
}

/* A header's value of any kind, which the caller frees. */
static char *
random_value(const char *original)
{
	Text	   *text = malloc(sizeof(Text));
	char	   *value;

	text->length = Min(strlen(original), 200);
	memcpy(text->data, original, text->length);
	if (random_below(2) == 0)
		mutate(text);
	text->length = Min(text->length, 500);
	value = malloc(text->length + 1);
	memcpy(value, text->data, text->length);
	value[text->length] = '\0';
	free(text);
	return value;
}

static void
check_diagnosis(const LlmqFailure *failure, const LlmqDiagnosis *diagnosis)
{
	bool		own = diagnosis->kind == LLMQ_FAILURE_BAD_REQUEST || diagnosis->kind == LLMQ_FAILURE_CONTENT ||
		diagnosis->kind == LLMQ_FAILURE_CANCELLED;

	CHECK(&promises[KIND], diagnosis->kind > LLMQ_FAILURE_NONE && diagnosis->kind <= LLMQ_FAILURE_NOT_FOUND &&
		  (diagnosis->scope != LLMQ_BLAME_NONE || own), "%s", llmq_failure_name(diagnosis->kind));
	CHECK(&promises[UNTIL], diagnosis->until_kind != LLMQ_UNTIL_TIME ||
		  (diagnosis->until > failure->now && diagnosis->until <= failure->now + LLMQ_UNTIL_MAX),
		  INT64_FORMAT, diagnosis->until);
	CHECK(&promises[LIMIT], diagnosis->limit.amount >= 0 && diagnosis->limit.span <= LLMQ_SPAN_MONTH &&
		  diagnosis->limit.metric >= LLMQ_METRIC_UNKNOWN && diagnosis->limit.metric <= LLMQ_METRIC_CONCURRENCY,
		  INT64_FORMAT, diagnosis->limit.amount);
	if (own)
		CHECK(&promises[INNOCENT], diagnosis->scope == LLMQ_BLAME_NONE && diagnosis->until_kind == LLMQ_UNTIL_NONE &&
			  !diagnosis->retryable, "%s", llmq_failure_name(diagnosis->kind));
}

static void
check_headers(const LlmqFailure *failure)
{
	LlmqObserved observed[LLMQ_MAX_OBSERVED];
	int			count = llmq_ratelimit_headers(failure->adapter, failure->headers, failure->header_count,
											   failure->now, observed);

	for (int i = 0; i < count; i++)
	{
		CHECK(&promises[HEADERS], observed[i].amount >= 0 && observed[i].remaining >= 0 &&
			  observed[i].span != LLMQ_SPAN_UNKNOWN &&
			  (observed[i].resets_at == DT_NOBEGIN || observed[i].resets_at > failure->now),
			  "amount " INT64_FORMAT ", remaining " INT64_FORMAT, observed[i].amount, observed[i].remaining);
		for (int j = 0; j < i; j++)
			CHECK(&promises[HEADERS], observed[i].metric != observed[j].metric || observed[i].span != observed[j].span,
				  "metric %d twice", observed[i].metric);
	}
}

static void
check_usage(const char *body, size_t length)
{
	LlmqFigures figures;

	if (llmq_usage_read(body, length, &figures) != LLMQ_FIGURES_READ)
		return;
	CHECK(&promises[USAGE], figures.cached <= figures.input && figures.cache_write <= figures.input &&
		  Max(figures.cached, 0) + (int64) Max(figures.cache_write, 0) <= Max(figures.input, 0) &&
		  figures.reasoning <= figures.output && figures.input >= LLMQ_NO_FIGURE && figures.output >= LLMQ_NO_FIGURE,
		  "%d %d %d; %d %d", figures.input, figures.cached, figures.cache_write, figures.output, figures.reasoning);
}

/* A failure with this body, and with the headers of the case, mutated. */
static void
try_body(const CorpusCase *one, const Text *text)
{
	LlmqFailure failure = one->failure;
	LlmqHeader	headers[CORPUS_MAX_HEADERS];
	char	   *body = malloc(text->length);
	LlmqDiagnosis diagnosis;
	LlmqDiagnosis first;

	memcpy(body, text->data, text->length);
	for (int i = 0; i < failure.header_count; i++)
		headers[i] = (LlmqHeader) {failure.headers[i].name, random_value(failure.headers[i].value)};
	failure.headers = headers;
	failure.body = body;
	failure.length = text->length;
	if (random_below(3) == 0)
		failure.adapter = (LlmqAdapter) random_below(LLMQ_ADAPTER_MISTRAL + 1);
	if (random_below(3) == 0)
		failure.status = random_below(700);

	llmq_classify(&failure, &diagnosis);
	check_diagnosis(&failure, &diagnosis);
	if (failure.length > LLMQ_MAX_BODY)
	{
		failure.length = LLMQ_MAX_BODY;
		llmq_classify(&failure, &first);
		CHECK(&promises[CUT], memcmp(&diagnosis, &first, sizeof(diagnosis)) == 0, "%s", one->name);
	}
	check_headers(&failure);
	check_usage(body, text->length);

	for (int i = 0; i < failure.header_count; i++)
		free(unconstify(char *, headers[i].value));
	free(body);
}

/* Usage objects are not in the corpus of refusals. */
static void
seed_usage(Text *text)
{
	static const char *const seeds[] = {
		"{\"prompt_tokens\":1200,\"completion_tokens\":300,\"total_tokens\":1500,"
		"\"prompt_tokens_details\":{\"cached_tokens\":1024,\"cache_write_tokens\":5},"
		"\"completion_tokens_details\":{\"reasoning_tokens\":120}}",
		"{\"input_tokens\":50,\"cache_creation_input_tokens\":1000,\"cache_read_input_tokens\":2000,"
		"\"output_tokens\":503,\"output_tokens_details\":{\"reasoning_tokens\":40}}",
		"{\"usageMetadata\":{\"promptTokenCount\":50,\"cachedContentTokenCount\":9,"
		"\"toolUsePromptTokenCount\":100,\"candidatesTokenCount\":60,\"thoughtsTokenCount\":30,"
		"\"totalTokenCount\":240}}",
	};
	const char *seed = seeds[random_below(lengthof(seeds))];

	text->length = strlen(seed);
	memcpy(text->data, seed, text->length);
}

static void
run(long steps)
{
	Text	   *text = malloc(sizeof(Text));

	for (long step = 0; step < steps; step++)
	{
		const CorpusCase *one = random_case();

		if (random_below(4) == 0)
			seed_usage(text);
		else
		{
			text->length = one->failure.length;
			memcpy(text->data, one->failure.body, text->length);
		}
		for (int i = random_below(6); i > 0; i--)
			mutate(text);
		if (random_below(500) == 0)
			while (text->length < LLMQ_MAX_BODY + 100)
				insert_run(text, text->length);
		try_body(one, text);
	}
	free(text);
}

int
main(int argc, char **argv)
{
	long		steps = 50000;

	for (int i = 1; i + 1 < argc; i += 2)
		if (strcmp(argv[i], "--seed") == 0)
			random_state = strtoul(argv[i + 1], NULL, 10);
		else if (strcmp(argv[i], "--steps") == 0)
			steps = atol(argv[i + 1]);
	printf("# classify_fuzz --seed " UINT64_FORMAT " --steps %ld\n", random_state, steps);
	ncases = corpus_read(cases);
	run(steps);
	return promises_report(promises, PROMISES);
}
