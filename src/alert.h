/*
 * alert.h
 *	  Alerts: what somebody should know of.
 */
#ifndef LLMQ_ALERT_H
#define LLMQ_ALERT_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "alert_mark.h"
#include "maintain.h"

/* The kinds of alerts that live state causes, as llmquota.alert has them. */
#define LLMQ_ALERT_THRESHOLD	"threshold"
#define LLMQ_ALERT_FORECAST		"forecast"
#define LLMQ_ALERT_BREAKER		"breaker"
#define LLMQ_ALERT_COOLDOWN		"cooldown"
#define LLMQ_ALERT_DISABLED		"disabled"
#define LLMQ_ALERT_LIMIT		"limit"

/* A reason to raise an alert: llmquota_raise_alerts() makes a row of it, unless there is one. NULL stands for none. */
typedef struct LlmqAlertCause
{
	int32		watch;			/* which of the look's windows it is about; negative: none */
	const char *kind;
	const char *scope;
	const char *subject;
	const char *model;
	const char *family;
	const char *metric;
	const char *period;
	int64		limit;			/* as its window has it: see llmq_budget_window(); 0: none, as the next */
	int64		threshold;		/* a number of 1e-9 */
	int64		period_start;	/* DT_NOEND: it is about no calendar window */
	int64		ends_at;		/* DT_NOEND: none, as the next */
	int64		expected_at;
	int64		used;			/* negative: it is about no limit */
	int64		amount;
	const char *message;
} LlmqAlertCause;

/* A window that asks to be looked at, as it was seen. */
typedef struct LlmqAlertWatch
{
	int32		meter;
	int64		quota;			/* which window of the meter */
	uint32		since;
	int64		began_at;
	int64		period;			/* of a calendar window: when it began */
	int64		next;			/* the use that reaches the next threshold */
	bool		has_cause;
	bool		unsettled;		/* what it causes has not been committed yet */
} LlmqAlertWatch;

/* One look for causes. What it finds is in its context. */
typedef struct LlmqAlertLook
{
	const LlmqMaintenance *maintenance;
	LlmqCatalog *catalog;
	LlmqQuotaList quotas;
	LlmqLive	live;
	MemoryContext context;
	List	   *causes;			/* of LlmqAlertCause */
	List	   *watches;		/* of LlmqAlertWatch */
	XLogRecPtr	lsn;			/* of the last change */
} LlmqAlertLook;

/* An alert that stands, as far as it says what it is about. */
typedef struct LlmqStanding
{
	char	   *kind;
	char	   *scope;
	char	   *subject;
	char	   *model;			/* NULL, as the next: none */
	char	   *family;
	int64		quota;			/* 0: none, as the next two */
	int64		budget;
	int64		threshold;
} LlmqStanding;

/* alert.c */
extern LlmqAlertCause *llmq_alert_cause(LlmqAlertLook *look, const char *kind);
extern bool llmq_alerts_full(LlmqAlertLook *look);
extern char *llmq_alert_instant(TimestampTz at, const char *zone);
extern Datum llmq_limit_figure(int64 limit, int64 figure);

/* alert_config.c */
extern void llmq_alerts_of_new_thresholds(LlmqAlertLook *look);

/* alert_limit.c */
extern bool llmq_alert_lock_meter(LlmqAlertLook *look, LlmqCellSet *set, int *cell, int32 meter);
extern void llmq_alerts_of_limits(LlmqAlertLook *look);
extern void llmq_alert_settle(LlmqAlertLook *look, const LlmqAlertWatch *watch);
extern bool llmq_limit_alert_stands(LlmqCatalog *catalog, const LlmqStanding *alert, TimestampTz now);

/* alert_trouble.c */
extern void llmq_alerts_of_troubles(LlmqAlertLook *look);
extern void llmq_alerts_of_observed(LlmqAlertLook *look);
extern bool llmq_trouble_alert_stands(LlmqCatalog *catalog, const LlmqStanding *alert, TimestampTz now);

#endif							/* LLMQ_ALERT_H */
