/*
 * avoid.c
 *	  Which troubles keep a pick from a candidate, and the one call that finds out whether a trouble is over.
 *
 * A candidate is avoided for the troubles of its key, its account, the model, the model at that account, and the
 * provider. An open breaker, or a disabled key, whose time has come lets one call through, its probe: whoever makes it
 * says so on the board first, under the lock, and takes it back when the grant comes to nothing. The record of that
 * call closes the breaker or opens it for longer; if none comes, the next probe may be made when its lease has expired.
 */
#include "postgres.h"

#include "inject.h"
#include "name.h"
#include "pick.h"

/* Who can keep a pick from a candidate. */
typedef struct Suspect
{
	LlmqPatient patient;
	LlmqSubject *subject;		/* NULL: the model, whatever the account */
	const LlmqModel *model;		/* NULL: whatever the model */
} Suspect;

static void
list_suspects(LlmqKey *key, LlmqModel *model, Suspect suspects[LLMQ_SUSPECTS])
{
	LlmqSubject *account = &key->account->subject;
	LlmqSubject *provider = &key->account->provider->subject;
	int32		account_id = llmq_name_find(&account->ref);
	int32		model_id = llmq_name_find(&model->ref);

	suspects[0] = (Suspect) {{llmq_name_find(&key->subject.ref), 0, LLMQ_HEALTH_KEY}, &key->subject, NULL};
	suspects[1] = (Suspect) {{account_id, 0, LLMQ_HEALTH_ACCOUNT}, account, NULL};
	suspects[2] = (Suspect) {{account_id, model_id, LLMQ_HEALTH_SERVICE}, account, model};
	suspects[3] = (Suspect) {{model_id, 0, LLMQ_HEALTH_MODEL}, NULL, model};
	suspects[4] = (Suspect) {{llmq_name_find(&provider->ref), 0, LLMQ_HEALTH_PROVIDER}, provider, NULL};
}

/* When a trouble lets calls through again, as far as is known; not after now if the next one would be its probe. */
int64
llmq_trouble_end(const LlmqTrouble *trouble, int64 now)
{
	if (trouble->kind != LLMQ_TROUBLE_COOLING && trouble->until <= now)
		return trouble->probe_until;
	return trouble->until;
}

/* Adds one trouble to what keeps the pick from a candidate. */
static void
consider(const Suspect *suspect, const LlmqTrouble *trouble, int64 now, LlmqAvoid *avoid)
{
	int64		end = llmq_trouble_end(trouble, now);

	if (end <= now)
	{
		if (trouble->kind == LLMQ_TROUBLE_COOLING)
			return;
		if (avoid->trouble == NULL)
			avoid->trouble = trouble;
		avoid->probe[avoid->nprobes++] = (LlmqProbe) {.who = suspect->patient,.kind = trouble->kind};
	}
	else if (avoid->cause.kind == LLMQ_TROUBLE_NONE || end > avoid->until)
	{
		avoid->until = end;
		avoid->trouble = trouble;
		avoid->cause = (LlmqCause) {
			.subject = suspect->subject,.model = suspect->model,.kind = trouble->kind,.failure = trouble->failure,
			.http_status = trouble->http_status
		};
	}
}

/* Does anything keep a pick from this candidate? And which troubles would its call be the probe of? */
bool
llmq_avoid(LlmqKey *key, LlmqModel *model, int64 now, LlmqAvoid *avoid)
{
	Suspect		suspects[LLMQ_SUSPECTS];

	avoid->cause.kind = LLMQ_TROUBLE_NONE;
	avoid->trouble = NULL;
	avoid->nprobes = 0;
	if (llmq_health_troubles() == 0)
		return false;
	list_suspects(key, model, suspects);
	for (int i = 0; i < LLMQ_SUSPECTS; i++)
	{
		const LlmqTrouble *troubles[LLMQ_TROUBLE_KINDS];
		int			n = llmq_health_find_all(&suspects[i].patient, troubles);

		for (int j = 0; j < n; j++)
			consider(&suspects[i], troubles[j], now, avoid);
	}
	return avoid->cause.kind != LLMQ_TROUBLE_NONE;
}

/*
 * From when on calls may go to this candidate without being a probe, as far as is known: now at the earliest, and
 * PG_INT64_MAX while a call, or somebody, has to show first that a trouble is over.
 */
int64
llmq_well_from(LlmqKey *key, LlmqModel *model, int64 now)
{
	Suspect		suspects[LLMQ_SUSPECTS];
	int64		from = now;

	if (llmq_health_troubles() == 0)
		return now;
	list_suspects(key, model, suspects);
	for (int i = 0; i < LLMQ_SUSPECTS; i++)
	{
		const LlmqTrouble *troubles[LLMQ_TROUBLE_KINDS];
		int			n = llmq_health_find_all(&suspects[i].patient, troubles);

		for (int j = 0; j < n; j++)
			from = Max(from, troubles[j]->kind == LLMQ_TROUBLE_COOLING ? troubles[j]->until : PG_INT64_MAX);
	}
	return from;
}

/* What a probe asks of the board. */
typedef struct Probing
{
	int64		now;
	int64		until;			/* 0: it is given back */
	bool		claimed;
} Probing;

static void
edit_probe(LlmqHealthChange *change, void *argument)
{
	Probing    *probing = argument;
	LlmqTrouble *trouble = &change->trouble;

	/* nobody else's, and not one that has ended or begun anew meanwhile */
	if (trouble->kind == LLMQ_TROUBLE_NONE)
		return;
	if (probing->until != 0 && llmq_trouble_end(trouble, probing->now) > probing->now)
		return;
	trouble->probe_until = probing->until;
	change->silent = true;
	probing->claimed = true;
}

static bool
change_probe(LlmqPick *pick, const LlmqAvoid *avoid, int i, int64 until)
{
	Probing		probing = {.now = pick->now,.until = until};

	(void) llmq_health_change(&pick->live, &avoid->probe[i].who, avoid->probe[i].kind, edit_probe, &probing);
	return probing.claimed;
}

/* Gives back the first probes of a candidate: its call will not be made. */
void
llmq_probes_give_back(LlmqPick *pick, const LlmqAvoid *avoid, int n)
{
	for (int i = 0; i < n; i++)
		(void) change_probe(pick, avoid, i, 0);
}

/* Takes all probes of a candidate for this call, or none: false, when somebody else has one. */
bool
llmq_probes_claim(LlmqPick *pick, const LlmqAvoid *avoid)
{
	int64		until = pick->now + pick->ttl_ms * INT64CONST(1000);

	if (avoid->nprobes > 0)
		LLMQ_INJECT_GATE("probe");
	for (int i = 0; i < avoid->nprobes; i++)
	{
		if (change_probe(pick, avoid, i, until))
			continue;
		llmq_probes_give_back(pick, avoid, i);
		return false;
	}
	return true;
}
