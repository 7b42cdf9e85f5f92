/*
 * forget.c
 *	  Takes the labels of callers out of the slots of leases, for llmquota_forget().
 *
 * A slot keeps session and request_id until another lease is put there, long after the ledger has its row. They are
 * looked for on copies of the pages, and taken out under each page's lock, where the lease is found by its secret. Not
 * undone by a rollback: then the row of a lease in flight will lack its labels.
 *
 * So it is with the hashes that requests are remembered by, which do not tell an org or request_id, but would confirm a
 * guess: they go when the ledger has the call under its pseudonym, and those past their time go with them.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "args.h"
#include "catalog.h"
#include "lease.h"
#include "ledger.h"
#include "name.h"
#include "request.h"
#include "xact_end.h"

PG_FUNCTION_INFO_V1(llmquota_forget_labels);
PG_FUNCTION_INFO_V1(llmquota_forget_requests);

/* Whose labels are to go, and what was found. */
typedef struct Forgetting
{
	LlmqLive	live;
	const char *org;
	const char *session;		/* NULL: of all */
	int64		pending;		/* leases whose rows are not in the ledger for good */
} Forgetting;

/* Is it the lease of one that is to be forgotten? */
static bool
is_meant(const Forgetting *forgetting, const LlmqSlot *slot)
{
	const char *org;

	if (slot->state == LLMQ_SLOT_FREE)
		return false;
	org = llmq_name_text(slot->org);
	if (org == NULL || strcmp(org, forgetting->org) != 0)
		return false;
	return forgetting->session == NULL ||
		(slot->session_length == strlen(forgetting->session) &&
		 memcmp(slot->session, forgetting->session, slot->session_length) == 0);
}

/* Takes the labels out of the slots of a page that still have the leases that were seen there. */
static void
clear_labels(Forgetting *forgetting, const LlmqLeasePage *seen, int slots)
{
	LlmqCellSet set;
	LlmqLeasePage *page;
	int			cell;

	llmq_set_init(&set, &forgetting->live);
	cell = llmq_set_add(&set, LLMQ_LIVE_LEASE, seen->cell.id);
	if (llmq_set_lock(&set) != LLMQ_LOCKED)
		return;
	page = llmq_set_change(&set, cell);
	for (int i = 0; i < LLMQ_SLOTS; i++)
	{
		LlmqSlot   *slot = &page->slot[i];

		if ((slots & (1 << i)) == 0 || slot->secret != seen->slot[i].secret)
			continue;
		memset(slot->session, 0, sizeof(slot->session));
		memset(slot->request_id, 0, sizeof(slot->request_id));
		slot->session_length = 0;
		slot->request_id_length = 0;
	}
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
}

static void
visit_page(const LlmqCellHeader *state, HeapTuple tuple, void *argument)
{
	Forgetting *forgetting = argument;
	const LlmqLeasePage *page = (const LlmqLeasePage *) state;
	int			labelled = 0;

	for (int i = 0; i < LLMQ_SLOTS; i++)
	{
		const LlmqSlot *slot = &page->slot[i];

		if (!is_meant(forgetting, slot))
			continue;
		if (slot->state == LLMQ_SLOT_GRANTED ||
			(slot->state == LLMQ_SLOT_SETTLED && llmq_xact_end(slot->settled_by) != LLMQ_XACT_COMMITTED))
			forgetting->pending++;
		if (slot->session_length > 0 || slot->request_id_length > 0)
			labelled |= 1 << i;
	}
	if (labelled != 0)
		clear_labels(forgetting, page, labelled);
}

/*
 * llmquota_forget_labels(org, session): how many leases have yet to get their row in the ledger, or one whose
 * transaction has not committed.
 */
Datum
llmquota_forget_labels(PG_FUNCTION_ARGS)
{
	Forgetting	forgetting = {.org = llmq_arg_name(fcinfo, 0, "org"),.session = llmq_arg_text(fcinfo, 1)};

	llmq_cell_refuse_if_read_only("llmquota_forget()");
	(void) llmq_catalog();
	llmq_live_open(&forgetting.live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	llmq_cell_walk(&forgetting.live, LLMQ_LIVE_LEASE, visit_page, &forgetting);
	llmq_live_close(&forgetting.live);
	PG_RETURN_INT64(forgetting.pending);
}

/* Whose requests are to be forgotten. */
typedef struct ForgettingRequests
{
	LlmqLive	live;
	uint32		now;
	uint32		org;
	const char *pseudonym;		/* of the session; NULL: of all */
	int64		forgotten;
} ForgettingRequests;

/* Is the request one that is to be forgotten, and its call over? One of no session that the ledger knows is not. */
static bool
is_request_meant(ForgettingRequests *forgetting, const LlmqRequestEntry *entry)
{
	LlmqLeaseId id = llmq_request_lease(entry);
	LlmqLedgerRow row;

	if (entry->page == 0)
		return false;
	if (entry->until <= forgetting->now)
		return true;
	if (entry->org != forgetting->org || !llmq_ledger_find(&id, &row))
		return false;
	return forgetting->pseudonym == NULL || strcmp(row.session, forgetting->pseudonym) == 0;
}

/* Takes requests out of a cell that still has them for the leases that were seen. */
static void
clear_requests(ForgettingRequests *forgetting, const LlmqRequestPage *seen, const bool *meant)
{
	LlmqCellSet set;
	LlmqRequestPage *page;
	int			cell;

	llmq_set_init(&set, &forgetting->live);
	cell = llmq_set_add(&set, LLMQ_LIVE_REQUEST, seen->linear.cell.id);
	if (llmq_set_lock(&set) != LLMQ_LOCKED)
		return;
	page = llmq_set_change(&set, cell);
	for (int i = 0; i < LLMQ_REQUEST_ENTRIES; i++)
	{
		if (!meant[i] || memcmp(&page->entry[i], &seen->entry[i], sizeof(LlmqRequestEntry)) != 0)
			continue;
		memset(&page->entry[i], 0, sizeof(LlmqRequestEntry));
		forgetting->forgotten++;
	}
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
}

static void
visit_requests(const LlmqCellHeader *state, HeapTuple tuple, void *argument)
{
	ForgettingRequests *forgetting = argument;
	const LlmqRequestPage *page = (const LlmqRequestPage *) state;
	bool		meant[LLMQ_REQUEST_ENTRIES];
	bool		any = false;

	for (int i = 0; i < LLMQ_REQUEST_ENTRIES; i++)
		any |= meant[i] = is_request_meant(forgetting, &page->entry[i]);
	if (any)
		clear_requests(forgetting, page, meant);
}

/*
 * llmquota_forget_requests(org, pseudonym): forgets requests of an org whose calls are in the ledger; with a pseudonym
 * those that have it as their session there. How many.
 */
Datum
llmquota_forget_requests(PG_FUNCTION_ARGS)
{
	char	   *name = llmq_arg_name(fcinfo, 0, "org");
	ForgettingRequests forgetting = {.pseudonym = llmq_arg_text(fcinfo, 1)};

	llmq_cell_refuse_if_read_only("llmquota_forget()");
	forgetting.org = llmq_request_org(&llmq_catalog_org(llmq_catalog(), name)->subject.ref);
	forgetting.now = llmq_request_seconds(GetCurrentTimestamp());
	llmq_live_open(&forgetting.live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	if (llmq_live_has(&forgetting.live, LLMQ_LIVE_REQUEST))
		llmq_cell_walk(&forgetting.live, LLMQ_LIVE_REQUEST, visit_requests, &forgetting);
	llmq_live_close(&forgetting.live);
	PG_RETURN_INT64(forgetting.forgotten);
}
