/*
 * refusal_page.c
 *	  Refusals in live state: written by backends, and taken into history by maintenance, each exactly once.
 *
 * A page of llmquota.refusal_page is a list of entries, one for each org, route, status, quota and minute; whoever adds
 * to one does so in place, under the page's content lock, and outside his transaction's fate. Maintenance marks the
 * entries that it takes with its transaction's id and inserts them into history in that transaction. From the mark on
 * nobody adds to an entry. When the transaction has committed the entry is only in the way, and whoever needs room, or
 * the next maintenance, removes it; when it has failed the next maintenance takes the entry again. So an entry is in
 * history exactly once, whatever rolls back or crashes.
 *
 * Pages are few. What finds no room is added to an entry that has only the status (minute is 0): room is kept for it.
 * Ends of transactions are looked up on a copy, before the page is locked.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "args.h"
#include "pick.h"
#include "refusal.h"
#include "row.h"
#include "xact_end.h"

PG_FUNCTION_INFO_V1(llmquota_drain_refusals);

/* More pages than this are not made: 500 orgs refused by three quotas each fit twice over. */
#define MAX_PAGES 64

/* Room that only entries without details may take. */
#define KEPT_ROOM (LLMQ_REFUSAL_STATUSES * offsetof(LlmqRefusalEntry, text))

/* How many ended transactions are looked up for one page; there is one, or two after a failure. */
#define MAX_ENDS 4

/* Transactions that took entries of a page, and how they have ended. */
typedef struct Ends
{
	int			n;
	uint64		xid[MAX_ENDS];
	LlmqXactEnd end[MAX_ENDS];
} Ends;

/* Is it counted by the same? Everything before the count tells, and the first two texts. */
static bool
same_key(const LlmqRefusalEntry *a, const LlmqRefusalEntry *b)
{
	return a->hash == b->hash && a->minute == b->minute && a->quota == b->quota && a->status == b->status &&
		a->drained_by == 0 && b->drained_by == 0 &&
		a->length[LLMQ_REFUSAL_ORG] == b->length[LLMQ_REFUSAL_ORG] &&
		a->length[LLMQ_REFUSAL_ROUTE] == b->length[LLMQ_REFUSAL_ROUTE] &&
		memcmp(a->text, b->text, a->length[LLMQ_REFUSAL_ORG] + a->length[LLMQ_REFUSAL_ROUTE]) == 0;
}

/* Adds one entry's counts to another with the same key. The details stay those of the first that came. */
static void
add_counts(LlmqRefusalEntry *to, const LlmqRefusalEntry *from)
{
	to->count += from->count;
	to->tokens += from->tokens;
	to->first_at = Min(to->first_at, from->first_at);
	to->last_at = Max(to->last_at, from->last_at);
}

/* Adds an entry to a list: to the one with the same key, else at the end. False when it does not fit into `room`. */
bool
llmq_refusal_merge(char *base, uint32 *used, uint32 room, const LlmqRefusalEntry *entry)
{
	for (uint32 at = 0; at < *used; at += llmq_refusal_entry(base, at)->size)
		if (same_key(llmq_refusal_entry(base, at), entry))
		{
			add_counts(llmq_refusal_entry(base, at), entry);
			return true;
		}
	if (*used + entry->size > room)
		return false;
	memcpy(base + *used, entry, entry->size);
	*used += entry->size;
	return true;
}

/* How the transactions that took entries of a page have ended; of a copy, because it reads shared state. */
static void
look_up_ends(LlmqRefusalPage *page, Ends *ends)
{
	ends->n = 0;
	for (uint32 at = 0; at < page->used && ends->n < MAX_ENDS; at += llmq_refusal_entry(page->entries, at)->size)
	{
		uint64		xid = llmq_refusal_entry(page->entries, at)->drained_by;
		int			i = 0;

		while (i < ends->n && ends->xid[i] != xid)
			i++;
		if (xid == 0 || i < ends->n)
			continue;
		ends->xid[i] = xid;
		ends->end[i] = llmq_xact_end(xid);
		ends->n++;
	}
}

/* What is known of a transaction; OPEN when nothing is. Beyond the commit log's reach only committed ones are left. */
static LlmqXactEnd
end_of(const Ends *ends, uint64 xid)
{
	for (int i = 0; i < ends->n; i++)
		if (ends->xid[i] == xid)
			return ends->end[i] == LLMQ_XACT_TOO_OLD ? LLMQ_XACT_COMMITTED : ends->end[i];
	return LLMQ_XACT_OPEN;
}

