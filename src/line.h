/*
 * line.h
 *	  The line of those who wait for capacity, in memory that all backends of the database share. See line.c.
 */
#ifndef LLMQ_LINE_H
#define LLMQ_LINE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/dsm.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#include "catalog.h"
#include "cell.h"
#include "lease.h"

/* The most that can wait, whatever the setting max_waiting says. */
#define LLMQ_LINE_PLACES 16384

/* Orgs that wait are looked up in a table; those of which nobody waits any more are kept as long as there is room. */
#define LLMQ_LINE_ORGS (2 * LLMQ_LINE_PLACES)

/* What is known of meters is kept by their ids modulo this. */
#define LLMQ_LINE_METERS 65536

/* One who waits does so for these meters, or fewer; those behind them find out when they are next called. */
#define LLMQ_LINE_WANTS 8

/* The longest that a call can wait: an hour. Longer waits are for tickets. */
#define LLMQ_MAX_WAIT_MS 3600000

/* What is waited for when it is no meter: the end of a trouble, a free slot. */
#define LLMQ_WANT_OTHER 0

/* How long what one was called for is kept for him. */
#define LLMQ_CALLED_FOR INT64CONST(1000000)

typedef enum LlmqPlaceState
{
	LLMQ_PLACE_FREE,
	LLMQ_PLACE_WAITING,
	LLMQ_PLACE_CALLED			/* he may try */
} LlmqPlaceState;

/* One who waits. */
typedef struct LlmqPlace
{
	uint64		secret;			/* of his ticket; 0: he holds a connection and has none */
	uint64		number;			/* who came earlier has a smaller one; never used twice */
	TimestampTz since;
	TimestampTz called_at;
	TimestampTz org_called_at;	/* when his org had been called last before */
	TimestampTz seen_until;		/* he of a ticket leaves the line then; DT_NOEND: not by himself */
	TimestampTz retry_at;		/* what he waits for fits then, as far as was known; DT_NOEND: it was not */
	Latch	   *latch;			/* of the backend in which he waits; NULL: he is not there */
	int32		page;			/* of his ticket */
	int16		slot;
	uint8		state;			/* LlmqPlaceState */
	uint8		priority;		/* LlmqPriority */
	bool		absent;			/* he did not come when he was called */
	uint8		scope;			/* whose limit refused: LlmqScope, as the next two for people */
	uint8		metric;
	uint8		nwants;
	uint8		ncalled;
	int32		subject;		/* a name's id; 0: none */
	int32		route;			/* a name's id */
	int32		org;			/* place in the table of orgs */
	int32		want[LLMQ_LINE_WANTS];
	int32		called_for[LLMQ_MAX_METERS];	/* something has come back to these */
} LlmqPlace;

/* Meters for which somebody waits who has been called. */
typedef struct LlmqCalledFor
{
	int			n;
	int32		meter[LLMQ_LINE_WANTS];
} LlmqCalledFor;

/* An org that waits. */
typedef struct LlmqLineOrg
{
	int32		org;			/* a name's id */
	int32		weight;
	int32		in_flight;
	int32		called;			/* of its places */
	int32		waiting[LLMQ_PRIORITIES];	/* those who are called are not among them */
	int32		rivals[LLMQ_PRIORITIES];	/* of somebody whose position is worked out: those of them who wait */
	uint64		filling;		/* of the line in which it waits, or has waited; another's: a free place */
	uint64		walk;			/* the last one that has seen it */
	TimestampTz called_at;		/* the last of its places; when it came, until one is */
} LlmqLineOrg;

/* What is known of a meter that is waited for. */
typedef struct LlmqLineMeter
{
	uint32		waiting;		/* places */
	int32		keeper;			/* the place, from 1, whose backend wakes up when the time comes; 0: none */
	TimestampTz looked_at;		/* somebody was called last because it was time */
} LlmqLineMeter;

/* The memory. Everything but the first line of fields is under the lock. */
typedef struct LlmqLine
{
	uint64		magic;
	Oid			database;
	int			tranche;
	pg_atomic_uint32 waiting;	/* places that are taken; read without the lock, too */
	LWLock		lock;
	uint64		last_number;
	uint64		filling;		/* counted up when the line gets its first */
	uint64		last_walk;
	int32		held;			/* places with a backend */
	int32		end;			/* all places from here on are free */
	int32		free_from;		/* none before is */
	int32		norgs;			/* in the table */
	int32		owed[LLMQ_PRIORITIES];	/* how often lower ones have been passed over, see line_order.c */
	TimestampTz lapsed_at;		/* it was looked last whose time has passed */
	TimestampTz departed_at;	/* of the last one who left, served or not */
	double		departures;		/* those of long ago count less */
	double		departures_took;	/* microseconds, likewise */
	LlmqLineMeter meter[LLMQ_LINE_METERS];
	LlmqLineOrg org[LLMQ_LINE_ORGS];
	uint64		secret[LLMQ_LINE_PLACES];	/* of the tickets at these places; 0: none */
	LlmqPlace	place[LLMQ_LINE_PLACES];
} LlmqLine;

/* line_memory.c */
extern LlmqLine *llmq_line;
extern bool llmq_line_is_held;
extern void llmq_line_look(dsm_handle handle);
extern void llmq_line_open(void);

/* Somebody who joins. */
typedef struct LlmqJoining
{
	int32		org;			/* a name's id */
	int32		weight;
	int32		in_flight;		/* calls of the org */
	int32		most;			/* so many may wait, in all */
	int32		most_of_org;
	LlmqPlace	place;			/* what is known of him */
} LlmqJoining;

/* line_order.c: on the memory alone, under its lock */
extern LlmqLineOrg *llmq_line_org(LlmqLine *line, int32 org);
extern bool llmq_line_is_wanted(const LlmqLine *line, const int32 *meter, int n, TimestampTz now);
extern bool llmq_line_is_called_for(const LlmqLine *line, const int32 *meter, int n);
extern int	llmq_line_best(LlmqLine *line, const int32 *want, int n);
extern int	llmq_line_position(LlmqLine *line, const LlmqPlace *place);
extern int	llmq_line_put(LlmqLine *line, const LlmqJoining *joining);
extern void llmq_line_want(LlmqLine *line, int number, const int32 *want, int n);
extern void llmq_line_call(LlmqLine *line, int number, TimestampTz now);
extern void llmq_line_uncall(LlmqLine *line, int number, bool absent);
extern void llmq_line_take_out(LlmqLine *line, int number);
extern int	llmq_line_lapse(LlmqLine *line, TimestampTz now, int32 *left, int most);

static inline LlmqLineMeter *
llmq_line_meter(LlmqLine *line, int32 meter)
{
	return &line->meter[(uint32) meter % LLMQ_LINE_METERS];
}

/* line_return.c */
extern void llmq_line_note_departure(LlmqLine *line, TimestampTz now);
extern bool llmq_line_is_near(int position, int64 wait);
extern int64 llmq_line_return(int position);

/* line.c */
extern void llmq_line_trouble_changed(void);
extern void llmq_line_granted(int32 org, int calls);
extern void llmq_line_ended(LlmqLive *live, const LlmqSlot *slot);

/* line_rows.c */
extern void llmq_line_count(int *held, int *tickets);

/* Does anybody wait at all? Without the lock: as of a moment ago. */
static inline bool
llmq_line_exists(void)
{
	return llmq_line != NULL && pg_atomic_read_u32(&llmq_line->waiting) > 0;
}

#endif							/* LLMQ_LINE_H */
