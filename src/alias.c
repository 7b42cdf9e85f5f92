/*
 * alias.c
 *	  What has been renamed: the names that stand for it, and what live state calls it.
 *
 * Live state knows everything by the name it had on its first day, the one in its row of llmquota.name, and so a rename
 * changes no cell: it is a change of the configuration like any other, in the transaction of llmquota_rename(). A pick
 * that goes on with the configuration of before charges the same meters as one that has seen the rename, and neither a
 * crash nor a rollback can part them. llmquota.alias says what is called how now.
 *
 * When a former name is given to something new, that is another use (generation) of the name: live state calls it by an
 * upper-case kind, which no name of a caller has, and the number before the name.
 *
 * Pure functions on the configuration in memory.
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog.h"
#include "name.h"

/* The name kind of a scope's subjects; 0 for the scope global, whose subject has no name. */
char
llmq_scope_name_kind(LlmqScope scope)
{
	static const char kinds[LLMQ_SCOPE_COUNT] = {
		0, LLMQ_NAME_PROVIDER, LLMQ_NAME_ACCOUNT, LLMQ_NAME_KEY, LLMQ_NAME_ORG, LLMQ_NAME_ORG
	};

	return kinds[scope];
}

/* A row of llmquota.alias, in the memory of a configuration that is being loaded. */
LlmqAlias *
llmq_alias_create(char kind, const char *name, const char *cell, int32 generation)
{
	LlmqAlias  *alias = palloc0(sizeof(LlmqAlias));

	alias->name = psprintf("%c%s", kind, name);
	if (generation == 1)
		alias->cell = psprintf("%c%s", kind, cell);
	else
		alias->cell = psprintf("%c%d:%s", toupper((unsigned char) kind), generation, cell);
	return alias;
}

/* Adds an alias to the configuration: does the name still stand for its bearer, and is it the one of now? */
void
llmq_alias_add(LlmqCatalog *catalog, LlmqAlias *alias, bool stands, bool is_current)
{
	alias->is_current = is_current;
	catalog->has_aliases = true;
	if (stands)
		llmq_names_put(catalog->aliases, alias->name, alias);
	if (is_current)
		llmq_names_put(catalog->renamed_cells, alias->cell, alias);
}

static LlmqAlias *
find_alias(const LlmqCatalog *catalog, char kind, const char *name)
{
	char		key[LLMQ_MAX_NAME + 2];

	/* most services never rename anything */
	if (!catalog->has_aliases || strlen(name) > LLMQ_MAX_NAME)
		return NULL;
	key[0] = kind;
	strlcpy(key + 1, name, sizeof(key) - 1);
	return llmq_names_find(catalog->aliases, key);
}

/* Fills in what live state calls something. The name must live as long as the reference. */
void
llmq_alias_ref(const LlmqCatalog *catalog, char kind, const char *name, LlmqNameRef *ref)
{
	const LlmqAlias *alias = find_alias(catalog, kind, name);

	memset(ref, 0, sizeof(LlmqNameRef));
	ref->kind = alias != NULL ? alias->cell[0] : kind;
	ref->name = alias != NULL ? alias->cell + 1 : name;
}

/* The name of now of what somebody calls `name`. */
const char *
llmq_alias_now(const LlmqCatalog *catalog, char kind, const char *name)
{
	const LlmqAlias *alias = find_alias(catalog, kind, name);
	const LlmqAlias *now;

	if (alias == NULL || alias->is_current)
		return name;
	now = llmq_names_find(catalog->renamed_cells, alias->cell);
	return now != NULL ? now->name + 1 : name;
}

/* The name of now of what live state calls so, the kind before both. */
const char *
llmq_alias_of_cell(const LlmqCatalog *catalog, const char *cell)
{
	const LlmqAlias *now = catalog->has_aliases ? llmq_names_find(catalog->renamed_cells, cell) : NULL;

	return now != NULL ? now->name : cell;
}
