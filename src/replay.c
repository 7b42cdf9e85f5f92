/*
 * replay.c
 *	  Has calls that were made once be asked for again, one by one, under a rule that is proposed.
 *
 * Meters in memory are asked, charged and corrected by the functions of meter.c, as a pick and a record do with those
 * of live state; which meters a call touches plan.c says, by a configuration that has no limit but the rule. Calls
 * come in the order of their picks. Each is charged what it had reserved, and is corrected to what it was charged for
 * in the end when the clock of the replay, which is that of the picks, has come to where it was recorded. A call that
 * is refused was not made: nothing of it is counted.
 *
 * Calls under way are kept in memory; all else in windows.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "meter.h"
#include "name.h"
#include "pick.h"
#include "replay.h"
#include "settle.h"

/* A call as it is asked for: of the model that was called, or of one in its place. */
typedef struct Asking
{
	const LlmqReplayCall *call;
	LlmqModel  *model;
	LlmqDemand	demand;
	LlmqUse		recorded;
	bool		priced;			/* somebody knows what it costs */
	int			n;
	LlmqMeter  *meter[LLMQ_REPLAY_METERS];
} Asking;

/* A call that was let through and is not recorded yet, with the meters that count it. */
typedef struct OpenCall
{
	pairingheap_node node;
	int64		picked_at;
	int64		ends_at;
	LlmqUse		reserved;
	LlmqUse		recorded;
	int			n;
	LlmqMeterState *state[LLMQ_REPLAY_METERS];
	uint32		generation[LLMQ_REPLAY_METERS];
} OpenCall;

/* What ends first is on top. */
static int
compare_ends(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const OpenCall *one = pairingheap_const_container(OpenCall, node, a);
	const OpenCall *other = pairingheap_const_container(OpenCall, node, b);

	return one->ends_at < other->ends_at ? 1 : one->ends_at > other->ends_at ? -1 : 0;
}

/* Begins with a catalog of the replay's own, its rule and the time since which calls are judged filled in. */
void
llmq_replay_begin(LlmqReplay *replay, MemoryContext context, ReturnSetInfo *result)
{
	replay->open = pairingheap_allocate(compare_ends, NULL);
	replay->open_context = SlabContextCreate(context, "llmquota calls under way", SLAB_DEFAULT_BLOCK_SIZE,
											 sizeof(OpenCall));
	llmq_replay_report_begin(&replay->report, replay->rule, result);
}

/* Adds something; its number. */
static int32
add_thing(LlmqReplayThings *things, void *thing)
{
	if (things->n == things->size)
	{
		things->size = Max(things->size * 2, 64);
		things->thing = things->thing == NULL ? palloc(sizeof(void *) * things->size) :
			repalloc_huge(things->thing, sizeof(void *) * things->size);
	}
	things->thing[things->n] = thing;
	return things->n++;
}

/* The kind of name that the rule's subjects have in the ledger. */
LlmqNamed
llmq_replay_named(const LlmqReplay *replay)
{
	switch (replay->rule->scope)
	{
		case LLMQ_SCOPE_PROVIDER:
			return LLMQ_NAMED_PROVIDER;
		case LLMQ_SCOPE_ACCOUNT:
			return LLMQ_NAMED_ACCOUNT;
		case LLMQ_SCOPE_KEY:
			return LLMQ_NAMED_KEY;
		default:
			return LLMQ_NAMED_ORG;
	}
}

/* A model that calls were made of and that is no longer configured. */
static LlmqModel *
former_model(const LlmqCatalog *catalog, const char *name)
{
	LlmqModel  *model = palloc0(sizeof(LlmqModel));

	model->name = name;
	llmq_alias_ref(catalog, LLMQ_NAME_MODEL, name, &model->ref);
	return model;
}

/* A key, account or provider that is not, or no longer, in use. */
static LlmqSubject *
former_subject(LlmqCatalog *catalog, LlmqScope scope, const char *name, const LlmqLedgerName *provider)
{
	LlmqSubject *subject = palloc0(sizeof(LlmqSubject));
	const LlmqSubject *known = provider == NULL ? NULL :
		llmq_catalog_subject(catalog, LLMQ_SCOPE_PROVIDER, provider->text);

	subject->scope = scope;
	subject->name = name;
	subject->zone = known == NULL ? "UTC" : known->zone;
	subject->context = catalog->context;
	llmq_alias_ref(catalog, llmq_scope_name_kind(scope), name, &subject->ref);
	return subject;
}

