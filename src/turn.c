/*
 * turn.c
 *	  Tickets: every caller gets the next number, whatever backend it is in.
 *
 * A cell for each route counts tickets apart for each model's tiers and each step. A ticket is taken before the call is
 * charged, in a WAL record of its own that nobody waits for: a crash may give the last numbers out again.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "health.h"
#include "health_cell.h"
#include "turn.h"

#define MAX_ATTEMPTS 1000

/* Under the lock: the entry that counts for a key. When there are too many keys some have one together. */
static LlmqTurn *
find_turn(LlmqTurns *turns, const LlmqTurnKey *key)
{
	for (int i = 0; i < LLMQ_TURNS; i++)
	{
		LlmqTurn   *turn = &turns->turn[i];

		if (turn->taken == 0)
		{
			turn->model = key->model;
			turn->place = key->place;
			return turn;
		}
		if (turn->model == key->model && turn->place == key->place)
			return turn;
	}
	return &turns->turn[((uint32) key->model + (uint32) key->place) % LLMQ_TURNS];
}

/* The next ticket, counted from 0. */
int64
llmq_turn_take(LlmqLive *live, const LlmqTurnKey *key)
{
	LlmqHealthKey cell = {.kind = LLMQ_HEALTH_TURNS,.subject = key->route,.part = key->org};
	LlmqCellSet set;

	for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++)
	{
		int			turns;

		llmq_set_init(&set, live);
		turns = llmq_set_add(&set, LLMQ_LIVE_HEALTH, llmq_health_cell(live, &cell, sizeof(LlmqTurns)));
		if (llmq_set_lock(&set) == LLMQ_LOCKED)
		{
			int64		ticket = find_turn(llmq_set_change(&set, turns), key)->taken++;

			llmq_set_log(&set, 0);
			llmq_set_unlock(&set);
			return ticket;
		}
		CHECK_FOR_INTERRUPTS();
		llmq_health_cells_forget();
	}
	elog(ERROR, "live state keeps moving");
}
