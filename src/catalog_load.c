/*
 * catalog_load.c
 *	  Reads the configuration tables.
 *
 * The tables are read with one fresh snapshot, directly and not through SPI: the caller of a pick needs no privilege
 * on them, and neither search path nor row security have a say. Columns are known by number: they are only ever
 * appended. Rows that cannot be used (disabled, or of something disabled) are left out where nobody asks for them.
 */
#include "postgres.h"

#include <math.h>

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "budget.h"
#include "alert_mark.h"
#include "cache.h"
#include "catalog_row.h"
#include "name.h"
#include "price.h"
#include "zone.h"

/* So many names are compared in less time than one is looked up. */
#define ACCOUNTS_TO_COMPARE 8

/* What small pieces are cut from; the largest that an allocation set does not give a block of its own. */
#define PIECES_SIZE 8192

/*
 * Zeroed memory that lasts as long as the catalog. Nothing of it is freed alone, so pieces lie end to end: as chunks of
 * their own they would take twice the memory, and with many keys it is memory that a load takes its time for.
 */
void *
llmq_catalog_keep(LlmqCatalog *catalog, Size size)
{
	void	   *piece;

	size = MAXALIGN(size);
	if (size > PIECES_SIZE / 16)
		return MemoryContextAllocZero(catalog->context, size);
	if (size > catalog->pieces_left)
	{
		catalog->pieces = MemoryContextAllocZero(catalog->context, PIECES_SIZE);
		catalog->pieces_left = PIECES_SIZE;
		catalog->kept += PIECES_SIZE;
	}
	piece = catalog->pieces;
	catalog->pieces += size;
	catalog->pieces_left -= size;
	return piece;
}

static void
refuse_unless_heap(Relation rel)
{
	if (rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s.%s\" is not a heap", LLMQ_SCHEMA, RelationGetRelationName(rel)),
				 errhint("ALTER TABLE %s.%s SET ACCESS METHOD heap.", LLMQ_SCHEMA, RelationGetRelationName(rel))));
}

/*
 * Notes which rows of a page the snapshot shows. They stay where they are while the page is pinned, so that one lock
 * does for all of them.
 */
static int
find_visible_rows(Relation rel, Buffer buffer, Snapshot snapshot, HeapTupleData *rows)
{
	Page		page = BufferGetPage(buffer);
	int			nrows = 0;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	for (OffsetNumber offset = FirstOffsetNumber; offset <= PageGetMaxOffsetNumber(page); offset++)
	{
		ItemId		item = PageGetItemId(page, offset);
		HeapTuple	tuple = &rows[nrows];

		if (!ItemIdIsNormal(item))
			continue;
		tuple->t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple->t_len = ItemIdGetLength(item);
		tuple->t_tableOid = RelationGetRelid(rel);
		ItemPointerSet(&tuple->t_self, BufferGetBlockNumber(buffer), offset);
		if (HeapTupleSatisfiesVisibility(tuple, snapshot, buffer))
			nrows++;
	}
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	return nrows;
}

/*
 * Reads one table from the snapshot; `reader` sees each row with all columns taken apart, in the catalog's context. The
 * pages are read directly: what a pick has to know is no read of a SERIALIZABLE caller's own, and a scan's predicate
 * locks would make it fail.
 */
void
llmq_catalog_read(LlmqCatalog *catalog, LlmqRelation which, Snapshot snapshot, LlmqRowReader reader)
{
	Relation	rel = table_open(llmq_relation_oid(which), AccessShareLock);
	HeapTupleData rows[MaxHeapTuplesPerPage];
	LlmqRow		row = {.catalog = catalog,.slot = table_slot_create(rel, NULL)};
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);

	refuse_unless_heap(rel);
	for (BlockNumber block = 0; block < nblocks; block++)
	{
		Buffer		buffer = ReadBuffer(rel, block);
		int			nrows = find_visible_rows(rel, buffer, snapshot, rows);

		for (int i = 0; i < nrows; i++)
		{
			ExecStoreBufferHeapTuple(&rows[i], row.slot, buffer);
			slot_getallattrs(row.slot);
			reader(&row);
		}
		ExecClearTuple(row.slot);
		ReleaseBuffer(buffer);
	}
	ExecDropSingleTupleTableSlot(row.slot);
	table_close(rel, AccessShareLock);
}

