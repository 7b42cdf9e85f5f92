/*
 * history.c
 *	  The attempts of one request: what a new one may not choose again, and how many there may be.
 *
 * A lease's slot holds what its request has been through before it (LlmqHistory), so the next attempt needs to know its
 * predecessor only. What a failed attempt keeps the next ones from goes by how it failed: of an overloaded, broken or
 * unknown model the model, wherever its provider has it; of a limit the account's share of the model; of a lack of
 * money the account; of a refused credential the key; of a lost connection the base URL. A request that the provider
 * would not have is not put to the same model again. What the caller broke off has not failed.
 *
 * Nothing is locked here. Where the slot's ids no longer stand for anything that is configured, there is nothing to
 * keep away from.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/timestamp.h"

#include "args.h"
#include "classify.h"
#include "name.h"
#include "pick.h"

/* Before a model is asked again: so much, twice that and four times that. Microseconds. */
#define BACKOFF INT64CONST(1000000)
#define BACKOFF_DOUBLINGS 2

#define NAMES_PER_ENTRY ((int) lengthof(((LlmqTried *) 0)->name))

/* What a name given to exclude is remembered by; 0 is none. */
static int32
hash_of(const char *name)
{
	uint32		hash = hash_bytes((const unsigned char *) name, strlen(name));

	return hash == 0 ? 1 : (int32) hash;
}

/* Is a hash among the names that the request excludes? */
static bool
has_name(const LlmqHistory *history, int32 hash)
{
	for (int i = 0; i < LLMQ_MAX_TRIED && history->tried[i].kind != LLMQ_TRIED_NOTHING; i++)
		for (int j = 0; history->tried[i].kind == LLMQ_TRIED_NAMES && j < NAMES_PER_ENTRY; j++)
			if (history->tried[i].name[j] == hash)
				return true;
	return false;
}

/* The first entry of a history that is free; NULL when `reserved` others have to stay so. */
static LlmqTried *
free_entry(LlmqHistory *history, int reserved)
{
	for (int i = 0; i < LLMQ_MAX_TRIED - reserved; i++)
		if (history->tried[i].kind == LLMQ_TRIED_NOTHING)
			return &history->tried[i];
	return NULL;
}

/* The place for one more name; NULL when entries are kept for the attempts that may yet fail. */
static int32 *
place_for_name(LlmqHistory *history, int reserved)
{
	LlmqTried  *entry;

	for (int i = 0; i < LLMQ_MAX_TRIED; i++)
		for (int j = 0; history->tried[i].kind == LLMQ_TRIED_NAMES && j < NAMES_PER_ENTRY; j++)
			if (history->tried[i].name[j] == 0)
				return &history->tried[i].name[j];
	entry = free_entry(history, reserved);
	if (entry == NULL)
		return NULL;
	entry->kind = LLMQ_TRIED_NAMES;
	return &entry->name[0];
}

/* Adds what the pick excludes, for the attempts that follow. */
static void
add_names(LlmqPick *pick)
{
	LlmqHistory *history = &pick->history;

	for (int i = 0; i < pick->nexclude; i++)
	{
		int32		hash = hash_of(pick->exclude[i]);
		int32	   *place;

		if (has_name(history, hash))
			continue;
		place = place_for_name(history, llmq_attempts_most(pick->route) - pick->attempt);
		if (place != NULL)
			*place = hash;
		else
			history->terms |= LLMQ_TERM_TOO_MANY;
	}
}

/* How many attempts there may be at a request by this route. */
int
llmq_attempts_most(const LlmqRoute *route)
{
	return Min(route->option->max_attempts, LLMQ_MAX_TRIED + 1);
}

static uint32
terms_of(const LlmqPick *pick)
{
	uint32		terms = (uint32) pick->ttl_ms << LLMQ_TERM_BITS;

	if (pick->input_tokens != LLMQ_NOT_GIVEN)
		terms |= LLMQ_TERM_INPUT;
	if (pick->output_tokens != LLMQ_NOT_GIVEN)
		terms |= LLMQ_TERM_OUTPUT;
	if (pick->priority == LLMQ_PRIORITY_HIGH)
		terms |= LLMQ_TERM_HIGH;
	if (pick->priority == LLMQ_PRIORITY_LOW)
		terms |= LLMQ_TERM_LOW;
	return terms;
}

