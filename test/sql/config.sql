-- Bad configuration is refused when it is written, says why, and changes nothing.
\set SHOW_CONTEXT never
SET client_min_messages = warning;

-- Runs a statement and says what came of it: ok, or SQLSTATE, message, detail and hint.
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	-- a failing row shows all its columns: of no interest here
	RETURN concat_ws(E'\n', SQLSTATE || ' ' || SQLERRM, nullif(regexp_replace(detail, '^Failing row contains.*', ''), ''), nullif(hint, ''));
END $$;

-- Runs one statement for each of several values put in place of %L.
CREATE FUNCTION attempt(statement text, VARIADIC candidates text[]) RETURNS TABLE (value text, result text) LANGUAGE sql AS $$
	SELECT CASE WHEN octet_length(c) > 40 THEN left(c, 2) || ' ... (' || octet_length(c) || ' bytes)' ELSE c END,
		   attempt(format(statement, c))
	  FROM unnest(candidates) WITH ORDINALITY AS u (c, n) ORDER BY n
$$;

-- Everything that is configured, as one value.
CREATE FUNCTION fingerprint() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text := '';
	contents text;
	target text;
BEGIN
	FOREACH target IN ARRAY '{provider,account,key,model,route,org,quota,setting,role_grant}'::text[] LOOP
		EXECUTE format('SELECT string_agg(t::text, E''\n'' ORDER BY t::text) FROM llmquota.%I t', target) INTO contents;
		result := result || target || E':\n' || coalesce(contents, '') || E'\n';
	END LOOP;
	RETURN md5(result);
END $$;

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider, family) VALUES ('m', 'p', 'f');
INSERT INTO llmquota.route (route, step, model) VALUES ('r', 1, 'm');
INSERT INTO llmquota.org (org) VALUES ('o');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'o', 'requests', 10, '1 minute');
SELECT fingerprint() AS before \gset

--
-- Names: 1 to 128 bytes, and not '*'
--
SELECT * FROM attempt($$INSERT INTO llmquota.provider (provider, adapter) VALUES (%L, 'x')$$, NULL, '', '*', 'p', repeat('x', 129), repeat('é', 65));
SELECT * FROM attempt($$INSERT INTO llmquota.provider (provider, adapter) VALUES ('q', %L)$$, NULL, '', repeat('x', 129));
SELECT * FROM attempt($$INSERT INTO llmquota.provider (provider, adapter, base_url) VALUES ('q', 'x', %L)$$, '', repeat('x', 2049));
SELECT * FROM attempt($$INSERT INTO llmquota.account (account, provider) VALUES (%L, 'p')$$, NULL, '', '*', 'a', repeat('x', 129));
SELECT * FROM attempt($$INSERT INTO llmquota.account (account, provider, org) VALUES ('b', 'p', %L)$$, '', '*', repeat('x', 129));
SELECT * FROM attempt($$INSERT INTO llmquota.account (account, provider, base_url) VALUES ('b', 'p', %L)$$, '', repeat('x', 2049));
SELECT * FROM attempt($$INSERT INTO llmquota.key (key, account) VALUES (%L, 'a')$$, NULL, '', '*', 'k', repeat('x', 129));
SELECT * FROM attempt($$INSERT INTO llmquota.key (key, account, secret_ref) VALUES ('l', 'a', %L)$$, '', repeat('x', 2049));
SELECT * FROM attempt($$INSERT INTO llmquota.key (key, account, models) VALUES ('l', 'a', %L)$$, '{""}', '{NULL}', '{m,NULL}', '{m,""}', format('{m,%s}', repeat('x', 129)), 'm');
SELECT * FROM attempt($$INSERT INTO llmquota.model (model, provider) VALUES (%L, 'p')$$, NULL, '', '*', 'm', repeat('x', 129));
SELECT * FROM attempt($$INSERT INTO llmquota.model (model, provider, provider_model) VALUES ('n', 'p', %L)$$, '', repeat('x', 129));
SELECT * FROM attempt($$INSERT INTO llmquota.model (model, provider, family) VALUES ('n', 'p', %L)$$, '', '*', repeat('x', 129));
SELECT * FROM attempt($$INSERT INTO llmquota.route (route, step, model) VALUES (%L, 1, 'm')$$, NULL, '', 'r', repeat('x', 129));
SELECT * FROM attempt($$INSERT INTO llmquota.route (route, org, step, model) VALUES ('r', %L, 1, 'm')$$, NULL, '*', repeat('x', 129));
SELECT * FROM attempt($$INSERT INTO llmquota.org (org) VALUES (%L)$$, NULL, '*', 'o', repeat('x', 129));
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', %L, 'concurrency', 1)$$, NULL, '', repeat('x', 129));
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, metric, amount, model) VALUES ('global', 'concurrency', 1, %L)$$, '', repeat('x', 129));
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, metric, amount, family) VALUES ('global', 'concurrency', 1, %L)$$, '', repeat('x', 129));

