-- Tickets of the line: what a pick that may queue is told, claims, and who gets none. (Held picks and the time that
-- passes are in test/t/line_held.pl and line_ticket.pl.)
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter, breaker_failures, breaker_min_calls) VALUES ('p', 'openai', 1000000, 1000000);
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account, secret_ref) VALUES ('k', 'a', 'ref');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.route (route, step, model) VALUES ('r', 1, 'm');
INSERT INTO llmquota.org (org, enabled, priority, weight) VALUES ('off', false, 'normal', 1), ('batch', true, 'low', 1), ('heavy', true, 'normal', 3);
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('global', '', 'concurrency', 1);
-- tickets stay as long as the test takes
UPDATE llmquota.setting SET value = '3600000' WHERE name = 'ticket_ttl';
CREATE TABLE ticket (name text PRIMARY KEY, ticket uuid);
CREATE FUNCTION queue(name text, org text, priority text DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
	WITH p AS (SELECT * FROM llmquota_pick('m', org, 10, 20, priority => priority, queue => true)),
		 t AS (INSERT INTO ticket SELECT name, lease FROM p WHERE status = 'queued')
	SELECT concat_ws(' ', status, refusal->>'position') FROM p $$;
CREATE FUNCTION claim(name text) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', c.status, c.refusal->>'position') FROM ticket t, llmquota_claim(t.ticket) c WHERE t.name = claim.name $$;
-- who waits, and who is called: the first one when he comes, until he has asked
CREATE VIEW line AS
SELECT string_agg(t.name || CASE WHEN w.called THEN ' is called' ELSE '' END, ', ' ORDER BY w.position, t.name) AS line
  FROM llmquota.waiting w LEFT JOIN ticket t USING (ticket);
CREATE PROCEDURE free() LANGUAGE sql AS $$ SELECT count(llmquota_release(lease)) FROM llmquota.lease $$;
CREATE PROCEDURE clear() LANGUAGE sql AS $$
	CALL free();
	SELECT count(llmquota_release(ticket)) FROM ticket;
	DELETE FROM ticket;
	CALL free() $$;

-- who need not wait is granted
SELECT status, lease IS NOT NULL AS lease, refusal FROM llmquota_pick('m', 'o', queue => true);
SELECT count(*) FROM llmquota.waiting;
-- else it is queued: with a ticket, until when it is kept, when to come again, and what refuses
SELECT status, lease IS NOT NULL AS ticket, key, model, attempt, granted_at, expires_at > now() AS kept,
	   retry_after_ms > 0 AS come_again, refusal - 'retry_at' AS refusal
  FROM llmquota_pick('r', 'o', 10, 20, queue => true, request_id => NULL, session => 's') \gx
SELECT org, route, priority, since <= clock_timestamp() AS since, position, kind, called, scope, subject, metric, ticket IS NOT NULL AS ticket
  FROM llmquota.waiting;
SELECT count(*) AS leases FROM llmquota.lease;
INSERT INTO ticket SELECT 'first', ticket FROM llmquota.waiting;
SELECT c.status, c.lease = t.ticket AS same, c.expires_at > now() AS kept, c.retry_after_ms > 0 AS come_again, c.refusal->>'position' AS position
  FROM ticket t, llmquota_claim(t.ticket) c;
SELECT queue('second', 'o'), queue('third', 'o');
SELECT line FROM line;
-- the first is called when there is something for it, and nobody else gets that
CALL free();
SELECT line FROM line;
SELECT status, refusal->>'metric' AS metric, refusal->>'position' AS position FROM llmquota_pick('m', 'hasty');
-- the lease has the ticket's uuid, and what was asked for; claimed again it is told again
SELECT c.status, c.lease = t.ticket AS same, c.key, c.secret_ref, c.model, c.attempt, c.max_output_tokens, c.granted_at IS NOT NULL AS granted,
	   c.retry_after_ms, c.refusal FROM ticket t, llmquota_claim(t.ticket) c WHERE t.name = 'first' \gx
SELECT c.status, c.lease = t.ticket AS same, c.key, c.secret_ref, c.model, c.attempt, c.max_output_tokens, c.granted_at IS NOT NULL AS granted,
	   c.retry_after_ms, c.refusal FROM ticket t, llmquota_claim(t.ticket) c WHERE t.name = 'first' \gx
SELECT org, route, session, reserved_input, reserved_output FROM llmquota.lease;
SELECT line FROM line;
-- what it has become when it has ended, and the next one
SELECT r.status FROM ticket t, llmquota_record(t.ticket, 1, 2) r WHERE name = 'first';
SELECT claim('first');
SELECT line FROM line;
SELECT claim('second');
SELECT claim('second'), claim('third');
SELECT org, route, status, waited_ms > 0 AS waited FROM llmquota.usage WHERE status = 'ok';
SELECT count(*) FILTER (WHERE waited_ms IS NOT NULL) FROM llmquota.usage WHERE status = 'released';
-- a ticket that is given back, as a lease is
SELECT llmquota_release(ticket) FROM ticket WHERE name = 'third';
SELECT llmquota_release(ticket) FROM ticket WHERE name = 'third';
SELECT claim('third');
SELECT count(*) FROM llmquota.waiting;
CALL clear();
SELECT count(*) FROM llmquota.waiting;

-- what is no ticket
SELECT status, lease, expires_at, retry_after_ms, refusal FROM llmquota_claim('00000000-0000-0000-0000-000000000000');
SELECT status FROM llmquota_claim('ffffffff-ffff-ffff-ffff-ffffffffffff');
SELECT status FROM llmquota_claim(gen_random_uuid());
SELECT * FROM llmquota_claim(NULL);
SELECT * FROM llmquota_claim('00000000-0000-0000-0000-000000000000', -1);
SELECT * FROM llmquota_claim('00000000-0000-0000-0000-000000000000', 3600001);
SELECT status FROM llmquota_claim('00000000-0000-0000-0000-000000000000', 3600000);
SELECT status FROM llmquota_claim('00000000-0000-0000-0000-000000000000', NULL);
-- nor is a lease that never was one answered otherwise than one: it is told again
SELECT p.status, c.status, c.lease = p.lease AS same FROM llmquota_pick('m', 'o') p, llmquota_claim(p.lease) c;
-- a ticket is no lease
SELECT queue('one', 'o');
SELECT r.status FROM ticket, llmquota_record(ticket) r;
SELECT llmquota_renew(ticket) FROM ticket;
\set VERBOSITY sqlstate
SELECT status FROM ticket, llmquota_pick('m', 'o', retry_of => ticket);
\set VERBOSITY default
SELECT count(*) FROM llmquota.waiting;

-- arguments of picks: NULL is not given
SELECT status FROM llmquota_pick('m', 'o', wait_ms => NULL, queue => NULL);
SELECT status, refusal->>'position' AS position FROM llmquota_pick('m', 'o', wait_ms => 0);
SELECT status, refusal->>'position' AS position FROM llmquota_pick('m', 'o', wait_ms => 1);
SELECT status, refusal->>'position' AS position FROM llmquota_pick('m', 'o', queue => false);
SELECT * FROM llmquota_pick('m', 'o', wait_ms => -1);
SELECT * FROM llmquota_pick('m', 'o', wait_ms => 3600001);
-- in vain in the call, and then with a ticket
SELECT status, refusal->>'position' AS position FROM llmquota_pick('m', 'o', wait_ms => 1, queue => true);
SELECT kind, position FROM llmquota.waiting ORDER BY position;
-- one answer to each call; a ticket of the first column's call is given back, a claim's stays
SELECT (llmquota_claim(ticket)).* FROM ticket;
SELECT (llmquota_pick('m', 'o', queue => true)).*;
SELECT count(*) FROM llmquota.waiting;
SELECT (llmquota_claim('00000000-0000-0000-0000-000000000000')).status;
-- where nothing may be written
BEGIN READ ONLY;
SELECT llmquota_claim(ticket) FROM ticket;
ROLLBACK;
BEGIN READ ONLY;
SELECT count(*) FROM llmquota.waiting;
SELECT llmquota_pick('m', 'o', queue => true);
ROLLBACK;
SELECT count(llmquota_release(ticket)) FROM llmquota.waiting;
CALL clear();

-- there is nothing to wait for: it is refused at once
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'small', 'tokens', 100, '1 hour');
INSERT INTO llmquota.model (model, provider) VALUES ('nobody', 'p');
UPDATE llmquota.key SET models = '{m}';
SELECT org, route, p.status, p.lease, p.refusal->>'position' AS position
  FROM (VALUES (1, 'm', 'small', 1000), (2, 'nobody', 'o', 1), (3, 'm', 'off', 1)) v (n, route, org, tokens),
	   llmquota_pick(route, org, tokens, 0, wait_ms => 600000, queue => true) p ORDER BY n;
