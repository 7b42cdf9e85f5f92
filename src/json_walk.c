/*
 * json_walk.c
 *	  Every value of a JSON text, with its path, in one pass of the server's own parser.
 *
 * The text is somebody else's: cut short, framed by something else, or hostile. Whatever comes before an error is
 * visited, so a body that was cut after 64 kB still says what it said. Nothing raises but palloc: nesting ends the walk
 * before the parser would look at the stack, and escapes that the database's encoding might not know become '?'.
 * The same code runs in the server and, with the library for clients, in programs.
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"

#include "compat.h"
#include "json_walk.h"

/* Deeper than this nothing is said. */
#define MAX_DEPTH 64

/* A longer name is cut: nobody asks for it. */
#define MAX_NAME 40

typedef struct Walk
{
	JsonLexContext *lex;
	LlmqJsonVisit visit;
	void	   *state;
	int			depth;
	int			length[MAX_DEPTH];	/* of the path of what is open at a depth */
	char		path[MAX_DEPTH * (MAX_NAME + sizeof(".[]"))];
} Walk;

/* Opens an object or list, whose path is `addition` longer; false when that is too deep. */
static bool
descend(Walk *walk, const char *addition)
{
	if (walk->depth == MAX_DEPTH - 1)
		return false;
	strcat(walk->path, addition);
	walk->length[++walk->depth] = strlen(walk->path);
	return true;
}

/* Closes it again. */
static void
ascend(Walk *walk)
{
	walk->path[walk->length[--walk->depth]] = '\0';
}

static LlmqJsonStep
object_start(void *state)
{
	Walk	   *walk = state;
	bool		go_on = descend(walk, "");

	if (go_on)
		walk->visit(walk->state, walk->path, LLMQ_JSON_OBJECT, NULL);
	llmq_json_return_compat(walk->lex, go_on);
}

static LlmqJsonStep
array_start(void *state)
{
	Walk	   *walk = state;
	bool		go_on = descend(walk, walk->depth == 0 ? "" : "[]");

	llmq_json_return_compat(walk->lex, go_on);
}

static LlmqJsonStep
object_end(void *state)
{
	Walk	   *walk = state;

	ascend(walk);
	llmq_json_return_compat(walk->lex, true);
}

static LlmqJsonStep
array_end(void *state)
{
	return object_end(state);
}

static LlmqJsonStep
field_start(void *state, char *name, bool isnull)
{
	Walk	   *walk = state;
	int			length = walk->length[walk->depth];

	if (length > 0)
		walk->path[length++] = '.';
	strlcpy(walk->path + length, name, MAX_NAME);
	pfree(name);
	llmq_json_return_compat(walk->lex, true);
}

static LlmqJsonStep
scalar(void *state, char *value, JsonTokenType type)
{
	Walk	   *walk = state;
	LlmqJsonKind kind = type == JSON_TOKEN_STRING ? LLMQ_JSON_STRING :
		type == JSON_TOKEN_NUMBER ? LLMQ_JSON_NUMBER :
		type == JSON_TOKEN_NULL ? LLMQ_JSON_NULL : LLMQ_JSON_BOOLEAN;

	walk->visit(walk->state, walk->path, kind, value);
	pfree(value);
	llmq_json_return_compat(walk->lex, true);
}

/* Does this escape stand for an ASCII character? */
static bool
is_ascii_escape(const char *digits)
{
	return digits[0] == '0' && digits[1] == '0' && digits[2] >= '0' && digits[2] <= '7' &&
		!(digits[2] == '0' && digits[3] == '0');
}

/* A copy whose escapes are of ASCII characters only; the others become a question mark and blanks. */
static char *
copy_with_ascii_escapes(const char *text, Size length)
{
	char	   *copy = palloc(length + 1);

	memcpy(copy, text, length);
	copy[length] = '\0';
	for (Size i = 0; i + 1 < length; i++)
	{
		if (copy[i] != '\\')
			continue;
		if (copy[i + 1] == 'u' && i + 5 < length && strspn(copy + i + 2, "0123456789abcdefABCDEF") >= 4 &&
			!is_ascii_escape(copy + i + 2))
			memcpy(copy + i, "?     ", 6);
		i++;
	}
	return copy;
}

/* Where the JSON begins in a text: events of a stream have a frame around it, exceptions a sentence before it. */
static Size
skip_frame(const char *text, Size length)
{
	Size		at = 0;

	while (at < length && strchr(" \t\r\n", text[at]) != NULL && text[at] != '\0')
		at++;
	if (at < length && text[at] != '[')
		while (at < length && text[at] != '{')
			at++;
	return at;
}

/* Visits what there is; false when the text is not JSON to its end. */
bool
llmq_json_walk(const char *text, Size length, LlmqJsonVisit visit, void *state)
{
	Size		begin = skip_frame(text, length);
	JsonSemAction actions;
	JsonParseErrorType result;
	Walk		walk;
	char	   *copy;

	if (begin == length)
		return false;
	copy = copy_with_ascii_escapes(text + begin, length - begin);
	walk.lex = llmq_json_lexer_compat(copy, length - begin);
	walk.visit = visit;
	walk.state = state;
	walk.depth = walk.length[0] = 0;
	walk.path[0] = '\0';

	memset(&actions, 0, sizeof(actions));
	actions.semstate = &walk;
	actions.object_start = object_start;
	actions.object_end = object_end;
	actions.array_start = array_start;
	actions.array_end = array_end;
	actions.object_field_start = field_start;
	actions.scalar = scalar;
	result = pg_parse_json(walk.lex, &actions);

	llmq_json_free_compat(walk.lex);
	pfree(copy);
	return result == JSON_SUCCESS;
}
