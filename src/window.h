/*
 * window.h
 *	  One limit's live counters: what a window has admitted, whether more
 *	  fits, and when it will.  See window.c for the rules and the promise.
 *
 * Pure functions on plain structs: nothing here calls the server, allocates,
 * raises, or loops more than LLMQ_BUCKETS times, so all of it may be used
 * under a content lock.  Times are finite TimestampTz: microseconds, negative
 * before 2000.
 */
#ifndef LLMQ_WINDOW_H
#define LLMQ_WINDOW_H

#include "postgres.h"

/* The sub-buckets of a sliding window: 60 to its length, and the running one. */
#define LLMQ_BUCKETS 61

/* The bounds of a sliding window's length, for whoever checks configuration. */
#define LLMQ_LENGTH_MIN INT64CONST(1000000)
#define LLMQ_LENGTH_MAX (INT64CONST(400) * 86400 * 1000000)

/* Answers of llmq_window_when that are not instants. */
#define LLMQ_WHEN_NEVER PG_INT64_MAX
#define LLMQ_WHEN_UNKNOWN (PG_INT64_MAX - 1)

/* The values of these three enums are stored: append only. */
typedef enum LlmqWindowKind
{
	LLMQ_WINDOW_FREE = 0,		/* an unused place; no function takes one */
	LLMQ_WINDOW_SLIDING,
	LLMQ_WINDOW_CALENDAR,
	LLMQ_WINDOW_CONCURRENCY
} LlmqWindowKind;

typedef enum LlmqMetric
{
	LLMQ_METRIC_REQUESTS = 0,
	LLMQ_METRIC_INPUT_TOKENS,
	LLMQ_METRIC_OUTPUT_TOKENS,
	LLMQ_METRIC_TOKENS,
	LLMQ_METRIC_CONCURRENCY,
	LLMQ_METRIC_COST			/* in 1e-9 of a currency */
} LlmqMetric;

typedef enum LlmqCalendarUnit
{
	LLMQ_CALENDAR_DAY = 0,
	LLMQ_CALENDAR_WEEK,
	LLMQ_CALENDAR_MONTH,
	LLMQ_CALENDAR_QUARTER,
	LLMQ_CALENDAR_YEAR,
	LLMQ_CALENDAR_TOTAL			/* once: one period, which never ends */
} LlmqCalendarUnit;

/*
 * A calendar is stored in one byte: its unit, and above it the month, less
 * one, with which years begin and quarters are counted from.  Other units have
 * no such month, and say January.
 */
static inline uint8
llmq_unit(LlmqCalendarUnit calendar, int fiscal_month)
{
	return (uint8) (calendar | (fiscal_month - 1) << 4);
}

static inline LlmqCalendarUnit
llmq_unit_calendar(uint8 unit)
{
	return (LlmqCalendarUnit) (unit & 0x0F);
}

static inline int
llmq_unit_fiscal_month(uint8 unit)
{
	return (unit >> 4) + 1;
}

/* LlmqWindow.flags: what was used before began_at is not yet counted */
#define LLMQ_WINDOW_SEEDING 0x01
/* and what its owner needs to know to settle a lease, kept for it */
#define LLMQ_WINDOW_NOT_CACHED 0x02 /* cached input tokens do not count */
#define LLMQ_WINDOW_NOT_FAILURES 0x04	/* failed requests do not count */
/* it holds what cannot be told from times and figures of leases alone */
#define LLMQ_WINDOW_LOOSE 0x08
/* what is used has reached what somebody is to be told of: maintenance is to look */
#define LLMQ_WINDOW_ALERT 0x10
/* its period began with what the one before handed on, which no lease shows */
#define LLMQ_WINDOW_CARRIED 0x20
/* what is left at the end of its period, or lacks, goes into the next: only who has the amount at hand may advance it */
#define LLMQ_WINDOW_CARRIES 0x80

/*
 * A window as it is stored in a meter's state: fixed width, no padding.
 *
 * Only a sliding window uses bucket[].  For the other kinds neither is it
 * read nor written, so such a window may be stored as its first
 * LLMQ_WINDOW_HEAD_SIZE bytes.
 *
 * Generations are the meter's: a number that its owner raises by one when it
 * adds or reshapes a window, and when llmq_window_advance says so.  A lease
 * remembers the meter's generation as it was after its pick.
 */
