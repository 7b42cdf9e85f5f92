/*
 * forecast.h
 *	  When a limit will be used up at the rate of now.
 */
#ifndef LLMQ_FORECAST_H
#define LLMQ_FORECAST_H

#include "window.h"

/* So much of the amount has to be used for a forecast: one part in so many. */
#define LLMQ_FORECAST_LEAST_PART 4

/* It will not be before the window ends, or too little is known. */
#define LLMQ_FORECAST_NONE LLMQ_WHEN_NEVER

extern int64 llmq_forecast(const LlmqWindow *window, int64 amount, int64 least_time, int64 now);

#endif							/* LLMQ_FORECAST_H */
