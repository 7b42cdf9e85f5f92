/*
 * meter_cell.c
 *	  Finds, reads and creates the cells of meters.
 *
 * A meter's cell is born when it is first charged or first refuses, with room for the quotas it has then; it moves into
 * a roomier row when it gets more. Nothing here may be called while a page is locked.
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "meter.h"
#include "name.h"
#include "stored.h"

/* How often a meter's name may be retired while it is being created. */
#define MAX_NAMELESS 100

static const char scope_letters[LLMQ_SCOPE_COUNT] = {'g', 'p', 'a', 'k', 'o', 't'};
static const char *const scope_texts[LLMQ_SCOPE_COUNT] = {"global", "provider", "account", "key", "org",
"parent"};

/* The scope that a meter's letter stands for. False when it stands for none. */
bool
llmq_scope_of(char letter, LlmqScope *scope)
{
	for (int i = 0; i < LLMQ_SCOPE_COUNT; i++)
	{
		if (scope_letters[i] != letter)
			continue;
		*scope = (LlmqScope) i;
		return true;
	}
	return false;
}

char
llmq_scope_letter(LlmqScope scope)
{
	return scope_letters[scope];
}

const char *
llmq_metric_text(LlmqMetric metric)
{
	static const char *const texts[] = {"requests", "input_tokens", "output_tokens", "tokens", "concurrency", "cost"};

	return LLMQ_STORED_TEXT(texts, metric);
}

const char *
llmq_scope_name(LlmqScope scope)
{
	return scope_texts[scope];
}

/* The same by its letter. */
const char *
llmq_scope_text(char letter)
{
	LlmqScope	scope;

	return llmq_scope_of(letter, &scope) ? scope_texts[scope] : "unknown";
}

/* The id of a subject's name; 0 for the scope global. */
int32
llmq_subject_id(LlmqCatalog *catalog, LlmqSubject *subject)
{
	return subject->scope == LLMQ_SCOPE_GLOBAL ? 0 : llmq_name_id(&subject->ref, catalog->settings.max_subjects);
}

/* The key of a meter's cell; names that are new are created. */
static void
meter_key(LlmqCatalog *catalog, LlmqMeter *meter, LlmqCellKey *key)
{
	key->table = LLMQ_LIVE_METER;
	key->kind = scope_letters[meter->subject->scope];
	key->subject = llmq_subject_id(catalog, meter->subject);
	key->part = 0;
	if (meter->part != LLMQ_PART_ALL)
		key->part = llmq_name_id(&meter->part_ref, catalog->settings.max_subjects);
}

/* The same for a look, which creates nothing: false when a name was never used, and so the meter cannot exist. */
static bool
find_meter_key(LlmqMeter *meter, LlmqCellKey *key)
{
	LlmqSubject *subject = meter->subject;

	key->table = LLMQ_LIVE_METER;
	key->kind = scope_letters[subject->scope];
	key->subject = subject->scope == LLMQ_SCOPE_GLOBAL ? 0 : llmq_name_find(&subject->ref);
	key->part = meter->part == LLMQ_PART_ALL ? 0 : llmq_name_find(&meter->part_ref);
	return (key->subject != 0 || subject->scope == LLMQ_SCOPE_GLOBAL) &&
		(key->part != 0 || meter->part == LLMQ_PART_ALL);
}

/*
 * Copies a meter's state out; `state` has room for the largest. False when the meter has no cell yet.
 */
bool
llmq_meter_read(LlmqLive *live, LlmqMeter *meter, LlmqMeterState *state)
{
	if (meter->id == 0)
	{
		LlmqCellKey key;

		if (find_meter_key(meter, &key))
			meter->id = llmq_cell_find(live, &key);
	}
	if (meter->id == 0)
		return false;
	if (llmq_cell_copy(live, LLMQ_LIVE_METER, meter->id, state, LLMQ_MAX_STATE))
		return true;
	meter->id = 0;
	return false;
}

/* An empty state with room for so many bytes of windows, at least as large as gives it a page to itself. */
static LlmqMeterState *
empty_state(int bytes)
{
	Size		length = LLMQ_METER_HEAD_SIZE + bytes;
	LlmqMeterState *state;

	length = Max(TYPEALIGN(LLMQ_ROOM_STEP, length), LLMQ_MIN_STATE);
	state = palloc0(length);
	state->cell.length = length;
	state->room = length - LLMQ_METER_HEAD_SIZE;
	state->used_at = GetCurrentTimestamp();
	return state;
}

/* Creates the meter's cell if it has none. Raises when there are too many. */
void
llmq_meter_ensure(LlmqLive *live, LlmqCatalog *catalog, LlmqMeter *meter)
{
	LlmqMeterState *state;
	LlmqCellKey key;
	int32		id = LLMQ_CELL_NAMELESS;

	if (meter->id != 0)
		return;
	state = empty_state(llmq_meter_bytes_needed(meter, NULL, NULL, 0));
	for (int attempt = 0; id == LLMQ_CELL_NAMELESS && attempt < MAX_NAMELESS; attempt++)
	{
		/* this backend has not heard yet that a name it remembers was retired */
		if (attempt > 0)
			llmq_name_invalidate();
		meter_key(catalog, meter, &key);
		id = llmq_cell_find(live, &key);
		if (id == 0)
			id = llmq_cell_create(live, &key, &state->cell, catalog->settings.max_subjects);
	}
	pfree(state);
	if (id == LLMQ_CELL_NAMELESS)
		elog(ERROR, "names of \"%s\" keep being retired", meter->subject->name);
	meter->id = id;
	if (meter->id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many subjects have limits: \"%s\" would be one more than %d", meter->subject->name,
						catalog->settings.max_subjects),
				 errhint("Raise max_subjects in llmquota.setting, or look for a caller that makes up orgs.")));
}

/* Copies a state into a roomier one, under the page locks. */
static void
fill_larger(LlmqCellHeader *larger, const LlmqCellHeader *old)
{
	LlmqMeterState *to = (LlmqMeterState *) larger;
	const LlmqMeterState *from = (const LlmqMeterState *) old;

	to->generation = from->generation;
	to->mean_call = from->mean_call;
	to->used_at = from->used_at;
	to->next_expiry = from->next_expiry;
	to->waiting = from->waiting;
	to->used = from->used;
	memcpy(to->windows, from->windows, from->used);
}

/* Gives the meter room for so many bytes of windows. */
void
llmq_meter_grow(LlmqLive *live, LlmqCatalog *catalog, LlmqMeter *meter, int bytes)
{
	LlmqMeterState *state = empty_state(bytes);
	LlmqCellKey key;

	meter_key(catalog, meter, &key);
	state->cell.id = meter->id;
	if (!llmq_cell_grow(live, &key, &state->cell, fill_larger))
		meter->id = 0;
	pfree(state);
}
