/*
 * regrant.c
 *	  llmquota_apply_all_grants(): gives the roles of llmquota.role_grant what is theirs when a script of the extension
 *	  has made functions or tables anew.
 *
 * PostgreSQL takes what such a script grants for the extension's own, and dumps would not have it. So it is granted as
 * if outside of the script: the mark that one is running is taken away for that time, whatever happens.
 */
#include "postgres.h"

#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "sql.h"

PG_FUNCTION_INFO_V1(llmquota_apply_all_grants);

/* Calls llmquota_apply_grants() in this schema for every role that still exists. */
static void
apply_grants(Oid schema)
{
	SPI_connect();
	llmq_sql_run(psprintf("SELECT %s.llmquota_apply_grants(g.role) FROM llmquota.role_grant g"
						  "  JOIN pg_catalog.pg_roles r ON r.rolname::pg_catalog.text OPERATOR(pg_catalog.=) g.role"
						  " GROUP BY g.role", quote_identifier(get_namespace_name(schema))), SPI_OK_SELECT);
	SPI_finish();
}

Datum
llmquota_apply_all_grants(PG_FUNCTION_ARGS)
{
	bool		in_script = creating_extension;

	PG_TRY();
	{
		creating_extension = false;
		apply_grants(get_func_namespace(fcinfo->flinfo->fn_oid));
	}
	PG_FINALLY();
	{
		creating_extension = in_script;
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}
