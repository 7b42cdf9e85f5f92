/*
 * replay_report.c
 *	  What a proposed rule would have done, as rows: by hour, by whose limit it was, and by org.
 *
 * Calls come in the order of their picks, so only the hour at hand is counted, in memory; when it is over, rows are
 * put out for those to whom something would have happened, and counting begins anew. The last row is the sum of all
 * calls.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "price.h"
#include "replay.h"
#include "row.h"

/* Columns of llmquota_backtest(). */
enum
{
	COL_HOUR, COL_SUBJECT, COL_MODEL, COL_FAMILY, COL_ORG, COL_CALLS, COL_REFUSED, COL_DOWNGRADED, COL_AMOUNT_REFUSED,
	COL_AMOUNT_DOWNGRADED, COL_MOST_USED, COL_FIRST_AT, COL_LAST_AT, NCOLUMNS
};

typedef struct HourKey
{
	const LlmqMeter *meter;
	const LlmqOrg *org;
} HourKey;

typedef struct HourEntry
{
	HourKey		key;
	char		status;
	LlmqReplayCounts counts;
} HourEntry;

#define SH_PREFIX		hour
#define SH_ELEMENT_TYPE	HourEntry
#define SH_KEY_TYPE		HourKey
#define SH_KEY			key
#define SH_HASH_KEY(tb, k)	hash_combine(murmurhash32((uint32) (k).meter->id), (uint32) ((uintptr_t) (k).org >> 4))
#define SH_EQUAL(tb, a, b)	((a).meter == (b).meter && (a).org == (b).org)
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Begins to count, in the current memory context. */
void
llmq_replay_report_begin(LlmqReplayReport *report, const LlmqQuota *rule, ReturnSetInfo *result)
{
	memset(report, 0, sizeof(LlmqReplayReport));
	report->rule = rule;
	report->result = result;
	report->hour = PG_INT64_MIN;
	report->counts = hour_create(CurrentMemoryContext, 1024, NULL);
}

/* Counts one call. */
void
llmq_replay_add(LlmqReplayCounts *counts, const LlmqReplayFate *fate)
{
	counts->calls++;
	counts->most_used = Max(counts->most_used, fate->used);
	if (!fate->refused && !fate->downgraded)
		return;
	if (counts->refused == 0 && counts->downgraded == 0)
		counts->first_at = fate->at;
	counts->last_at = fate->at;
	if (fate->refused)
	{
		counts->refused++;
		counts->amount_refused += fate->amount;
	}
	else
	{
		counts->downgraded++;
		counts->amount_downgraded += fate->amount;
	}
}

/* An amount of what the rule limits, as SQL has it. */
static Datum
amount_datum(const LlmqReplayReport *report, int128 amount)
{
	int64		thousand_millions = (int64) (amount / 1000000000);
	int64		rest = (int64) (amount % 1000000000);
	int			decimals = report->rule->budget != NULL ? LLMQ_MONEY_DECIMALS : 0;

	if (decimals == 0)
		return NumericGetDatum(int64_to_numeric((int64) amount));
	return DirectFunctionCall2(numeric_add, NumericGetDatum(int64_to_numeric(thousand_millions)),
							   NumericGetDatum(int64_div_fast_to_numeric(rest, decimals)));
}

static void
put_row(const LlmqReplayReport *report, Datum *values, bool *nulls, const LlmqReplayCounts *counts)
{
	values[COL_CALLS] = Int64GetDatum(counts->calls);
	values[COL_REFUSED] = Int64GetDatum(counts->refused);
	values[COL_DOWNGRADED] = Int64GetDatum(counts->downgraded);
	values[COL_AMOUNT_REFUSED] = amount_datum(report, counts->amount_refused);
	values[COL_AMOUNT_DOWNGRADED] = amount_datum(report, counts->amount_downgraded);
	values[COL_MOST_USED] = amount_datum(report, counts->most_used);
	nulls[COL_FIRST_AT] = nulls[COL_LAST_AT] = counts->refused == 0 && counts->downgraded == 0;
	values[COL_FIRST_AT] = TimestampTzGetDatum(counts->first_at);
	values[COL_LAST_AT] = TimestampTzGetDatum(counts->last_at);
	tuplestore_putvalues(report->result->setResult, report->result->setDesc, values, nulls);
}

/* Puts out what became of the calls of an hour at one meter and for one org. */
static void
put_entry(const LlmqReplayReport *report, const HourEntry *entry)
{
	const LlmqMeter *meter = entry->key.meter;
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {false};

	values[COL_HOUR] = TimestampTzGetDatum(report->hour);
	llmq_put_text(values, nulls, COL_SUBJECT, meter->subject->name);
	llmq_put_text(values, nulls, COL_MODEL, meter->part == LLMQ_PART_MODEL ? meter->part_name : NULL);
	llmq_put_text(values, nulls, COL_FAMILY, meter->part == LLMQ_PART_FAMILY ? meter->part_name : NULL);
	llmq_put_text(values, nulls, COL_ORG, entry->key.org->subject.name);
	put_row(report, values, nulls, &entry->counts);
}

static int
compare_entries(const ListCell *a, const ListCell *b)
{
	const HourKey *one = &((const HourEntry *) lfirst(a))->key;
	const HourKey *other = &((const HourEntry *) lfirst(b))->key;
	int			order = strcmp(one->meter->subject->name, other->meter->subject->name);

	if (order == 0 && one->meter->part_name != NULL)
		order = strcmp(one->meter->part_name, other->meter->part_name);
	return order != 0 ? order : strcmp(one->org->subject.name, other->org->subject.name);
}

/* Puts out the rows of the hour that is over. */
static void
end_hour(LlmqReplayReport *report)
{
	List	   *entries = NIL;
	HourEntry  *entry;
	hour_iterator iterator;
	ListCell   *cell;

	hour_start_iterate(report->counts, &iterator);
	while ((entry = hour_iterate(report->counts, &iterator)) != NULL)
		if (entry->counts.refused > 0 || entry->counts.downgraded > 0)
			entries = lappend(entries, entry);
	list_sort(entries, compare_entries);
	foreach(cell, entries)
		put_entry(report, lfirst(cell));
	list_free(entries);
	hour_reset(report->counts);
}

/* Counts a call at one of its meters. */
void
llmq_replay_count(LlmqReplayReport *report, const LlmqMeter *meter, const LlmqOrg *org, const LlmqReplayFate *fate)
{
	int64		hour = fate->at - ((fate->at % USECS_PER_HOUR) + USECS_PER_HOUR) % USECS_PER_HOUR;
	HourEntry  *entry;
	bool		found;

	if (hour != report->hour)
		end_hour(report);
	report->hour = hour;
	entry = hour_insert(report->counts, (HourKey) {meter, org}, &found);
	if (!found)
		memset(&entry->counts, 0, sizeof(LlmqReplayCounts));
	llmq_replay_add(&entry->counts, fate);
}

/* Puts out what is left, and the sum. */
void
llmq_replay_report_end(LlmqReplayReport *report)
{
	Datum		values[NCOLUMNS] = {0};
	bool		nulls[NCOLUMNS] = {false};

	end_hour(report);
	nulls[COL_HOUR] = nulls[COL_SUBJECT] = nulls[COL_MODEL] = nulls[COL_FAMILY] = nulls[COL_ORG] = true;
	put_row(report, values, nulls, &report->total);
}
