/*
 * wait.h
 *	  Picks that wait in the line, held or with a ticket.
 */
#ifndef LLMQ_WAIT_H
#define LLMQ_WAIT_H

#include "line.h"
#include "pick.h"

/* Reads the request anew, before each try: the configuration may be another by then. */
typedef void (*LlmqRequestReader) (void *argument, LlmqPick *pick);

/* One call that waits. */
typedef struct LlmqWaiting
{
	LlmqRequestReader read;
	void	   *argument;
	int			number;			/* of the place in the line */
	TimestampTz since;			/* in the line */
	TimestampTz deadline;
	const LlmqTicket *ticket;	/* NULL: without */
	bool		gone;			/* another has shown the ticket, or given it back */
} LlmqWaiting;

/* What one who waits is to do. */
typedef enum LlmqTurn
{
	LLMQ_TURN_WAIT,
	LLMQ_TURN_CALLED,			/* try */
	LLMQ_TURN_GONE				/* he is not in the line: his ticket was, or is, shown by another, or was given back */
} LlmqTurn;

/* wait.c */
extern bool llmq_may_wait(const LlmqPick *pick);
extern void llmq_wait_in_call(LlmqPick *pick, LlmqRequestReader read, void *argument);
extern bool llmq_wait_stay(LlmqWaiting *waiting, LlmqPick *pick);
extern void llmq_wait_tell(LlmqPick *pick, int number, const LlmqTicket *ticket);
extern int	llmq_max_held(const LlmqSettings *settings);

/* ticket.c */
extern void llmq_ticket_make(LlmqPick *pick);
extern bool llmq_ticket_release(const LlmqLeaseId *id);
extern bool llmq_ticket_place(LlmqPick *pick, LlmqFreeSlot *place);

/* line.c */
extern int	llmq_line_join(const LlmqPick *pick, const LlmqPlace *place);
extern void llmq_line_leave(int number, const LlmqTicket *ticket);
extern void llmq_line_served(int number, const LlmqPick *pick);
extern void llmq_line_refused(int number, const LlmqPick *pick);
extern LlmqTurn llmq_line_turn(int number, const LlmqTicket *ticket, LlmqCalledFor *called_for,
							   TimestampTz *sleep_until);
extern void llmq_line_keep(int number, const LlmqTicket *ticket);
extern bool llmq_line_bars(const LlmqPick *pick, int32 meter);
extern void llmq_line_show(int number, const LlmqTicket *ticket);
extern int	llmq_line_position_of(int number, const LlmqTicket *ticket);
extern int	llmq_line_find(const LlmqLeaseId *ticket);
extern bool llmq_line_appear(int number, const LlmqTicket *ticket, Latch *latch);
extern int	llmq_line_held(void);

#endif							/* LLMQ_WAIT_H */
