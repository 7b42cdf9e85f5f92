/*
 * cache.h
 *	  Answers to requests, for the next who asks the same.
 */
#ifndef LLMQ_CACHE_H
#define LLMQ_CACHE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "storage/buf.h"
#include "utils/rel.h"

#include "catalog.h"
#include "catalog_row.h"

/* How answers of a namespace are kept. A time that its row does not have is that of the settings. Milliseconds. */
typedef struct LlmqNamespace
{
	const char *name;
	bool		shared;
	int32		ttl;
	int32		stale;
	int32		refresh;
} LlmqNamespace;

/* Which answer. */
typedef struct LlmqCacheKey
{
	LlmqNamespace space;
	char		org_kind;		/* as in LlmqNameRef, or LLMQ_CACHE_SHARED */
	const char *org;
	const char *hash;
} LlmqCacheKey;

/* In the place of the kind of an org's name: the answer is everybody's. */
#define LLMQ_CACHE_SHARED 's'

/* What there is. */
typedef struct LlmqCached
{
	bool		found;			/* and not past the time for which it is given out */
	TimestampTz stored_at;
	TimestampTz fresh_until;
	Datum		answer;			/* a copy */
} LlmqCached;

/* What is counted of answers. Stored: append only. */
typedef enum LlmqCacheEvent
{
	LLMQ_CACHE_FRESH,
	LLMQ_CACHE_STALE,
	LLMQ_CACHE_MISS,
	LLMQ_CACHE_REFRESH,		/* callers that were told to */
	LLMQ_CACHE_STORED
} LlmqCacheEvent;

#define LLMQ_CACHE_EVENTS (LLMQ_CACHE_STORED + 1)

/* What came of asking to be the one who refreshes. */
typedef struct LlmqCacheClaim
{
	bool		mine;
	int64		wait;			/* else: until somebody else may be; microseconds, more than 0 */
} LlmqCacheClaim;

/* cache.c */
extern void llmq_cache_key(FunctionCallInfo fcinfo, int org, LlmqCacheKey *key);

/* cache_row.c */
extern void llmq_cache_find(const LlmqCacheKey *key, bool touch, LlmqCached *answer);

/* cache_use.c */
extern void llmq_cache_use(Relation rel, Buffer buffer, HeapTuple row, TimestampTz now);

/* cache_claim.c */
extern void llmq_cache_claim(const LlmqCacheKey *key, TimestampTz stored_at, LlmqCacheClaim *claim);
extern void llmq_cache_unclaim(const LlmqCacheKey *key);

/* cache_count.c */
extern void llmq_cache_count(LlmqCacheEvent event);
extern bool llmq_cache_counted(LlmqLive *live);
extern bool llmq_cache_counts_pending(void);
extern void llmq_cache_counts_flush(void);
extern void llmq_cache_counts_read(LlmqLive *live, int64 *counts);

/* cache_space.c */
extern void llmq_namespace_read(LlmqRow *row);
extern LlmqNamespace llmq_namespace_of(const LlmqCatalog *catalog, const char *name);

#endif							/* LLMQ_CACHE_H */
