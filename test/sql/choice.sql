-- Which key a pick takes: the least used one of the lowest tier that is not excluded.
\set SHOW_CONTEXT never
\pset null -

-- a request_id only tells calls apart here
UPDATE llmquota.setting SET value = '0' WHERE name = 'idempotency_window';
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('n', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('a-1', 'a'), ('b-1', 'b');
-- Makes picks, one after the other, and says how many each key got, by tens and more if need be.
CREATE FUNCTION picks(times int, VARIADIC exclude text[] DEFAULT '{}') RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(got, ' ' ORDER BY got) FROM (
		SELECT format('%s:%s', COALESCE(p.key, p.status), count(*)) AS got
		  FROM generate_series(1, times) n, llmquota_pick('m', request_id => n::text, exclude => exclude) p
		 GROUP BY COALESCE(p.key, p.status)) g
$$;
CREATE FUNCTION release_all() RETURNS bigint LANGUAGE sql AS $$ SELECT count(llmquota_release(lease)) FROM llmquota.lease $$;

-- the most headroom after the request: keys of equal size share evenly, others by their size
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
	VALUES ('key', 'a-1', 'requests', 20, '1 hour'), ('key', 'b-1', 'requests', 20, '1 hour');
SELECT picks(10), picks(10), picks(20), picks(2) AS full;
SELECT release_all();
UPDATE llmquota.quota SET amount = 60 WHERE subject = 'a-1';
SELECT picks(40);
SELECT release_all();

-- over the tightest window: b-1 has more requests left than a-1, but fewer tokens for a large request
UPDATE llmquota.quota SET amount = CASE subject WHEN 'a-1' THEN 20 ELSE 200 END;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('key', 'b-1', 'tokens', 5000, '1 hour');
SELECT key, llmquota_release(lease) FROM llmquota_pick('m', input_tokens => 100, max_output_tokens => 0);
SELECT key, llmquota_release(lease) FROM llmquota_pick('m', input_tokens => 3000, max_output_tokens => 0);
-- of the account's windows, too
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('account', 'b', 'tokens', 1000, '1 hour');
SELECT key, llmquota_release(lease) FROM llmquota_pick('m', input_tokens => 100, max_output_tokens => 0);
-- a full account excludes all its keys, a full key leaves its account's others
INSERT INTO llmquota.key (key, account) VALUES ('a-2', 'a'), ('a-3', 'a');
DELETE FROM llmquota.quota;
INSERT INTO llmquota.quota (scope, subject, metric, amount)
	VALUES ('account', 'a', 'concurrency', 2), ('key', 'a-1', 'concurrency', 1);
SELECT picks(1, 'b-1', 'a-2', 'a-3') AS key, picks(1, 'b-1', 'a-2', 'a-3') AS key_full,
	picks(1, 'b-1', 'a-3') AS another,
	   picks(1, 'b-1') AS account_full, picks(1) AS another_account;
DELETE FROM llmquota.quota;
SELECT release_all() > 0 AS released;

-- a limit that only observes does not make a key look used
INSERT INTO llmquota.quota (scope, subject, metric, amount, per, mode)
	VALUES ('key', 'a-1', 'requests', 1, '1 hour', 'observe');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
	VALUES ('key', 'a-2', 'requests', 1000, '1 hour'), ('key', 'b-1', 'requests', 1000, '1 hour');
SELECT picks(10, 'a-3');
DELETE FROM llmquota.quota;

-- tiers: keys of a higher number are used when none of a lower one is free
UPDATE llmquota.key SET priority = 1 WHERE key = 'a-2';
UPDATE llmquota.key SET priority = -5 WHERE key = 'b-1';
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('key', '*', 'concurrency', 3);
SELECT picks(1), picks(2), picks(1, 'a-3'), picks(5), picks(1), picks(2), picks(1);
SELECT release_all() > 0 AS released;
-- a tier that is excluded is passed over
SELECT picks(1, 'b-1', 'a-1', 'a-3');
SELECT release_all();
UPDATE llmquota.key SET priority = 0;

-- exclude: keys, accounts and models by name; unknown names and NULLs are ignored
SELECT picks(4, 'a-1', 'b') AS keys, picks(2, 'a') AS account, picks(2, 'm') AS model, picks(2, 'a', 'b-1') AS all_keys;
SELECT picks(3, 'a', 'nobody', '', NULL, 'A', 'b-', 'n') AS unknown;
SELECT release_all() > 0 AS released;
DELETE FROM llmquota.quota;

-- more keys than are compared at once: each that has room is found, however few, and only then is refused
INSERT INTO llmquota.key (key, account) SELECT 'k' || to_char(n, 'FM000'), 'b' FROM generate_series(1, 60) n;
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('key', '*', 'concurrency', 1);
SELECT count(DISTINCT p.key) AS keys, count(*) FILTER (WHERE p.status = 'granted') AS granted
  FROM generate_series(1, 64) n, llmquota_pick('m', request_id => n::text) p;
SELECT status FROM llmquota_pick('m');
-- one comes free, and is found soon: the full ones are remembered as such for a second at most
SELECT llmquota_release(lease) FROM llmquota.lease WHERE key = 'k017';
DO $$
DECLARE
	pause CONSTANT double precision := 0.01;
BEGIN
	FOR attempt IN 1 .. 10000 LOOP
		EXIT WHEN EXISTS (SELECT FROM llmquota_pick('m') WHERE key = 'k017');
		ASSERT clock_timestamp() < statement_timestamp() + interval '20 s', 'the free key was not found';
		PERFORM pg_sleep(pause);
	END LOOP;
END $$;
SELECT count(*) AS live, count(DISTINCT key) AS keys FROM llmquota.lease;
-- spread over all of them when there is room for more than one pick each
SELECT release_all();
UPDATE llmquota.quota SET amount = 100;
SELECT sum(picks) AS picks, count(*) AS keys, max(picks) < 30 AS spread FROM (
	SELECT p.key, count(*) AS picks FROM generate_series(1, 640) n, llmquota_pick('m', request_id => n::text) p
		GROUP BY p.key) s;