static void
init_subject(LlmqSubject *subject, const LlmqRow *row, LlmqScope scope, const char *zone)
{
	subject->scope = scope;
	subject->name = text_value(row, 1);
	subject->zone = zone;
	subject->context = row->catalog->context;
	llmq_alias_ref(row->catalog, llmq_scope_name_kind(scope), subject->name, &subject->ref);
}

static void
read_provider(LlmqRow *row)
{
	LlmqProvider *provider = llmq_catalog_keep(row->catalog, sizeof(LlmqProvider));

	init_subject(&provider->subject, row, LLMQ_SCOPE_PROVIDER, text_value(row, 4));
	provider->adapter = llmq_adapter(text_value(row, 2));
	provider->base_url = text_value(row, 3);
	provider->enabled = bool_value(row, 5);
	if (has_column(row, 9))
	{
		provider->breaker.in_a_row = DatumGetInt32(value(row, 6));
		provider->breaker.failure_rate = fraction_value(row, 7);
		provider->breaker.min_calls = DatumGetInt32(value(row, 8));
		provider->breaker.probe_after = DatumGetInt32(value(row, 9)) * INT64CONST(1000);
	}
	llmq_names_put(row->catalog->providers, provider->subject.name, provider);
}

static void
read_account(LlmqRow *row)
{
	LlmqAccount *account = llmq_catalog_keep(row->catalog, sizeof(LlmqAccount));

	account->provider = llmq_names_find(row->catalog->providers, text_value(row, 2));
	if (account->provider == NULL)
		return;
	init_subject(&account->subject, row, LLMQ_SCOPE_ACCOUNT, account->provider->subject.zone);
	account->org = text_value(row, 3);
	account->base_url = is_null(row, 4) ? account->provider->base_url : text_value(row, 4);
	account->enabled = bool_value(row, 5) && account->provider->enabled;
	account->next = row->catalog->first_account;
	row->catalog->first_account = account;
	llmq_names_put(row->catalog->accounts, account->subject.name, account);
	if (account->org != NULL)
		llmq_names_put(row->catalog->owners, account->org, account);
}

/* The models a key is for: -1 and NULL stand for all. */
static void
read_key_models(LlmqKey *key, const LlmqRow *row)
{
	Datum	   *elements;
	bool	   *nulls;

	key->nmodels = -1;
	if (is_null(row, 5))
		return;
	deconstruct_array(DatumGetArrayTypeP(value(row, 5)), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls,
					  &key->nmodels);
	key->models = palloc(sizeof(char *) * Max(key->nmodels, 1));
	for (int i = 0; i < key->nmodels; i++)
		key->models[i] = nulls[i] ? "" : TextDatumGetCString(elements[i]);
}

/* The account of this name; among many keys it is mostly one of the first accounts. NULL when there is none. */
static LlmqAccount *
find_account(LlmqCatalog *catalog, Datum name)
{
	text	   *wanted = DatumGetTextPP(name);
	Size		length = VARSIZE_ANY_EXHDR(wanted);
	LlmqAccount *account = catalog->first_account;

	for (int i = 0; i < ACCOUNTS_TO_COMPARE && account != NULL; i++, account = account->next)
	{
		const char *found = account->subject.name;

		if (strncmp(found, VARDATA_ANY(wanted), length) == 0 && found[length] == '\0')
			return account;
	}
	return llmq_names_find(catalog->accounts, text_to_cstring(wanted));
}

