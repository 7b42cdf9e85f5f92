/*
 * grant.c
 *	  The look and the grant: asks meters on copies, then locks the chosen candidate's whole set of cells, asks again,
 *	  and charges all or none.
 *
 * A grant touches every meter that limits the call and one slot of a lease page, in records of at most four pages with
 * all locks held across them; each record charges some meters and sets their bits in the slot. A refusal or a change
 * on the second look releases everything first. A retry also counts itself in the slot of the attempt that failed, so
 * that however many come at once no request has more attempts than it may.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "inject.h"
#include "name.h"
#include "pick.h"
#include "wait.h"

/* How often the set of cells may turn out to have changed. Each time is somebody's progress. */
#define MAX_LOCK_ATTEMPTS 1000

/* One grant being made. */
typedef struct Granting
{
	LlmqPick   *pick;
	LlmqCellSet set;
	int			nmeters;
	LlmqMeter  *meter[LLMQ_MAX_METERS];
	int			meter_cell[LLMQ_MAX_METERS];
	int			lease_cell;
	int			failed_cell;	/* the page of the attempt that failed; -1: this is the first */
	LlmqLease	lease;			/* the new one */
	LlmqSlot	seen;			/* what is in its place */
} Granting;

/*
 * Asks meters on copies, one share lock at a time; adds what they say to the verdict, and says whether it still admits.
 */
bool
llmq_look(LlmqPick *pick, LlmqMeters *meters, LlmqVerdict *verdict)
{
	for (int i = 0; i < meters->n; i++)
	{
		LlmqMeter  *meter = meters->meter[i];
		bool		known;

		if (llmq_line_bars(pick, meter->id))
			llmq_meter_bar(meter, pick->now, verdict);
		if (llmq_meter_recall(meter, &pick->demand, pick->now, verdict))
			continue;
		known = llmq_meter_read(&pick->live, meter, pick->scratch);
		llmq_plan_refresh(meter, pick->now);
		llmq_meter_check(meter, known ? pick->scratch : NULL, &pick->demand, pick->now, verdict);
	}
	return verdict->admitted;
}

static void
add_meters(Granting *granting, LlmqMeters *meters)
{
	for (int i = 0; i < meters->n; i++)
	{
		if (granting->nmeters == LLMQ_MAX_METERS)
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("quotas on more than %d subjects hold for one call", LLMQ_MAX_METERS),
					 errhint("Delete quotas of some scope, model or family.")));
		granting->meter[granting->nmeters++] = meters->meter[i];
	}
}

/* The subjects whose limits hold for a call of the model whatever the key. */
int
llmq_common_subjects(const LlmqPick *pick, const LlmqModel *model, LlmqSubject **subjects)
{
	int			n = 0;

	subjects[n++] = &pick->catalog->global;
	subjects[n++] = &model->provider->subject;
	if (pick->org == NULL)
		return n;
	subjects[n++] = &pick->org->subject;
	for (int i = 0; i < pick->org->ntrees; i++)
		subjects[n++] = pick->org->tree[i];
	return n;
}

/* Every meter that the call is charged to. The look that chose the key has told the account's what is learned. */
static void
collect_meters(Granting *granting, LlmqKey *key)
{
	LlmqPick   *pick = granting->pick;
	LlmqSubject *subjects[LLMQ_COMMON_SUBJECTS + 2];
	int			n = llmq_common_subjects(pick, pick->model, subjects);

	subjects[n++] = &key->account->subject;
	subjects[n++] = &key->subject;
	for (int i = 0; i < n; i++)
		add_meters(granting, llmq_plan_meters(pick->catalog, subjects[i], pick->model));
	if (pick->catalog->budgets != NULL)
		llmq_refuse_unpriced(pick, granting->meter, granting->nmeters);
}

/* The ids of everything the lease will name; new names are created here, before any lock. */
static void
fill_names(Granting *granting, LlmqKey *key)
{
	LlmqPick   *pick = granting->pick;
	LlmqCatalog *catalog = pick->catalog;
	LlmqSlot   *slot = &granting->lease.slot;
	int32		max_names = catalog->settings.max_subjects;

	slot->org = llmq_subject_id(catalog, &pick->org->subject);
	slot->route = llmq_name_id(&pick->route->ref, max_names);
	slot->model = llmq_name_id(&pick->model->ref, max_names);
	slot->provider = llmq_subject_id(catalog, &key->account->provider->subject);
	slot->account = llmq_subject_id(catalog, &key->account->subject);
	slot->key = llmq_subject_id(catalog, &key->subject);
}

