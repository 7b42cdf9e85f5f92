/*
 * health.c
 *	  What this backend knows of troubles.
 *
 * Everything that a pick must keep away from (a cooldown, an open breaker, a disabled key) stands on a board: a few
 * cells of llmquota.health, mostly one. Its version, which every change counts up under the page's lock, is read at the
 * start of every call; only when it is another than before are the boards copied, and put into a table. So a pick that
 * begins after a failure has been recorded knows of it, in every backend, at the price of one look at a page.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "utils/memutils.h"

#include "health.h"
#include "health_board.h"
#include "line.h"

/* All troubles of a patient, and where they stand. */
typedef struct Patient
{
	LlmqPatient who;
	uint32		hash;
	char		status;
	LlmqBoardPlace place[LLMQ_TROUBLE_KINDS];	/* no board: not in trouble of this kind */
	LlmqTrouble trouble[LLMQ_TROUBLE_KINDS];
} Patient;

#define SH_PREFIX		patients
#define SH_ELEMENT_TYPE	Patient
#define SH_KEY_TYPE		LlmqPatient
#define SH_KEY			who
#define SH_HASH_KEY(tb, key)	hash_combine(murmurhash32((key).subject), murmurhash32((key).part + (key).scope))
#define SH_EQUAL(tb, a, b)		((a).subject == (b).subject && (a).part == (b).part && (a).scope == (b).scope)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a)		(a)->hash
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* What the boards said when they were last copied. */
static uint64 known_version = 0;	/* 0: nothing is known */
static int64 known_events;
static uint64 known_limits;
static MemoryContext health_context = NULL;
static patients_hash *known;
static LlmqBoardPlace free_place;

/* The boards' cells, as far as they were found. Of another llmquota.health, ids mean something else. */
static int32 board_ids[LLMQ_MAX_BOARDS];
static int	nboards = 0;
static Oid	boards_of = InvalidOid;

/* The id of a board, numbered from 0; 0 when there is none, unless it is to be created. */
int32
llmq_board_id(LlmqLive *live, int number, bool create)
{
	LlmqCellKey key = {.table = LLMQ_LIVE_HEALTH,.kind = LLMQ_HEALTH_BOARD,.subject = number};
	int32		id = llmq_cell_find(live, &key);

	if (id == 0 && create)
	{
		LlmqHealthBoard *board = palloc0(sizeof(LlmqHealthBoard));

		board->cell.length = sizeof(LlmqHealthBoard);
		board->version = pg_prng_uint64(&pg_global_prng_state) | 1;	/* not that of a board of before */
		id = llmq_cell_create(live, &key, &board->cell, PG_INT32_MAX);
		pfree(board);
	}
	return id;
}

/* Forgets cells of another extension, one that has been dropped since. */
static void
forget_if_other(const LlmqLive *live)
{
	Oid			health = llmq_live_has(live, LLMQ_LIVE_HEALTH) ?
		RelationGetRelid(live->rel[LLMQ_LIVE_HEALTH]) : InvalidOid;

	if (boards_of != health)
		nboards = 0;
	boards_of = health;
}

static bool
may_write(const LlmqLive *live)
{
	return live->lockmode == RowExclusiveLock && llmq_live_has(live, LLMQ_LIVE_HEALTH);
}

/*
 * The version of the boards; 0 when there is none and this call may not write: else the first one is made at the first
 * look, so that later ones need not search for it.
 */
static uint64
read_version(LlmqLive *live)
{
	LlmqHealthBoard head;

	known_events = 0;
	known_limits = 0;
	forget_if_other(live);
	for (int attempt = 0; attempt < 2; attempt++)
	{
		if (nboards == 0)
			board_ids[0] = llmq_board_id(live, 0, may_write(live));
		if (board_ids[0] == 0)
			break;
		nboards = Max(nboards, 1);
		if (llmq_cell_copy(live, LLMQ_LIVE_HEALTH, board_ids[0], &head, offsetof(LlmqHealthBoard, trouble)))
		{
			known_events = head.events;
			known_limits = head.limits;
			llmq_line_look(head.line);
			return head.version;
		}
		nboards = 0;
	}
	return 0;
}

