/*
 * histogram.h
 *	  Histograms of latencies: which bucket, and what a share of the calls stayed under.
 */
#ifndef LLMQ_HISTOGRAM_H
#define LLMQ_HISTOGRAM_H

#include "postgres.h"

/*
 * Bucket 0 is everything under 16 ms; from there on four buckets to each doubling, up to the largest latency there is.
 * The number of buckets and their bounds are stored in every histogram: never to be changed.
 */
#define LLMQ_HISTOGRAM_BUCKETS 109

extern int	llmq_histogram_bucket(int32 milliseconds);
extern int64 llmq_histogram_lower(int bucket);
extern bool llmq_histogram_percentile(const int64 *counts, int nbuckets, double share, double *milliseconds);

#endif							/* LLMQ_HISTOGRAM_H */
