/*
 * verify_repair.c
 *	  Mends what llmquota_verify() has found, when it is asked to.
 *
 * While it compares it notes what is to be done; here it is done, when everything has been compared. A damaged meter
 * begins anew with nothing in it, and a damaged lease page with free slots: its leases are lost, and a record of one
 * finds it unknown. What a damaged cell of hashed entries knew is forgotten. All windows of a meter that did not agree
 * begin anew too, and what began anew is completed from ledger and leases as any new window is (seed.c). A row that the
 * ledger lacks is written again from its slot.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "ledger.h"
#include "rate.h"
#include "request.h"
#include "seed.h"
#include "verify.h"

/* Notes a row whose state is damaged. False when it cannot be mended. */
bool
llmq_repair_note_cell(LlmqVerify *verify, LlmqLiveTable table, const LlmqVerifyCell *cell, Size size)
{
	LlmqDamage *damage;
	MemoryContext caller;

	if (!verify->repair || cell->id < 1 || size < sizeof(LlmqCellHeader))
		return false;
	caller = MemoryContextSwitchTo(verify->context);
	damage = palloc(sizeof(LlmqDamage));
	*damage = (LlmqDamage) {.table = table,.tid = cell->tid,.id = cell->id,.size = size};
	verify->damaged = lappend(verify->damaged, damage);
	MemoryContextSwitchTo(caller);
	return true;
}

/* Notes a meter whose windows are to begin anew. */
bool
llmq_repair_note_meter(LlmqVerify *verify, int32 meter)
{
	MemoryContext caller = MemoryContextSwitchTo(verify->context);

	if (verify->repair)
		verify->restarted = list_append_unique_int(verify->restarted, meter);
	MemoryContextSwitchTo(caller);
	return verify->repair;
}

/* Writes the row that the ledger lacks, in the current transaction. */
bool
llmq_repair_write_row(LlmqVerify *verify, const LlmqLeaseId *id, const LlmqLease *lease)
{
	LlmqLedgerExtra extra = {0};

	if (verify->repair)
		llmq_ledger_insert(id, lease, &extra);
	return verify->repair;
}

/* A generation of a meter that no lease knows yet. */
static uint32
next_generation(const LlmqVerify *verify, int32 meter)
{
	const LlmqVerifyTable *pages = &verify->table[LLMQ_LIVE_LEASE];
	uint32		generation = 0;

	for (int32 id = 1; id <= pages->last_id; id++)
		for (int i = 0; i < LLMQ_SLOTS && pages->by_id[id] != NULL; i++)
			generation = Max(generation,
							 llmq_slot_generation(&((const LlmqLeasePage *) pages->by_id[id]->state)->slot[i], meter));
	return generation + 1;
}

/* An empty state in place of a damaged one. Where the cell's contents are elsewhere it is marked as moved. */
static void
overwrite(const LlmqVerify *verify, LlmqLive *live, LlmqDamage *damage)
{
	const LlmqVerifyTable *table = &verify->table[damage->table];
	bool		elsewhere = damage->id <= table->last_id && table->by_id[damage->id] != NULL;
	LlmqCellHeader *state = palloc0(MAXALIGN(damage->size));

	state->magic = llmq_live_kinds[damage->table].magic;
	state->version = LLMQ_CELL_VERSION;
	state->flags = LLMQ_CELL_BORN | (elsewhere ? LLMQ_CELL_MOVED : 0);
	state->length = damage->size;
	state->id = damage->id;
	if (damage->table == LLMQ_LIVE_METER && damage->size >= LLMQ_METER_HEAD_SIZE)
	{
		LlmqMeterState *meter = (LlmqMeterState *) state;

		meter->generation = next_generation(verify, damage->id);
		meter->room = damage->size - LLMQ_METER_HEAD_SIZE;
		meter->used_at = verify->now;
	}
	if (damage->table == LLMQ_LIVE_REQUEST && damage->size >= llmq_request_linear.length)
		llmq_verify_linear_mend(verify, &llmq_request_linear, (LlmqLinearPage *) state);
	if (damage->table == LLMQ_LIVE_RATE && damage->size >= llmq_rate_linear.length)
		llmq_verify_linear_mend(verify, &llmq_rate_linear, (LlmqLinearPage *) state);
	(void) llmq_cell_overwrite(live, damage->table, &damage->tid, state);
	pfree(state);
}

/* Does what was noted. */
void
llmq_repair(LlmqVerify *verify)
{
	LlmqMaintenance maintenance = {.deadline = PG_INT64_MAX};
	LlmqLive	live;
	ListCell   *cell;

	if (verify->damaged == NIL && verify->restarted == NIL)
		return;
	llmq_live_open(&live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	foreach(cell, verify->damaged)
		overwrite(verify, &live, lfirst(cell));
	foreach(cell, verify->restarted)
		llmq_meter_restart_windows(&live, lfirst_int(cell));
	llmq_live_close(&live);
	foreach(cell, verify->restarted)
		(void) llmq_seed_meters(&maintenance, lfirst_int(cell));
}
