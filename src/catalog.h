/*
 * catalog.h
 *	  The configuration, as each backend keeps it in memory.
 */
#ifndef LLMQ_CATALOG_H
#define LLMQ_CATALOG_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/snapshot.h"

#include "breaker.h"
#include "currency.h"
#include "gcra.h"
#include "learned.h"
#include "name.h"
#include "provider.h"
#include "threshold.h"
#include "window.h"

/* Stored as one letter in llmquota.meter; also the order in which refusals are reported. */
typedef enum LlmqScope
{
	LLMQ_SCOPE_GLOBAL,
	LLMQ_SCOPE_PROVIDER,
	LLMQ_SCOPE_ACCOUNT,
	LLMQ_SCOPE_KEY,
	LLMQ_SCOPE_ORG,
	LLMQ_SCOPE_PARENT			/* an org and those below it; of budgets only */
} LlmqScope;

#define LLMQ_SCOPE_COUNT (LLMQ_SCOPE_PARENT + 1)

/* What is counted apart within a subject: a pick belongs to one meter of each kind that has quotas. */
typedef enum LlmqPart
{
	LLMQ_PART_ALL,
	LLMQ_PART_MODEL,
	LLMQ_PART_FAMILY
} LlmqPart;

#define LLMQ_PART_COUNT (LLMQ_PART_FAMILY + 1)

/* A quota or budget belongs to one meter, which has room for so many of each, and of both. */
#define LLMQ_MAX_QUOTAS 8
#define LLMQ_MAX_BUDGETS 4
#define LLMQ_MAX_LIMITS (LLMQ_MAX_QUOTAS + LLMQ_MAX_BUDGETS)

/* An org, and so many levels above it. */
#define LLMQ_MAX_LEVELS 4

/* amount of a quota that says NULL: no limit */
#define LLMQ_NO_LIMIT (-1)

/* From a fraction of its amount on, a budget has another model answer. */
typedef struct LlmqBudgetStep
{
	int64		at;				/* of the amount, in 1e-9 */
	struct LlmqModel *model;	/* NULL: that which the model asked for names */
} LlmqBudgetStep;

/* A larger amount that holds for a while. */
typedef struct LlmqBudgetRaise
{
	struct LlmqBudgetRaise *next;
	const char *subject;
	int64		amount;
	int64		from;
	int64		until;
} LlmqBudgetRaise;

/* What a budget has beside what it has in common with quotas. */
typedef struct LlmqBudget
{
	struct LlmqBudget *next;	/* of all */
	int64		id;
	LlmqCurrency currency;
	bool		hard_stop;
	bool		free_when_spent;
	bool		carry_debt;
	bool		carry_unspent;
	int64		starts_at;		/* of a total */
	LlmqThresholds alert_at;
	bool		has_steps;		/* of llmquota.budget_step */
	int			nsteps;
	LlmqBudgetStep *step;		/* by where they begin */
	LlmqBudgetRaise *raises;
} LlmqBudget;

typedef struct LlmqQuota
{
	int64		id;				/* of a budget: see llmq_budget_window() */
	LlmqBudget *budget;			/* NULL: a quota */
	LlmqScope	scope;
	LlmqPart	part;
	const char *subject;		/* "*": each by itself */
	const char *part_name;		/* "*": each by itself; NULL with LLMQ_PART_ALL */
	LlmqMetric	metric;
	LlmqWindowKind kind;
	uint8		unit;			/* of a calendar: llmq_unit() */
	int64		amount;			/* or LLMQ_NO_LIMIT */
	int64		length;			/* of a sliding window, in microseconds */
	const char *zone;			/* NULL: the provider's, else UTC */
	const char *period;			/* for people: "1 minute", "day"; NULL for concurrency */
	double		high_priority_share;
	double		rollout;
	bool		observe;
	uint8		window_flags;	/* LLMQ_WINDOW_NOT_CACHED, LLMQ_WINDOW_NOT_FAILURES */
	struct LlmqQuota *next;		/* of the same scope and kind of part */
} LlmqQuota;

/* A quota as it holds for one meter. */
typedef struct LlmqLimit
{
	const LlmqQuota *quota;
	const char *subject;
	const char *zone;
	bool		enforced;		/* else it only observes */
	int64		seen;			/* what had been used when this backend last saw it */
	int			acted_on;		/* so many of its budget's steps the model being tried takes into account */
	LlmqLearned learned;		/* what the provider says of it, for the model being tried */
	int64		learned_ttl;	/* so long that holds: microseconds */
	const LlmqThresholds *alert_at;
	int64		alert_first;	/* of a quota: the use that reaches the first of them */
	bool		alert_marked;	/* its window says at which use the next one is reached, as of this plan */
	LlmqWindowShape shape;
} LlmqLimit;

