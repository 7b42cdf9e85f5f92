/*
 * health.h
 *	  What is in trouble: the cooldowns, open breakers and disabled keys that picks go by.
 */
#ifndef LLMQ_HEALTH_H
#define LLMQ_HEALTH_H

#include "postgres.h"

#include "utils/uuid.h"

#include "cell.h"

/* What a trouble is about; letters of a meter's scopes where it is the same. Stored. */
#define LLMQ_HEALTH_PROVIDER	'p'
#define LLMQ_HEALTH_ACCOUNT		'a'
#define LLMQ_HEALTH_SERVICE		's' /* a model at an account: subject and part */
#define LLMQ_HEALTH_MODEL		'm' /* a model, whatever the account */
#define LLMQ_HEALTH_KEY			'k'

/* Kinds of cells of llmquota.health, beside the letters above. */
#define LLMQ_HEALTH_BOARD		'b'
#define LLMQ_HEALTH_EVENTS		'e'
#define LLMQ_HEALTH_CALIBRATION	'c' /* of a model: see calibration.h */
#define LLMQ_HEALTH_TURNS		't' /* of a route: see turn.h */

/* The values of these enums are stored: append only. */
typedef enum LlmqTroubleKind
{
	LLMQ_TROUBLE_NONE = 0,
	LLMQ_TROUBLE_COOLING,		/* left alone for a time */
	LLMQ_TROUBLE_OPEN,			/* its breaker: after the time one call at once, as a probe */
	LLMQ_TROUBLE_DISABLED		/* until somebody enables it, or a probe succeeds */
} LlmqTroubleKind;

typedef enum LlmqHealthEventKind
{
	LLMQ_EVENT_NONE = 0,
	LLMQ_EVENT_COOLED,
	LLMQ_EVENT_CLEARED,
	LLMQ_EVENT_OPENED,
	LLMQ_EVENT_PROBED,
	LLMQ_EVENT_CLOSED,
	LLMQ_EVENT_DISABLED,
	LLMQ_EVENT_ENABLED
} LlmqHealthEventKind;

#define LLMQ_MAX_REASON 38

#define LLMQ_TROUBLE_KINDS (LLMQ_TROUBLE_DISABLED + 1)

/* Who can be in trouble. */
typedef struct LlmqPatient
{
	int32		subject;		/* an id of llmquota.name */
	int32		part;			/* the model of a service, else 0 */
	int32		scope;			/* LLMQ_HEALTH_...; 0: nobody */
} LlmqPatient;

/* Fixed-width types, no padding. */
typedef struct LlmqTrouble
{
	LlmqPatient patient;		/* nobody: a free place */
	uint8		kind;			/* LlmqTroubleKind; a patient has one of each at a time */
	uint8		failure;		/* LlmqFailureKind of the call that caused it; 0: somebody did */
	uint8		level;			/* how often in a row, with no success between */
	uint8		reserved;
	int64		since;
	int64		until;			/* PG_INT64_MAX: for ever */
	int64		probe_until;	/* a call is under way that will show */
	pg_uuid_t	lease;			/* of the call that caused it; all zero: none did */
	int16		http_status;	/* 0: not given */
	char		reason[LLMQ_MAX_REASON];	/* what somebody said, or empty; ends with a zero */
} LlmqTrouble;

StaticAssertDecl(sizeof(LlmqTrouble) == 58 + LLMQ_MAX_REASON, "LlmqTrouble has no padding");

#define LLMQ_TROUBLES_PER_BOARD 80

/*
 * The state of a cell of the kind LLMQ_HEALTH_BOARD. The first one's version changes with every change of any, and the
 * first one counts the events.
 */
typedef struct LlmqHealthBoard
{
	LlmqCellHeader cell;
	uint64		version;
	int64		events;			/* number of the last event */
	int64		kept;			/* that of the last one in llmquota.event */
	int64		keeping;		/* ... if the transaction that wrote up to here commits */
	uint64		keeping_by;		/* that transaction; 0: none was there yet */
	uint64		limits;			/* likewise changes with every limit that providers are known to have; 0: there is none */
	uint32		line;			/* dsm_handle of the memory of those who wait (line_memory.c); 0: there is none */
	uint32		reserved;
	LlmqTrouble trouble[LLMQ_TROUBLES_PER_BOARD];
} LlmqHealthBoard;

