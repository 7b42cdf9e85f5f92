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
CREATE INDEX health_key ON llmquota.health (kind, subject, part);
CREATE INDEX health_id ON llmquota.health (id);

ALTER TYPE llmquota.pick_result ADD ATTRIBUTE timeout_ms int;
ALTER TYPE llmquota.record_result ADD ATTRIBUTE advice text, ADD ATTRIBUTE retry_after_ms int,
	ADD ATTRIBUTE cost numeric, ADD ATTRIBUTE currency text;

--
-- Functions, views and comments, in the order of the script of 0.2.0
--
COMMENT ON COLUMN llmquota.pick_result.status IS 'granted, or why not: rate_limited, over_capacity, unavailable, too_large, no_route, disabled, no_lease_slot, attempts_exhausted';
COMMENT ON COLUMN llmquota.pick_result.refusal IS 'the limit that refused: scope, subject, model, metric, period, amount, used, requested, quota, retry_at; or the trouble: scope, subject, model, trouble, failure, retry_at; of a retry also tried: the attempts before it, each with model, error_class, http_status. Where neither refused: the disabled org''s scope and subject, the route that nothing serves, the setting max_leases and its amount, or how many names were excluded. NULL when granted';
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
COMMENT ON COLUMN llmquota.explain_result.verdict IS 'available, half_open (one call at a time is let through, to see), or why not: excluded, cooling, open, disabled, rate_limited, over_capacity, too_large';
COMMENT ON COLUMN llmquota.explain_result.score IS 'what would be left of the tightest limit, as a fraction of it; NULL: a limit refuses';
COMMENT ON COLUMN llmquota.explain_result.scope IS 'whose limit refuses, or who is in trouble: global, provider, account, model, key or org; NULL: nothing keeps a pick away';
COMMENT ON COLUMN llmquota.explain_result.subject IS 'which one, by name; NULL as for account, or with the scope model';
COMMENT ON COLUMN llmquota.explain_result.metric IS 'what the limit counts; NULL: no limit refuses';
COMMENT ON COLUMN llmquota.explain_result.period IS 'its window; NULL: no limit refuses, or it is of concurrency';
COMMENT ON COLUMN llmquota.explain_result.quota IS 'id of its row in llmquota.quota; NULL: no limit refuses';
COMMENT ON COLUMN llmquota.explain_result.amount IS 'what it allows; NULL: no limit refuses';
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
	retry_of uuid DEFAULT NULL)
RETURNS llmquota.pick_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_pick';
COMMENT ON FUNCTION @extschema@.llmquota_pick(text, text, bigint, bigint, text, text[], text, text, int, text, uuid) IS
'Asks for the right to make one call of a model: checks every quota that matches, charges them all or none, and answers with a lease, or with the limit that refused and when to come back. The charge does not wait for, and is not undone by, the end of the transaction. Call it as SELECT * FROM llmquota_pick(...). NULL for any argument but route and org means: not given';

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
	OUT events_kept bigint)
RETURNS record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'llmquota_maintain';
COMMENT ON FUNCTION @extschema@.llmquota_maintain() IS
'Ends leases that have expired, makes the partitions of the coming days, moves ledger rows out of the default partition, drops partitions past their retention, retires what nobody has used for a day, deletes rows of live state that nobody needs, counts the ledger by hours, keeps refusals and events for as long as they are to be kept, and takes troubles off live state that are over. Answers how many of each (NULL: that step failed, a warning says why), and whether time ran out before all was done. To be called regularly';

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
		'		   COALESCE(pg_catalog.sum(c.sign::pg_catalog.numeric OPERATOR(pg_catalog.*) c.cost_base), 0)'
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
				   (SELECT s.value::int FROM llmquota.setting s WHERE s.name OPERATOR(pg_catalog.=) 'event_retention'), 90)) AS event
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
	), event AS (
		DELETE FROM llmquota.event e
		 WHERE e.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(
				SELECT o.ctid FROM llmquota.event o WHERE o.event_at OPERATOR(pg_catalog.<) (SELECT r.event FROM retention r) LIMIT 10000))
		RETURNING 1
	)
	SELECT (SELECT pg_catalog.count(*) FROM usage) OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM hourly)
		   OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM sample) OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM event);
END;
COMMENT ON FUNCTION @extschema@.llmquota_drop_history(timestamptz) IS 'internal, a step of llmquota_maintain: deletes rows of llmquota.usage_hourly, llmquota.refusal_hourly, llmquota.refusal_sample and llmquota.event past their retention, at most 10000 of each; answers how many';

