/*
 * verify_health.c
 *	  Are boards and events whole? For llmquota_verify().
 *
 * Pure functions on a private copy, of whatever bytes, as those of verify_cell.c are.
 */
#include "postgres.h"

#include "classify.h"
#include "health.h"
#include "verify.h"

/* Whom a trouble is about: a scope there is, a subject, and a part only where there is one. */
static bool
patient_fault(const LlmqPatient *who, LlmqFault *found)
{
	static const char scopes[] = {
		LLMQ_HEALTH_PROVIDER, LLMQ_HEALTH_ACCOUNT, LLMQ_HEALTH_SERVICE, LLMQ_HEALTH_MODEL, LLMQ_HEALTH_KEY, '\0'
	};

	if (who->scope <= 0 || who->scope > PG_INT8_MAX || strchr(scopes, who->scope) == NULL)
		return llmq_fault(found, "scope of a trouble", LLMQ_HEALTH_KEY, who->scope);
	if (who->subject < 1)
		return llmq_fault(found, "subject of a trouble", 1, who->subject);
	if ((who->part != 0) != (who->scope == LLMQ_HEALTH_SERVICE))
		return llmq_fault(found, "part of a trouble", 0, who->part);
	return false;
}

static bool
trouble_fault(const LlmqTrouble *trouble, LlmqFault *found)
{
	if (patient_fault(&trouble->patient, found))
		return true;
	if (trouble->kind == LLMQ_TROUBLE_NONE)
		return llmq_fault(found, "kind of a trouble", LLMQ_TROUBLE_COOLING, trouble->kind);
	llmq_fault_if_unknown(found, "kind of a trouble", LLMQ_TROUBLE_KINDS - 1, trouble->kind);
	llmq_fault_if_unknown(found, "failure of a trouble", LLMQ_FAILURE_NOT_FOUND, trouble->failure);
	if (memchr(trouble->reason, '\0', LLMQ_MAX_REASON) == NULL)
		return llmq_fault(found, "reason of a trouble", LLMQ_MAX_REASON - 1, LLMQ_MAX_REASON);
	return false;
}

static bool
is_free(const LlmqTrouble *trouble)
{
	static const LlmqTrouble nothing;

	return memcmp(trouble, &nothing, sizeof(LlmqTrouble)) == 0;
}

/* Is it at another place of the board, too? */
static bool
is_double(const LlmqHealthBoard *board, int place)
{
	const LlmqTrouble *trouble = &board->trouble[place];

	for (int i = 0; i < place; i++)
		if (board->trouble[i].kind == trouble->kind &&
			memcmp(&board->trouble[i].patient, &trouble->patient, sizeof(LlmqPatient)) == 0)
			return true;
	return false;
}

/* Every place is free, or has a trouble that makes sense and is there once; no more events are kept than there are. */
bool
llmq_board_fault(const LlmqHealthBoard *board, LlmqFault *found)
{
	if (board->events < 0 || board->kept < 0 || board->kept > board->events)
		return llmq_fault(found, "number of an event", board->events, board->kept);
	if (board->keeping < board->kept || board->keeping > board->events)
		return llmq_fault(found, "number of an event", board->events, board->keeping);
	for (int place = 0; place < LLMQ_TROUBLES_PER_BOARD; place++)
	{
		if (is_free(&board->trouble[place]))
			continue;
		if (trouble_fault(&board->trouble[place], found))
			return true;
		if (is_double(board, place))
			return llmq_fault(found, "place of a trouble", -1, place);
	}
	return false;
}

/* Every event is at the place that its number says, of a page of the ring, and makes sense. */
bool
llmq_events_fault(const LlmqHealthEvents *events, LlmqFault *found)
{
	int32		page = -1;

	for (int place = 0; place < LLMQ_EVENTS_PER_PAGE; place++)
	{
		const LlmqHealthEvent *event = &events->event[place];

		if (event->number == 0)
			continue;
		if (event->number < 0 || llmq_event_place(event->number) != place)
			return llmq_fault(found, "place of an event", place, event->number);
		if (page >= 0 && llmq_event_page(event->number) != page)
			return llmq_fault(found, "page of an event", page, llmq_event_page(event->number));
		page = llmq_event_page(event->number);
		if (event->kind == LLMQ_EVENT_NONE)
			return llmq_fault(found, "kind of an event", LLMQ_EVENT_COOLED, event->kind);
		llmq_fault_if_unknown(found, "kind of an event", LLMQ_EVENT_ENABLED, event->kind);
		if (trouble_fault(&event->trouble, found))
			return true;
	}
	return false;
}
