-- Budgets in other currencies than prices: each call by the exchange rates of when it was picked, to the last 1e-9.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('euro', 'p'), ('baht', 'p'), ('plain', 'p');
INSERT INTO llmquota.price (model, input, cached_input, cache_write, output, reasoning, currency) VALUES
	('m', 2.5, 1.25, 3.125, 10, 12, 'USD'), ('euro', 1.7, NULL, NULL, 8.9, NULL, 'EUR'), ('baht', 105, NULL, NULL, 315, NULL, 'THB');
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('THB', 0.028571428571), ('EUR', 1.0825), ('JPY', 0.006666666667), ('VND', 0.00004);
ALTER TABLE llmquota.budget ALTER calendar SET DEFAULT NULL, ALTER per SET DEFAULT '1 day', ALTER downgrade_at SET DEFAULT NULL;
-- An amount of one currency in another one, rounded once: numeric divides to as many decimals as it is given.
CREATE FUNCTION exact(amount numeric, from_rate numeric, to_rate numeric) RETURNS numeric LANGUAGE sql AS $$ SELECT round((amount * from_rate)::numeric(60, 40) / to_rate, 9) $$;
CREATE FUNCTION used(org text, currency text DEFAULT 'THB') RETURNS numeric LANGUAGE sql AS $$ SELECT used FROM llmquota.budget_window w WHERE subject = org AND w.currency = $2 $$;
-- Makes calls with tokens of all kinds, other ones each time, but always the same; every third says itself what it cost.
CREATE PROCEDURE calls(model text, org text, times int) LANGUAGE plpgsql AS $$
BEGIN
	FOR n IN 1 .. times LOOP
		PERFORM llmquota_record(lease, n * 7919 % 1000, n * 104729 % 500, cached_tokens => n * 7919 % 1000 * 3 / 10, reasoning_tokens => n * 104729 % 500 / 7,
				cost => CASE n % 3 WHEN 0 THEN round((n * 15485863::bigint % 1000000007) / 1e10, 9) END)
		  FROM (SELECT lease FROM llmquota_pick(model, org, 1000, 500)) p;
	END LOOP;
END $$;
CREATE PROCEDURE clear() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM llmquota_release(lease) FROM llmquota.lease;
	DELETE FROM llmquota.budget;
END $$;

-- reserved and settled: 1000 at 3.125 and 500 at 12 a million, in dollars
INSERT INTO llmquota.budget (subject, amount, currency) VALUES ('*', 100, 'THB'), ('many', 1000, 'THB');
SELECT lease FROM llmquota_pick('m', 'one', 1000, 500) \gset
SELECT used('one'), exact((1000 * 3.125 + 500 * 12) / 1000000, 1, 0.028571428571) AS by_hand;
SELECT cost, currency, used('one'), exact(cost, 1, 0.028571428571) AS by_hand FROM llmquota_record(:'lease', 999, 333, cached_tokens => 111, reasoning_tokens => 222);
SELECT cost, currency, cost_base FROM llmquota.usage WHERE lease = :'lease';
-- what was told is in the price's currency; of a model without a price in the base currency
SELECT lease FROM llmquota_pick('m', 'two', 1, 1, max_cost => 0.000000001) \gset
SELECT used('two');
SELECT cost, currency, used('two') FROM llmquota_record(:'lease', cost => 2.857142857);
SELECT exact(2.857142857, 1, 0.028571428571) AS by_hand;
SELECT lease FROM llmquota_pick('baht', 'three', 1, 1, max_cost => 50) \gset
SELECT used('three');
SELECT cost, currency, used('three') FROM llmquota_record(:'lease', cost => 49.99);
SELECT lease FROM llmquota_pick('plain', 'four', 1, 1, max_cost => 1) \gset
SELECT used('four'), exact(1, 1, 0.028571428571) AS by_hand;
SELECT cost, currency, used('four') FROM llmquota_record(:'lease', cost => 0.5);
-- neither of them is the base currency: by both rates at once
SELECT lease FROM llmquota_pick('euro', 'five', 1000, 500) \gset
SELECT used('five'), exact((1000 * 1.7 + 500 * 8.9) / 1000000, 1.0825, 0.028571428571) AS by_hand;
SELECT cost, currency, used('five'), exact(cost, 1.0825, 0.028571428571) AS by_hand FROM llmquota_record(:'lease', 7, 11);
SELECT cost_base, round(cost * 1.0825, 9) AS by_hand FROM llmquota.usage WHERE lease = :'lease';
-- the refusal is in the budget's currency
SELECT status, refusal - '{retry_at,budget}'::text[] AS refusal FROM llmquota_pick('m', 'one', 1, 1, max_cost => 2.853);
SELECT verdict, amount, used, requested FROM llmquota_explain('m', 'one', 1, 1, max_cost => 2.853);
-- whatever was called, the window holds what the ledger adds up to, call by call
CALL calls('m', 'many', 100);
CALL calls('euro', 'many', 100);
CALL calls('baht', 'many', 100);
SELECT count(*), used('many') = sum(exact(cost, r.rate, 0.028571428571)) AS equal, used('many') > 10 AS some
  FROM llmquota.usage u JOIN (VALUES ('USD', 1), ('EUR', 1.0825), ('THB', 0.028571428571)) r (currency, rate) USING (currency) WHERE org = 'many';
