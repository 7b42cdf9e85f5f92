/*
 * feedback.c
 *	  What the end of a call teaches: whom to leave alone, whose breaker opens, what is well again.
 *
 * Comes after the lease has been settled, and only once for each lease; what it changes is live state and stays,
 * whatever becomes of the caller's transaction. A limit, a lack of money or of capacity cools whoever it is the limit
 * of, for as long as the provider says or else as backing off asks. Errors, timeouts and cut connections happen, so
 * one alone keeps nobody away: they are counted, and the breaker opens when they are too many. A refused credential
 * disables its key. What the caller did wrong, or broke off, says nothing of anybody; if that was a probe, the next
 * call may be one.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "catalog.h"
#include "classify.h"
#include "feedback.h"
#include "learn.h"
#include "name.h"
#include "remedy.h"
#include "service.h"
#include "zone.h"

/* What one call has shown, and whom it concerns. */
typedef struct Feedback
{
	LlmqLive   *live;
	const LlmqSlot *slot;
	const LlmqProvider *provider;	/* NULL: no longer configured */
	LlmqDiagnosis diagnosis;
	LlmqEvidence evidence;
} Feedback;

/* How a kind of failure is answered. */
typedef enum Answer
{
	ANSWER_NOTHING,
	ANSWER_COOL,
	ANSWER_COUNT,				/* and cool, if the provider says until when */
	ANSWER_COOL_AND_COUNT,
	ANSWER_OPEN,				/* cool until the time that is named, else open the breaker at once */
	ANSWER_DISABLE
} Answer;

static const Answer answers[] = {
	[LLMQ_FAILURE_NONE] = ANSWER_NOTHING,
	[LLMQ_FAILURE_RATE] = ANSWER_COOL,
	[LLMQ_FAILURE_QUOTA_DAY] = ANSWER_COOL,
	[LLMQ_FAILURE_QUOTA_MONTH] = ANSWER_COOL,
	[LLMQ_FAILURE_BILLING] = ANSWER_OPEN,
	[LLMQ_FAILURE_OVERLOADED] = ANSWER_COOL_AND_COUNT,
	[LLMQ_FAILURE_SERVER] = ANSWER_COUNT,
	[LLMQ_FAILURE_TIMEOUT] = ANSWER_COUNT,
	[LLMQ_FAILURE_CANCELLED] = ANSWER_NOTHING,
	[LLMQ_FAILURE_NETWORK] = ANSWER_COUNT,
	[LLMQ_FAILURE_AUTH] = ANSWER_DISABLE,
	[LLMQ_FAILURE_FORBIDDEN] = ANSWER_COOL,
	[LLMQ_FAILURE_BAD_REQUEST] = ANSWER_NOTHING,
	[LLMQ_FAILURE_CONTENT] = ANSWER_NOTHING,
	[LLMQ_FAILURE_NOT_FOUND] = ANSWER_COOL,
};

/* For a provider that has been deleted meanwhile; a success needs none. */
static const LlmqBreakerRule default_rule = {
	.in_a_row = 5,.min_calls = 20,.failure_rate = 0.5,.probe_after = 15 * USECS_PER_SEC
};

/* Whoever a failure is blamed on; nobody, when it is on nobody. */
static LlmqPatient
blamed(const LlmqSlot *slot, LlmqBlame blame)
{
	switch (blame)
	{
		case LLMQ_BLAME_NONE:
			break;
		case LLMQ_BLAME_KEY:
			return (LlmqPatient) {.subject = slot->key,.scope = LLMQ_HEALTH_KEY};
		case LLMQ_BLAME_ACCOUNT:
			return (LlmqPatient) {.subject = slot->account,.scope = LLMQ_HEALTH_ACCOUNT};
		case LLMQ_BLAME_ACCOUNT_MODEL:
			return (LlmqPatient) {.subject = slot->account,.part = slot->model,.scope = LLMQ_HEALTH_SERVICE};
		case LLMQ_BLAME_MODEL:
			return (LlmqPatient) {.subject = slot->model,.scope = LLMQ_HEALTH_MODEL};
		case LLMQ_BLAME_PROVIDER:
			return (LlmqPatient) {.subject = slot->provider,.scope = LLMQ_HEALTH_PROVIDER};
	}
	return (LlmqPatient) {0};
}

/* Until when the provider wants to be left alone: 0 when it does not say. */
static int64
named_time(const Feedback *feedback)
{
	bool		month = feedback->diagnosis.until_kind == LLMQ_UNTIL_MONTH;
	uint8		unit = llmq_unit(month ? LLMQ_CALENDAR_MONTH : LLMQ_CALENDAR_DAY, 1);
	const char *zone = feedback->provider == NULL ? "UTC" : feedback->provider->subject.zone;
	LlmqPeriod	period;

	switch (feedback->diagnosis.until_kind)
	{
		case LLMQ_UNTIL_NONE:
			break;
		case LLMQ_UNTIL_TIME:
			return feedback->diagnosis.until;
		case LLMQ_UNTIL_DAY:
		case LLMQ_UNTIL_MONTH:
			if (llmq_zone_period(zone, unit, feedback->evidence.now, &period))
				return period.end;
	}
	return 0;
}

