/*
 * health_board.h
 *	  The boards that troubles stand on, for those who change them.
 */
#ifndef LLMQ_HEALTH_BOARD_H
#define LLMQ_HEALTH_BOARD_H

#include "health.h"

/* Every key of the largest configuration can be in trouble at once. */
#define LLMQ_MAX_BOARDS 1000

/* A place on a board. */
typedef struct LlmqBoardPlace
{
	int32		board;			/* the cell's id; 0: none */
	int			place;
} LlmqBoardPlace;

extern int32 llmq_board_id(LlmqLive *live, int number, bool create);
extern int32 llmq_events_id(LlmqLive *live, int32 page, bool create);
extern LlmqBoardPlace llmq_health_place(const LlmqPatient *who, LlmqTroubleKind kind);

#endif							/* LLMQ_HEALTH_BOARD_H */