/* Keys that cannot be picked are not kept. */
static void
read_key(LlmqRow *row)
{
	LlmqCatalog *catalog = row->catalog;
	LlmqAccount *account = find_account(catalog, value(row, 2));
	LlmqKey    *key;

	if (account == NULL || !account->enabled || !bool_value(row, 6))
		return;
	key = llmq_catalog_keep(catalog, sizeof(LlmqKey));
	init_subject(&key->subject, row, LLMQ_SCOPE_KEY, account->subject.zone);
	key->account = account;
	key->secret_ref = text_value(row, 3);
	key->priority = DatumGetInt16(value(row, 4));
	key->weight = has_column(row, 7) ? DatumGetInt32(value(row, 7)) : 1;
	read_key_models(key, row);
	key->next = account->first_key;
	account->first_key = key;
	account->nkeys++;
}

static void
read_model(LlmqRow *row)
{
	LlmqModel  *model = llmq_catalog_keep(row->catalog, sizeof(LlmqModel));

	model->name = text_value(row, 1);
	model->provider = llmq_names_find(row->catalog->providers, text_value(row, 2));
	if (model->provider == NULL)
		return;
	llmq_alias_ref(row->catalog, LLMQ_NAME_MODEL, model->name, &model->ref);
	model->provider_model = is_null(row, 3) ? model->name : text_value(row, 3);
	model->family = text_value(row, 4);
	model->default_output_tokens = DatumGetInt32(value(row, 5));
	model->enabled = bool_value(row, 6) && model->provider->enabled;
	model->downgrade_to = has_column(row, 7) ? text_value(row, 7) : NULL;
	model->route = llmq_model_route(model);
	llmq_names_put(row->catalog->models, model->name, model);
}

/* The words for priorities, in the order of LlmqPriority. */
static const char *const priorities[] = {"normal", "high", "low", NULL};

const char *
llmq_priority_text(LlmqPriority priority)
{
	return priorities[priority];
}

/* The place of a word in a list that ends with NULL; -1: it is not there. */
static int
find_word(const char *word, const char *const *words)
{
	for (int i = 0; words[i] != NULL; i++)
		if (strcmp(word, words[i]) == 0)
			return i;
	return -1;
}

/* The same of what is in the tables, which was checked when it was written. */
int
llmq_word_number(const char *word, const char *const *words)
{
	int			number = find_word(word, words);

	if (number < 0)
		elog(ERROR, "unexpected word \"%s\" in the configuration", word);
	return number;
}

/* The priority that a word names. False when it names none. */
bool
llmq_priority_named(const char *word, LlmqPriority *priority)
{
	int			number = find_word(word, priorities);

	*priority = (LlmqPriority) Max(number, 0);
	return number >= 0;
}

static void
read_org(LlmqRow *row)
{
	LlmqOrg    *org = llmq_catalog_keep(row->catalog, sizeof(LlmqOrg));

	init_subject(&org->subject, row, LLMQ_SCOPE_ORG, "UTC");
	org->listed = true;
	org->priority = (LlmqPriority) llmq_word_number(text_value(row, 2), priorities);
	org->shared_keys = bool_value(row, 3);
	org->enabled = bool_value(row, 4);
	org->parent = has_column(row, 5) ? text_value(row, 5) : NULL;
	org->zone = has_column(row, 6) ? text_value(row, 6) : NULL;
	org->weight = has_column(row, 8) ? DatumGetInt32(value(row, 8)) : 1;
	llmq_names_put(row->catalog->listed_orgs, org->subject.name, org);
}

/* A sliding window's length as people write it: "1 minute", "90 seconds". */
static const char *
period_text(int64 length)
{
	static const struct
	{
		int64		length;
		const char *name;
	}			units[] = {{USECS_PER_DAY, "day"}, {USECS_PER_HOUR, "hour"}, {USECS_PER_MINUTE, "minute"},
	{USECS_PER_SEC, "second"}};

	for (Size i = 0; i < lengthof(units); i++)
	{
		int64		count = length / units[i].length;

		if (length % units[i].length == 0)
			return psprintf(INT64_FORMAT " %s%s", count, units[i].name, count == 1 ? "" : "s");
	}
	return psprintf(INT64_FORMAT " ms", length / 1000);
}

