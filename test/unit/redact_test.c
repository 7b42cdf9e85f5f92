/*
 * redact_test.c
 *	  What an excerpt of a provider's error body may hold, and what it must not.
 *
 * links: src/redact.c
 */
#include "postgres.h"

#include "redact.h"
#include "tap.h"

static char excerpt[LLMQ_EXCERPT_SIZE];

static Promise promises[10];
static int	npromises = 0;

static void
ok(bool holds, const char *name)
{
	Promise    *promise = &promises[npromises++];

	promise->name = name;
	CHECK(promise, holds, "the excerpt is \"%.200s\"", excerpt);
}

/* The excerpt of a body given as a string. */
static const char *
redacted(const char *body)
{
	llmq_redact(body, strlen(body), excerpt);
	return excerpt;
}

/* How many characters of UTF-8 a text has. */
static int
characters(const char *text)
{
	int			count = 0;

	for (; *text != '\0'; text++)
		count += ((unsigned char) *text & 0xc0) != 0x80;
	return count;
}

static void
test_credentials(void)
{
	ok(strcmp(redacted("Incorrect API key provided: sk-abc. Try again."),
			  "Incorrect API key provided: [redacted] Try again.") == 0, "a key with a known prefix goes, however short");
	ok(strstr(redacted("key=AIzaSyD4fG7hJk9LmN0pQrStUv was refused"), "AIza") == NULL, "so does a Google key");
	ok(strstr(redacted("{\"token\":\"0123456789abcdef0123456789abcdef\"}"), "0123456789abcdef") == NULL,
	   "and a long run of letters and digits");
	ok(strstr(redacted("Bearer eyJhbGciOi.eyJzdWIi.c2ln"), "eyJ") == NULL, "and a JSON web token");
}

static void
test_text_that_stays(void)
{
	const char *message = "Rate limit reached for gpt-4o-2024-08-06 on tokens per min (TPM): Limit 30000, Used 29500.";

	ok(strcmp(redacted(message), message) == 0, "names of models, dates and numbers stay");
	ok(strcmp(redacted("a\tb\nc\001d"), "a b c d") == 0, "control characters become blanks");
	ok(strcmp(redacted(""), "") == 0, "nothing stays nothing");
}

static void
test_length(void)
{
	char		body[4 * 1000 + 1] = "";

	for (int i = 0; i < 1000; i++)
		strcat(body, i % 2 == 0 ? "\xe0\xb8\x81" : " ");
	ok(characters(redacted(body)) == LLMQ_MAX_EXCERPT, "an excerpt has 500 characters at most");
	ok(memcmp(redacted(body), body, strlen(excerpt)) == 0, "and characters of several bytes are whole");

	memset(body, 'x', sizeof(body) - 1);
	ok(strlen(redacted(body)) == LLMQ_MAX_EXCERPT, "a single long word is cut too");
}

int
main(void)
{
	test_credentials();
	test_text_that_stays();
	test_length();
	return promises_report(promises, npromises);
}
