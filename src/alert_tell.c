/*
 * alert_tell.c
 *	  Lines of the server's log that are written when the transaction commits, and not if it does not.
 *
 * They wait in the transaction's own memory; those of a subtransaction that is rolled back are forgotten.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "args.h"

PG_FUNCTION_INFO_V1(llmquota_log_alert);

typedef struct Line
{
	struct Line *next;
	SubTransactionId subxact;
	char	   *text;
} Line;

/* The first line, and where the next one is put. */
static Line *first = NULL;
static Line **behind = &first;

static void
forget_all(void)
{
	first = NULL;
	behind = &first;
}

/* The end of the transaction: when it has committed the lines are written. */
static void
at_end(XactEvent event, void *argument)
{
	if (event == XACT_EVENT_COMMIT)
		for (const Line *line = first; line != NULL; line = line->next)
			ereport(LOG_SERVER_ONLY, (errmsg("alert: %s", line->text)));
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		forget_all();
}

/* The end of a subtransaction: its lines are its parent's, or nobody's. */
static void
at_sub_end(SubXactEvent event, SubTransactionId subxact, SubTransactionId parent, void *argument)
{
	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	for (Line **place = &first; *place != NULL;)
	{
		Line	   *line = *place;

		if (line->subxact == subxact && event == SUBXACT_EVENT_ABORT_SUB)
		{
			*place = line->next;
			continue;
		}
		if (line->subxact == subxact)
			line->subxact = parent;
		place = &line->next;
	}
	for (behind = &first; *behind != NULL;)
		behind = &(*behind)->next;
}

/* llmquota_log_alert(message) */
Datum
llmquota_log_alert(PG_FUNCTION_ARGS)
{
	static bool registered = false;
	Line	   *line = MemoryContextAlloc(TopTransactionContext, sizeof(Line));

	if (!registered)
	{
		RegisterXactCallback(at_end, NULL);
		RegisterSubXactCallback(at_sub_end, NULL);
		registered = true;
	}
	line->next = NULL;
	line->subxact = GetCurrentSubTransactionId();
	line->text = MemoryContextStrdup(TopTransactionContext, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	*behind = line;
	behind = &line->next;
	PG_RETURN_VOID();
}