DELETE FROM llmquota.quota;
SELECT * FROM llmquota_pick('unknown', 'o', queue => true);
SELECT status, refusal->>'position' AS position FROM llmquota_pick('m', 'o', exclude => '{k}', queue => true);

-- priorities: of the org, else of the pick
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('global', '', 'concurrency', 1);
SELECT status FROM llmquota_pick('m', 'o', priority => 'low');
SELECT queue('low', 'batch');
SELECT claim('low'), queue('normal', 'o'), queue('raised', 'batch', 'high'), queue('lowered', 'o', 'low');
SELECT line FROM line;
SELECT org, priority, position FROM llmquota.waiting ORDER BY position, org;
CALL free();
SELECT line FROM line;
SELECT claim('raised');
CALL free();
SELECT line FROM line;
SELECT claim('normal');
CALL free();
SELECT line FROM line;
SELECT status FROM llmquota_pick('m', 'o', priority => 'lowest', queue => true);
CALL clear();

-- fair among orgs: the flood of one waits for the first of another; by weights
UPDATE llmquota.quota SET amount = 2;
SELECT count(*) FROM generate_series(1, 2) i, llmquota_pick('m', 'flood', i);
SELECT queue('f1', 'flood');
SELECT claim('f1'), queue('f2', 'flood'), queue('f3', 'flood'), queue('o1', 'other');
SELECT line FROM line;
SELECT count(llmquota_release(lease)) FROM (SELECT lease FROM llmquota.lease LIMIT 1) l;
SELECT line FROM line;
CALL clear();
-- by its weight heavy may have three times as many as light, which has two of five: so the next is heavy's
UPDATE llmquota.quota SET amount = 5;
SELECT count(*) FROM generate_series(1, 3) i, llmquota_pick('m', 'heavy', i);
SELECT count(*) FROM generate_series(1, 2) i, llmquota_pick('m', 'light', i);
SELECT queue('l', 'light');
SELECT claim('l'), queue('h1', 'heavy'), queue('h2', 'heavy');
SELECT count(llmquota_release(lease)) FROM (SELECT lease FROM llmquota.lease WHERE org = 'heavy' LIMIT 1) l;
SELECT line FROM line;
CALL clear();

