/*
 * verify_usage.c
 *	  Goes through all leases and the ledger, for the comparison with the windows (verify_window.c).
 *
 * A lease whose slot is there is taken from the slot, whether or not its row is visible; any other from the ledger, as
 * of the snapshot that was taken with the copies.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "bill.h"
#include "catalog.h"
#include "ledger.h"
#include "name.h"
#include "relation.h"
#include "settle.h"
#include "sql.h"
#include "verify.h"

#define ROWS_AT_ONCE 1000

/*
 * A lease that goes on for longer than this after its pick is not looked for in the ledger: an excess is rare enough.
 */
#define LONGEST_LEASE (2 * USECS_PER_DAY)

/* From names to ids, and from what a meter counts for to its id. */
typedef struct NameEntry
{
	char		name[LLMQ_NAME_KEY_SIZE];	/* its kind before it */
	int32		id;
} NameEntry;

typedef struct MeterKey
{
	int32		scope;			/* its letter */
	int32		subject;
	int32		part;
} MeterKey;

typedef struct MeterEntry
{
	MeterKey	key;
	int32		id;
} MeterEntry;

typedef struct Usage
{
	LlmqVerify *verify;
	LlmqCatalog *catalog;
	struct LlmqTallies *tallies;
	HTAB	   *names;
	HTAB	   *meters;
} Usage;

/* What a lease is for: ids of names, 0 for none. */
typedef struct Subjects
{
	int32		by_scope[LLMQ_SCOPE_COUNT];
	int			ntrees;			/* of the scope parent there may be several */
	int32		tree[LLMQ_MAX_LEVELS];
	int32		model;
	int32		family;
} Subjects;

static int32
find_name(const Usage *usage, char kind, const char *name)
{
	NameEntry	wanted = {.id = 0};
	NameEntry  *entry;
	LlmqNameRef ref;

	llmq_alias_ref(usage->catalog, kind, name, &ref);
	wanted.name[0] = ref.kind;
	strlcpy(wanted.name + 1, ref.name, sizeof(wanted.name) - 1);
	entry = hash_search(usage->names, wanted.name, HASH_FIND, NULL);
	return entry == NULL ? 0 : entry->id;
}

static void
add_name(Usage *usage, const LlmqVerifyCell *cell)
{
	TupleDesc	desc = RelationGetDescr(usage->verify->live.rel[LLMQ_LIVE_NAME]);
	NameEntry	entry = {.id = 0};
	char	   *name;
	bool		isnull;

	entry.name[0] = DatumGetChar(heap_getattr(cell->tuple, 3, desc, &isnull));
	name = TextDatumGetCString(heap_getattr(cell->tuple, 4, desc, &isnull));
	strlcpy(entry.name + 1, name, sizeof(entry.name) - 1);
	pfree(name);
	((NameEntry *) hash_search(usage->names, entry.name, HASH_ENTER, NULL))->id = cell->id;
}

static void
add_meter(Usage *usage, const LlmqVerifyCell *cell)
{
	LlmqCellKey key;
	MeterKey	entry;

	llmq_cell_key(cell->tuple, LLMQ_LIVE_METER, &key);
	entry = (MeterKey) {.scope = key.kind,.subject = key.subject,.part = key.part};
	((MeterEntry *) hash_search(usage->meters, &entry, HASH_ENTER, NULL))->id = cell->id;
}

