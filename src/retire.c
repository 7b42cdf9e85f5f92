/*
 * retire.c
 *	  The step of maintenance that retires what nobody has used for a day: meters, names, and slots of old leases.
 *
 * An org that is not listed is a name that a caller chose, and a meter is a page; so what is idle goes, and
 * max_subjects bounds what is left. Nothing here blocks a pick or a record for longer than a page lock or a birth.
 *
 * Meters. One that was not used for a day, held nothing a day ago, and is named by no slot of a lease is marked
 * retired. The order makes that safe: candidates, then the slots, then each candidate again under its page lock. A
 * lease that was granted after the slots were read has used its meters since, and the last look sees that. Whoever
 * knew the meter finds it gone and creates it anew (grant.c); a settlement has nothing to correct there (settle.c).
 *
 * Names. One that is a day old, that the configuration does not have, and that no meter and no slot refers to is
 * marked retired, under the creation lock of the meters, so that no meter is born for it meanwhile; and a meter is not
 * born for a retired name. From the mark on the name is not found any more, and the next use makes a new one. Backends
 * remember ids of names, so they are told, by a message that does not wait for the end of this transaction. A call
 * that was under way may still put the retired id into its slot: so the row can be read by its id, for the ledger, for
 * another day and until no slot refers to it. Only then it is deleted.
 *
 * Cells of llmquota.health that belong to a name which has been retired go with it (retire_health.c).
 *
 * Slots of leases that have been in the ledger for a day are freed, so that they refer to nothing; a record that comes
 * even later finds the ledger's row.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/sinval.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "inject.h"
#include "lease.h"
#include "maintain.h"
#include "meter.h"
#include "name.h"
#include "relation.h"
#include "settle.h"

/* A table is gone over once in so many parts of the day. */
#define PASSES_PER_DAY 24

/* The most cells of a table that one run considers. */
#define MAX_CANDIDATES 10000

/*
 * So many are retired or deleted under one creation lock, in about a millisecond. While many orgs are new births queue
 * for it, and whoever waited in that queue for each single cell would retire fewer than are born.
 */
#define CELLS_AT_ONCE 50

typedef struct Candidate
{
	int32		id;
	bool		referenced;		/* by a slot */
	bool		is_retired;		/* its row is to be deleted */
	char		kind;			/* of a name */
	ItemPointerData tid;
} Candidate;

typedef struct Candidates
{
	int			n;
	Candidate  *candidate;
} Candidates;

/* One run. */
typedef struct Retiring
{
	const LlmqMaintenance *maintenance;
	LlmqCatalog *catalog;
	LlmqLive	live;
	int64		before;			/* what was not used since then is idle */
	Candidates	meters;
	Candidates	names;
} Retiring;

/* How long something is idle before it is retired: a day, which in testing builds can be a quarter of a second. */
static int64
idle_time(void)
{
	return LLMQ_INJECTED("short-day") ? USECS_PER_SEC / 4 : USECS_PER_DAY;
}

static int64
pass_time(void)
{
	return idle_time() / PASSES_PER_DAY;
}

static void
add_candidate(Candidates *candidates, Candidate candidate)
{
	if (candidates->n < MAX_CANDIDATES)
		candidates->candidate[candidates->n++] = candidate;
}

/* Notes a meter that looks idle. The whole answer is given under its lock. */
static void
visit_meter(const LlmqCellHeader *state, HeapTuple tuple, void *argument)
{
	Retiring   *retiring = argument;

	if (!llmq_cell_is_dead(state) && ((const LlmqMeterState *) state)->used_at <= retiring->before)
		add_candidate(&retiring->meters, (Candidate) {.id = state->id});
}

