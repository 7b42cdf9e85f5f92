/*
 * lease.c
 *	  Where leases live: uuids, and free slots in lease pages.
 *
 * A lease's uuid says where it is (page, slot, day) and proves with 64 random bits that its holder was given it. It has
 * the form of a version 8 uuid (RFC 9562), whose contents are the application's.
 *
 * Finding a free slot looks at copies, one page after the other from where this backend last found one, and locks
 * nothing: the caller checks again under the page's lock. A slot is free, or settled by a transaction that has
 * committed its ledger row.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/timestamp.h"

#include "lease.h"
#include "xact_end.h"

/* Pages that are looked at before a new one is made. At 95 % full one page in five has a free slot. */
#define PAGES_TO_TRY 16

/* Random bytes are drawn in lots: a call into the operating system for every pick would cost as much as the pick. */
#define SECRETS_DRAWN 64

/* This backend's place in the pages, and their number when last counted. */
static int32 current_page = 0;
static int32 known_pages = 0;

/*
 * Layout, from the left: page 32 bits, slot 8, day 8 (high), version 4 (8), 4 zero, day 8 (low), variant 2 (binary 10),
 * then 62 bits of secret; the other two of it stand in the four that were zero.
 */
void
llmq_lease_uuid(const LlmqLeaseId *id, pg_uuid_t *uuid)
{
	uint32		page = pg_hton32((uint32) id->page);
	uint64		low = pg_hton64((id->secret & (~UINT64CONST(0) >> 2)) | (UINT64CONST(2) << 62));

	memcpy(uuid->data, &page, sizeof(page));
	uuid->data[4] = (uint8) id->slot;
	uuid->data[5] = (uint8) (id->day >> 8);
	uuid->data[6] = 0x80 | (uint8) (id->secret >> 62);
	uuid->data[7] = (uint8) id->day;
	memcpy(uuid->data + 8, &low, sizeof(low));
}

/* Takes a uuid apart; false when it cannot be one of ours. */
bool
llmq_lease_parse(const pg_uuid_t *uuid, LlmqLeaseId *id)
{
	uint32		page;
	uint64		low;

	memcpy(&page, uuid->data, sizeof(page));
	memcpy(&low, uuid->data + 8, sizeof(low));
	low = pg_ntoh64(low);
	id->page = (int32) pg_ntoh32(page);
	id->slot = uuid->data[4];
	id->day = (uuid->data[5] << 8) | uuid->data[7];
	id->secret = (low & (~UINT64CONST(0) >> 2)) | ((uint64) (uuid->data[6] & 0x03) << 62);
	return id->page > 0 && id->slot < LLMQ_SLOTS && (uuid->data[6] & 0xfc) == 0x80 && (low >> 62) == 2;
}

/* The UTC day of an instant, as 16 bits hold it until the year 2179. */
int32
llmq_lease_day(TimestampTz at)
{
	return (int32) ((uint64) at / USECS_PER_DAY) & 0xffff;
}

