/*
 * row.h
 *	  Columns of rows that are being put together.
 */
#ifndef LLMQ_ROW_H
#define LLMQ_ROW_H

#include "postgres.h"

#include "utils/builtins.h"

/* A text column; NULL for NULL. */
static inline void
llmq_put_text(Datum *values, bool *nulls, int column, const char *text)
{
	nulls[column] = text == NULL;
	if (text != NULL)
		values[column] = CStringGetTextDatum(text);
}

/* A label of a lease, which has a length and no end; NULL when it is empty. */
static inline void
llmq_put_label(Datum *values, bool *nulls, int column, const char *text, int length)
{
	nulls[column] = length == 0;
	if (length > 0)
		values[column] = PointerGetDatum(cstring_to_text_with_len(text, length));
}

#endif							/* LLMQ_ROW_H */
