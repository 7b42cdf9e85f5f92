/*
 * rule.c
 *	  Reads a proposed quota or budget: an object whose keys are columns of llmquota.quota or of llmquota.budget.
 *
 * The row that it stands for is made as an INSERT would make it, with the table's defaults, and asked the table's own
 * checks, so that what they are is said nowhere else; but it is not inserted, so it may be like a row that is there.
 * All of this is done as the owner of the ledger: a caller needs no privilege on the configuration.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog_row.h"
#include "compat.h"
#include "rule.h"
#include "sql.h"

static bool
has_key(const Jsonb *rule, const char *key)
{
	JsonbValue	found;

	return getKeyJsonValueFromContainer(unconstify(JsonbContainer *, &rule->root), key, strlen(key), &found) != NULL;
}

/* Which table it would be a row of: only quotas have a metric, only budgets a currency. */
static LlmqRelation
table_of(const Jsonb *rule)
{
	if (!JB_ROOT_IS_OBJECT(rule))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("rule is not an object"),
				 errhint("Use an object such as {\"scope\": \"org\", \"subject\": \"*\", \"metric\": \"requests\", "
						 "\"amount\": 100, \"per\": \"1 hour\"}.")));
	if (has_key(rule, "metric"))
		return LLMQ_REL_QUOTA;
	if (has_key(rule, "currency"))
		return LLMQ_REL_BUDGET;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("rule has neither a metric nor a currency"),
			 errhint("A quota has a metric, a budget has a currency.")));
}

/* Raises for a key that is no column. */
static void
check_keys(Relation table, const Jsonb *rule)
{
	JsonbIterator *iterator = JsonbIteratorInit(unconstify(JsonbContainer *, &rule->root));
	JsonbIteratorToken token;
	JsonbValue	key;

	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		char	   *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(key.val.string.val, key.val.string.len);
		if (get_attnum(RelationGetRelid(table), name) <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("unknown key \"%s\" of a rule", name),
					 errdetail("It has no column of %s.%s.", LLMQ_SCHEMA, RelationGetRelationName(table)),
					 errhint("Keys are the columns of that table. A quota has a metric, a budget has a currency.")));
	}
}

/* The row that an INSERT without any column would make, but for its number, which is 0. */
static Datum
default_row(Relation table, EState *estate)
{
	TupleDesc	desc = RelationGetDescr(table);
	Datum	   *values = palloc0(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc0(sizeof(bool) * desc->natts);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		Node	   *expression = column->attidentity ? NULL : build_column_default(table, i + 1);

		nulls[i] = expression == NULL && !column->attidentity;
		if (expression != NULL)
			values[i] = ExecEvalExpr(ExecPrepareExpr((Expr *) expression, estate), GetPerTupleExprContext(estate),
									 &nulls[i]);
	}
	return heap_copy_tuple_as_datum(heap_form_tuple(desc, values, nulls), desc);
}

/* Says of a value that is none of its column's type where it comes from. */
static void
explain_error(void *table)
{
	if (ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_DATA_EXCEPTION)
		errhint("The values of a rule are those that columns of %s.%s take.", LLMQ_SCHEMA,
				RelationGetRelationName((Relation) table));
}

/* The row that the rule stands for. */
static void
read_row(Relation table, const Jsonb *rule, EState *estate, TupleTableSlot *slot)
{
	Oid			types[] = {RelationGetForm(table)->reltype, JSONBOID};
	Datum		values[] = {default_row(table, estate), JsonbPGetDatum(rule)};
	ErrorContextCallback on_error = {.previous = error_context_stack,.callback = explain_error,.arg = table};
	HeapTupleData tuple = {0};
	bool		isnull;

	error_context_stack = &on_error;
	if (SPI_execute_with_args("SELECT pg_catalog.jsonb_populate_record($1, $2)", 2, types, values, NULL, true, 0) !=
		SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "a rule cannot be read");
	error_context_stack = on_error.previous;
	tuple.t_data = DatumGetHeapTupleHeader(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
	ExecForceStoreHeapTuple(&tuple, slot, false);
	slot_getallattrs(slot);
}

/* What the comments of some columns say of them. */
static char *
describe_columns(Relation table, Bitmapset *columns)
{
	StringInfoData text;
	int			column = -1;

	initStringInfo(&text);
	while ((column = bms_next_member(columns, column)) >= 0)
	{
		AttrNumber	number = column + FirstLowInvalidHeapAttributeNumber;
		const char *comment;

		if (number <= 0)
			continue;
		comment = GetComment(RelationGetRelid(table), RelationRelationId, number);
		appendStringInfo(&text, "%s%s: %s.", text.len > 0 ? "\n" : "",
						 NameStr(TupleDescAttr(RelationGetDescr(table), number - 1)->attname),
						 comment == NULL ? "see the table's checks" : comment);
	}
	return text.data;
}

/* Raises where a column must not be NULL that is. */
static void
check_not_null(Relation table, TupleTableSlot *slot)
{
	TupleDesc	desc = RelationGetDescr(table);

	for (int i = 0; i < desc->natts; i++)
	{
		int			column = i + 1 - FirstLowInvalidHeapAttributeNumber;

		if (TupleDescAttr(desc, i)->attnotnull && slot->tts_isnull[i])
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("rule has no \"%s\"", NameStr(TupleDescAttr(desc, i)->attname)),
					 errhint("%s", describe_columns(table, bms_make_singleton(column)))));
	}
}

