/*
 * catalog_row.h
 *	  Rows of the configuration, for those who take them apart.
 */
#ifndef LLMQ_CATALOG_ROW_H
#define LLMQ_CATALOG_ROW_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "utils/fmgrprotos.h"
#include "utils/snapshot.h"

#include "catalog.h"
#include "relation.h"

/* A row under the scan's cursor, for the functions that take it apart. */
typedef struct LlmqRow
{
	LlmqCatalog *catalog;
	TupleTableSlot *slot;
} LlmqRow;

typedef void (*LlmqRowReader) (LlmqRow *row);

/* catalog_load.c */
extern void *llmq_catalog_keep(LlmqCatalog *catalog, Size size);
extern void llmq_catalog_read(LlmqCatalog *catalog, LlmqRelation which, Snapshot snapshot, LlmqRowReader reader);
extern void llmq_quota_subject(LlmqQuota *quota, const LlmqRow *row, int first);
extern void llmq_quota_window(LlmqQuota *quota, const LlmqRow *row, int per, int calendar, int fiscal_month);
extern void llmq_quota_add(LlmqCatalog *catalog, LlmqQuota *quota);
extern LlmqQuota *llmq_quota_read(LlmqRow *row);
extern int	llmq_word_number(const char *word, const char *const *words);

/* budget.c */
extern LlmqQuota *llmq_budget_read(LlmqRow *row);

static inline bool
is_null(const LlmqRow *row, int column)
{
	return row->slot->tts_isnull[column - 1];
}

/* Does the table have so many columns? That of the SQL of an older version may not. */
static inline bool
has_column(const LlmqRow *row, int column)
{
	return column <= row->slot->tts_tupleDescriptor->natts;
}

static inline Datum
value(const LlmqRow *row, int column)
{
	return row->slot->tts_values[column - 1];
}

/* A text column, copied; NULL for NULL. */
static inline const char *
text_value(const LlmqRow *row, int column)
{
	text	   *found;
	char	   *copy;
	Size		length;

	if (is_null(row, column))
		return NULL;
	found = DatumGetTextPP(value(row, column));
	length = VARSIZE_ANY_EXHDR(found);
	copy = llmq_catalog_keep(row->catalog, length + 1);
	memcpy(copy, VARDATA_ANY(found), length);
	return copy;
}

static inline bool
bool_value(const LlmqRow *row, int column)
{
	return DatumGetBool(value(row, column));
}

static inline double
fraction_value(const LlmqRow *row, int column)
{
	return DatumGetFloat8(DirectFunctionCall1(numeric_float8, value(row, column)));
}

#endif							/* LLMQ_CATALOG_ROW_H */
