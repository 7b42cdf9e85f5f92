/*
 * seed_sum.c
 *	  What was used before windows began, by their buckets: from the ledger, and from leases that it does not have yet.
 *
 * The leases are looked at first and the ledger afterwards, with a snapshot of its own and without those leases: so
 * each call is found exactly once, whenever it ends. All windows of all meters are added up in one pass, which goes
 * back in time by days: a window is complete when the pass is past its beginning, however far the others reach. Nothing
 * is locked meanwhile but tables against DDL. What a meter counts is known by what live state calls it; what that is
 * called now is worked out with the ledger's snapshot, because a rename may have committed since the configuration was
 * loaded.
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "bill.h"
#include "name.h"
#include "seed.h"
#include "settle.h"

/* What is counted for one meter. */
typedef struct SeedTarget
{
	struct SeedTarget *next;	/* of the same subject */
	const LlmqLedgerName *parent;	/* of the scope parent; else NULL */
	LlmqSeedMeter *meter;
	int			nmodels;		/* -1: all */
	LlmqLedgerName **model;
} SeedTarget;

typedef struct OpenEntry
{
	uint64		secret;
	pg_uuid_t	lease;
	const LlmqLease *seen;		/* as it was in flight */
	char		status;
} OpenEntry;

#define SH_PREFIX		open
#define SH_ELEMENT_TYPE	OpenEntry
#define SH_KEY_TYPE		uint64
#define SH_KEY			secret
#define SH_HASH_KEY(tb, key)	((uint32) (key))
#define SH_EQUAL(tb, a, b)		((a) == (b))
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Everything that one pass counts into. */
typedef struct SeedCount
{
	SeedTarget *global;
	SeedTarget *parents;		/* of orgs with those below them */
	HTAB	   *trees;			/* TreeEntry: which of those count an org */
	bool		scope_wanted[LLMQ_SCOPE_COUNT];
	open_hash  *open;			/* leases that are not taken from the ledger */
	open_hash  *before;			/* leases that were in flight before meters were noted */
	HTAB	   *ids;			/* IdEntry: names that they have */
} SeedCount;

/* Does a target of the scope parent count calls of an org? */
typedef struct TreeEntry
{
	struct
	{
		const SeedTarget *target;
		const LlmqLedgerName *org;
	}			key;
	bool		counts;
} TreeEntry;

typedef struct IdEntry
{
	int32		id;
	LlmqLedgerName *name;
} IdEntry;

/* What a scope's subjects are to the ledger. */
static LlmqNamed
named_of(LlmqScope scope)
{
	static const LlmqNamed named[LLMQ_SCOPE_COUNT] = {
		[LLMQ_SCOPE_PROVIDER] = LLMQ_NAMED_PROVIDER,[LLMQ_SCOPE_ACCOUNT] = LLMQ_NAMED_ACCOUNT,
		[LLMQ_SCOPE_KEY] = LLMQ_NAMED_KEY,[LLMQ_SCOPE_ORG] = LLMQ_NAMED_ORG
	};

	return named[scope];
}

/* A call that is to be added up. */
typedef struct SeedCall
{
	const LlmqUsageRow *row;
	const LlmqLease *lease;		/* as it is, or was in flight; NULL: only the ledger knows it */
	bool		is_open;		/* the ledger may not have it */
} SeedCall;

/* How it is counted in one window. */
typedef struct SeedLook
{
	const SeedCall *call;
	TimestampTz as_of;			/* what has ended since is counted as it was reserved; 0: as it is */
	bool		is_live;		/* the window counts it by itself: for what its slot says */
} SeedLook;

/* What had been reserved for a row of the ledger, by the price that is valid for it. */
static void
cost_reserved(const LlmqUsageRow *row, LlmqCost *cost)
{
	const LlmqCatalog *catalog = llmq_catalog();
	const LlmqLedgerName *name = row->name[LLMQ_NAMED_MODEL];
	const LlmqModel *model = name == NULL ? NULL : llmq_catalog_model(catalog, name->text);
	LlmqUse		use = {.input = Max(row->reserved_input, 0),.output = Max(row->reserved_output, 0)};

	memset(cost, 0, sizeof(LlmqCost));
	if (model != NULL)
		(void) llmq_cost_reserve(catalog, model, &use, row->picked_at, cost);
}

