/*
 * health_admin.c
 *	  What somebody says of keys, accounts, models and providers: leave this one alone, use that one again.
 *
 * The same troubles as those that failed calls cause (remedy.c), on the same boards, changed under the same locks: in
 * force at the next pick of every backend, and not undone by a rollback. No call ends what somebody has disabled. All
 * is durable when a function returns, as synchronous_commit asks.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "args.h"
#include "catalog.h"
#include "health.h"
#include "meter.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(llmquota_enable);
PG_FUNCTION_INFO_V1(llmquota_disable);
PG_FUNCTION_INFO_V1(llmquota_cool);
PG_FUNCTION_INFO_V1(llmquota_clear);

/* Whom a call is about. */
typedef struct Whom
{
	char		scope;			/* LLMQ_HEALTH_...; 0: everybody */
	LlmqSubject *subject;		/* NULL: a model, or everybody */
	LlmqModel  *model;			/* NULL: whatever the model */
} Whom;

/* What somebody wants. */
typedef struct Wish
{
	int64		now;
	int64		until;
	const char *reason;			/* or NULL */
} Wish;

static void
refuse_unknown(const char *what, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("%s \"%s\" does not exist", what, name),
			 errhint("SELECT %s FROM llmquota.%s shows what there is.", what, what)));
}

/* The argument as the name of something configured. Raises when there is none of that name. */
static LlmqSubject *
subject_argument(FunctionCallInfo fcinfo, int number, LlmqScope scope)
{
	static const char *const tables[] = {[LLMQ_SCOPE_PROVIDER] = "provider",[LLMQ_SCOPE_ACCOUNT] = "account",
		[LLMQ_SCOPE_KEY] = "key"
	};
	const char *name = llmq_arg_name(fcinfo, number, tables[scope]);
	LlmqSubject *subject = llmq_catalog_subject(llmq_catalog(), scope, name);

	if (subject == NULL)
		refuse_unknown(tables[scope], name);
	return subject;
}

static LlmqModel *
model_argument(FunctionCallInfo fcinfo, int number)
{
	const char *name = llmq_arg_name(fcinfo, number, "model");
	LlmqModel  *model = llmq_catalog_model(llmq_catalog(), name);

	if (model == NULL)
		refuse_unknown("model", name);
	return model;
}

/* The scope that a text names. Raises for any other. */
static char
scope_argument(FunctionCallInfo fcinfo, int number)
{
	const char *text = llmq_arg_name(fcinfo, number, "scope");
	static const char scopes[] = {LLMQ_HEALTH_PROVIDER, LLMQ_HEALTH_ACCOUNT, LLMQ_HEALTH_MODEL, LLMQ_HEALTH_KEY};

	for (Size i = 0; i < lengthof(scopes); i++)
		if (strcmp(text, llmq_health_scope_text(scopes[i])) == 0)
			return scopes[i];
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown scope \"%s\"", text),
			 errhint("Use provider, account, model or key.")));
}

/* The arguments scope, subject and model. */
static Whom
whom_arguments(FunctionCallInfo fcinfo, int model)
{
	Whom		whom = {.scope = scope_argument(fcinfo, 0)};

	if (!PG_ARGISNULL(model) && whom.scope != LLMQ_HEALTH_ACCOUNT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("model is only given with the scope account"),
				 errhint("A model as a whole is the subject of the scope model.")));
	if (whom.scope == LLMQ_HEALTH_MODEL)
		whom.model = model_argument(fcinfo, 1);
	else
		whom.subject = subject_argument(fcinfo, 1, whom.scope == LLMQ_HEALTH_PROVIDER ? LLMQ_SCOPE_PROVIDER :
										whom.scope == LLMQ_HEALTH_ACCOUNT ? LLMQ_SCOPE_ACCOUNT : LLMQ_SCOPE_KEY);
	if (!PG_ARGISNULL(model))
	{
		whom.scope = LLMQ_HEALTH_SERVICE;
		whom.model = model_argument(fcinfo, model);
	}
	return whom;
}

