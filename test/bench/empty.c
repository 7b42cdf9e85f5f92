/*
 * empty.c: the yardsticks of the bench that have to be C.
 *
 * bench.empty(...) takes what llmquota_pick takes and answers the same row of
 * 15 columns without having done anything: what is left is the price of a call
 * and of an answer.  As in a well written function the row descriptor is
 * looked up once in a backend and remembered by the function's OID (fn_extra
 * would not do: every execution of a FROM clause starts with a fresh one), and
 * the texts of the answer are made once.  Only what differs from call to call
 * is made in the call: the clock, the identity, the numbers.
 *
 * bench.stock(n) is the n-th lease of the file that the bench has filled with
 * leases granted beforehand, so that a statement which settles one lease
 * needs no other statement to know which.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

PG_MODULE_MAGIC;

#define ANSWER_COLUMNS 15

/* The columns of the answer, in their order. */
enum
{
	COL_STATUS, COL_LEASE, COL_KEY, COL_SECRET_REF, COL_ACCOUNT, COL_PROVIDER, COL_BASE_URL,
	COL_MODEL, COL_PROVIDER_MODEL, COL_ATTEMPT, COL_MAX_OUTPUT_TOKENS, COL_GRANTED_AT,
	COL_EXPIRES_AT, COL_RETRY_AFTER, COL_REFUSAL
};

static Oid	answer_function = InvalidOid;
static TupleDesc answer_descriptor = NULL;
static Datum answer_text[ANSWER_COLUMNS];

static const pg_uuid_t *stock = NULL;
static int64 stock_size = 0;

PG_FUNCTION_INFO_V1(bench_empty);
PG_FUNCTION_INFO_V1(bench_stock);

/* Remembers descriptor and texts for the life of the backend. */
static void
prepare_answer(FunctionCallInfo fcinfo)
{
	static const char *const texts[ANSWER_COLUMNS] = {
		[COL_STATUS] = "granted", [COL_KEY] = "key-07", [COL_SECRET_REF] = "env:OPENAI_KEY_07",
		[COL_ACCOUNT] = "account-2", [COL_PROVIDER] = "openai",
		[COL_BASE_URL] = "https://api.openai.com/v1", [COL_MODEL] = "gpt-4o",
		[COL_PROVIDER_MODEL] = "gpt-4o-2024-08-06"
	};
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	TupleDesc	found;

	if (get_call_result_type(fcinfo, NULL, &found) != TYPEFUNC_COMPOSITE || found->natts != ANSWER_COLUMNS)
		elog(ERROR, "bench.empty must return the row of %d columns", ANSWER_COLUMNS);
	answer_descriptor = BlessTupleDesc(CreateTupleDescCopy(found));
	for (int i = 0; i < ANSWER_COLUMNS; i++)
	{
		if (texts[i] != NULL)
			answer_text[i] = PointerGetDatum(cstring_to_text(texts[i]));
	}
	MemoryContextSwitchTo(caller);
	answer_function = fcinfo->flinfo->fn_oid;
}

Datum
bench_empty(PG_FUNCTION_ARGS)
{
	Datum		values[ANSWER_COLUMNS];
	bool		nulls[ANSWER_COLUMNS] = {false};
	TimestampTz now = GetCurrentTimestamp();
	uint64		identity[2];

	if (answer_function != fcinfo->flinfo->fn_oid)
		prepare_answer(fcinfo);
	identity[0] = pg_prng_uint64(&pg_global_prng_state);
	identity[1] = pg_prng_uint64(&pg_global_prng_state);
	memcpy(values, answer_text, sizeof(values));
	values[COL_LEASE] = PointerGetDatum(identity);
	values[COL_ATTEMPT] = Int32GetDatum(1);
	values[COL_MAX_OUTPUT_TOKENS] = Int32GetDatum(PG_ARGISNULL(3) ? 1024 : (int32) PG_GETARG_INT64(3));
	values[COL_GRANTED_AT] = TimestampTzGetDatum(now);
	values[COL_EXPIRES_AT] = TimestampTzGetDatum(now + INT64CONST(120000000));
	nulls[COL_RETRY_AFTER] = true;
	nulls[COL_REFUSAL] = true;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(answer_descriptor, values, nulls)));
}

/* Maps the file of leases, in the data directory, for the life of the backend. */
static void
map_stock(void)
{
	int			fd = open("bench.stock", O_RDONLY);
	struct stat status;
	void	   *map;

	if (fd < 0 || fstat(fd, &status) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", "bench.stock")));
	map = mmap(NULL, status.st_size, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not map file \"%s\": %m", "bench.stock")));
	stock = map;
	stock_size = status.st_size / sizeof(pg_uuid_t);
}

Datum
bench_stock(PG_FUNCTION_ARGS)
{
	int64		n = PG_GETARG_INT64(0);

	if (stock == NULL)
		map_stock();
	if (n < 0 || n >= stock_size)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the stock of leases has no number " INT64_FORMAT, n)));
	PG_RETURN_UUID_P(&stock[n]);
}