SELECT * FROM llmquota_verify();

-- by date: a rate that is to come, and one that comes while a call is under way
INSERT INTO llmquota.exchange_rate (currency, valid_from, rate) VALUES ('THB', now() - interval '1 day', 0.03), ('THB', now() + interval '1 day', 1);
SELECT lease FROM llmquota_pick('m', 'dated', 1000, 0) \gset
SELECT used('dated'), exact(0.003125, 1, 0.03) AS by_hand;
INSERT INTO llmquota.exchange_rate (currency, valid_from, rate) VALUES ('THB', clock_timestamp(), 0.06), ('EUR', clock_timestamp(), 2);
SELECT cost, used('dated'), exact(cost, 1, 0.03) AS by_hand FROM llmquota_record(:'lease', 1000, 0);
SELECT lease FROM llmquota_pick('m', 'dated', 1000, 0) \gset
SELECT used('dated') - exact(0.0025, 1, 0.03) AS used, exact(0.003125, 1, 0.06) AS by_hand;
SELECT cost, used('dated'), exact(0.0025, 1, 0.03) + exact(0.0025, 1, 0.06) AS by_hand FROM llmquota_record(:'lease', 1000, 0);
SELECT lease FROM llmquota_pick('euro', 'both', 1000, 0) \gset
SELECT used('both'), exact(0.0017, 2, 0.06) AS by_hand;
CALL clear();
DELETE FROM llmquota.exchange_rate WHERE valid_from > '-infinity';

-- another base currency: then dollars need a rate, and baht none
INSERT INTO llmquota.budget (subject, amount, currency) VALUES ('*', 1000, 'THB');
UPDATE llmquota.setting SET value = 'THB' WHERE name = 'base_currency';
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('USD', 35.4075);
SELECT lease FROM llmquota_pick('m', 'base', 1000, 500) \gset
SELECT used('base'), round(0.009125 * 35.4075, 9) AS by_hand;
SELECT cost, currency, used('base') FROM llmquota_record(:'lease', 1000, 500);
SELECT cost_base, round(0.0075 * 35.4075, 9) AS by_hand FROM llmquota.usage WHERE lease = :'lease';
CALL clear();
DELETE FROM llmquota.exchange_rate WHERE currency = 'USD';
UPDATE llmquota.setting SET value = 'USD' WHERE name = 'base_currency';

-- several currencies at once, each counted by itself; the price's among them or not
INSERT INTO llmquota.org (org, parent) VALUES ('group', NULL), ('clinic', 'group');
INSERT INTO llmquota.budget (scope, subject, amount, currency) VALUES
	('org', 'clinic', 100, 'THB'), ('parent', 'group', 1, 'USD'), ('key', 'k', 100, 'EUR'), ('global', '', 10000, 'JPY');
CALL calls('m', 'clinic', 10);
SELECT w.currency, w.used, w.used = round(u.sum, 9) AS equal
  FROM llmquota.budget_window w JOIN llmquota.exchange_rate r ON r.currency = w.currency,
	   LATERAL (SELECT sum(exact(cost, 1, r.rate)) FROM llmquota.usage WHERE org = 'clinic') u ORDER BY 1;
