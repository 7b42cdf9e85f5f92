/*
 * refusal_count.c
 *	  Counts refusals: in the window that refused, and for history.
 *
 * A refused pick writes nothing; what it counts is kept in the backend and written in batches, in place, outside the
 * caller's fate: at once when nothing was written for a tenth of a second, else with the next refusal after that, when
 * a list is full, or when the backend ends. A crash loses what was kept (at most a tenth of a second's refusals and no
 * more than MAX_KEPT of each backend) and what the WAL writer had not come to.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "cache.h"
#include "args.h"
#include "pick.h"

/* How many different windows may have refusals pending, and how long they may pend: microseconds. */
#define MAX_PENDING 64
#define FLUSH_EVERY INT64CONST(100000)

/* How many bytes of entries may pend, and how many refusals. */
#define ENTRIES_ROOM 16384
#define MAX_KEPT 1000

typedef struct PendingRefusals
{
	int32		meter;
	int64		quota;
	int64		times;
	int64		waiting;		/* of these, since this backend's last grant there */
} PendingRefusals;

/* Refusals not yet counted in their windows, and entries not yet in live state. */
static PendingRefusals pending[MAX_PENDING];
static int	npending = 0;
static int64 entries[ENTRIES_ROOM / sizeof(int64)]; /* aligned */
static uint32 entries_used = 0;
static int	nkept = 0;
static TimestampTz flushed_at = 0;

/* Adds pending refusals to one meter's windows. */
static void
flush_one(LlmqLive *live, const PendingRefusals *refusals)
{
	LlmqCellSet set;
	int			cell;

	llmq_set_init(&set, live);
	cell = llmq_set_add(&set, LLMQ_LIVE_METER, refusals->meter);
	if (llmq_set_lock(&set) != LLMQ_LOCKED)
		return;
	llmq_meter_count_refusals(llmq_set_change(&set, cell), refusals->quota, refusals->times, refusals->waiting,
							  GetCurrentTimestamp());
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
	llmq_cell_make_durable_soon(set.lsn);
}

/* Writes all that is pending. */
void
llmq_refusals_flush(void)
{
	LlmqLive	live;
	int			count = npending;

	if (count == 0 && entries_used == 0)
		return;
	npending = 0;
	nkept = 0;
	flushed_at = GetCurrentTimestamp();
	llmq_live_open(&live, LLMQ_LIVE_REFUSAL + 1, RowExclusiveLock);
	for (int i = 0; i < count; i++)
		flush_one(&live, &pending[i]);
	llmq_refusal_pages_write(&live, (char *) entries, &entries_used);
	llmq_live_close(&live);
}

/* Locks one of our tables without waiting; false when that cannot be, or the extension is gone. */
static bool
try_lock(Oid schema, const char *table)
{
	Oid			relid = OidIsValid(schema) ? get_relname_relid(table, schema) : InvalidOid;

	return OidIsValid(relid) && ConditionalLockRelationOid(relid, RowExclusiveLock);
}

/*
 * At the end of a backend; in a transaction of its own, as temporary tables are removed. Nothing can interrupt it
 * there, so it waits for no table lock, and does without when the extension is gone.
 */
static void
flush_at_exit(int code, Datum arg)
{
	Oid			schema;

	if ((npending == 0 && entries_used == 0 && !llmq_cache_counts_pending()) || code != 0)
		return;
	AbortOutOfAnyTransaction();
	StartTransactionCommand();
	schema = get_namespace_oid(LLMQ_SCHEMA, true);
	if (try_lock(schema, "meter") && try_lock(schema, "lease_page") && try_lock(schema, "name") &&
		try_lock(schema, "refusal_page"))
	{
		llmq_refusals_flush();
		llmq_cache_counts_flush();
	}
	CommitTransactionCommand();
}

/* Has what this backend has counted written when it ends. */
void
llmq_flush_at_exit(void)
{
	static int	registered_by = 0;

	if (registered_by == MyProcPid)
		return;
	before_shmem_exit(flush_at_exit, (Datum) 0);
	registered_by = MyProcPid;
}

/* Would counting give a cell to an org that nobody has listed and that was never granted anything? */
static bool
is_made_up(const LlmqPick *pick, const LlmqMeter *meter)
{
	return meter->subject->scope == LLMQ_SCOPE_ORG && !pick->org->listed;
}

/* Callers that wait for a meter and of whom this backend has not written yet. */
static int64
count_pending(int32 meter)
{
	int64		waiting = 0;

	for (int i = 0; i < npending; i++)
		if (pending[i].meter == meter)
			waiting += pending[i].waiting;
	return waiting;
}

/* A meter has granted: whoever it had refused before no longer waits for the first room there is. */
void
llmq_refusal_note_grant(int32 meter)
{
	for (int i = 0; i < npending; i++)
		if (pending[i].meter == meter)
			pending[i].waiting = 0;
}

