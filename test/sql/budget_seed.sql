-- Windows of budgets that are new, or are made anew, are told what was spent before: from the ledger and from calls in flight.
\set SHOW_CONTEXT never
\pset null -

-- a request_id only tells calls apart here
UPDATE llmquota.setting SET value = '0' WHERE name = 'idempotency_window';
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a'), ('l', 'b');
INSERT INTO llmquota.model (model, provider, family) VALUES ('m', 'p', 'f'), ('n', 'p', 'f'), ('free', 'p', NULL), ('plain', 'p', NULL);
-- a token of input costs a dollar, one of output two; of n half of that
INSERT INTO llmquota.price (model, input, output) VALUES ('m', 1000000, 2000000), ('n', 500000, 1000000), ('free', 0, 0);
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('THB', 0.03);
INSERT INTO llmquota.org (org, parent) VALUES ('group', NULL), ('hospital', 'group'), ('ward', 'hospital'), ('clinic', 'group');
ALTER TABLE llmquota.budget ALTER currency SET DEFAULT 'USD', ALTER calendar SET DEFAULT NULL, ALTER per SET DEFAULT '10 days', ALTER downgrade_at SET DEFAULT NULL;
-- Makes picks of a model on a key, for an org, 10 tokens in and 5 out.
CREATE FUNCTION pick(times int, model text, org text, other text, max_cost numeric DEFAULT NULL) RETURNS SETOF uuid LANGUAGE sql AS $$
	SELECT lease FROM generate_series(1, times) n, llmquota_pick(model, org, 10, 5, request_id => n::text, exclude => ARRAY[other], max_cost => max_cost)
$$;
CREATE VIEW spent AS
SELECT scope, subject, coalesce(model, family) AS part, split_part(period, ' ', 1) AS period, currency, trim_scale(used) AS used, seeding
  FROM llmquota.budget_window ORDER BY scope, subject, part NULLS FIRST, currency, period;
-- What the ledger and calls in flight add up to, of a kind; those released cost nothing.
CREATE FUNCTION shown(VARIADIC conditions text[]) RETURNS TABLE (condition text, dollars numeric) LANGUAGE plpgsql AS $$
BEGIN
	FOREACH condition IN ARRAY conditions LOOP
		EXECUTE 'SELECT trim_scale(sum(cost)) FROM (SELECT org, model, account, key, cost FROM llmquota.usage UNION ALL '
			'SELECT org, model, account, key, CASE model WHEN ''m'' THEN 20 WHEN ''n'' THEN 10 ELSE 0 END FROM llmquota.lease) u WHERE ' || condition INTO dollars;
		RETURN NEXT;
	END LOOP;
END $$;

-- before there is any budget: every way in which a call can end, and some that have not ended
CREATE TABLE live AS SELECT pick(3, 'm', 'ward', 'b') AS lease;
CREATE TABLE more AS SELECT pick(2, 'n', 'clinic', 'a') AS lease;
SELECT count(llmquota_record(lease, 6, 1, cached_tokens => 2)) FROM pick(10, 'm', 'ward', 'b') lease;
SELECT count(llmquota_record(lease)) FROM pick(3, 'n', 'clinic', 'b') lease;
SELECT count(llmquota_record(lease, http_status => 500)) FROM pick(2, 'm', 'hospital', 'b') lease;
SELECT count(llmquota_record(lease, error => 'timeout')) FROM pick(1, 'm', 'hospital', 'b') lease;
SELECT count(llmquota_release(lease)) FROM pick(4, 'm', 'stranger', 'b') lease;
SELECT count(llmquota_record(lease, 7, 0, cost => 7.5)) FROM pick(1, 'm', 'stranger', 'a') lease;
SELECT count(llmquota_record(lease, 7, 0)) FROM pick(1, 'plain', 'stranger', 'a') lease;
SELECT count(llmquota_record(lease, cost => 0.25)) FROM pick(1, 'plain', 'stranger', 'a') lease;
-- long ago: outside of all windows but the total
INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org, model, provider, account, key, status, reserved_input, reserved_output, cost, currency, recorded_in)
VALUES (gen_random_uuid(), now() - interval '2 years', now(), 'clinic', 'm', 'p', 'a', 'k', 'ok', 10, 5, 1000, 'USD', 1);
-- without a price, without a rate
INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org, model, provider, account, key, status, reserved_input, reserved_output, cost, currency, recorded_in)
VALUES (gen_random_uuid(), now() - interval '2 hours', now(), 'clinic', 'm', 'p', 'a', 'k', 'ok', 10, 5, 1000, 'XAU', 1),
	(gen_random_uuid(), now() - interval '2 hours', now(), 'clinic', 'm', 'p', 'a', 'k', 'ok', 10, 5, NULL, NULL, 1);

