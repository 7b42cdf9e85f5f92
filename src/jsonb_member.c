/*
 * jsonb_member.c
 *	  Members of a jsonb object that is being put together: of what a caller is told.
 */
#include "postgres.h"

#include "jsonb_member.h"

static void
push(JsonbParseState **state, const char *name, JsonbValue *value)
{
	JsonbValue	key = {.type = jbvString,.val.string = {.val = unconstify(char *, name),.len = strlen(name)}};

	pushJsonbValue(state, WJB_KEY, &key);
	pushJsonbValue(state, WJB_VALUE, value);
}

/* NULL is null. */
void
llmq_member_text(JsonbParseState **state, const char *name, const char *text)
{
	JsonbValue	value = {.type = jbvNull};

	if (text != NULL)
	{
		value.type = jbvString;
		value.val.string.val = unconstify(char *, text);
		value.val.string.len = strlen(text);
	}
	push(state, name, &value);
}

/* NULL is null. */
void
llmq_member_numeric(JsonbParseState **state, const char *name, Numeric number)
{
	JsonbValue	value = {.type = jbvNull};

	if (number != NULL)
	{
		value.type = jbvNumeric;
		value.val.numeric = number;
	}
	push(state, name, &value);
}

void
llmq_member_bool(JsonbParseState **state, const char *name, bool is)
{
	JsonbValue	value = {.type = jbvBool,.val.boolean = is};

	push(state, name, &value);
}

void
llmq_member_number(JsonbParseState **state, const char *name, int64 number)
{
	llmq_member_numeric(state, name, int64_to_numeric(number));
}
