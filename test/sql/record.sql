-- What a record says of a call: what stays charged, and what the ledger gets; settled exactly once.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_llmquota_record;
CREATE ROLE regress_llmquota_record;
SET client_min_messages = warning;

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
SELECT llmquota_grant('regress_llmquota_record', 'app', 'clinic-8');

-- Begins with empty windows, makes a pick that reserves 100 and 50 tokens, and settles it as the statement says.
CREATE FUNCTION settle(arguments text)
RETURNS TABLE (answer text, source text, ledger text, reported text, requests bigint, unless_failed bigint,
	input bigint, uncached bigint, output bigint, tokens bigint, in_flight bigint) LANGUAGE plpgsql AS $$
DECLARE
	picked uuid;
BEGIN
	PERFORM llmquota_clear();
	DELETE FROM llmquota.quota;
	INSERT INTO llmquota.quota (scope, subject, metric, amount, per, counts_failures, counts_cached) VALUES
		('account', '*', 'requests', 1000, '1 hour', true, true),
		('account', '*', 'input_tokens', 100000, '1 hour', true, true),
		('account', '*', 'output_tokens', 100000, '1 hour', true, true),
		('account', '*', 'tokens', 100000, '1 hour', true, true),
		('account', '*', 'concurrency', 1000, NULL, true, true),
		('org', '*', 'requests', 1000, '1 hour', false, true),
		('org', '*', 'input_tokens', 100000, '1 hour', true, false);
	SELECT p.lease INTO picked FROM llmquota_pick('m', 'clinic-7', 100, 50) p;
	EXECUTE format('SELECT status, usage_source FROM llmquota_record(%L, %s)', picked,
		COALESCE(arguments, 'NULL')) INTO answer, source;
	SELECT concat_ws(' ', u.status, u.http_status),
		concat_ws('/', u.input_tokens, u.cached_tokens, u.output_tokens) INTO ledger, reported
	  FROM llmquota.usage u WHERE u.lease = picked;
	SELECT sum(used) FILTER (WHERE scope = 'account' AND metric = 'requests'),
		   sum(used) FILTER (WHERE scope = 'org' AND metric = 'requests'),
		   sum(used) FILTER (WHERE scope = 'account' AND metric = 'input_tokens'),
		   sum(used) FILTER (WHERE scope = 'org' AND metric = 'input_tokens'),
		   sum(used) FILTER (WHERE metric = 'output_tokens'), sum(used) FILTER (WHERE metric = 'tokens'),
		   sum(used) FILTER (WHERE metric = 'concurrency')
	  INTO requests, unless_failed, input, uncached, output, tokens, in_flight FROM llmquota.meter_window;
	RETURN NEXT;
END $$;

-- success: figures replace the reservation, less or more; what is not given stays as reserved
SELECT s.* FROM (VALUES
	(1, NULL),
	(2, 'input_tokens => 80, output_tokens => 30'),
	(3, 'input_tokens => 130, output_tokens => 90'),
	(4, 'input_tokens => 80'),
	(5, 'output_tokens => 70'),
	(6, 'input_tokens => 0, output_tokens => 0'),
	(7, 'http_status => 200'),
	(8, 'http_status => 299, input_tokens => 7'),
	(9, 'http_status => 200, error => ''a warning'''),
	(10, 'input_tokens => 90, output_tokens => 10, cached_tokens => 60, cache_write_tokens => 20, reasoning_tokens => 9'),
	(11, 'latency_ms => 12')) c (n, arguments), settle(c.arguments) s ORDER BY n;
-- failure with the provider's answer: tokens come back unless there are figures; the request stays where failures count
SELECT s.* FROM (VALUES
	(1, 'http_status => 429'),
	(2, 'http_status => 500, error => ''overloaded'''),
	(3, 'http_status => 400, input_tokens => 100, output_tokens => 0'),
	(4, 'http_status => 503, output_tokens => 20'),
	(5, 'http_status => 304'),
	(6, 'http_status => 101')) c (n, arguments), settle(c.arguments) s ORDER BY n;
