/*
 * alert_trouble.c
 *	  What troubles are to be alerted of, and limits that providers have below the configured ones.
 *
 * A trouble that ends within alert_recovery is none to be alerted of; a breaker that is not closed by then is. What
 * stands on the boards is as of the last look (health.c).
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "alert.h"
#include "health.h"
#include "name.h"
#include "service.h"

/* The kind of alert that a kind of trouble causes; NULL: none. */
static const char *
alert_kind(LlmqTroubleKind kind)
{
	switch (kind)
	{
		case LLMQ_TROUBLE_COOLING:
			return LLMQ_ALERT_COOLDOWN;
		case LLMQ_TROUBLE_OPEN:
			return LLMQ_ALERT_BREAKER;
		case LLMQ_TROUBLE_DISABLED:
			return LLMQ_ALERT_DISABLED;
		default:
			return NULL;
	}
}

static bool
is_over(const LlmqTrouble *trouble, TimestampTz now)
{
	return trouble->kind == LLMQ_TROUBLE_COOLING && trouble->until <= now;
}

/* What a trouble is, for people. */
static char *
message(const LlmqTrouble *trouble)
{
	char	   *who = llmq_patient_describe(&trouble->patient);
	char	   *why = llmq_trouble_explain(trouble);

	switch ((LlmqTroubleKind) trouble->kind)
	{
		case LLMQ_TROUBLE_OPEN:
			return psprintf("breaker of %s is open%s", who, why);
		case LLMQ_TROUBLE_COOLING:
			return psprintf("%s is left alone until %s%s", who, llmq_alert_instant(trouble->until, "UTC"), why);
		default:
			return psprintf("%s is disabled%s", who, why);
	}
}

static char *
copy_if_any(const char *text)
{
	return text == NULL ? NULL : pstrdup(text);
}

/* Looks at one trouble. */
static void
visit_trouble(const LlmqTrouble *trouble, void *argument)
{
	LlmqAlertLook *look = argument;
	TimestampTz now = look->maintenance->now;
	TimestampTz from = llmq_trouble_alert_from(trouble, look->catalog->settings.alert_recovery);
	LlmqPatientNames names;
	LlmqAlertCause *cause;

	if (alert_kind(trouble->kind) == NULL || is_over(trouble, now) || llmq_alerts_full(look))
		return;
	if (from > now)
	{
		llmq_maintenance_due(look->maintenance, from);
		return;
	}
	names = llmq_patient_names(&trouble->patient);
	cause = llmq_alert_cause(look, alert_kind(trouble->kind));
	cause->scope = names.scope;
	cause->subject = names.subject == NULL ? "" : pstrdup(names.subject);
	cause->model = copy_if_any(names.model);
	if (trouble->until != PG_INT64_MAX)
		cause->expected_at = trouble->until;
	cause->message = message(trouble);
}

/* Looks for what is to be alerted of troubles. */
void
llmq_alerts_of_troubles(LlmqAlertLook *look)
{
	llmq_health_look(&look->live);
	llmq_health_each(visit_trouble, look);
}

/* The limit that holds in place of a configured one; NULL when that does. */
static const LlmqLimit *
lower_limit(LlmqCatalog *catalog, const LlmqService *service, int place, TimestampTz now)
{
	const LlmqLearned *learned = &service->learned[place];
	const char *account = llmq_name_text(service->account);
	const char *model = llmq_name_text(service->model);
	const LlmqLimit *limit;

	if (learned->amount == 0 || account == NULL || model == NULL)
		return NULL;
	limit = llmq_limit_observed(catalog, learned, account, model);
	if (limit == NULL || llmq_learned_amount(learned, limit->quota->amount, catalog->settings.observed_limit_ttl,
											 now) >= limit->quota->amount)
		return NULL;
	return limit;
}

