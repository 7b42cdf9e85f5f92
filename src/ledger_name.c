/*
 * ledger_name.c
 *	  The names that rows of the ledger have, and what they are called now.
 *
 * The ledger keeps the name that something had when its call was recorded. Where something was renamed, the view
 * llmquota.former_name says which rows of a name are its own; it is read once, before a scan, and here decides for each
 * row as the view llmquota.usage_current does. All is as of the active snapshot, which is the scan's: a rename may have
 * committed since the configuration was loaded.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "ledger_scan.h"
#include "name.h"
#include "sql.h"

/* A former name: rows of these times are of what is called otherwise now. */
typedef struct LlmqFormerName
{
	struct LlmqFormerName *next;
	TimestampTz since;			/* recorded since */
	TimestampTz picked_from;
	TimestampTz until;			/* picked before */
	LlmqLedgerName *now;
} LlmqFormerName;

#define FORMER_QUERY \
	"SELECT f.kind, f.name, f.now_called, f.since, f.picked_from, f.until FROM llmquota.former_name f"

#define RENAMED_QUERY "SELECT a.kind, a.name, a.cell, a.generation FROM llmquota.alias a WHERE a.is_current"
#define FAMILIES_QUERY "SELECT m.model, m.family FROM llmquota.model m WHERE m.family IS NOT NULL"

static const char kinds[LLMQ_NAMED_COUNT] = {
	LLMQ_NAME_PROVIDER, LLMQ_NAME_ACCOUNT, LLMQ_NAME_KEY, LLMQ_NAME_ORG, LLMQ_NAME_MODEL
};

/* A name, made known if it is not. */
LlmqLedgerName *
llmq_ledger_name(LlmqLedgerNames *names, LlmqNamed kind, const char *text)
{
	MemoryContext caller = MemoryContextSwitchTo(names->context);
	char	   *key = psprintf("%c%s", kinds[kind], text);
	LlmqLedgerName *name = llmq_names_find(names->known, key);

	if (name == NULL)
	{
		name = palloc0(sizeof(LlmqLedgerName));
		name->text = key + 1;
		llmq_names_put(names->known, key, name);
	}
	else
		pfree(key);
	MemoryContextSwitchTo(caller);
	return name;
}

/* The name that a row has, of so many bytes; NULL when it is unknown, and not all are to become known. */
LlmqLedgerName *
llmq_ledger_name_known(LlmqLedgerNames *names, LlmqNamed kind, const char *text, int length)
{
	char		key[LLMQ_MAX_NAME + 2];

	if (length > LLMQ_MAX_NAME)
		return NULL;			/* of no call: no name is so long */
	key[0] = kinds[kind];
	memcpy(key + 1, text, length);
	key[length + 1] = '\0';
	return names->all ? llmq_ledger_name(names, kind, key + 1) : llmq_names_find(names->known, key);
}

/* What a row of these times means by a name. */
LlmqLedgerName *
llmq_ledger_name_now(LlmqLedgerName *name, TimestampTz picked_at, TimestampTz recorded_at)
{
	for (const LlmqFormerName *former = name->former; former != NULL; former = former->next)
		if (recorded_at >= former->since && picked_at >= former->picked_from && picked_at < former->until)
			return former->now;
	return name;
}

/* What live state calls so, by its name of now. */
LlmqLedgerName *
llmq_ledger_name_of_cell(LlmqLedgerNames *names, LlmqNamed kind, const char *cell)
{
	const char *renamed = llmq_names_find(names->renamed, cell);

	return llmq_ledger_name(names, kind, renamed != NULL ? renamed : cell + 1);
}

static void
query(const char *text)
{
	if (SPI_execute(text, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "names cannot be read");
}

static char *
text_of(const LlmqLedgerNames *names, uint64 row, int column)
{
	return MemoryContextStrdup(names->context, SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column));
}

/* The names of the models of a family. */
List *
llmq_ledger_family(LlmqLedgerNames *names, const char *family)
{
	LlmqSql		sql;

	if (names->families != NULL)
		return llmq_names_find(names->families, family);
	names->families = llmq_names_create(names->context);
	llmq_sql_begin(&sql);
	query(FAMILIES_QUERY);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		char	   *model = text_of(names, row, 1);
		char	   *name = text_of(names, row, 2);
		MemoryContext caller = MemoryContextSwitchTo(names->context);

		llmq_names_put(names->families, name, lappend(llmq_names_find(names->families, name), model));
		MemoryContextSwitchTo(caller);
	}
	llmq_sql_end(&sql);
	return llmq_names_find(names->families, family);
}

static TimestampTz
instant(uint64 row, int column)
{
	bool		isnull;

	return DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull));
}

/* Makes one former name known. */
static void
add_former(LlmqLedgerNames *names, uint64 row)
{
	char		letter = *text_of(names, row, 1);
	LlmqNamed	kind = 0;
	LlmqLedgerName *name;
	LlmqFormerName *former;

	/* a kind begins with the letter that live state has for it */
	while (kinds[kind] != letter)
		kind++;
	name = llmq_ledger_name(names, kind, text_of(names, row, 2));
	former = MemoryContextAlloc(names->context, sizeof(LlmqFormerName));
	*former = (LlmqFormerName) {
		.next = name->former,.since = instant(row, 4),.picked_from = instant(row, 5),.until = instant(row, 6),
		.now = llmq_ledger_name(names, kind, text_of(names, row, 3))
	};
	name->former = former;
}

/* Notes what is called otherwise in live state. */
static void
add_renamed(LlmqLedgerNames *names, uint64 row)
{
	MemoryContext caller = MemoryContextSwitchTo(names->context);
	LlmqAlias  *alias = llmq_alias_create(*text_of(names, row, 1), text_of(names, row, 2), text_of(names, row, 3),
										  atoi(text_of(names, row, 4)));

	llmq_names_put(names->renamed, alias->cell, unconstify(char *, alias->name + 1));
	MemoryContextSwitchTo(caller);
}

/* Begins with what has been renamed, in the current memory context. */
void
llmq_ledger_names_init(LlmqLedgerNames *names)
{
	uint64		renamed;
	LlmqSql		sql;

	memset(names, 0, sizeof(LlmqLedgerNames));
	names->context = CurrentMemoryContext;
	names->known = llmq_names_create(names->context);
	names->renamed = llmq_names_create(names->context);
	llmq_sql_begin(&sql);
	query(RENAMED_QUERY);
	renamed = SPI_processed;
	for (uint64 row = 0; row < renamed; row++)
		add_renamed(names, row);
	if (renamed > 0)
	{
		query(FORMER_QUERY);
		for (uint64 row = 0; row < SPI_processed; row++)
			add_former(names, row);
	}
	llmq_sql_end(&sql);
}
