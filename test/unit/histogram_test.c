/*
 * histogram_test.c
 *	  Buckets of latencies leave nothing out, and percentiles are as near as the buckets are narrow.
 *
 * links: src/histogram.c
 */
#include "postgres.h"

#include <stdlib.h>

#include "histogram.h"
#include "tap.h"

#define CALLS 1000

enum
{
	INSIDE, NEXT, WIDTH, LAST, EMPTY, NEAR, ENDS, MIDDLE, PROMISES
};

static Promise promises[PROMISES] = {
	[INSIDE] = {.name = "a latency lies in its bucket"},
	[NEXT] = {.name = "each bucket begins where the one before ends"},
	[WIDTH] = {.name = "from 16 ms on no bucket is wider than a quarter of where it begins"},
	[LAST] = {.name = "the largest latency has a bucket, the last one"},
	[EMPTY] = {.name = "without calls there is no percentile"},
	[NEAR] = {.name = "a percentile is within a quarter of the latency that so many calls did not exceed"},
	[ENDS] = {.name = "shares of 0 and 1 are the ends of the first and last bucket with calls"},
	[MIDDLE] = {.name = "calls of one bucket are spread evenly over it"},
};

static void
test_bucket(int32 latency)
{
	int			bucket = llmq_histogram_bucket(latency);

	CHECK(&promises[INSIDE], llmq_histogram_lower(bucket) <= latency && latency < llmq_histogram_lower(bucket + 1),
		  "%d ms in bucket %d", latency, bucket);
}

static void
test_buckets(void)
{
	for (int32 latency = 0; latency < 100000; latency++)
		test_bucket(latency);
	for (int64 latency = 100000; latency <= PG_INT32_MAX; latency = latency * 101 / 100)
	{
		test_bucket((int32) latency - 1);
		test_bucket((int32) latency);
	}
	for (int bucket = 0; bucket < LLMQ_HISTOGRAM_BUCKETS; bucket++)
	{
		int64		lower = llmq_histogram_lower(bucket);
		int64		upper = llmq_histogram_lower(bucket + 1);

		CHECK(&promises[NEXT], lower < upper && llmq_histogram_bucket((int32) lower) == bucket &&
			  llmq_histogram_bucket((int32) (upper - 1)) == bucket, "bucket %d", bucket);
		CHECK(&promises[WIDTH], bucket == 0 || (upper - lower) * 4 <= lower, "bucket %d", bucket);
	}
	CHECK(&promises[LAST], llmq_histogram_bucket(PG_INT32_MAX) == LLMQ_HISTOGRAM_BUCKETS - 1, "it is bucket %d",
		  llmq_histogram_bucket(PG_INT32_MAX));
}

static int
compare(const void *a, const void *b)
{
	return *(const int32 *) a - *(const int32 *) b;
}

/* Random latencies of all magnitudes against what sorting them says. */
static void
test_percentiles(void)
{
	int64		counts[LLMQ_HISTOGRAM_BUCKETS] = {0};
	int32		latencies[CALLS];
	double		milliseconds;

	CHECK(&promises[EMPTY], !llmq_histogram_percentile(counts, LLMQ_HISTOGRAM_BUCKETS, 0.5, &milliseconds), "there is");
	CHECK(&promises[EMPTY], !llmq_histogram_percentile(counts, 0, 0.5, &milliseconds), "there is");
	for (int i = 0; i < CALLS; i++)
	{
		latencies[i] = (int32) (random() % (1 << (6 + random() % 12)));
		counts[llmq_histogram_bucket(latencies[i])]++;
	}
	qsort(latencies, CALLS, sizeof(int32), compare);
	for (int i = 1; i < CALLS; i++)
	{
		int32		truth = latencies[i - 1];

		(void) llmq_histogram_percentile(counts, LLMQ_HISTOGRAM_BUCKETS, i / (double) CALLS, &milliseconds);
		CHECK(&promises[NEAR], milliseconds >= truth * 0.75 - 16 && milliseconds <= truth * 1.25 + 16,
			  "%d of %d: %f, not %d", i, CALLS, milliseconds, truth);
	}
}

static void
test_interpolation(void)
{
	int64		counts[] = {0, 4, 0, 0, 0, 2, 0};	/* 16 to 20 and 32 to 40 ms */
	double		milliseconds;

	(void) llmq_histogram_percentile(counts, lengthof(counts), 0, &milliseconds);
	CHECK(&promises[ENDS], milliseconds == 16, "the least is %f", milliseconds);
	(void) llmq_histogram_percentile(counts, lengthof(counts), 1, &milliseconds);
	CHECK(&promises[ENDS], milliseconds == 40, "the most is %f", milliseconds);
	(void) llmq_histogram_percentile(counts, lengthof(counts), 0.5, &milliseconds);
	CHECK(&promises[MIDDLE], milliseconds == 19, "the median is %f", milliseconds);
}

int
main(void)
{
	test_buckets();
	test_percentiles();
	test_interpolation();
	return promises_report(promises, PROMISES);
}
