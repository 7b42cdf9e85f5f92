/*
 * estimate.c
 *	  Estimates of how many tokens a text has, calibrated by what calls really had.
 *
 * Pure functions: no server calls, nothing locked or allocated, nothing raised. Whoever keeps a calibration in
 * live state locks and logs it; any bytes found there are taken for a calibration, and give estimates within an
 * eighth and nine times the uncalibrated one.
 *
 * Every character has a weight, fitted once to texts and o200k_base (estimate_weights.h says how): the mean number
 * of tokens that begin within it. The sum over a text is its estimate without calibration, which for a language
 * that the fit knew is within a few percent. Texts are UTF-8; of anything else each byte that cannot be read
 * weighs as a character of its own.
 *
 * A calibration multiplies each script's part of an estimate by a factor of its own, which llmq_calibrate() moves
 * by a share of the error of each call: large at first, then about that of the last hundred calls. An error counts
 * up to three times the mean error of late, so that calls that had more than their text (tool definitions, images)
 * move little; but when all calls are beyond that, the mean error widens and the factor follows. Estimates that
 * are too low cost more than those that are too high: where errors are wide, estimates are raised, so that few are
 * more than 10 % too low.
 */
#include "postgres.h"

#include <math.h>

#include "estimate.h"
#include "estimate_weights.h"

/* Contexts for ASCII behind characters beyond it, and at the start, which is as behind a space. */
#define CONTEXT_SPACE 9
#define CONTEXT_LATIN 14
#define CONTEXT_FOREIGN 15

/* Sums of ASCII are kept in one word, as fields that no run of this length overflows: 8192 * 255 < 2^21. */
#define ASCII_RUN 8192
#define FIELD_BITS 21
#define FIELD_MASK ((UINT64CONST(1) << FIELD_BITS) - 1)
#define LETTER 0
#define DIGIT FIELD_BITS
#define MARK (2 * FIELD_BITS)

/* Factors of calibrations are at most this, and at least its inverse. */
#define MAX_FACTOR 8.0
#define CORRECTION_UNIT 65536.0

/* Evidence beyond that of so many calls is forgotten; a script begins as if it had had a few calls without error. */
#define CALL_UNIT 256.0
#define MAX_CALLS 100.0
#define BEGINNING 3.0

/* Errors count up to so many mean errors, which are taken for more at first. */
#define SPREAD_UNIT 65536.0
#define FIRST_SPREAD 0.25
#define SPREADS 3.0
#define MIN_LIMIT 0.06
#define MAX_LIMIT 1.0

/*
 * By how much estimates are raised: 5 % of normal errors are below -2.06 mean errors, and those may reach to -10 %.
 * Errors have heavier tails than that, hence less tolerance; and more than 3 % would cost more than it saves. (Tried
 * on the suite `estimate`, 2026-11-22.)
 */
#define TAIL 2.06
#define TOLERANCE 0.06
#define MAX_MARGIN 0.03

/* A text with fewer tokens says little of its script, and the call's framing is a large part of what it had. */
#define MIN_TOKENS 16

/* The field of each character of ASCII. */
#define MARKS_8 MARK, MARK, MARK, MARK, MARK, MARK, MARK, MARK
#define LETTERS_26 \
	LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, \
	LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER

static const uint8 ascii_field[128] = {
	MARKS_8, MARKS_8, MARKS_8, MARKS_8,
	LETTER, MARK, MARK, MARK, MARK, MARK, MARK, MARK, MARKS_8,
	DIGIT, DIGIT, DIGIT, DIGIT, DIGIT, DIGIT, DIGIT, DIGIT, DIGIT, DIGIT, MARK, MARK, MARK, MARK, MARK, MARK,
	MARK, LETTERS_26, MARK, MARK, MARK, MARK, MARK,
	MARK, LETTERS_26, MARK, MARK, MARK, MARK, MARK
};

/* Where the walk over a text is. */
typedef struct Walk
{
	const unsigned char *at;
	const unsigned char *end;
	uint32		context;		/* that of the next character, if of ASCII */
	uint64		sum[LLMQ_SCRIPTS];	/* in WEIGHT_UNIT */
} Walk;