/* The limits of one subject and part, and the cell that counts for them. */
typedef struct LlmqMeter
{
	struct LlmqMeter *next;		/* of the same subject */
	struct LlmqSubject *subject;
	LlmqPart	part;
	const char *part_name;		/* NULL with LLMQ_PART_ALL */
	LlmqNameRef part_ref;
	int32		id;				/* of the cell, 0 when not known yet */
	int			nlimits;
	LlmqLimit  *limit;
	int64		tight_until;	/* it may refuse, as far as this backend knows */
	int64		seen_at;		/* when this backend last saw it */
} LlmqMeter;

/* The meters that one model's calls touch at one subject. */
typedef struct LlmqMeters
{
	struct LlmqMeters *next;
	const struct LlmqModel *model;
	int			n;
	LlmqMeter  *meter[LLMQ_PART_COUNT];
	uint64		limits;			/* llmq_health_limits() of what is learned */
	LlmqLearned *learned;		/* what the provider says, a list; NULL: never asked for */
} LlmqMeters;

/* Whatever quotas can be on. */
typedef struct LlmqSubject
{
	LlmqScope	scope;
	const char *name;
	const char *zone;			/* of calendar quotas that name none */
	const char *budget_zone;	/* the same of budgets; NULL: as of quotas */
	LlmqNameRef ref;			/* of no kind with the scope global */
	MemoryContext context;		/* what lives as long as the subject */
	LlmqMeter  *meters;
	LlmqMeters *by_model;
} LlmqSubject;

typedef struct LlmqProvider
{
	LlmqSubject subject;
	const char *base_url;
	LlmqAdapter adapter;
	LlmqBreakerRule breaker;
	bool		enabled;
} LlmqProvider;

typedef struct LlmqAccount
{
	LlmqSubject subject;
	LlmqProvider *provider;
	const char *org;			/* NULL: shared */
	const char *base_url;
	bool		enabled;
	struct LlmqAccount *next;	/* of all */
	int			nkeys;
	struct LlmqKey *first_key;
	int32		weight;			/* scratch, of the tier that pool.c works at */
	struct LlmqPace *paces;		/* of models, as this backend has read them */
	/* what its meters said when they were last asked */
	uint64		looked_in;		/* number of that pick */
	struct LlmqVerdict *verdict;
} LlmqAccount;

typedef struct LlmqKey
{
	LlmqSubject subject;
	struct LlmqKey *next;		/* of its account */
	LlmqAccount *account;
	const char *secret_ref;
	int16		priority;
	int32		weight;
	int			nmodels;		/* -1: all of the provider */
	const char **models;
	uint64		refused_in;		/* number of the pick in which the second look refused it */
} LlmqKey;

typedef struct LlmqModel
{
	const char *name;
	LlmqProvider *provider;
	const char *provider_model;
	const char *family;
	int32		default_output_tokens;
	LlmqNameRef ref;
	bool		enabled;
	const char *downgrade_to;	/* or NULL */
	struct LlmqDated *tariffs;	/* see price.h */
	struct LlmqPool *pools;		/* by owner, built when first asked for */
	struct LlmqRoute *route;	/* of this model alone */
} LlmqModel;

/* Which key of a tier is tried first. */
typedef enum LlmqStrategy
{
	LLMQ_LEAST_USED,
	LLMQ_WEIGHTED,
	LLMQ_ROUND_ROBIN,
	LLMQ_LOWEST_LATENCY,
	LLMQ_CHEAPEST,
	LLMQ_STICKY
} LlmqStrategy;

/* How a route chooses, and tries again: a row of llmquota.route_option, or what holds without one. */
typedef struct LlmqRouteOption
{
	struct LlmqRouteOption *next;
	const char *route;
	const char *org;			/* empty: of all */
	LlmqStrategy strategy;
	int32		max_attempts;
	int32		deadline_ms;
	bool		retry_same_model;
	int64		session_ttl;	/* microseconds: so long a session stays with its key; 0: for ever */
	double		explore;		/* share of picks that find out how fast others are */
} LlmqRouteOption;

/* A model of a step. */
typedef struct LlmqChoice
{
	LlmqModel  *model;
	int32		weight;
} LlmqChoice;

/* The models of a route that have the same number, by their weights and then their names. */
typedef struct LlmqStep
{
	int			nchoices;
	LlmqChoice *choice;
} LlmqStep;

