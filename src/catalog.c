/*
 * catalog.c
 *	  The configuration in memory: when it is loaded, and how things are found in it.
 *
 * A backend loads all configuration when it first needs it, with a fresh snapshot whatever the isolation level, and
 * again when the relation cache says that it may have changed (config_change.c); an invalidation that arrives during
 * the load repeats it, and so does the next call after a load that failed. What a call uses is never freed under it:
 * only llmq_catalog(), at the start of a call, throws away.
 * A transaction sees its own changes, because they are invalidated in its own backend at the next command, and again
 * when it rolls back.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "name.h"
#include "zone.h"

/* How many orgs a backend remembers the meters of before it starts anew. */
#define MAX_REMEMBERED_ORGS 10000

/* How often a load is repeated because of a change that arrived meanwhile. */
#define MAX_LOADS 10

typedef struct NameEntry
{
	const char *name;
	void	   *object;
	uint32		hash;
	char		status;
} NameEntry;

#define SH_PREFIX		names
#define SH_ELEMENT_TYPE	NameEntry
#define SH_KEY_TYPE		const char *
#define SH_KEY			name
#define SH_HASH_KEY(tb, key)	hash_bytes((const unsigned char *) (key), strlen(key))
#define SH_EQUAL(tb, a, b)		(strcmp(a, b) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a)		(a)->hash
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Reset by the relation cache's callback. */
static bool catalog_valid = false;
static LlmqCatalog *current_catalog = NULL;

struct names_hash *
llmq_names_create(MemoryContext context)
{
	return names_create(context, 16, NULL);
}

void *
llmq_names_find(struct names_hash *names, const char *name)
{
	NameEntry  *entry = names_lookup(names, name);

	return entry != NULL ? entry->object : NULL;
}

/* The name must live as long as the table. */
void
llmq_names_put(struct names_hash *names, const char *name, void *object)
{
	bool		found;

	names_insert(names, name, &found)->object = object;
}

/* In no order. */
void
llmq_names_each(struct names_hash *names, LlmqNameVisitor visit, void *argument)
{
	names_iterator iterator;
	NameEntry  *entry;

	names_start_iterate(names, &iterator);
	while ((entry = names_iterate(names, &iterator)) != NULL)
		visit(entry->object, argument);
}

/* Called by the relation cache at any time: only notes that the configuration is to be loaded again. */
void
llmq_catalog_invalidate(void)
{
	catalog_valid = false;
}

/* Begins to remember orgs from nothing. */
static void
reset_orgs(LlmqCatalog *catalog)
{
	MemoryContextReset(catalog->org_context);
	catalog->orgs = llmq_names_create(catalog->org_context);
	catalog->trees = llmq_names_create(catalog->org_context);
}

/*
 * The memory to load into. It begins with one block that has room for everything and is used again while it has: most
 * of what a load of many keys costs is pages that were given back to the system and are faulted in again.
 */
static MemoryContext
prepare_context(void)
{
	static MemoryContext context = NULL;
	static Size room = 0;
	Size		needed = current_catalog == NULL ? llmq_catalog_size() : current_catalog->kept;

	current_catalog = NULL;
	if (context != NULL && needed <= room)
	{
		MemoryContextReset(context);
		return context;
	}
	if (context != NULL)
		MemoryContextDelete(context);
	context = NULL;
	room = TYPEALIGN(ALLOCSET_DEFAULT_MAXSIZE / 64, needed + ALLOCSET_DEFAULT_INITSIZE);
	context = AllocSetContextCreate(TopMemoryContext, "llmquota catalog", Min(room, ALLOCSET_DEFAULT_MAXSIZE),
									ALLOCSET_DEFAULT_INITSIZE, ALLOCSET_DEFAULT_MAXSIZE);
	return context;
}

/* The configuration as it is now, in memory of the caller's, who may change it. */
LlmqCatalog *
llmq_catalog_of_own(MemoryContext context)
{
	LlmqCatalog *loaded = llmq_catalog_load(context);

	loaded->org_context = AllocSetContextCreate(loaded->context, "llmquota orgs", ALLOCSET_DEFAULT_SIZES);
	reset_orgs(loaded);
	return loaded;
}

