/*
 * pool.c
 *	  Which keys can serve a model, by owner and priority.
 *
 * Built from the configuration in memory when first asked for, and thrown away with it.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "pick.h"

/* May the key be used for the model, as far as the configuration goes? */
static bool
serves(const LlmqKey *key, const LlmqModel *model)
{
	if (key->account->provider != model->provider)
		return false;
	if (key->nmodels < 0)
		return true;
	for (int i = 0; i < key->nmodels; i++)
		if (strcmp(key->models[i], model->name) == 0)
			return true;
	return false;
}

static bool
belongs(const LlmqKey *key, const char *owner)
{
	const char *org = key->account->org;

	return owner == NULL ? org == NULL : org != NULL && strcmp(org, owner) == 0;
}

/* Inside a tier keys have no order: where they are asked from is left to chance. */
static int
compare_keys(const void *a, const void *b)
{
	return (*(LlmqKey *const *) a)->priority - (*(LlmqKey *const *) b)->priority;
}

/* Does another tier begin with this one of the sorted keys? */
static bool
begins_tier(LlmqKey **keys, int i)
{
	return i == 0 || keys[i]->priority != keys[i - 1]->priority;
}

/* Cuts the sorted keys into tiers of equal priority. */
static void
fill_tiers(LlmqPool *pool, LlmqKey **keys, int nkeys)
{
	LlmqCandidate *candidates = palloc0(sizeof(LlmqCandidate) * Max(nkeys, 1));
	int			ntiers = 0;

	for (int i = 0; i < nkeys; i++)
		ntiers += begins_tier(keys, i);
	pool->tier = palloc0(sizeof(LlmqTier) * Max(ntiers, 1));
	for (int i = 0; i < nkeys; i++)
	{
		LlmqTier   *tier;

		if (begins_tier(keys, i))
			pool->tier[pool->ntiers++].candidate = &candidates[i];
		tier = &pool->tier[pool->ntiers - 1];
		tier->candidate[tier->n++].key = keys[i];
		tier->nactive = tier->n;
	}
}

/* The candidates for a model among the accounts of an org, or among the shared ones (NULL). */
LlmqPool *
llmq_pool(LlmqCatalog *catalog, LlmqModel *model, const char *owner)
{
	MemoryContext caller;
	LlmqKey   **keys;
	LlmqPool   *pool;
	int			nkeys = 0;

	for (pool = model->pools; pool != NULL; pool = pool->next)
		if (pool->owner == owner || (pool->owner != NULL && owner != NULL && strcmp(pool->owner, owner) == 0))
			return pool;

	keys = palloc(sizeof(LlmqKey *) * Max(catalog->nkeys, 1));
	for (int i = 0; i < catalog->nkeys; i++)
		if (serves(catalog->key[i], model) && belongs(catalog->key[i], owner))
			keys[nkeys++] = catalog->key[i];
	qsort(keys, nkeys, sizeof(LlmqKey *), compare_keys);

	caller = MemoryContextSwitchTo(catalog->context);
	pool = palloc0(sizeof(LlmqPool));
	pool->owner = owner == NULL ? NULL : pstrdup(owner);
	fill_tiers(pool, keys, nkeys);
	pool->next = model->pools;
	model->pools = pool;
	MemoryContextSwitchTo(caller);
	pfree(keys);
	return pool;
}
