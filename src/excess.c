/*
 * excess.c
 *	  Charges what a late record exceeds its reservation by, when the lease's slot has another lease by now.
 *
 * An expired lease stays charged as reserved. Its slot knew the meters; here the ledger row names the subjects, and
 * the excess goes to the meters that limit them today. Nothing is given back: nobody knows any more which windows had
 * counted the lease.
 *
 * There is no slot that could say what has been charged, so it is done as the last thing before the transaction
 * commits or is prepared: a rollback, to a savepoint too, charges nothing, and a record that is repeated charges once.
 * (What comes after that and fails, a crash or ROLLBACK PREPARED, leaves the meters with the excess: never too little.)
 * The meters are locked as a set, in the protocol's order.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "excess.h"
#include "meter.h"
#include "settle.h"
#include "worker.h"

/* What this transaction owes when it commits, in its own memory. */
typedef struct Owed
{
	struct Owed *next;
	SubTransactionId subxact;
	LlmqLedgerRow row;
	LlmqUse		reserved;
	LlmqUse		used;
	LlmqCost	reserved_cost;
	LlmqCost	used_cost;
} Owed;

static Owed *owed = NULL;

/* The meters to be charged. */
typedef struct Excess
{
	LlmqCatalog *catalog;
	LlmqLive	live;
	LlmqCellSet set;
	LlmqMeterState *scratch;
	LlmqCorrection correction;
} Excess;

/* Has the excess counted in the currencies of a meter's budgets. */
static void
want_currencies(LlmqCosts *costs, const LlmqMeter *meter)
{
	for (int i = 0; i < meter->nlimits; i++)
		if (meter->limit[i].quota->budget != NULL)
			(void) llmq_costs_want(costs, meter->limit[i].quota->budget->currency);
}

/* Adds the meters of one subject that exist; one that has never counted anything is not created for this. */
static void
add_meters(Excess *excess, LlmqSubject *subject, const LlmqModel *model)
{
	LlmqMeters *meters = llmq_plan_meters(excess->catalog, subject, model);

	for (int i = 0; i < meters->n; i++)
	{
		if (!llmq_meter_read(&excess->live, meters->meter[i], excess->scratch))
			continue;
		(void) llmq_set_add(&excess->set, LLMQ_LIVE_METER, meters->meter[i]->id);
		want_currencies(&excess->correction.from.costs, meters->meter[i]);
	}
}

/* Converts what was reserved, and what was used, into the currencies of the budgets that count it. */
static void
add_costs(Excess *excess, const Owed *debt)
{
	LlmqCorrection *correction = &excess->correction;

	correction->to.costs = correction->from.costs;
	(void) llmq_costs_convert(excess->catalog, &debt->reserved_cost, debt->row.picked_at, &correction->from.costs);
	(void) llmq_costs_convert(excess->catalog, &debt->used_cost, debt->row.picked_at, &correction->to.costs);
}

/* Adds all meters that limit what the row names, as far as it still exists. */
static void
add_all_meters(Excess *excess, const LlmqLedgerRow *row)
{
	LlmqCatalog *catalog = excess->catalog;
	LlmqModel  *model = llmq_catalog_model(catalog, row->model);
	LlmqKey    *key = llmq_catalog_key(catalog, row->key);
	LlmqOrg    *org;

	llmq_set_init(&excess->set, &excess->live);
	if (model == NULL)
		return;
	add_meters(excess, &catalog->global, model);
	add_meters(excess, &model->provider->subject, model);
	org = llmq_catalog_org(catalog, row->org);
	add_meters(excess, &org->subject, model);
	for (int i = 0; i < org->ntrees; i++)
		add_meters(excess, org->tree[i], model);
	if (key == NULL)
		return;
	add_meters(excess, &key->account->subject, model);
	add_meters(excess, &key->subject, model);
}

