/*
 * learned_test.c
 *	  What a provider says of its limits holds as far as it should, and no further.
 *
 * links: src/learned.c
 */
#include "postgres.h"

#include <stdlib.h>

#include "learned.h"
#include "tap.h"

#define SECOND INT64CONST(1000000)
#define HOUR (3600 * SECOND)
#define NOW (INT64CONST(800000000) * SECOND)

enum
{
	LESS, LEAST, LASTS, PROBES, CLOCK, REPLACED, NAMED, BOTH, CONFIRMED, FULL, ABOUT, BOUNDS, BEHIND, NEVER_MORE, NEVER_BELOW,
	OLD, PROMISES
};

static Promise promises[PROMISES] = {
	[LESS] = {.name = "less than is configured holds, more does not"},
	[LEAST] = {.name = "never less than a hundredth of what is configured"},
	[LASTS] = {.name = "for as long as a limit that was seen lasts"},
	[PROBES] = {.name = "then it only grows, step by step, to what is configured"},
	[CLOCK] = {.name = "a clock that goes back changes nothing"},
	[REPLACED] = {.name = "what headers say is replaced by what headers say later"},
	[NAMED] = {.name = "what a refusal names is not taken back by a header that says more, until it is old"},
	[BOTH] = {.name = "of an answer that says both the smaller holds"},
	[CONFIRMED] = {.name = "what is said again is written down now and then"},
	[FULL] = {.name = "a new limit takes the place of the one nobody has spoken of for the longest time"},
	[ABOUT] = {.name = "a limit is about windows of its length, or of its calendar period"},
	[BOUNDS] = {.name = "and bounds sliding windows that are shorter"},
	[BEHIND] = {.name = "a meter is behind by what is missing from what remains"},
	[NEVER_MORE] = {.name = "and is never brought past its amount"},
	[NEVER_BELOW] = {.name = "nor is anything taken from it"},
	[OLD] = {.name = "old news is none, and what came back since is not missing"},
};

static LlmqLesson
lesson(int64 amount, bool named, int64 now)
{
	return (LlmqLesson) {
		.metric = LLMQ_METRIC_TOKENS,.span = LLMQ_SPAN_MINUTE,.amount = amount,.named = named,.now = now,.ttl = HOUR
	};
}

/* Takes in one lesson; the amount that is known then. */
static int64
teach(LlmqLearned *list, int64 amount, bool named, int64 now)
{
	LlmqLesson	said = lesson(amount, named, now);

	(void) llmq_learn(list, &said);
	return llmq_learned_find(list, LLMQ_METRIC_TOKENS, LLMQ_SPAN_MINUTE)->amount;
}

static void
test_amount(void)
{
	LlmqLearned learned = {.amount = 600,.observed_at = NOW};
	LlmqLearned nothing = {0};
	int64		before = 600;

	CHECK(&promises[LESS], llmq_learned_amount(&learned, 1000, HOUR, NOW) == 600, "less");
	CHECK(&promises[LESS], llmq_learned_amount(&learned, 600, HOUR, NOW) == 600, "as much");
	CHECK(&promises[LESS], llmq_learned_amount(&learned, 100, HOUR, NOW) == 100, "more");
	CHECK(&promises[LESS], llmq_learned_amount(&nothing, 100, HOUR, NOW) == 100, "nothing");
	CHECK(&promises[LESS], llmq_learned_amount(&learned, 0, HOUR, NOW) == 0, "closed");
	CHECK(&promises[LEAST], llmq_learned_amount(&learned, 100001, HOUR, NOW) == 1001, "rounded up");
	CHECK(&promises[LEAST], llmq_learned_amount(&learned, PG_INT64_MAX / 2, HOUR, NOW) >= PG_INT64_MAX / 200, "large");
	CHECK(&promises[LASTS], llmq_learned_amount(&learned, 10000, HOUR, NOW + HOUR - 1) == 600, "the last moment");
	CHECK(&promises[CLOCK], llmq_learned_amount(&learned, 10000, HOUR, NOW - HOUR) == 600, "before");
	for (int64 at = NOW; at < NOW + 3 * HOUR; at += 60 * SECOND)
	{
		int64		amount = llmq_learned_amount(&learned, 10000, HOUR, at);

		CHECK(&promises[PROBES], amount == before || (amount == Min(before * 2, 10000) && at >= NOW + HOUR),
			  INT64_FORMAT " after " INT64_FORMAT, amount, before);
		before = amount;
	}
	CHECK(&promises[PROBES], before == 10000, "at the end " INT64_FORMAT, before);
	CHECK(&promises[PROBES], llmq_learned_amount(&learned, PG_INT64_MAX, HOUR, NOW + 100 * HOUR) == PG_INT64_MAX, "large");
}

