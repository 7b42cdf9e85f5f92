-- Who sees and does what with budgets: refusals, in the answer and kept; views; raises, and who may make them.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_llmquota_app, regress_llmquota_clinic, regress_llmquota_analyst, regress_llmquota_all, regress_llmquota_admin, regress_llmquota_none;
CREATE ROLE regress_llmquota_app;
CREATE ROLE regress_llmquota_clinic;
CREATE ROLE regress_llmquota_analyst;
CREATE ROLE regress_llmquota_all;
CREATE ROLE regress_llmquota_admin;
CREATE ROLE regress_llmquota_none;
SET client_min_messages = warning;
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider, downgrade_to) VALUES ('small', 'p', NULL), ('m', 'p', 'small');
INSERT INTO llmquota.price (model, input, output) VALUES ('m', 1000000, 0), ('small', 100000, 0);
INSERT INTO llmquota.org (org, parent) VALUES ('group', NULL), ('clinic', 'group'), ('other', 'group');
ALTER TABLE llmquota.budget ALTER currency SET DEFAULT 'USD', ALTER calendar SET DEFAULT NULL, ALTER per SET DEFAULT '1 day', ALTER downgrade_at SET DEFAULT NULL;
SELECT llmquota_grant('regress_llmquota_app', 'app'), llmquota_grant('regress_llmquota_clinic', 'app', 'clinic'),
	llmquota_grant('regress_llmquota_analyst', 'analyst', 'clinic'), llmquota_grant('regress_llmquota_all', 'analyst'),
	llmquota_grant('regress_llmquota_admin', 'admin');
