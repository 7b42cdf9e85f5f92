/*
 * day.h
 *	  Midnight in a zone.
 */
#ifndef SIM_DAY_H
#define SIM_DAY_H

#include <stdint.h>

extern int64_t sim_next_midnight(const char *zone, int64_t now);

#endif							/* SIM_DAY_H */