/* Counts a refusal in the window that refused, if one did; says in the pick how many wait there. */
void
llmq_refusal_count_in_window(LlmqPick *pick)
{
	const LlmqVerdict *verdict = &pick->refusal;
	int			i = 0;

	if (verdict->meter == NULL || (verdict->meter->id == 0 && is_made_up(pick, verdict->meter)))
		return;
	llmq_flush_at_exit();
	llmq_meter_ensure(&pick->live, pick->catalog, verdict->meter);
	while (i < npending && (pending[i].meter != verdict->meter->id || pending[i].quota != verdict->limit->quota->id))
		i++;
	if (i == MAX_PENDING)
	{
		llmq_refusals_flush();
		i = 0;
	}
	if (i == npending)
		pending[npending++] = (PendingRefusals) {.meter = verdict->meter->id,.quota = verdict->limit->quota->id};
	pending[i].times++;
	pending[i].waiting++;
	pick->waiting = verdict->waiting + count_pending(verdict->meter->id);
}

/* Appends a text to an entry, whose lengths are 0; NULL is as good as the empty one. */
static void
put_text(LlmqRefusalEntry *entry, LlmqRefusalText which, const char *text)
{
	Size		length;

	if (text == NULL)
		return;
	length = strlen(text);
	Assert(length <= LLMQ_MAX_NAME);
	entry->length[which] = length;
	memcpy((char *) entry + entry->size, text, length);
	entry->size += length;
}

/* What the limit that refused adds to an entry. */
static void
put_limit(LlmqRefusalEntry *entry, const LlmqPick *pick)
{
	const LlmqVerdict *refusal = &pick->refusal;
	const LlmqMeter *meter = refusal->meter;

	entry->quota = refusal->limit->quota->id;
	entry->amount = refusal->amount;
	entry->used = refusal->used;
	entry->requested = refusal->requested;
	entry->retry_at = refusal->when;
	entry->scope = meter->subject->scope;
	entry->metric = refusal->limit->quota->metric;
	entry->part = meter->part;
	entry->shared = llmq_refusal_is_shared(pick);
	put_text(entry, LLMQ_REFUSAL_SUBJECT, meter->subject->scope == LLMQ_SCOPE_ORG ? NULL : meter->subject->name);
	put_text(entry, LLMQ_REFUSAL_PART, meter->part_name);
	put_text(entry, LLMQ_REFUSAL_PERIOD, refusal->limit->quota->period);
}

/* Tokens that the pick asked for: of the last model tried, else as far as the call said. */
static int64
tokens_of(const LlmqPick *pick)
{
	if (pick->model != NULL)
		return pick->demand.use.input + pick->demand.use.output;
	return Max((int64) pick->input_tokens, 0) + Max((int64) pick->output_tokens, 0);
}

/* One refusal as an entry. */
static void
fill_entry(LlmqRefusalEntry *entry, const LlmqPick *pick, TimestampTz now)
{
	memset(entry, 0, offsetof(LlmqRefusalEntry, text));
	entry->minute = now - now % USECS_PER_MINUTE;
	entry->count = 1;
	entry->tokens = tokens_of(pick);
	entry->first_at = now;
	entry->last_at = now;
	entry->input_tokens = pick->input_tokens;
	entry->output_tokens = pick->output_tokens;
	entry->status = llmq_refusal_status(pick);
	entry->priority = pick->priority;
	entry->size = offsetof(LlmqRefusalEntry, text);
	put_text(entry, LLMQ_REFUSAL_ORG, pick->org->subject.name);
	put_text(entry, LLMQ_REFUSAL_ROUTE, pick->route->name);
	if (llmq_refusal_has_limit(pick))
		put_limit(entry, pick);
	put_text(entry, LLMQ_REFUSAL_REQUEST_ID, pick->request_id);
	while (entry->size % sizeof(int64) != 0)
		((char *) entry)[entry->size++] = '\0';
	entry->hash = hash_bytes((const unsigned char *) entry->text,
							 entry->length[LLMQ_REFUSAL_ORG] + entry->length[LLMQ_REFUSAL_ROUTE]);
	entry->hash = hash_combine(entry->hash, (uint32) (entry->quota + entry->status));
}

/* Counts a refusal for history, and writes what is pending when it is time to. */
void
llmq_refusal_count(LlmqPick *pick)
{
	static int64 memory[LLMQ_REFUSAL_MOST_BYTES / sizeof(int64)];
	LlmqRefusalEntry *entry = (LlmqRefusalEntry *) memory;
	TimestampTz now = pick->now != 0 ? pick->now : GetCurrentTimestamp();

	llmq_flush_at_exit();
	fill_entry(entry, pick, now);
	if (!llmq_refusal_merge((char *) entries, &entries_used, ENTRIES_ROOM, entry))
	{
		llmq_refusals_flush();
		(void) llmq_refusal_merge((char *) entries, &entries_used, ENTRIES_ROOM, entry);
	}
	if (++nkept >= MAX_KEPT || now - flushed_at >= FLUSH_EVERY || now < flushed_at)
		llmq_refusals_flush();
}
