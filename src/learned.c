/*
 * learned.c
 *	  What a provider says of its limits, and how far that holds.
 *
 * Pure functions: no server calls, nothing locked, nothing raised, so they may be used under a lock.
 *
 * Whoever may record may send any headers, so nothing is believed very far. A limit that is said to be lower than the
 * configured one holds instead, but never below a hundredth of that; when nobody has said so again for as long as it
 * lasts, it is doubled step by step: calls that are let through then find out, and the first that is refused brings it
 * back. What a refusal names is not taken back by a header that says more, as headers are often about another limit.
 * What is said to remain can only take something away from what a meter has left.
 */
#include "postgres.h"

#include <math.h>

#include "learned.h"

/* Never less of the configured amount is left: one part in so many. */
#define LEAST_PART 100

/* A confirmation is written down when the last one is older than this part of how long it lasts. */
#define CONFIRM_PART 16

/* After that time it is doubled each time such a part of it has passed. */
#define PROBE_PART 8

/* What remains is no news when the call took longer than this part of the limit's span. */
#define FRESH_PART 6

/* Estimates differ: a meter is behind when it is by more than one part in so many. */
#define BEHIND_PART 100

#define SECOND INT64CONST(1000000)

/* How long a span is, in microseconds; of a month about as long. */
int64
llmq_span_length(LlmqSpan span)
{
	static const int64 lengths[] = {
		[LLMQ_SPAN_UNKNOWN] = 0,
		[LLMQ_SPAN_SECOND] = SECOND,
		[LLMQ_SPAN_MINUTE] = 60 * SECOND,
		[LLMQ_SPAN_HOUR] = 3600 * SECOND,
		[LLMQ_SPAN_DAY] = 86400 * SECOND,
		[LLMQ_SPAN_MONTH] = 30 * 86400 * SECOND
	};

	return lengths[span];
}

/* Is a limit of this span the one that a window counts for? `length` is that of a sliding one. */
bool
llmq_learned_is_about(LlmqSpan span, const LlmqWindowShape *shape, int64 length)
{
	if (shape->kind == LLMQ_WINDOW_SLIDING)
		return span != LLMQ_SPAN_MONTH && span != LLMQ_SPAN_UNKNOWN && length == llmq_span_length(span);
	if (shape->kind != LLMQ_WINDOW_CALENDAR)
		return false;
	return (span == LLMQ_SPAN_DAY && llmq_unit_calendar(shape->unit) == LLMQ_CALENDAR_DAY) ||
		(span == LLMQ_SPAN_MONTH && llmq_unit_calendar(shape->unit) == LLMQ_CALENDAR_MONTH);
}

/*
 * Can what fits the window be no more than a limit of this span? Of the window's own length that is the same limit; and
 * what may come in a minute is the most that may come in any part of it.
 */
bool
llmq_learned_bounds(LlmqSpan span, const LlmqWindowShape *shape, int64 length)
{
	return llmq_learned_is_about(span, shape, length) ||
		(shape->kind == LLMQ_WINDOW_SLIDING && length < llmq_span_length(span));
}

/* What was said of a limit; NULL when nothing was. */
LlmqLearned *
llmq_learned_find(LlmqLearned *list, LlmqMetric metric, LlmqSpan span)
{
	for (int i = 0; i < LLMQ_MAX_LEARNED; i++)
		if (list[i].amount != 0 && list[i].metric == metric && list[i].span == span)
			return &list[i];
	return NULL;
}

/* A place for a limit that was not known: a free one, or that of which nobody has said anything for longest. */
static LlmqLearned *
find_place(LlmqLearned *list)
{
	LlmqLearned *place = list;

	for (int i = 0; i < LLMQ_MAX_LEARNED; i++)
	{
		if (list[i].amount == 0)
			return &list[i];
		if (list[i].observed_at < place->observed_at)
			place = &list[i];
	}
	return place;
}

/* Does what is known stand against a lesson that says more? */
static bool
stands(const LlmqLearned *learned, const LlmqLesson *lesson)
{
	if (lesson->amount <= learned->amount)
		return false;
	/* of one answer that says both the smaller holds */
	if (lesson->named)
		return learned->observed_at == lesson->now;
	return learned->named && lesson->now - learned->observed_at < lesson->ttl;
}

/* Takes in what one answer says of one limit. */
LlmqLearning
llmq_learn(LlmqLearned *list, const LlmqLesson *lesson)
{
	LlmqLearned *learned = llmq_learned_find(list, lesson->metric, lesson->span);
	bool		same = learned != NULL && learned->amount == lesson->amount;
	int64		age;

	if (learned == NULL)
	{
		learned = find_place(list);
		memset(learned, 0, sizeof(LlmqLearned));
	}
	else if (stands(learned, lesson))
		return LLMQ_LEARNING_NOTHING;
	age = lesson->now - learned->observed_at;
	if (same && age >= 0 && age < lesson->ttl / CONFIRM_PART && (learned->named || !lesson->named))
		return LLMQ_LEARNING_NOTHING;
	learned->amount = lesson->amount;
	learned->observed_at = lesson->now;
	learned->metric = lesson->metric;
	learned->span = lesson->span;
	learned->named = lesson->named || (same && learned->named);
	return same ? LLMQ_LEARNING_CONFIRMED : LLMQ_LEARNING_NEW;
}

/* How much of a configured amount holds now, by what was said of the limit and when. */
int64
llmq_learned_amount(const LlmqLearned *learned, int64 configured, int64 ttl, int64 now)
{
	int64		amount = Max(learned->amount, (configured + LEAST_PART - 1) / LEAST_PART);
	int64		over = now - learned->observed_at - ttl;
	int64		step = Max(ttl / PROBE_PART, 1);

	if (learned->amount == 0 || learned->amount >= configured)
		return configured;
	for (; over >= 0 && amount < configured; over -= step)
		amount = amount > configured / 2 ? configured : amount * 2;
	return amount;
}

/*
 * By how much a meter that has used so much of an amount is behind what the answer to a call says: others use it too.
 * What has come back since the call was granted, at the limit's pace, is not missing. 0: it is not behind, or nobody
 * can tell.
 */
int64
llmq_learned_behind(const LlmqLesson *lesson, int64 amount, int64 used, int64 granted_at)
{
	int64		length = llmq_span_length(lesson->span);
	int64		age = lesson->now - granted_at;
	double		returned = floor((double) lesson->amount * (double) age / (double) Max(length, 1));
	double		behind = (double) amount - (double) used - (double) lesson->remaining - returned;

	if (lesson->remaining <= 0 || lesson->remaining > lesson->amount || age < 0 || age > length / FRESH_PART)
		return 0;
	return behind < 1 || behind * BEHIND_PART <= (double) amount ? 0 : (int64) behind;
}
