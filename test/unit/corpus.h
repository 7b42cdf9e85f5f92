/*
 * corpus.h
 *	  Reads test/corpus: providers' refusals as they are sent, and what they are to be understood as.
 *
 * A file has a line of `adapter:`, at most one of `status:` and `error_class:`, any of `header:`, one of `expect:`, one
 * of `observe:` for each limit that the headers advertise, and after the line `body:` the body up to the end.
 */
#ifndef CORPUS_H
#define CORPUS_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "classify.h"
#include "leaks.h"

#undef fprintf

#define CORPUS_DIRECTORY "test/corpus"
#define CORPUS_MAX_FILES 256
#define CORPUS_MAX_HEADERS 32
#define CORPUS_MAX_SIZE 16384

/* When all of it happens: 2026-11-22 12:00:00 UTC. */
#define CORPUS_NOW (INT64CONST(848620800) * USECS_PER_SEC + INT64CONST(12) * USECS_PER_HOUR)

typedef struct CorpusCase
{
	char		name[64];
	char		text[CORPUS_MAX_SIZE + 1];	/* the file, cut into strings */
	LlmqHeader	headers[CORPUS_MAX_HEADERS];
	LlmqFailure failure;
	const char *expect;
	char		observe[1024];	/* a line for each limit */
} CorpusCase;

/* A fault of the corpus itself. */
static inline void
corpus_die(const char *name, const char *why)
{
	fprintf(stderr, "%s/%s: %s\n", CORPUS_DIRECTORY, name, why);
	exit(2);
}

/* One line "word: value" of a case. */
static inline void
corpus_line(CorpusCase *one, char *line)
{
	char	   *value = strstr(line, ": ");

	if (line[0] == '#')
		return;
	if (value == NULL)
		corpus_die(one->name, line);
	*value = '\0';
	value += 2;
	if (strcmp(line, "adapter") == 0)
		one->failure.adapter = llmq_adapter(value);
	else if (strcmp(line, "status") == 0)
		one->failure.status = atoi(value);
	else if (strcmp(line, "error_class") == 0)
		one->failure.error_class = value;
	else if (strcmp(line, "expect") == 0)
		one->expect = value;
	else if (strcmp(line, "observe") == 0)
	{
		strlcat(one->observe, value, sizeof(one->observe));
		strlcat(one->observe, "\n", sizeof(one->observe));
	}
	else if (strcmp(line, "header") == 0 && strchr(value, ':') != NULL &&
			 one->failure.header_count < CORPUS_MAX_HEADERS)
	{
		LlmqHeader *header = &one->headers[one->failure.header_count++];
		char	   *colon = strchr(value, ':');

		*colon = '\0';
		header->name = value;
		header->value = colon + 1;
	}
	else
		corpus_die(one->name, line);
}

static inline void
corpus_parse(CorpusCase *one)
{
	char	   *at = one->text;

	one->failure.headers = one->headers;
	one->failure.now = CORPUS_NOW;
	while (strncmp(at, "body:\n", 6) != 0)
	{
		char	   *end = strchr(at, '\n');

		if (end == NULL)
			corpus_die(one->name, "has no body");
		*end = '\0';
		corpus_line(one, at);
		at = end + 1;
	}
	one->failure.body = at + 6;
	one->failure.length = strlen(at + 6);
	if (one->expect == NULL)
		corpus_die(one->name, "expects nothing");
}

static inline CorpusCase *
corpus_read_file(const char *name)
{
	char		path[512];
	CorpusCase *one = calloc(1, sizeof(CorpusCase));
	FILE	   *file;
	size_t		length;

	strlcpy(path, CORPUS_DIRECTORY "/", sizeof(path));
	strlcat(path, name, sizeof(path));
	strlcpy(one->name, name, sizeof(one->name));
	file = fopen(path, "r");
	if (file == NULL)
		corpus_die(name, "cannot be opened");
	length = fread(one->text, 1, CORPUS_MAX_SIZE, file);
	fclose(file);
	if (length == CORPUS_MAX_SIZE)
		corpus_die(name, "is too long");
	corpus_parse(one);
	return one;
}

/* Reads all of it; the number of cases. */
static inline int
corpus_read(CorpusCase **cases)
{
	struct dirent **entries;
	int			found = scandir(CORPUS_DIRECTORY, &entries, NULL, alphasort);
	int			count = 0;

	for (int i = 0; i < found; i++)
	{
		if (strstr(entries[i]->d_name, ".txt") != NULL && count < CORPUS_MAX_FILES)
			cases[count++] = corpus_read_file(entries[i]->d_name);
		free(entries[i]);
	}
	if (found < 0 || count == 0)
		corpus_die("", "has no cases: run this in the project's directory");
	free(entries);
	return count;
}

#endif							/* CORPUS_H */
