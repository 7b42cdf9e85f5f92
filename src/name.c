/*
 * name.c
 *	  Small ids for names.
 *
 * llmquota.name holds a row for every name ever used, made as cells are: outside the caller's fate, and never changed
 * after. So an id, once read, is remembered by the backend in both directions; the memory is dropped whole when it has
 * grown large. Nothing here may be called while a page is locked.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "cell.h"
#include "name.h"
#include "relation.h"

#define MAX_REMEMBERED_NAMES 20000

/* Column numbers of llmquota.name. */
#define ATT_ID 1
#define ATT_KIND 3
#define ATT_NAME 4

typedef struct NameId
{
	const char *name;			/* its kind before it */
	int32		id;
	uint32		hash;
	char		status;
} NameId;

typedef struct NameText
{
	int32		id;
	const char *text;			/* its kind before it */
	char		status;
} NameText;

#define SH_PREFIX		ids
#define SH_ELEMENT_TYPE	NameId
#define SH_KEY_TYPE		const char *
#define SH_KEY			name
#define SH_HASH_KEY(tb, key)	hash_bytes((const unsigned char *) (key), strlen(key))
#define SH_EQUAL(tb, a, b)		(strcmp(a, b) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a)		(a)->hash
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

#define SH_PREFIX		texts
#define SH_ELEMENT_TYPE	NameText
#define SH_KEY_TYPE		int32
#define SH_KEY			id
#define SH_HASH_KEY(tb, key)	murmurhash32((uint32) (key))
#define SH_EQUAL(tb, a, b)		((a) == (b))
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Begun anew after the relation cache's callback, and when they have grown large. */
static MemoryContext name_context = NULL;
static bool names_valid = false;
static ids_hash *known_ids;
static texts_hash *known_texts;

/* Called by the relation cache at any time: the table may be another one now (DROP EXTENSION). */
void
llmq_name_invalidate(void)
{
	names_valid = false;
}

static void
prepare_memory(void)
{
	if (names_valid && known_ids->members + known_texts->members <= MAX_REMEMBERED_NAMES)
		return;
	if (name_context == NULL)
		name_context = AllocSetContextCreate(TopMemoryContext, "llmquota names", ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(name_context);
	known_ids = ids_create(name_context, 64, NULL);
	known_texts = texts_create(name_context, 64, NULL);
	names_valid = true;
}

/* Finds the id of a name in the table, or creates it if `max_id` allows; 0 when there is none. */
static int32
find_or_create(char kind, const char *name, int32 max_id)
{
	LlmqCellKey key = {.table = LLMQ_LIVE_NAME,.kind = kind,.name = name};
	LlmqCellHeader state = {.length = sizeof(LlmqCellHeader)};
	LlmqLive	live;
	int32		id;

	llmq_live_open(&live, LLMQ_LIVE_COUNT, max_id > 0 ? RowExclusiveLock : AccessShareLock);
	id = llmq_cell_find(&live, &key);
	if (id == 0 && max_id > 0)
		id = llmq_cell_create(&live, &key, &state, max_id);
	llmq_live_close(&live);
	return id;
}

/* The id of a name, remembered, found, or created if `max_id` allows; 0 when there is none. */
static int32
look_up(char kind, const char *name, int32 max_id)
{
	char		key[LLMQ_MAX_NAME + 2];
	NameId	   *entry;
	int32		id;
	bool		found;

	if (strlen(name) > LLMQ_MAX_NAME)
		elog(ERROR, "name \"%s\" is too long", name);
	prepare_memory();
	key[0] = kind;
	strlcpy(key + 1, name, sizeof(key) - 1);
	entry = ids_lookup(known_ids, key);
	if (entry != NULL)
		return entry->id;

	id = find_or_create(kind, name, max_id);
	if (id == 0)
		return 0;
	prepare_memory();
	entry = ids_insert(known_ids, MemoryContextStrdup(name_context, key), &found);
	entry->id = id;
	return id;
}

/* The id of a name, 0 when it was never used. */
int32
llmq_name_find(char kind, const char *name)
{
	return look_up(kind, name, 0);
}

/*
 * The id of a name, created when it is new. Raises when more than `max_id` names are in use.
 */
int32
llmq_name_id(char kind, const char *name, int32 max_id)
{
	int32		id = look_up(kind, name, max_id);

	if (id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many different names are in use: \"%s\" would be one more than %d", name, max_id),
				 errhint("Raise max_subjects in llmquota.setting, or look for a caller that makes up orgs.")));
	return id;
}

/* Reads a name by its id, its kind before it; NULL when there is none. */
static char *
read_text(int32 id)
{
	LlmqLive	live;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *result = NULL;

	llmq_live_open(&live, LLMQ_LIVE_COUNT, AccessShareLock);
	ScanKeyInit(&key, ATT_ID, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(id));
	scan = systable_beginscan(live.rel[LLMQ_LIVE_NAME], llmq_relation_oid(LLMQ_REL_NAME_ID), true, SnapshotSelf, 1,
							  &key);
	while (result == NULL && (tuple = systable_getnext(scan)) != NULL)
	{
		bool		isnull;
		TupleDesc	desc = RelationGetDescr(live.rel[LLMQ_LIVE_NAME]);
		char		kind = DatumGetChar(heap_getattr(tuple, ATT_KIND, desc, &isnull));
		Datum		name = heap_getattr(tuple, ATT_NAME, desc, &isnull);

		if (!llmq_cell_is_dead(tuple, LLMQ_LIVE_NAME))
			result = MemoryContextStrdup(name_context, psprintf("%c%s", kind, TextDatumGetCString(name)));
	}
	systable_endscan(scan);
	llmq_live_close(&live);
	return result;
}

/* The remembered text of an id, its kind before it; NULL for 0 or an id that is not there. */
static const char *
find_text(int32 id)
{
	NameText   *entry;
	char	   *text;
	bool		found;

	if (id == 0)
		return NULL;
	prepare_memory();
	entry = texts_lookup(known_texts, id);
	if (entry != NULL)
		return entry->text;
	text = read_text(id);
	if (text == NULL)
		return NULL;
	entry = texts_insert(known_texts, id, &found);
	entry->text = text;
	return text;
}

/* The name with this id, NULL for 0 or one that is not there. Valid until the next call of this file. */
const char *
llmq_name_text(int32 id)
{
	const char *text = find_text(id);

	return text == NULL ? NULL : text + 1;
}

/* What the id names, zero for 0 or one that is not there. */
char
llmq_name_kind(int32 id)
{
	const char *text = find_text(id);

	return text == NULL ? 0 : text[0];
}