--
-- References
--
SELECT attempt($$INSERT INTO llmquota.account (account, provider) VALUES ('b', 'none')$$);
SELECT attempt($$INSERT INTO llmquota.key (key, account) VALUES ('l', 'none')$$);
SELECT attempt($$INSERT INTO llmquota.model (model, provider) VALUES ('n', 'none')$$);
SELECT attempt($$INSERT INTO llmquota.route (route, step, model) VALUES ('r', 1, 'none')$$);
SELECT attempt($$DELETE FROM llmquota.provider$$);
SELECT attempt($$DELETE FROM llmquota.account$$);
SELECT attempt($$DELETE FROM llmquota.model$$);

--
-- Numbers and words
--
SELECT * FROM attempt($$INSERT INTO llmquota.key (key, account, priority) VALUES ('l', 'a', %L)$$, NULL, '32768', 'first');
SELECT * FROM attempt($$INSERT INTO llmquota.model (model, provider, default_output_tokens) VALUES ('n', 'p', %L)$$, NULL, '-1', '2147483648');
SELECT * FROM attempt($$INSERT INTO llmquota.route (route, step, model) VALUES ('s', %L, 'm')$$, NULL, '-1');
SELECT * FROM attempt($$INSERT INTO llmquota.org (org, priority) VALUES ('n', %L)$$, NULL, '', 'urgent', 'High');

--
-- Quotas
--
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES (%L, 'x', 'concurrency', 1)$$, NULL, '', 'model', 'Org', 'global');
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, metric, amount) VALUES (%L, 'concurrency', 1)$$, 'provider', 'account', 'key', 'org');
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, metric, amount, per) VALUES ('global', %L, 1, '1 minute')$$, NULL, '', 'cost', 'request');
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, metric, amount, per) VALUES ('global', 'requests', %L, '1 minute')$$, '-1', '1.5', '9223372036854775808', 'NaN', 'Infinity', '-Infinity', 'many');
SELECT attempt($$INSERT INTO llmquota.quota (scope, metric, amount, model, family) VALUES ('global', 'concurrency', 1, 'm', 'f')$$);
SELECT attempt($$INSERT INTO llmquota.quota (scope, metric, amount) VALUES ('global', 'requests', 1)$$);
SELECT attempt($$INSERT INTO llmquota.quota (scope, metric, amount, per, calendar) VALUES ('global', 'requests', 1, '1 day', 'day')$$);
SELECT attempt($$INSERT INTO llmquota.quota (scope, metric, amount, per) VALUES ('global', 'concurrency', 1, '1 day')$$);
SELECT attempt($$INSERT INTO llmquota.quota (scope, metric, amount, calendar) VALUES ('global', 'concurrency', 1, 'day')$$);
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, metric, amount, per) VALUES ('global', 'requests', 1, %L)$$,
	'0', '-1 minute', '0.999999 seconds', '400 days 0.000001 seconds', '1 month', '1 year', '1 month -29 days', '-1 month 40 days', 'soon');
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, metric, amount, calendar) VALUES ('global', 'requests', 1, %L)$$, '', 'hour', 'Day', 'days', 'decade');
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, metric, amount, calendar, timezone) VALUES ('global', 'requests', 1, 'day', %L)$$,
	'', 'Europe/Atlantis', 'PST', '+02:00', '<+02>-02', 'EST4EDT3,M1.1.0,M2.1.0', 'Mars5', 'GMT+2', 'Etc/GMT+13', 'right/UTC', '../zoneinfo/UTC', '/etc/localtime', 'Europe', repeat('x', 300));
