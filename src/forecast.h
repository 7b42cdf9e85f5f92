/*
 * forecast.h
 *	  When a limit will be used up at the rate of now.
 */
#ifndef LLMQ_FORECAST_H
#define LLMQ_FORECAST_H

#include "window.h"

/* It will not be before the window ends, or too little is known. */
#define LLMQ_FORECAST_NONE PG_INT64_MAX

extern int64 llmq_forecast(const LlmqWindow *window, int64 amount, int64 least_time, int64 now);

#endif							/* LLMQ_FORECAST_H */
