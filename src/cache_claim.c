#include "postgres.h"

#include "cache.h"

void
llmq_cache_claim(const LlmqCacheKey *key, TimestampTz stored_at, LlmqCacheClaim *claim)
{
	claim->mine = true;
}

void
llmq_cache_unclaim(const LlmqCacheKey *key)
{
}
