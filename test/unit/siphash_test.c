/*
 * siphash_test.c
 *	  SipHash-2-4 of 128 bits, by the vectors that its authors have published.
 *
 * links: src/siphash.c
 */
#include "postgres.h"

#include "siphash.h"
#include "tap.h"

enum
{
	VECTORS, PROMISES
};

static Promise promises[PROMISES] = {
	[VECTORS] = {.name = "the hashes are those of the published vectors"},
};

/* Of the bytes 0, 1, 2 and so on, so many of them, under the key of the bytes 0 to 15. */
static const struct
{
	Size		length;
	uint8		hash[16];
}			vectors[] = {
	{0, {0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93}},
	{1, {0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc, 0x45}},
	{15, {0x54, 0x93, 0xe9, 0x99, 0x33, 0xb0, 0xa8, 0x11, 0x7e, 0x08, 0xec, 0x0f, 0x97, 0xcf, 0xc3, 0xd9}},
};

int
main(void)
{
	uint64		key[2] = {UINT64CONST(0x0706050403020100), UINT64CONST(0x0f0e0d0c0b0a0908)};
	uint8		bytes[64];

	for (int i = 0; i < (int) lengthof(bytes); i++)
		bytes[i] = i;
	for (int i = 0; i < (int) lengthof(vectors); i++)
	{
		uint64		hash[2];
		bool		equal = true;

		llmq_siphash(key, bytes, vectors[i].length, hash);
		for (int j = 0; j < 16; j++)
			equal &= vectors[i].hash[j] == (uint8) (hash[j / 8] >> (8 * (j % 8)));
		CHECK(&promises[VECTORS], equal, "not that of %d bytes", (int) vectors[i].length);
	}
	return promises_report(promises, PROMISES);
}
