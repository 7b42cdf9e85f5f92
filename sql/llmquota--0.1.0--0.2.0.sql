/* From 0.1.0 to 0.2.0: what makes an installation of the one equal to a fresh one of the other. */

\echo Use "ALTER EXTENSION llmquota UPDATE" to load this file. \quit

--
-- Types and tables
--

CREATE TYPE llmquota.explain_result AS (
	rank int,
	step int,
	model text,
	priority int,
	weight int,
	account text,
	key text,
	verdict text,
	score numeric,
	scope text,
	subject text,
	metric text,
	period text,
	quota numeric,
	amount numeric,
	used numeric,
	requested numeric,
	retry_at timestamptz,
	since timestamptz,
	failure text,
	http_status int,
	lease uuid,
	reason text
);
ALTER TABLE llmquota.provider
	ADD COLUMN breaker_failures int NOT NULL DEFAULT 5,
	ADD COLUMN breaker_failure_rate numeric NOT NULL DEFAULT 0.5,
	ADD COLUMN breaker_min_calls int NOT NULL DEFAULT 20,
	ADD COLUMN breaker_probe_ms int NOT NULL DEFAULT 15000,
	ADD CONSTRAINT provider_breaker_failures_valid CHECK (breaker_failures OPERATOR(pg_catalog.>) 0),
	ADD CONSTRAINT provider_breaker_failure_rate_valid CHECK (breaker_failure_rate OPERATOR(pg_catalog.>) 0 AND breaker_failure_rate OPERATOR(pg_catalog.<=) 1),
	ADD CONSTRAINT provider_breaker_min_calls_valid CHECK (breaker_min_calls OPERATOR(pg_catalog.>) 0),
	ADD CONSTRAINT provider_breaker_probe_ms_valid CHECK (breaker_probe_ms OPERATOR(pg_catalog.>=) 1000 AND breaker_probe_ms OPERATOR(pg_catalog.<=) 86400000);
ALTER TABLE llmquota.key
	ADD COLUMN weight int NOT NULL DEFAULT 1,
	ADD CONSTRAINT key_weight_valid CHECK (weight OPERATOR(pg_catalog.>=) 0 AND weight OPERATOR(pg_catalog.<=) 1000000);
ALTER TABLE llmquota.route
	ADD COLUMN weight int NOT NULL DEFAULT 1,
	ADD CONSTRAINT route_weight_valid CHECK (weight OPERATOR(pg_catalog.>=) 0 AND weight OPERATOR(pg_catalog.<=) 1000000);
CREATE TABLE llmquota.price (
	model text NOT NULL,
	valid_from timestamptz NOT NULL DEFAULT '-infinity',
	input numeric NOT NULL,
	output numeric NOT NULL,
	cached_input numeric,
	cache_write numeric,
	reasoning numeric,
	currency text NOT NULL DEFAULT 'USD',
	CONSTRAINT price_pkey PRIMARY KEY (model, valid_from),
	CONSTRAINT price_model_fkey FOREIGN KEY (model) REFERENCES llmquota.model ON UPDATE CASCADE ON DELETE CASCADE,
	CONSTRAINT price_valid_from_valid CHECK (valid_from OPERATOR(pg_catalog.<) 'infinity'),
	CONSTRAINT price_input_valid CHECK (input OPERATOR(pg_catalog.>=) 0 AND input OPERATOR(pg_catalog.<=) 9000000000
		AND input OPERATOR(pg_catalog.=) pg_catalog.round(input, 9)),
	CONSTRAINT price_output_valid CHECK (output OPERATOR(pg_catalog.>=) 0 AND output OPERATOR(pg_catalog.<=) 9000000000
		AND output OPERATOR(pg_catalog.=) pg_catalog.round(output, 9)),
	CONSTRAINT price_cached_input_valid CHECK (cached_input OPERATOR(pg_catalog.>=) 0 AND cached_input OPERATOR(pg_catalog.<=) 9000000000
		AND cached_input OPERATOR(pg_catalog.=) pg_catalog.round(cached_input, 9)),
	CONSTRAINT price_cache_write_valid CHECK (cache_write OPERATOR(pg_catalog.>=) 0 AND cache_write OPERATOR(pg_catalog.<=) 9000000000
		AND cache_write OPERATOR(pg_catalog.=) pg_catalog.round(cache_write, 9)),
	CONSTRAINT price_reasoning_valid CHECK (reasoning OPERATOR(pg_catalog.>=) 0 AND reasoning OPERATOR(pg_catalog.<=) 9000000000
		AND reasoning OPERATOR(pg_catalog.=) pg_catalog.round(reasoning, 9)),
	CONSTRAINT price_currency_valid CHECK (currency OPERATOR(pg_catalog.~) '^[A-Z]{3}$')
) USING heap;
CREATE TABLE llmquota.exchange_rate (
	currency text NOT NULL,
	valid_from timestamptz NOT NULL DEFAULT '-infinity',
	rate numeric NOT NULL,
	CONSTRAINT exchange_rate_pkey PRIMARY KEY (currency, valid_from),
	CONSTRAINT exchange_rate_currency_valid CHECK (currency OPERATOR(pg_catalog.~) '^[A-Z]{3}$'),
	CONSTRAINT exchange_rate_valid_from_valid CHECK (valid_from OPERATOR(pg_catalog.<) 'infinity'),
	CONSTRAINT exchange_rate_rate_valid CHECK (rate OPERATOR(pg_catalog.>) 0 AND rate OPERATOR(pg_catalog.<=) 9000000
		AND rate OPERATOR(pg_catalog.=) pg_catalog.round(rate, 12))
) USING heap;
CREATE TABLE llmquota.route_option (
	route text NOT NULL,
	org text NOT NULL DEFAULT '',
	strategy text NOT NULL DEFAULT 'least_used',
	max_attempts int NOT NULL DEFAULT 3,
	deadline_ms int NOT NULL DEFAULT 30000,
	retry_same_model boolean NOT NULL DEFAULT false,
	params jsonb,
	CONSTRAINT route_option_pkey PRIMARY KEY (route, org),
	CONSTRAINT route_option_name_valid CHECK (route OPERATOR(pg_catalog.<>) '' AND pg_catalog.octet_length(route) OPERATOR(pg_catalog.<=) 128),
	CONSTRAINT route_option_org_valid CHECK (org OPERATOR(pg_catalog.<>) '*' AND pg_catalog.octet_length(org) OPERATOR(pg_catalog.<=) 128),
	CONSTRAINT route_option_max_attempts_valid CHECK (max_attempts OPERATOR(pg_catalog.>=) 1 AND max_attempts OPERATOR(pg_catalog.<=) 8),
	CONSTRAINT route_option_deadline_ms_valid CHECK (deadline_ms OPERATOR(pg_catalog.>=) 100 AND deadline_ms OPERATOR(pg_catalog.<=) 86400000)
) USING heap;
ALTER TABLE llmquota.usage
	ADD COLUMN first_lease uuid,
	ADD COLUMN retry_of uuid,
	ADD COLUMN error_class text,
	ADD COLUMN cost numeric,
	ADD COLUMN currency text,
	ADD COLUMN cost_base numeric;
-- its argument is of the type of the table's rows; it comes again below
DROP FUNCTION @extschema@.llmquota_add_hours;
ALTER TABLE llmquota.usage_hourly ADD COLUMN cost_base numeric NOT NULL DEFAULT 0;
ALTER TABLE llmquota.usage_undone ADD COLUMN cost_base numeric;
CREATE TABLE llmquota.event (
	event_at timestamptz NOT NULL,
	number bigint NOT NULL,
	kind text NOT NULL,
	scope text NOT NULL,
	subject text,
	model text,
	since timestamptz NOT NULL,
	until timestamptz,
	failure text,
	http_status int,
	lease uuid,
	reason text
);
CREATE INDEX event_event_at ON llmquota.event (event_at);
CREATE TABLE llmquota.health (
	id int4 NOT NULL,
	state bytea NOT NULL,
	kind "char" NOT NULL,
	subject int4 NOT NULL,
	part int4 NOT NULL
) USING heap WITH (fillfactor = 10, vacuum_truncate = false);
ALTER TABLE llmquota.health ALTER COLUMN state SET STORAGE PLAIN;
CREATE INDEX health_key ON llmquota.health (kind, subject, part) WITH (deduplicate_items = off);
CREATE INDEX health_id ON llmquota.health (id) WITH (deduplicate_items = off);

ALTER TYPE llmquota.pick_result ADD ATTRIBUTE timeout_ms int;
ALTER TYPE llmquota.record_result ADD ATTRIBUTE advice text, ADD ATTRIBUTE retry_after_ms int,
	ADD ATTRIBUTE cost numeric, ADD ATTRIBUTE currency text;

ALTER TYPE llmquota.pick_result ADD ATTRIBUTE downgraded boolean;
ALTER TABLE llmquota.model
	ADD COLUMN downgrade_to text,
	ADD CONSTRAINT model_downgrade_to_fkey FOREIGN KEY (downgrade_to) REFERENCES llmquota.model ON UPDATE CASCADE,
	ADD CONSTRAINT model_downgrade_to_other CHECK (downgrade_to OPERATOR(pg_catalog.<>) model);
ALTER TABLE llmquota.org
	ADD COLUMN parent text,
	ADD COLUMN timezone text NOT NULL DEFAULT 'UTC',
	ADD COLUMN markup numeric NOT NULL DEFAULT 0,
	ADD CONSTRAINT org_parent_fkey FOREIGN KEY (parent) REFERENCES llmquota.org ON UPDATE CASCADE,
	ADD CONSTRAINT org_parent_other CHECK (parent OPERATOR(pg_catalog.<>) org),
	ADD CONSTRAINT org_markup_valid CHECK (markup OPERATOR(pg_catalog.>=) -1 AND markup OPERATOR(pg_catalog.<=) 1000
		AND markup OPERATOR(pg_catalog.=) pg_catalog.round(markup, 9));
ALTER TABLE llmquota.usage
	ADD COLUMN downgraded boolean,
	ADD COLUMN budget bigint,
	ADD COLUMN requested_model text,
	ADD COLUMN cost_given boolean;

ALTER TABLE llmquota.org ADD COLUMN weight int NOT NULL DEFAULT 1;
ALTER TABLE llmquota.org ADD CONSTRAINT org_weight_valid CHECK (weight OPERATOR(pg_catalog.>=) 1 AND weight OPERATOR(pg_catalog.<=) 1000);
ALTER TABLE llmquota.org DROP CONSTRAINT org_priority_valid;
ALTER TABLE llmquota.org ADD CONSTRAINT org_priority_valid CHECK (priority OPERATOR(pg_catalog.=) ANY ('{low,normal,high}'));
ALTER TABLE llmquota.usage ADD COLUMN waited_ms int;
CREATE TYPE llmquota.pick_set_result AS (
	place int,
	status text,
	lease uuid,
	key text,
	secret_ref text,
	account text,
	provider text,
	base_url text,
	model text,
	provider_model text,
	attempt int,
	max_output_tokens int,
	granted_at timestamptz,
	expires_at timestamptz,
	retry_after_ms int,
	refusal jsonb,
	timeout_ms int,
	downgraded boolean
);
CREATE TYPE llmquota.statement_result AS (
	line text,
	org text,
	day date,
	model text,
	currency text,
	calls bigint,
	input_tokens bigint,
	cached_tokens bigint,
	output_tokens bigint,
	cost numeric,
	markup numeric,
	amount numeric,
	amount_due numeric
);
CREATE TYPE llmquota.reconcile_result AS (
	status text,
	day date,
	provider_model text,
	model text,
	account text,
	key text,
	requests_here numeric,
	requests_there numeric,
	requests_difference numeric,
	input_tokens_here numeric,
	input_tokens_there numeric,
	input_tokens_difference numeric,
	output_tokens_here numeric,
	output_tokens_there numeric,
	output_tokens_difference numeric,
	currency text,
	cost_here numeric,
	cost_there numeric,
	cost_difference numeric,
	expired bigint,
	unpriced bigint
);
CREATE TYPE llmquota.capacity_result AS (
	accounts text,
	horizon text,
	keys int,
	requests numeric,
	input_tokens numeric,
	output_tokens numeric,
	tokens numeric,
	at_once numeric,
	in_flight numeric,
	request_input_tokens int,
	request_output_tokens int
);
-- which orgs belong to one
CREATE INDEX org_parent ON llmquota.org (parent) WHERE parent IS NOT NULL;
CREATE TABLE llmquota.budget (
	id bigint GENERATED ALWAYS AS IDENTITY,
	scope text NOT NULL DEFAULT 'org',
	subject text NOT NULL,
	model text,
	family text,
	amount numeric,
	currency text NOT NULL,
	calendar text DEFAULT 'day',
	per interval,
	timezone text,
	fiscal_month int NOT NULL DEFAULT 1,
	starts_at timestamptz NOT NULL DEFAULT '-infinity',
	downgrade_at numeric DEFAULT 0.8,
	downgrade_to text,
	hard_stop boolean NOT NULL DEFAULT true,
	free_when_spent boolean NOT NULL DEFAULT false,
	carry_debt boolean NOT NULL DEFAULT false,
	carry_unspent boolean NOT NULL DEFAULT false,
	alert_at numeric[] NOT NULL DEFAULT '{0.8,0.95}',
	mode text NOT NULL DEFAULT 'enforce',
	rollout numeric NOT NULL DEFAULT 1,
	CONSTRAINT budget_pkey PRIMARY KEY (id),
	CONSTRAINT budget_unique UNIQUE NULLS NOT DISTINCT (scope, subject, model, family, currency, per, calendar, timezone, fiscal_month),
	CONSTRAINT budget_downgrade_to_fkey FOREIGN KEY (downgrade_to) REFERENCES llmquota.model ON UPDATE CASCADE,
	CONSTRAINT budget_id_valid CHECK (id OPERATOR(pg_catalog.<) 281474976710656),
	CONSTRAINT budget_scope_valid CHECK (scope OPERATOR(pg_catalog.=) ANY ('{global,provider,account,key,org,parent}')),
	CONSTRAINT budget_subject_valid CHECK (pg_catalog.octet_length(subject) OPERATOR(pg_catalog.<=) 128
		AND CASE WHEN scope OPERATOR(pg_catalog.=) 'global' THEN subject OPERATOR(pg_catalog.=) ''
				 ELSE subject OPERATOR(pg_catalog.<>) '' OR scope OPERATOR(pg_catalog.=) ANY ('{org,parent}') END),
	CONSTRAINT budget_model_valid CHECK (model OPERATOR(pg_catalog.<>) '' AND pg_catalog.octet_length(model) OPERATOR(pg_catalog.<=) 128),
	CONSTRAINT budget_family_valid CHECK (family OPERATOR(pg_catalog.<>) '' AND pg_catalog.octet_length(family) OPERATOR(pg_catalog.<=) 128),
	CONSTRAINT budget_model_or_family CHECK (model IS NULL OR family IS NULL),
	CONSTRAINT budget_amount_valid CHECK (amount OPERATOR(pg_catalog.>=) 0 AND amount OPERATOR(pg_catalog.<=) 9000000000
		AND amount OPERATOR(pg_catalog.=) pg_catalog.round(amount, 9)),
	CONSTRAINT budget_currency_valid CHECK (currency OPERATOR(pg_catalog.~) '^[A-Z]{3}$'),
	CONSTRAINT budget_one_window CHECK (pg_catalog.num_nonnulls(per, calendar) OPERATOR(pg_catalog.=) 1),
	CONSTRAINT budget_per_without_months CHECK (EXTRACT(year FROM per) OPERATOR(pg_catalog.=) 0
		AND EXTRACT(month FROM per) OPERATOR(pg_catalog.=) 0),
	CONSTRAINT budget_per_in_range CHECK (per OPERATOR(pg_catalog.>=) '1 second' AND per OPERATOR(pg_catalog.<=) '400 days'),
	CONSTRAINT budget_calendar_valid CHECK (calendar OPERATOR(pg_catalog.=) ANY ('{day,week,month,quarter,year,total}')),
	CONSTRAINT budget_timezone_of_calendar CHECK (timezone IS NULL OR COALESCE(calendar, 'total') OPERATOR(pg_catalog.<>) 'total'),
	CONSTRAINT budget_fiscal_month_valid CHECK (fiscal_month OPERATOR(pg_catalog.>=) 1 AND fiscal_month OPERATOR(pg_catalog.<=) 12
		AND (fiscal_month OPERATOR(pg_catalog.=) 1 OR COALESCE(calendar, '') OPERATOR(pg_catalog.=) ANY ('{quarter,year}'))),
	CONSTRAINT budget_starts_at_of_total CHECK (starts_at OPERATOR(pg_catalog.=) '-infinity'
		OR COALESCE(calendar, '') OPERATOR(pg_catalog.=) 'total' AND starts_at OPERATOR(pg_catalog.<) 'infinity'),
	CONSTRAINT budget_downgrade_at_valid CHECK (downgrade_at OPERATOR(pg_catalog.>=) 0 AND downgrade_at OPERATOR(pg_catalog.<=) 1),
	CONSTRAINT budget_carry_of_calendar CHECK (NOT (carry_debt OR carry_unspent)
		OR COALESCE(calendar, 'total') OPERATOR(pg_catalog.<>) 'total'),
	CONSTRAINT budget_alert_at_valid CHECK (0 OPERATOR(pg_catalog.<) ALL (alert_at) AND 1 OPERATOR(pg_catalog.>=) ALL (alert_at)
		AND pg_catalog.cardinality(alert_at) OPERATOR(pg_catalog.<=) 8 AND pg_catalog.array_position(alert_at, NULL) IS NULL),
	CONSTRAINT budget_mode_valid CHECK (mode OPERATOR(pg_catalog.=) ANY ('{enforce,observe}')),
	CONSTRAINT budget_rollout_valid CHECK (rollout OPERATOR(pg_catalog.>=) 0 AND rollout OPERATOR(pg_catalog.<=) 1)
) USING heap;
-- which parts of which scopes have budgets at all, and whose, for llmquota_check_parts
CREATE INDEX budget_part ON llmquota.budget (scope, (model IS NULL), (family IS NULL), subject) WHERE amount IS NOT NULL;
-- which currencies those of accounts and keys are in, for llmquota_check_currencies
CREATE INDEX budget_currency ON llmquota.budget (currency) WHERE amount IS NOT NULL AND scope OPERATOR(pg_catalog.=) ANY ('{account,key}');
CREATE TABLE llmquota.budget_step (
	budget bigint NOT NULL,
	at numeric NOT NULL,
	model text NOT NULL,
	CONSTRAINT budget_step_pkey PRIMARY KEY (budget, at),
	CONSTRAINT budget_step_budget_fkey FOREIGN KEY (budget) REFERENCES llmquota.budget ON DELETE CASCADE,
	CONSTRAINT budget_step_model_fkey FOREIGN KEY (model) REFERENCES llmquota.model ON UPDATE CASCADE,
	CONSTRAINT budget_step_at_valid CHECK (at OPERATOR(pg_catalog.>=) 0 AND at OPERATOR(pg_catalog.<=) 1)
) USING heap;
CREATE TABLE llmquota.budget_raise (
	id bigint GENERATED ALWAYS AS IDENTITY,
	budget bigint NOT NULL,
	subject text NOT NULL,
	amount numeric NOT NULL,
	until timestamptz NOT NULL,
	reason text NOT NULL,
	raised_by text NOT NULL,
	raised_at timestamptz NOT NULL,
	CONSTRAINT budget_raise_pkey PRIMARY KEY (id),
	CONSTRAINT budget_raise_budget_fkey FOREIGN KEY (budget) REFERENCES llmquota.budget ON DELETE CASCADE,
	CONSTRAINT budget_raise_amount_valid CHECK (amount OPERATOR(pg_catalog.>=) 0 AND amount OPERATOR(pg_catalog.<=) 9000000000
		AND amount OPERATOR(pg_catalog.=) pg_catalog.round(amount, 9))
) USING heap;
--
-- Tables: what has become of costs. llmquota_reprice writes it.
--

CREATE TABLE llmquota.repricing (
	id bigint GENERATED ALWAYS AS IDENTITY,
	repriced_at timestamptz NOT NULL,
	repriced_by text NOT NULL,
	day date NOT NULL,
	org text NOT NULL,
	model text,
	key text,
	calls bigint NOT NULL,
	currency_before text,
	cost_before numeric,
	currency_after text,
	cost_after numeric,
	difference numeric,
	base_currency text NOT NULL,
	base_before numeric NOT NULL,
	base_after numeric NOT NULL,
	base_difference numeric NOT NULL,
	CONSTRAINT repricing_pkey PRIMARY KEY (id)
);
CREATE TABLE llmquota.budget_recount (
	since timestamptz NOT NULL,
	until timestamptz NOT NULL
);
--
-- Tables: alerts. Maintenance writes them from live state.
--

CREATE TABLE llmquota.alert (
	id bigint GENERATED ALWAYS AS IDENTITY,
	raised_at timestamptz NOT NULL,
	kind text NOT NULL,
	scope text,
	subject text NOT NULL,
	org text,
	model text,
	family text,
	metric text,
	period text,
	quota bigint,
	budget bigint,
	threshold numeric,
	period_start timestamptz,
	ends_at timestamptz,
	used numeric,
	amount numeric,
	currency text,
	expected_at timestamptz,
	message text NOT NULL,
	digest jsonb,
	part_of bigint,
	resolved_at timestamptz,
	acknowledged_at timestamptz,
	acknowledged_by text,
	CONSTRAINT alert_pkey PRIMARY KEY (id)
);
-- one row to whatever is the same alert: in a period, and as long as it stands
CREATE UNIQUE INDEX alert_of_period ON llmquota.alert (subject, kind, quota, budget, threshold, period_start, scope, model, family)
	NULLS NOT DISTINCT WHERE period_start IS NOT NULL;
CREATE UNIQUE INDEX alert_standing ON llmquota.alert (subject, kind, quota, budget, threshold, scope, model, family)
	NULLS NOT DISTINCT WHERE period_start IS NULL AND resolved_at IS NULL AND kind OPERATOR(pg_catalog.<>) 'digest';
CREATE INDEX alert_subject ON llmquota.alert (subject, kind);
CREATE INDEX alert_part_of ON llmquota.alert (part_of) WHERE part_of IS NOT NULL;
CREATE INDEX alert_open ON llmquota.alert (kind) WHERE resolved_at IS NULL;
-- Two rows to a page: as many requests as fit are remembered on it.
CREATE TABLE llmquota.request_page (
	id int4 NOT NULL,
	state bytea NOT NULL
) USING heap WITH (vacuum_truncate = false);
CREATE INDEX request_page_id ON llmquota.request_page (id) WITH (deduplicate_items = off);
-- No two rows have the same key.
ALTER INDEX llmquota.meter_key SET (deduplicate_items = off);
ALTER INDEX llmquota.meter_id SET (deduplicate_items = off);
ALTER INDEX llmquota.lease_page_id SET (deduplicate_items = off);
ALTER INDEX llmquota.name_key SET (deduplicate_items = off);
ALTER INDEX llmquota.name_id SET (deduplicate_items = off);
ALTER INDEX llmquota.refusal_page_id SET (deduplicate_items = off);

CREATE TYPE llmquota.session_result AS (
	status text,
	version int,
	state jsonb,
	session text,
	updated_at timestamptz,
	expires_at timestamptz
);
CREATE TYPE llmquota.rate_result AS (
	allowed boolean,
	remaining int,
	retry_after_ms int,
	reset_after_ms int,
	amount int,
	reason text,
	scope text,
	limits jsonb
);
CREATE TABLE llmquota.rate_limit (
	scope text NOT NULL,
	amount int NOT NULL,
	per_ms bigint NOT NULL,
	burst int,
	mode text NOT NULL DEFAULT 'enforce',
	rollout numeric NOT NULL DEFAULT 1,
	note text,
	CONSTRAINT rate_limit_pkey PRIMARY KEY (scope),
	CONSTRAINT rate_limit_scope_valid CHECK (scope OPERATOR(pg_catalog.<>) '' AND pg_catalog.octet_length(scope) OPERATOR(pg_catalog.<=) 128),
	CONSTRAINT rate_limit_amount_valid CHECK (amount OPERATOR(pg_catalog.>) 0),
	CONSTRAINT rate_limit_per_ms_valid CHECK (per_ms OPERATOR(pg_catalog.>) 0 AND per_ms OPERATOR(pg_catalog.<=) 34560000000),
	CONSTRAINT rate_limit_burst_valid CHECK (burst OPERATOR(pg_catalog.>) 0
		AND (burst OPERATOR(pg_catalog.*) per_ms::numeric) OPERATOR(pg_catalog.<=) (34560000000::numeric OPERATOR(pg_catalog.*) amount)),
	CONSTRAINT rate_limit_mode_valid CHECK (mode OPERATOR(pg_catalog.=) ANY ('{enforce,observe}')),
	CONSTRAINT rate_limit_rollout_valid CHECK (rollout OPERATOR(pg_catalog.>=) 0 AND rollout OPERATOR(pg_catalog.<=) 1)
) USING heap;
CREATE TABLE llmquota.answer_namespace (
	namespace text NOT NULL,
	shared boolean NOT NULL DEFAULT false,
	ttl_ms int,
	stale_ms int,
	refresh_ms int,
	max_bytes bigint,
	CONSTRAINT answer_namespace_pkey PRIMARY KEY (namespace),
	CONSTRAINT answer_namespace_valid CHECK (namespace OPERATOR(pg_catalog.<>) '' AND pg_catalog.octet_length(namespace) OPERATOR(pg_catalog.<=) 128),
	CONSTRAINT answer_namespace_ttl_positive CHECK (ttl_ms OPERATOR(pg_catalog.>) 0),
	CONSTRAINT answer_namespace_stale_not_negative CHECK (stale_ms OPERATOR(pg_catalog.>=) 0),
	CONSTRAINT answer_namespace_refresh_positive CHECK (refresh_ms OPERATOR(pg_catalog.>) 0),
	CONSTRAINT answer_namespace_max_bytes_not_negative CHECK (max_bytes OPERATOR(pg_catalog.>=) 0)
) USING heap;
--
-- Tables: what instances of an application share. Ordinary rows, which go with their callers' transactions.
--

-- No index on anything that a put changes, and room on the pages: so a version replaces another where it is. What is
-- deleted is vacuumed soon and at full speed, because as much comes again.
CREATE TABLE llmquota.conversation (
	org text COLLATE "C" NOT NULL,
	channel text COLLATE "C" NOT NULL,
	user_id text COLLATE "C" NOT NULL,
	org_kind "char" NOT NULL DEFAULT 'o',
	version int NOT NULL,
	state jsonb,
	ttl_ms bigint NOT NULL,
	updated_at timestamptz NOT NULL,
	expires_at timestamptz NOT NULL,
	CONSTRAINT conversation_pkey PRIMARY KEY (org, channel, user_id, org_kind)
) USING heap WITH (fillfactor = 85, vacuum_truncate = false,
	autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0,
	toast.autovacuum_vacuum_threshold = 1000, toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_cost_delay = 0,
	toast.vacuum_truncate = false);
CREATE SEQUENCE llmquota.conversation_count;
-- Columns of a fixed width come first, among them used_at, which is written over in its place: src/cache_use.c knows where.
CREATE TABLE llmquota.answer (
	stored_at timestamptz NOT NULL,
	fresh_until timestamptz NOT NULL,
	stale_until timestamptz NOT NULL,
	used_at timestamptz NOT NULL,
	bytes int NOT NULL,
	org_kind "char" NOT NULL,
	namespace text COLLATE "C" NOT NULL,
	org text COLLATE "C" NOT NULL,
	hash text COLLATE "C" NOT NULL,
	answer jsonb NOT NULL,
	CONSTRAINT answer_pkey PRIMARY KEY (namespace, org, hash, org_kind)
) USING heap WITH (fillfactor = 85, vacuum_truncate = false,
	autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0,
	toast.autovacuum_vacuum_threshold = 1000, toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_cost_delay = 0,
	toast.vacuum_truncate = false);
CREATE TABLE llmquota.pruning (
	relation text NOT NULL,
	next_block bigint NOT NULL DEFAULT 0,
	kept bigint NOT NULL DEFAULT 0,
	counted_before bigint NOT NULL DEFAULT 0,
	next_expiry timestamptz NOT NULL DEFAULT 'infinity',
	began_at timestamptz NOT NULL DEFAULT '-infinity',
	read_us bigint NOT NULL DEFAULT 0,
	due timestamptz NOT NULL DEFAULT '-infinity',
	CONSTRAINT pruning_pkey PRIMARY KEY (relation)
);
-- Two rows to a page here too.
CREATE TABLE llmquota.rate_page (
	id int4 NOT NULL,
	state bytea NOT NULL
) USING heap WITH (vacuum_truncate = false);
CREATE INDEX rate_page_id ON llmquota.rate_page (id) WITH (deduplicate_items = off);
CREATE SEQUENCE llmquota.rate_full_count;

--
-- Functions, views and comments, in the order of the script of 0.2.0
--
COMMENT ON COLUMN llmquota.pick_result.status IS 'granted, queued, or why not: rate_limited, over_capacity, unavailable, too_large, no_route, disabled, no_lease_slot, attempts_exhausted, budget_exceeded; of a request_id that has a call already in_flight or duplicate';
COMMENT ON COLUMN llmquota.pick_result.refusal IS 'the limit that refused: scope, subject, model, metric, period, amount, used, requested, quota (or currency and budget), retry_at; of one that waits or has waited also position: its place in the line; or the trouble: scope, subject, model, trouble, failure, retry_at; of a retry also tried: the attempts before it, each with model, error_class, http_status; where a budget downgrades also requested_model and downgrades: the models tried in its place. Where neither refused: the disabled org''s scope and subject, the route that nothing serves, the setting max_leases or max_requests and its amount, or how many names were excluded. With in_flight and duplicate the call that there is: request_id, lease, attempt, and expires_at, or status, usage_source, model, input_tokens, output_tokens, recorded_at, cost, currency. NULL when granted';
COMMENT ON COLUMN llmquota.pick_result.timeout_ms IS 'milliseconds to wait for the provider''s answer before the call is given up, by the attempt and by how long calls of the model at the account take, within the route''s deadline; NULL unless granted';

COMMENT ON COLUMN llmquota.record_result.advice IS 'what to do next: done, fallback (at once, with another candidate: llmquota_retry), retry (after retry_after_ms), or stop; NULL for a lease of which nothing is known any more';
COMMENT ON COLUMN llmquota.record_result.retry_after_ms IS 'milliseconds to wait before the retry; NULL unless the advice is retry';
COMMENT ON COLUMN llmquota.record_result.cost IS 'what the call cost, as llmquota.usage has it; NULL: nobody knows';
COMMENT ON COLUMN llmquota.record_result.currency IS 'currency of the cost; NULL: no cost is known';

COMMENT ON TYPE llmquota.explain_result IS 'the answer of llmquota_explain: what a pick would find at one candidate';
COMMENT ON COLUMN llmquota.explain_result.rank IS 'the order in which a pick asks: steps, their models, own accounts before shared ones, tiers, and in a tier the better score first (strategies of routes other than least_used have an order of their own in a tier)';
COMMENT ON COLUMN llmquota.explain_result.step IS 'which step of the route, from 1';
COMMENT ON COLUMN llmquota.explain_result.model IS 'the model';
COMMENT ON COLUMN llmquota.explain_result.priority IS 'tier of the key';
COMMENT ON COLUMN llmquota.explain_result.weight IS 'weight of the key';
COMMENT ON COLUMN llmquota.explain_result.account IS 'account of the key; NULL: shared by all orgs, and named for administrators only';
COMMENT ON COLUMN llmquota.explain_result.key IS 'the key; NULL as for account';
COMMENT ON COLUMN llmquota.explain_result.verdict IS 'available, half_open (one call at a time is let through, to see), or why not: excluded, cooling, open, disabled, rate_limited, over_capacity, budget_exceeded, too_large';
COMMENT ON COLUMN llmquota.explain_result.score IS 'what would be left of the tightest limit, as a fraction of it; NULL: a limit refuses';
COMMENT ON COLUMN llmquota.explain_result.scope IS 'whose limit refuses, or who is in trouble: global, provider, account, model, key or org; NULL: nothing keeps a pick away';
COMMENT ON COLUMN llmquota.explain_result.subject IS 'which one, by name; NULL as for account, for an org above, or with the scope model';
COMMENT ON COLUMN llmquota.explain_result.metric IS 'what the limit counts; NULL: no limit refuses';
COMMENT ON COLUMN llmquota.explain_result.period IS 'its window; NULL: no limit refuses, or it is of concurrency';
COMMENT ON COLUMN llmquota.explain_result.quota IS 'id of its row in llmquota.quota, with the verdict budget_exceeded in llmquota.budget; NULL: no limit refuses';
COMMENT ON COLUMN llmquota.explain_result.amount IS 'what it allows; of a budget in its currency, as the next two; NULL: no limit refuses';
COMMENT ON COLUMN llmquota.explain_result.used IS 'what is used of it; NULL: no limit refuses';
COMMENT ON COLUMN llmquota.explain_result.requested IS 'what the request would add; NULL: no limit refuses';
COMMENT ON COLUMN llmquota.explain_result.retry_at IS 'when the candidate comes back; NULL: it is available, or nobody knows, or never';
COMMENT ON COLUMN llmquota.explain_result.since IS 'since when it is in trouble; NULL: it is not';
COMMENT ON COLUMN llmquota.explain_result.failure IS 'the kind of failure that caused the trouble; NULL: there is none, or somebody caused it';
COMMENT ON COLUMN llmquota.explain_result.http_status IS 'HTTP status of the answer that caused it; NULL: there was none, or it was not given';
COMMENT ON COLUMN llmquota.explain_result.lease IS 'the lease of the call that caused it; NULL: none did, or as for account';
COMMENT ON COLUMN llmquota.explain_result.reason IS 'what somebody said; NULL: nothing, or as for account';

