/*
 * provider.c
 *	  The names of adapters, headers by name, and the little that is read from plain text.
 *
 * Pure: no server calls, no allocation, nothing raises.
 */
#include "postgres.h"

#include "provider.h"

/* A longer number is none: nothing that is counted needs it, and it might not fit 64 bits. */
#define MAX_DIGITS 18

/* The dialect that llmquota.provider.adapter names. */
LlmqAdapter
llmq_adapter(const char *name)
{
	static const char *const names[] = {
		[LLMQ_ADAPTER_OPENAI] = "openai",
		[LLMQ_ADAPTER_ANTHROPIC] = "anthropic",
		[LLMQ_ADAPTER_GEMINI] = "gemini",
		[LLMQ_ADAPTER_AZURE] = "azure",
		[LLMQ_ADAPTER_GROQ] = "groq",
		[LLMQ_ADAPTER_MISTRAL] = "mistral"
	};

	for (int i = LLMQ_ADAPTER_OPENAI; i < (int) lengthof(names); i++)
		if (pg_strcasecmp(name, names[i]) == 0)
			return (LlmqAdapter) i;
	return LLMQ_ADAPTER_OTHER;
}

/* The value of the first header of that name, or NULL. */
const char *
llmq_header(const LlmqHeader *headers, int count, const char *name)
{
	for (int i = 0; i < count; i++)
		if (pg_strcasecmp(headers[i].name, name) == 0)
			return headers[i].value;
	return NULL;
}

const char *
llmq_find_text(const char *text, const char *wanted)
{
	Size		length = strlen(wanted);

	for (; *text != '\0'; text++)
		if (pg_strncasecmp(text, wanted, length) == 0)
			return text;
	return NULL;
}

Size
llmq_read_count(const char *text, int64 *count)
{
	Size		digits = 0;

	*count = 0;
	for (; text[digits] >= '0' && text[digits] <= '9'; digits++)
	{
		if (digits == MAX_DIGITS)
			return 0;
		*count = *count * 10 + (text[digits] - '0');
	}
	return digits;
}
