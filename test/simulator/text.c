/*
 * text.c
 *	  Small things that wire formats are made of: texts, times, random numbers.
 *
 * Callers hold sim_lock().  Memory that cannot be had ends the program.
 */
#include "simulator.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t random_state = 1;

void *
sim_allocate(size_t size)
{
	void	   *memory = calloc(1, size);

	if (memory == NULL)
		abort();
	return memory;
}

static char *format_list(const char *format, va_list arguments) __attribute__((format(printf, 1, 0)));

static char *
format_list(const char *format, va_list arguments)
{
	char	   *text;

	if (vasprintf(&text, format, arguments) < 0)
		abort();
	return text;
}

char *
sim_format(const char *format,...)
{
	va_list		arguments;
	char	   *text;

	va_start(arguments, format);
	text = format_list(format, arguments);
	va_end(arguments);
	return text;
}

/* The same as a JSON string. */
json_t *
sim_text(const char *format,...)
{
	va_list		arguments;
	char	   *text;
	json_t	   *value;

	va_start(arguments, format);
	text = format_list(format, arguments);
	va_end(arguments);
	value = json_string(text);
	free(text);
	return value;
}

/* An instant as in RFC 3339, in whole seconds, rounded up. */
json_t *
sim_instant(int64_t at)
{
	time_t		seconds = sim_seconds(at);
	struct tm	utc;
	char		text[32];

	gmtime_r(&seconds, &utc);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
	return json_string(text);
}

/* A duration as Go writes it, in milliseconds, rounded up: 20ms, 1.5s, 6m0s, 24h0m0s. */
json_t *
sim_duration(int64_t microseconds)
{
	int64_t		milliseconds = (microseconds + 999) / 1000;
	int64_t		minutes = milliseconds / 60000;
	double		seconds = (milliseconds % 60000) / 1000.0;

	if (milliseconds < 1000)
		return sim_text("%dms", (int) milliseconds);
	if (minutes == 0)
		return sim_text("%.5gs", seconds);
	if (minutes < 60)
		return sim_text("%dm%.5gs", (int) minutes, seconds);
	return sim_text("%dh%dm%.5gs", (int) (minutes / 60), (int) (minutes % 60), seconds);
}

/* Whole seconds, rounded up. */
int64_t
sim_seconds(int64_t microseconds)
{
	return (microseconds + 999999) / 1000000;
}

/* The first instant of the next month in UTC. */
int64_t
sim_next_month(int64_t now)
{
	time_t		seconds = now / 1000000;
	struct tm	utc;

	gmtime_r(&seconds, &utc);
	utc.tm_mon++;
	utc.tm_mday = 1;
	utc.tm_hour = utc.tm_min = utc.tm_sec = 0;
	return (int64_t) timegm(&utc) * 1000000;
}

static int64_t
words_of_text(const char *text)
{
	int64_t		words = 0;

	for (bool inside = false; *text != '\0'; text++)
	{
		words += !inside && !isspace((unsigned char) *text);
		inside = !isspace((unsigned char) *text);
	}
	return words;
}

/* The words of all members called text or content, however deep: what stands for tokens here. */
int64_t
sim_words(const json_t *content)
{
	int64_t		words = 0;
	size_t		index;
	const char *name;
	json_t	   *value;

	if (json_is_string(content))
		return words_of_text(json_string_value(content));
	json_array_foreach(content, index, value)
		words += sim_words(value);
	json_object_foreach((json_t *) content, name, value)
	{
		if (strcmp(name, "text") == 0 || strcmp(name, "content") == 0 || strcmp(name, "parts") == 0)
			words += sim_words(value);
	}
	return words;
}

void
sim_put_header(SimCall *call, const char *name, json_t *value)
{
	json_object_set_new(call->answer.headers, name, value);
}

/* A random number, both ends included: xorshift64*. */
int64_t
sim_random(int64_t from, int64_t to)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return from + (int64_t) ((random_state * UINT64_C(2685821657736338717) >> 11) % (uint64_t) (to - from + 1));
}

void
sim_random_seed(uint64_t seed)
{
	random_state = seed != 0 ? seed : 1;
}