COMMENT ON COLUMN llmquota.provider.breaker_failures IS 'so many failures in a row open a circuit breaker';
COMMENT ON COLUMN llmquota.provider.breaker_failure_rate IS 'so does this share of the calls of a minute, above 0 to 1';
COMMENT ON COLUMN llmquota.provider.breaker_min_calls IS '... if they are at least so many';
COMMENT ON COLUMN llmquota.provider.breaker_probe_ms IS 'after so many milliseconds an open breaker lets one call through to see; doubled each time it fails, up to five minutes';

COMMENT ON COLUMN llmquota.key.weight IS 'its share of the picks of its tier, relative to the weights of the others, where the strategy of the route goes by it; 0: only when no other admits';

COMMENT ON COLUMN llmquota.route.weight IS 'its share of the picks of its step, relative to the weights of the other models there; 0: only when no other admits';

COMMENT ON TABLE llmquota.price IS 'what tokens of a model cost. A call has the price that was valid when it was picked; one of a model without a price has no cost';
COMMENT ON COLUMN llmquota.price.model IS 'the model';
COMMENT ON COLUMN llmquota.price.valid_from IS 'calls picked from then on have this price, until a later one is valid';
COMMENT ON COLUMN llmquota.price.input IS 'for a million input tokens, up to 9000000000 with at most nine decimals, as the others; 0: free';
COMMENT ON COLUMN llmquota.price.output IS 'for a million output tokens';
COMMENT ON COLUMN llmquota.price.cached_input IS 'for a million input tokens that the provider reads from its cache; NULL: as input';
COMMENT ON COLUMN llmquota.price.cache_write IS 'for a million input tokens that the provider writes to its cache; NULL: as input';
COMMENT ON COLUMN llmquota.price.reasoning IS 'for a million output tokens spent on reasoning; NULL: as output';
COMMENT ON COLUMN llmquota.price.currency IS 'currency of the price: three capital letters (ISO 4217)';

COMMENT ON TABLE llmquota.exchange_rate IS 'what currencies are worth. The base currency (setting base_currency) is worth 1 and needs no row';
COMMENT ON COLUMN llmquota.exchange_rate.currency IS 'the currency: three capital letters (ISO 4217)';
COMMENT ON COLUMN llmquota.exchange_rate.valid_from IS 'for calls picked from then on, until a later rate is valid';
COMMENT ON COLUMN llmquota.exchange_rate.rate IS 'units of the base currency for one unit of this one, above 0 to 9000000, with at most twelve decimals';

COMMENT ON TABLE llmquota.route_option IS 'how a route chooses and tries again. A route, or model asked for by its name, without a row has the defaults of this table';
COMMENT ON COLUMN llmquota.route_option.route IS 'the route, or the model where there is no route of that name';
COMMENT ON COLUMN llmquota.route_option.org IS 'the org for whose picks the row holds, in place of the common one; empty: the common one';
COMMENT ON COLUMN llmquota.route_option.strategy IS 'which key of a tier is tried first: least_used, weighted, round_robin, lowest_latency, cheapest or sticky';
COMMENT ON COLUMN llmquota.route_option.max_attempts IS 'so many calls may be made for one request, 1 to 8';
COMMENT ON COLUMN llmquota.route_option.deadline_ms IS 'so many milliseconds after its first pick a request is not tried again';
COMMENT ON COLUMN llmquota.route_option.retry_same_model IS 'true: when no other model is left, a model that failed may be tried again with another key';
COMMENT ON COLUMN llmquota.route_option.params IS 'what the strategy goes by: {"session_ttl_ms": ...} of sticky, {"explore": ...} of lowest_latency; NULL, or what is not in it: the defaults';

COMMENT ON COLUMN llmquota.usage.first_lease IS 'the lease of the first attempt at the request, which all its attempts have in common; NULL: not known';
COMMENT ON COLUMN llmquota.usage.retry_of IS 'the lease of the attempt that failed before; NULL: a first attempt';
COMMENT ON COLUMN llmquota.usage.error_class IS 'what kind of failure it was: rate, quota_day, quota_month, billing, overloaded, server, timeout, cancelled, network, auth, forbidden, bad_request, content or not_found; NULL: none, or nobody recorded it';
COMMENT ON COLUMN llmquota.usage.cost IS 'what the call cost: as recorded, else its tokens (those that were reserved, where no better are known) by the price of its model when it was picked; NULL: nobody knows';
COMMENT ON COLUMN llmquota.usage.currency IS 'currency of the cost; NULL: no cost is known';
COMMENT ON COLUMN llmquota.usage.cost_base IS 'the cost in the base currency, by the rate of when it was picked; NULL: no cost or no rate is known';
COMMENT ON COLUMN llmquota.usage_hourly.cost_base IS 'what the calls cost in the base currency, where that is known';
COMMENT ON COLUMN llmquota.usage_undone.cost_base IS 'its cost in the base currency; NULL: not known';

COMMENT ON TABLE llmquota.event IS 'who was cooled, opened, disabled, and when that ended, as of the last maintenance; kept for the setting event_retention';
COMMENT ON COLUMN llmquota.event.event_at IS 'when it happened';
COMMENT ON COLUMN llmquota.event.number IS 'number of the event, from 1 in each installation; where numbers are missing there were more than 1024 between two rounds of maintenance';
COMMENT ON COLUMN llmquota.event.kind IS 'cooled, opened (its breaker) or disabled; cleared, closed or enabled, which end these';
COMMENT ON COLUMN llmquota.event.scope IS 'whom it is about: provider, account, model or key';
COMMENT ON COLUMN llmquota.event.subject IS 'which one, by name; NULL: with the scope model, which column model names; or it had been deleted';
COMMENT ON COLUMN llmquota.event.model IS 'the model; with the scope account that model there; NULL: whatever the model';
COMMENT ON COLUMN llmquota.event.since IS 'since when picks were kept from it';
COMMENT ON COLUMN llmquota.event.until IS 'until when, as it was known then; from then on one call at a time shows whether a breaker may close, or a credential is good again; NULL: until somebody enables it';
COMMENT ON COLUMN llmquota.event.failure IS 'the kind of failure that caused it; NULL: somebody did, or it has ended by itself';
COMMENT ON COLUMN llmquota.event.http_status IS 'HTTP status of the answer that caused it; NULL: not given, or there was none';
COMMENT ON COLUMN llmquota.event.lease IS 'the lease of the call that caused it, whose row in llmquota.usage has the answer; NULL: somebody did';
COMMENT ON COLUMN llmquota.event.reason IS 'what somebody said; NULL: nothing';

COMMENT ON TABLE llmquota.health IS 'what calls have shown of providers, accounts, models and keys; read it in llmquota.key_status and llmquota.event';
COMMENT ON COLUMN llmquota.health.id IS 'number of the cell';
COMMENT ON COLUMN llmquota.health.state IS 'what is known, edited in place';
COMMENT ON COLUMN llmquota.health.kind IS 'what the cell is about, as one letter';
COMMENT ON COLUMN llmquota.health.subject IS 'an account or provider, an id of llmquota.name; a number of its own for a cell about several';
COMMENT ON COLUMN llmquota.health.part IS 'the model, an id of llmquota.name; 0 for all together';

DROP FUNCTION @extschema@.llmquota_pick;
CREATE FUNCTION @extschema@.llmquota_pick(
	route text,
	org text DEFAULT '',
	input_tokens bigint DEFAULT NULL,
	max_output_tokens bigint DEFAULT NULL,
	priority text DEFAULT NULL,
	exclude text[] DEFAULT NULL,
	session text DEFAULT NULL,
	request_id text DEFAULT NULL,
	ttl_ms int DEFAULT NULL,
	prompt text DEFAULT NULL,
	retry_of uuid DEFAULT NULL,
	max_cost numeric DEFAULT NULL,
	wait_ms int DEFAULT NULL,
	queue boolean DEFAULT NULL)
RETURNS llmquota.pick_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_pick';

DO $$
BEGIN
	EXECUTE pg_catalog.format('CREATE FUNCTION @extschema@.llmquota_explain(%s) RETURNS SETOF llmquota.explain_result '
							  'LANGUAGE c VOLATILE PARALLEL UNSAFE AS ''MODULE_PATHNAME'', ''llmquota_explain''',
							  pg_catalog.pg_get_function_arguments('@extschema@.llmquota_pick'::pg_catalog.regproc));
END
$$;
COMMENT ON FUNCTION @extschema@.llmquota_explain IS
'What llmquota_pick with the same arguments would find: a row for every candidate, whether it is available or what keeps the pick from it, and until when. Charges nothing and counts nothing; works on a hot standby. No row: no enabled key serves the route for the org, or the org is disabled';

DROP FUNCTION @extschema@.llmquota_record;
CREATE FUNCTION @extschema@.llmquota_record(
	lease uuid,
	input_tokens bigint DEFAULT NULL,
	output_tokens bigint DEFAULT NULL,
	cached_tokens bigint DEFAULT NULL,
	cache_write_tokens bigint DEFAULT NULL,
	reasoning_tokens bigint DEFAULT NULL,
	http_status int DEFAULT NULL,
	error text DEFAULT NULL,
	latency_ms int DEFAULT NULL,
	tags jsonb DEFAULT NULL,
	usage jsonb DEFAULT NULL,
	headers jsonb DEFAULT NULL,
	cost numeric DEFAULT NULL)
RETURNS llmquota.record_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_record';
COMMENT ON FUNCTION @extschema@.llmquota_record(uuid, bigint, bigint, bigint, bigint, bigint, int, text, int, jsonb, jsonb, jsonb, numeric) IS
'Says how the call of a lease ended and what it used: settles the lease exactly once, corrects what the pick reserved, and writes the row of the ledger. NULL for any argument but lease means: not known';

CREATE FUNCTION @extschema@.llmquota_retry(
	lease uuid,
	input_tokens bigint DEFAULT NULL,
	output_tokens bigint DEFAULT NULL,
	cached_tokens bigint DEFAULT NULL,
	cache_write_tokens bigint DEFAULT NULL,
	reasoning_tokens bigint DEFAULT NULL,
	http_status int DEFAULT NULL,
	error text DEFAULT NULL,
	latency_ms int DEFAULT NULL,
	tags jsonb DEFAULT NULL,
	usage jsonb DEFAULT NULL,
	headers jsonb DEFAULT NULL,
	cost numeric DEFAULT NULL)
RETURNS llmquota.pick_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_retry';
COMMENT ON FUNCTION @extschema@.llmquota_retry(uuid, bigint, bigint, bigint, bigint, bigint, int, text, int, jsonb, jsonb, jsonb, numeric) IS
'Records that the call of a lease failed, as llmquota_record with the same arguments, and asks for the next attempt at the request, as llmquota_pick with the arguments of the first pick and retry_of: never again for what has failed. Call it as SELECT * FROM llmquota_retry(...). NULL for any argument but lease means: not known; http_status or error has to be given';

CREATE FUNCTION @extschema@.llmquota_estimate_tokens(prompt text, model text DEFAULT NULL)
RETURNS int
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_estimate_tokens';
COMMENT ON FUNCTION @extschema@.llmquota_estimate_tokens(text, text) IS
'How many input tokens a text has, estimated as llmquota_pick(prompt => ...) does, by what calls of the model have taught; NULL for model: without that. NULL for a prompt that is NULL. Changes nothing, and works on a hot standby';

DROP FUNCTION @extschema@.llmquota_maintain;
CREATE FUNCTION @extschema@.llmquota_maintain(
	OUT work_left boolean,
	OUT expired bigint,
	OUT retired bigint,
	OUT unborn_deleted bigint,
	OUT rows_counted bigint,
	OUT windows_completed bigint,
	OUT refusals_kept bigint,
	OUT history_dropped bigint,
	OUT rows_moved bigint,
	OUT partitions_created bigint,
	OUT partitions_dropped bigint,
	OUT troubles_ended bigint,
	OUT events_kept bigint,
	OUT alerts_raised bigint,
	OUT alerts_resolved bigint,
	OUT conversations_pruned bigint,
	OUT answers_dropped bigint)
RETURNS record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_maintain';
COMMENT ON FUNCTION @extschema@.llmquota_maintain() IS
'Ends leases that have expired, makes the partitions of the coming days, moves ledger rows out of the default partition, drops partitions past their retention, retires what nobody has used for a day, deletes rows of live state that nobody needs, counts the ledger by hours, keeps refusals and events for as long as they are to be kept, takes troubles off live state that are over, raises and resolves alerts, and drops answers that are too old or have no room. Answers how many of each (NULL: that step failed, a warning says why), and whether time ran out before all was done. To be called regularly';

CREATE FUNCTION @extschema@.llmquota_disable(key text, reason text DEFAULT NULL)
RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_disable';
COMMENT ON FUNCTION @extschema@.llmquota_disable(text, text) IS
'Keeps picks from a key until llmquota_enable, whatever calls succeed or fail. In force at once, and not undone by a rollback. reason: at most 37 bytes, NULL: none. Answers disabled';

CREATE FUNCTION @extschema@.llmquota_enable(key text)
RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_enable';
COMMENT ON FUNCTION @extschema@.llmquota_enable(text) IS
'Lets picks use a key again that was disabled by llmquota_disable, or because its credential was refused. In force at once, and not undone by a rollback. Answers enabled, or not_disabled';

CREATE FUNCTION @extschema@.llmquota_cool(
	scope text,
	subject text,
	duration_ms int,
	model text DEFAULT NULL,
	reason text DEFAULT NULL)
RETURNS timestamptz
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_cool';
COMMENT ON FUNCTION @extschema@.llmquota_cool(text, text, int, text, text) IS
'Keeps picks from a provider, account, model or key (scope) for so many milliseconds; with the scope account and a model, from that model there (NULL: from all). reason: at most 37 bytes, NULL: none. In force at once, and not undone by a rollback. Answers until when: later, if it was cooling for longer already';

CREATE FUNCTION @extschema@.llmquota_clear(
	scope text DEFAULT NULL,
	subject text DEFAULT NULL,
	model text DEFAULT NULL)
RETURNS int
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_clear';
COMMENT ON FUNCTION @extschema@.llmquota_clear(text, text, text) IS
'Ends the cooldowns and closes the breakers of a provider, account, model or key (scope); of an account with those of its models, or only those of one. Without arguments (all NULL): of everything. In force at once, and not undone by a rollback. What is disabled stays so. Answers how many were ended';

CREATE FUNCTION @extschema@.llmquota_adopt_limits(account text)
RETURNS int
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	seen record;
	quota llmquota.quota;
	adopted int := 0;
BEGIN
	IF account IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'account must not be NULL',
			HINT = 'Pass the name of an account.';
	END IF;
	IF NOT EXISTS (SELECT FROM llmquota.account a WHERE a.account OPERATOR(pg_catalog.=) $1) THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_object',
			MESSAGE = pg_catalog.format('account "%s" does not exist', $1),
			HINT = 'SELECT account FROM llmquota.account shows the accounts.';
	END IF;
	FOR seen IN
		SELECT o.model, m.family, o.metric, o.period, o.quota,
			   GREATEST(o.advertised, pg_catalog.ceil(o.configured OPERATOR(pg_catalog./) 100)) AS amount
		  FROM llmquota.observed_limit o
		  JOIN llmquota.model m ON m.model OPERATOR(pg_catalog.=) o.model
		 WHERE o.account OPERATOR(pg_catalog.=) $1 AND (o.configured IS NULL OR o.in_force IS NOT NULL)
		 ORDER BY o.model, o.metric, o.period
	LOOP
		SELECT * INTO quota FROM llmquota.quota q WHERE q.id OPERATOR(pg_catalog.=) seen.quota;
		IF NOT FOUND THEN
			quota.per := CASE WHEN seen.period OPERATOR(pg_catalog.<>) 'month' THEN ('1 ' OPERATOR(pg_catalog.||) seen.period)::pg_catalog.interval END;
			quota.calendar := CASE WHEN seen.period OPERATOR(pg_catalog.=) 'month' THEN 'month' END;
			quota.high_priority_share := 0;
			quota.mode := 'enforce';
			quota.counts_cached := true;
			quota.counts_failures := true;
		END IF;
		quota.model := CASE WHEN quota.family IS NULL THEN seen.model END;
		quota.family := CASE WHEN quota.family IS NOT NULL THEN seen.family END;
		UPDATE llmquota.quota q
		   SET amount = seen.amount
		 WHERE q.scope OPERATOR(pg_catalog.=) 'account' AND q.subject OPERATOR(pg_catalog.=) $1 AND q.metric OPERATOR(pg_catalog.=) seen.metric
		   AND COALESCE(q.model, '') OPERATOR(pg_catalog.=) COALESCE(quota.model, '')
		   AND COALESCE(q.family, '') OPERATOR(pg_catalog.=) COALESCE(quota.family, '')
		   AND COALESCE(q.per, '0') OPERATOR(pg_catalog.=) COALESCE(quota.per, '0')
		   AND COALESCE(q.calendar, '') OPERATOR(pg_catalog.=) COALESCE(quota.calendar, '')
		   AND COALESCE(q.timezone, '') OPERATOR(pg_catalog.=) COALESCE(quota.timezone, '');
		IF NOT FOUND THEN
			INSERT INTO llmquota.quota (scope, subject, model, family, metric, amount, per, calendar, timezone,
										high_priority_share, mode, counts_cached, counts_failures)
			VALUES ('account', $1, quota.model, quota.family, seen.metric, seen.amount, quota.per, quota.calendar,
					quota.timezone, quota.high_priority_share, quota.mode, quota.counts_cached, quota.counts_failures);
		END IF;
		adopted := adopted OPERATOR(pg_catalog.+) 1;
	END LOOP;
	RETURN adopted;
END
$$;
COMMENT ON FUNCTION @extschema@.llmquota_adopt_limits(text) IS
'Writes what the provider says of an account''s limits (llmquota.observed_limit) into llmquota.quota, as quotas of the account, by model or family: limits below the configured ones, and those of which nothing is configured; never less than a hundredth of what was configured. Answers how many';

CREATE FUNCTION @extschema@.llmquota_drain_events(
	OUT event_at timestamptz,
	OUT number bigint,
	OUT kind text,
	OUT scope text,
	OUT subject text,
	OUT model text,
	OUT since timestamptz,
	OUT until timestamptz,
	OUT failure text,
	OUT http_status int,
	OUT lease uuid,
	OUT reason text)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_drain_events';
COMMENT ON FUNCTION @extschema@.llmquota_drain_events() IS 'internal: events that are in live state and not yet in llmquota.event, where the current transaction now has to insert them';

CREATE FUNCTION @extschema@.llmquota_keep_events(deadline timestamptz)
RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	WITH kept AS (
		INSERT INTO llmquota.event (event_at, number, kind, scope, subject, model, since, until, failure, http_status, lease, reason)
		SELECT d.event_at, d.number, d.kind, d.scope, d.subject, d.model, d.since, d.until, d.failure, d.http_status, d.lease, d.reason
		  FROM @extschema@.llmquota_drain_events() d
		RETURNING 1
	)
	SELECT pg_catalog.count(*) FROM kept;
END;
COMMENT ON FUNCTION @extschema@.llmquota_keep_events(timestamptz) IS 'internal, a step of llmquota_maintain: writes events into llmquota.event; answers how many. It goes on past the deadline, because there are never many';

CREATE OR REPLACE FUNCTION @extschema@.llmquota_keep_undone()
RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO llmquota.usage_undone (leaf, recorded_in, org, model, key, picked_at, status, attempt, input_tokens,
									   cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, latency_ms,
									   cost_base)
	VALUES (TG_RELID, OLD.recorded_in, OLD.org, OLD.model, OLD.key, OLD.picked_at, OLD.status, OLD.attempt, OLD.input_tokens,
			OLD.cached_tokens, OLD.cache_write_tokens, OLD.output_tokens, OLD.reasoning_tokens, OLD.latency_ms, OLD.cost_base);
	RETURN NULL;
END
$$;

CREATE FUNCTION @extschema@.llmquota_add_hours(changes llmquota.usage_hourly[])
RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	INSERT INTO llmquota.usage_hourly AS h
	SELECT c.* FROM pg_catalog.unnest(changes) c
	ON CONFLICT (org, hour, model, key) DO UPDATE SET
		calls = h.calls OPERATOR(pg_catalog.+) EXCLUDED.calls,
		ok = h.ok OPERATOR(pg_catalog.+) EXCLUDED.ok,
		error = h.error OPERATOR(pg_catalog.+) EXCLUDED.error,
		expired = h.expired OPERATOR(pg_catalog.+) EXCLUDED.expired,
		released = h.released OPERATOR(pg_catalog.+) EXCLUDED.released,
		later_attempts = h.later_attempts OPERATOR(pg_catalog.+) EXCLUDED.later_attempts,
		input_tokens = h.input_tokens OPERATOR(pg_catalog.+) EXCLUDED.input_tokens,
		cached_tokens = h.cached_tokens OPERATOR(pg_catalog.+) EXCLUDED.cached_tokens,
		cache_write_tokens = h.cache_write_tokens OPERATOR(pg_catalog.+) EXCLUDED.cache_write_tokens,
		output_tokens = h.output_tokens OPERATOR(pg_catalog.+) EXCLUDED.output_tokens,
		reasoning_tokens = h.reasoning_tokens OPERATOR(pg_catalog.+) EXCLUDED.reasoning_tokens,
		latency = @extschema@.llmquota_histogram_trim(@extschema@.llmquota_histogram_add(h.latency, EXCLUDED.latency)),
		cost_base = h.cost_base OPERATOR(pg_catalog.+) EXCLUDED.cost_base;
END;
COMMENT ON FUNCTION @extschema@.llmquota_add_hours(llmquota.usage_hourly[]) IS 'internal: adds to the rows of llmquota.usage_hourly';

CREATE OR REPLACE FUNCTION @extschema@.llmquota_roll_up_leaf(leaf oid)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET enable_seqscan = off SET jit = off
AS $$
DECLARE
	at_once CONSTANT pg_catalog.int8 := 100000;
	uncounted CONSTANT pg_catalog.text :=
		'u.recorded_in OPERATOR(pg_catalog.>=) COALESCE(pg_catalog.txid_snapshot_xmin($1), 0) '
		'AND pg_catalog.txid_visible_in_snapshot(u.recorded_in, $2) '
		'AND pg_catalog.txid_visible_in_snapshot(u.recorded_in, $1) IS NOT TRUE';
	before CONSTANT pg_catalog.txid_snapshot := (SELECT r.counted FROM llmquota.usage_rollup r WHERE r.leaf OPERATOR(pg_catalog.=) $1);
	after pg_catalog.txid_snapshot := @extschema@.llmquota_snapshot_before(pg_catalog.txid_current_snapshot(), pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()));
	undone CONSTANT boolean := EXISTS (SELECT FROM llmquota.usage_undone g WHERE g.leaf OPERATOR(pg_catalog.=) $1);
	first pg_catalog.int8;
	changed record;
BEGIN
	EXECUTE pg_catalog.format('SELECT u.recorded_in FROM %s u WHERE %s LIMIT 1', $1::pg_catalog.regclass, uncounted)
	   INTO first USING before, after;
	IF first IS NULL AND NOT undone AND before IS NOT NULL THEN
		RETURN 0;
	END IF;
	IF first IS NOT NULL THEN
		after := @extschema@.llmquota_snapshot_before(after, first OPERATOR(pg_catalog.+) at_once);
	END IF;

	EXECUTE pg_catalog.format(
		'WITH gone AS ('
		'	DELETE FROM llmquota.usage_undone g WHERE g.leaf OPERATOR(pg_catalog.=) $3 RETURNING g.*'
		'), change AS ('
		'	SELECT 1::pg_catalog.int8 AS sign, u.org, u.model, u.key, u.picked_at, u.status, u.attempt, u.input_tokens,'
		'		   u.cached_tokens, u.cache_write_tokens, u.output_tokens, u.reasoning_tokens, u.latency_ms, u.cost_base'
		'	  FROM %s u'
		'	 WHERE %s AND u.recorded_in OPERATOR(pg_catalog.<) pg_catalog.txid_snapshot_xmax($2)'
		'	UNION ALL'
		'	SELECT (-1)::pg_catalog.int8, g.org, g.model, g.key, g.picked_at, g.status, g.attempt, g.input_tokens,'
		'		   g.cached_tokens, g.cache_write_tokens, g.output_tokens, g.reasoning_tokens, g.latency_ms, g.cost_base'
		'	  FROM gone g'
		'	 WHERE pg_catalog.txid_visible_in_snapshot(g.recorded_in, $1)'
		'), by_hour AS ('
		'	SELECT c.org, c.model, c.key, pg_catalog.date_trunc(''hour'', c.picked_at, ''UTC'') AS hour,'
		'		   pg_catalog.sum(c.sign)::pg_catalog.int8,'
		'		   COALESCE(pg_catalog.sum(c.sign) FILTER (WHERE c.status OPERATOR(pg_catalog.=) ''ok''), 0)::pg_catalog.int8,'
		'		   COALESCE(pg_catalog.sum(c.sign) FILTER (WHERE c.status OPERATOR(pg_catalog.=) ''error''), 0)::pg_catalog.int8,'
		'		   COALESCE(pg_catalog.sum(c.sign) FILTER (WHERE c.status OPERATOR(pg_catalog.=) ''expired''), 0)::pg_catalog.int8,'
		'		   COALESCE(pg_catalog.sum(c.sign) FILTER (WHERE c.status OPERATOR(pg_catalog.=) ''released''), 0)::pg_catalog.int8,'
		'		   COALESCE(pg_catalog.sum(c.sign) FILTER (WHERE c.attempt OPERATOR(pg_catalog.>) 1), 0)::pg_catalog.int8,'
		'		   COALESCE(pg_catalog.sum(c.sign OPERATOR(pg_catalog.*) c.input_tokens), 0)::pg_catalog.int8,'
		'		   COALESCE(pg_catalog.sum(c.sign OPERATOR(pg_catalog.*) c.cached_tokens), 0)::pg_catalog.int8,'
		'		   COALESCE(pg_catalog.sum(c.sign OPERATOR(pg_catalog.*) c.cache_write_tokens), 0)::pg_catalog.int8,'
		'		   COALESCE(pg_catalog.sum(c.sign OPERATOR(pg_catalog.*) c.output_tokens), 0)::pg_catalog.int8,'
		'		   COALESCE(pg_catalog.sum(c.sign OPERATOR(pg_catalog.*) c.reasoning_tokens), 0)::pg_catalog.int8,'
		'		   @extschema@.llmquota_histogram(c.latency_ms, c.sign),'
		'		   COALESCE(pg_catalog.sum(c.sign::pg_catalog.numeric OPERATOR(pg_catalog.*) c.cost_base), 0.000000000)'
		'	  FROM change c'
		'	 GROUP BY c.org, c.model, c.key, pg_catalog.date_trunc(''hour'', c.picked_at, ''UTC'')'
		')'
		'SELECT (SELECT pg_catalog.count(*) FROM change) AS rows,'
		'	   EXISTS (SELECT FROM gone) AS undone,'
		'	   pg_catalog.array_agg(ROW(h.*)::llmquota.usage_hourly) AS hours,'
		'	   pg_catalog.min(h.hour) AS earliest, pg_catalog.max(h.hour) AS latest'
		'  FROM by_hour h', $1::pg_catalog.regclass, uncounted)
	   INTO changed USING before, after, $1;
	PERFORM @extschema@.llmquota_add_hours(changed.hours);
	IF changed.undone THEN
		DELETE FROM llmquota.usage_hourly h
		 WHERE h.calls OPERATOR(pg_catalog.=) 0
		   AND h.hour OPERATOR(pg_catalog.>=) changed.earliest AND h.hour OPERATOR(pg_catalog.<=) changed.latest;
	END IF;
	DELETE FROM llmquota.usage_rollup r WHERE r.leaf OPERATOR(pg_catalog.=) $1;
	INSERT INTO llmquota.usage_rollup (leaf, counted) VALUES ($1, after);
	RETURN changed.rows;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.llmquota_drop_history(deadline timestamptz)
RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	WITH retention AS (
		SELECT pg_catalog.now() OPERATOR(pg_catalog.-) pg_catalog.make_interval(days => COALESCE(
				   (SELECT s.value::int FROM llmquota.setting s WHERE s.name OPERATOR(pg_catalog.=) 'refusal_retention'), 400)) AS hourly,
			   pg_catalog.now() OPERATOR(pg_catalog.-) pg_catalog.make_interval(days => COALESCE(
				   (SELECT s.value::int FROM llmquota.setting s WHERE s.name OPERATOR(pg_catalog.=) 'refusal_sample_retention'), 30)) AS sample,
			   pg_catalog.now() OPERATOR(pg_catalog.-) pg_catalog.make_interval(days => 1 OPERATOR(pg_catalog.+) COALESCE(
				   (SELECT s.value::int FROM llmquota.setting s WHERE s.name OPERATOR(pg_catalog.=) 'usage_retention'), 400)) AS usage,
			   pg_catalog.now() OPERATOR(pg_catalog.-) pg_catalog.make_interval(days => COALESCE(
				   (SELECT s.value::int FROM llmquota.setting s WHERE s.name OPERATOR(pg_catalog.=) 'event_retention'), 90)) AS event,
			   pg_catalog.now() OPERATOR(pg_catalog.-) pg_catalog.make_interval(days => COALESCE(
				   (SELECT s.value::int FROM llmquota.setting s WHERE s.name OPERATOR(pg_catalog.=) 'alert_retention'), 90)) AS alert
	), usage AS (
		DELETE FROM llmquota.usage_hourly h
		 WHERE h.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(
				SELECT o.ctid FROM llmquota.usage_hourly o WHERE o.hour OPERATOR(pg_catalog.<) (SELECT r.usage FROM retention r) LIMIT 10000))
		RETURNING 1
	), hourly AS (
		DELETE FROM llmquota.refusal_hourly h
		 WHERE h.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(
				SELECT o.ctid FROM llmquota.refusal_hourly o WHERE o.hour OPERATOR(pg_catalog.<) (SELECT r.hourly FROM retention r) LIMIT 10000))
		RETURNING 1
	), sample AS (
		DELETE FROM llmquota.refusal_sample m
		 WHERE m.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(
				SELECT o.ctid FROM llmquota.refusal_sample o WHERE o.minute OPERATOR(pg_catalog.<) (SELECT r.sample FROM retention r) LIMIT 10000))
		RETURNING 1
	), repricing AS (
		DELETE FROM llmquota.repricing p
		 WHERE p.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(
				SELECT o.ctid FROM llmquota.repricing o
				 WHERE o.day OPERATOR(pg_catalog.<) (SELECT (r.usage AT TIME ZONE 'UTC')::date FROM retention r) LIMIT 10000))
		RETURNING 1
	), event AS (
		DELETE FROM llmquota.event e
		 WHERE e.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(
				SELECT o.ctid FROM llmquota.event o WHERE o.event_at OPERATOR(pg_catalog.<) (SELECT r.event FROM retention r) LIMIT 10000))
		RETURNING 1
	), alert AS (
		DELETE FROM llmquota.alert l
		 WHERE l.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(
				SELECT o.ctid FROM llmquota.alert o WHERE o.resolved_at OPERATOR(pg_catalog.<) (SELECT r.alert FROM retention r) LIMIT 10000))
		RETURNING 1
	)
	SELECT (SELECT pg_catalog.count(*) FROM usage) OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM hourly)
		   OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM sample) OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM event)
		   OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM repricing) OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM alert);
END;
COMMENT ON FUNCTION @extschema@.llmquota_drop_history(timestamptz) IS 'internal, a step of llmquota_maintain: deletes rows of llmquota.usage_hourly, llmquota.repricing, llmquota.refusal_hourly, llmquota.refusal_sample, llmquota.event and llmquota.alert past their retention, at most 10000 of each; answers how many';