/* Takes away the entries that are in history for good. */
static void
remove_drained(LlmqRefusalPage *page, const Ends *ends)
{
	uint32		used = 0;
	uint32		size;

	for (uint32 at = 0; at < page->used; at += size)
	{
		LlmqRefusalEntry *entry = llmq_refusal_entry(page->entries, at);

		size = entry->size;
		if (entry->drained_by != 0 && end_of(ends, entry->drained_by) == LLMQ_XACT_COMMITTED)
			continue;
		if (used < at)
			memmove(page->entries + used, entry, size);
		used += size;
	}
	memset(page->entries + used, 0, page->used - used);
	page->used = used;
}

/* The entries of a list that belong to a page, or are to go to any. */
static bool
is_for(const LlmqRefusalEntry *entry, int32 page, int32 npages, bool any)
{
	return any || (int32) (entry->hash % npages) + 1 == page;
}

/* How many refusals of a status a page has counted. */
int64
llmq_refusal_counted(const LlmqRefusalPage *page, int status)
{
	return status < LLMQ_REFUSAL_COUNTED ? page->counted[status] : page->over_budget;
}

static void
add_counted(LlmqRefusalPage *page, int status, int64 count)
{
	if (status < LLMQ_REFUSAL_COUNTED)
		page->counted[status] += count;
	else
		page->over_budget += (uint32) count;
}

/* Moves entries of the list to a page, as many as fit, and closes the gaps they leave. */
static void
move_entries(LlmqRefusalPage *page, int32 npages, bool any, char *entries, uint32 *used)
{
	uint32		left = 0;
	uint32		size;

	for (uint32 at = 0; at < *used; at += size)
	{
		LlmqRefusalEntry *entry = llmq_refusal_entry(entries, at);
		uint32		room = entry->minute == 0 ? LLMQ_REFUSAL_ROOM : LLMQ_REFUSAL_ROOM - KEPT_ROOM;

		size = entry->size;
		if (is_for(entry, page->cell.id, npages, any) && llmq_refusal_merge(page->entries, &page->used, room, entry))
		{
			add_counted(page, entry->status, entry->count);
			continue;
		}
		if (left < at)
			memmove(entries + left, entry, size);
		left += size;
	}
	*used = left;
}

/* Writes what it can of the list to one page. */
static void
write_page(LlmqLive *live, int32 id, int32 npages, bool any, char *entries, uint32 *used)
{
	LlmqRefusalPage *copy = palloc(sizeof(LlmqRefusalPage));
	LlmqCellSet set;
	Ends		ends = {0};
	int			cell;

	if (any && llmq_cell_copy(live, LLMQ_LIVE_REFUSAL, id, copy, sizeof(LlmqRefusalPage)))
		look_up_ends(copy, &ends);
	pfree(copy);
	llmq_set_init(&set, live);
	cell = llmq_set_add(&set, LLMQ_LIVE_REFUSAL, id);
	if (llmq_set_lock(&set) != LLMQ_LOCKED)
		return;
	if (any)
		remove_drained(llmq_set_change(&set, cell), &ends);
	move_entries(llmq_set_change(&set, cell), npages, any, entries, used);
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
	llmq_cell_make_durable_soon(set.lsn);
}

/* One more page, unless somebody else has just made one. */
static void
make_page(LlmqLive *live, int32 npages)
{
	LlmqCellKey key = {.table = LLMQ_LIVE_REFUSAL};
	LlmqRefusalPage *page = palloc0(sizeof(LlmqRefusalPage));

	page->cell.length = sizeof(LlmqRefusalPage);
	(void) llmq_cell_create(live, &key, &page->cell, npages + 1);
	pfree(page);
}

/* Takes the details from every entry of the list, so that they become one for each status. */
static void
lose_details(char *entries, uint32 *used)
{
	uint32		end = *used;
	uint32		size;

	*used = 0;
	for (uint32 at = 0; at < end; at += size)
	{
		LlmqRefusalEntry *entry = llmq_refusal_entry(entries, at);
		LlmqRefusalEntry bare = {
			.count = entry->count,.tokens = entry->tokens,.first_at = entry->first_at,.last_at = entry->last_at,
			.hash = entry->status,.size = offsetof(LlmqRefusalEntry, text),.status = entry->status
		};

		size = entry->size;
		(void) llmq_refusal_merge(entries, used, end, &bare);
	}
}

/* Writes what it can of the list to any page, the last first. */
static void
write_anywhere(LlmqLive *live, int32 npages, char *entries, uint32 *used)
{
	for (int32 page = npages; page > 0 && *used > 0; page--)
		write_page(live, page, npages, true, entries, used);
}