/* What a lease cost in a window's currency when it was still in flight. */
static int64
reserved_in(const LlmqSeedWindow *window, const SeedLook *look)
{
	LlmqCurrency currency = llmq_currency_of_window(window->quota);
	const LlmqLease *lease = look->call->lease;
	LlmqCost	cost;

	if (look->is_live)
	{
		LlmqUse		use = llmq_use_reserved(lease);

		return llmq_costs_in(&use.costs, currency);
	}
	if (lease != NULL)
	{
		LlmqLease	granted = *lease;

		granted.slot.state = LLMQ_SLOT_GRANTED;
		llmq_bill_open(&granted, &cost);
	}
	else
		cost_reserved(look->call->row, &cost);
	return llmq_cost_in(llmq_catalog(), &cost, look->call->row->picked_at, currency);
}

/* What a lease costs in a window's currency. */
static int64
cost_in(const LlmqSeedWindow *window, const SeedLook *look)
{
	LlmqCurrency currency = llmq_currency_of_window(window->quota);
	const LlmqUsageRow *row = look->call->row;

	if (look->as_of != 0 && row->recorded_at >= look->as_of)
		return reserved_in(window, look);
	if (look->is_live && look->call->is_open)
		return llmq_costs_in(&row->use.costs, currency);
	return llmq_cost_in(llmq_catalog(), &row->cost, row->picked_at, currency);
}

/* Adds up what a lease has used in one window, if it was picked in it before it began. */
static void
count_in_window(LlmqSeedWindow *window, const SeedLook *look)
{
	LlmqSeedSums *sums = &window->sums;
	const LlmqUsageRow *row = look->call->row;
	TimestampTz picked_at = row->picked_at;
	int64		counted;

	if (picked_at < window->from || picked_at >= window->to)
		return;
	/* a bucket is found by division, but rows come nearly in their order */
	if (picked_at < window->bucket_from || picked_at >= window->bucket_to)
	{
		window->bucket = window->span == 0 ? 0 : picked_at / window->span - window->first;
		window->bucket_from = window->span == 0 ? window->from : (window->first + window->bucket) * window->span;
		window->bucket_to = window->span == 0 ? window->to : window->bucket_from + window->span;
	}
	if (window->bucket < 0 || window->bucket >= LLMQ_BUCKETS)
		return;
	if (window->metric == LLMQ_METRIC_COST)
		counted = cost_in(window, look);
	else
		counted = llmq_use_counted(&row->use, window->metric, window->flags, window->quota);
	if (pg_add_s64_overflow(sums->bucket[window->bucket], counted, &sums->bucket[window->bucket]))
	{
		sums->bucket[window->bucket] = PG_INT64_MAX;
		sums->loose = true;
	}
}

/* Does a meter count calls of this model? */
static bool
counts_model(const SeedTarget *target, const LlmqLedgerName *model)
{
	int			i = 0;

	while (i < target->nmodels && target->model[i] != model)
		i++;
	return i != target->nmodels;
}

/* Adds up one lease for one meter, but for windows that have counted it, as its slot says if it is still there. */
static void
count_in_meter(const SeedTarget *target, const SeedCall *call)
{
	const LlmqSeedMeter *meter = target->meter;
	TimestampTz picked_at = call->row->picked_at;
	uint32		generation = call->lease == NULL ? 0 : llmq_slot_generation(&call->lease->slot, meter->id);

	for (int i = 0; i < meter->nwindows; i++)
	{
		LlmqSeedWindow *window = &meter->window[i];
		SeedLook	look = {
			.call = call,.as_of = meter->as_of,.is_live = call->lease != NULL && generation >= window->window->since
		};

		if (look.is_live && look.as_of == 0)
			continue;
		if (call->is_open && !look.is_live && picked_at >= window->from && picked_at < window->to)
			window->sums.loose |= call->lease->slot.state == LLMQ_SLOT_SETTLED ||
				(window->metric == LLMQ_METRIC_COST && call->lease->money.told);
		count_in_window(window, &look);
	}
}

