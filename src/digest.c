/*
 * digest.c
 *	  Names for what is too long to be one: the same wherever they are asked for, and no two things have one.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "digest.h"

/* The first bytes, so many, of the SHA-256 of some bytes: in hexadecimal digits, palloc'd. */
char *
llmq_digest(const StringInfoData *bytes, int length)
{
	bytea	   *text = (bytea *) cstring_to_text_with_len(bytes->data, bytes->len);
	bytea	   *hash = DatumGetByteaPP(DirectFunctionCall1(sha256_bytea, PointerGetDatum(text)));
	char	   *digits = palloc(2 * length + 1);

	digits[hex_encode(VARDATA_ANY(hash), length, digits)] = '\0';
	pfree(text);
	return digits;
}
