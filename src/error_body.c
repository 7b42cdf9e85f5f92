/*
 * error_body.c
 *	  Providers' error bodies, read into one form: {"error": {...}} of most, Gemini's details, Mistral's flat ones, and
 *	  whatever is no JSON, as text.
 *
 * Pure but for memory: json_walk.c allocates, and nothing else raises. Of a body no more than LLMQ_MAX_BODY bytes are
 * read, and what comes before the place where it stops to be JSON counts.
 */
#include "postgres.h"

#include "duration.h"
#include "error_body.h"
#include "json_walk.h"
#include "limit_text.h"
#include "redact.h"

/* One violated quota, as far as it was read. */
typedef struct Violation
{
	bool		per_model;
	char		metric[2 * LLMQ_ERROR_NAME];
	LlmqNamedLimit limit;
} Violation;

typedef struct Reader
{
	LlmqErrorBody *body;
	bool		violated;		/* there is a violation, not weighed yet: */
	Violation	violation;
} Reader;

/* Texts of a body by path. */
typedef struct Place
{
	const char *path;
	Size		offset;
	Size		size;
} Place;

#define NAME_AT(path, member) {path, offsetof(LlmqErrorBody, member), LLMQ_ERROR_NAME}
#define MESSAGE_AT(path) {path, offsetof(LlmqErrorBody, message), LLMQ_ERROR_MESSAGE}

static const Place places[] = {
	NAME_AT("error.type", type),
	NAME_AT("error.code", code),
	NAME_AT("error.status", status),
	NAME_AT("error.details.error_code", reason),
	NAME_AT("error.details[].reason", reason),
	NAME_AT("error.innererror.code", reason),
	MESSAGE_AT("error.message"),
	NAME_AT("response.error.code", code),
	MESSAGE_AT("response.error.message"),
	MESSAGE_AT("error"),
	NAME_AT("type", type),
	NAME_AT("code", code),
	MESSAGE_AT("message"),
	MESSAGE_AT("detail"),
};

/* So many from the start are inside of "error" and hold against those around it. */
#define INNER_PLACES 9

/* Copies a text to its place; bytes below blank would end it or a line of the log. */
static void
keep(char *place, Size size, const char *text, Size length)
{
	length = Min(length, size - 1);
	for (Size i = 0; i < length; i++)
		place[i] = (unsigned char) text[i] < ' ' ? ' ' : text[i];
	place[length] = '\0';
}

static void
read_place(LlmqErrorBody *body, const char *path, const char *value)
{
	for (int i = 0; i < (int) lengthof(places); i++)
	{
		char	   *place = (char *) body + places[i].offset;

		if (strcmp(path, places[i].path) == 0 && (i < INNER_PLACES || *place == '\0'))
			keep(place, places[i].size, value, strlen(value));
	}
}

/* Remembers the violation that was read, when its period is the longest. */
static void
end_violation(Reader *reader)
{
	LlmqErrorBody *body = reader->body;
	Violation  *violation = &reader->violation;
	LlmqNamedLimit of_metric;

	if (!reader->violated || (body->violated && violation->limit.span <= body->limit.span))
		return;
	llmq_limit_in_quota_id(violation->metric, &of_metric);
	if (violation->limit.metric == LLMQ_METRIC_UNKNOWN)
		violation->limit.metric = of_metric.metric;
	body->violated = true;
	body->limit = violation->limit;
	body->per_model = violation->per_model;
}

static void
begin_violation(Reader *reader)
{
	end_violation(reader);
	reader->violated = true;
	memset(&reader->violation, 0, sizeof(Violation));
	reader->violation.limit.metric = LLMQ_METRIC_UNKNOWN;
}

/* A value in a violation. */
static void
read_violation(Violation *violation, const char *name, const char *value)
{
	int64		amount = violation->limit.amount;

	if (strcmp(name, "quotaId") == 0)
	{
		llmq_limit_in_quota_id(value, &violation->limit);
		violation->limit.amount = amount;
		violation->per_model |= llmq_find_text(value, "PerModel") != NULL;
	}
	else if (strcmp(name, "quotaMetric") == 0)
		keep(violation->metric, sizeof(violation->metric), value, strlen(value));
	else if (strcmp(name, "quotaDimensions.model") == 0)
		violation->per_model = true;
	else if (strcmp(name, "quotaValue") == 0 && value[llmq_read_count(value, &amount)] == '\0')
		violation->limit.amount = amount;
}

static void
visit(void *state, const char *path, LlmqJsonKind kind, const char *value)
{
	static const char violations[] = "error.details[].violations[]";
	Reader	   *reader = state;
	const char *inner = path + sizeof(violations) - 1;
	int64		delay;

	if (strncmp(path, violations, sizeof(violations) - 1) == 0)
	{
		if (kind == LLMQ_JSON_OBJECT && *inner == '\0')
			begin_violation(reader);
		else if ((kind == LLMQ_JSON_STRING || kind == LLMQ_JSON_NUMBER) && *inner == '.')
			read_violation(&reader->violation, inner + 1, value);
	}
	else if (kind != LLMQ_JSON_STRING && kind != LLMQ_JSON_NUMBER)
		return;
	else if (strcmp(path, "error.details[].retryDelay") == 0)
	{
		if (llmq_duration_read(value, &delay) > 0)
			reader->body->retry_delay = delay;
	}
	else
		read_place(reader->body, path, value);
}

/* What an exception's text, which prints Gemini's details in its own way, says of quotas. */
static void
read_quoted_violations(LlmqErrorBody *body)
{
	if (llmq_find_text(body->message, "quotaId") == NULL)
		return;
	body->violated = true;
	body->per_model = llmq_find_text(body->message, "PerModel") != NULL;
	llmq_limit_in_quota_id(body->message, &body->limit);
}

void
llmq_error_body_read(const char *text, Size length, LlmqErrorBody *body)
{
	Reader		reader;

	memset(body, 0, sizeof(LlmqErrorBody));
	body->limit.metric = LLMQ_METRIC_UNKNOWN;
	memset(&reader, 0, sizeof(Reader));
	reader.body = body;
	length = Min(length, LLMQ_MAX_BODY);
	llmq_json_walk(text, length, visit, &reader);
	end_violation(&reader);

	body->structured = body->type[0] != '\0' || body->code[0] != '\0' || body->status[0] != '\0' ||
		body->reason[0] != '\0';
	if (body->message[0] == '\0')
		keep(body->message, LLMQ_ERROR_MESSAGE, text, length);
	if (!body->structured)
		read_quoted_violations(body);
}