/* Is an org in the tree below another? As the configuration has it now. */
static bool
is_below(const LlmqLedgerName *org, const LlmqLedgerName *parent)
{
	LlmqCatalog *catalog = llmq_catalog();
	const LlmqOrg *found = llmq_catalog_org(catalog, org->text);
	/* by any name: it may have been renamed since the ledger was asked */
	const LlmqSubject *tree = llmq_catalog_subject(catalog, LLMQ_SCOPE_PARENT, parent->text);

	for (int i = 0; i < found->ntrees; i++)
		if (found->tree[i] == tree)
			return true;
	return false;
}

/* The same, remembered. */
static bool
counts_org(const SeedCount *count, const SeedTarget *target, const LlmqLedgerName *org)
{
	TreeEntry	wanted = {.key = {.target = target,.org = org}};
	TreeEntry  *entry;
	bool		found;

	entry = hash_search(count->trees, &wanted.key, HASH_ENTER, &found);
	if (!found)
		entry->counts = is_below(org, target->parent);
	return entry->counts;
}

/* Adds up one lease for the orgs above that of the call, and itself. */
static void
count_in_trees(const SeedCount *count, const SeedCall *call)
{
	const LlmqUsageRow *row = call->row;
	const LlmqLedgerName *org = row->name[LLMQ_NAMED_ORG];

	for (const SeedTarget *target = count->parents; org != NULL && target != NULL; target = target->next)
		if (counts_model(target, row->name[LLMQ_NAMED_MODEL]) && counts_org(count, target, org))
			count_in_meter(target, call);
}

static void
count_call(const SeedCount *count, const SeedCall *call)
{
	const LlmqUsageRow *row = call->row;

	count_in_trees(count, call);
	for (int scope = 0; scope < LLMQ_SCOPE_COUNT; scope++)
	{
		const SeedTarget *target = count->global;

		if (!count->scope_wanted[scope] || scope == LLMQ_SCOPE_PARENT)
			continue;
		if (scope != LLMQ_SCOPE_GLOBAL)
			target = row->name[named_of(scope)] == NULL ? NULL : row->name[named_of(scope)]->object;
		for (; target != NULL; target = target->next)
			if (counts_model(target, row->name[LLMQ_NAMED_MODEL]))
				count_in_meter(target, call);
	}
}

/* A lease among others; NULL: it is none of them. */
static const OpenEntry *
find_lease(open_hash *leases, const pg_uuid_t *lease)
{
	const OpenEntry *entry = NULL;
	LlmqLeaseId id;

	if (leases->members > 0 && llmq_lease_parse(lease, &id))
		entry = open_lookup(leases, id.secret);
	return entry != NULL && memcmp(&entry->lease, lease, UUID_LEN) == 0 ? entry : NULL;
}

/* Adds up a row of the ledger. */
static void
count_row(const LlmqUsageRow *row, void *context)
{
	const SeedCount *count = context;
	const OpenEntry *before;
	SeedCall	call = {.row = row};

	if (find_lease(count->open, &row->lease) != NULL)
		return;
	before = find_lease(count->before, &row->lease);
	if (before != NULL)
		call.lease = before->seen;
	count_call(count, &call);
}

/* What an id of live state stands for, as a name of the ledger; NULL when it is not wanted. */
static LlmqLedgerName *
name_of_id(SeedCount *count, LlmqLedgerNames *names, LlmqNamed kind, int32 id)
{
	IdEntry    *entry;
	bool		found;

	if (!names->wanted[kind])
		return NULL;
	entry = hash_search(count->ids, &id, HASH_ENTER, &found);
	if (!found)
	{
		const char *cell = llmq_name_cell(id);

		entry->name = cell == NULL ? NULL : llmq_ledger_name_of_cell(names, kind, cell);
	}
	return entry->name;
}

