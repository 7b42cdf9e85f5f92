-- Bad budgets, and orgs and models that stand above themselves, are refused when they are written, and say why.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = warning;
SET timezone = 'UTC';

-- Runs a statement and says what came of it: ok, or SQLSTATE, message, detail and hint.
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	-- a failing row shows all its columns: of no interest here
	RETURN concat_ws(E'\n', SQLSTATE || ' ' || SQLERRM, nullif(regexp_replace(detail, '^Failing row contains.*', ''), ''), nullif(hint, ''));
END $$;

-- Runs one statement for each of several values put in place of %L.
CREATE FUNCTION attempt(statement text, VARIADIC candidates text[]) RETURNS TABLE (value text, result text) LANGUAGE sql AS $$
	SELECT CASE WHEN octet_length(c) > 40 THEN left(c, 2) || ' ... (' || octet_length(c) || ' bytes)' ELSE c END,
		   attempt(format(statement, c))
	  FROM unnest(candidates) WITH ORDINALITY AS u (c, n) ORDER BY n
$$;

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai'), ('q', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'q');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a'), ('l', 'b');
INSERT INTO llmquota.model (model, provider, family) VALUES ('m', 'p', 'f'), ('n', 'p', 'f'), ('o', 'p', 'f'), ('x', 'q', NULL);

--
-- Words and numbers
--
SELECT * FROM attempt($$INSERT INTO llmquota.budget (scope, subject, amount, currency) VALUES (%L, 'x', 1, 'USD')$$, NULL, '', 'model', 'Org', 'global');
SELECT * FROM attempt($$INSERT INTO llmquota.budget (scope, subject, amount, currency) VALUES (%L, '', 1, 'USD')$$, 'provider', 'account', 'key');
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency) VALUES (%L, 1, 'USD')$$, NULL, repeat('x', 129), repeat('é', 65));
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency) VALUES ('x', %L, 'USD')$$, '-0.000000001', '0.0000000001', '9000000000.000000001', 'NaN', 'Infinity');
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency) VALUES ('x', 1, %L)$$, NULL, '', 'usd', 'US', 'USDT', 'US$');
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency, model) VALUES ('x', 1, 'USD', %L)$$, '', repeat('x', 129));
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency, family) VALUES ('x', 1, 'USD', %L)$$, '', repeat('x', 129));
SELECT attempt($$INSERT INTO llmquota.budget (subject, amount, currency, model, family) VALUES ('x', 1, 'USD', 'm', 'f')$$);
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency, downgrade_at) VALUES ('x', 1, 'USD', %L)$$, '-0.1', '1.1', 'NaN');
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency, downgrade_to) VALUES ('x', 1, 'USD', %L)$$, '', 'none');
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency, alert_at) VALUES ('x', 1, 'USD', %L)$$,
	NULL, '{0}', '{1.01}', '{0.5,NULL}', '{NaN}', '{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9}');
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency, mode) VALUES ('x', 1, 'USD', %L)$$, NULL, '', 'warn');
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency, rollout) VALUES ('x', 1, 'USD', %L)$$, NULL, '-0.1', '1.1', 'NaN');
SELECT attempt($$INSERT INTO llmquota.budget (id, subject, amount, currency) VALUES (1, 'x', 1, 'USD')$$);
SELECT attempt($$INSERT INTO llmquota.budget (id, subject, amount, currency) OVERRIDING SYSTEM VALUE VALUES (281474976710656, 'x', 1, 'USD')$$);
SELECT * FROM attempt($$INSERT INTO llmquota.org (org, parent) VALUES ('x', %L)$$, 'none', 'x', '*');
SELECT * FROM attempt($$INSERT INTO llmquota.org (org, markup) VALUES ('x', %L)$$, NULL, '-1.1', '1001', '0.0000000001', 'NaN');
SELECT * FROM attempt($$INSERT INTO llmquota.org (org, timezone) VALUES ('x', %L)$$, NULL, '', 'Europe/Atlantis', '+02:00', 'Mars5');

