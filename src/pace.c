/*
 * pace.c
 *	  What a backend remembers of how long calls of a model at an account take.
 *
 * Records keep it in the service cell (service.h); a pick that has read it goes by that for a while, for it changes
 * slowly. That nobody has called yet is looked up again as soon as this backend has recorded a call. It lives as long
 * as the configuration in memory. Nothing here may be called while a page is locked.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "pace.h"
#include "service.h"

/* What is remembered of the model, perhaps nothing yet. */
static LlmqPace *
find(LlmqAccount *account, const LlmqModel *model)
{
	LlmqPace   *pace;

	for (pace = account->paces; pace != NULL; pace = pace->next)
		if (pace->model == model)
			return pace;
	pace = MemoryContextAllocZero(account->subject.context, sizeof(LlmqPace));
	pace->model = model;
	pace->next = account->paces;
	account->paces = pace;
	return pace;
}

static bool
is_good(const LlmqPace *pace, int64 now, int64 age)
{
	if (pace->called_at == 0 && pace->noted != llmq_service_noted())
		return false;
	return pace->read_at != 0 && now >= pace->read_at && now - pace->read_at < age;
}

/* What calls of a model at an account have shown, read no longer ago than `age` microseconds. */
const LlmqPace *
llmq_pace(LlmqLive *live, LlmqAccount *account, LlmqModel *model, int64 now, int64 age)
{
	LlmqPace   *pace = find(account, model);
	LlmqService service = {0};

	if (is_good(pace, now, age))
		return pace;
	(void) llmq_service_find(live, &account->subject.ref, &model->ref, &service);
	pace->latency = service.latency;
	pace->deviation = service.deviation;
	pace->called_at = service.called_at;
	pace->read_at = now;
	pace->noted = llmq_service_noted();
	return pace;
}
