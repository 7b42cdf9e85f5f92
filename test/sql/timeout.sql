-- How long a caller is told to wait for an answer: by the attempt, by how long calls take, within deadlines. And no lease
-- ends before its request's deadline unless that is asked for.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('a-1', 'a'), ('a-2', 'a'), ('b-1', 'b'), ('b-2', 'b');
INSERT INTO llmquota.model (model, provider)
	SELECT name, 'p' FROM unnest('{fast,slow,uneven,silent,given_up,failing,retried,late}'::text[]) name;
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('account', '*', 'concurrency', 1000);
INSERT INTO llmquota.route_option (route, deadline_ms) SELECT model, 600000 FROM llmquota.model;

-- one call of account a that ends so
CREATE FUNCTION call(route text, latency_ms int, status int DEFAULT 200) RETURNS text LANGUAGE sql AS $$
	SELECT r.status FROM llmquota_pick(route, exclude => '{b}') p,
		llmquota_record(p.lease, 1, 1, http_status => call.status, latency_ms => call.latency_ms) r
$$;
-- what the next pick of it is told
CREATE FUNCTION timeout_ms(route text) RETURNS int LANGUAGE sql AS $$
	SELECT timeout_ms FROM llmquota_pick(route, exclude => '{b}')
$$;

-- cold, also while the first call is under way; at each account by itself
SELECT timeout_ms('fast'), timeout_ms('fast') AS again;
-- what is fast gets the least, what is slow its mean and four deviations, which are half of the first call
SELECT call('fast', 300), call('slow', 20000), call('silent', NULL), call('failing', 20000, 500);
SELECT timeout_ms('fast') AS fast, timeout_ms('slow') AS slow, timeout_ms('silent') AS silent, timeout_ms('failing') AS failing;
SELECT timeout_ms AS elsewhere FROM llmquota_pick('slow', exclude => '{a}');
-- the second call weighs a half: a mean of 16 seconds, and 9 off (a backend may go by what it has read for a second)
SELECT call('uneven', 20000), call('uneven', 12000);
DO $$
DECLARE
	pause CONSTANT double precision := 0.02;
BEGIN
	FOR i IN 1 .. 500 LOOP
		EXIT WHEN timeout_ms('uneven') < 60000;
		PERFORM pg_sleep(pause);
	END LOOP;
END
$$;
SELECT timeout_ms('uneven');
-- a call that was given up would have taken longer: the next ones get more time, though none was ever answered
SELECT call('given_up', 40000, 504) FROM generate_series(1, 2);
SELECT llmquota_clear() >= 0 AS cleared;
DO $$
DECLARE
	pause CONSTANT double precision := 0.02;
BEGIN
	FOR i IN 1 .. 500 LOOP
		EXIT WHEN timeout_ms('given_up') > 16000;
		PERFORM pg_sleep(pause);
	END LOOP;
END
$$;
SELECT timeout_ms('given_up');

-- later attempts get 10 seconds
SELECT call('retried', 300);
SELECT p.attempt, p.timeout_ms
  FROM llmquota_pick('retried', exclude => '{b}') r, llmquota_retry(r.lease, http_status => 401) p;
SELECT count(llmquota_enable(key)) AS enabled FROM llmquota.key;
-- none gets more than the request has left, nor than its lease lives
UPDATE llmquota.route_option SET deadline_ms = 12000 WHERE route IN ('slow', 'late');
SELECT timeout_ms('slow') AS slow, timeout_ms('late') AS late;
SELECT timeout_ms FROM llmquota_pick('slow', exclude => '{b}', ttl_ms => 3000);
SELECT timeout_ms FROM llmquota_pick('slow', exclude => '{b}', ttl_ms => 1);
SELECT p.attempt, p.timeout_ms BETWEEN 1 AND 11999 AS within
  FROM llmquota_pick('late', exclude => '{b}') r, llmquota_retry(r.lease, http_status => 401) p;
-- a refused pick is told none
SELECT status, timeout_ms FROM llmquota_pick('late', exclude => '{a,b}');

-- a lease lives as long as the setting says, or until its request's deadline if that is later; or as is asked for
UPDATE llmquota.setting SET value = '60000' WHERE name = 'lease_ttl';
SELECT expires_at - granted_at AS lives FROM llmquota_pick('slow', exclude => '{a}');
SELECT expires_at - granted_at AS lives FROM llmquota_pick('fast', exclude => '{a}');
SELECT expires_at - granted_at AS lives FROM llmquota_pick('fast', exclude => '{a}', ttl_ms => 1000);
SELECT p.expires_at - p.granted_at AS lives
  FROM llmquota_pick('fast', exclude => '{a}') r, llmquota_retry(r.lease, http_status => 401) p;

SELECT count(llmquota_release(lease)) > 0 AS released FROM llmquota.lease;
SELECT count(*) AS disagreements FROM llmquota_verify();
