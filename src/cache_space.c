/*
 * cache_space.c
 *	  Namespaces of answers: a part of the configuration.
 */
#include "postgres.h"

#include "cache.h"

/* A number of milliseconds; -1 for NULL. */
static int32
milliseconds(const LlmqRow *row, int column)
{
	return is_null(row, column) ? -1 : DatumGetInt32(value(row, column));
}

/* A row of llmquota.answer_namespace. */
void
llmq_namespace_read(LlmqRow *row)
{
	LlmqNamespace *space = llmq_catalog_keep(row->catalog, sizeof(LlmqNamespace));

	space->name = text_value(row, 1);
	space->shared = bool_value(row, 2);
	space->ttl = milliseconds(row, 3);
	space->stale = milliseconds(row, 4);
	space->refresh = milliseconds(row, 5);
	llmq_names_put(row->catalog->namespaces, space->name, space);
}

/* What holds for a namespace, whether it has a row or not. */
LlmqNamespace
llmq_namespace_of(const LlmqCatalog *catalog, const char *name)
{
	const LlmqSettings *settings = &catalog->settings;
	const LlmqNamespace *row = llmq_names_find(catalog->namespaces, name);
	LlmqNamespace space = {.name = name,.ttl = -1,.stale = -1,.refresh = -1};

	if (row != NULL)
		space = *row;
	space.ttl = space.ttl < 0 ? settings->answer_ttl : space.ttl;
	space.stale = space.stale < 0 ? settings->answer_stale : space.stale;
	space.refresh = space.refresh < 0 ? settings->answer_refresh : space.refresh;
	return space;
}
