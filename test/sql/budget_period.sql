-- When the periods of budgets begin and end, and what one hands on to the next, by a clock that the test sets: the meter is that
-- of test/unit/meter_test.c, by the budgets of the configuration.
\set SHOW_CONTEXT never
\pset null -
SET timezone = 'UTC';
SET datestyle = 'ISO';
LOAD 'llmquota';
CREATE FUNCTION meter_begin() RETURNS void LANGUAGE c STRICT AS 'meter_test', 'meter_begin';
CREATE FUNCTION meter_pick(scope text, subject text, at timestamptz, cost numeric,
	OUT admitted boolean, OUT used numeric, OUT amount numeric, OUT steps int, OUT retry_at timestamptz) LANGUAGE c STRICT AS 'meter_test', 'meter_pick';
CREATE FUNCTION meter_correct(scope text, subject text, picked_at timestamptz, at timestamptz, reserved numeric, used numeric) RETURNS void
LANGUAGE c STRICT AS 'meter_test', 'meter_correct';
CREATE FUNCTION meter_idle(before timestamptz) RETURNS boolean LANGUAGE c STRICT AS 'meter_test', 'meter_idle';
CREATE FUNCTION meter_recount(used numeric) RETURNS numeric LANGUAGE c STRICT AS 'meter_test', 'meter_recount';
-- Picks that cost so much of org o, one after the other from a fresh meter: "2026-01-01 00:00 3.5" each.
CREATE FUNCTION picks(VARIADIC picks text[]) RETURNS TABLE (at timestamptz, cost numeric, admitted boolean, used numeric, steps int, retry_at timestamptz)
LANGUAGE plpgsql AS $$
DECLARE
	pick text;
BEGIN
	PERFORM meter_begin();
	FOREACH pick IN ARRAY picks LOOP
		at := regexp_replace(pick, ' [^ ]*$', '');
		cost := regexp_replace(pick, '.* ', '');
		SELECT p.admitted, trim_scale(p.used), p.steps, p.retry_at INTO admitted, used, steps, retry_at FROM meter_pick('org', 'o', at, cost) p;
		RETURN NEXT;
	END LOOP;
END $$;

INSERT INTO llmquota.provider (provider, adapter, timezone) VALUES ('p', 'gemini', 'America/Los_Angeles');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.org (org, parent, timezone) VALUES ('group', NULL, 'Asia/Bangkok'), ('o', 'group', 'Europe/Berlin');
ALTER TABLE llmquota.budget ALTER currency SET DEFAULT 'USD';

-- every calendar, until when a spent one refuses: summer time begins that day, the clocks of Lord Howe go half an hour back
INSERT INTO llmquota.budget (subject, amount, downgrade_at) VALUES ('o', 10, 0.5);
CREATE FUNCTION spent_until(at timestamptz, VARIADIC calendars text[]) RETURNS TABLE (calendar text, retry_at timestamptz) LANGUAGE plpgsql AS $$
BEGIN
	FOREACH calendar IN ARRAY calendars LOOP
		UPDATE llmquota.budget b SET calendar = spent_until.calendar;
		PERFORM meter_begin();
		PERFORM meter_pick('org', 'o', at, 10);
		SELECT p.retry_at INTO retry_at FROM meter_pick('org', 'o', at, 1) p;
		ASSERT (SELECT NOT p.admitted FROM meter_pick('org', 'o', retry_at - interval '1 us', 1) p) IS NOT FALSE, 'it opens before';
		ASSERT (SELECT p.admitted AND p.used = 1 FROM meter_pick('org', 'o', retry_at, 1) p) IS NOT FALSE, 'it does not open then';
		RETURN NEXT;
	END LOOP;
