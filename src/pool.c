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

static int
compare_keys(const void *a, const void *b)
{
	const LlmqKey *left = *(LlmqKey *const *) a;
	const LlmqKey *right = *(LlmqKey *const *) b;

	if (left->priority != right->priority)
		return left->priority < right->priority ? -1 : 1;
	return strcmp(left->subject.name, right->subject.name);
}

/* Cuts the sorted keys into tiers of equal priority. */
static void
fill_tiers(LlmqPool *pool, LlmqKey **keys, int nkeys)
{
	pool->tier = palloc0(sizeof(LlmqTier) * Max(nkeys, 1));
	for (int i = 0; i < nkeys; i++)
	{
		LlmqTier   *tier;

		if (i == 0 || keys[i]->priority != keys[i - 1]->priority)
		{
			tier = &pool->tier[pool->ntiers++];
			tier->priority = keys[i]->priority;
			tier->candidate = palloc0(sizeof(LlmqCandidate) * (nkeys - i));
		}
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
