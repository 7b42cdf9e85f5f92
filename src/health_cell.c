/*
 * health_cell.c
 *	  Finds cells of llmquota.health by their keys, and remembers where they were found.
 */
#include "postgres.h"

#include "common/hashfn.h"

#include "health_cell.h"

/* Those that a hash puts in one place push each other out. Of another llmquota.health, ids mean something else. */
#define REMEMBERED 256
static struct
{
	LlmqHealthKey key;
	int32		id;
}			remembered[REMEMBERED];
static Oid	remembered_of = InvalidOid;

/* The id of a cell; when there is none it is created with so many bytes, all zero; 0 when there is none and no size. */
int32
llmq_health_cell(LlmqLive *live, const LlmqHealthKey *key, Size size)
{
	uint32		hash = hash_combine(murmurhash32(key->subject), murmurhash32(key->part + key->kind));
	LlmqHealthKey *known = &remembered[hash % REMEMBERED].key;
	int32	   *id = &remembered[hash % REMEMBERED].id;
	LlmqCellKey search = {.table = LLMQ_LIVE_HEALTH,.kind = key->kind,.subject = key->subject,.part = key->part};
	ItemPointerData tid;
	int32		found;

	if (!llmq_live_has(live, LLMQ_LIVE_HEALTH))
		return 0;
	if (remembered_of != RelationGetRelid(live->rel[LLMQ_LIVE_HEALTH]))
		llmq_health_cells_forget();
	remembered_of = RelationGetRelid(live->rel[LLMQ_LIVE_HEALTH]);
	if (known->kind == key->kind && known->subject == key->subject && known->part == key->part &&
		llmq_cell_locate(live, LLMQ_LIVE_HEALTH, *id, &tid))
		return *id;
	found = llmq_cell_find(live, &search);
	if (found == 0 && size > 0)
	{
		LlmqCellHeader *state = palloc0(size);

		state->length = size;
		found = llmq_cell_create(live, &search, state, PG_INT32_MAX);
		pfree(state);
	}
	if (found != 0)
	{
		*known = *key;
		*id = found;
	}
	return found;
}

/* Forgets all of them: some were not where they had been. */
void
llmq_health_cells_forget(void)
{
	memset(remembered, 0, sizeof(remembered));
}
