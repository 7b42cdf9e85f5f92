/*
 * rate_page.c
 *	  Changes entries of llmquota.rate_page: subjects of rate limits, and claims.
 *
 * Nothing is looked at before the locks. The cells of all entries of a call are locked at once, in physical order; each
 * says then whether it is the one: if not, everything is released, looked for, and it begins again. The clock is read
 * when all is locked.
 *
 * A new entry takes the place of one that is past its time. When its cell is crowded there is to be another cell, which
 * is made with nothing held. One in force never gives way: where there is no place, and may be no more cells, the new
 * one has none.
 *
 * What is changed is durable in a moment, as with synchronous_commit = off, whatever that says. The cells of more than
 * four pages take several records: after a crash between two, some entries count what the others do not.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "inject.h"
#include "rate.h"

/* How many cells one call makes at most for each of its entries to have room. */
#define MOST_CELLS_MADE 1024

/* How often cells that were not what they should be are looked for again: with every cell made there is a reason. */
#define MOST_LOOKS (2 * MOST_CELLS_MADE)

/* Opens the table for a change. False when the installed SQL does not have it. */
bool
llmq_rate_open(LlmqRateChange *change)
{
	change->nuses = 0;
	llmq_live_open(&change->live, 0, RowExclusiveLock);
	if (llmq_live_add(&change->live, LLMQ_LIVE_RATE))
		return true;
	llmq_live_close(&change->live);
	return false;
}

/* Adds the entry of a name, which is in no other of the change's entries. The texts are not copied. */
void
llmq_rate_add(LlmqRateChange *change, const LlmqRateName *name)
{
	Assert(change->nuses < LLMQ_RATE_MOST_USES);
	change->use[change->nuses++] = (LlmqRateUse) {.name = *name};
}

/* Appends a text with its length. */
static uint8 *
put_text(uint8 *at, const char *text)
{
	Size		length = strlen(text);

	Assert(length <= PG_UINT8_MAX);
	*at++ = (uint8) length;
	memcpy(at, text, length);
	return at + length;
}

static void
make_hash(LlmqLive *live, LlmqRateUse *use)
{
	uint8		bytes[4 * (1 + PG_UINT8_MAX)];
	uint8	   *at = bytes;

	*at++ = (uint8) use->name.kind;
	at = put_text(at, use->name.org);
	at = put_text(at, use->name.scope);
	at = put_text(at, use->name.subject);
	llmq_linear_hash(live, &llmq_rate_linear, bytes, at - bytes, use->hash);
}

static void
peek_nothing(const LlmqCellHeader *state, void *argument)
{
}

/* Says which cells the entries are in, by what is known, or by looking. */
static void
find_cells(LlmqRateChange *change, bool look)
{
	for (int i = 0; i < change->nuses; i++)
	{
		LlmqRateUse *use = &change->use[i];

		make_hash(&change->live, use);
		use->id = look ? llmq_linear_look(&change->live, &llmq_rate_linear, use->hash[0], peek_nothing, NULL) :
			llmq_linear_guess(&change->live, &llmq_rate_linear, use->hash[0]);
	}
}

static const LlmqRatePage *
page_of(const LlmqRateChange *change, const LlmqRateUse *use)
{
	return llmq_set_state(&change->set, use->cell);
}

/* Are the cells those of the entries? */
static bool
are_right(const LlmqRateChange *change)
{
	for (int i = 0; i < change->nuses; i++)
	{
		const LlmqRateUse *use = &change->use[i];

		if (!llmq_linear_holds(&llmq_rate_linear, &page_of(change, use)->linear, use->hash[0]))
			return false;
	}
	return true;
}

