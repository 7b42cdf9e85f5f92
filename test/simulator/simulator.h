/*
 * simulator.h
 *	  What the parts of the provider simulator share.
 *
 * All of it is guarded by sim_lock(): calls, accounts, faults and the log.
 */
#ifndef SIMULATOR_H
#define SIMULATOR_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limits.h"

#define SIM_MAX_QUOTAS 16		/* of one account */
#define SIM_MAX_MODELS 16		/* of one quota */
#define SIM_MAX_WINDOWS 1000	/* of a quota's history */

typedef struct SimWire SimWire;
typedef struct SimCall SimCall;

typedef enum SimMetric
{
	SIM_REQUESTS, SIM_INPUT_TOKENS, SIM_OUTPUT_TOKENS, SIM_TOKENS, SIM_IN_FLIGHT
} SimMetric;

/* How output tokens count for a quota. */
typedef enum SimOutput
{
	SIM_CORRECTED,				/* the maximum at first, the real figure at the end */
	SIM_MAXIMUM,				/* the maximum, and that stays */
	SIM_PRODUCED				/* nothing at first, the real figure at the end */
} SimOutput;

/* A limit of an account. */
typedef struct SimQuota
{
	const char *name;
	SimMetric	metric;
	SimOutput	output;
	bool		counts_cached;
	const char *models[SIM_MAX_MODELS]; /* counted together; none: all models */
	size_t		nmodels;
	SimLimit	limit;
	int64_t		peak;			/* the most that ever counted */
	int64_t		admitted;		/* all that was charged, after corrections */
	int64_t		refused;		/* calls */
	int64_t		since;			/* when the history begins; 0: not yet */
	int64_t		windows[SIM_MAX_WINDOWS];	/* what was charged, by length */
} SimQuota;

typedef struct SimKey
{
	const char *name;
	const char *secret;
} SimKey;

/* A project at a provider, which has the limits. */
typedef struct SimAccount
{
	json_t	   *config;			/* where all texts are */
	const char *name;
	const SimWire *wire;
	SimKey	   *keys;
	size_t		nkeys;
	json_t	   *models;			/* an array of names; NULL: any */
	int64_t		delay[2];		/* before counting, from and to, microseconds */
	int64_t		latency[2];		/* after counting */
	bool		counts_refused; /* refused calls count as requests */
	SimQuota   *quotas;
	size_t		nquotas;
	json_t	   *answered;		/* model -> key -> status -> calls */
} SimAccount;

/* What goes wrong, as real providers tell it. */
typedef enum SimFailure
{
	SIM_NO_FAILURE, SIM_RATE, SIM_CAPACITY, SIM_BILLING, SIM_SPEND_CAP, SIM_SPEND_LIMIT, SIM_OVERLOADED,
	SIM_UNAVAILABLE, SIM_SERVER, SIM_TIMEOUT, SIM_AUTH, SIM_FORBIDDEN, SIM_NOT_FOUND, SIM_BAD_REQUEST, SIM_CONTENT,
	SIM_FAILURES
} SimFailure;

typedef enum SimCut
{
	SIM_NO_CUT,
	SIM_CUT_BEFORE,				/* before it was counted */
	SIM_CUT_AFTER,				/* counted, and no answer */
	SIM_CUT_BODY				/* in the middle of the answer */
} SimCut;

/* What happens to a call, of all faults that hit it. */
typedef struct SimEffect
{
	SimFailure	failure;
	int			status;			/* 0: that of the failure */
	json_t	   *body;			/* instead of the failure's: an object, or text */
	json_t	   *headers;		/* instead of the real ones; null: left out */
	int64_t		stall;			/* before the answer, microseconds */
	SimCut		cut;
	bool		uncounted;		/* fails before it is counted */
} SimEffect;

typedef struct SimAnswer
{
	int			status;
	char	   *body;			/* malloced */
	const char *content_type;
	json_t	   *headers;		/* name -> text */
	SimCut		cut;
} SimAnswer;

typedef enum SimStage
{
	SIM_READING, SIM_DELAYED, SIM_SERVED, SIM_ANSWERED
} SimStage;

