/*
 * grant.c
 *	  The look and the grant: asks meters on copies, then locks the chosen candidate's whole set of cells, asks again,
 *	  and charges all or none.
 *
 * A grant touches every meter that limits the call and one slot of a lease page, in records of at most four pages with
 * all locks held across them; each record charges some meters and sets their bits in the slot. A refusal or a change
 * on the second look releases everything first. A retry also counts itself in the slot of the attempt that failed, so
 * that however many come at once no request has more attempts than it may. One that names its request looks once more
 * whether that has been granted a lease, and notes its own (once.c).
 *
 * Calls of one batch that go to the same candidate are granted together: as many as there are free slots in the lease
 * pages that a record has room for. Each is asked and charged by itself, all or none, on the copies that those before
 * it were charged to; where one is refused the batch ends. Then the records are written, as many as one call would
 * take, each with all of the slots. One call is a batch of one.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "inject.h"
#include "name.h"
#include "once.h"
#include "pick.h"
#include "wait.h"

/* How often the set of cells may turn out to have changed. Each time is somebody's progress. */
#define MAX_LOCK_ATTEMPTS 1000

/* A lease that is asked for. */
typedef struct NewLease
{
	LlmqDemand	demand;
	LlmqLease	lease;
	int			cell;			/* its page */
} NewLease;

