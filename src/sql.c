/*
 * sql.c
 *	  Runs the extension's own SQL, whoever called.
 *
 * Between llmq_sql_begin() and llmq_sql_end() the current user is the owner of the ledger, in a restricted security
 * context as for an index expression; the search path has nothing but pg_catalog, a lock is waited for 50 ms, and
 * nothing is compiled just in time, which takes many times longer than our queries do. All SQL is qualified
 * nevertheless. An error in between needs no clean-up: abort of the (sub)transaction restores user and settings, and
 * frees what SPI holds.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "relation.h"
#include "sql.h"

static Oid
ledger_owner(void)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(llmq_relation_oid(LLMQ_REL_USAGE)));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "llmquota.usage is gone");
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

static void
set_for_now(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/* Becomes the owner, and connects to SPI. */
void
llmq_sql_begin(LlmqSql *sql)
{
	Oid			owner = ledger_owner();

	GetUserIdAndSecContext(&sql->caller, &sql->security);
	SetUserIdAndSecContext(owner, sql->security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	sql->guc_level = NewGUCNestLevel();
	set_for_now("search_path", "pg_catalog, pg_temp");
	set_for_now("lock_timeout", LLMQ_LOCK_TIMEOUT);
	set_for_now("jit", "off");
	SPI_connect();
}

/* Disconnects, and is the caller again. */
void
llmq_sql_end(const LlmqSql *sql)
{
	SPI_finish();
	AtEOXact_GUC(false, sql->guc_level);
	SetUserIdAndSecContext(sql->caller, sql->security);
}

/*
 * The same for what a call of an application does, in a microsecond and not in ten: the caller's settings hold, and a
 * row that somebody else is changing is waited for.
 */
void
llmq_sql_begin_call(LlmqSql *sql)
{
	Oid			owner = ledger_owner();

	GetUserIdAndSecContext(&sql->caller, &sql->security);
	SetUserIdAndSecContext(owner, sql->security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	SPI_connect();
}

void
llmq_sql_end_call(const LlmqSql *sql)
{
	SPI_finish();
	SetUserIdAndSecContext(sql->caller, sql->security);
}

/* Runs a statement that writes, planned once in a backend. Its arguments are never NULL. */
void
llmq_sql_run_kept(SPIPlanPtr *plan, const char *text, int nargs, Oid *types, Datum *values)
{
	int			result;

	if (*plan == NULL)
	{
		SPIPlanPtr	prepared = SPI_prepare(text, nargs, types);

		if (prepared == NULL || SPI_keepplan(prepared) != 0)
			elog(ERROR, "SPI_prepare answered %s", SPI_result_code_string(SPI_result));
		*plan = prepared;
	}
	result = SPI_execute_plan(*plan, values, NULL, false, 0);
	if (result < 0)
		elog(ERROR, "SPI_execute_plan answered %s", SPI_result_code_string(result));
}

/* Runs one statement, whose SPI result code is known. */
void
llmq_sql_run(const char *text, int expected)
{
	int			result = SPI_execute(text, false, 0);

	if (result != expected)
		elog(ERROR, "SPI_execute answered %s", SPI_result_code_string(result));
}

/* The schema of the extension's functions, quoted. */
static const char *
function_schema(void)
{
	llmq_sql_run("SELECT e.extnamespace::pg_catalog.regnamespace::pg_catalog.text FROM pg_catalog.pg_extension e"
				 " WHERE e.extname OPERATOR(pg_catalog.=) 'llmquota'", SPI_OK_SELECT);
	if (SPI_processed != 1)
		elog(ERROR, "extension llmquota is gone");
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

/* The name of one of the extension's functions, with its schema. */
const char *
llmq_sql_function(const char *function)
{
	return psprintf("%s.%s", function_schema(), function);
}

/* Calls one of the extension's functions that work until a deadline and answer how much they did. */
int64
llmq_sql_step(const char *function, TimestampTz deadline)
{
	Oid			types[] = {TIMESTAMPTZOID};
	Datum		values[] = {TimestampTzGetDatum(deadline)};
	char	   *text = psprintf("SELECT %s($1)", llmq_sql_function(function));
	bool		isnull;

	if (SPI_execute_with_args(text, 1, types, values, NULL, false, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "%s() has no result", function);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* Calls one of the extension's functions that take texts and answer rows, which are put into a result. */
void
llmq_sql_rows(const char *function, int nargs, char **texts, ReturnSetInfo *result)
{
	Oid			types[LLMQ_SQL_ARGS];
	Datum		values[LLMQ_SQL_ARGS];
	StringInfoData text;

	Assert(nargs <= LLMQ_SQL_ARGS);
	initStringInfo(&text);
	appendStringInfo(&text, "SELECT * FROM %s.%s(", function_schema(), function);
	for (int i = 0; i < nargs; i++)
	{
		appendStringInfo(&text, "%s$%d", i == 0 ? "" : ", ", i + 1);
		types[i] = TEXTOID;
		values[i] = CStringGetTextDatum(texts[i]);
	}
	appendStringInfoChar(&text, ')');
	if (SPI_execute_with_args(text.data, nargs, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "%s() has no result", function);
	for (uint64 i = 0; i < SPI_processed; i++)
		tuplestore_puttuple(result->setResult, SPI_tuptable->vals[i]);
}

/*
 * Does a task in a subtransaction. False, and nothing is left of it, when a lock was not to be had in time; any other
 * error goes on to the caller.
 */
bool
llmq_sql_try(LlmqSqlTask task, void *argument)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool done = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		task(argument);
		ReleaseCurrentSubTransaction();
		done = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			ReThrowError(error);
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return done;
}
