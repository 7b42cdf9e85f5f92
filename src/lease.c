/*
 * lease.c
 *	  Leases: uuids, and what a slot says.
 *
 * A lease's uuid says where it is (page, slot, day) and proves with 64 random bits that its holder was given it. It has
 * the form of a version 8 uuid (RFC 9562), whose contents are the application's.
 *
 * A slot can take a new lease when it is free, or settled by a transaction that has committed its ledger row. That of
 * an attempt that failed stays a while, because the next attempt learns from it.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "lease.h"
#include "xact_end.h"

/* Random bytes are drawn in lots: a call into the operating system for every pick would cost as much as the pick. */
#define SECRETS_DRAWN 64

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

/* A uuid as text, palloc'd. */
char *
llmq_uuid_text(const pg_uuid_t *uuid)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(uuid)));
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

/* Writes a label into a slot; NULL is as good as the empty one. Its length. */
int
llmq_label_copy(char *label, const char *text)
{
	int			length = text == NULL ? 0 : strlen(text);

	if (length > 0)
		memcpy(label, text, length);
	return length;
}

/* Copies a lease out of its page. */
void
llmq_lease_copy(const LlmqLeasePage *page, int slot, LlmqLease *lease)
{
	lease->slot = page->slot[slot];
	if (llmq_lease_page_has_money(page) && page->money[slot].secret == lease->slot.secret)
		lease->money = page->money[slot];
	else
		memset(&lease->money, 0, sizeof(LlmqSlotMoney));
}

/* Writes a lease into its page: its money as far as it has any, and the page room for it. */
void
llmq_lease_put(LlmqLeasePage *page, int slot, const LlmqLease *lease)
{
	page->slot[slot] = lease->slot;
	if (llmq_lease_page_has_money(page) && lease->money.secret == lease->slot.secret)
		page->money[slot] = lease->money;
}

/* Has the slot a lease, live or settled? */
bool
llmq_slot_has_lease(const LlmqSlot *slot)
{
	return slot->state == LLMQ_SLOT_GRANTED || slot->state == LLMQ_SLOT_SETTLED;
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

/*
 * Is this an attempt that was recorded as failed, of a request that may yet have another? Its slot stays for that one
 * to see, until the request's deadline. Reads the clock.
 */
bool
llmq_slot_awaits_retry(const LlmqSlot *slot)
{
	if (slot->state != LLMQ_SLOT_SETTLED || slot->retries > 0 || slot->history.deadline_ms == 0)
		return false;
	if (slot->settlement.outcome != LLMQ_OUTCOME_ERROR)
		return false;
	return GetCurrentTimestamp() < slot->granted_at + slot->history.deadline_ms * INT64CONST(1000);
}

/* Is a slot still as it was seen? Whoever changes one changes at least one of these. */
bool
llmq_slot_unchanged(const LlmqSlot *now, const LlmqSlot *seen)
{
	return now->state == seen->state && now->secret == seen->secret && now->settled_by == seen->settled_by &&
		now->settled_at == seen->settled_at && now->expires_at == seen->expires_at && now->charged == seen->charged &&
		now->replaced.behind == seen->replaced.behind && now->nmeters == seen->nmeters &&
		memcmp(now->meter, seen->meter, sizeof(LlmqSlotMeter) * now->nmeters) == 0;
}
