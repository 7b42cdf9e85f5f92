/*
 * meter.h
 *	  The live counters of one subject: as many windows as it has quotas.
 */
#ifndef LLMQ_METER_H
#define LLMQ_METER_H

#include "catalog.h"
#include "cell.h"
#include "window.h"

/*
 * The state of a cell of llmquota.meter. Fixed-width types, no padding. The windows stand one behind the other, each as
 * long as its kind needs: a state is copied and compared with every change, so it is kept small.
 */
typedef struct LlmqMeterState
{
	LlmqCellHeader cell;
	uint32		generation;		/* see window.h */
	uint16		room;			/* bytes for windows */
	uint16		used;			/* of which so many are taken */
	int64		mean_call;		/* decayed mean duration of calls in microseconds, 0 when not known */
	int64		used_at;		/* last charge or correction */
	int64		next_expiry;	/* no lease in flight is known to expire before; in the past: not known */
	int64		waiting;		/* callers refused since the last grant, by any limit */
	int64		later[1];		/* zero; for what later versions keep */
	char		windows[FLEXIBLE_ARRAY_MEMBER];
} LlmqMeterState;

#define LLMQ_METER_HEAD_SIZE offsetof(LlmqMeterState, windows)

/* Room comes in steps, so that a quota more need not mean a new row; and no row is larger than a page. */
#define LLMQ_ROOM_STEP 256
#define LLMQ_METER_MOST_BYTES ((int) (LLMQ_MAX_STATE - LLMQ_METER_HEAD_SIZE - LLMQ_ROOM_STEP))

StaticAssertDecl(LLMQ_MAX_LIMITS * sizeof(LlmqWindow) <= LLMQ_METER_MOST_BYTES, "the largest meter fits a page");

/* What a window of this kind takes: only a sliding one has buckets. */
static inline int
llmq_window_size(LlmqWindowKind kind)
{
	return kind == LLMQ_WINDOW_SLIDING ? sizeof(LlmqWindow) : LLMQ_WINDOW_HEAD_SIZE;
}

/* The windows of a state, in turn: `for (w = first(s); w != NULL; w = next(s, w))`. */
static inline LlmqWindow *
llmq_meter_first(const LlmqMeterState *state)
{
	return state->used == 0 ? NULL : (LlmqWindow *) state->windows;
}

static inline LlmqWindow *
llmq_meter_next(const LlmqMeterState *state, const LlmqWindow *window)
{
	const char *next = (const char *) window + llmq_window_size(window->kind);

	return next < state->windows + state->used ? (LlmqWindow *) next : NULL;
}

/* What a call uses, or was charged for: the counting of every metric follows from it. */
typedef struct LlmqUse
{
	int64		input;
	int64		output;
	int64		cached;
	LlmqCosts	costs;
	bool		request;		/* a request was made, or may have been */
	bool		failed;			/* ... and the provider answered with a failure */
	bool		in_flight;
} LlmqUse;

/* What a pick asks for, in the terms of its checks. */
typedef struct LlmqDemand
{
	LlmqUse		use;
	bool		high_priority;
	bool		tentative;		/* this transaction has changed the configuration and may yet roll back */
	int64		lease_ttl;		/* microseconds */
} LlmqDemand;

/* The trouble that keeps calls from a candidate, in the words of the configuration; of no kind: none does. */
typedef struct LlmqCause
{
	LlmqSubject *subject;		/* NULL: the model, whatever the account */
	const LlmqModel *model;		/* NULL: whatever the model */
	uint8		kind;			/* LlmqTroubleKind */
	uint8		failure;		/* LlmqFailureKind, 0: somebody's doing */
	int16		http_status;
} LlmqCause;

/* What the limits say to a demand; the first one that refuses, or of several the one that does so longest. */
typedef struct LlmqVerdict
{
	bool		admitted;
	bool		full;			/* some limit would not even admit the smallest request */
	bool		common;			/* a limit refuses that holds whatever the key */
	bool		outdated;		/* a budget has reached a step that the model being tried does not act on */
	double		headroom;		/* of the tightest window, after the request */
	int64		when;			/* the request fits again; LLMQ_WHEN_NEVER: never */
	LlmqCause	cause;			/* why it is not asked at all; of no kind: it is */
	LlmqMeter  *meter;			/* that refused; else NULL, as the next */
	const LlmqLimit *limit;
	int64		amount;
	int64		used;
	int64		requested;
	int64		waiting;		/* callers refused since the meter's last grant */
	double		pace;			/* microseconds in which room for one such request returns; 0: not known */
} LlmqVerdict;

