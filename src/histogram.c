/*
 * histogram.c
 *	  Histograms of latencies: which bucket, and what a share of the calls stayed under.
 *
 * Pure functions: no server calls, nothing locked, nothing raised. Buckets widen with the latency, so that a percentile
 * is within an eighth of the truth everywhere, and histograms of the same buckets can be added.
 */
#include "postgres.h"

#include "port/pg_bitutils.h"

#include "histogram.h"

/* The first bucket ends at 2^4 ms; the two bits behind the highest choose among the four of a doubling. */
#define FIRST_DOUBLING 4
#define BUCKETS_PER_DOUBLING 4

/* The bucket of a latency, which is not negative. */
int
llmq_histogram_bucket(int32 milliseconds)
{
	int			doubling;

	if (milliseconds < 1 << FIRST_DOUBLING)
		return 0;
	doubling = pg_leftmost_one_pos32((uint32) milliseconds);
	return 1 + (doubling - FIRST_DOUBLING) * BUCKETS_PER_DOUBLING +
		((milliseconds >> (doubling - 2)) & (BUCKETS_PER_DOUBLING - 1));
}

/* Where a bucket begins, in milliseconds; the one after the last begins where the last ends. */
int64
llmq_histogram_lower(int bucket)
{
	int			doubling = FIRST_DOUBLING + (bucket - 1) / BUCKETS_PER_DOUBLING;
	int			quarter = (bucket - 1) % BUCKETS_PER_DOUBLING;

	return bucket == 0 ? 0 : (INT64CONST(4) + quarter) << (doubling - 2);
}

/*
 * The latency that a share (0 to 1) of the calls stayed under, calls of one bucket being spread evenly over it. False
 * when there are none.
 */
bool
llmq_histogram_percentile(const int64 *counts, int nbuckets, double share, double *milliseconds)
{
	double		total = 0;
	double		wanted;
	double		below = 0;
	int			last = -1;

	for (int i = 0; i < nbuckets; i++)
	{
		total += counts[i];
		if (counts[i] > 0)
			last = i;
	}
	if (last < 0)
		return false;
	wanted = share * total;
	for (int i = 0; i <= last; i++)
	{
		if (counts[i] > 0 && (below + counts[i] >= wanted || i == last))
		{
			int64		lower = llmq_histogram_lower(i);
			double		part = Max(wanted - below, 0) / counts[i];

			*milliseconds = lower + Min(part, 1) * (llmq_histogram_lower(i + 1) - lower);
			break;
		}
		below += counts[i];
	}
	return true;
}