/* Adds up a lease that the ledger may not have, with what it costs where that is asked for. */
static void
count_open(SeedCount *count, LlmqLedgerNames *names, const LlmqOpenLease *lease, bool with_cost)
{
	const LlmqSlot *slot = &lease->lease.slot;
	LlmqUsageRow row = {
		.picked_at = slot->granted_at,.recorded_at = slot->state == LLMQ_SLOT_SETTLED ? slot->settled_at : 0
	};
	SeedCall	call = {.row = &row,.lease = &lease->lease,.is_open = true};
	bool		found;

	row.name[LLMQ_NAMED_PROVIDER] = name_of_id(count, names, LLMQ_NAMED_PROVIDER, slot->provider);
	row.name[LLMQ_NAMED_ACCOUNT] = name_of_id(count, names, LLMQ_NAMED_ACCOUNT, slot->account);
	row.name[LLMQ_NAMED_KEY] = name_of_id(count, names, LLMQ_NAMED_KEY, slot->key);
	row.name[LLMQ_NAMED_ORG] = name_of_id(count, names, LLMQ_NAMED_ORG, slot->org);
	row.name[LLMQ_NAMED_MODEL] = name_of_id(count, names, LLMQ_NAMED_MODEL, slot->model);
	row.use = slot->state == LLMQ_SLOT_GRANTED ? llmq_use_reserved(&lease->lease) : llmq_use_settled(&lease->lease);
	if (with_cost)
		llmq_bill_open(&lease->lease, &row.cost);
	llmq_lease_uuid(&lease->id, &row.lease);
	open_insert(count->open, lease->id.secret, &found)->lease = row.lease;
	count_call(count, &call);
}

/* The models that a meter counts: the one it is for, or those of its family. */
static void
add_models(LlmqLedgerNames *names, SeedTarget *target, int32 part)
{
	const char *cell = part == 0 ? NULL : llmq_name_cell(part);
	List	   *models = NIL;
	ListCell   *each;

	target->nmodels = part == 0 ? -1 : 0;
	if (cell == NULL)
		return;
	names->wanted[LLMQ_NAMED_MODEL] = true;
	if (llmq_name_kind(part) == LLMQ_NAME_FAMILY)
		models = llmq_ledger_family(names, cell + 1);
	target->model = palloc(sizeof(LlmqLedgerName *) * Max(list_length(models), 1));
	foreach(each, models)
		target->model[target->nmodels++] = llmq_ledger_name(names, LLMQ_NAMED_MODEL, lfirst(each));
	if (llmq_name_kind(part) != LLMQ_NAME_FAMILY)
		target->model[target->nmodels++] = llmq_ledger_name_of_cell(names, LLMQ_NAMED_MODEL, cell);
}

/* Has a meter's windows counted. */
static void
add_meter(SeedCount *count, LlmqLedgerNames *names, LlmqSeedMeter *meter)
{
	SeedTarget *target = palloc0(sizeof(SeedTarget));
	const char *subject = meter->key.subject == 0 ? NULL : llmq_name_cell(meter->key.subject);
	LlmqScope	scope;

	target->meter = meter;
	if (meter->as_of != 0)
	{
		/* what was reserved goes by the price of the model */
		names->wanted[LLMQ_NAMED_MODEL] = true;
		names->all = true;
	}
	add_models(names, target, meter->key.part);
	if (!llmq_scope_of(meter->key.kind, &scope))
		return;
	count->scope_wanted[scope] = true;
	if (scope == LLMQ_SCOPE_GLOBAL)
	{
		target->next = count->global;
		count->global = target;
	}
	else if (subject != NULL && scope == LLMQ_SCOPE_PARENT)
	{
		/* whatever orgs are below it: every name of an org is wanted */
		names->wanted[LLMQ_NAMED_ORG] = true;
		names->all = true;
		target->parent = llmq_ledger_name_of_cell(names, LLMQ_NAMED_ORG, subject);
		target->next = count->parents;
		count->parents = target;
	}
	else if (subject != NULL)
	{
		LlmqLedgerName *name = llmq_ledger_name_of_cell(names, named_of(scope), subject);

		names->wanted[named_of(scope)] = true;
		target->next = name->object;
		name->object = target;
	}
}

/* The number of the oldest bucket that a sliding window has at an instant. */
static int64
first_bucket(const LlmqWindow *window, TimestampTz now)
{
	return Max(window->head, now / window->span) - LLMQ_BUCKETS + 1;
}