-- failure without an answer: the call may have been made; figures given so far, else the reservation stands
SELECT s.* FROM (VALUES
	(1, 'error => ''connection reset'''),
	(2, 'error => '''''),
	(3, 'error => ''cut'', input_tokens => 100, output_tokens => 12')) c (n, arguments), settle(c.arguments) s
		ORDER BY n;
-- debt: an excess counts past the amount, and the window refuses until it has gone
DELETE FROM llmquota.quota;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('account', 'a', 'tokens', 200, '1 hour');
SELECT r.status FROM llmquota_pick('m', 'clinic-7', 100, 50) p, llmquota_record(p.lease, 500, 0) r;
SELECT used, amount, remaining FROM llmquota.meter_window;
SELECT status FROM llmquota_pick('m', 'clinic-7', 0, 0);
SELECT status, refusal->'used' AS used FROM llmquota_pick('m', 'clinic-7', 1, 0);

-- a row of the ledger, whole
DELETE FROM llmquota.quota;
CREATE TEMP TABLE p AS SELECT *
  FROM llmquota_pick('m', 'clinic-7', 100, 50, session => 'visit 12', request_id => 'r-1');
SELECT r.status, r.usage_source FROM p, llmquota_record(p.lease, 90, 40, 60, 20, 9, 502, 'upstream failed', 321, '{"patient": false}') r;
SELECT u.lease = p.lease AS same_lease, u.picked_at = p.granted_at AS same_time,
	   u.recorded_at BETWEEN p.granted_at AND clock_timestamp() AS recorded, u.org, u.session, u.request_id, u.attempt,
	   u.route, u.model, u.provider, u.account, u.key
  FROM llmquota.usage u JOIN p USING (lease);
SELECT u.status, u.http_status, u.error, u.reserved_input, u.reserved_output, u.input_tokens, u.cached_tokens,
	u.cache_write_tokens, u.output_tokens, u.reasoning_tokens, u.usage_source, u.latency_ms, u.tags
  FROM llmquota.usage u JOIN p USING (lease);
-- what was not said is not known
SELECT llmquota_record(lease) FROM llmquota_pick('m', request_id => 'silent');
SELECT org, session, http_status, error, input_tokens, cached_tokens, cache_write_tokens, output_tokens,
	reasoning_tokens, latency_ms, tags, reserved_input, reserved_output FROM llmquota.usage WHERE request_id = 'silent';

-- exactly once: a second record or release changes nothing and says what is stored, from the slot
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
	VALUES ('account', 'a', 'tokens', 100000, '1 hour'), ('account', 'a', 'requests', 1000, '1 hour');
DROP TABLE p;
CREATE TEMP TABLE p AS SELECT * FROM llmquota_pick('m', 'clinic-7', 100, 50);
SELECT r.status, r.usage_source FROM p, llmquota_record(p.lease, 90, 40) r;
SELECT r.status, r.usage_source FROM p, llmquota_record(p.lease, 1, 1) r;
SELECT r.status, r.usage_source FROM p, llmquota_record(p.lease, error => 'late news') r;
SELECT llmquota_release(p.lease), llmquota_renew(p.lease) FROM p;
SELECT metric, used FROM llmquota.meter_window ORDER BY metric;
SELECT count(*), min(u.status) AS status, min(u.input_tokens) AS input_tokens, min(u.error) AS error
  FROM llmquota.usage u JOIN p USING (lease);
-- and from the ledger when other leases have taken the slot
UPDATE llmquota.setting SET value = '8' WHERE name = 'max_leases';
SELECT count(*) AS granted,
	count(*) FILTER (WHERE left(n.lease::text, 11) = left(p.lease::text, 11)) AS in_the_same_slot
  FROM p, LATERAL (SELECT q.* FROM generate_series(1, 8) i, llmquota_pick('m', request_id => i::text) q
	WHERE q.status = 'granted') n;
SELECT r.status, r.usage_source FROM p, llmquota_record(p.lease, 1, 1) r;
SELECT llmquota_release(p.lease), llmquota_renew(p.lease) FROM p;
SELECT metric, used FROM llmquota.meter_window ORDER BY metric;
SELECT count(*), min(u.input_tokens) AS input_tokens FROM llmquota.usage u JOIN p USING (lease);
UPDATE llmquota.setting SET value = '100000' WHERE name = 'max_leases';
SELECT count(llmquota_release(lease)) FROM llmquota.lease;

-- release: the call was not made, everything comes back; it too is final
DELETE FROM llmquota.quota;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
SELECT 'account', '*', metric, 1000, CASE WHEN metric <> 'concurrency' THEN '1 hour'::interval END
  FROM unnest('{requests,input_tokens,output_tokens,tokens,concurrency}'::text[]) metric;
DROP TABLE p;
CREATE TEMP TABLE p AS SELECT * FROM llmquota_pick('m', 'clinic-7', 100, 50);
SELECT string_agg(format('%s %s', metric, used), ', ' ORDER BY metric) AS used FROM llmquota.meter_window;
SELECT llmquota_release(p.lease) FROM p;
SELECT string_agg(format('%s %s', metric, used), ', ' ORDER BY metric) AS used FROM llmquota.meter_window;
SELECT llmquota_release(p.lease) FROM p;
SELECT r.status FROM p, llmquota_record(p.lease, 1, 1) r;
SELECT u.status, u.http_status, u.input_tokens, u.output_tokens, u.usage_source FROM llmquota.usage u
  JOIN p USING (lease);

DELETE FROM llmquota.quota;

-- what an application may settle: with a role that is bound to an org, that org's leases
DROP TABLE p;
CREATE TEMP TABLE p AS SELECT * FROM llmquota_pick('m', 'clinic-7');
CREATE TEMP TABLE q AS SELECT * FROM llmquota_pick('m', 'clinic-8');
GRANT SELECT ON p, q TO regress_llmquota_record;
SET ROLE regress_llmquota_record;
SELECT r.status, llmquota_release(p.lease), llmquota_renew(p.lease) IS NULL AS not_renewed
  FROM p, llmquota_record(p.lease) r;
SELECT r.status FROM q, llmquota_record(q.lease) r;
RESET ROLE;
SELECT r.status FROM p, llmquota_record(p.lease) r;
SET ROLE regress_llmquota_record;
SELECT r.status, llmquota_release(p.lease) FROM p, llmquota_record(p.lease) r;
SELECT r.status FROM q, llmquota_record(q.lease) r;
RESET ROLE;

-- leases nobody was given: chance, another secret, another slot, a page that is not there
SELECT r.status, r.usage_source FROM llmquota_record('00000000-0000-0000-0000-000000000000') r;
DROP TABLE p;
CREATE TEMP TABLE p AS SELECT lease::text FROM llmquota_pick('m', 'clinic-7');
CREATE TEMP TABLE forged (n int, lease uuid);
INSERT INTO forged
SELECT n,
	   overlay(lease PLACING translate(substr(lease, at, 1), '0123456789abcdef', '123456789abcdef0') FROM at FOR 1)::uuid
  FROM p, (VALUES (1, 36), (2, 21), (3, 11), (4, 18), (5, 4), (6, 13), (7, 15), (8, 20)) f (n, at);
SELECT n, r.status, llmquota_release(f.lease), llmquota_renew(f.lease) FROM forged f, llmquota_record(f.lease) r
 ORDER BY n;
SELECT count(*) AS still_live FROM llmquota.lease JOIN p ON p.lease::uuid = lease.lease;

-- errors: an excerpt without what may be a secret, without control characters, of 500 characters at most
CREATE FUNCTION stored_error(body text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	picked uuid;
BEGIN
	PERFORM llmquota_clear(), llmquota_enable('k');
	SELECT p.lease INTO picked FROM llmquota_pick('m') p;
	PERFORM llmquota_record(picked, error => body);
	RETURN (SELECT u.error FROM llmquota.usage u WHERE u.lease = picked);
END $$;
SELECT stored_error(body) FROM (VALUES
	(1, 'Incorrect API key provided: sk-proj-abcdefghijklmnop1234. You can find your API key at https://platform.openai.example.'),
	(2, 'Bearer ya29.a0AfH6SMBx-something'),
	(3, '{"error":{"message":"API key AIzaSyA1234567890abcdefghijklmnopqrstuv not valid","code":400}}'),
	(4, 'Authorization: Basic dXNlcjpwYXNzd29yZDEyMzQ1Njc4OTA='),
	(5, 'model gpt-4o-2024-11-20 is overloaded, request 12'),
	(6, E'two\nlines\tand a bell\x07'),
	(7, '')) b (n, body) ORDER BY n;
SELECT length(stored_error(repeat('word ', 300))) AS words, length(stored_error(repeat('é', 600))) AS letters,
	octet_length(stored_error(repeat('€', 600))) AS bytes,
	   length(stored_error(repeat('long body ', 20000))) AS long_body,
		stored_error(repeat('x', 495) || ' sk-abcdefghijklmnop') ~ 'sk-' AS secret_at_the_end;
-- nor in the log of a statement that fails, nor elsewhere in the ledger
SELECT count(*) FROM llmquota.usage u WHERE u::text ~ 'sk-|ya29|AIza|dXNl';

SELECT llmquota_revoke('regress_llmquota_record', 'app');
DROP OWNED BY regress_llmquota_record;
DROP ROLE regress_llmquota_record;
