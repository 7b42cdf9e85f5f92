/*
 * learn.c
 *	  Learns a provider's limits from its answers, and brings meters up to it that are behind.
 *
 * Comes after the lease has been settled. What is said is looked at on copies first: most answers say what is known,
 * and then nothing is locked. What is new is written into the service cell under its lock, together with the number on
 * the first board by which picks see it, in one record. A meter that is behind is charged under its lock and that of
 * the service cell, in one record, by what it lacks then: who comes second finds it caught up. When that was is noted,
 * and only calls granted later can tell that it is behind again: so nothing is charged twice for one piece of news,
 * also when the charge has left the window.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "health.h"
#include "health_board.h"
#include "health_cell.h"
#include "learn.h"
#include "name.h"
#include "ratelimit_header.h"
#include "service.h"

/* How often cells may be elsewhere than they were. */
#define MAX_ATTEMPTS 1000

/* What one answer says, and whom it is about. */
typedef struct Lecture
{
	const LlmqAnswer *answer;
	LlmqAccount *account;
	LlmqMeters *meters;
	LlmqService known;			/* a copy */
	int			nlessons;
	LlmqLesson	lesson[LLMQ_MAX_OBSERVED + 1];	/* the named limit comes last */
} Lecture;

static void
add_lesson(Lecture *lecture, const LlmqLesson *lesson)
{
	LlmqLesson *place = &lecture->lesson[lecture->nlessons++];

	*place = *lesson;
	place->now = lecture->answer->now;
	place->ttl = lecture->answer->catalog->settings.observed_limit_ttl;
}

/* What the answer says of limits, as far as it says how much they are. */
static void
read_answer(Lecture *lecture)
{
	const LlmqAnswer *answer = lecture->answer;
	const LlmqNamedLimit *named = answer->named;
	LlmqObserved observed[LLMQ_MAX_OBSERVED];
	int			count = 0;

	if (answer->report->nheaders > 0)
		count = llmq_ratelimit_headers(answer->adapter, answer->report->headers, answer->report->nheaders, answer->now,
									   observed);
	for (int i = 0; i < count; i++)
		if (observed[i].amount > 0)
			add_lesson(lecture, &(LlmqLesson) {
				.metric = observed[i].metric,.span = observed[i].span,.amount = observed[i].amount,
				.remaining = observed[i].remaining
			});
	if (named != NULL && named->amount > 0 && named->metric != LLMQ_METRIC_UNKNOWN && named->span != LLMQ_SPAN_UNKNOWN)
		add_lesson(lecture, &(LlmqLesson) {
			.metric = (LlmqMetric) named->metric,.span = named->span,.amount = named->amount,.named = true
		});
}

/* Whose limits these are. False when they are no longer configured. */
static bool
find_meters(Lecture *lecture)
{
	const LlmqAnswer *answer = lecture->answer;
	const char *account = llmq_name_text(answer->slot->account);
	const char *name = llmq_name_text(answer->slot->model);
	LlmqModel  *model = name == NULL ? NULL : llmq_catalog_model(answer->catalog, name);

	if (account == NULL || model == NULL)
		return false;
	lecture->account = (LlmqAccount *) llmq_catalog_subject(answer->catalog, LLMQ_SCOPE_ACCOUNT, account);
	if (lecture->account == NULL)
		return false;
	lecture->meters = llmq_plan_meters(answer->catalog, &lecture->account->subject, model);
	return true;
}

/* Takes in all lessons. Does it change anything that a pick goes by, or that people see? */
static bool
take_in(const Lecture *lecture, LlmqLearned *list)
{
	bool		changes = false;

	for (int i = 0; i < lecture->nlessons; i++)
	{
		const LlmqLesson *lesson = &lecture->lesson[i];

		changes |= llmq_learn(list, lesson) != LLMQ_LEARNING_NOTHING;
	}
	return changes;
}

