/*
 * capacity_rows.c
 *	  llmquota_capacity and llmquota.capacity: what can be done in the next minute, hour and day.
 *
 * Changes nothing, and works on a hot standby.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "args.h"
#include "capacity_tree.h"
#include "role.h"
#include "row.h"

PG_FUNCTION_INFO_V1(llmquota_capacity);
PG_FUNCTION_INFO_V1(llmquota_capacity_rows);

/* Arguments of llmquota_capacity(). */
enum
{
	ARG_MODEL, ARG_ORG, ARG_INPUT_TOKENS, ARG_MAX_OUTPUT_TOKENS
};

/* Columns of llmquota_capacity(); those of llmquota_capacity_rows() have two more before them. */
enum
{
	COL_ACCOUNTS, COL_HORIZON, COL_KEYS, COL_REQUESTS, COL_INPUT, COL_OUTPUT, COL_TOKENS, COL_AT_ONCE,
	COL_IN_FLIGHT, COL_REQUEST_INPUT, COL_REQUEST_OUTPUT, NCOLUMNS
};

enum
{
	ROW_MODEL, ROW_ORG, ROW_COLUMNS
};

/* One answer being put together. */
typedef struct Asking
{
	LlmqPick	pick;
	ReturnSetInfo *result;
	bool		named;			/* rows begin with model and org */
	bool		bound;			/* the role may not read of all orgs */
	MemoryContext context;		/* of one model and org */
	List	   *orgs;			/* of the view; NULL: whoever */
} Asking;

static void
put_count(Datum *values, bool *nulls, int column, int64 count)
{
	nulls[column] = count == LLMQ_UNLIMITED;
	values[column] = NumericGetDatum(int64_to_numeric(count));
}

static void
put_row(const Asking *asking, LlmqAccounts accounts, int horizon, const LlmqCapacity *capacity)
{
	static const char *const accounts_texts[] = {"all", "own", "shared"};
	static const char *const horizon_texts[LLMQ_HORIZONS] = {"minute", "hour", "day"};
	const LlmqPick *pick = &asking->pick;
	Datum		row[ROW_COLUMNS + NCOLUMNS];
	bool		row_nulls[ROW_COLUMNS + NCOLUMNS] = {false};
	Datum	   *values = asking->named ? row + ROW_COLUMNS : row;
	bool	   *nulls = asking->named ? row_nulls + ROW_COLUMNS : row_nulls;

	if (asking->named)
	{
		llmq_put_text(row, row_nulls, ROW_MODEL, pick->model->name);
		llmq_put_text(row, row_nulls, ROW_ORG, pick->org == NULL ? NULL : pick->org->subject.name);
	}
	llmq_put_text(values, nulls, COL_ACCOUNTS, accounts_texts[accounts]);
	llmq_put_text(values, nulls, COL_HORIZON, horizon_texts[horizon]);
	values[COL_KEYS] = Int32GetDatum(capacity->keys);
	put_count(values, nulls, COL_REQUESTS, capacity->most[LLMQ_MEASURE_REQUESTS]);
	put_count(values, nulls, COL_INPUT, capacity->most[LLMQ_MEASURE_INPUT]);
	put_count(values, nulls, COL_OUTPUT, capacity->most[LLMQ_MEASURE_OUTPUT]);
	put_count(values, nulls, COL_TOKENS, capacity->most[LLMQ_MEASURE_TOKENS]);
	put_count(values, nulls, COL_AT_ONCE, capacity->at_once);
	put_count(values, nulls, COL_IN_FLIGHT, capacity->in_flight);
	values[COL_REQUEST_INPUT] = Int32GetDatum((int32) pick->demand.use.input);
	values[COL_REQUEST_OUTPUT] = Int32GetDatum((int32) pick->demand.use.output);
	tuplestore_putvalues(asking->result->setResult, asking->result->setDesc, row, row_nulls);
}

static void
put_accounts(Asking *asking, LlmqCapacityTree *tree, LlmqAccounts accounts)
{
	LlmqCapacity capacity[LLMQ_HORIZONS];

	llmq_capacity_ask(tree, asking->pick.now, accounts, capacity);
	for (int i = 0; i < LLMQ_HORIZONS; i++)
		put_row(asking, accounts, i, &capacity[i]);
}

/* The rows of one model and org; in the view, for who reads of all orgs, only what belongs to that one. */
static void
put_capacity(Asking *asking)
{
	const LlmqOrg *org = asking->pick.org;
	bool		only_own = asking->named && !asking->bound;
	MemoryContext caller = MemoryContextSwitchTo(asking->context);
	LlmqCapacityTree tree;

	llmq_capacity_tree(&asking->pick, &tree);
	if (org != NULL && !only_own)
		put_accounts(asking, &tree, LLMQ_ACCOUNTS_ALL);
	if (org != NULL && org->owns_accounts)
		put_accounts(asking, &tree, LLMQ_ACCOUNTS_OWN);
	if (org == NULL || (org->owns_accounts && !only_own))
		put_accounts(asking, &tree, LLMQ_ACCOUNTS_SHARED);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(asking->context);
}