CREATE OR REPLACE FUNCTION @extschema@.llmquota_apply_grants(role text)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	calls CONSTANT pg_catalog.text := '@extschema@.llmquota_pick(pg_catalog.text, pg_catalog.text, bigint, bigint, pg_catalog.text, pg_catalog.text[], pg_catalog.text, pg_catalog.text, int, pg_catalog.text, pg_catalog.uuid, pg_catalog.numeric, int, boolean), '
		'@extschema@.llmquota_claim(pg_catalog.uuid, int), '
		'@extschema@.llmquota_record(pg_catalog.uuid, bigint, bigint, bigint, bigint, bigint, int, pg_catalog.text, int, pg_catalog.jsonb, pg_catalog.jsonb, pg_catalog.jsonb, pg_catalog.numeric), '
		'@extschema@.llmquota_retry(pg_catalog.uuid, bigint, bigint, bigint, bigint, bigint, int, pg_catalog.text, int, pg_catalog.jsonb, pg_catalog.jsonb, pg_catalog.jsonb, pg_catalog.numeric), '
		'@extschema@.llmquota_pick_many(pg_catalog.text, pg_catalog.text, int, bigint, bigint, pg_catalog.text, pg_catalog.text[], pg_catalog.text, int, pg_catalog.text, pg_catalog.numeric), '
		'@extschema@.llmquota_pick_set(pg_catalog.text, pg_catalog.text[], bigint[], bigint[], pg_catalog.text, pg_catalog.text[], pg_catalog.text[], pg_catalog.text[], int, pg_catalog.text[], pg_catalog.numeric[], int), '
		'@extschema@.llmquota_explain, '
		'@extschema@.llmquota_release(pg_catalog.uuid), '
		'@extschema@.llmquota_renew(pg_catalog.uuid, int), '
		'@extschema@.llmquota_cache_put(pg_catalog.text, pg_catalog.text, pg_catalog.jsonb, int, int, pg_catalog.text), '
		'@extschema@.llmquota_cache_get(pg_catalog.text, pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_cache_key(pg_catalog.jsonb), '
		'@extschema@.llmquota_estimate_tokens(pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_allow(pg_catalog.text, pg_catalog.text, int, bigint, int, int, pg_catalog.text), '
		'@extschema@.llmquota_allow_all(pg_catalog.jsonb), '
		'@extschema@.llmquota_session_put(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.jsonb, bigint, int), '
		'@extschema@.llmquota_session_get(pg_catalog.text, pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_session_drop(pg_catalog.text, pg_catalog.text, pg_catalog.text, int), '
		'@extschema@.llmquota_session_id(pg_catalog.text, pg_catalog.text)';
	administration CONSTANT pg_catalog.text := '@extschema@.llmquota_maintain(), '
		'@extschema@.llmquota_verify(boolean), '
		'@extschema@.llmquota_disable(pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_enable(pg_catalog.text), '
		'@extschema@.llmquota_cool(pg_catalog.text, pg_catalog.text, int, pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_clear(pg_catalog.text, pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_ack(bigint), '
		'@extschema@.llmquota_rename(pg_catalog.text, pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_forget(pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_rebuild(), '
		'@extschema@.llmquota_reprice(pg_catalog.timestamptz, pg_catalog.timestamptz), '
		'@extschema@.llmquota_reconcile(pg_catalog.text, pg_catalog.regclass, pg_catalog.jsonb, pg_catalog.date, pg_catalog.date, pg_catalog.text, pg_catalog.text, pg_catalog.jsonb), '
		'@extschema@.llmquota_check_reconcile(pg_catalog.text, pg_catalog.regclass, pg_catalog.jsonb, pg_catalog.text, pg_catalog.text, pg_catalog.jsonb), '
		'@extschema@.llmquota_export_field(pg_catalog.regclass, pg_catalog.jsonb, pg_catalog.text), '
		'@extschema@.llmquota_export_column(pg_catalog.regclass, pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_key_state(pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_lease_rows(), '
		'@extschema@.llmquota_line_rows(), '
		'@extschema@.llmquota_meter_rows(), '
		'@extschema@.llmquota_budget_rows(), '
		'@extschema@.llmquota_raise_budget(pg_catalog.text, pg_catalog.numeric, pg_catalog.timestamptz, pg_catalog.text, bigint), '
		'@extschema@.llmquota_observed_rows(), '
		'@extschema@.llmquota_adopt_limits(pg_catalog.text), '
		'@extschema@.llmquota_live_counts(), '
		'@extschema@.llmquota_metrics(), '
		'@extschema@.llmquota_worker_rows(), '
		'@extschema@.llmquota_names_valid(pg_catalog.text[]), '
		'@extschema@.llmquota_zone_exists(pg_catalog.text)';
	configuration CONSTANT pg_catalog.text := 'llmquota.provider, llmquota.account, llmquota.key, llmquota.model, llmquota.price, llmquota.exchange_rate, llmquota.route, llmquota.route_option, llmquota.org, llmquota.quota, llmquota.budget, llmquota.budget_step, llmquota.setting, llmquota.rate_limit, llmquota.answer_namespace';
	spend CONSTANT pg_catalog.text := 'llmquota.usage, llmquota.usage_hourly, llmquota.burn_rate, llmquota.exhaustion, llmquota.repricing, llmquota.refusal_hourly, llmquota.alert, llmquota.capacity';
	reports CONSTANT pg_catalog.text := '@extschema@.llmquota_exhaustion_rows(), '
		'@extschema@.llmquota_statement(pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_capacity(pg_catalog.text, pg_catalog.text, bigint, bigint), '
		'@extschema@.llmquota_capacity_rows(), '
		'@extschema@.llmquota_percentile(bigint[], float8), '
		'@extschema@.llmquota_histogram(int, bigint), '
		'@extschema@.llmquota_histogram_sum(bigint[])';
	foresight CONSTANT pg_catalog.text := '@extschema@.llmquota_backtest(pg_catalog.jsonb, pg_catalog.timestamptz, pg_catalog.timestamptz)';
	reading CONSTANT pg_catalog.text := 'llmquota.usage_current, llmquota.budget_raise, llmquota.budget_window, llmquota.alias, llmquota.former_name, llmquota.change, llmquota.event, llmquota.key_status, llmquota.lease, llmquota.meter_window, llmquota.observed_limit, llmquota.waiting, llmquota.worker_status, llmquota.role_grant';
	is_app CONSTANT boolean := EXISTS (SELECT FROM llmquota.role_grant g
										WHERE g.role OPERATOR(pg_catalog.=) $1 AND g.kind OPERATOR(pg_catalog.=) ANY ('{app,admin}'::pg_catalog.text[]));
	is_reader CONSTANT boolean := EXISTS (SELECT FROM llmquota.role_grant g
										   WHERE g.role OPERATOR(pg_catalog.=) $1 AND g.kind OPERATOR(pg_catalog.=) ANY ('{analyst,admin}'::pg_catalog.text[]));
	sees_all CONSTANT boolean := EXISTS (SELECT FROM llmquota.role_grant g
										  WHERE g.role OPERATOR(pg_catalog.=) $1
											AND (g.kind OPERATOR(pg_catalog.=) 'admin' OR g.kind OPERATOR(pg_catalog.=) 'analyst' AND g.org IS NULL));
	is_admin CONSTANT boolean := EXISTS (SELECT FROM llmquota.role_grant g
										  WHERE g.role OPERATOR(pg_catalog.=) $1 AND g.kind OPERATOR(pg_catalog.=) 'admin');
BEGIN
	IF is_app THEN
		EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %I', calls, role);
	ELSE
		EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM %I', calls, role);
	END IF;
	IF is_reader THEN
		EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA llmquota TO %I', role);
		EXECUTE pg_catalog.format('GRANT SELECT ON %s TO %I', spend, role);
		EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %I', reports, role);
	ELSE
		EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM %I', reports, role);
		EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %I', spend, role);
		EXECUTE pg_catalog.format('REVOKE ALL ON SCHEMA llmquota FROM %I', role);
	END IF;
	IF is_admin THEN
		EXECUTE pg_catalog.format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I', configuration, role);
		EXECUTE pg_catalog.format('GRANT SELECT ON %s TO %I', reading, role);
		EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %I', administration, role);
	ELSE
		EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM %I', administration, role);
		EXECUTE pg_catalog.format('REVOKE ALL ON %s, %s FROM %I', configuration, reading, role);
	END IF;
	-- the names of shared accounts and keys are not for who sees one org only
	EXECUTE pg_catalog.format('REVOKE ALL ON llmquota.refusal_sample FROM %I', role);
	EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM %I', foresight, role);
	IF sees_all THEN
		EXECUTE pg_catalog.format('GRANT SELECT ON llmquota.refusal_sample TO %I', role);
		EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %I', foresight, role);
	ELSIF is_reader THEN
		EXECUTE pg_catalog.format('GRANT SELECT (minute, org, quota, status, refused_at, route, priority, input_tokens, max_output_tokens, request_id, refusal) '
								  'ON llmquota.refusal_sample TO %I', role);
	END IF;
	PERFORM @extschema@.llmquota_apply_policies(role);
END
$$;

CREATE FUNCTION @extschema@.llmquota_apply_all_grants()
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_apply_all_grants';
COMMENT ON FUNCTION @extschema@.llmquota_apply_all_grants() IS 'internal: does what llmquota_apply_grants does for all roles of llmquota.role_grant, also in a script of the extension';

CREATE OR REPLACE FUNCTION @extschema@.llmquota_check_rename(kind text, old_name text, new_name text)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	-- an org is the subject of two scopes
	scopes CONSTANT pg_catalog.text[] := CASE WHEN kind OPERATOR(pg_catalog.=) 'org' THEN '{org,parent}' ELSE ARRAY[kind] END;
	now_called pg_catalog.text;
	known boolean;
BEGIN
	IF kind IS NULL OR old_name IS NULL OR new_name IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed',
			MESSAGE = 'kind, old_name and new_name must not be NULL';
	END IF;
	IF kind OPERATOR(pg_catalog.<>) ALL ('{org,account,key,model}'::pg_catalog.text[]) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = pg_catalog.format('cannot rename anything of the kind "%s"', kind),
			HINT = 'Use org, account, key or model.';
	END IF;
	IF old_name OPERATOR(pg_catalog.=) ANY (ARRAY[new_name, '*']) OR new_name OPERATOR(pg_catalog.=) '*' OR pg_catalog.octet_length(new_name) OPERATOR(pg_catalog.>) 128 THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = pg_catalog.format('cannot rename %s "%s" to "%s"', kind, old_name, pg_catalog.left(new_name, 40)),
			HINT = 'Names have 1 to 128 bytes, and are not "*".';
	END IF;
	SELECT c.name INTO now_called
	  FROM llmquota.alias a
	  JOIN llmquota.alias c ON c.kind OPERATOR(pg_catalog.=) a.kind AND c.cell OPERATOR(pg_catalog.=) a.cell
						   AND c.generation OPERATOR(pg_catalog.=) a.generation AND c.is_current
	 WHERE a.kind OPERATOR(pg_catalog.=) $1 AND a.name OPERATOR(pg_catalog.=) $2 AND a.until IS NULL AND NOT a.is_current;
	IF FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_object',
			MESSAGE = pg_catalog.format('%s "%s" is called "%s" now', kind, old_name, now_called),
			HINT = 'Rename it by that name.';
	END IF;
	EXECUTE pg_catalog.format('SELECT true FROM llmquota.%1$I t WHERE t.%1$I OPERATOR(pg_catalog.=) $1', kind) INTO known USING old_name;
	IF known IS NULL AND NOT (kind OPERATOR(pg_catalog.=) 'org'
		AND (EXISTS (SELECT FROM llmquota.name n WHERE n.kind OPERATOR(pg_catalog.=) 'o' AND n.name OPERATOR(pg_catalog.=) old_name)
			 OR EXISTS (SELECT FROM llmquota.conversation c
						 WHERE c.org OPERATOR(pg_catalog.=) old_name AND c.org_kind OPERATOR(pg_catalog.=) 'o')
			 OR EXISTS (SELECT FROM llmquota.alias a
						 WHERE a.kind OPERATOR(pg_catalog.=) 'org' AND a.name OPERATOR(pg_catalog.=) old_name AND a.is_current))) THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_object',
			MESSAGE = pg_catalog.format('%s "%s" does not exist', kind, old_name);
	END IF;
	EXECUTE pg_catalog.format('SELECT true FROM llmquota.%1$I t WHERE t.%1$I OPERATOR(pg_catalog.=) $1', kind) INTO known USING new_name;
	IF known OR EXISTS (SELECT FROM llmquota.quota q
						 WHERE q.scope OPERATOR(pg_catalog.=) kind AND q.subject OPERATOR(pg_catalog.=) new_name
							OR kind OPERATOR(pg_catalog.=) 'model' AND q.model OPERATOR(pg_catalog.=) new_name)
	   OR EXISTS (SELECT FROM llmquota.budget b
				   WHERE b.scope OPERATOR(pg_catalog.=) ANY (scopes) AND (b.subject OPERATOR(pg_catalog.=) new_name
						 OR EXISTS (SELECT FROM llmquota.budget_raise r
									 WHERE r.budget OPERATOR(pg_catalog.=) b.id AND r.subject OPERATOR(pg_catalog.=) new_name
									   AND r.until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()))
					  OR kind OPERATOR(pg_catalog.=) 'model' AND b.model OPERATOR(pg_catalog.=) new_name)
	   OR kind OPERATOR(pg_catalog.=) 'org' AND (EXISTS (SELECT FROM llmquota.account a WHERE a.org OPERATOR(pg_catalog.=) new_name)
												 OR EXISTS (SELECT FROM llmquota.route r WHERE r.org OPERATOR(pg_catalog.=) new_name)
												 OR EXISTS (SELECT FROM llmquota.route_option r WHERE r.org OPERATOR(pg_catalog.=) new_name)) THEN
		RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
			MESSAGE = pg_catalog.format('%s "%s" already exists in the configuration', kind, new_name);
	END IF;
	IF EXISTS (SELECT FROM @extschema@.llmquota_lease_rows() l
				WHERE new_name OPERATOR(pg_catalog.=) CASE WHEN kind OPERATOR(pg_catalog.=) 'org' THEN l.org WHEN kind OPERATOR(pg_catalog.=) 'account' THEN l.account
														   WHEN kind OPERATOR(pg_catalog.=) 'key' THEN l.key ELSE l.model END
				  AND l.state OPERATOR(pg_catalog.=) 'granted')
	   OR EXISTS (SELECT FROM (SELECT r.scope, r.subject, r.part_kind, r.part FROM @extschema@.llmquota_meter_rows() r
							   UNION ALL
							   SELECT b.scope, b.subject, b.part_kind, b.part FROM @extschema@.llmquota_budget_rows() b) m
				   WHERE m.scope OPERATOR(pg_catalog.=) ANY (scopes) AND m.subject OPERATOR(pg_catalog.=) new_name
					  OR m.part_kind OPERATOR(pg_catalog.=) kind AND m.part OPERATOR(pg_catalog.=) new_name)
	   OR kind OPERATOR(pg_catalog.=) 'org'
		  AND EXISTS (SELECT FROM llmquota.conversation c
					   WHERE c.org OPERATOR(pg_catalog.=) new_name AND c.org_kind OPERATOR(pg_catalog.=) 'o'
						 AND c.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp())
		  AND NOT EXISTS (SELECT FROM llmquota.alias a
						   WHERE a.kind OPERATOR(pg_catalog.=) 'org' AND a.name OPERATOR(pg_catalog.=) new_name AND a.until IS NULL) THEN
		RAISE EXCEPTION USING ERRCODE = 'object_in_use',
			MESSAGE = pg_catalog.format('%s "%s" is in use', kind, new_name),
			HINT = 'Rename before callers use the new name: the old one goes on standing for it. What nobody has used for a day is no longer in use.';
	END IF;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.llmquota_rename(kind text, old_name text, new_name text)
RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- an org is the subject of two scopes
	scopes CONSTANT pg_catalog.text[] := CASE WHEN kind OPERATOR(pg_catalog.=) 'org' THEN '{org,parent}' ELSE ARRAY[kind] END;
	bearer record;
BEGIN
	-- nobody gives anything a name meanwhile; all at once and in one order, because all of them may be changed below
	LOCK TABLE llmquota.org, llmquota.account, llmquota.key, llmquota.model, llmquota.alias IN SHARE ROW EXCLUSIVE MODE;
	PERFORM @extschema@.llmquota_check_rename(kind, old_name, new_name);

	-- who bears the old name: nobody has been renamed to it, or somebody has
	INSERT INTO llmquota.alias (kind, name, cell, since, is_current) VALUES ($1, $2, $2, '-infinity', true)
		ON CONFLICT DO NOTHING;
	UPDATE llmquota.alias a SET is_current = false
	 WHERE a.kind OPERATOR(pg_catalog.=) $1 AND a.name OPERATOR(pg_catalog.=) $2 AND a.until IS NULL
	RETURNING a.cell, a.generation INTO STRICT bearer;
	-- a former name of its own becomes the current one again; one of another's stands for that no longer
	UPDATE llmquota.alias a SET is_current = true
	 WHERE a.kind OPERATOR(pg_catalog.=) $1 AND a.name OPERATOR(pg_catalog.=) $3 AND a.until IS NULL
	   AND a.cell OPERATOR(pg_catalog.=) bearer.cell AND a.generation OPERATOR(pg_catalog.=) bearer.generation;
	IF NOT FOUND THEN
		UPDATE llmquota.alias a SET until = pg_catalog.clock_timestamp()
		 WHERE a.kind OPERATOR(pg_catalog.=) $1 AND a.name OPERATOR(pg_catalog.=) $3 AND a.until IS NULL;
		INSERT INTO llmquota.alias (kind, name, cell, generation, since, is_current)
		VALUES ($1, $3, bearer.cell, bearer.generation, pg_catalog.clock_timestamp(), true);
	END IF;

	EXECUTE pg_catalog.format('UPDATE llmquota.%1$I t SET %1$I = $2 WHERE t.%1$I OPERATOR(pg_catalog.=) $1', kind) USING old_name, new_name;
	UPDATE llmquota.quota q SET subject = new_name
	 WHERE q.scope OPERATOR(pg_catalog.=) $1 AND q.subject OPERATOR(pg_catalog.=) $2;
	UPDATE llmquota.budget b SET subject = new_name
	 WHERE b.scope OPERATOR(pg_catalog.=) ANY (scopes) AND b.subject OPERATOR(pg_catalog.=) $2;
	UPDATE llmquota.budget_raise r SET subject = new_name
	  FROM llmquota.budget b
	 WHERE b.id OPERATOR(pg_catalog.=) r.budget AND b.scope OPERATOR(pg_catalog.=) ANY (scopes) AND r.subject OPERATOR(pg_catalog.=) $2;
	UPDATE llmquota.alert a
	   SET subject = new_name,
		   org = CASE WHEN $1 OPERATOR(pg_catalog.=) 'org' THEN new_name END
	 WHERE a.scope OPERATOR(pg_catalog.=) ANY (scopes) AND a.subject OPERATOR(pg_catalog.=) $2;
	IF kind OPERATOR(pg_catalog.=) 'org' THEN
		UPDATE llmquota.account a SET org = new_name WHERE a.org OPERATOR(pg_catalog.=) $2;
		UPDATE llmquota.route r SET org = new_name WHERE r.org OPERATOR(pg_catalog.=) $2;
		UPDATE llmquota.route_option r SET org = new_name WHERE r.org OPERATOR(pg_catalog.=) $2;
		UPDATE llmquota.role_grant g SET org = new_name WHERE g.org OPERATOR(pg_catalog.=) $2;
		PERFORM @extschema@.llmquota_apply_policies(g.role)
		   FROM llmquota.role_grant g
		   JOIN pg_catalog.pg_roles r ON r.rolname::pg_catalog.text OPERATOR(pg_catalog.=) g.role
		  WHERE g.org OPERATOR(pg_catalog.=) $3 AND g.kind OPERATOR(pg_catalog.=) 'analyst';
	ELSIF kind OPERATOR(pg_catalog.=) 'model' THEN
		UPDATE llmquota.model m SET provider_model = old_name WHERE m.model OPERATOR(pg_catalog.=) $3 AND m.provider_model IS NULL;
		UPDATE llmquota.quota q SET model = new_name WHERE q.model OPERATOR(pg_catalog.=) $2;
		UPDATE llmquota.budget b SET model = new_name WHERE b.model OPERATOR(pg_catalog.=) $2;
		UPDATE llmquota.alert a SET model = new_name WHERE a.model OPERATOR(pg_catalog.=) $2;
		UPDATE llmquota.route_option r SET route = new_name
		 WHERE r.route OPERATOR(pg_catalog.=) $2
		   AND NOT EXISTS (SELECT FROM llmquota.route s WHERE s.route OPERATOR(pg_catalog.=) $2)
		   AND NOT EXISTS (SELECT FROM llmquota.route_option o WHERE o.route OPERATOR(pg_catalog.=) $3);
		UPDATE llmquota.key k SET models = pg_catalog.array_replace(k.models, $2, $3) WHERE $2 OPERATOR(pg_catalog.=) ANY (k.models);
	END IF;
	RETURN 'renamed';
END
$$;

CREATE FUNCTION @extschema@.llmquota_key_state(
	key text,
	model text,
	OUT status text,
	OUT scope text,
	OUT quota bigint,
	OUT until timestamptz,
	OUT since timestamptz,
	OUT failure text,
	OUT http_status int,
	OUT lease uuid,
	OUT reason text)
RETURNS record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_key_state';
COMMENT ON FUNCTION @extschema@.llmquota_key_state(text, text) IS 'internal: a row of llmquota.key_status';

