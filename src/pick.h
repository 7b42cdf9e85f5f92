/*
 * pick.h
 *	  What the parts of a pick share.
 */
#ifndef LLMQ_PICK_H
#define LLMQ_PICK_H

#include "fmgr.h"

#include "catalog.h"
#include "health.h"
#include "lease.h"
#include "line.h"
#include "meter.h"
#include "pace.h"
#include "price.h"
#include "refusal.h"

/* A key that may serve a model, and what this backend remembers of the two. */
typedef struct LlmqCandidate
{
	LlmqKey    *key;
	int			rank;			/* in the tier: by weight, then by name; once the tier is ranked */
	int32		account_weight; /* the largest weight of the account's keys there; likewise */
	int64		full_until;		/* until then its meters need not be asked */
} LlmqCandidate;

/* Who can keep a pick from a candidate: key, account, model, both, provider; each for every kind of trouble. */
#define LLMQ_SUSPECTS 5

typedef struct LlmqProbe
{
	LlmqPatient who;
	LlmqTroubleKind kind;
} LlmqProbe;

/* What keeps a pick from a candidate. */
typedef struct LlmqAvoid
{
	LlmqCause	cause;			/* that lasts longest; of no kind: nothing does */
	int64		until;			/* as far as is known */
	const LlmqTrouble *trouble; /* that one; else one that its call would be the probe of; or NULL */
	int			nprobes;		/* of these troubles its call would be the probe */
	LlmqProbe	probe[LLMQ_SUSPECTS * LLMQ_TROUBLE_KINDS];
} LlmqAvoid;

/* Keys of one priority. The first `nactive` are to be asked, the others are remembered as full. */
typedef struct LlmqTier
{
	int			n;
	int			nactive;
	LlmqCandidate *candidate;
	int			place;			/* among the tiers of its pool */
	bool		own;			/* of accounts that an org owns */
	bool		ranked;			/* each candidate knows its place: see llmq_tier_rank() */
	/* of the pick that is under way, as its strategy has it */
	uint64		begun_in;		/* number of that pick */
	int			turn;			/* the rank whose turn it is */
	bool		exploring;
	/* what is remembered of the full ones */
	int64		next_return;	/* when the first of the full ones is to be asked again */
	uint64		health_version; /* of the boards by which some were put among the full ones */
	LlmqVerdict soonest;		/* of the full ones, the refusal that ends first */
} LlmqTier;

/* The candidates for one model among one owner's accounts. */
typedef struct LlmqPool
{
	struct LlmqPool *next;
	const char *owner;			/* NULL: shared accounts */
	int			ntiers;
	LlmqTier   *tier;
} LlmqPool;

/* An earlier attempt at the request, by what the configuration has of it; NULL: no longer. */
typedef struct LlmqFailedAttempt
{
	const LlmqKey *key;
	const LlmqAccount *account;
	const LlmqModel *model;
	uint8		failure;		/* LlmqFailureKind */
} LlmqFailedAttempt;

/* What the attempt that failed last leaves to the next. */
typedef struct LlmqRetry
{
	pg_uuid_t	uuid;
	LlmqLeaseId id;
	bool		gone;			/* its slot is: the next three are the ledger's */
	const char *org;
	const char *route;
	LlmqLease	lease;			/* as it was seen */
	int			nfailed;
	LlmqFailedAttempt failed[LLMQ_MAX_TRIED];
	int64		deadline;		/* of the request */
	int64		ask_again_at;	/* for a model that has failed */
	bool		barred;			/* some candidate was left out because of what failed */
	bool		barred_model;	/* ... which another key of its model need not be */
	bool		same_model;		/* only such are asked now */
} LlmqRetry;

/* As many models as a budget tries in the place of one. */
#define LLMQ_MAX_DOWNGRADES 8

/* What budgets make of a request for one model. */
typedef struct LlmqDowngrade
{
	LlmqModel  *requested;		/* NULL: the model itself is tried */
	int64		budget;			/* that has another tried */
	bool		outdated;		/* by now a budget has reached another step */
	int			ntried;
	const LlmqModel *tried[LLMQ_MAX_DOWNGRADES];
} LlmqDowngrade;