--
-- Windows
--
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency, calendar) VALUES ('x', 1, 'USD', %L)$$, NULL, '', 'hour', 'Day', 'decade');
SELECT attempt($$INSERT INTO llmquota.budget (subject, amount, currency, per) VALUES ('x', 1, 'USD', '1 day')$$);
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency, calendar, per) VALUES ('x', 1, 'USD', NULL, %L)$$,
	'0', '0.999999 seconds', '400 days 0.000001 seconds', '1 month', '1 year', '1 month -29 days');
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency, timezone) VALUES ('x', 1, 'USD', %L)$$, '', 'Europe/Atlantis', 'PST', '+02:00', 'Mars5');
-- what belongs to one kind of window only
SELECT w.name, c.name, attempt(format('INSERT INTO llmquota.budget (subject, amount, currency, calendar, per, %s) VALUES (%L, 1, ''USD'', %L, %L, %L)',
		c.name, w.name || c.name, CASE WHEN w.name <> 'per' THEN w.name END, CASE WHEN w.name = 'per' THEN '1 day' END, c.value))
  FROM unnest('{per,day,week,month,quarter,year,total}'::text[]) WITH ORDINALITY AS w (name, i)
 CROSS JOIN (VALUES (1, 'timezone', 'Asia/Bangkok'), (2, 'fiscal_month', '10'), (3, 'starts_at', '2026-01-01'),
	(4, 'carry_debt', 'true'), (5, 'carry_unspent', 'true')) AS c (n, name, value)
 ORDER BY i, c.n;
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency, calendar, fiscal_month) VALUES ('y', 1, 'USD', 'year', %L)$$, NULL, '0', '13', '1', '12', '12');
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency, calendar, starts_at) VALUES ('y', 1, 'USD', 'total', %L)$$, NULL, 'infinity', '-infinity', '2020-01-01');
DELETE FROM llmquota.budget;

--
-- What is taken: an org that is not listed, an empty one, no limit, the bounds
--
SELECT * FROM attempt($$INSERT INTO llmquota.budget (subject, amount, currency) VALUES (%L, 1, 'USD')$$, 'nobody', '', '*', repeat('x', 128));
SELECT * FROM attempt($$INSERT INTO llmquota.budget (scope, subject, amount, currency) VALUES ('parent', %L, 1, 'USD')$$, 'nobody', '', '*');
SELECT * FROM attempt($$INSERT INTO llmquota.budget (scope, subject, amount, currency) VALUES ('global', '', %L, 'USD')$$, '0', '0');
SELECT * FROM attempt($$UPDATE llmquota.budget SET amount = %L WHERE scope = 'global'$$, '9000000000', '0.000000001', NULL);
SELECT * FROM attempt($$UPDATE llmquota.budget SET alert_at = %L$$, '{}', '{1}', '{0.000001,0.1,0.2,0.3,0.4,0.5,0.6,1}');
SELECT * FROM attempt($$UPDATE llmquota.budget SET downgrade_at = %L, downgrade_to = 'm'$$, '0', '1', NULL);

--
-- Steps and raises
--
SELECT max(id) AS budget FROM llmquota.budget \gset
SELECT * FROM attempt(format($$INSERT INTO llmquota.budget_step (budget, at, model) VALUES (%s, %%L, 'm')$$, :budget), NULL, '-0.1', '1.1', 'NaN', '0', '0.95', '1');
SELECT * FROM attempt(format($$INSERT INTO llmquota.budget_step (budget, at, model) VALUES (%s, 0.5, %%L)$$, :budget), NULL, 'none', 'n');
SELECT attempt($$INSERT INTO llmquota.budget_step (budget, at, model) VALUES (0, 0.5, 'm')$$);
SELECT attempt(format($$INSERT INTO llmquota.budget_raise (budget, subject, amount, until, reason, raised_by, raised_at)
	VALUES (%s, 'x', %L, '2026-01-01', 'r', 'me', '2026-01-01')$$, budget, amount))
  FROM (VALUES (1, 0, 1), (2, :budget, -1), (3, :budget, 0.0000000001), (4, :budget, 'NaN'::numeric), (5, :budget, 5)) v (n, budget, amount) ORDER BY n;
SELECT attempt($$DELETE FROM llmquota.model WHERE model = 'n'$$);
-- they go with their budget
DELETE FROM llmquota.budget;
SELECT (SELECT count(*) FROM llmquota.budget_step) AS steps, (SELECT count(*) FROM llmquota.budget_raise) AS raises;

--
-- A meter has room for 4 budgets
--
CREATE FUNCTION budgets(scope text, subject text, model text, family text, first int, last int, amount numeric DEFAULT 1) RETURNS text LANGUAGE sql AS $$
	SELECT attempt(format('INSERT INTO llmquota.budget (scope, subject, model, family, currency, amount, calendar, per) '
						  'SELECT %L, %L, %L, %L, ''USD'', %s, NULL, n * interval ''1 minute'' FROM generate_series(%s, %s) n',
						  scope, subject, model, family, coalesce(amount::text, 'NULL'), first, last))