-- What a role is answered: the first line, or the error.
CREATE FUNCTION as_role(role text, query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE format('SET LOCAL ROLE regress_llmquota_%s', role);
	EXECUTE query INTO answer;
	RESET ROLE;
	RETURN answer;
EXCEPTION WHEN OTHERS THEN
	RESET ROLE;
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
CREATE PROCEDURE clear() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM llmquota_release(lease) FROM llmquota.lease;
	DELETE FROM llmquota.budget;
END $$;

-- an org's own budget is named to all who call for it; that of the org above only to administrators, that of a shared key too
INSERT INTO llmquota.budget (scope, subject, amount) VALUES ('org', 'other', 1), ('parent', 'group', 2), ('key', 'k', 3);
SELECT role, as_role(role, $$SELECT status FROM llmquota_pick('m', 'clinic', 2, 0) WHERE llmquota_release(lease) = 'released'$$) FROM unnest('{app,clinic}'::text[]) role;
SELECT role, org, as_role(role, format($$SELECT refusal - 'retry_at' - 'budget' FROM llmquota_pick('m', %L, 3, 0)$$, org)) AS refusal
  FROM unnest('{app,clinic,admin}'::text[]) role, unnest('{clinic,other,group}'::text[]) org ORDER BY org, role;
SELECT role, org, as_role(role, format($$SELECT (verdict, scope, subject, metric, period, amount, used, requested) FROM llmquota_explain('m', %L, 3, 0)$$, org)) AS explained
  FROM unnest('{app,clinic,admin}'::text[]) role, unnest('{clinic,group}'::text[]) org ORDER BY org, role;
DELETE FROM llmquota.budget WHERE scope = 'parent';
SELECT role, as_role(role, $$SELECT refusal - 'retry_at' - 'budget' FROM llmquota_pick('m', 'clinic', 4, 0)$$) AS refusal FROM unnest('{app,clinic,admin}'::text[]) role;
-- kept: by hours with the budget's id, and one of each minute
SELECT refusals_kept FROM llmquota_maintain();
SELECT h.org, h.route, h.status, sum(h.count) AS count, b.scope, b.subject FROM llmquota.refusal_hourly h LEFT JOIN llmquota.budget b ON b.id = h.quota
 GROUP BY h.org, h.route, h.status, h.quota, b.id ORDER BY 1, 2, 3, 5;
SELECT DISTINCT org, status, subject, refusal - '{retry_at,budget}'::text[] AS refusal, (refusal -> 'budget')::bigint = quota AS same FROM llmquota.refusal_sample ORDER BY 1, 3;
SELECT role, as_role(role, $$SELECT count(DISTINCT org) FROM llmquota.refusal_hourly WHERE org <> 'clinic'$$) AS of_others, as_role(role, 'SELECT count(DISTINCT subject) FROM llmquota.refusal_sample') AS subjects
  FROM unnest('{app,analyst,all,admin}'::text[]) role;
CALL clear();

-- the view, and the tables
INSERT INTO llmquota.budget (subject, amount) VALUES ('*', 5);
SELECT count(*) FROM unnest('{clinic,other}'::text[]) org, llmquota_pick('m', org, 1, 0);
SELECT role, as_role(role, 'SELECT count(*) FROM llmquota.budget_window') AS budget_window, as_role(role, 'SELECT count(*) FROM llmquota.budget_raise') AS budget_raise,
	as_role(role, $$UPDATE llmquota.budget SET amount = 6 RETURNING amount$$) AS budget, as_role(role, $$DELETE FROM llmquota.budget_step RETURNING at$$) AS budget_step,
	as_role(role, $$INSERT INTO llmquota.budget_raise (budget, subject, amount, until, reason, raised_by, raised_at) VALUES (1, '', 1, 'infinity', '', '', now()) RETURNING 1$$) AS by_hand
  FROM unnest('{app,clinic,analyst,all,admin,none}'::text[]) role;

-- a raise: of the one budget of the org, or the one for all, or the one that is said
SELECT role, as_role(role, $$SELECT llmquota_raise_budget('clinic', 10, now() + interval '1 hour', 'a busy day') > 0$$) AS raised FROM unnest('{app,clinic,analyst,all,admin,none}'::text[]) role;
SELECT subject, trim_scale(amount) AS amount FROM llmquota.budget_window ORDER BY 1;
SELECT status FROM llmquota_pick('m', 'clinic', 9, 0);
SELECT status FROM llmquota_pick('m', 'other', 5, 0);
SELECT status FROM llmquota_pick('m', 'clinic', 1, 0);
SELECT b.subject AS of, r.subject, r.amount, r.until - r.raised_at BETWEEN '59 min' AND '60 min' AS an_hour, r.reason, r.raised_by = session_user AS by_me
  FROM llmquota.budget_raise r JOIN llmquota.budget b ON b.id = r.budget;
-- a lower one changes nothing, of several the highest holds; it ends when its row goes
SELECT llmquota_raise_budget('clinic', 1, 'infinity', 'lower') > 0, llmquota_raise_budget('clinic', 12, 'infinity', 'higher') > 0;
SELECT trim_scale(amount) AS amount FROM llmquota.budget_window WHERE subject = 'clinic';
DELETE FROM llmquota.budget_raise WHERE amount = 12;
SELECT trim_scale(amount) AS amount FROM llmquota.budget_window WHERE subject = 'clinic';
-- or when it is over, in a backend that knows it already
UPDATE llmquota.budget_raise SET until = clock_timestamp() + interval '0.2 s' WHERE amount = 10;
SELECT status FROM llmquota_pick('m', 'clinic', 0, 0);
DO $$
DECLARE
	pause CONSTANT double precision := 0.01;
BEGIN
	WHILE clock_timestamp() <= (SELECT until FROM llmquota.budget_raise WHERE amount = 10) LOOP
		PERFORM pg_sleep(pause);
	END LOOP;
END $$;
SELECT status, refusal -> 'amount' AS amount, refusal -> 'used' AS used FROM llmquota_pick('m', 'clinic', 0, 0);
-- an infinite one; and with it what the amount of the row is changed to, if that is more
SELECT llmquota_raise_budget('clinic', 15, 'infinity', 'for ever') > 0;
SELECT trim_scale(amount) AS amount FROM llmquota.budget_window WHERE subject = 'clinic';
UPDATE llmquota.budget SET amount = 20;
SELECT trim_scale(amount) AS amount FROM llmquota.budget_window WHERE subject = 'clinic';
UPDATE llmquota.budget SET amount = 5;
-- one that names the org, of which there may be several; of others by their id
INSERT INTO llmquota.budget (scope, subject, amount) VALUES ('org', 'other', 6), ('parent', 'group', 7), ('global', '', 8);
INSERT INTO llmquota.budget (subject, model, amount) VALUES ('clinic', 'm', 9), ('clinic', 'small', 9);
CREATE FUNCTION raised(org text, amount numeric, budget bigint DEFAULT NULL, until timestamptz DEFAULT 'infinity', reason text DEFAULT 'why not') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	made CONSTANT bigint := llmquota_raise_budget($1, $2, $4, $5, $3);
BEGIN
	RETURN (SELECT format('%s of %s "%s", now %s', trim_scale(b.amount), b.scope, r.subject, trim_scale(r.amount))
			  FROM llmquota.budget_raise r JOIN llmquota.budget b ON b.id = r.budget WHERE r.id = made);
END $$;
CREATE FUNCTION refused(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	EXECUTE query;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN regexp_replace(format('%s %s (%s)', SQLSTATE, SQLERRM, hint), '(budget|=>|or) \d+', '\1 N', 'g');
END $$;
SELECT raised('other', 60), raised('stranger', 50);
SELECT refused($$SELECT raised('clinic', 90)$$);
SELECT raised('clinic', 90, id) FROM llmquota.budget WHERE model = 'm';
SELECT raised(subject, 70, id) FROM llmquota.budget WHERE scope IN ('parent', 'global') ORDER BY id;
SELECT raised('clinic', 80, id) FROM llmquota.budget WHERE subject = '*';
-- and what is wrong
SELECT refused(format('SELECT raised(%s)', args)) FROM unnest(ARRAY['$$group$$, 70, (SELECT id FROM llmquota.budget WHERE scope = $$global$$)', '$$clinic$$, 90, 0', 'NULL, 1',
	'$$clinic$$, NULL', '$$clinic$$, 1, reason => NULL', '$$clinic$$, 1, until => NULL', '$$other$$, 1, until => clock_timestamp()', '$$other$$, -1', '$$other$$, $$NaN$$',
	'$$other$$, 9000000000.1', '$$other$$, 0.0000000001']) args;
-- with its budget it goes
DELETE FROM llmquota.budget;
SELECT count(*) FROM llmquota.budget_raise;
SELECT refused($$SELECT raised('clinic', 1)$$);

-- an org-bound role's calls are charged as any other's, and it records what it has picked only
INSERT INTO llmquota.budget (scope, subject, amount) VALUES ('org', 'clinic', 100), ('parent', 'group', 100);
SELECT as_role('clinic', $$SELECT llmquota_record(lease, cost => 7) FROM llmquota_pick('m', 'clinic', 1, 0)$$);
SELECT as_role('clinic', $$SELECT status FROM llmquota_pick('m', 'other', 1, 0)$$);
SELECT lease FROM llmquota_pick('m', 'other', 1, 0) \gset
SELECT as_role('clinic', format('SELECT status FROM llmquota_record(%L, cost => 50)', :'lease'));
SELECT scope, subject, trim_scale(used) AS used FROM llmquota.budget_window ORDER BY 1, 2;
SELECT as_role('clinic', $$SELECT status FROM llmquota_pick('m', 'clinic', 1, 0, max_cost => 1)$$);
CALL clear();
SELECT * FROM llmquota_verify();
SELECT llmquota_revoke('regress_llmquota_app', 'app'), llmquota_revoke('regress_llmquota_clinic', 'app', 'clinic'), llmquota_revoke('regress_llmquota_analyst', 'analyst', 'clinic'),
	llmquota_revoke('regress_llmquota_all', 'analyst'), llmquota_revoke('regress_llmquota_admin', 'admin');
DROP ROLE regress_llmquota_app, regress_llmquota_clinic, regress_llmquota_analyst, regress_llmquota_all, regress_llmquota_admin, regress_llmquota_none;
