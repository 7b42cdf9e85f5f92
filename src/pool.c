/*
 * pool.c
 *	  Which keys can serve a model, by owner and priority.
 *
 * Built from the configuration in memory when first asked for, and thrown away with it.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "pick.h"

/* May the keys of the account be used for the model, as far as provider and owner go? */
bool
llmq_account_offers(const LlmqAccount *account, const LlmqModel *model, const char *owner)
{
	if (account->provider != model->provider)
		return false;
	return owner == NULL ? account->org == NULL : account->org != NULL && strcmp(account->org, owner) == 0;
}

/* May the key be used for the model, as far as it says? */
bool
llmq_key_serves(const LlmqKey *key, const LlmqModel *model)
{
	if (key->nmodels < 0)
		return true;
	for (int i = 0; i < key->nmodels; i++)
		if (strcmp(key->models[i], model->name) == 0)
			return true;
	return false;
}

/* Inside a tier keys have no order, until one is asked for: to sort 10,000 of them takes its time. */
static int
compare_candidates(const void *a, const void *b)
{
	return ((const LlmqCandidate *) a)->key->priority - ((const LlmqCandidate *) b)->key->priority;
}

/* The configured order in a tier. */
static int
compare_ranks(const void *a, const void *b)
{
	const LlmqKey *left = (*(LlmqCandidate *const *) a)->key;
	const LlmqKey *right = (*(LlmqCandidate *const *) b)->key;

	if (left->weight != right->weight)
		return right->weight - left->weight;
	return strcmp(left->subject.name, right->subject.name);
}

/* Does another tier begin with this one of the sorted candidates? */
static bool
begins_tier(const LlmqCandidate *candidates, int i)
{
	return i == 0 || candidates[i].key->priority != candidates[i - 1].key->priority;
}

/* Sorts the candidates and cuts them into tiers of equal priority. */
static void
fill_tiers(LlmqPool *pool, LlmqCandidate *candidates, int n)
{
	int			ntiers = 0;

	qsort(candidates, n, sizeof(LlmqCandidate), compare_candidates);
	for (int i = 0; i < n; i++)
		ntiers += begins_tier(candidates, i);
	pool->tier = palloc0(sizeof(LlmqTier) * Max(ntiers, 1));
	for (int i = 0; i < n; i++)
	{
		LlmqTier   *tier;

		if (begins_tier(candidates, i))
		{
			tier = &pool->tier[pool->ntiers];
			tier->candidate = &candidates[i];
			tier->place = pool->ntiers++;
			tier->own = pool->owner != NULL;
		}
		tier = &pool->tier[pool->ntiers - 1];
		tier->nactive = ++tier->n;
	}
}

/* The keys that can serve a model; how many. */
static int
find_candidates(const LlmqCatalog *catalog, const LlmqModel *model, const char *owner, LlmqCandidate **candidates)
{
	int			most = 0;
	int			n = 0;

	for (LlmqAccount *account = catalog->first_account; account != NULL; account = account->next)
		if (llmq_account_offers(account, model, owner))
			most += account->nkeys;
	*candidates = palloc0(sizeof(LlmqCandidate) * Max(most, 1));
	for (LlmqAccount *account = catalog->first_account; account != NULL; account = account->next)
	{
		if (!llmq_account_offers(account, model, owner))
			continue;
		for (LlmqKey *key = account->first_key; key != NULL; key = key->next)
			if (llmq_key_serves(key, model))
				(*candidates)[n++].key = key;
	}
	return n;
}

/* The candidates for a model among the accounts of an org, or among the shared ones (NULL). */
LlmqPool *
llmq_pool(LlmqCatalog *catalog, LlmqModel *model, const char *owner)
{
	MemoryContext caller;
	LlmqCandidate *candidates;
	LlmqPool   *pool;
	int			n;

	for (pool = model->pools; pool != NULL; pool = pool->next)
		if (pool->owner == owner || (pool->owner != NULL && owner != NULL && strcmp(pool->owner, owner) == 0))
			return pool;

	caller = MemoryContextSwitchTo(catalog->context);
	n = find_candidates(catalog, model, owner, &candidates);
	pool = palloc0(sizeof(LlmqPool));
	pool->owner = owner == NULL ? NULL : pstrdup(owner);
	fill_tiers(pool, candidates, n);
	pool->next = model->pools;
	model->pools = pool;
	MemoryContextSwitchTo(caller);
	return pool;
}

/*
 * Says, once, which place each candidate of a tier has in the configured order, and what its account weighs: as its
 * heaviest key there. More keys do not weigh more.
 */
void
llmq_tier_rank(LlmqTier *tier)
{
	LlmqCandidate **order;

	if (tier->ranked)
		return;
	order = palloc(sizeof(LlmqCandidate *) * tier->n);
	for (int i = 0; i < tier->n; i++)
	{
		order[i] = &tier->candidate[i];
		order[i]->key->account->weight = 0;
	}
	qsort(order, tier->n, sizeof(LlmqCandidate *), compare_ranks);
	for (int i = 0; i < tier->n; i++)
	{
		LlmqAccount *account = order[i]->key->account;

		order[i]->rank = i;
		account->weight = Max(account->weight, order[i]->key->weight);
	}
	for (int i = 0; i < tier->n; i++)
		order[i]->account_weight = order[i]->key->account->weight;
	pfree(order);
	tier->ranked = true;
}