$$;
BEGIN;
SELECT budgets('key', 'k', NULL, NULL, 1, 4);
SELECT budgets('key', 'k', NULL, NULL, 5, 5);
SELECT attempt($$INSERT INTO llmquota.budget (scope, subject, currency, amount) VALUES ('key', '*', 'THB', 1)$$);
SELECT attempt($$INSERT INTO llmquota.budget (scope, subject, currency, amount, calendar) VALUES ('key', 'l', 'THB', 1, 'total')$$);
SELECT budgets('key', 'k', 'm', NULL, 1, 4);
SELECT budgets('key', 'k', NULL, 'f', 1, 4);
SELECT attempt($$UPDATE llmquota.budget SET subject = 'k' WHERE subject = 'l'$$);
SELECT attempt($$DELETE FROM llmquota.budget WHERE subject = 'k' AND per = '1 minute'$$);
SELECT attempt($$UPDATE llmquota.budget SET subject = 'k' WHERE subject = 'l'$$);
-- quotas have room of their own
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) SELECT 'key', 'k', 'tokens', 1, n * interval '1 minute' FROM generate_series(1, 8) n;
SELECT attempt($$INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('key', 'k', 'concurrency', 1)$$);
ROLLBACK;
SELECT budgets('global', '', NULL, NULL, 1, 5);
-- each of these is a window of its own: currency, calendar, zone, the month that years begin with
BEGIN;
INSERT INTO llmquota.budget (subject, currency, amount, calendar, timezone, fiscal_month) VALUES
	('*', 'USD', 1, 'year', NULL, 1), ('*', 'THB', 1, 'year', NULL, 1), ('*', 'USD', 1, 'year', 'Asia/Bangkok', 1), ('*', 'USD', 1, 'year', NULL, 10);
SELECT attempt($$INSERT INTO llmquota.budget (subject, currency, amount, calendar) VALUES ('c', 'USD', 1, 'day')$$);
-- a row that names its subject replaces the one for every subject, also to take it away
INSERT INTO llmquota.budget (subject, currency, amount, calendar, fiscal_month) VALUES ('c', 'USD', NULL, 'year', 10);
SELECT attempt($$INSERT INTO llmquota.budget (subject, currency, amount, calendar) VALUES ('c', 'USD', 1, 'day')$$);
SELECT attempt($$INSERT INTO llmquota.budget (subject, currency, amount, calendar) VALUES ('c', 'USD', 1, 'year')$$);
SELECT attempt($$INSERT INTO llmquota.budget (subject, currency, amount, calendar) VALUES ('c', 'USD', 1, 'month')$$);
SELECT attempt($$INSERT INTO llmquota.budget (subject, currency, amount, calendar) VALUES ('*', 'USD', 1, 'day')$$);
SELECT attempt($$DELETE FROM llmquota.budget WHERE subject = 'c' AND amount IS NULL$$);
SELECT attempt($$UPDATE llmquota.budget SET amount = 1 WHERE subject = 'c' AND amount IS NULL$$);
SELECT attempt($$UPDATE llmquota.budget SET subject = 'd' WHERE subject = 'c' AND amount IS NULL$$);
SELECT attempt($$DELETE FROM llmquota.budget WHERE subject = 'c'$$);
ROLLBACK;
-- the rows for each model count with those for one model
BEGIN;
SELECT budgets('account', '*', '*', NULL, 1, 2), budgets('account', 'a', 'm', NULL, 3, 4), budgets('account', 'a', 'n', NULL, 5, 6);
SELECT budgets('account', 'a', 'm', NULL, 5, 5);
SELECT budgets('account', '*', '*', NULL, 7, 7);
ROLLBACK;

--
-- A pick has 12 cells: 11 meters and the lease; quotas and budgets of one subject and part share a meter
--
BEGIN;
INSERT INTO llmquota.quota (scope, subject, metric, amount, model, family)
SELECT scope, CASE scope WHEN 'global' THEN '' ELSE '*' END, 'concurrency', 1, CASE part WHEN 'model' THEN '*' END, CASE part WHEN 'family' THEN '*' END
  FROM unnest('{global,provider,account,key}'::text[]) scope CROSS JOIN unnest('{all,model}'::text[]) part;
