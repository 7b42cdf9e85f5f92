/*
 * zone_test.c
 *	  src/zone.c as SQL functions, for test/sql/zone.sql.
 *
 *	module: src/zone.c
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "zone.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(zone_period);
PG_FUNCTION_INFO_V1(zone_known);
PG_FUNCTION_INFO_V1(zone_hash);

/* By the text that people see. */
static uint8
unit_of(const char *name)
{
	for (LlmqCalendarUnit calendar = LLMQ_CALENDAR_DAY; calendar <= LLMQ_CALENDAR_TOTAL; calendar++)
		for (int month = 1; month <= MONTHS_PER_YEAR; month++)
			if (strcmp(llmq_unit_text(llmq_unit(calendar, month)), name) == 0)
				return llmq_unit(calendar, month);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown unit \"%s\"", name)));
}

/*
 * zone_period(zone text, unit text, at timestamptz)
 *	   -> starts, ends, next_ends timestamptz; NULL when there is no period
 */
Datum
zone_period(PG_FUNCTION_ARGS)
{
	char	   *zone = text_to_cstring(PG_GETARG_TEXT_PP(0));
	uint8		unit = unit_of(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	LlmqPeriod	period;
	TupleDesc	descriptor;
	Datum		values[3];
	bool		nulls[3] = {false, false, false};

	if (!llmq_zone_period(zone, unit, PG_GETARG_TIMESTAMPTZ(2), &period))
		PG_RETURN_NULL();

	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = TimestampTzGetDatum(period.start);
	values[1] = TimestampTzGetDatum(period.end);
	values[2] = TimestampTzGetDatum(period.next_end);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls)));
}

Datum
zone_known(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(llmq_zone_known(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}

Datum
zone_hash(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(llmq_zone_hash(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}
