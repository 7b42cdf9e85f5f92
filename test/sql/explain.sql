-- llmquota_explain says what a pick would find, and does nothing; llmquota.key_status says how keys are.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_llmquota_explain;
CREATE ROLE regress_llmquota_explain;
SET client_min_messages = warning;

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai'), ('q', 'anthropic');
INSERT INTO llmquota.account (account, provider, org) VALUES ('own', 'p', 'clinic-7'), ('a', 'p', NULL), ('b', 'p', NULL), ('c', 'q', NULL);
INSERT INTO llmquota.key (key, account, priority) VALUES ('own1', 'own', 0), ('a1', 'a', 0), ('a2', 'a', 0), ('b1', 'b', 0), ('b2', 'b', 1), ('c1', 'c', 0);
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('n', 'q'), ('unused', 'q');
INSERT INTO llmquota.route (route, step, model) VALUES ('r', 1, 'm'), ('r', 2, 'n');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES
	('account', 'a', 'requests', 10, '1 hour'), ('account', 'b', 'requests', 10, '1 hour'), ('key', 'own1', 'tokens', 1000, '1 hour');
SELECT llmquota_grant('regress_llmquota_explain', 'app', 'clinic-7');

-- the same arguments as a pick's
SELECT pg_get_function_arguments('llmquota_explain'::regproc) = pg_get_function_arguments('llmquota_pick'::regproc) AS same;

-- everything is free: own accounts first, then tiers, and in a tier who has most left
SELECT rank, step, model, priority, account, key, verdict, round(score, 2) AS score, scope, retry_at FROM llmquota_explain('r', 'clinic-7', 100, 100);
SELECT count(*) FROM llmquota_pick('r', exclude => '{own,a}') UNION ALL SELECT count(*) FROM llmquota_pick('r', exclude => '{own,a}');
SELECT rank, key, round(score, 2) AS score FROM llmquota_explain('m', 'clinic-8', 100, 100);
SELECT account FROM llmquota_pick('m', 'clinic-8', 100, 100);

-- one of every kind
CREATE PROCEDURE fail(key text, arguments text) LANGUAGE plpgsql AS $$
DECLARE
	picked uuid;
BEGIN
	SELECT lease INTO STRICT picked FROM llmquota_pick('r', 'clinic-7', exclude => ARRAY(SELECT k.key FROM llmquota.key k WHERE k.key <> fail.key));
	EXECUTE format('SELECT llmquota_record(%L, %s)', picked, arguments);
END $$;
CALL fail('c1', $$http_status => 429, headers => '{"retry-after": "3600"}'$$);
CALL fail('a1', 'http_status => 401');
SELECT llmquota_disable('b2', 'moved away'), llmquota_cool('key', 'a2', 3600000, reason => 'slow') IS NOT NULL AS cooled;
UPDATE llmquota.quota SET amount = 1 WHERE subject = 'b';
SELECT rank, step, key, verdict, round(score, 2) AS score, scope, subject, metric, period, amount, used, requested
  FROM llmquota_explain('r', 'clinic-7', 100, 1000, exclude => '{unknown}');
SELECT rank, key, verdict, retry_at > clock_timestamp() AS comes_back, since < clock_timestamp() AS since, failure, http_status, lease IS NOT NULL AS lease, reason
  FROM llmquota_explain('r', 'clinic-7', 100, 1000);
SELECT key, verdict FROM llmquota_explain('r', 'clinic-7', 100, 10, exclude => '{own,c1}');
SELECT status, refusal ->> 'scope' AS scope FROM llmquota_pick('r', 'clinic-7', 100, 1000);

-- who is no administrator sees no names of shared accounts and keys, and nobody else's leases
SET ROLE regress_llmquota_explain;
SELECT rank, account, key, verdict, scope, subject, quota IS NOT NULL AS quota, failure, lease, reason FROM llmquota_explain('r', 'clinic-7', 100, 1000);
SELECT * FROM llmquota_explain('r', 'clinic-8');
SELECT * FROM llmquota.key_status;
RESET ROLE;

-- how keys are, for each model that they may be used for
SELECT key, model, account, provider, status, until > clock_timestamp() AS until, scope, quota IS NOT NULL AS quota, failure, http_status, lease IS NOT NULL AS lease, reason
  FROM llmquota.key_status ORDER BY key, model;
UPDATE llmquota.key SET models = '{n}' WHERE key = 'c1';
UPDATE llmquota.account SET enabled = false WHERE account = 'a';
UPDATE llmquota.quota SET amount = 0 WHERE subject = 'b';
SELECT key, model, status, until, scope, reason FROM llmquota.key_status WHERE account IN ('a', 'b', 'c') AND status <> 'cooling' ORDER BY key, model;
SELECT count(*) FROM llmquota.key_status WHERE key = 'c1';
SELECT llmquota_enable('b2'), llmquota_clear();
SELECT key, status FROM llmquota.key_status WHERE key IN ('b2', 'c1') ORDER BY key;

-- nothing of all this has been charged, or counted as refused
CREATE VIEW state AS SELECT (SELECT string_agg(w::text, ' ' ORDER BY scope, subject) FROM (SELECT scope, subject, metric, used, refused FROM llmquota.meter_window) w) AS windows,
	(SELECT count(*) FROM llmquota.name) AS names, (SELECT count(*) FROM llmquota.lease) AS leases, pg_relation_size('llmquota.health') AS health;
CREATE TEMP TABLE before AS SELECT * FROM state;
SELECT count(*) FROM generate_series(1, 5) n, llmquota_explain('r', 'nobody ' || n, 100, 100000) e;
SELECT b = s AS unchanged FROM before b, state s;
BEGIN READ ONLY;
SELECT count(*) FROM llmquota_explain('r', 'clinic-7');
COMMIT;
-- wrong calls are wrong calls of a pick
SELECT * FROM llmquota_explain('nowhere');
SELECT * FROM llmquota_explain('r', NULL);
SELECT * FROM llmquota_explain('r', priority => 'lowest');
INSERT INTO llmquota.org (org, enabled) VALUES ('gone', false);
SELECT * FROM llmquota_explain('r', 'gone');

SELECT llmquota_revoke('regress_llmquota_explain', 'app');
DROP OWNED BY regress_llmquota_explain;
DROP ROLE regress_llmquota_explain;
SELECT * FROM llmquota_verify();