/* Raises where one of the table's checks would refuse the row. */
static void
check_constraints(Relation table, TupleTableSlot *slot, EState *estate)
{
	TupleConstr *constraints = RelationGetDescr(table)->constr;
	ExprContext *context = GetPerTupleExprContext(estate);

	context->ecxt_scantuple = slot;
	for (int i = 0; i < constraints->num_check; i++)
	{
		Expr	   *check = stringToNode(constraints->check[i].ccbin);
		Bitmapset  *columns = NULL;

		if (ExecCheck(ExecPrepareExpr(check, estate), context))
			continue;
		pull_varattnos((Node *) check, 1, &columns);
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("rule violates check constraint \"%s\" of %s.%s", constraints->check[i].ccname, LLMQ_SCHEMA,
						RelationGetRelationName(table)),
				 errhint("%s", describe_columns(table, columns))));
	}
}

/* Lifts all limits that a configuration has. Rows that name a subject still replace a '*' row for it. */
static void
lift_limits(LlmqCatalog *catalog)
{
	for (int scope = 0; scope < LLMQ_SCOPE_COUNT; scope++)
		for (int part = 0; part < LLMQ_PART_COUNT; part++)
			for (LlmqQuota *quota = catalog->quotas[scope][part]; quota != NULL; quota = quota->next)
				quota->amount = LLMQ_NO_LIMIT;
}

/* Raises when a budget has a model answer that there is none of: the table has a foreign key for that. */
static void
check_model(const LlmqCatalog *catalog, Relation table, TupleTableSlot *slot)
{
	AttrNumber	column = get_attnum(RelationGetRelid(table), "downgrade_to");
	const char *model;

	if (column == InvalidAttrNumber || slot->tts_isnull[column - 1])
		return;
	model = TextDatumGetCString(slot->tts_values[column - 1]);
	if (llmq_names_find(catalog->models, model) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
				 errmsg("model \"%s\" of a rule does not exist", model),
				 errhint("SELECT model FROM llmquota.model shows the models.")));
}

/* Has a proposed budget that has the number of one that is there downgrade in the steps of that one. */
static void
adopt_steps(const LlmqCatalog *catalog, LlmqBudget *proposed)
{
	for (const LlmqBudget *budget = catalog->budgets; budget != NULL; budget = budget->next)
		if (budget != proposed && budget->id == proposed->id && budget->has_steps)
		{
			proposed->nsteps = budget->nsteps;
			proposed->step = budget->step;
			proposed->has_steps = true;
		}
}

/*
 * Makes a rule the only limit of a configuration of the caller's own, of which nobody has asked for a subject yet.
 * Raises for what is no rule.
 */
LlmqQuota *
llmq_rule_propose(LlmqCatalog *catalog, const Jsonb *rule)
{
	LlmqRelation which = table_of(rule);
	MemoryContext caller;
	LlmqQuota  *proposed;
	EState	   *estate;
	Relation	table;
	LlmqRow		row = {.catalog = catalog};
	LlmqSql		sql;

	llmq_sql_begin(&sql);
	table = table_open(llmq_relation_oid(which), AccessShareLock);
	check_keys(table, rule);
	estate = CreateExecutorState();
	row.slot = MakeSingleTupleTableSlot(RelationGetDescr(table), &TTSOpsHeapTuple);
	read_row(table, rule, estate, row.slot);
	check_not_null(table, row.slot);
	check_constraints(table, row.slot, estate);
	check_model(catalog, table, row.slot);
	lift_limits(catalog);
	caller = MemoryContextSwitchTo(catalog->context);
	proposed = which == LLMQ_REL_QUOTA ? llmq_quota_read(&row) : llmq_budget_read(&row);
	if (proposed->budget != NULL)
		adopt_steps(catalog, proposed->budget);
	MemoryContextSwitchTo(caller);
	ExecDropSingleTupleTableSlot(row.slot);
	FreeExecutorState(estate);
	table_close(table, AccessShareLock);
	llmq_sql_end(&sql);
	if (proposed->amount == LLMQ_NO_LIMIT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("rule has no amount"),
				 errhint("Without one it is no limit, and refuses nothing.")));
	return proposed;
}
