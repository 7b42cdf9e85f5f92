-- Picks for many calls in one statement: each as a pick by itself would be, and in the middle a clean end.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter, breaker_failures, breaker_probe_ms) VALUES ('p', 'openai', 1, 1000);
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k1', 'a'), ('k2', 'a'), ('k3', 'b');
INSERT INTO llmquota.model (model, provider, default_output_tokens) VALUES ('m', 'p', 100), ('large', 'p', 0), ('small', 'p', 0);
UPDATE llmquota.model SET downgrade_to = 'small' WHERE model = 'large';
-- dollars for a token of input
INSERT INTO llmquota.price (model, input, output) VALUES ('large', 10000000, 0), ('small', 1000000, 0), ('m', 0, 0);
ALTER TABLE llmquota.budget ALTER currency SET DEFAULT 'USD', ALTER calendar SET DEFAULT NULL, ALTER per SET DEFAULT '1 day';
CREATE PROCEDURE clear() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM llmquota_release(lease) FROM llmquota.lease;
	DELETE FROM llmquota.budget;
	DELETE FROM llmquota.quota;
END $$;

-- as many as asked for, each a lease of its own
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'tokens', 1000000, '1 hour'), ('key', '*', 'requests', 1000, '1 hour');
SELECT status, count(*), count(DISTINCT lease) AS leases, min(attempt) AS attempt, min(max_output_tokens) AS output,
	   min(timeout_ms) > 0 AS timeout, count(refusal) AS refusals
  FROM llmquota_pick_many('m', 'one', 25, 10) GROUP BY status;
SELECT metric, sum(used) FROM llmquota.meter_window GROUP BY metric ORDER BY metric;
SELECT count(*), count(DISTINCT lease), sum(reserved_input) AS input, sum(reserved_output) AS output FROM llmquota.lease;
SELECT count(*) FROM llmquota_pick_many('m', 'one', 0);
SELECT count(*) FROM llmquota_pick_many('m', 'one', 1);
-- every one can be recorded, released, renewed and retried by itself
CREATE TABLE batch AS SELECT row_number() OVER () AS n, lease FROM llmquota_pick_many('m', 'two', 4, 10, 20, session => 's', ttl_ms => 60000);
SELECT session, count(*), bool_and(expires_at = granted_at + interval '60 s') AS lives FROM llmquota.lease WHERE org = 'two' GROUP BY session;
SELECT n, r.status, r.advice FROM batch, llmquota_record(lease, 5, 6) r WHERE n = 1;
SELECT n, llmquota_release(lease) FROM batch WHERE n = 2;
SELECT n, llmquota_renew(lease, 120000) > clock_timestamp() AS renewed FROM batch WHERE n = 3;
SELECT n, r.status, r.attempt, l.request_id FROM batch b, llmquota_retry(lease, http_status => 429) r LEFT JOIN llmquota.lease l ON l.lease = r.lease WHERE n = 4;
SELECT status, attempt, input_tokens, output_tokens, first_lease = lease AS first FROM llmquota.usage ORDER BY status;
SELECT count(llmquota_clear()) > 0;
CALL clear();

-- a limit ends in the middle; the next one is told when to come back
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'requests', 11, '1 hour');
SELECT status, count(*), min(refusal ->> 'used') AS used, min(refusal ->> 'amount') AS amount, min(retry_after_ms) > 0 AS later
  FROM llmquota_pick_many('m', 'full', 100) GROUP BY status ORDER BY status;
