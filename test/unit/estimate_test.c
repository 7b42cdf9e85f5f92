/*
 * estimate_test.c
 *	  What estimates of tokens promise of any text and any calibration. How good they are is for the suite `estimate`.
 *
 * links: src/estimate.c
 *
 *		estimate_test --serve			answers test/estimate/run: see serve()
 *		estimate_test --time FILE...	what a kilobyte of each file takes
 */
#include "postgres.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "estimate.h"
#include "tap.h"

#define LARGE (1024 * 1024)

enum
{
	EMPTY, LEAST, BROKEN, BYTES, LARGE_TEXT, MONOTONE, SAME, SHARES, SCRIPTS, UNCALIBRATED, LEARNS, SCRIPT_ONLY, IMAGES,
	DRIFT, GARBAGE, BOUNDED, SHORT, PROMISES
};

static Promise promises[PROMISES] = {
	[EMPTY] = {.name = "an empty text has no tokens, and is all of no script"},
	[LEAST] = {.name = "any other text has one at least"},
	[BROKEN] = {.name = "no byte behind a text is read, wherever a character is cut off"},
	[BYTES] = {.name = "bytes that are no UTF-8 are counted, and are no script's"},
	[LARGE_TEXT] = {.name = "a megabyte of one character has as many tokens, within 1 %, as 16 times 64 kB"},
	[MONOTONE] = {.name = "a text has no fewer tokens than its beginning"},
	[SAME] = {.name = "the same text is estimated the same"},
	[SHARES] = {.name = "the shares of the scripts are a whole"},
	[SCRIPTS] = {.name = "a text is of the script that it is written in"},
	[UNCALIBRATED] = {.name = "a calibration of zeros changes nothing"},
	[LEARNS] = {.name = "from 100 calls a factor of 4 is learned within an eighth, and one of a quarter"},
	[SCRIPT_ONLY] = {.name = "what one script teaches changes no other one"},
	[IMAGES] = {.name = "one call in ten with twenty times the tokens moves an estimate by less than 6 %"},
	[DRIFT] = {.name = "a model that changes its tokenizer is followed within 200 calls"},
	[GARBAGE] = {.name = "whatever a calibration holds, estimates are within an eighth and nine times"},
	[BOUNDED] = {.name = "no count of tokens takes a calibration further than that"},
	[SHORT] = {.name = "texts under 16 tokens and calls without input teach nothing"},
};

static uint64 state = 88172645463325252;

static uint32
random_bits(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32) (state >> 32);
}

/* The features of a copy without a byte to spare, which AddressSanitizer knows the end of. */
static LlmqTextFeatures
features_of(const char *text, Size length)
{
	char	   *copy = malloc(Max(length, 1));
	LlmqTextFeatures features;
	int			whole = 0;

	memcpy(copy, text, length);
	llmq_text_features(copy, length, &features);
	free(copy);
	for (int i = 0; i < LLMQ_SCRIPTS; i++)
		whole += features.share[i];
	CHECK(&promises[SHARES], whole == (length == 0 ? 0 : 255), "%d of 255", whole);
	CHECK(&promises[LEAST], length == 0 || features.tokens >= 1, "%ld", (long) features.tokens);
	return features;
}

static const struct
{
	const char *text;
	LlmqScript	script;
} samples[] = {
	{"How many tokens does this have, and why?", LLMQ_SCRIPT_LATIN},
	{"Số lượng ấy đã được ước tính", LLMQ_SCRIPT_LATIN},
	{"Сколько здесь слов?", LLMQ_SCRIPT_CYRILLIC},
	{"Πόσες λέξεις είναι εδώ;", LLMQ_SCRIPT_GREEK},
	{"كم كلمة هنا في هذا النص", LLMQ_SCRIPT_ARABIC},
	{"כמה מילים יש כאן", LLMQ_SCRIPT_HEBREW},
	{"यहाँ कितने शब्द हैं", LLMQ_SCRIPT_DEVANAGARI},
	{"இங்கே எத்தனை சொற்கள்", LLMQ_SCRIPT_INDIC},
	{"ที่นี่มีกี่คำ", LLMQ_SCRIPT_THAI},
	{"ຢູ່ນີ້ມີຈັກຄຳ", LLMQ_SCRIPT_SOUTHEAST},
	{"这里有多少个词", LLMQ_SCRIPT_HAN},
	{"ここにはいくつのことばがありますか", LLMQ_SCRIPT_KANA},
	{"여기에는 단어가 몇 개 있습니까", LLMQ_SCRIPT_HANGUL},
	{"3141592653589793", LLMQ_SCRIPT_DIGIT},
	{"{[(+=-)]};\n\t", LLMQ_SCRIPT_PUNCTUATION},
	{"😀😃😄", LLMQ_SCRIPT_SYMBOL},
	{"აქ რამდენი სიტყვაა", LLMQ_SCRIPT_OTHER},
};