INSERT INTO llmquota.budget (scope, subject, model, family, amount, calendar, per, currency) VALUES
	('global', '', NULL, NULL, 100000, 'total', NULL, 'USD'), ('global', '', NULL, NULL, 100000, NULL, '10 days', 'USD'),
	('account', '*', NULL, NULL, 100000, NULL, '2 days', 'USD'), ('key', 'k', NULL, 'f', 100000, NULL, '2 days', 'USD'),
	('org', '*', 'm', NULL, 100000, NULL, '400 days', 'THB'), ('org', '*', NULL, NULL, 100000, NULL, '10 days', 'USD'),
	('parent', '*', NULL, NULL, 100000, NULL, '10 days', 'USD'), ('parent', 'group', 'n', NULL, 100000, NULL, '10 days', 'USD');
-- each begins at zero, and with the call that it begins with
SELECT count(llmquota_record(lease, 1, 0)) FROM pick(1, 'm', 'ward', 'b') lease;
SELECT count(llmquota_record(lease, 1, 0)) FROM pick(1, 'n', 'clinic', 'a') lease;
SELECT * FROM spent;
BEGIN;
SELECT windows_completed FROM llmquota_maintain();
ROLLBACK;
SELECT * FROM spent;
SELECT * FROM shown('true', $$account = 'a'$$, $$key = 'k' AND model IN ('m', 'n')$$, $$org = 'ward'$$, $$org = 'clinic'$$, $$org IN ('hospital', 'ward')$$, $$org IN ('group', 'hospital', 'ward', 'clinic')$$,
	$$org IN ('group', 'hospital', 'ward', 'clinic') AND model = 'n'$$);
SELECT windows_completed FROM llmquota_maintain();
SELECT * FROM llmquota_verify();

-- calls from before end, and stay as what was reserved for them; those since count as what they cost
SELECT count(llmquota_record(lease, 1, 0)) FROM live;
SELECT count(llmquota_record(lease, 10, 5)) FROM pick(2, 'm', 'ward', 'b') lease;
SELECT * FROM spent WHERE subject = 'ward';
SELECT * FROM llmquota_verify();

-- another amount keeps what was spent; another window begins anew, and is told
UPDATE llmquota.budget SET amount = 200000, downgrade_at = 0.9, hard_stop = false WHERE scope = 'org' AND currency = 'USD';
SELECT scope, subject, trim_scale(used) AS used, trim_scale(amount) AS amount, seeding FROM llmquota.budget_window WHERE subject = 'ward' AND amount = 200000;
UPDATE llmquota.budget SET per = '20 days' WHERE scope = 'org' AND currency = 'USD';
SELECT count(llmquota_release(lease)) FROM pick(1, 'm', 'ward', 'b') lease;
SELECT * FROM spent WHERE subject = 'ward' AND scope = 'org' AND currency = 'USD';
SELECT windows_completed FROM llmquota_maintain();
SELECT * FROM spent WHERE subject = 'ward' AND scope = 'org' AND currency = 'USD';
SELECT * FROM shown($$org = 'ward'$$);
SELECT * FROM llmquota_verify();

-- (what retention has dropped of a total is not known any more when that is made anew)
-- who has moved below another org has spent of it only since; made anew it counts as orgs stand now
INSERT INTO llmquota.org (org) VALUES ('region');
UPDATE llmquota.org SET parent = 'region' WHERE org = 'clinic';
SELECT count(llmquota_record(lease, 1, 0)) FROM pick(1, 'n', 'clinic', 'a') lease;
SELECT * FROM spent WHERE scope = 'parent';
SELECT windows_completed FROM llmquota_maintain();
SELECT * FROM spent WHERE scope = 'parent';
SELECT count(llmquota_record(lease, 10, 5)) FROM more;
SELECT llmquota_rebuild() > 0 AS rebuilt;
SELECT * FROM spent;
SELECT * FROM shown('true', $$org IN ('group', 'hospital', 'ward')$$, $$org IN ('region', 'clinic')$$);
SELECT * FROM llmquota_verify();