/* Does the configuration have something of this name? That it has not is no harm: then the name may come and go. */
static bool
is_configured(LlmqCatalog *catalog, const char *cell)
{
	const char *name = llmq_alias_of_cell(catalog, cell);

	switch (name[0])
	{
		case LLMQ_NAME_PROVIDER:
			return llmq_names_find(catalog->providers, name + 1) != NULL;
		case LLMQ_NAME_ACCOUNT:
			return llmq_names_find(catalog->accounts, name + 1) != NULL;
		case LLMQ_NAME_MODEL:
			return llmq_names_find(catalog->models, name + 1) != NULL;
		case LLMQ_NAME_ROUTE:
			return llmq_names_find(catalog->routes, name + 1) != NULL ||
				llmq_names_find(catalog->models, name + 1) != NULL;
		case LLMQ_NAME_KEY:
			return llmq_catalog_key(catalog, name + 1) != NULL;
		default:
			return false;
	}
}

/* Is it a name at all, old, and not one that is needed? */
static bool
is_idle_name(Retiring *retiring, const LlmqNameState *state, const char *name)
{
	return strchr(LLMQ_NAME_KINDS, tolower((unsigned char) name[0])) != NULL && state->since <= retiring->before &&
		!is_configured(retiring->catalog, name) &&
		!llmq_cell_is_counted(&retiring->live, tolower((unsigned char) name[0]), state->cell.id);
}

/* Notes a name that may be retired, or deleted. */
static void
visit_name(const LlmqCellHeader *header, HeapTuple tuple, void *argument)
{
	Retiring   *retiring = argument;
	const LlmqNameState *state = (const LlmqNameState *) header;
	Candidate	candidate = {.id = header->id,.tid = tuple->t_self};
	char	   *name;

	candidate.is_retired = (header->flags & LLMQ_CELL_RETIRED) != 0;
	if (header->length < sizeof(LlmqNameState) || (llmq_cell_is_dead(header) && !candidate.is_retired))
		return;
	name = llmq_cell_name(&retiring->live, tuple);
	candidate.kind = tolower((unsigned char) name[0]);
	if (candidate.is_retired ? state->since <= retiring->before : is_idle_name(retiring, state, name))
		add_candidate(&retiring->names, candidate);
	pfree(name);
}

/* A slot that is free but for the look of it. */
typedef struct OldSlot
{
	LlmqLeaseId id;
	LlmqSlot	seen;
} OldSlot;

typedef struct OldSlots
{
	int64		before;
	int			n;
	OldSlot		slot[256];
} OldSlots;

static void
visit_lease_page(const LlmqCellHeader *state, HeapTuple tuple, void *argument)
{
	OldSlots   *old = argument;
	const LlmqLeasePage *page = (const LlmqLeasePage *) state;

	if (llmq_cell_is_dead(state))
		return;
	for (int i = 0; i < LLMQ_SLOTS && old->n < (int) lengthof(old->slot); i++)
	{
		LlmqSlot	slot = page->slot[i];

		if (slot.state != LLMQ_SLOT_SETTLED || slot.settled_at > old->before || !llmq_slot_reusable(&slot))
			continue;
		old->slot[old->n].id = (LlmqLeaseId) {.page = state->id,.slot = i};
		old->slot[old->n++].seen = slot;
	}
}

/* Frees slots that have been reusable for a day. */
static int64
free_old_slots(Retiring *retiring, const LlmqCellRange *range)
{
	OldSlots   *old = palloc(sizeof(OldSlots));
	int64		freed = 0;

	old->before = retiring->before;
	old->n = 0;
	llmq_cell_scan(&retiring->live, range, visit_lease_page, old);
	for (int i = 0; i < old->n; i++)
		if (llmq_lease_free(&retiring->live, &old->slot[i].id, &old->slot[i].seen))
			freed++;
	pfree(old);
	return freed;
}

static int
compare_candidates(const void *a, const void *b)
{
	int32		left = ((const Candidate *) a)->id;
	int32		right = ((const Candidate *) b)->id;

	return left < right ? -1 : left > right ? 1 : 0;
}

static void
refer_to(Candidates *candidates, int32 id)
{
	Candidate	key = {.id = id};
	Candidate  *found = bsearch(&key, candidates->candidate, candidates->n, sizeof(Candidate), compare_candidates);

	if (found != NULL)
		found->referenced = true;
}

