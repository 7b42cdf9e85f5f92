/*
 * alternative.c
 *	  Whether a request whose attempt has failed has anything else to be tried.
 *
 * Goes by the route, by what has failed, and by the troubles as of now; meters are not asked, so a pick may refuse
 * after all. Nothing is locked.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "name.h"
#include "pick.h"

/* What is looked for. */
typedef struct Search
{
	LlmqCatalog *catalog;
	LlmqFailedAttempt failed[LLMQ_MAX_TRIED];
	int			nfailed;
	int64		now;
} Search;

/* Is there a key for the model among an owner's accounts that neither a failure nor a trouble speaks against? */
static bool
find_in_pool(const Search *search, LlmqModel *model, const char *owner)
{
	LlmqPool   *pool = llmq_pool(search->catalog, model, owner);

	for (int i = 0; i < pool->ntiers; i++)
		for (int j = 0; j < pool->tier[i].n; j++)
		{
			LlmqKey    *key = pool->tier[i].candidate[j].key;
			LlmqAvoid	avoid;

			if (!llmq_history_is_barred(search->failed, search->nfailed, key, model) &&
				!llmq_avoid(key, model, search->now, &avoid))
				return true;
		}
	return false;
}

static bool
find_for_model(const Search *search, LlmqModel *model, const LlmqOrg *org)
{
	if (!model->enabled)
		return false;
	if (org->owns_accounts && find_in_pool(search, model, org->subject.name))
		return true;
	return org->shared_keys && find_in_pool(search, model, NULL);
}

/* May another candidate be tried for the request of a lease that is settled as failed? */
bool
llmq_alternative(LlmqLive *live, const LlmqSlot *slot)
{
	Search		search = {.catalog = llmq_catalog(),.now = GetCurrentTimestamp()};
	const char *org_name = llmq_name_text(slot->org);
	const char *route_name = llmq_name_text(slot->route);
	LlmqOrg    *org = org_name == NULL ? NULL : llmq_catalog_org(search.catalog, org_name);
	LlmqRoute  *route = NULL;

	if (org != NULL && org->enabled && route_name != NULL)
		route = llmq_catalog_route(search.catalog, route_name, org->subject.name);
	if (route == NULL)
		return false;
	llmq_health_look(live);
	search.nfailed = llmq_history_failed(search.catalog, slot, search.failed);
	for (int i = 0; i < route->nsteps; i++)
		for (int j = 0; j < route->step[i].nchoices; j++)
			if (find_for_model(&search, route->step[i].choice[j].model, org))
				return true;
	return false;
}