END $$;
SELECT * FROM spent_until('2026-03-29 00:30', 'day', 'week', 'month', 'quarter', 'year', 'total');
SELECT * FROM spent_until('2026-10-24 22:00', 'day', 'week', 'month', 'quarter', 'year');
UPDATE llmquota.budget SET timezone = 'Australia/Lord_Howe';
SELECT * FROM spent_until('2026-04-04 13:00', 'day', 'week', 'month', 'quarter', 'year');
-- a year that begins with another month, and quarters counted from there; a leap day
UPDATE llmquota.budget SET timezone = NULL, calendar = 'year', fiscal_month = 4;
SELECT * FROM spent_until('2028-02-29 12:00', 'quarter', 'year');
UPDATE llmquota.budget SET fiscal_month = 3;
SELECT * FROM spent_until('2028-02-29 12:00', 'quarter', 'year');
UPDATE llmquota.budget SET fiscal_month = 1;
-- zones at either end of the day
UPDATE llmquota.budget SET calendar = 'day', timezone = 'Pacific/Kiritimati';
SELECT * FROM spent_until('2026-01-01 09:59:59.999999', 'day');
SELECT * FROM spent_until('2026-01-01 10:00', 'day');
UPDATE llmquota.budget SET timezone = 'Etc/GMT+12';
SELECT * FROM spent_until('2026-01-01 11:59:59.999999', 'day');
-- whose zone it is: the budget's, else that of the org or the parent, or of the provider, else UTC
DELETE FROM llmquota.budget;
INSERT INTO llmquota.budget (scope, subject, amount) VALUES
	('org', '*', 10), ('parent', 'group', 10), ('provider', 'p', 10), ('account', 'a', 10), ('key', 'k', 10), ('global', '', 10);
CREATE FUNCTION opens(scope text, subject text) RETURNS timestamptz LANGUAGE sql AS $$
	SELECT meter_begin();
	SELECT meter_pick(scope, subject, '2026-07-01 12:00', 10);
	SELECT retry_at FROM meter_pick(scope, subject, '2026-07-01 12:00', 1);
$$;
SELECT s.*, opens(scope, subject) FROM (VALUES ('org', 'o'), ('org', 'group'), ('org', 'stranger'), ('parent', 'group'), ('provider', 'p'), ('account', 'a'), ('key', 'k'), ('global', '')) s (scope, subject);
UPDATE llmquota.budget SET timezone = 'Asia/Kathmandu';
SELECT s.*, opens(scope, subject) FROM (VALUES ('org', 'o'), ('parent', 'group'), ('key', 'k'), ('global', '')) s (scope, subject);
DELETE FROM llmquota.budget;

-- a total counts once, from its start on, and opens never
INSERT INTO llmquota.budget (subject, amount, calendar, starts_at) VALUES ('o', 10, 'total', '2026-07-01 00:00+00');
SELECT * FROM picks('2026-06-01 00:00 100', '2026-06-30 23:59:59.999999 100', '2026-07-01 00:00 7', '2026-12-31 00:00 3.000000001', '2026-12-31 00:00 3', '2036-01-01 00:00 1');
UPDATE llmquota.budget SET starts_at = '-infinity';
SELECT * FROM picks('2026-06-01 00:00 10', '2036-01-01 00:00 1');
-- sliding: what was spent leaves after the length, at the latest a sixtieth of it later
UPDATE llmquota.budget SET calendar = NULL, per = '1 hour', starts_at = '-infinity';
SELECT * FROM picks('2026-06-01 00:00:30 6', '2026-06-01 00:30 4', '2026-06-01 00:59 1', '2026-06-01 01:01 6', '2026-06-01 01:01 0.1');

-- nothing is handed on unless the budget says so
UPDATE llmquota.budget SET calendar = 'day', per = NULL, timezone = 'UTC', downgrade_at = 0.8;
SELECT * FROM picks('2026-01-01 12:00 10', '2026-01-02 12:00 10', '2026-01-02 12:00 1');
-- debt: an excess of 25 takes two days and a half of 10 to be paid back
CREATE FUNCTION debt(VARIADIC later text[]) RETURNS TABLE (at timestamptz, cost numeric, admitted boolean, used numeric, steps int, retry_at timestamptz) LANGUAGE plpgsql AS $$
DECLARE
	pick text;
BEGIN
	PERFORM picks('2026-01-01 12:00 10');
	PERFORM meter_correct('org', 'o', '2026-01-01 12:00', '2026-01-01 12:01', 10, 35);
	FOREACH pick IN ARRAY later LOOP
		at := regexp_replace(pick, ' [^ ]*$', '');
		cost := regexp_replace(pick, '.* ', '');
		SELECT p.admitted, trim_scale(p.used), p.steps, p.retry_at INTO admitted, used, steps, retry_at FROM meter_pick('org', 'o', at, cost) p;
		RETURN NEXT;
	END LOOP;
