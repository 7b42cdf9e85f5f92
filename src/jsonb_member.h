/*
 * jsonb_member.h
 *	  Members of a jsonb object that is being put together.
 */
#ifndef LLMQ_JSONB_MEMBER_H
#define LLMQ_JSONB_MEMBER_H

#include "postgres.h"

#include "utils/jsonb.h"
#include "utils/numeric.h"

extern void llmq_member_text(JsonbParseState **state, const char *name, const char *text);
extern void llmq_member_numeric(JsonbParseState **state, const char *name, Numeric number);
extern void llmq_member_bool(JsonbParseState **state, const char *name, bool is);
extern void llmq_member_number(JsonbParseState **state, const char *name, int64 number);

#endif							/* LLMQ_JSONB_MEMBER_H */