/* Has a name stand for something, by its number and one. */
static void
give_number(LlmqReplayThings *things, LlmqLedgerName *name, void *thing)
{
	name->object = (void *) (intptr_t) (1 + add_thing(things, thing));
}

static int32
number_of(const LlmqLedgerName *name)
{
	return (int32) (intptr_t) name->object - 1;
}

static int32
org_number(LlmqReplay *replay, LlmqLedgerName *name)
{
	if (name->object == NULL)
		give_number(&replay->orgs, name, llmq_catalog_org(replay->catalog, name->text));
	return number_of(name);
}

static int32
model_number(LlmqReplay *replay, LlmqLedgerName *name)
{
	if (name->object == NULL)
	{
		LlmqModel  *model = llmq_catalog_model(replay->catalog, name->text);

		if (model == NULL)
			model = former_model(replay->catalog, name->text);
		give_number(&replay->models, name, model);
	}
	return number_of(name);
}

static int32
subject_number(LlmqReplay *replay, LlmqLedgerName *name, const LlmqLedgerName *provider)
{
	LlmqScope	scope = replay->rule->scope;

	if (name->object == NULL)
	{
		LlmqSubject *subject = llmq_catalog_subject(replay->catalog, scope, name->text);

		if (subject == NULL)
			subject = former_subject(replay->catalog, scope, name->text, provider);
		give_number(&replay->subjects, name, subject);
	}
	return number_of(name);
}

/* Adds the meters of a subject to those that a call touches. */
static void
add_meters(const LlmqReplay *replay, LlmqSubject *subject, Asking *asking)
{
	LlmqMeters *meters = llmq_plan_meters(replay->catalog, subject, asking->model);

	for (int i = 0; i < meters->n && asking->n < LLMQ_REPLAY_METERS; i++)
		asking->meter[asking->n++] = meters->meter[i];
}

/* Finds the meters that a call touches. */
static void
find_meters(const LlmqReplay *replay, Asking *asking)
{
	const LlmqReplayCall *call = asking->call;
	LlmqOrg    *org = replay->orgs.thing[call->org];
	LlmqSubject *subject = replay->subjects.n == 0 ? NULL : replay->subjects.thing[call->subject];

	asking->n = 0;
	switch (replay->rule->scope)
	{
		case LLMQ_SCOPE_GLOBAL:
			add_meters(replay, &replay->catalog->global, asking);
			break;
		case LLMQ_SCOPE_ORG:
			add_meters(replay, &org->subject, asking);
			break;
		case LLMQ_SCOPE_PARENT:
			for (int i = 0; i < org->ntrees; i++)
				add_meters(replay, org->tree[i], asking);
			break;
		case LLMQ_SCOPE_PROVIDER:
			if (asking->model != replay->models.thing[call->model])
				subject = &asking->model->provider->subject;
			add_meters(replay, subject, asking);
			break;
		default:
			add_meters(replay, subject, asking);
			break;
	}
}

/* Fills in whom a row of the ledger is about. False when the rule does not limit such a call. */
bool
llmq_replay_names(LlmqReplay *replay, const LlmqUsageRow *row, LlmqReplayCall *call)
{
	LlmqNamed	named = llmq_replay_named(replay);
	Asking		asking = {.call = call};

	if (row->name[LLMQ_NAMED_ORG] == NULL || row->name[named] == NULL || row->name[LLMQ_NAMED_MODEL] == NULL)
		return false;
	call->org = org_number(replay, row->name[LLMQ_NAMED_ORG]);
	call->model = model_number(replay, row->name[LLMQ_NAMED_MODEL]);
	call->subject = named == LLMQ_NAMED_ORG ? call->org :
		subject_number(replay, row->name[named], row->name[LLMQ_NAMED_PROVIDER]);
	asking.model = replay->models.thing[call->model];
	find_meters(replay, &asking);
	return asking.n > 0;
}

