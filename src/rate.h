/*
 * rate.h
 *	  Live state of what is asked for by a name and over soon by itself: subjects of rate limits, and claims.
 */
#ifndef LLMQ_RATE_H
#define LLMQ_RATE_H

#include "cell.h"
#include "gcra.h"
#include "linear.h"

/*
 * What something is known by. Kinds: of the subject of a limit L, or that of its org's name; others are claims, see the
 * files that take them.
 */
typedef struct LlmqRateName
{
	char		kind;
	const char *org;			/* '' for none; each text has 255 bytes at most */
	const char *scope;
	const char *subject;
} LlmqRateName;

/* Something by its name. Past its time it is as good as none. Fixed-width types, no padding; all zero: none. */
typedef struct LlmqRateEntry
{
	uint64		hash[2];
	LlmqGcraTime until;
} LlmqRateEntry;

StaticAssertDecl(sizeof(LlmqRateEntry) == 32, "LlmqRateEntry has no padding");

/* Is it not past its time? */
static inline bool
llmq_rate_is_in_force(const LlmqRateEntry *entry, int64 now)
{
	return entry->until.at + (entry->until.part != 0) > now;
}

/* As many as two cells to a page leave room for. */
#define LLMQ_RATE_ENTRIES 124

/* There are to be so many cells, however few subjects there are. */
#define LLMQ_RATE_LEAST_CELLS 64

/* With so many in force there should be more cells. */
#define LLMQ_RATE_CROWDED 80

/* So many of each cell are counted on. */
#define LLMQ_RATES_PER_CELL 70

/* The state of a cell of llmquota.rate_page. */
typedef struct LlmqRatePage
{
	LlmqLinearPage linear;
	LlmqRateEntry entry[LLMQ_RATE_ENTRIES];
} LlmqRatePage;

StaticAssertDecl(sizeof(LlmqRatePage) == 48 + 32 * LLMQ_RATE_ENTRIES, "LlmqRatePage has no padding");

/* As many as one call changes at most: of as many cells. */
#define LLMQ_RATE_MOST_USES 10

StaticAssertDecl(LLMQ_RATE_MOST_USES <= LLMQ_MAX_CELLS, "a set has room for the cells of one call");

/* One of the entries that a call looks at and changes. */
typedef struct LlmqRateUse
{
	LlmqRateName name;
	uint64		hash[2];
	int32		id;				/* of its cell */
	int			cell;			/* in the set */
	int			place;			/* in the cell; -1: there is no room for it */
	LlmqGcraTime until;			/* while the cells are locked: as it was; all zero: it was none */
	int64		room_at;		/* where there is no room: when there is */
} LlmqRateUse;

typedef struct LlmqRateChange
{
	LlmqLive	live;
	LlmqCellSet set;
	int64		now;			/* read when all is locked */
	int			nuses;
	LlmqRateUse use[LLMQ_RATE_MOST_USES];
} LlmqRateChange;

/* rate_entry.c */
extern const LlmqLinear llmq_rate_linear;
extern int	llmq_rate_place(const LlmqRatePage *page, const uint64 *hash);
extern int	llmq_rate_free_place(const LlmqRatePage *page, int64 now, int from);
extern int	llmq_rate_in_force(const LlmqRatePage *page, int64 now);
extern int64 llmq_rate_first_end(const LlmqRatePage *page);

/* rate_page.c */
extern bool llmq_rate_open(LlmqRateChange *change);
extern void llmq_rate_add(LlmqRateChange *change, const LlmqRateName *name);
extern void llmq_rate_lock(LlmqRateChange *change);
extern void llmq_rate_set(LlmqRateChange *change, int use, LlmqGcraTime until);
extern void llmq_rate_close(LlmqRateChange *change);

/* claim.c */
extern bool llmq_claim_take(const LlmqRateName *name, int64 ttl, int64 done_at, int64 *wait);
extern void llmq_claim_end(const LlmqRateName *name);

#endif							/* LLMQ_RATE_H */
