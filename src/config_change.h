/*
 * config_change.h
 *	  Changes of the configuration by this backend.
 */
#ifndef LLMQ_CONFIG_CHANGE_H
#define LLMQ_CONFIG_CHANGE_H

extern bool llmq_config_is_tentative(void);

#endif							/* LLMQ_CONFIG_CHANGE_H */