SELECT budgets('global', '', '*', NULL, 1, 1), budgets('key', 'k', 'm', NULL, 1, 1), budgets('org', '*', NULL, NULL, 1, 1);
-- nine so far; of two parents one call can have both
SELECT budgets('parent', 'top', NULL, NULL, 1, 2), budgets('parent', 'middle', NULL, NULL, 1, 1);
SELECT budgets('parent', 'bottom', NULL, NULL, 1, 1);
SELECT budgets('org', '*', '*', NULL, 1, 1);
SELECT attempt($$INSERT INTO llmquota.quota (scope, metric, amount, family) VALUES ('global', 'concurrency', 1, '*')$$);
SELECT budgets('parent', '*', NULL, NULL, 1, 1, NULL), budgets('parent', 'top', NULL, NULL, 3, 4), budgets('org', 'c', NULL, NULL, 1, 4);
SELECT attempt($$UPDATE llmquota.budget SET amount = 1 WHERE scope = 'parent' AND amount IS NULL$$);
SELECT attempt($$DELETE FROM llmquota.quota WHERE model = '*' AND scope IN ('provider', 'account')$$);
SELECT attempt($$UPDATE llmquota.budget SET amount = 1 WHERE scope = 'parent' AND amount IS NULL$$);
-- a call's org and three above it: never more than four, whatever is named
DELETE FROM llmquota.budget WHERE scope = 'parent' AND subject = '*';
SELECT budgets('parent', 'org ' || n, NULL, NULL, 1, 1) FROM generate_series(1, 5) n;
SELECT budgets('parent', 'top', 'm', NULL, 1, 1);
ROLLBACK;

--
-- One call is counted in 3 currencies besides that of its price
--
CREATE FUNCTION currencies(scope text, subject text, part text, VARIADIC list text[]) RETURNS text LANGUAGE sql AS $$
	SELECT attempt(format('INSERT INTO llmquota.budget (scope, subject, model, currency, amount) SELECT %L, %L, %L, unnest(%L::text[]), 1', scope, subject, part, list))
$$;
-- four may be, because one may be the price's
BEGIN;
SELECT currencies('org', '*', NULL, 'USD', 'EUR', 'THB', 'JPY');
SELECT currencies('org', 'c', NULL, 'USD', 'EUR', 'THB', 'JPY');
SELECT currencies('org', '*', '*', 'GBP');
SELECT currencies('global', '', NULL, 'GBP');
SELECT currencies('key', '*', 'm', 'GBP');
SELECT currencies('key', 'k', NULL, 'GBP');
SELECT attempt($$INSERT INTO llmquota.budget (scope, subject, currency, amount) VALUES ('key', 'k', 'GBP', NULL)$$);
SELECT currencies('key', 'k', NULL, 'USD');
SELECT attempt($$UPDATE llmquota.budget SET amount = 1 WHERE amount IS NULL$$);
SELECT attempt($$UPDATE llmquota.budget SET currency = 'GBP' WHERE currency = 'EUR'$$);
SELECT currencies('key', 'k', NULL, 'EUR');
ROLLBACK;
-- orgs and models that no call has in common may have one each; of accounts and keys all count
BEGIN;
SELECT currencies('org', 'org ' || c, NULL, c) FROM unnest('{USD,EUR,THB,JPY,GBP,INR}'::text[]) c;
SELECT currencies('provider', 'provider ' || c, NULL, c) FROM unnest('{USD,EUR,THB,JPY,GBP,INR}'::text[]) c;
SELECT currencies('global', '', c, c) FROM unnest('{USD,EUR,THB,JPY,GBP,INR}'::text[]) c;
SELECT currencies('global', '', NULL, 'USD', 'EUR', 'THB', 'JPY');
SELECT currencies('org', 'c', NULL, 'USD', 'EUR', 'THB', 'JPY');
SELECT currencies('org', 'c', 'GBP', 'USD');
SELECT currencies('org', 'c', 'm', 'GBP');
ROLLBACK;
-- an org has those of all above it, too, if they are for everybody below them
BEGIN;
INSERT INTO llmquota.org (org, parent) VALUES ('top', NULL), ('middle', 'top'), ('bottom', 'middle'), ('beside', 'top');
SELECT currencies('parent', 'top', NULL, 'USD', 'EUR'), currencies('parent', 'middle', NULL, 'GBP'), currencies('org', 'middle', NULL, 'THB');
SELECT currencies('org', 'bottom', NULL, 'JPY');
SELECT currencies('org', 'bottom', NULL, 'THB');
SELECT currencies('parent', 'bottom', NULL, 'THB');
SELECT currencies('org', 'middle', NULL, 'JPY');
SELECT currencies('parent', 'middle', NULL, 'JPY');
SELECT currencies('org', 'beside', NULL, 'THB', 'JPY');
DELETE FROM llmquota.budget;
SELECT currencies('account', 'account ' || c, c, c) FROM unnest('{USD,EUR,THB}'::text[]) c;
SELECT currencies('key', 'key ' || c, NULL, c) FROM unnest('{USD,JPY,GBP}'::text[]) c;
SELECT currencies('org', 'top', NULL, 'INR');
SELECT currencies('provider', 'p', NULL, 'INR');
SELECT currencies('provider', 'p', NULL, 'JPY');
SELECT attempt($$UPDATE llmquota.budget SET amount = NULL WHERE currency = 'USD'$$);
SELECT currencies('org', 'top', NULL, 'INR');
-- rows without an amount have none, and provider "top" is another than org "top"
DELETE FROM llmquota.budget;
SELECT currencies('org', 'top', NULL, 'USD', 'EUR', 'THB', 'JPY'), currencies('provider', 'top', NULL, 'GBP');
UPDATE llmquota.budget SET amount = NULL WHERE currency = 'EUR';
SELECT currencies('parent', 'top', NULL, 'GBP');
SELECT currencies('parent', 'top', NULL, 'EUR');
ROLLBACK;

