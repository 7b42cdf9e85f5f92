/*
 * cache_claim.c
 *	  Who refreshes an answer: one caller, however many ask at once and whatever transactions they have open.
 *
 * It is whoever takes the claim of the answer (claim.c), for as long as a call takes (refresh_ms). A put does not end
 * the claim, because its transaction may never commit: a claim is over when the answer that is there was stored after
 * it was taken. So when a put rolls back, or the caller dies, the claim lasts its time, and then somebody else is told;
 * and when an answer is stale again before that, it is free.
 */
#include "postgres.h"

#include "cache.h"
#include "rate.h"

#define CLAIM_KIND 'C'

static LlmqRateName
name_of(const LlmqCacheKey *key)
{
	return (LlmqRateName) {
		.kind = CLAIM_KIND,.org = psprintf("%c%s", key->org_kind, key->org),.scope = key->space.name,
		.subject = key->hash
	};
}

/* Asks to be the one who refreshes an answer, of which the one that there is was stored then; 0: there is none. */
void
llmq_cache_claim(const LlmqCacheKey *key, TimestampTz stored_at, LlmqCacheClaim *claim)
{
	LlmqRateName name = name_of(key);

	claim->mine = llmq_claim_take(&name, key->space.refresh * INT64CONST(1000), stored_at, &claim->wait);
}

/* Gives the claim back. */
void
llmq_cache_unclaim(const LlmqCacheKey *key)
{
	LlmqRateName name = name_of(key);

	llmq_claim_end(&name);
}