SELECT status, count(*) FROM llmquota_pick_many('m', 'full', 3) GROUP BY status;
SELECT subject, used, refused FROM llmquota.meter_window;
CALL clear();
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('global', '', 'tokens', 1000, '1 hour'), ('account', '*', 'tokens', 700, '1 hour');
SELECT status, count(*), count(DISTINCT account) AS accounts FROM llmquota_pick_many('m', 'tokens', 100, 10, 20) GROUP BY status ORDER BY status;
SELECT status, refusal ->> 'scope' AS scope FROM llmquota_pick_many('m', 'tokens', 100, 1001, 0);
CALL clear();
-- it goes on with the next key
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('key', '*', 'concurrency', 3), ('account', 'a', 'concurrency', 5);
SELECT account, count(*) FROM llmquota_pick_many('m', 'keys', 8) GROUP BY account ORDER BY account;
SELECT status, refusal ->> 'metric' AS metric FROM llmquota_pick_many('m', 'keys', 8);
CALL clear();
-- and with the next step of its route
INSERT INTO llmquota.route (route, step, model) VALUES ('r', 1, 'large'), ('r', 2, 'm');
INSERT INTO llmquota.quota (scope, subject, model, metric, amount) VALUES ('org', '*', 'large', 'concurrency', 9), ('org', '*', 'm', 'concurrency', 2);
SELECT status, model, count(*) FROM llmquota_pick_many('r', 'steps', 20, 1, 0) GROUP BY status, model ORDER BY status, model;
CALL clear();
-- those of high priority may use what is kept for them
INSERT INTO llmquota.quota (scope, subject, metric, amount, high_priority_share) VALUES ('global', '', 'concurrency', 10, 0.3);
SELECT status, count(*) FROM llmquota_pick_many('m', 'priority', 10) GROUP BY status ORDER BY status;
SELECT status, count(*) FROM llmquota_pick_many('m', 'priority', 10, priority => 'high') GROUP BY status ORDER BY status;
CALL clear();
-- what is excluded
SELECT key, count(*) FROM llmquota_pick_many('m', 'not', 5, exclude => '{a}') GROUP BY key;
SELECT status, refusal FROM llmquota_pick_many('m', 'not', 5, exclude => '{a,b}');
-- at the bound of leases: what there is
CALL clear();
UPDATE llmquota.setting SET value = '40' WHERE name = 'max_leases';
SELECT status, count(*) FROM llmquota_pick_many('m', 'bound', 100) GROUP BY status ORDER BY status;
UPDATE llmquota.setting SET value = '100000' WHERE name = 'max_leases';
CALL clear();

-- budgets: the cheaper model from the threshold on, and then an end
INSERT INTO llmquota.budget (subject, amount) VALUES ('*', 100);
SELECT status, model, downgraded, count(*) FROM llmquota_pick_many('large', 'poor', 100, 1) GROUP BY status, model, downgraded ORDER BY count(*);
SELECT used FROM llmquota.budget_window WHERE subject = 'poor';
SELECT count(*), count(DISTINCT lease) FROM llmquota.lease WHERE org = 'poor';
SELECT status, model, count(*) FROM llmquota_pick_many('large', 'told', 100, 1, max_cost => 25) GROUP BY status, model ORDER BY count(*);
SELECT used FROM llmquota.budget_window WHERE subject = 'told';
CALL clear();
-- what it is charged is what single picks are
INSERT INTO llmquota.budget (subject, amount) VALUES ('*', 100);
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'tokens', 150, '1 hour'), ('org', '*', 'requests', 1000, '1 hour');
SELECT count(*) FROM llmquota_pick_many('large', 'many', 27, 3);
SELECT count(*) FROM generate_series(1, 27) n, llmquota_pick('large', 'single', n * 0 + 3);
SELECT m.metric, m.used, s.used FROM llmquota.meter_window m JOIN llmquota.meter_window s USING (quota) WHERE m.subject = 'many' AND s.subject = 'single' ORDER BY 1;
SELECT m.used, s.used FROM llmquota.budget_window m, llmquota.budget_window s WHERE m.subject = 'many' AND s.subject = 'single';
CALL clear();

-- A trouble's probe is one call, not a batch
SELECT r.status FROM llmquota_pick('m', 'probe', exclude => '{b}') p, llmquota_record(p.lease, http_status => 500) r;
DO $$
DECLARE
	pause CONSTANT double precision := 0.01;
BEGIN
	WHILE EXISTS (SELECT FROM llmquota.key_status WHERE status = 'open') LOOP
		ASSERT clock_timestamp() < statement_timestamp() + interval '60 s', 'it does not open';
		PERFORM pg_sleep(pause);
		COMMIT;
	END LOOP;
END $$;
SELECT status, count(*), min(refusal ->> 'trouble') AS trouble FROM llmquota_pick_many('m', 'probe', 5, exclude => '{b}') GROUP BY status ORDER BY status;
SELECT count(llmquota_clear()) > 0;
CALL clear();

-- Sets: fewest calls in flight first, then the one that was given first
CREATE FUNCTION orgs(VARIADIC runs text[]) RETURNS text[] LANGUAGE sql AS $$
	SELECT array_agg(split_part(r, ' ', 1) ORDER BY o, n) FROM unnest(runs) WITH ORDINALITY u (r, o), generate_series(1, split_part(r, ' ', 2)::int) n
