-- A record that comes after expiry, when the slot of its lease has another lease: the ledger says what the call cost, and
-- budgets are charged what is more than was reserved; nothing is given back.
SET client_min_messages = warning;
\pset null -
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('images', 'p'), ('free', 'p');
INSERT INTO llmquota.price (model, input, output) VALUES ('m', 1000000, 2000000), ('free', 0, 0);
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('THB', 0.03), ('EUR', 1.25);
INSERT INTO llmquota.org (org) VALUES ('group');
INSERT INTO llmquota.org (org, parent) SELECT name, 'group' FROM unnest('{less,more,silent,told,refused,capped,capped more,undone}'::text[]) name;
INSERT INTO llmquota.budget (scope, subject, currency, amount, calendar, per, downgrade_at) VALUES
	('org', '*', 'USD', 10, NULL, '1 day', NULL), ('parent', 'group', 'THB', 100000, NULL, '1 day', NULL),
	('key', 'k', 'EUR', 100000, NULL, '1 day', NULL), ('global', '', 'USD', 100000, NULL, '1 day', NULL);
-- one page of four slots
UPDATE llmquota.setting SET value = '1' WHERE name = 'max_leases';

CREATE TABLE forgotten (name text, lease uuid);
CREATE FUNCTION lease_of(text) RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT lease FROM forgotten WHERE name = $1 $$;
CREATE VIEW used AS
SELECT scope, subject, currency, used, u.ledger FROM llmquota.budget_window w, (SELECT sum(cost) AS ledger, org FROM llmquota.usage GROUP BY org) u
 WHERE scope = 'org' AND w.subject = u.org AND w.subject <> 'others'
UNION ALL
SELECT scope, subject, currency, used, (SELECT sum(cost) FROM llmquota.usage) FROM llmquota.budget_window WHERE scope <> 'org'
 ORDER BY scope, subject;
-- Has leases expire, and their slots taken by others.
CREATE PROCEDURE forget() LANGUAGE plpgsql AS $$
DECLARE
	so_far bigint := 0;
	expected CONSTANT bigint := (SELECT count(*) FROM forgotten JOIN llmquota.lease USING (lease));
	other uuid;
BEGIN
	COMMIT;
	WHILE so_far < expected LOOP
		SELECT so_far + m.expired INTO so_far FROM llmquota_maintain() m;
		COMMIT;
	END LOOP;
	FOR n IN 1 .. 4 LOOP
		INSERT INTO forgotten SELECT 'other', lease FROM llmquota_pick('free', 'others', 1, 1) WHERE status = 'granted';
	END LOOP;
	COMMIT;
	FOR other IN SELECT lease FROM forgotten WHERE name = 'other' LOOP
		PERFORM llmquota_release(other);
	END LOOP;
	DELETE FROM forgotten WHERE name = 'other';
END $$;

-- four dollars each, a dollar for a token in and two for one out
INSERT INTO forgotten SELECT name, lease FROM unnest('{less,more,silent,told}'::text[]) name, llmquota_pick('m', name, 2, 1, ttl_ms => 1);
CALL forget();
SELECT * FROM used;
SELECT status, cost FROM llmquota_record(lease_of('less'), 1, 0);
SELECT status, cost FROM llmquota_record(lease_of('more'), 4, 3);
SELECT status, cost FROM llmquota_record(lease_of('silent'));
SELECT status, cost FROM llmquota_record(lease_of('told'), cost => 7.5);
SELECT * FROM used;
-- once
SELECT status, cost FROM llmquota_record(lease_of('more'), 40, 30);
SELECT status, cost FROM llmquota_record(lease_of('told'), cost => 70.5);
SELECT subject, used FROM used;
SELECT * FROM llmquota_verify();

-- what has no price, and reserved what its pick said: that stands unless somebody knows better
INSERT INTO forgotten SELECT name, lease FROM unnest('{capped,capped more,refused}'::text[]) name, llmquota_pick('images', name, 2, 1, ttl_ms => 1, max_cost => 3);
INSERT INTO forgotten SELECT 'undone', lease FROM llmquota_pick('m', 'undone', 2, 1, ttl_ms => 1);
CALL forget();
SELECT status, cost FROM llmquota_record(lease_of('capped'), 100, 100);
SELECT status, cost FROM llmquota_record(lease_of('capped more'), cost => 3.000000001);
SELECT status, cost FROM llmquota_record(lease_of('refused'), http_status => 400);
-- a rollback charges nothing, the transaction once
BEGIN;
SAVEPOINT s;
SELECT status, cost FROM llmquota_record(lease_of('undone'), cost => 6);
ROLLBACK TO s;
COMMIT;
SELECT used FROM used WHERE subject = 'undone';
BEGIN;
SELECT status, cost FROM llmquota_record(lease_of('undone'), cost => 6);
ROLLBACK;
SELECT used FROM used WHERE subject = 'undone';
BEGIN;
SAVEPOINT s;
SELECT status, cost FROM llmquota_record(lease_of('undone'), cost => 5);
RELEASE s;
COMMIT;
SELECT * FROM used;
SELECT org, status, usage_source, cost, currency, cost_base, cost_given FROM llmquota.usage WHERE org <> 'others' ORDER BY picked_at;
SELECT * FROM llmquota_verify();

-- a window was told of a call in flight that had reserved what its pick said; when its slot has another lease nobody knows of that
INSERT INTO forgotten SELECT 'flight', lease FROM llmquota_pick('images', 'flight', 2, 1, max_cost => 3);
INSERT INTO llmquota.budget (subject, amount, currency, calendar, per, downgrade_at) VALUES ('*', 20, 'USD', NULL, '2 days', NULL);
SELECT count(llmquota_release(lease)) FROM llmquota_pick('m', 'flight', 1, 0);
SELECT count(*) FROM llmquota_maintain();
SELECT status, cost FROM llmquota_record(lease_of('flight'), cost => 1);
SELECT period, used FROM llmquota.budget_window WHERE subject = 'flight' ORDER BY period;
DO $$
BEGIN
	FOR n IN 1 .. 4 LOOP
		INSERT INTO forgotten SELECT 'other', lease FROM llmquota_pick('free', 'others', 1, 1);
	END LOOP;
END $$;
SELECT count(DISTINCT lease), count(llmquota_release(lease)) FROM forgotten WHERE name = 'other';
SELECT * FROM llmquota_verify();
