/*
 * inject.h
 *	  Faults on demand, in testing builds only (-DLLMQ_TESTING).
 *
 * The tests set llmquota.inject to the names of points; there the server then raises an error, crashes, or leaves a
 * step out. In a shipped build the points are nothing.
 */
#ifndef LLMQ_INJECT_H
#define LLMQ_INJECT_H

#include "access/xlogdefs.h"

#ifdef LLMQ_TESTING
extern char *llmq_inject;

extern void llmq_inject_init(void);
extern bool llmq_injected(const char *point);
extern void llmq_inject_error(const char *point);
extern void llmq_inject_crash(const char *point, XLogRecPtr lsn);
extern void llmq_inject_hang(const char *point);
extern void llmq_inject_gate(const char *point);

#define LLMQ_INJECT_ERROR(point) llmq_inject_error(point)
#define LLMQ_INJECT_CRASH(point, lsn) llmq_inject_crash(point, lsn)
#define LLMQ_INJECT_HANG(point) llmq_inject_hang(point)
#define LLMQ_INJECT_GATE(point) llmq_inject_gate(point)
#define LLMQ_INJECTED(point) llmq_injected(point)
#else
#define LLMQ_INJECT_ERROR(point) ((void) 0)
#define LLMQ_INJECT_CRASH(point, lsn) ((void) 0)
#define LLMQ_INJECT_HANG(point) ((void) 0)
#define LLMQ_INJECT_GATE(point) ((void) 0)
#define LLMQ_INJECTED(point) false
#endif

#endif							/* LLMQ_INJECT_H */
