/*
 * calibration.c
 *	  Keeps in live state what calls have taught about a model's input tokens.
 *
 * Each model has a cell of llmquota.health, born with the first call that reports its input tokens, and changed in one
 * record of its own after the lease has been settled: a crash between the two loses one call of a statistic, and the
 * record was not acknowledged. A rollback of the transaction that recorded the call takes nothing back.
 *
 * A page that every record of a model writes would be a queue. So once enough is known only one call in eight teaches,
 * chosen by the secret of its lease, which nobody can choose; and picks go by a copy that is read again when it is a
 * second old. What this backend has taught itself it knows at once.
 *
 * Whoever may record may say anything: the calibration bounds what one call moves (estimate.c), and the mean is moved
 * by at most what a call of eight times its size would.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "calibration.h"
#include "health.h"

/* So many calls of a model all teach; of later ones this part. */
#define EAGER_CALLS 256
#define LATER_PART 8

/* The mean is about that of so many last calls; one call counts for no more than so many times the mean. */
#define MEAN_CALLS 32
#define MEAN_UNIT 256
#define MOST_TIMES 8

/* How long a pick goes by a copy, in microseconds. */
#define COPY_LASTS INT64CONST(1000000)

#define MAX_ATTEMPTS 1000

/* Copies of cells: those that a hash puts in one place push each other out. */
typedef struct Copy
{
	Oid			relation;		/* of another llmquota.health, ids mean something else */
	int32		model;
	int32		id;				/* of the cell, 0: there was none */
	int64		read_at;
	LlmqModelTokens tokens;
} Copy;

#define COPIES 64
static Copy *copies[COPIES];

/* The place for a model's copy; what is in it may be another's. */
static Copy *
place_of(int32 model)
{
	Copy	  **place = &copies[murmurhash32(model) % COPIES];

	if (*place == NULL)
		*place = MemoryContextAllocZero(TopMemoryContext, sizeof(Copy));
	return *place;
}

static bool
is_of(const Copy *copy, const LlmqLive *live, int32 model)
{
	return copy->model == model && copy->relation == RelationGetRelid(live->rel[LLMQ_LIVE_HEALTH]);
}

/* Reads the model's cell, if it has one; it is looked for again unless it is where it was. */
static void
read_copy(Copy *copy, LlmqLive *live, int32 model)
{
	LlmqCellKey key = {.table = LLMQ_LIVE_HEALTH,.kind = LLMQ_HEALTH_CALIBRATION,.part = model};
	int32		id = is_of(copy, live, model) ? copy->id : 0;

	copy->model = 0;
	if (id == 0 || !llmq_cell_copy(live, LLMQ_LIVE_HEALTH, id, &copy->tokens, sizeof(LlmqModelTokens)))
	{
		id = llmq_cell_find(live, &key);
		if (id != 0 && !llmq_cell_copy(live, LLMQ_LIVE_HEALTH, id, &copy->tokens, sizeof(LlmqModelTokens)))
			id = 0;
	}
	copy->id = id;
	copy->relation = RelationGetRelid(live->rel[LLMQ_LIVE_HEALTH]);
	copy->read_at = GetCurrentTimestamp();
	copy->model = model;
}

/* What is known of a model, of a second ago at most; NULL when nothing is. Valid until the next call of this file. */
const LlmqModelTokens *
llmq_model_tokens(LlmqLive *live, int32 model)
{
	Copy	   *copy;
	int64		age;

	if (model == 0 || !llmq_live_has(live, LLMQ_LIVE_HEALTH))
		return NULL;
	copy = place_of(model);
	age = GetCurrentTimestamp() - copy->read_at;
	if (!is_of(copy, live, model) || age < 0 || age >= COPY_LASTS)
		read_copy(copy, live, model);
	return copy->id == 0 ? NULL : &copy->tokens;
}

/* How many input tokens a call mostly has, at least one. */
int32
llmq_model_mean(const LlmqModelTokens *tokens)
{
	return (int32) Max(1, Min((tokens->mean + MEAN_UNIT / 2) / MEAN_UNIT, PG_INT32_MAX));
}

/* Makes the cell of a model, which begins with what is supposed of a call as the mean. */
static void
create(Copy *copy, LlmqLive *live, int32 model, int32 supposed)
{
	LlmqCellKey key = {.table = LLMQ_LIVE_HEALTH,.kind = LLMQ_HEALTH_CALIBRATION,.part = model};
	LlmqModelTokens tokens = {
		.cell.length = sizeof(LlmqModelTokens),.mean = (int64) Max(supposed, 1) * MEAN_UNIT,.model = model
	};

	copy->id = llmq_cell_create(live, &key, &tokens.cell, PG_INT32_MAX);
	copy->tokens = tokens;
}

static void
move_mean(LlmqModelTokens *tokens, int64 actual)
{
	int64		most = Max(tokens->mean, MEAN_UNIT) * MOST_TIMES;
	int64		input = Min(actual * MEAN_UNIT, most);

	tokens->mean += (input - tokens->mean) / Min(tokens->calls, MEAN_CALLS);
}

/* Changes the cell, and the copy with it. False: it is not there any more. */
static bool
change(Copy *copy, LlmqLive *live, const LlmqSlot *slot)
{
	LlmqCellSet set;
	LlmqModelTokens *tokens;
	int			cell;

	llmq_set_init(&set, live);
	cell = llmq_set_add(&set, LLMQ_LIVE_HEALTH, copy->id);
	if (llmq_set_lock(&set) != LLMQ_LOCKED)
		return false;
	tokens = llmq_set_change(&set, cell);
	tokens->calls++;
	move_mean(tokens, slot->settlement.input);
	llmq_calibrate(&tokens->calibration, &slot->prompt, slot->settlement.input);
	llmq_set_log(&set, 0);
	copy->tokens = *tokens;
	llmq_set_unlock(&set);
	copy->read_at = GetCurrentTimestamp();
	return true;
}

/*
 * Learns from a call that has been settled just now, if it says how many input tokens it had; `supposed` is how many
 * calls are supposed to have of which nothing is known. No lock may be held.
 */
void
llmq_model_tokens_learn(LlmqLive *live, const LlmqSlot *slot, int32 supposed)
{
	Copy	   *copy = place_of(slot->model);

	if (slot->settlement.outcome != LLMQ_OUTCOME_OK || slot->settlement.input <= 0)
		return;
	if (!is_of(copy, live, slot->model))
		read_copy(copy, live, slot->model);
	if (copy->id != 0 && copy->tokens.calls >= EAGER_CALLS && slot->secret % LATER_PART != 0)
		return;
	for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++)
	{
		if (copy->id == 0)
			read_copy(copy, live, slot->model);
		if (copy->id == 0)
			create(copy, live, slot->model, supposed);
		if (change(copy, live, slot))
			return;
		CHECK_FOR_INTERRUPTS();
		copy->id = 0;
	}
	elog(ERROR, "live state keeps moving");
}
