/*
 * usage.c
 *	  The token counts in a provider's own usage object, in our terms.
 *
 * Pure but for memory: json_walk.c allocates, and nothing else raises. The object may stand alone, in the whole answer,
 * in an event of a stream, or in a list of all events, of which the last word on each figure counts.
 *
 * The names of the figures tell the shapes apart, so nobody has to say which provider it was, and a provider that
 * answers in another one's shape is understood:
 *
 *		prompt_tokens, completion_tokens: OpenAI's chat shape; what the cache gave is a part of the prompt, in
 *		Anthropic's names, too, which gateways add
 *		input_tokens, output_tokens: OpenAI's Responses, where input_tokens_details has the parts; or Anthropic's, where
 *		the cache's figures have names of their own and come on top
 *		promptTokenCount: Gemini's, where thoughts and the prompts of tools come on top
 */
#include "postgres.h"

#include "json_walk.h"
#include "provider.h"
#include "usage.h"

typedef enum Figure
{
	/* chat */
	PROMPT,
	COMPLETION,
	/* Responses and Anthropic */
	INPUT,
	OUTPUT,
	/* these two and chat */
	TOTAL,
	CACHED,
	CACHE_WRITE,
	REASONING,
	/* Anthropic */
	CACHE_READ,
	CACHE_CREATION,
	CREATION_5M,
	CREATION_1H,
	/* Gemini */
	GEMINI_PROMPT,
	GEMINI_CACHED,
	CANDIDATES,
	THOUGHTS,
	TOOL_USE,
	GEMINI_TOTAL,
	FIGURES
} Figure;

typedef struct NamedFigure
{
	const char *path;			/* in the usage object */
	Figure		figure;
} NamedFigure;

static const NamedFigure named_figures[] = {
	{"prompt_tokens", PROMPT},
	{"completion_tokens", COMPLETION},
	{"prompt_tokens_details.cached_tokens", CACHED},
	{"prompt_tokens_details.cache_write_tokens", CACHE_WRITE},
	{"completion_tokens_details.reasoning_tokens", REASONING},
	{"total_tokens", TOTAL},
	{"input_tokens", INPUT},
	{"output_tokens", OUTPUT},
	{"input_tokens_details.cached_tokens", CACHED},
	{"input_tokens_details.cache_write_tokens", CACHE_WRITE},
	{"output_tokens_details.reasoning_tokens", REASONING},
	{"cache_read_input_tokens", CACHE_READ},
	{"cache_creation_input_tokens", CACHE_CREATION},
	{"cache_creation.ephemeral_5m_input_tokens", CREATION_5M},
	{"cache_creation.ephemeral_1h_input_tokens", CREATION_1H},
	{"promptTokenCount", GEMINI_PROMPT},
	{"cachedContentTokenCount", GEMINI_CACHED},
	{"candidatesTokenCount", CANDIDATES},
	{"thoughtsTokenCount", THOUGHTS},
	{"toolUsePromptTokenCount", TOOL_USE},
	{"totalTokenCount", GEMINI_TOTAL},
	/* the same as Google's library for Python dumps it */
	{"prompt_token_count", GEMINI_PROMPT},
	{"cached_content_token_count", GEMINI_CACHED},
	{"candidates_token_count", CANDIDATES},
	{"thoughts_token_count", THOUGHTS},
	{"tool_use_prompt_token_count", TOOL_USE},
	{"total_token_count", GEMINI_TOTAL},
};

/* Where the object is: in the answer, in the last event of a stream, in the first of Anthropic's, in Groq's last. */
static const char *const containers[] = {
	"usage", "response.usage", "message.usage", "x_groq.usage", "usageMetadata", "usage_metadata"
};

typedef struct Reader
{
	int64		figure[FIGURES];	/* LLMQ_NO_FIGURE */
	bool		none;			/* a usage that is null was seen */
	bool		wrong;			/* a figure that is no count was seen */
} Reader;

/* The path within the usage object; "" for itself. */
static const char *
within(const char *path)
{
	for (int i = 0; i < (int) lengthof(containers); i++)
	{
		Size		length = strlen(containers[i]);

		if (strncmp(path, containers[i], length) != 0)
			continue;
		if (path[length] == '\0')
			return path + length;
		if (path[length] == '.')
			return path + length + 1;
	}
	return path;
}

static void
visit(void *state, const char *path, LlmqJsonKind kind, const char *value)
{
	Reader	   *reader = state;
	const char *name = within(path);
	int64		count;
	Size		digits;

	if (kind == LLMQ_JSON_NULL)
	{
		reader->none |= *name == '\0';
		return;
	}
	for (int i = 0; i < (int) lengthof(named_figures); i++)
	{
		if (strcmp(name, named_figures[i].path) != 0)
			continue;
		digits = kind == LLMQ_JSON_NUMBER ? llmq_read_count(value, &count) : 0;
		if (digits == 0 || value[digits] != '\0' || count > PG_INT32_MAX)
			reader->wrong = true;
		else
			reader->figure[named_figures[i].figure] = count;
	}
}

static bool
given(const Reader *reader, Figure figure)
{
	return reader->figure[figure] != LLMQ_NO_FIGURE;
}

/* A figure that is zero when it is not given. */
static int64
count_of(const Reader *reader, Figure figure)
{
	return given(reader, figure) ? reader->figure[figure] : 0;
}