static void
test_scripts(void)
{
	for (int i = 0; i < (int) lengthof(samples); i++)
	{
		LlmqTextFeatures features = features_of(samples[i].text, strlen(samples[i].text));
		LlmqTextFeatures again = features_of(samples[i].text, strlen(samples[i].text));

		CHECK(&promises[SCRIPTS], features.share[samples[i].script] > 127, "\"%s\": %d of 255", samples[i].text,
			  features.share[samples[i].script]);
		CHECK(&promises[SAME], memcmp(&features, &again, sizeof(features)) == 0, "\"%s\"", samples[i].text);
		for (Size cut = 0; cut < strlen(samples[i].text); cut++)
			CHECK(&promises[BROKEN], features_of(samples[i].text, cut).tokens >= (cut > 0), "cut at %d", (int) cut);
	}
	CHECK(&promises[EMPTY], features_of("", 0).tokens == 0, "it has some");
	CHECK(&promises[EMPTY], llmq_estimate_tokens("", 0, NULL) == 0, "it has some");
}

static void
test_bytes(void)
{
	static const char *const broken[] = {"\xff", "\x80\x80", "\xc0\xaf", "\xe0\x41\x41", "\xf4\xc0", "\xf8\x88\x80\x80\x80",
	"\xe4\xb8"};
	char		noise[4096];

	for (int i = 0; i < (int) lengthof(broken); i++)
		CHECK(&promises[BYTES], features_of(broken[i], strlen(broken[i])).share[LLMQ_SCRIPT_OTHER] > 0, "text %d", i);
	for (int round = 0; round < 1000; round++)
	{
		int64		before = 0;
		Size		length = random_bits() % sizeof(noise);

		for (Size i = 0; i < sizeof(noise); i++)
			noise[i] = (char) random_bits();
		for (Size part = 0; part < length; part += 512)
		{
			int64		tokens = features_of(noise, part).tokens;

			/* a cut may leave bytes of a character that weigh more than it would */
			CHECK(&promises[MONOTONE], tokens + 8 >= before, "%ld after %ld", (long) tokens, (long) before);
			before = tokens;
		}
	}
}

static void
test_large(void)
{
	char	   *text = malloc(LARGE);

	for (int byte = 0; byte < 256; byte++)
	{
		int64		part;
		int64		megabyte;

		memset(text, byte, LARGE);
		part = features_of(text, LARGE / 16).tokens;
		megabyte = features_of(text, LARGE).tokens;
		CHECK(&promises[LARGE_TEXT], llabs(megabyte - part * 16) <= megabyte / 100 + 16,
			  "byte %d: %ld after %ld", byte, (long) megabyte, (long) part);
	}
	free(text);
}

/* So many calls that have so many times the tokens of the uncalibrated estimate, some of them with 20 times as many. */
static void
call(LlmqCalibration *calibration, const LlmqTextFeatures *features, int calls, double times, int strange)
{
	for (int i = 0; i < calls; i++)
		llmq_calibrate(calibration, features,
					   (int64) (features->tokens * times * (strange > 0 && i % strange == strange / 2 ? 20 : 1)));
}

/* How many times the uncalibrated estimate the calibrated one is. */
static double
times_of(const LlmqCalibration *calibration, const LlmqTextFeatures *features)
{
	return (double) llmq_estimate(features, calibration) / features->tokens;
}

static LlmqTextFeatures
long_text(const char *text)
{
	static char buffer[65536];

	buffer[0] = '\0';
	while (strlen(buffer) < 20000)
		strcat(buffer, text);
	return features_of(buffer, strlen(buffer));
}