/* Puts what stands on one board into the table. */
static void
learn(int32 id, const LlmqHealthBoard *board)
{
	for (int place = 0; place < LLMQ_TROUBLES_PER_BOARD; place++)
	{
		const LlmqTrouble *trouble = &board->trouble[place];
		LlmqBoardPlace where = {.board = id,.place = place};
		Patient    *patient;
		bool		found;

		if (trouble->patient.scope == 0 && free_place.board == 0)
			free_place = where;
		/* a kind of a later version is left to it */
		if (trouble->patient.scope == 0 || trouble->kind >= LLMQ_TROUBLE_KINDS)
			continue;
		patient = patients_insert(known, trouble->patient, &found);
		if (!found)
			memset(patient->place, 0, sizeof(patient->place));
		patient->place[trouble->kind] = where;
		patient->trouble[trouble->kind] = *trouble;
	}
}

/* Copies all boards, those too that others have added. */
static void
copy_boards(LlmqLive *live)
{
	LlmqHealthBoard *board = palloc(sizeof(LlmqHealthBoard));

	free_place = (LlmqBoardPlace) {0};
	for (int i = 0; i < LLMQ_MAX_BOARDS; i++)
	{
		if (i >= nboards)
		{
			board_ids[i] = llmq_board_id(live, i, false);
			if (board_ids[i] == 0)
				break;
			nboards = i + 1;
		}
		if (llmq_cell_copy(live, LLMQ_LIVE_HEALTH, board_ids[i], board, sizeof(LlmqHealthBoard)))
			learn(board_ids[i], board);
	}
	pfree(board);
}

/*
 * Learns what has changed, if anything has. What changes while the boards are copied is learned again with the next
 * look: the version was read before.
 */
void
llmq_health_look(LlmqLive *live)
{
	uint64		version = read_version(live);

	if (version == known_version)
		return;
	known_version = 0;
	if (health_context == NULL)
		health_context = AllocSetContextCreate(TopMemoryContext, "llmquota health", ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(health_context);
	known = patients_create(health_context, 16, NULL);
	if (version != 0)
		copy_boards(live);
	known_version = version;
}

/* Changes whenever anything else does. */
uint64
llmq_health_version(void)
{
	return known_version;
}

/* Number of the last event, as of the last look. */
int64
llmq_health_events(void)
{
	return known_events;
}

/* Changes whenever a limit does that providers are known to have; 0 when there is none. */
uint64
llmq_health_limits(void)
{
	return known_limits;
}

/* How many patients there are. */
int
llmq_health_troubles(void)
{
	return known == NULL ? 0 : known->members;
}

/* A trouble, as of the last look; NULL when there is none of this kind. */
const LlmqTrouble *
llmq_health_find(const LlmqPatient *who, LlmqTroubleKind kind)
{
	Patient    *patient = known == NULL ? NULL : patients_lookup(known, *who);

	return patient == NULL || patient->place[kind].board == 0 ? NULL : &patient->trouble[kind];
}

/* All troubles of a patient as of the last look: how many, at most one of each kind. */
int
llmq_health_find_all(const LlmqPatient *who, const LlmqTrouble *found[LLMQ_TROUBLE_KINDS])
{
	Patient    *patient = known == NULL ? NULL : patients_lookup(known, *who);
	int			n = 0;

	for (int kind = 0; patient != NULL && kind < LLMQ_TROUBLE_KINDS; kind++)
		if (patient->place[kind].board != 0)
			found[n++] = &patient->trouble[kind];
	return n;
}

/* Where a trouble stands, or may be put; no board when there is none with room. */
LlmqBoardPlace
llmq_health_place(const LlmqPatient *who, LlmqTroubleKind kind)
{
	Patient    *patient = known == NULL ? NULL : patients_lookup(known, *who);

	return patient == NULL || patient->place[kind].board == 0 ? free_place : patient->place[kind];
}

/* Calls `visit` with every trouble as of the last look. */
void
llmq_health_each(LlmqTroubleVisitor visit, void *argument)
{
	patients_iterator iterator;
	Patient    *patient;

	if (known == NULL)
		return;
	patients_start_iterate(known, &iterator);
	while ((patient = patients_iterate(known, &iterator)) != NULL)
	{
		for (int kind = 0; kind < LLMQ_TROUBLE_KINDS; kind++)
			if (patient->place[kind].board != 0)
				visit(&patient->trouble[kind], argument);
	}
}
