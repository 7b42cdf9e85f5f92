/*
 * verify_cell.c
 *	  Is the state of a cell whole? For llmquota_verify().
 *
 * Pure functions on a private copy, of whatever bytes: nothing is believed before it was checked, and nothing outside
 * of the copy is read. No server calls but snprintf, so that a test can show every flipped byte to be found.
 */
#include "postgres.h"

#include "common/int.h"

#include "calibration.h"
#include "classify.h"
#include "health.h"
#include "lease.h"
#include "meter.h"
#include "name.h"
#include "refusal.h"
#include "rate.h"
#include "request.h"
#include "service.h"
#include "turn.h"
#include "verify.h"

/* Says what is wrong; true, so that a check can return it. */
bool
llmq_fault(LlmqFault *fault, const char *problem, int64 expected, int64 found)
{
	fault->problem = problem;
	fault->unknown = false;
	snprintf(fault->expected, sizeof(fault->expected), INT64_FORMAT, expected);
	snprintf(fault->found, sizeof(fault->found), INT64_FORMAT, found);
	return true;
}

static bool
fault_hex(LlmqFault *fault, const char *problem, uint32 expected, uint32 found)
{
	fault->problem = problem;
	fault->unknown = false;
	snprintf(fault->expected, sizeof(fault->expected), "%08x", expected);
	snprintf(fault->found, sizeof(fault->found), "%08x", found);
	return true;
}

/* Notes a stored number beyond those that this version knows: no damage, so the check goes on. */
void
llmq_fault_if_unknown(LlmqFault *found, const char *problem, int64 most, int64 number)
{
	if (number > most && !found->unknown)
		found->unknown = llmq_fault(found, problem, most, number);
}

/* The header, and with it the checksum over everything. */
static bool
header_fault(LlmqLiveTable table, const LlmqCellHeader *state, Size size, int32 id, LlmqFault *found)
{
	if (size < sizeof(LlmqCellHeader))
		return llmq_fault(found, "length", sizeof(LlmqCellHeader), size);
	if (state->magic != llmq_live_kinds[table].magic)
		return fault_hex(found, "magic", llmq_live_kinds[table].magic, state->magic);
	if (state->version != LLMQ_CELL_VERSION)
		return llmq_fault(found, "layout version", LLMQ_CELL_VERSION, state->version);
	if (state->length != size)
		return llmq_fault(found, "length", size, state->length);
	if (!llmq_cell_crc_holds(state))
		return fault_hex(found, "checksum", llmq_cell_crc(state), state->crc);
	if (state->id != id)
		return llmq_fault(found, "id", id, state->id);
	if (state->reserved != 0)
		return llmq_fault(found, "reserved bytes", 0, state->reserved);
	return false;
}

/* A sliding window's sum is that of its buckets, and no bucket owes anything. */
static bool
buckets_fault(const LlmqWindow *window, LlmqFault *found)
{
	int64		sum = 0;

	for (int i = 0; i < LLMQ_BUCKETS; i++)
	{
		if (window->bucket[i] < 0)
			return llmq_fault(found, "bucket", 0, window->bucket[i]);
		if (pg_add_s64_overflow(sum, window->bucket[i], &sum))
			return llmq_fault(found, "sum of buckets", PG_INT64_MAX, window->bucket[i]);
	}
	if (sum != window->sum)
		return llmq_fault(found, "sum of buckets", sum, window->sum);
	return false;
}

static bool
window_fault(const LlmqMeterState *meter, const LlmqWindow *window, LlmqFault *found)
{
	llmq_fault_if_unknown(found, "metric", LLMQ_METRIC_COST, window->metric);
	llmq_fault_if_unknown(found, "calendar unit", LLMQ_CALENDAR_TOTAL, llmq_unit_calendar(window->unit));
	if (llmq_unit_fiscal_month(window->unit) > 12)
		return llmq_fault(found, "month that years begin with", 12, llmq_unit_fiscal_month(window->unit));
	if (window->since > meter->generation)
		return llmq_fault(found, "generation of a window", meter->generation, window->since);
	if (window->kind != LLMQ_WINDOW_CALENDAR && window->rebased > meter->generation)
		return llmq_fault(found, "generation of a window", meter->generation, window->rebased);
	if (window->kind != LLMQ_WINDOW_CONCURRENCY && window->span < 1)
		return llmq_fault(found, "length of a window", 1, window->span);
	if (window->sum < 0)
		return llmq_fault(found, "sum", 0, window->sum);
	return window->kind == LLMQ_WINDOW_SLIDING && buckets_fault(window, found);
}

