-- Which key and which model a pick gets by each strategy of llmquota.route_option. Where chance has a say, what is shown
-- holds whatever it says.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = warning;

-- a request_id only tells calls apart here
UPDATE llmquota.setting SET value = '0' WHERE name = 'idempotency_window';
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p'), ('c', 'p');
INSERT INTO llmquota.key (key, account, weight) VALUES ('a-1', 'a', 3), ('b-1', 'b', 2), ('b-2', 'b', 2), ('c-1', 'c', 0);
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('n', 'p'), ('o', 'p');
INSERT INTO llmquota.route_option (route) VALUES ('m'), ('r');
CREATE FUNCTION strategy(strategy text, params jsonb DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
	UPDATE llmquota.route_option o SET strategy = $1, params = $2
$$;
-- Picks so often and says how often each key, or model, was chosen; the leases are given back.
CREATE FUNCTION picks(n int, route text DEFAULT 'm', session text DEFAULT NULL, org text DEFAULT '') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	chosen text[] := '{}';
	p record;
BEGIN
	FOR i IN 1 .. n LOOP
		SELECT * INTO p FROM llmquota_pick(route, org, session => session);
		chosen := chosen || CASE WHEN route = 'r' THEN p.model ELSE coalesce(p.key, p.status) END;
		PERFORM llmquota_release(p.lease) WHERE p.lease IS NOT NULL;
	END LOOP;
	RETURN (SELECT string_agg(c || ' ' || times, ', ' ORDER BY c) FROM (SELECT c, count(*) AS times FROM unnest(chosen) c GROUP BY c) s);
END $$;
-- The names that a text of picks() has
CREATE FUNCTION names(chosen text) RETURNS text LANGUAGE sql AS $$ SELECT regexp_replace(chosen, ' \d+', '', 'g') $$;

--
-- cheapest: the configured order, which is that of weights, then that of names
--
SELECT strategy('cheapest');
SELECT picks(5);
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('key', '*', 'concurrency', 2);
SELECT p.key, count(*) FROM generate_series(1, 9) n, llmquota_pick('m', request_id => n::text) p GROUP BY 1 ORDER BY 1;
SELECT count(llmquota_release(lease)) FROM llmquota.lease;

--
-- round_robin: each in its turn, and what is full is passed over
--
SELECT strategy('round_robin');
SELECT picks(4), picks(400);
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('key', 'b-1', 'concurrency', 0);
SELECT picks(400);
DELETE FROM llmquota.quota;
-- each tier takes its turns for itself, when it is its
UPDATE llmquota.key SET priority = 1 WHERE key LIKE 'b%';
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('key', 'a-1', 'concurrency', 0), ('account', 'c', 'concurrency', 0);
SELECT picks(100);
DELETE FROM llmquota.quota;
SELECT picks(100);
UPDATE llmquota.key SET priority = 0;
-- an org that has accounts of its own takes turns for itself
INSERT INTO llmquota.account (account, provider, org) VALUES ('own', 'p', 'clinic-7');
INSERT INTO llmquota.key (key, account) VALUES ('own-1', 'own'), ('own-2', 'own');
DO $$ BEGIN
	FOR i IN 1 .. 20 LOOP
		ASSERT picks(1, 'm', NULL, 'clinic-7') = CASE i % 2 WHEN 1 THEN 'own-1 1' ELSE 'own-2 1' END, 'own keys do not take turns';
		ASSERT picks(4) = 'a-1 1, b-1 1, b-2 1, c-1 1', 'shared keys do not take turns';
	END LOOP;
END $$;
DELETE FROM llmquota.key WHERE account = 'own';

-- a pick that its org's limit refuses takes no turn: else every second turn would be that of the same key
UPDATE llmquota.key SET priority = 1 WHERE key NOT IN ('a-1', 'b-1');
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', 'full', 'concurrency', 0);
SELECT string_agg(DISTINCT status, ', ') AS refused, abs(count(*) FILTER (WHERE key = 'a-1 1') - 50) <= 2 AS even, count(*)
  FROM (SELECT (SELECT p.status FROM llmquota_pick('m', 'full', request_id => n::text) p) AS status, picks(1) AS key FROM generate_series(1, 100) n) s;
DELETE FROM llmquota.quota;
UPDATE llmquota.key SET priority = 0;

--
-- weighted: of weight 0 only when no other admits
--
SELECT strategy('weighted');
SELECT names(picks(200));
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('account', 'a', 'concurrency', 0);
SELECT names(picks(100));
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('account', 'b', 'concurrency', 0);
SELECT picks(10);
DELETE FROM llmquota.quota;
UPDATE llmquota.key SET weight = 0;
SELECT names(picks(10)) <> '' AS all_are_0;
UPDATE llmquota.key SET weight = 1;

--
-- sticky: a session keeps its key; it yields and comes back
--
SELECT strategy('sticky', '{"session_ttl_ms": 0}');
CREATE TABLE home AS SELECT n, names(picks(1, 'm', 's' || n)) AS key FROM generate_series(1, 200) n;
SELECT count(DISTINCT key) AS keys FROM home;
SELECT count(*) AS moved FROM home WHERE picks(2, 'm', 's' || n) <> key || ' 2';
-- by accounts, and only then by keys: b has two of four keys, and not half of the sessions
SELECT account, count(*) BETWEEN 40 AND 95 AS a_third FROM home JOIN llmquota.key USING (key) GROUP BY account ORDER BY account;
-- full: its sessions go elsewhere, those of b-1 to the other key of the account; others stay
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('key', 'b-1', 'concurrency', 0);
SELECT DISTINCT key, names(picks(1, 'm', 's' || n)) AS instead FROM home WHERE key = 'b-1';
SELECT count(*) AS moved FROM home WHERE key <> 'b-1' AND picks(1, 'm', 's' || n) <> key || ' 1';
DELETE FROM llmquota.quota;
SELECT count(*) AS moved FROM home WHERE picks(1, 'm', 's' || n) <> key || ' 1';
-- disabled, its account too
UPDATE llmquota.key SET enabled = false WHERE key = 'b-1';
SELECT count(*) AS moved FROM home WHERE key <> 'b-1' AND picks(1, 'm', 's' || n) <> key || ' 1';
UPDATE llmquota.key SET enabled = true;
UPDATE llmquota.account SET enabled = false WHERE account = 'b';
SELECT count(*) FILTER (WHERE key LIKE 'b%') > 0 AS of_b, count(*) FILTER (WHERE key NOT LIKE 'b%' AND now_at <> key || ' 1') AS others_moved,
	bool_and(now_at NOT LIKE 'b%') AS elsewhere
  FROM (SELECT key, picks(1, 'm', 's' || n) AS now_at FROM home) h;
UPDATE llmquota.account SET enabled = true;
SELECT count(*) AS moved FROM home WHERE picks(1, 'm', 's' || n) <> key || ' 1';
-- cooled: the session of a call that was refused by the provider
SELECT r.status FROM (SELECT n FROM home WHERE key = 'a-1' LIMIT 1) h, llmquota_pick('m', session => 's' || n) p,
	llmquota_record(p.lease, http_status => 429, headers => '{"retry-after": "3600"}') r;
SELECT count(*) FILTER (WHERE now_at = 'a-1 1') AS at_a, count(*) FILTER (WHERE key <> 'a-1' AND now_at <> key || ' 1') AS others_moved
  FROM (SELECT key, picks(1, 'm', 's' || n) AS now_at FROM home) h;
-- a rename moves nobody
SELECT llmquota_rename('key', 'b-2', 'b-3'), llmquota_rename('account', 'b', 'd');
UPDATE home SET key = 'b-3' WHERE key = 'b-2';
SELECT count(*) AS moved FROM home WHERE key <> 'a-1' AND picks(1, 'm', 's' || n) <> key || ' 1';
-- without a session: the least used
SELECT names(picks(100));
-- for so long: after its time to live a session may be elsewhere
SELECT strategy('sticky', '{"session_ttl_ms": 1000}');
DO $$
DECLARE
	pause CONSTANT double precision := 0.05;
	seen text[] := '{}';
BEGIN
	WHILE cardinality(seen) < 2 LOOP
		seen := ARRAY(SELECT DISTINCT unnest(seen || picks(1, 'm', 's')));
		ASSERT clock_timestamp() < statement_timestamp() + interval '60 s', 'a session never moves';
		PERFORM pg_sleep(pause);
	END LOOP;
END $$;

--
-- lowest_latency: what is much slower is left alone, also when its first call was
--
INSERT INTO llmquota.model (model, provider) VALUES ('l', 'p');
INSERT INTO llmquota.route_option (route, strategy, params) VALUES ('l', 'lowest_latency', '{"explore": 0}');
-- One call of this duration, with a key that is not among those excluded.
CREATE FUNCTION call(milliseconds int, VARIADIC exclude text[] DEFAULT '{}') RETURNS text LANGUAGE sql AS $$
	SELECT p.account || ' ' || r.status FROM llmquota_pick('l', exclude => exclude) p, llmquota_record(p.lease, latency_ms => milliseconds) r
$$;
SELECT call(10000, 'c', 'd'), call(200, 'a', 'c'), call(220, 'a', 'd');
DO $$ BEGIN
	WHILE picks(100, 'l') LIKE '%a-1%' LOOP
		ASSERT clock_timestamp() < statement_timestamp() + interval '60 s', 'a slow account is not left alone';
	END LOOP;
END $$;
SELECT names(picks(200, 'l'));
-- full: the fastest of the others
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('account', 'd', 'concurrency', 0), ('account', 'c', 'concurrency', 0);
SELECT names(picks(20, 'l'));
DELETE FROM llmquota.quota;
-- a slow start is forgiven: a has become four times as fast as the others
UPDATE llmquota.route_option SET params = NULL WHERE route = 'l';
DO $$
DECLARE
	of_a int := 0;				-- of about the last hundred
	p record;
BEGIN
	FOR i IN 1 .. 50000 LOOP
		SELECT * INTO p FROM llmquota_pick('l');
		PERFORM llmquota_record(p.lease, latency_ms => CASE p.account WHEN 'a' THEN 50 ELSE 200 END);
		COMMIT;
		of_a := of_a * 0.99 + CASE p.account WHEN 'a' THEN 100 ELSE 0 END;
		EXIT WHEN of_a > 8000;
	END LOOP;
	ASSERT of_a > 8000, 'a slow start is not forgiven';
END $$;

--
-- Several models in a step, on other models than before: m is cooling at one account
--
INSERT INTO llmquota.route (route, step, model, weight) VALUES ('r', 1, 'm', 0), ('r', 1, 'n', 2), ('r', 1, 'o', 1), ('r', 2, 'm', 1);
SELECT strategy('least_used'), names(picks(100, 'r'));
SELECT strategy('weighted'), names(picks(100, 'r'));
SELECT strategy('cheapest'), picks(10, 'r');
SELECT strategy('round_robin'), picks(3, 'r'), picks(300, 'r');
SELECT strategy('sticky', '{"session_ttl_ms": 0}');
CREATE TABLE model_home AS SELECT n, names(picks(1, 'r', 's' || n)) AS model FROM generate_series(1, 200) n;
SELECT model, count(*) BETWEEN CASE model WHEN 'n' THEN 100 ELSE 40 END AND CASE model WHEN 'n' THEN 160 ELSE 100 END AS share FROM model_home GROUP BY 1 ORDER BY 1;
SELECT count(*) AS moved FROM model_home WHERE picks(2, 'r', 's' || n) <> model || ' 2';
-- by latency, whatever the weights
INSERT INTO llmquota.model (model, provider) VALUES ('slow', 'p');
INSERT INTO llmquota.route_option (route, strategy, params) VALUES ('mixed', 'lowest_latency', '{"explore": 0}');
INSERT INTO llmquota.route (route, step, model, weight) VALUES ('mixed', 1, 'slow', 100), ('mixed', 1, 'l', 1);
SELECT count(*) AS calls FROM llmquota.key k, llmquota_pick('slow', exclude => ARRAY(SELECT o.key FROM llmquota.key o WHERE o.key <> k.key)) p,
	llmquota_record(p.lease, latency_ms => 20000) r;
DO $$ BEGIN
	WHILE EXISTS (SELECT FROM generate_series(1, 100) n, llmquota_pick('mixed', request_id => n::text) WHERE model = 'slow') LOOP
		ASSERT clock_timestamp() < statement_timestamp() + interval '60 s', 'a slow model is not left alone';
	END LOOP;
END $$;
SELECT DISTINCT p.model FROM generate_series(1, 100) n, llmquota_pick('mixed', request_id => n::text) p;
-- a step is left only when all its candidates refuse
INSERT INTO llmquota.quota (scope, subject, model, metric, amount) VALUES ('global', '', 'n', 'concurrency', 0);
SELECT picks(20, 'r');
INSERT INTO llmquota.quota (scope, subject, model, metric, amount) VALUES ('global', '', 'o', 'concurrency', 0);
SELECT picks(20, 'r');
DELETE FROM llmquota.quota;
UPDATE llmquota.model SET enabled = false WHERE model = 'n';
SELECT strategy('round_robin'), picks(20, 'r');
UPDATE llmquota.model SET enabled = true;

-- options for one org, with the common steps; and common ones for an org's own steps
UPDATE llmquota.route_option SET strategy = 'cheapest' WHERE route = 'r';
INSERT INTO llmquota.route_option (route, org, strategy) VALUES ('r', 'clinic-7', 'round_robin'), ('n', 'clinic-7', 'cheapest'), ('nowhere', 'clinic-7', 'cheapest');
INSERT INTO llmquota.route (route, org, step, model, weight) VALUES ('r', 'clinic-8', 1, 'o', 2), ('r', 'clinic-8', 1, 'n', 1);
SELECT picks(9, 'r') AS common, picks(9, 'r', NULL, 'clinic-7') AS own_options, picks(9, 'r', NULL, 'clinic-8') AS own_steps;
SELECT names(picks(100, 'n')) <> 'a-1' AS common, picks(9, 'n', NULL, 'clinic-7') AS own_options;

--
-- More keys than are compared at once
--
INSERT INTO llmquota.key (key, account, weight, priority) SELECT 'k' || to_char(n, 'FM00'), 'c', CASE WHEN n > 30 THEN 0 ELSE 1 END, -1 FROM generate_series(1, 40) n;
DELETE FROM llmquota.route_option;
INSERT INTO llmquota.model (model, provider) VALUES ('many', 'p');
INSERT INTO llmquota.route_option (route) VALUES ('many');
UPDATE llmquota.key SET models = '{many}' WHERE key LIKE 'k%';
UPDATE llmquota.key SET models = '{m}' WHERE key NOT LIKE 'k%';
SELECT strategy('round_robin');
SELECT count(*) AS keys, min(times), max(times)
  FROM (SELECT p.key, count(*) AS times FROM generate_series(1, 400) n, llmquota_pick('many', request_id => n::text) p GROUP BY 1) s;
SELECT strategy('cheapest'), picks(3, 'many');
SELECT strategy('weighted'), picks(1000, 'many') LIKE 'k01%, k30 %' AS positive_weights;
SELECT strategy('sticky', '{"session_ttl_ms": 0}');
SELECT count(DISTINCT names(picks(1, 'many', 's' || n))) > 20 AS spread, bool_and(picks(1, 'many', 's' || n) = picks(1, 'many', 's' || n)) AS stays
  FROM generate_series(1, 200) n;
SELECT strategy('lowest_latency'), cardinality(string_to_array(names(picks(1000, 'many')), ', ')) AS keys;
-- each that has room is found by each strategy, and only then is a pick refused; one that comes free is found
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('key', '*', 'concurrency', 1);
CREATE FUNCTION all_of_many(strategy text) RETURNS TABLE (keys bigint, refused text, freed text) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM llmquota_release(lease) FROM llmquota.lease;
	PERFORM strategy(strategy);
	SELECT count(DISTINCT p.key) INTO keys FROM generate_series(1, 40) n, llmquota_pick('many', session => n::text) p;
	SELECT p.status INTO refused FROM llmquota_pick('many') p;
	PERFORM llmquota_release(l.lease) FROM llmquota.lease l WHERE l.key = 'k17';
	LOOP
		SELECT p.key INTO freed FROM llmquota_pick('many', session => 'late') p;
		EXIT WHEN freed IS NOT NULL;
		ASSERT clock_timestamp() < statement_timestamp() + interval '60 s', 'the free key was not found';
	END LOOP;
	RETURN NEXT;
END $$;
SELECT s.strategy, a.* FROM unnest('{least_used,weighted,round_robin,lowest_latency,cheapest,sticky}'::text[]) s (strategy), all_of_many(s.strategy) a;
