-- What calls cost is computed anew after a wrong price or exchange rate: every figure here is worked out by hand.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('plain', 'p'), ('baht', 'p'), ('was', 'p'), ('gone', 'p'), ('right', 'p');
INSERT INTO llmquota.price (model, input, output, cached_input, reasoning, currency) VALUES
	('m', 25, 10, 12.5, 12, 'USD'), ('baht', 105, 0, NULL, NULL, 'THB'), ('was', 1, 0, NULL, NULL, 'USD'),
	('gone', 1, 0, NULL, NULL, 'USD'), ('right', 1, 1, NULL, NULL, 'USD');
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('THB', 0.03);

-- Records a call of a model.
CREATE FUNCTION recorded(org text, model text, input bigint, output bigint, cached bigint DEFAULT NULL, reasoning bigint DEFAULT NULL,
	given numeric DEFAULT NULL, http_status int DEFAULT NULL, error text DEFAULT NULL)
RETURNS text LANGUAGE sql AS $$
	SELECT r.status FROM llmquota_pick(model, org, 1000, 500) p,
		llmquota_record(p.lease, input, output, cached, reasoning_tokens => reasoning, cost => given, http_status => http_status, error => error) r
$$;
-- What comes of a statement that is refused.
CREATE FUNCTION refused(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	advice text;
BEGIN
	EXECUTE statement;
	RETURN 'not refused';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS advice = PG_EXCEPTION_HINT;
	RETURN concat_ws(' / ', SQLSTATE, SQLERRM, nullif(advice, ''));
END $$;
CREATE VIEW ledger AS
SELECT org, model, status, cost, currency, cost_base, cost_given FROM llmquota.usage ORDER BY org COLLATE "C";

SELECT recorded('01 tokens', 'm', 1000, 100, 400, 30);
SELECT recorded('02 reserved', 'm', NULL, NULL);
SELECT recorded('03 no answer', 'm', 1000, NULL, error => 'Timeout');
SELECT recorded('04 refused', 'm', NULL, NULL, http_status => 400);
SELECT recorded('05 refused, with figures', 'm', 1000, 0, http_status => 400);
SELECT recorded('06 given', 'm', 1000, 100, given => 0.5);
SELECT recorded('07 baht', 'baht', 1000, 0);
SELECT recorded('08 baht given', 'baht', 1000, 0, given => 10);
SELECT recorded('09 no price', 'plain', 1000, 100);
SELECT recorded('10 no price, given', 'plain', 1000, 100, given => 0.25);
SELECT recorded('11 renamed', 'was', 1000000, 0);
SELECT recorded('12 model gone', 'gone', 1000000, 0);
SELECT recorded('13 right', 'right', 1000000, 1000000);
SELECT llmquota_release(lease) FROM llmquota_pick('m', '14 released', 1000, 500);
SELECT lease FROM llmquota_pick('m', '15 expired', 1000, 500, ttl_ms => 1) \gset
SELECT lease AS refused FROM llmquota_pick('plain', '16 refused late, no price', 1000, 500, ttl_ms => 1) \gset
CALL expire(2);
SELECT status FROM llmquota_record(:'refused', http_status => 400);
TABLE ledger;

-- nothing was wrong
SELECT * FROM llmquota_reprice('-infinity');

-- input is a tenth, there is a price, another rate, another name; one model has gone
UPDATE llmquota.price SET input = 2.5, cached_input = 1.25 WHERE model = 'm';
INSERT INTO llmquota.price (model, input, output, currency) VALUES ('plain', 1, 2, 'THB');
UPDATE llmquota.exchange_rate SET rate = 0.031 WHERE currency = 'THB';
SELECT llmquota_rename('model', 'was', 'is');
INSERT INTO llmquota.model (model, provider) VALUES ('was', 'p');
INSERT INTO llmquota.price (model, input, output, currency) VALUES ('was', 1000, 0, 'USD');
UPDATE llmquota.price SET input = 3 WHERE model = 'is';
DELETE FROM llmquota.model WHERE model = 'gone';
CREATE TABLE before AS SELECT * FROM llmquota.usage;
SELECT org, model, key, calls, currency_before, cost_before, currency_after, cost_after, difference, base_before, base_after, base_difference
  FROM llmquota_reprice('-infinity');
TABLE ledger;
-- the difference is what the sums differ by, to the last place
SELECT sum(u.cost) - sum(b.cost) AS by_ledger, (SELECT sum(difference) FROM llmquota.repricing) AS by_rows,
	   sum(u.cost_base) - sum(b.cost_base) AS base_by_ledger, (SELECT sum(base_difference) FROM llmquota.repricing) AS base_by_rows
  FROM llmquota.usage u JOIN before b USING (lease);
SELECT count(DISTINCT repriced_at) AS times, count(DISTINCT id) = count(*) AS ids, bool_and(repriced_by = SESSION_USER) AS by,
	   bool_and(repriced_at <= clock_timestamp()) AS at, bool_and(base_currency = 'USD') AS base,
	   bool_and(day = (SELECT (min(picked_at) AT TIME ZONE 'UTC')::date FROM llmquota.usage)) AS day FROM llmquota.repricing;
-- of what it leaves alone it changes nothing else
SELECT count(*) AS same, count(*) FILTER (WHERE to_jsonb(u) = to_jsonb(b)) AS untouched
  FROM llmquota.usage u JOIN before b USING (lease)
 WHERE to_jsonb(u) - '{cost,currency,cost_base,recorded_in}'::text[] = to_jsonb(b) - '{cost,currency,cost_base,recorded_in}'::text[];
-- a second time there is nothing to do
CREATE TABLE once AS SELECT ctid AS place, lease FROM llmquota.usage;
SELECT * FROM llmquota_reprice('-infinity');
SELECT count(*) FROM once o JOIN llmquota.usage u ON u.lease = o.lease AND u.ctid = o.place;
-- hours follow
SELECT work_left FROM llmquota_maintain();
SELECT sum(h.cost_base) = (SELECT sum(cost_base) FROM llmquota.usage) AS equal, sum(h.calls) AS calls FROM llmquota.usage_hourly h;

-- a late record goes by the price of now
SELECT status, cost, currency FROM llmquota_record(:'lease', 2000, 100);

-- prices that end: the cost of what has none is not known any more; currencies that change are told apart
DELETE FROM llmquota.price WHERE model = 'plain';
UPDATE llmquota.price SET currency = 'EUR' WHERE model = 'm';
SELECT org, calls, currency_before, cost_before, currency_after, cost_after, difference, base_before, base_after, base_difference
  FROM llmquota_reprice('-infinity');
TABLE ledger;
-- and come back
INSERT INTO llmquota.price (model, input, output, currency) VALUES ('plain', 1, 2, 'THB');
UPDATE llmquota.price SET currency = 'USD' WHERE model = 'm';
SELECT org, calls, currency_before, cost_before, currency_after, cost_after, difference, base_before, base_after, base_difference
  FROM llmquota_reprice('-infinity');

-- another base currency
UPDATE llmquota.setting SET value = 'THB' WHERE name = 'base_currency';
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('USD', 32);
SELECT org, base_currency, cost_before = cost_after AS cost_stays, difference, base_before, base_after FROM llmquota_reprice('-infinity') WHERE org < '08';
UPDATE llmquota.setting SET value = 'USD' WHERE name = 'base_currency';
SELECT count(*) FROM llmquota_reprice('-infinity');

-- from a time on, up to another; several calls of a day, org, model and key are one row
SELECT recorded('many', 'right', 1, g) FROM generate_series(1, 5) g;
UPDATE llmquota.price SET output = 11 WHERE model = 'right';
CREATE TABLE call AS SELECT picked_at, row_number() OVER (ORDER BY picked_at) AS n FROM llmquota.usage WHERE org = 'many';
SELECT p.calls, p.cost_before, p.cost_after, p.difference
  FROM llmquota_reprice((SELECT picked_at FROM call WHERE n = 2), (SELECT picked_at FROM call WHERE n = 4)) p;
SELECT output_tokens, cost FROM llmquota.usage WHERE org = 'many' ORDER BY output_tokens;
SELECT p.calls, p.cost_before, p.cost_after, p.difference FROM llmquota_reprice((SELECT picked_at FROM call WHERE n = 1), until => NULL) p;
-- a rollback takes all of it back
BEGIN;
UPDATE llmquota.price SET output = 100 WHERE model = 'right';
SELECT p.org, p.calls, p.cost_after FROM llmquota_reprice('-infinity') p;
SELECT sum(cost) FROM llmquota.usage WHERE org = 'many';
ROLLBACK;
SELECT sum(cost) FROM llmquota.usage WHERE org = 'many';
SELECT count(*) FROM llmquota.repricing WHERE cost_after > 1000;

-- days: those in partitions and those that have none yet; prices by the time of the call, the day by UTC
INSERT INTO llmquota.price (model, valid_from, input, output) VALUES ('right', '2024-02-29 12:00+00', 3, 3);
INSERT INTO llmquota.usage (lease, picked_at, recorded_at, recorded_in, org, model, key, status, reserved_input, reserved_output, input_tokens, output_tokens, cost, currency)
SELECT gen_random_uuid(), p.at, p.at, 0, 'old', 'right', 'k', 'ok', 0, 0, 1000000, 0, 7, 'USD'
  FROM unnest('{2024-02-28 23:59:59.999999+00,2024-02-29 00:00+00,2024-02-29 11:59:59.999999+00,2024-02-29 12:00+00,2024-03-01 00:00+00}'::timestamptz[]) p (at);
SELECT day, calls, cost_before, cost_after, base_before, base_after FROM llmquota_reprice('2024-02-29 00:00+00', '2024-03-01 00:00+00');
SELECT picked_at AT TIME ZONE 'UTC' AS at, cost, cost_base FROM llmquota.usage WHERE org = 'old' ORDER BY picked_at;
SELECT work_left FROM llmquota_maintain();
SELECT day, calls, cost_before, cost_after FROM llmquota_reprice('2024-01-01 00:00+00', '2024-12-31 00:00+00');

-- what no call can have written is left alone, and what somebody has written is told as it was
INSERT INTO llmquota.usage (lease, picked_at, recorded_at, recorded_in, org, model, status, input_tokens, output_tokens, cost, currency, cost_base, cost_given) VALUES
	(gen_random_uuid(), '2024-05-01 00:00+00', now(), 0, 'odd 1', 'right', 'ok', 3000000000, 0, 5, 'USD', 5, NULL),
	(gen_random_uuid(), '2024-05-01 00:00+00', now(), 0, 'odd 2', 'right', 'ok', -7, 0, 5, 'USD', 5, NULL),
	(gen_random_uuid(), '2024-05-01 00:00+00', now(), 0, 'odd 3', NULL, 'ok', 1, 0, 5, 'USD', 5, NULL),
	(gen_random_uuid(), '2024-05-01 00:00+00', now(), 0, repeat('x', 200), 'right', 'ok', 1, 0, 5, 'USD', 5, NULL),
	(gen_random_uuid(), '2024-05-01 00:00+00', now(), 0, 'odd 4', 'right', 'ok', 1, 0, 0.12345678901, 'USD', NULL, true),
	(gen_random_uuid(), '2024-05-01 00:00+00', now(), 0, 'odd 5', 'right', 'ok', 1, 0, NULL, NULL, NULL, true),
	(gen_random_uuid(), '2024-05-01 00:00+00', now(), 0, 'own 1', 'right', 'ok', 1000000, 0, 0.12345678901, 'USD', 12345678901234567890.5, NULL),
	(gen_random_uuid(), '2024-05-01 00:00+00', now(), 0, 'own 2', NULL, NULL, NULL, NULL, 2, 'THB', NULL, true),
	(gen_random_uuid(), '2024-05-01 00:00+00', now(), 0, 'own 3', 'right', 'ok', 1000000, 0, 3.00, 'USD', 3, NULL);
SELECT org, model, key, cost_before, cost_after, difference, base_before, base_after FROM llmquota_reprice('2024-05-01 00:00+00', '2024-05-02 00:00+00');
SELECT * FROM llmquota_reprice('2024-05-01 00:00+00', '2024-05-02 00:00+00');
DELETE FROM llmquota.usage WHERE org ~ '^(odd|own|xxx)';

-- who may: administrators; who reads the ledger of an org sees what became of its costs
CREATE ROLE reprice_admin;
CREATE ROLE reprice_reader;
GRANT USAGE ON SCHEMA public TO reprice_admin, reprice_reader;
SELECT llmquota_grant('reprice_admin', 'admin'), llmquota_grant('reprice_reader', 'analyst', '07 baht');
SET ROLE reprice_reader;
SELECT refused('SELECT llmquota_reprice(''-infinity'')');
SELECT DISTINCT org FROM llmquota.repricing;
SELECT refused('DELETE FROM llmquota.repricing');
RESET ROLE;
UPDATE llmquota.price SET output = 12 WHERE model = 'right' AND valid_from = '-infinity';
SET ROLE reprice_admin;
SELECT org, calls, difference FROM llmquota_reprice('-infinity');
SELECT count(DISTINCT org) > 5 AS sees_all FROM llmquota.repricing;
RESET ROLE;
SELECT llmquota_revoke('reprice_admin', 'admin'), llmquota_revoke('reprice_reader', 'analyst');
DROP OWNED BY reprice_admin, reprice_reader;
DROP ROLE reprice_admin, reprice_reader;

-- budgets follow with the next maintenance: in each currency, for totals, days and the last hour; what was reserved for calls
-- in flight stays, and what a pick said that a call costs at most is no price. Records that come late find what is counted
INSERT INTO llmquota.model (model, provider) VALUES ('spent', 'p');
INSERT INTO llmquota.price (model, input, output) VALUES ('spent', 1, 0);
INSERT INTO llmquota.budget (scope, subject, amount, currency, calendar, per, carry_debt) VALUES ('org', 'spender', 1000, 'USD', 'total', NULL, false),
	('key', 'k', 30000, 'THB', 'total', NULL, false), ('org', 'spender', 1000, 'USD', NULL, '1 hour', false), ('org', 'spender', 1000, 'USD', 'year', NULL, true);
SELECT work_left FROM llmquota_maintain();
CREATE VIEW spent AS SELECT scope, currency, period, round(used / 1000000000.0, 9) AS used FROM llmquota_budget_rows() ORDER BY 1, 2, 3;
CREATE TABLE flight AS SELECT n.name, p.lease FROM unnest('{done,silent,told,flies,late,expires}'::text[]) n (name),
	llmquota_pick('spent', 'spender', 2000000 + length(n.name) * 0, 0, ttl_ms => CASE WHEN n.name IN ('late', 'expires') THEN 1 ELSE 60000 END, max_cost => CASE n.name WHEN 'told' THEN 5 END) p;
CREATE FUNCTION ends(which text, input bigint) RETURNS numeric LANGUAGE sql AS 'SELECT r.cost FROM flight f, llmquota_record(f.lease, input) r WHERE f.name = which';
SELECT ends('done', 1000000), ends('silent', NULL), ends('told', NULL);
CALL expire(2);
-- 1 + 2 + 5, 2 in flight, 2 + 2 expired; all that the key was used for before
TABLE spent;
SELECT * FROM llmquota_reprice('-infinity');
UPDATE llmquota.price SET input = 3 WHERE model = 'spent';
SELECT calls, cost_before, cost_after FROM llmquota_reprice('-infinity');
TABLE spent;
SELECT * FROM llmquota_verify();
SELECT windows_completed FROM llmquota_maintain();
-- 3 + 6 + 5, 2 in flight, 6 + 6 expired
TABLE spent;
SELECT (SELECT used FROM spent WHERE scope = 'key') - round(2 / 0.031, 9) AS thb, sum(round(cost / CASE currency WHEN 'USD' THEN 0.031 ELSE 1 END, 9)) AS ledger FROM llmquota.usage WHERE key = 'k';
SELECT * FROM llmquota_verify();
-- late, 3 for 6; and for the 2 that were in flight 9
SELECT ends('late', 1000000), ends('flies', 3000000);
SELECT used FROM spent WHERE period = 'total';
SELECT * FROM llmquota_verify();
-- what a record has told that was lost with its transaction is no price either, also if it came late
BEGIN;
SELECT r.status, r.cost FROM flight f, llmquota_record(f.lease, cost => 7) r WHERE f.name = 'expires';
ROLLBACK;
SELECT work_left FROM llmquota_maintain();
SELECT u.status, u.usage_source, u.cost, u.cost_given FROM flight f JOIN llmquota.usage u USING (lease) WHERE f.name = 'expires';
SELECT * FROM llmquota_reprice('-infinity');
-- a rate is of a budget only: no cost changes, the budget does
UPDATE llmquota.exchange_rate SET rate = 0.05 WHERE currency = 'THB';
SELECT count(*) FROM llmquota_reprice('-infinity') WHERE currency_after = 'USD';
SELECT windows_completed > 0 AS counted FROM llmquota_maintain();
SELECT (SELECT used FROM spent WHERE scope = 'key') AS thb, sum(round(cost / CASE currency WHEN 'USD' THEN 0.05 ELSE 1 END, 9)) AS ledger FROM llmquota.usage WHERE key = 'k';
SELECT windows_completed FROM llmquota_maintain();
SELECT * FROM llmquota_verify();
-- between a repricing and the maintenance they hold more than the ledger says, and that is no fault
INSERT INTO llmquota.budget (scope, subject, amount, currency, calendar, per) VALUES ('org', 'fresh', 1000, 'USD', NULL, '1 hour');
INSERT INTO llmquota.usage (lease, picked_at, recorded_at, recorded_in, org, model, key, status, input_tokens, output_tokens, cost, currency)
VALUES (gen_random_uuid(), now(), now(), 0, 'fresh', 'spent', 'k', 'ok', 1000000, 0, 3, 'USD');
SELECT recorded('fresh', 'spent', 1000000, 0), (SELECT work_left FROM llmquota_maintain());
UPDATE llmquota.price SET input = 0.5 WHERE model = 'spent';
SELECT org, calls, cost_before, cost_after FROM llmquota_reprice('-infinity');
SELECT * FROM llmquota_verify();
SELECT work_left FROM llmquota_maintain();
SELECT subject, round(used / 1000000000.0, 9) - (SELECT sum(cost) FROM llmquota.usage WHERE org = subject) AS difference
  FROM llmquota_budget_rows() WHERE subject IN ('fresh', 'spender') ORDER BY subject;
SELECT * FROM llmquota_verify();

-- what a pick said that its call costs at most was told where nobody knew better: recorded without figures, never, or without a
-- price. Who knows better now says so
INSERT INTO llmquota.model (model, provider) VALUES ('later', 'p');
CREATE FUNCTION at_most(org text, model text, input bigint) RETURNS numeric LANGUAGE sql AS $$
	SELECT r.cost FROM llmquota_pick(model, org, 1000000, 0, max_cost => 5) p, llmquota_record(p.lease, input, 0 * input) r
$$;
SELECT at_most('most 1', 'later', 1000000), at_most('most 2', 'later', NULL), at_most('most 3', 'spent', 1000000), at_most('most 4', 'spent', NULL);
INSERT INTO llmquota.price (model, input, output) VALUES ('later', 2, 0);
UPDATE llmquota.price SET input = 0.75 WHERE model = 'spent';
SELECT org, cost_before, cost_after FROM llmquota_reprice('-infinity') WHERE org ~ '^most';
SELECT org, input_tokens, cost, cost_given FROM llmquota.usage WHERE org ~ '^most' ORDER BY org;
UPDATE llmquota.usage SET cost_given = NULL WHERE org ~ '^most' AND input_tokens IS NOT NULL;
SELECT org, cost_before, cost_after FROM llmquota_reprice('-infinity');
SELECT work_left FROM llmquota_maintain();
SELECT * FROM llmquota_verify();

-- forgotten orgs are forgotten here, too; rows go when the ledger's would have gone
SELECT count(*) > 0 AS known FROM llmquota.repricing WHERE org = '07 baht';
SELECT ledger_rows FROM llmquota_forget('07 baht');
SELECT count(*) > 0 AS known FROM llmquota.repricing WHERE org = '07 baht';
SELECT history_dropped > 0 AS dropped FROM llmquota_maintain();
SELECT day FROM llmquota.repricing WHERE day < '2026-01-01';

-- what is refused
SELECT refused('SELECT llmquota_reprice(NULL)');
SELECT refused($$SELECT llmquota_reprice('2026-01-02', '2026-01-01')$$);
BEGIN READ ONLY;
SELECT refused($$SELECT llmquota_reprice('-infinity')$$);
ROLLBACK;
SELECT * FROM llmquota_reprice('infinity');
SELECT * FROM llmquota_verify();
