-- What is wrong is refused with a SQLSTATE, and changes nothing: no lease, no charge, no row, no name.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = warning;

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.route (route, org, step, model) VALUES ('theirs', 'clinic-8', 1, 'm');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
	VALUES ('org', '*', 'requests', 1000, '1 hour'), ('global', '', 'tokens', 1000000, '1 hour');
CREATE TEMP TABLE p AS SELECT * FROM llmquota_pick('m', 'clinic-7', 100, 50);
-- everything that a call could have changed
CREATE VIEW state AS
SELECT (SELECT string_agg(format('%s %s', lease, expires_at), ' ' ORDER BY lease) FROM llmquota.lease) AS leases,
	   (SELECT count(*) FROM llmquota.usage) AS rows,
	   (SELECT string_agg(format('%s %s %s %s', subject, metric, used, refused), ', ' ORDER BY quota, subject)
		  FROM llmquota.meter_window) AS windows,
	   (SELECT count(*) FROM llmquota.name) AS names, (SELECT count(*) FROM llmquota.meter) AS meters;
CREATE TEMP TABLE before AS SELECT * FROM state;
-- Says how a statement fails, and whether anything has changed.
CREATE FUNCTION attempt(statement text, OUT code text, OUT message text, OUT hint boolean, OUT changed boolean)
LANGUAGE plpgsql AS $$
DECLARE
	advice text;
BEGIN
	BEGIN
		EXECUTE replace(statement, '$lease', (SELECT quote_literal(lease) FROM p));
		message := 'no error';
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, code = RETURNED_SQLSTATE, advice = PG_EXCEPTION_HINT;
	END;
	hint := advice <> '';
	changed := EXISTS (SELECT FROM before b, state s WHERE b IS DISTINCT FROM s);
END $$;

-- picks
SELECT c.call, a.* FROM unnest(ARRAY[
	$$NULL$$,
	$$'m', NULL$$,
	$$'', 'clinic-7'$$,
	$$'nothing', 'clinic-7'$$,
	$$'theirs', 'clinic-7'$$,
	$$'M', 'clinic-7'$$,
	$$repeat('m', 129), 'clinic-7'$$,
	$$repeat('é', 65), 'clinic-7'$$,
	$$'m', repeat('o', 129)$$,
	$$'m', input_tokens => -1$$,
	$$'m', max_output_tokens => -1$$,
	$$'m', input_tokens => 2147483648$$,
	$$'m', max_output_tokens => 2147483648$$,
	$$'m', input_tokens => 9223372036854775807$$,
	$$'m', input_tokens => -9223372036854775808$$,
	$$'m', input_tokens => 9223372036854775808$$,
	$$'m', input_tokens => '9223372036854775808'$$,
	$$'m', priority => 'urgent'$$,
	$$'m', priority => ''$$,
	$$'m', priority => 'HIGH'$$,
	$$'m', session => repeat('s', 65)$$,
	$$'m', request_id => repeat('é', 33)$$,
	$$'m', exclude => array_fill('k'::text, ARRAY[1001])$$,
	$$'m', ttl_ms => 0$$,
	$$'m', ttl_ms => -1$$,
	$$'m', ttl_ms => 86400001$$,
	$$'m', ttl_ms => 2147483648$$,
	$$'m', ttl_ms => '2147483648'$$]) WITH ORDINALITY AS c (call, n),
	   attempt('SELECT * FROM llmquota_pick(' || c.call || ')') a
 ORDER BY n;
-- records, releases and renewals
SELECT c.call, a.* FROM unnest(ARRAY[
	$$record(NULL)$$,
	$$record('garbage')$$,
	$$record('')$$,
	$$record($lease, input_tokens => -1)$$,
	$$record($lease, output_tokens => -1)$$,
	$$record($lease, cached_tokens => -1)$$,
	$$record($lease, cache_write_tokens => -1)$$,
	$$record($lease, reasoning_tokens => -1)$$,
	$$record($lease, input_tokens => 2147483648)$$,
	$$record($lease, output_tokens => 9223372036854775807)$$,
	$$record($lease, output_tokens => '9223372036854775808')$$,
	$$record($lease, input_tokens => 5, cached_tokens => 6)$$,
	$$record($lease, input_tokens => 5, cached_tokens => 3, cache_write_tokens => 3)$$,
	$$record($lease, input_tokens => 5, cached_tokens => 2147483647, cache_write_tokens => 2147483647)$$,
	$$record($lease, cached_tokens => 1)$$,
	$$record($lease, output_tokens => 5, reasoning_tokens => 6)$$,
	$$record($lease, reasoning_tokens => 1)$$,
	$$record($lease, http_status => 99)$$,
	$$record($lease, http_status => 600)$$,
	$$record($lease, http_status => -200)$$,
	$$record($lease, latency_ms => -1)$$,
	$$record($lease, tags => 'no json')$$,
	$$record($lease, tags => jsonb_build_object('t', repeat('t', 70000)))$$,
	$$release(NULL)$$,
	$$release('garbage')$$,
	$$renew(NULL)$$,
	$$renew('garbage')$$,
	$$renew($lease, 0)$$,
	$$renew($lease, -1)$$,
	$$renew($lease, 86400001)$$]) WITH ORDINALITY AS c (call, n), attempt('SELECT * FROM llmquota_' || c.call) a
 ORDER BY n;