/* What a quota or budget is about, from four columns that stand together: scope, subject, model and family. */
void
llmq_quota_subject(LlmqQuota *quota, const LlmqRow *row, int first)
{
	static const char *const scopes[] = {"global", "provider", "account", "key", "org", "parent", NULL};

	quota->scope = llmq_word_number(text_value(row, first), scopes);
	quota->subject = text_value(row, first + 1);
	quota->part = !is_null(row, first + 2) ? LLMQ_PART_MODEL :
		!is_null(row, first + 3) ? LLMQ_PART_FAMILY : LLMQ_PART_ALL;
	if (quota->part != LLMQ_PART_ALL)
		quota->part_name = text_value(row, quota->part == LLMQ_PART_MODEL ? first + 2 : first + 3);
}

/* Its window, from the columns of a length, or of a calendar with its time zone. */
void
llmq_quota_window(LlmqQuota *quota, const LlmqRow *row, int per, int calendar, int fiscal_month)
{
	static const char *const units[] = {"day", "week", "month", "quarter", "year", "total", NULL};

	if (!is_null(row, per))
	{
		Interval   *length = DatumGetIntervalP(value(row, per));

		quota->kind = LLMQ_WINDOW_SLIDING;
		quota->length = length->time + length->day * USECS_PER_DAY;
		quota->period = period_text(quota->length);
	}
	else if (!is_null(row, calendar))
	{
		quota->kind = LLMQ_WINDOW_CALENDAR;
		quota->unit = llmq_unit((LlmqCalendarUnit) llmq_word_number(text_value(row, calendar), units), fiscal_month);
		quota->period = llmq_unit_text(quota->unit);
	}
	else
		quota->kind = LLMQ_WINDOW_CONCURRENCY;
}

/* Puts a quota or budget among those of its scope and kind of part. */
void
llmq_quota_add(LlmqCatalog *catalog, LlmqQuota *quota)
{
	LlmqQuota **list = &catalog->quotas[quota->scope][quota->part];

	quota->next = *list;
	*list = quota;
}

/* Adds a quota to the configuration. */
LlmqQuota *
llmq_quota_read(LlmqRow *row)
{
	static const char *const metrics[] = {"requests", "input_tokens", "output_tokens", "tokens", "concurrency", NULL};
	LlmqQuota  *quota = llmq_catalog_keep(row->catalog, sizeof(LlmqQuota));

	quota->id = DatumGetInt64(value(row, 1));
	llmq_quota_subject(quota, row, 2);
	quota->metric = llmq_word_number(text_value(row, 6), metrics);
	quota->amount = LLMQ_NO_LIMIT;
	if (!is_null(row, 7))
		quota->amount = DatumGetInt64(DirectFunctionCall1(numeric_int8, value(row, 7)));
	llmq_quota_window(quota, row, 8, 9, 1);
	quota->zone = text_value(row, 10);
	quota->high_priority_share = fraction_value(row, 11);
	quota->observe = strcmp(text_value(row, 12), "observe") == 0;
	quota->rollout = fraction_value(row, 13);
	quota->window_flags = (bool_value(row, 14) ? 0 : LLMQ_WINDOW_NOT_CACHED) |
		(bool_value(row, 15) ? 0 : LLMQ_WINDOW_NOT_FAILURES);
	llmq_quota_add(row->catalog, quota);
	return quota;
}

static void
read_quota(LlmqRow *row)
{
	(void) llmq_quota_read(row);
}

/* The thresholds at which somebody is told of a limit; none where what is used is free again by itself soon. */
const LlmqThresholds *
llmq_quota_alert_at(const LlmqSettings *settings, const LlmqQuota *quota)
{
	static const LlmqThresholds none = {0};

	if (!settings->alerts || (quota->kind == LLMQ_WINDOW_SLIDING && quota->length <= settings->alert_recovery))
		return &none;
	return quota->budget != NULL ? &quota->budget->alert_at : &settings->alert_at;
}

