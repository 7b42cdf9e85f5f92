-- Analysts: what they read of the ledger, of which orgs, and that there is no way around.
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_llmquota_all, regress_llmquota_one, regress_llmquota_member, regress_llmquota_service, regress_llmquota_boss;
SET client_min_messages = warning;
CREATE ROLE regress_llmquota_all;
CREATE ROLE regress_llmquota_one;
CREATE ROLE regress_llmquota_member IN ROLE regress_llmquota_one;
CREATE ROLE regress_llmquota_service;
CREATE ROLE regress_llmquota_boss;

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account, secret_ref) VALUES ('k', 'a', 'env:SECRET');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');

-- Runs a query as a role: what it answers in one column, or the SQLSTATE.
CREATE FUNCTION ask(who text, query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', 'regress_llmquota_' || who);
	EXECUTE format('SELECT string_agg(a::text, '' '' ORDER BY a::text COLLATE "C") FROM (%s) q (a)', query) INTO answer;
	RESET ROLE;
	RETURN answer;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$;

SELECT llmquota_grant('regress_llmquota_service', 'app', 'clinic-7');
SELECT llmquota_grant('regress_llmquota_all', 'analyst');
SELECT llmquota_grant('regress_llmquota_one', 'analyst', 'clinic-7');
SELECT llmquota_grant('regress_llmquota_boss', 'admin');
SELECT * FROM llmquota.role_grant ORDER BY role COLLATE "C";

-- calls of three orgs, one of them by a service that reads nothing; the first ones wait in the default partition
SELECT llmquota_record(lease, 10, 20, latency_ms => 100) FROM unnest('{clinic-7,clinic-8,""}'::text[]) o, llmquota_pick('m', o);
SELECT FROM llmquota_maintain();
SET ROLE regress_llmquota_service;
SELECT status FROM llmquota_record((llmquota_pick('m', 'clinic-7')).lease, 1, 2);
SELECT lease FROM llmquota_pick('m', 'clinic-7') \gset
SELECT status FROM llmquota_record(:'lease', 1, 2);
RESET ROLE;
UPDATE llmquota.setting SET value = '36500' WHERE name = 'usage_retention';
-- one call of each waits there still
INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org, model, key, status)
SELECT gen_random_uuid(), '2001-01-01 12:34', now(), o, 'm', 'k', 'ok' FROM unnest('{clinic-7,clinic-8}'::text[]) o;
SELECT FROM llmquota_maintain();
INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org, model, key, status)
SELECT gen_random_uuid(), '2002-01-01 12:34', now(), o, 'm', 'k', 'ok' FROM unnest('{clinic-7,clinic-8}'::text[]) o;
SELECT count(*) AS waiting FROM llmquota.usage_default;

-- and each is refused once, by a shared account
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('account', 'a', 'requests', 0, '1 day');
SELECT status FROM unnest('{clinic-7,clinic-8}'::text[]) o, llmquota_pick('m', o);
SELECT refusals_kept FROM llmquota_maintain();
DELETE FROM llmquota.quota;
-- an alert of each, and one of a key
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar) VALUES ('org', '*', 'requests', 1, 'year');
SELECT status FROM unnest('{clinic-7,clinic-8}'::text[]) o, llmquota_pick('m', o);
SELECT llmquota_disable('k');
UPDATE llmquota.setting SET value = '{1}' WHERE name = 'alert_at';
SELECT alerts_raised FROM llmquota_maintain();
SELECT llmquota_enable('k');
DELETE FROM llmquota.quota;

-- who reads what
SELECT q.query, ask('all', q.query) AS everything, ask('one', q.query) AS one_org, ask('member', q.query) AS member, ask('boss', q.query) AS admin, ask('service', q.query) AS app
  FROM unnest(ARRAY[
	'SELECT DISTINCT format(''"%s"'', org) FROM llmquota.usage',
	'SELECT count(*) FROM llmquota.usage',
	'SELECT sum(calls) FROM llmquota.usage_hourly',
	'SELECT llmquota_percentile(llmquota_histogram_sum(latency), 0.5) FROM llmquota.usage_hourly',
	'SELECT count(*) FROM llmquota.refusal_hourly',
	'SELECT coalesce(refusal ->> ''subject'', ''not named'') FROM llmquota.refusal_sample',
	'SELECT subject FROM llmquota.refusal_sample',
	'SELECT count(*) FROM llmquota.refusal_page',
	'SELECT concat_ws('' '', kind, subject) FROM llmquota.alert',
	'SELECT llmquota_ack(id) FROM llmquota.alert WHERE subject = ''clinic-7''',
	'SELECT count(*) FROM llmquota.usage_default',
	'SELECT count(*) FROM llmquota.usage_20010101',
	'SELECT count(*) FROM llmquota.usage_undone',
	'SELECT secret_ref FROM llmquota.key',
	'SELECT count(*) FROM llmquota.role_grant',
	'SELECT count(*) FROM llmquota.meter_window',
	'SELECT max(calls) FROM llmquota_backtest(''{"scope": "global", "metric": "requests", "amount": 0, "per": "1 hour"}'')',
	'SELECT count(*) FROM llmquota_pick(''m'', ''clinic-7'')']) WITH ORDINALITY AS q (query, n)
 ORDER BY n;