/* Walks over a run of ASCII, not all of it when it is long. */
static void
walk_ascii(Walk *walk)
{
	const unsigned char *at = walk->at;
	const unsigned char *end = at + Min(walk->end - at, ASCII_RUN);
	uint32		context = walk->context;
	uint64		fields = 0;

	while (at < end && *at < 0x80)
	{
		fields += (uint64) ascii_weight[context][*at] << ascii_field[*at];
		context = ascii_context[*at];
		at++;
	}
	walk->at = at;
	walk->context = context;
	walk->sum[LLMQ_SCRIPT_LATIN] += fields & FIELD_MASK;
	walk->sum[LLMQ_SCRIPT_DIGIT] += (fields >> DIGIT) & FIELD_MASK;
	walk->sum[LLMQ_SCRIPT_PUNCTUATION] += fields >> MARK;
}

/*
 * The character beyond ASCII that begins here, and its length in bytes. What is no UTF-8 is a character of one byte
 * that belongs to no block.
 */
static inline uint32
read_character(const unsigned char *at, const unsigned char *end, int *length)
{
	Size		left = end - at;

#define CONTINUES(i) ((at[i] & 0xc0) == 0x80)
	if (at[0] >= 0xe0 && at[0] < 0xf0 && left >= 3 && CONTINUES(1) && CONTINUES(2))
	{
		*length = 3;
		return (uint32) (at[0] & 0x0f) << 12 | (uint32) (at[1] & 0x3f) << 6 | (at[2] & 0x3f);
	}
	if (at[0] >= 0xc2 && at[0] < 0xe0 && left >= 2 && CONTINUES(1))
	{
		*length = 2;
		return (uint32) (at[0] & 0x1f) << 6 | (at[1] & 0x3f);
	}
	if (at[0] >= 0xf0 && at[0] < 0xf5 && left >= 4 && CONTINUES(1) && CONTINUES(2) && CONTINUES(3))
	{
		*length = 4;
		return (uint32) (at[0] & 0x07) << 18 | (uint32) (at[1] & 0x3f) << 12 | (uint32) (at[2] & 0x3f) << 6 |
			(at[3] & 0x3f);
	}
#undef CONTINUES
	*length = 1;
	return lengthof(block_of) << 7;
}

/* Which of its block's weights a character has. */
static inline uint32
place_of(uint32 block, uint32 code)
{
	uint32		index = code - HAN_FIRST;

	if (block == HAN_BLOCK)
		return index >> 9 | (han_common[index >> 5] >> (index & 31) & 1) << 6;
	return code >> block_shift[block] & 127;
}

/* Walks over characters beyond ASCII of one block, and the spaces between them. */
static void
walk_block(Walk *walk)
{
	const unsigned char *at = walk->at;
	int			length;
	uint32		code = read_character(at, walk->end, &length);
	uint32		block = code >> 7 < lengthof(block_of) ? block_of[code >> 7] : 0;
	uint32		script = block_script[block];
	const uint8 (*weight)[128] = first_weight;
	uint64		sum = 0;
	uint32		next;

	do
	{
		sum += weight[block][place_of(block, code)];
		weight = inner_weight;
		at += length;
		walk->context = script == LLMQ_SCRIPT_LATIN ? CONTEXT_LATIN : CONTEXT_FOREIGN;
		if (at < walk->end && *at == ' ')
		{
			sum += space_weight[block];
			weight = first_weight;
			at++;
			walk->context = CONTEXT_SPACE;
		}
		if (at >= walk->end || *at < 0x80)
			break;
		code = read_character(at, walk->end, &length);
		next = code >> 7 < lengthof(block_of) ? block_of[code >> 7] : 0;
	} while (next == block);
	walk->at = at;
	walk->sum[script] += sum;
}

/* Each script's share of the sum, rounded down, and what is left to the one with the most. */
static void
share_out(const uint64 *sum, uint64 total, uint8 *share)
{
	int			left = 255;
	int			most = 0;

	for (int i = 0; i < LLMQ_SCRIPTS; i++)
	{
		share[i] = (uint8) ((double) sum[i] / total * 255);
		left -= share[i];
		if (sum[i] > sum[most])
			most = i;
	}
	share[most] += left;
}

