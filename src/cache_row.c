/*
 * cache_row.c
 *	  Finds an answer, by the primary key.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "common/int.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "cache.h"
#include "relation.h"
#include "row_now.h"

/* Columns of llmquota.answer, in their order. */
enum
{
	COL_STORED_AT, COL_FRESH_UNTIL, COL_STALE_UNTIL, COL_USED_AT, COL_BYTES, COL_ORG_KIND, COL_NAMESPACE, COL_ORG,
	COL_HASH, COL_ANSWER
};

#define KEYS 4

/* When an answer was used is written down again after this part of the time for which it is fresh. */
#define USE_PART 16
#define USE_LEAST USECS_PER_SEC

static void
init_text_key(ScanKey key, int column, const char *text)
{
	ScanKeyInit(key, column + 1, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(text));
}

static void
init_keys(ScanKey scan_key, const LlmqCacheKey *key)
{
	init_text_key(&scan_key[0], COL_NAMESPACE, key->space.name);
	init_text_key(&scan_key[1], COL_ORG, key->org);
	init_text_key(&scan_key[2], COL_HASH, key->hash);
	ScanKeyInit(&scan_key[3], COL_ORG_KIND + 1, BTEqualStrategyNumber, F_CHAREQ, CharGetDatum(key->org_kind));
}

static TimestampTz
instant(TupleTableSlot *row, int column)
{
	return DatumGetTimestampTz(row->tts_values[column]);
}

/* Notes that the answer is used, unless it has been not long ago, or nothing may be written. */
static void
use(Relation rel, TupleTableSlot *row, TimestampTz now)
{
	BufferHeapTupleTableSlot *in_buffer = (BufferHeapTupleTableSlot *) row;
	int64		fresh;

	/* somebody may have written infinity there */
	if (pg_sub_s64_overflow(instant(row, COL_FRESH_UNTIL), instant(row, COL_STORED_AT), &fresh))
		fresh = 0;
	if (instant(row, COL_USED_AT) > now - Max(Min(fresh, now) / USE_PART, USE_LEAST) || !TTS_IS_BUFFERTUPLE(row))
		return;
	if (XactReadOnly || RecoveryInProgress() || TupleDescAttr(row->tts_tupleDescriptor, COL_USED_AT)->attlen != 8)
		return;
	llmq_cache_use(rel, in_buffer->buffer, in_buffer->base.tuple, now);
}

static void
take(TupleTableSlot *row, TimestampTz now, LlmqCached *answer)
{
	slot_getallattrs(row);
	answer->found = instant(row, COL_STALE_UNTIL) > now;
	if (!answer->found)
		return;
	answer->stored_at = instant(row, COL_STORED_AT);
	answer->fresh_until = instant(row, COL_FRESH_UNTIL);
	answer->answer = PointerGetDatum(PG_DETOAST_DATUM_COPY(row->tts_values[COL_ANSWER]));
}

/* Looks for an answer. With `touch` it counts as used. */
void
llmq_cache_find(const LlmqCacheKey *key, bool touch, LlmqCached *answer)
{
	Relation	rel = table_open(llmq_relation_oid(LLMQ_REL_ANSWER), AccessShareLock);
	TimestampTz now = GetCurrentTimestamp();
	ScanKeyData scan_key[KEYS];
	LlmqRowNow	found;

	memset(answer, 0, sizeof(LlmqCached));
	init_keys(scan_key, key);
	llmq_row_now_find(rel, llmq_relation_oid(LLMQ_REL_ANSWER_KEY), KEYS, scan_key, &found);
	if (found.tuple != NULL)
	{
		take(found.scan->slot, now, answer);
		if (touch && answer->found)
			use(rel, found.scan->slot, now);
	}
	llmq_row_now_end(&found);
	table_close(rel, AccessShareLock);
}