static void
test_learn(void)
{
	LlmqLearned list[LLMQ_MAX_LEARNED] = {0};
	LlmqLesson	again = lesson(500, false, NOW + HOUR / 32);

	CHECK(&promises[REPLACED], teach(list, 600, false, NOW) == 600, "the first");
	CHECK(&promises[REPLACED], teach(list, 900, false, NOW + 1) == 900, "more");
	CHECK(&promises[REPLACED], teach(list, 500, false, NOW + 2) == 500, "less");
	CHECK(&promises[CONFIRMED], llmq_learn(list, &again) == LLMQ_LEARNING_NOTHING, "at once");
	again.now = NOW + HOUR / 16 + 2;
	CHECK(&promises[CONFIRMED], llmq_learn(list, &again) == LLMQ_LEARNING_CONFIRMED && list[0].observed_at == again.now,
		  "after a while");
	CHECK(&promises[NAMED], teach(list, 400, true, NOW + HOUR) == 400, "named");
	CHECK(&promises[NAMED], teach(list, 500, false, NOW + 2 * HOUR - 1) == 400, "a header");
	CHECK(&promises[NAMED], teach(list, 450, true, NOW + 2 * HOUR - 1) == 450, "named again");
	CHECK(&promises[NAMED], teach(list, 300, false, NOW + 2 * HOUR) == 300, "less");
	CHECK(&promises[NAMED], teach(list, 700, false, NOW + 3 * HOUR) == 700, "no longer named");
	CHECK(&promises[NAMED], teach(list, 400, true, NOW + 4 * HOUR) == 400, "named");
	CHECK(&promises[NAMED], teach(list, 800, false, NOW + 5 * HOUR) == 800, "old");
	CHECK(&promises[BOTH], teach(list, 200, false, NOW + 6 * HOUR) == 200, "headers first");
	CHECK(&promises[BOTH], teach(list, 900, true, NOW + 6 * HOUR) == 200, "then the body, which says more");
	CHECK(&promises[BOTH], teach(list, 100, true, NOW + 6 * HOUR) == 100, "or less");
}

static void
test_full(void)
{
	LlmqLearned list[LLMQ_MAX_LEARNED] = {0};

	for (int i = 0; i < LLMQ_MAX_LEARNED; i++)
	{
		LlmqLesson	said = {
			.metric = i % 4,.span = LLMQ_SPAN_SECOND + i / 4,.amount = 100 + i,.now = NOW + i,.ttl = HOUR
		};

		CHECK(&promises[FULL], llmq_learn(list, &said) == LLMQ_LEARNING_NEW, "%d", i);
	}
	for (int i = 0; i < LLMQ_MAX_LEARNED; i++)
	{
		LlmqLesson	said = {
			.metric = i % 4,.span = LLMQ_SPAN_DAY + i / 4,.amount = 200 + i,.now = NOW + 100 + i,.ttl = HOUR
		};

		(void) llmq_learn(list, &said);
		CHECK(&promises[FULL], llmq_learned_find(list, i % 4, LLMQ_SPAN_SECOND + i / 4) == NULL, "%d is there", i);
		CHECK(&promises[FULL], llmq_learned_find(list, i % 4, LLMQ_SPAN_DAY + i / 4)->amount == 200 + i, "%d is not", i);
	}
}