/* One grant being made: of one lease, or those of a batch. */
typedef struct Granting
{
	LlmqPick   *pick;
	LlmqKey    *key;
	LlmqCellSet set;
	int			nmeters;
	LlmqMeter  *meter[LLMQ_MAX_METERS];
	int			meter_cell[LLMQ_MAX_METERS];
	int			failed_cell;	/* the page of the attempt that failed; -1: this is the first */
	int			request_cell;	/* the request's; -1: it is not remembered */
	int			wanted;
	int			nfree;			/* places that were found for the first of them */
	int			ngranted;
	NewLease	new[LLMQ_MAX_BATCH];
	LlmqFreeSlot free[LLMQ_MAX_BATCH];
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

		if (llmq_meter_recall(meter, &pick->demand, pick->now, verdict))
			continue;
		/* only now the meter's id is known for certain */
		known = llmq_meter_read(&pick->live, meter, pick->scratch);
		if (llmq_line_bars(pick, meter->id))
			llmq_meter_bar(meter, pick->now, verdict);
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

/* Every meter that the calls are charged to. The look that chose the key has told the account's what is learned. */
static void
collect_meters(Granting *granting)
{
	LlmqPick   *pick = granting->pick;
	LlmqKey    *key = granting->key;
	LlmqSubject *subjects[LLMQ_COMMON_SUBJECTS + 2];
	int			n = llmq_common_subjects(pick, pick->model, subjects);

	subjects[n++] = &key->account->subject;
	subjects[n++] = &key->subject;
	for (int i = 0; i < n; i++)
		add_meters(granting, llmq_plan_meters(pick->catalog, subjects[i], pick->model));
}

/* The ids of everything the lease will name; new names are created here, before any lock. */
static void
fill_names(const Granting *granting, LlmqSlot *slot)
{
	LlmqPick   *pick = granting->pick;
	LlmqKey    *key = granting->key;
	LlmqCatalog *catalog = pick->catalog;

	slot->model = llmq_name_id(&pick->model->ref, catalog->settings.max_subjects);
	slot->provider = llmq_subject_id(catalog, &key->account->provider->subject);
	slot->account = llmq_subject_id(catalog, &key->account->subject);
	slot->key = llmq_subject_id(catalog, &key->subject);
}

/* What budgets are charged, and what they have made of the request. Raises when they cannot know what it costs. */
static void
fill_money(const Granting *granting, LlmqLease *lease)
{
	LlmqPick   *pick = granting->pick;
	LlmqSlotMoney *money = &lease->money;
	LlmqModel  *requested = pick->downgrade.requested;
	const LlmqCosts *costs = &pick->demand.use.costs;

	if (pick->catalog->budgets == NULL)
		return;
	llmq_refuse_unpriced(pick, granting->meter, granting->nmeters);
	money->secret = lease->slot.secret;
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

/* All of a new lease that is known before the locks. */
static void
fill_lease(const Granting *granting, NewLease *new)
{
	LlmqPick   *pick = granting->pick;
	LlmqSlot   *slot = &new->lease.slot;

	new->demand = pick->demand;
	memset(&new->lease, 0, sizeof(LlmqLease));
	llmq_request_fill(pick, slot);
	fill_names(granting, slot);
	slot->state = LLMQ_SLOT_GRANTED;
	slot->secret = pick->ticket == NULL ? llmq_lease_secret() : pick->ticket->at.place.secret;
	slot->reserved_input = pick->demand.use.input;
	slot->reserved_output = pick->demand.use.output;
	slot->nmeters = granting->nmeters;
	fill_money(granting, &new->lease);
}

/* All leases that are asked for; the pick has the first call in the end, as it had in the beginning. */
static void
fill_leases(Granting *granting)
{
	LlmqPick   *pick = granting->pick;

	fill_lease(granting, &granting->new[0]);
	for (int i = 1; i < granting->wanted; i++)
	{
		llmq_pick_take_call(pick, &pick->batch[i]);
		llmq_set_demand(pick);
		fill_lease(granting, &granting->new[i]);
	}
	if (granting->wanted == 1)
		return;
	llmq_pick_take_call(pick, &pick->batch[0]);
	llmq_set_demand(pick);
}

/* Puts the set of cells together; meters that do not exist yet are created. */
static void
prepare_set(Granting *granting)
{
	LlmqPick   *pick = granting->pick;
	LlmqCellSet *set = &granting->set;

	llmq_set_init(set, &pick->live);
	for (int i = 0; i < granting->nmeters; i++)
	{
		llmq_meter_ensure(&pick->live, pick->catalog, granting->meter[i]);
		granting->meter_cell[i] = llmq_set_add(set, LLMQ_LIVE_METER, granting->meter[i]->id);
	}
	for (int i = 0; i < granting->nfree; i++)
	{
		NewLease   *new = &granting->new[i];

		new->cell = llmq_set_add(set, LLMQ_LIVE_LEASE, granting->free[i].place.page);
		for (int j = 0; j < granting->nmeters; j++)
			new->lease.slot.meter[j].meter = granting->meter[j]->id;
	}
	llmq_set_carry(set, granting->new[granting->nfree - 1].cell - granting->new[0].cell + 1);
	granting->failed_cell = pick->retry == NULL ? -1 : llmq_set_add(set, LLMQ_LIVE_LEASE, pick->retry->id.page);
	granting->request_cell = pick->once == NULL ? -1 : llmq_set_add(set, LLMQ_LIVE_REQUEST, pick->once->look.cell);
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
	OBSTACLE_SLOT,				/* somebody took a slot */
	OBSTACLE_REQUEST,			/* the request has another lease, or is elsewhere */
	OBSTACLE_NARROW,			/* a lease page has no room for money */
	OBSTACLE_COSTS,				/* a call costs something else since we asked */
	OBSTACLE_PERIOD,			/* a calendar period that the plan does not know has begun */
	OBSTACLE_ROOM				/* a meter has too little room */
} Obstacle;

/* Where an obstacle is: a lease page, or a meter that has too little room, and how much it needs. */
typedef struct Hindrance
{
	int32		page;
	LlmqMeter  *meter;
	int			bytes;
} Hindrance;

/* Obstacles in the lease pages. */
static Obstacle
find_obstacle_in_pages(const Granting *granting, Hindrance *where)
{
	for (int i = 0; i < granting->nfree; i++)
	{
		const NewLease *new = &granting->new[i];
		const LlmqFreeSlot *free = &granting->free[i];
		const LlmqLeasePage *page = llmq_set_state(&granting->set, new->cell);

		where->page = free->place.page;
		if (!llmq_slot_unchanged(&page->slot[free->place.slot], &free->seen))
			return OBSTACLE_SLOT;
		if (new->lease.money.secret != 0 && !llmq_lease_page_has_money(page))
			return OBSTACLE_NARROW;
	}
	return OBSTACLE_NONE;
}

static Obstacle
find_obstacle(const Granting *granting, Hindrance *where)
{
	LlmqPick   *pick = granting->pick;
	Obstacle	obstacle = find_obstacle_in_pages(granting, where);

	if (obstacle != OBSTACLE_NONE)
		return obstacle;
	if (granting->request_cell >= 0 && !llmq_once_as_seen(pick, llmq_set_state(&granting->set, granting->request_cell)))
		return OBSTACLE_REQUEST;
	if (granting->new[0].lease.money.secret != 0 && pick->now >= pick->costs_until)
		return OBSTACLE_COSTS;
	for (int i = 0; i < granting->nmeters; i++)
	{
		const LlmqMeterState *state;

		if (llmq_meter_stale(granting->meter[i], pick->now))
			return OBSTACLE_PERIOD;
		state = llmq_set_state(&granting->set, granting->meter_cell[i]);
		where->meter = granting->meter[i];
		where->bytes = llmq_meter_bytes_needed(granting->meter[i], state, &pick->demand, pick->now);
		if (where->bytes > state->room)
			return OBSTACLE_ROOM;
	}
	return OBSTACLE_NONE;
}

/* Without locks: gets an obstacle out of the way. */
static void
clear_obstacle(Granting *granting, Obstacle obstacle, const Hindrance *where)
{
	LlmqPick   *pick = granting->pick;

	switch (obstacle)
	{
		case OBSTACLE_NONE:
			break;
		case OBSTACLE_SLOT:
			llmq_lease_avoid(where->page);
			break;
		case OBSTACLE_REQUEST:
			(void) llmq_once_look(pick);
			break;
		case OBSTACLE_NARROW:
			llmq_lease_page_widen(&pick->live, where->page);
			break;
		case OBSTACLE_COSTS:
			llmq_set_costs(pick);
			fill_leases(granting);
			break;
		case OBSTACLE_PERIOD:
			for (int i = 0; i < granting->nmeters; i++)
				llmq_plan_refresh(granting->meter[i], pick->now);
			break;
		case OBSTACLE_ROOM:
			llmq_meter_grow(&pick->live, pick->catalog, where->meter, where->bytes);
			break;
	}
}

/* Finds places for new leases: any that are free, or that of the ticket. How many. */
static int
find_places(Granting *granting)
{
	LlmqPick   *pick = granting->pick;

	if (pick->ticket != NULL)
		return llmq_ticket_place(pick, &granting->free[0]) ? 1 : 0;
	return llmq_lease_find_free(&pick->live, pick->catalog->settings.max_leases, granting->wanted, granting->free);
}

/* Locks the set and gets to a state that can be decided on. False when no slot is free; then nothing is held. */
static bool
lock(Granting *granting)
{
	LlmqPick   *pick = granting->pick;

	for (int attempt = 0; attempt < MAX_LOCK_ATTEMPTS; attempt++)
	{
		Obstacle	obstacle;
		Hindrance	where = {0};

		CHECK_FOR_INTERRUPTS();
		granting->nfree = find_places(granting);
		if (granting->nfree == 0)
			return false;
		prepare_set(granting);
		if (llmq_set_lock(&granting->set) != LLMQ_LOCKED)
		{
			forget_lost_meters(granting);
			continue;
		}
		pick->now = GetCurrentTimestamp();
		obstacle = find_obstacle(granting, &where);
		if (obstacle == OBSTACLE_NONE)
			return true;
		llmq_set_unlock(&granting->set);
		clear_obstacle(granting, obstacle, &where);
		if (llmq_once_answer(pick) != LLMQ_ONCE_NONE)
			return false;
	}
	elog(ERROR, "live state keeps moving");
}

/*
 * Under the locks: does everything still admit a call? The copies that are asked are those that are charged then.
 */
static bool
check_again(Granting *granting, const LlmqDemand *demand, LlmqVerdict *verdict)
{
	llmq_verdict_init(verdict);
	for (int i = 0; i < granting->nmeters; i++)
		llmq_meter_check(granting->meter[i], llmq_set_change(&granting->set, granting->meter_cell[i]), demand,
						 granting->pick->now, verdict);
	return verdict->admitted && !verdict->outdated;
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
	for (int i = 0; i < granting->wanted; i++)
		granting->new[i].lease.slot.attempt = pick->attempt;
	pick->exhausted = pick->retry != NULL && (failed == NULL || pick->attempt > llmq_attempts_most(pick->route));
	return !pick->exhausted;
}

/* Under the locks: notes in its slot that an attempt has been retried. False when there is nothing to note. */
static bool
note_retry(Granting *granting)
{
	const LlmqRetry *retry = granting->pick->retry;
	LlmqLeasePage *page;

	if (retry == NULL)
		return false;
	page = llmq_set_change(&granting->set, granting->failed_cell);
	if (page->slot[retry->id.slot].secret != retry->id.secret)
		return false;			/* the new lease has its place */
	page->slot[retry->id.slot].retries++;
	return true;
}

/* Under the locks: notes the new lease in its request's cell, if this is the record that has room for it. */
static bool
note_request(Granting *granting, int record)
{
	if (granting->request_cell < 0 || llmq_set_record_with_room(&granting->set) != record)
		return false;
	llmq_once_note(granting->pick, &granting->free[0].place, &granting->new[0].lease.slot,
				   llmq_set_change(&granting->set, granting->request_cell));
	return true;
}

/*
 * Under the locks: what the records before have no room for, in one of its own. If a crash comes first, nobody was told
 * of the new lease: the attempt may be retried again, and the request be granted another.
 */
static void
note_rest(Granting *granting)
{
	int			record = granting->set.nrecords;
	bool		retried = note_retry(granting);

	if (note_request(granting, record) || retried)
		llmq_set_log(&granting->set, record);
	LLMQ_INJECT_CRASH("grant-rest", granting->set.lsn);
}

/* Under the locks: what is known of a new lease only now. */
static void
date_slot(const LlmqPick *pick, const LlmqLeaseId *place, LlmqSlot *slot)
{
	LlmqLeaseId id = {.page = place->page,.slot = place->slot,.secret = slot->secret};

	slot->granted_at = pick->now;
	if (pick->waiting_since != 0)
		slot->waited_ms = (int32) Min(Max((pick->now - pick->waiting_since) / 1000, 1), PG_INT32_MAX);
	slot->expires_at = pick->now + pick->ttl_ms * INT64CONST(1000);
	slot->history.deadline_ms = llmq_history_deadline_ms(pick, pick->attempt, pick->now);
	id.day = llmq_lease_day(pick->now);
	if (pick->retry == NULL && !llmq_once_first_lease(pick, &slot->history.first_lease))
		llmq_lease_uuid(&id, &slot->history.first_lease);
}

/* Under the locks: charges a call to the copies of its meters. */
static void
charge(Granting *granting, NewLease *new)
{
	for (int i = 0; i < granting->nmeters; i++)
		new->lease.slot.meter[i].generation =
			llmq_meter_charge(granting->meter[i], llmq_set_change(&granting->set, granting->meter_cell[i]),
							  &new->demand, granting->pick->now);
}

/* Under the locks: how many more calls like the last one the limits admit that other orgs share. */
static void
count_room(Granting *granting)
{
	LlmqPick   *pick = granting->pick;

	pick->room = PG_INT64_MAX;
	for (int i = 0; i < granting->nmeters; i++)
		if (granting->meter[i]->subject->scope != LLMQ_SCOPE_ORG)
			pick->room = Min(pick->room,
							 llmq_meter_room(granting->meter[i],
											 llmq_set_change(&granting->set, granting->meter_cell[i]),
											 &granting->new[granting->ngranted - 1].demand, pick->now));
}

/*
 * Under the locks: asks and charges one call after the other, until one is refused. The verdict is the first one's:
 * false, when that is refused.
 */
static bool
charge_all(Granting *granting, LlmqVerdict *verdict)
{
	LlmqVerdict later;

	granting->ngranted = 0;
	for (int i = 0; i < granting->nfree; i++)
	{
		if (!check_again(granting, &granting->new[i].demand, i == 0 ? verdict : &later))
			break;
		date_slot(granting->pick, &granting->free[i].place, &granting->new[i].lease.slot);
		charge(granting, &granting->new[i]);
		granting->ngranted++;
	}
	if (granting->ngranted > 0 && granting->pick->batch != NULL)
		count_room(granting);
	return granting->ngranted > 0;
}

/* Under the locks: puts a new lease into its page, for a record which charges these meters. */
static void
put_lease(Granting *granting, int number, int record)
{
	NewLease   *new = &granting->new[number];
	LlmqLeasePage *page = llmq_set_change(&granting->set, new->cell);

	for (int i = 0; i < granting->nmeters; i++)
		if (llmq_set_record_of(&granting->set, granting->meter_cell[i]) == record)
			new->lease.slot.charged |= 1 << i;
	llmq_lease_put(page, granting->free[number].place.slot, &new->lease);
	page->granted += record == 0;
}

/* Under the locks: writes the records, each with its meters and slots which say that these are charged. */
static void
write_records(Granting *granting)
{
	LlmqCellSet *set = &granting->set;
	int			nrecords = set->nrecords;

	for (int record = 0; record < nrecords; record++)
	{
		for (int i = 0; i < granting->ngranted; i++)
			put_lease(granting, i, record);
		(void) note_request(granting, record);
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

/* Tells the pick what it was granted. */
static void
tell(Granting *granting)
{
	LlmqPick   *pick = granting->pick;
	const LlmqSlot *first = &granting->new[0].lease.slot;

	for (int i = 0; i < granting->nmeters; i++)
		llmq_refusal_note_grant(granting->meter[i]->id);
	if (llmq_line_exists())
	{
		note_full(granting);
		llmq_line_granted(first->org, granting->ngranted);
	}
	pick->key = granting->key;
	pick->granted_at = first->granted_at;
	pick->expires_at = first->expires_at;
	pick->lsn = granting->set.lsn;
	pick->ngranted = granting->ngranted;
	for (int i = 0; i < granting->ngranted; i++)
	{
		LlmqGranted *granted = &pick->granted[i];

		granted->lease = granting->free[i].place;
		granted->lease.secret = granting->new[i].lease.slot.secret;
		granted->lease.day = llmq_lease_day(first->granted_at);
		granted->output_tokens = (int32) granting->new[i].demand.use.output;
	}
}

/*
 * Grants the request on this key, if all its limits admit it now; else says in `verdict` which refuses. Of a batch at
 * most so many calls from its first on, as far as they are admitted and there are places. The caller makes it durable.
 */
LlmqGrant
llmq_grant(LlmqPick *pick, LlmqKey *key, int wanted, LlmqVerdict *verdict)
{
	Granting	granting;

	granting.pick = pick;
	granting.key = key;
	granting.nmeters = 0;
	granting.wanted = Min(wanted, LLMQ_MAX_BATCH);
	collect_meters(&granting);
	fill_leases(&granting);
	LLMQ_INJECT_GATE("grant");
	if (!lock(&granting))
		return LLMQ_GRANT_NO_SLOT;
	if (!count_attempt(&granting) || !charge_all(&granting, verdict))
	{
		llmq_set_unlock(&granting.set);
		return pick->exhausted ? LLMQ_GRANT_EXHAUSTED :
			verdict->outdated ? LLMQ_GRANT_DOWNGRADE : LLMQ_GRANT_REFUSED;
	}
	write_records(&granting);
	note_rest(&granting);
	llmq_set_unlock(&granting.set);
	tell(&granting);
	return LLMQ_GRANT_DONE;
}