/* A limit as it stands. */
typedef struct LlmqLimitState
{
	LlmqWindow *window;
	int64		amount;			/* that may be used */
	int64		requested;
} LlmqLimitState;

extern int64 llmq_limit_amount(const LlmqLimit *limit, int64 now);
extern void llmq_verdict_init(LlmqVerdict *verdict);
extern void llmq_meter_check(LlmqMeter *meter, LlmqMeterState *copy, const LlmqDemand *demand, int64 now,
							 LlmqVerdict *verdict);
extern bool llmq_meter_recall(const LlmqMeter *meter, const LlmqDemand *demand, int64 now, LlmqVerdict *verdict);
extern bool llmq_meter_is_full(const LlmqMeter *meter, int64 now);
extern void llmq_meter_bar(LlmqMeter *meter, int64 now, LlmqVerdict *verdict);
extern bool llmq_meter_is_tight(const LlmqMeter *meter, int64 now);
extern bool llmq_meter_limit(const LlmqLimit *limit, LlmqMeterState *copy, const LlmqDemand *demand, int64 now,
							 LlmqLimitState *stand);
extern bool llmq_limit_advance(const LlmqLimit *limit, LlmqWindow *window, int64 now, uint32 generation);
extern int	llmq_limit_steps(const LlmqLimit *limit, int64 now);
extern int64 llmq_meter_room(LlmqMeter *meter, LlmqMeterState *copy, const LlmqDemand *demand, int64 now);
extern bool llmq_meter_stale(const LlmqMeter *meter, int64 now);
extern uint32 llmq_meter_charge(LlmqMeter *meter, LlmqMeterState *state, const LlmqDemand *demand, int64 now);

/* How one lease's charge at one meter changes. */
typedef struct LlmqCorrection
{
	LlmqUse		from;
	LlmqUse		to;
	int64		picked_at;
	int64		now;
	uint32		generation;
	bool		loosens;		/* what it replaces, or its time, shows nowhere else */
	bool		only_more;		/* no window is given anything back */
} LlmqCorrection;

extern int64 llmq_use_counted(const LlmqUse *use, LlmqMetric metric, uint8 window_flags, int64 quota);

/* A lease in flight that some windows of its meter are too young to have counted. */
typedef struct LlmqAdoption
{
	LlmqUse		use;
	int64		picked_at;
	uint32		generation;		/* windows that are older have counted it; 0: none has */
} LlmqAdoption;

extern void llmq_meter_restart(LlmqMeterState *state, int64 now);
extern bool llmq_meter_begin(const LlmqMeter *meter, LlmqMeterState *state, int64 now);
extern bool llmq_meter_adopt(LlmqMeterState *state, const LlmqAdoption *adoption);
extern void llmq_meter_correct(LlmqMeterState *state, const LlmqCorrection *correction);
extern bool llmq_meter_idle(const LlmqMeterState *state, int64 before);
extern int	llmq_meter_bytes_needed(const LlmqMeter *meter, const LlmqMeterState *state, const LlmqDemand *demand,
									int64 now);
extern void llmq_meter_count_refusals(LlmqMeterState *state, int64 quota, int64 times, int64 waiting,
									  int64 now);

/* catch_up.c */
extern int64 llmq_meter_catch_up(const LlmqMeter *meter, LlmqMeterState *state, const LlmqLesson *lesson,
								 int64 granted_at);

/* meter_cell.c */
extern const char *llmq_scope_name(LlmqScope scope);
extern const char *llmq_scope_text(char letter);
extern const char *llmq_metric_text(LlmqMetric metric);
extern bool llmq_scope_of(char letter, LlmqScope *scope);
extern char llmq_scope_letter(LlmqScope scope);
extern bool llmq_meter_read(LlmqLive *live, LlmqMeter *meter, LlmqMeterState *state);
extern void llmq_meter_ensure(LlmqLive *live, LlmqCatalog *catalog, LlmqMeter *meter);
extern void llmq_meter_grow(LlmqLive *live, LlmqCatalog *catalog, LlmqMeter *meter, int bytes);
extern int32 llmq_subject_id(LlmqCatalog *catalog, LlmqSubject *subject);

#endif							/* LLMQ_METER_H */
