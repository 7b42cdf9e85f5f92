/*
 * request_page.c
 *	  What stands for a request, and a look for it in the cells of llmquota.request_page. linear_cell.c says which cell,
 *	  and makes more of them.
 *
 * A look takes a share lock on one page at a time and holds nothing. What it finds is checked again under the locks of
 * the grant (once.c).
 */
#include "postgres.h"

#include "common/hashfn.h"

#include "request.h"

/* What stands for an org. */
uint32
llmq_request_org(const LlmqNameRef *org)
{
	return hash_bytes_uint32((uint32) org->kind) ^ hash_bytes((const unsigned char *) org->name, strlen(org->name));
}

/* What stands for a request, as long as the cell that it leads to holds it. */
void
llmq_request_key(LlmqLive *live, const LlmqNameRef *org, const char *request_id, LlmqRequestKey *key)
{
	Size		org_length = strlen(org->name);
	Size		length = 2 + org_length + strlen(request_id);
	uint8	   *bytes = palloc(length);

	bytes[0] = (uint8) org->kind;
	bytes[1] = (uint8) org_length;	/* 128 at most */
	memcpy(bytes + 2, org->name, org_length);
	memcpy(bytes + 2 + org_length, request_id, length - 2 - org_length);
	llmq_linear_hash(live, &llmq_request_linear, bytes, length, key->hash);
	pfree(bytes);
	key->org = llmq_request_org(org);
}

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
