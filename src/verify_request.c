/*
 * verify_request.c
 *	  Is every request in one cell? For llmquota_verify().
 *
 * That each entry is in its cell is seen in the cell alone (verify_cell.c). Here all cells are held against each other:
 * each stands for the hashes with its bits, and together they stand for every hash once. The last one may have been
 * made and not have taken over anything yet.
 */
#include "postgres.h"

#include "request.h"
#include "verify.h"

/* How many cells have their requests. */
static int32
count_ready(const LlmqVerifyTable *table)
{
	const LlmqVerifyCell *last = table->last_id == 0 ? NULL : table->by_id[table->last_id];

	if (last != NULL && ((const LlmqRequestPage *) last->state)->bits == 0)
		return table->last_id - 1;
	return table->last_id;
}

static void
check_cell(LlmqVerify *verify, int32 id, uint32 expected)
{
	const LlmqVerifyCell *cell = verify->table[LLMQ_LIVE_REQUEST].by_id[id];
	uint32		found = cell == NULL ? 0 : ((const LlmqRequestPage *) cell->state)->bits;

	if (found == expected)
		return;
	llmq_verify_report(verify, &(LlmqFinding) {
		.object = RelationGetRelationName(verify->live.rel[LLMQ_LIVE_REQUEST]),
		.subject = psprintf("%d", id),
		.problem = cell == NULL ? "cell is missing" : "bits of a hash",
		.expected = psprintf("%u", expected),
		.found = psprintf("%u", found),
	});
}

/* Checks that no cell is missing, and that each has as many bits as it should. All was copied at one moment. */
void
llmq_verify_requests(LlmqVerify *verify)
{
	int32		ready = count_ready(&verify->table[LLMQ_LIVE_REQUEST]);

	for (int32 id = 1; id <= ready; id++)
		check_cell(verify, id, llmq_request_bits(id, ready));
}

/*
 * The bits of a cell that was damaged. Of the last one they are not known: when its parent has not split it had nothing
 * yet.
 */
uint32
llmq_verify_request_bits(const LlmqVerify *verify, int32 id)
{
	const LlmqVerifyTable *table = &verify->table[LLMQ_LIVE_REQUEST];
	int32		ready = Max(count_ready(table), id);
	int32		parent = llmq_request_parent(id);

	if (id > table->last_id && parent > 0 && parent <= table->last_id && table->by_id[parent] != NULL &&
		llmq_request_may_split((const LlmqRequestPage *) table->by_id[parent]->state, id))
		return 0;
	return llmq_request_bits(id, ready);
}