/* What an attempt used, as the configuration has it now. */
static void
resolve(LlmqCatalog *catalog, const LlmqTried *tried, LlmqFailedAttempt *failed)
{
	const char *name;

	memset(failed, 0, sizeof(LlmqFailedAttempt));
	failed->failure = tried->failure;
	if ((name = llmq_name_text(tried->name[0])) != NULL)
		failed->key = llmq_catalog_key(catalog, name);
	if ((name = llmq_name_text(tried->name[1])) != NULL)
		failed->account = (LlmqAccount *) llmq_catalog_subject(catalog, LLMQ_SCOPE_ACCOUNT, name);
	if ((name = llmq_name_text(tried->name[2])) != NULL)
		failed->model = llmq_catalog_model(catalog, name);
}

/* What all the attempts in a history used; how many these are. */
static int
resolve_all(LlmqCatalog *catalog, const LlmqHistory *history, LlmqFailedAttempt failed[LLMQ_MAX_TRIED])
{
	int			n = 0;

	for (int i = 0; i < LLMQ_MAX_TRIED; i++)
		if (history->tried[i].kind == LLMQ_TRIED_ATTEMPT)
			resolve(catalog, &history->tried[i], &failed[n++]);
	return n;
}

/* Adds the attempt that failed last to those that its slot knows of. */
static void
add_attempt(LlmqHistory *history, const LlmqSlot *slot)
{
	LlmqTried  *entry = free_entry(history, 0);
	const LlmqSettlement *how = &slot->settlement;

	if (entry == NULL)
		return;					/* there is no next attempt then */
	*entry = (LlmqTried) {
		.name = {slot->key, slot->account, slot->model},.http_status = how->http_status,.kind = LLMQ_TRIED_ATTEMPT,
		.failure = how->outcome == LLMQ_OUTCOME_EXPIRED ? LLMQ_FAILURE_TIMEOUT : how->failure
	};
}

/* Takes over the history of the attempt that failed. */
static void
continue_history(LlmqPick *pick, LlmqRetry *retry)
{
	const LlmqSlot *slot = &retry->lease.slot;
	LlmqHistory *history = &pick->history;

	*history = slot->history;
	history->retry_of = retry->uuid;
	history->terms &= LLMQ_TERM_TOO_MANY;
	add_attempt(history, slot);
	retry->nfailed = resolve_all(pick->catalog, history, retry->failed);
	retry->deadline = slot->granted_at + slot->history.deadline_ms * INT64CONST(1000);
	retry->ask_again_at = slot->settled_at + (BACKOFF << Min(slot->attempt - 1, BACKOFF_DOUBLINGS));
	pick->attempt = slot->attempt + 1 + slot->retries;
}

/* Are there names among what the history keeps? Most have none, and need not look for any. */
static void
note_names(LlmqPick *pick)
{
	for (int i = 0; i < LLMQ_MAX_TRIED; i++)
		if (pick->history.tried[i].kind == LLMQ_TRIED_NAMES)
			pick->remembers_names = true;
}

/* Begins the history of the attempt that the pick makes. Its catalog, route and arguments must be there. */
void
llmq_history_begin(LlmqPick *pick)
{
	memset(&pick->history, 0, sizeof(LlmqHistory));
	pick->attempt = 1;
	if (pick->retry != NULL && !pick->retry->gone)
		continue_history(pick, pick->retry);
	pick->history.terms |= terms_of(pick);
	add_names(pick);
	note_names(pick);
}

/* Takes up the history that a ticket has kept for its pick. */
void
llmq_history_resume(LlmqPick *pick, const LlmqHistory *history)
{
	pick->history = *history;
	note_names(pick);
}

/* May there be another attempt at the request? */
bool
llmq_history_is_over(const LlmqPick *pick)
{
	const LlmqRetry *retry = pick->retry;

	if (retry == NULL)
		return false;
	return retry->gone || pick->attempt > llmq_attempts_most(pick->route) || GetCurrentTimestamp() >= retry->deadline;
}

/* How long after its grant the attempt may have a successor; 0: it may not. */
int32
llmq_history_deadline_ms(const LlmqPick *pick, int attempt, int64 granted_at)
{
	if (attempt >= llmq_attempts_most(pick->route))
		return 0;
	if (pick->retry == NULL)
		return pick->route->option->deadline_ms;
	return (int32) Max((pick->retry->deadline - granted_at) / 1000, 0);
}

/* Is it the same model, by whatever name we have for it? */
static bool
is_same_model(const LlmqModel *a, const LlmqModel *b)
{
	return b != NULL && (a == b || (a->provider == b->provider && strcmp(a->provider_model, b->provider_model) == 0));
}

static bool
is_same_place(const LlmqAccount *a, const LlmqAccount *b)
{
	if (b == NULL)
		return false;
	if (a->base_url == NULL || b->base_url == NULL)
		return a->base_url == b->base_url && a->provider == b->provider;
	return strcmp(a->base_url, b->base_url) == 0;
}

