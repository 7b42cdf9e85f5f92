/*
 * redact.c
 *	  Makes an excerpt of a provider's error body that is fit to be stored.
 *
 * Pure: no server calls. Providers repeat credentials in their answers ("Incorrect API key provided: sk-..."), and
 * bodies can hold anything. Control characters become blanks; a run of 20 or more letters, digits, '-', '_', '.' or '+'
 * with both a letter and a digit in it may be a credential, and so may whatever follows a known prefix of one: such
 * runs become "[redacted]". Text is UTF-8 or a single-byte encoding; characters are never cut.
 */
#include "postgres.h"

#include "redact.h"

/* Shorter runs are words, model names and dates. */
#define CREDENTIAL_LENGTH 20

static const char replacement[] = "[redacted]";

static bool
is_run_byte(unsigned char byte)
{
	return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
		byte == '-' || byte == '_' || byte == '.' || byte == '+' || byte == '*';
}

/* The length of the run of credential-like bytes at the start of the text. */
static Size
run_length(const char *text, Size length)
{
	Size		run = 0;

	while (run < length && is_run_byte((unsigned char) text[run]))
		run++;
	return run;
}

static bool
begins_like_credential(const char *run, Size length)
{
	static const char *const prefixes[] = {"sk-", "sk_", "AIza", "xai-", "gsk_", "csk-", "ya29.", "eyJ"};

	for (Size i = 0; i < lengthof(prefixes); i++)
	{
		Size		prefix = strlen(prefixes[i]);

		if (length > prefix && memcmp(run, prefixes[i], prefix) == 0)
			return true;
	}
	return false;
}

static bool
is_credential(const char *run, Size length)
{
	bool		letter = false;
	bool		digit = false;

	if (begins_like_credential(run, length))
		return true;
	for (Size i = 0; i < length; i++)
	{
		if (run[i] >= '0' && run[i] <= '9')
			digit = true;
		else if ((run[i] >= 'a' && run[i] <= 'z') || (run[i] >= 'A' && run[i] <= 'Z'))
			letter = true;
	}
	return length >= CREDENTIAL_LENGTH && letter && digit;
}

/* The bytes of the character that begins here, cut short at the end of the text. */
static Size
character_length(const char *text, Size length)
{
	Size		bytes = 1;

	while (bytes < length && bytes < 4 && ((unsigned char) text[bytes] & 0xc0) == 0x80)
		bytes++;
	return bytes;
}

/*
 * Writes at most LLMQ_MAX_EXCERPT characters of the body, redacted, into `excerpt`, which has LLMQ_EXCERPT_SIZE bytes.
 */
void
llmq_redact(const char *body, Size length, char *excerpt)
{
	Size		written = 0;
	int			characters = 0;
	Size		at = 0;

	length = Min(length, LLMQ_MAX_BODY);
	while (at < length && characters < LLMQ_MAX_EXCERPT)
	{
		Size		run = run_length(body + at, length - at);
		Size		step = run > 0 ? run : character_length(body + at, length - at);
		const char *from = body + at;
		Size		bytes = step;

		at += step;
		if (run > 0 && is_credential(from, run))
		{
			from = replacement;
			bytes = strlen(replacement);
		}
		if (run > 0)
			bytes = Min(bytes, (Size) (LLMQ_MAX_EXCERPT - characters));
		memcpy(excerpt + written, from, bytes);
		if (run == 0 && (unsigned char) excerpt[written] < 0x20)
			excerpt[written] = ' ';
		written += bytes;
		characters += run > 0 ? (int) bytes : 1;
	}
	excerpt[written] = '\0';
}