/* Counts the call for the breakers of its model at its account and of its provider. */
static void
count(const Feedback *feedback, bool failed, const LlmqBreakerRule *rule)
{
	const LlmqSlot *slot = feedback->slot;
	LlmqServiceCall call = {
		.provider = slot->provider,.account = slot->account,.model = slot->model,.failed = failed,
		.timed_out = failed && feedback->diagnosis.kind == LLMQ_FAILURE_TIMEOUT,.now = feedback->evidence.now,
		.latency = slot->settlement.latency_ms * INT64CONST(1000),.rule = rule
	};
	LlmqPatient service = blamed(slot, LLMQ_BLAME_ACCOUNT_MODEL);
	LlmqPatient provider = blamed(slot, LLMQ_BLAME_PROVIDER);

	llmq_service_note(feedback->live, &call);
	if (call.service_opens)
		llmq_remedy_open(feedback->live, &service, &feedback->evidence, rule);
	if (call.provider_opens)
		llmq_remedy_open(feedback->live, &provider, &feedback->evidence, rule);
	if (failed)
	{
		llmq_remedy_failed(feedback->live, &service, &feedback->evidence, rule);
		llmq_remedy_failed(feedback->live, &provider, &feedback->evidence, rule);
	}
}

static void
learn_from_failure(const Feedback *feedback, const LlmqCatalog *catalog)
{
	const LlmqBreakerRule *rule = feedback->provider == NULL ? &default_rule : &feedback->provider->breaker;
	LlmqPatient who = blamed(feedback->slot, feedback->diagnosis.scope);
	const LlmqEvidence *evidence = &feedback->evidence;
	Answer		answer = answers[feedback->diagnosis.kind];
	int64		until = named_time(feedback);

	if (answer == ANSWER_COUNT || answer == ANSWER_COOL_AND_COUNT)
		count(feedback, true, rule);
	if (who.scope == 0 || answer == ANSWER_NOTHING)
		return;
	if (answer == ANSWER_DISABLE)
		llmq_remedy_disable(feedback->live, &who, evidence, evidence->now + catalog->settings.auth_probe_after);
	else if (answer == ANSWER_OPEN && until == 0)
		llmq_remedy_open(feedback->live, &who, evidence, rule);
	else if (answer != ANSWER_COUNT || until != 0)
		llmq_remedy_cool(feedback->live, &who, evidence, until);
}

/* Whatever the call could have been a probe of is over. */
static void
learn_from_success(const Feedback *feedback)
{
	count(feedback, false, &default_rule);
	if (llmq_health_troubles() == 0)
		return;
	for (LlmqBlame blame = LLMQ_BLAME_KEY; blame <= LLMQ_BLAME_PROVIDER; blame++)
	{
		LlmqPatient who = blamed(feedback->slot, blame);

		llmq_remedy_succeeded(feedback->live, &who, &feedback->evidence);
	}
}

/* Says until when the call is the probe of whatever it is one of; 0: it is no more. */
static void
set_probes(const Feedback *feedback, int64 until)
{
	if (llmq_health_troubles() == 0)
		return;
	for (LlmqBlame blame = LLMQ_BLAME_KEY; blame <= LLMQ_BLAME_PROVIDER; blame++)
	{
		LlmqPatient who = blamed(feedback->slot, blame);

		llmq_remedy_probing(feedback->live, &who, &feedback->evidence, until);
	}
}

/* What the answer says of the provider's limits holds whether the call succeeded or not. */
static void
learn_limits(const Feedback *feedback, const LlmqReport *report, LlmqCatalog *catalog)
{
	LlmqAnswer	answer = {
		.live = feedback->live,.catalog = catalog,.slot = feedback->slot,.report = report,
		.named = &feedback->diagnosis.limit,.now = feedback->evidence.now
	};

	if (feedback->provider != NULL)
		answer.adapter = feedback->provider->adapter;
	llmq_limits_learn(&answer);
}

/* Learns from a call that has been settled just now; no report: it was not made. No lock may be held. */
void
llmq_feedback(LlmqLive *live, const LlmqLeaseId *id, const LlmqSlot *slot, const LlmqReport *report)
{
	Feedback	feedback = {.live = live,.slot = slot};
	LlmqCatalog *catalog = llmq_catalog();
	const char *provider = llmq_name_text(slot->provider);

	if (provider != NULL)
		feedback.provider = (LlmqProvider *) llmq_catalog_subject(catalog, LLMQ_SCOPE_PROVIDER, provider);
	feedback.evidence.granted_at = slot->granted_at;
	feedback.evidence.now = GetCurrentTimestamp();
	feedback.evidence.http_status = slot->settlement.http_status;
	llmq_lease_uuid(id, &feedback.evidence.lease);
	llmq_health_look(live);
	if (slot->settlement.outcome == LLMQ_OUTCOME_OK)
		learn_from_success(&feedback);
	else if (slot->settlement.outcome == LLMQ_OUTCOME_ERROR)
	{
		feedback.diagnosis = report->diagnosis;
		feedback.evidence.now = report->diagnosed_at;
		feedback.evidence.failure = feedback.diagnosis.kind;
		learn_from_failure(&feedback, catalog);
	}
	/* whatever it was a probe of, and is neither well now nor in trouble anew, needs another one */
	if (slot->settlement.outcome != LLMQ_OUTCOME_OK)
		set_probes(&feedback, 0);
	if (report != NULL)
		learn_limits(&feedback, report, catalog);
}

/* A call takes longer than was thought: if it is a probe, there is no other for so long. No lock may be held. */
void
llmq_feedback_renewed(LlmqLive *live, const LlmqSlot *slot)
{
	Feedback	feedback = {.live = live,.slot = slot};

	if (!llmq_live_has(live, LLMQ_LIVE_HEALTH))
		return;
	feedback.evidence.granted_at = slot->granted_at;
	feedback.evidence.now = GetCurrentTimestamp();
	llmq_health_look(live);
	set_probes(&feedback, slot->expires_at);
}