CREATE FUNCTION @extschema@.llmquota_observed_rows(
	OUT account text,
	OUT model text,
	OUT metric text,
	OUT period text,
	OUT quota bigint,
	OUT configured numeric,
	OUT advertised numeric,
	OUT in_force numeric,
	OUT source text,
	OUT observed_at timestamptz,
	OUT relaxes_at timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_observed_rows';
COMMENT ON FUNCTION @extschema@.llmquota_observed_rows() IS 'internal: what providers say of their limits, for llmquota.observed_limit';

CREATE OR REPLACE FUNCTION @extschema@.llmquota_check_setting()
RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	known record;
	valid boolean;
BEGIN
	SELECT s.* INTO known
	  FROM (VALUES
			('alert_at', '^[{]((0?[.][0-9]{1,9}|1([.]0{1,9})?)(,(0?[.][0-9]{1,9}|1([.]0{1,9})?)){0,7})?[}]$', NULL, NULL),
			('alert_digest', '^[0-9]{1,9}$', 1, 1000000),
			('alert_forecast', '^(on|off)$', NULL, NULL),
			('alert_interval', '^[0-9]{1,10}$', 0, 2764800000),
			('alert_recovery', '^[0-9]{1,10}$', 0, 2764800000),
			('alert_retention', '^[0-9]{1,9}$', 1, 36500),
			('answer_refresh', '^[0-9]{1,10}$', 100, 3600000),
			('answer_stale', '^[0-9]{1,10}$', 0, 2147483647),
			('answer_ttl', '^[0-9]{1,10}$', 1, 2147483647),
			('arrival_slack', '^[0-9]{1,9}$', 0, 10000),
			('auth_probe_after', '^[0-9]{1,10}$', 1000, 2764800000),
			('base_currency', '^[A-Z]{3}$', NULL, NULL),
			('conversation_ttl', '^[0-9]{1,10}$', 1000, 2764800000),
			('default_input_tokens', '^[0-9]{1,9}$', 0, 100000000),
			('event_retention', '^[0-9]{1,9}$', 1, 36500),
			('idempotency_window', '^(0|[1-9][0-9]{3,9})$', 0, 2764800000),
			('lease_ttl', '^[0-9]{1,9}$', 1000, 86400000),
			('max_answer_bytes', '^[0-9]{1,9}$', 0, 268435456),
			('max_cache_bytes', '^[0-9]{1,11}$', 0, 10000000000),
			('max_conversation_bytes', '^[0-9]{1,9}$', 100, 100000000),
			('max_conversations', '^[0-9]{1,9}$', 0, 100000000),
			('max_held_waiters', '^(auto|[0-9]{1,4})$', NULL, NULL),
			('max_leases', '^[0-9]{1,9}$', 1, 10000000),
			('max_rate_subjects', '^[0-9]{1,9}$', 1, 100000000),
			('max_requests', '^[0-9]{1,9}$', 1, 10000000),
			('max_subjects', '^[0-9]{1,9}$', 1, 10000000),
			('max_waiting', '^[0-9]{1,9}$', 0, 16384),
			('max_waiting_per_org', '^[0-9]{1,9}$', 0, 16384),
			('observed_limit_ttl', '^[0-9]{1,10}$', 1000, 2764800000),
			('partitions_ahead', '^[0-9]{1,9}$', 1, 90),
			('refusal_retention', '^[0-9]{1,9}$', 1, 36500),
			('refusal_sample_retention', '^[0-9]{1,9}$', 1, 36500),
			('refusal_spread', '^[0-9](\.[0-9]{1,9})?$', 0, 1),
			('ticket_ttl', '^[0-9]{1,9}$', 1000, 3600000),
			('unknown_org', '^(allow|refuse)$', NULL, NULL),
			('usage_retention', '^[0-9]{1,9}$', 1, 36500)
		   ) AS s (name, pattern, lowest, highest)
	 WHERE s.name OPERATOR(pg_catalog.=) NEW.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_object',
			MESSAGE = pg_catalog.format('unknown setting "%s"', NEW.name),
			HINT = 'SELECT name FROM llmquota.setting shows the settings.';
	END IF;
	valid := NEW.value OPERATOR(pg_catalog.~) known.pattern;
	IF valid AND known.lowest IS NOT NULL THEN
		valid := NEW.value::pg_catalog.numeric OPERATOR(pg_catalog.>=) known.lowest::pg_catalog.numeric
			 AND NEW.value::pg_catalog.numeric OPERATOR(pg_catalog.<=) known.highest::pg_catalog.numeric;
	END IF;
	IF valid AND known.name OPERATOR(pg_catalog.=) 'alert_at' THEN
		valid := 0 OPERATOR(pg_catalog.<) ALL (NEW.value::pg_catalog.numeric[]);
	END IF;
	IF NOT valid THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = pg_catalog.format('invalid value for setting "%s": "%s"', NEW.name, NEW.value),
			HINT = CASE WHEN known.name OPERATOR(pg_catalog.=) 'base_currency' THEN 'Use three capital letters.'
						WHEN known.name OPERATOR(pg_catalog.=) 'alert_at' THEN 'Use at most eight fractions above 0 to 1, such as {0.8,0.95}, or {}.'
						WHEN known.name OPERATOR(pg_catalog.=) 'alert_forecast' THEN 'Use on or off.'
						WHEN known.name OPERATOR(pg_catalog.=) 'max_held_waiters' THEN 'Use a number of up to four digits, or auto.'
						WHEN known.lowest IS NULL THEN 'Use allow or refuse.'
						WHEN known.name OPERATOR(pg_catalog.=) 'idempotency_window' THEN pg_catalog.format('Use a number from 1000 to %s, or 0 to remember none.', known.highest)
						ELSE pg_catalog.format('Use a number from %s to %s.', known.lowest, known.highest) END;
	END IF;
	IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
		UPDATE llmquota.setting s SET value = NEW.value WHERE s.name OPERATOR(pg_catalog.=) NEW.name;
		IF FOUND THEN
			RETURN NULL;
		END IF;
	END IF;
	RETURN NEW;
END
$$;

CREATE FUNCTION @extschema@.llmquota_check_route_option()
RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	given record;
	lowest pg_catalog.numeric;
	highest pg_catalog.numeric;
BEGIN
	IF NEW.strategy OPERATOR(pg_catalog.<>) ALL ('{least_used,weighted,round_robin,lowest_latency,cheapest,sticky}'::pg_catalog.text[]) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = pg_catalog.format('unknown strategy "%s"', NEW.strategy),
			HINT = 'Use least_used, weighted, round_robin, lowest_latency, cheapest or sticky.';
	END IF;
	IF NEW.params IS NULL THEN
		RETURN NEW;
	ELSIF pg_catalog.jsonb_typeof(NEW.params) OPERATOR(pg_catalog.<>) 'object' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = pg_catalog.format('params of route "%s" is not an object', NEW.route),
			HINT = 'Use an object such as {"explore": 0.05}, or NULL.';
	END IF;
	FOR given IN SELECT e.key, e.value FROM pg_catalog.jsonb_each(NEW.params) e LOOP
		SELECT p.lowest, p.highest INTO lowest, highest
		  FROM (VALUES ('session_ttl_ms', 0, 2764800000), ('explore', 0, 1)) p (name, lowest, highest)
		 WHERE p.name OPERATOR(pg_catalog.=) given.key;
		IF NOT FOUND THEN
			RAISE EXCEPTION USING ERRCODE = 'undefined_object',
				MESSAGE = pg_catalog.format('unknown parameter "%s" of a strategy', given.key),
				HINT = 'Use session_ttl_ms or explore.';
		ELSIF (CASE WHEN pg_catalog.jsonb_typeof(given.value) OPERATOR(pg_catalog.=) 'number'
					THEN given.value::pg_catalog.numeric OPERATOR(pg_catalog.<) lowest OR given.value::pg_catalog.numeric OPERATOR(pg_catalog.>) highest
					ELSE true END) THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = pg_catalog.format('invalid value for parameter "%s": %s', given.key, given.value),
				HINT = pg_catalog.format('Use a number from %s to %s.', lowest, highest);
		END IF;
	END LOOP;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION @extschema@.llmquota_check_route_option() IS 'internal, a trigger: refuses unknown strategies and parameters, and values out of bounds';

CREATE VIEW llmquota.key_status AS
SELECT k.key, m.model, k.account, a.provider, s.status, s.until, s.scope, s.quota, s.since, s.failure, s.http_status, s.lease, s.reason
  FROM llmquota.key k
  JOIN llmquota.account a ON a.account OPERATOR(pg_catalog.=) k.account
  JOIN llmquota.model m ON m.provider OPERATOR(pg_catalog.=) a.provider AND (k.models IS NULL OR m.model OPERATOR(pg_catalog.=) ANY (k.models))
 CROSS JOIN LATERAL @extschema@.llmquota_key_state(k.key, m.model) s;
COMMENT ON VIEW llmquota.key_status IS 'whether picks use a key now: a row for each model that it may be used for';
COMMENT ON COLUMN llmquota.key_status.key IS 'the key';
COMMENT ON COLUMN llmquota.key_status.model IS 'the model';
COMMENT ON COLUMN llmquota.key_status.account IS 'account of the key';
COMMENT ON COLUMN llmquota.key_status.provider IS 'provider of the account';
COMMENT ON COLUMN llmquota.key_status.status IS 'healthy, cooling, open (a breaker), half_open (one call at a time is let through, to see), disabled, or exhausted (a limit would refuse the smallest call)';
COMMENT ON COLUMN llmquota.key_status.until IS 'until when; NULL: it is healthy, a call may be let through now, or nobody knows';
COMMENT ON COLUMN llmquota.key_status.scope IS 'whose trouble or limit it is: global, provider, account (or the model there), model or key; NULL: it is healthy, or not enabled';
COMMENT ON COLUMN llmquota.key_status.quota IS 'id of the quota that is exhausted; NULL: none is, or it is a budget';
COMMENT ON COLUMN llmquota.key_status.since IS 'since when it is in trouble; NULL: it is not';
COMMENT ON COLUMN llmquota.key_status.failure IS 'the kind of failure that caused the trouble; NULL: there is none, or somebody caused it';
COMMENT ON COLUMN llmquota.key_status.http_status IS 'HTTP status of the answer that caused it; NULL: there was none, or it was not given';
COMMENT ON COLUMN llmquota.key_status.lease IS 'the lease of the call that caused it, whose row in llmquota.usage has the answer; NULL: none did';
COMMENT ON COLUMN llmquota.key_status.reason IS 'what somebody said; not enabled: key, account, model or provider is not, in the configuration; budget and its id: it is spent; NULL: nothing';

CREATE VIEW llmquota.observed_limit AS
SELECT r.account, r.model, r.metric, r.period, r.configured, r.advertised,
	   CASE WHEN r.configured OPERATOR(pg_catalog.>) 0
			THEN pg_catalog.round(r.advertised OPERATOR(pg_catalog./) r.configured OPERATOR(pg_catalog.-) 1, 3) END AS drift,
	   r.in_force, r.source, r.observed_at, r.relaxes_at, r.quota
  FROM @extschema@.llmquota_observed_rows() r;
COMMENT ON VIEW llmquota.observed_limit IS 'what providers say of the limits of an account for a model, in headers and refusals, beside what is configured';
COMMENT ON COLUMN llmquota.observed_limit.account IS 'the account that made the calls';
COMMENT ON COLUMN llmquota.observed_limit.model IS 'the model that was called';
COMMENT ON COLUMN llmquota.observed_limit.metric IS 'what the provider counts: requests, input_tokens, output_tokens or tokens';
COMMENT ON COLUMN llmquota.observed_limit.period IS 'second, minute, hour, day or month';
COMMENT ON COLUMN llmquota.observed_limit.configured IS 'the smallest amount of an enforced quota of the account for this; NULL: there is none';
COMMENT ON COLUMN llmquota.observed_limit.advertised IS 'what the provider says';
COMMENT ON COLUMN llmquota.observed_limit.drift IS 'by which part of the configured amount the advertised one is more, or (negative) less; NULL: nothing is configured, or 0';
COMMENT ON COLUMN llmquota.observed_limit.in_force IS 'what holds instead of the configured amount; NULL: that does';
COMMENT ON COLUMN llmquota.observed_limit.source IS 'headers, or refusal: a refused call named it';
COMMENT ON COLUMN llmquota.observed_limit.observed_at IS 'when an answer said so; written down once in a sixteenth of observed_limit_ttl';
COMMENT ON COLUMN llmquota.observed_limit.relaxes_at IS 'from when on more is tried, unless it is said again; NULL: nothing is in force';
COMMENT ON COLUMN llmquota.observed_limit.quota IS 'id of that row of llmquota.quota; NULL: there is none';

CREATE OR REPLACE VIEW llmquota.usage_current AS
SELECT u.lease, u.picked_at, u.recorded_at, u.recorded_in, u.reserved_input, u.reserved_output, u.input_tokens,
	   u.output_tokens, u.cached_tokens, u.cache_write_tokens, u.reasoning_tokens, u.attempt, u.http_status,
	   u.latency_ms, u.status, COALESCE(o.now_called, u.org) AS org, COALESCE(m.now_called, u.model) AS model,
	   COALESCE(k.now_called, u.key) AS key, COALESCE(a.now_called, u.account) AS account, u.provider, u.route,
	   u.usage_source, u.session, u.request_id, u.error, u.tags, u.first_lease, u.retry_of,
	   u.error_class, u.cost, u.currency, u.cost_base, u.downgraded, u.budget,
	   COALESCE(r.now_called, u.requested_model) AS requested_model, u.cost_given, u.waited_ms
  FROM llmquota.usage u
  LEFT JOIN llmquota.former_name o ON o.kind OPERATOR(pg_catalog.=) 'org' AND o.name OPERATOR(pg_catalog.=) u.org
		AND u.recorded_at OPERATOR(pg_catalog.>=) o.since AND u.picked_at OPERATOR(pg_catalog.>=) o.picked_from AND u.picked_at OPERATOR(pg_catalog.<) o.until
  LEFT JOIN llmquota.former_name m ON m.kind OPERATOR(pg_catalog.=) 'model' AND m.name OPERATOR(pg_catalog.=) u.model
		AND u.recorded_at OPERATOR(pg_catalog.>=) m.since AND u.picked_at OPERATOR(pg_catalog.>=) m.picked_from AND u.picked_at OPERATOR(pg_catalog.<) m.until
  LEFT JOIN llmquota.former_name a ON a.kind OPERATOR(pg_catalog.=) 'account' AND a.name OPERATOR(pg_catalog.=) u.account
		AND u.recorded_at OPERATOR(pg_catalog.>=) a.since AND u.picked_at OPERATOR(pg_catalog.>=) a.picked_from AND u.picked_at OPERATOR(pg_catalog.<) a.until
  LEFT JOIN llmquota.former_name k ON k.kind OPERATOR(pg_catalog.=) 'key' AND k.name OPERATOR(pg_catalog.=) u.key
		AND u.recorded_at OPERATOR(pg_catalog.>=) k.since AND u.picked_at OPERATOR(pg_catalog.>=) k.picked_from AND u.picked_at OPERATOR(pg_catalog.<) k.until
  LEFT JOIN llmquota.former_name r ON r.kind OPERATOR(pg_catalog.=) 'model' AND r.name OPERATOR(pg_catalog.=) u.requested_model
		AND u.recorded_at OPERATOR(pg_catalog.>=) r.since AND u.picked_at OPERATOR(pg_catalog.>=) r.picked_from AND u.picked_at OPERATOR(pg_catalog.<) r.until;

COMMENT ON COLUMN llmquota.usage.downgraded IS 'true: a budget had another model answer than the one asked for';
COMMENT ON COLUMN llmquota.usage.budget IS 'the budget that did; NULL: none';
COMMENT ON COLUMN llmquota.usage.requested_model IS 'the model that would have been called without it; NULL: the one that was';
COMMENT ON COLUMN llmquota.usage.waited_ms IS 'milliseconds for which it waited in the line before it was granted; NULL: it did not';
COMMENT ON COLUMN llmquota.usage.cost_given IS 'true: the application said what the call cost; NULL: it did not, and llmquota_reprice may say something else';

DO $$
DECLARE
	described record;
BEGIN
	FOR described IN
		SELECT a.attname, pg_catalog.col_description(a.attrelid, a.attnum) AS description
		  FROM pg_catalog.pg_attribute a
		 WHERE a.attrelid OPERATOR(pg_catalog.=) 'llmquota.usage'::pg_catalog.regclass AND a.attnum OPERATOR(pg_catalog.>) 0
	LOOP
		EXECUTE pg_catalog.format('COMMENT ON COLUMN llmquota.usage_current.%I IS %L', described.attname, described.description);
	END LOOP;
END
$$;

COMMENT ON COLUMN llmquota.pick_result.lease IS 'the lease, to be given to llmquota_record or llmquota_release; when queued, the ticket for llmquota_claim, which becomes the lease; with in_flight that of the call in flight, which is another caller''s; NULL when refused';

COMMENT ON COLUMN llmquota.pick_result.attempt IS 'number of this attempt at the request, from 1; with in_flight that of the call in flight; else NULL';

COMMENT ON COLUMN llmquota.pick_result.expires_at IS 'when the lease expires unless it is recorded, released or renewed before; when queued, when the ticket leaves the line unless it is shown before; with in_flight that of the call in flight; NULL when refused';

COMMENT ON COLUMN llmquota.pick_result.downgraded IS 'true: a budget has this model answer in place of the one asked for; NULL unless granted';

COMMENT ON TYPE llmquota.pick_set_result IS 'the answer of llmquota_pick_set to one of its calls';

COMMENT ON COLUMN llmquota.pick_set_result.place IS 'which call: its place in orgs, from 1';

COMMENT ON COLUMN llmquota.pick_set_result.status IS 'granted, or why not, as llmquota.pick_result has it';

COMMENT ON COLUMN llmquota.pick_set_result.lease IS 'the lease, to be given to llmquota_record or llmquota_release; NULL unless granted';

COMMENT ON COLUMN llmquota.pick_set_result.key IS 'name of the chosen key; NULL unless granted';

COMMENT ON COLUMN llmquota.pick_set_result.secret_ref IS 'where the application finds the secret of the key, as configured; NULL unless granted, or when none is configured';

COMMENT ON COLUMN llmquota.pick_set_result.account IS 'account of the chosen key; NULL unless granted';

COMMENT ON COLUMN llmquota.pick_set_result.provider IS 'provider of the chosen key; NULL unless granted';

COMMENT ON COLUMN llmquota.pick_set_result.base_url IS 'base URL of the account, else of its provider; NULL unless granted, or when none is configured';

COMMENT ON COLUMN llmquota.pick_set_result.model IS 'the chosen model, by its name here; NULL unless granted';

COMMENT ON COLUMN llmquota.pick_set_result.provider_model IS 'the chosen model, by its name at the provider; NULL unless granted';

COMMENT ON COLUMN llmquota.pick_set_result.attempt IS 'number of this attempt at the request, from 1; NULL unless granted';

COMMENT ON COLUMN llmquota.pick_set_result.max_output_tokens IS 'output tokens reserved: to be sent as the maximum of the provider request; NULL unless granted';

COMMENT ON COLUMN llmquota.pick_set_result.granted_at IS 'the time of the pick; NULL unless granted';

COMMENT ON COLUMN llmquota.pick_set_result.expires_at IS 'when the lease expires unless it is recorded, released or renewed before; NULL unless granted';

COMMENT ON COLUMN llmquota.pick_set_result.retry_after_ms IS 'milliseconds to wait before asking again; NULL when granted, and when asking again cannot help';

COMMENT ON COLUMN llmquota.pick_set_result.refusal IS 'what refused, as llmquota.pick_result has it: the same for all calls of an org from the first refused one on; NULL when granted';

COMMENT ON COLUMN llmquota.pick_set_result.timeout_ms IS 'milliseconds to wait for the provider''s answer before the call is given up, by the attempt and by how long calls of the model at the account take, within the route''s deadline; NULL unless granted';

COMMENT ON COLUMN llmquota.pick_set_result.downgraded IS 'true: a budget has this model answer in place of the one asked for; NULL unless granted';

COMMENT ON TYPE llmquota.statement_result IS 'a row of llmquota_statement: what an org is billed for a month';

COMMENT ON COLUMN llmquota.statement_result.line IS 'day: a model in a day; org: the sum of the org; total: the sum of the statement';

COMMENT ON COLUMN llmquota.statement_result.org IS 'the org, or one below it; NULL in a total';

COMMENT ON COLUMN llmquota.statement_result.day IS 'the day, in the time zone of the org that the statement is for; NULL in sums';

COMMENT ON COLUMN llmquota.statement_result.model IS 'the model, by its name of now; NULL in sums, and for rows of the ledger without one';

COMMENT ON COLUMN llmquota.statement_result.currency IS 'currency of the costs; NULL: nobody knows what the calls cost';

COMMENT ON COLUMN llmquota.statement_result.calls IS 'calls, but for those that were released: failed and expired ones, too';

COMMENT ON COLUMN llmquota.statement_result.input_tokens IS 'input tokens, where they are known';

COMMENT ON COLUMN llmquota.statement_result.cached_tokens IS 'input tokens among them that providers read from their caches, where they are known';

COMMENT ON COLUMN llmquota.statement_result.output_tokens IS 'output tokens, where they are known';

COMMENT ON COLUMN llmquota.statement_result.cost IS 'what the calls cost, as the ledger has it; NULL: nobody knows';

COMMENT ON COLUMN llmquota.statement_result.markup IS 'the markup of the org, as a fraction; NULL in a total';

COMMENT ON COLUMN llmquota.statement_result.amount IS 'the cost with the markup, exact; NULL: the cost is not known';

COMMENT ON COLUMN llmquota.statement_result.amount_due IS 'in sums: the amount rounded to what the currency is paid in, half away from zero; NULL: not a sum, or the cost is not known';

COMMENT ON TYPE llmquota.reconcile_result IS 'a row of llmquota_reconcile: a day and model, in the ledger (here) and in the provider''s export (there)';

COMMENT ON COLUMN llmquota.reconcile_result.status IS 'equal, different, only_here (in the ledger) or only_there (in the export)';

COMMENT ON COLUMN llmquota.reconcile_result.day IS 'the day, in the time zone that was asked for; NULL: the export says none';

COMMENT ON COLUMN llmquota.reconcile_result.provider_model IS 'the model, as the provider calls it; NULL: the export says none, or rows of the ledger without one';

COMMENT ON COLUMN llmquota.reconcile_result.model IS 'the models of llmquota.model that have this name at the provider; NULL: none has';

COMMENT ON COLUMN llmquota.reconcile_result.account IS 'the account; NULL: not compared by accounts, or the export says none';

COMMENT ON COLUMN llmquota.reconcile_result.key IS 'the key; NULL: not compared by keys, or the export says none';

COMMENT ON COLUMN llmquota.reconcile_result.requests_here IS 'calls of the ledger that the provider may have charged: not those that were released, nor those that it refused without using any tokens';

COMMENT ON COLUMN llmquota.reconcile_result.requests_there IS 'requests in the export; NULL: it does not say, as with the others';

COMMENT ON COLUMN llmquota.reconcile_result.requests_difference IS 'by how much there are more in the export; NULL: it does not say, as with the others';

COMMENT ON COLUMN llmquota.reconcile_result.input_tokens_here IS 'input tokens in the ledger, where they are known';

COMMENT ON COLUMN llmquota.reconcile_result.input_tokens_there IS 'input tokens in the export';

COMMENT ON COLUMN llmquota.reconcile_result.input_tokens_difference IS 'by how much there are more in the export';

COMMENT ON COLUMN llmquota.reconcile_result.output_tokens_here IS 'output tokens in the ledger, where they are known';

COMMENT ON COLUMN llmquota.reconcile_result.output_tokens_there IS 'output tokens in the export';

COMMENT ON COLUMN llmquota.reconcile_result.output_tokens_difference IS 'by how much there are more in the export';

COMMENT ON COLUMN llmquota.reconcile_result.currency IS 'currency of the costs';

COMMENT ON COLUMN llmquota.reconcile_result.cost_here IS 'what the calls cost by the ledger, where that is known in this currency';

COMMENT ON COLUMN llmquota.reconcile_result.cost_there IS 'what they cost by the export';

COMMENT ON COLUMN llmquota.reconcile_result.cost_difference IS 'by how much they cost more there';

COMMENT ON COLUMN llmquota.reconcile_result.expired IS 'how many of requests_here nobody has recorded: they may have been made or not';

COMMENT ON COLUMN llmquota.reconcile_result.unpriced IS 'how many of requests_here have no cost in this currency';

COMMENT ON TYPE llmquota.capacity_result IS 'the answer of llmquota_capacity: what limits will let through in some time from now on, if nobody else makes calls';

COMMENT ON COLUMN llmquota.capacity_result.accounts IS 'with which accounts: own (of the org), shared, or all (both)';

COMMENT ON COLUMN llmquota.capacity_result.horizon IS 'in which time from now on: minute, hour or day (24 hours)';

COMMENT ON COLUMN llmquota.capacity_result.keys IS 'keys that may be used in that time: enabled, and healthy or cooling until within it';

COMMENT ON COLUMN llmquota.capacity_result.requests IS 'requests of the size beside; NULL: no limit';

COMMENT ON COLUMN llmquota.capacity_result.input_tokens IS 'input tokens, whatever the size and number of requests; NULL: no limit';

COMMENT ON COLUMN llmquota.capacity_result.output_tokens IS 'output tokens, likewise; NULL: no limit';

COMMENT ON COLUMN llmquota.capacity_result.tokens IS 'tokens of both sorts together, likewise; NULL: no limit';

COMMENT ON COLUMN llmquota.capacity_result.at_once IS 'requests of the size beside that can be made at this moment, by all limits; the same for every horizon; NULL: no limit';

COMMENT ON COLUMN llmquota.capacity_result.in_flight IS 'calls that limits of concurrency alone have room for at this moment, likewise; NULL: no limit';

COMMENT ON COLUMN llmquota.capacity_result.request_input_tokens IS 'input tokens of one request, as a pick would reserve them';

COMMENT ON COLUMN llmquota.capacity_result.request_output_tokens IS 'output tokens of one request, likewise';

COMMENT ON COLUMN llmquota.model.downgrade_to IS 'the model that answers in its place when a budget downgrades and names none itself; NULL: none';

COMMENT ON COLUMN llmquota.org.priority IS 'priority of picks that name none: low, normal or high';

COMMENT ON COLUMN llmquota.org.parent IS 'the org it belongs to, whose budgets of the scope parent it spends, too, and so on, up to three orgs above one; NULL: none';

COMMENT ON COLUMN llmquota.org.timezone IS 'time zone of its budgets that name none, and of its statements';

COMMENT ON COLUMN llmquota.org.weight IS 'its share of what a line gives out, against other orgs that wait: with 2 it may have twice as many calls in flight, 1 to 1000';

COMMENT ON COLUMN llmquota.org.markup IS 'what its statements add to the cost, as a fraction: 0.2 for a fifth more';

COMMENT ON TABLE llmquota.budget IS 'what may be spent. Every budget that matches a request must have room for its worst-case price; a row that names its subject replaces the ''*'' row of the same scope, model, family, currency and window';

COMMENT ON SEQUENCE llmquota.budget_id_seq IS 'numbers of budgets';

COMMENT ON COLUMN llmquota.budget.id IS 'number of the budget, shown in refusals and in the ledger';

COMMENT ON COLUMN llmquota.budget.scope IS 'whose spend is counted: org, parent (an org and those below it together), key, account, provider or global';

COMMENT ON COLUMN llmquota.budget.subject IS 'which one, by name; ''*'': each by itself; empty for the scope global';

COMMENT ON COLUMN llmquota.budget.model IS 'a model by name; ''*'': each model by itself; NULL: not by model';

COMMENT ON COLUMN llmquota.budget.family IS 'a family of models by name; ''*'': each family by itself; NULL: not by family. With model and family both NULL all models count together';

COMMENT ON COLUMN llmquota.budget.amount IS 'how much may be spent in a window, with at most nine decimals; 0 refuses always; NULL: no limit';

COMMENT ON COLUMN llmquota.budget.currency IS 'currency of the amount: three capital letters (ISO 4217). Costs in others are converted by llmquota.exchange_rate';

COMMENT ON COLUMN llmquota.budget.calendar IS 'a calendar window: day, week (from Monday), month, quarter or year; total: once, never anew; NULL: a sliding window';

COMMENT ON COLUMN llmquota.budget.per IS 'length of a sliding window, 1 second to 400 days, without months; NULL: a calendar window';

COMMENT ON COLUMN llmquota.budget.timezone IS 'time zone of a calendar window; NULL: that of the org for the scopes org and parent, that of the provider for provider, account and key, else UTC';

COMMENT ON COLUMN llmquota.budget.fiscal_month IS 'the month with which years begin, and quarters are counted from: 1 to 12';

COMMENT ON COLUMN llmquota.budget.starts_at IS 'calls picked from then on count for a total; -infinity: all';

COMMENT ON COLUMN llmquota.budget.downgrade_at IS 'fraction of the amount from which on a cheaper model answers, 0 to 1, where llmquota.budget_step says nothing else; NULL: never';

COMMENT ON COLUMN llmquota.budget.downgrade_to IS 'the model that answers then; NULL: the downgrade_to of the model asked for';

COMMENT ON COLUMN llmquota.budget.hard_stop IS 'true: what does not fit is refused; false: the budget only downgrades and alerts';

COMMENT ON COLUMN llmquota.budget.free_when_spent IS 'true: models whose price is 0 may still be used when the amount is spent';

COMMENT ON COLUMN llmquota.budget.carry_debt IS 'true: what was spent beyond the amount counts in the next period';

COMMENT ON COLUMN llmquota.budget.carry_unspent IS 'true: what was not spent may be spent in the next period, at most the amount again';

COMMENT ON COLUMN llmquota.budget.alert_at IS 'fractions of the amount at which an alert is raised, above 0 to 1, at most 8';

COMMENT ON COLUMN llmquota.budget.mode IS 'enforce, or observe: counts and alerts, and neither refuses nor downgrades';

COMMENT ON COLUMN llmquota.budget.rollout IS 'fraction of the subjects for which a ''*'' row is enforced, 0 to 1, chosen by a stable hash; for the others it observes. Of no effect on a row that names its subject';

COMMENT ON TABLE llmquota.budget_step IS 'how far a budget downgrades, in steps, in place of its downgrade_at and downgrade_to';

COMMENT ON COLUMN llmquota.budget_step.budget IS 'the budget';

COMMENT ON COLUMN llmquota.budget_step.at IS 'fraction of the amount from which on the step holds, until the next one does';

COMMENT ON COLUMN llmquota.budget_step.model IS 'the model that answers then in place of a dearer one';

COMMENT ON TABLE llmquota.budget_raise IS 'who raised which budget, for whom, to how much and until when. Written by llmquota_raise_budget';

COMMENT ON SEQUENCE llmquota.budget_raise_id_seq IS 'numbers of raises';

COMMENT ON COLUMN llmquota.budget_raise.id IS 'number of the raise';

COMMENT ON COLUMN llmquota.budget_raise.budget IS 'the budget';

COMMENT ON COLUMN llmquota.budget_raise.subject IS 'for whom: the subject by name, also of a ''*'' row';

COMMENT ON COLUMN llmquota.budget_raise.amount IS 'the amount that holds in place of the budget''s, if it is larger, in its currency';

COMMENT ON COLUMN llmquota.budget_raise.until IS 'until when it holds';

COMMENT ON COLUMN llmquota.budget_raise.reason IS 'why, as was said';

COMMENT ON COLUMN llmquota.budget_raise.raised_by IS 'the role that was logged in';

COMMENT ON COLUMN llmquota.budget_raise.raised_at IS 'when';

COMMENT ON TABLE llmquota.repricing IS 'by how much calls cost more, or less, since llmquota_reprice: for each time it was called a row by day, org, model, key, and currencies. Kept for as long as the ledger';

COMMENT ON SEQUENCE llmquota.repricing_id_seq IS 'numbers of rows of llmquota.repricing';

COMMENT ON COLUMN llmquota.repricing.id IS 'number of the row';

COMMENT ON COLUMN llmquota.repricing.repriced_at IS 'when; the same for all rows of one call of llmquota_reprice';

COMMENT ON COLUMN llmquota.repricing.repriced_by IS 'the role that was logged in';

COMMENT ON COLUMN llmquota.repricing.day IS 'the UTC day in which the calls were picked';

COMMENT ON COLUMN llmquota.repricing.org IS 'the org they were made for, as the ledger has it';

COMMENT ON COLUMN llmquota.repricing.model IS 'their model; NULL: none';

COMMENT ON COLUMN llmquota.repricing.key IS 'their key; NULL: none';

COMMENT ON COLUMN llmquota.repricing.calls IS 'how many of them cost something else now';

COMMENT ON COLUMN llmquota.repricing.currency_before IS 'currency of their costs before; NULL: their costs were not known';

COMMENT ON COLUMN llmquota.repricing.cost_before IS 'what they cost before; NULL: not known';

COMMENT ON COLUMN llmquota.repricing.currency_after IS 'currency of their costs now; NULL: their costs are not known any more';

COMMENT ON COLUMN llmquota.repricing.cost_after IS 'what they cost now; NULL: not known';

COMMENT ON COLUMN llmquota.repricing.difference IS 'cost_after less cost_before, a cost that is not known counted as 0; NULL: they are of two currencies';

COMMENT ON COLUMN llmquota.repricing.base_currency IS 'the base currency of now';

COMMENT ON COLUMN llmquota.repricing.base_before IS 'what llmquota.usage.cost_base came to before, as far as it was known';

COMMENT ON COLUMN llmquota.repricing.base_after IS 'what it comes to now, as far as it is known';

COMMENT ON COLUMN llmquota.repricing.base_difference IS 'base_after less base_before';

COMMENT ON TABLE llmquota.budget_recount IS 'spans of the ledger whose costs have changed, until maintenance has counted anew what budgets hold of them';

COMMENT ON COLUMN llmquota.budget_recount.since IS 'costs of calls picked since then have changed';

COMMENT ON COLUMN llmquota.budget_recount.until IS '... and before';

COMMENT ON COLUMN llmquota.refusal_hourly.quota IS 'id of the quota that refused, with the status budget_exceeded of the budget; NULL: none did, the status says why; or as for org';

COMMENT ON COLUMN llmquota.refusal_sample.quota IS 'id of the quota that refused, with the status budget_exceeded of the budget; NULL: none did, the status says why';

COMMENT ON COLUMN llmquota.refusal_sample.priority IS 'priority of the request: low, normal or high';

COMMENT ON TABLE llmquota.alert IS 'what somebody should know of: each alert once. Written by maintenance, told on the channel llmquota_alert, kept for the setting alert_retention after it was resolved';

COMMENT ON SEQUENCE llmquota.alert_id_seq IS 'numbers of alerts';

COMMENT ON COLUMN llmquota.alert.id IS 'number of the alert, for llmquota_ack';

COMMENT ON COLUMN llmquota.alert.raised_at IS 'when it was raised';

COMMENT ON COLUMN llmquota.alert.kind IS 'threshold, forecast, breaker, cooldown, disabled, limit (of a provider, below the configured one), or digest (of several)';

COMMENT ON COLUMN llmquota.alert.scope IS 'whom it is about: global, provider, account, key, org, parent or model; NULL: a digest';

COMMENT ON COLUMN llmquota.alert.subject IS 'which one, by name; empty: global, a model, which column model names, or a digest';

COMMENT ON COLUMN llmquota.alert.org IS 'the org it is about, whose analysts see it; NULL: no org';

COMMENT ON COLUMN llmquota.alert.model IS 'the model it is about; NULL: whatever the model';

COMMENT ON COLUMN llmquota.alert.family IS 'the family of models; NULL: not by family';

COMMENT ON COLUMN llmquota.alert.metric IS 'what the limit counts; NULL: it is about no limit';

COMMENT ON COLUMN llmquota.alert.period IS 'window of the limit, as in llmquota.meter_window; NULL: it is about no limit, or concurrency';

COMMENT ON COLUMN llmquota.alert.quota IS 'id of the quota; NULL: it is about none';

COMMENT ON COLUMN llmquota.alert.budget IS 'id of the budget; NULL: it is about none';

COMMENT ON COLUMN llmquota.alert.threshold IS 'fraction of the amount that is used; NULL: another kind';

COMMENT ON COLUMN llmquota.alert.period_start IS 'when the calendar period began that it is about; NULL: no calendar window';

COMMENT ON COLUMN llmquota.alert.ends_at IS 'when that period ends; NULL: no calendar window, or a total';

COMMENT ON COLUMN llmquota.alert.used IS 'what was used of the amount when it was raised; of the kind limit what the provider allows; NULL: it is about no limit';

COMMENT ON COLUMN llmquota.alert.amount IS 'the amount of the limit then; NULL: it is about no limit';

COMMENT ON COLUMN llmquota.alert.currency IS 'currency of used and amount; NULL: no budget';

COMMENT ON COLUMN llmquota.alert.expected_at IS 'when the amount will be used up at the rate of then, or when the trouble may be over; NULL: nobody knows';

COMMENT ON COLUMN llmquota.alert.message IS 'the same for people, as the server''s log has it';

COMMENT ON COLUMN llmquota.alert.digest IS 'of a digest: how many alerts, and how many of each kind; NULL: none';

COMMENT ON COLUMN llmquota.alert.part_of IS 'id of the digest that told of it; NULL: it was told by itself';

COMMENT ON COLUMN llmquota.alert.resolved_at IS 'when it was found to be over; NULL: it stands';

COMMENT ON COLUMN llmquota.alert.acknowledged_at IS 'when somebody acknowledged it; NULL: nobody did';

COMMENT ON COLUMN llmquota.alert.acknowledged_by IS 'the role that was logged in and did; NULL: nobody did';

COMMENT ON TABLE llmquota.request_page IS 'which lease a request was granted, by hashes of org and request_id, so that each makes one call';

COMMENT ON COLUMN llmquota.request_page.id IS 'number of the cell';

COMMENT ON COLUMN llmquota.request_page.state IS 'the requests, edited in place';

COMMENT ON FUNCTION @extschema@.llmquota_pick(text, text, bigint, bigint, text, text[], text, text, int, text, uuid, numeric, int, boolean) IS
'Asks for the right to make one call of a model: checks every quota and budget that matches, charges them all or none, and answers with a lease, or with the limit that refused and when to come back. The charge does not wait for, and is not undone by, the end of the transaction. Call it as SELECT * FROM llmquota_pick(...). NULL for any argument but route and org means: not given';

CREATE FUNCTION @extschema@.llmquota_claim(ticket uuid, wait_ms int DEFAULT NULL)
RETURNS llmquota.pick_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_claim';

COMMENT ON FUNCTION @extschema@.llmquota_claim(uuid, int) IS
'Shows the ticket that llmquota_pick answered with the status queued: answers with the lease when it is its turn, which has the uuid of the ticket, else with queued, the position in the line and when to come again. Waits for up to wait_ms milliseconds when the ticket is near the head of the line; NULL: not at all. Claimed again after it was granted it answers with the lease again. unknown_lease: nobody knows the ticket any more, or its lease has ended';

CREATE FUNCTION @extschema@.llmquota_pick_many(
	route text,
	org text,
	n int,
	input_tokens bigint DEFAULT NULL,
	max_output_tokens bigint DEFAULT NULL,
	priority text DEFAULT NULL,
	exclude text[] DEFAULT NULL,
	session text DEFAULT NULL,
	ttl_ms int DEFAULT NULL,
	prompt text DEFAULT NULL,
	max_cost numeric DEFAULT NULL)
RETURNS SETOF llmquota.pick_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_pick_many';

COMMENT ON FUNCTION @extschema@.llmquota_pick_many(text, text, int, bigint, bigint, text, text[], text, int, text, numeric) IS
'Asks for the right to make n calls of a model that are alike, each as llmquota_pick with the same arguments: a row for each one that is granted, and, when not all are, a last one with the refusal. Leases that are granted together share their WAL records. NULL for any argument but route, org and n means: not given';

CREATE FUNCTION @extschema@.llmquota_pick_set(
	route text,
	orgs text[],
	input_tokens bigint[] DEFAULT NULL,
	max_output_tokens bigint[] DEFAULT NULL,
	priority text DEFAULT NULL,
	exclude text[] DEFAULT NULL,
	sessions text[] DEFAULT NULL,
	request_ids text[] DEFAULT NULL,
	ttl_ms int DEFAULT NULL,
	prompts text[] DEFAULT NULL,
	max_costs numeric[] DEFAULT NULL,
	at_most int DEFAULT NULL)
RETURNS SETOF llmquota.pick_set_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_pick_set';

COMMENT ON FUNCTION @extschema@.llmquota_pick_set(text, text[], bigint[], bigint[], text, text[], text[], text[], int, text[], numeric[], int) IS
'Asks for the right to make a set of calls, each for the org at its place in orgs and with what the other arrays have there, as llmquota_pick: a row for every call, granted or refused, until at_most were granted. Fairly: next is the org with the fewest calls in flight relative to its weight, as far as a quota counts them, and those of this set; then that whose call comes first. An org''s first refusal is that of all its calls behind it, except too_large. A call with a request_id shares no WAL records. No rows for orgs that are NULL or empty';

COMMENT ON FUNCTION @extschema@.llmquota_release(uuid) IS
'Gives back a lease whose call was not made, with everything it reserved, or a ticket. Answers released, already_settled or unknown_lease';

--
-- Functions: foresight
--

CREATE FUNCTION @extschema@.llmquota_backtest(
	rule jsonb,
	since timestamptz DEFAULT NULL,
	until timestamptz DEFAULT NULL,
	OUT hour timestamptz,
	OUT subject text,
	OUT model text,
	OUT family text,
	OUT org text,
	OUT calls bigint,
	OUT refused bigint,
	OUT downgraded bigint,
	OUT amount_refused numeric,
	OUT amount_downgraded numeric,
	OUT most_used numeric,
	OUT first_at timestamptz,
	OUT last_at timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_backtest';

COMMENT ON FUNCTION @extschema@.llmquota_backtest(jsonb, timestamptz, timestamptz) IS
'Replays the calls of the ledger that were picked since one time (NULL: all that it has) and before another (NULL: now) under a proposed quota or budget, whose keys are the columns of llmquota.quota or llmquota.budget. A row for every hour, subject, model or family, and org of which a call would have been refused, or downgraded; then one for all calls, with hour and names NULL. Amounts are in what the rule limits (a budget''s in its currency); most_used is the most that its window held. Changes nothing';

--
-- Functions: alerts
--

CREATE FUNCTION @extschema@.llmquota_alert_causes(
	OUT watch int,
	OUT kind text,
	OUT scope text,
	OUT subject text,
	OUT model text,
	OUT family text,
	OUT metric text,
	OUT period text,
	OUT quota bigint,
	OUT budget bigint,
	OUT threshold numeric,
	OUT period_start timestamptz,
	OUT ends_at timestamptz,
	OUT used numeric,
	OUT amount numeric,
	OUT currency text,
	OUT expected_at timestamptz,
	OUT message text)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_alert_causes';

COMMENT ON FUNCTION @extschema@.llmquota_alert_causes() IS 'internal: what the step of maintenance that is under way has found to raise alerts for';

CREATE FUNCTION @extschema@.llmquota_log_alert(message text)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_log_alert';

COMMENT ON FUNCTION @extschema@.llmquota_log_alert(text) IS 'internal: writes a line to the server''s log when the transaction commits';

-- Tells of an alert whoever listens and reads the log. Both happen when the transaction commits.
CREATE FUNCTION @extschema@.llmquota_tell_alert(alert llmquota.alert)
RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT pg_catalog.pg_notify('llmquota_alert', pg_catalog.jsonb_strip_nulls(pg_catalog.to_jsonb(alert))::text);
	SELECT @extschema@.llmquota_log_alert((alert).message);
END;

COMMENT ON FUNCTION @extschema@.llmquota_tell_alert(llmquota.alert) IS 'internal: notifies of an alert, and writes it to the server''s log';

-- Writes rows for the causes that the step has found, unless they are there: in the same period, or standing, or raised
-- less than alert_interval ago, and then the row stands again. When its amount has changed it is told again, too.
-- Answers how many were told, and which windows (watch) have an alert that was not there before.
CREATE FUNCTION @extschema@.llmquota_raise_alerts(
	OUT raised bigint,
	OUT unsettled int[])
RETURNS record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	at_once CONSTANT pg_catalog.int4 := COALESCE((SELECT s.value::pg_catalog.int4 FROM llmquota.setting s WHERE s.name OPERATOR(pg_catalog.=) 'alert_digest'), 10);
	quiet_since CONSTANT pg_catalog.timestamptz := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) ('1 ms'::pg_catalog.interval OPERATOR(pg_catalog.*)
		COALESCE((SELECT s.value::pg_catalog.float8 FROM llmquota.setting s WHERE s.name OPERATOR(pg_catalog.=) 'alert_interval'), 3600000));
	cause record;
	known llmquota.alert;
	told pg_catalog.int8[] := '{}';
	one pg_catalog.int8;
BEGIN
	unsettled := '{}';
	FOR cause IN SELECT c.* FROM @extschema@.llmquota_alert_causes() c LOOP
		SELECT a.* INTO known
		  FROM llmquota.alert a
		 WHERE a.subject OPERATOR(pg_catalog.=) cause.subject AND a.kind OPERATOR(pg_catalog.=) cause.kind
		   AND a.scope OPERATOR(pg_catalog.=) cause.scope
		   AND COALESCE(a.quota, 0) OPERATOR(pg_catalog.=) COALESCE(cause.quota, 0)
		   AND COALESCE(a.budget, 0) OPERATOR(pg_catalog.=) COALESCE(cause.budget, 0)
		   AND COALESCE(a.threshold, 0) OPERATOR(pg_catalog.=) COALESCE(cause.threshold, 0)
		   AND COALESCE(a.model, '') OPERATOR(pg_catalog.=) COALESCE(cause.model, '')
		   AND COALESCE(a.family, '') OPERATOR(pg_catalog.=) COALESCE(cause.family, '')
		   AND CASE WHEN cause.period_start IS NOT NULL THEN a.period_start OPERATOR(pg_catalog.=) cause.period_start
					ELSE a.period_start IS NULL AND (a.resolved_at IS NULL OR a.raised_at OPERATOR(pg_catalog.>) quiet_since) END
		 ORDER BY a.resolved_at DESC NULLS FIRST
		 LIMIT 1;
		CONTINUE WHEN known.id IS NOT NULL
			AND (known.resolved_at IS NULL OR cause.ends_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp());
		IF known.id IS NULL THEN
			INSERT INTO llmquota.alert AS a
				(raised_at, kind, scope, subject, org, model, family, metric, period, quota, budget, threshold, period_start,
				 ends_at, used, amount, currency, expected_at, message)
			VALUES (pg_catalog.clock_timestamp(), cause.kind, cause.scope, cause.subject,
					CASE WHEN cause.scope OPERATOR(pg_catalog.=) ANY ('{org,parent}'::pg_catalog.text[]) THEN cause.subject END,
					cause.model, cause.family, cause.metric, cause.period, cause.quota, cause.budget,
					pg_catalog.trim_scale(cause.threshold), cause.period_start, cause.ends_at, pg_catalog.trim_scale(cause.used),
					pg_catalog.trim_scale(cause.amount), cause.currency, cause.expected_at, cause.message)
			ON CONFLICT DO NOTHING
			RETURNING a.id INTO one;
			CONTINUE WHEN one IS NULL;
			told := told OPERATOR(pg_catalog.||) one;
		ELSIF COALESCE(known.amount OPERATOR(pg_catalog.<>) cause.amount, false) THEN
			UPDATE llmquota.alert a
			   SET raised_at = pg_catalog.clock_timestamp(),
				   ends_at = cause.ends_at,
				   used = pg_catalog.trim_scale(cause.used),
				   amount = pg_catalog.trim_scale(cause.amount),
				   expected_at = cause.expected_at,
				   message = cause.message,
				   part_of = NULL,
				   resolved_at = NULL,
				   acknowledged_at = NULL,
				   acknowledged_by = NULL
			 WHERE a.id OPERATOR(pg_catalog.=) known.id;
			told := told OPERATOR(pg_catalog.||) known.id;
		ELSE
			UPDATE llmquota.alert a
			   SET resolved_at = NULL,
				   ends_at = cause.ends_at
			 WHERE a.id OPERATOR(pg_catalog.=) known.id;
		END IF;
		unsettled := unsettled OPERATOR(pg_catalog.||) cause.watch;
	END LOOP;
	raised := pg_catalog.cardinality(told);

	IF raised OPERATOR(pg_catalog.>) at_once THEN
		INSERT INTO llmquota.alert AS a (raised_at, kind, subject, message, digest)
		SELECT pg_catalog.clock_timestamp(), 'digest', '',
			   pg_catalog.format('%s alerts at once: %s', raised,
				   pg_catalog.string_agg(pg_catalog.format('%s %s', k.alerts, k.kind), ', ' ORDER BY k.kind)),
			   pg_catalog.jsonb_build_object('alerts', raised, 'kinds', pg_catalog.jsonb_object_agg(k.kind, k.alerts))
		  FROM (SELECT b.kind, pg_catalog.count(*) AS alerts
				  FROM llmquota.alert b WHERE b.id OPERATOR(pg_catalog.=) ANY (told) GROUP BY b.kind) k
		RETURNING a.id INTO one;
		UPDATE llmquota.alert a SET part_of = one WHERE a.id OPERATOR(pg_catalog.=) ANY (told);
		told := ARRAY[one];
	END IF;
	PERFORM @extschema@.llmquota_tell_alert(a) FROM llmquota.alert a WHERE a.id OPERATOR(pg_catalog.=) ANY (told);
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_raise_alerts() IS 'internal, of a step of llmquota_maintain: writes and tells the alerts that have come up';

CREATE FUNCTION @extschema@.llmquota_alert_stands(alert llmquota.alert)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_alert_stands';

COMMENT ON FUNCTION @extschema@.llmquota_alert_stands(llmquota.alert) IS 'internal: whether what an alert was raised for is so still';

CREATE FUNCTION @extschema@.llmquota_resolve_alerts(deadline timestamptz)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	resolved pg_catalog.int8;
BEGIN
	UPDATE llmquota.alert a SET resolved_at = pg_catalog.clock_timestamp()
	 WHERE a.resolved_at IS NULL AND a.kind OPERATOR(pg_catalog.<>) 'digest'
	   AND (COALESCE(a.ends_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp(), false) OR NOT @extschema@.llmquota_alert_stands(a));
	GET DIAGNOSTICS resolved := ROW_COUNT;
	UPDATE llmquota.alert a SET resolved_at = pg_catalog.clock_timestamp()
	 WHERE a.resolved_at IS NULL AND a.kind OPERATOR(pg_catalog.=) 'digest'
	   AND NOT EXISTS (SELECT FROM llmquota.alert p WHERE p.part_of OPERATOR(pg_catalog.=) a.id AND p.resolved_at IS NULL);
	RETURN resolved;
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_resolve_alerts(timestamptz) IS 'internal, a step of llmquota_maintain: resolves alerts that are over; answers how many, digests not counted';

CREATE FUNCTION @extschema@.llmquota_ack(alert bigint)
RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF alert IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'alert must not be NULL';
	END IF;
	UPDATE llmquota.alert a
	   SET acknowledged_at = pg_catalog.clock_timestamp(),
		   acknowledged_by = SESSION_USER
	 WHERE (a.id OPERATOR(pg_catalog.=) $1 OR a.part_of OPERATOR(pg_catalog.=) $1) AND a.acknowledged_at IS NULL;
	IF FOUND THEN
		RETURN 'acknowledged';
	ELSIF EXISTS (SELECT FROM llmquota.alert a WHERE a.id OPERATOR(pg_catalog.=) $1) THEN
		RETURN 'already_acknowledged';
	END IF;
	RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = pg_catalog.format('alert %s does not exist', alert),
		HINT = 'SELECT id, message FROM llmquota.alert shows the alerts.';
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_ack(bigint) IS
'Notes in llmquota.alert that somebody has seen an alert, who and when; with a digest, of all its parts too. Answers acknowledged, or already_acknowledged';

-- Says which rows of the ledger a role sees: all, those of its orgs, or none. The policies are the roles' own, so that
-- they are dumped as their privileges are, and that they name the orgs: an index on the org can be used. Policies change
-- under a lock that keeps readers of the whole ledger out, so it is not waited for long.
CREATE OR REPLACE FUNCTION @extschema@.llmquota_apply_policies(role text)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET lock_timeout = '500ms'
AS $$
DECLARE
	sees_all CONSTANT boolean := EXISTS (SELECT FROM llmquota.role_grant g
										  WHERE g.role OPERATOR(pg_catalog.=) $1
											AND (g.kind OPERATOR(pg_catalog.=) 'admin' OR g.kind OPERATOR(pg_catalog.=) 'analyst' AND g.org IS NULL));
	-- an org that has been renamed has rows by its former names, too
	orgs CONSTANT pg_catalog.text[] := (SELECT pg_catalog.array_agg(o.org ORDER BY o.org)
										  FROM llmquota.role_grant g
										 CROSS JOIN LATERAL (
											SELECT g.org
											UNION ALL
											SELECT f.name FROM llmquota.alias f
											  JOIN llmquota.alias c ON c.kind OPERATOR(pg_catalog.=) f.kind AND c.cell OPERATOR(pg_catalog.=) f.cell
																   AND c.generation OPERATOR(pg_catalog.=) f.generation
											 WHERE c.kind OPERATOR(pg_catalog.=) 'org' AND c.name OPERATOR(pg_catalog.=) g.org AND c.is_current
											   AND NOT f.is_current AND f.until IS NULL) o
										 WHERE g.role OPERATOR(pg_catalog.=) $1 AND g.kind OPERATOR(pg_catalog.=) 'analyst');
	target pg_catalog.text;
BEGIN
	FOREACH target IN ARRAY '{usage,usage_hourly,repricing,refusal_hourly,refusal_sample,alert}'::pg_catalog.text[] LOOP
		IF EXISTS (SELECT FROM pg_catalog.pg_policy p
					WHERE p.polrelid OPERATOR(pg_catalog.=) pg_catalog.format('llmquota.%I', target)::pg_catalog.regclass
					  AND p.polname::pg_catalog.text OPERATOR(pg_catalog.=) role) THEN
			EXECUTE pg_catalog.format('DROP POLICY %I ON llmquota.%I', role, target);
		END IF;
		IF sees_all THEN
			EXECUTE pg_catalog.format('CREATE POLICY %I ON llmquota.%I FOR SELECT TO %1$I USING (true)', role, target);
		ELSIF orgs IS NOT NULL THEN
			EXECUTE pg_catalog.format('CREATE POLICY %I ON llmquota.%I FOR SELECT TO %1$I USING (org OPERATOR(pg_catalog.=) ANY (%3$L::pg_catalog.text[]))',
									  role, target, orgs);
		END IF;
	END LOOP;
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_apply_policies(text) IS 'internal: brings what a role sees of the ledger, refusals and alerts in line with llmquota.role_grant';

-- Which budget is meant: the one that is named, else the only one of the org, else the only one that holds for each.
CREATE FUNCTION @extschema@.llmquota_raise_budget(
	org text,
	amount numeric,
	until timestamptz,
	reason text,
	budget bigint DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	bearer CONSTANT pg_catalog.text := COALESCE(
		(SELECT f.now_called FROM llmquota.former_name f
		  WHERE f.kind OPERATOR(pg_catalog.=) COALESCE((SELECT b.scope FROM llmquota.budget b WHERE b.id OPERATOR(pg_catalog.=) $5 AND b.scope OPERATOR(pg_catalog.<>) 'parent'), 'org')
			AND f.name OPERATOR(pg_catalog.=) $1 AND f.until OPERATOR(pg_catalog.=) 'infinity'), $1);
	found bigint[];
	raised bigint;
BEGIN
	IF org IS NULL OR amount IS NULL OR until IS NULL OR reason IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed',
			MESSAGE = 'org, amount, until and reason must not be NULL',
			HINT = 'Say to what amount the budget is raised, until when, and why.';
	END IF;
	IF until OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp() THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = 'a budget cannot be raised until a time that has passed',
			HINT = 'Pass a time to come.';
	END IF;
	SELECT pg_catalog.array_agg(b.id ORDER BY b.id) INTO found
	  FROM llmquota.budget b
	 WHERE b.id OPERATOR(pg_catalog.=) $5 OR $5 IS NULL AND b.scope OPERATOR(pg_catalog.=) 'org' AND b.subject OPERATOR(pg_catalog.=) bearer;
	IF found IS NULL AND budget IS NULL THEN
		SELECT pg_catalog.array_agg(b.id ORDER BY b.id) INTO found
		  FROM llmquota.budget b
		 WHERE b.scope OPERATOR(pg_catalog.=) 'org' AND b.subject OPERATOR(pg_catalog.=) '*';
	END IF;
	IF found IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_object',
			MESSAGE = CASE WHEN budget IS NULL THEN pg_catalog.format('org "%s" has no budget', org)
						   ELSE pg_catalog.format('budget %s does not exist', budget) END,
			HINT = 'See llmquota.budget.';
	ELSIF pg_catalog.cardinality(found) OPERATOR(pg_catalog.>) 1 THEN
		RAISE EXCEPTION USING ERRCODE = 'ambiguous_parameter',
			MESSAGE = pg_catalog.format('org "%s" has %s budgets', org, pg_catalog.cardinality(found)),
			HINT = pg_catalog.format('Say which one is raised: budget => %s.', pg_catalog.array_to_string(found, ' or '));
	ELSIF NOT EXISTS (SELECT FROM llmquota.budget b
					   WHERE b.id OPERATOR(pg_catalog.=) found[1] AND b.subject OPERATOR(pg_catalog.=) ANY (ARRAY[bearer, '*'])) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = pg_catalog.format('budget %s is not of "%s"', budget, org),
			HINT = 'Pass the subject of the budget as org.';
	END IF;
	INSERT INTO llmquota.budget_raise (budget, subject, amount, until, reason, raised_by, raised_at)
	VALUES (found[1], bearer, $2, $3, $4, SESSION_USER, pg_catalog.clock_timestamp())
	RETURNING id INTO raised;
	RETURN raised;
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_raise_budget(text, numeric, timestamptz, text, bigint) IS
'Raises a budget of an org to an amount, in the budget''s currency, until a time, and keeps who did and why in llmquota.budget_raise; answers the number of the raise. Where the org has several, budget says which one. What a parent or others have is raised with org => its subject and budget => its id. Deleting the row ends the raise';

CREATE FUNCTION @extschema@.llmquota_forget_requests(org text, pseudonym text)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_forget_requests';

COMMENT ON FUNCTION @extschema@.llmquota_forget_requests(text, text) IS 'internal: forgets which requests were made, for llmquota_forget';

-- Pseudonyms are made with a salt that is forgotten at once: what was one stays one, and nobody finds out which.
DROP FUNCTION @extschema@.llmquota_forget;
CREATE FUNCTION @extschema@.llmquota_forget(
	org text,
	session text DEFAULT NULL,
	OUT pseudonym text,
	OUT ledger_rows bigint,
	OUT pending bigint,
	OUT conversations bigint,
	OUT answers bigint)
RETURNS record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	salt CONSTANT pg_catalog.text := pg_catalog.gen_random_uuid()::pg_catalog.text;
	bearer CONSTANT pg_catalog.text := COALESCE(
		(SELECT f.now_called FROM llmquota.former_name f
		  WHERE f.kind OPERATOR(pg_catalog.=) 'org' AND f.name OPERATOR(pg_catalog.=) $1 AND f.until OPERATOR(pg_catalog.=) 'infinity'), $1);
BEGIN
	IF org IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed',
			MESSAGE = 'org must not be NULL';
	END IF;
	answers := 0;
	-- labels first: whatever is recorded from now on is without them
	pending := @extschema@.llmquota_forget_labels(bearer, session);
	DELETE FROM llmquota.conversation c
	 WHERE (c.org_kind, c.org) OPERATOR(pg_catalog.=) (
			SELECT CASE WHEN COALESCE(pg_catalog.max(a.generation), 1) OPERATOR(pg_catalog.=) 1 THEN 'o'::pg_catalog."char" ELSE 'O'::pg_catalog."char" END,
				   COALESCE(pg_catalog.max(CASE WHEN a.generation OPERATOR(pg_catalog.=) 1 THEN a.cell
												ELSE pg_catalog.format('%s:%s', a.generation, a.cell) END), bearer)
			  FROM llmquota.alias a
			 WHERE a.kind OPERATOR(pg_catalog.=) 'org' AND a.name OPERATOR(pg_catalog.=) bearer AND a.until IS NULL)
	   AND ($2 IS NULL OR @extschema@.llmquota_session_id(c.channel, c.user_id) OPERATOR(pg_catalog.=) $2);
	GET DIAGNOSTICS conversations := ROW_COUNT;
	pseudonym := 'forgotten-' OPERATOR(pg_catalog.||) pg_catalog.left(pg_catalog.encode(pg_catalog.sha256(
		pg_catalog.convert_to(salt OPERATOR(pg_catalog.||) COALESCE(session, ''), 'UTF8')), 'hex'), 32);
	UPDATE llmquota.usage u
	   SET org = CASE WHEN $2 IS NULL THEN $3 ELSE u.org END,
		   session = 'forgotten-' OPERATOR(pg_catalog.||) pg_catalog.left(pg_catalog.encode(pg_catalog.sha256(
				pg_catalog.convert_to(salt OPERATOR(pg_catalog.||) u.session, 'UTF8')), 'hex'), 32),
		   request_id = 'forgotten-' OPERATOR(pg_catalog.||) pg_catalog.left(pg_catalog.encode(pg_catalog.sha256(
				pg_catalog.convert_to(salt OPERATOR(pg_catalog.||) u.request_id, 'UTF8')), 'hex'), 32),
		   error = NULL,
		   tags = NULL
	 WHERE ($2 IS NULL OR u.session OPERATOR(pg_catalog.=) $2)
	   AND (EXISTS (SELECT FROM llmquota.former_name f
					 WHERE f.kind OPERATOR(pg_catalog.=) 'org' AND f.name OPERATOR(pg_catalog.=) u.org AND f.now_called OPERATOR(pg_catalog.=) bearer
					   AND u.recorded_at OPERATOR(pg_catalog.>=) f.since AND u.picked_at OPERATOR(pg_catalog.>=) f.picked_from
					   AND u.picked_at OPERATOR(pg_catalog.<) f.until)
			OR u.org OPERATOR(pg_catalog.=) bearer
			   AND NOT EXISTS (SELECT FROM llmquota.former_name f
								WHERE f.kind OPERATOR(pg_catalog.=) 'org' AND f.name OPERATOR(pg_catalog.=) u.org
								  AND u.recorded_at OPERATOR(pg_catalog.>=) f.since AND u.picked_at OPERATOR(pg_catalog.>=) f.picked_from
								  AND u.picked_at OPERATOR(pg_catalog.<) f.until));
	GET DIAGNOSTICS ledger_rows := ROW_COUNT;
	PERFORM @extschema@.llmquota_forget_requests(bearer, CASE WHEN session IS NOT NULL THEN pseudonym END);
	-- hours whose rows are still in the ledger are counted anew by maintenance; those of dropped partitions are not
	IF session IS NULL THEN
		UPDATE llmquota.usage_hourly h SET org = pseudonym
		 WHERE (h.org OPERATOR(pg_catalog.=) bearer
				OR EXISTS (SELECT FROM llmquota.former_name f
							WHERE f.kind OPERATOR(pg_catalog.=) 'org' AND f.name OPERATOR(pg_catalog.=) h.org AND f.now_called OPERATOR(pg_catalog.=) bearer
							  AND h.hour OPERATOR(pg_catalog.>=) f.picked_from AND h.hour OPERATOR(pg_catalog.<) f.until))
		   AND pg_catalog.to_regclass('llmquota.usage_' OPERATOR(pg_catalog.||)
				pg_catalog.to_char(pg_catalog.timezone('UTC', h.hour), 'YYYYMMDD')) IS NULL
		   AND NOT EXISTS (SELECT FROM llmquota.usage_default d
							WHERE d.picked_at OPERATOR(pg_catalog.>=) h.hour
							  AND d.picked_at OPERATOR(pg_catalog.<) (h.hour OPERATOR(pg_catalog.+) '1 hour'::pg_catalog.interval));
		UPDATE llmquota.repricing r SET org = pseudonym
		 WHERE r.org OPERATOR(pg_catalog.=) bearer
			OR EXISTS (SELECT FROM llmquota.former_name f
						WHERE f.kind OPERATOR(pg_catalog.=) 'org' AND f.name OPERATOR(pg_catalog.=) r.org AND f.now_called OPERATOR(pg_catalog.=) bearer
						  AND r.day OPERATOR(pg_catalog.>=) (f.picked_from AT TIME ZONE 'UTC')::pg_catalog.date
						  AND r.day OPERATOR(pg_catalog.<=) (f.until AT TIME ZONE 'UTC')::pg_catalog.date);
		-- two names of the org may have refusals in one hour, which are one name's now
		WITH gone AS (
			DELETE FROM llmquota.refusal_hourly r
			 WHERE r.org OPERATOR(pg_catalog.=) bearer
				OR EXISTS (SELECT FROM llmquota.former_name f
							WHERE f.kind OPERATOR(pg_catalog.=) 'org' AND f.name OPERATOR(pg_catalog.=) r.org AND f.now_called OPERATOR(pg_catalog.=) bearer
							  AND r.hour OPERATOR(pg_catalog.>=) f.picked_from AND r.hour OPERATOR(pg_catalog.<) f.until)
			RETURNING r.*)
		INSERT INTO llmquota.refusal_hourly (hour, org, route, status, quota, count, tokens, first_at, last_at)
		SELECT g.hour, $3, g.route, g.status, g.quota, pg_catalog.sum(g.count), pg_catalog.sum(g.tokens),
			   pg_catalog.min(g.first_at), pg_catalog.max(g.last_at)
		  FROM gone g GROUP BY g.hour, g.route, g.status, g.quota;
		DELETE FROM llmquota.alert a WHERE a.org OPERATOR(pg_catalog.=) bearer;
		answers := @extschema@.llmquota_forget_answers(bearer);
		DELETE FROM llmquota.refusal_sample r
		 WHERE r.org OPERATOR(pg_catalog.=) bearer
			OR EXISTS (SELECT FROM llmquota.former_name f
						WHERE f.kind OPERATOR(pg_catalog.=) 'org' AND f.name OPERATOR(pg_catalog.=) r.org AND f.now_called OPERATOR(pg_catalog.=) bearer
						  AND r.minute OPERATOR(pg_catalog.>=) f.picked_from AND r.minute OPERATOR(pg_catalog.<) f.until);
	END IF;
END
$$;

--
-- Functions: corrections
--

CREATE FUNCTION @extschema@.llmquota_reprice(since timestamptz, until timestamptz DEFAULT NULL)
RETURNS SETOF llmquota.repricing
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_reprice';

COMMENT ON FUNCTION @extschema@.llmquota_reprice(timestamptz, timestamptz) IS
'Computes anew what the calls cost that were picked from since on and before until (NULL: to the last), by the prices and exchange rates of now that are valid for them, and brings the ledger to it. Costs that applications have told stay, and are only converted anew. Answers the differences, which llmquota.repricing keeps; none when there are none. Calls may go on';

-- How many decimals amounts of a currency have when they are paid, as ISO 4217 has it.
CREATE FUNCTION @extschema@.llmquota_minor_unit(currency text)
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT CASE WHEN currency OPERATOR(pg_catalog.=) ANY ('{BIF,CLP,DJF,GNF,ISK,JPY,KMF,KRW,PYG,RWF,UGX,UYI,VND,VUV,XAF,XOF,XPF}') THEN 0
				WHEN currency OPERATOR(pg_catalog.=) ANY ('{BHD,IQD,JOD,KWD,LYD,OMR,TND}') THEN 3
				WHEN currency OPERATOR(pg_catalog.=) ANY ('{CLF,UYW}') THEN 4
				ELSE 2 END;
END;

COMMENT ON FUNCTION @extschema@.llmquota_minor_unit(text) IS 'internal: with how many decimals an amount of a currency is paid';

-- The statement of an org and of all orgs below it, in the time zone of the first. Sums are exact: an amount is rounded
-- where it is due, and nowhere before. Former names are looked up here, and not by llmquota.usage_current, so that rows of
-- other orgs are passed over as they are read; that view is made further down.
CREATE FUNCTION @extschema@.llmquota_statement_rows(
	org text,
	month text)
RETURNS SETOF llmquota.statement_result
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET lock_timeout = 0
AS $$
BEGIN
	RETURN QUERY
	WITH RECURSIVE family AS (
		SELECT $1 AS org, 0 AS level
		UNION
		SELECT o.org, f.level OPERATOR(pg_catalog.+) 1
		  FROM family f
		  JOIN llmquota.org o ON o.parent OPERATOR(pg_catalog.=) f.org
		 WHERE f.level OPERATOR(pg_catalog.<) 16
	), listed AS (
		SELECT f.org, pg_catalog.min(f.level) AS level,
			   COALESCE((SELECT o.markup FROM llmquota.org o WHERE o.org OPERATOR(pg_catalog.=) f.org), 0) AS markup
		  FROM family f
		 GROUP BY f.org
	), span AS (
		SELECT z.timezone,
			   ($2 OPERATOR(pg_catalog.||) '-01')::pg_catalog.timestamp AT TIME ZONE z.timezone AS begins,
			   (($2 OPERATOR(pg_catalog.||) '-01')::pg_catalog.timestamp OPERATOR(pg_catalog.+) '1 month'::pg_catalog.interval) AT TIME ZONE z.timezone AS ends
		  FROM (SELECT COALESCE((SELECT o.timezone FROM llmquota.org o WHERE o.org OPERATOR(pg_catalog.=) $1), 'UTC') AS timezone) z
	), used AS (
		SELECT COALESCE(o.now_called, u.org) AS org,
			   (u.picked_at AT TIME ZONE (SELECT s.timezone FROM span s))::pg_catalog.date AS day,
			   COALESCE(m.now_called, u.model) AS model, u.currency,
			   pg_catalog.count(*) AS calls,
			   COALESCE(pg_catalog.sum(u.input_tokens), 0) AS input_tokens,
			   COALESCE(pg_catalog.sum(u.cached_tokens), 0) AS cached_tokens,
			   COALESCE(pg_catalog.sum(u.output_tokens), 0) AS output_tokens,
			   pg_catalog.sum(u.cost) AS cost
		  FROM llmquota.usage u
		  LEFT JOIN llmquota.former_name o ON o.kind OPERATOR(pg_catalog.=) 'org' AND o.name OPERATOR(pg_catalog.=) u.org
				AND u.recorded_at OPERATOR(pg_catalog.>=) o.since AND u.picked_at OPERATOR(pg_catalog.>=) o.picked_from AND u.picked_at OPERATOR(pg_catalog.<) o.until
		  LEFT JOIN llmquota.former_name m ON m.kind OPERATOR(pg_catalog.=) 'model' AND m.name OPERATOR(pg_catalog.=) u.model
				AND u.recorded_at OPERATOR(pg_catalog.>=) m.since AND u.picked_at OPERATOR(pg_catalog.>=) m.picked_from AND u.picked_at OPERATOR(pg_catalog.<) m.until
		 WHERE u.picked_at OPERATOR(pg_catalog.>=) (SELECT s.begins FROM span s)
		   AND u.picked_at OPERATOR(pg_catalog.<) (SELECT s.ends FROM span s)
		   AND (COALESCE(u.status, '') OPERATOR(pg_catalog.<>) 'released' OR u.cost OPERATOR(pg_catalog.<>) 0)
		   AND u.org OPERATOR(pg_catalog.=) ANY (ARRAY(
				SELECT l.org FROM listed l
				UNION
				SELECT f.name FROM llmquota.former_name f JOIN listed l ON l.org OPERATOR(pg_catalog.=) f.now_called
				 WHERE f.kind OPERATOR(pg_catalog.=) 'org'))
		 GROUP BY 1, 2, 3, 4
	), lines AS (
		SELECT CASE WHEN GROUPING(u.org) OPERATOR(pg_catalog.=) 1 THEN 2 ELSE GROUPING(u.day) END AS kind,
			   l.level, u.org, u.day, u.model, u.currency,
			   pg_catalog.sum(u.calls)::pg_catalog.int8 AS calls, pg_catalog.sum(u.input_tokens)::pg_catalog.int8 AS input_tokens,
			   pg_catalog.sum(u.cached_tokens)::pg_catalog.int8 AS cached_tokens, pg_catalog.sum(u.output_tokens)::pg_catalog.int8 AS output_tokens,
			   pg_catalog.sum(u.cost) AS cost, l.markup,
			   pg_catalog.sum(u.cost OPERATOR(pg_catalog.*) (1::pg_catalog.numeric OPERATOR(pg_catalog.+) l.markup)) AS amount
		  FROM used u
		  JOIN listed l ON l.org OPERATOR(pg_catalog.=) u.org
		 GROUP BY GROUPING SETS ((l.level, u.org, l.markup, u.day, u.model, u.currency), (l.level, u.org, l.markup, u.currency), (u.currency))
	)
	SELECT ('{day,org,total}'::pg_catalog.text[])[s.kind OPERATOR(pg_catalog.+) 1], s.org, s.day, s.model, s.currency, s.calls,
		   s.input_tokens, s.cached_tokens, s.output_tokens, s.cost, s.markup, s.amount,
		   CASE WHEN s.kind OPERATOR(pg_catalog.>) 0 THEN pg_catalog.round(s.amount, @extschema@.llmquota_minor_unit(s.currency)) END
	  FROM lines s
	 ORDER BY s.kind OPERATOR(pg_catalog.=) 2, s.level, s.org, s.kind, s.day, s.model, s.currency;
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_statement_rows(text, text) IS 'internal: the rows of llmquota_statement, whoever asks';

CREATE FUNCTION @extschema@.llmquota_statement(org text, month text)
RETURNS SETOF llmquota.statement_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_statement';

COMMENT ON FUNCTION @extschema@.llmquota_statement(text, text) IS
'What an org is billed for a month (such as 2026-03) in its time zone: a row for each day, model and currency, and one for the sum of the org in each currency; the same for each org below it; and the sums of all. amount is the cost with the org''s markup, exact; amount_due, in sums only, is that rounded to what the currency is paid in, half away from zero. Of calls whose cost nobody knows currency and amounts are NULL. Who is bound to orgs by llmquota_grant may ask for these only';

-- How a column of a provider's export is read, as an expression: a day, a name or a figure, by the field that it is.
CREATE FUNCTION @extschema@.llmquota_export_column(usage_export regclass, field text, name text)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE
AS $$
DECLARE
	found pg_catalog.regtype;
	is_day CONSTANT boolean := field OPERATOR(pg_catalog.=) 'day';
	is_name CONSTANT boolean := field OPERATOR(pg_catalog.=) ANY ('{model,account,key}'::pg_catalog.text[]);
BEGIN
	-- what a domain is of; domains of domains are not looked through
	SELECT CASE WHEN t.typtype OPERATOR(pg_catalog.=) 'd' THEN t.typbasetype ELSE t.oid END INTO found
	  FROM pg_catalog.pg_attribute a
	  JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
	 WHERE a.attrelid OPERATOR(pg_catalog.=) usage_export AND a.attname::pg_catalog.text OPERATOR(pg_catalog.=) name
	   AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped;
	IF found IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_column',
			MESSAGE = pg_catalog.format('%s has no column "%s"', usage_export, name),
			HINT = pg_catalog.format('Say in mapping which column is the %s: {"%s": "..."}.', field, field);
	END IF;
	IF is_name AND found OPERATOR(pg_catalog.=) ANY ('{pg_catalog.text,pg_catalog.varchar,pg_catalog.bpchar,pg_catalog.name}'::pg_catalog.regtype[]) THEN
		RETURN pg_catalog.format('e.%I::pg_catalog.text', name);
	ELSIF is_day AND found OPERATOR(pg_catalog.=) ANY ('{pg_catalog.date,pg_catalog.timestamp}'::pg_catalog.regtype[]) THEN
		RETURN pg_catalog.format('e.%I::pg_catalog.date', name);
	ELSIF is_day AND found OPERATOR(pg_catalog.=) 'pg_catalog.timestamptz'::pg_catalog.regtype THEN
		RETURN pg_catalog.format('(e.%I AT TIME ZONE $2)::pg_catalog.date', name);
	ELSIF is_day AND found OPERATOR(pg_catalog.=) ANY ('{pg_catalog.int4,pg_catalog.int8}'::pg_catalog.regtype[]) THEN
		RETURN pg_catalog.format('(pg_catalog.to_timestamp(e.%I) AT TIME ZONE $2)::pg_catalog.date', name);
	ELSIF NOT is_name AND NOT is_day
		AND found OPERATOR(pg_catalog.=) ANY ('{pg_catalog.int2,pg_catalog.int4,pg_catalog.int8,pg_catalog.numeric}'::pg_catalog.regtype[]) THEN
		RETURN pg_catalog.format('COALESCE(e.%I, 0)::pg_catalog.numeric', name);
	END IF;
	RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch',
		MESSAGE = pg_catalog.format('column "%s" of %s is of type %s, which cannot be the %s', name, usage_export, found, field),
		HINT = pg_catalog.format('It has to be %s. A view of the table can convert it.',
			CASE WHEN is_name THEN 'a text'
				 WHEN is_day THEN 'a date, a timestamp, or an integer, in seconds since 1970'
				 ELSE 'an integer or numeric' END);
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_export_column(regclass, text, text) IS 'internal: how llmquota_reconcile reads a column of a provider''s export';

-- How a field of a provider's export is read; NULL: it does not have it. Of several columns the sum is read.
CREATE FUNCTION @extschema@.llmquota_export_field(usage_export regclass, mapping jsonb, field text)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE
AS $$
DECLARE
	given CONSTANT pg_catalog.jsonb := mapping OPERATOR(pg_catalog.->) field;
	required CONSTANT boolean := field OPERATOR(pg_catalog.=) ANY ('{day,model}'::pg_catalog.text[]);
	has_column CONSTANT boolean := EXISTS (
		SELECT FROM pg_catalog.pg_attribute a
		 WHERE a.attrelid OPERATOR(pg_catalog.=) usage_export AND a.attname::pg_catalog.text OPERATOR(pg_catalog.=) field
		   AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped);
	kind CONSTANT pg_catalog.text := COALESCE(pg_catalog.jsonb_typeof(given), CASE WHEN has_column OR required THEN 'same' ELSE 'null' END);
BEGIN
	IF kind OPERATOR(pg_catalog.=) 'null' AND NOT required THEN
		RETURN NULL;
	ELSIF kind OPERATOR(pg_catalog.=) 'same' THEN
		RETURN @extschema@.llmquota_export_column(usage_export, field, field);
	ELSIF kind OPERATOR(pg_catalog.=) 'string' THEN
		RETURN @extschema@.llmquota_export_column(usage_export, field, given OPERATOR(pg_catalog.#>>) '{}');
	ELSIF kind OPERATOR(pg_catalog.=) 'array' AND given OPERATOR(pg_catalog.<>) '[]'
		AND field OPERATOR(pg_catalog.=) ANY ('{requests,input_tokens,output_tokens,cost}'::pg_catalog.text[])
		AND NOT EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(given) e WHERE pg_catalog.jsonb_typeof(e.value) OPERATOR(pg_catalog.<>) 'string') THEN
		RETURN (SELECT pg_catalog.string_agg(@extschema@.llmquota_export_column(usage_export, field, e.value), ' OPERATOR(pg_catalog.+) ')
				  FROM pg_catalog.jsonb_array_elements_text(given) e);
	END IF;
	RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
		MESSAGE = pg_catalog.format('cannot read the %s from %s', field, given),
		HINT = 'Give the name of a column, several names as an array for a figure that is their sum, or null for a field that is not to be compared; day and model have to be.';
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_export_field(regclass, jsonb, text) IS 'internal: how llmquota_reconcile reads a field of a provider''s export; NULL: it is not to be compared';

-- Raises when arguments of llmquota_reconcile make no sense.
CREATE FUNCTION @extschema@.llmquota_check_reconcile(provider text, usage_export regclass, mapping jsonb, timezone text, currency text, names jsonb)
RETURNS void
LANGUAGE plpgsql STABLE PARALLEL UNSAFE
AS $$
DECLARE
	wrong pg_catalog.text;
BEGIN
	IF provider IS NULL OR usage_export IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed',
			MESSAGE = 'provider and usage_export must not be NULL';
	END IF;
	IF NOT EXISTS (SELECT FROM llmquota.provider p WHERE p.provider OPERATOR(pg_catalog.=) $1) THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_object',
			MESSAGE = pg_catalog.format('provider "%s" does not exist', provider),
			HINT = 'SELECT provider FROM llmquota.provider shows the providers.';
	END IF;
	IF pg_catalog.jsonb_typeof(mapping) OPERATOR(pg_catalog.<>) 'object' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = 'mapping is not an object',
			HINT = 'Use an object such as {"day": "usage_date", "input_tokens": ["uncached", "cached"]}.';
	END IF;
	SELECT k INTO wrong FROM pg_catalog.jsonb_object_keys(mapping) k
	 WHERE k OPERATOR(pg_catalog.<>) ALL ('{day,model,account,key,requests,input_tokens,output_tokens,cost}'::pg_catalog.text[]) LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = pg_catalog.format('unknown field "%s" in mapping', wrong),
			HINT = 'Use day, model, account, key, requests, input_tokens, output_tokens and cost.';
	END IF;
	IF pg_catalog.jsonb_typeof(names) OPERATOR(pg_catalog.<>) 'object'
	   OR EXISTS (SELECT FROM pg_catalog.jsonb_each(names) n
				   WHERE n.key OPERATOR(pg_catalog.<>) ALL ('{model,account,key}'::pg_catalog.text[])
					  OR pg_catalog.jsonb_typeof(n.value) OPERATOR(pg_catalog.<>) 'object') THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = 'names is not an object of model, account and key',
			HINT = 'Use an object such as {"key": {"its name in the export": "its name here"}}.';
	END IF;
	IF NOT @extschema@.llmquota_zone_exists(timezone) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = pg_catalog.format('time zone "%s" not recognized', timezone),
			HINT = 'SELECT name FROM pg_timezone_names shows the time zones.';
	END IF;
	IF currency OPERATOR(pg_catalog.!~) '^[A-Z]{3}$' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = pg_catalog.format('"%s" is not a currency', currency),
			HINT = 'Use three capital letters.';
	END IF;
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_check_reconcile(text, regclass, jsonb, text, text, jsonb) IS 'internal: checks the arguments of llmquota_reconcile';

-- The table of the export is read with the caller's privileges, like everything here. Both sides are added up by day and by
-- the names that the provider has for models; then rows of the same are put together, whichever side they are of.
-- Parameters of the query: 1 the provider, 2 the time zone, 3 and 4 the first and last day, 5 the currency, 6 its being the
-- base currency, 7 the names.
CREATE FUNCTION @extschema@.llmquota_reconcile(
	provider text,
	usage_export regclass,
	mapping jsonb DEFAULT NULL,
	first_day date DEFAULT NULL,
	last_day date DEFAULT NULL,
	timezone text DEFAULT NULL,
	currency text DEFAULT NULL,
	names jsonb DEFAULT NULL)
RETURNS SETOF llmquota.reconcile_result
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET jit = off
AS $$
DECLARE
	base CONSTANT pg_catalog.text := COALESCE((SELECT s.value FROM llmquota.setting s WHERE s.name OPERATOR(pg_catalog.=) 'base_currency'), 'USD');
	zone CONSTANT pg_catalog.text := COALESCE(timezone, (SELECT p.timezone FROM llmquota.provider p WHERE p.provider OPERATOR(pg_catalog.=) $1));
	asked CONSTANT pg_catalog.jsonb := COALESCE(mapping, '{}');
	field record;
	reads pg_catalog.text := '';
	sums pg_catalog.text := '';
	figures pg_catalog.text := '';
	differences pg_catalog.text := '';
	read pg_catalog.text;
	export pg_catalog.text;
	by_account boolean;
	by_key boolean;
	first pg_catalog.date := first_day;
	last pg_catalog.date := last_day;
BEGIN
	PERFORM @extschema@.llmquota_check_reconcile(provider, usage_export, asked, zone, currency, COALESCE(names, '{}'));
	FOR field IN
		SELECT f.name, f.is_figure
		  FROM (VALUES (1, 'day', false), (2, 'model', false), (3, 'account', false), (4, 'key', false), (5, 'requests', true),
					   (6, 'input_tokens', true), (7, 'output_tokens', true), (8, 'cost', true)) f (place, name, is_figure)
		 ORDER BY f.place
	LOOP
		read := @extschema@.llmquota_export_field(usage_export, asked, field.name);
		reads := reads OPERATOR(pg_catalog.||) pg_catalog.format(', %s AS %I',
			COALESCE(read, CASE WHEN field.is_figure THEN 'NULL::pg_catalog.numeric' ELSE 'NULL::pg_catalog.text' END), field.name);
		by_account := CASE WHEN field.name OPERATOR(pg_catalog.=) 'account' THEN read IS NOT NULL ELSE by_account END;
		by_key := CASE WHEN field.name OPERATOR(pg_catalog.=) 'key' THEN read IS NOT NULL ELSE by_key END;
		IF field.is_figure THEN
			sums := sums OPERATOR(pg_catalog.||) pg_catalog.format(', pg_catalog.sum(e.%1$I) AS %1$I', field.name);
			figures := figures OPERATOR(pg_catalog.||) pg_catalog.format(
				', COALESCE(pg_catalog.sum(b.%1$I) FILTER (WHERE b.here), 0) AS %2$I, %3$s AS %4$I', field.name, field.name OPERATOR(pg_catalog.||) '_here',
				CASE WHEN read IS NULL THEN 'NULL::pg_catalog.numeric'
					 ELSE pg_catalog.format('COALESCE(pg_catalog.sum(b.%I) FILTER (WHERE NOT b.here), 0)', field.name) END,
				field.name OPERATOR(pg_catalog.||) '_there');
			differences := differences OPERATOR(pg_catalog.||) CASE WHEN read IS NOT NULL THEN pg_catalog.format(
				' OR r.%I OPERATOR(pg_catalog.<>) r.%I', field.name OPERATOR(pg_catalog.||) '_here', field.name OPERATOR(pg_catalog.||) '_there') ELSE '' END;
		END IF;
	END LOOP;
	IF differences OPERATOR(pg_catalog.=) '' THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_column',
			MESSAGE = pg_catalog.format('%s has no figure to compare', usage_export),
			HINT = 'Say in mapping which columns are the requests, input_tokens, output_tokens or cost.';
	END IF;

	export := pg_catalog.format('SELECT %s FROM %s e', pg_catalog.substr(reads, 3), usage_export);
	IF first IS NULL OR last IS NULL THEN
		EXECUTE pg_catalog.format('SELECT COALESCE($1, pg_catalog.min(e.day)), COALESCE($3, pg_catalog.max(e.day)) FROM (%s) e', export)
		   INTO first, last USING first, zone, last;
	END IF;
	RETURN QUERY EXECUTE pg_catalog.format(
		'WITH known AS ('
		'	SELECT m.model, COALESCE(m.provider_model, m.model) AS name FROM llmquota.model m WHERE m.provider OPERATOR(pg_catalog.=) $1'
		'), call AS ('
		'	SELECT (u.picked_at AT TIME ZONE $2)::pg_catalog.date AS day, COALESCE(k.name, u.model) AS name, %1$s AS account, %2$s AS key,'
		'		   u.status, u.input_tokens, u.output_tokens,'
		'		   CASE WHEN u.currency OPERATOR(pg_catalog.=) $5 THEN u.cost WHEN $6 THEN u.cost_base END AS cost'
		'	  FROM llmquota.usage_current u LEFT JOIN known k ON k.model OPERATOR(pg_catalog.=) u.model'
		'	 WHERE u.provider OPERATOR(pg_catalog.=) $1 AND u.picked_at OPERATOR(pg_catalog.>=) ($3::pg_catalog.timestamp AT TIME ZONE $2)'
		'	   AND u.picked_at OPERATOR(pg_catalog.<) (($4 OPERATOR(pg_catalog.+) 1)::pg_catalog.timestamp AT TIME ZONE $2)'
		'	   AND COALESCE(u.status, '''') OPERATOR(pg_catalog.<>) ''released'''
		'	   AND (COALESCE(u.status, '''') OPERATOR(pg_catalog.<>) ''error'' OR u.http_status IS NULL OR u.input_tokens IS NOT NULL OR u.output_tokens IS NOT NULL)'
		'), here AS ('
		'	SELECT c.day, c.name, c.account, c.key, pg_catalog.count(*)::pg_catalog.numeric AS requests, pg_catalog.sum(c.input_tokens) AS input_tokens,'
		'		   pg_catalog.sum(c.output_tokens) AS output_tokens, pg_catalog.sum(c.cost) AS cost,'
		'		   pg_catalog.count(*) FILTER (WHERE c.status OPERATOR(pg_catalog.=) ''expired'') AS expired,'
		'		   pg_catalog.count(*) FILTER (WHERE c.cost IS NULL) AS unpriced'
		'	  FROM call c GROUP BY c.day, c.name, c.account, c.key'
		'), there AS ('
		'	SELECT e.day, COALESCE($7 OPERATOR(pg_catalog.->) ''model'' OPERATOR(pg_catalog.->>) e.model, e.model) AS model,'
		'		   COALESCE($7 OPERATOR(pg_catalog.->) ''account'' OPERATOR(pg_catalog.->>) e.account, e.account) AS account,'
		'		   COALESCE($7 OPERATOR(pg_catalog.->) ''key'' OPERATOR(pg_catalog.->>) e.key, e.key) AS key%3$s'
		'	  FROM (%4$s) e WHERE e.day IS NULL OR e.day OPERATOR(pg_catalog.>=) $3 AND e.day OPERATOR(pg_catalog.<=) $4'
		'	 GROUP BY 1, 2, 3, 4'
		'), same AS ('
		'	SELECT t.model, (SELECT n.name FROM ('
		'				SELECT k.name, 1 AS rank FROM known k WHERE k.name OPERATOR(pg_catalog.=) t.model'
		'				UNION ALL SELECT k.name, 2 FROM known k WHERE k.model OPERATOR(pg_catalog.=) t.model'
		'				UNION ALL SELECT h.name, 3 FROM here h WHERE h.name OPERATOR(pg_catalog.=) t.model'
		'				UNION ALL SELECT k.name, 4 FROM known k'
		'				 WHERE k.name OPERATOR(pg_catalog.=) pg_catalog.regexp_replace(t.model, ''-[0-9]{4}-?[0-9]{2}-?[0-9]{2}$'', '''')) n'
		'			ORDER BY n.rank LIMIT 1) AS name'
		'	  FROM (SELECT DISTINCT t.model FROM there t) t'
		'), side AS ('
		'	SELECT true AS here, h.day, h.name, h.account, h.key, h.requests, h.input_tokens, h.output_tokens, h.cost, h.expired, h.unpriced FROM here h'
		'	UNION ALL'
		'	SELECT false, t.day, COALESCE(s.name, t.model), t.account, t.key, t.requests, t.input_tokens, t.output_tokens, t.cost, 0, 0'
		'	  FROM there t LEFT JOIN same s ON s.model OPERATOR(pg_catalog.=) t.model'
		'), pair AS ('
		'	SELECT b.day, b.name, b.account, b.key, pg_catalog.bool_or(b.here) AS here, pg_catalog.bool_or(NOT b.here) AS there%5$s,'
		'		   pg_catalog.sum(b.expired)::pg_catalog.int8 AS expired, pg_catalog.sum(b.unpriced)::pg_catalog.int8 AS unpriced'
		'	  FROM side b GROUP BY b.day, b.name, b.account, b.key'
		')'
		'SELECT CASE WHEN NOT r.there THEN ''only_here'' WHEN NOT r.here THEN ''only_there'' WHEN false%6$s THEN ''different'' ELSE ''equal'' END,'
		'	   r.day, r.name, (SELECT pg_catalog.string_agg(k.model, '', '' ORDER BY k.model) FROM known k WHERE k.name OPERATOR(pg_catalog.=) r.name),'
		'	   r.account, r.key, r.requests_here, r.requests_there, r.requests_there OPERATOR(pg_catalog.-) r.requests_here,'
		'	   r.input_tokens_here, r.input_tokens_there, r.input_tokens_there OPERATOR(pg_catalog.-) r.input_tokens_here,'
		'	   r.output_tokens_here, r.output_tokens_there, r.output_tokens_there OPERATOR(pg_catalog.-) r.output_tokens_here,'
		'	   $5, r.cost_here OPERATOR(pg_catalog.+) 0.000000000, r.cost_there OPERATOR(pg_catalog.+) 0.000000000,'
		'	   r.cost_there OPERATOR(pg_catalog.-) r.cost_here OPERATOR(pg_catalog.+) 0.000000000, r.expired, r.unpriced'
		'  FROM pair r ORDER BY r.day, r.name, r.account, r.key',
		CASE WHEN by_account THEN 'u.account' ELSE 'NULL::pg_catalog.text' END, CASE WHEN by_key THEN 'u.key' ELSE 'NULL::pg_catalog.text' END,
		sums, export, figures, differences)
		USING provider, zone, first, last, COALESCE(currency, base), COALESCE(currency, base) OPERATOR(pg_catalog.=) base, names;
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_reconcile(text, regclass, jsonb, date, date, text, text, jsonb) IS
'Compares the ledger with a provider''s own usage export, which somebody has loaded into a table: a row for each day and model, and for each account and key if the export has them, with the figures of both. mapping says which columns are the day, model, account, key, requests, input_tokens, output_tokens and cost (NULL, or what is not in it: those of these names); first_day and last_day which days (NULL: those of the export); timezone what a day is (NULL: the provider''s); currency that of the export''s costs (NULL: the base currency); names what models, accounts and keys of the export are called here (NULL: the same). Reads the table as the caller';

CREATE FUNCTION @extschema@.llmquota_line_rows(
	OUT org text,
	OUT route text,
	OUT priority text,
	OUT since timestamptz,
	OUT "position" int,
	OUT kind text,
	OUT called boolean,
	OUT scope text,
	OUT subject text,
	OUT metric text,
	OUT ticket uuid)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_line_rows';

COMMENT ON FUNCTION @extschema@.llmquota_line_rows() IS 'internal: who waits, for llmquota.waiting';

COMMENT ON FUNCTION @extschema@.llmquota_meter_rows() IS 'internal: the windows of all quotas, for llmquota.meter_window';

CREATE FUNCTION @extschema@.llmquota_budget_rows(
	OUT scope text,
	OUT subject text,
	OUT part_kind text,
	OUT part text,
	OUT budget bigint,
	OUT metric text,
	OUT period text,
	OUT period_start timestamptz,
	OUT used bigint,
	OUT amount numeric,
	OUT refused bigint,
	OUT would_refuse bigint,
	OUT resets_at timestamptz,
	OUT seeding boolean,
	OUT mode text,
	OUT currency text)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_budget_rows';

COMMENT ON FUNCTION @extschema@.llmquota_budget_rows() IS 'internal: the windows of all budgets, used and amount in 1e-9 of their currencies, for llmquota.budget_window';

CREATE FUNCTION @extschema@.llmquota_exhaustion_rows(
	OUT scope text,
	OUT subject text,
	OUT model text,
	OUT family text,
	OUT metric text,
	OUT period text,
	OUT used numeric,
	OUT amount numeric,
	OUT currency text,
	OUT rate numeric,
	OUT exhausted_at timestamptz,
	OUT resets_at timestamptz,
	OUT mode text,
	OUT quota bigint,
	OUT budget bigint)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_exhaustion_rows';

COMMENT ON FUNCTION @extschema@.llmquota_exhaustion_rows() IS 'internal: the windows that the calling role may see, and when they will be used up, for llmquota.exhaustion';

CREATE FUNCTION @extschema@.llmquota_capacity_rows(
	OUT model text,
	OUT org text,
	OUT accounts text,
	OUT horizon text,
	OUT keys int,
	OUT requests numeric,
	OUT input_tokens numeric,
	OUT output_tokens numeric,
	OUT tokens numeric,
	OUT at_once numeric,
	OUT in_flight numeric,
	OUT request_input_tokens int,
	OUT request_output_tokens int)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_capacity_rows';

COMMENT ON FUNCTION @extschema@.llmquota_capacity_rows() IS 'internal: the rows of llmquota.capacity';

--
-- Functions: monitoring
--

CREATE FUNCTION @extschema@.llmquota_capacity(
	model text,
	org text DEFAULT NULL,
	input_tokens bigint DEFAULT NULL,
	max_output_tokens bigint DEFAULT NULL)
RETURNS SETOF llmquota.capacity_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_capacity';

COMMENT ON FUNCTION @extschema@.llmquota_capacity(text, text, bigint, bigint) IS
'What can be done with a model in the next minute, hour and day over all enabled, healthy keys: a row for each. For an org by its limits and priority, with its own accounts and the shared ones; where it has own accounts also with either alone. org NULL: with the shared accounts, whoever makes the calls. What one request has in tokens is said as for llmquota_pick. Charges nothing; works on a hot standby';

CREATE OR REPLACE FUNCTION @extschema@.llmquota_metrics(
	OUT name text,
	OUT labels jsonb,
	OUT value float8)
RETURNS SETOF record
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT 'llmquota_' OPERATOR(pg_catalog.||) c.name,
		   CASE WHEN c.status IS NULL THEN '{}'::jsonb
				ELSE pg_catalog.jsonb_build_object(CASE WHEN c.name OPERATOR(pg_catalog.=) 'waiting' THEN 'kind' ELSE 'status' END, c.status) END,
		   c.value
	  FROM @extschema@.llmquota_live_counts() c
	UNION ALL
	SELECT 'llmquota_leases_max', '{}'::jsonb,
		   COALESCE((SELECT s.value::float8 FROM llmquota.setting s WHERE s.name OPERATOR(pg_catalog.=) 'max_leases'), 100000)
	UNION ALL
	SELECT 'llmquota_requests_max', '{}'::jsonb,
		   COALESCE((SELECT s.value::float8 FROM llmquota.setting s WHERE s.name OPERATOR(pg_catalog.=) 'max_requests'), 1000000)
	UNION ALL
	SELECT 'llmquota_answers_bytes', '{}'::jsonb, pg_catalog.pg_total_relation_size('llmquota.answer'::regclass)::float8
	UNION ALL
	SELECT 'llmquota_answers_max_bytes', '{}'::jsonb,
		   COALESCE((SELECT s.value::float8 FROM llmquota.setting s WHERE s.name OPERATOR(pg_catalog.=) 'max_cache_bytes'), 268435456)
	UNION ALL
	SELECT 'llmquota_rate_subjects_max', '{}'::jsonb,
		   COALESCE((SELECT s.value::float8 FROM llmquota.setting s WHERE s.name OPERATOR(pg_catalog.=) 'max_rate_subjects'), 1000000)
	UNION ALL
	SELECT 'llmquota_conversations_max', '{}'::jsonb,
		   COALESCE((SELECT s.value::float8 FROM llmquota.setting s WHERE s.name OPERATOR(pg_catalog.=) 'max_conversations'), 1000000)
	UNION ALL
	SELECT m.name, m.labels, m.value
	  FROM (SELECT r.used, r.amount, r.refused, r.would_refuse,
				   pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
						'quota', r.quota, 'scope', r.scope, 'subject', r.subject, r.part_kind_or_not, r.part,
						'metric', r.metric, 'period', r.period)) AS labels
			  FROM (SELECT w.*, COALESCE(w.part_kind, 'model') AS part_kind_or_not FROM @extschema@.llmquota_meter_rows() w) r) r
	 CROSS JOIN LATERAL (VALUES
			('llmquota_quota_used', r.labels, r.used::float8),
			('llmquota_quota_limit', r.labels, r.amount::float8),
			('llmquota_quota_refused_total', r.labels, r.refused::float8),
			('llmquota_quota_would_refuse_total', r.labels, r.would_refuse::float8)) m (name, labels, value)
	 WHERE m.value IS NOT NULL
	   AND (m.name OPERATOR(pg_catalog.=) ANY ('{llmquota_quota_used,llmquota_quota_limit}') OR m.value OPERATOR(pg_catalog.>) 0)
	UNION ALL
	SELECT m.name, b.labels, m.value
	  FROM (SELECT w.*, pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
						'budget', w.budget, 'scope', w.scope, 'subject', w.subject, COALESCE(w.part_kind, 'model'), w.part,
						'period', w.period, 'currency', w.currency)) AS labels
			  FROM @extschema@.llmquota_budget_rows() w) b
	 CROSS JOIN LATERAL (VALUES
			('llmquota_budget_used', b.used::float8 OPERATOR(pg_catalog./) 1e9::float8),
			('llmquota_budget_limit', b.amount::float8 OPERATOR(pg_catalog./) 1e9::float8),
			('llmquota_budget_refused_total', NULLIF(b.refused::float8, 0)),
			('llmquota_budget_would_refuse_total', NULLIF(b.would_refuse::float8, 0))) m (name, value)
	 WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'llmquota_alerts', pg_catalog.jsonb_build_object('kind', k.kind),
		   (SELECT pg_catalog.count(*) FROM llmquota.alert a
			 WHERE a.kind OPERATOR(pg_catalog.=) k.kind AND a.resolved_at IS NULL)
	  FROM pg_catalog.unnest('{threshold,forecast,breaker,cooldown,disabled,limit}'::text[]) k (kind)
	UNION ALL
	SELECT 'llmquota_alerts_unacknowledged', '{}'::jsonb,
		   (SELECT pg_catalog.count(*) FROM llmquota.alert a
			 WHERE a.kind OPERATOR(pg_catalog.<>) 'digest' AND a.resolved_at IS NULL AND a.acknowledged_at IS NULL)
	UNION ALL
	SELECT m.name, '{}'::jsonb, m.value
	  FROM @extschema@.llmquota_worker_rows() w
	 CROSS JOIN LATERAL (VALUES
			('llmquota_worker_up', CASE WHEN w.pid IS NULL THEN 0::float8 ELSE 1::float8 END),
			('llmquota_maintenance_rounds_total', w.rounds::float8),
			('llmquota_maintenance_failures', w.failures::float8),
			('llmquota_maintenance_duration_seconds', w.last_run_ms::float8 OPERATOR(pg_catalog./) 1000::float8),
			('llmquota_maintenance_age_seconds', EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) w.last_run)::float8)) m (name, value)
	 WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'llmquota_ledger_days_ahead', '{}'::jsonb,
		   pg_catalog.count(*) FILTER (WHERE c.relname::text OPERATOR(pg_catalog.>) pg_catalog.to_char(pg_catalog.now() AT TIME ZONE 'UTC', '"usage_"YYYYMMDD')
										 AND c.relname OPERATOR(pg_catalog.<>) 'usage_default')
	  FROM pg_catalog.pg_inherits i
	  JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid
	 WHERE i.inhparent OPERATOR(pg_catalog.=) 'llmquota.usage'::regclass;
