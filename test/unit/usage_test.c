/*
 * usage_test.c
 *	  Providers' usage objects, each with its trap, in our own terms.
 *
 *	links: src/json_walk.c src/provider.c src/usage.c
 */
#include "postgres.h"

#include "leaks.h"
#include "tap.h"
#include "usage.h"

#undef snprintf

typedef struct Case
{
	const char *name;
	const char *expect;			/* input, cached, written; output, reasoning */
	const char *json;
} Case;

static const Case cases[] = {
	/* OpenAI's chat shape */
	{"chat: cached and reasoning are parts", "1200 1024 0; 300 120",
		"{\"prompt_tokens\":1200,\"completion_tokens\":300,\"total_tokens\":1500,"
		"\"prompt_tokens_details\":{\"cached_tokens\":1024,\"cache_write_tokens\":0,\"audio_tokens\":0},"
		"\"completion_tokens_details\":{\"reasoning_tokens\":120,\"audio_tokens\":0,"
		"\"accepted_prediction_tokens\":7,\"rejected_prediction_tokens\":9}}"},
	{"chat: cache writes are a part", "2000 512 1400; 10 -",
		"{\"prompt_tokens\":2000,\"completion_tokens\":10,\"total_tokens\":2010,"
		"\"prompt_tokens_details\":{\"cached_tokens\":512,\"cache_write_tokens\":1400}}"},
	{"chat: without details", "9 - -; 12 -", "{\"prompt_tokens\":9,\"completion_tokens\":12,\"total_tokens\":21}"},
	{"chat: details that are null", "9 - -; 12 -",
		"{\"prompt_tokens\":9,\"completion_tokens\":12,\"total_tokens\":21,\"prompt_tokens_details\":null,"
		"\"completion_tokens_details\":null}"},
	{"chat: the whole answer", "9 - -; 12 -",
		"{\"id\":\"chatcmpl-1\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
		"\"content\":\"usage \\u00fc\"}}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,"
		"\"total_tokens\":21}}"},
	{"chat: the last chunk of a stream", "9 - -; 12 -",
		"{\"id\":\"chatcmpl-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,"
		"\"total_tokens\":21}}"},
	{"chat: an earlier chunk has none", "empty",
		"{\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{\"content\":\"Hi\"}}],\"usage\":null}"},
	{"chat: all chunks, of which the last has it", "9 - -; 12 -",
		"[{\"choices\":[{}],\"usage\":null},{\"choices\":[{}],\"usage\":null},{\"choices\":[],"
		"\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12}}]"},
	{"chat: embeddings have no completion", "8 - -; 0 -", "{\"prompt_tokens\":8,\"total_tokens\":8}"},
	{"chat: a figure alone", "8 - -; - -", "{\"prompt_tokens\":8}"},
	{"chat: all of the prompt from the cache", "1024 1024 -; 1 -",
		"{\"prompt_tokens\":1024,\"completion_tokens\":1,\"prompt_tokens_details\":{\"cached_tokens\":1024}}"},
	{"chat: a part that exceeds the whole is cut", "100 100 0; 1 -",
		"{\"prompt_tokens\":100,\"completion_tokens\":1,\"prompt_tokens_details\":{\"cached_tokens\":128,"
		"\"cache_write_tokens\":50}}"},
	{"Groq: times beside the figures", "18 - -; 556 -",
		"{\"queue_time\":0.037,\"prompt_tokens\":18,\"prompt_time\":0.0009,\"completion_tokens\":556,"
		"\"completion_time\":0.46,\"total_tokens\":574,\"total_time\":0.46}"},
	{"Groq: the last chunk of a stream", "18 - -; 556 -",
		"{\"choices\":[],\"x_groq\":{\"id\":\"req_1\",\"usage\":{\"prompt_tokens\":18,"
		"\"completion_tokens\":556,\"total_tokens\":574}}}"},
	{"Mistral", "5 - -; 17 -", "{\"usage\":{\"prompt_tokens\":5,\"total_tokens\":22,\"completion_tokens\":17}}"},
	{"xAI: reasoning beside the completion", "32 6 -; 245 236",
		"{\"prompt_tokens\":32,\"completion_tokens\":9,\"total_tokens\":277,"
		"\"prompt_tokens_details\":{\"cached_tokens\":6},"
		"\"completion_tokens_details\":{\"reasoning_tokens\":236}}"},
	{"xAI: less reasoning than completion, as the total says", "32 - -; 110 10",
		"{\"prompt_tokens\":32,\"completion_tokens\":100,\"total_tokens\":142,"
		"\"completion_tokens_details\":{\"reasoning_tokens\":10}}"},
	{"xAI: more reasoning than completion, without a total", "32 - -; 245 236",
		"{\"prompt_tokens\":32,\"completion_tokens\":9,"
		"\"completion_tokens_details\":{\"reasoning_tokens\":236}}"},
	{"a gateway with the cache in Anthropic's names", "3000 2000 900; 5 -",
		"{\"prompt_tokens\":3000,\"completion_tokens\":5,\"total_tokens\":3005,"
		"\"cache_read_input_tokens\":2000,\"cache_creation_input_tokens\":900}"},

	/* Responses */
	{"Responses: the parts", "328 128 64; 52 40",
		"{\"input_tokens\":328,\"input_tokens_details\":{\"cached_tokens\":128,\"cache_write_tokens\":64},"
		"\"output_tokens\":52,\"output_tokens_details\":{\"reasoning_tokens\":40},\"total_tokens\":380}"},
	{"Responses: the whole answer", "328 0 -; 52 0",
		"{\"id\":\"resp_1\",\"object\":\"response\",\"output\":[{\"type\":\"message\"}],"
		"\"usage\":{\"input_tokens\":328,\"input_tokens_details\":{\"cached_tokens\":0},\"output_tokens\":52,"
		"\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":380}}"},
	{"Responses: the last event of a stream", "328 - -; 52 -",
		"{\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"usage\":{\"input_tokens\":328,"
		"\"output_tokens\":52,\"total_tokens\":380}}}"},
	{"Responses: an earlier event has none", "empty",
		"{\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"usage\":null}}"},

	/* Anthropic */
	{"Anthropic: the cache's figures come on top", "3050 2000 1000; 503 -",
		"{\"input_tokens\":50,\"cache_creation_input_tokens\":1000,\"cache_read_input_tokens\":2000,"
		"\"output_tokens\":503,\"cache_creation\":{\"ephemeral_5m_input_tokens\":400,"
		"\"ephemeral_1h_input_tokens\":600},\"server_tool_use\":{\"web_search_requests\":0},"
		"\"service_tier\":\"standard\",\"inference_geo\":\"us\"}"},
	{"Anthropic: the writes only by their time to live", "1050 - 1000; 3 -",
		"{\"input_tokens\":50,\"output_tokens\":3,\"cache_creation\":{\"ephemeral_5m_input_tokens\":400,"
		"\"ephemeral_1h_input_tokens\":600}}"},
	{"Anthropic: figures that are null", "50 - -; 3 -",
		"{\"input_tokens\":50,\"output_tokens\":3,\"cache_creation_input_tokens\":null,"
		"\"cache_read_input_tokens\":null,\"server_tool_use\":null}"},
	{"Anthropic: the whole answer", "2095 0 0; 503 -",
		"{\"id\":\"msg_1\",\"type\":\"message\",\"content\":[{\"type\":\"text\",\"text\":\"Hi\"}],"
		"\"usage\":{\"input_tokens\":2095,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,"
		"\"output_tokens\":503}}"},
	{"Anthropic: the first event of a stream", "35 10 0; 1 -",
		"{\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"usage\":{\"input_tokens\":25,"
		"\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":10,\"output_tokens\":1}}}"},
	{"Anthropic: the last event knows the output only", "- - -; 15 -",
		"{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},"
		"\"usage\":{\"output_tokens\":15}}"},
	{"Anthropic: input of the first event, output of the last", "35 10 0; 15 -",
		"[{\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":25,"
		"\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":10,\"output_tokens\":1}}},"
		"{\"type\":\"content_block_delta\",\"delta\":{\"text\":\"Hi\"}},{\"type\":\"message_delta\","
		"\"usage\":{\"output_tokens\":9}},{\"type\":\"message_delta\",\"usage\":{\"output_tokens\":15}}]"},

	/* Gemini */
	{"Gemini: thoughts come on top of the candidates", "31 - -; 700 500",
		"{\"promptTokenCount\":31,\"candidatesTokenCount\":200,\"thoughtsTokenCount\":500,"
		"\"totalTokenCount\":731}"},
	{"Gemini: or they are in the candidates, as the total says", "31 - -; 700 500",
		"{\"promptTokenCount\":31,\"candidatesTokenCount\":700,\"thoughtsTokenCount\":500,"
		"\"totalTokenCount\":731}"},
	{"Gemini: thoughts without a total", "31 - -; 700 500",
		"{\"promptTokenCount\":31,\"candidatesTokenCount\":200,\"thoughtsTokenCount\":500}"},
	{"Gemini: the prompt includes the cached", "5000 4096 -; 20 -",
		"{\"promptTokenCount\":5000,\"cachedContentTokenCount\":4096,\"candidatesTokenCount\":20,"
		"\"totalTokenCount\":5020}"},
	{"Gemini: prompts of tools are input", "150 - -; 90 30",
		"{\"promptTokenCount\":50,\"toolUsePromptTokenCount\":100,\"candidatesTokenCount\":60,"
		"\"thoughtsTokenCount\":30,\"totalTokenCount\":240,\"promptTokensDetails\":[{\"modality\":\"TEXT\","
		"\"tokenCount\":50}],\"trafficType\":\"ON_DEMAND\"}"},
	{"Gemini: a total that leaves out the tools", "150 - -; 90 30",
		"{\"promptTokenCount\":50,\"toolUsePromptTokenCount\":100,\"candidatesTokenCount\":60,"
		"\"thoughtsTokenCount\":30,\"totalTokenCount\":140}"},
	{"Gemini: what is zero is left out", "31 - -; 0 -", "{\"promptTokenCount\":31,\"totalTokenCount\":31}"},
	{"Gemini: the whole answer", "31 - -; 9 -",
		"{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hi\"}]}}],"
		"\"usageMetadata\":{\"promptTokenCount\":31,\"candidatesTokenCount\":9,\"totalTokenCount\":40},"
		"\"modelVersion\":\"gemini-2.5-flash\"}"},
	{"Gemini: all chunks of a stream, each with the figures so far", "31 - -; 19 5",
		"[{\"usageMetadata\":{\"promptTokenCount\":31,\"totalTokenCount\":31}},"
		"{\"usageMetadata\":{\"promptTokenCount\":31,\"candidatesTokenCount\":4,\"totalTokenCount\":35}},"
		"{\"usageMetadata\":{\"promptTokenCount\":31,\"candidatesTokenCount\":14,\"thoughtsTokenCount\":5,"
		"\"totalTokenCount\":50}}]"},
	{"Gemini: as Google's library for Python dumps it", "31 8 -; 9 -",
		"{\"prompt_token_count\":31,\"candidates_token_count\":9,\"cached_content_token_count\":8,"
		"\"thoughts_token_count\":null,\"total_token_count\":40}"},
	{"Gemini: its OpenAI shape", "9 - -; 112 -",
		"{\"prompt_tokens\":9,\"completion_tokens\":112,\"total_tokens\":121}"},

	/* Nothing of the kind */
	{"not understood: nothing", "not understood", ""},
	{"not understood: no JSON", "not understood", "12 tokens"},
	{"not understood: an empty object", "not understood", "{}"},
	{"not understood: another shape", "not understood", "{\"inputTokens\":5,\"outputTokens\":7}"},
	{"not understood: a total alone", "not understood", "{\"total_tokens\":7}"},
	{"not understood: figures elsewhere", "not understood", "{\"message\":{\"content\":{\"prompt_tokens\":5}}}"},
	{"not understood: a list of figures", "not understood",
		"{\"usage\":{\"prompt_tokens\":[5],\"completion_tokens\":[5]}}"},
	{"not understood: a negative figure", "not understood", "{\"prompt_tokens\":-5,\"completion_tokens\":7}"},
	{"not understood: a fraction", "not understood", "{\"prompt_tokens\":5.5,\"completion_tokens\":7}"},
	{"not understood: a text", "not understood", "{\"prompt_tokens\":\"5\",\"completion_tokens\":7}"},
	{"not understood: more than 32 bits", "not understood",
		"{\"prompt_tokens\":2147483648,\"completion_tokens\":7}"},
	{"not understood: a total of more than 32 bits", "not understood",
		"{\"prompt_tokens\":5,\"completion_tokens\":7,\"total_tokens\":99999999999}"},
	{"not understood: more than 64 bits", "not understood",
		"{\"prompt_tokens\":99999999999999999999999,\"completion_tokens\":7}"},
	{"not understood: a sum of more than 32 bits", "not understood",
		"{\"input_tokens\":2147483647,\"cache_read_input_tokens\":2147483647,\"output_tokens\":7}"},
	{"not understood: what is cut", "not understood", "{\"prompt_tokens\":5,\"completion_tokens\":7"},
};

static Promise promises[lengthof(cases)];

static const char *
figure_text(char *text, int32 figure)
{
	if (figure == LLMQ_NO_FIGURE)
		strcpy(text, "-");
	else
		snprintf(text, 16, "%d", figure);
	return text;
}

static void
figures_text(LlmqFiguresAnswer answer, const LlmqFigures *figures, char *text, size_t size)
{
	char		part[5][16];

	if (answer != LLMQ_FIGURES_READ)
		strlcpy(text, answer == LLMQ_FIGURES_EMPTY ? "empty" : "not understood", size);
	else
		snprintf(text, size, "%s %s %s; %s %s", figure_text(part[0], figures->input),
				 figure_text(part[1], figures->cached), figure_text(part[2], figures->cache_write),
				 figure_text(part[3], figures->output), figure_text(part[4], figures->reasoning));
}

int
main(void)
{
	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		LlmqFigures figures;
		char		text[128];

		promises[i].name = cases[i].name;
		figures_text(llmq_usage_read(cases[i].json, strlen(cases[i].json), &figures), &figures, text, sizeof(text));
		CHECK(&promises[i], strcmp(text, cases[i].expect) == 0, "is \"%s\"", text);
	}
	return promises_report(promises, lengthof(promises));
}