-- in flight while all is made anew: by what was reserved, also where a pick said how much
CREATE TABLE capped AS SELECT pick(2, 'plain', 'ward', 'b', 33) AS lease UNION ALL SELECT pick(1, 'm', 'ward', 'b', 44);
SELECT llmquota_rebuild() > 0 AS rebuilt;
SELECT * FROM spent WHERE subject = 'ward';
SELECT count(llmquota_record(lease, cost => 3)) FROM capped;
SELECT * FROM spent WHERE subject = 'ward';
SELECT * FROM llmquota_verify();
-- what a rate, changed for what is past, makes of a window: verification sees it, and repairs it
DELETE FROM llmquota.budget WHERE currency = 'USD';
UPDATE llmquota.budget SET per = '10 days';
UPDATE llmquota.setting SET value = '1' WHERE name = 'max_leases';
SELECT llmquota_rebuild() > 0 AS rebuilt;
DO $$
BEGIN
	FOR n IN 1 .. 60 LOOP
		PERFORM llmquota_record(lease, 3, 0) FROM llmquota_pick('m', 'dated', 3, 0);
		COMMIT;
	END LOOP;
END $$;
SELECT * FROM spent WHERE subject = 'dated';
SELECT * FROM llmquota_verify();
UPDATE llmquota.exchange_rate SET rate = 0.05;
SELECT object, problem, repaired FROM llmquota_verify() WHERE subject LIKE '%dated%';
SELECT object, problem, repaired FROM llmquota_verify(repair => true) WHERE subject LIKE '%dated%';
SELECT * FROM spent WHERE subject = 'dated';
SELECT * FROM llmquota_verify();

-- as many quotas and budgets as a meter has room for, all of which slide, and all with other windows
UPDATE llmquota.setting SET value = '1000' WHERE name = 'max_leases';
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('EUR', 1.25);
DELETE FROM llmquota.budget;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
SELECT 'org', 'full', metric, 100000, n * interval '1 hour' FROM unnest('{requests,tokens,input_tokens,output_tokens}'::text[]) metric, generate_series(1, 2) n;
INSERT INTO llmquota.budget (subject, amount, currency, per) VALUES ('full', 10000, 'USD', '1 day'), ('full', 10000, 'THB', '1 day'), ('full', 10000, 'EUR', '1 day'), ('full', 10000, 'USD', '2 days');
SELECT count(llmquota_record(lease, 1, 0)) FROM llmquota_pick('m', 'full', 2, 0);
UPDATE llmquota.budget SET per = per + '1 hour';
UPDATE llmquota.quota SET per = per + '1 minute';
SELECT lease FROM llmquota_pick('m', 'full', 2, 0) \gset
SELECT * FROM spent WHERE subject = 'full';
SELECT windows_completed FROM llmquota_maintain();
SELECT count(llmquota_record(:'lease', 1, 0));
SELECT * FROM spent WHERE subject = 'full';
SELECT count(*), sum(used) FROM llmquota.meter_window WHERE subject = 'full' AND NOT seeding;
SELECT * FROM llmquota_verify();
DELETE FROM llmquota.quota;
-- a budget that is rolled back with the transaction of the pick, and one that goes while its call is in flight
DELETE FROM llmquota.budget;
BEGIN;
INSERT INTO llmquota.budget (subject, amount) VALUES ('gone', 10);
SELECT lease FROM llmquota_pick('m', 'gone', 2, 0) \gset
SELECT used FROM spent WHERE subject = 'gone';
ROLLBACK;
SELECT count(*) FROM spent WHERE subject = 'gone';
SELECT status, cost FROM llmquota_record(:'lease', 1, 0);
INSERT INTO llmquota.budget (subject, amount) VALUES ('gone', 10);
SELECT lease FROM llmquota_pick('m', 'gone', 2, 0) \gset
SELECT count(*) FROM llmquota_maintain();
SELECT used FROM spent WHERE subject = 'gone';
DELETE FROM llmquota.budget;
SELECT status, cost FROM llmquota_record(:'lease', 1, 0);
INSERT INTO llmquota.budget (subject, amount) VALUES ('gone', 10);
SELECT count(llmquota_record(lease, 1, 0)) FROM llmquota_pick('m', 'gone', 2, 0);
SELECT count(*) FROM llmquota_maintain();
SELECT used FROM spent WHERE subject = 'gone';
SELECT * FROM llmquota_verify();