$$;
CREATE FUNCTION served(orgs text[], route text DEFAULT 'm') RETURNS TABLE (org text, granted bigint, refused bigint, places text, why text) LANGUAGE sql AS $$
	SELECT orgs[place], count(*) FILTER (WHERE status = 'granted'), count(*) FILTER (WHERE status <> 'granted'),
		   string_agg(place::text, ' ' ORDER BY place) FILTER (WHERE status = 'granted'), min(status) FILTER (WHERE status <> 'granted')
	  FROM llmquota_pick_set(route, orgs) GROUP BY 1 ORDER BY min(place)
$$;
SELECT * FROM served(orgs('x 3', 'y 12', 'x 2'));
CALL clear();
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('global', '', 'concurrency', 7);
SELECT * FROM served(orgs('x 10', 'y 2', 'z 5'));
SELECT * FROM served(orgs('z 1', 'x 1'));
CALL clear();
-- what an org cannot have goes to the others
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('global', '', 'concurrency', 20), ('org', 'x', 'concurrency', 3);
SELECT * FROM served(orgs('x 10', 'y 30', 'z 30'));
CALL clear();
-- keys with little room each
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('key', '*', 'concurrency', 4);
SELECT * FROM served(orgs('x 30', 'y 30', 'z 30'));
SELECT key, count(*) FROM llmquota.lease GROUP BY key ORDER BY key;
CALL clear();
-- calls in flight count where a quota counts them, one that only observes, too
INSERT INTO llmquota.quota (scope, subject, metric, amount, mode) VALUES ('org', '*', 'concurrency', 1, 'observe'), ('global', '', 'concurrency', 12, 'enforce');
SELECT count(*) FROM llmquota_pick_many('m', 'x', 4);
SELECT * FROM served(orgs('x 10', 'y 10'));
CALL clear();
-- relative to weights
INSERT INTO llmquota.org (org, weight) VALUES ('heavy', 3);
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('global', '', 'concurrency', 8);
SELECT * FROM served(orgs('x 10', 'heavy 10'));
CALL clear();
-- budgets, each its own
INSERT INTO llmquota.budget (subject, amount) VALUES ('x', 100), ('y', 50);
SELECT orgs[place] AS org, status, model, count(*) FROM orgs('x 30', 'y 30', 'z 2') orgs,
	   llmquota_pick_set('large', orgs, array_fill(1::bigint, ARRAY[62])) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
CALL clear();

-- each call with what is its own
CREATE TABLE job (id int, org text, input bigint, output bigint, session text, prompt text, max_cost numeric);
INSERT INTO job VALUES (1, 'x', 10, 1, 's1', NULL, NULL), (2, 'y', 20, 2, 's2', NULL, NULL), (3, 'x', NULL, NULL, NULL, 'a prompt of some words', 3),
	(4, 'x', 40, 4, 's4', NULL, 0), (5, 'y', 2000, 5, NULL, NULL, NULL), (6, 'y', 60, 6, NULL, NULL, NULL);
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'y', 'input_tokens', 1000, '1 hour');
INSERT INTO llmquota.budget (subject, amount) VALUES ('*', 1000000);
SELECT j.id[p.place], p.status, l.org, l.reserved_input, l.reserved_output = p.max_output_tokens AS output, l.session
  FROM (SELECT array_agg(id ORDER BY id) AS id, array_agg(org ORDER BY id) AS org, array_agg(input ORDER BY id) AS input, array_agg(output ORDER BY id) AS output,
			   array_agg(session ORDER BY id) AS session, array_agg(prompt ORDER BY id) AS prompt, array_agg(max_cost ORDER BY id) AS max_cost FROM job) j,
	   llmquota_pick_set('m', j.org, j.input, j.output, sessions => j.session, prompts => j.prompt, max_costs => j.max_cost) p
  LEFT JOIN llmquota.lease l USING (lease) ORDER BY 1;
SELECT subject, used FROM llmquota.budget_window ORDER BY subject;
SELECT metric, subject, used FROM llmquota.meter_window;
CALL clear();
-- sessions keep their keys
INSERT INTO llmquota.route (route, step, model) VALUES ('sticky', 1, 'm');
INSERT INTO llmquota.route_option (route, strategy) VALUES ('sticky', 'sticky');
WITH s AS (SELECT array_agg('s' || n % 7 ORDER BY n) AS s FROM generate_series(1, 70) n),
	p AS (SELECT s.s[place] AS session, key FROM s, llmquota_pick_set('sticky', array_fill('x'::text, ARRAY[70]), sessions => s.s))