--
-- Orgs belong to orgs: never to themselves, and at most 3 are above one
--
BEGIN;
SELECT attempt($$INSERT INTO llmquota.org (org, parent) VALUES ('d', 'c'), ('a', NULL), ('c', 'b'), ('b', 'a')$$);
SELECT attempt($$INSERT INTO llmquota.org (org, parent) VALUES ('e', 'd')$$);
SELECT attempt($$UPDATE llmquota.org SET parent = 'b' WHERE org = 'a'$$);
SELECT attempt($$UPDATE llmquota.org SET parent = 'd' WHERE org = 'a'$$);
SELECT attempt($$UPDATE llmquota.org SET parent = 'd' WHERE org = 'b'$$);
-- what is below comes along
SELECT attempt($$INSERT INTO llmquota.org (org) VALUES ('above')$$);
SELECT attempt($$UPDATE llmquota.org SET parent = 'above' WHERE org = 'a'$$);
SELECT attempt($$UPDATE llmquota.org SET parent = 'above' WHERE org = 'b'$$);
SELECT attempt($$UPDATE llmquota.org SET parent = 'above' WHERE org = 'a'$$);
-- all of one statement together, and what changes nothing
SELECT attempt($$UPDATE llmquota.org SET parent = CASE org WHEN 'a' THEN 'd' WHEN 'b' THEN NULL END WHERE org IN ('a', 'b')$$);
SELECT attempt($$UPDATE llmquota.org SET parent = CASE org WHEN 'b' THEN 'a' END WHERE org IN ('a', 'b')$$);
SELECT attempt($$UPDATE llmquota.org SET parent = parent, priority = 'high'$$);
SELECT attempt($$DELETE FROM llmquota.org WHERE org = 'b'$$);
SELECT attempt($$DELETE FROM llmquota.org$$);
ROLLBACK;

--
-- The substitutes of models end somewhere
--
BEGIN;
SELECT * FROM attempt($$UPDATE llmquota.model SET downgrade_to = %L WHERE model = 'm'$$, '', 'none', 'm', 'n');
SELECT attempt($$UPDATE llmquota.model SET downgrade_to = 'm' WHERE model = 'n'$$);
SELECT attempt($$UPDATE llmquota.model SET downgrade_to = 'o' WHERE model = 'n'$$);
SELECT attempt($$UPDATE llmquota.model SET downgrade_to = 'm' WHERE model = 'o'$$);
SELECT attempt($$INSERT INTO llmquota.model (model, provider, downgrade_to) SELECT 'm' || n, 'p', CASE n WHEN 1 THEN 'm' ELSE 'm' || n - 1 END FROM generate_series(1, 20) n$$);
SELECT attempt($$UPDATE llmquota.model SET downgrade_to = 'm20' WHERE model = 'o'$$);
SELECT attempt($$UPDATE llmquota.model SET downgrade_to = 'x' WHERE model = 'o'$$);
SELECT attempt($$DELETE FROM llmquota.model WHERE model = 'x'$$);
ROLLBACK;

-- nothing of all that is left, and what is live is as it was
SELECT count(*) FROM llmquota.budget;
SELECT * FROM llmquota_verify();
