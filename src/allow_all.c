/*
 * allow_all.c
 *	  llmquota_allow_all(): several rate limits at once, all or none.
 *
 * What a jsonb array asks is read, then decided as one (allow.c). The caller is told of the limit that keeps him
 * longest, and what each of them says.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#include "allow.h"
#include "args.h"
#include "duration.h"
#include "jsonb_member.h"
#include "pick.h"

PG_FUNCTION_INFO_V1(llmquota_allow_all);

/* The members of a question. The numbers come after the texts. */
enum
{
	MEMBER_SCOPE, MEMBER_SUBJECT, MEMBER_ORG, MEMBER_AMOUNT, MEMBER_PER_MS, MEMBER_COST, MEMBER_BURST, NMEMBERS
};

static const char *const members[NMEMBERS] = {
	[MEMBER_SCOPE] = "scope",[MEMBER_SUBJECT] = "subject",[MEMBER_ORG] = "org",[MEMBER_AMOUNT] = "amount",
	[MEMBER_PER_MS] = "per_ms",[MEMBER_COST] = "cost",[MEMBER_BURST] = "burst"
};

/* Raises: the argument is not what it should be. */
static void
refuse_limits(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", what),
			 errhint("Pass an array of 1 to %d objects with the members scope, subject, amount, per_ms, cost, burst "
					 "and org.", LLMQ_RATE_MOST_USES)));
}

/* Which member this is, by its key. */
static int
member_number(const JsonbValue *key)
{
	for (int i = 0; i < NMEMBERS; i++)
		if ((int) strlen(members[i]) == key->val.string.len &&
			memcmp(members[i], key->val.string.val, key->val.string.len) == 0)
			return i;
	refuse_limits(psprintf("member \"%.*s\" of a limit is not known", Min(key->val.string.len, 40),
						   key->val.string.val));
	return NMEMBERS;
}

static const char *
text_of(int member, const JsonbValue *value)
{
	if (value->type != jbvString)
		refuse_limits(psprintf("%s of a limit is not a string", members[member]));
	return llmq_required_name(pnstrdup(value->val.string.val, value->val.string.len), members[member]);
}

static int64
number_of(int member, const JsonbValue *value)
{
	Datum		whole;

	if (value->type != jbvNumeric)
		refuse_limits(psprintf("%s of a limit is not a number", members[member]));
	whole = DirectFunctionCall2(numeric_trunc, NumericGetDatum(value->val.numeric), Int32GetDatum(0));
	if (!DatumGetBool(DirectFunctionCall2(numeric_eq, whole, NumericGetDatum(value->val.numeric))))
		refuse_limits(psprintf("%s of a limit is not a whole number", members[member]));
	if (DatumGetBool(DirectFunctionCall2(numeric_gt, DirectFunctionCall1(numeric_abs, whole),
										 NumericGetDatum(int64_to_numeric(LLMQ_GCRA_LONGEST)))))
		refuse_limits(psprintf("%s of a limit is out of range", members[member]));
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, whole));
}

/* Takes one member; null stands for one that is not there. */
static void
read_member(LlmqAllowArgs *args, int member, const JsonbValue *value)
{
	const char **const texts[] = {&args->scope, &args->subject, &args->org};
	int64	   *const numbers[] = {&args->amount, &args->per_ms, &args->cost, &args->burst};

	if (value->type == jbvNull)
		return;
	if (member < MEMBER_AMOUNT)
		*texts[member] = text_of(member, value);
	else
		*numbers[member - MEMBER_AMOUNT] = number_of(member, value);
}

/* Reads one object. */
static void
read_limit(JsonbValue *object, LlmqAllowArgs *args)
{
	JsonbIterator *iterator;
	JsonbValue	item;
	JsonbIteratorToken token;
	int			member = NMEMBERS;

	if (object->type != jbvBinary || !JsonContainerIsObject(object->val.binary.data))
		refuse_limits("a limit is not an object");
	*args = (LlmqAllowArgs) {
		.amount = LLMQ_ALLOW_NOT_GIVEN,.per_ms = LLMQ_ALLOW_NOT_GIVEN,.cost = LLMQ_ALLOW_NOT_GIVEN,
		.burst = LLMQ_ALLOW_NOT_GIVEN
	};
	iterator = JsonbIteratorInit(object->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &item, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			member = member_number(&item);
		else if (token == WJB_VALUE)
			read_member(args, member, &item);
	}
	(void) llmq_required_name(unconstify(char *, args->scope), "scope");
	(void) llmq_required_name(unconstify(char *, args->subject), "subject");
}