static int
copy_label(char *label, const char *text)
{
	int			length = text == NULL ? 0 : strlen(text);

	if (length > 0)
		memcpy(label, text, length);
	return length;
}

/* What budgets are charged, and what they have made of the request. */
static void
fill_money(Granting *granting)
{
	LlmqPick   *pick = granting->pick;
	LlmqSlotMoney *money = &granting->lease.money;
	LlmqModel  *requested = pick->downgrade.requested;
	const LlmqCosts *costs = &pick->demand.use.costs;

	if (pick->catalog->budgets == NULL)
		return;
	money->secret = granting->lease.slot.secret;
	money->counted = true;
	money->priced = pick->cost.known;
	money->told = pick->max_cost_given;
	memcpy(money->currency, costs->currency, sizeof(money->currency));
	memcpy(money->reserved, costs->amount, sizeof(money->reserved));
	if (requested != NULL)
	{
		money->budget = pick->downgrade.budget;
		money->requested_model = llmq_name_id(&requested->ref, pick->catalog->settings.max_subjects);
	}
}

/* All of the new slot that is known before the locks. */
static void
fill_slot(Granting *granting, LlmqKey *key)
{
	LlmqPick   *pick = granting->pick;
	LlmqSlot   *slot = &granting->lease.slot;

	memset(&granting->lease, 0, sizeof(LlmqLease));
	fill_names(granting, key);
	slot->state = LLMQ_SLOT_GRANTED;
	slot->secret = pick->ticket == NULL ? llmq_lease_secret() : pick->ticket->id.secret;
	slot->reserved_input = pick->demand.use.input;
	slot->reserved_output = pick->demand.use.output;
	slot->prompt = pick->prompt;
	slot->history = pick->history;
	slot->session_length = copy_label(slot->session, pick->session);
	slot->request_id_length = copy_label(slot->request_id, pick->request_id);
	slot->nmeters = granting->nmeters;
	fill_money(granting);
}

/* Puts the set of cells together; meters that do not exist yet are created. */
static void
prepare_set(Granting *granting)
{
	LlmqPick   *pick = granting->pick;

	llmq_set_init(&granting->set, &pick->live);
	for (int i = 0; i < granting->nmeters; i++)
	{
		llmq_meter_ensure(&pick->live, pick->catalog, granting->meter[i]);
		granting->meter_cell[i] = llmq_set_add(&granting->set, LLMQ_LIVE_METER, granting->meter[i]->id);
		granting->lease.slot.meter[i].meter = granting->meter[i]->id;
	}
	granting->lease_cell = llmq_set_add(&granting->set, LLMQ_LIVE_LEASE, pick->lease.page);
	granting->failed_cell = pick->retry == NULL ? -1 :
		llmq_set_add(&granting->set, LLMQ_LIVE_LEASE, pick->retry->id.page);
}

/* After a set could not be locked: which of the meters are gone? They will be created anew. */
static void
forget_lost_meters(Granting *granting)
{
	for (int i = 0; i < granting->nmeters; i++)
	{
		ItemPointerData tid;

		if (!llmq_cell_locate(&granting->pick->live, LLMQ_LIVE_METER, granting->meter[i]->id, &tid))
			granting->meter[i]->id = 0;
	}
}

/* Under the locks: what has to be done without them before this set can be charged? */
typedef enum Obstacle
{
	OBSTACLE_NONE,
	OBSTACLE_SLOT,				/* somebody took the slot */
	OBSTACLE_NARROW,			/* the lease page has no room for money */
	OBSTACLE_COSTS,				/* a call costs something else since we asked */
	OBSTACLE_PERIOD,			/* a calendar period that the plan does not know has begun */
	OBSTACLE_ROOM				/* a meter has too little room */
} Obstacle;

/* A meter that has too little room, and how much it needs. */
typedef struct SmallMeter
{
	LlmqMeter  *meter;
	int			bytes;
} SmallMeter;

static Obstacle
find_obstacle(Granting *granting, SmallMeter *small)
{
	const LlmqLeasePage *page = llmq_set_state(&granting->set, granting->lease_cell);

	if (!llmq_slot_unchanged(&page->slot[granting->pick->lease.slot], &granting->seen))
		return OBSTACLE_SLOT;
	if (granting->lease.money.secret != 0 && !llmq_lease_page_has_money(page))
		return OBSTACLE_NARROW;
	if (granting->lease.money.secret != 0 && granting->pick->now >= granting->pick->costs_until)
		return OBSTACLE_COSTS;
	for (int i = 0; i < granting->nmeters; i++)
	{
		const LlmqMeterState *state;

		if (llmq_meter_stale(granting->meter[i], granting->pick->now))
			return OBSTACLE_PERIOD;
		state = llmq_set_state(&granting->set, granting->meter_cell[i]);
		small->meter = granting->meter[i];
		small->bytes = llmq_meter_bytes_needed(granting->meter[i], state, &granting->pick->demand,
											   granting->pick->now);
		if (small->bytes > state->room)
			return OBSTACLE_ROOM;
	}
	return OBSTACLE_NONE;
}

