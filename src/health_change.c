/*
 * health_change.c
 *	  Changes what stands on the boards.
 *
 * A change locks the first board, whose version it counts up, the board where the trouble stands or a free place is,
 * and the cell where the next event is to stand; all are written in one record. It is decided by what is there under
 * the lock, and only if no other change came since the last look: else the backend looks again. Troubles are live
 * state: a rollback of the transaction that brought one does not take it back.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "alert_mark.h"
#include "health.h"
#include "health_board.h"
#include "line.h"

/* How often a change may be overtaken by others. Each time is somebody's progress. */
#define MAX_ATTEMPTS 1000

/* One change being made. */
typedef struct Changing
{
	LlmqLive   *live;
	const LlmqPatient *who;
	LlmqTroubleKind kind;
	LlmqBoardPlace place;
	LlmqCellSet set;
	int			first;			/* cells of the set */
	int			board;
	int			events;
	LlmqHealthEvent event;		/* that it was; of no kind: none */
} Changing;

/* A place for what stands on no board yet: a free one, on a new board if there is none. */
static LlmqBoardPlace
place_for(LlmqLive *live, const LlmqPatient *who, LlmqTroubleKind kind)
{
	LlmqBoardPlace place = llmq_health_place(who, kind);

	for (int i = 0; place.board == 0 && i < LLMQ_MAX_BOARDS; i++)
	{
		if (llmq_board_id(live, i, false) == 0)
			place.board = llmq_board_id(live, i, true);
	}
	if (place.board == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("more than %d keys, accounts and models are in trouble",
						LLMQ_MAX_BOARDS * LLMQ_TROUBLES_PER_BOARD)));
	return place;
}

/* Looks, and locks the cells if they are what was seen. False: try again. */
static bool
lock(Changing *changing)
{
	const LlmqHealthBoard *first;
	int32		first_id = llmq_board_id(changing->live, 0, true);
	int32		events;

	llmq_health_look(changing->live);
	events = llmq_events_id(changing->live, llmq_event_page(llmq_health_events() + 1), true);
	changing->place = place_for(changing->live, changing->who, changing->kind);
	llmq_set_init(&changing->set, changing->live);
	changing->first = llmq_set_add(&changing->set, LLMQ_LIVE_HEALTH, first_id);
	changing->board = changing->first;
	if (changing->place.board != first_id)
		changing->board = llmq_set_add(&changing->set, LLMQ_LIVE_HEALTH, changing->place.board);
	changing->events = llmq_set_add(&changing->set, LLMQ_LIVE_HEALTH, events);
	if (llmq_set_lock(&changing->set) != LLMQ_LOCKED)
		return false;
	first = llmq_set_state(&changing->set, changing->first);
	if (first->version == llmq_health_version())
		return true;
	llmq_set_unlock(&changing->set);
	return false;
}

static void
note_event(Changing *changing, const LlmqHealthChange *change, const LlmqTrouble *before)
{
	LlmqHealthBoard *first = llmq_set_change(&changing->set, changing->first);
	LlmqHealthEvents *events = llmq_set_change(&changing->set, changing->events);
	LlmqHealthEvent *event = &changing->event;

	memset(event, 0, sizeof(LlmqHealthEvent));
	event->number = ++first->events;
	event->at = GetCurrentTimestamp();
	event->kind = change->event;
	event->trouble = change->trouble.kind != LLMQ_TROUBLE_NONE ? change->trouble : *before;
	events->event[llmq_event_place(event->number)] = *event;
}

/* Under the locks: writes what the change is. */
static void
write_change(Changing *changing, const LlmqHealthChange *change, const LlmqTrouble *before)
{
	LlmqHealthBoard *board = llmq_set_change(&changing->set, changing->board);
	LlmqHealthBoard *first = llmq_set_change(&changing->set, changing->first);

	board->trouble[changing->place.place] = change->trouble;
	first->version++;
	if (change->event != LLMQ_EVENT_NONE)
		note_event(changing, change, before);
	llmq_set_log(&changing->set, 0);
}

/* Under the locks: asks what becomes of the trouble, and writes that if it is a change. */
static bool
decide(Changing *changing, LlmqHealthEdit edit, void *argument)
{
	const LlmqHealthBoard *board = llmq_set_state(&changing->set, changing->board);
	LlmqTrouble before = board->trouble[changing->place.place];
	LlmqHealthChange change = {.trouble = before};

	change.trouble.patient = *changing->who;
	edit(&change, argument);
	if (change.event == LLMQ_EVENT_NONE && !change.silent)
		return false;
	if (change.trouble.kind == LLMQ_TROUBLE_NONE)
		memset(&change.trouble, 0, sizeof(LlmqTrouble));
	write_change(changing, &change, &before);
	return true;
}

/*
 * Asks `edit` what becomes of a patient's trouble of one kind, under the lock, and writes that. An edit that leaves no
 * kind takes it off the board. Whether anything has changed. Durable with the next flush: the caller's, or that of its
 * COMMIT.
 */
bool
llmq_health_change(LlmqLive *live, const LlmqPatient *who, LlmqTroubleKind kind, LlmqHealthEdit edit, void *argument)
{
	Changing	changing = {.live = live,.who = who,.kind = kind};

	for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++)
	{
		CHECK_FOR_INTERRUPTS();
		if (lock(&changing))
		{
			bool		changed = decide(&changing, edit, argument);

			llmq_set_unlock(&changing.set);
			llmq_health_log(&changing.event);
			llmq_alert_event(&changing.event);
			if (changed)
				llmq_line_trouble_changed();
			return changed;
		}
	}
	elog(ERROR, "live state keeps moving");
}