/* A place in the line that needs no connection: see ticket.c. */
typedef struct LlmqTicket
{
	LlmqFreeSlot at;			/* where it is, and what is there */
	int64		ttl;			/* it leaves the line when nobody has shown it for so long: microseconds */
} LlmqTicket;

/* What calls of one batch may differ in. */
typedef struct LlmqCall
{
	int32		input_tokens;	/* LLMQ_NOT_GIVEN, as the next */
	int32		output_tokens;
	LlmqTextFeatures prompt;
	bool		max_cost_given;
	int64		max_cost;
	const char *session;
	const char *request_id;
} LlmqCall;

/* A lease that was granted. */
typedef struct LlmqGranted
{
	LlmqLeaseId lease;
	int32		output_tokens;	/* reserved */
} LlmqGranted;

/* Arguments of llmquota_pick(), only ever appended: SQL of the version before gives fewer. */
enum
{
	LLMQ_PICK_ROUTE, LLMQ_PICK_ORG, LLMQ_PICK_INPUT_TOKENS, LLMQ_PICK_MAX_OUTPUT_TOKENS, LLMQ_PICK_PRIORITY,
	LLMQ_PICK_EXCLUDE, LLMQ_PICK_SESSION, LLMQ_PICK_REQUEST_ID, LLMQ_PICK_TTL_MS, LLMQ_PICK_PROMPT,
	LLMQ_PICK_RETRY_OF, LLMQ_PICK_MAX_COST, LLMQ_PICK_WAIT_MS, LLMQ_PICK_QUEUE
};

/* Columns of llmquota.pick_result. */
#define LLMQ_PICK_COLUMNS 17

/* An answer, as its columns. */
typedef struct LlmqAnswer
{
	Datum		values[LLMQ_PICK_COLUMNS];
	bool		nulls[LLMQ_PICK_COLUMNS];
	pg_uuid_t	lease;
} LlmqAnswer;

/* One call of llmquota_pick; or several that are asked for together. */
typedef struct LlmqPick
{
	/* the request */
	LlmqCatalog *catalog;
	LlmqOrg    *org;
	LlmqRoute  *route;
	int32		input_tokens;	/* LLMQ_NOT_GIVEN, as the next */
	int32		output_tokens;
	LlmqTextFeatures prompt;	/* zero: not given, or not needed */
	LlmqPriority priority;
	int32		ttl_ms;
	int32		wait_ms;		/* LLMQ_NOT_GIVEN: it does not wait in the call */
	bool		queue;			/* rather a ticket than a refusal */
	bool		max_cost_given;
	int64		max_cost;
	const char *session;		/* or NULL, as the next */
	const char *request_id;
	int			nexclude;
	char	  **exclude;
	LlmqRetry  *retry;			/* NULL: a first attempt */
	int			nbatch;			/* calls that are asked for together */
	const LlmqCall *batch;		/* the pick's own first; NULL: it alone */
	/* the work */
	struct LlmqOnce *once;		/* NULL: nobody asks whether the request has been made; see once.h */
	LlmqLive	live;
	uint64		number;			/* of the pick, in this backend */
	int64		now;			/* the clock at the last look */
	LlmqModel  *model;			/* of the step being tried */
	LlmqDemand	demand;
	LlmqCost	cost;			/* that is reserved */
	int64		costs_until;	/* then prices or rates are others */
	LlmqDowngrade downgrade;
	bool		any_key;		/* some key can serve the route for this org */
	bool		any_candidate;	/* ... and it was not excluded */
	bool		no_slot;
	bool		exhausted;		/* the request has had all its attempts */
	int			attempt;		/* the number of this one */
	bool		remembers_names;	/* in the history: what the first pick excluded */
	LlmqHistory history;		/* of the new lease */
	bool		common_refused; /* under the lock, by a limit that holds whatever the key */
	LlmqVerdict refusal;		/* over all candidates, the one that ends first */
	int64		waiting;		/* callers refused by it since its meter's last grant, this one included */
	LlmqMeterState *scratch;	/* for copies of meters */
	/* waiting */
	const LlmqTicket *ticket;	/* that is to be granted; NULL: none */
	int64		waiting_since;	/* 0: it does not */
	int			nwants;			/* meters that refuse, the first few */
	int32		want[LLMQ_LINE_WANTS];
	LlmqCalledFor called_for;	/* the line does not bar it from these */
	int			nfull;			/* of the meters that were charged, these have no room for another */
	int32		full[LLMQ_MAX_METERS];
	bool		counted;		/* that it was refused */
	bool		queued;			/* it has a ticket: that of `granted[0]`, until `expires_at` */
	int			position;		/* in the line; 0: it was not in it */
	int32		return_ms;		/* when the ticket is to be shown */
	/* the answer */
	LlmqKey    *key;			/* NULL when refused */
	const LlmqPace *pace;		/* of the model at the key's account */
	int			ngranted;
	LlmqGranted granted[LLMQ_MAX_BATCH];
	int64		granted_at;
	int64		expires_at;
	int64		room;			/* of a batch: for so many more, by the limits that orgs share */
	XLogRecPtr	lsn;			/* end of the grant's last record */
} LlmqPick;

