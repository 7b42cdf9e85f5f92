/*
 * percentile.c
 *	  Histograms of latencies in SQL: an array of counts, as long as its last bucket that is not empty.
 *
 * llmquota_histogram() counts latencies, llmquota_histogram_sum() adds histograms, llmquota_percentile() reads them.
 * All are pure: no table is touched. Within an aggregate an array of full length is edited in place; what leaves it
 * has no empty buckets at its end, so that equal histograms are equal arrays.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/int.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "histogram.h"

PG_FUNCTION_INFO_V1(llmquota_histogram_count);
PG_FUNCTION_INFO_V1(llmquota_histogram_add);
PG_FUNCTION_INFO_V1(llmquota_histogram_trim);
PG_FUNCTION_INFO_V1(llmquota_percentile);

/* Counts of a histogram: the bigints of a one-dimensional array without NULLs. Raises for any other array. */
static int64 *
counts_of(ArrayType *array, int *n)
{
	*n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	if (ARR_NDIM(array) > 1 || array_contains_nulls(array) || *n > LLMQ_HISTOGRAM_BUCKETS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("array is not a histogram"),
				 errhint("A histogram is a one-dimensional array of at most %d counts.", LLMQ_HISTOGRAM_BUCKETS)));
	return (int64 *) ARR_DATA_PTR(array);
}

/* An array of so many counts, all 0. */
static ArrayType *
new_histogram(MemoryContext context, int n)
{
	Size		size = ARR_OVERHEAD_NONULLS(n > 0 ? 1 : 0) + n * sizeof(int64);
	ArrayType  *array = MemoryContextAllocZero(context, size);

	SET_VARSIZE(array, size);
	array->ndim = n > 0 ? 1 : 0;
	array->elemtype = INT8OID;
	if (n > 0)
	{
		ARR_DIMS(array)[0] = n;
		ARR_LBOUND(array)[0] = 1;
	}
	return array;
}

/* The aggregate's state, of full length and ours to edit; a fresh one at its beginning or when called by itself. */
static ArrayType *
state_of(FunctionCallInfo fcinfo)
{
	MemoryContext context;
	bool		within = AggCheckCallContext(fcinfo, &context) != 0;
	ArrayType  *given = PG_ARGISNULL(0) ? NULL : PG_GETARG_ARRAYTYPE_P(0);
	ArrayType  *state;
	int			n;

	if (given != NULL && within && ArrayGetNItems(ARR_NDIM(given), ARR_DIMS(given)) == LLMQ_HISTOGRAM_BUCKETS)
		return given;
	state = new_histogram(within ? context : CurrentMemoryContext, LLMQ_HISTOGRAM_BUCKETS);
	if (given != NULL)
	{
		int64	   *counts = counts_of(given, &n);

		memcpy(ARR_DATA_PTR(state), counts, n * sizeof(int64));
	}
	return state;
}

static void
add_count(int64 *count, int64 calls)
{
	if (pg_add_s64_overflow(*count, calls, count))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("count of a histogram is out of range")));
}

/* A histogram without the empty buckets at its end. */
static ArrayType *
trimmed(ArrayType *array)
{
	int			n;
	int64	   *counts = counts_of(array, &n);
	ArrayType  *result;

	while (n > 0 && counts[n - 1] == 0)
		n--;
	result = new_histogram(CurrentMemoryContext, n);
	memcpy(ARR_DATA_PTR(result), counts, n * sizeof(int64));
	return result;
}

/* llmquota_histogram_count(state, latency_ms, calls): counts so many calls that took so long; NULL: not known */
Datum
llmquota_histogram_count(PG_FUNCTION_ARGS)
{
	ArrayType  *state = state_of(fcinfo);
	int32		latency = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);

	if (!PG_ARGISNULL(1) && !PG_ARGISNULL(2))
		add_count((int64 *) ARR_DATA_PTR(state) + llmq_histogram_bucket(Max(latency, 0)), PG_GETARG_INT64(2));
	PG_RETURN_ARRAYTYPE_P(state);
}

/* llmquota_histogram_add(state, histogram): bucket by bucket; NULL adds nothing */
Datum
llmquota_histogram_add(PG_FUNCTION_ARGS)
{
	ArrayType  *state = state_of(fcinfo);

	if (!PG_ARGISNULL(1))
	{
		int			n;
		int64	   *counts = counts_of(PG_GETARG_ARRAYTYPE_P(1), &n);

		for (int i = 0; i < n; i++)
			add_count((int64 *) ARR_DATA_PTR(state) + i, counts[i]);
	}
	PG_RETURN_ARRAYTYPE_P(state);
}

/* llmquota_histogram_trim(histogram): without the empty buckets at its end */
Datum
llmquota_histogram_trim(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_ARRAYTYPE_P(new_histogram(CurrentMemoryContext, 0));
	PG_RETURN_ARRAYTYPE_P(trimmed(PG_GETARG_ARRAYTYPE_P(0)));
}

/* llmquota_percentile(histogram, p): milliseconds; NULL when there are no calls */
Datum
llmquota_percentile(PG_FUNCTION_ARGS)
{
	double		share = PG_GETARG_FLOAT8(1);
	double		milliseconds;
	int			n;
	int64	   *counts = counts_of(PG_GETARG_ARRAYTYPE_P(0), &n);

	if (!(share >= 0 && share <= 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("percentile %g is not between 0 and 1", share),
				 errhint("Give 0.95 for the 95th percentile.")));
	if (!llmq_histogram_percentile(counts, n, share, &milliseconds))
		PG_RETURN_NULL();
	PG_RETURN_INT32((int32) Min(rint(milliseconds), PG_INT32_MAX));
}
