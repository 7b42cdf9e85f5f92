/*
 * compat.h
 *	  Everything that differs between PostgreSQL 15 and 18, and nothing else.
 *
 * No other file looks at PG_VERSION_NUM.
 */
#ifndef LLMQ_COMPAT_H
#define LLMQ_COMPAT_H

#include "access/genam.h"
#include "access/heapam_xlog.h"
#include "access/htup_details.h"
#include "access/rmgr.h"
#include "access/transam.h"
#include "access/xloginsert.h"
#include "common/jsonapi.h"
#include "common/relpath.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/tidbitmap.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"

#if PG_VERSION_NUM < 150000
#error "llmquota needs PostgreSQL 15 or later"
#endif

/* The macros for variable-length values. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#if PG_VERSION_NUM < 160000
typedef RelFileNode LlmqRelFile;
#else
typedef RelFileLocator LlmqRelFile;
#endif

/* The file that a relation's rows are in; it changes when the relation is rewritten. */
static inline LlmqRelFile
llmq_relation_file_compat(Relation rel)
{
#if PG_VERSION_NUM < 160000
	return rel->rd_node;
#else
	return rel->rd_locator;
#endif
}

static inline bool
llmq_same_file_compat(LlmqRelFile a, LlmqRelFile b)
{
#if PG_VERSION_NUM < 160000
	return RelFileNodeEquals(a, b);
#else
	return RelFileLocatorEquals(a, b);
#endif
}

/* Pins a page that may still be in a buffer where it was seen; false when it is not. */
static inline bool
llmq_read_recent_buffer_compat(Relation rel, BlockNumber block, Buffer recent)
{
	return ReadRecentBuffer(llmq_relation_file_compat(rel), MAIN_FORKNUM, block, recent);
}

/* Did this transaction give the relation another file, which a rollback would take back? */
static inline bool
llmq_has_new_file_compat(Relation rel)
{
#if PG_VERSION_NUM < 160000
	return rel->rd_createSubid == InvalidSubTransactionId && rel->rd_firstRelfilenodeSubid != InvalidSubTransactionId;
#else
	return rel->rd_createSubid == InvalidSubTransactionId && rel->rd_firstRelfilelocatorSubid != InvalidSubTransactionId;
#endif
}

/* The path of that file, from the data directory. */
static inline void
llmq_relation_path_compat(Relation rel, char *path, Size size)
{
#if PG_VERSION_NUM < 180000
	char	   *found = relpathperm(llmq_relation_file_compat(rel), MAIN_FORKNUM);

	strlcpy(path, found, size);
	pfree(found);
#else
	strlcpy(path, relpathperm(llmq_relation_file_compat(rel), MAIN_FORKNUM).str, size);
#endif
}

/* The oldest transaction id that the commit log knows; XactTruncationLock must be held. */
static inline TransactionId
llmq_oldest_clog_xid_compat(void)
{
#if PG_VERSION_NUM < 170000
	return ShmemVariableCache->oldestClogXid;
#else
	return TransamVariables->oldestClogXid;
#endif
}

/* EvalPlanQualInit() for an update outside of a plan. */
#if PG_VERSION_NUM < 160000
#define llmq_plan_qual_init_compat(epq, estate) EvalPlanQualInit(epq, estate, NULL, NIL, -1)
#else
#define llmq_plan_qual_init_compat(epq, estate) EvalPlanQualInit(epq, estate, NULL, NIL, -1, NIL)
#endif

/* ExecInsertIndexTuples() for a fresh row of a table without deferrable constraints. */
#if PG_VERSION_NUM < 160000
#define llmq_insert_index_tuples_compat(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL)
#else
#define llmq_insert_index_tuples_compat(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL, false)
#endif

