/*
 * wire_openai.h
 *	  What providers share that speak OpenAI's wire format.
 */
#ifndef SIM_WIRE_OPENAI_H
#define SIM_WIRE_OPENAI_H

#include "simulator.h"

extern bool sim_openai_read(SimCall *call);
extern json_t *sim_openai_answer(const SimCall *call);
extern json_t *sim_openai_error(SimCall *call, SimFailure failure);

#endif							/* SIM_WIRE_OPENAI_H */
