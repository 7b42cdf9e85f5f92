-- Which budgets hold for a call, and what they count.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai'), ('q', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p'), ('c', 'q');
INSERT INTO llmquota.model (model, provider, family)
	VALUES ('m', 'p', 'f'), ('n', 'p', 'f'), ('x', 'p', 'g'), ('y', 'p', NULL), ('z', 'q', NULL), ('free', 'p', NULL);
INSERT INTO llmquota.key (key, account, priority) VALUES ('a-1', 'a', 0), ('a-2', 'a', 1), ('b-1', 'b', 2), ('c-1', 'c', 0);
-- a token of input costs a dollar, one of output two
INSERT INTO llmquota.price (model, input, output)
	SELECT model, CASE model WHEN 'free' THEN 0 ELSE 1000000 END, CASE model WHEN 'free' THEN 0 ELSE 2000000 END FROM llmquota.model;
-- Makes picks of so many dollars until one is refused, at most so many; says how many were granted.
CREATE FUNCTION fits(org text, route text DEFAULT 'm', dollars int DEFAULT 1)
RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	status text;
BEGIN
	FOR granted IN 0 .. 39 LOOP
		SELECT p.status INTO status FROM llmquota_pick(route, org, dollars, 0) p;
		IF status <> 'granted' THEN
			ASSERT status = 'budget_exceeded', status;
			RETURN granted;
		END IF;
	END LOOP;
	RETURN 40;
END $$;
-- Forgets all budgets and leases; the next test has fresh windows.
CREATE PROCEDURE clear() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM llmquota_release(lease) FROM llmquota.lease;
	DELETE FROM llmquota.budget;
END $$;
CREATE VIEW spent AS
SELECT scope, subject, model, family, used, amount, remaining, refused, would_refuse
  FROM llmquota.budget_window
 ORDER BY scope, subject COLLATE "C", model COLLATE "C" NULLS FIRST, family COLLATE "C" NULLS FIRST, budget;
-- a calendar whose periods do not end now: its zone is one where it is about noon
SELECT format('Etc/GMT%s', to_char(EXTRACT(hour FROM clock_timestamp() AT TIME ZONE 'UTC') - 12, 'FMSG99')) AS noon \gset
ALTER TABLE llmquota.budget ALTER timezone SET DEFAULT :'noon', ALTER currency SET DEFAULT 'USD', ALTER downgrade_at SET DEFAULT NULL;

-- '*' limits each subject by itself; a row that names one replaces it there; NULL is no limit, 0 refuses always
INSERT INTO llmquota.budget (subject, amount) VALUES ('*', 2), ('more', 5), ('less', 1), ('free', NULL), ('none', 0);
SELECT fits('one') AS one, fits('another') AS another, fits('') AS anonymous, fits('more') AS more,
	fits('less') AS less, fits('free') AS free, fits('none') AS none;
SELECT * FROM spent;
-- only of the same window and currency: others add up
INSERT INTO llmquota.budget (subject, amount, calendar, per, timezone) VALUES ('window', 7, NULL, '1 day', NULL), ('longer', 1, 'month', NULL, :'noon');
INSERT INTO llmquota.budget (subject, amount, model) VALUES ('model', 1, 'm'), ('another model', 1, 'n');
SELECT fits('window') AS window, fits('longer') AS longer, fits('model') AS model, fits('another model') AS another_model;
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('EUR', 1);
INSERT INTO llmquota.budget (subject, amount, currency) VALUES ('euros', 7, 'EUR');
SELECT fits('euros') AS euros;
-- of totals, whenever they begin: there is one for a subject
INSERT INTO llmquota.budget (subject, amount, calendar, timezone, starts_at) VALUES ('*', 1, 'total', NULL, '-infinity'), ('big', 3, 'total', NULL, '2020-01-01 00:00+00');
SELECT fits('late') AS late, fits('big') AS big;
DELETE FROM llmquota.budget WHERE calendar = 'total';
-- the common row changes for all that have none of their own
UPDATE llmquota.budget SET amount = 4 WHERE subject = '*';
SELECT fits('one') AS one_more, fits('more') AS more, fits('third') AS third;
UPDATE llmquota.budget SET amount = NULL WHERE subject = '*';
SELECT fits('one') AS one, fits('window') AS window, fits('less') AS less;
CALL clear();