/* Without locks: gets an obstacle out of the way. */
static void
clear_obstacle(Granting *granting, Obstacle obstacle, const SmallMeter *small)
{
	LlmqPick   *pick = granting->pick;

	switch (obstacle)
	{
		case OBSTACLE_NONE:
			break;
		case OBSTACLE_SLOT:
			llmq_lease_avoid(pick->lease.page);
			break;
		case OBSTACLE_NARROW:
			llmq_lease_page_widen(&pick->live, pick->lease.page);
			break;
		case OBSTACLE_COSTS:
			llmq_set_costs(pick);
			llmq_refuse_unpriced(pick, granting->meter, granting->nmeters);
			fill_money(granting);
			break;
		case OBSTACLE_PERIOD:
			for (int i = 0; i < granting->nmeters; i++)
				llmq_plan_refresh(granting->meter[i], pick->now);
			break;
		case OBSTACLE_ROOM:
			llmq_meter_grow(&pick->live, pick->catalog, small->meter, small->bytes);
			break;
	}
}

/* Finds a place for the new lease: any that is free, or that of the ticket. False when there is none. */
static bool
find_place(Granting *granting)
{
	LlmqPick   *pick = granting->pick;

	if (pick->ticket != NULL)
		return llmq_ticket_place(pick, &pick->lease, &granting->seen);
	return llmq_lease_find_free(&pick->live, pick->catalog->settings.max_leases, &pick->lease, &granting->seen);
}

/* Locks the set and gets to a state that can be decided on. False when no slot is free; then nothing is held. */
static bool
lock(Granting *granting)
{
	LlmqPick   *pick = granting->pick;

	for (int attempt = 0; attempt < MAX_LOCK_ATTEMPTS; attempt++)
	{
		Obstacle	obstacle;
		SmallMeter	small;

		CHECK_FOR_INTERRUPTS();
		if (!find_place(granting))
			return false;
		prepare_set(granting);
		if (llmq_set_lock(&granting->set) != LLMQ_LOCKED)
		{
			forget_lost_meters(granting);
			continue;
		}
		pick->now = GetCurrentTimestamp();
		obstacle = find_obstacle(granting, &small);
		if (obstacle == OBSTACLE_NONE)
			return true;
		llmq_set_unlock(&granting->set);
		clear_obstacle(granting, obstacle, &small);
	}
	elog(ERROR, "live state keeps moving");
}

/*
 * Under the locks: does everything still admit the request? The copies that are asked are those that are charged
 * then.
 */
static bool
check_again(Granting *granting, LlmqVerdict *verdict)
{
	llmq_verdict_init(verdict);
	for (int i = 0; i < granting->nmeters; i++)
		llmq_meter_check(granting->meter[i], llmq_set_change(&granting->set, granting->meter_cell[i]),
						 &granting->pick->demand, granting->pick->now, verdict);
	return verdict->admitted;
}

/* Under the locks: the slot of the attempt that failed; NULL when there was none, or it has another lease by now. */
static const LlmqSlot *
failed_slot(const Granting *granting)
{
	const LlmqRetry *retry = granting->pick->retry;
	const LlmqLeasePage *page;

	if (retry == NULL)
		return NULL;
	page = llmq_set_state(&granting->set, granting->failed_cell);
	return page->slot[retry->id.slot].secret == retry->id.secret ? &page->slot[retry->id.slot] : NULL;
}

/*
 * Under the locks: the number of the attempt, others that were granted meanwhile counted. May there be so many? Where
 * the slot has gone it was retried, and nobody can count any more.
 */
static bool
count_attempt(Granting *granting)
{
	LlmqPick   *pick = granting->pick;
	const LlmqSlot *failed = failed_slot(granting);

	if (failed != NULL)
		pick->attempt = failed->attempt + 1 + failed->retries;
	granting->lease.slot.attempt = pick->attempt;
	pick->exhausted = pick->retry != NULL && (failed == NULL || pick->attempt > llmq_attempts_most(pick->route));
	return !pick->exhausted;
}