SELECT attempt($$INSERT INTO llmquota.quota (scope, metric, amount, per, timezone) VALUES ('global', 'requests', 1, '1 day', 'UTC')$$);
SELECT * FROM attempt($$INSERT INTO llmquota.provider (provider, adapter, timezone) VALUES ('q', 'x', %L)$$, NULL, '', 'Europe/Atlantis', 'PST', 'Mars5');
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, metric, amount, high_priority_share) VALUES ('global', 'concurrency', 1, %L)$$, NULL, '-0.1', '1', 'NaN');
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, metric, amount, mode) VALUES ('global', 'concurrency', 1, %L)$$, NULL, '', 'warn');
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, metric, amount, rollout) VALUES ('global', 'concurrency', 1, %L)$$, NULL, '-0.1', '1.1', 'NaN');
SELECT attempt($$INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'o', 'requests', 20, '60 seconds')$$);
SELECT attempt($$INSERT INTO llmquota.quota (id, scope, metric, amount) VALUES (1, 'global', 'concurrency', 1)$$);
SELECT attempt($$UPDATE llmquota.quota SET amount = -1$$);

-- one row in ten is wrong: none is written
SELECT attempt($$INSERT INTO llmquota.quota (scope, subject, metric, amount) SELECT 'org', 'o' || n, 'concurrency', 5 - n FROM generate_series(1, 10) n$$);

--
-- Settings
--
SELECT attempt($$INSERT INTO llmquota.setting (name, value) VALUES ('lease_tll', '1000')$$);
SELECT attempt($$UPDATE llmquota.setting SET name = 'lease_tll' WHERE name = 'lease_ttl'$$);
SELECT attempt($$UPDATE llmquota.setting SET value = NULL WHERE name = 'lease_ttl'$$);
SELECT s.name, a.*
  FROM llmquota.setting s
 CROSS JOIN LATERAL attempt(format($$UPDATE llmquota.setting SET value = %%L WHERE name = %L$$, s.name),
							'', '-1', '1e3', '10000000001') a
 ORDER BY s.name COLLATE "C", a.value COLLATE "C";

--
-- Nothing of all this has changed anything
--
SELECT fingerprint() = :'before' AS unchanged;

