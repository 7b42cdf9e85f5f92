/*
 * effective.c
 *	  The limits of an account as they hold for a model: the configured ones, or less where the provider says so.
 *
 * What providers say is in the service cells (service.h). A number on the first board changes with any of it, and is
 * read by every pick anyway; so the cell of a model at an account is read again only when there is something new, and
 * never as long as nothing was ever learned. Nothing here may be called while a page is locked.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "catalog.h"
#include "health.h"
#include "service.h"

/* Copies what is known now of the model's limits at the account. */
static void
read_learned(LlmqLive *live, LlmqMeters *meters, LlmqAccount *account)
{
	LlmqNameRef *model = unconstify(LlmqNameRef *, &meters->model->ref);
	LlmqService service = {0};

	if (meters->learned == NULL)
		meters->learned = MemoryContextAlloc(account->subject.context, sizeof(service.learned));
	(void) llmq_service_find(live, &account->subject.ref, model, &service);
	memcpy(meters->learned, service.learned, sizeof(service.learned));
	meters->limits = llmq_health_limits();
}

/* Which of two that bound a limit says more of it: what is about the limit itself, else the smaller. */
static bool
is_closer(const LlmqLearned *learned, const LlmqLearned *other, const LlmqLimit *limit)
{
	if (other->amount == 0 || llmq_learned_is_about(learned->span, &limit->shape, limit->quota->length))
		return true;
	return learned->amount < other->amount &&
		!llmq_learned_is_about(other->span, &limit->shape, limit->quota->length);
}

/* What was said that bounds a limit; nothing, as of a free place, when nothing was. */
static LlmqLearned
learned_of(const LlmqMeters *meters, const LlmqLimit *limit)
{
	LlmqLearned closest = {0};

	for (int i = 0; i < LLMQ_MAX_LEARNED; i++)
	{
		const LlmqLearned *learned = &meters->learned[i];

		if (learned->amount != 0 && learned->metric == limit->quota->metric &&
			llmq_learned_bounds(learned->span, &limit->shape, limit->quota->length) &&
			is_closer(learned, &closest, limit))
			closest = *learned;
	}
	return closest;
}

/* Tells the limits of an account what is known of them for the model of these meters. */
void
llmq_limits_apply(LlmqLive *live, LlmqMeters *meters, LlmqAccount *account)
{
	if (llmq_health_limits() == 0 || meters->n == 0)
		return;
	if (meters->learned == NULL || meters->limits != llmq_health_limits())
		read_learned(live, meters, account);
	for (int i = 0; i < meters->n; i++)
		for (int j = 0; j < meters->meter[i]->nlimits; j++)
			meters->meter[i]->limit[j].learned = learned_of(meters, &meters->meter[i]->limit[j]);
}

/* The smallest configured limit of a metric and span that is enforced; NULL when there is none. */
const LlmqLimit *
llmq_limits_configured(const LlmqMeters *meters, LlmqMetric metric, LlmqSpan span)
{
	const LlmqLimit *least = NULL;

	for (int i = 0; i < meters->n; i++)
		for (int j = 0; j < meters->meter[i]->nlimits; j++)
		{
			const LlmqLimit *limit = &meters->meter[i]->limit[j];

			if (limit->enforced && limit->quota->metric == metric &&
				llmq_learned_is_about(span, &limit->shape, limit->quota->length) &&
				(least == NULL || limit->quota->amount < least->quota->amount))
				least = limit;
		}
	return least;
}