/* Locks cells of health, and of a meter if its id is not 0. False: something is not where it was. */
static bool
lock(Lecture *lecture, int32 meter, LlmqCellSet *set, int cells[2])
{
	const LlmqSlot *slot = lecture->answer->slot;
	LlmqLive   *live = lecture->answer->live;
	int32		service = llmq_service_id(live, slot->account, slot->model, true);
	int32		board = meter != 0 ? 0 : llmq_board_id(live, 0, true);

	CHECK_FOR_INTERRUPTS();
	llmq_set_init(set, live);
	cells[0] = llmq_set_add(set, LLMQ_LIVE_HEALTH, service);
	cells[1] = meter != 0 ? llmq_set_add(set, LLMQ_LIVE_METER, meter) : llmq_set_add(set, LLMQ_LIVE_HEALTH, board);
	if (llmq_set_lock(set) == LLMQ_LOCKED)
		return true;
	llmq_health_cells_forget();
	return false;
}

/* Writes down what is new, so that every pick goes by it. */
static void
write_down(Lecture *lecture)
{
	for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++)
	{
		LlmqCellSet set;
		int			cells[2];
		LlmqService *service;
		LlmqHealthBoard *board;

		if (!lock(lecture, 0, &set, cells))
			continue;
		service = llmq_set_change(&set, cells[0]);
		board = llmq_set_change(&set, cells[1]);
		service->account = lecture->answer->slot->account;
		service->model = lecture->answer->slot->model;
		if (take_in(lecture, service->learned))
			board->limits++;
		lecture->known = *service;
		llmq_set_log(&set, 0);
		llmq_set_unlock(&set);
		return;
	}
	elog(ERROR, "live state keeps moving");
}

/* Under the locks: charges what the meter lacks, and notes when. */
static void
catch_up(Lecture *lecture, const LlmqMeter *meter, const LlmqLesson *lesson, LlmqCellSet *set, const int cells[2])
{
	LlmqService *service = llmq_set_change(set, cells[0]);
	LlmqMeterState *state = llmq_set_change(set, cells[1]);
	LlmqLearned *learned = llmq_learned_find(service->learned, lesson->metric, lesson->span);

	if (llmq_meter_catch_up(meter, state, lesson, lecture->answer->slot->granted_at) > 0 && learned != NULL)
		learned->corrected_at = lesson->now;
	llmq_set_log(set, 0);
}

/* Charges a meter with what it lacks, if it seems to lack anything. */
static void
correct_meter(Lecture *lecture, LlmqMeter *meter, const LlmqLesson *lesson)
{
	const LlmqSlot *slot = lecture->answer->slot;
	LlmqMeterState *copy = palloc(LLMQ_MAX_STATE);
	LlmqCellSet set;
	int			cells[2];
	bool		behind = false;

	llmq_plan_refresh(meter, lesson->now);
	if (llmq_meter_read(lecture->answer->live, meter, copy))
		behind = llmq_meter_catch_up(meter, copy, lesson, slot->granted_at) > 0;
	pfree(copy);
	for (int attempt = 0; behind && attempt < MAX_ATTEMPTS; attempt++)
	{
		if (!lock(lecture, meter->id, &set, cells))
			continue;
		catch_up(lecture, meter, lesson, &set, cells);
		llmq_set_unlock(&set);
		break;
	}
}

/* Corrects all meters that count what the lesson is about, if it is newer than the last correction. */
static void
correct(Lecture *lecture, const LlmqLesson *lesson)
{
	const LlmqLearned *learned = llmq_learned_find(lecture->known.learned, lesson->metric, lesson->span);

	if (learned == NULL || lecture->answer->slot->granted_at <= learned->corrected_at)
		return;
	llmq_limits_apply(lecture->answer->live, lecture->meters, lecture->account);
	for (int i = 0; i < lecture->meters->n; i++)
		correct_meter(lecture, lecture->meters->meter[i], lesson);
}

/* Learns from one answer. No lock may be held; the caller has looked at the boards. */
void
llmq_limits_learn(const LlmqAnswer *answer)
{
	const LlmqSlot *slot = answer->slot;
	Lecture		lecture = {.answer = answer};
	LlmqService copy;

	read_answer(&lecture);
	if (lecture.nlessons == 0 || !find_meters(&lecture))
		return;
	(void) llmq_service_read(answer->live, slot->account, slot->model, &lecture.known);
	copy = lecture.known;
	if (take_in(&lecture, copy.learned))
	{
		write_down(&lecture);
		llmq_health_look(answer->live);
	}
	for (int i = 0; i < lecture.nlessons; i++)
		if (lecture.lesson[i].remaining > 0)
			correct(&lecture, &lecture.lesson[i]);
}
