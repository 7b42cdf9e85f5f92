/*
 * rebuild.c
 *	  llmquota_rebuild: makes all live meters anew, from configuration, ledger and leases.
 *
 * A database restored from a dump has its configuration and its ledger and no live state; its quotas would begin at
 * zero. Here every meter that the ledger's rows belong to is created if it is not there, every window begins anew,
 * marked to be completed, and all are completed at once as maintenance does it (seed.c). Each step is a change like any
 * other: calls may go on, but find windows that do not know everything yet until this has ended.
 */
#include "postgres.h"

#include "catalog/pg_inherits.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "meter.h"
#include "relation.h"
#include "seed.h"

PG_FUNCTION_INFO_V1(llmquota_rebuild);

/* How often a page may move, or a meter have to grow, before it is given up. */
#define MAX_ATTEMPTS 100

/* The meters that are there. */
typedef struct MeterIds
{
	int			n;
	int			size;
	int32	   *id;
} MeterIds;

static void
note_meter(const LlmqCellHeader *state, HeapTuple tuple, void *argument)
{
	MeterIds   *meters = argument;

	if (meters->n == meters->size)
		meters->id = repalloc_huge(meters->id, sizeof(int32) * (meters->size *= 2));
	meters->id[meters->n++] = state->id;
}

/* Locks the page of one meter. False when it is gone. */
static bool
lock_meter(LlmqLive *live, int32 meter, LlmqCellSet *set, int *cell)
{
	for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++)
	{
		CHECK_FOR_INTERRUPTS();
		llmq_set_init(set, live);
		*cell = llmq_set_add(set, LLMQ_LIVE_METER, meter);
		if (llmq_set_lock(set) == LLMQ_LOCKED)
			return true;
	}
	return false;
}

/* Begins all windows of a meter anew. It is durable when they are complete again. */
void
llmq_meter_restart_windows(LlmqLive *live, int32 meter)
{
	LlmqCellSet set;
	int			cell;

	if (!lock_meter(live, meter, &set, &cell))
		return;
	llmq_meter_restart(llmq_set_change(&set, cell), GetCurrentTimestamp());
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
}

/* Begins the windows that the plan wants of a meter which is there. False when it has to grow first. */
static bool
begin_windows(LlmqLive *live, LlmqMeter *meter, TimestampTz now)
{
	LlmqCellSet set;
	bool		begun;
	int			cell;

	if (!lock_meter(live, meter->id, &set, &cell))
		return true;
	begun = llmq_meter_begin(meter, llmq_set_change(&set, cell), now);
	if (begun)
		llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
	return begun;
}

/* Makes sure that a meter is there, with all its windows. */
static void
ensure_meter(LlmqLive *live, LlmqCatalog *catalog, LlmqMeter *meter)
{
	TimestampTz now = GetCurrentTimestamp();
	const LlmqDemand none = {0};

	llmq_plan_refresh(meter, now);
	if (meter->id == 0)
		llmq_meter_ensure(live, catalog, meter);
	if (!begin_windows(live, meter, now))
	{
		LlmqMeterState *state = palloc(LLMQ_MAX_STATE);

		if (llmq_meter_read(live, meter, state))
			llmq_meter_grow(live, catalog, meter, llmq_meter_bytes_needed(meter, state, &none, now));
		(void) begin_windows(live, meter, now);
		pfree(state);
	}
}

/* Makes sure that the meters of one subject are there. It may no longer be configured. */
static void
ensure_subject(LlmqLive *live, LlmqCatalog *catalog, LlmqSubject *subject, const LlmqModel *model)
{
	LlmqMeters *meters;

	if (subject == NULL || model == NULL)
		return;
	meters = llmq_plan_meters(catalog, subject, model);
	for (int i = 0; i < meters->n; i++)
		ensure_meter(live, catalog, meters->meter[i]);
}

/* For whom, of what, calls were made. */
typedef struct Caller
{
	LlmqLedgerName *name[LLMQ_NAMED_COUNT];
} Caller;

/* Notes for whom a call was made. */
static void
note_caller(const LlmqUsageRow *row, void *context)
{
	HTAB	   *callers = context;

	(void) hash_search(callers, row->name, HASH_ENTER, NULL);
}

