/*
 * verify_linear.c
 *	  Is every hash in one cell? For llmquota_verify().
 *
 * That each entry is in its cell is seen in the cell alone (verify_cell.c). Here all cells are held against each other:
 * each stands for the hashes with its bits, and together they stand for every hash once. The last one may have been
 * made and not have taken over anything yet.
 */
#include "postgres.h"

#include "linear.h"
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
static const LlmqLinearPage *
whole_cell(const LlmqVerifyTable *table, int32 id)
{
	if (id < 1 || id > table->last_id || table->by_id[id] == NULL)
		return NULL;
	return (const LlmqLinearPage *) table->by_id[id]->state;
}

/* How many cells have their entries: all, or all but the last one. When that is damaged its parent tells. */
static int32
count_ready(const LlmqVerifyTable *table)
{
	int32		last = last_cell(table);
	const LlmqLinearPage *page = whole_cell(table, last);
	const LlmqLinearPage *parent = whole_cell(table, llmq_linear_parent(last));

	if (page != NULL ? page->bits == 0 : parent != NULL && llmq_linear_may_split(parent, last))
		return last - 1;
	return last;
}

static void
check_cell(LlmqVerify *verify, LlmqLiveTable table, int32 id, uint32 expected)
{
	const LlmqVerifyCell *cell = verify->table[table].by_id[id];
	uint32		found = cell == NULL ? 0 : ((const LlmqLinearPage *) cell->state)->bits;

	if (found == expected)
		return;
	llmq_verify_report(verify, &(LlmqFinding) {
		.object = RelationGetRelationName(verify->live.rel[table]),
		.subject = psprintf("%d", id),
		.problem = cell == NULL ? "cell is missing" : "bits of a hash",
		.expected = psprintf("%u", expected),
		.found = psprintf("%u", found),
	});
}

/* Checks that no cell is missing, and that each has as many bits as it should. All was copied at one moment. */
void
llmq_verify_linear(LlmqVerify *verify, LlmqLiveTable which)
{
	const LlmqVerifyTable *table = &verify->table[which];
	int32		ready = count_ready(table);

	for (int i = 0; i < table->n; i++)
		if (table->cell[i].state == NULL)
			return;				/* which is known, and which cell it is may not be */
	for (int32 id = 1; id <= ready; id++)
		check_cell(verify, which, id, llmq_linear_bits(id, ready));
}

/* What the bits of a damaged cell were. */
uint32
llmq_verify_linear_bits(const LlmqVerify *verify, LlmqLiveTable which, int32 id)
{
	int32		ready = count_ready(&verify->table[which]);

	return id > ready ? 0 : llmq_linear_bits(id, ready);
}
