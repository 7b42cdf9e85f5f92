/*
 * worker.h
 *	  The background worker: what its processes and those that call it share.
 */
#ifndef LLMQ_WORKER_H
#define LLMQ_WORKER_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "storage/dsm.h"
#include "storage/latch.h"
#include "storage/spin.h"

#include "alert_mark.h"
#include "cell.h"

/* A database without calls is visited so often. */
#define LLMQ_ROUND_INTERVAL (INT64CONST(60) * 1000000)

/* The longest time between two rounds: after crashes. */
#define LLMQ_LONGEST_WAIT (INT64CONST(600) * 1000000)

/* How long nobody tries again to start what could not be started: worker slots are few. */
#define LLMQ_SILENCE (INT64CONST(30) * 1000000)

/* A round is cut after so many milliseconds; its steps stop by themselves before. */
#define LLMQ_ROUND_MS 1000
#define LLMQ_STEPS_MS 400

#define LLMQ_MAX_POKES 64

/* Somebody asks for a round in a database, not later than then. */
typedef struct LlmqPoke
{
	Oid			database;
	TimestampTz due;
} LlmqPoke;

/* Somebody asks for meters in a database to be looked at, at once. */
typedef struct LlmqAlertPoke
{
	Oid			database;
	LlmqAlertCall call;
} LlmqAlertPoke;

/* What a round tells the sleeper. */
typedef struct LlmqRoundResult
{
	bool		ended;			/* it came to its end */
	TimestampTz due;			/* the next one; DT_NOEND: there is nothing to do here until somebody asks */
	char		path[MAXPGPATH / 8];	/* the file of llmquota.name, which goes with the extension */
} LlmqRoundResult;

/*
 * The memory of a sleeper: a part of the server's own when the library is preloaded, else a segment whose handle is in
 * the cell of its database.
 */
typedef struct LlmqSleeper
{
	uint64		magic;
	pg_atomic_uint64 unflushed_since;	/* a call has left its WAL to the sleeper; 0: none has */
	slock_t		mutex;			/* for all that follows */
	pid_t		pid;			/* 0: it is not there */
	Latch	   *latch;
	int			npokes;
	LlmqPoke	poke[LLMQ_MAX_POKES];
	LlmqRoundResult result;
	/* what 0.1.0 does not have: see llmq_sleeper_hears() */
	int			nalerts;
	LlmqAlertPoke alert[LLMQ_MAX_POKES];
	LlmqAlertCall call;			/* all that the round under way is for; nothing: for everything */
	LlmqAlertCall again;		/* what it wants to be called for again */
} LlmqSleeper;

#define LLMQ_SLEEPER_LEAST_SIZE offsetof(LlmqSleeper, nalerts)

/* What bgw_extra holds. */
typedef struct LlmqWorkerExtra
{
	dsm_handle	memory;			/* of the sleeper; 0: the server's own */
} LlmqWorkerExtra;

/* The state of maintenance in a database: a cell of llmquota.name. Fixed-width types, no padding. */
typedef struct LlmqWorkerCell
{
	LlmqCellHeader cell;
	int64		last_run;		/* end of the last round; 0: none */
	int64		due;			/* of the next round */
	int64		running_since;	/* 0: no round is under way */
	int64		tried_at;		/* somebody tried to start a sleeper */
	int64		tables_due;		/* the steps that lock tables */
	int64		rounds;
	int64		error_at;
	uint32		database;		/* a copy made by CREATE DATABASE ... TEMPLATE has another one's */
	int32		sleeper_pid;
	uint32		sleeper_memory; /* dsm_handle; 0: the server's own */
	int32		last_run_ms;
	int32		failures;		/* rounds in a row that failed */
	int32		next_step;		/* the one that the last round did not come to */
	char		error[256];		/* empty: none so far */
} LlmqWorkerCell;

StaticAssertDecl(sizeof(LlmqWorkerCell) == sizeof(LlmqCellHeader) + 7 * 8 + 6 * 4 + 256, "LlmqWorkerCell has padding");

/* Changes the cell's image; false: it stays as it is. */
typedef bool (*LlmqWorkerChange) (LlmqWorkerCell *cell, void *argument);

/* worker.c */
extern bool llmq_worker_enabled;
extern LlmqSleeper *llmq_preloaded_sleeper;
extern void llmq_worker_init(void);
extern BackgroundWorker llmq_worker_process(const char *function, const char *type, Oid database);
extern void llmq_sleeper_prepare(LlmqSleeper *sleeper);
extern LlmqSleeper *llmq_sleeper_attach(dsm_handle memory, dsm_segment **segment);
extern bool llmq_sleeper_hears(dsm_segment *segment);

/* worker_look.c */
extern void llmq_worker_look(TimestampTz expires_at);
extern void llmq_worker_look_meanwhile(void);
extern bool llmq_worker_takes_wal(void);

/* worker_cell.c */
extern bool llmq_worker_is_wanted(LlmqLive *live);
extern bool llmq_worker_cell_create(LlmqLive *live);
extern bool llmq_worker_cell_read(LlmqLive *live, LlmqWorkerCell *cell);
extern bool llmq_worker_cell_change(LlmqLive *live, LlmqWorkerChange change, void *argument);

/* The names by which the server finds them. */
extern PGDLLEXPORT void llmquota_sleeper_main(Datum argument);
extern PGDLLEXPORT void llmquota_round_main(Datum argument);

#endif							/* LLMQ_WORKER_H */
