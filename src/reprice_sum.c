/*
 * reprice_sum.c
 *	  Adds up by how much calls cost more or less, and writes it into llmquota.repricing.
 *
 * There is a sum for each day, org, model and key, and for each currency before and after: amounts of two currencies
 * are never added up. They are numerics, because somebody may have written any number into the ledger; so the sums are
 * exact whatever there was.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "reprice.h"
#include "row.h"
#include "sql.h"

typedef struct SumKey
{
	LlmqRepriced call;
	char		before[LLMQ_CURRENCY_SIZE];	/* empty: no cost was known */
	char		after[LLMQ_CURRENCY_SIZE];
} SumKey;

typedef struct Sum
{
	SumKey		key;
	int64		calls;
	Numeric		before;
	Numeric		after;
	Numeric		base_before;
	Numeric		base_after;
} Sum;

/* Parameters of the statement below, from 0. */
enum
{
	SUM_AT, SUM_DAY, SUM_ORG, SUM_MODEL, SUM_KEY, SUM_CALLS, SUM_CURRENCY_BEFORE, SUM_BEFORE, SUM_CURRENCY_AFTER,
	SUM_AFTER, SUM_BASE_CURRENCY, SUM_BASE_BEFORE, SUM_BASE_AFTER, NPARAMETERS
};

static const Oid parameter_types[NPARAMETERS] = {
	TIMESTAMPTZOID, DATEOID, TEXTOID, TEXTOID, TEXTOID, INT8OID, TEXTOID, NUMERICOID, TEXTOID, NUMERICOID, TEXTOID,
	NUMERICOID, NUMERICOID
};

#define INSERT_QUERY \
	"INSERT INTO llmquota.repricing (repriced_at, repriced_by, day, org, model, key, calls, currency_before," \
	" cost_before, currency_after, cost_after, difference, base_currency, base_before, base_after, base_difference)" \
	" VALUES ($1, SESSION_USER, $2, $3, $4, $5, $6, $7, $8, $9, $10," \
	" CASE WHEN $7 OPERATOR(pg_catalog.<>) $9 THEN NULL" \
	" ELSE COALESCE($10, 0) OPERATOR(pg_catalog.-) COALESCE($8, 0) END," \
	" $11, $12, $13, $13 OPERATOR(pg_catalog.-) $12) RETURNING *"