typedef struct LlmqWindow
{
	int64		quota;			/* llmquota.quota.id; of a cost window, see currency.h */
	uint8		kind;			/* LlmqWindowKind */
	uint8		metric;			/* LlmqMetric */
	uint8		unit;			/* llmq_unit(); 0 if not a calendar */
	uint8		flags;			/* LLMQ_WINDOW_SEEDING */
	uint32		zone;			/* llmq_zone_hash of the calendar's zone, or
								 * llmq_total_hash of a total's start;
								 * sliding: llmq_window_alert_from(); 0 */
	uint32		since;			/* picks of an older generation don't count */
	uint32		rebased;		/* refunds of an older generation are void;
								 * calendar: llmq_window_alert_from() */
	int64		span;			/* length of a bucket, or of the period; 0 */
	int64		head;			/* number of the newest bucket, or start of
								 * the period; concurrency: when the use last
								 * rose to the first threshold, or 0 */
	int64		sum;			/* what counts now; sliding: of all buckets */
	int64		refused;		/* how often this window refused */
	int64		would_refuse;	/* how often it would have, only observing */
	int64		began_at;		/* when it began to count */
	int64		next_span;		/* length of the next period, 0 if not known:
								 * whoever settles has no shape at hand;
								 * sliding: the bucket that ends LOOSE */
	int64		bucket[LLMQ_BUCKETS];	/* number n is at n modulo 61 */
} LlmqWindow;

#define LLMQ_WINDOW_HEAD_SIZE offsetof(LlmqWindow, bucket)

/* The place of a bucket in the ring: its number modulo 61, never negative. */
static inline int
llmq_bucket_place(int64 number)
{
	int			place = number % LLMQ_BUCKETS;

	return place < 0 ? place + LLMQ_BUCKETS : place;
}

/* A calendar's current period [start, end) and the next one, [end, next_end). */
typedef struct LlmqPeriod
{
	int64		start;
	int64		end;
	int64		next_end;
} LlmqPeriod;

/* What the configuration wants a window to be. */
typedef struct LlmqWindowShape
{
	int64		quota;
	LlmqWindowKind kind;
	LlmqMetric	metric;
	uint8		unit;			/* calendar only: llmq_unit(), else 0 */
	uint32		zone;			/* calendar only, else 0 */
	int64		span;			/* sliding only: llmq_window_span() */
	LlmqPeriod	period;			/* calendar only: llmq_zone_period(), or
								 * llmq_total_period() */
} LlmqWindowShape;

/* Shape */
extern void llmq_total_period(int64 starts_at, int64 at, LlmqPeriod *period);
extern uint32 llmq_total_hash(int64 starts_at);
extern int64 llmq_period_mean(uint8 unit);
extern int64 llmq_periods_between(uint8 unit, int64 earlier, int64 later);
extern int64 llmq_window_span(int64 length, int64 slack);
extern void llmq_window_shape_of(const LlmqWindow *window, LlmqWindowShape *shape);
extern bool llmq_window_stale(const LlmqWindowShape *shape, int64 now);
extern bool llmq_window_same_shape(const LlmqWindow *window, const LlmqWindowShape *shape);
extern void llmq_window_init(LlmqWindow *window, const LlmqWindowShape *shape,
							 uint32 generation, int64 now, uint8 flags);

/* First of all, at every use: bring it to the clock */
extern bool llmq_window_advance(LlmqWindow *window, const LlmqWindowShape *shape,
								int64 now, uint32 generation);

/* Questions */
extern bool llmq_window_begun(const LlmqWindow *window);
extern bool llmq_window_fits(const LlmqWindow *window, int64 amount, int64 requested);
extern int64 llmq_window_left(const LlmqWindow *window, int64 amount);
extern int64 llmq_window_when(const LlmqWindow *window, int64 now,
							  int64 amount, int64 requested);
extern int64 llmq_window_bucket(const LlmqWindow *window, int64 at);
extern int64 llmq_window_held(const LlmqWindow *window, int64 number);

/* Changes */
extern int64 llmq_window_charge(LlmqWindow *window, int64 now, int64 requested);
extern int64 llmq_window_correct(LlmqWindow *window, int64 picked_at,
								 uint32 pick_generation, int64 delta);
extern int64 llmq_window_add_earlier(LlmqWindow *window, int64 at, int64 used);
extern void llmq_window_loosen(LlmqWindow *window);
extern void llmq_window_refuse(LlmqWindow *window, bool enforced, int64 times);

/* When somebody has to look */
extern int64 llmq_window_alert_from(const LlmqWindow *window);
extern bool llmq_window_is_alert_from(const LlmqWindow *window, int64 use);
extern void llmq_window_set_alert_from(LlmqWindow *window, int64 use);
extern bool llmq_window_note_alert(LlmqWindow *window);

/* window_recount.c */
extern bool llmq_window_recount(LlmqWindow *window, const LlmqWindow *then,
								int64 first, const int64 *sums);

#endif							/* LLMQ_WINDOW_H */