typedef struct LlmqRoute
{
	const char *name;
	LlmqNameRef ref;
	const LlmqRouteOption *option;
	bool		own;			/* of one org: its own definition, or its own options */
	int			nsteps;
	LlmqStep   *step;
} LlmqRoute;

/* Stored: append only. */
typedef enum LlmqPriority
{
	LLMQ_PRIORITY_NORMAL,
	LLMQ_PRIORITY_HIGH,
	LLMQ_PRIORITY_LOW
} LlmqPriority;

#define LLMQ_PRIORITIES 3

typedef struct LlmqOrg
{
	LlmqSubject subject;
	bool		listed;
	LlmqPriority priority;
	int32		weight;			/* in the line */
	bool		shared_keys;
	bool		enabled;
	bool		owns_accounts;
	const char *zone;			/* of its budgets */
	const char *parent;			/* or NULL */
	int			ntrees;
	LlmqSubject *tree[LLMQ_MAX_LEVELS]; /* itself and those above it, where budgets count them */
} LlmqOrg;

typedef struct LlmqRoleGrant
{
	struct LlmqRoleGrant *next;
	const char *role;
	const char *org;			/* NULL: every org */
	bool		admin;
} LlmqRoleGrant;

/* A limit that has a name. */
typedef struct LlmqRateLimit
{
	const char *scope;
	LlmqGcraLimit limit;
	bool		observe;
	double		rollout;
} LlmqRateLimit;

typedef struct LlmqSettings
{
	int64		arrival_slack;	/* microseconds */
	int64		auth_probe_after;	/* likewise */
	int64		observed_limit_ttl; /* likewise */
	int32		lease_ttl_ms;
	int32		default_input_tokens;
	int64		conversation_ttl;	/* microseconds */
	int32		max_conversation_bytes;
	int32		max_conversations;
	int32		max_leases;
	int32		max_requests;
	int32		max_rate_subjects;
	int32		max_subjects;
	int32		max_waiting;
	int32		max_waiting_org;
	int32		max_held_waiters;	/* -1: by max_connections */
	int64		ticket_ttl;		/* microseconds */
	int64		idempotency_window; /* microseconds; 0: no request is remembered */
	int32		partitions_ahead;
	int32		usage_retention_days;
	double		refusal_spread;
	bool		unknown_org_refused;
	bool		alerts;			/* the SQL has them */
	LlmqThresholds alert_at;	/* of quotas */
	int64		alert_recovery; /* microseconds */
	int32		answer_ttl;		/* of namespaces that do not say; milliseconds */
	int32		answer_stale;	/* likewise */
	int32		answer_refresh; /* likewise */
	int32		max_answer_bytes;
	bool		alert_forecast;
	char		base_currency[LLMQ_CURRENCY_SIZE];
} LlmqSettings;

typedef struct LlmqCatalog
{
	MemoryContext context;
	char	   *pieces;			/* see keep() of catalog_load.c */
	Size		pieces_left;
	Size		kept;			/* in pieces, in all */
	LlmqSettings settings;
	LlmqSubject global;
	LlmqAccount *first_account;
	struct names_hash *keys;	/* by name; NULL until one is asked for */
	LlmqQuota  *quotas[LLMQ_SCOPE_COUNT][LLMQ_PART_COUNT];	/* and budgets */
	LlmqBudget *budgets;
	LlmqCosts	key_costs;		/* in the currencies of budgets of accounts and keys, no amounts */
	bool		too_many_currencies;	/* ... which have no room there */
	struct names_hash *rate_limits; /* by scope */
	LlmqRoleGrant *role_grants; /* of those who call */
	LlmqRoleGrant *reader_grants;	/* of those who read the ledger */
	struct LlmqDated *rates;	/* of all currencies, see price.h */
	struct names_hash *providers;
	struct names_hash *accounts;
	struct names_hash *models;
	struct names_hash *routes;	/* the common ones */
	struct names_hash *own_routes;	/* of orgs, see llmq_own_route_name() */
	bool		has_own_routes;
	LlmqRouteOption *options;	/* of routes, all of them */
	struct names_hash *listed_orgs;
	struct names_hash *owners;	/* orgs with accounts of their own */
	bool		has_aliases;
	struct names_hash *namespaces;	/* of answers */
	struct names_hash *aliases; /* what has been renamed, by the names that stand for it */
	struct names_hash *renamed_cells;	/* the same by what live state calls it */
	struct names_hash *orgs;	/* every org asked for since, in a context of its own */
	struct names_hash *trees;	/* the same of the scope parent */
	MemoryContext org_context;
} LlmqCatalog;

