/*
 * health_text.c
 *	  What people call troubles, and those who are in them.
 */
#include "postgres.h"

#include "classify.h"
#include "health.h"
#include "name.h"
#include "stored.h"

/* A trouble's scope, by its letter; a model at an account is of the account. */
const char *
llmq_health_scope_text(char scope)
{
	switch (scope)
	{
		case LLMQ_HEALTH_PROVIDER:
			return "provider";
		case LLMQ_HEALTH_ACCOUNT:
		case LLMQ_HEALTH_SERVICE:
			return "account";
		case LLMQ_HEALTH_MODEL:
			return "model";
		case LLMQ_HEALTH_KEY:
			return "key";
		default:
			return "unknown";
	}
}

const char *
llmq_trouble_text(LlmqTroubleKind kind)
{
	static const char *const texts[] = {
		[LLMQ_TROUBLE_NONE] = "healthy",
		[LLMQ_TROUBLE_COOLING] = "cooling",
		[LLMQ_TROUBLE_OPEN] = "open",
		[LLMQ_TROUBLE_DISABLED] = "disabled",
	};

	return LLMQ_STORED_TEXT(texts, kind);
}

const char *
llmq_health_event_text(LlmqHealthEventKind kind)
{
	static const char *const texts[] = {
		[LLMQ_EVENT_NONE] = "none",
		[LLMQ_EVENT_COOLED] = "cooled",
		[LLMQ_EVENT_CLEARED] = "cleared",
		[LLMQ_EVENT_OPENED] = "opened",
		[LLMQ_EVENT_PROBED] = "probed",
		[LLMQ_EVENT_CLOSED] = "closed",
		[LLMQ_EVENT_DISABLED] = "disabled",
		[LLMQ_EVENT_ENABLED] = "enabled",
	};

	return LLMQ_STORED_TEXT(texts, kind);
}

/* Whom a trouble is about, by the names of now. NULL where there is none. */
LlmqPatientNames
llmq_patient_names(const LlmqPatient *who)
{
	LlmqPatientNames names = {.scope = llmq_health_scope_text(who->scope)};
	const char *subject = llmq_name_text(who->subject);

	if (who->scope == LLMQ_HEALTH_MODEL)
		names.model = subject;
	else
		names.subject = subject;
	if (who->part != 0)
		names.model = llmq_name_text(who->part);
	return names;
}

/* Who it is about, for people: key "k"; account "a", model "m". */
char *
llmq_patient_describe(const LlmqPatient *who)
{
	LlmqPatientNames names = llmq_patient_names(who);
	char	   *subject = names.subject == NULL ? pstrdup("") : psprintf("%s \"%s\"", names.scope, names.subject);

	if (names.model == NULL)
		return subject;
	return psprintf("%s%smodel \"%s\"", subject, names.subject == NULL ? "" : ", ", names.model);
}

/* Why: what failed, and how the provider answered; or what somebody said. */
char *
llmq_trouble_explain(const LlmqTrouble *trouble)
{
	if (trouble->failure == LLMQ_FAILURE_NONE)
		return trouble->reason[0] == '\0' ? pstrdup("") : psprintf(": %s", trouble->reason);
	if (trouble->http_status == 0)
		return psprintf(": %s", llmq_failure_name(trouble->failure));
	return psprintf(": %s, HTTP status %d", llmq_failure_name(trouble->failure), trouble->http_status);
}
