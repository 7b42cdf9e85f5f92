/*
 * drive_config.c
 *	  What the driver is told: README.md has the members.
 *
 * Texts stay where jansson has them, for the life of the program.
 */
#include "drive.h"

#include <stdlib.h>

static void
read_span(const json_t *kind, const char *name, int64_t otherwise, int64_t span[2])
{
	const json_t *value = json_object_get(kind, name);

	for (int i = 0; i < 2; i++)
	{
		const json_t *number = json_is_array(value) ? json_array_get(value, i) : value;

		span[i] = number != NULL ? json_integer_value(number) : otherwise;
	}
	if (span[0] > span[1])
		drive_fail(name, "from is after to");
}

static void
read_kind(json_t *row, DriveKind *kind)
{
	json_int_t	orgs = 1,
				weight = 1;

	kind->org = "org";
	if (json_unpack(row, "{s:s, s?s, s?I, s?I}", "route", &kind->route, "org", &kind->org, "orgs", &orgs,
					"weight", &weight) < 0)
		drive_fail("kinds", "each needs a route");
	kind->orgs = orgs;
	kind->weight = weight;
	read_span(row, "input_tokens", 100, kind->input);
	read_span(row, "max_output_tokens", 100, kind->max_output);
	read_span(row, "output_tokens", 50, kind->output);
}

DriveConfig *
drive_read_config(json_t *json)
{
	DriveConfig *config = calloc(1, sizeof(DriveConfig));
	json_int_t	requests = 0,
				deadline_ms = 30000,
				timeout_ms = 10000;
	json_t	   *kinds,
			   *row;
	size_t		index;

	config->processes = 1;
	config->threads = 1;
	if (json_unpack(json, "{s:s, s:o, s?i, s?i, s?F, s?I, s?F, s?I, s?I}", "conninfo", &config->conninfo,
					"kinds", &kinds, "processes", &config->processes, "threads", &config->threads,
					"seconds", &config->seconds, "requests", &requests, "rate", &config->rate,
					"deadline_ms", &deadline_ms, "timeout_ms", &timeout_ms) < 0)
		drive_fail("configuration", "it needs conninfo and kinds, and members of the right types");
	config->requests = requests;
	config->deadline = deadline_ms * 1000;
	config->timeout = timeout_ms * 1000;
	config->nkinds = json_array_size(kinds);
	config->kinds = calloc(config->nkinds + 1, sizeof(DriveKind));
	json_array_foreach(kinds, index, row)
		read_kind(row, &config->kinds[index]);
	if (config->nkinds == 0 || (config->seconds <= 0 && requests <= 0))
		drive_fail("configuration", "it needs a kind of request, and seconds or requests");
	return config;
}