/* An optional reason, which has to fit a board, and a line of the log. */
static const char *
reason_argument(FunctionCallInfo fcinfo, int number)
{
	char	   *reason = llmq_arg_text(fcinfo, number);

	if (reason != NULL && strlen(reason) >= LLMQ_MAX_REASON)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("reason is longer than %d bytes", LLMQ_MAX_REASON - 1),
				 errhint("Say it in a few words, for example the number of a ticket.")));
	for (char *at = reason; at != NULL && *at != '\0'; at++)
		if (iscntrl((unsigned char) *at))
			*at = ' ';
	return reason;
}

/* The ids by which boards know somebody, made if they are new. */
static LlmqPatient
patient_of(const Whom *whom)
{
	LlmqCatalog *catalog = llmq_catalog();
	LlmqPatient who = {.scope = whom->scope};
	int32		model = whom->model == NULL ? 0 : llmq_name_id(&whom->model->ref, catalog->settings.max_subjects);

	who.subject = whom->subject == NULL ? model : llmq_subject_id(catalog, whom->subject);
	who.part = whom->subject == NULL ? 0 : model;
	return who;
}

/* Asks for one change and makes it durable. Whether there was one. */
static bool
change(const LlmqPatient *who, LlmqTroubleKind kind, LlmqHealthEdit edit, Wish *wish)
{
	LlmqLive	live;
	bool		changed;

	(void) GetCurrentTransactionId();	/* so that what is changed counts for XactLastRecEnd, and COMMIT waits for it */
	wish->now = GetCurrentTimestamp();
	llmq_live_open(&live, LLMQ_LIVE_HEALTH + 1, RowExclusiveLock);
	changed = llmq_health_change(&live, who, kind, edit, wish);
	llmq_live_close(&live);
	llmq_cell_make_durable(XactLastRecEnd);
	llmq_worker_look(DT_NOEND);
	return changed;
}

/* Begins a trouble anew, or goes on with it, on somebody's word. */
static void
begin_trouble(LlmqTrouble *trouble, LlmqTroubleKind kind, const Wish *wish)
{
	LlmqTrouble begun = {.patient = trouble->patient,.kind = kind,.level = trouble->level,.until = wish->until};

	begun.since = trouble->kind == LLMQ_TROUBLE_NONE || trouble->until <= wish->now ? wish->now : trouble->since;
	if (wish->reason != NULL)
		strlcpy(begun.reason, wish->reason, LLMQ_MAX_REASON);
	*trouble = begun;
}

static void
edit_disable(LlmqHealthChange *change, void *argument)
{
	begin_trouble(&change->trouble, LLMQ_TROUBLE_DISABLED, argument);
	change->event = LLMQ_EVENT_DISABLED;
}

static void
edit_enable(LlmqHealthChange *change, void *argument)
{
	if (change->trouble.kind == LLMQ_TROUBLE_NONE)
		return;
	change->trouble.kind = LLMQ_TROUBLE_NONE;
	change->event = LLMQ_EVENT_ENABLED;
}

/* A cooldown is never shortened; the wish learns how long it is. */
static void
edit_cool(LlmqHealthChange *change, void *argument)
{
	Wish	   *wish = argument;
	LlmqTrouble *trouble = &change->trouble;

	if (trouble->kind != LLMQ_TROUBLE_NONE && trouble->until >= wish->until)
	{
		wish->until = trouble->until;
		return;
	}
	begin_trouble(trouble, LLMQ_TROUBLE_COOLING, wish);
	change->event = LLMQ_EVENT_COOLED;
}

static void
edit_clear(LlmqHealthChange *change, void *argument)
{
	if (change->trouble.kind == LLMQ_TROUBLE_NONE)
		return;
	change->event = change->trouble.kind == LLMQ_TROUBLE_OPEN ? LLMQ_EVENT_CLOSED : LLMQ_EVENT_CLEARED;
	change->trouble.kind = LLMQ_TROUBLE_NONE;
}

/* llmquota_disable(key, reason): until somebody enables it */
Datum
llmquota_disable(PG_FUNCTION_ARGS)
{
	Whom		whom = {.scope = LLMQ_HEALTH_KEY};
	Wish		wish = {.until = PG_INT64_MAX};
	LlmqPatient who;

	llmq_cell_refuse_if_read_only("llmquota_disable()");
	whom.subject = subject_argument(fcinfo, 0, LLMQ_SCOPE_KEY);
	wish.reason = reason_argument(fcinfo, 1);
	who = patient_of(&whom);
	(void) change(&who, LLMQ_TROUBLE_DISABLED, edit_disable, &wish);
	PG_RETURN_TEXT_P(cstring_to_text("disabled"));
}