/* Writes each entry of the list to the page that its hash says, so that those of all backends meet, if it has room. */
static void
write_home(LlmqLive *live, int32 npages, char *entries, uint32 *used)
{
	for (int32 page = 1; page <= npages; page++)
	{
		bool		wanted = false;

		for (uint32 at = 0; at < *used && !wanted; at += llmq_refusal_entry(entries, at)->size)
			wanted = is_for(llmq_refusal_entry(entries, at), page, npages, false);
		if (wanted)
			write_page(live, page, npages, false, entries, used);
	}
}

/*
 * Writes a list of entries: what finds no room where it belongs goes to any other page, or to a new one, and else loses
 * its details. What is left of the list then, an entry for each status at most, is to be tried again.
 */
void
llmq_refusal_pages_write(LlmqLive *live, char *entries, uint32 *used)
{
	int32		npages = llmq_cell_last_id(live, LLMQ_LIVE_REFUSAL);

	write_home(live, npages, entries, used);
	write_anywhere(live, npages, entries, used);
	while (*used > 0 && npages < MAX_PAGES)
	{
		make_page(live, npages);
		npages++;
		write_page(live, npages, npages, true, entries, used);
	}
	if (*used == 0)
		return;
	lose_details(entries, used);
	write_anywhere(live, npages, entries, used);
}

/* Columns of llmquota_drain_refusals(). */
enum
{
	COL_ORG, COL_ROUTE, COL_STATUS, COL_QUOTA, COL_COUNT, COL_TOKENS, COL_FIRST_AT, COL_LAST_AT, COL_MINUTE,
	COL_PRIORITY, COL_INPUT, COL_OUTPUT, COL_REQUEST_ID, COL_SUBJECT, COL_REFUSAL, NCOLUMNS
};

/* A text of an entry; NULL when it is empty. */
static char *
text_of(const LlmqRefusalEntry *entry, LlmqRefusalText which)
{
	return entry->length[which] == 0 ? NULL : pnstrdup(llmq_refusal_text(entry, which), entry->length[which]);
}

/* Who refused; of an org it is the org itself. */
static char *
subject_of(const LlmqRefusalEntry *entry)
{
	char	   *subject;

	if (entry->quota == 0)
		return NULL;
	subject = text_of(entry, entry->scope == LLMQ_SCOPE_ORG ? LLMQ_REFUSAL_ORG : LLMQ_REFUSAL_SUBJECT);
	return subject == NULL ? "" : subject;
}

/* The limit as who is no administrator is told. */
static Datum
limit_of(const LlmqRefusalEntry *entry)
{
	LlmqRefusalLimit limit = {
		.scope = entry->scope,
		.subject = entry->shared ? NULL : subject_of(entry),
		.model = entry->part == LLMQ_PART_MODEL ? text_of(entry, LLMQ_REFUSAL_PART) : NULL,
		.family = entry->part == LLMQ_PART_FAMILY ? text_of(entry, LLMQ_REFUSAL_PART) : NULL,
		.period = text_of(entry, LLMQ_REFUSAL_PERIOD),
		.metric = entry->metric,
		.amount = entry->amount,.used = entry->used,.requested = entry->requested,
		.quota = entry->quota,.retry_at = entry->retry_at
	};

	return llmq_refusal_limit_jsonb(&limit);
}

static void
put_int(Datum *values, bool *nulls, int column, int32 number)
{
	nulls[column] = number == LLMQ_NOT_GIVEN;
	values[column] = Int32GetDatum(number);
}