/* Writes the corrections. All pages are locked. */
static void
write_records(Excess *excess)
{
	LlmqCellSet *set = &excess->set;
	int			nrecords = set->nrecords;

	excess->correction.now = GetCurrentTimestamp();
	for (int record = 0; record < nrecords; record++)
	{
		for (int i = 0; i < set->ncells; i++)
			if (llmq_set_record_of(set, i) == record)
				llmq_meter_correct(llmq_set_change(set, i), &excess->correction);
		llmq_set_log(set, record);
	}
}

/* Charges one late record's excess. Durable with the transaction, which has an id. */
static void
charge(const Owed *debt)
{
	Excess		excess = {.scratch = palloc(LLMQ_MAX_STATE)};
	bool		locked = false;

	excess.catalog = llmq_catalog();
	excess.correction.from = debt->reserved;
	excess.correction.to = debt->used;
	excess.correction.picked_at = debt->row.picked_at;
	excess.correction.generation = PG_UINT32_MAX;
	excess.correction.loosens = true;
	excess.correction.only_more = true;

	llmq_live_open(&excess.live, LLMQ_LIVE_METER + 1, RowExclusiveLock);
	while (!locked)
	{
		CHECK_FOR_INTERRUPTS();
		add_all_meters(&excess, &debt->row);
		add_costs(&excess, debt);
		if (excess.set.ncells == 0)
			break;
		locked = llmq_set_lock(&excess.set) == LLMQ_LOCKED;
	}
	if (locked)
	{
		write_records(&excess);
		llmq_set_unlock(&excess.set);
	}
	llmq_live_close(&excess.live);
	pfree(excess.scratch);
}

/* The end of the transaction: before it commits what is owed is charged. */
static void
at_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
	{
		for (; owed != NULL; owed = owed->next)
			charge(owed);
		llmq_worker_look(DT_NOEND);
	}
	else if (event == XACT_EVENT_ABORT)
		owed = NULL;
}

/* The end of a subtransaction: what it owed is its parent's debt, or nobody's. */
static void
at_sub_end(SubXactEvent event, SubTransactionId subxact, SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	for (Owed **debt = &owed; *debt != NULL;)
	{
		if ((*debt)->subxact == subxact && event == SUBXACT_EVENT_ABORT_SUB)
		{
			*debt = (*debt)->next;
			continue;
		}
		if ((*debt)->subxact == subxact)
			(*debt)->subxact = parent;
		debt = &(*debt)->next;
	}
}

/* Has what the settlement exceeds the row's reservation by charged when the current transaction commits. */
void
llmq_charge_excess(const LlmqLedgerRow *row, const LlmqSettlement *settlement, const LlmqCost *cost)
{
	static bool registered = false;
	MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);
	LlmqLease	lease = {.slot = {
		.reserved_input = row->reserved_input,.reserved_output = row->reserved_output
	}};
	Owed	   *debt = palloc(sizeof(Owed));

	if (!registered)
	{
		RegisterXactCallback(at_end, NULL);
		RegisterSubXactCallback(at_sub_end, NULL);
		registered = true;
	}
	debt->subxact = GetCurrentSubTransactionId();
	debt->row = *row;
	debt->row.org = pstrdup(row->org);
	debt->row.model = pstrdup(row->model);
	debt->row.key = pstrdup(row->key);
	debt->reserved = llmq_use_reserved(&lease);
	debt->used = llmq_use_tokens(&lease.slot, settlement);
	debt->used_cost = *cost;
	memset(&debt->reserved_cost, 0, sizeof(LlmqCost));
	debt->reserved_cost.known = row->cost != NULL && llmq_money_read(row->cost, &debt->reserved_cost.amount);
	strlcpy(debt->reserved_cost.currency, debt->reserved_cost.known ? row->currency : cost->currency,
			LLMQ_CURRENCY_SIZE);
	debt->next = owed;
	owed = debt;
	MemoryContextSwitchTo(caller);
}