/* Logs a row that is written over in its place, all of it but its header; the page is locked, in a critical section. */
static inline XLogRecPtr
llmq_log_in_place_compat(Buffer buffer, HeapTuple row)
{
	char	   *bytes = (char *) row->t_data + row->t_data->t_hoff;
	xl_heap_inplace record = {.offnum = ItemPointerGetOffsetNumber(&row->t_self)};

	XLogBeginInsert();
#if PG_VERSION_NUM < 180000
	XLogRegisterData((char *) &record, SizeOfHeapInplace);
#else
	record.dbId = MyDatabaseId;
	record.tsId = MyDatabaseTableSpace;
	XLogRegisterData(&record, MinSizeOfHeapInplace);
#endif
	XLogRegisterBuffer(0, buffer, REGBUF_STANDARD);
	XLogRegisterBufData(0, bytes, row->t_len - row->t_data->t_hoff);
	return XLogInsert(RM_HEAP_ID, XLOG_HEAP_INPLACE);
}

static inline IndexScanDesc
llmq_index_beginscan_bitmap_compat(Relation index, Snapshot snapshot, int nkeys)
{
#if PG_VERSION_NUM < 180000
	return index_beginscan_bitmap(index, snapshot, nkeys);
#else
	return index_beginscan_bitmap(index, snapshot, NULL, nkeys);
#endif
}

/* Goes through the pages of a bitmap, in their order. */
#if PG_VERSION_NUM < 180000
typedef TBMIterator *LlmqPageIterator;
#else
typedef TBMPrivateIterator *LlmqPageIterator;
#endif

static inline void
llmq_pages_begin_compat(LlmqPageIterator *iterator, TIDBitmap *pages)
{
#if PG_VERSION_NUM < 180000
	*iterator = tbm_begin_iterate(pages);
#else
	*iterator = tbm_begin_private_iterate(pages);
#endif
}

static inline bool
llmq_pages_next_compat(LlmqPageIterator *iterator, BlockNumber *page)
{
#if PG_VERSION_NUM < 180000
	TBMIterateResult *result = tbm_iterate(*iterator);

	if (result == NULL)
		return false;
	*page = result->blockno;
#else
	TBMIterateResult result;

	if (!tbm_private_iterate(*iterator, &result))
		return false;
	*page = result.blockno;
#endif
	return true;
}

static inline void
llmq_pages_end_compat(LlmqPageIterator *iterator)
{
#if PG_VERSION_NUM < 180000
	tbm_end_iterate(*iterator);
#else
	tbm_end_private_iterate(*iterator);
#endif
}

/*
 * What callbacks of the JSON parser return, and how they go on or stop.  Before 16 they cannot say so: there the text
 * ends with the token that was read last.
 */
#if PG_VERSION_NUM < 160000
typedef void LlmqJsonStep;
#define llmq_json_return_compat(lex, go_on) \
	do { \
		if (!(go_on)) \
			(lex)->input_length = (lex)->token_terminator - (lex)->input; \
		return; \
	} while (0)
#else
typedef JsonParseErrorType LlmqJsonStep;
#define llmq_json_return_compat(lex, go_on) return (go_on) ? JSON_SUCCESS : JSON_SEM_ACTION_FAILED
#endif

/* A lexer for a text; the encoding only matters to escapes beyond ASCII and to messages. */
static inline JsonLexContext *
llmq_json_lexer_compat(char *text, int length)
{
#if PG_VERSION_NUM < 170000
	return makeJsonLexContextCstringLen(text, length, PG_UTF8, true);
#else
	return makeJsonLexContextCstringLen(NULL, text, length, PG_UTF8, true);
#endif
}

static inline void
llmq_json_free_compat(JsonLexContext *lex)
{
#if PG_VERSION_NUM < 170000
	pfree(lex->strval->data);
	pfree(lex->strval);
	pfree(lex);
#else
	freeJsonLexContext(lex);
#endif
}

/*
 * What a session waits on for its client: socket and latch, at these positions. libpq/libpq.h declares them, too, but
 * cannot be read without the headers of GSSAPI, which the server's own do not bring along.
 */
struct WaitEventSet;
extern PGDLLIMPORT struct WaitEventSet *FeBeWaitSet;

#define LLMQ_CLIENT_SOCKET_POSITION 0

#endif							/* LLMQ_COMPAT_H */
