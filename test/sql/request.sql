-- One call for each request_id: what a second pick of a request is told, and when it is granted after all. (Many at once,
-- crashes and a webhook that is delivered twice are in test/t/once.pl.)
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = warning;

INSERT INTO llmquota.provider (provider, adapter, breaker_failures, breaker_min_calls) VALUES ('p', 'openai', 10000, 10000);
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('n', 'p'), ('o', 'p'), ('q', 'p'), ('s', 'p');
INSERT INTO llmquota.price (model, input, output) VALUES ('m', 1000000, 2000000);
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', '*', 'concurrency', 100000);
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar) VALUES ('org', 'clinic', 'requests', 100000, 'year');
INSERT INTO llmquota.route (route, step, model) VALUES ('chat', 1, 'm'), ('chat', 2, 'n'), ('chat', 3, 'o'), ('chat', 4, 'q'), ('chat', 5, 's');
INSERT INTO llmquota.route_option (route, deadline_ms, max_attempts) VALUES ('chat', 86400000, 5), ('m', 86400000, 5);
CREATE FUNCTION pick(request_id text, org text DEFAULT 'clinic', ttl_ms int DEFAULT 600000) RETURNS TABLE (status text, attempt int) LANGUAGE sql AS $$
	SELECT p.status, p.attempt FROM llmquota_pick('chat', org, 10, 20, request_id => request_id, ttl_ms => ttl_ms) p
$$;
CREATE FUNCTION lease_of(request_id text) RETURNS uuid LANGUAGE sql AS $$ SELECT l.lease FROM llmquota.lease l WHERE l.request_id = $1 $$;
CREATE VIEW used AS SELECT metric, used FROM llmquota.meter_window WHERE subject = 'clinic' ORDER BY metric;
-- Waits until the lease of a request is past its time. Nobody ends it: there is no maintenance.
CREATE PROCEDURE wait_until_past(lease uuid) LANGUAGE plpgsql AS $$
DECLARE
	pause CONSTANT double precision := 0.01;
BEGIN
	WHILE (SELECT l.expires_at >= clock_timestamp() FROM llmquota.lease l WHERE l.lease = $1) LOOP
		PERFORM pg_sleep(pause);
	END LOOP;
END $$;

-- an error before the first cell of all has begun costs nothing
SET llmquota.inject = 'linear-cell';
SELECT pick('r0', 'first');
RESET llmquota.inject;
SELECT pick('r0', 'first');
SELECT llmquota_release(lease_of('r0'));

-- in flight: the lease and when it expires, and nothing is charged
SELECT lease, expires_at FROM llmquota_pick('chat', 'clinic', 10, 20, request_id => 'r1', ttl_ms => 600000) \gset
SELECT status, lease = :'lease' AS lease, expires_at = :'expires_at' AS expires_at, attempt, retry_after_ms BETWEEN 500000 AND 600000 AS retry_after_ms,
	   num_nulls(key, secret_ref, account, provider, base_url, model, provider_model, max_output_tokens, granted_at, timeout_ms, downgraded) AS nulls
  FROM llmquota_pick('chat', 'clinic', 10, 20, request_id => 'r1');
SELECT refusal - 'lease' - 'expires_at' AS refusal, refusal ->> 'lease' = :'lease' AS lease, (refusal ->> 'expires_at')::timestamptz = :'expires_at' AS expires_at
  FROM llmquota_pick('n', 'clinic', 1, 1, request_id => 'r1');
SELECT * FROM used;
-- explaining looks, and changes nothing: neither of one that is known nor of one that is not
CREATE TEMP TABLE before AS SELECT id, state FROM llmquota.request_page;
SELECT count(*) FROM unnest('{r1,new}'::text[]) r, llmquota_explain('chat', 'clinic', 10, 20, request_id => r);
SELECT id FROM llmquota.request_page EXCEPT SELECT id FROM before;
SELECT count(*) FROM llmquota.request_page JOIN before USING (id, state);