/* Notes what a lease refers to. */
static void
refer_to_all(Retiring *retiring, const LlmqLease *lease)
{
	const LlmqSlot *slot = &lease->slot;
	int32		names[] = {
		slot->org, slot->route, slot->model, slot->provider, slot->account, slot->key, lease->money.requested_model
	};

	for (Size i = 0; i < lengthof(names); i++)
		refer_to(&retiring->names, names[i]);
	for (int i = 0; i < slot->nmeters; i++)
		refer_to(&retiring->meters, slot->meter[i].meter);
}

/* Notes what the slots of a page refer to. */
static void
visit_references(const LlmqCellHeader *state, HeapTuple tuple, void *argument)
{
	Retiring   *retiring = argument;
	const LlmqLeasePage *page = (const LlmqLeasePage *) state;

	for (int i = 0; i < LLMQ_SLOTS; i++)
	{
		LlmqLease	lease;

		llmq_lease_copy(page, i, &lease);
		if (lease.slot.state != LLMQ_SLOT_FREE)
			refer_to_all(retiring, &lease);
	}
}

/* Finds out which of the candidates live leases refer to. */
static void
mark_referenced(Retiring *retiring)
{
	if (retiring->meters.n + retiring->names.n == 0)
		return;
	qsort(retiring->meters.candidate, retiring->meters.n, sizeof(Candidate), compare_candidates);
	qsort(retiring->names.candidate, retiring->names.n, sizeof(Candidate), compare_candidates);
	llmq_cell_walk(&retiring->live, LLMQ_LIVE_LEASE, visit_references, retiring);
}

/* Under the lock: did the meter hold nothing a day ago, and was it not used since? */
static bool
may_retire_meter(LlmqCellHeader *copy, const void *argument)
{
	return llmq_meter_idle((const LlmqMeterState *) copy, *(const int64 *) argument);
}

static int64
retire_some_meters(Retiring *retiring, int first, int end)
{
	int64		retired = 0;

	for (int i = first; i < end; i++)
	{
		Candidate  *candidate = &retiring->meters.candidate[i];

		if (!candidate->referenced &&
			llmq_cell_retire(&retiring->live, LLMQ_LIVE_METER, candidate->id, may_retire_meter, &retiring->before))
			retired++;
	}
	return retired;
}

static int64
retire_meters(Retiring *retiring)
{
	int64		retired = 0;

	for (int i = 0; i < retiring->meters.n && !llmq_maintenance_late(retiring->maintenance); i += CELLS_AT_ONCE)
	{
		CHECK_FOR_INTERRUPTS();
		llmq_cell_lock_creation(&retiring->live, LLMQ_LIVE_METER);
		retired += retire_some_meters(retiring, i, Min(i + CELLS_AT_ONCE, retiring->meters.n));
		llmq_cell_unlock_creation(&retiring->live, LLMQ_LIVE_METER);
	}
	return retired;
}

/* Under the lock: the name has the time of its retirement from now on. */
static bool
may_retire_name(LlmqCellHeader *copy, const void *argument)
{
	((LlmqNameState *) copy)->since = *(const int64 *) argument;
	return true;
}

/* Tells every backend, this one too, to forget the ids of names it remembers. At once: the marks do not roll back. */
static void
announce(void)
{
	SharedInvalidationMessage message;

	memset(&message, 0, sizeof(message));
	message.rc.id = SHAREDINVALRELCACHE_ID;
	message.rc.dbId = MyDatabaseId;
	message.rc.relId = llmq_relation_oid(LLMQ_REL_NAME);
	SendSharedInvalidMessages(&message, 1);
	llmq_name_invalidate();
}

