/*
 * cache_key.c
 *	  llmquota_cache_key: the hash of a request, the same for all that ask the same.
 *
 * jsonb has ordered the members of objects already, and knows of each only once. What is hashed are the parts in their
 * order, each with what it is and how long, so that no two requests read alike; of numbers the shortest form. The
 * members at the top that say nothing of the answer are left out, and those that are null, which is as if they were not
 * there.
 */
#include "postgres.h"

#include "common/sha2.h"
#include "fmgr.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "digest.h"

PG_FUNCTION_INFO_V1(llmquota_cache_key);

/*
 * Members at the top by which a provider knows the caller, says how the answer is to be sent, what is to be kept of it,
 * or how soon it is wanted.
 */
static const char *const without_meaning[] = {
	"background", "idempotency_key", "labels", "metadata", "prompt_cache_key", "prompt_cache_options",
	"prompt_cache_retention", "request_id", "safety_identifier", "service_tier", "session_id", "store", "stream",
	"stream_options", "timeout", "user",
};

static bool
has_no_meaning(const JsonbValue *key)
{
	for (Size i = 0; i < lengthof(without_meaning); i++)
		if ((int) strlen(without_meaning[i]) == key->val.string.len &&
			memcmp(without_meaning[i], key->val.string.val, key->val.string.len) == 0)
			return true;
	return false;
}

/* Adds a part to what is hashed. */
static void
add(StringInfo bytes, char what, const char *part, Size length)
{
	pq_sendbyte(bytes, what);
	pq_sendint64(bytes, length);
	appendBinaryStringInfo(bytes, part, length);
}

static void
add_number(StringInfo bytes, Numeric number)
{
	Datum		shortest = DirectFunctionCall1(numeric_trim_scale, NumericGetDatum(number));
	char	   *text = DatumGetCString(DirectFunctionCall1(numeric_out, shortest));

	add(bytes, 'n', text, strlen(text));
	pfree(text);
}

/* Adds a value that has no parts. */
static void
add_value(StringInfo bytes, const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			add(bytes, 's', value->val.string.val, value->val.string.len);
			break;
		case jbvNumeric:
			add_number(bytes, value->val.numeric);
			break;
		case jbvBool:
			add(bytes, value->val.boolean ? 't' : 'f', "", 0);
			break;
		case jbvNull:
			add(bytes, '0', "", 0);
			break;
		default:
			elog(ERROR, "unexpected kind of a JSON value: %d", (int) value->type);
	}
}

/* Where a walk over a request is. */
typedef struct Walk
{
	JsonbIterator *iterator;
	StringInfoData bytes;		/* what is hashed */
	bool		is_scalar;		/* then jsonb has an array around it */
	int			depth;
	JsonbValue	value;
} Walk;

static void add_token(Walk *walk, JsonbIteratorToken token);

/* A member of an object: its name, which is in `value`, and what comes next. At the top some are left out. */
static void
add_member(Walk *walk)
{
	JsonbValue	name = walk->value;
	bool		at_top = walk->depth == 1;
	bool		without = at_top && has_no_meaning(&name);
	JsonbIteratorToken token = JsonbIteratorNext(&walk->iterator, &walk->value, without);

	if (without || (at_top && token == WJB_VALUE && walk->value.type == jbvNull))
		return;
	add(&walk->bytes, 'k', name.val.string.val, name.val.string.len);
	add_token(walk, token);
}

static void
add_token(Walk *walk, JsonbIteratorToken token)
{
	switch (token)
	{
		case WJB_BEGIN_ARRAY:
		case WJB_BEGIN_OBJECT:
			walk->depth++;
			if (!walk->is_scalar)
				add(&walk->bytes, token == WJB_BEGIN_ARRAY ? '[' : '{', "", 0);
			break;
		case WJB_END_ARRAY:
		case WJB_END_OBJECT:
			walk->depth--;
			if (!walk->is_scalar)
				add(&walk->bytes, token == WJB_END_ARRAY ? ']' : '}', "", 0);
			break;
		case WJB_KEY:
			add_member(walk);
			break;
		default:
			add_value(&walk->bytes, &walk->value);
	}
}

/* llmquota_cache_key(request) */
Datum
llmquota_cache_key(PG_FUNCTION_ARGS)
{
	Walk		walk = {.depth = 0};
	Jsonb	   *request;
	JsonbIteratorToken token;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	request = PG_GETARG_JSONB_P(0);
	walk.iterator = JsonbIteratorInit(&request->root);
	walk.is_scalar = JB_ROOT_IS_SCALAR(request);
	initStringInfo(&walk.bytes);
	while ((token = JsonbIteratorNext(&walk.iterator, &walk.value, false)) != WJB_DONE)
		add_token(&walk, token);
	PG_RETURN_TEXT_P(cstring_to_text(llmq_digest(&walk.bytes, PG_SHA256_DIGEST_LENGTH)));
}