StaticAssertDecl(sizeof(LlmqHealthBoard) <= LLMQ_MAX_STATE, "a board fits a page");

typedef struct LlmqHealthEvent
{
	int64		number;			/* 0: a place that no event has taken yet */
	int64		at;
	uint8		kind;			/* LlmqHealthEventKind */
	uint8		reserved[7];
	LlmqTrouble trouble;		/* as it became */
} LlmqHealthEvent;

#define LLMQ_EVENTS_PER_PAGE 64
#define LLMQ_EVENT_PAGES 16

/*
 * The state of a cell of the kind LLMQ_HEALTH_EVENTS: some of the last events, for maintenance to write down. All pages
 * together are a ring, in which an event's number is its place.
 */
typedef struct LlmqHealthEvents
{
	LlmqCellHeader cell;
	LlmqHealthEvent event[LLMQ_EVENTS_PER_PAGE];
} LlmqHealthEvents;

StaticAssertDecl(sizeof(LlmqHealthEvents) <= LLMQ_MAX_STATE, "the events fit a page");
StaticAssertDecl(sizeof(LlmqHealthEvents) != sizeof(LlmqHealthBoard), "a cell is told by its length");

static inline int32
llmq_event_page(int64 number)
{
	return (int32) (number / LLMQ_EVENTS_PER_PAGE % LLMQ_EVENT_PAGES);
}

static inline int
llmq_event_place(int64 number)
{
	return (int) (number % LLMQ_EVENTS_PER_PAGE);
}

/* A change of one trouble, asked for under the lock. */
typedef struct LlmqHealthChange
{
	LlmqTrouble trouble;		/* as it is; of the kind LLMQ_TROUBLE_NONE when there is none. To be changed */
	LlmqHealthEventKind event;	/* that the change is; none: nothing changes */
	bool		silent;			/* it changes, but is no event */
} LlmqHealthChange;

typedef void (*LlmqHealthEdit) (LlmqHealthChange *change, void *argument);

/* health.c */
extern void llmq_health_look(LlmqLive *live);
extern uint64 llmq_health_version(void);
extern int64 llmq_health_events(void);
extern uint64 llmq_health_limits(void);
extern int	llmq_health_troubles(void);
extern const LlmqTrouble *llmq_health_find(const LlmqPatient *patient, LlmqTroubleKind kind);
extern int	llmq_health_find_all(const LlmqPatient *patient, const LlmqTrouble *found[LLMQ_TROUBLE_KINDS]);

typedef void (*LlmqTroubleVisitor) (const LlmqTrouble *trouble, void *argument);
extern void llmq_health_each(LlmqTroubleVisitor visit, void *argument);

/* health_event.c */
extern void llmq_health_log(const LlmqHealthEvent *event);

/* health_text.c: by the names of now */
typedef struct LlmqPatientNames
{
	const char *scope;			/* provider, account, key or model */
	const char *subject;		/* NULL with the scope model */
	const char *model;			/* NULL: whatever the model */
} LlmqPatientNames;

extern const char *llmq_health_scope_text(char scope);
extern const char *llmq_trouble_text(LlmqTroubleKind kind);
extern const char *llmq_health_event_text(LlmqHealthEventKind kind);
extern LlmqPatientNames llmq_patient_names(const LlmqPatient *who);
extern char *llmq_patient_describe(const LlmqPatient *who);
extern char *llmq_trouble_explain(const LlmqTrouble *trouble);

/* health_change.c */
extern bool llmq_health_change(LlmqLive *live, const LlmqPatient *patient, LlmqTroubleKind kind, LlmqHealthEdit edit,
							   void *argument);

#endif							/* LLMQ_HEALTH_H */
