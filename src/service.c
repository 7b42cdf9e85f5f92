/*
 * service.c
 *	  Counts calls by how they end, for each model at an account and for each provider.
 *
 * Both cells are changed in one record, under both locks, after the lease has been settled: a crash between the two
 * loses one call of a statistic, and the record was not acknowledged.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "health.h"
#include "health_cell.h"
#include "service.h"

/* Weight of the last call in the mean latency, once there are as many calls as make that their share. */
#define LATENCY_WEIGHT 0.1

#define MAX_ATTEMPTS 1000

/* How many calls this backend has counted: what it has read before may have changed. */
static uint64 noted = 0;

/* The id of a cell; 0 when there is none, unless it is to be created. */
static int32
find(LlmqLive *live, char kind, int32 subject, int32 part, bool create)
{
	LlmqHealthKey key = {.kind = kind,.subject = subject,.part = part};

	return llmq_health_cell(live, &key, create ? sizeof(LlmqService) : 0);
}

/* Takes in how long an answered call has taken. */
static void
note_latency(LlmqService *service, int64 latency)
{
	double		weight = Max(LATENCY_WEIGHT, 1.0 / service->calls);
	int64		distance = latency > service->latency ? latency - service->latency : service->latency - latency;

	if (service->latency == 0)
	{
		service->latency = latency;
		service->deviation = Max(service->deviation, latency / 2);
		return;
	}
	service->latency += (latency - service->latency) * weight;
	service->deviation += (distance - service->deviation) * weight;
}

/*
 * A call that was given up would have taken longer than that. So the next ones are given more time, as if calls were
 * more uneven: the mean is that of answers.
 */
static void
note_timeout(LlmqService *service, int64 waited)
{
	int64		distance = waited - service->latency;

	if (distance > service->deviation)
		service->deviation += (distance - service->deviation) * LATENCY_WEIGHT;
}

/* Under the lock: counts the call in one cell. Whether its breaker is to open. */
static bool
count(LlmqService *service, const LlmqServiceCall *call)
{
	service->calls++;
	service->called_at = call->now;
	if (!call->failed && call->latency >= 0)
		note_latency(service, call->latency);
	else if (call->timed_out)
		note_timeout(service, call->latency);
	if (!llmq_breaker_note(&service->breaker, call->failed, call->now, call->rule))
		return false;
	llmq_breaker_reset(&service->breaker);
	return true;
}

uint64
llmq_service_noted(void)
{
	return noted;
}

/* Counts a call in the cells of its model at its account and of its provider. */
void
llmq_service_note(LlmqLive *live, LlmqServiceCall *call)
{
	LlmqCellSet set;

	noted++;
	for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++)
	{
		int			service = find(live, LLMQ_HEALTH_SERVICE, call->account, call->model, true);
		int			provider = find(live, LLMQ_HEALTH_PROVIDER, call->provider, 0, true);

		llmq_set_init(&set, live);
		service = llmq_set_add(&set, LLMQ_LIVE_HEALTH, service);
		provider = llmq_set_add(&set, LLMQ_LIVE_HEALTH, provider);
		if (llmq_set_lock(&set) == LLMQ_LOCKED)
		{
			call->service_opens = count(llmq_set_change(&set, service), call);
			call->provider_opens = count(llmq_set_change(&set, provider), call);
			llmq_set_log(&set, 0);
			llmq_set_unlock(&set);
			return;
		}
		CHECK_FOR_INTERRUPTS();
		llmq_health_cells_forget();
	}
	elog(ERROR, "live state keeps moving");
}

/* The cell of a model at an account; 0 when there is none, unless it is to be created. */
int32
llmq_service_id(LlmqLive *live, int32 account, int32 model, bool create)
{
	return find(live, LLMQ_HEALTH_SERVICE, account, model, create);
}

/* Copies what is known of a model at an account. False when nothing is. */
bool
llmq_service_read(LlmqLive *live, int32 account, int32 model, LlmqService *service)
{
	int32		id = find(live, LLMQ_HEALTH_SERVICE, account, model, false);

	return id != 0 && llmq_cell_copy(live, LLMQ_LIVE_HEALTH, id, service, sizeof(LlmqService));
}

/* The same by their names. */
bool
llmq_service_find(LlmqLive *live, LlmqNameRef *account, LlmqNameRef *model, LlmqService *service)
{
	int32		account_id = llmq_name_find(account);
	int32		model_id = llmq_name_find(model);

	return account_id != 0 && model_id != 0 && llmq_service_read(live, account_id, model_id, service);
}