/* The windows fill what is used, one behind the other, and each is in order. */
static bool
meter_fault(const LlmqMeterState *meter, LlmqFault *found)
{
	int			at = 0;

	if (meter->cell.length < LLMQ_METER_HEAD_SIZE)
		return llmq_fault(found, "length", LLMQ_METER_HEAD_SIZE, meter->cell.length);
	if (meter->room != meter->cell.length - LLMQ_METER_HEAD_SIZE)
		return llmq_fault(found, "room", meter->cell.length - LLMQ_METER_HEAD_SIZE, meter->room);
	if (meter->used > meter->room)
		return llmq_fault(found, "used bytes", meter->room, meter->used);
	while (at < meter->used)
	{
		const LlmqWindow *window = (const LlmqWindow *) (meter->windows + at);

		if (meter->used - at < (int) LLMQ_WINDOW_HEAD_SIZE)
			return llmq_fault(found, "used bytes", at, meter->used);
		if (window->kind < LLMQ_WINDOW_SLIDING || window->kind > LLMQ_WINDOW_CONCURRENCY)
			return llmq_fault(found, "kind of a window", LLMQ_WINDOW_SLIDING, window->kind);
		if (meter->used - at < llmq_window_size(window->kind))
			return llmq_fault(found, "used bytes", at + llmq_window_size(window->kind), meter->used);
		if (window_fault(meter, window, found))
			return true;
		at += llmq_window_size(window->kind);
	}
	return false;
}

static bool
slot_fault(const LlmqSlot *slot, LlmqFault *found)
{
	if (slot->state > LLMQ_SLOT_WAITING)
		return llmq_fault(found, "state of a slot", LLMQ_SLOT_WAITING, slot->state);
	if (slot->nmeters > LLMQ_MAX_METERS)
		return llmq_fault(found, "meters of a lease", LLMQ_MAX_METERS, slot->nmeters);
	if (slot->charged >> slot->nmeters != 0)
		return llmq_fault(found, "charged meters of a lease", (1 << slot->nmeters) - 1, slot->charged);
	if (slot->session_length > LLMQ_MAX_LABEL || slot->request_id_length > LLMQ_MAX_LABEL)
		return llmq_fault(found, "length of a label", LLMQ_MAX_LABEL,
						  Max(slot->session_length, slot->request_id_length));
	llmq_fault_if_unknown(found, "outcome", LLMQ_OUTCOME_RELEASED, slot->settlement.outcome);
	llmq_fault_if_unknown(found, "usage source", LLMQ_USAGE_RECOVERED, slot->settlement.source);
	llmq_fault_if_unknown(found, "failure", LLMQ_FAILURE_NOT_FOUND, slot->settlement.failure);
	return false;
}

static bool
lease_page_fault(const LlmqLeasePage *page, LlmqFault *found)
{
	if (page->cell.length != sizeof(LlmqLeasePage) && page->cell.length != LLMQ_LEASE_PAGE_OLD_SIZE)
		return llmq_fault(found, "length", sizeof(LlmqLeasePage), page->cell.length);
	for (int i = 0; i < LLMQ_SLOTS; i++)
		if (slot_fault(&page->slot[i], found))
			return true;
	return false;
}

static bool
refusal_page_fault(const LlmqRefusalPage *page, LlmqFault *found)
{
	uint32		at = 0;

	if (page->cell.length != sizeof(LlmqRefusalPage))
		return llmq_fault(found, "length", sizeof(LlmqRefusalPage), page->cell.length);
	if (page->used > LLMQ_REFUSAL_ROOM)
		return llmq_fault(found, "used bytes", LLMQ_REFUSAL_ROOM, page->used);
	while (at < page->used)
	{
		const LlmqRefusalEntry *entry = (const LlmqRefusalEntry *) (page->entries + at);
		int			size = offsetof(LlmqRefusalEntry, text);

		if (page->used - at < (uint32) size)
			return llmq_fault(found, "used bytes", at, page->used);
		for (int i = 0; i < LLMQ_REFUSAL_TEXTS; i++)
			size += entry->length[i];
		size = TYPEALIGN(sizeof(int64), size);
		if (entry->size != size || page->used - at < (uint32) size)
			return llmq_fault(found, "size of an entry", size, entry->size);
		llmq_fault_if_unknown(found, "status of a refusal", LLMQ_REFUSAL_STATUSES - 1, entry->status);
		at += size;
	}
	return false;
}

