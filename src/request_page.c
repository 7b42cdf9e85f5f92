/*
 * request_page.c
 *	  Looks for a request in the cells of llmquota.request_page. linear_cell.c says which cell, and makes more of them.
 *
 * A look takes a share lock on one page at a time and holds nothing. What it finds is checked again under the locks of
 * the grant (once.c).
 */
#include "postgres.h"

#include "request.h"

/* A look at the cell of a request. */
typedef struct Peek
{
	const LlmqRequestKey *key;
	uint32		now;
	LlmqRequestLook *look;
} Peek;

/* Under the page's lock. What a damaged cell says is not believed: the pick goes on, and the grant will raise. */
static void
peek_at_cell(const LlmqCellHeader *state, void *argument)
{
	const LlmqRequestPage *page = (const LlmqRequestPage *) state;
	Peek	   *peek = argument;
	int			place = llmq_request_place(page, peek->key, peek->now, &peek->look->in_force);

	peek->look->entry = llmq_request_at(page, place, peek->key, peek->now);
	if (peek->look->entry.page != 0 && !llmq_cell_crc_holds(state))
		memset(&peek->look->entry, 0, sizeof(LlmqRequestEntry));
}

/* Looks for a request. */
void
llmq_request_look(LlmqLive *live, const LlmqRequestKey *key, uint32 now, LlmqRequestLook *look)
{
	Peek		peek = {.key = key,.now = now,.look = look};

	memset(look, 0, sizeof(LlmqRequestLook));
	look->cell = llmq_linear_look(live, &llmq_request_linear, key->hash[0], peek_at_cell, &peek);
}
