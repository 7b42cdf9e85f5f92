-- What calls have shown of models, accounts, providers and routes goes when these were deleted and nobody has had to do with
-- them for a day, which in testing builds can be a quarter of a second. What is configured keeps it, and what comes again
-- under a former name begins anew.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = warning;

-- a request_id only tells calls apart here
UPDATE llmquota.setting SET value = '0' WHERE name = 'idempotency_window';
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai'), ('q', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p'), ('c', 'q');
INSERT INTO llmquota.key (key, account) VALUES ('a1', 'a'), ('b1', 'b'), ('c1', 'c');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('n', 'p'), ('o', 'q');
INSERT INTO llmquota.route (route, step, model) VALUES ('r', 1, 'm'), ('r', 1, 'n'), ('s', 1, 'm'), ('s', 1, 'n');
INSERT INTO llmquota.route_option (route, strategy) VALUES ('m', 'round_robin'), ('r', 'round_robin'), ('s', 'round_robin');
-- Cells that count, by the names that they belong to; boards and events have none.
CREATE VIEW known AS
SELECT h.kind, s.name AS subject, p.name AS part
  FROM llmquota.health h LEFT JOIN llmquota.name s ON s.id = h.subject LEFT JOIN llmquota.name p ON p.id = h.part
 WHERE (get_byte(h.state, 6) & 3) = 1 AND h.kind NOT IN ('b', 'e') ORDER BY h.kind, s.name COLLATE "C", p.name COLLATE "C";
CREATE VIEW dead AS SELECT count(*) FROM llmquota.health WHERE (get_byte(state, 6) & 3) <> 1;
-- Calls a route with each of its keys, and through each of its models.
CREATE FUNCTION use(route text) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(DISTINCT r.status, ' ') FROM generate_series(1, 4) n, llmquota_pick($1, request_id => n::text) p, llmquota_record(p.lease, 100, 10, latency_ms => 100) r
$$;
-- Maintains until no name of these is left that counts, and once more.
CREATE PROCEDURE maintain_until_gone(VARIADIC gone text[]) LANGUAGE plpgsql AS $$
DECLARE
	pause CONSTANT double precision := 0.01;
BEGIN
	SET llmquota.inject = 'short-day';
	WHILE EXISTS (SELECT FROM llmquota.name WHERE name = ANY (gone) AND (get_byte(state, 6) & 3) = 1) LOOP
		ASSERT clock_timestamp() < statement_timestamp() + interval '60 s', 'a name is not retired';
		PERFORM FROM llmquota_maintain();
		PERFORM pg_sleep(pause);
	END LOOP;
	PERFORM FROM llmquota_maintain();
	RESET llmquota.inject;
END $$;

SELECT use(route) FROM unnest('{m,n,o,r,s}'::text[]) route;
SELECT * FROM known;

-- a model and a route are deleted; of what is configured nothing goes
DELETE FROM llmquota.route;
DELETE FROM llmquota.model WHERE model = 'n';
CALL maintain_until_gone('n', 'r', 's');
SELECT * FROM known;

-- an account, a provider, and what belongs to them
DELETE FROM llmquota.key WHERE key IN ('b1', 'c1');
DELETE FROM llmquota.model WHERE model = 'o';
DELETE FROM llmquota.account WHERE account IN ('b', 'c');
DELETE FROM llmquota.provider WHERE provider = 'q';
CALL maintain_until_gone('b', 'c', 'q', 'o');
SELECT * FROM known;

-- what comes again is known anew, once, and its calls are counted, by a session that knew it before
INSERT INTO llmquota.model (model, provider) VALUES ('n', 'p');
SELECT use('n'), use('n');
SELECT * FROM known;

-- a maintenance that is rolled back has retired all the same
DELETE FROM llmquota.model WHERE model = 'n';
BEGIN;
CALL maintain_until_gone('n');
ROLLBACK;
SELECT * FROM known;

-- rows are deleted in the end, but that of the last id
CALL maintain_until_gone('n');
SELECT * FROM dead;
SELECT use('m');
SELECT * FROM llmquota_verify();