END $$;
SELECT * FROM debt('2026-01-01 13:00 1', '2026-01-02 00:00 1');
UPDATE llmquota.budget SET carry_debt = true;
SELECT * FROM debt('2026-01-01 13:00 1', '2026-01-02 00:00 1', '2026-01-03 00:00 1', '2026-01-04 00:00 5.1', '2026-01-04 00:00 5', '2026-01-05 00:00 10');
SELECT * FROM debt('2026-01-01 13:00 5.000000001', '2026-01-01 13:00 5', '2026-01-01 13:00 10', '2026-01-01 13:00 10.000000001');
SELECT * FROM debt('2026-01-04 12:00 5.1', '2026-01-04 12:00 5');
SELECT * FROM debt('2026-01-05 12:00 10', '2026-01-06 12:00 10.1');
SELECT * FROM debt('2026-02-05 12:00 10.1');
-- after another price a period is counted anew, but not one that began with a debt
SELECT * FROM debt('2026-01-01 13:00 1');
SELECT trim_scale(meter_recount(17)) AS recounted;
SELECT p.admitted, trim_scale(p.used) AS used, meter_recount(0) AS recounted FROM meter_pick('org', 'o', '2026-01-02 12:00', 1) p;
SELECT p.admitted, trim_scale(p.used) AS used, meter_recount(0) AS recounted FROM meter_pick('org', 'o', '2026-01-02 12:00', 1) p;
SELECT p.admitted, trim_scale(p.used) AS used, trim_scale(meter_recount(2)) AS recounted FROM meter_pick('org', 'o', '2026-01-03 00:00', 1) p;
-- what was not spent, at most the amount again
UPDATE llmquota.budget SET carry_debt = false, carry_unspent = true;
SELECT * FROM picks('2026-01-01 12:00 4', '2026-01-02 12:00 16.1', '2026-01-02 12:00 16', '2026-01-03 12:00 10.1');
SELECT * FROM picks('2026-01-01 12:00 4', '2026-01-02 12:00 3', '2026-01-03 12:00 20.1', '2026-01-03 12:00 20');
SELECT * FROM picks('2026-01-01 12:00 4', '2026-01-09 12:00 20.1', '2026-01-09 12:00 20');
SELECT * FROM picks('2026-01-01 12:00 4', '2026-01-02 12:00 13.9', '2026-01-02 12:00 0.1');
SELECT * FROM debt('2026-01-02 00:00 10.1', '2026-01-02 00:00 10');
SELECT * FROM debt('2026-01-03 00:00 20.1', '2026-01-03 00:00 20');
-- both
UPDATE llmquota.budget SET carry_debt = true;
SELECT * FROM debt('2026-01-04 00:00 5.1', '2026-01-05 00:00 15', '2026-01-06 00:00 10.1', '2026-01-07 00:00 20');
SELECT * FROM debt('2026-01-05 00:00 15.1', '2026-01-05 00:00 15');
SELECT * FROM debt('2026-03-01 00:00 20.1', '2026-03-01 00:00 20');

-- months and years of other lengths: from the end of one that is short, over many, one is one
UPDATE llmquota.budget SET calendar = 'month', carry_unspent = false;
CREATE FUNCTION paid_back(picked_at timestamptz, excess numeric) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
	later timestamptz := picked_at;
	found boolean := false;
BEGIN
	WHILE NOT found AND later < picked_at + interval '4 years' LOOP
		later := later + interval '1 day';
		PERFORM meter_begin();
		PERFORM meter_pick('org', 'o', picked_at, 1);
		PERFORM meter_correct('org', 'o', picked_at, picked_at, 1, 10 + excess);
		SELECT p.admitted INTO found FROM meter_pick('org', 'o', later, 10) p;
	END LOOP;
	RETURN later;
END $$;
SELECT picked_at::date, excess, paid_back(picked_at, excess)::date
  FROM unnest('{2026-02-01,2028-02-29,2026-07-31}'::timestamptz[]) picked_at, unnest('{1,11,61,120,235}'::numeric[]) excess;