END;

-- Refuses quotas that would put more than 8 windows on one meter, and budgets that would put more than 4 there: as many
-- as the trigger's argument says. Looks at the subjects whose rows the statement touched; touching a '*' row touches every
-- subject named in its scope.
CREATE OR REPLACE FUNCTION @extschema@.llmquota_check_windows()
RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	checked record;
	crowded record;
BEGIN
	FOR checked IN
		SELECT t.scope, t.subject
		  FROM touched t
		UNION
		SELECT w.scope, w.subject
		  FROM (SELECT DISTINCT t.scope FROM touched t WHERE t.subject OPERATOR(pg_catalog.=) '*') s
		 CROSS JOIN LATERAL (
			SELECT q.scope, q.subject FROM llmquota.quota q
			 WHERE TG_TABLE_NAME OPERATOR(pg_catalog.=) 'quota' AND q.scope OPERATOR(pg_catalog.=) s.scope
			UNION ALL
			SELECT b.scope, b.subject FROM llmquota.budget b
			 WHERE TG_TABLE_NAME OPERATOR(pg_catalog.=) 'budget' AND b.scope OPERATOR(pg_catalog.=) s.scope) w
		 ORDER BY scope, subject
	LOOP
		-- applying: of rows for the same window, the one that names the subject. A meter of one model also holds the
		-- windows of model '*', and a meter of one family those of family '*'.
		WITH written AS (
			SELECT q.subject, q.model, q.family, q.amount, q.metric AS counted, q.per, q.calendar, q.timezone, 1 AS fiscal_month
			  FROM llmquota.quota q
			 WHERE TG_TABLE_NAME OPERATOR(pg_catalog.=) 'quota' AND q.scope OPERATOR(pg_catalog.=) checked.scope
			   AND q.subject OPERATOR(pg_catalog.=) ANY (ARRAY[checked.subject, '*'])
			UNION ALL
			SELECT b.subject, b.model, b.family, b.amount, b.currency, b.per, b.calendar, b.timezone, b.fiscal_month
			  FROM llmquota.budget b
			 WHERE TG_TABLE_NAME OPERATOR(pg_catalog.=) 'budget' AND b.scope OPERATOR(pg_catalog.=) checked.scope
			   AND b.subject OPERATOR(pg_catalog.=) ANY (ARRAY[checked.subject, '*'])
		), applying AS (
			SELECT DISTINCT ON (w.model, w.family, w.counted, w.per, w.calendar, w.timezone, w.fiscal_month)
				   w.amount,
				   CASE WHEN w.model IS NOT NULL THEN 'model' WHEN w.family IS NOT NULL THEN 'family' ELSE '' END AS kind,
				   COALESCE(w.model, w.family, '') AS name
			  FROM written w
			 ORDER BY w.model, w.family, w.counted, w.per, w.calendar, w.timezone, w.fiscal_month, w.subject OPERATOR(pg_catalog.=) '*'
		), part AS (
			SELECT a.kind, a.name, pg_catalog.count(*) AS windows
			  FROM applying a
			 WHERE a.amount IS NOT NULL
			 GROUP BY a.kind, a.name
		)
		SELECT p.kind, p.name, pg_catalog.sum(e.windows) AS windows INTO crowded
		  FROM part p
		  JOIN part e ON e.kind OPERATOR(pg_catalog.=) p.kind AND e.name OPERATOR(pg_catalog.=) ANY (ARRAY[p.name, '*'])
		 GROUP BY p.kind, p.name
		HAVING pg_catalog.sum(e.windows) OPERATOR(pg_catalog.>) TG_ARGV[0]::pg_catalog.int8
		 ORDER BY p.kind, p.name
		 LIMIT 1;
		IF FOUND THEN
			RAISE EXCEPTION USING ERRCODE = 'configuration_limit_exceeded',
				MESSAGE = pg_catalog.format('%s %ss together limit %s', crowded.windows, TG_TABLE_NAME,
					CASE WHEN checked.scope OPERATOR(pg_catalog.=) 'global' THEN 'the scope global'
						 ELSE pg_catalog.format('%s "%s"', checked.scope, checked.subject) END),
				DETAIL = CASE WHEN crowded.kind OPERATOR(pg_catalog.=) ''
							THEN pg_catalog.format('At most %s %ss can limit all models together.', TG_ARGV[0], TG_TABLE_NAME)
							ELSE pg_catalog.format('At most %1$s %2$ss can limit one %3$s; these limit %3$s "%4$s".',
								TG_ARGV[0], TG_TABLE_NAME, crowded.kind, crowded.name) END,
				HINT = 'Remove one, or replace one that is for every subject by a row for this subject with no amount.';
		END IF;
	END LOOP;
	RETURN NULL;
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_check_windows() IS 'internal, a trigger: refuses more windows on one meter than there is room for';