/* Puts out an entry that has been taken. One without details has neither org, route nor minute. */
static void
put_entry(ReturnSetInfo *result, const LlmqRefusalEntry *entry)
{
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {false};
	bool		bare = entry->minute == 0;
	char	   *org = text_of(entry, LLMQ_REFUSAL_ORG);

	llmq_put_text(values, nulls, COL_ORG, bare ? NULL : org == NULL ? "" : org);
	llmq_put_text(values, nulls, COL_ROUTE, text_of(entry, LLMQ_REFUSAL_ROUTE));
	llmq_put_text(values, nulls, COL_STATUS, llmq_refusal_status_text(entry->status));
	nulls[COL_QUOTA] = entry->quota == 0;
	values[COL_QUOTA] = Int64GetDatum(entry->metric == LLMQ_METRIC_COST ? llmq_budget_of_window(entry->quota) :
									  entry->quota);
	values[COL_COUNT] = Int64GetDatum(entry->count);
	values[COL_TOKENS] = Int64GetDatum(entry->tokens);
	values[COL_FIRST_AT] = TimestampTzGetDatum(entry->first_at);
	values[COL_LAST_AT] = TimestampTzGetDatum(entry->last_at);
	nulls[COL_MINUTE] = bare;
	values[COL_MINUTE] = TimestampTzGetDatum(entry->minute);
	llmq_put_text(values, nulls, COL_PRIORITY, llmq_priority_text(entry->priority));
	put_int(values, nulls, COL_INPUT, entry->input_tokens);
	put_int(values, nulls, COL_OUTPUT, entry->output_tokens);
	llmq_put_text(values, nulls, COL_REQUEST_ID, text_of(entry, LLMQ_REFUSAL_REQUEST_ID));
	llmq_put_text(values, nulls, COL_SUBJECT, subject_of(entry));
	nulls[COL_REFUSAL] = entry->quota == 0;
	values[COL_REFUSAL] = nulls[COL_REFUSAL] ? (Datum) 0 : limit_of(entry);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * May an entry be taken into history? Nobody has, or whoever did has failed; and it is not of a later version, which
 * knows what to call it.
 */
static bool
is_due(const LlmqRefusalEntry *entry, const Ends *ends)
{
	if (entry->status >= LLMQ_REFUSAL_STATUSES || entry->metric > LLMQ_METRIC_COST)
		return false;
	return entry->drained_by == 0 || end_of(ends, entry->drained_by) == LLMQ_XACT_FAILED;
}

/* Marks what is due on a locked page with this transaction, and copies the page out. */
static void
take_entries(LlmqRefusalPage *page, const Ends *ends, uint64 xid, LlmqRefusalPage *copy)
{
	remove_drained(page, ends);
	memcpy(copy, page, sizeof(LlmqRefusalPage));
	for (uint32 at = 0; at < page->used; at += llmq_refusal_entry(page->entries, at)->size)
		if (is_due(llmq_refusal_entry(page->entries, at), ends))
			llmq_refusal_entry(page->entries, at)->drained_by = xid;
}

/* Is there anything on a page to take, or to remove? */
static bool
has_work(LlmqRefusalPage *page, const Ends *ends)
{
	for (uint32 at = 0; at < page->used; at += llmq_refusal_entry(page->entries, at)->size)
	{
		LlmqRefusalEntry *entry = llmq_refusal_entry(page->entries, at);

		if (is_due(entry, ends) || end_of(ends, entry->drained_by) == LLMQ_XACT_COMMITTED)
			return true;
	}
	return false;
}

/* Takes what is due of one page and puts it out. */
static void
drain_page(LlmqLive *live, int32 id, LlmqRefusalPage *copy, ReturnSetInfo *result)
{
	LlmqCellSet set;
	Ends		ends;
	uint64		xid;
	int			cell;

	if (!llmq_cell_copy(live, LLMQ_LIVE_REFUSAL, id, copy, sizeof(LlmqRefusalPage)))
		return;
	look_up_ends(copy, &ends);
	if (!has_work(copy, &ends))
		return;
	xid = U64FromFullTransactionId(GetCurrentFullTransactionId());
	llmq_set_init(&set, live);
	cell = llmq_set_add(&set, LLMQ_LIVE_REFUSAL, id);
	if (llmq_set_lock(&set) != LLMQ_LOCKED)
		return;
	take_entries(llmq_set_change(&set, cell), &ends, xid, copy);
	llmq_set_log(&set, 0);
	llmq_set_unlock(&set);
	for (uint32 at = 0; at < copy->used; at += llmq_refusal_entry(copy->entries, at)->size)
		if (is_due(llmq_refusal_entry(copy->entries, at), &ends))
			put_entry(result, llmq_refusal_entry(copy->entries, at));
}

/* llmquota_drain_refusals(): what is in live state and not in history, for whoever inserts it there now */
Datum
llmquota_drain_refusals(PG_FUNCTION_ARGS)
{
	LlmqRefusalPage *copy = palloc(sizeof(LlmqRefusalPage));
	LlmqLive	live;
	int32		npages;

	llmq_cell_refuse_if_read_only("llmquota_drain_refusals()");
	InitMaterializedSRF(fcinfo, 0);
	llmq_live_open(&live, LLMQ_LIVE_REFUSAL + 1, RowExclusiveLock);
	npages = llmq_cell_last_id(&live, LLMQ_LIVE_REFUSAL);
	for (int32 page = 1; page <= npages; page++)
		drain_page(&live, page, copy, (ReturnSetInfo *) fcinfo->resultinfo);
	llmq_live_close(&live);
	return (Datum) 0;
}
