/*
 * request.c
 *	  The request that a slot stands for: written into it, and read from it again for a retry, for a ticket, and to
 *	  answer once more what a ticket was granted.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "args.h"
#include "name.h"
#include "pick.h"

/* What a slot has to know of the request, except the tokens. */
void
llmq_request_fill(LlmqPick *pick, LlmqSlot *slot)
{
	slot->org = llmq_subject_id(pick->catalog, &pick->org->subject);
	slot->route = llmq_name_id(&pick->route->ref, pick->catalog->settings.max_subjects);
	slot->prompt = pick->prompt;
	slot->history = pick->history;
	slot->session_length = llmq_label_copy(slot->session, pick->session);
	slot->request_id_length = llmq_label_copy(slot->request_id, pick->request_id);
}

static const char *
label(const char *text, int length)
{
	return length == 0 ? NULL : pnstrdup(text, length);
}

/* The request_id that the slot's lease was picked with; NULL: none. */
const char *
llmq_request_id(const LlmqSlot *slot)
{
	return label(slot->request_id, slot->request_id_length);
}

/* The arguments that a pick had, as its slot has them. */
void
llmq_request_take(LlmqPick *pick, const LlmqLease *lease)
{
	const LlmqSlot *slot = &lease->slot;
	uint32		terms = slot->history.terms;

	pick->input_tokens = terms & LLMQ_TERM_INPUT ? slot->reserved_input : LLMQ_NOT_GIVEN;
	pick->output_tokens = terms & LLMQ_TERM_OUTPUT ? slot->reserved_output : LLMQ_NOT_GIVEN;
	pick->prompt = slot->prompt;
	pick->priority = terms & LLMQ_TERM_HIGH ? LLMQ_PRIORITY_HIGH :
		terms & LLMQ_TERM_LOW ? LLMQ_PRIORITY_LOW : LLMQ_PRIORITY_NORMAL;
	pick->max_cost_given = lease->money.told;
	pick->max_cost = lease->money.reserved[0];
	pick->session = label(slot->session, slot->session_length);
	pick->request_id = llmq_request_id(slot);
	pick->ttl_ms = terms >> LLMQ_TERM_BITS;
	pick->wait_ms = LLMQ_NOT_GIVEN;
}

/* What the configuration of now has by these names. Raises when the route is gone; the hint is what to do then. */
void
llmq_request_find_route(LlmqPick *pick, const char *org, const char *route, const char *hint)
{
	pick->catalog = llmq_catalog();
	pick->org = llmq_catalog_org(pick->catalog, org);
	pick->route = llmq_catalog_route(pick->catalog, route, pick->org->subject.name);
	if (pick->route == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("route \"%s\" does not exist", route),
				 errhint("%s", hint)));
}

/* Org and route of a ticket. */
static void
find_route(const LlmqSlot *slot, LlmqPick *pick)
{
	const char *org = pstrdup(llmq_name_text(slot->org));
	const char *route = pstrdup(llmq_name_text(slot->route));

	llmq_request_find_route(pick, org, route,
							"It was there when the request was made. Give the ticket back with llmquota_release().");
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
	pick->key = llmq_catalog_key(pick->catalog, key);
	pick->model = llmq_catalog_model(pick->catalog, model);
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