struct SimCall
{
	void	   *connection;
	char	   *text;			/* the body as it comes */
	size_t		length;
	SimStage	stage;
	const SimWire *wire;
	SimAccount *account;		/* NULL: unknown secret */
	const SimKey *key;
	char	   *model;
	json_t	   *body;
	int64_t		id;
	int64_t		input;			/* all of it, what was cached included */
	int64_t		cached;
	int64_t		cache_write;
	int64_t		output;
	int64_t		reasoning;		/* of the output */
	int64_t		max_output;
	int64_t		latency;		/* -1: the account's */
	int64_t		received;
	int64_t		counted;		/* 0: not */
	SimEffect	effect;
	SimCharge	charges[SIM_MAX_QUOTAS];
	bool		charged[SIM_MAX_QUOTAS];
	bool		refused[SIM_MAX_QUOTAS];	/* by these quotas */
	SimAnswer	answer;
};

/* A wire format, and how its provider answers. */
struct SimWire
{
	const char *name;

	/* Whose path is it?  Finds the model too, where the path has it. */
	bool		(*is_path) (SimCall *call, const char *path);

	/* Reads the body; false: it is not right. */
	bool		(*read) (SimCall *call);
	json_t	   *(*answer) (const SimCall *call);

	/* Limits and what is left of them, with every answer. */
	void		(*headers) (SimCall *call);

	/* The error in its wire format; NULL: as text.  Sets answer.status. */
	json_t	   *(*error) (SimCall *call, SimFailure failure);
};

/* simulator.c */
extern void sim_lock(void);
extern void sim_unlock(void);
extern int64_t sim_now(void);
extern void sim_log(const SimCall *call);

/* text.c */
extern void *sim_allocate(size_t size);
extern char *sim_format(const char *format,...) __attribute__((format(printf, 1, 2)));
extern json_t *sim_text(const char *format,...) __attribute__((format(printf, 1, 2)));
extern json_t *sim_instant(int64_t at);
extern json_t *sim_duration(int64_t microseconds);
extern int64_t sim_seconds(int64_t microseconds);
extern int64_t sim_next_month(int64_t now);
extern int64_t sim_words(const json_t *content);
extern void sim_put_header(SimCall *call, const char *name, json_t *value);
extern int64_t sim_random(int64_t from, int64_t to);
extern void sim_random_seed(uint64_t seed);

/* config.c */
extern SimAccount *sim_account(size_t number);
extern SimAccount *sim_account_by_name(const char *name);
extern bool sim_find_key(SimCall *call, const char *secret);
extern char *sim_set_accounts(json_t *accounts);

/* faults.c */
extern char *sim_add_faults(json_t *faults);
extern void sim_clear_faults(void);
extern void sim_roll_faults(SimCall *call);
extern json_t *sim_fault_report(void);

/* quota.c */
extern SimQuota *sim_quota_by_name(SimAccount *account, const char *name);
extern bool sim_quota_counts(const SimQuota *quota, const char *model);
extern bool sim_admit(SimCall *call, int64_t now);
extern void sim_settle(SimCall *call, int64_t now);
extern int64_t sim_requested(const SimQuota *quota, const SimCall *call);
extern const SimQuota *sim_tightest(const SimCall *call, SimMetric metric, bool daily);
extern const SimQuota *sim_refusing(const SimCall *call, int64_t *wait);
extern const SimQuota *sim_blamed(const SimCall *call, int64_t *wait);
extern bool sim_is_daily(const SimQuota *quota);
extern void sim_restart_history(SimAccount *account);

/* call.c */
extern void sim_call_read(SimCall *call, const char *path, const char *secret);
extern int64_t sim_call_step(SimCall *call);
extern void sim_call_free(SimCall *call);

/* control.c, report.c */
extern char *sim_control(json_t *commands);
extern json_t *sim_report(void);

/* timer.c */
extern void sim_timer_start(void);
extern void sim_timer_add(void *connection, int64_t at);

/* server.c */
extern int sim_server_start(int port, unsigned threads);

/* wire_*.c */
extern const SimWire sim_openai, sim_groq, sim_mistral, sim_azure, sim_anthropic, sim_gemini;
extern const SimWire *sim_wire_by_name(const char *name);
extern const SimWire *sim_wire_by_path(SimCall *call, const char *path);
extern SimFailure sim_failure_by_name(const char *name);
extern const char *sim_failure_name(SimFailure failure);

#endif							/* SIMULATOR_H */
