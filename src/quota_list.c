/*
 * quota_list.c
 *	  All quotas and budgets by their ids, for who goes over many windows and has no plan at hand.
 */
#include "postgres.h"

#include "catalog.h"

static int
compare_quotas(const void *a, const void *b)
{
	int64		left = (*(LlmqQuota *const *) a)->id;
	int64		right = (*(LlmqQuota *const *) b)->id;

	return left < right ? -1 : left > right ? 1 : 0;
}

/* Lists them in the current memory context. Valid as long as the catalog is. */
void
llmq_quotas_list(LlmqCatalog *catalog, LlmqQuotaList *list)
{
	int			size = 64;

	list->settings = &catalog->settings;
	list->n = 0;
	list->quota = palloc(sizeof(LlmqQuota *) * size);
	for (int i = 0; i < LLMQ_SCOPE_COUNT * LLMQ_PART_COUNT; i++)
	{
		LlmqQuota  *quota = catalog->quotas[i / LLMQ_PART_COUNT][i % LLMQ_PART_COUNT];

		for (; quota != NULL; quota = quota->next)
		{
			if (list->n == size)
				list->quota = repalloc(list->quota, sizeof(LlmqQuota *) * (size *= 2));
			list->quota[list->n++] = quota;
		}
	}
	qsort(list->quota, list->n, sizeof(LlmqQuota *), compare_quotas);
}

/* The quota that a window counts for, whatever its subject; NULL when it is gone or has another window now. */
const LlmqQuota *
llmq_quota_of_window(const LlmqQuotaList *list, const LlmqWindow *window)
{
	LlmqQuota	wanted = {.id = window->quota};
	LlmqQuota  *key = &wanted;
	LlmqQuota **found = bsearch(&key, list->quota, list->n, sizeof(LlmqQuota *), compare_quotas);

	return found != NULL && llmq_plan_fits(*found, window, list->settings) ? *found : NULL;
}