static void
add_lower_limit(LlmqAlertLook *look, const LlmqService *service, const LlmqLearned *learned, const LlmqLimit *limit)
{
	LlmqAlertCause *cause = llmq_alert_cause(look, LLMQ_ALERT_LIMIT);

	cause->scope = llmq_scope_name(LLMQ_SCOPE_ACCOUNT);
	cause->subject = pstrdup(llmq_name_text(service->account));
	cause->model = pstrdup(llmq_name_text(service->model));
	cause->metric = llmq_metric_text(limit->quota->metric);
	cause->period = limit->quota->period;
	cause->limit = limit->quota->id;
	cause->used = learned->amount;
	cause->amount = limit->quota->amount;
	cause->message = psprintf("account \"%s\", model \"%s\": the provider allows " INT64_FORMAT " %s in a %s, "
							  INT64_FORMAT " are configured (quota " INT64_FORMAT ")",
							  cause->subject, cause->model, learned->amount, cause->metric,
							  llmq_span_text((LlmqSpan) learned->span), cause->amount, limit->quota->id);
}

/* Looks at what one model at an account is known to have. */
static void
visit_service(const LlmqCellHeader *state, HeapTuple tuple, void *argument)
{
	const LlmqService *service = (const LlmqService *) state;
	LlmqAlertLook *look = argument;

	if (state->length != sizeof(LlmqService) || service->account == 0 || llmq_alerts_full(look))
		return;
	MemoryContextSwitchTo(look->context);
	for (int i = 0; i < LLMQ_MAX_LEARNED; i++)
	{
		const LlmqLimit *limit = lower_limit(look->catalog, service, i, look->maintenance->now);

		if (limit != NULL)
			add_lower_limit(look, service, &service->learned[i], limit);
	}
}

/* Looks for limits of providers that are lower than the configured ones. */
void
llmq_alerts_of_observed(LlmqAlertLook *look)
{
	if (llmq_health_limits() != 0)
		llmq_cell_walk(&look->live, LLMQ_LIVE_HEALTH, visit_service, look);
}

/* The trouble that an alert is about. */
typedef struct Sought
{
	const LlmqStanding *alert;
	TimestampTz now;
	bool		found;
} Sought;

static bool
same_name(const char *a, const char *b)
{
	return strcmp(a == NULL ? "" : a, b == NULL ? "" : b) == 0;
}

static void
seek_trouble(const LlmqTrouble *trouble, void *argument)
{
	Sought	   *sought = argument;
	const LlmqStanding *alert = sought->alert;
	LlmqPatientNames names;

	if (sought->found || !same_name(alert_kind(trouble->kind), alert->kind) || is_over(trouble, sought->now))
		return;
	names = llmq_patient_names(&trouble->patient);
	sought->found = strcmp(names.scope, alert->scope) == 0 && same_name(names.subject, alert->subject) &&
		same_name(names.model, alert->model);
}

/* Does a limit of the provider hold still in place of the configured one that an alert is about? */
static bool
limit_is_lower(LlmqLive *live, LlmqCatalog *catalog, const LlmqStanding *alert, TimestampTz now)
{
	LlmqSubject *account = llmq_catalog_subject(catalog, LLMQ_SCOPE_ACCOUNT, alert->subject);
	LlmqModel  *model = alert->model == NULL ? NULL : llmq_catalog_model(catalog, alert->model);
	LlmqService service;

	if (account == NULL || model == NULL || !llmq_service_find(live, &account->ref, &model->ref, &service))
		return false;
	for (int i = 0; i < LLMQ_MAX_LEARNED; i++)
	{
		const LlmqLimit *limit = lower_limit(catalog, &service, i, now);

		if (limit != NULL && limit->quota->id == alert->quota)
			return true;
	}
	return false;
}

/* Is what an alert says of a trouble, or of a provider's limit, so still? */
bool
llmq_trouble_alert_stands(LlmqCatalog *catalog, const LlmqStanding *alert, TimestampTz now)
{
	Sought		sought = {.alert = alert,.now = now};
	LlmqLive	live;

	llmq_live_open(&live, LLMQ_LIVE_COUNT, AccessShareLock);
	if (strcmp(alert->kind, LLMQ_ALERT_LIMIT) == 0)
		sought.found = limit_is_lower(&live, catalog, alert, now);
	else
	{
		llmq_health_look(&live);
		llmq_health_each(seek_trouble, &sought);
	}
	llmq_live_close(&live);
	return sought.found;
}