/* A request's entry is of a lease that can be, and the cell's, and the only one of it. */
static bool
request_fault(const LlmqRequestPage *page, int at, LlmqFault *found)
{
	const LlmqRequestEntry *entry = &page->entry[at];
	int32		cell = llmq_linear_other_cell(&page->linear, entry->hash[0]);

	if (entry->page == 0)
		return entry->until != 0 && llmq_fault(found, "time of a request without a lease", 0, entry->until);
	if (entry->page < 0 || entry->slot >= LLMQ_SLOTS)
		return llmq_fault(found, "slot of a request's lease", LLMQ_SLOTS - 1, entry->slot);
	if (entry->attempt == 0)
		return llmq_fault(found, "attempt at a request", 1, entry->attempt);
	if (cell != page->linear.cell.id)
		return llmq_fault(found, "cell of a request", cell, page->linear.cell.id);
	for (int i = 0; i < at; i++)
		if (memcmp(page->entry[i].hash, entry->hash, sizeof(entry->hash)) == 0 && page->entry[i].page != 0)
			return llmq_fault(found, "second entry of a request", i, at);
	return false;
}

static bool
linear_fault(const LlmqLinearPage *page, const LlmqLinear *linear, LlmqFault *found)
{
	if (page->cell.length != linear->length)
		return llmq_fault(found, "length", linear->length, page->cell.length);
	if (page->bits > LLMQ_LINEAR_MOST_BITS + 1)
		return llmq_fault(found, "bits of a hash", LLMQ_LINEAR_MOST_BITS + 1, page->bits);
	return page->reserved != 0 && llmq_fault(found, "reserved bytes", 0, page->reserved);
}

static bool
request_page_fault(const LlmqRequestPage *page, LlmqFault *found)
{
	if (linear_fault(&page->linear, &llmq_request_linear, found))
		return true;
	for (int i = 0; i < LLMQ_REQUEST_ENTRIES; i++)
		if (request_fault(page, i, found))
			return true;
	return false;
}

/* An entry is the cell's, and the only one of its name. */
static bool
rate_fault(const LlmqRatePage *page, int at, LlmqFault *found)
{
	const LlmqRateEntry *entry = &page->entry[at];
	int32		cell = llmq_linear_other_cell(&page->linear, entry->hash[0]);

	if (entry->hash[0] == 0 && entry->hash[1] == 0)
		return entry->until.at != 0 && llmq_fault(found, "time of no subject", 0, entry->until.at);
	if (entry->until.part != 0 && entry->until.part >= entry->until.of)
		return llmq_fault(found, "fraction of a microsecond", entry->until.of, entry->until.part);
	if (cell != page->linear.cell.id)
		return llmq_fault(found, "cell of a subject", cell, page->linear.cell.id);
	for (int i = 0; i < at; i++)
		if (memcmp(page->entry[i].hash, entry->hash, sizeof(entry->hash)) == 0)
			return llmq_fault(found, "second entry of a subject", i, at);
	return false;
}

static bool
rate_page_fault(const LlmqRatePage *page, LlmqFault *found)
{
	if (linear_fault(&page->linear, &llmq_rate_linear, found))
		return true;
	for (int i = 0; i < LLMQ_RATE_ENTRIES; i++)
		if (rate_fault(page, i, found))
			return true;
	return false;
}

/*
 * Is anything wrong with the state of the cell `id`, which has `size` bytes, 8-aligned? Says what in `found`, the first
 * thing only; or, when nothing is wrong, what is not known of it. `found` says nothing yet.
 */
bool
llmq_cell_fault(LlmqLiveTable table, const LlmqCellHeader *state, Size size, int32 id, LlmqFault *found)
{
	if (header_fault(table, state, size, id, found))
		return true;
	switch (table)
	{
		case LLMQ_LIVE_METER:
			return meter_fault((const LlmqMeterState *) state, found);
		case LLMQ_LIVE_HEALTH:
			if (size != sizeof(LlmqHealthBoard) && size != sizeof(LlmqHealthEvents) && size != sizeof(LlmqService) &&
				size != sizeof(LlmqModelTokens) && size != sizeof(LlmqTurns))
				found->unknown = llmq_fault(found, "length", sizeof(LlmqHealthBoard), size);
			if (size == sizeof(LlmqHealthBoard))
				return llmq_board_fault((const LlmqHealthBoard *) state, found);
			if (size == sizeof(LlmqHealthEvents))
				return llmq_events_fault((const LlmqHealthEvents *) state, found);
			break;
		case LLMQ_LIVE_LEASE:
			return lease_page_fault((const LlmqLeasePage *) state, found);
		case LLMQ_LIVE_NAME:
			/* those of the tally and the worker are longer */
			if (size < sizeof(LlmqNameState))
				return llmq_fault(found, "length", sizeof(LlmqNameState), size);
			break;
		case LLMQ_LIVE_REFUSAL:
			return refusal_page_fault((const LlmqRefusalPage *) state, found);
		case LLMQ_LIVE_REQUEST:
			return request_page_fault((const LlmqRequestPage *) state, found);
		case LLMQ_LIVE_RATE:
			return rate_page_fault((const LlmqRatePage *) state, found);
	}
	return false;
}