static void
test_calibration(void)
{
	LlmqTextFeatures latin = long_text("Nothing but plain words in here ");
	LlmqTextFeatures thai = long_text("ที่นี่มีกี่คำ");
	LlmqTextFeatures small = features_of("Hello", 5);
	LlmqCalibration calibration = {0};
	LlmqCalibration before;

	CHECK(&promises[UNCALIBRATED], llmq_estimate(&latin, &calibration) == llmq_estimate(&latin, NULL), "it does");
	call(&calibration, &small, 100, 4, 0);
	call(&calibration, &latin, 100, 0, 0);
	CHECK(&promises[SHORT], times_of(&calibration, &latin) == 1, "%f times", times_of(&calibration, &latin));
	call(&calibration, &latin, 200, 1, 10);
	CHECK(&promises[IMAGES], fabs(times_of(&calibration, &latin) - 1) < 0.06, "%f", times_of(&calibration, &latin));
	call(&calibration, &latin, 200, 1.5, 0);
	CHECK(&promises[DRIFT], fabs(times_of(&calibration, &latin) - 1.5) < 0.06, "%f", times_of(&calibration, &latin));
	before = calibration;
	call(&calibration, &thai, 100, 4, 0);
	CHECK(&promises[LEARNS], fabs(times_of(&calibration, &thai) - 4) < 0.5, "%f", times_of(&calibration, &thai));
	CHECK(&promises[SCRIPT_ONLY], memcmp(&before.script[LLMQ_SCRIPT_LATIN], &calibration.script[LLMQ_SCRIPT_LATIN],
										 sizeof(LlmqScriptCalibration)) == 0, "it does");
	memset(&calibration, 0, sizeof(calibration));
	call(&calibration, &thai, 100, 0.25, 0);
	CHECK(&promises[LEARNS], fabs(times_of(&calibration, &thai) - 0.25) < 0.031, "%f", times_of(&calibration, &thai));
}

static void
test_garbage(void)
{
	LlmqTextFeatures latin = long_text("Nothing but plain words in here ");
	LlmqCalibration calibration;
	const int64 actuals[] = {PG_INT64_MIN, -1, 0, 1, 100, PG_INT64_MAX};

	for (int round = 0; round < 100000; round++)
	{
		for (Size i = 0; i < sizeof(calibration); i++)
			((unsigned char *) &calibration)[i] = (unsigned char) random_bits();
		CHECK(&promises[GARBAGE], times_of(&calibration, &latin) <= 8.81 && times_of(&calibration, &latin) >= 0.124,
			  "%f times", times_of(&calibration, &latin));
		for (int i = 0; i < 10; i++)
			llmq_calibrate(&calibration, &latin, actuals[random_bits() % lengthof(actuals)]);
		CHECK(&promises[BOUNDED], times_of(&calibration, &latin) <= 8.81 && times_of(&calibration, &latin) >= 0.124,
			  "%f times", times_of(&calibration, &latin));
	}
}

/*
 * Reads texts, each behind a line "WHAT ACTUAL LENGTH". E: prints its estimate without calibration, and with. C:
 * calibrates by it. R: forgets the calibration.
 */
static int
serve(void)
{
	static char text[LARGE];
	LlmqCalibration calibration = {0};
	LlmqTextFeatures features;
	char		what;
	long		actual;
	int			length;

	while (scanf(" %c %ld %d", &what, &actual, &length) == 3 && length >= 0 && length <= LARGE && getchar() == '\n' &&
		   fread(text, 1, length, stdin) == (Size) length)
	{
		llmq_text_features(text, length, &features);
		if (what == 'E')
			printf("%ld %ld\n", (long) llmq_estimate(&features, NULL), (long) llmq_estimate(&features, &calibration));
		else if (what == 'C')
			llmq_calibrate(&calibration, &features, actual);
		else if (what == 'R')
			memset(&calibration, 0, sizeof(calibration));
	}
	return feof(stdin) ? 0 : 1;
}

static double
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* Prints for each file the least of 20 times, each over a megabyte at least. */
static int
measure(int files, char **names)
{
	static char text[LARGE];
	int64		tokens = 0;

	for (int i = 0; i < files; i++)
	{
		FILE	   *file = fopen(names[i], "r");
		Size		length = file == NULL ? 0 : fread(text, 1, LARGE, file);
		int			rounds = length == 0 ? 0 : (int) (LARGE / length + 1);
		double		least = 1e9;

		for (int turn = 0; turn < 20; turn++)
		{
			double		began = seconds();

			for (int round = 0; round < rounds; round++)
				tokens = llmq_estimate_tokens(text, length, NULL);
			least = Min(least, seconds() - began);
		}
		if (file == NULL || rounds == 0)
			return 1;
		fclose(file);
		printf("%.3f us/kB, %ld tokens, %s\n", least * 1e6 / (rounds * (length / 1024.0)), (long) tokens, names[i]);
	}
	return 0;
}

int
main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--serve") == 0)
		return serve();
	if (argc > 2 && strcmp(argv[1], "--time") == 0)
		return measure(argc - 2, argv + 2);
	test_scripts();
	test_bytes();
	test_large();
	test_calibration();
	test_garbage();
	return promises_report(promises, PROMISES);
}