-- where no change is allowed
BEGIN READ ONLY;
SAVEPOINT s;
SELECT * FROM llmquota_pick('m');
ROLLBACK TO s;
\echo :LAST_ERROR_SQLSTATE
SELECT status, usage_source FROM llmquota_record('00000000-0000-0000-0000-000000000000');
ROLLBACK TO s;
\echo :LAST_ERROR_SQLSTATE
SELECT llmquota_release('00000000-0000-0000-0000-000000000000');
ROLLBACK TO s;
\echo :LAST_ERROR_SQLSTATE
SELECT llmquota_renew('00000000-0000-0000-0000-000000000000');
ROLLBACK TO s;
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM llmquota_maintain();
ROLLBACK TO s;
\echo :LAST_ERROR_SQLSTATE
-- the views read on
SELECT count(*) FROM llmquota.lease;
SELECT count(*) > 0 AS windows FROM llmquota.meter_window;
COMMIT;
-- orgs that are not listed, if they must be
UPDATE llmquota.setting SET value = 'refuse' WHERE name = 'unknown_org';
INSERT INTO llmquota.org (org) VALUES ('clinic-7');
SELECT c.call, a.* FROM unnest(ARRAY[$$'m', 'clinic-1'$$, $$'m'$$]) AS c (call),
	attempt('SELECT * FROM llmquota_pick(' || c.call || ')') a;
UPDATE llmquota.setting SET value = 'allow' WHERE name = 'unknown_org';

-- leases that are none, or of another server: no error, because callers retry
SELECT r.status, llmquota_release(l.lease) AS release, llmquota_renew(l.lease) AS renew
  FROM unnest('{00000000-0000-0000-0000-000000000000,ffffffff-ffff-ffff-ffff-ffffffffffff,7fffffff-07ff-83ff-bfff-ffffffffffff,00000001-0000-8000-8000-000000000000,a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'::uuid[]) AS l (lease),
	   llmquota_record(l.lease) r;

-- configuration
SELECT c.statement, a.code, a.changed FROM unnest(ARRAY[
	$$INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'x', 'requests', -1, '1 hour')$$,
	$$INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'x', 'requests', 9223372036854775808, '1 hour')$$,
	$$INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'x', 'requests', 1.5, '1 hour')$$,
	$$INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'x', 'requests', 'NaN', '1 hour')$$,
	$$INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'x', 'requests', 1, '0')$$,
	$$INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'x', 'requests', 1, '-1 hour')$$,
	$$INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar, timezone) VALUES ('org', 'x', 'requests', 1, 'day', 'Mars/Olympus')$$,
	$$INSERT INTO llmquota.provider (provider, adapter) VALUES ('', 'openai')$$,
	$$INSERT INTO llmquota.model (model, provider) VALUES (repeat('m', 129), 'p')$$,
	$$INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', repeat('o', 129), 'requests', 1, '1 hour')$$]) WITH ORDINALITY AS c (statement, n), attempt(c.statement) a ORDER BY n;
-- the largest amounts there are
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
	VALUES ('account', 'a', 'tokens', 9223372036854775807, '400 days'),
	('account', 'a', 'requests', 9223372036854775807, '1 hour');
SELECT count(*) FROM generate_series(1, 3) n, llmquota_pick('m', 'clinic-6', 0, 2147483647, request_id => n::text) p
 WHERE p.status <> 'granted';
DELETE FROM llmquota.quota WHERE scope = 'global';
SELECT count(*) FROM generate_series(1, 3) n,
	llmquota_pick('m', 'clinic-6', 2147483647, 2147483647, request_id => n::text) p WHERE p.status = 'granted';
SELECT metric, used, remaining FROM llmquota.meter_window WHERE scope = 'account' ORDER BY metric;

-- a pick for each column
DELETE FROM llmquota.quota;
SELECT llmquota_release(lease) FROM p;
TRUNCATE before;
INSERT INTO before SELECT * FROM state;
SELECT a.* FROM attempt($$SELECT (llmquota_pick('m', 'clinic-7')).*$$) a;
SELECT a.* FROM attempt($$SELECT (llmquota_pick(x.m, 'clinic-7')).* FROM (VALUES ('m')) x (m)$$) a;
SELECT a.* FROM attempt($$INSERT INTO p SELECT (llmquota_pick('m', 'clinic-7')).*$$) a;
-- one column, a value taken apart, and two calls are what they say
SELECT (llmquota_pick('m', 'clinic-5')).status;
SELECT (picked).status, (picked).key FROM (SELECT llmquota_pick('m', 'clinic-5') AS picked OFFSET 0) s;
SELECT p.status, q.status FROM llmquota_pick('m', 'clinic-5') p, llmquota_pick('m', 'clinic-5') q;
SELECT (llmquota_pick('m', 'clinic-5')).status, (llmquota_pick('m', 'clinic-5')).status AS another;
SELECT count(*) FROM llmquota.lease WHERE org = 'clinic-5';
