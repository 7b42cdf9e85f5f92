-- Answers: fresh, stale and missing ones, who is told to refresh, whose they are, and which go when there is no room.
-- (Many callers at once, other sessions' transactions, crashes and a standby are in test/t/cache.pl.)
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_llmquota_one, regress_llmquota_two, regress_llmquota_any;
CREATE ROLE regress_llmquota_one;
CREATE ROLE regress_llmquota_two;
CREATE ROLE regress_llmquota_any;
SET client_min_messages = warning;
SELECT llmquota_grant('regress_llmquota_one', 'app', 'clinic'), llmquota_grant('regress_llmquota_two', 'app', 'clinic'),
	   llmquota_grant('regress_llmquota_two', 'app', 'other'), llmquota_grant('regress_llmquota_any', 'app');
CREATE FUNCTION get(namespace text, hash text, org text DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', g.status, g.answer, CASE WHEN g.refresh THEN 'refresh' END, CASE WHEN g.retry_after_ms BETWEEN 1 AND 250 THEN 'later' END)
	  FROM llmquota_cache_get(namespace, hash, org) g
$$;
CREATE FUNCTION put(namespace text, hash text, answer jsonb, org text DEFAULT NULL, ttl_ms int DEFAULT NULL, stale_ms int DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
	SELECT p.status FROM llmquota_cache_put(namespace, hash, answer, ttl_ms, stale_ms, org) p
$$;
-- Lets time pass for all answers.
CREATE PROCEDURE pass(span interval) LANGUAGE sql AS $$
	UPDATE llmquota.answer SET stored_at = stored_at - span, fresh_until = fresh_until - span, stale_until = stale_until - span, used_at = used_at - span
$$;

-- nobody's claim ends by itself in this test, however slow it is
UPDATE llmquota.setting SET value = '3600000' WHERE name = 'answer_refresh';
-- the first who misses it is told to refresh, nobody else is, and then it is there
SELECT get('faq', 'h1', 'clinic'), get('faq', 'h1', 'clinic');
SELECT status, answer, age_ms, refresh, retry_after_ms BETWEEN 1 AND 250 AS later FROM llmquota_cache_get('faq', 'h1', 'clinic');
SELECT status, fresh_until - statement_timestamp() BETWEEN '3599 s' AND '3601 s' AS fresh, stale_until - fresh_until AS stale
  FROM llmquota_cache_put('faq', 'h1', '{"text": "yes"}', org => 'clinic');
SELECT get('faq', 'h1', 'clinic');
SELECT status, answer, age_ms BETWEEN 0 AND 60000 AS age_ms, refresh, retry_after_ms FROM llmquota_cache_get('faq', 'h1', 'clinic');
-- of another org, namespace or hash it is not
SELECT get('faq', 'h1', 'other'), get('faq', 'h1', ''), get('help', 'h1', 'clinic'), get('faq', 'h2', 'clinic');
SELECT put('faq', 'h1', '"of nobody"', ''), get('faq', 'h1', ''), get('faq', 'h1', 'clinic');

-- past its time it is stale, and one is told to refresh; a put ends that, and its rollback does not
SELECT put('faq', 'old', '"old"', 'clinic');
CALL pass('2 hours');
SELECT status, answer, age_ms BETWEEN 7200000 AND 7260000 AS age_ms, refresh, retry_after_ms FROM llmquota_cache_get('faq', 'old', 'clinic');
SELECT get('faq', 'old', 'clinic');
BEGIN;
SELECT put('faq', 'old', '"rolled back"', 'clinic', 1, 86400000);
ROLLBACK;
SELECT get('faq', 'old', 'clinic');
SELECT put('faq', 'old', '"new"', 'clinic'), get('faq', 'old', 'clinic');
SELECT put('faq', 'h1', '"new"', 'clinic'), get('faq', 'h1', 'clinic');
UPDATE llmquota.answer SET fresh_until = stored_at WHERE hash = 'h1';
SELECT get('faq', 'h1', 'clinic'), get('faq', 'h1', 'clinic');
-- with the time for that it is another's turn
INSERT INTO llmquota.answer_namespace (namespace, ttl_ms, stale_ms, refresh_ms) VALUES ('quick', 60000, 1000, 20);
SELECT get('quick', 'h1', 'clinic');
DO $$
DECLARE
	pause CONSTANT double precision := 0.001;
BEGIN
	WHILE NOT (SELECT g.refresh FROM llmquota_cache_get('quick', 'h1', 'clinic') g) LOOP
		PERFORM pg_sleep(pause);
	END LOOP;
END $$;
-- the namespace says how long, unless the call does
SELECT fresh_until - statement_timestamp() BETWEEN '59 s' AND '61 s' AS fresh, stale_until - fresh_until AS stale FROM llmquota_cache_put('quick', 'h1', '1', org => 'clinic');
SELECT fresh_until - statement_timestamp() BETWEEN '4 s' AND '6 s' AS fresh, stale_until - fresh_until AS stale FROM llmquota_cache_put('quick', 'h1', '1', 5000, 0, 'clinic');
-- what is past being stale is as good as gone, also where it was not pruned
CALL pass('6 s');
SELECT status FROM llmquota_cache_get('quick', 'h1', 'clinic');
SELECT count(*) FROM llmquota.answer WHERE namespace = 'quick';
SELECT answers_dropped, work_left FROM llmquota_maintain();
SELECT count(*) FROM llmquota.answer WHERE namespace = 'quick';

-- a reader is told what there is, and is not told to refresh
BEGIN READ ONLY;
SELECT get('faq', 'h1', 'clinic'), get('faq', 'h3', 'clinic');
SELECT * FROM llmquota_cache_put('faq', 'h1', '1', org => 'clinic');
ROLLBACK;
SELECT get('faq', 'h3', 'clinic');
-- what this transaction has put counts in it
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT put('faq', 'h3', '1', 'clinic'), get('faq', 'h3', 'clinic');
SELECT get('faq', 'h3', 'clinic');
ROLLBACK;
SELECT get('faq', 'h3', 'clinic');

-- shared: one for all, whoever asks
INSERT INTO llmquota.answer_namespace (namespace, shared) VALUES ('shared', true);
SELECT get('shared', 'h1'), get('shared', 'h1', 'clinic'), put('shared', 'h1', '"all"', 'clinic');
SELECT get('shared', 'h1'), get('shared', 'h1', 'other'), get('shared', 'h1', '');
-- when it is no longer, every org begins with nothing, and goes on with it when it is again
UPDATE llmquota.answer_namespace SET shared = false WHERE namespace = 'shared';
SELECT get('shared', 'h1', 'clinic'), get('shared', 'h1', '');
UPDATE llmquota.answer_namespace SET shared = true WHERE namespace = 'shared';
SELECT get('shared', 'h1', 'clinic');

-- a role of one org need not name it, and cannot name another
SET ROLE regress_llmquota_one;
SELECT get FROM (SELECT status AS get FROM llmquota_cache_get('faq', 'h1')) g;
SELECT status FROM llmquota_cache_put('faq', 'of one', '1');
SELECT status FROM llmquota_cache_get('faq', 'of one', 'clinic');
SELECT status FROM llmquota_cache_get('faq', 'of one', 'other');
SELECT status FROM llmquota_cache_put('faq', 'of one', '1', org => 'other');
SELECT status FROM llmquota_cache_get('faq', 'of one', '');
SELECT status FROM llmquota_cache_get('shared', 'h1');
SELECT status FROM llmquota_cache_get('shared', 'h1', 'other');
SELECT count(*) FROM llmquota.answer;
SET ROLE regress_llmquota_two;
SELECT status FROM llmquota_cache_get('faq', 'of one');
SELECT status FROM llmquota_cache_get('faq', 'of one', 'other');
SELECT status FROM llmquota_cache_get('faq', 'of one', 'clinic');
SET ROLE regress_llmquota_any;
SELECT status FROM llmquota_cache_get('faq', 'of one');
SELECT status FROM llmquota_cache_get('faq', 'of one', 'clinic');
RESET ROLE;

-- wrong calls change nothing
SELECT llmquota_cache_get(NULL, 'h', 'clinic');
SELECT llmquota_cache_get('', 'h', 'clinic');
SELECT llmquota_cache_get('faq', NULL, 'clinic');
SELECT llmquota_cache_get('faq', '', 'clinic');
SELECT llmquota_cache_get('faq', repeat('h', 129), 'clinic');
SELECT llmquota_cache_get('faq', 'h');
SELECT llmquota_cache_put('faq', 'h', NULL, org => 'clinic');
SELECT llmquota_cache_put('faq', 'h', '1', 0, org => 'clinic');
SELECT llmquota_cache_put('faq', 'h', '1', 1, -1, 'clinic');
SELECT (llmquota_cache_get('faq', 'h', 'clinic')).*;
UPDATE llmquota.setting SET value = 'refuse' WHERE name = 'unknown_org';
SELECT llmquota_cache_get('faq', 'h1', 'clinic');
UPDATE llmquota.setting SET value = 'allow' WHERE name = 'unknown_org';
INSERT INTO llmquota.answer_namespace (namespace) VALUES ('');
INSERT INTO llmquota.answer_namespace (namespace, ttl_ms) VALUES ('x', 0);
UPDATE llmquota.setting SET value = '99' WHERE name = 'answer_refresh';
SELECT count(*) FROM llmquota.answer WHERE hash = 'h';

-- what is too large is not stored, and leaves what is there
UPDATE llmquota.setting SET value = '100' WHERE name = 'max_answer_bytes';
SELECT * FROM llmquota_cache_put('faq', 'h1', to_jsonb(repeat('x', 100)), org => 'clinic');
SELECT put('faq', 'large', to_jsonb(repeat('x', 50)), 'clinic'), get('faq', 'h1', 'clinic');
UPDATE llmquota.setting SET value = '1048576' WHERE name = 'max_answer_bytes';
SELECT put('faq', 'large', to_jsonb((SELECT string_agg(md5(n::text), '') FROM generate_series(1, 3000) n)), 'clinic');
SELECT md5(answer::text) = md5(to_jsonb((SELECT string_agg(md5(n::text), '') FROM generate_series(1, 3000) n))::text) AS whole FROM llmquota_cache_get('faq', 'large', 'clinic');

-- an org that is renamed keeps them; whoever is given its former name does not get them
INSERT INTO llmquota.org (org) VALUES ('north');
SELECT put('faq', 'h1', '"north"', 'north');
SELECT llmquota_rename('org', 'north', 'south');
SELECT get('faq', 'h1', 'south'), get('faq', 'h1', 'north');
INSERT INTO llmquota.org (org) VALUES ('north');
SELECT get('faq', 'h1', 'south'), get('faq', 'h1', 'north'), put('faq', 'h1', '"second north"', 'north');
SELECT get('faq', 'h1', 'south'), get('faq', 'h1', 'north');
SELECT org_kind, org, answer FROM llmquota.answer WHERE org LIKE '%north' ORDER BY org_kind;
-- whoever is forgotten has none
SELECT answers FROM llmquota_forget('south');
SELECT get('faq', 'h1', 'south'), get('faq', 'h1', 'north');
SELECT answers FROM llmquota_forget('north', 'some session');
SELECT get('faq', 'h1', 'north');

-- that it was used is written into the row where it is: no new version of it, and no lock
CALL pass('10 minutes');
BEGIN;
SELECT ctid AS place, xmin AS writer, used_at AS used FROM llmquota.answer WHERE org = 'clinic' AND hash = 'h1' AND namespace = 'faq' \gset
SELECT get('faq', 'h1', 'clinic');
SELECT ctid = :'place' AS same_place, xmin = :'writer' AS same_writer, xmax, used_at > :'used' AS used FROM llmquota.answer WHERE org = 'clinic' AND hash = 'h1' AND namespace = 'faq';
ROLLBACK;
-- ... not each time
SELECT used_at AS used FROM llmquota.answer WHERE org = 'clinic' AND hash = 'h1' AND namespace = 'faq' \gset
SELECT get('faq', 'h1', 'clinic');
SELECT used_at = :'used' AS same FROM llmquota.answer WHERE org = 'clinic' AND hash = 'h1' AND namespace = 'faq';

-- no room: those not used for longest go, of a namespace with a bound of its own and then of all
DELETE FROM llmquota.answer;
INSERT INTO llmquota.answer_namespace (namespace, max_bytes) VALUES ('small', 2000);
SELECT count(put('small', lpad(n::text, 2, '0'), to_jsonb(repeat('x', 79)), 'clinic')), count(put('faq', lpad(n::text, 2, '0'), to_jsonb(repeat('x', 81)), 'clinic')) FROM generate_series(1, 50) n;
SELECT namespace, min(bytes), max(bytes) FROM llmquota.answer GROUP BY namespace ORDER BY namespace;
UPDATE llmquota.answer SET used_at = stored_at + make_interval(mins => hash::int - 100);
SELECT get('small', '03', 'clinic') LIKE 'fresh%' AS used_now;
SELECT answers_dropped FROM llmquota_maintain();
SELECT namespace, count(*), sum(bytes), string_agg(hash, ' ' ORDER BY hash) FROM llmquota.answer GROUP BY namespace ORDER BY namespace;
UPDATE llmquota.setting SET value = '4000' WHERE name = 'max_cache_bytes';
SELECT answers_dropped FROM llmquota_maintain();
SELECT count(*), sum(bytes) <= 4000 AS fits, min(hash) FILTER (WHERE hash <> '03'), count(*) FILTER (WHERE hash = '03') FROM llmquota.answer;
SELECT answers_dropped FROM llmquota_maintain();
UPDATE llmquota.setting SET value = '0' WHERE name = 'max_cache_bytes';
SELECT answers_dropped > 0 AS dropped, work_left FROM llmquota_maintain();
SELECT count(*) FROM llmquota.answer;
UPDATE llmquota.setting SET value = '268435456' WHERE name = 'max_cache_bytes';

-- the key of a request: what does not matter to the answer does not matter
CREATE FUNCTION same(a jsonb, b jsonb) RETURNS boolean LANGUAGE sql AS $$ SELECT llmquota_cache_key(a) = llmquota_cache_key(b) $$;
SELECT llmquota_cache_key('{"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5}') AS key, llmquota_cache_key(NULL) AS of_nothing;
SELECT same('{"a": 1, "b": [1, {"c": 2.50}]}', '{"b": [1e0, {"c": 2.5}], "a": 1.0}') AS numbers_and_order,
	   same('{"a": 1, "user": "u", "stream": true, "metadata": {"a": [1, 2]}, "z": null}', '{"a": 1}') AS without_meaning,
	   same('{"a": 100}', '{"a": 1e2}') AS exponent, same('{"a": 0.0}', '{"a": -0}') AS zero;
SELECT a, b FROM (VALUES
	('{"a": 1}'::jsonb, '{"a": "1"}'::jsonb), ('{"a": 1}', '{"b": 1}'), ('{"a": [1, 2]}', '{"a": [2, 1]}'), ('{"a": [1, [2]]}', '{"a": [[1], 2]}'),
	('{"a": {"user": 1}}', '{"a": {}}'), ('{"a": {"b": null}}', '{"a": {}}'), ('{"a": true}', '{"a": false}'), ('{"a": "bc"}', '{"ab": "c"}'),
	('{"a": [null]}', '{"a": []}'), ('[1]', '1'), ('{}', '[]'), ('"x"', '{"x": 1}'), ('{"seed": 1}', '{"seed": 2}'), ('{"a": [{}]}', '{"a": [[]]}')) AS v (a, b)
 WHERE same(a, b);

-- what monitoring sees of all this: as many as there were
CREATE TEMP TABLE before AS SELECT * FROM llmquota_metrics() WHERE name LIKE 'llmquota_answer%';
SELECT get('faq', 'm', 'clinic'), get('faq', 'm', 'clinic'), put('faq', 'm', '1', 'clinic', 1), put('faq', 'n', '1', 'clinic');
SELECT get('faq', 'n', 'clinic') FROM generate_series(1, 3);
UPDATE llmquota.answer SET fresh_until = stored_at WHERE hash = 'm';
SELECT get('faq', 'm', 'clinic') FROM generate_series(1, 2);
SELECT m.name, m.labels, m.value - b.value AS more FROM llmquota_metrics() m JOIN before b USING (name, labels) WHERE m.name LIKE '%total' ORDER BY m.name COLLATE "C", m.labels;
SELECT name, value > 0 AS positive FROM llmquota_metrics() WHERE name LIKE 'llmquota_answers%bytes' ORDER BY name COLLATE "C";

SELECT * FROM llmquota_verify();
DROP OWNED BY regress_llmquota_one, regress_llmquota_two, regress_llmquota_any;
DROP ROLE regress_llmquota_one, regress_llmquota_two, regress_llmquota_any;