/* The org that is asked about; none, where none is named. Raises when the role may not read of it. */
static void
read_org(FunctionCallInfo fcinfo, LlmqPick *pick)
{
	const char *name = NULL;

	if (llmq_arg_given(fcinfo, ARG_ORG))
	{
		name = llmq_arg_name(fcinfo, ARG_ORG, "org");
		pick->org = llmq_catalog_org(pick->catalog, name);
		pick->priority = pick->org->priority;
	}
	if (!llmq_role_may_read(pick->catalog, pick->org == NULL ? NULL : pick->org->subject.name))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 name == NULL ? errmsg("permission denied for all orgs together") :
				 errmsg("permission denied for org \"%s\"", name),
				 errhint("This role was granted llmquota for other orgs only.")));
}

static void
read_model(FunctionCallInfo fcinfo, LlmqPick *pick)
{
	const char *name = llmq_arg_name(fcinfo, ARG_MODEL, "model");

	pick->model = llmq_catalog_model(pick->catalog, name);
	if (pick->model == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" does not exist", name),
				 errhint("Models are the rows of llmquota.model.")));
}

/* What both functions begin with, when arguments have been read, and end with. */
static void
begin(FunctionCallInfo fcinfo, Asking *asking)
{
	LlmqPick   *pick = &asking->pick;

	InitMaterializedSRF(fcinfo, 0);
	asking->result = (ReturnSetInfo *) fcinfo->resultinfo;
	asking->context = AllocSetContextCreate(CurrentMemoryContext, "llmquota capacity", ALLOCSET_DEFAULT_SIZES);
	pick->scratch = palloc(LLMQ_MAX_STATE);
	llmq_live_open(&pick->live, LLMQ_LIVE_COUNT, AccessShareLock);
	llmq_health_look(&pick->live);
}

static void
end(Asking *asking)
{
	llmq_live_close(&asking->pick.live);
	pfree(asking->pick.scratch);
	MemoryContextDelete(asking->context);
}

/* llmquota_capacity(model, org, input_tokens, max_output_tokens) */
Datum
llmquota_capacity(PG_FUNCTION_ARGS)
{
	Asking		asking = {.pick.catalog = llmq_catalog()};
	LlmqPick   *pick = &asking.pick;

	read_model(fcinfo, pick);
	read_org(fcinfo, pick);
	pick->input_tokens = llmq_arg_tokens(fcinfo, ARG_INPUT_TOKENS, "input_tokens");
	pick->output_tokens = llmq_arg_tokens(fcinfo, ARG_MAX_OUTPUT_TOKENS, "max_output_tokens");
	begin(fcinfo, &asking);
	put_capacity(&asking);
	end(&asking);
	return (Datum) 0;
}

static void
add_owner(void *account, void *argument)
{
	Asking	   *asking = argument;

	asking->orgs = lappend(asking->orgs, llmq_catalog_org(asking->pick.catalog, ((LlmqAccount *) account)->org));
}

/* Nobody in particular and all orgs that own accounts; or, for a role that is bound to orgs, these. */
static void
find_orgs(Asking *asking)
{
	LlmqCatalog *catalog = asking->pick.catalog;

	asking->bound = !llmq_role_may_read(catalog, NULL);
	if (!asking->bound)
	{
		asking->orgs = list_make1(NULL);
		llmq_names_each(catalog->owners, add_owner, asking);
		return;
	}
	for (const LlmqRoleGrant *grant = catalog->reader_grants; grant != NULL; grant = grant->next)
		if (grant->org != NULL && llmq_role_may_read(catalog, grant->org))
			asking->orgs = list_append_unique_ptr(asking->orgs, llmq_catalog_org(catalog, grant->org));
}

static void
visit_model(void *model, void *argument)
{
	Asking	   *asking = argument;
	LlmqPick   *pick = &asking->pick;
	ListCell   *cell;

	pick->model = model;
	if (!pick->model->enabled)
		return;
	foreach(cell, asking->orgs)
	{
		pick->org = lfirst(cell);
		pick->priority = pick->org != NULL ? pick->org->priority : LLMQ_PRIORITY_NORMAL;
		put_capacity(asking);
	}
}

/* llmquota_capacity_rows(): the rows of llmquota.capacity */
Datum
llmquota_capacity_rows(PG_FUNCTION_ARGS)
{
	Asking		asking = {.pick.catalog = llmq_catalog(),.named = true};

	asking.pick.input_tokens = asking.pick.output_tokens = LLMQ_NOT_GIVEN;
	begin(fcinfo, &asking);
	find_orgs(&asking);
	llmq_names_each(asking.pick.catalog->models, visit_model, &asking);
	end(&asking);
	return (Datum) 0;
}
