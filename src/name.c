/*
 * name.c
 *	  Small ids for names.
 *
 * llmquota.name holds a row for every name in use, made as cells are: outside the caller's fate, and never changed
 * after. So an id, once read, is remembered by the backend in both directions, until the relation cache says that names
 * have been retired (retire.c); the memory is also dropped whole when it has grown large. An id is never given out
 * twice. What live state calls something stays the same when it is renamed (alias.c); texts are given out as it is
 * called now. Nothing here may be called while a page is locked.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "cell.h"
#include "name.h"
#include "relation.h"

#define MAX_REMEMBERED_NAMES 20000

/* Column number in llmquota.name. */
#define ATT_ID 1

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
static uint32 name_epoch = 0;
static ids_hash *known_ids;
static texts_hash *known_texts;

/*
 * Forgets all ids and texts. Called by the relation cache at any time: names may have been retired, and the table may
 * be another one now (DROP EXTENSION); and when the configuration has been loaded: something may have been renamed.
 */
void
llmq_name_invalidate(void)
{
	names_valid = false;
	name_epoch++;
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

/* Finds the id of a name in the table, or creates it if `max_names` allows; 0 when there is none. */
static int32
find_or_create(char kind, const char *name, int32 max_names)
{
	LlmqCellKey key = {.table = LLMQ_LIVE_NAME,.kind = kind,.name = name};
	LlmqNameState state = {.cell.length = sizeof(LlmqNameState),.since = GetCurrentTimestamp()};
	LlmqLive	live;
	int32		id;

	llmq_live_open(&live, LLMQ_LIVE_COUNT, max_names > 0 ? RowExclusiveLock : AccessShareLock);
	id = llmq_cell_find(&live, &key);
	if (id == 0 && max_names > 0)
		id = llmq_cell_create(&live, &key, &state.cell, max_names);
	llmq_live_close(&live);
	return id;
}

/* The id of a name, remembered, found, or created if `max_names` allows; 0 when there is none. */
static int32
look_up(char kind, const char *name, int32 max_names)
{
	char		key[LLMQ_NAME_KEY_SIZE];
	uint32		epoch;
	NameId	   *entry;
	int32		id;
	bool		found;

	if (strlen(name) > LLMQ_NAME_KEY_SIZE - 2)
		elog(ERROR, "name \"%s\" is too long", name);
	prepare_memory();
	key[0] = kind;
	strlcpy(key + 1, name, sizeof(key) - 1);
	entry = ids_lookup(known_ids, key);
	if (entry != NULL)
		return entry->id;

	epoch = name_epoch;
	id = find_or_create(kind, name, max_names);
	if (id == 0 || epoch != name_epoch)
		return id;
	prepare_memory();
	entry = ids_insert(known_ids, MemoryContextStrdup(name_context, key), &found);
	entry->id = id;
	return id;
}

/* The same, remembered with what bears the name. */
static int32
resolve(LlmqNameRef *ref, int32 max_names)
{
	uint32		epoch = name_epoch;

	if (ref->id == 0 || ref->epoch != epoch)
	{
		ref->id = look_up(ref->kind, ref->name, max_names);
		ref->epoch = epoch;
	}
	return ref->id;
}

/* The id of a name, 0 when it is not in use. */
int32
llmq_name_find(LlmqNameRef *ref)
{
	return resolve(ref, 0);
}

/*
 * The id of a name, created when it is new. Raises when more than `max_names` are in use.
 */
int32
llmq_name_id(LlmqNameRef *ref, int32 max_names)
{
	int32		id = resolve(ref, max_names);

	if (id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many different names are in use: \"%s\" would be one more than %d", ref->name, max_names),
				 errhint("Raise max_subjects in llmquota.setting, or look for a caller that makes up orgs.")));
	return id;
}

/* Reads what live state calls the name with this id, retired or not, its kind before it; NULL when there is none. */
char *
llmq_name_cell(int32 id)
{
	LlmqLive	live;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *result = NULL;

	llmq_live_open(&live, LLMQ_LIVE_NAME + 1, AccessShareLock);
	ScanKeyInit(&key, ATT_ID, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(id));
	scan = systable_beginscan(live.rel[LLMQ_LIVE_NAME], llmq_relation_oid(LLMQ_REL_NAME_ID), true, SnapshotSelf, 1,
							  &key);
	while (result == NULL && (tuple = systable_getnext(scan)) != NULL)
	{
		LlmqCellHeader *state = llmq_cell_in_tuple(tuple, LLMQ_LIVE_NAME);

		if (state != NULL && (state->flags & LLMQ_CELL_BORN))
			result = llmq_cell_name(&live, tuple);
	}
	systable_endscan(scan);
	llmq_live_close(&live);
	return result;
}

/* The remembered text of an id as it is called now, its kind before it; NULL for 0 or an id that is not there. */
static const char *
find_text(int32 id)
{
	NameText   *entry;
	const char *text;
	uint32		epoch;
	bool		found;

	if (id == 0)
		return NULL;
	prepare_memory();
	entry = texts_lookup(known_texts, id);
	if (entry != NULL)
		return entry->text;
	epoch = name_epoch;
	text = llmq_name_cell(id);
	if (text == NULL)
		return NULL;
	text = llmq_catalog_name_now(text);
	if (epoch != name_epoch)
		return text;
	prepare_memory();
	text = MemoryContextStrdup(name_context, text);
	entry = texts_insert(known_texts, id, &found);
	entry->text = text;
	return text;
}

/*
 * The name with this id, as the configuration calls it now; NULL for 0 or one that is not there. Valid until the next
 * call of this file or of llmq_catalog().
 */
const char *
llmq_name_text(int32 id)
{
	const char *text = find_text(id);

	return text == NULL ? NULL : text + 1;
}

/* What kind of thing the id names, zero for 0 or one that is not there. */
char
llmq_name_kind(int32 id)
{
	const char *text = find_text(id);

	return text == NULL ? 0 : text[0];
}
