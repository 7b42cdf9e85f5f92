/*
 * leaks.h
 *	  What is no leak of ours: the server's JSON parser leaves the name or value at which a text breaks to its memory
 *	  context, which programs don't have.
 */
#ifndef LEAKS_H
#define LEAKS_H

/* Asked by LeakSanitizer. */
const char *__lsan_default_suppressions(void);

const char *
__lsan_default_suppressions(void)
{
	return "leak:parse_object\nleak:parse_array\n";
}

#endif							/* LEAKS_H */