/* Reads {0.8,0.95}. */
static void
read_thresholds(LlmqThresholds *thresholds, const char *setting)
{
	thresholds->n = 0;
	for (const char *next = setting; *next != '}' && next[1] != '}'; next = strpbrk(next + 1, ",}"))
		llmq_threshold_add(thresholds, (int64) rint(strtod(next + 1, NULL) * LLMQ_THRESHOLD_ONE));
}

/* Settings are checked when they are written; what is not named here is not the core's. */
static void
read_setting(LlmqRow *row)
{
	LlmqSettings *settings = &row->catalog->settings;
	const char *name = text_value(row, 1);
	const char *setting = text_value(row, 2);

	if (strcmp(name, "alert_at") == 0)
		read_thresholds(&settings->alert_at, setting);
	else if (strcmp(name, "alert_forecast") == 0)
		settings->alert_forecast = strcmp(setting, "on") == 0;
	else if (strcmp(name, "alert_recovery") == 0)
		settings->alert_recovery = pg_strtoint64(setting) * 1000;
	else if (strcmp(name, "answer_refresh") == 0)
		settings->answer_refresh = pg_strtoint32(setting);
	else if (strcmp(name, "answer_stale") == 0)
		settings->answer_stale = pg_strtoint32(setting);
	else if (strcmp(name, "answer_ttl") == 0)
		settings->answer_ttl = pg_strtoint32(setting);
	else if (strcmp(name, "arrival_slack") == 0)
		settings->arrival_slack = pg_strtoint64(setting) * 1000;
	else if (strcmp(name, "auth_probe_after") == 0)
		settings->auth_probe_after = pg_strtoint64(setting) * 1000;
	else if (strcmp(name, "base_currency") == 0)
		strlcpy(settings->base_currency, setting, LLMQ_CURRENCY_SIZE);
	else if (strcmp(name, "conversation_ttl") == 0)
		settings->conversation_ttl = pg_strtoint64(setting) * 1000;
	else if (strcmp(name, "observed_limit_ttl") == 0)
		settings->observed_limit_ttl = pg_strtoint64(setting) * 1000;
	else if (strcmp(name, "idempotency_window") == 0)
		settings->idempotency_window = pg_strtoint64(setting) * 1000;
	else if (strcmp(name, "lease_ttl") == 0)
		settings->lease_ttl_ms = pg_strtoint32(setting);
	else if (strcmp(name, "default_input_tokens") == 0)
		settings->default_input_tokens = pg_strtoint32(setting);
	else if (strcmp(name, "max_conversation_bytes") == 0)
		settings->max_conversation_bytes = pg_strtoint32(setting);
	else if (strcmp(name, "max_conversations") == 0)
		settings->max_conversations = pg_strtoint32(setting);
	else if (strcmp(name, "max_answer_bytes") == 0)
		settings->max_answer_bytes = pg_strtoint32(setting);
	else if (strcmp(name, "max_leases") == 0)
		settings->max_leases = pg_strtoint32(setting);
	else if (strcmp(name, "max_rate_subjects") == 0)
		settings->max_rate_subjects = pg_strtoint32(setting);
	else if (strcmp(name, "max_requests") == 0)
		settings->max_requests = pg_strtoint32(setting);
	else if (strcmp(name, "max_subjects") == 0)
		settings->max_subjects = pg_strtoint32(setting);
	else if (strcmp(name, "max_waiting") == 0)
		settings->max_waiting = pg_strtoint32(setting);
	else if (strcmp(name, "max_waiting_per_org") == 0)
		settings->max_waiting_org = pg_strtoint32(setting);
	else if (strcmp(name, "max_held_waiters") == 0)
		settings->max_held_waiters = strcmp(setting, "auto") == 0 ? -1 : pg_strtoint32(setting);
	else if (strcmp(name, "ticket_ttl") == 0)
		settings->ticket_ttl = pg_strtoint64(setting) * 1000;
	else if (strcmp(name, "partitions_ahead") == 0)
		settings->partitions_ahead = pg_strtoint32(setting);
	else if (strcmp(name, "refusal_spread") == 0)
		settings->refusal_spread = strtod(setting, NULL);
	else if (strcmp(name, "unknown_org") == 0)
		settings->unknown_org_refused = strcmp(setting, "refuse") == 0;
	else if (strcmp(name, "usage_retention") == 0)
		settings->usage_retention_days = pg_strtoint32(setting);
}