/* Subjects whose limits hold for a call whatever the key. */
#define LLMQ_COMMON_SUBJECTS (3 + LLMQ_MAX_LEVELS)

typedef enum LlmqGrant
{
	LLMQ_GRANT_DONE,
	LLMQ_GRANT_REFUSED,
	LLMQ_GRANT_DOWNGRADE,		/* a budget has another model answer by now */
	LLMQ_GRANT_NO_SLOT,
	LLMQ_GRANT_EXHAUSTED		/* others have retried the same attempt meanwhile */
} LlmqGrant;

/* pick.c */
extern void llmq_pick_begin(LlmqPick *pick);
extern void llmq_pick_read(FunctionCallInfo fcinfo, LlmqPick *pick);
extern void llmq_pick_read_request(FunctionCallInfo fcinfo, LlmqPick *pick);
extern void llmq_pick_take_call(LlmqPick *pick, const LlmqCall *call);
extern void llmq_pick_refuse_expansion(FunctionCallInfo fcinfo, const char *function);
extern bool llmq_pick_try(LlmqPick *pick);
extern bool llmq_pick_attempt(LlmqPick *pick);
extern void llmq_pick_answer(const LlmqPick *pick, int number, LlmqAnswer *answer);
extern void llmq_pick_end(const LlmqPick *pick, int64 expires_at);
extern Datum llmq_pick_finish(FunctionCallInfo fcinfo, LlmqPick *pick);
extern Datum llmq_pick_run(FunctionCallInfo fcinfo, LlmqPick *pick);
extern Datum llmq_pick_answer_unknown(FunctionCallInfo fcinfo);

/* pool.c */
extern bool llmq_account_offers(const LlmqAccount *account, const LlmqModel *model, const char *owner);
extern bool llmq_key_serves(const LlmqKey *key, const LlmqModel *model);
extern LlmqPool *llmq_pool(LlmqCatalog *catalog, LlmqModel *model, const char *owner);
extern void llmq_tier_rank(LlmqTier *tier);

/* avoid.c */
extern int64 llmq_trouble_end(const LlmqTrouble *trouble, int64 now);
extern bool llmq_avoid(LlmqKey *key, LlmqModel *model, int64 now, LlmqAvoid *avoid);
extern int64 llmq_well_from(LlmqKey *key, LlmqModel *model, int64 now);
extern bool llmq_probes_claim(LlmqPick *pick, const LlmqAvoid *avoid);
extern void llmq_probes_give_back(LlmqPick *pick, const LlmqAvoid *avoid, int n);

/* choose.c */
extern double llmq_ask(LlmqPick *pick, LlmqTier *tier, int index, bool *gone);
extern bool llmq_choose(LlmqPick *pick);
extern bool llmq_excluded(const LlmqPick *pick, const LlmqKey *key);