-- whose it is, and what is no request
SELECT * FROM pick('r1', 'other');
SELECT status FROM generate_series(1, 2), llmquota_pick('chat', 'clinic', request_id => NULL);
SELECT status FROM generate_series(1, 2) n, llmquota_pick('chat', 'clinic', request_id => '', session => n::text);
SELECT count(llmquota_release(lease)) FROM llmquota.lease WHERE request_id IS NULL;

-- done: what it became, also within the transaction that records it, and when that is rolled back
BEGIN;
SELECT status, cost FROM llmquota_record(:'lease', 7, 8);
SELECT status, lease, attempt, expires_at, retry_after_ms, refusal - 'lease' - 'recorded_at' AS refusal, (refusal ->> 'recorded_at')::timestamptz BETWEEN now() AND clock_timestamp() AS recorded
  FROM llmquota_pick('chat', 'clinic', 10, 20, request_id => 'r1');
ROLLBACK;
SELECT status, refusal - 'lease' - 'recorded_at' AS refusal FROM llmquota_pick('chat', 'clinic', 10, 20, request_id => 'r1');
SELECT FROM llmquota_maintain();
SELECT status, refusal - 'lease' - 'recorded_at' AS refusal FROM llmquota_pick('chat', 'clinic', 10, 20, request_id => 'r1');
-- a cost that was told is told
SELECT r.status FROM llmquota_pick('chat', 'clinic', request_id => 'told') p, llmquota_record(p.lease, 1, 1, cost => 12.5) r;
SELECT status, refusal -> 'cost' AS cost, refusal -> 'currency' AS currency FROM llmquota_pick('chat', 'clinic', request_id => 'told');
-- an org by another name is the same one
SELECT llmquota_rename('org', 'clinic', 'praxis');
SELECT * FROM pick('r1', 'praxis');
SELECT * FROM pick('r1', 'clinic');
SELECT llmquota_rename('org', 'praxis', 'clinic');
SELECT * FROM llmquota_verify();

-- released: the call was not made
SELECT * FROM pick('r2');
SELECT llmquota_release(lease_of('r2'));
SELECT * FROM pick('r2');
BEGIN;
SELECT llmquota_release(lease_of('r2'));
ROLLBACK;
SELECT * FROM pick('r2');

-- failed: it may be tried again, by whoever asks first
SELECT lease_of('r2') AS first \gset
SELECT (llmquota_record(:'first', http_status => 500)).status;
SELECT * FROM pick('r2');
SELECT status, attempt FROM llmquota_retry(:'first', http_status => 500);
SELECT lease_of('r2') AS second \gset
SELECT (llmquota_record(:'second', http_status => 503)).status;
-- a retry is none of a request's second calls; what comes while it is in flight is
SELECT status, attempt FROM llmquota_pick('chat', 'clinic', request_id => 'r2', retry_of => :'second');
SELECT * FROM pick('r2');
SELECT status, attempt FROM llmquota_pick('chat', 'clinic', request_id => 'r2', retry_of => :'second');
SELECT status, attempt FROM llmquota_retry(lease_of('r2'), http_status => 500);
-- and if it is not said of which request it is a retry: of the same
SELECT lease_of('r2') AS fourth \gset
SELECT (llmquota_record(:'fourth', http_status => 500)).status;
SELECT status, attempt FROM llmquota_pick('chat', 'clinic', retry_of => :'fourth');
SELECT * FROM pick('r2');
SELECT (llmquota_record(lease_of('r2'), 5, 6)).status;
SELECT * FROM pick('r2');
SELECT attempt, status, first_lease = first_value(first_lease) OVER (ORDER BY picked_at) AS same_request, retry_of IS NOT NULL AS retry
  FROM llmquota.usage WHERE request_id = 'r2' AND status <> 'released' ORDER BY picked_at;
SELECT * FROM llmquota_verify();

