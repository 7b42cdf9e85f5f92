/*
 * sql.h
 *	  Runs the extension's own SQL as its owner.
 */
#ifndef LLMQ_SQL_H
#define LLMQ_SQL_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "funcapi.h"

/* DDL that waits longer than this for a lock would make calls wait behind it. */
#define LLMQ_LOCK_TIMEOUT "50ms"

/* Functions of rows take so many arguments at most. */
#define LLMQ_SQL_ARGS 4

/* What llmq_sql_end() gives back. */
typedef struct LlmqSql
{
	Oid			caller;
	int			security;
	int			guc_level;
} LlmqSql;

typedef void (*LlmqSqlTask) (void *argument);

extern void llmq_sql_begin(LlmqSql *sql);
extern void llmq_sql_end(const LlmqSql *sql);
extern void llmq_sql_begin_call(LlmqSql *sql);
extern void llmq_sql_end_call(const LlmqSql *sql);
extern void llmq_sql_run(const char *text, int expected);
extern void llmq_sql_run_kept(SPIPlanPtr *plan, const char *text, int nargs, Oid *types, Datum *values);
extern const char *llmq_sql_function(const char *function);
extern int64 llmq_sql_step(const char *function, TimestampTz deadline);
extern void llmq_sql_rows(const char *function, int nargs, char **texts, ReturnSetInfo *result);
extern bool llmq_sql_try(LlmqSqlTask task, void *argument);

#endif							/* LLMQ_SQL_H */
