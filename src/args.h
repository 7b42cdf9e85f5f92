/*
 * args.h
 *	  Arguments of the SQL functions: taken out and checked in one way everywhere.
 */
#ifndef LLMQ_ARGS_H
#define LLMQ_ARGS_H

#include "access/tupdesc.h"
#include "fmgr.h"

/* A NULL argument means "not given". */
extern char *llmq_arg_text(FunctionCallInfo fcinfo, int number);
extern char *llmq_arg_name(FunctionCallInfo fcinfo, int number, const char *what);
extern char *llmq_arg_label(FunctionCallInfo fcinfo, int number, const char *what);
extern int32 llmq_arg_tokens(FunctionCallInfo fcinfo, int number, const char *what);
extern int32 llmq_arg_int(FunctionCallInfo fcinfo, int number, const char *what, int32 least, int32 most);

#define LLMQ_NOT_GIVEN (-1)

/* Row descriptors of the functions' results, remembered with the call site. */
extern TupleDesc llmq_result_desc(FunctionCallInfo fcinfo);

#endif							/* LLMQ_ARGS_H */