/* What live state would be for a meter. */
static LlmqMeterState *
state_of(LlmqReplay *replay, LlmqMeter *meter)
{
	int			room = 0;
	LlmqMeterState *state;

	if (meter->id != 0)
		return replay->meters.thing[meter->id - 1];
	for (int i = 0; i < meter->nlimits; i++)
		room += llmq_window_size(meter->limit[i].shape.kind);
	state = palloc0(LLMQ_METER_HEAD_SIZE + room);
	state->room = room;
	meter->id = 1 + add_thing(&replay->meters, state);
	return state;
}

/* What a call of a model comes to. */
static void
prepare(LlmqReplay *replay, const LlmqReplayCall *call, LlmqModel *model, Asking *asking)
{
	const LlmqOrg *org = replay->orgs.thing[call->org];

	asking->call = call;
	asking->model = model;
	asking->demand = (LlmqDemand) {
		.use = {.input = call->reserved_input,.output = call->reserved_output,.request = true,.in_flight = true},
		.high_priority = org->priority == LLMQ_PRIORITY_HIGH
	};
	asking->recorded = llmq_use_ended(call->reserved_input, call->reserved_output, &call->settlement);
	asking->priced = replay->rule->budget == NULL ||
		llmq_replay_price(replay, call, model, &asking->demand.use, &asking->recorded);
	find_meters(replay, asking);
	for (int i = 0; i < asking->n; i++)
		llmq_plan_refresh(asking->meter[i], call->picked_at);
}

/* How much of what the rule limits a use is. */
static int64
counted(const LlmqReplay *replay, const LlmqUse *use)
{
	return llmq_use_counted(use, replay->rule->metric, replay->rule->window_flags, replay->rule->id);
}

/* Corrects the meters that count a call to what its record said. */
static void
end_call(const OpenCall *open)
{
	LlmqCorrection correction = {
		.from = open->reserved,.to = open->recorded,.picked_at = open->picked_at,.now = open->ends_at
	};

	for (int i = 0; i < open->n; i++)
	{
		correction.generation = open->generation[i];
		llmq_meter_correct(open->state[i], &correction);
	}
}

/* Ends the calls that were recorded by then. */
static void
end_calls(LlmqReplay *replay, int64 now)
{
	while (!pairingheap_is_empty(replay->open))
	{
		OpenCall   *open = pairingheap_container(OpenCall, node, pairingheap_first(replay->open));

		if (open->ends_at > now)
			break;
		(void) pairingheap_remove_first(replay->open);
		end_call(open);
		pfree(open);
	}
}

/* Charges a call to its meters. */
static void
charge(LlmqReplay *replay, const Asking *asking)
{
	const LlmqReplayCall *call = asking->call;
	OpenCall   *open = NULL;

	if (asking->n > 0 && counted(replay, &asking->recorded) != counted(replay, &asking->demand.use))
	{
		open = MemoryContextAlloc(replay->open_context, sizeof(OpenCall));
		open->picked_at = call->picked_at;
		open->ends_at = Max(call->recorded_at, call->picked_at);
		open->reserved = asking->demand.use;
		open->recorded = asking->recorded;
		open->n = asking->n;
		pairingheap_add(replay->open, &open->node);
	}
	for (int i = 0; i < asking->n; i++)
	{
		LlmqMeterState *state = state_of(replay, asking->meter[i]);
		uint32		generation = llmq_meter_charge(asking->meter[i], state, &asking->demand, call->picked_at);

		if (open != NULL)
		{
			open->state[i] = state;
			open->generation[i] = generation;
		}
	}
}

/* Asks the meters of a call. */
static void
check(LlmqReplay *replay, const Asking *asking, LlmqVerdict *verdict)
{
	llmq_verdict_init(verdict);
	for (int i = 0; i < asking->n; i++)
		llmq_meter_check(asking->meter[i], state_of(replay, asking->meter[i]), &asking->demand, asking->call->picked_at,
						 verdict);
}

/* The model that answers in the place of one that names it; NULL: none. */
static LlmqModel *
successor(const LlmqReplay *replay, const LlmqModel *model)
{
	return model->downgrade_to == NULL ? NULL : llmq_names_find(replay->catalog->models, model->downgrade_to);
}

