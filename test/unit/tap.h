/*
 * tap.h
 *	  Promises, and a TAP line for each: what pure C tests share.
 *
 * A promise is checked many times and reported once.  One that was never
 * checked has failed.  Include after postgres.h, whose printf is not ours.
 */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdio.h>

#undef printf
#undef vsnprintf

typedef struct Promise
{
	const char *name;
	long		checks;
	long		failures;
	char		first[256];		/* what the first failure was */
} Promise;

#define CHECK(promise, condition, ...) \
	do { \
		(promise)->checks++; \
		if (!(condition)) \
			promise_failed(promise, __VA_ARGS__); \
	} while (0)

__attribute__((format(printf, 2, 3)))
static inline void
promise_failed(Promise *promise, const char *format,...)
{
	va_list		arguments;

	if (promise->failures++ > 0)
		return;
	va_start(arguments, format);
	vsnprintf(promise->first, sizeof(promise->first), format, arguments);
	va_end(arguments);
}

/*
 * Print the plan and a line for each promise; the exit status.
 */
static inline int
promises_report(const Promise *promises, int count)
{
	int			failed = 0;

	printf("1..%d\n", count);
	for (int i = 0; i < count; i++)
	{
		const Promise *promise = &promises[i];
		bool		ok = promise->checks > 0 && promise->failures == 0;

		printf("%sok %d - %s\n", ok ? "" : "not ", i + 1, promise->name);
		if (!ok)
			printf("#   %ld of %ld checks failed; first: %s\n",
				   promise->failures, promise->checks, promise->first);
		failed += !ok;
	}
	return failed > 0;
}

#endif							/* TAP_H */
