/*
 * window_recount.c
 *	  Puts what a window ought to have held at some moment in the place of what it held then.
 *
 * Pure, as all of window.h: nothing here calls the server. The window has gone on counting since that moment, and what
 * has been added and taken back in its buckets since stays as it is.
 */
#include "postgres.h"

#include "window.h"

/* What a window holds in the bucket of that number, or in its period; 0 when it has none. */
static int64
held_in(const LlmqWindow *window, int64 number)
{
	if (window->kind != LLMQ_WINDOW_SLIDING)
		return window->sum;
	if (number > window->head || window->head - number >= LLMQ_BUCKETS)
		return 0;
	return window->bucket[llmq_bucket_place(number)];
}

/* Changes what a bucket, or the period, holds: by no more than is there, and than 64 bits have room for. */
static void
change(LlmqWindow *window, int64 number, int64 delta)
{
	int64		least = -held_in(window, number);
	int64		most = PG_INT64_MAX - Max(window->sum, 0);
	int64		applied = Min(Max(delta, least), most);

	if (delta > most)
		llmq_window_loosen(window);
	window->sum += applied;
	if (window->kind == LLMQ_WINDOW_SLIDING)
		window->bucket[llmq_bucket_place(number)] += applied;
}

/*
 * Counts a window anew: sums are what it ought to have held when it was `then`, by buckets from number `first` on, or
 * one for a period. False, and nothing is changed, when nobody knows any more which buckets those are, or what the
 * period before has handed on.
 */
bool
llmq_window_recount(LlmqWindow *window, const LlmqWindow *then, int64 first, const int64 *sums)
{
	if (window->rebased != then->rebased || (window->flags & LLMQ_WINDOW_CARRIED))
		return false;
	if (window->kind != LLMQ_WINDOW_SLIDING)
	{
		/* a period that is over needs nothing */
		if (window->head == then->head)
			change(window, 0, sums[0] - then->sum);
		return true;
	}
	for (int64 number = first; number < first + LLMQ_BUCKETS; number++)
		if (number <= window->head && window->head - number < LLMQ_BUCKETS)
			change(window, number, sums[number - first] - held_in(then, number));
	return true;
}