extern void llmq_catalog_invalidate(void);
extern LlmqCatalog *llmq_catalog(void);
extern LlmqCatalog *llmq_catalog_of_own(MemoryContext context);
extern const char *llmq_catalog_zone_name(LlmqCatalog *catalog, uint32 hash);
extern LlmqSubject *llmq_catalog_subject(LlmqCatalog *catalog, LlmqScope scope, const char *name);
extern const char *llmq_priority_text(LlmqPriority priority);
extern bool llmq_priority_named(const char *word, LlmqPriority *priority);
extern LlmqKey *llmq_catalog_key(LlmqCatalog *catalog, const char *name);
extern LlmqModel *llmq_catalog_model(const LlmqCatalog *catalog, const char *name);
extern LlmqOrg *llmq_catalog_org(LlmqCatalog *catalog, const char *name);
extern char *llmq_own_route_name(const char *org, const char *route);
extern LlmqRoute *llmq_catalog_route(LlmqCatalog *catalog, const char *name, const char *org);
extern const char *llmq_catalog_name_now(const char *cell);

/* catalog_load.c */
extern Size llmq_catalog_size(void);
extern LlmqCatalog *llmq_catalog_load(MemoryContext context);
extern const LlmqThresholds *llmq_quota_alert_at(const LlmqSettings *settings, const LlmqQuota *quota);

/* catalog_route.c */
extern LlmqRoute *llmq_model_route(LlmqModel *model);
extern void llmq_routes_load(LlmqCatalog *catalog, Snapshot snapshot);

/* alias.c */
typedef struct LlmqAlias
{
	const char *name;			/* its kind before it, as the next */
	const char *cell;			/* what live state calls it */
	bool		is_current;		/* the name is the one of now */
} LlmqAlias;

extern LlmqAlias *llmq_alias_create(char kind, const char *name, const char *cell, int32 generation);
extern void llmq_alias_add(LlmqCatalog *catalog, LlmqAlias *alias, bool stands, bool is_current);
extern void llmq_alias_ref(const LlmqCatalog *catalog, char kind, const char *name, LlmqNameRef *ref);
extern const char *llmq_alias_now(const LlmqCatalog *catalog, char kind, const char *name);
extern const char *llmq_alias_of_cell(const LlmqCatalog *catalog, const char *cell);
extern char llmq_scope_name_kind(LlmqScope scope);

/* plan.c */
extern LlmqMeter *llmq_plan_meter(LlmqCatalog *catalog, LlmqSubject *subject, LlmqPart part, const char *part_name);
extern LlmqMeter *llmq_plan_of_cell(LlmqCatalog *catalog, const LlmqCellKey *key);
extern LlmqMeters *llmq_plan_meters(LlmqCatalog *catalog, LlmqSubject *subject, const LlmqModel *model);
extern bool llmq_plan_fits(const LlmqQuota *quota, const LlmqWindow *window, const LlmqSettings *settings);
extern void llmq_plan_refresh(LlmqMeter *meter, TimestampTz now);

/* quota_list.c */
typedef struct LlmqQuotaList
{
	const LlmqSettings *settings;
	int			n;
	LlmqQuota **quota;			/* by id */
} LlmqQuotaList;

extern void llmq_quotas_list(LlmqCatalog *catalog, LlmqQuotaList *list);
extern const LlmqQuota *llmq_quota_of_window(const LlmqQuotaList *list, const LlmqWindow *window);

/* effective.c */
extern void llmq_limits_apply(LlmqLive *live, LlmqMeters *meters, LlmqAccount *account);
extern const LlmqLimit *llmq_limits_configured(const LlmqMeters *meters, LlmqMetric metric, LlmqSpan span);

/* observed.c */
extern const LlmqLimit *llmq_limit_observed(LlmqCatalog *catalog, const LlmqLearned *learned, const char *account,
											const char *model);
extern const char *llmq_span_text(LlmqSpan span);

/* Hash tables from names to objects (catalog.c). */
extern struct names_hash *llmq_names_create(MemoryContext context);
extern void *llmq_names_find(struct names_hash *names, const char *name);
extern void llmq_names_put(struct names_hash *names, const char *name, void *object);

typedef void (*LlmqNameVisitor) (void *object, void *argument);
extern void llmq_names_each(struct names_hash *names, LlmqNameVisitor visit, void *argument);

/* Is what has this hash in the share for which something is enforced? A larger share only adds to it. */
static inline bool
llmq_in_rollout(uint64 hash, double rollout)
{
	return (double) (hash >> 11) / (double) (UINT64CONST(1) << 53) < rollout;
}

#endif							/* LLMQ_CATALOG_H */