static void
test_about(void)
{
	LlmqWindowShape sliding = {.kind = LLMQ_WINDOW_SLIDING};
	LlmqWindowShape day = {.kind = LLMQ_WINDOW_CALENDAR,.unit = LLMQ_CALENDAR_DAY};
	LlmqWindowShape month = {.kind = LLMQ_WINDOW_CALENDAR,.unit = LLMQ_CALENDAR_MONTH};
	LlmqWindowShape calls = {.kind = LLMQ_WINDOW_CONCURRENCY};
	static const int64 lengths[] = {0, 1, 60, 3600, 86400, 30 * 86400};

	for (LlmqSpan span = LLMQ_SPAN_UNKNOWN; span <= LLMQ_SPAN_MONTH; span++)
	{
		for (int i = 0; i < 6; i++)
			CHECK(&promises[ABOUT], llmq_learned_is_about(span, &sliding, lengths[i] * SECOND) ==
				  (i == (int) span && i > 0 && i < 5), "span %d, %d", span, i);
		for (int i = 1; i < 6; i++)
			CHECK(&promises[BOUNDS], llmq_learned_bounds(span, &sliding, lengths[i] * SECOND) ==
				  (span != LLMQ_SPAN_UNKNOWN && (i < (int) span || (i == (int) span && i < 5))), "span %d, %d", span, i);
		CHECK(&promises[BOUNDS], llmq_learned_bounds(span, &day, 0) == (span == LLMQ_SPAN_DAY), "day, %d", span);
		CHECK(&promises[BOUNDS], !llmq_learned_bounds(span, &calls, 0), "concurrency, %d", span);
		CHECK(&promises[ABOUT], llmq_learned_is_about(span, &day, 0) == (span == LLMQ_SPAN_DAY), "day, %d", span);
		CHECK(&promises[ABOUT], llmq_learned_is_about(span, &month, 0) == (span == LLMQ_SPAN_MONTH), "month, %d", span);
		CHECK(&promises[ABOUT], !llmq_learned_is_about(span, &calls, 0), "concurrency, %d", span);
	}
}

static int64
behind(int64 remaining, int64 amount, int64 used, int64 age)
{
	LlmqLesson	said = lesson(1000, false, NOW);

	said.remaining = remaining;
	return llmq_learned_behind(&said, amount, used, NOW - age);
}

static void
test_behind(void)
{
	CHECK(&promises[BEHIND], behind(300, 1000, 100, 0) == 600, "others have used 600");
	CHECK(&promises[BEHIND], behind(300, 500, 100, 0) == 100, "of 500 that are configured 300 remain");
	CHECK(&promises[BEHIND], behind(891, 1000, 100, 0) == 0, "one in a hundred may be an estimate");
	CHECK(&promises[BEHIND], behind(0, 1000, 100, 0) == 0, "nothing remains: not said");
	CHECK(&promises[BEHIND], behind(-5, 1000, 100, 0) == 0, "less than nothing");
	CHECK(&promises[BEHIND], behind(1001, 2000, 100, 0) == 0, "more than there is");
	CHECK(&promises[OLD], behind(300, 1000, 100, 6 * SECOND) == 500, "a tenth has come back");
	CHECK(&promises[OLD], behind(300, 1000, 100, 11 * SECOND) == 0, "too old");
	CHECK(&promises[OLD], behind(300, 1000, 100, -1) == 0, "from the future");
	for (int i = 0; i < 100000; i++)
	{
		int64		amount = 1 + random() % 1000;
		int64		used = random() % 1500;
		int64		remaining = random() % 1100;
		int64		lack = behind(remaining, amount, used, random() % (10 * SECOND));

		CHECK(&promises[NEVER_BELOW], lack >= 0, INT64_FORMAT, lack);
		CHECK(&promises[NEVER_MORE], lack == 0 || used + lack <= amount - remaining, INT64_FORMAT " of " INT64_FORMAT,
			  used + lack, amount);
	}
}

int
main(void)
{
	test_amount();
	test_learn();
	test_full();
	test_about();
	test_behind();
	return promises_report(promises, PROMISES);
}