-- A privilege on a partition that somebody gave by mistake shows no row.
INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org) VALUES (gen_random_uuid(), '2003-01-01 12:34', now(), 'clinic-8');
SELECT count(*) > 0 AS waiting FROM llmquota.usage_default;
GRANT SELECT ON llmquota.usage_20010101, llmquota.usage_default TO regress_llmquota_one;
SELECT ask('one', 'SELECT count(*) FROM llmquota.usage_20010101'), ask('one', 'SELECT count(*) FROM llmquota.usage_default');
REVOKE ALL ON llmquota.usage_20010101, llmquota.usage_default FROM regress_llmquota_one;
-- A function of the reader's own is not shown rows of others.
CREATE FUNCTION gossip(org text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE WARNING 'has seen "%"', org; RETURN true; END $$;
SET ROLE regress_llmquota_one;
SELECT count(*) FROM (SELECT DISTINCT org FROM llmquota.usage WHERE gossip(org)) o;
RESET ROLE;
-- The orgs that the role is bound to are an index condition.
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET ROLE regress_llmquota_one;
EXPLAIN (COSTS OFF) SELECT sum(input_tokens) FROM llmquota.usage_hourly WHERE hour >= '2001-01-01';
RESET ROLE;
RESET enable_seqscan;
RESET enable_bitmapscan;

-- More orgs, fewer, all, one of all again; an application bound to an org is not freed by what it may read
SELECT llmquota_grant('regress_llmquota_one', 'analyst', '');
SELECT ask('one', 'SELECT DISTINCT format(''"%s"'', org) FROM llmquota.usage'), ask('member', 'SELECT DISTINCT format(''"%s"'', org) FROM llmquota.usage_hourly');
SELECT llmquota_revoke('regress_llmquota_one', 'analyst', 'clinic-7');
SELECT ask('one', 'SELECT DISTINCT format(''"%s"'', org) FROM llmquota.usage'), ask('member', 'SELECT DISTINCT format(''"%s"'', org) FROM llmquota.usage_hourly');
SELECT llmquota_grant('regress_llmquota_service', 'analyst');
SELECT ask('service', 'SELECT DISTINCT format(''"%s"'', org) FROM llmquota.usage'), ask('service', 'SELECT status FROM llmquota_pick(''m'', ''clinic-7'')'), ask('service', 'SELECT status FROM llmquota_pick(''m'', ''clinic-8'')');
SELECT llmquota_grant('regress_llmquota_service', 'analyst', 'clinic-8');
SELECT ask('service', 'SELECT DISTINCT format(''"%s"'', org) FROM llmquota.usage');
SELECT * FROM llmquota.role_grant ORDER BY role COLLATE "C", kind COLLATE "C";
SELECT polrelid::regclass, polname, polcmd, pg_get_expr(polqual, polrelid) AS rows FROM pg_policy ORDER BY polrelid::regclass::text COLLATE "C", polname;

-- An org that is renamed is still theirs, with what was written under its former name; not with what is written there
-- by whoever is given that name.
SELECT llmquota_rename('org', 'clinic-8', 'clinic-eight');
SELECT ask('service', 'SELECT DISTINCT org FROM llmquota.usage');
INSERT INTO llmquota.org (org) VALUES ('clinic-8');
SELECT ask('service', 'SELECT DISTINCT org FROM llmquota.usage');

-- Nothing is left of what is taken back, and nothing stands in the way of dropping the role.
SELECT llmquota_revoke('regress_llmquota_service', 'analyst');
SELECT ask('service', 'SELECT count(*) FROM llmquota.usage'), ask('service', 'SELECT status FROM llmquota_pick(''m'', ''clinic-7'')');
SELECT llmquota_revoke('regress_llmquota_service', 'app');
SELECT llmquota_revoke('regress_llmquota_one', 'analyst');
SELECT llmquota_revoke('regress_llmquota_all', 'analyst') FROM generate_series(1, 2);
SELECT llmquota_revoke('regress_llmquota_boss', 'admin');
SELECT count(*) FROM pg_policy;
DROP ROLE regress_llmquota_all, regress_llmquota_one, regress_llmquota_member, regress_llmquota_service, regress_llmquota_boss;

-- Wrong calls
SELECT llmquota_percentile('{1}', 1.5);
SELECT llmquota_percentile('{1,NULL}', 0.5);
SELECT llmquota_percentile('{{1},{2}}', 0.5);
SELECT llmquota_percentile(array_fill(1::bigint, '{110}'), 0.5);
SELECT llmquota_percentile('{}', 0.5), llmquota_percentile(NULL, 0.5), llmquota_percentile('{0,0}', 0);
SELECT llmquota_histogram(l, 1) FROM unnest('{0,15,16,NULL,-5}'::int[]) l;
SELECT llmquota_histogram_sum(h) FROM (VALUES ('{1,2}'::bigint[]), ('{}'), (NULL), ('{0,0,5,0}'), ('{0,0,-5}')) v (h);
SELECT llmquota_histogram_sum(h) FROM (VALUES ('{9223372036854775807}'::bigint[]), ('{1}')) v (h);