/* Loads the configuration in the place of the old one, of which nothing is in use. */
static void
load(void)
{
	static bool had_aliases = false;
	LlmqCatalog *loaded = llmq_catalog_of_own(prepare_context());

	if (had_aliases || loaded->has_aliases)
		llmq_name_invalidate();
	had_aliases = loaded->has_aliases;
	current_catalog = loaded;
}

/* One load, after which the catalog is valid unless a change arrived meanwhile or the load failed. */
static void
load_once(void)
{
	catalog_valid = true;
	PG_TRY();
	{
		load();
	}
	PG_CATCH();
	{
		catalog_valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	AcceptInvalidationMessages();
}

/*
 * The configuration as it is now. Invalidates what earlier calls returned, so a call asks once, at its start. Somebody
 * who changes it all the time cannot hold a call up: after some attempts the last load will do.
 */
LlmqCatalog *
llmq_catalog(void)
{
	AcceptInvalidationMessages();
	for (int attempt = 0; (current_catalog == NULL || !catalog_valid) && attempt < MAX_LOADS; attempt++)
	{
		CHECK_FOR_INTERRUPTS();
		load_once();
	}
	if (current_catalog->orgs->members >= MAX_REMEMBERED_ORGS)
		reset_orgs(current_catalog);
	return current_catalog;
}

/* The name of a zone that a calendar window without one of its own has: some provider's, or org's, or UTC. */
const char *
llmq_catalog_zone_name(LlmqCatalog *catalog, uint32 hash)
{
	names_iterator iterator;
	NameEntry  *entry;
	const char *zone = "UTC";

	names_start_iterate(catalog->providers, &iterator);
	while ((entry = names_iterate(catalog->providers, &iterator)) != NULL)
	{
		LlmqProvider *provider = entry->object;

		if (llmq_zone_hash(provider->subject.zone) == hash)
			zone = provider->subject.zone;
	}
	names_start_iterate(catalog->listed_orgs, &iterator);
	while ((entry = names_iterate(catalog->listed_orgs, &iterator)) != NULL)
	{
		LlmqOrg    *org = entry->object;

		if (org->zone != NULL && llmq_zone_hash(org->zone) == hash)
			zone = org->zone;
	}
	return zone;
}

/*
 * What something is called now that live state knows by this name, its kind before it. By the configuration that was
 * loaded last; it is loaded only if it never was.
 */
const char *
llmq_catalog_name_now(const char *cell)
{
	return llmq_alias_of_cell(current_catalog != NULL ? current_catalog : llmq_catalog(), cell);
}

/* What budgets of the scope parent count for an org: its calls and those of the orgs below it. */
static LlmqSubject *
org_tree(LlmqCatalog *catalog, const char *name)
{
	LlmqSubject *tree = llmq_names_find(catalog->trees, name);
	const LlmqOrg *listed = llmq_names_find(catalog->listed_orgs, name);

	if (tree != NULL)
		return tree;
	tree = MemoryContextAllocZero(catalog->org_context, sizeof(LlmqSubject));
	tree->scope = LLMQ_SCOPE_PARENT;
	tree->name = MemoryContextStrdup(catalog->org_context, name);
	tree->zone = "UTC";
	tree->budget_zone = listed == NULL ? NULL : listed->zone;
	tree->context = catalog->org_context;
	llmq_alias_ref(catalog, LLMQ_NAME_ORG, tree->name, &tree->ref);
	llmq_names_put(catalog->trees, tree->name, tree);
	return tree;
}

/* Finds out whose budgets count an org's calls because it is below them, itself first. */
static void
find_trees(LlmqCatalog *catalog, LlmqOrg *org)
{
	const LlmqOrg *level = org;
	const char *name = NULL;

	for (LlmqPart part = LLMQ_PART_ALL; part < LLMQ_PART_COUNT; part++)
		if (catalog->quotas[LLMQ_SCOPE_PARENT][part] != NULL)
			name = org->subject.name;
	while (name != NULL && org->ntrees < LLMQ_MAX_LEVELS)
	{
		org->tree[org->ntrees++] = org_tree(catalog, name);
		name = level == NULL ? NULL : level->parent;
		level = name == NULL ? NULL : llmq_names_find(catalog->listed_orgs, name);
	}
}

/* An org, listed or not, by any name that stands for it. An unlisted one has the defaults of the table. */
LlmqOrg *
llmq_catalog_org(LlmqCatalog *catalog, const char *caller_name)
{
	const char *name = llmq_alias_now(catalog, LLMQ_NAME_ORG, caller_name);
	LlmqOrg    *org = llmq_names_find(catalog->orgs, name);
	LlmqOrg    *listed;

	if (org != NULL)
		return org;

	org = MemoryContextAllocZero(catalog->org_context, sizeof(LlmqOrg));
	listed = llmq_names_find(catalog->listed_orgs, name);
	if (listed != NULL)
		*org = *listed;
	else
	{
		org->priority = LLMQ_PRIORITY_NORMAL;
		org->weight = 1;
		org->shared_keys = true;
		org->enabled = true;
	}
	org->owns_accounts = llmq_names_find(catalog->owners, name) != NULL;
	org->subject.scope = LLMQ_SCOPE_ORG;
	org->subject.name = MemoryContextStrdup(catalog->org_context, name);
	org->subject.zone = "UTC";
	org->subject.context = catalog->org_context;
	llmq_alias_ref(catalog, LLMQ_NAME_ORG, org->subject.name, &org->subject.ref);
	org->subject.budget_zone = org->zone;
	find_trees(catalog, org);
	llmq_names_put(catalog->orgs, org->subject.name, org);
	return org;
}

/* A key, by any name that stands for it; NULL when it is not, or no longer, configured. */
LlmqKey *
llmq_catalog_key(LlmqCatalog *catalog, const char *name)
{
	/* calls walk over all keys and know no names of them: so these are only gathered when somebody asks */
	if (catalog->keys == NULL)
	{
		catalog->keys = llmq_names_create(catalog->context);
		for (LlmqAccount *account = catalog->first_account; account != NULL; account = account->next)
			for (LlmqKey *key = account->first_key; key != NULL; key = key->next)
				llmq_names_put(catalog->keys, key->subject.name, key);
	}
	return llmq_names_find(catalog->keys, llmq_alias_now(catalog, LLMQ_NAME_KEY, name));
}

/* A model, by any name that stands for it; NULL when it is not, or no longer, configured. */
LlmqModel *
llmq_catalog_model(const LlmqCatalog *catalog, const char *name)
{
	LlmqModel  *model = llmq_names_find(catalog->models, name);

	return model != NULL ? model : llmq_names_find(catalog->models, llmq_alias_now(catalog, LLMQ_NAME_MODEL, name));
}

/* Whatever quotas of a scope can be on, by any name that stands for it; NULL when it is not configured. */
LlmqSubject *
llmq_catalog_subject(LlmqCatalog *catalog, LlmqScope scope, const char *name)
{
	LlmqKey    *key;

	switch (scope)
	{
		case LLMQ_SCOPE_GLOBAL:
			return &catalog->global;
		case LLMQ_SCOPE_PROVIDER:
			return llmq_names_find(catalog->providers, name);
		case LLMQ_SCOPE_ACCOUNT:
			return llmq_names_find(catalog->accounts, llmq_alias_now(catalog, LLMQ_NAME_ACCOUNT, name));
		case LLMQ_SCOPE_KEY:
			key = llmq_catalog_key(catalog, name);
			return key != NULL ? &key->subject : NULL;
		case LLMQ_SCOPE_ORG:
			return &llmq_catalog_org(catalog, name)->subject;
		case LLMQ_SCOPE_PARENT:
			return org_tree(catalog, llmq_alias_now(catalog, LLMQ_NAME_ORG, name));
	}
	return NULL;
}

/* The name under which an org's own definition of a route is kept: no two pairs have the same. */
char *
llmq_own_route_name(const char *org, const char *route)
{
	return psprintf("%zu:%s%s", strlen(org), org, route);
}

/*
 * The steps of a route for an org: its own definition, else the common one, else the model of that name, or of one that
 * stands for it. NULL when there is none.
 */
LlmqRoute *
llmq_catalog_route(LlmqCatalog *catalog, const char *name, const char *org)
{
	LlmqRoute  *route = NULL;
	LlmqModel  *model;

	if (catalog->has_own_routes)
		route = llmq_names_find(catalog->own_routes, llmq_own_route_name(org, name));
	if (route == NULL)
		route = llmq_names_find(catalog->routes, name);
	if (route != NULL)
		return route;

	model = llmq_catalog_model(catalog, name);
	return model != NULL ? model->route : NULL;
}
