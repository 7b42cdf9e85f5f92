/*
 * claim.c
 *	  Claims: something that is to be done by one caller, for some time.
 *
 * A claim is an entry of llmquota.rate_page by its name. It is no part of the caller's transaction: others see it at
 * once, and a rollback does not end it. It ends with its time, or when it is ended. A crash may forget the claims of
 * its last fraction of a second.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "utils/timestamp.h"

#include "rate.h"

/*
 * Takes a claim for `ttl` microseconds, unless somebody has it. Is it the caller's? Else `wait` says for how long it is
 * somebody's at most, in microseconds. Of all who ask while it is in force one is told so. One that was taken no later
 * than `done_at` is over: what it was for has been done. Where there is no room for more claims it is everybody's;
 * where nothing may be written nobody's. A clock that was set back makes a claim last no longer than its time from now.
 */
bool
llmq_claim_take(const LlmqRateName *name, int64 ttl, int64 done_at, int64 *wait)
{
	LlmqRateChange change;
	LlmqGcraTime until = {0};
	bool		taken;

	*wait = ttl;
	if (XactReadOnly || RecoveryInProgress() || !llmq_rate_open(&change))
		return false;
	llmq_rate_add(&change, name);
	llmq_rate_lock(&change);
	until.at = change.now + ttl;
	taken = change.use[0].until.at <= Max(change.now, Min(done_at, change.now) + ttl);
	*wait = taken ? 0 : Min(change.use[0].until.at - change.now, ttl);
	if (change.use[0].place >= 0 && (taken || change.use[0].until.at > until.at))
		llmq_rate_set(&change, 0, until);
	llmq_rate_close(&change);
	return taken;
}

/* Ends a claim, whoever has it. */
void
llmq_claim_end(const LlmqRateName *name)
{
	LlmqRateChange change;

	if (!llmq_rate_open(&change))
		return;
	llmq_rate_add(&change, name);
	llmq_rate_lock(&change);
	if (change.use[0].until.at > change.now)
		llmq_rate_set(&change, 0, (LlmqGcraTime) {.at = change.now});
	llmq_rate_close(&change);
}