/* Adds a grant to a list. */
static void
add_role_grant(LlmqRow *row, bool admin, LlmqRoleGrant **list)
{
	LlmqRoleGrant *grant = llmq_catalog_keep(row->catalog, sizeof(LlmqRoleGrant));

	grant->role = text_value(row, 1);
	grant->admin = admin;
	grant->org = text_value(row, 3);
	grant->next = *list;
	*list = grant;
}

static void
read_role_grant(LlmqRow *row)
{
	const char *kind = text_value(row, 2);
	bool		admin = strcmp(kind, "admin") == 0;

	if (admin || strcmp(kind, "analyst") == 0)
		add_role_grant(row, admin, &row->catalog->reader_grants);
	if (strcmp(kind, "analyst") != 0)
		add_role_grant(row, admin, &row->catalog->role_grants);
}

static void
read_alias(LlmqRow *row)
{
	static const char *const kinds[] = {"org", "account", "key", "model", NULL};
	static const char letters[] = {LLMQ_NAME_ORG, LLMQ_NAME_ACCOUNT, LLMQ_NAME_KEY, LLMQ_NAME_MODEL};
	LlmqAlias  *alias = llmq_alias_create(letters[llmq_word_number(text_value(row, 1), kinds)], text_value(row, 2),
										  text_value(row, 3), DatumGetInt32(value(row, 4)));

	llmq_alias_add(row->catalog, alias, is_null(row, 6), bool_value(row, 7));
}

static void
read_rate_limit(LlmqRow *row)
{
	LlmqRateLimit *limit = llmq_catalog_keep(row->catalog, sizeof(LlmqRateLimit));

	limit->scope = text_value(row, 1);
	limit->limit.amount = DatumGetInt32(value(row, 2));
	limit->limit.period = DatumGetInt64(value(row, 3)) * 1000;
	limit->limit.burst = is_null(row, 4) ? limit->limit.amount : DatumGetInt32(value(row, 4));
	limit->observe = strcmp(text_value(row, 5), "observe") == 0;
	limit->rollout = fraction_value(row, 6);
	llmq_names_put(row->catalog->rate_limits, limit->scope, limit);
}

/* What holds when a row of llmquota.setting is missing. */
static const LlmqSettings default_settings = {
	.alert_at = {.n = 2,.part = {800000000, 950000000}},
	.alert_forecast = true,
	.alert_recovery = 5 * USECS_PER_MINUTE,
	.answer_ttl = 3600000,
	.answer_stale = 86400000,
	.answer_refresh = 30000,
	.max_answer_bytes = 1048576,
	.arrival_slack = 250000,
	.auth_probe_after = USECS_PER_HOUR,
	.observed_limit_ttl = USECS_PER_HOUR,
	.lease_ttl_ms = 120000,
	.default_input_tokens = 1000,
	.idempotency_window = USECS_PER_DAY,
	.conversation_ttl = 30 * USECS_PER_MINUTE,
	.max_conversation_bytes = 65536,
	.max_conversations = 1000000,
	.max_leases = 100000,
	.max_requests = 1000000,
	.max_rate_subjects = 1000000,
	.max_subjects = 100000,
	.max_waiting = 10000,
	.max_waiting_org = 500,
	.max_held_waiters = -1,
	.ticket_ttl = 10 * USECS_PER_SEC,
	.partitions_ahead = 7,
	.refusal_spread = 0.25,
	.usage_retention_days = 400,
	.base_currency = "USD",
};