/* Makes names and meters findable. */
static void
index_cells(Usage *usage)
{
	HASHCTL		names = {.keysize = LLMQ_NAME_KEY_SIZE,.entrysize = sizeof(NameEntry),.hcxt = CurrentMemoryContext};
	HASHCTL		meters = {.keysize = sizeof(MeterKey),.entrysize = sizeof(MeterEntry),.hcxt = CurrentMemoryContext};
	LlmqVerifyTable *table = usage->verify->table;

	usage->names = hash_create("llmquota verify names", 1024, &names, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	usage->meters = hash_create("llmquota verify meters", 1024, &meters, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < table[LLMQ_LIVE_NAME].n; i++)
		if (table[LLMQ_LIVE_NAME].cell[i].counts)
			add_name(usage, &table[LLMQ_LIVE_NAME].cell[i]);
	for (int i = 0; i < table[LLMQ_LIVE_METER].n; i++)
		if (table[LLMQ_LIVE_METER].cell[i].counts)
			add_meter(usage, &table[LLMQ_LIVE_METER].cell[i]);
}

/* The family that a model belongs to now. */
static int32
family_of(const Usage *usage, const char *model)
{
	const LlmqModel *found = llmq_names_find(usage->catalog->models, model);

	return found == NULL || found->family == NULL ? 0 : find_name(usage, LLMQ_NAME_FAMILY, found->family);
}

static bool
is_listed(const LlmqSlot *slot, int32 meter)
{
	for (int i = 0; slot != NULL && i < slot->nmeters; i++)
		if (slot->meter[i].meter == meter)
			return true;
	return false;
}

/* The orgs that count calls of this one, because it is below them, and itself. */
static void
find_trees(const Usage *usage, const char *name, Subjects *subjects)
{
	const LlmqOrg *org = name == NULL ? NULL : llmq_catalog_org(usage->catalog, name);

	for (int i = 0; org != NULL && i < org->ntrees; i++)
		subjects->tree[subjects->ntrees++] = find_name(usage, LLMQ_NAME_ORG, org->tree[i]->name);
}

/* Adds a lease to every meter of a subject that may count it, but for those that its slot names. */
static void
tally_subject(const Usage *usage, LlmqScope scope, int32 subject, const Subjects *subjects, const LlmqSlot *slot,
			  const LlmqTallied *lease)
{
	for (LlmqPart part = LLMQ_PART_ALL; part < LLMQ_PART_COUNT; part++)
	{
		MeterKey	key = {.scope = llmq_scope_letter(scope),.subject = subject};
		MeterEntry *entry;

		key.part = part == LLMQ_PART_MODEL ? subjects->model : part == LLMQ_PART_FAMILY ? subjects->family : 0;
		if ((key.subject == 0 && scope != LLMQ_SCOPE_GLOBAL) || (key.part == 0 && part != LLMQ_PART_ALL))
			continue;
		entry = hash_search(usage->meters, &key, HASH_FIND, NULL);
		if (entry != NULL && !is_listed(slot, entry->id))
			llmq_tally(usage->tallies, entry->id, lease);
	}
}

/* Adds a lease to every meter that may count it, but for those that its slot names. */
static void
tally_by_name(const Usage *usage, const Subjects *subjects, const LlmqSlot *slot, const LlmqTallied *lease)
{
	for (LlmqScope scope = LLMQ_SCOPE_GLOBAL; scope < LLMQ_SCOPE_PARENT; scope++)
		tally_subject(usage, scope, subjects->by_scope[scope], subjects, slot, lease);
	for (int i = 0; i < subjects->ntrees; i++)
		tally_subject(usage, LLMQ_SCOPE_PARENT, subjects->tree[i], subjects, slot, lease);
}

/* The slot of a lease, if it is still there. */
static const LlmqSlot *
find_slot(const Usage *usage, const LlmqLeaseId *id)
{
	const LlmqVerifyTable *pages = &usage->verify->table[LLMQ_LIVE_LEASE];
	const LlmqSlot *slot;

	if (id->page > pages->last_id || pages->by_id[id->page] == NULL)
		return NULL;
	slot = &((const LlmqLeasePage *) pages->by_id[id->page]->state)->slot[id->slot];
	return llmq_slot_has_lease(slot) && slot->secret == id->secret && llmq_lease_day(slot->granted_at) == id->day ?
		slot : NULL;
}

/* Whom a slot's lease is for. */
static void
slot_subjects(const Usage *usage, const LlmqSlot *slot, Subjects *subjects)
{
	const char *model = llmq_name_text(slot->model);

	*subjects = (Subjects) {
		.by_scope = {
			[LLMQ_SCOPE_PROVIDER] = slot->provider,[LLMQ_SCOPE_ACCOUNT] = slot->account,
			[LLMQ_SCOPE_KEY] = slot->key,[LLMQ_SCOPE_ORG] = slot->org
		},
		.model = slot->model,.family = model == NULL ? 0 : family_of(usage, model)
	};
	find_trees(usage, llmq_name_text(slot->org), subjects);
}

/* What a slot's lease cost: where it was picked before a budget, or one of that currency, came. */
static void
slot_cost(const Usage *usage, const LlmqLease *of, LlmqTallied *lease)
{
	LlmqLease	granted = *of;

	lease->catalog = usage->catalog;
	if (usage->catalog->budgets == NULL)
		return;
	granted.slot.state = LLMQ_SLOT_GRANTED;
	llmq_bill_open(&granted, &lease->cost[0]);
	llmq_bill_open(of, &lease->cost[1]);
	lease->cost[2] = lease->cost[1];
}

/*
 * Adds a lease from its slot, which says what each of its meters counts. A window that is younger may have been told of
 * the lease by maintenance.
 */
static void
tally_slot(const Usage *usage, const LlmqLease *of)
{
	const LlmqSlot *slot = &of->slot;
	Subjects	subjects;
	LlmqTallied lease = {
		.picked_at = slot->granted_at,
		.recorded_at = slot->state == LLMQ_SLOT_SETTLED ? slot->settled_at : slot->granted_at,
		.reserved = llmq_use_reserved(of),
		.knows_generation = true,
	};

	slot_cost(usage, of, &lease);
	for (int i = 0; i < slot->nmeters; i++)
	{
		lease.use[0] = lease.use[1] = llmq_use_at_meter(of, i);
		lease.generation = slot->meter[i].generation;
		llmq_tally(usage->tallies, slot->meter[i].meter, &lease);
	}
	lease.use[0] = lease.use[1] = lease.reserved;
	if (slot->state == LLMQ_SLOT_SETTLED)
		lease.use[0] = lease.use[1] = llmq_use_settled(of);
	lease.generation = 0;
	slot_subjects(usage, slot, &subjects);
	tally_by_name(usage, &subjects, slot, &lease);
}

static void
tally_slots(const Usage *usage)
{
	const LlmqVerifyTable *pages = &usage->verify->table[LLMQ_LIVE_LEASE];

	for (int32 id = 1; id <= pages->last_id; id++)
		for (int i = 0; i < LLMQ_SLOTS && pages->by_id[id] != NULL; i++)
		{
			LlmqLease	lease;

			CHECK_FOR_INTERRUPTS();
			llmq_lease_copy((const LlmqLeasePage *) pages->by_id[id]->state, i, &lease);
			if (llmq_slot_has_lease(&lease.slot))
				tally_slot(usage, &lease);
		}
}

/* Columns of the query below. */
enum
{
	ROW_LEASE = 1, ROW_PICKED_AT, ROW_RECORDED_AT, ROW_ORG, ROW_PROVIDER, ROW_ACCOUNT, ROW_KEY, ROW_MODEL, ROW_STATUS,
	ROW_HTTP_STATUS, ROW_RESERVED_INPUT, ROW_RESERVED_OUTPUT, ROW_INPUT, ROW_CACHED, ROW_OUTPUT, ROW_SOURCE, ROW_COST,
	ROW_CURRENCY
};

/* With the columns of the cost, which the SQL of 0.1.0 has not. */
#define LEDGER_QUERY \
	"SELECT u.lease, u.picked_at, u.recorded_at, u.org, u.provider, u.account, u.key, u.model, u.status," \
	" u.http_status, u.reserved_input, u.reserved_output, u.input_tokens, u.cached_tokens, u.output_tokens," \
	" u.usage_source, %s FROM llmquota.usage_current u WHERE u.picked_at OPERATOR(pg_catalog.>=) $1"
#define COST_COLUMNS "u.cost, u.currency"
#define NO_COST_COLUMNS "NULL::pg_catalog.numeric, NULL::pg_catalog.text"

static int64
number(HeapTuple row, int column, int64 otherwise)
{
	bool		isnull;
	Datum		value = SPI_getbinval(row, SPI_tuptable->tupdesc, column, &isnull);

	if (isnull)
		return otherwise;
	return SPI_gettypeid(SPI_tuptable->tupdesc, column) == INT4OID ? DatumGetInt32(value) : DatumGetInt64(value);
}

/* A column as text, empty for NULL. */
static char *
text_of(HeapTuple row, int column)
{
	char	   *text = SPI_getvalue(row, SPI_tuptable->tupdesc, column);

	return text == NULL ? "" : text;
}

/* What a row says was used: both ways, when it was recorded late. */
static void
row_use(HeapTuple row, LlmqTallied *lease)
{
	const char *status = text_of(row, ROW_STATUS);
	LlmqSettlement settlement = {
		.input = number(row, ROW_INPUT, LLMQ_NO_TOKENS),
		.output = number(row, ROW_OUTPUT, LLMQ_NO_TOKENS),
		.cached = number(row, ROW_CACHED, LLMQ_NO_TOKENS),
		.answered = number(row, ROW_HTTP_STATUS, 0) != 0,
	};
	LlmqLease	reserved = {.slot = {
		.reserved_input = number(row, ROW_RESERVED_INPUT, 0),.reserved_output = number(row, ROW_RESERVED_OUTPUT, 0)
	}};

	settlement.outcome = strcmp(status, "released") == 0 ? LLMQ_OUTCOME_RELEASED :
		strcmp(status, "error") == 0 ? LLMQ_OUTCOME_ERROR : LLMQ_OUTCOME_OK;
	lease->reserved = llmq_use_reserved(&reserved);
	lease->use[0] = lease->use[1] = llmq_use_tokens(&reserved.slot, &settlement);
	if (strcmp(text_of(row, ROW_SOURCE), "late") == 0)
		lease->use[1] = lease->reserved;
}

/* What a row says that the call cost, and what was reserved for it. */
static void
row_cost(const Usage *usage, HeapTuple row, LlmqTallied *lease)
{
	const LlmqModel *model = llmq_catalog_model(usage->catalog, text_of(row, ROW_MODEL));
	bool		isnull;
	Datum		cost = SPI_getbinval(row, SPI_tuptable->tupdesc, ROW_COST, &isnull);

	lease->catalog = usage->catalog;
	if (model != NULL)
		(void) llmq_cost_reserve(usage->catalog, model, &lease->reserved, lease->picked_at, &lease->cost[0]);
	lease->cost[1].known = !isnull && llmq_money_read(DatumGetNumeric(cost), &lease->cost[1].amount);
	strlcpy(lease->cost[1].currency, text_of(row, ROW_CURRENCY), LLMQ_CURRENCY_SIZE);
	lease->cost[2] = strcmp(text_of(row, ROW_SOURCE), "late") == 0 ? lease->cost[0] : lease->cost[1];
}

/* Adds a row of the ledger, unless the slot of its lease is there. */
static void
tally_row(const Usage *usage, HeapTuple row)
{
	bool		isnull;
	pg_uuid_t  *uuid = DatumGetUUIDP(SPI_getbinval(row, SPI_tuptable->tupdesc, ROW_LEASE, &isnull));
	char	   *model = text_of(row, ROW_MODEL);
	LlmqLeaseId id;
	Subjects	subjects = {.by_scope = {
		[LLMQ_SCOPE_PROVIDER] = find_name(usage, LLMQ_NAME_PROVIDER, text_of(row, ROW_PROVIDER)),
		[LLMQ_SCOPE_ACCOUNT] = find_name(usage, LLMQ_NAME_ACCOUNT, text_of(row, ROW_ACCOUNT)),
		[LLMQ_SCOPE_KEY] = find_name(usage, LLMQ_NAME_KEY, text_of(row, ROW_KEY)),
		[LLMQ_SCOPE_ORG] = find_name(usage, LLMQ_NAME_ORG, text_of(row, ROW_ORG))
	}};
	LlmqTallied lease = {
		.picked_at = number(row, ROW_PICKED_AT, 0),.recorded_at = number(row, ROW_RECORDED_AT, 0)
	};

	if (llmq_lease_parse(uuid, &id) && find_slot(usage, &id) != NULL)
		return;
	subjects.model = find_name(usage, LLMQ_NAME_MODEL, model);
	subjects.family = family_of(usage, model);
	find_trees(usage, text_of(row, ROW_ORG), &subjects);
	row_use(row, &lease);
	row_cost(usage, row, &lease);
	tally_by_name(usage, &subjects, NULL, &lease);
}

/* Adds the rows that can matter: those picked since the first window begins, and some time before. */
static void
tally_ledger(const Usage *usage)
{
	Oid			types[] = {TIMESTAMPTZOID};
	Datum		values[] = {TimestampTzGetDatum(llmq_tallies_from(usage->tallies) - LONGEST_LEASE)};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "llmquota verify rows", ALLOCSET_DEFAULT_SIZES);
	bool		has_cost = OidIsValid(llmq_relation_oid_if_any(LLMQ_REL_BUDGET));
	LlmqSql		sql;
	Portal		portal;

	if (llmq_tallies_from(usage->tallies) == PG_INT64_MAX)
		return;
	llmq_sql_begin(&sql);
	PushActiveSnapshot(usage->verify->snapshot);
	portal = SPI_cursor_open_with_args(NULL, psprintf(LEDGER_QUERY, has_cost ? COST_COLUMNS : NO_COST_COLUMNS),
									   lengthof(types), types, values, NULL, true, 0);
	for (SPI_cursor_fetch(portal, true, ROWS_AT_ONCE); SPI_processed > 0; SPI_cursor_fetch(portal, true, ROWS_AT_ONCE))
	{
		MemoryContext caller = MemoryContextSwitchTo(context);

		for (uint64 i = 0; i < SPI_processed; i++)
			tally_row(usage, SPI_tuptable->vals[i]);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(context);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	PopActiveSnapshot();
	llmq_sql_end(&sql);
	MemoryContextDelete(context);
}

/* Compares all windows with leases and ledger. */
void
llmq_verify_windows(LlmqVerify *verify)
{
	Usage		usage = {.verify = verify};

	usage.tallies = llmq_tallies_create(verify);
	usage.catalog = llmq_catalog();
	index_cells(&usage);
	tally_slots(&usage);
	tally_ledger(&usage);
	llmq_tallies_compare(usage.tallies);
}