UPDATE llmquota.budget SET calendar = 'quarter';
SELECT picked_at::date, excess, paid_back(picked_at, excess)::date FROM unnest('{2026-01-01,2026-09-30}'::timestamptz[]) picked_at, unnest('{1,31,80}'::numeric[]) excess;
UPDATE llmquota.budget SET calendar = 'week';
SELECT paid_back('2026-01-04', 515)::date;
UPDATE llmquota.budget SET calendar = 'day', timezone = 'Europe/Berlin';
-- the day of 23 hours, and what is much later
SELECT paid_back('2026-03-29', excess)::date - '2026-03-29' AS days FROM unnest('{1,115,995,2000}'::numeric[]) excess;
SELECT paid_back('2026-10-25', excess)::date - '2026-10-25' AS days FROM unnest('{1,115,995,2000}'::numeric[]) excess;
UPDATE llmquota.budget SET timezone = 'UTC';

-- a raise is part of its period's amount, and of no other's
INSERT INTO llmquota.budget_raise (budget, subject, amount, until, reason, raised_by, raised_at)
SELECT id, 'o', 30, '2026-01-01 18:00', 'test', 'test', '2026-01-01 06:00' FROM llmquota.budget;
SELECT * FROM debt('2026-01-02 00:00 5.1', '2026-01-02 00:00 5');
UPDATE llmquota.budget_raise SET raised_at = '2025-12-01', until = '2026-01-01 00:00';
SELECT * FROM debt('2026-01-02 00:00 5', '2026-01-04 00:00 5');
UPDATE llmquota.budget_raise SET raised_at = '2026-01-02 00:00', until = '2026-01-02 06:00';
SELECT * FROM debt('2026-01-02 00:00 5.1', '2026-01-02 00:00 5', '2026-01-02 06:00 1', '2026-01-03 00:00 10');
UPDATE llmquota.budget SET carry_unspent = true;
-- it leaves no more for later than the amount
UPDATE llmquota.budget_raise SET raised_at = '2026-01-01 00:00', until = '2026-01-02 00:00', amount = 1000;
SELECT * FROM picks('2026-01-01 00:00 4', '2026-01-02 00:00 20.1', '2026-01-02 00:00 20');
DELETE FROM llmquota.budget_raise;

-- a call that began before midnight: what it is more counts now, what it is less for then; with what is handed on for then
UPDATE llmquota.budget SET carry_debt = false, carry_unspent = false;
CREATE FUNCTION over_midnight(reserved numeric, used numeric, between_them text DEFAULT NULL) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
	found numeric;
BEGIN
	PERFORM meter_begin();
	PERFORM meter_pick('org', 'o', '2026-01-01 23:59', reserved);
	IF between_them IS NOT NULL THEN
		PERFORM meter_pick('org', 'o', between_them::timestamptz, 1);
	END IF;
	PERFORM meter_correct('org', 'o', '2026-01-01 23:59', '2026-01-02 00:02', reserved, over_midnight.used);
	SELECT trim_scale(p.used) INTO found FROM meter_pick('org', 'o', '2026-01-02 00:03', 0) p;
	RETURN found;
END $$;
SELECT over_midnight(5, 12), over_midnight(5, 12, '2026-01-02 00:01'), over_midnight(5, 2), over_midnight(5, 2, '2026-01-02 00:01');
UPDATE llmquota.budget SET carry_debt = true;
SELECT over_midnight(5, 12), over_midnight(5, 12, '2026-01-02 00:01'), over_midnight(5, 2), over_midnight(5, 2, '2026-01-02 00:01');
UPDATE llmquota.budget SET carry_unspent = true;
SELECT over_midnight(5, 12), over_midnight(5, 12, '2026-01-02 00:01'), over_midnight(5, 2), over_midnight(5, 2, '2026-01-02 00:01');

-- what hands on something is kept for a period more
UPDATE llmquota.budget SET carry_debt = true, carry_unspent = false;
SELECT count(*) FROM debt('2026-01-02 00:00 1');
SELECT at, meter_idle(at) FROM unnest('{2026-01-01 23:59:59,2026-01-02,2026-01-02 23:59:59,2026-01-03}'::timestamptz[]) at;
UPDATE llmquota.budget SET carry_debt = false;
SELECT count(*) FROM debt('2026-01-01 13:00 1');
SELECT at, meter_idle(at) FROM unnest('{2026-01-01 23:59:59,2026-01-02}'::timestamptz[]) at;
DELETE FROM llmquota.budget;
SELECT * FROM llmquota_verify();