--
-- What is just within bounds is accepted
--
BEGIN;
SELECT * FROM attempt($$INSERT INTO llmquota.provider (provider, adapter) VALUES (%L, 'x')$$, 'x', repeat('x', 128), repeat('é', 64));
SELECT * FROM attempt($$INSERT INTO llmquota.org (org) VALUES (%L)$$, '', repeat('x', 128));
SELECT * FROM attempt($$INSERT INTO llmquota.key (key, account, models) VALUES ('l', 'a', %L)$$, format('{m,%s}', repeat('x', 128)));
SELECT attempt($$INSERT INTO llmquota.key (key, account, models) VALUES ('no models', 'a', '{}')$$);
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('key', 'k1', 'tokens', %L, '1 minute') RETURNING 1$$, '0');
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('key', 'k2', 'tokens', %L, '1 minute')$$, '9223372036854775807');
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('key', 'k3', 'tokens', %L, '1 minute')$$, NULL);
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('key', 'k4', 'tokens', 1, %L)$$, '1 second', '400 days', '1 day -23:00:00');
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar, timezone) VALUES ('key', 'k5', 'tokens', 1, 'day', %L)$$, NULL, 'UTC', 'America/Los_Angeles', 'Etc/GMT+12', 'PST8PDT', 'GMT0');
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar) VALUES ('key', 'k6', 'tokens', 1, %L)$$, 'day', 'week', 'month', 'quarter', 'year');
SELECT * FROM attempt($$INSERT INTO llmquota.quota (scope, subject, metric, amount, high_priority_share) VALUES ('key', 'k7', 'concurrency', 1, %L)$$, '0.999999');
SELECT s.name, a.*
  FROM (VALUES ('arrival_slack', '0', '10000'), ('default_input_tokens', '0', '100000000'), ('idempotency_window', '0', '2764800000'), ('idempotency_window', '999', '1000'), ('lease_ttl', '1000', '86400000'),
			   ('max_leases', '1', '10000000'), ('max_requests', '1', '10000000'), ('max_subjects', '1', '10000000'), ('observed_limit_ttl', '1000', '2764800000'), ('partitions_ahead', '1', '90'),
			   ('refusal_spread', '0', '1'), ('unknown_org', 'allow', 'refuse')) s (name, lowest, highest)
 CROSS JOIN LATERAL attempt(format($$UPDATE llmquota.setting SET value = %%L WHERE name = %L$$, s.name), s.lowest, s.highest) a;

-- a setting that is there can be inserted, as a restored dump does; its text stays
INSERT INTO llmquota.setting (name, value, unit) VALUES ('lease_ttl', '5000', 'fortnights');
COPY llmquota.setting (name, value) FROM stdin;
max_leases	17
\.
SELECT name, value, unit FROM llmquota.setting WHERE name IN ('lease_ttl', 'max_leases') ORDER BY name COLLATE "C";
-- and one that was deleted, too
DELETE FROM llmquota.setting;
INSERT INTO llmquota.setting (name, value) VALUES ('lease_ttl', '6000');
SELECT name, value FROM llmquota.setting;
ROLLBACK;

--
-- A meter holds 8 windows
--
CREATE FUNCTION windows(scope text, subject text, model text, family text, first int, last int, amount numeric DEFAULT 1) RETURNS text LANGUAGE sql AS $$
	SELECT attempt(format('INSERT INTO llmquota.quota (scope, subject, model, family, metric, amount, per) '
						  'SELECT %L, %L, %L, %L, ''requests'', %s, n * interval ''1 minute'' FROM generate_series(%s, %s) n',
						  scope, subject, model, family, coalesce(amount::text, 'NULL'), first, last))
$$;

-- all models together; what was refused is not there
BEGIN;
SELECT windows('key', 'k', NULL, NULL, 1, 8);
SELECT windows('key', 'k', NULL, NULL, 9, 9);
SELECT attempt($$INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('key', 'k', 'concurrency', 1)$$);
SELECT attempt($$INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar) VALUES ('key', '*', 'tokens', 1, 'day')$$);
SELECT attempt($$INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar) VALUES ('key', 'other', 'tokens', 1, 'day')$$);
SELECT windows('key', 'k', 'm', NULL, 1, 8);
SELECT windows('key', 'k', NULL, 'f', 1, 8);
SELECT attempt($$UPDATE llmquota.quota SET subject = 'k' WHERE subject = 'other'$$);
SELECT attempt($$DELETE FROM llmquota.quota WHERE subject = 'k' AND per = '1 minute'$$);
SELECT attempt($$UPDATE llmquota.quota SET subject = 'k' WHERE subject = 'other'$$);
SELECT scope, subject, model, family, count(*) FROM llmquota.quota GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4;
ROLLBACK;

