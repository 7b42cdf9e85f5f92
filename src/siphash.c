/*
 * siphash.c
 *	  SipHash-2-4 of 128 bits (Aumasson and Bernstein, 2012): who does not know the key cannot find two texts of one
 *	  hash, nor texts whose hashes end alike. A tenth of what a cryptographic hash without a key takes.
 *
 * Pure functions: no server calls.
 */
#include "postgres.h"

#include "siphash.h"

static uint64
rotate(uint64 word, int bits)
{
	return (word << bits) | (word >> (64 - bits));
}

static void
rounds(uint64 *v, int times)
{
	for (int i = 0; i < times; i++)
	{
		v[0] += v[1];
		v[1] = rotate(v[1], 13) ^ v[0];
		v[0] = rotate(v[0], 32);
		v[2] += v[3];
		v[3] = rotate(v[3], 16) ^ v[2];
		v[0] += v[3];
		v[3] = rotate(v[3], 21) ^ v[0];
		v[2] += v[1];
		v[1] = rotate(v[1], 17) ^ v[2];
		v[2] = rotate(v[2], 32);
	}
}

/* So many bytes, at most eight, as a number: the first is the lowest. */
static uint64
word_of(const uint8 *bytes, Size length)
{
	uint64		word = 0;

	for (Size i = 0; i < length; i++)
		word |= (uint64) bytes[i] << (8 * i);
	return word;
}

static void
take(uint64 *v, uint64 word)
{
	v[3] ^= word;
	rounds(v, 2);
	v[0] ^= word;
}

/* The hash of some bytes, both as two words. */
void
llmq_siphash(const uint64 *key, const uint8 *bytes, Size length, uint64 *hash)
{
	uint64		v[4] = {
		key[0] ^ UINT64CONST(0x736f6d6570736575), key[1] ^ UINT64CONST(0x646f72616e646f6d) ^ 0xee,
		key[0] ^ UINT64CONST(0x6c7967656e657261), key[1] ^ UINT64CONST(0x7465646279746573)
	};
	Size		at = 0;

	for (; at + 8 <= length; at += 8)
		take(v, word_of(bytes + at, 8));
	take(v, word_of(bytes + at, length - at) | (uint64) (length & 0xff) << 56);
	v[2] ^= 0xee;
	rounds(v, 4);
	hash[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
	v[1] ^= 0xdd;
	rounds(v, 4);
	hash[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
}