-- other limits are none of theirs
UPDATE llmquota.quota SET amount = 100;
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', '*', 'concurrency', 1);
SELECT status FROM llmquota_pick('m', 'o');
SELECT queue('o', 'o');
SELECT scope, subject, metric FROM llmquota.waiting;
SELECT status FROM llmquota_pick('m', 'another');
CALL clear();
DELETE FROM llmquota.quota;
-- windows and troubles
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('account', '*', 'requests', 1, '1 hour');
SELECT status FROM llmquota_pick('m', 'o');
SELECT queue('window', 'o');
SELECT scope, subject, metric, called FROM llmquota.waiting;
UPDATE llmquota.quota SET amount = 2;
SELECT c.status FROM ticket, llmquota_claim(ticket, 600000) c;
CALL clear();
DELETE FROM llmquota.quota;
SELECT llmquota_cool('account', 'a', 3600000) IS NOT NULL AS cooled;
SELECT queue('cooled', 'o');
SELECT scope, subject, metric FROM llmquota.waiting;
SELECT llmquota_clear('account', 'a');
SELECT c.status FROM ticket, llmquota_claim(ticket, 600000) c;
CALL clear();

-- how many may wait: in all, of an org, and holding a connection
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('global', '', 'concurrency', 1);
SELECT status FROM llmquota_pick('m', 'holder');
UPDATE llmquota.setting SET value = '2' WHERE name = 'max_waiting_per_org';
SELECT queue('o1', 'o'), queue('o2', 'o'), queue('o3', 'o'), queue('p1', 'p');
UPDATE llmquota.setting SET value = '4' WHERE name = 'max_waiting';
SELECT queue('p2', 'p'), queue('q1', 'q');
SELECT llmquota_release(ticket) FROM ticket WHERE name = 'o1';
SELECT queue('q2', 'q');
SELECT status, refusal->>'position' AS position FROM llmquota_pick('m', 'r', wait_ms => 600000);
UPDATE llmquota.setting SET value = '0' WHERE name IN ('max_waiting', 'max_waiting_per_org');
SELECT queue('r', 'r');
UPDATE llmquota.setting SET value = '100' WHERE name IN ('max_waiting', 'max_waiting_per_org');
UPDATE llmquota.setting SET value = '0' WHERE name = 'max_held_waiters';
SELECT status, refusal->>'position' AS position FROM llmquota_pick('m', 'r', wait_ms => 600000);
SELECT kind, count(*) FROM llmquota.waiting GROUP BY kind;
UPDATE llmquota.setting SET value = 'auto' WHERE name = 'max_held_waiters';
SELECT count(llmquota_release(ticket)) FROM llmquota.waiting;
CALL clear();