-- past its time: granted, and the attempt counts, whether maintenance has come or not; a late record is of the attempt that it names
SELECT * FROM pick('r3', ttl_ms => 1);
SELECT lease_of('r3') AS first \gset
CALL wait_until_past(:'first');
SELECT * FROM pick('r3', ttl_ms => 1);
SELECT lease AS second FROM llmquota.lease WHERE request_id = 'r3' AND lease <> :'first' \gset
CALL wait_until_past(:'second');
SELECT FROM llmquota_maintain();
SELECT * FROM pick('r3');
SELECT (llmquota_record(:'first', 3, 3)).status;
SELECT * FROM pick('r3');
SELECT (llmquota_record(lease_of('r3'), 1, 1)).status;
SELECT refusal -> 'attempt' AS attempt, status, refusal -> 'input_tokens' AS input_tokens FROM llmquota_pick('chat', 'clinic', request_id => 'r3');
SELECT attempt, status, usage_source, first_lease = :'first' AS same_request FROM llmquota.usage WHERE request_id = 'r3' ORDER BY attempt;
-- recorded late before anybody asked again: done
SELECT * FROM pick('r4', ttl_ms => 1);
SELECT lease_of('r4') AS late \gset
CALL wait_until_past(:'late');
SELECT FROM llmquota_maintain();
SELECT (llmquota_record(:'late', 3, 3)).status;
SELECT status, refusal -> 'usage_source' AS usage_source FROM llmquota_pick('chat', 'clinic', request_id => 'r4');
-- renewed: in flight for so much longer; once past its time it is not renewed, and so nobody's call comes twice
SELECT * FROM pick('r5', ttl_ms => 60000);
SELECT llmquota_renew(lease_of('r5'), 3600000) > now() + interval '50 minutes' AS renewed;
SELECT status, retry_after_ms > 3000000 AS later FROM llmquota_pick('chat', 'clinic', request_id => 'r5');
SELECT * FROM llmquota_verify();

-- its slot has another lease by now: the ledger knows
SELECT p.lease AS ok, (llmquota_record(p.lease, 4, 5)).status FROM llmquota_pick('chat', 'clinic', request_id => 'slot ok') p \gset
SELECT p.lease AS failed, (llmquota_record(p.lease, http_status => 400)).status FROM llmquota_pick('chat', 'clinic', request_id => 'slot failed') p \gset
SELECT p.lease AS released, llmquota_release(p.lease) FROM llmquota_pick('chat', 'clinic', request_id => 'slot released') p \gset
SELECT p.lease AS lost, (llmquota_record(p.lease, 4, 5)).status FROM llmquota_pick('chat', 'clinic', request_id => 'slot lost') p \gset
UPDATE llmquota.route_option SET deadline_ms = 30000;
SELECT count(*) FROM generate_series(1, 200) n, llmquota_pick('s', 'filler', session => n::text) p WHERE p.status = 'granted';
SELECT count(*) FROM llmquota.lease_page WHERE position(convert_to('slot ok', 'UTF8') IN state) + position(convert_to('slot lost', 'UTF8') IN state) > 0;
SELECT count(llmquota_release(lease)) FROM llmquota.lease WHERE org = 'filler';
SELECT status, attempt, refusal - 'lease' - 'recorded_at' AS refusal FROM llmquota_pick('chat', 'clinic', request_id => 'slot ok');
SELECT * FROM pick('slot failed');
SELECT * FROM pick('slot released');
BEGIN;
DELETE FROM llmquota.usage WHERE lease = :'lost';
SELECT status, attempt, refusal - 'lease' AS refusal FROM llmquota_pick('chat', 'clinic', request_id => 'slot lost');
ROLLBACK;

-- the window: it is remembered for so long after the grant, and at least while its lease lives; 0: not at all
UPDATE llmquota.setting SET value = '1000' WHERE name = 'idempotency_window';
SELECT * FROM pick('r6');
SELECT p.status, r.status FROM llmquota_pick('chat', 'clinic', request_id => 'r7', ttl_ms => 1) p, llmquota_record(p.lease, 1, 1) r;
DO $$
DECLARE
	pause CONSTANT double precision := 0.01;
	answer text := 'duplicate';
BEGIN
	WHILE answer = 'duplicate' LOOP
		PERFORM pg_sleep(pause);
		SELECT concat_ws(' ', p.status, p.attempt) INTO answer FROM pick('r7') p;
	END LOOP;
	ASSERT answer = 'granted 1', answer;
