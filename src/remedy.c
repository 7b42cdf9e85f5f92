/*
 * remedy.c
 *	  What is done about troubles: cooldowns, open breakers, disabled keys; and when they are over.
 *
 * Each is decided under the lock of its board, by what stands there (health_change.c). Calls that were under way when
 * something got into trouble are no news: only one that was granted after the time was over makes a cooldown longer
 * than the last, and only such a one, a probe, closes a breaker or opens it for longer.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "utils/timestamp.h"

#include "cooldown.h"
#include "remedy.h"

/* A cooldown that another call makes longer by less is no event of its own. */
#define SAME_COOLDOWN INT64CONST(1000000)

/* One remedy being decided. */
typedef struct Remedy
{
	const LlmqEvidence *evidence;
	const LlmqBreakerRule *rule;
	int64		until;			/* 0: not named */
	double		random;			/* drawn before the lock */
} Remedy;

/* Was the call granted when this trouble let calls through again? */
static bool
is_probe(const LlmqTrouble *trouble, const LlmqEvidence *evidence)
{
	return trouble->kind != LLMQ_TROUBLE_NONE && trouble->until <= evidence->granted_at;
}

static void
put_evidence(LlmqTrouble *trouble, const LlmqEvidence *evidence)
{
	trouble->failure = evidence->failure;
	trouble->http_status = evidence->http_status;
	trouble->lease = evidence->lease;
	trouble->reason[0] = '\0';
}

static uint32
hash_patient(const LlmqPatient *who)
{
	return hash_combine(murmurhash32(who->subject), murmurhash32(who->part + who->scope));
}

static void
edit_cool(LlmqHealthChange *change, void *argument)
{
	const Remedy *remedy = argument;
	const LlmqEvidence *evidence = remedy->evidence;
	LlmqTrouble *trouble = &change->trouble;
	bool		cooling = trouble->kind != LLMQ_TROUBLE_NONE && trouble->until > evidence->now;
	int64		until = remedy->until;
	int			level = trouble->level;

	if (is_probe(trouble, evidence))
		level = Min(level + 1, LLMQ_COOLDOWN_LEVELS);
	if (until == 0)
		until = evidence->now + llmq_cooldown_backoff(level, hash_patient(&trouble->patient), remedy->random);
	if (cooling && until <= trouble->until)
		return;
	if (!cooling)
		trouble->since = evidence->now;
	if (!cooling || until > trouble->until + SAME_COOLDOWN)
		change->event = LLMQ_EVENT_COOLED;
	change->silent = true;
	trouble->kind = LLMQ_TROUBLE_COOLING;
	trouble->level = level;
	trouble->until = until;
	put_evidence(trouble, evidence);
}

/* Leaves somebody alone until a time that was named, or (0) as long as failures before ask; never shorter than said. */
void
llmq_remedy_cool(LlmqLive *live, const LlmqPatient *who, const LlmqEvidence *evidence, int64 until)
{
	Remedy		remedy = {
		.evidence = evidence,.until = until == 0 ? 0 : llmq_cooldown_until(until, evidence->now),
		.random = pg_prng_double(&pg_global_prng_state)
	};

	(void) llmq_health_change(live, who, LLMQ_TROUBLE_COOLING, edit_cool, &remedy);
}

static void
edit_open(LlmqHealthChange *change, void *argument)
{
	const Remedy *remedy = argument;
	LlmqTrouble *trouble = &change->trouble;

	if (trouble->kind != LLMQ_TROUBLE_NONE && !is_probe(trouble, remedy->evidence))
		return;
	change->event = LLMQ_EVENT_OPENED;
	trouble->level = trouble->kind == LLMQ_TROUBLE_NONE ? 1 : Min(trouble->level + 1, PG_UINT8_MAX);
	if (trouble->kind == LLMQ_TROUBLE_NONE)
		trouble->since = remedy->evidence->now;
	trouble->kind = LLMQ_TROUBLE_OPEN;
	trouble->until = remedy->evidence->now + llmq_breaker_wait(remedy->rule, trouble->level);
	trouble->probe_until = 0;
	put_evidence(trouble, remedy->evidence);
}