-- a ticket whose route has gone, whose org has been disabled, or whose request can never be served any more
SELECT status FROM llmquota_pick('m', 'holder');
INSERT INTO ticket SELECT 'route', lease FROM llmquota_pick('r', 'o', queue => true);
SELECT queue('org', 'o2');
DELETE FROM llmquota.route;
SELECT claim('route');
SELECT llmquota_release(ticket) FROM ticket WHERE name = 'route';
INSERT INTO llmquota.org (org, enabled) VALUES ('o2', false);
CALL free();
SELECT claim('org');
SELECT count(*) FROM llmquota.waiting;
SELECT claim('org');
CALL clear();

-- a retry waits, too: its attempts and those before it are counted
UPDATE llmquota.key SET models = NULL;
INSERT INTO llmquota.route (route, step, model) VALUES ('two', 1, 'm'), ('two', 2, 'nobody');
INSERT INTO llmquota.route_option (route, deadline_ms) VALUES ('two', 3600000);
SELECT p.lease AS failed FROM llmquota_pick('two', 'o') p \gset
SELECT status, advice FROM llmquota_record(:'failed', http_status => 500);
SELECT status FROM llmquota_pick('m', 'holder');
SELECT p.status, p.lease AS ticket FROM llmquota_pick('two', 'o', retry_of => :'failed', queue => true) p \gset
SELECT :'status' AS status;
CALL free();
SELECT status, model, attempt FROM llmquota_claim(:'ticket');
SELECT status, model, attempt FROM llmquota_claim(:'ticket');
CALL clear();

-- a role bound to an org has its tickets, and nobody else's
SET client_min_messages = warning;
CREATE ROLE regress_llmquota_line;
RESET client_min_messages;
SELECT llmquota_grant('regress_llmquota_line', 'app', 'mine');
SELECT status FROM llmquota_pick('m', 'holder');
SELECT queue('mine', 'mine'), queue('theirs', 'theirs');
SELECT ticket AS mine FROM ticket WHERE name = 'mine' \gset
SELECT ticket AS theirs FROM ticket WHERE name = 'theirs' \gset
SET ROLE regress_llmquota_line;
SELECT status, refusal->>'position' AS position FROM llmquota_claim(:'mine');
SELECT status FROM llmquota_claim(:'theirs');
SELECT llmquota_release(:'theirs');
SELECT * FROM llmquota.waiting;
RESET ROLE;
SELECT org FROM llmquota.waiting ORDER BY org;
CALL clear();
SELECT llmquota_revoke('regress_llmquota_line', 'app', 'mine');
DROP ROLE regress_llmquota_line;

SELECT count(*) FROM llmquota.waiting;
SELECT used FROM llmquota.meter_window WHERE used <> 0;
SELECT * FROM llmquota_verify();