/* Why a candidate is not to be chosen. */
typedef enum Bar
{
	BAR_NONE,
	BAR_MODEL,					/* failed, which another key of it might not */
	BAR_FOR_GOOD
} Bar;

/* What one failed attempt says of a candidate. */
static Bar
bar_by(const LlmqFailedAttempt *failed, const LlmqKey *key, const LlmqModel *model)
{
	bool		barred = false;

	switch ((LlmqFailureKind) failed->failure)
	{
		case LLMQ_FAILURE_OVERLOADED:
		case LLMQ_FAILURE_SERVER:
		case LLMQ_FAILURE_TIMEOUT:
		case LLMQ_FAILURE_NOT_FOUND:
			if (!is_same_model(model, failed->model))
				return BAR_NONE;
			return key == failed->key ? BAR_FOR_GOOD : BAR_MODEL;
		case LLMQ_FAILURE_RATE:
		case LLMQ_FAILURE_QUOTA_DAY:
		case LLMQ_FAILURE_QUOTA_MONTH:
			barred = key->account == failed->account && is_same_model(model, failed->model);
			break;
		case LLMQ_FAILURE_BILLING:
			barred = key->account == failed->account;
			break;
		case LLMQ_FAILURE_AUTH:
		case LLMQ_FAILURE_FORBIDDEN:
			barred = key == failed->key;
			break;
		case LLMQ_FAILURE_NETWORK:
			barred = is_same_place(key->account, failed->account);
			break;
		case LLMQ_FAILURE_BAD_REQUEST:
		case LLMQ_FAILURE_CONTENT:
			barred = is_same_model(model, failed->model);
			break;
		case LLMQ_FAILURE_NONE:
		case LLMQ_FAILURE_CANCELLED:
			break;
	}
	return barred ? BAR_FOR_GOOD : BAR_NONE;
}

/* What all of them say: the most that one does. */
static Bar
bar_by_all(const LlmqFailedAttempt *failed, int n, const LlmqKey *key, const LlmqModel *model)
{
	Bar			bar = BAR_NONE;

	for (int i = 0; i < n; i++)
		bar = Max(bar, bar_by(&failed[i], key, model));
	return bar;
}

/* The attempts that have failed when this one has; how many. */
int
llmq_history_failed(LlmqCatalog *catalog, const LlmqSlot *slot, LlmqFailedAttempt failed[LLMQ_MAX_TRIED])
{
	LlmqHistory history = slot->history;

	add_attempt(&history, slot);
	return resolve_all(catalog, &history, failed);
}

/* Does any of them keep the request from a candidate? */
bool
llmq_history_is_barred(const LlmqFailedAttempt *failed, int n, const LlmqKey *key, const LlmqModel *model)
{
	return bar_by_all(failed, n, key, model) != BAR_NONE;
}

/* Has the first pick excluded the candidate? */
static bool
is_named(const LlmqPick *pick, const LlmqKey *key)
{
	return has_name(&pick->history, hash_of(key->subject.name)) ||
		has_name(&pick->history, hash_of(key->account->subject.name)) ||
		has_name(&pick->history, hash_of(pick->model->name));
}

/* Do the earlier attempts keep the pick from this key for its model? */
bool
llmq_history_bars(const LlmqPick *pick, const LlmqKey *key)
{
	LlmqRetry  *retry = pick->retry;
	Bar			bar;

	if (retry == NULL)
		return false;
	bar = bar_by_all(retry->failed, retry->nfailed, key, pick->model);
	if (bar != BAR_NONE)
		retry->barred = true;
	retry->barred_model = retry->barred_model || bar == BAR_MODEL;
	if (retry->same_model ? bar != BAR_MODEL : bar != BAR_NONE)
		return true;
	return pick->remembers_names && is_named(pick, key);
}

/*
 * Nothing else is left: may models that have failed be asked again with other keys? Then the pick goes over its steps
 * once more and asks for these only.
 */
bool
llmq_history_same_model(LlmqPick *pick)
{
	if (pick->retry == NULL || !pick->retry->barred_model || !pick->route->option->retry_same_model)
		return false;
	pick->retry->same_model = true;
	return true;
}

/* Is it too early to ask a model again that has failed? Says so in the verdict. */
bool
llmq_history_waits(const LlmqPick *pick, LlmqVerdict *verdict)
{
	const LlmqRetry *retry = pick->retry;

	if (retry == NULL || !retry->same_model || pick->now >= retry->ask_again_at)
		return false;
	verdict->admitted = false;
	verdict->when = retry->ask_again_at;
	verdict->cause = (LlmqCause) {
		.model = pick->model,.kind = LLMQ_TROUBLE_COOLING,.failure = retry->failed[retry->nfailed - 1].failure,
	};
	return true;
}