-- budgets add up: every one that matches must have room, of one subject and of all
INSERT INTO llmquota.budget (scope, subject, amount, calendar) VALUES
	('org', '*', 6, 'day'), ('org', '*', 4, 'week'), ('org', 'three', 3, 'week'), ('global', '', 9, 'week');
SELECT fits('one') AS by_week, fits('two', dollars => 3) AS by_week_too, fits('three') AS by_global;
SELECT * FROM spent;
CALL clear();

-- every scope has a window of its own; a call is charged to each
INSERT INTO llmquota.budget (scope, subject, amount)
SELECT s.scope, CASE s.scope WHEN 'global' THEN '' ELSE '*' END, 100
  FROM unnest('{global,provider,account,key,org,parent}'::text[]) s (scope);
SELECT count(*) FROM llmquota_pick('m', 'one', 10, 0) p, llmquota_pick('m', 'two', 20, 0, exclude => '{a}') q, llmquota_pick('z', 'one', 3, 0);
SELECT scope, subject, used FROM spent;
CALL clear();
-- and refuses by itself: of keys and accounts the next has room
INSERT INTO llmquota.budget (scope, subject, amount) VALUES ('key', 'a-1', 1), ('key', '*', 2), ('account', 'a', 2), ('account', 'b', 4);
SELECT fits('one');
SELECT scope, subject, used, refused FROM spent;
SELECT status, refusal - 'retry_at' - 'budget' AS refusal FROM llmquota_pick('m', 'one', 1, 0);
SELECT s.key, s.status, s.scope, s.quota, replace(s.reason, b.id::text, 'N') AS reason, b.subject FROM llmquota.key_status s LEFT JOIN llmquota.budget b ON s.reason = 'budget ' || b.id WHERE s.model = 'm' ORDER BY s.key;
CALL clear();
INSERT INTO llmquota.budget (scope, subject, amount) VALUES ('provider', '*', 2), ('provider', 'q', 1);
SELECT fits('one') AS p, fits('two', 'z') AS q;
CALL clear();

-- by model and by family, each by itself or one by name
INSERT INTO llmquota.budget (subject, model, family, amount) VALUES
	('*', '*', NULL, 3), ('*', 'm', NULL, 2), ('*', NULL, '*', 4), ('*', NULL, 'g', 1), ('three', 'm', NULL, 1);
SELECT fits('one', 'm') AS m, fits('one', 'n') AS n, fits('one', 'x') AS x, fits('one', 'y') AS y, fits('three', 'm') AS three;
SELECT subject, model, family, used, amount FROM spent;
CALL clear();
-- and of every other scope
INSERT INTO llmquota.budget (scope, subject, model, family, amount) VALUES
	('global', '', 'm', NULL, 1), ('account', 'a', NULL, 'f', 2), ('key', 'b-1', 'y', NULL, 3), ('provider', 'p', NULL, 'g', 4), ('parent', '*', 'y', NULL, 5);
SELECT fits('one', 'm') AS m, fits('one', 'n') AS n, fits('one', 'x') AS x, fits('one', 'y') AS y;
SELECT scope, subject, model, family, used, amount FROM spent;
CALL clear();