/* Locks the cells of all entries. */
static void
lock_cells(LlmqRateChange *change)
{
	for (int i = 0; i < MOST_LOOKS; i++)
	{
		CHECK_FOR_INTERRUPTS();
		find_cells(change, i > 0);
		llmq_set_init(&change->set, &change->live);
		llmq_set_carry(&change->set, 0);
		for (int j = 0; j < change->nuses; j++)
			change->use[j].cell = llmq_set_add(&change->set, LLMQ_LIVE_RATE, change->use[j].id);
		if (llmq_set_lock(&change->set) != LLMQ_LOCKED)
			continue;
		if (are_right(change))
		{
			change->now = GetCurrentTimestamp();
			return;
		}
		llmq_set_unlock(&change->set);
	}
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("cells of table \"%s\" were not found", RelationGetRelationName(change->live.rel[LLMQ_LIVE_RATE])),
			 errhint("Call llmquota_verify().")));
}

/* Has an earlier entry of the change this place in the cell? */
static bool
is_taken(const LlmqRateChange *change, int nuses, const LlmqRateUse *use)
{
	for (int i = 0; i < nuses; i++)
		if (change->use[i].id == use->id && change->use[i].place == use->place)
			return true;
	return false;
}

/* Finds the place of an entry, its own or one that is free. Says whether its cell is too crowded for a new one. */
static bool
find_place(LlmqRateChange *change, int number)
{
	LlmqRateUse *use = &change->use[number];
	const LlmqRatePage *page = page_of(change, use);

	use->until = (LlmqGcraTime) {0};
	use->place = llmq_rate_place(page, use->hash);
	if (use->place >= 0)
	{
		use->until = page->entry[use->place].until;
		if (llmq_rate_is_in_force(&page->entry[use->place], change->now) || !is_taken(change, number, use))
			return false;
	}
	use->until = (LlmqGcraTime) {0};
	use->place = llmq_rate_free_place(page, change->now, 0);
	while (use->place >= 0 && is_taken(change, number, use))
		use->place = llmq_rate_free_place(page, change->now, use->place + 1);
	if (use->place < 0)
		use->room_at = llmq_rate_first_end(page);
	return llmq_rate_in_force(page, change->now) >= LLMQ_RATE_CROWDED;
}

/* Finds the places of all. Says whether a cell is crowded, and whether one has no place for an entry. */
static void
find_places(LlmqRateChange *change, bool *crowded, bool *full)
{
	*crowded = false;
	*full = false;
	for (int i = 0; i < change->nuses; i++)
	{
		*crowded |= find_place(change, i);
		*full |= change->use[i].place < 0;
	}
}

/* Locks the cells of all entries, and has a place for each if there may be one. The clock is read. */
void
llmq_rate_lock(LlmqRateChange *change)
{
	int32		max_cells = llmq_linear_cells(&llmq_rate_linear, llmq_catalog()->settings.max_rate_subjects);

	llmq_linear_spread(&change->live, &llmq_rate_linear, Min(LLMQ_RATE_LEAST_CELLS, max_cells));
	for (int i = 0;; i++)
	{
		bool		crowded;
		bool		full;

		lock_cells(change);
		find_places(change, &crowded, &full);
		if (!crowded || i >= MOST_CELLS_MADE || (i > 0 && !full))
			return;
		llmq_set_unlock(&change->set);
		if (!llmq_linear_grow(&change->live, &llmq_rate_linear, max_cells, full))
			i = MOST_CELLS_MADE - 1;
	}
}

/* Changes an entry that has a place: only a copy, until llmq_rate_close(). */
void
llmq_rate_set(LlmqRateChange *change, int use, LlmqGcraTime until)
{
	const LlmqRateUse *changed = &change->use[use];
	LlmqRatePage *page = llmq_set_change(&change->set, changed->cell);

	page->entry[changed->place] = (LlmqRateEntry) {
		.hash = {changed->hash[0], changed->hash[1]},.until = until
	};
}

/* Writes what was changed, lets everything go and closes the table. */
void
llmq_rate_close(LlmqRateChange *change)
{
	LlmqCellSet *set = &change->set;

	for (int i = 0; i < set->nrecords; i++)
	{
		llmq_set_log(set, i);
		LLMQ_INJECT_CRASH("rate-record", set->lsn);
	}
	llmq_set_unlock(set);
	llmq_live_close(&change->live);
	llmq_cell_make_durable_soon(set->lsn);
}