-- all at once
SELECT windows('global', '', NULL, NULL, 1, 9);

-- a row that names its subject replaces the one for every subject, also to take it away
BEGIN;
SELECT windows('org', '*', NULL, NULL, 1, 8);
SELECT windows('org', 'b', NULL, NULL, 1, 8);
SELECT windows('org', 'b', NULL, NULL, 9, 9);
SELECT windows('org', 'c', NULL, NULL, 1, 1, NULL);
SELECT windows('org', 'c', NULL, NULL, 9, 9);
SELECT windows('org', 'c', NULL, NULL, 10, 10);
SELECT attempt($$DELETE FROM llmquota.quota WHERE subject = 'c' AND amount IS NULL$$);
SELECT attempt($$UPDATE llmquota.quota SET amount = 1 WHERE subject = 'c' AND amount IS NULL$$);
SELECT attempt($$UPDATE llmquota.quota SET subject = 'd' WHERE subject = 'c' AND amount IS NULL$$);
SELECT attempt($$DELETE FROM llmquota.quota WHERE subject = 'c'$$);
ROLLBACK;

-- the rows for each model count with those for one model
BEGIN;
SELECT windows('account', '*', '*', NULL, 1, 4);
SELECT windows('account', 'a', '*', NULL, 4, 6);
SELECT windows('account', 'a', 'm', NULL, 1, 2);
SELECT windows('account', 'a', 'm', NULL, 3, 3);
SELECT windows('account', 'a', 'n', NULL, 1, 2);
SELECT windows('account', 'b', 'm', NULL, 1, 4);
SELECT windows('account', '*', '*', NULL, 7, 7);
SELECT windows('account', '*', NULL, '*', 1, 8);
SELECT windows('account', '*', NULL, 'f', 1, 1);
ROLLBACK;

--
-- A pick has 12 cells: 11 meters and the lease
--
BEGIN;
SELECT scope, part, attempt(format($$INSERT INTO llmquota.quota (scope, subject, metric, amount, model, family) VALUES (%L, %L, 'concurrency', %L, %L, %L)$$,
								   scope, CASE scope WHEN 'global' THEN '' ELSE '*' END, amount,
								   CASE part WHEN 'model' THEN '*' END, CASE part WHEN 'family' THEN '*' END))
  FROM unnest('{global,provider,account,key,org}'::text[]) WITH ORDINALITY AS s (scope, i)
 CROSS JOIN unnest('{all,model,family}'::text[]) WITH ORDINALITY AS p (part, j)
 CROSS JOIN LATERAL (SELECT CASE WHEN scope = 'account' AND part = 'model' THEN NULL ELSE 1 END AS amount) a
 ORDER BY i, j;
SELECT attempt($$UPDATE llmquota.quota SET amount = 1 WHERE amount IS NULL$$);
SELECT attempt($$DELETE FROM llmquota.quota WHERE scope = 'global' AND family = '*'$$);
SELECT attempt($$UPDATE llmquota.quota SET amount = 1 WHERE amount IS NULL$$);
SELECT windows('account', '*', '*', NULL, 1, 7);
ROLLBACK;

SELECT fingerprint() = :'before' AS unchanged;

--
-- Live state is not written by hand, not even by a superuser and not in a replica
--
SELECT t.name AS live, attempt(format(statement, t.name)) AS result
  FROM unnest('{meter,lease_page,name}'::text[]) AS t (name)
 CROSS JOIN unnest(ARRAY['INSERT INTO llmquota.%I (id) VALUES (1)', 'UPDATE llmquota.%I SET id = 1', 'DELETE FROM llmquota.%I', 'TRUNCATE llmquota.%I']) WITH ORDINALITY AS s (statement, n)
 ORDER BY t.name COLLATE "C", n;
COPY llmquota.meter FROM stdin;
\.
SET session_replication_role = replica;
DELETE FROM llmquota.lease_page;
RESET session_replication_role;
