/*
 * verify_linear.c
 *	  Is every hash in one cell? For llmquota_verify().
 *
 * That each entry is in its cell is seen in the cell alone (verify_cell.c). Here all cells are held against each other:
 * each stands for the hashes with its bits, and together they stand for every hash once. The last one may have been
 * made and not have taken over anything yet.
 */
#include "postgres.h"

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

/* Where the secret can be read; NULL: there is no cell that is whole and has it. */
static const LlmqLinearPage *
example(const LlmqVerifyTable *table)
{
	for (int32 id = 1; id <= table->last_id; id++)
	{
		const LlmqLinearPage *page = whole_cell(table, id);

		if (page != NULL && page->bits > 0)
			return page;
	}
	return NULL;
}

static void
report(LlmqVerify *verify, const LlmqLinear *linear, int32 id, LlmqFinding finding)
{
	finding.object = RelationGetRelationName(verify->live.rel[linear->table]);
	finding.subject = psprintf("%d", id);
	llmq_verify_report(verify, &finding);
}

/* Checks a cell that should be there with so many bits, and the same secret as another. */
static void
check_cell(LlmqVerify *verify, const LlmqLinear *linear, int32 id, uint32 expected, const LlmqLinearPage *other)
{
	const LlmqLinearPage *page = whole_cell(&verify->table[linear->table], id);

	if (page == NULL || page->bits != expected)
		report(verify, linear, id, (LlmqFinding) {
			.problem = page == NULL ? "cell is missing" : "bits of a hash",
			.expected = psprintf("%u", expected),
			.found = psprintf("%u", page == NULL ? 0 : page->bits),
		});
	else if (memcmp(page->secret, other->secret, sizeof(page->secret)) != 0)
		report(verify, linear, id, (LlmqFinding) {
			.problem = "secret of the hashes",
			.expected = psprintf("that of cell %d", other->cell.id),
			.found = "another",
		});
}

/* Checks that no cell is missing, and that each has as many bits as it should. All was copied at one moment. */
void
llmq_verify_linear(LlmqVerify *verify, const LlmqLinear *linear)
{
	const LlmqVerifyTable *table = &verify->table[linear->table];
	int32		ready = count_ready(table);

	for (int i = 0; i < table->n; i++)
		if (table->cell[i].state == NULL)
			return;				/* which is known, and which cell it is may not be */
	for (int32 id = 1; id <= ready; id++)
		check_cell(verify, linear, id, llmq_linear_bits(id, ready), example(table));
}

/* What a damaged cell had that is not of its entries. The secret is drawn anew where there is no other cell. */
void
llmq_verify_linear_mend(const LlmqVerify *verify, const LlmqLinear *linear, LlmqLinearPage *page)
{
	const LlmqVerifyTable *table = &verify->table[linear->table];
	const LlmqLinearPage *other = example(table);
	int32		ready = count_ready(table);

	page->bits = page->cell.id > ready ? 0 : llmq_linear_bits(page->cell.id, ready);
	memcpy(page->secret, other != NULL ? other->secret : verify->secret, sizeof(page->secret));
}