-- Refuses quotas and budgets by which one pick could need more than 12 cells: 11 meters and the lease. A pick charges at
-- most one meter for each scope and part (all models together, by model, by family) that any of them limits, but in the
-- scope parent one for the org and for each of up to three above it.
CREATE OR REPLACE FUNCTION @extschema@.llmquota_check_parts()
RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	meters pg_catalog.int8;
BEGIN
	SELECT pg_catalog.sum(CASE WHEN s.scope OPERATOR(pg_catalog.=) 'parent' THEN
			(SELECT CASE WHEN pg_catalog.bool_or(d.subject OPERATOR(pg_catalog.=) '*') THEN 4 ELSE pg_catalog.count(*) END
			   FROM (SELECT DISTINCT b.subject FROM llmquota.budget b
					  WHERE b.scope OPERATOR(pg_catalog.=) s.scope AND (b.model IS NULL) OPERATOR(pg_catalog.=) p.no_model
						AND (b.family IS NULL) OPERATOR(pg_catalog.=) p.no_family AND b.amount IS NOT NULL
					  LIMIT 4) d)
		WHEN EXISTS (SELECT FROM llmquota.quota q
					  WHERE q.scope OPERATOR(pg_catalog.=) s.scope AND (q.model IS NULL) OPERATOR(pg_catalog.=) p.no_model
						AND (q.family IS NULL) OPERATOR(pg_catalog.=) p.no_family AND q.amount IS NOT NULL)
		  OR EXISTS (SELECT FROM llmquota.budget b
					  WHERE b.scope OPERATOR(pg_catalog.=) s.scope AND (b.model IS NULL) OPERATOR(pg_catalog.=) p.no_model
						AND (b.family IS NULL) OPERATOR(pg_catalog.=) p.no_family AND b.amount IS NOT NULL) THEN 1
		ELSE 0 END) INTO meters
	  FROM pg_catalog.unnest('{global,provider,account,key,org,parent}'::pg_catalog.text[]) s (scope)
	 CROSS JOIN (VALUES (true, true), (false, true), (true, false)) p (no_model, no_family);
	IF meters OPERATOR(pg_catalog.>) 11 THEN
		RAISE EXCEPTION USING ERRCODE = 'configuration_limit_exceeded',
			MESSAGE = pg_catalog.format('one pick could have to charge %s meters', meters),
			DETAIL = 'Each scope can be limited in three ways: all models together, by model, and by family. At most 11 of these ways can be in use; in the scope parent each subject counts, up to 4.',
			HINT = pg_catalog.format('Remove the %ss by model or by family of one scope.', TG_TABLE_NAME);
	END IF;
	RETURN NULL;
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_check_parts() IS 'internal, a trigger: refuses quotas and budgets by which one pick could have to charge more than 11 meters';

