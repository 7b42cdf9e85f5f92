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

/* The last of the cells, whole or damaged. One that was not born is none. */
static int32
last_cell(const LlmqVerifyTable *table)
{
	int32		last = 0;

	for (int i = 0; i < table->n; i++)
		if (table->cell[i].counts || table->cell[i].state == NULL)
			last = Max(last, table->cell[i].id);
	return last;
}

/* A cell that is whole; NULL: it is damaged, or missing. */
static const LlmqRequestPage *
whole_cell(const LlmqVerifyTable *table, int32 id)
{
	if (id < 1 || id > table->last_id || table->by_id[id] == NULL)
		return NULL;
	return (const LlmqRequestPage *) table->by_id[id]->state;
}

/* How many cells have their requests: all, or all but the last one. When that is damaged its parent tells. */
static int32
count_ready(const LlmqVerifyTable *table)
{
	int32		last = last_cell(table);
	const LlmqRequestPage *page = whole_cell(table, last);
	const LlmqRequestPage *parent = whole_cell(table, llmq_request_parent(last));

	if (page != NULL ? page->bits == 0 : parent != NULL && llmq_request_may_split(parent, last))
		return last - 1;
	return last;
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
	const LlmqVerifyTable *table = &verify->table[LLMQ_LIVE_REQUEST];
	int32		ready = count_ready(table);

	for (int i = 0; i < table->n; i++)
		if (table->cell[i].state == NULL)
			return;				/* which is known, and which cell it is may not be */
	for (int32 id = 1; id <= ready; id++)
		check_cell(verify, id, llmq_request_bits(id, ready));
}

/* What the bits of a damaged cell were. */
uint32
llmq_verify_request_bits(const LlmqVerify *verify, int32 id)
{
	int32		ready = count_ready(&verify->table[LLMQ_LIVE_REQUEST]);

	return id > ready ? 0 : llmq_request_bits(id, ready);
}