/* Retires some of the names, and announces that whatever happens: nothing can interrupt it. */
static int64
retire_some_names(Retiring *retiring, int first, int end)
{
	volatile int64 retired = 0;

	HOLD_INTERRUPTS();
	PG_TRY();
	{
		for (int i = first; i < end; i++)
		{
			Candidate  *candidate = &retiring->names.candidate[i];

			if (candidate->referenced || candidate->is_retired ||
				llmq_cell_is_counted(&retiring->live, candidate->kind, candidate->id))
				continue;
			if (llmq_cell_retire(&retiring->live, LLMQ_LIVE_NAME, candidate->id, may_retire_name,
								 &retiring->maintenance->now))
				retired++;
		}
	}
	PG_CATCH();
	{
		announce();
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (retired > 0)
		announce();
	RESUME_INTERRUPTS();
	return retired;
}

/* Deletes the rows of some names, if they were retired long ago. */
static void
delete_some_names(Retiring *retiring, int first, int end)
{
	for (int i = first; i < end; i++)
	{
		Candidate  *candidate = &retiring->names.candidate[i];

		if (candidate->is_retired && !candidate->referenced)
			(void) llmq_cell_delete(&retiring->live, LLMQ_LIVE_NAME, candidate->id, &candidate->tid);
	}
}

static int64
retire_names(Retiring *retiring)
{
	int64		retired = 0;

	for (int i = 0; i < retiring->names.n && !llmq_maintenance_late(retiring->maintenance); i += CELLS_AT_ONCE)
	{
		int			end = Min(i + CELLS_AT_ONCE, retiring->names.n);

		CHECK_FOR_INTERRUPTS();
		llmq_cell_lock_creation(&retiring->live, LLMQ_LIVE_METER);
		llmq_cell_lock_creation(&retiring->live, LLMQ_LIVE_NAME);
		retired += retire_some_names(retiring, i, end);
		llmq_cell_unlock_creation(&retiring->live, LLMQ_LIVE_METER);
		delete_some_names(retiring, i, end);
		llmq_cell_unlock_creation(&retiring->live, LLMQ_LIVE_NAME);
	}
	return retired;
}

static void
begin(Retiring *retiring, const LlmqMaintenance *maintenance)
{
	memset(retiring, 0, sizeof(Retiring));
	retiring->maintenance = maintenance;
	retiring->catalog = llmq_catalog();
	retiring->before = maintenance->now - idle_time();
	retiring->meters.candidate = palloc(sizeof(Candidate) * MAX_CANDIDATES);
	retiring->names.candidate = palloc(sizeof(Candidate) * MAX_CANDIDATES);
}

/* Retires what is idle in the parts of the live tables that are due. Answers how many cells. */
int64
llmq_retire_step(const LlmqMaintenance *maintenance)
{
	Retiring	retiring;
	LlmqCellRange range[LLMQ_LIVE_COUNT];
	int64		retired = 0;

	begin(&retiring, maintenance);
	llmq_live_open(&retiring.live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	for (int table = 0; table < LLMQ_LIVE_COUNT; table++)
		llmq_tally_range(&retiring.live, (LlmqLiveTable) table, pass_time(), maintenance->now, &range[table]);
	(void) free_old_slots(&retiring, &range[LLMQ_LIVE_LEASE]);
	llmq_cell_scan(&retiring.live, &range[LLMQ_LIVE_METER], visit_meter, &retiring);
	llmq_cell_scan(&retiring.live, &range[LLMQ_LIVE_NAME], visit_name, &retiring);
	mark_referenced(&retiring);
	retired = retire_meters(&retiring) + retire_names(&retiring);
	retired += llmq_retire_health(&retiring.live, &range[LLMQ_LIVE_HEALTH], maintenance);
	llmq_live_close(&retiring.live);
	return retired;
}

/* Deletes dead rows in the parts of the live tables that are due, and notes that these have been looked at. */
int64
llmq_delete_dead_step(const LlmqMaintenance *maintenance)
{
	LlmqLive	live;
	int64		deleted = 0;

	llmq_live_open(&live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	for (int table = 0; table < LLMQ_LIVE_COUNT; table++)
	{
		LlmqCellRange range;

		llmq_tally_range(&live, (LlmqLiveTable) table, pass_time(), maintenance->now, &range);
		if (range.count > 0)
			deleted += llmq_cell_delete_dead(&live, &range);
		if (!llmq_maintenance_late(maintenance))
			llmq_tally_advance(&live, &range, pass_time(), maintenance->now);
	}
	llmq_live_close(&live);
	return deleted;
}
