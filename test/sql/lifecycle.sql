-- What is moved, rotated, disabled, deleted or limited otherwise with calls in flight: picks know it at once, and the calls
-- end as they would have, where they were charged; the ledger keeps every name.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p');
INSERT INTO llmquota.key (key, account, secret_ref) VALUES ('k', 'a', 'one');
INSERT INTO llmquota.model (model, provider, family) VALUES ('m', 'p', 'f');
INSERT INTO llmquota.route (route, step, model) VALUES ('r', 1, 'm');
INSERT INTO llmquota.org (org) VALUES ('o');
INSERT INTO llmquota.quota (scope, subject, metric, amount)
SELECT scope, CASE WHEN scope = 'global' THEN '' ELSE '*' END, 'concurrency', 1000 FROM unnest('{global,provider,account,key,org}'::text[]) scope;
CREATE VIEW used AS
SELECT string_agg(concat_ws(' ', scope, nullif(subject, ''), used), ', ' ORDER BY scope, subject) AS used FROM llmquota.meter_window WHERE metric = 'concurrency';
CREATE VIEW ledger AS SELECT request_id, org, route, model, provider, account, key, status FROM llmquota.usage ORDER BY picked_at;
CREATE TEMP TABLE p (name text PRIMARY KEY, lease uuid);
CREATE FUNCTION pick(name text, route text DEFAULT 'm') RETURNS text LANGUAGE sql AS $$
	WITH picked AS (SELECT * FROM llmquota_pick(route, 'o', request_id => name)),
		kept AS (INSERT INTO p SELECT name, lease FROM picked)
	SELECT concat_ws(' ', status, account, secret_ref) FROM picked
$$;
CREATE FUNCTION settle(name text) RETURNS text LANGUAGE sql AS $$ SELECT status FROM llmquota_record((SELECT lease FROM p WHERE p.name = $1), 1, 1) $$;

-- a key moves to another account
SELECT pick('before the move');
SELECT * FROM used;
UPDATE llmquota.key SET account = 'b';
SELECT pick('after the move');
SELECT * FROM used;
SELECT settle('before the move');
SELECT * FROM used;
SELECT settle('after the move');
SELECT * FROM ledger;

-- a key is rotated in place
SELECT pick('before the rotation');
UPDATE llmquota.key SET secret_ref = 'two';
SELECT pick('after the rotation');
SELECT * FROM used;
-- and by a second one
INSERT INTO llmquota.key (key, account, secret_ref) VALUES ('l', 'b', 'three');
UPDATE llmquota.key SET enabled = false WHERE key = 'k';
SELECT pick('by the second key');
SELECT settle('before the rotation'), settle('after the rotation'), settle('by the second key');
SELECT * FROM used;

-- each thing disabled: no pick, and the call in flight ends
CREATE FUNCTION disabled(relation text, name text) RETURNS TABLE (disabled text, before text, during text, ends text, used text, again text) LANGUAGE plpgsql AS $$
BEGIN
	disabled := relation;
	before := pick(relation || ' 1');
	EXECUTE format('UPDATE llmquota.%1$I SET enabled = false WHERE %1$I = %2$L', relation, name);
	during := pick(relation || ' 2');
	ends := settle(relation || ' 1');
	SELECT u.used INTO used FROM used u;
	EXECUTE format('UPDATE llmquota.%1$I SET enabled = true WHERE %1$I = %2$L', relation, name);
	again := pick(relation || ' 3');
	PERFORM settle(relation || ' 3');
	RETURN NEXT;
END $$;
SELECT d.* FROM (VALUES ('provider', 'p'), ('account', 'b'), ('key', 'l'), ('model', 'm'), ('org', 'o')) t (relation, name), disabled(relation, name) d;

-- everything is deleted with calls in flight, but for what others refer to
SELECT pick('recorded', 'r'), pick('released', 'r');
DELETE FROM llmquota.provider;
DELETE FROM llmquota.account WHERE account = 'b';
DELETE FROM llmquota.model;
DELETE FROM llmquota.quota;
DELETE FROM llmquota.org;
DELETE FROM llmquota.route;
DELETE FROM llmquota.key;
DELETE FROM llmquota.account;
DELETE FROM llmquota.model;
DELETE FROM llmquota.provider;
SELECT org, route, model, provider, account, key FROM llmquota.lease;
SELECT settle('recorded'), llmquota_release(lease) FROM p WHERE name = 'released';
SELECT pick('later', 'r');
SELECT * FROM ledger WHERE request_id IN ('recorded', 'released');
SELECT count(*) FROM llmquota.lease;
-- and comes again: nothing is in flight
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('b', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('l', 'b');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('key', '*', 'concurrency', 1000), ('org', '*', 'concurrency', 1000);
SELECT pick('again');
SELECT * FROM used;
SELECT settle('again');
SELECT * FROM used;

-- a window or zone is changed in mid-period: the new window begins anew, marked; a new amount keeps what was used
CREATE VIEW windows AS
SELECT period, used, amount, seeding FROM llmquota.meter_window WHERE metric = 'requests' ORDER BY period;
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar) VALUES ('key', 'l', 'requests', 10, 'day');
SELECT pick('day 1'), pick('day 2');
UPDATE llmquota.quota SET amount = 20 WHERE metric = 'requests';
SELECT period, used, amount FROM windows;
UPDATE llmquota.quota SET timezone = 'Asia/Tokyo' WHERE metric = 'requests';
SELECT pick('in Tokyo');
SELECT * FROM windows;
UPDATE llmquota.provider SET timezone = 'America/Los_Angeles';
UPDATE llmquota.quota SET timezone = NULL WHERE metric = 'requests';
SELECT pick('in Los Angeles');
SELECT * FROM windows WHERE period ~ 'Los';
UPDATE llmquota.quota SET calendar = NULL, per = '1 hour' WHERE metric = 'requests';
SELECT pick('an hour');
SELECT * FROM windows;
-- calls of before give back nothing where they were not counted
SELECT count(llmquota_release(lease)) FROM llmquota.lease;
SELECT * FROM windows;
SELECT * FROM used;