/* Begins with nothing, in the current memory context. */
void
llmq_differences_init(LlmqDifferences *differences)
{
	HASHCTL		control = {.keysize = sizeof(SumKey),.entrysize = sizeof(Sum),.hcxt = CurrentMemoryContext};

	differences->context = CurrentMemoryContext;
	differences->sums = hash_create("llmquota repriced", 1024, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Adds an amount, NULL for none, to a sum, in the sum's memory. */
static void
add(Numeric *sum, Numeric amount, MemoryContext context)
{
	MemoryContext caller;
	Numeric		old = *sum;

	if (amount == NULL)
		return;
	caller = MemoryContextSwitchTo(context);
	*sum = DatumGetNumeric(DirectFunctionCall2(numeric_add, NumericGetDatum(old), NumericGetDatum(amount)));
	pfree(old);
	MemoryContextSwitchTo(caller);
}

static void
begin_sum(Sum *sum, MemoryContext context)
{
	MemoryContext caller = MemoryContextSwitchTo(context);

	sum->calls = 0;
	sum->before = llmq_money_numeric(0);
	sum->after = llmq_money_numeric(0);
	sum->base_before = llmq_money_numeric(0);
	sum->base_after = llmq_money_numeric(0);
	MemoryContextSwitchTo(caller);
}

/* Adds what one call cost before and after. */
void
llmq_differences_add(LlmqDifferences *differences, const LlmqRepriced *call, const LlmqStatedCost *before,
					 const LlmqStatedCost *after)
{
	SumKey		key;
	Sum		   *sum;
	bool		found;

	memset(&key, 0, sizeof(key));
	key.call.day = call->day;
	key.call.org = call->org;
	key.call.model = call->model;
	key.call.key = call->key;
	strlcpy(key.before, before->currency, sizeof(key.before));
	strlcpy(key.after, after->currency, sizeof(key.after));
	sum = hash_search(differences->sums, &key, HASH_ENTER, &found);
	if (!found)
		begin_sum(sum, differences->context);
	sum->calls++;
	add(&sum->before, before->amount, differences->context);
	add(&sum->after, after->amount, differences->context);
	add(&sum->base_before, before->base, differences->context);
	add(&sum->base_after, after->base, differences->context);
}

/* Names in the order of their bytes, none first. */
static int
compare_names(const LlmqLedgerName *a, const LlmqLedgerName *b)
{
	return strcmp(a == NULL ? "" : a->text, b == NULL ? "" : b->text);
}

static int
compare_sums(const void *a, const void *b)
{
	const SumKey *one = &(*(const Sum *const *) a)->key;
	const SumKey *other = &(*(const Sum *const *) b)->key;
	int			order = one->call.day < other->call.day ? -1 : one->call.day > other->call.day ? 1 : 0;

	if (order == 0)
		order = compare_names(one->call.org, other->call.org);
	if (order == 0)
		order = compare_names(one->call.model, other->call.model);
	if (order == 0)
		order = compare_names(one->call.key, other->call.key);
	if (order == 0)
		order = strcmp(one->before, other->before);
	return order != 0 ? order : strcmp(one->after, other->after);
}

/* All sums, in the order of their days and names. */
static Sum **
sorted(const LlmqDifferences *differences, long *n)
{
	HASH_SEQ_STATUS each;
	Sum		  **sums;
	Sum		   *sum;

	*n = 0;
	sums = palloc_extended(sizeof(Sum *) * Max(hash_get_num_entries(differences->sums), 1), MCXT_ALLOC_HUGE);
	hash_seq_init(&each, differences->sums);
	while ((sum = hash_seq_search(&each)) != NULL)
		sums[(*n)++] = sum;
	qsort(sums, *n, sizeof(Sum *), compare_sums);
	return sums;
}

static void
put_name(Datum *values, bool *nulls, int parameter, const LlmqLedgerName *name)
{
	llmq_put_text(values, nulls, parameter, name == NULL ? NULL : name->text);
}

/* A sum of one currency; NULL when no cost was known. */
static void
put_sum(Datum *values, bool *nulls, int parameter, const char *currency, Numeric amount)
{
	llmq_put_text(values, nulls, parameter, currency[0] == '\0' ? NULL : currency);
	nulls[parameter + 1] = currency[0] == '\0';
	values[parameter + 1] = NumericGetDatum(amount);
}

/* Where rows go to. */
typedef struct Written
{
	SPIPlanPtr	plan;
	TimestampTz at;
	const char *base_currency;
	ReturnSetInfo *result;
} Written;

/* Writes one row, and puts it into the result. */
static void
write_sum(const Sum *sum, const Written *written)
{
	Datum		values[NPARAMETERS];
	bool		nulls[NPARAMETERS] = {false};
	char		spi_nulls[NPARAMETERS];

	values[SUM_AT] = TimestampTzGetDatum(written->at);
	values[SUM_DAY] = DateADTGetDatum(sum->key.call.day);
	put_name(values, nulls, SUM_ORG, sum->key.call.org);
	put_name(values, nulls, SUM_MODEL, sum->key.call.model);
	put_name(values, nulls, SUM_KEY, sum->key.call.key);
	values[SUM_CALLS] = Int64GetDatum(sum->calls);
	put_sum(values, nulls, SUM_CURRENCY_BEFORE, sum->key.before, sum->before);
	put_sum(values, nulls, SUM_CURRENCY_AFTER, sum->key.after, sum->after);
	put_sum(values, nulls, SUM_BASE_CURRENCY, written->base_currency, sum->base_before);
	values[SUM_BASE_AFTER] = NumericGetDatum(sum->base_after);
	for (int i = 0; i < NPARAMETERS; i++)
		spi_nulls[i] = nulls[i] ? 'n' : ' ';
	if (SPI_execute_plan(written->plan, values, spi_nulls, false, 0) != SPI_OK_INSERT_RETURNING || SPI_processed != 1)
		elog(ERROR, "llmquota.repricing cannot be written");
	tuplestore_puttuple(written->result->setResult, SPI_tuptable->vals[0]);
	SPI_freetuptable(SPI_tuptable);
}

/* Writes all sums, and puts the rows into the result. */
void
llmq_differences_write(const LlmqDifferences *differences, const char *base_currency, ReturnSetInfo *result)
{
	Written		written = {.at = GetCurrentTimestamp(),.base_currency = base_currency,.result = result};
	LlmqSql		sql;
	Sum		  **sums;
	long		n;

	if (hash_get_num_entries(differences->sums) == 0)
		return;
	sums = sorted(differences, &n);
	llmq_sql_begin(&sql);
	written.plan = SPI_prepare(INSERT_QUERY, NPARAMETERS, unconstify(Oid *, &parameter_types[0]));
	if (written.plan == NULL)
		elog(ERROR, "SPI_prepare answered %s", SPI_result_code_string(SPI_result));
	for (long i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		write_sum(sums[i], &written);
	}
	llmq_sql_end(&sql);
}