SELECT used('group', 'USD') = sum(cost) AS equal FROM llmquota.usage WHERE org = 'clinic';
SELECT status, refusal ->> 'currency' AS currency, refusal -> 'requested' AS requested FROM llmquota_pick('m', 'clinic', 1, 1, max_cost => 1.01);
SELECT status, refusal ->> 'currency' AS currency FROM llmquota_pick('euro', 'clinic', 1, 1, max_cost => 101);
-- but not more than four, the price's among them
SELECT count(*) FROM llmquota_pick('m', 'clinic', 1, 1);
SELECT status FROM llmquota_pick('plain', 'clinic', 1, 1, max_cost => 0);
CREATE FUNCTION error_of(query text) RETURNS TABLE (state text, message text, hint text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE query;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RETURN NEXT;
END $$;
UPDATE llmquota.budget SET currency = 'VND' WHERE currency = 'USD';
SELECT used AS before FROM llmquota.budget_window WHERE currency = 'JPY' \gset
SELECT * FROM error_of($$SELECT llmquota_pick('m', 'clinic', 1, 1)$$);
SELECT used = :before AS nothing_charged FROM llmquota.budget_window WHERE currency = 'JPY';
SELECT status FROM llmquota_pick('baht', 'clinic', 1, 1);
CALL clear();
-- nor of accounts and keys, wherever the call would go
INSERT INTO llmquota.budget (scope, subject, amount, currency) VALUES ('key', '*', 1, 'THB'), ('key', 'other', 1, 'EUR'), ('account', 'another', 1, 'JPY'), ('account', 'third', 1, 'VND');
SELECT * FROM error_of($$SELECT llmquota_pick('m', 'one', 1, 1)$$);
SELECT status FROM llmquota_pick('baht', 'one', 1, 1);
-- one more is refused when it is written; had nobody looked then
ALTER TABLE llmquota.budget DISABLE TRIGGER check_currencies;
INSERT INTO llmquota.budget (scope, subject, amount, currency) VALUES ('key', 'other', 1, 'USD');
ALTER TABLE llmquota.budget ENABLE ALWAYS TRIGGER check_currencies;
SELECT * FROM error_of($$SELECT llmquota_pick('baht', 'one', 1, 1)$$);
CALL clear();

-- a rate that is missing: an error, and nothing is charged; where nobody would refuse it counts nothing
DELETE FROM llmquota.exchange_rate WHERE currency = 'EUR';
INSERT INTO llmquota.budget (subject, amount, currency) VALUES ('one', 100, 'THB'), ('two', 100, 'EUR'), ('three', 100, 'XAU'), ('four', 100, 'USD');
SELECT e.* FROM unnest('{one,four}'::text[]) org, error_of(format('SELECT llmquota_pick(%L, %L, 1, 1)', 'euro', org)) e;
SELECT e.* FROM unnest('{two,three}'::text[]) org, error_of(format('SELECT llmquota_pick(%L, %L, 1, 1)', 'm', org)) e;
SELECT count(*) FROM llmquota.budget_window w WHERE subject IN ('one', 'two', 'three', 'four') AND used > 0;
UPDATE llmquota.budget SET hard_stop = false;
SELECT lease FROM llmquota_pick('euro', 'one', 1000, 1) \gset
SELECT used('one');
-- it comes before the record, which is by when it was picked: of that time, and of a time after
INSERT INTO llmquota.exchange_rate (currency, valid_from, rate) VALUES ('EUR', clock_timestamp(), 1);
SELECT cost, currency, used('one') FROM llmquota_record(:'lease', 1000, 1);
SELECT lease FROM llmquota_pick('euro', 'one', 1000, 1) \gset
SELECT cost, used('one'), exact(cost, 1, 0.028571428571) AS by_hand FROM llmquota_record(:'lease', 1000, 1);
CALL clear();
-- so is what does not fit 64 bits there
INSERT INTO llmquota.budget (subject, amount, currency) VALUES ('one', 9000000000, 'VND');
SELECT * FROM error_of($$SELECT llmquota_pick('m', 'one', 1, 1, max_cost => 400000)$$);
SELECT status FROM llmquota_pick('m', 'one', 1, 1, max_cost => 360000);
SELECT used, remaining FROM llmquota.budget_window WHERE currency = 'VND';
CALL clear();

-- another currency begins anew, and knows what was spent by the rates of then
UPDATE llmquota.exchange_rate SET valid_from = '-infinity', rate = 1.0825 WHERE currency = 'EUR';
SELECT count(*) FROM llmquota_maintain();
INSERT INTO llmquota.budget (subject, amount, currency) VALUES ('many', 1000, 'USD');
SELECT lease FROM llmquota_pick('m', 'many', 1000, 500) \gset
SELECT windows_completed FROM llmquota_maintain();
SELECT used('many', 'USD') - 0.009125 = sum(exact(cost, r.rate, 1)) AS equal
  FROM llmquota.usage u JOIN (VALUES ('USD', 1), ('EUR', 1.0825), ('THB', 0.028571428571)) r (currency, rate) USING (currency) WHERE org = 'many';
INSERT INTO llmquota.exchange_rate (currency, valid_from, rate) VALUES ('THB', clock_timestamp(), 0.04);
UPDATE llmquota.budget SET currency = 'THB';
SELECT count(llmquota_release(lease)) FROM llmquota_pick('m', 'many', 1, 1);
SELECT windows_completed FROM llmquota_maintain();
SELECT used('many') - exact(0.009125, 1, 0.028571428571) = sum(exact(cost, r.rate, 0.028571428571)) AS equal
  FROM llmquota.usage u JOIN (VALUES ('USD', 1), ('EUR', 1.0825), ('THB', 0.028571428571)) r (currency, rate) USING (currency) WHERE org = 'many';
-- the call that was under way ends, and stays in it as it was reserved
SELECT cost FROM llmquota_record(:'lease', 1, 1);
SELECT used('many') - exact(0.009125, 1, 0.028571428571) = sum(exact(cost, r.rate, 0.028571428571)) AS equal
  FROM llmquota.usage u JOIN (VALUES ('USD', 1), ('EUR', 1.0825), ('THB', 0.028571428571)) r (currency, rate) USING (currency) WHERE org = 'many' AND lease <> :'lease';
-- and back: it knows what it cost in the end
UPDATE llmquota.budget SET currency = 'USD';
SELECT count(llmquota_release(lease)) FROM llmquota_pick('m', 'many', 1, 1);
SELECT windows_completed FROM llmquota_maintain();
SELECT used('many', 'USD') = sum(exact(cost, r.rate, 1)) AS equal
  FROM llmquota.usage u JOIN (VALUES ('USD', 1), ('EUR', 1.0825), ('THB', 0.028571428571)) r (currency, rate) USING (currency) WHERE org = 'many';
SELECT * FROM llmquota_verify();
