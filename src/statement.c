/*
 * statement.c
 *	  llmquota_statement: what an org is billed for a month.
 *
 * The rows are made in SQL (llmquota_statement_rows), as the owner of the ledger: a statement has rows of orgs below
 * the one that is asked for, and markups, which whoever is billed does not see elsewhere. What is decided here is who
 * may ask, as the role that calls.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"

#include "args.h"
#include "catalog.h"
#include "role.h"
#include "sql.h"

PG_FUNCTION_INFO_V1(llmquota_statement);

/* Is this a year and a month, such as 2026-03? */
static bool
is_month(const char *text)
{
	int			year;
	int			month;

	if (strlen(text) != strlen("2026-03") || sscanf(text, "%4d-%2d", &year, &month) != 2)
		return false;
	return year > 0 && month >= 1 && month <= 12 && strcmp(psprintf("%04d-%02d", year, month), text) == 0;
}

static char *
month_argument(FunctionCallInfo fcinfo, int number)
{
	char	   *month = llmq_arg_text(fcinfo, number);

	if (month == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("month must not be NULL"),
				 errhint("Pass a year and a month, such as 2026-03.")));
	if (!is_month(month))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a month", month),
				 errhint("Pass a year and a month, such as 2026-03.")));
	return month;
}

/* The org, by the name it has now; raises unless the role may ask for what it has used. */
static char *
org_argument(FunctionCallInfo fcinfo, int number)
{
	LlmqCatalog *catalog = llmq_catalog();
	const char *org = llmq_alias_now(catalog, LLMQ_NAME_ORG, llmq_arg_name(fcinfo, number, "org"));

	if (!llmq_role_may_read(catalog, org))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for org \"%s\"", org),
				 errhint("Ask for the statement of an org that llmquota_grant has bound the role to.")));
	return pstrdup(org);
}

/* llmquota_statement(org, month) -> setof record */
Datum
llmquota_statement(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *arguments[2];
	LlmqSql		sql;

	arguments[0] = org_argument(fcinfo, 0);
	arguments[1] = month_argument(fcinfo, 1);
	InitMaterializedSRF(fcinfo, 0);
	llmq_sql_begin(&sql);
	llmq_sql_rows("llmquota_statement_rows", lengthof(arguments), arguments, result);
	llmq_sql_end(&sql);
	PG_RETURN_NULL();
}
