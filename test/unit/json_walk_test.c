/*
 * json_walk_test.c
 *	  Every value with its path; what is cut, framed, deep or broken does no harm.
 *
 *	links: src/json_walk.c
 */
#include "postgres.h"

#include "json_walk.h"
#include "leaks.h"
#include "tap.h"

#undef snprintf

enum
{
	PATHS, LISTS, KINDS, ESCAPES, FRAMES, CUT, BROKEN, DEEP, LONG_NAMES, PROMISES
};

static Promise promises[PROMISES] = {
	[PATHS] = {"values are visited in order, with their paths"},
	[LISTS] = {"elements of lists share a path, a list around everything has none"},
	[KINDS] = {"kinds of values are told apart"},
	[ESCAPES] = {"escapes of ASCII are resolved, others become question marks"},
	[FRAMES] = {"what stands before an object is skipped"},
	[CUT] = {"what is cut says what it said until there"},
	[BROKEN] = {"what is no JSON is none"},
	[DEEP] = {"64 kB of nesting end the walk, not the process"},
	[LONG_NAMES] = {"long names are cut, wherever they are"},
};

/* Writes down "path=value;" for each scalar, "path{" for each object. */
static void
note(void *state, const char *path, LlmqJsonKind kind, const char *value)
{
	static const char kinds[] = {'{', '"', '#', '?', '0'};
	char	   *text = state;
	size_t		at = strlen(text);

	snprintf(text + at, 4096 - at, "%s%c%s;", path, kinds[kind], value == NULL ? "" : value);
}

static void
check(Promise *promise, const char *json, bool whole, const char *expected)
{
	char		text[4096] = "";
	size_t		length = strlen(json);
	char	   *exact = malloc(length);
	bool		result;

	/* Without a zero behind it, so that reading on is noticed. */
	memcpy(exact, json, length);
	result = llmq_json_walk(exact, length, note, text);
	CHECK(promise, result == whole && strcmp(text, expected) == 0, "%s: %d, %s", json, result, text);
	free(exact);
}

static void
simple(void)
{
	check(&promises[PATHS], "{\"a\":{\"b\":\"c\",\"d\":{\"e\":1}},\"f\":2}", true, "{;a{;a.b\"c;a.d{;a.d.e#1;f#2;");
	check(&promises[PATHS], "{}", true, "{;");
	check(&promises[PATHS], "{\"\":{\"\":1}}", true, "{;{;#1;");
	check(&promises[LISTS], "{\"a\":[1,[2],{\"b\":3},4],\"c\":5}", true, "{;a[]#1;a[][]#2;a[]{;a[].b#3;a[]#4;c#5;");
	check(&promises[LISTS], "[{\"a\":1},{\"a\":[2]}]", true, "{;a#1;{;a[]#2;");
	check(&promises[KINDS], "{\"a\":\"1\",\"b\":-1.5e3,\"c\":true,\"d\":null}", true, "{;a\"1;b#-1.5e3;c?true;d0null;");
	check(&promises[ESCAPES], "{\"a\":\"\\u0041\\u007f\\n\\\\u00fc\"}", true, "{;a\"A\x7f\n\\u00fc;");
	check(&promises[ESCAPES], "{\"a\":\"\\u00fc!\\ud83d\\ude00\\udead\"}", true, "{;a\"?     !?     ?     ?     ;");
	check(&promises[ESCAPES], "{\"a\":\"\\u0000\"}", true, "{;a\"?     ;");
	check(&promises[ESCAPES], "{\"a\":1,\"b\":\"\\u00f\"}", false, "{;a#1;");
	check(&promises[FRAMES], "event: error\ndata: {\"a\":1}\n\n", true, "{;a#1;");
	check(&promises[FRAMES], " \n[{\"a\":1}]", true, "{;a#1;");
	check(&promises[FRAMES], "Error: 400 {\"a\":1}", true, "{;a#1;");
	check(&promises[FRAMES], "data: {\"a\":1}\n\ndata: {\"b\":1}", false, "{;a#1;");
	check(&promises[CUT], "{\"a\":1,\"b\":\"2", false, "{;a#1;");
	check(&promises[CUT], "{\"a\":1,\"b", false, "{;a#1;");
	check(&promises[CUT], "{\"a\":1,\"b\":{\"c\":2,", false, "{;a#1;b{;b.c#2;");
	check(&promises[CUT], "{\"a\":1,\"b\":\"\\u00", false, "{;a#1;");
	check(&promises[CUT], "{\"a\":1,\"b\":\"\\", false, "{;a#1;");
	check(&promises[BROKEN], "", false, "");
	check(&promises[BROKEN], "{", false, "{;");
	check(&promises[BROKEN], "Bad Gateway", false, "");
	check(&promises[BROKEN], "{'a': 1}", false, "{;");
	check(&promises[BROKEN], "[1] first", false, "#1;");
	check(&promises[BROKEN], "{\"a\":1,\"b\":\"\xff\xc3\"}", true, "{;a#1;b\"\xff\xc3;");
	check(&promises[BROKEN], "{\"a\":1,\"b\":\"\x01\"}", false, "{;a#1;");
}

static void
count(void *state, const char *path, LlmqJsonKind kind, const char *value)
{
	(*(int *) state)++;
}

/* An opening, 64 kB of it. */
static void
deep(const char *before, const char *opening)
{
	static char text[65536];
	size_t		length = strlen(before);
	int			visits = 0;
	bool		whole;

	memcpy(text, before, length);
	while (length + strlen(opening) <= sizeof(text))
	{
		memcpy(text + length, opening, strlen(opening));
		length += strlen(opening);
	}
	whole = llmq_json_walk(text, length, count, &visits);
	CHECK(&promises[DEEP], !whole && visits <= 128 && (before[0] == '\0' || visits >= 2),
		  "%s: %d visits", opening, visits);
}

static void
long_names(void)
{
	static char text[65536];
	char		seen[4096] = "";
	size_t		length = 0;

	for (int level = 0; level < 60; level++)
		length += snprintf(text + length, sizeof(text) - length, "{\"%0*d\":[", 200, level);
	text[length++] = '7';
	for (int level = 0; level < 60; level++)
		length += snprintf(text + length, sizeof(text) - length, "]}");
	/* Two levels for each, of which there are 63. */
	CHECK(&promises[LONG_NAMES], !llmq_json_walk(text, length, note, seen), "is read");

	length = snprintf(text, sizeof(text), "{\"%0*d\":[{\"%0*d\":8}]}", 30000, 0, 30000, 0);
	seen[0] = '\0';
	CHECK(&promises[LONG_NAMES], llmq_json_walk(text, length, note, seen) && strlen(seen) == 2 + 43 + 84 &&
		  strstr(seen, "0[].0") != NULL, "%s", seen);
}

int
main(void)
{
	simple();
	deep("", "[");
	deep("", "{\"a\":");
	deep("", "[{\"a\":");
	deep("{\"a\":1,\"b\":", "[");
	deep("{\"a\":1,\"b\":", "{\"a\":");
	long_names();
	return promises_report(promises, PROMISES);
}
