/*
 * limits.h
 *	  One limit of a simulated provider: what it has let through, whether more
 *	  fits, and when it will.  See limits.c.
 *
 * Times are microseconds since 1970.
 */
#ifndef SIM_LIMITS_H
#define SIM_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

/* An answer of sim_limit_wait: it will never fit. */
#define SIM_NEVER INT64_MAX

typedef enum SimKind
{
	SIM_BUCKET,					/* a token bucket, refilled continuously */
	SIM_SLIDING,				/* the last `length` before now, exactly */
	SIM_FIXED,					/* periods of `length`, counted from 1970 */
	SIM_DAY,					/* midnight to midnight, or a day of `length` */
	SIM_CONCURRENCY				/* at once */
} SimKind;

typedef struct SimEntry
{
	int64_t		at;
	int64_t		amount;
} SimEntry;

typedef struct SimLimit
{
	SimKind		kind;
	int64_t		amount;			/* per length, per day, or at once */
	int64_t		length;			/* 0: concurrency, and a day by its zone */
	const char *zone;			/* whose midnight ends a day without length */
	int64_t		burst;			/* bucket: what it holds when it is full */
	int64_t		used;			/* what counts now; not of a bucket */
	int64_t		end;			/* fixed, day: the end of the running period */
	int64_t		credit;			/* bucket: what is left, times length */
	int64_t		updated;		/* bucket: when the credit was right */
	SimEntry   *entries;		/* sliding: number n is at n modulo capacity */
	int64_t		capacity;
	int64_t		first;			/* number of the oldest entry */
	int64_t		next;			/* number of the next entry */
} SimLimit;

/* What was charged, for its correction. */
typedef struct SimCharge
{
	int64_t		amount;
	int64_t		entry;			/* sliding: its number */
	int64_t		end;			/* fixed, day: the end of its period */
} SimCharge;

extern void sim_limit_init(SimLimit *limit, int64_t now);
extern void sim_limit_free(SimLimit *limit);

/* First of all, at every use: bring it to the clock */
extern void sim_limit_advance(SimLimit *limit, int64_t now);

extern bool sim_limit_fits(const SimLimit *limit, int64_t requested);
extern int64_t sim_limit_used(const SimLimit *limit);
extern int64_t sim_limit_left(const SimLimit *limit);
extern int64_t sim_limit_wait(const SimLimit *limit, int64_t now, int64_t requested);
extern int64_t sim_limit_empty_after(const SimLimit *limit, int64_t now);

extern SimCharge sim_limit_charge(SimLimit *limit, int64_t now, int64_t requested);
extern void sim_limit_correct(SimLimit *limit, SimCharge *charge, int64_t amount);

#endif							/* SIM_LIMITS_H */