-- a parent: its calls and those of all below it, and both must have room; at most three levels above an org
INSERT INTO llmquota.org (org, parent) VALUES ('group', NULL), ('hospital', 'group'), ('ward', 'hospital'), ('bed', 'ward'), ('clinic', 'group');
INSERT INTO llmquota.budget (scope, subject, amount) VALUES ('parent', 'group', 10), ('parent', 'hospital', 5), ('org', '*', 4), ('org', 'group', 1);
SELECT fits('ward') AS ward, fits('bed') AS bed, fits('hospital') AS hospital, fits('clinic') AS clinic, fits('group') AS "group", fits('stranger') AS stranger;
SELECT scope, subject, used, amount, refused FROM spent;
SELECT status, refusal - 'retry_at' - 'budget' AS refusal FROM llmquota_pick('m', 'bed', 1, 0);
SELECT status, refusal - 'retry_at' - 'budget' AS refusal FROM llmquota_pick('m', 'clinic', 1, 0);
-- an org that moves spends of its new parent from then on; what it has spent stays
SELECT count(llmquota_release(lease)) FROM llmquota.lease WHERE org = 'clinic';
INSERT INTO llmquota.org (org, parent) VALUES ('stranger', 'clinic');
SELECT count(llmquota_release(lease)) FROM llmquota.lease WHERE org = 'stranger';
SELECT fits('stranger') AS stranger, fits('clinic') AS clinic;
SELECT scope, subject, used FROM spent WHERE scope = 'parent';
-- each parent by itself; those with none are their own
CALL clear();
INSERT INTO llmquota.budget (scope, subject, amount) VALUES ('parent', '*', 3), ('parent', 'group', 4);
SELECT fits('ward') AS ward, fits('clinic') AS clinic, fits('alone') AS alone;
SELECT subject, used, amount FROM spent;
CALL clear();
-- mode observe counts, and says what it would have refused
INSERT INTO llmquota.budget (subject, amount, mode) VALUES ('*', 2, 'observe'), ('strict', 1, 'enforce');
SELECT fits('one') AS one, fits('strict') AS strict;
SELECT * FROM spent;
UPDATE llmquota.budget SET mode = 'enforce';
SELECT fits('one') AS one, fits('two') AS two;
CALL clear();
-- one that does not stop refuses nothing, and has nothing to say
INSERT INTO llmquota.budget (subject, amount, hard_stop) VALUES ('*', 2, false);
SELECT fits('one') AS one;
SELECT * FROM spent;
CALL clear();
-- a '*' row is enforced for a share of its subjects, and the larger share has them all
INSERT INTO llmquota.budget (subject, amount, rollout) VALUES ('*', 0, 0);
CREATE TABLE share AS SELECT 'org ' || n AS org, false AS early, false AS later FROM generate_series(1, 200) n;
SELECT count(*) FROM share WHERE (llmquota_pick('m', org, 1, 0)).status <> 'granted';
UPDATE llmquota.budget SET rollout = 0.25;
UPDATE share SET early = (llmquota_pick('m', org, 1, 0)).status <> 'granted';
UPDATE llmquota.budget SET rollout = 0.75;
UPDATE share SET later = (llmquota_pick('m', org, 1, 0)).status <> 'granted';
SELECT count(*) FILTER (WHERE early) BETWEEN 25 AND 75 AS a_quarter, count(*) FILTER (WHERE later) BETWEEN 125 AND 175 AS three_quarters,
	bool_and(later) FILTER (WHERE early) AS with_those FROM share;
UPDATE llmquota.budget SET rollout = 1;
SELECT count(*) FROM share WHERE (llmquota_pick('m', org, 1, 0)).status <> 'granted';
CALL clear();

-- nothing is left, nothing more goes, unless it is free and may
INSERT INTO llmquota.budget (subject, amount, free_when_spent) VALUES ('one', 2, true), ('two', 2, false), ('never', 0, true);
SELECT fits('one'), fits('two'), fits('never');
SELECT fits('one', 'free') AS one, fits('two', 'free') AS two, fits('never', 'free') AS never;
SELECT subject, used, remaining FROM spent;
CALL clear();
-- as long as something is left what is free is let through
INSERT INTO llmquota.budget (subject, amount) VALUES ('one', 0.000000001);
SELECT fits('one', 'free') AS one, fits('one') AS nothing;
SELECT lease FROM llmquota_pick('free', 'one', 1, 0, max_cost => 0.000000001) \gset
SELECT fits('one', 'free') AS one;
CALL clear();

-- more than fits at once is never granted, and so much as fits later
INSERT INTO llmquota.budget (subject, amount) VALUES ('one', 2);
SELECT status, retry_after_ms, refusal - 'budget' AS refusal FROM llmquota_pick('m', 'one', 3, 0);
SELECT count(*) FROM llmquota_pick('m', 'one', 1, 0);
SELECT status, retry_after_ms > 0 AS later, (refusal ->> 'retry_at')::timestamptz = w.resets_at AS at_the_reset FROM llmquota_pick('m', 'one', 2, 0), llmquota.budget_window w;
CALL clear();
SELECT * FROM llmquota_verify();