-- Refuses a budget if those that can hold together with it are in more than 3 currencies besides that of the price: a lease
-- has room for its cost in so many. Looks at the budgets of its subject, for an org with all above it, at those that
-- everybody has, and at those of all accounts and keys, because a pick converts its cost before it knows which one it
-- takes. What escapes it, because an org comes below another afterwards, is an error of the pick.
CREATE FUNCTION @extschema@.llmquota_check_currencies()
RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	above pg_catalog.text[];
	met pg_catalog.text[] := '{}';
	other pg_catalog.text := '';
BEGIN
	IF NEW.scope OPERATOR(pg_catalog.=) ANY ('{org,parent}') THEN
		WITH RECURSIVE chain (org) AS (
			SELECT NEW.subject
			UNION
			SELECT o.parent FROM chain c JOIN llmquota.org o ON o.org OPERATOR(pg_catalog.=) c.org WHERE o.parent IS NOT NULL
		)
		SELECT pg_catalog.array_agg(c.org) INTO above FROM chain c;
	END IF;
	-- skips from one currency to the next in index budget_currency
	WHILE other IS NOT NULL AND pg_catalog.cardinality(met) OPERATOR(pg_catalog.<=) 4 LOOP
		SELECT pg_catalog.min(b.currency) INTO other FROM llmquota.budget b
		 WHERE b.amount IS NOT NULL AND b.scope OPERATOR(pg_catalog.=) ANY ('{account,key}') AND b.currency OPERATOR(pg_catalog.>) other;
		met := pg_catalog.array_remove(met OPERATOR(pg_catalog.||) other, NULL);
	END LOOP;
	-- the amount is not among the conditions: it would have the planner take index budget_part, the wrong one
	SELECT pg_catalog.array_agg(DISTINCT c.currency) INTO met
	  FROM (SELECT pg_catalog.unnest(met)
			UNION ALL
			SELECT CASE WHEN b.amount IS NOT NULL THEN b.currency END
			  FROM llmquota.budget b
			 WHERE COALESCE(b.model, b.family, '*') OPERATOR(pg_catalog.=) ANY (ARRAY[COALESCE(NEW.model, NEW.family, '*'), '*'])
			   AND b.scope OPERATOR(pg_catalog.=) ANY ('{global,provider,org,parent}')
			   AND b.subject OPERATOR(pg_catalog.=) ANY (above OPERATOR(pg_catalog.||) ARRAY[NEW.subject, '*', ''])
			   AND (b.scope OPERATOR(pg_catalog.=) 'global' OR b.subject OPERATOR(pg_catalog.=) '*'
					OR b.subject OPERATOR(pg_catalog.=) NEW.subject AND b.scope OPERATOR(pg_catalog.=) ANY (ARRAY[NEW.scope, CASE WHEN above IS NOT NULL THEN 'org' END])
					OR b.scope OPERATOR(pg_catalog.=) 'parent' AND b.subject OPERATOR(pg_catalog.=) ANY (above))) c (currency)
	 WHERE c.currency IS NOT NULL;
	IF pg_catalog.cardinality(met) OPERATOR(pg_catalog.>) 4 THEN
		RAISE EXCEPTION USING ERRCODE = 'configuration_limit_exceeded',
			MESSAGE = pg_catalog.format('budgets in %s currencies could hold for one call', pg_catalog.cardinality(met)),
			DETAIL = pg_catalog.format('At most 3 can besides that of the price. With this budget there are %s; those of all accounts and keys count.',
				pg_catalog.array_to_string(met, ', ')),
			HINT = 'Give some of them a currency of the others: costs are converted by llmquota.exchange_rate.';
	END IF;
	RETURN NULL;
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_check_currencies() IS 'internal, a trigger: refuses budgets of more currencies than one call can be counted in';

-- Refuses a row that stands above itself in the column that the trigger's argument names: an org that belongs to itself,
-- a model that is its own substitute, through however many others; and an org by which more than 3 stand above another.
-- All that stand above the row are locked, so that nobody moves one of them meanwhile.
CREATE FUNCTION @extschema@.llmquota_check_chain()
RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	named CONSTANT pg_catalog.text := pg_catalog.to_jsonb(NEW) OPERATOR(pg_catalog.->>) TG_TABLE_NAME::pg_catalog.text;
	given CONSTANT pg_catalog.text := pg_catalog.to_jsonb(NEW) OPERATOR(pg_catalog.->>) TG_ARGV[0];
	reached pg_catalog.text := given;
	passed pg_catalog.text[] := '{}';
	lower pg_catalog.text[] := ARRAY[named];
	levels int;
BEGIN
	WHILE reached OPERATOR(pg_catalog.<>) ALL (passed) LOOP
		passed := passed OPERATOR(pg_catalog.||) reached;
		IF TG_TABLE_NAME OPERATOR(pg_catalog.=) 'org' THEN
			SELECT o.parent INTO reached FROM llmquota.org o WHERE o.org OPERATOR(pg_catalog.=) reached FOR SHARE;
		ELSE
			SELECT m.downgrade_to INTO reached FROM llmquota.model m WHERE m.model OPERATOR(pg_catalog.=) reached FOR SHARE;
		END IF;
	END LOOP;
	IF named OPERATOR(pg_catalog.=) ANY (passed) THEN
		RAISE EXCEPTION USING ERRCODE = 'check_violation',
			MESSAGE = pg_catalog.format('%s "%s" cannot have "%s" as %s', TG_TABLE_NAME, named, given, TG_ARGV[0]),
			DETAIL = pg_catalog.format('That leads back to it: %s.', pg_catalog.array_to_string(named OPERATOR(pg_catalog.||) passed, ' > ')),
			HINT = 'Change the others first.';
	END IF;
	IF TG_TABLE_NAME OPERATOR(pg_catalog.=) 'org' THEN
		levels := pg_catalog.cardinality(passed);
		WHILE lower IS NOT NULL AND levels OPERATOR(pg_catalog.<=) 3 LOOP
			SELECT pg_catalog.array_agg(o.org) INTO lower FROM llmquota.org o WHERE o.parent OPERATOR(pg_catalog.=) ANY (lower);
			levels := levels OPERATOR(pg_catalog.+) CASE WHEN lower IS NULL THEN 0 ELSE 1 END;
		END LOOP;
		IF levels OPERATOR(pg_catalog.>) 3 THEN
			RAISE EXCEPTION USING ERRCODE = 'check_violation',
				MESSAGE = pg_catalog.format('org "%s" cannot have "%s" as parent', named, given),
				DETAIL = pg_catalog.format('At most 3 orgs can be above one; that would make %s.', levels),
				HINT = pg_catalog.format('Leave out a level below "%s".', passed[pg_catalog.cardinality(passed)]);
		END IF;
	END IF;
	RETURN NULL;
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_check_chain() IS 'internal, a trigger: refuses orgs and models that stand above themselves, and orgs below too many others';

CREATE VIEW llmquota.budget_window AS
SELECT r.scope, r.subject,
	   CASE WHEN r.part_kind OPERATOR(pg_catalog.=) 'model' THEN r.part END AS model,
	   CASE WHEN r.part_kind OPERATOR(pg_catalog.=) 'family' THEN r.part END AS family,
	   r.period, r.currency, m.used, m.amount,
	   CASE WHEN m.amount IS NOT NULL THEN GREATEST(m.amount OPERATOR(pg_catalog.-) m.used, 0.000000000) END AS remaining,
	   r.refused, r.would_refuse, r.period_start, r.resets_at, r.seeding, r.mode, r.budget
  FROM @extschema@.llmquota_budget_rows() r
 CROSS JOIN LATERAL (SELECT r.used::numeric OPERATOR(pg_catalog.*) 0.000000001 AS used,
							r.amount OPERATOR(pg_catalog.*) 0.000000001 AS amount) m;

COMMENT ON VIEW llmquota.budget_window IS 'what has been spent, or is reserved, of every budget by every subject that has spent of it';

COMMENT ON COLUMN llmquota.budget_window.scope IS 'scope of the budget';

COMMENT ON COLUMN llmquota.budget_window.subject IS 'whose spend it is; empty for the scope global';

COMMENT ON COLUMN llmquota.budget_window.model IS 'the model counted; NULL: not by model';

COMMENT ON COLUMN llmquota.budget_window.family IS 'the family of models counted; NULL: not by family';

COMMENT ON COLUMN llmquota.budget_window.period IS 'the window: a length, or a calendar period and its time zone, or total';

COMMENT ON COLUMN llmquota.budget_window.currency IS 'currency of used, amount and remaining';

COMMENT ON COLUMN llmquota.budget_window.used IS 'spent or reserved in the window; below 0: what the period before has left can be spent, too';

COMMENT ON COLUMN llmquota.budget_window.amount IS 'what may be spent now, a raise included; NULL: no limit';

COMMENT ON COLUMN llmquota.budget_window.remaining IS 'what is left of amount, not less than 0; NULL: no limit';

COMMENT ON COLUMN llmquota.budget_window.refused IS 'picks this window has refused';

COMMENT ON COLUMN llmquota.budget_window.would_refuse IS 'picks this window would have refused, had it not only observed';

COMMENT ON COLUMN llmquota.budget_window.period_start IS 'when the calendar period began; of a total starts_at of the budget, and later than now as long as nothing counts; NULL: a sliding window';

COMMENT ON COLUMN llmquota.budget_window.resets_at IS 'when all that is used now is free again, if nothing is added; NULL: nothing is used';

COMMENT ON COLUMN llmquota.budget_window.seeding IS 'true: the window is new and does not yet know of spend before it began to count';

COMMENT ON COLUMN llmquota.budget_window.mode IS 'enforce, or observe: counts, and neither refuses nor downgrades';

COMMENT ON COLUMN llmquota.budget_window.budget IS 'id of the row in llmquota.budget';

-- What was recorded in the last minute is read from the ledger, of the calls picked in the last ten, because pages are found
-- by when calls were picked; hours and days come from the ledger by hours. Of an hour that has only a part in the span of
-- time that part counts, as if its calls had been spread over it.
CREATE VIEW llmquota.burn_rate WITH (security_invoker = true) AS
SELECT r.org, r.key, r.model,
	   pg_catalog.sum(r.calls_minute)::bigint AS calls_minute,
	   pg_catalog.sum(r.tokens_minute)::bigint AS tokens_minute,
	   pg_catalog.sum(r.cost_minute) OPERATOR(pg_catalog.+) 0.000000000 AS cost_minute,
	   pg_catalog.round(pg_catalog.sum(r.hour_part OPERATOR(pg_catalog.*) r.calls))::bigint AS calls_hour,
	   pg_catalog.round(pg_catalog.sum(r.hour_part OPERATOR(pg_catalog.*) r.tokens))::bigint AS tokens_hour,
	   pg_catalog.round(pg_catalog.sum(r.hour_part OPERATOR(pg_catalog.*) r.cost), 9) AS cost_hour,
	   pg_catalog.round(pg_catalog.sum(r.day_part OPERATOR(pg_catalog.*) r.calls))::bigint AS calls_day,
	   pg_catalog.round(pg_catalog.sum(r.day_part OPERATOR(pg_catalog.*) r.tokens))::bigint AS tokens_day,
	   pg_catalog.round(pg_catalog.sum(r.day_part OPERATOR(pg_catalog.*) r.cost), 9) AS cost_day
  FROM (SELECT u.org, u.key, u.model, 1::bigint AS calls_minute,
			   COALESCE(u.input_tokens, 0::bigint) OPERATOR(pg_catalog.+) COALESCE(u.output_tokens, 0::bigint) AS tokens_minute,
			   COALESCE(u.cost_base, 0::numeric) AS cost_minute,
			   0::numeric AS calls, 0::numeric AS tokens, 0::numeric AS cost, 0::numeric AS hour_part, 0::numeric AS day_part
		  FROM llmquota.usage u
		 WHERE u.picked_at OPERATOR(pg_catalog.>) (pg_catalog.statement_timestamp() OPERATOR(pg_catalog.-) '10 minutes'::interval)
		   AND u.recorded_at OPERATOR(pg_catalog.>) (pg_catalog.statement_timestamp() OPERATOR(pg_catalog.-) '1 minute'::interval)
		   AND u.status OPERATOR(pg_catalog.<>) 'released'
		UNION ALL
		SELECT h.org, h.key, h.model, 0, 0, 0, (h.calls OPERATOR(pg_catalog.-) h.released)::numeric,
			   (h.input_tokens OPERATOR(pg_catalog.+) h.output_tokens)::numeric, h.cost_base,
			   LEAST(GREATEST(e.seconds OPERATOR(pg_catalog./) 3600::numeric, 0), 1),
			   LEAST((e.seconds OPERATOR(pg_catalog.+) 82800::numeric) OPERATOR(pg_catalog./) 3600::numeric, 1)
		  FROM llmquota.usage_hourly h
		 CROSS JOIN LATERAL (SELECT EXTRACT(epoch FROM h.hour OPERATOR(pg_catalog.+) '2 hours'::interval
												  OPERATOR(pg_catalog.-) pg_catalog.statement_timestamp()) AS seconds) e
		 WHERE h.hour OPERATOR(pg_catalog.>) (pg_catalog.statement_timestamp() OPERATOR(pg_catalog.-) '25 hours'::interval)) r
 GROUP BY r.org, r.key, r.model;

COMMENT ON VIEW llmquota.burn_rate IS 'how fast orgs, keys and models are used: what came in the last minute, hour and day. Costs are in the base currency';

COMMENT ON COLUMN llmquota.burn_rate.org IS 'the org that calls were made for';

COMMENT ON COLUMN llmquota.burn_rate.key IS 'the key that was picked; NULL: not known';

COMMENT ON COLUMN llmquota.burn_rate.model IS 'the model that was picked; NULL: not known';

COMMENT ON COLUMN llmquota.burn_rate.calls_minute IS 'calls recorded in the last minute, of those picked in the last ten';

COMMENT ON COLUMN llmquota.burn_rate.tokens_minute IS 'their input and output tokens, as far as they are known';

COMMENT ON COLUMN llmquota.burn_rate.cost_minute IS 'what they cost, in the base currency, as far as that is known';

COMMENT ON COLUMN llmquota.burn_rate.calls_hour IS 'calls picked in the last hour, as far as maintenance has counted them';

COMMENT ON COLUMN llmquota.burn_rate.tokens_hour IS 'their input and output tokens';

COMMENT ON COLUMN llmquota.burn_rate.cost_hour IS 'what they cost, in the base currency';

COMMENT ON COLUMN llmquota.burn_rate.calls_day IS 'calls picked in the last 24 hours, as far as maintenance has counted them';

COMMENT ON COLUMN llmquota.burn_rate.tokens_day IS 'their input and output tokens';

COMMENT ON COLUMN llmquota.burn_rate.cost_day IS 'what they cost, in the base currency';

CREATE VIEW llmquota.exhaustion AS
SELECT r.scope, r.subject, r.model, r.family, r.metric, r.period, r.used, r.amount, r.currency, r.rate, r.exhausted_at,
	   r.resets_at, r.mode, r.quota, r.budget
  FROM @extschema@.llmquota_exhaustion_rows() r;

COMMENT ON VIEW llmquota.exhaustion IS 'when each quota and budget will be used up, by every subject that has used it, if it goes on as it does now. Whoever may read the ledger of some orgs only sees what is theirs';

COMMENT ON COLUMN llmquota.exhaustion.scope IS 'scope of the quota or budget';

COMMENT ON COLUMN llmquota.exhaustion.subject IS 'whose use it is; empty for the scope global';

COMMENT ON COLUMN llmquota.exhaustion.model IS 'the model counted; NULL: not by model';

COMMENT ON COLUMN llmquota.exhaustion.family IS 'the family of models counted; NULL: not by family';

COMMENT ON COLUMN llmquota.exhaustion.metric IS 'what is counted: requests, input_tokens, output_tokens, tokens, or cost';

COMMENT ON COLUMN llmquota.exhaustion.period IS 'the window: a length, or a calendar period and its time zone, or total';

COMMENT ON COLUMN llmquota.exhaustion.used IS 'used or reserved in the window';

COMMENT ON COLUMN llmquota.exhaustion.amount IS 'allowed in the window now';

COMMENT ON COLUMN llmquota.exhaustion.currency IS 'currency of used, amount and rate; NULL: no money';

COMMENT ON COLUMN llmquota.exhaustion.rate IS 'how much is used in an hour, by the last sixth of a sliding window, the last hour for a day of the calendar, and the last day for longer periods';

COMMENT ON COLUMN llmquota.exhaustion.exhausted_at IS 'when the amount is used up at that rate; a time that has come: it is; NULL: not before the window frees itself, or its period ends';

COMMENT ON COLUMN llmquota.exhaustion.resets_at IS 'when all that is used now is free again, if nothing is added; NULL: nothing is used';

COMMENT ON COLUMN llmquota.exhaustion.mode IS 'enforce, or observe: counts and never refuses';

COMMENT ON COLUMN llmquota.exhaustion.quota IS 'id of the row in llmquota.quota; NULL: a budget';

COMMENT ON COLUMN llmquota.exhaustion.budget IS 'id of the row in llmquota.budget; NULL: a quota';

CREATE VIEW llmquota.waiting AS
SELECT r.org, r.route, r.priority, r.since, r."position", r.kind, r.called, r.scope, r.subject, r.metric, r.ticket
  FROM @extschema@.llmquota_line_rows() r;

COMMENT ON VIEW llmquota.waiting IS 'the line: picks that wait for capacity, in their calls or with tickets. It is in shared memory; on a standby, and after a restart until tickets are shown, it is empty';

COMMENT ON COLUMN llmquota.waiting.org IS 'the org that waits';

COMMENT ON COLUMN llmquota.waiting.route IS 'the route that was asked for';

COMMENT ON COLUMN llmquota.waiting.priority IS 'high, normal or low';

COMMENT ON COLUMN llmquota.waiting.since IS 'since when it waits';

COMMENT ON COLUMN llmquota.waiting.position IS 'place in the line, from 1, among those who wait for the same limits, as far as can be told';

COMMENT ON COLUMN llmquota.waiting.kind IS 'held: in the call, which has a connection; ticket: with a ticket';

COMMENT ON COLUMN llmquota.waiting.called IS 'true: it is its turn to try';

COMMENT ON COLUMN llmquota.waiting.scope IS 'whose limit it waits for: global, provider, account, key, org or parent; NULL: for no limit, but for the end of a trouble';

COMMENT ON COLUMN llmquota.waiting.subject IS 'which one, by name; NULL: everything, or as for scope';

COMMENT ON COLUMN llmquota.waiting.metric IS 'what the limit counts; NULL as for scope';

COMMENT ON COLUMN llmquota.waiting.ticket IS 'the ticket; NULL: it has none';

CREATE VIEW llmquota.capacity AS
SELECT r.model, r.org, r.accounts, r.horizon, r.keys, r.requests, r.input_tokens, r.output_tokens, r.tokens,
	   r.at_once, r.in_flight, r.request_input_tokens, r.request_output_tokens
  FROM @extschema@.llmquota_capacity_rows() r;

COMMENT ON VIEW llmquota.capacity IS 'what can be done with each enabled model in the next minute, hour and day: with the shared accounts, and for each org that owns accounts with these. A role that is bound to orgs sees instead what llmquota_capacity says for these';

COMMENT ON COLUMN llmquota.capacity.model IS 'the model';

COMMENT ON COLUMN llmquota.capacity.org IS 'the org whose limits hold, and whose accounts are its own; NULL: whoever makes the calls';

COMMENT ON COLUMN llmquota.capacity.accounts IS 'with which accounts: own (of the org), shared, or all (both)';

COMMENT ON COLUMN llmquota.capacity.horizon IS 'in which time from now on: minute, hour or day (24 hours)';

COMMENT ON COLUMN llmquota.capacity.keys IS 'keys that may be used in that time: enabled, and healthy or cooling until within it';

COMMENT ON COLUMN llmquota.capacity.requests IS 'requests of the size beside; NULL: no limit';

COMMENT ON COLUMN llmquota.capacity.input_tokens IS 'input tokens, whatever the size and number of requests; NULL: no limit';

COMMENT ON COLUMN llmquota.capacity.output_tokens IS 'output tokens, likewise; NULL: no limit';

COMMENT ON COLUMN llmquota.capacity.tokens IS 'tokens of both sorts together, likewise; NULL: no limit';

COMMENT ON COLUMN llmquota.capacity.at_once IS 'requests of the size beside that can be made at this moment, by all limits; the same for every horizon; NULL: no limit';

COMMENT ON COLUMN llmquota.capacity.in_flight IS 'calls that limits of concurrency alone have room for at this moment, likewise; NULL: no limit';

COMMENT ON COLUMN llmquota.capacity.request_input_tokens IS 'input tokens of one request, as a pick without input_tokens would reserve them';

COMMENT ON COLUMN llmquota.capacity.request_output_tokens IS 'output tokens of one request, likewise';

COMMENT ON TYPE llmquota.session_result IS 'the answer of llmquota_session_put, llmquota_session_get and llmquota_session_drop';

COMMENT ON COLUMN llmquota.session_result.status IS 'of a put stored, conflict (another version is there, or none) or full (of a new conversation: there are max_conversations); of a get found or none; of a drop dropped, conflict or none';

COMMENT ON COLUMN llmquota.session_result.version IS 'the version that is there now, from 1; 0: there is none';

COMMENT ON COLUMN llmquota.session_result.state IS 'the state of that version, of a get and a conflict; NULL: there is none, or the caller has it';

COMMENT ON COLUMN llmquota.session_result.session IS 'what to call the conversation in picks (session => ...), so that it stays with a key and llmquota_forget finds its calls';

COMMENT ON COLUMN llmquota.session_result.updated_at IS 'when that version was put; NULL: there is none';

COMMENT ON COLUMN llmquota.session_result.expires_at IS 'when the conversation ends unless it is got or put before; NULL: there is none';

COMMENT ON TYPE llmquota.rate_result IS 'the answer of llmquota_allow and llmquota_allow_all, which has that of the limit that keeps the caller longest';

COMMENT ON COLUMN llmquota.rate_result.allowed IS 'true: go on; what it costs is charged';

COMMENT ON COLUMN llmquota.rate_result.remaining IS 'how much more would be allowed now';

COMMENT ON COLUMN llmquota.rate_result.retry_after_ms IS 'milliseconds until as much would be allowed, if nobody else asks; 0 when it is, NULL: it never is';

COMMENT ON COLUMN llmquota.rate_result.reset_after_ms IS 'milliseconds until nothing is used any more, and the whole burst is allowed again';

COMMENT ON COLUMN llmquota.rate_result.amount IS 'the amount of the limit that was applied';

COMMENT ON COLUMN llmquota.rate_result.reason IS 'rate_limited, too_large (cost is more than burst) or full (there are max_rate_subjects): why it is not allowed, or would not be if the limit did not only observe; NULL: it fits';

COMMENT ON COLUMN llmquota.rate_result.scope IS 'the scope of the limit';

COMMENT ON COLUMN llmquota.rate_result.limits IS 'of llmquota_allow_all: what each limit says, in their order, as an array of objects with scope, subject, allowed, amount, remaining, retry_after_ms, reset_after_ms, reason';

COMMENT ON TABLE llmquota.rate_limit IS 'limits of llmquota_allow by name: they rule over what callers say';

COMMENT ON COLUMN llmquota.rate_limit.scope IS 'the name, at most 128 bytes: what callers pass as scope';

COMMENT ON COLUMN llmquota.rate_limit.amount IS 'how much each subject is allowed in per_ms, a whole number above 0';

COMMENT ON COLUMN llmquota.rate_limit.per_ms IS 'milliseconds, up to 400 days';

COMMENT ON COLUMN llmquota.rate_limit.burst IS 'how much of it at once; it must come back within 400 days. NULL: amount';

COMMENT ON COLUMN llmquota.rate_limit.mode IS 'enforce, or observe: counts what it would allow, and never refuses';

COMMENT ON COLUMN llmquota.rate_limit.rollout IS 'fraction of the subjects for which it is enforced, 0 to 1, chosen by a stable hash; for the others it observes';

COMMENT ON COLUMN llmquota.rate_limit.note IS 'what it is for; NULL: not said';

COMMENT ON TABLE llmquota.answer_namespace IS 'how answers are kept. A namespace without a row is every org''s own, and has the defaults of the settings';

COMMENT ON COLUMN llmquota.answer_namespace.namespace IS 'name that calls give';

COMMENT ON COLUMN llmquota.answer_namespace.shared IS 'whether all orgs have the same answers; false: every org has its own, and never sees another''s';

COMMENT ON COLUMN llmquota.answer_namespace.ttl_ms IS 'how long an answer is fresh, in milliseconds, when llmquota_cache_put does not say; NULL: the setting answer_ttl';

COMMENT ON COLUMN llmquota.answer_namespace.stale_ms IS 'how much longer it is given out as stale, in milliseconds, when llmquota_cache_put does not say; NULL: the setting answer_stale';

COMMENT ON COLUMN llmquota.answer_namespace.refresh_ms IS 'how long nobody else is told to refresh an answer, in milliseconds: as long as a call takes, retries and all; NULL: the setting answer_refresh';

COMMENT ON COLUMN llmquota.answer_namespace.max_bytes IS 'how much room its answers have, in bytes; those that were not used for longest go first; NULL: no bound but the setting max_cache_bytes';

COMMENT ON TABLE llmquota.conversation IS 'conversations of llmquota_session_put, until maintenance finds them expired';

COMMENT ON COLUMN llmquota.conversation.org IS 'the org, by the name of its first day where it was renamed';

COMMENT ON COLUMN llmquota.conversation.channel IS 'the channel, at most 128 bytes';

COMMENT ON COLUMN llmquota.conversation.user_id IS 'the user, at most 128 bytes';

COMMENT ON COLUMN llmquota.conversation.org_kind IS 'o; O: the name of the org had been another''s, and a number stands before it';

COMMENT ON COLUMN llmquota.conversation.version IS 'the version, one more with every put';

COMMENT ON COLUMN llmquota.conversation.state IS 'the state; NULL: the conversation was dropped';

COMMENT ON COLUMN llmquota.conversation.ttl_ms IS 'its time to live in milliseconds, from the last put or get';

COMMENT ON COLUMN llmquota.conversation.updated_at IS 'when the version was put';

COMMENT ON COLUMN llmquota.conversation.expires_at IS 'when it has expired';

COMMENT ON SEQUENCE llmquota.conversation_count IS 'how many rows llmquota.conversation has, as of the last maintenance and with those that came since';

COMMENT ON TABLE llmquota.answer IS 'answers to requests, for the next who asks the same. Written by llmquota_cache_put, and dropped by llmquota_maintain; a row that is deleted is an answer that is forgotten';

COMMENT ON COLUMN llmquota.answer.stored_at IS 'when llmquota_cache_put stored it';

COMMENT ON COLUMN llmquota.answer.fresh_until IS 'until when it is fresh';

COMMENT ON COLUMN llmquota.answer.stale_until IS 'until when it is given out at all; then the row is as good as gone';

COMMENT ON COLUMN llmquota.answer.used_at IS 'when it was given out last, to within a sixteenth of the time for which it is fresh; not undone by a rollback';

COMMENT ON COLUMN llmquota.answer.bytes IS 'size of the answer and its key in bytes, before compression';

COMMENT ON COLUMN llmquota.answer.org_kind IS 'o; O: the name of the org had been another''s, and a number stands before it; s: the answer is of all orgs';

COMMENT ON COLUMN llmquota.answer.namespace IS 'the namespace';

COMMENT ON COLUMN llmquota.answer.org IS 'the org, by the name of its first day where it was renamed; empty where the answer is of all orgs';

COMMENT ON COLUMN llmquota.answer.hash IS 'what callers call the request, such as what llmquota_cache_key answers';

COMMENT ON COLUMN llmquota.answer.answer IS 'the answer';

COMMENT ON TABLE llmquota.pruning IS 'how far maintenance has come with deleting what has expired. Written by llmquota_prune';

COMMENT ON COLUMN llmquota.pruning.relation IS 'name of the table in the schema llmquota';

COMMENT ON COLUMN llmquota.pruning.next_block IS 'the page with which the next round goes on; 0: the last pass has ended';

COMMENT ON COLUMN llmquota.pruning.kept IS 'rows that the pass has left where they are';

COMMENT ON COLUMN llmquota.pruning.counted_before IS 'the number of rows as it was known when the pass began';

COMMENT ON COLUMN llmquota.pruning.next_expiry IS 'when the first of the rows expires that the pass has left';

COMMENT ON COLUMN llmquota.pruning.began_at IS 'when the pass began';

COMMENT ON COLUMN llmquota.pruning.read_us IS 'how many microseconds the pass has read, without what it has deleted';

COMMENT ON COLUMN llmquota.pruning.due IS 'no pass through a large table begins before';

COMMENT ON TABLE llmquota.rate_page IS 'until when subjects of rate limits have used what they may, and claims, by keyed hashes of their names';

COMMENT ON COLUMN llmquota.rate_page.id IS 'number of the cell';

COMMENT ON COLUMN llmquota.rate_page.state IS 'the times, edited in place';

COMMENT ON SEQUENCE llmquota.rate_full_count IS 'how many calls of llmquota_allow there was no room for a subject for';

CREATE FUNCTION @extschema@.llmquota_allow(
	scope text,
	subject text,
	amount int DEFAULT NULL,
	per_ms bigint DEFAULT NULL,
	cost int DEFAULT 1,
	burst int DEFAULT NULL,
	org text DEFAULT NULL)
RETURNS llmquota.rate_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_allow';

COMMENT ON FUNCTION @extschema@.llmquota_allow(text, text, int, bigint, int, int, text) IS
'May a subject (a user, an address, a session) go on, by a limit of amount in per_ms milliseconds, burst of them at once (NULL: amount)? A row of llmquota.rate_limit with that scope rules over amount, per_ms and burst. What it costs (NULL: 1; 0: only looks) is charged at once, whatever becomes of the transaction. org: subjects of one org are not those of another; NULL: of nobody in particular, or of the org that the role is bound to';

CREATE FUNCTION @extschema@.llmquota_allow_all(limits jsonb)
RETURNS llmquota.rate_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_allow_all';

COMMENT ON FUNCTION @extschema@.llmquota_allow_all(jsonb) IS
'The same for up to ten limits at once, all of which must allow; else nothing is charged. limits is an array of objects with the arguments of llmquota_allow as members';

CREATE FUNCTION @extschema@.llmquota_session_put(
	org text,
	channel text,
	user_id text,
	state jsonb,
	ttl_ms bigint DEFAULT NULL,
	version int DEFAULT NULL)
RETURNS llmquota.session_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_session_put';

COMMENT ON FUNCTION @extschema@.llmquota_session_put(text, text, text, jsonb, bigint, int) IS
'Stores the state of a conversation of a user in a channel, for ttl_ms milliseconds from the last put or get on (NULL: the setting conversation_ttl). version is what is to be there: a number, 0 for nothing, NULL for whatever is there; else the status is conflict, with the version and state that are there. An ordinary write: undone by a rollback, and another put of the conversation waits until the transaction ends';

CREATE FUNCTION @extschema@.llmquota_session_get(org text, channel text, user_id text)
RETURNS llmquota.session_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_session_get';

COMMENT ON FUNCTION @extschema@.llmquota_session_get(text, text, text) IS
'The state of a conversation, and its version for the next put; version 0 when there is none. Puts its end off, by a write when a quarter of its time to live is gone. Waits for nobody. Works on a hot standby and in a read-only transaction, without putting the end off';

CREATE FUNCTION @extschema@.llmquota_session_drop(org text, channel text, user_id text, version int DEFAULT NULL)
RETURNS llmquota.session_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_session_drop';

COMMENT ON FUNCTION @extschema@.llmquota_session_drop(text, text, text, int) IS
'Ends a conversation: its state is gone when the transaction commits. version is what is to be there, NULL for whatever is there; else the status is conflict, with the version and state that are there. none: there was no conversation';

CREATE FUNCTION @extschema@.llmquota_session_id(channel text, user_id text)
RETURNS text
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'llmquota_session_id';