/* Raises when two questions are about the same subject of the same scope: which of the two limits would hold? */
static void
refuse_if_twice(const LlmqAsk *ask, int number)
{
	const LlmqRateName *name = &ask[number].name;

	for (int i = 0; i < number; i++)
		if (ask[i].name.kind == name->kind && strcmp(ask[i].name.org, name->org) == 0 &&
			strcmp(ask[i].name.scope, name->scope) == 0 && strcmp(ask[i].name.subject, name->subject) == 0)
			refuse_limits(psprintf("subject \"%s\" of the scope \"%s\" is there twice", name->subject, name->scope));
}

/* Reads all questions; how many. */
static int
read_limits(Jsonb *limits, LlmqAsk *ask)
{
	LlmqCatalog *catalog = llmq_catalog();
	int			n = JB_ROOT_IS_ARRAY(limits) && !JB_ROOT_IS_SCALAR(limits) ? JB_ROOT_COUNT(limits) : 0;

	if (n < 1 || n > LLMQ_RATE_MOST_USES)
		refuse_limits("limits is not an array of a few limits");
	for (int i = 0; i < n; i++)
	{
		LlmqAllowArgs args;

		read_limit(getIthJsonbValueFromContainer(&limits->root, i), &args);
		llmq_allow_read(catalog, &args, &ask[i]);
		refuse_if_twice(ask, i);
	}
	return n;
}

/* Is this one what the caller is to be told rather than another: what keeps him longest, else what is nearest to it? */
static bool
tells_more(const LlmqAsk *ask, const LlmqAsk *other)
{
	bool		refuses = ask->enforced && ask->reason != LLMQ_ALLOW_FITS;
	bool		other_refuses = other->enforced && other->reason != LLMQ_ALLOW_FITS;
	int64		wait = ask->answer.retry_after;
	int64		other_wait = other->answer.retry_after;

	if (refuses != other_refuses)
		return refuses;
	if ((ask->reason == LLMQ_ALLOW_FITS) != (other->reason == LLMQ_ALLOW_FITS))
		return ask->reason != LLMQ_ALLOW_FITS;
	if (refuses && wait != other_wait)
		return other_wait != LLMQ_GCRA_NEVER && (wait == LLMQ_GCRA_NEVER || wait > other_wait);
	return ask->answer.remaining < other->answer.remaining;
}

static void
put_limit(JsonbParseState **state, const LlmqAsk *ask)
{
	bool		fits = ask->reason == LLMQ_ALLOW_FITS;

	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	llmq_member_text(state, "scope", ask->name.scope);
	llmq_member_text(state, "subject", ask->name.subject);
	llmq_member_bool(state, "allowed", fits || !ask->enforced);
	llmq_member_number(state, "amount", ask->limit.amount);
	llmq_member_number(state, "remaining", ask->answer.remaining);
	if (ask->answer.retry_after != LLMQ_GCRA_NEVER)
		llmq_member_number(state, "retry_after_ms", llmq_milliseconds_up(ask->answer.retry_after));
	llmq_member_number(state, "reset_after_ms", llmq_milliseconds_up(ask->answer.reset_after));
	llmq_member_text(state, "reason", llmq_allow_reason_text(ask->reason));
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/* All answers, in the order of the questions. */
static Datum
limits_jsonb(const LlmqAsk *ask, int n)
{
	JsonbParseState *state = NULL;
	JsonbValue *all;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < n; i++)
		put_limit(&state, &ask[i]);
	all = pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(all));
}

/* llmquota_allow_all(limits) */
Datum
llmquota_allow_all(PG_FUNCTION_ARGS)
{
	LlmqAsk		ask[LLMQ_RATE_MOST_USES];
	int			most = 0;
	bool		allowed;
	int			n;

	llmq_cell_refuse_if_read_only("llmquota_allow_all()");
	llmq_pick_refuse_expansion(fcinfo, "llmquota_allow_all");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("limits must not be NULL"),
				 errhint("Pass the limits as a jsonb array of objects.")));
	n = read_limits(PG_GETARG_JSONB_P(0), ask);
	allowed = llmq_allow_decide(ask, n);
	for (int i = 1; i < n; i++)
		if (tells_more(&ask[i], &ask[most]))
			most = i;
	return llmq_allow_answer(fcinfo, &ask[most], allowed, limits_jsonb(ask, n));
}
