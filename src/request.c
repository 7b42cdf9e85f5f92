/*
 * request.c
 *	  The request that a slot stands for: taken up again for a ticket, and answered again for a lease.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "name.h"
#include "pick.h"
#include "wait.h"

/* Org and route of a slot, by what the configuration has of them. Raises when the route is gone. */
static void
find_route(const LlmqSlot *slot, LlmqPick *pick)
{
	const char *org = pstrdup(llmq_name_text(slot->org));
	const char *route = pstrdup(llmq_name_text(slot->route));

	pick->catalog = llmq_catalog();
	pick->org = llmq_catalog_org(pick->catalog, llmq_alias_now(pick->catalog, LLMQ_NAME_ORG, org));
	pick->route = llmq_catalog_route(pick->catalog, route, pick->org->subject.name);
	if (pick->route == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("route \"%s\" does not exist", route),
				 errhint("It was there when the request was made. Give the ticket back with llmquota_release().")));
}

/* The pick that a ticket stands for, to be tried. The attempt that it is a retry of must still be known. */
void
llmq_request_resume(const LlmqLease *lease, LlmqPick *pick)
{
	static const pg_uuid_t none;
	const LlmqHistory *history = &lease->slot.history;

	memset(pick, 0, sizeof(LlmqPick));
	if (memcmp(&history->retry_of, &none, sizeof(none)) != 0)
		pick->retry = llmq_retry_find(&history->retry_of);
	find_route(&lease->slot, pick);
	llmq_request_take(pick, lease);
	llmq_pick_begin(pick);
	llmq_history_resume(pick, history);
}

/*
 * The pick that has been granted this lease of a ticket, to be answered again. False when its key or model is no longer
 * configured.
 */
bool
llmq_request_granted(const LlmqLease *lease, const LlmqTicket *ticket, LlmqPick *pick)
{
	const LlmqSlot *slot = &lease->slot;
	const char *key = pstrdup(llmq_name_text(slot->key));
	const char *model = pstrdup(llmq_name_text(slot->model));
	LlmqLive	live;

	memset(pick, 0, sizeof(LlmqPick));
	find_route(slot, pick);
	pick->key = llmq_catalog_key(pick->catalog, llmq_alias_now(pick->catalog, LLMQ_NAME_KEY, key));
	pick->model = llmq_catalog_model(pick->catalog, llmq_alias_now(pick->catalog, LLMQ_NAME_MODEL, model));
	if (pick->key == NULL || pick->model == NULL)
		return false;
	pick->ngranted = 1;
	pick->ticket = ticket;
	pick->granted[0].lease = ticket->at.place;
	pick->granted[0].lease.day = llmq_lease_day(slot->granted_at);
	pick->granted[0].output_tokens = slot->reserved_output;
	pick->granted_at = slot->granted_at;
	pick->expires_at = slot->expires_at;
	pick->attempt = slot->attempt;
	if (lease->money.requested_model != 0)
		pick->downgrade.requested = pick->model;
	llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, AccessShareLock);
	pick->pace = llmq_pace(&live, pick->key->account, pick->model, GetCurrentTimestamp(), 0);
	llmq_live_close(&live);
	return true;
}