/* demand.c */
extern void llmq_set_demand(LlmqPick *pick);
extern void llmq_set_costs(LlmqPick *pick);
extern void llmq_refuse_unpriced(const LlmqPick *pick, LlmqMeter *const *meters, int n);

/* downgrade.c */
extern LlmqModel *llmq_downgrade(LlmqPick *pick, LlmqModel *model);
extern LlmqModel *llmq_downgrade_next(LlmqPick *pick);

/* strategy.c */
extern LlmqKey *llmq_least_used_key(LlmqPick *pick, LlmqTier *tier);
extern LlmqKey *llmq_strategy_key(LlmqPick *pick, LlmqTier *tier);
extern LlmqChoice *llmq_strategy_order(LlmqPick *pick, int number, int *n);

/* history.c */
extern void llmq_history_begin(LlmqPick *pick);
extern void llmq_history_resume(LlmqPick *pick, const LlmqHistory *history);
extern bool llmq_history_is_over(const LlmqPick *pick);
extern int	llmq_attempts_most(const LlmqRoute *route);
extern int32 llmq_history_deadline_ms(const LlmqPick *pick, int attempt, int64 granted_at);
extern bool llmq_history_bars(const LlmqPick *pick, const LlmqKey *key);
extern bool llmq_history_same_model(LlmqPick *pick);
extern bool llmq_history_waits(const LlmqPick *pick, LlmqVerdict *verdict);
extern int	llmq_history_failed(LlmqCatalog *catalog, const LlmqSlot *slot, LlmqFailedAttempt failed[LLMQ_MAX_TRIED]);
extern bool llmq_history_is_barred(const LlmqFailedAttempt *failed, int n, const LlmqKey *key, const LlmqModel *model);

/* alternative.c */
extern bool llmq_alternative(LlmqLive *live, const LlmqSlot *slot);

/* retry.c */
extern LlmqRetry *llmq_retry_find(const pg_uuid_t *lease);
extern const char *llmq_retry_request_id(const LlmqRetry *retry);
extern void llmq_retry_check_org(const LlmqRetry *retry, const LlmqPick *pick);

/* request.c */
extern void llmq_request_fill(LlmqPick *pick, LlmqSlot *slot);
extern const char *llmq_request_id(const LlmqSlot *slot);
extern void llmq_request_take(LlmqPick *pick, const LlmqLease *lease);
extern void llmq_request_find_route(LlmqPick *pick, const char *org, const char *route, const char *hint);
extern void llmq_request_resume(const LlmqLease *lease, LlmqPick *pick);
extern bool llmq_request_granted(const LlmqLease *lease, const LlmqTicket *ticket, LlmqPick *pick);

/* grant.c */
extern LlmqGrant llmq_grant(LlmqPick *pick, LlmqKey *key, int wanted, LlmqVerdict *verdict);
extern int	llmq_common_subjects(const LlmqPick *pick, const LlmqModel *model, LlmqSubject **subjects);
extern bool llmq_look(LlmqPick *pick, LlmqMeters *meters, LlmqVerdict *verdict);

/* refuse.c */
extern void llmq_want_note(LlmqPick *pick, const LlmqVerdict *verdict);
extern void llmq_refusal_note(LlmqPick *pick, const LlmqVerdict *verdict);
extern LlmqRefusalStatus llmq_refusal_status(const LlmqPick *pick);
extern bool llmq_refusal_has_limit(const LlmqPick *pick);
extern bool llmq_refusal_is_shared(const LlmqPick *pick);
extern int32 llmq_refusal_retry_ms(const LlmqPick *pick);
extern Datum llmq_refusal_jsonb(const LlmqPick *pick);

/* refusal_count.c */
extern void llmq_refusal_count_in_window(LlmqPick *pick);
extern void llmq_refusal_count(LlmqPick *pick);
extern void llmq_refusal_note_grant(int32 meter);
extern void llmq_refusals_flush(void);
extern void llmq_flush_at_exit(void);

#endif							/* LLMQ_PICK_H */