/* Reads for whom calls were made, within the longest window there can be. */
static HTAB *
find_callers(LlmqLedgerNames *names)
{
	HASHCTL		control = {.keysize = sizeof(Caller),.entrysize = sizeof(Caller),.hcxt = CurrentMemoryContext};
	HTAB	   *callers = hash_create("llmquota callers", 1024, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	TimestampTz now = GetCurrentTimestamp();
	LlmqLedgerScan scan = {
		.names = names,.from = now - LLMQ_LENGTH_MAX,.to = now + USECS_PER_DAY,.visit = note_caller,.context = callers
	};

	PushActiveSnapshot(GetLatestSnapshot());
	llmq_ledger_names_init(names);
	names->all = true;
	memset(names->wanted, true, sizeof(names->wanted));
	scan.snapshot = GetActiveSnapshot();
	llmq_ledger_scan_begin(&scan);
	while (llmq_ledger_scan_step(&scan))
		CHECK_FOR_INTERRUPTS();
	PopActiveSnapshot();
	return callers;
}

/* A subject of a caller; NULL when there is none, or it is no longer configured. */
static LlmqSubject *
subject_of(LlmqCatalog *catalog, const Caller *caller, LlmqScope scope, LlmqNamed kind)
{
	return caller->name[kind] == NULL ? NULL : llmq_catalog_subject(catalog, scope, caller->name[kind]->text);
}

/* Those of an org that count it with the orgs above it. */
static void
ensure_trees(LlmqLive *live, LlmqCatalog *catalog, const Caller *caller, const LlmqModel *model)
{
	const LlmqLedgerName *name = caller->name[LLMQ_NAMED_ORG];
	LlmqOrg    *org = name == NULL ? NULL : llmq_catalog_org(catalog, name->text);

	for (int i = 0; org != NULL && i < org->ntrees; i++)
		ensure_subject(live, catalog, org->tree[i], model);
}

/* Makes sure that all meters are there which the ledger's rows belong to. */
static void
ensure_meters(LlmqLive *live)
{
	LlmqLedgerNames names;
	HTAB	   *callers = find_callers(&names);
	/* after the ledger: it knows the names that were found there, whatever was renamed meanwhile */
	LlmqCatalog *catalog = llmq_catalog();
	HASH_SEQ_STATUS each;
	Caller	   *caller;

	hash_seq_init(&each, callers);
	while ((caller = hash_seq_search(&each)) != NULL)
	{
		const LlmqLedgerName *name = caller->name[LLMQ_NAMED_MODEL];
		LlmqModel  *model = name == NULL ? NULL : llmq_catalog_model(catalog, name->text);

		CHECK_FOR_INTERRUPTS();
		ensure_subject(live, catalog, &catalog->global, model);
		ensure_subject(live, catalog, subject_of(catalog, caller, LLMQ_SCOPE_ORG, LLMQ_NAMED_ORG), model);
		ensure_trees(live, catalog, caller, model);
		ensure_subject(live, catalog, subject_of(catalog, caller, LLMQ_SCOPE_PROVIDER, LLMQ_NAMED_PROVIDER), model);
		ensure_subject(live, catalog, subject_of(catalog, caller, LLMQ_SCOPE_ACCOUNT, LLMQ_NAMED_ACCOUNT), model);
		ensure_subject(live, catalog, subject_of(catalog, caller, LLMQ_SCOPE_KEY, LLMQ_NAMED_KEY), model);
	}
}

static void
restart_all(LlmqLive *live)
{
	MeterIds	meters = {.size = 64};

	meters.id = palloc(sizeof(int32) * meters.size);
	llmq_cell_walk(live, LLMQ_LIVE_METER, note_meter, &meters);
	for (int i = 0; i < meters.n; i++)
		llmq_meter_restart_windows(live, meters.id[i]);
	pfree(meters.id);
}

/* Completes what was begun, however long it takes; how many windows. */
static int64
complete_all(void)
{
	LlmqMaintenance maintenance = {.deadline = PG_INT64_MAX};
	int64		completed = 0;
	int64		more;

	do
	{
		more = llmq_seed_meters(&maintenance, 0);
		completed += more;
	} while (more > 0);
	return completed;
}

/* llmquota_rebuild() -> windows */
Datum
llmquota_rebuild(PG_FUNCTION_ARGS)
{
	LlmqLive	live;

	llmq_cell_refuse_if_read_only("llmquota_rebuild()");
	/* whoever holds a part of the ledger is waited for before anything begins anew */
	(void) find_all_inheritors(llmq_relation_oid(LLMQ_REL_USAGE), AccessShareLock, NULL);
	llmq_live_open(&live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	restart_all(&live);
	ensure_meters(&live);
	llmq_live_close(&live);
	PG_RETURN_INT64(complete_all());
}
