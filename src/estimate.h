/*
 * estimate.h
 *	  How many tokens a text has, by its scripts, and what calls have taught about a model's tokenizer.
 */
#ifndef LLMQ_ESTIMATE_H
#define LLMQ_ESTIMATE_H

#include "postgres.h"

/*
 * What is calibrated apart. Scripts that share vowel signs and fate are one. The numbers are stored in calibrations:
 * never to be changed. Spaces go with the script before them.
 */
typedef enum LlmqScript
{
	LLMQ_SCRIPT_LATIN,
	LLMQ_SCRIPT_CYRILLIC,
	LLMQ_SCRIPT_GREEK,
	LLMQ_SCRIPT_ARABIC,
	LLMQ_SCRIPT_HEBREW,
	LLMQ_SCRIPT_DEVANAGARI,
	LLMQ_SCRIPT_INDIC,			/* the other ones of India and Sri Lanka */
	LLMQ_SCRIPT_THAI,
	LLMQ_SCRIPT_SOUTHEAST,		/* Lao, Khmer, Burmese, and Tibetan */
	LLMQ_SCRIPT_HAN,
	LLMQ_SCRIPT_KANA,
	LLMQ_SCRIPT_HANGUL,
	LLMQ_SCRIPT_DIGIT,
	LLMQ_SCRIPT_PUNCTUATION,	/* of ASCII, with line ends and tabs: what makes code code */
	LLMQ_SCRIPT_SYMBOL,			/* emoji, and punctuation beyond ASCII */
	LLMQ_SCRIPT_OTHER			/* also bytes that are not UTF-8 */
} LlmqScript;

#define LLMQ_SCRIPTS 16

/* What an estimate goes by, and all that a call has to keep of its prompt until its actual tokens are known. */
typedef struct LlmqTextFeatures
{
	int64		tokens;			/* estimated without any calibration; 0 only for an empty text */
	uint8		share[LLMQ_SCRIPTS];	/* of these tokens each script's, in 1/255 */
} LlmqTextFeatures;

/* One script's part of a calibration. All zero: nothing learned yet. */
typedef struct LlmqScriptCalibration
{
	int32		correction;		/* of the estimate: 65536 adds the whole of it once more */
	uint16		calls;			/* evidence so far, in 1/256 of a call that was all in this script; saturates */
	uint16		spread;			/* mean relative error of late, in 1/65536 */
} LlmqScriptCalibration;

/* What has been learned about one model: live state of fixed width, without padding, born as zeros. */
typedef struct LlmqCalibration
{
	LlmqScriptCalibration script[LLMQ_SCRIPTS];
} LlmqCalibration;

StaticAssertDecl(sizeof(LlmqTextFeatures) == 24, "features are stored in leases");
StaticAssertDecl(sizeof(LlmqCalibration) == 128, "calibrations are stored in live state");

extern void llmq_text_features(const char *text, Size length, LlmqTextFeatures *features);
extern int64 llmq_estimate(const LlmqTextFeatures *features, const LlmqCalibration *calibration);
extern int64 llmq_estimate_tokens(const char *text, Size length, const LlmqCalibration *calibration);
extern void llmq_calibrate(LlmqCalibration *calibration, const LlmqTextFeatures *features, int64 actual);

#endif							/* LLMQ_ESTIMATE_H */