/* 64 unpredictable bits. Raises when the operating system has none. Not under a lock. */
uint64
llmq_lease_secret(void)
{
	static uint64 drawn[SECRETS_DRAWN];
	static int	left = 0;
	static int	drawn_by = 0;

	if (left == 0 || drawn_by != MyProcPid)
	{
		if (!pg_strong_random(drawn, sizeof(drawn)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random bits for a lease")));
		left = SECRETS_DRAWN;
		drawn_by = MyProcPid;
	}
	return drawn[--left];
}

/*
 * Has a crash cut the grant or the settlement short, between two of its records? Pages stay locked across them, so
 * nobody sees one that is under way. A grant that was cut short was answered to nobody.
 */
bool
llmq_slot_unfinished(const LlmqSlot *slot)
{
	if (slot->state == LLMQ_SLOT_GRANTED)
		return slot->charged != (1 << slot->nmeters) - 1;
	return slot->charged != 0 || slot->replaced.behind != 0;
}

/* Has the transaction that settled the slot committed? Reads shared state: not under a content lock. */
bool
llmq_slot_reusable(const LlmqSlot *slot)
{
	/* maintenance settles many leases in one transaction, and what has committed stays so */
	static uint64 last_committed = 0;

	if (slot->state == LLMQ_SLOT_FREE)
		return true;
	if (slot->state != LLMQ_SLOT_SETTLED || llmq_slot_unfinished(slot))
		return false;
	if (slot->settled_by != last_committed)
	{
		if (llmq_xact_end(slot->settled_by) != LLMQ_XACT_COMMITTED)
			return false;
		last_committed = slot->settled_by;
	}
	return true;
}

/* Is a slot still as it was seen? Whoever changes one changes at least one of these. */
bool
llmq_slot_unchanged(const LlmqSlot *now, const LlmqSlot *seen)
{
	return now->state == seen->state && now->secret == seen->secret && now->settled_by == seen->settled_by &&
		now->settled_at == seen->settled_at && now->expires_at == seen->expires_at && now->charged == seen->charged &&
		now->replaced.behind == seen->replaced.behind;
}

/* Looks for a free slot in one page; false when it has none. */
static bool
find_in_page(LlmqLive *live, int32 page, LlmqLeaseId *place, LlmqSlot *seen)
{
	LlmqLeasePage copy;

	if (!llmq_cell_copy(live, LLMQ_LIVE_LEASE, page, &copy, sizeof(copy)))
		return false;
	for (int i = 0; i < LLMQ_SLOTS; i++)
	{
		if (!llmq_slot_reusable(&copy.slot[i]))
			continue;
		place->page = page;
		place->slot = i;
		*seen = copy.slot[i];
		return true;
	}
	return false;
}

/* Looks at up to `pages` pages, from this backend's place on. */
static bool
find_in_pages(LlmqLive *live, int32 pages, LlmqLeaseId *place, LlmqSlot *seen)
{
	for (int32 i = 0; i < pages; i++)
	{
		if (current_page < 1 || current_page > known_pages)
			current_page = 1 + (int32) pg_prng_uint64_range(&pg_global_prng_state, 0, known_pages - 1);
		if (find_in_page(live, current_page, place, seen))
			return true;
		current_page = current_page % known_pages + 1;
		CHECK_FOR_INTERRUPTS();
	}
	return false;
}

/* Makes one more lease page, if the bound allows it. */
static bool
add_page(LlmqLive *live, int32 max_pages)
{
	LlmqCellKey key = {.table = LLMQ_LIVE_LEASE};
	LlmqLeasePage *page = palloc0(sizeof(LlmqLeasePage));
	int32		id;

	page->cell.length = sizeof(LlmqLeasePage);
	id = llmq_cell_create(live, &key, &page->cell, max_pages);
	pfree(page);
	if (id == 0)
		return false;
	known_pages = id;
	current_page = id;
	return true;
}

/* Go on elsewhere: somebody else is busy in this page. */
void
llmq_lease_avoid(int32 page)
{
	if (current_page == page)
		current_page = 0;
}

/*
 * Finds a slot for a new lease and says how it looked. False when `max_leases` are in use. The slot is not taken yet.
 */
bool
llmq_lease_find_free(LlmqLive *live, int32 max_leases, LlmqLeaseId *place, LlmqSlot *seen)
{
	int32		max_pages = (max_leases + LLMQ_SLOTS - 1) / LLMQ_SLOTS;

	if (known_pages > 0 && find_in_pages(live, Min(known_pages, PAGES_TO_TRY), place, seen))
		return true;
	known_pages = llmq_cell_last_id(live, LLMQ_LIVE_LEASE);
	if (known_pages > 0 && find_in_pages(live, Min(known_pages, PAGES_TO_TRY), place, seen))
		return true;
	/* Others may have filled the new page before we look. */
	while (known_pages < max_pages && add_page(live, max_pages))
		if (find_in_page(live, current_page, place, seen))
			return true;
	known_pages = llmq_cell_last_id(live, LLMQ_LIVE_LEASE);
	return known_pages > 0 && find_in_pages(live, known_pages, place, seen);
}