/* A part of a whole: never more than that, and nothing without it. */
static int32
part_of(int64 part, int64 whole)
{
	return part == LLMQ_NO_FIGURE || whole == LLMQ_NO_FIGURE ? LLMQ_NO_FIGURE : Min(part, whole);
}

/* Puts wholes and parts into the answer; false when they are too large for it. */
static bool
answer(LlmqFigures *usage, int64 input, int64 output)
{
	if (input > PG_INT32_MAX || output > PG_INT32_MAX)
		return false;
	usage->input = input;
	usage->output = output;
	return true;
}

/*
 * The output of the chat shape: what is missing follows from the total, and reasoning that the total counts beside the
 * completion (xAI's) comes on top.
 */
static int64
chat_output(const Reader *reader)
{
	int64		completion = reader->figure[COMPLETION];
	int64		reasoning = count_of(reader, REASONING);
	int64		rest = count_of(reader, TOTAL) - count_of(reader, PROMPT);

	if (!given(reader, COMPLETION))
		return given(reader, TOTAL) && rest >= 0 ? rest : LLMQ_NO_FIGURE;
	if (reasoning > completion || (given(reader, TOTAL) && rest == completion + reasoning))
		return completion + reasoning;
	return completion;
}

static bool
read_chat(const Reader *reader, LlmqFigures *usage)
{
	int64		input = reader->figure[PROMPT];
	int64		output = chat_output(reader);

	usage->cached = part_of(given(reader, CACHED) ? reader->figure[CACHED] : reader->figure[CACHE_READ], input);
	usage->cache_write = part_of(given(reader, CACHE_WRITE) ? reader->figure[CACHE_WRITE] :
								 reader->figure[CACHE_CREATION], input);
	usage->reasoning = part_of(reader->figure[REASONING], output);
	return answer(usage, input, output);
}

/* Responses and Anthropic: the latter's figures of the cache come on top of the input. */
static bool
read_input_output(const Reader *reader, LlmqFigures *usage)
{
	int64		read = reader->figure[CACHE_READ];
	int64		written = reader->figure[CACHE_CREATION];
	int64		input = reader->figure[INPUT];
	int64		output = reader->figure[OUTPUT];

	if (written == LLMQ_NO_FIGURE && (given(reader, CREATION_5M) || given(reader, CREATION_1H)))
		written = count_of(reader, CREATION_5M) + count_of(reader, CREATION_1H);
	if (given(reader, INPUT))
		input += Max(read, 0) + Max(written, 0);
	usage->cached = part_of(given(reader, CACHED) ? reader->figure[CACHED] : read, input);
	usage->cache_write = part_of(given(reader, CACHE_WRITE) ? reader->figure[CACHE_WRITE] : written, input);
	usage->reasoning = part_of(reader->figure[REASONING], output);
	return answer(usage, input, output);
}

/*
 * Gemini leaves out what is zero. Output is what the total has beside the input: whether candidates include thoughts is
 * told in two ways.
 */
static bool
read_gemini(const Reader *reader, LlmqFigures *usage)
{
	int64		input = reader->figure[GEMINI_PROMPT];
	int64		output = count_of(reader, CANDIDATES) + count_of(reader, THOUGHTS);
	int64		rest;

	if (given(reader, GEMINI_PROMPT))
	{
		input += count_of(reader, TOOL_USE);
		rest = count_of(reader, GEMINI_TOTAL) - input;
		if (given(reader, GEMINI_TOTAL) && rest >= Max(count_of(reader, CANDIDATES), count_of(reader, THOUGHTS)))
			output = rest;
	}
	usage->cached = part_of(reader->figure[GEMINI_CACHED], input);
	usage->reasoning = part_of(reader->figure[THOUGHTS], output);
	return answer(usage, input, output);
}

LlmqFiguresAnswer
llmq_usage_read(const char *json, Size length, LlmqFigures *usage)
{
	Reader		reader = {.none = false, .wrong = false};
	bool		whole;
	bool		read = false;

	usage->input = usage->cached = usage->cache_write = LLMQ_NO_FIGURE;
	usage->output = usage->reasoning = LLMQ_NO_FIGURE;
	for (int i = 0; i < FIGURES; i++)
		reader.figure[i] = LLMQ_NO_FIGURE;
	whole = llmq_json_walk(json, length, visit, &reader);

	if (!whole || reader.wrong)
		return LLMQ_FIGURES_NOT_UNDERSTOOD;
	if (given(&reader, GEMINI_PROMPT) || given(&reader, GEMINI_TOTAL))
		read = read_gemini(&reader, usage);
	else if (given(&reader, PROMPT) || given(&reader, COMPLETION))
		read = read_chat(&reader, usage);
	else if (given(&reader, INPUT) || given(&reader, OUTPUT))
		read = read_input_output(&reader, usage);
	else if (reader.none)
		return LLMQ_FIGURES_EMPTY;
	if (!read)
		return LLMQ_FIGURES_NOT_UNDERSTOOD;

	/* What was written to the cache and what came from it are different tokens. */
	if (usage->cache_write > 0 && usage->cached > 0)
		usage->cache_write = Min(usage->cache_write, usage->input - usage->cached);
	return LLMQ_FIGURES_READ;
}