SELECT count(DISTINCT session) AS sessions, count(DISTINCT (session, key)) AS homes, count(DISTINCT key) > 1 AS spread FROM p;
CALL clear();
-- no more than the caller can use: what an org cannot have goes to the others, and nobody asks for the rest
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', 'x', 'concurrency', 2);
SELECT orgs[place] AS org, status, count(*) FROM orgs('x 10', 'y 10', 'z 3') orgs, llmquota_pick_set('m', orgs, at_most => 11) GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) FROM llmquota_pick_set('m', '{x,y}', at_most => 0);
CALL clear();
-- requests that have one call each, told by their ids: who has it already keeps nobody
SELECT orgs, place, status, attempt FROM (VALUES (ARRAY['x', 'y', 'x', 'x', 'y'])) o (orgs),
	   llmquota_pick_set('m', orgs, request_ids => ARRAY['r1', 'r1', 'r1', NULL, 'r2']) ORDER BY place;
SELECT place, status FROM llmquota_pick_set('m', '{y,y,y}', request_ids => '{r1,r2,r3}') ORDER BY place;
SELECT org, request_id FROM llmquota.lease ORDER BY org, request_id;
CALL clear();
-- nothing to do
SELECT count(*) FROM llmquota_pick_set('m', NULL);
SELECT count(*) FROM llmquota_pick_set('m', '{}', '{}');
-- an org that is disabled, and one without any key
INSERT INTO llmquota.org (org, enabled, shared_keys) VALUES ('off', false, true), ('none', true, false);
SELECT * FROM served(orgs('off 2', 'x 1', 'none 2'));
CALL clear();

-- wrong calls, before anything is asked for
SELECT llmquota_pick_many('m', 'x', 2);
SELECT (llmquota_pick_set('m', '{x}')).*;
SELECT * FROM llmquota_pick_many('m', NULL, 2);
SELECT * FROM llmquota_pick_many('m', 'x', NULL);
SELECT * FROM llmquota_pick_many('m', 'x', -1);
SELECT * FROM llmquota_pick_many('m', 'x', 10001);
SELECT * FROM llmquota_pick_many('nowhere', 'x', 2);
SELECT * FROM llmquota_pick_many('m', 'x', 2, -1);
SELECT * FROM llmquota_pick_set('m', '{x,NULL}');
SELECT * FROM llmquota_pick_set('m', '{x,y}', '{1}');
SELECT * FROM llmquota_pick_set('m', '{x,y}', '{1,-1}');
SELECT * FROM llmquota_pick_set('m', NULL, '{1}');
SELECT * FROM llmquota_pick_set('m', array_fill('x'::text, ARRAY[10001]));
SELECT * FROM llmquota_pick_set('m', '{x,y}', sessions => ARRAY['s', repeat('s', 65)]);
SELECT * FROM llmquota_pick_set('m', '{x,y}', at_most => -1);
BEGIN READ ONLY;
SELECT * FROM llmquota_pick_many('m', 'x', 2);
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM llmquota_pick_set('m', '{x}');
ROLLBACK;
SELECT count(*) FROM llmquota.lease;
-- a role of one org asks for no other's calls
CREATE ROLE regress_llmquota_batch;
GRANT USAGE ON SCHEMA public TO regress_llmquota_batch;
SELECT llmquota_grant('regress_llmquota_batch', 'app', 'x');
SET ROLE regress_llmquota_batch;
SELECT status, count(*) FROM llmquota_pick_many('m', 'x', 2) GROUP BY status;
SELECT status, count(*) FROM llmquota_pick_set('m', '{x,x}') GROUP BY status;
SELECT status FROM llmquota_pick_many('m', 'y', 2);
SELECT status FROM llmquota_pick_set('m', '{x,y}');
RESET ROLE;
SELECT llmquota_revoke('regress_llmquota_batch', 'app');
REVOKE USAGE ON SCHEMA public FROM regress_llmquota_batch;
DROP ROLE regress_llmquota_batch;

-- what was granted stays granted when its transaction is rolled back
CALL clear();
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('global', '', 'concurrency', 100);
BEGIN;
SELECT count(*) FROM llmquota_pick_many('m', 'x', 12);
SELECT count(*) FROM llmquota_pick_set('m', orgs('x 5', 'y 5'));
ROLLBACK;
SELECT used FROM llmquota.meter_window;
CALL clear();
SELECT * FROM llmquota_verify();