/* How many windows a meter has: more than quotas limit it, when these have changed of late. */
static int
count_windows(const LlmqMeterState *state)
{
	int			n = 0;

	for (const LlmqWindow *window = llmq_meter_first(state); window != NULL; window = llmq_meter_next(state, window))
		n++;
	return n;
}

/* Lists the windows of a meter that are to be added up. */
static void
add_windows(LlmqLedgerScan *scan, LlmqSeedMeter *meter, TimestampTz now)
{
	meter->nwindows = 0;
	meter->window = palloc0(sizeof(LlmqSeedWindow) * count_windows(meter->state));
	for (LlmqWindow *w = llmq_meter_first(meter->state); w != NULL; w = llmq_meter_next(meter->state, w))
	{
		LlmqSeedWindow *window = &meter->window[meter->nwindows];
		bool		sliding = w->kind == LLMQ_WINDOW_SLIDING;

		if (!(w->flags & LLMQ_WINDOW_SEEDING) || w->kind == LLMQ_WINDOW_CONCURRENCY)
			continue;
		window->window = w;
		window->quota = w->quota;
		window->metric = w->metric;
		scan->with_cost |= w->metric == LLMQ_METRIC_COST;
		window->flags = w->flags;
		window->span = sliding ? w->span : 0;
		window->first = sliding ? first_bucket(w, now) : 0;
		window->from = sliding ? window->first * w->span : w->head;
		window->to = w->began_at;
		scan->from = Min(scan->from, window->from);
		scan->to = Max(scan->to, window->to);
		meter->nwindows++;
	}
}

/* Makes leases findable that were in flight before. */
static open_hash *
find_before(const LlmqOpenLeases *before)
{
	int			n = before == NULL ? 0 : before->n;
	open_hash  *leases = open_create(CurrentMemoryContext, n + 16, NULL);

	for (int i = 0; i < n; i++)
	{
		const LlmqOpenLease *lease = &before->lease[i];
		bool		found;
		OpenEntry  *entry = open_insert(leases, lease->id.secret, &found);

		llmq_lease_uuid(&lease->id, &entry->lease);
		entry->seen = &lease->lease;
	}
	return leases;
}

/* Begins to add up, in the current memory context: with the leases, which were found before. To be ended. */
void
llmq_seed_pass_begin(LlmqSeedPass *pass, LlmqSeedMeter *meters, int n, const LlmqOpenLeases *leases)
{
	SeedCount  *count = palloc0(sizeof(SeedCount));
	TimestampTz now = GetCurrentTimestamp();
	HASHCTL		trees = {
		.keysize = sizeof(((TreeEntry *) NULL)->key),.entrysize = sizeof(TreeEntry),.hcxt = CurrentMemoryContext
	};
	HASHCTL		ids = {.keysize = sizeof(int32),.entrysize = sizeof(IdEntry),.hcxt = CurrentMemoryContext};

	PushActiveSnapshot(GetLatestSnapshot());
	llmq_ledger_names_init(&pass->names);
	pass->scan = (LlmqLedgerScan) {
		.names = &pass->names,.from = PG_INT64_MAX,.to = PG_INT64_MIN,.visit = count_row,.context = count
	};
	count->open = open_create(CurrentMemoryContext, leases->n + 16, NULL);
	count->trees = hash_create("llmquota orgs below others", 256, &trees, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	count->ids = hash_create("llmquota names of leases", 256, &ids, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < n; i++)
	{
		add_windows(&pass->scan, &meters[i], now);
		pass->scan.whole |= meters[i].as_of != 0;
		if (meters[i].nwindows > 0)
			add_meter(count, &pass->names, &meters[i]);
	}
	count->before = find_before(pass->before);
	for (int i = 0; i < leases->n; i++)
		count_open(count, &pass->names, &leases->lease[i], pass->scan.with_cost);
	pass->scan.snapshot = GetActiveSnapshot();
	llmq_ledger_scan_begin(&pass->scan);
}

/* Adds up one more day. False when there is none: then every window has been added up. */
bool
llmq_seed_pass_step(LlmqSeedPass *pass)
{
	return llmq_ledger_scan_step(&pass->scan);
}

void
llmq_seed_pass_end(LlmqSeedPass *pass)
{
	PopActiveSnapshot();
}