/* llmquota_enable(key) */
Datum
llmquota_enable(PG_FUNCTION_ARGS)
{
	Whom		whom = {.scope = LLMQ_HEALTH_KEY};
	Wish		wish = {0};
	LlmqPatient who;

	llmq_cell_refuse_if_read_only("llmquota_enable()");
	whom.subject = subject_argument(fcinfo, 0, LLMQ_SCOPE_KEY);
	who = patient_of(&whom);
	if (change(&who, LLMQ_TROUBLE_DISABLED, edit_enable, &wish))
		PG_RETURN_TEXT_P(cstring_to_text("enabled"));
	PG_RETURN_TEXT_P(cstring_to_text("not_disabled"));
}

/* llmquota_cool(scope, subject, duration_ms, model, reason): until when it is left alone */
Datum
llmquota_cool(PG_FUNCTION_ARGS)
{
	Whom		whom;
	Wish		wish = {0};
	LlmqPatient who;

	llmq_cell_refuse_if_read_only("llmquota_cool()");
	whom = whom_arguments(fcinfo, 3);
	if (PG_ARGISNULL(2) || PG_GETARG_INT32(2) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("duration_ms must be positive"),
				 errhint("Pass for how many milliseconds picks are to keep away.")));
	wish.reason = reason_argument(fcinfo, 4);
	who = patient_of(&whom);
	wish.until = GetCurrentTimestamp() + PG_GETARG_INT32(2) * INT64CONST(1000);
	(void) change(&who, LLMQ_TROUBLE_COOLING, edit_cool, &wish);
	PG_RETURN_TIMESTAMPTZ(wish.until);
}

/* Troubles that are to be cleared. */
typedef struct Clearing
{
	LlmqPatient who;			/* of no scope: everybody */
	bool		all_models;		/* of the account */
	int			n;
	LlmqTrouble *found;
} Clearing;

static bool
concerns(const Clearing *clearing, const LlmqPatient *patient)
{
	if (clearing->who.scope == 0)
		return true;
	if (clearing->all_models && patient->scope == LLMQ_HEALTH_SERVICE)
		return patient->subject == clearing->who.subject;
	return patient->scope == clearing->who.scope && patient->subject == clearing->who.subject &&
		patient->part == clearing->who.part;
}

static void
gather(const LlmqTrouble *trouble, void *argument)
{
	Clearing   *clearing = argument;

	if (trouble->kind != LLMQ_TROUBLE_DISABLED && concerns(clearing, &trouble->patient))
		clearing->found[clearing->n++] = *trouble;
}

/* llmquota_clear(scope, subject, model): how many cooldowns and open breakers were ended */
Datum
llmquota_clear(PG_FUNCTION_ARGS)
{
	Clearing	clearing = {0};
	Wish		wish = {0};
	LlmqLive	live;
	int32		cleared = 0;

	llmq_cell_refuse_if_read_only("llmquota_clear()");
	if (!PG_ARGISNULL(0) || !PG_ARGISNULL(1) || !PG_ARGISNULL(2))
	{
		Whom		whom = whom_arguments(fcinfo, 2);

		clearing.who = patient_of(&whom);
		clearing.all_models = whom.scope == LLMQ_HEALTH_ACCOUNT;
	}
	llmq_live_open(&live, LLMQ_LIVE_HEALTH + 1, RowExclusiveLock);
	llmq_health_look(&live);
	clearing.found = palloc(sizeof(LlmqTrouble) * LLMQ_TROUBLE_KINDS * (llmq_health_troubles() + 1));
	llmq_health_each(gather, &clearing);
	llmq_live_close(&live);
	for (int i = 0; i < clearing.n; i++)
		cleared += change(&clearing.found[i].patient, clearing.found[i].kind, edit_clear, &wish);
	PG_RETURN_INT32(cleared);
}