CREATE OR REPLACE FUNCTION @extschema@.llmquota_apply_grants(role text)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	calls CONSTANT pg_catalog.text := '@extschema@.llmquota_pick(pg_catalog.text, pg_catalog.text, bigint, bigint, pg_catalog.text, pg_catalog.text[], pg_catalog.text, pg_catalog.text, int, pg_catalog.text, pg_catalog.uuid), '
		'@extschema@.llmquota_record(pg_catalog.uuid, bigint, bigint, bigint, bigint, bigint, int, pg_catalog.text, int, pg_catalog.jsonb, pg_catalog.jsonb, pg_catalog.jsonb, pg_catalog.numeric), '
		'@extschema@.llmquota_retry(pg_catalog.uuid, bigint, bigint, bigint, bigint, bigint, int, pg_catalog.text, int, pg_catalog.jsonb, pg_catalog.jsonb, pg_catalog.jsonb, pg_catalog.numeric), '
		'@extschema@.llmquota_explain, '
		'@extschema@.llmquota_release(pg_catalog.uuid), '
		'@extschema@.llmquota_renew(pg_catalog.uuid, int), '
		'@extschema@.llmquota_estimate_tokens(pg_catalog.text, pg_catalog.text)';
	administration CONSTANT pg_catalog.text := '@extschema@.llmquota_maintain(), '
		'@extschema@.llmquota_verify(boolean), '
		'@extschema@.llmquota_disable(pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_enable(pg_catalog.text), '
		'@extschema@.llmquota_cool(pg_catalog.text, pg_catalog.text, int, pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_clear(pg_catalog.text, pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_rename(pg_catalog.text, pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_forget(pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_rebuild(), '
		'@extschema@.llmquota_key_state(pg_catalog.text, pg_catalog.text), '
		'@extschema@.llmquota_lease_rows(), '
		'@extschema@.llmquota_meter_rows(), '
		'@extschema@.llmquota_observed_rows(), '
		'@extschema@.llmquota_adopt_limits(pg_catalog.text), '
		'@extschema@.llmquota_live_counts(), '
		'@extschema@.llmquota_metrics(), '
		'@extschema@.llmquota_worker_rows(), '
		'@extschema@.llmquota_names_valid(pg_catalog.text[]), '
		'@extschema@.llmquota_zone_exists(pg_catalog.text)';
	configuration CONSTANT pg_catalog.text := 'llmquota.provider, llmquota.account, llmquota.key, llmquota.model, llmquota.price, llmquota.exchange_rate, llmquota.route, llmquota.route_option, llmquota.org, llmquota.quota, llmquota.setting';
	spend CONSTANT pg_catalog.text := 'llmquota.usage, llmquota.usage_hourly, llmquota.refusal_hourly';
	histograms CONSTANT pg_catalog.text := '@extschema@.llmquota_percentile(bigint[], float8), '
		'@extschema@.llmquota_histogram(int, bigint), '
		'@extschema@.llmquota_histogram_sum(bigint[])';
	reading CONSTANT pg_catalog.text := 'llmquota.usage_current, llmquota.alias, llmquota.former_name, llmquota.change, llmquota.event, llmquota.key_status, llmquota.lease, llmquota.meter_window, llmquota.observed_limit, llmquota.worker_status, llmquota.role_grant';
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
		EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %I', histograms, role);
	ELSE
		EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM %I', histograms, role);
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
	IF sees_all THEN
		EXECUTE pg_catalog.format('GRANT SELECT ON llmquota.refusal_sample TO %I', role);
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
			 OR EXISTS (SELECT FROM llmquota.alias a
						 WHERE a.kind OPERATOR(pg_catalog.=) 'org' AND a.name OPERATOR(pg_catalog.=) old_name AND a.is_current))) THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_object',
			MESSAGE = pg_catalog.format('%s "%s" does not exist', kind, old_name);
	END IF;
	EXECUTE pg_catalog.format('SELECT true FROM llmquota.%1$I t WHERE t.%1$I OPERATOR(pg_catalog.=) $1', kind) INTO known USING new_name;
	IF known OR EXISTS (SELECT FROM llmquota.quota q
						 WHERE q.scope OPERATOR(pg_catalog.=) kind AND q.subject OPERATOR(pg_catalog.=) new_name
							OR kind OPERATOR(pg_catalog.=) 'model' AND q.model OPERATOR(pg_catalog.=) new_name)
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
	   OR EXISTS (SELECT FROM @extschema@.llmquota_meter_rows() m
				   WHERE m.scope OPERATOR(pg_catalog.=) kind AND m.subject OPERATOR(pg_catalog.=) new_name
					  OR m.part_kind OPERATOR(pg_catalog.=) kind AND m.part OPERATOR(pg_catalog.=) new_name) THEN
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
			('arrival_slack', '^[0-9]{1,9}$', 0, 10000),
			('auth_probe_after', '^[0-9]{1,10}$', 1000, 2764800000),
			('base_currency', '^[A-Z]{3}$', NULL, NULL),
			('default_input_tokens', '^[0-9]{1,9}$', 0, 100000000),
			('event_retention', '^[0-9]{1,9}$', 1, 36500),
			('lease_ttl', '^[0-9]{1,9}$', 1000, 86400000),
			('max_leases', '^[0-9]{1,9}$', 1, 10000000),
			('max_subjects', '^[0-9]{1,9}$', 1, 10000000),
			('observed_limit_ttl', '^[0-9]{1,10}$', 1000, 2764800000),
			('partitions_ahead', '^[0-9]{1,9}$', 1, 90),
			('refusal_retention', '^[0-9]{1,9}$', 1, 36500),
			('refusal_sample_retention', '^[0-9]{1,9}$', 1, 36500),
			('refusal_spread', '^[0-9](\.[0-9]{1,9})?$', 0, 1),
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
	IF NOT valid THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = pg_catalog.format('invalid value for setting "%s": "%s"', NEW.name, NEW.value),
			HINT = CASE WHEN known.name OPERATOR(pg_catalog.=) 'base_currency' THEN 'Use three capital letters.'
						WHEN known.lowest IS NULL THEN 'Use allow or refuse.'
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
COMMENT ON COLUMN llmquota.key_status.quota IS 'id of the quota that is exhausted; NULL: none is';
COMMENT ON COLUMN llmquota.key_status.since IS 'since when it is in trouble; NULL: it is not';
COMMENT ON COLUMN llmquota.key_status.failure IS 'the kind of failure that caused the trouble; NULL: there is none, or somebody caused it';
COMMENT ON COLUMN llmquota.key_status.http_status IS 'HTTP status of the answer that caused it; NULL: there was none, or it was not given';
COMMENT ON COLUMN llmquota.key_status.lease IS 'the lease of the call that caused it, whose row in llmquota.usage has the answer; NULL: none did';
COMMENT ON COLUMN llmquota.key_status.reason IS 'what somebody said; not enabled: key, account, model or provider is not, in the configuration; NULL: nothing';

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
	   u.error_class, u.cost, u.currency, u.cost_base
  FROM llmquota.usage u
  LEFT JOIN llmquota.former_name o ON o.kind OPERATOR(pg_catalog.=) 'org' AND o.name OPERATOR(pg_catalog.=) u.org
		AND u.recorded_at OPERATOR(pg_catalog.>=) o.since AND u.picked_at OPERATOR(pg_catalog.>=) o.picked_from AND u.picked_at OPERATOR(pg_catalog.<) o.until
  LEFT JOIN llmquota.former_name m ON m.kind OPERATOR(pg_catalog.=) 'model' AND m.name OPERATOR(pg_catalog.=) u.model
		AND u.recorded_at OPERATOR(pg_catalog.>=) m.since AND u.picked_at OPERATOR(pg_catalog.>=) m.picked_from AND u.picked_at OPERATOR(pg_catalog.<) m.until
  LEFT JOIN llmquota.former_name a ON a.kind OPERATOR(pg_catalog.=) 'account' AND a.name OPERATOR(pg_catalog.=) u.account
		AND u.recorded_at OPERATOR(pg_catalog.>=) a.since AND u.picked_at OPERATOR(pg_catalog.>=) a.picked_from AND u.picked_at OPERATOR(pg_catalog.<) a.until
  LEFT JOIN llmquota.former_name k ON k.kind OPERATOR(pg_catalog.=) 'key' AND k.name OPERATOR(pg_catalog.=) u.key
		AND u.recorded_at OPERATOR(pg_catalog.>=) k.since AND u.picked_at OPERATOR(pg_catalog.>=) k.picked_from AND u.picked_at OPERATOR(pg_catalog.<) k.until;

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

-- What every live table has.
CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON llmquota.health
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.llmquota_refuse_write();
ALTER TABLE llmquota.health ENABLE ALWAYS TRIGGER refuse_write;

--
-- Settings
--

INSERT INTO llmquota.setting (name, value, unit, description) VALUES
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

REVOKE ALL ON llmquota.price, llmquota.exchange_rate, llmquota.route_option, llmquota.event, llmquota.health, llmquota.key_status, llmquota.observed_limit FROM PUBLIC;
REVOKE ALL ON TYPE llmquota.explain_result FROM PUBLIC;
REVOKE ALL ON FUNCTION
	@extschema@.llmquota_pick(text, text, bigint, bigint, text, text[], text, text, int, text, uuid),
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
