/*
 * health_end.c
 *	  The step of maintenance that takes off the boards what is over.
 *
 * A cooldown that has ended keeps nobody away, but the next one is longer for it, so it stands for some minutes more.
 * What is no longer configured has no troubles either. Each is looked at again under the lock of its board.
 */
#include "postgres.h"

#include "catalog.h"
#include "health.h"
#include "inject.h"
#include "maintain.h"

/* For so long a cooldown that has ended makes the next one longer: twenty times the longest of them. */
#define REMEMBER_ENDED INT64CONST(600000000)

/* Who is over it, as far as a look tells. */
typedef struct Ending
{
	LlmqCatalog *catalog;
	int64		before;			/* what ended before then is to go */
	int			n;
	LlmqTrouble *found;
} Ending;

/* Is whoever the trouble is about still configured? */
static bool
is_configured(LlmqCatalog *catalog, const LlmqPatient *who)
{
	LlmqPatientNames names = llmq_patient_names(who);

	if ((who->scope == LLMQ_HEALTH_MODEL || who->part != 0) &&
		(names.model == NULL || llmq_catalog_model(catalog, names.model) == NULL))
		return false;
	switch (who->scope)
	{
		case LLMQ_HEALTH_PROVIDER:
			return names.subject != NULL && llmq_catalog_subject(catalog, LLMQ_SCOPE_PROVIDER, names.subject) != NULL;
		case LLMQ_HEALTH_ACCOUNT:
		case LLMQ_HEALTH_SERVICE:
			return names.subject != NULL && llmq_catalog_subject(catalog, LLMQ_SCOPE_ACCOUNT, names.subject) != NULL;
		case LLMQ_HEALTH_KEY:
			return names.subject != NULL && llmq_catalog_key(catalog, names.subject) != NULL;
		default:
			return true;
	}
}

static bool
has_ended(const LlmqTrouble *trouble, int64 before)
{
	return trouble->kind == LLMQ_TROUBLE_COOLING && trouble->until < before;
}

static void
gather(const LlmqTrouble *trouble, void *argument)
{
	Ending	   *ending = argument;

	if (has_ended(trouble, ending->before) || !is_configured(ending->catalog, &trouble->patient))
		ending->found[ending->n++] = *trouble;
}

/* Takes one trouble off its board. One that goes before its end does so because its bearer has gone. */
static void
edit_end(LlmqHealthChange *change, void *argument)
{
	const Ending *ending = argument;
	const LlmqTrouble *seen = &ending->found[ending->n];

	if (change->trouble.kind == LLMQ_TROUBLE_NONE || change->trouble.until != seen->until)
		return;
	change->silent = true;
	if (!has_ended(&change->trouble, ending->before))
		change->event = LLMQ_EVENT_CLEARED;
	change->trouble.kind = LLMQ_TROUBLE_NONE;
}

/* Takes off the boards what has ended some minutes ago, or is about what has been deleted. Answers how much. */
int64
llmq_troubles_end_step(const LlmqMaintenance *maintenance)
{
	Ending		ending = {.catalog = llmq_catalog()};
	LlmqLive	live;
	int			found;
	int64		ended = 0;

	ending.before = maintenance->now - (LLMQ_INJECTED("short-day") ? 0 : REMEMBER_ENDED);
	llmq_live_open(&live, LLMQ_LIVE_COUNT, RowExclusiveLock);
	llmq_health_look(&live);
	ending.found = palloc(sizeof(LlmqTrouble) * LLMQ_TROUBLE_KINDS * (llmq_health_troubles() + 1));
	llmq_health_each(gather, &ending);
	found = ending.n;
	for (ending.n = 0; ending.n < found && !llmq_maintenance_late(maintenance); ending.n++)
	{
		const LlmqTrouble *seen = &ending.found[ending.n];

		ended += llmq_health_change(&live, &seen->patient, seen->kind, edit_end, &ending);
	}
	llmq_live_close(&live);
	return ended;
}
