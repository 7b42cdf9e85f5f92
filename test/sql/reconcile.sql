-- The ledger against a provider's own usage export: every figure here is worked out by hand.
\set SHOW_CONTEXT never
\pset null -
SET TimeZone TO 'UTC';
SET DateStyle TO 'ISO';

INSERT INTO llmquota.provider (provider, adapter, timezone) VALUES ('p', 'openai', 'UTC'), ('q', 'gemini', 'America/Los_Angeles');
INSERT INTO llmquota.model (model, provider, provider_model) VALUES ('big', 'p', 'gpt-big'), ('twin', 'p', 'gpt-big'), ('small', 'p', NULL), ('far', 'q', NULL);
INSERT INTO llmquota.account (account, provider) VALUES ('a1', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k1', 'a1'), ('k2', 'a1');

-- A row of the ledger.
CREATE FUNCTION used(at timestamptz, model text, input bigint, output bigint, cost numeric, currency text DEFAULT 'USD', base numeric DEFAULT NULL,
	key text DEFAULT 'k1', status text DEFAULT 'ok', http_status int DEFAULT NULL, provider text DEFAULT 'p', account text DEFAULT 'a1')
RETURNS text LANGUAGE sql AS $$
	INSERT INTO llmquota.usage (lease, picked_at, recorded_at, recorded_in, org, model, key, account, provider, status, http_status, input_tokens, output_tokens, cost, currency, cost_base)
	VALUES (gen_random_uuid(), at, clock_timestamp(), 0, 'o', model, key, account, provider, status, http_status, input, output, cost, currency, base) RETURNING 'used'
$$;
CREATE FUNCTION refused(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	advice text;
BEGIN
	EXECUTE statement;
	RETURN 'not refused';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS advice = PG_EXCEPTION_HINT;
	RETURN concat_ws(' / ', SQLSTATE, SQLERRM, nullif(advice, ''));
END $$;

SELECT count(used(c.at, c.model, c.input, c.output, c.cost, key => c.key)) FROM (VALUES
	(timestamptz '2026-03-01 00:00+00', 'big', 100, 10, 0.1, 'k1'), ('2026-03-01 12:00+00', 'twin', 200, 20, 0.2, 'k2'), ('2026-03-01 23:59:59.999999+00', 'small', 1, 1, 0.000000001, 'k1'),
	('2026-03-02 00:00+00', 'big', 300, 30, 0.3, 'k1'), ('2026-03-02 10:00+00', 'small', 5, 5, 0.5, 'k1'), ('2026-03-03 00:00+00', 'big', 400, 40, 0.4, 'k1'), ('2026-03-04 00:00+00', 'big', 1000, 1000, 1000, 'k1'))
	c (at, model, input, output, cost, key);
CREATE TABLE export (day date, model text, key text, requests int, input_tokens bigint, output_tokens bigint, cost numeric);
INSERT INTO export VALUES
	('2026-03-01', 'gpt-big', 'k1', 1, 100, 10, 0.1), ('2026-03-01', 'gpt-big', 'k2', 1, 200, 20, 0.2), ('2026-03-01', 'small', 'k1', 1, 1, 1, 0.000000002),
	('2026-03-02', 'gpt-big', 'k1', 1, 200, 20, 0.2), ('2026-03-02', 'gpt-big', 'k1', 1, 100, 10, 0.1), ('2026-03-03', 'gpt-big', 'k1', 1, 400, 40, 0.4),
	('2026-03-03', 'gpt-new', 'k1', 7, 70, 7, 0.7), ('2026-03-03', 'gpt-big', 'k9', 1, 1, 1, 1);
SELECT * FROM llmquota_reconcile('p', 'export');
-- days that were asked for, of which the export need have nothing; one of them alone
SELECT status, day, provider_model, key, cost_here, cost_there FROM llmquota_reconcile('p', 'export', first_day => '2026-03-03', last_day => '2026-03-04');
SELECT status, day, provider_model, key FROM llmquota_reconcile('p', 'export', last_day => '2026-03-01') WHERE status <> 'equal';
SELECT count(*) FROM llmquota_reconcile('p', 'export', first_day => '2026-03-05', last_day => '2026-03-04');
-- not by keys; less figures; none that is asked for
SELECT status, day, provider_model, key, requests_here, requests_there, input_tokens_difference, output_tokens_difference, cost_difference FROM llmquota_reconcile('p', 'export', '{"key": null}');
SELECT status, day, provider_model, requests_here, requests_there, requests_difference, cost_here, cost_there, cost_difference
  FROM llmquota_reconcile('p', 'export', '{"key": null, "cost": null, "output_tokens": null, "input_tokens": null}');

-- what the provider does not charge for is not compared: released calls, and those it refused. What it may have charged is
SELECT used('2026-03-01 01:00+00', 'small', NULL, NULL, 0, status => 'released'), used('2026-03-01 01:00+00', 'small', NULL, NULL, 0, status => 'error', http_status => 429),
	   used('2026-03-01 01:00+00', 'small', 3, NULL, 0.03, status => 'error', http_status => 400), used('2026-03-01 01:00+00', 'small', NULL, NULL, 0.04, status => 'error'),
	   used('2026-03-01 01:00+00', 'small', NULL, NULL, 0.05, status => 'expired');
SELECT requests_here, input_tokens_here, output_tokens_here, cost_here, expired, unpriced FROM llmquota_reconcile('p', 'export') WHERE day = '2026-03-01' AND model = 'small';
-- costs in another currency than the export's count where they are known in it
SELECT used('2026-03-01 01:00+00', 'small', 1, 1, 35, 'THB', 1), used('2026-03-01 01:00+00', 'small', 1, 1, 70, 'EUR', NULL);
SELECT currency, requests_here, cost_here, unpriced FROM llmquota_reconcile('p', 'export') WHERE day = '2026-03-01' AND model = 'small';
SELECT currency, requests_here, cost_here, unpriced FROM llmquota_reconcile('p', 'export', currency => 'THB') WHERE day = '2026-03-01' AND model = 'small';

-- names: those of the provider, ours, with a date behind them, or as somebody says; former ones of the ledger
CREATE TABLE named (usage_date date, "the model" text, project varchar(40), "Key ""id""; DROP TABLE named" char(10), n bigint);
INSERT INTO named VALUES ('2026-03-02', 'gpt-big-2026-01-31', 'proj_1', 'sk-1', 1), ('2026-03-02', 'small-20260131', 'proj_1', 'sk-1', 1);
SELECT status, provider_model, model, account, key, requests_here, requests_there
  FROM llmquota_reconcile('p', 'named', '{"day": "usage_date", "model": "the model", "requests": "n"}');
SELECT status, provider_model, model, account, key, requests_here, requests_there
  FROM llmquota_reconcile('p', 'named', '{"day": "usage_date", "model": "the model", "requests": "n", "account": "project", "key": "Key \"id\"; DROP TABLE named"}',
		names => '{"account": {"proj_1": "a1"}, "key": {"sk-1": "k1"}}');
UPDATE named SET "the model" = 'twin' WHERE "the model" LIKE 'gpt%';
SELECT status, provider_model, model FROM llmquota_reconcile('p', 'named', '{"day": "usage_date", "model": "the model", "requests": "n"}');
UPDATE named SET "the model" = 'Small, by the provider' WHERE "the model" LIKE 'small%';
SELECT status, provider_model, model FROM llmquota_reconcile('p', 'named', '{"day": "usage_date", "model": "the model", "requests": "n"}', names => '{"model": {"Small, by the provider": "small"}}');
SELECT llmquota_rename('model', 'small', 'tiny'), llmquota_rename('key', 'k1', 'key one');
SELECT status, provider_model, model, key FROM llmquota_reconcile('p', 'named', '{"day": "usage_date", "model": "the model", "requests": "n", "key": "Key \"id\"; DROP TABLE named"}',
	names => '{"model": {"Small, by the provider": "tiny"}, "key": {"sk-1": "key one"}}');
-- a model that is no longer configured has the name of the ledger
SELECT used('2026-03-02 10:00+00', 'gone', 5, 5, 0.5);
INSERT INTO named VALUES ('2026-03-02', 'gone', 'proj_1', 'sk-1', 1);
SELECT status, provider_model, model FROM llmquota_reconcile('p', 'named', '{"day": "usage_date", "model": "the model", "requests": "n"}') WHERE provider_model = 'gone';

-- whose day: the provider's, or another zone's; dates and times of a day in it as they stand, instants and seconds converted
SELECT used('2026-03-02 07:59+00', 'far', 1, 1, 1, provider => 'q'), used('2026-03-02 08:00+00', 'far', 1, 1, 1, provider => 'q');
CREATE TABLE by_date AS SELECT date '2026-03-01' AS day, 'far' AS model, 1 AS requests;
CREATE TABLE by_time AS SELECT timestamp '2026-03-01 23:59:59' AS day, 'far' AS model, 1 AS requests;
CREATE TABLE by_instant AS SELECT timestamptz '2026-03-02 07:59:59+00' AS day, 'far' AS model, 1 AS requests;
CREATE TABLE by_second AS SELECT extract(epoch FROM timestamptz '2026-03-02 07:59:59+00')::bigint AS day, 'far' AS model, 1 AS requests;
SELECT 'date', status, day, requests_here, requests_there FROM llmquota_reconcile('q', 'by_date', last_day => '2026-03-02')
UNION ALL SELECT 'time', status, day, requests_here, requests_there FROM llmquota_reconcile('q', 'by_time', last_day => '2026-03-02')
UNION ALL SELECT 'instant', status, day, requests_here, requests_there FROM llmquota_reconcile('q', 'by_instant', last_day => '2026-03-02')
UNION ALL SELECT 'second', status, day, requests_here, requests_there FROM llmquota_reconcile('q', 'by_second', last_day => '2026-03-02');
SELECT 'instant', status, day, requests_here, requests_there FROM llmquota_reconcile('q', 'by_instant', timezone => 'UTC')
UNION ALL SELECT 'date', status, day, requests_here, requests_there FROM llmquota_reconcile('q', 'by_date', last_day => '2026-03-02', timezone => 'UTC');

-- figures that are the sum of several columns; rows that lack something; a view, a domain, a partitioned table; nothing at all
CREATE DOMAIN dollars AS numeric CHECK (VALUE >= 0);
CREATE TABLE parts (day date, model name, uncached bigint, cached smallint, cost dollars) PARTITION BY LIST (day);
CREATE TABLE parts_of_day PARTITION OF parts DEFAULT;
INSERT INTO parts VALUES ('2026-03-03', 'gpt-big', 150, 250, 0.4), ('2026-03-03', 'gpt-big', NULL, NULL, NULL), (NULL, 'gpt-big', 1, NULL, 1), ('2026-03-03', NULL, 2, 2, 2);
SELECT status, day, provider_model, input_tokens_here, input_tokens_there, cost_there FROM llmquota_reconcile('p', 'parts', '{"input_tokens": ["uncached", "cached"]}');
CREATE VIEW shown AS SELECT day, model::text, uncached + cached AS input_tokens FROM parts;
SELECT status, provider_model, input_tokens_here, input_tokens_there, requests_there FROM llmquota_reconcile('p', 'shown', first_day => '2026-03-03', last_day => '2026-03-03') WHERE day IS NOT NULL;
CREATE TABLE nothing (LIKE export);
SELECT count(*) FROM llmquota_reconcile('p', 'nothing');
SELECT status, day, provider_model, requests_there, cost_difference FROM llmquota_reconcile('p', 'nothing', first_day => '2026-03-03', last_day => '2026-03-03');

-- what is refused
CREATE TABLE wrong (day text, model int, key bigint, requests float8, input_tokens text, cost money, good date, named text, days integer[]);
SELECT refused(format('SELECT llmquota_reconcile(%L, %L, %L)', c.provider, c.export, c.mapping)) FROM (VALUES
	(NULL, 'export', NULL), ('p', NULL, NULL), ('nobody', 'export', NULL), ('p', 'no_such_table', NULL), ('p', 'export', '[]'), ('p', 'export', '"day"'),
	('p', 'export', '{"days": "day"}'), ('p', 'export', '{"day": "days"}'), ('p', 'export', '{"cost": "amount\"; DROP TABLE export"}'), ('p', 'export', '{"day": null}'), ('p', 'export', '{"model": null}'),
	('p', 'export', '{"day": ["day"]}'), ('p', 'export', '{"key": ["key"]}'), ('p', 'export', '{"cost": []}'), ('p', 'export', '{"cost": ["cost", null]}'), ('p', 'export', '{"cost": 7}'), ('p', 'export', '{"cost": {}}'),
	('p', 'export', '{"cost": "ctid"}'), ('p', 'export', '{"cost": ["cost", "model"]}'), ('p', 'export', '{"requests": null, "input_tokens": null, "output_tokens": null, "cost": null}'),
	('p', 'named', NULL), ('p', 'wrong', NULL), ('p', 'wrong', '{"day": "good"}'), ('p', 'wrong', '{"day": "good", "model": "named"}'), ('p', 'wrong', '{"day": "good", "model": "named", "key": null}'),
	('p', 'wrong', '{"day": "good", "model": "named", "key": null, "requests": null}'), ('p', 'wrong', '{"day": "good", "model": "named", "key": null, "requests": null, "input_tokens": null}'), ('p', 'wrong', '{"day": "days"}'),
	('p', 'export_day', NULL)) c (provider, export, mapping);
SELECT refused($$SELECT llmquota_reconcile('p', 'export', timezone => 'Mars')$$), refused($$SELECT llmquota_reconcile('p', 'export', currency => 'dollars')$$);
SELECT refused(format('SELECT llmquota_reconcile(%L, %L, names => %L)', 'p', 'export', c.names)) FROM (VALUES ('[]'), ('{"models": {}}'), ('{"key": "k1"}')) c (names);

-- as the caller: an administrator without privileges on the export cannot read it, and nobody else may ask; names that are
-- hostile are names
CREATE ROLE reconcile_admin;
CREATE ROLE reconcile_analyst;
CREATE SCHEMA "the ""schema""";
CREATE TABLE "the ""schema"""."an; export" AS TABLE export;
GRANT USAGE ON SCHEMA public, "the ""schema""" TO reconcile_admin, reconcile_analyst;
GRANT SELECT ON "the ""schema"""."an; export" TO reconcile_admin;
SELECT llmquota_grant('reconcile_admin', 'admin'), llmquota_grant('reconcile_analyst', 'analyst');
SET ROLE reconcile_admin;
SELECT refused($$SELECT llmquota_reconcile('p', 'export')$$);
SELECT count(*) FROM llmquota_reconcile('p', '"the ""schema"""."an; export"');
SET ROLE reconcile_analyst;
SELECT refused($$SELECT llmquota_reconcile('p', '"the ""schema"""."an; export"')$$);
RESET ROLE;
SELECT llmquota_revoke('reconcile_admin', 'admin'), llmquota_revoke('reconcile_analyst', 'analyst');
DROP OWNED BY reconcile_admin, reconcile_analyst;
DROP ROLE reconcile_admin, reconcile_analyst;
SELECT * FROM llmquota_verify();