COMMENT ON FUNCTION @extschema@.llmquota_session_id(text, text) IS
'What a conversation is called in picks (session => ...), in the ledger and in llmquota_forget: 32 characters, the same wherever it is asked for';

CREATE FUNCTION @extschema@.llmquota_cache_put(
	namespace text,
	hash text,
	answer jsonb,
	ttl_ms int DEFAULT NULL,
	stale_ms int DEFAULT NULL,
	org text DEFAULT NULL,
	OUT status text,
	OUT fresh_until timestamptz,
	OUT stale_until timestamptz)
RETURNS record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_cache_put';

COMMENT ON FUNCTION @extschema@.llmquota_cache_put(text, text, jsonb, int, int, text) IS
'Stores the answer to a request, in place of one that is there: fresh for ttl_ms, then stale for stale_ms (NULL: as the namespace or the settings say). org: whose it is; not needed in a shared namespace, or by a role of one org. Answers stored, or too_large when it has more than the setting max_answer_bytes, and then stores nothing. Part of the transaction, as any INSERT';

CREATE FUNCTION @extschema@.llmquota_cache_get(
	namespace text,
	hash text,
	org text DEFAULT NULL,
	OUT status text,
	OUT answer jsonb,
	OUT age_ms int,
	OUT refresh boolean,
	OUT retry_after_ms int)
RETURNS record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_cache_get';

COMMENT ON FUNCTION @extschema@.llmquota_cache_get(text, text, text) IS
'The answer to a request that somebody has asked before: fresh, stale or miss, and how old it is in milliseconds. When it is not fresh exactly one caller is told to refresh, to make the call and to store its answer with llmquota_cache_put; if that does not happen, another one is told. Who has a miss and is not told looks again after retry_after_ms. On a hot standby and in a read-only transaction nobody is told to refresh';

CREATE FUNCTION @extschema@.llmquota_cache_key(request jsonb)
RETURNS text
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'llmquota_cache_key';

COMMENT ON FUNCTION @extschema@.llmquota_cache_key(jsonb) IS
'The hash of a request, the same for all that ask the same: in whatever order its members are, however its numbers are written (1.0 is 1), and whatever members it has at the top that do not matter to the answer, such as user, stream and metadata (the reference lists them), or that are null. NULL for NULL';

-- Goes through a table that has no index on what expires, some pages at a time, and on in the next round when the deadline
-- has come, or enough has been deleted for one transaction. A row that somebody has locked, or has changed meanwhile, is left. What is there is counted on the way: rows
-- that came during the pass count in addition, whether it has seen them or not, so that no bound is passed.
CREATE FUNCTION @extschema@.llmquota_prune(
	relation text,
	expiry text,
	counter text,
	deadline timestamptz,
	OUT pruned bigint,
	OUT work_left boolean,
	OUT due timestamptz)
RETURNS record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	pages CONSTANT bigint := 128;
	least_pause CONSTANT pg_catalog.interval := '5 seconds';
	-- whoever makes anew what is being deleted waits for the end of the transaction
	most CONSTANT int := 5000;
	until CONSTANT pg_catalog.timestamptz := LEAST(deadline, pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) '100 ms'::pg_catalog.interval);
	nblocks CONSTANT bigint := pg_catalog.pg_relation_size(pg_catalog.format('llmquota.%I', relation)::pg_catalog.regclass)
		OPERATOR(pg_catalog./) pg_catalog.current_setting('block_size')::pg_catalog.int8;
	read_counter CONSTANT pg_catalog.text := pg_catalog.format('SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM llmquota.%I s', COALESCE(counter, ''));
	pass llmquota.pruning;
	rows record;
	reads_since pg_catalog.timestamptz;
	counted bigint;
	gone bigint;
BEGIN
	pruned := 0;
	work_left := false;
	SELECT p.* INTO pass FROM llmquota.pruning p WHERE p.relation OPERATOR(pg_catalog.=) $1;
	IF NOT FOUND THEN
		INSERT INTO llmquota.pruning AS p (relation) VALUES ($1) RETURNING p.* INTO pass;
	END IF;
	IF pass.next_block OPERATOR(pg_catalog.=) 0 THEN
		IF nblocks OPERATOR(pg_catalog.>) pages AND pg_catalog.clock_timestamp() OPERATOR(pg_catalog.<) pass.due THEN
			due := pass.due;
			RETURN;
		END IF;
		pass.kept := 0;
		pass.counted_before := 0;
		IF counter IS NOT NULL THEN
			EXECUTE read_counter INTO pass.counted_before;
		END IF;
		pass.next_expiry := 'infinity';
		pass.began_at := pg_catalog.clock_timestamp();
		pass.read_us := 0;
	END IF;

	WHILE pass.next_block OPERATOR(pg_catalog.<) nblocks LOOP
		reads_since := pg_catalog.clock_timestamp();
		EXECUTE pg_catalog.format('SELECT pg_catalog.count(*) AS seen, '
			'COALESCE(pg_catalog.min(t.%2$I) FILTER (WHERE t.%2$I OPERATOR(pg_catalog.>) $3), ''infinity'') AS next_expiry, '
			'pg_catalog.array_agg(t.ctid) FILTER (WHERE t.%2$I OPERATOR(pg_catalog.<=) $3) AS expired '
			'FROM llmquota.%1$I t WHERE t.ctid OPERATOR(pg_catalog.>=) $1 AND t.ctid OPERATOR(pg_catalog.<) $2', relation, expiry)
			INTO rows
			USING pg_catalog.format('(%s,0)', pass.next_block)::pg_catalog.tid,
				  pg_catalog.format('(%s,0)', pass.next_block OPERATOR(pg_catalog.+) pages)::pg_catalog.tid, pass.began_at;
		pass.read_us := pass.read_us OPERATOR(pg_catalog.+) EXTRACT(microseconds FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) reads_since)::pg_catalog.int8;
		gone := 0;
		IF rows.expired IS NOT NULL THEN
			EXECUTE pg_catalog.format('DELETE FROM llmquota.%1$I t WHERE t.ctid OPERATOR(pg_catalog.=) ANY (ARRAY('
				'SELECT e.ctid FROM llmquota.%1$I e WHERE e.ctid OPERATOR(pg_catalog.=) ANY ($1) AND e.%2$I OPERATOR(pg_catalog.<=) $2 '
				'FOR UPDATE SKIP LOCKED))', relation, expiry)
				USING rows.expired, pass.began_at;
			GET DIAGNOSTICS gone := ROW_COUNT;
		END IF;
		pruned := pruned OPERATOR(pg_catalog.+) gone;
		pass.kept := pass.kept OPERATOR(pg_catalog.+) rows.seen OPERATOR(pg_catalog.-) gone;
		pass.next_expiry := LEAST(pass.next_expiry, rows.next_expiry);
		pass.next_block := pass.next_block OPERATOR(pg_catalog.+) pages;
		EXIT WHEN pruned OPERATOR(pg_catalog.>=) most OR pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>=) until;
	END LOOP;

	work_left := pass.next_block OPERATOR(pg_catalog.<) nblocks;
	IF NOT work_left THEN
		IF counter IS NOT NULL THEN
			EXECUTE read_counter INTO counted;
			pass.counted_before := pass.kept OPERATOR(pg_catalog.+) GREATEST(counted OPERATOR(pg_catalog.-) pass.counted_before, 0);
			IF counted OPERATOR(pg_catalog.<>) pass.counted_before THEN
				PERFORM pg_catalog.setval(pg_catalog.format('llmquota.%I', counter)::pg_catalog.regclass,
										  GREATEST(pass.counted_before, 1), pass.counted_before OPERATOR(pg_catalog.>) 0);
			END IF;
		END IF;
		pass.next_block := 0;
		pass.due := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) GREATEST(least_pause,
			'20 microseconds'::pg_catalog.interval OPERATOR(pg_catalog.*) pass.read_us::pg_catalog.float8);
		IF pass.next_expiry OPERATOR(pg_catalog.<) 'infinity' THEN
			due := GREATEST(pass.due, pass.next_expiry);
		END IF;
		-- a small table is gone through in every round, which leaves nothing to be kept in mind
		IF nblocks OPERATOR(pg_catalog.<=) pages THEN
			RETURN;
		END IF;
	END IF;
	UPDATE llmquota.pruning p
	   SET next_block = pass.next_block,
		   kept = pass.kept,
		   counted_before = pass.counted_before,
		   next_expiry = pass.next_expiry,
		   began_at = pass.began_at,
		   read_us = pass.read_us,
		   due = pass.due
	 WHERE p.relation OPERATOR(pg_catalog.=) $1;
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_prune(text, text, text, timestamptz) IS 'internal, a step of llmquota_maintain: deletes rows of a table whose column expiry is past, and sets the sequence counter (NULL: none) to the number of the others';

-- Which answers have to go so that all have room, and those of each namespace: those used no later than `until`; namespace
-- NULL: of all. Of a large table only some pages are looked at, chosen at random: the bounds hold to within a few hundredths.
CREATE FUNCTION @extschema@.llmquota_answers_too_many(OUT namespace text, OUT until timestamptz)
RETURNS SETOF record
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	WITH part AS (
		SELECT LEAST(100::float8, 2048::float8 OPERATOR(pg_catalog.*) 100::float8 OPERATOR(pg_catalog.*) pg_catalog.current_setting('block_size')::float8
					 OPERATOR(pg_catalog./) GREATEST(pg_catalog.pg_relation_size('llmquota.answer'::regclass), 1)::float8)::real AS percent
	), sample AS MATERIALIZED (
		SELECT a.namespace, a.used_at, a.bytes::float8 OPERATOR(pg_catalog.*) 100::float8 OPERATOR(pg_catalog./) (SELECT p.percent FROM part p)::float8 AS bytes
		  FROM llmquota.answer a TABLESAMPLE system ((SELECT p.percent FROM part p))
		 WHERE a.stale_until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
	)
	SELECT NULL::text, pg_catalog.max(r.used_at)
	  FROM (SELECT s.used_at, pg_catalog.sum(s.bytes) OVER (ORDER BY s.used_at DESC) AS bytes FROM sample s) r
	 WHERE r.bytes OPERATOR(pg_catalog.>) COALESCE(
			(SELECT t.value::float8 FROM llmquota.setting t WHERE t.name OPERATOR(pg_catalog.=) 'max_cache_bytes'), 268435456)
	HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0
	UNION ALL
	SELECT r.namespace, pg_catalog.max(r.used_at)
	  FROM (SELECT s.namespace, s.used_at, n.max_bytes,
				   pg_catalog.sum(s.bytes) OVER (PARTITION BY s.namespace ORDER BY s.used_at DESC) AS bytes
			  FROM sample s JOIN llmquota.answer_namespace n ON n.namespace OPERATOR(pg_catalog.=) s.namespace
			 WHERE n.max_bytes IS NOT NULL) r
	 WHERE r.bytes OPERATOR(pg_catalog.>) r.max_bytes::float8
	 GROUP BY r.namespace;
END;

COMMENT ON FUNCTION @extschema@.llmquota_answers_too_many() IS 'internal: which answers have to go because there is no room for them';

-- Of two bounds the one by which more has to go. Whoever is storing an answer anew is not waited for.
CREATE FUNCTION @extschema@.llmquota_evict_answers(deadline timestamptz)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	most CONSTANT int := 10000;
	too_many CONSTANT pg_catalog.jsonb := (SELECT pg_catalog.jsonb_object_agg(COALESCE(t.namespace, ''), t.until) FROM @extschema@.llmquota_answers_too_many() t);
	evicted bigint := 0;
	gone bigint;
BEGIN
	WHILE too_many IS NOT NULL LOOP
		DELETE FROM llmquota.answer a
		 WHERE a.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(
				SELECT o.ctid FROM llmquota.answer o
				 WHERE o.used_at OPERATOR(pg_catalog.<=) GREATEST((too_many OPERATOR(pg_catalog.->>) '')::pg_catalog.timestamptz,
																  (too_many OPERATOR(pg_catalog.->>) o.namespace)::pg_catalog.timestamptz)
				 LIMIT most FOR UPDATE SKIP LOCKED));
		GET DIAGNOSTICS gone := ROW_COUNT;
		evicted := evicted OPERATOR(pg_catalog.+) gone;
		EXIT WHEN gone OPERATOR(pg_catalog.<) most OR pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>=) deadline;
	END LOOP;
	RETURN evicted;
END
$$;

COMMENT ON FUNCTION @extschema@.llmquota_evict_answers(timestamptz) IS 'internal, a step of llmquota_maintain: deletes the answers that were not used for longest where there is no room for all; answers how many';

CREATE FUNCTION @extschema@.llmquota_forget_answers(org text)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_forget_answers';

COMMENT ON FUNCTION @extschema@.llmquota_forget_answers(text) IS 'internal: deletes the answers of an org, for llmquota_forget';

COMMENT ON FUNCTION @extschema@.llmquota_forget(text, text) IS
'Takes an org, or with session one of its sessions, out of the ledger: names become pseudonyms, request_id too, errors and tags are removed, answers of a whole org are deleted, and figures stay as they are. Answers the pseudonym, how many rows of the ledger it stands in, and how many calls are pending, whose rows may still come with the name of the org: call again until it is 0. session NULL: the whole org';

--
-- Triggers
--

CREATE TRIGGER check_route_option BEFORE INSERT OR UPDATE ON llmquota.route_option
	FOR EACH ROW EXECUTE FUNCTION @extschema@.llmquota_check_route_option();
ALTER TABLE llmquota.route_option ENABLE ALWAYS TRIGGER check_route_option;
-- What every table of the configuration has.
CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE ON llmquota.route_option
	FOR EACH ROW EXECUTE FUNCTION @extschema@.llmquota_config_changed();
CREATE TRIGGER config_truncated AFTER TRUNCATE ON llmquota.route_option
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_config_changed();
CREATE TRIGGER log_insert AFTER INSERT ON llmquota.route_option REFERENCING NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(route, org);
CREATE TRIGGER log_update AFTER UPDATE ON llmquota.route_option REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(route, org);
CREATE TRIGGER log_delete AFTER DELETE ON llmquota.route_option REFERENCING OLD TABLE AS old_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(route, org);
CREATE TRIGGER log_truncate BEFORE TRUNCATE ON llmquota.route_option
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(route, org);
ALTER TABLE llmquota.route_option ENABLE ALWAYS TRIGGER config_changed, ENABLE ALWAYS TRIGGER config_truncated,
	ENABLE ALWAYS TRIGGER log_insert, ENABLE ALWAYS TRIGGER log_update, ENABLE ALWAYS TRIGGER log_delete,
	ENABLE ALWAYS TRIGGER log_truncate;
CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE ON llmquota.exchange_rate
	FOR EACH ROW EXECUTE FUNCTION @extschema@.llmquota_config_changed();
CREATE TRIGGER config_truncated AFTER TRUNCATE ON llmquota.exchange_rate
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_config_changed();
CREATE TRIGGER log_insert AFTER INSERT ON llmquota.exchange_rate REFERENCING NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(currency, valid_from);
CREATE TRIGGER log_update AFTER UPDATE ON llmquota.exchange_rate REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(currency, valid_from);
CREATE TRIGGER log_delete AFTER DELETE ON llmquota.exchange_rate REFERENCING OLD TABLE AS old_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(currency, valid_from);
CREATE TRIGGER log_truncate BEFORE TRUNCATE ON llmquota.exchange_rate
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(currency, valid_from);
ALTER TABLE llmquota.exchange_rate ENABLE ALWAYS TRIGGER config_changed, ENABLE ALWAYS TRIGGER config_truncated,
	ENABLE ALWAYS TRIGGER log_insert, ENABLE ALWAYS TRIGGER log_update, ENABLE ALWAYS TRIGGER log_delete,
	ENABLE ALWAYS TRIGGER log_truncate;
CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE ON llmquota.price
	FOR EACH ROW EXECUTE FUNCTION @extschema@.llmquota_config_changed();
CREATE TRIGGER config_truncated AFTER TRUNCATE ON llmquota.price
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_config_changed();
CREATE TRIGGER log_insert AFTER INSERT ON llmquota.price REFERENCING NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(model, valid_from);
CREATE TRIGGER log_update AFTER UPDATE ON llmquota.price REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(model, valid_from);
CREATE TRIGGER log_delete AFTER DELETE ON llmquota.price REFERENCING OLD TABLE AS old_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(model, valid_from);
CREATE TRIGGER log_truncate BEFORE TRUNCATE ON llmquota.price
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(model, valid_from);
ALTER TABLE llmquota.price ENABLE ALWAYS TRIGGER config_changed, ENABLE ALWAYS TRIGGER config_truncated,
	ENABLE ALWAYS TRIGGER log_insert, ENABLE ALWAYS TRIGGER log_update, ENABLE ALWAYS TRIGGER log_delete,
	ENABLE ALWAYS TRIGGER log_truncate;

ALTER TABLE llmquota.request_page ALTER COLUMN state SET STORAGE PLAIN;
ALTER TABLE llmquota.budget ADD CONSTRAINT budget_timezone_exists CHECK (@extschema@.llmquota_zone_exists(timezone));
ALTER TABLE llmquota.org ADD CONSTRAINT org_timezone_exists CHECK (@extschema@.llmquota_zone_exists(timezone));
ALTER TABLE llmquota.budget ADD CONSTRAINT budget_timezone_named CHECK (timezone OPERATOR(pg_catalog.!~) '[0-9]'
	OR timezone OPERATOR(pg_catalog.~*) '^((Etc/)?GMT[-+]?0|Etc/GMT([-+][1-9]|[-+]1[0-2]|-1[34])|(EST5E|CST6C|MST7M|PST8P)DT)$');
ALTER TABLE llmquota.org ADD CONSTRAINT org_timezone_named CHECK (timezone OPERATOR(pg_catalog.!~) '[0-9]'
	OR timezone OPERATOR(pg_catalog.~*) '^((Etc/)?GMT[-+]?0|Etc/GMT([-+][1-9]|[-+]1[0-2]|-1[34])|(EST5E|CST6C|MST7M|PST8P)DT)$');
CREATE TRIGGER check_chain AFTER INSERT OR UPDATE OF parent ON llmquota.org
	FOR EACH ROW WHEN (NEW.parent IS NOT NULL) EXECUTE FUNCTION @extschema@.llmquota_check_chain(parent);
ALTER TABLE llmquota.org ENABLE ALWAYS TRIGGER check_chain;
CREATE TRIGGER check_chain AFTER INSERT OR UPDATE OF downgrade_to ON llmquota.model
	FOR EACH ROW WHEN (NEW.downgrade_to IS NOT NULL) EXECUTE FUNCTION @extschema@.llmquota_check_chain(downgrade_to);
ALTER TABLE llmquota.model ENABLE ALWAYS TRIGGER check_chain;
CREATE TRIGGER check_currencies AFTER INSERT OR UPDATE ON llmquota.budget
	FOR EACH ROW WHEN (NEW.amount IS NOT NULL) EXECUTE FUNCTION @extschema@.llmquota_check_currencies();
ALTER TABLE llmquota.budget ENABLE ALWAYS TRIGGER check_currencies;
ALTER TABLE llmquota.repricing ENABLE ROW LEVEL SECURITY;
ALTER TABLE llmquota.alert ENABLE ROW LEVEL SECURITY;
DO $$
DECLARE
	target pg_catalog.text;
	key_columns pg_catalog.text;
	most int;
	occasion record;
BEGIN
	FOR target, key_columns IN VALUES ('budget', 'id'), ('budget_step', 'budget, at'), ('budget_raise', 'id'), ('rate_limit', 'scope'),
			('answer_namespace', 'namespace') LOOP
		EXECUTE pg_catalog.format('CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE ON llmquota.%I '
			'FOR EACH ROW EXECUTE FUNCTION @extschema@.llmquota_config_changed()', target);
		EXECUTE pg_catalog.format('CREATE TRIGGER config_truncated AFTER TRUNCATE ON llmquota.%I '
			'FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_config_changed()', target);
		EXECUTE pg_catalog.format('CREATE TRIGGER log_insert AFTER INSERT ON llmquota.%I REFERENCING NEW TABLE AS new_rows '
			'FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(%s)', target, key_columns);
		EXECUTE pg_catalog.format('CREATE TRIGGER log_update AFTER UPDATE ON llmquota.%I '
			'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows '
			'FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(%s)', target, key_columns);
		EXECUTE pg_catalog.format('CREATE TRIGGER log_delete AFTER DELETE ON llmquota.%I REFERENCING OLD TABLE AS old_rows '
			'FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(%s)', target, key_columns);
		EXECUTE pg_catalog.format('CREATE TRIGGER log_truncate BEFORE TRUNCATE ON llmquota.%I '
			'FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_log_change(%s)', target, key_columns);
		EXECUTE pg_catalog.format('ALTER TABLE llmquota.%I ENABLE ALWAYS TRIGGER config_changed, ENABLE ALWAYS TRIGGER config_truncated, '
			'ENABLE ALWAYS TRIGGER log_insert, ENABLE ALWAYS TRIGGER log_update, '
			'ENABLE ALWAYS TRIGGER log_delete, ENABLE ALWAYS TRIGGER log_truncate', target);
	END LOOP;
	-- those of quotas say now how many windows there may be
	DROP TRIGGER check_windows_inserted ON llmquota.quota;
	DROP TRIGGER check_windows_updated ON llmquota.quota;
	DROP TRIGGER check_windows_left ON llmquota.quota;
	DROP TRIGGER check_windows_deleted ON llmquota.quota;
	DROP TRIGGER check_parts ON llmquota.quota;
	FOR target, most IN VALUES ('quota', 8), ('budget', 4) LOOP
		FOR occasion IN
			SELECT o.*
			  FROM (VALUES ('inserted', 'INSERT', 'NEW'), ('updated', 'UPDATE', 'NEW'), ('left', 'UPDATE', 'OLD'),
						   ('deleted', 'DELETE', 'OLD')) AS o (name, event, version)
		LOOP
			EXECUTE pg_catalog.format('CREATE TRIGGER check_windows_%s AFTER %s ON llmquota.%I REFERENCING %s TABLE AS touched '
				'FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_check_windows(%s)',
				occasion.name, occasion.event, target, occasion.version, most);
			EXECUTE pg_catalog.format('ALTER TABLE llmquota.%I ENABLE ALWAYS TRIGGER check_windows_%s', target, occasion.name);
		END LOOP;
		EXECUTE pg_catalog.format('CREATE TRIGGER check_parts AFTER INSERT OR UPDATE ON llmquota.%I '
			'FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_check_parts()', target);
		EXECUTE pg_catalog.format('ALTER TABLE llmquota.%I ENABLE ALWAYS TRIGGER check_parts', target);
	END LOOP;
END
$$;

CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON llmquota.request_page
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_refuse_write();
ALTER TABLE llmquota.request_page ENABLE ALWAYS TRIGGER refuse_write;
CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON llmquota.rate_page
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_refuse_write();
ALTER TABLE llmquota.rate_page ENABLE ALWAYS TRIGGER refuse_write;

ALTER TABLE llmquota.rate_page ALTER COLUMN state SET STORAGE PLAIN;

-- What every live table has.
CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON llmquota.health
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_refuse_write();
ALTER TABLE llmquota.health ENABLE ALWAYS TRIGGER refuse_write;

--
-- Settings
--

INSERT INTO llmquota.setting (name, value, unit, description) VALUES
	('answer_refresh', '30000', 'ms', 'how long nobody else is told to refresh an answer, where llmquota.answer_namespace does not say'),
	('answer_stale', '86400000', 'ms', 'how long an answer that is no longer fresh is given out as stale, where neither the call nor llmquota.answer_namespace says'),
	('answer_ttl', '3600000', 'ms', 'how long an answer is fresh, where neither the call nor llmquota.answer_namespace says'),
	('conversation_ttl', '1800000', 'ms', 'how long a conversation lives after its last put or get, where the put does not say'),
	('max_answer_bytes', '1048576', 'bytes', 'larger answers are not stored'),
	('max_cache_bytes', '268435456', 'bytes', 'how much room all answers have; maintenance drops those beyond it that were not used for longest'),
	('max_conversation_bytes', '65536', 'bytes', 'how large the state of a conversation can be, as jsonb'),
	('max_conversations', '1000000', 'conversations', 'how many conversations can be kept; beyond it a put of a new one is refused with the status full'),
	('max_rate_subjects', '1000000', 'subjects', 'how many subjects of rate limits, and claims, can be known at a time; beyond it llmquota_allow() may refuse a new one with the reason full'),
	('alert_at', '{0.8,0.95}', 'fractions', 'of the amount of a quota, at which an alert is raised'),
	('alert_digest', '10', 'alerts', 'more than so many that come up together are told as one'),
	('alert_forecast', 'on', NULL, 'whether an alert is raised when a limit will be used up before its window ends: on or off'),
	('alert_interval', '3600000', 'ms', 'how long the same alert is not raised again, where it is about no calendar period'),
	('alert_recovery', '300000', 'ms', 'no alert is raised for what is over by itself within this time'),
	('alert_retention', '90', 'days', 'how long llmquota.alert keeps a row after it was resolved'),
	('idempotency_window', '86400000', 'ms', 'how long after a grant a pick with the same org and request_id is answered in_flight or duplicate; 0: such picks are calls of their own'),
	('max_held_waiters', 'auto', 'calls', 'how many picks can wait in their calls; beyond it they get tickets. auto: a quarter of max_connections'),
	('max_requests', '1000000', 'requests', 'how many requests with a request_id can be remembered, of those within idempotency_window; beyond it a pick of a new one may be refused with the status no_lease_slot'),
	('max_waiting', '10000', 'picks', 'how many picks can wait in line; beyond it they are refused'),
	('max_waiting_per_org', '500', 'picks', 'how many of them can be of one org'),
	('ticket_ttl', '10000', 'ms', 'how long a ticket that nobody shows stays in line'),
	('auth_probe_after', '3600000', 'ms', 'after how long a key that was disabled because its credential was refused lets one call through to see'),
	('base_currency', 'USD', NULL, 'the currency of llmquota.usage.cost_base, which llmquota.exchange_rate counts in'),
	('event_retention', '90', 'days', 'how long llmquota.event keeps a row'),
	('observed_limit_ttl', '3600000', 'ms', 'how long a limit that a provider was seen to have below the configured one holds before more is tried');

UPDATE llmquota.setting s SET description = 'input tokens reserved for a pick that does not say how many, of a model of which no call has said how many it had'
 WHERE s.name OPERATOR(pg_catalog.=) 'default_input_tokens';

UPDATE llmquota.setting s SET description = 'by how much of the wait retry_after_ms is spread at the least, so that refused callers do not return all at once'
 WHERE s.name OPERATOR(pg_catalog.=) 'refusal_spread';

--
-- Grants
--

REVOKE ALL ON llmquota.budget, llmquota.budget_step, llmquota.budget_raise, llmquota.repricing, llmquota.budget_recount, llmquota.alert, llmquota.request_page, llmquota.budget_window, llmquota.burn_rate, llmquota.exhaustion, llmquota.waiting, llmquota.capacity, llmquota.budget_id_seq, llmquota.budget_raise_id_seq, llmquota.repricing_id_seq, llmquota.alert_id_seq FROM PUBLIC;
REVOKE ALL ON llmquota.rate_limit, llmquota.answer_namespace, llmquota.conversation, llmquota.answer, llmquota.pruning, llmquota.rate_page FROM PUBLIC;
REVOKE ALL ON llmquota.price, llmquota.exchange_rate, llmquota.route_option, llmquota.event, llmquota.health, llmquota.key_status, llmquota.observed_limit FROM PUBLIC;
REVOKE ALL ON TYPE llmquota.explain_result, llmquota.pick_set_result, llmquota.statement_result, llmquota.reconcile_result, llmquota.capacity_result, llmquota.session_result, llmquota.rate_result FROM PUBLIC;
REVOKE ALL ON FUNCTION
	@extschema@.llmquota_forget(text, text),
	@extschema@.llmquota_prune(text, text, text, timestamptz),
	@extschema@.llmquota_session_id(text, text),
	@extschema@.llmquota_session_drop(text, text, text, int),
	@extschema@.llmquota_session_get(text, text, text),
	@extschema@.llmquota_session_put(text, text, text, jsonb, bigint, int),
	@extschema@.llmquota_allow_all(jsonb),
	@extschema@.llmquota_allow(text, text, int, bigint, int, int, text),
	@extschema@.llmquota_evict_answers(timestamptz),
	@extschema@.llmquota_answers_too_many(),
	@extschema@.llmquota_forget_answers(text),
	@extschema@.llmquota_cache_key(jsonb),
	@extschema@.llmquota_cache_get(text, text, text),
	@extschema@.llmquota_cache_put(text, text, jsonb, int, int, text),
	@extschema@.llmquota_forget_requests(text, text),
	@extschema@.llmquota_check_chain(),
	@extschema@.llmquota_check_currencies(),
	@extschema@.llmquota_capacity(text, text, bigint, bigint),
	@extschema@.llmquota_capacity_rows(),
	@extschema@.llmquota_exhaustion_rows(),
	@extschema@.llmquota_budget_rows(),
	@extschema@.llmquota_raise_budget(text, numeric, timestamptz, text, bigint),
	@extschema@.llmquota_ack(bigint),
	@extschema@.llmquota_resolve_alerts(timestamptz),
	@extschema@.llmquota_raise_alerts(),
	@extschema@.llmquota_tell_alert(llmquota.alert),
	@extschema@.llmquota_log_alert(text),
	@extschema@.llmquota_alert_stands(llmquota.alert),
	@extschema@.llmquota_alert_causes(),
	@extschema@.llmquota_reconcile(text, regclass, jsonb, date, date, text, text, jsonb),
	@extschema@.llmquota_check_reconcile(text, regclass, jsonb, text, text, jsonb),
	@extschema@.llmquota_export_field(regclass, jsonb, text),
	@extschema@.llmquota_export_column(regclass, text, text),
	@extschema@.llmquota_statement(text, text),
	@extschema@.llmquota_statement_rows(text, text),
	@extschema@.llmquota_minor_unit(text),
	@extschema@.llmquota_reprice(timestamptz, timestamptz),
	@extschema@.llmquota_backtest(jsonb, timestamptz, timestamptz),
	@extschema@.llmquota_line_rows(),
	@extschema@.llmquota_claim(uuid, int),
	@extschema@.llmquota_pick_set(text, text[], bigint[], bigint[], text, text[], text[], text[], int, text[], numeric[], int),
	@extschema@.llmquota_pick_many(text, text, int, bigint, bigint, text, text[], text, int, text, numeric),
	@extschema@.llmquota_pick(text, text, bigint, bigint, text, text[], text, text, int, text, uuid, numeric, int, boolean),
	@extschema@.llmquota_estimate_tokens(text, text),
	@extschema@.llmquota_record(uuid, bigint, bigint, bigint, bigint, bigint, int, text, int, jsonb, jsonb, jsonb, numeric),
	@extschema@.llmquota_retry(uuid, bigint, bigint, bigint, bigint, bigint, int, text, int, jsonb, jsonb, jsonb, numeric),
	@extschema@.llmquota_maintain(),
	@extschema@.llmquota_add_hours(llmquota.usage_hourly[]),
	@extschema@.llmquota_disable(text, text),
	@extschema@.llmquota_enable(text),
	@extschema@.llmquota_cool(text, text, int, text, text),
	@extschema@.llmquota_clear(text, text, text),
	@extschema@.llmquota_drain_events(),
	@extschema@.llmquota_keep_events(timestamptz),
	@extschema@.llmquota_explain,
	@extschema@.llmquota_key_state(text, text),
	@extschema@.llmquota_observed_rows(),
	@extschema@.llmquota_adopt_limits(text),
	@extschema@.llmquota_apply_all_grants(),
	@extschema@.llmquota_check_route_option()
	FROM PUBLIC;

SELECT @extschema@.llmquota_apply_all_grants();

--
-- Dump registration
--

SELECT pg_catalog.pg_extension_config_dump('llmquota.price', '');
SELECT pg_catalog.pg_extension_config_dump('llmquota.exchange_rate', '');
SELECT pg_catalog.pg_extension_config_dump('llmquota.route_option', '');
SELECT pg_catalog.pg_extension_config_dump('llmquota.event', '');
SELECT pg_catalog.pg_extension_config_dump('llmquota.budget', '');
SELECT pg_catalog.pg_extension_config_dump('llmquota.budget_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('llmquota.budget_step', '');
SELECT pg_catalog.pg_extension_config_dump('llmquota.budget_raise', '');
SELECT pg_catalog.pg_extension_config_dump('llmquota.budget_raise_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('llmquota.repricing', '');
SELECT pg_catalog.pg_extension_config_dump('llmquota.repricing_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('llmquota.alert', '');
SELECT pg_catalog.pg_extension_config_dump('llmquota.alert_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('llmquota.rate_limit', '');
SELECT pg_catalog.pg_extension_config_dump('llmquota.answer_namespace', '');
SELECT pg_catalog.pg_extension_config_dump('llmquota.conversation', '');