/* What estimates of a text go by. */
void
llmq_text_features(const char *text, Size length, LlmqTextFeatures *features)
{
	Walk		walk = {.at = (const unsigned char *) text, .context = CONTEXT_SPACE};
	uint64		total = 0;

	walk.end = walk.at + length;
	while (walk.at < walk.end)
	{
		if (*walk.at < 0x80)
			walk_ascii(&walk);
		else
			walk_block(&walk);
	}
	for (int i = 0; i < LLMQ_SCRIPTS; i++)
		total += walk.sum[i];
	memset(features, 0, sizeof(LlmqTextFeatures));
	if (length == 0)
		return;
	features->tokens = Max(1, (int64) ((total + WEIGHT_UNIT / 2) / WEIGHT_UNIT));
	share_out(walk.sum, Max(total, 1), features->share);
}

/* By how much a script's part of an estimate is to be multiplied. */
static double
factor_of(const LlmqScriptCalibration *script)
{
	double		factor = 1 + script->correction / CORRECTION_UNIT;

	return Max(1 / MAX_FACTOR, Min(factor, MAX_FACTOR));
}

/* The part of a factor that guards against estimates that are too low. */
static double
margin_of(const LlmqScriptCalibration *script)
{
	return 1 + Max(0, Min(TAIL * script->spread / SPREAD_UNIT - TOLERANCE, MAX_MARGIN));
}

/* The estimate for a text, by a model's calibration; NULL: without. */
int64
llmq_estimate(const LlmqTextFeatures *features, const LlmqCalibration *calibration)
{
	double		factors = 0;

	if (calibration == NULL)
		return features->tokens;
	for (int i = 0; i < LLMQ_SCRIPTS; i++)
		factors += features->share[i] * factor_of(&calibration->script[i]) * margin_of(&calibration->script[i]);
	return (int64) (features->tokens * factors / 255 + 0.5);
}

/* The same for whoever needs the features for nothing else. */
int64
llmq_estimate_tokens(const char *text, Size length, const LlmqCalibration *calibration)
{
	LlmqTextFeatures features;

	llmq_text_features(text, length, &features);
	return llmq_estimate(&features, calibration);
}

/* Moves one script's part of a calibration; `share` is what part of the text was in the script, `error` relative. */
static void
calibrate_script(LlmqScriptCalibration *script, double share, double error)
{
	double		calls = script->calls / CALL_UNIT;
	double		spread = script->spread / SPREAD_UNIT;
	double		limit = SPREADS * (spread + FIRST_SPREAD * BEGINNING / (calls + BEGINNING));
	double		factor;

	limit = Max(MIN_LIMIT, Min(limit, MAX_LIMIT));
	error = Max(-limit, Min(error, limit));
	factor = factor_of(script) * (1 + error * share / (calls + BEGINNING));
	spread += (fabs(error) - spread) * share / (calls + 1);

	script->correction = (int32) rint((factor - 1) * CORRECTION_UNIT);
	script->spread = (uint16) rint(Min(spread * SPREAD_UNIT, PG_UINT16_MAX));
	script->calls = (uint16) rint(Min(calls + share, MAX_CALLS) * CALL_UNIT);
}

/* Learns from a call of the model: what its text was, and how many input tokens it really had. */
void
llmq_calibrate(LlmqCalibration *calibration, const LlmqTextFeatures *features, int64 actual)
{
	double		factors = 0;
	double		error;

	if (features->tokens < MIN_TOKENS || actual <= 0)
		return;
	for (int i = 0; i < LLMQ_SCRIPTS; i++)
		factors += features->share[i] * factor_of(&calibration->script[i]);
	error = actual * 255.0 / (features->tokens * factors) - 1;
	for (int i = 0; i < LLMQ_SCRIPTS; i++)
		if (features->share[i] > 0)
			calibrate_script(&calibration->script[i], features->share[i] / 255.0, error);
}