/*
 * Under the locks: notes in its slot that an attempt has been retried, in a record of its own: those before are full.
 * If a crash comes first, nobody was told of the new lease, and the attempt may be retried again.
 */
static void
note_retry(Granting *granting)
{
	const LlmqRetry *retry = granting->pick->retry;
	LlmqLeasePage *page;

	if (retry == NULL)
		return;
	page = llmq_set_change(&granting->set, granting->failed_cell);
	if (page->slot[retry->id.slot].secret != retry->id.secret)
		return;					/* the new lease has its place */
	page->slot[retry->id.slot].retries++;
	llmq_set_log(&granting->set, granting->set.nrecords);
}

/* Under the locks: what is known of the new lease only now. */
static void
date_slot(Granting *granting)
{
	LlmqPick   *pick = granting->pick;
	LlmqSlot   *slot = &granting->lease.slot;
	LlmqLeaseId id = {.page = pick->lease.page,.slot = pick->lease.slot,.secret = slot->secret};

	slot->granted_at = pick->now;
	if (pick->waiting_since != 0)
		slot->waited_ms = (int32) Min(Max((pick->now - pick->waiting_since) / 1000, 1), PG_INT32_MAX);
	slot->expires_at = pick->now + pick->ttl_ms * INT64CONST(1000);
	slot->history.deadline_ms = llmq_history_deadline_ms(pick, pick->attempt, pick->now);
	id.day = llmq_lease_day(pick->now);
	if (pick->retry == NULL)
		llmq_lease_uuid(&id, &slot->history.first_lease);
}

/* Under the locks: charges the meters of each record, and says so in the slot, in the same record. */
static void
charge(Granting *granting)
{
	LlmqPick   *pick = granting->pick;
	LlmqCellSet *set = &granting->set;
	LlmqSlot   *slot = &granting->lease.slot;
	int			nrecords = set->nrecords;

	date_slot(granting);
	for (int record = 0; record < nrecords; record++)
	{
		LlmqLeasePage *page = llmq_set_change(set, granting->lease_cell);

		for (int i = 0; i < granting->nmeters; i++)
		{
			if (llmq_set_record_of(set, granting->meter_cell[i]) != record)
				continue;
			slot->meter[i].generation = llmq_meter_charge(granting->meter[i],
														  llmq_set_change(set, granting->meter_cell[i]),
														  &pick->demand, pick->now);
			slot->charged |= 1 << i;
		}
		llmq_lease_put(page, pick->lease.slot, &granting->lease);
		page->granted += record == 0;
		llmq_set_log(set, record);
		LLMQ_INJECT_CRASH("grant-record", set->lsn);
	}
}

/* For those who wait: which of the meters have no room for another call, as this one has left them. */
static void
note_full(Granting *granting)
{
	LlmqPick   *pick = granting->pick;

	for (int i = 0; i < granting->nmeters; i++)
		if (llmq_meter_is_full(granting->meter[i], pick->now))
			pick->full[pick->nfull++] = granting->meter[i]->id;
}

/*
 * Grants the request on this key, if all its limits admit it now; else says in `verdict` which refuses. Durable when it
 * returns, as synchronous_commit asks.
 */
LlmqGrant
llmq_grant(LlmqPick *pick, LlmqKey *key, LlmqVerdict *verdict)
{
	Granting	granting = {.pick = pick};

	collect_meters(&granting, key);
	fill_slot(&granting, key);
	LLMQ_INJECT_GATE("grant");
	if (!lock(&granting))
		return LLMQ_GRANT_NO_SLOT;
	if (!count_attempt(&granting) || !check_again(&granting, verdict) || verdict->outdated)
	{
		llmq_set_unlock(&granting.set);
		return pick->exhausted ? LLMQ_GRANT_EXHAUSTED :
			verdict->outdated ? LLMQ_GRANT_DOWNGRADE : LLMQ_GRANT_REFUSED;
	}
	charge(&granting);
	note_retry(&granting);
	llmq_set_unlock(&granting.set);
	llmq_cell_make_durable(granting.set.lsn);

	for (int i = 0; i < granting.nmeters; i++)
		llmq_refusal_note_grant(granting.meter[i]->id);
	if (llmq_line_exists())
	{
		note_full(&granting);
		llmq_line_granted(granting.lease.slot.org);
	}
	pick->key = key;
	pick->lease.secret = granting.lease.slot.secret;
	pick->lease.day = llmq_lease_day(granting.lease.slot.granted_at);
	pick->granted_at = granting.lease.slot.granted_at;
	pick->expires_at = granting.lease.slot.expires_at;
	return LLMQ_GRANT_DONE;
}