/* Opens a breaker, or after a probe that failed opens it for longer. */
void
llmq_remedy_open(LlmqLive *live, const LlmqPatient *who, const LlmqEvidence *evidence, const LlmqBreakerRule *rule)
{
	Remedy		remedy = {.evidence = evidence,.rule = rule};

	(void) llmq_health_change(live, who, LLMQ_TROUBLE_OPEN, edit_open, &remedy);
}

static void
edit_disable(LlmqHealthChange *change, void *argument)
{
	const Remedy *remedy = argument;
	LlmqTrouble *trouble = &change->trouble;

	if (trouble->kind != LLMQ_TROUBLE_NONE && !is_probe(trouble, remedy->evidence))
		return;
	change->event = LLMQ_EVENT_DISABLED;
	if (trouble->kind == LLMQ_TROUBLE_NONE)
		trouble->since = remedy->evidence->now;
	trouble->kind = LLMQ_TROUBLE_DISABLED;
	trouble->until = remedy->until;
	trouble->probe_until = 0;
	put_evidence(trouble, remedy->evidence);
}

/* Disables a key whose credential was refused, until somebody enables it or, from a time on, a probe succeeds. */
void
llmq_remedy_disable(LlmqLive *live, const LlmqPatient *who, const LlmqEvidence *evidence, int64 until)
{
	Remedy		remedy = {.evidence = evidence,.until = until};

	(void) llmq_health_change(live, who, LLMQ_TROUBLE_DISABLED, edit_disable, &remedy);
}

/* A call has failed in a way that breakers count: if it was the probe of one, that opens again. */
void
llmq_remedy_failed(LlmqLive *live, const LlmqPatient *who, const LlmqEvidence *evidence, const LlmqBreakerRule *rule)
{
	const LlmqTrouble *trouble = llmq_health_find(who, LLMQ_TROUBLE_OPEN);

	if (trouble != NULL && is_probe(trouble, evidence))
		llmq_remedy_open(live, who, evidence, rule);
}

static void
edit_end(LlmqHealthChange *change, void *argument)
{
	const Remedy *remedy = argument;
	LlmqTrouble *trouble = &change->trouble;

	switch ((LlmqTroubleKind) trouble->kind)
	{
		case LLMQ_TROUBLE_NONE:
			return;
		case LLMQ_TROUBLE_COOLING:
			change->silent = true;
			break;
		case LLMQ_TROUBLE_OPEN:
			change->event = LLMQ_EVENT_CLOSED;
			break;
		case LLMQ_TROUBLE_DISABLED:
			change->event = LLMQ_EVENT_ENABLED;
			break;
	}
	if (is_probe(trouble, remedy->evidence))
		trouble->kind = LLMQ_TROUBLE_NONE;
	else
	{
		change->silent = false;
		change->event = LLMQ_EVENT_NONE;
	}
}

/* A call has succeeded: whatever it was a probe of is over. */
void
llmq_remedy_succeeded(LlmqLive *live, const LlmqPatient *who, const LlmqEvidence *evidence)
{
	Remedy		remedy = {.evidence = evidence};

	for (int kind = LLMQ_TROUBLE_COOLING; kind < LLMQ_TROUBLE_KINDS; kind++)
	{
		const LlmqTrouble *trouble = llmq_health_find(who, kind);

		if (trouble != NULL && is_probe(trouble, evidence))
			(void) llmq_health_change(live, who, kind, edit_end, &remedy);
	}
}

static void
edit_probing(LlmqHealthChange *change, void *argument)
{
	const Remedy *remedy = argument;
	LlmqTrouble *trouble = &change->trouble;

	if (!is_probe(trouble, remedy->evidence) || trouble->probe_until <= remedy->evidence->now)
		return;
	trouble->probe_until = remedy->until;
	change->silent = true;
}

/* Until when a call is the probe of whatever it is one of; 0: it has ended and shows nothing, the next one may be. */
void
llmq_remedy_probing(LlmqLive *live, const LlmqPatient *who, const LlmqEvidence *evidence, int64 until)
{
	Remedy		remedy = {.evidence = evidence,.until = until};

	for (int kind = LLMQ_TROUBLE_OPEN; kind < LLMQ_TROUBLE_KINDS; kind++)
	{
		const LlmqTrouble *trouble = llmq_health_find(who, kind);

		if (trouble != NULL && is_probe(trouble, evidence))
			(void) llmq_health_change(live, who, kind, edit_probing, &remedy);
	}
}
