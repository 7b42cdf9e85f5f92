/*
 * turn.h
 *	  Whose turn it is: tickets for the strategy round_robin.
 */
#ifndef LLMQ_TURN_H
#define LLMQ_TURN_H

#include "cell.h"

/* Among whom turns are taken. */
typedef struct LlmqTurnKey
{
	int32		route;			/* ids of llmquota.name */
	int32		org;			/* whose route or accounts these are, 0: nobody's alone */
	int32		model;			/* whose keys they are, 0: the models of a step */
	int32		place;			/* number of the tier or the step */
} LlmqTurnKey;

/* One count of tickets. Fixed-width types, no padding. */
typedef struct LlmqTurn
{
	int32		model;
	int32		place;
	int64		taken;			/* tickets; 0: a free entry */
} LlmqTurn;

#define LLMQ_TURNS 31

/* The state of a cell of llmquota.health of the kind 't'. */
typedef struct LlmqTurns
{
	LlmqCellHeader cell;
	LlmqTurn	turn[LLMQ_TURNS];
} LlmqTurns;

StaticAssertDecl(sizeof(LlmqTurns) >= LLMQ_MIN_STATE, "turns have a page of their own");

extern int64 llmq_turn_take(LlmqLive *live, const LlmqTurnKey *key);

#endif							/* LLMQ_TURN_H */