END $$;
SELECT * FROM pick('r6');
UPDATE llmquota.setting SET value = '0' WHERE name = 'idempotency_window';
SELECT * FROM pick('r6');
UPDATE llmquota.setting SET value = '86400000' WHERE name = 'idempotency_window';
SELECT FROM llmquota_maintain();
SELECT * FROM llmquota_verify();

-- whoever is forgotten is forgotten: an org, or a session; what is in flight stays for the next time
SELECT count(*) FROM (SELECT p.status, (llmquota_record(p.lease, 1, 1)).status FROM (VALUES ('anna', 's1'), ('ben', 's2')) v (session, id),
	llmquota_pick('s', 'forgotten', session => v.session, request_id => v.id) p) s;
SELECT * FROM pick('s3', 'forgotten');
SELECT ledger_rows, pending FROM llmquota_forget('forgotten', 'anna');
SELECT s.id, p.* FROM unnest('{s2,s3}'::text[]) s (id), pick(s.id, 'forgotten') p;
SELECT ledger_rows, pending FROM llmquota_forget('forgotten');
SELECT s.id, p.* FROM unnest('{s1,s2}'::text[]) s (id), pick(s.id, 'forgotten') p;
SELECT count(llmquota_release(lease)) FROM llmquota.lease WHERE org = 'forgotten';
SELECT ledger_rows, pending FROM llmquota_forget('clinic', 'nobody');
SELECT * FROM pick('r1');

-- more of them than one cell has room for: each is found again, wherever its cell is by now
CREATE FUNCTION picks(from_number int, to_number int) RETURNS TABLE (status text, count bigint) LANGUAGE sql AS $$
	SELECT p.status, count(*) FROM generate_series(from_number, to_number) n, pick('many ' || n, 'many') p GROUP BY 1 ORDER BY 1
$$;
SELECT * FROM picks(1, 2000);
SELECT count(*) BETWEEN 40 AND 80 AS cells, min(id), max(id) = count(*) AS without_gaps FROM llmquota.request_page;
SELECT * FROM picks(1, 2000);
SELECT * FROM llmquota_verify();
VACUUM FULL llmquota.request_page;
REINDEX TABLE llmquota.request_page;
SELECT * FROM picks(1, 2000);
-- also by a session that has not seen any
\c
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = warning;
SELECT * FROM picks(1, 2000);

-- what goes wrong while there is made room costs nothing: no request, and no number of a cell
CREATE FUNCTION attempts(point text, first_number int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text := 'no error';
BEGIN
	PERFORM set_config('llmquota.inject', point, false);
	BEGIN
		PERFORM pick('more ' || n, 'many') FROM generate_series(first_number, first_number + 2000) n;
	EXCEPTION WHEN internal_error THEN
		GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
	END;
	PERFORM set_config('llmquota.inject', '', false);
	RETURN message;
END $$;
-- (none of them has to make a page of leases)
SELECT count(*) FROM generate_series(1, 2500) n, llmquota_pick('s', 'filler', session => n::text) p WHERE p.status = 'granted';
SELECT count(llmquota_release(lease)) FROM llmquota.lease WHERE org = 'filler';
SELECT point, attempts(point, 10000) FROM unnest('{linear-cell,birth-row,birth-index,birth-mark,linear-cell}'::text[]) point;
SELECT * FROM llmquota_verify();
SELECT * FROM picks(2001, 3000);
SELECT * FROM picks(1, 3000);
SELECT max(id) = count(DISTINCT id) AS without_gaps, count(*) - count(DISTINCT id) AS unborn FROM llmquota.request_page;
SELECT unborn_deleted FROM llmquota_maintain();
SELECT max(id) = count(*) AS without_gaps FROM llmquota.request_page;
SELECT * FROM llmquota_verify();

-- how many there are, and may be
SELECT name, value >= 3000 AS value FROM llmquota_metrics() WHERE name IN ('llmquota_requests', 'llmquota_requests_max') ORDER BY name;

-- nothing of it is written by hand
DELETE FROM llmquota.request_page;
BEGIN READ ONLY;
SELECT llmquota_pick('chat', 'many', request_id => 'read only');
ROLLBACK;