/*
 * The model that the rule has answer once a meter has reached a step, and the meter; NULL when it is the one that was
 * called. Budgets of keys and accounts have no say: they are asked when the model is known.
 */
static LlmqModel *
answer(const LlmqReplay *replay, const Asking *asking, LlmqMeter **reached)
{
	LlmqScope	scope = replay->rule->scope;
	int64		now = asking->call->picked_at;

	if (scope == LLMQ_SCOPE_ACCOUNT || scope == LLMQ_SCOPE_KEY)
		return NULL;
	for (int i = 0; i < asking->n; i++)
	{
		int			steps = llmq_limit_steps(&asking->meter[i]->limit[0], now);
		LlmqModel  *model = steps == 0 ? NULL : replay->rule->budget->step[steps - 1].model;

		if (steps > 0 && model == NULL)
			model = successor(replay, asking->model);
		if (model == NULL || model == asking->model ||
			!llmq_replay_is_cheaper(replay, asking->call, model, asking->model))
			continue;
		*reached = asking->meter[i];
		return model;
	}
	return NULL;
}

/* Has a model in the place of the one that was called answer, or one in its place, and so on. False: none may. */
static bool
downgrade(LlmqReplay *replay, const Asking *asked, LlmqModel *model)
{
	for (int i = 0; i < LLMQ_MAX_DOWNGRADES && model != NULL; i++, model = successor(replay, model))
	{
		LlmqVerdict verdict;
		Asking		asking;

		if (!model->enabled || model == asked->model ||
			!llmq_replay_is_cheaper(replay, asked->call, model, asked->model))
			continue;
		prepare(replay, asked->call, model, &asking);
		check(replay, &asking, &verdict);
		if (verdict.admitted)
		{
			charge(replay, &asking);
			return true;
		}
	}
	return false;
}

/* Asks for a call. What becomes of it, and whose doing that is. */
static void
ask(LlmqReplay *replay, const Asking *asking, LlmqReplayFate *fate, LlmqMeter **doing)
{
	LlmqModel  *other;
	LlmqVerdict verdict;

	check(replay, asking, &verdict);
	*doing = verdict.meter;
	other = answer(replay, asking, doing);
	if (other != NULL)
	{
		fate->downgraded = downgrade(replay, asking, other);
		fate->refused = !fate->downgraded;
		return;
	}
	fate->refused = !verdict.admitted;
	if (verdict.admitted)
		charge(replay, asking);
}

/* Counts what became of a call: at each of its meters, and in all. */
static void
count_call(LlmqReplay *replay, const Asking *asking, const LlmqReplayFate *fate, const LlmqMeter *doing)
{
	const LlmqOrg *org = replay->orgs.thing[asking->call->org];
	int64		most = 0;

	for (int i = 0; i < asking->n; i++)
	{
		const LlmqWindow *window = llmq_meter_first(state_of(replay, asking->meter[i]));
		LlmqReplayFate here = *fate;

		here.used = window == NULL ? 0 : window->sum;
		here.refused &= asking->meter[i] == doing;
		here.downgraded &= asking->meter[i] == doing;
		most = Max(most, here.used);
		llmq_replay_count(&replay->report, asking->meter[i], org, &here);
	}
	llmq_replay_add(&replay->report.total, &(LlmqReplayFate) {
		.at = fate->at,.amount = fate->amount,.used = most,.refused = fate->refused,.downgraded = fate->downgraded
	});
	replay->unpriced += !asking->priced;
}

/* Has the next call asked for again. */
void
llmq_replay_call(LlmqReplay *replay, const LlmqReplayCall *call)
{
	bool		counts_flight = replay->rule->kind == LLMQ_WINDOW_CONCURRENCY;
	LlmqReplayFate fate = {.at = call->picked_at};
	LlmqMeter  *doing = NULL;
	Asking		asking;

	end_calls(replay, call->picked_at);
	prepare(replay, call, replay->models.thing[call->model], &asking);
	if (call->picked_at < replay->since)
	{
		charge(replay, &asking);
		return;
	}
	fate.amount = counted(replay, counts_flight ? &asking.demand.use : &asking.recorded);
	ask(replay, &asking, &fate, &doing);
	count_call(replay, &asking, &fate, doing);
}
