/*
 * threshold.c
 *	  The parts of a limit's amount at which somebody is told: which use reaches them.
 */
#include "postgres.h"

#include "threshold.h"

/* Adds a threshold, in its order; one that is there already is not added, nor one too many. */
void
llmq_threshold_add(LlmqThresholds *thresholds, int64 part)
{
	int			place = thresholds->n;

	while (place > 0 && thresholds->part[place - 1] >= part)
		place--;
	if (thresholds->n == LLMQ_MAX_THRESHOLDS || (place < thresholds->n && thresholds->part[place] == part))
		return;
	memmove(&thresholds->part[place + 1], &thresholds->part[place], sizeof(int64) * (thresholds->n - place));
	thresholds->part[place] = part;
	thresholds->n++;
}

/* The least use that is no less than this part of the amount. */
int64
llmq_threshold_use(int64 part, int64 amount)
{
	return (int64) (((int128) part * amount + LLMQ_THRESHOLD_ONE - 1) / LLMQ_THRESHOLD_ONE);
}

/* The use that reaches the next threshold: the first that what is used has not reached yet. An amount of 0 has none. */
int64
llmq_threshold_next(const LlmqThresholds *thresholds, int64 amount, int64 used)
{
	for (int i = 0; amount > 0 && i < thresholds->n; i++)
	{
		int64		use = llmq_threshold_use(thresholds->part[i], amount);

		if (use > used)
			return use;
	}
	return LLMQ_NO_THRESHOLD;
}