/* An empty catalog in its context. */
static LlmqCatalog *
create_catalog(MemoryContext context)
{
	LlmqCatalog *catalog = palloc0(sizeof(LlmqCatalog));

	catalog->context = context;
	catalog->settings = default_settings;
	catalog->global.scope = LLMQ_SCOPE_GLOBAL;
	catalog->global.name = "";
	catalog->global.zone = "UTC";
	catalog->global.context = context;
	catalog->providers = llmq_names_create(context);
	catalog->accounts = llmq_names_create(context);
	catalog->models = llmq_names_create(context);
	catalog->routes = llmq_names_create(context);
	catalog->own_routes = llmq_names_create(context);
	catalog->listed_orgs = llmq_names_create(context);
	catalog->owners = llmq_names_create(context);
	catalog->namespaces = llmq_names_create(context);
	catalog->aliases = llmq_names_create(context);
	catalog->renamed_cells = llmq_names_create(context);
	catalog->rate_limits = llmq_names_create(context);
	return catalog;
}

/* How much memory a load is likely to need: rows are kept with their pointers, and grouped by model. */
Size
llmq_catalog_size(void)
{
	BlockNumber nblocks = 0;

	for (int rel = LLMQ_FIRST_CONFIG_REL; rel <= LLMQ_LAST_CONFIG_REL; rel++)
	{
		Oid			relid = llmq_relation_oid_if_any(rel);
		Relation	table;

		if (!OidIsValid(relid))
			continue;
		table = table_open(relid, AccessShareLock);
		nblocks += RelationGetNumberOfBlocks(table);
		table_close(table, AccessShareLock);
	}
	return (Size) nblocks * BLCKSZ * 2;
}

/* Reads everything into `context`. May raise; then the context is the caller's to delete. */
LlmqCatalog *
llmq_catalog_load(MemoryContext context)
{
	MemoryContext caller = MemoryContextSwitchTo(context);
	LlmqCatalog *catalog = create_catalog(context);
	Snapshot	snapshot;

	/* all are known before the snapshot is taken: a change that it does not show is then noticed */
	for (int rel = LLMQ_FIRST_CONFIG_REL; rel <= LLMQ_LAST_CONFIG_REL; rel++)
		(void) llmq_relation_oid_if_any(rel);
	snapshot = RegisterSnapshot(GetLatestSnapshot());

	/* in an order in which everything finds what it refers to */
	llmq_catalog_read(catalog, LLMQ_REL_SETTING, snapshot, read_setting);
	catalog->settings.alerts = OidIsValid(llmq_relation_oid_if_any(LLMQ_REL_ALERT));
	llmq_alerts_activate(catalog->settings.alerts, catalog->settings.alert_recovery);
	llmq_catalog_read(catalog, LLMQ_REL_ALIAS, snapshot, read_alias);
	llmq_catalog_read(catalog, LLMQ_REL_PROVIDER, snapshot, read_provider);
	llmq_catalog_read(catalog, LLMQ_REL_ACCOUNT, snapshot, read_account);
	llmq_catalog_read(catalog, LLMQ_REL_KEY, snapshot, read_key);
	llmq_catalog_read(catalog, LLMQ_REL_MODEL, snapshot, read_model);
	llmq_prices_load(catalog, snapshot);
	llmq_routes_load(catalog, snapshot);
	llmq_catalog_read(catalog, LLMQ_REL_ORG, snapshot, read_org);
	llmq_catalog_read(catalog, LLMQ_REL_QUOTA, snapshot, read_quota);
	llmq_budgets_load(catalog, snapshot);
	llmq_catalog_read(catalog, LLMQ_REL_ROLE_GRANT, snapshot, read_role_grant);
	if (OidIsValid(llmq_relation_oid_if_any(LLMQ_REL_RATE_LIMIT)))
		llmq_catalog_read(catalog, LLMQ_REL_RATE_LIMIT, snapshot, read_rate_limit);
	if (OidIsValid(llmq_relation_oid_if_any(LLMQ_REL_ANSWER_NAMESPACE)))
		llmq_catalog_read(catalog, LLMQ_REL_ANSWER_NAMESPACE, snapshot, llmq_namespace_read);
	UnregisterSnapshot(snapshot);
	MemoryContextSwitchTo(caller);
	return catalog;
}
