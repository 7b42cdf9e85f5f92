/*
 * config_change.h
 *	  Changes of the configuration by this backend.
 */
#ifndef LLMQ_CONFIG_CHANGE_H
#define LLMQ_CONFIG_CHANGE_H

#include "datatype/timestamp.h"

extern bool llmq_config_is_tentative(void);
extern void llmq_config_note_change(void);
extern TimestampTz llmq_config_changed_at(void);

#endif							/* LLMQ_CONFIG_CHANGE_H */
