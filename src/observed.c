/*
 * observed.c
 *	  What providers say of their limits, as rows, for the view llmquota.observed_limit.
 *
 * Each cell is copied under a share lock, one page at a time. Works on a hot standby.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "meter.h"
#include "name.h"
#include "row.h"
#include "service.h"
#include "stored.h"

PG_FUNCTION_INFO_V1(llmquota_observed_rows);

/* Columns of llmquota_observed_rows(). */
enum
{
	COL_ACCOUNT, COL_MODEL, COL_METRIC, COL_PERIOD, COL_QUOTA, COL_CONFIGURED, COL_ADVERTISED, COL_IN_FORCE,
	COL_SOURCE, COL_OBSERVED_AT, COL_RELAXES_AT, NCOLUMNS
};

/* A walk over the service cells. */
typedef struct Walk
{
	ReturnSetInfo *result;
	LlmqCatalog *catalog;
	TimestampTz now;
} Walk;

/* What is configured where the provider has this limit; NULL: nothing is, or not any more. */
const LlmqLimit *
llmq_limit_observed(LlmqCatalog *catalog, const LlmqLearned *learned, const char *account, const char *model)
{
	LlmqModel  *known_model = llmq_catalog_model(catalog, model);
	LlmqSubject *subject = llmq_catalog_subject(catalog, LLMQ_SCOPE_ACCOUNT, account);

	if (known_model == NULL || subject == NULL)
		return NULL;
	return llmq_limits_configured(llmq_plan_meters(catalog, subject, known_model), (LlmqMetric) learned->metric,
								  (LlmqSpan) learned->span);
}

/* A span, as the view has it. */
const char *
llmq_span_text(LlmqSpan span)
{
	static const char *const texts[] = {"unknown", "second", "minute", "hour", "day", "month"};

	return LLMQ_STORED_TEXT(texts, span);
}

static void
put_amount(Datum *values, bool *nulls, int column, int64 amount)
{
	values[column] = NumericGetDatum(int64_to_numeric(amount));
	nulls[column] = false;
}

/* The columns that need the configuration. */
static void
put_effect(const Walk *walk, const LlmqLearned *learned, const LlmqLimit *limit, Datum *values, bool *nulls)
{
	int64		ttl = walk->catalog->settings.observed_limit_ttl;
	int64		amount;

	nulls[COL_QUOTA] = nulls[COL_CONFIGURED] = nulls[COL_IN_FORCE] = nulls[COL_RELAXES_AT] = true;
	if (limit == NULL)
		return;
	values[COL_QUOTA] = Int64GetDatum(limit->quota->id);
	nulls[COL_QUOTA] = false;
	put_amount(values, nulls, COL_CONFIGURED, limit->quota->amount);
	amount = llmq_learned_amount(learned, limit->quota->amount, ttl, walk->now);
	if (amount >= limit->quota->amount)
		return;
	put_amount(values, nulls, COL_IN_FORCE, amount);
	values[COL_RELAXES_AT] = TimestampTzGetDatum(learned->observed_at + ttl);
	nulls[COL_RELAXES_AT] = false;
}

static void
put_learned(const Walk *walk, const LlmqLearned *learned, const char *account, const char *model)
{
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {false};

	llmq_put_text(values, nulls, COL_ACCOUNT, account);
	llmq_put_text(values, nulls, COL_MODEL, model);
	llmq_put_text(values, nulls, COL_METRIC, llmq_metric_text((LlmqMetric) learned->metric));
	llmq_put_text(values, nulls, COL_PERIOD, llmq_span_text((LlmqSpan) learned->span));
	put_amount(values, nulls, COL_ADVERTISED, learned->amount);
	llmq_put_text(values, nulls, COL_SOURCE, learned->named ? "refusal" : "headers");
	values[COL_OBSERVED_AT] = TimestampTzGetDatum(learned->observed_at);
	put_effect(walk, learned, llmq_limit_observed(walk->catalog, learned, account, model), values, nulls);
	tuplestore_putvalues(walk->result->setResult, walk->result->setDesc, values, nulls);
}

/* Puts out what one cell has, if it is about a model at an account. */
static void
visit_cell(const LlmqCellHeader *state, HeapTuple tuple, void *context)
{
	const LlmqService *service = (const LlmqService *) state;
	const char *account;
	const char *model;

	if (state->length != sizeof(LlmqService) || service->account == 0)
		return;
	account = llmq_name_text(service->account);
	model = llmq_name_text(service->model);
	if (account == NULL || model == NULL)
		return;
	for (int i = 0; i < LLMQ_MAX_LEARNED; i++)
		if (service->learned[i].amount != 0)
			put_learned(context, &service->learned[i], account, model);
}

/* llmquota_observed_rows(): every limit that a provider is known to have. */
Datum
llmquota_observed_rows(PG_FUNCTION_ARGS)
{
	LlmqLive	live;
	Walk		walk;

	InitMaterializedSRF(fcinfo, 0);
	walk.result = (ReturnSetInfo *) fcinfo->resultinfo;
	walk.catalog = llmq_catalog();
	walk.now = GetCurrentTimestamp();
	llmq_live_open(&live, LLMQ_LIVE_COUNT, AccessShareLock);
	llmq_cell_walk(&live, LLMQ_LIVE_HEALTH, visit_cell, &walk);
	llmq_live_close(&live);
	return (Datum) 0;
}
