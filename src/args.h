/*
 * args.h
 *	  Arguments of the SQL functions: taken out and checked in one way everywhere.
 */
#ifndef LLMQ_ARGS_H
#define LLMQ_ARGS_H

#include "fmgr.h"

/* A NULL argument means "not given". */
extern bool llmq_arg_given(FunctionCallInfo fcinfo, int number);
extern char *llmq_arg_text(FunctionCallInfo fcinfo, int number);
extern char *llmq_required_name(char *name, const char *what);
extern char *llmq_arg_name(FunctionCallInfo fcinfo, int number, const char *what);
extern char *llmq_arg_label(FunctionCallInfo fcinfo, int number, const char *what);
extern int32 llmq_arg_tokens(FunctionCallInfo fcinfo, int number, const char *what);
extern int64 llmq_arg_money(FunctionCallInfo fcinfo, int number, const char *what);
extern int32 llmq_arg_int(FunctionCallInfo fcinfo, int number, const char *what, int32 least, int32 most);

#define LLMQ_NOT_GIVEN (-1)

/* The number of an argument that a function does not have. */
#define LLMQ_NO_ARG FUNC_MAX_ARGS

extern Datum llmq_result_row(FunctionCallInfo fcinfo, const Datum *values, const bool *nulls, int ncolumns);

#endif							/* LLMQ_ARGS_H */
