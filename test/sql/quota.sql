-- Which quotas hold for a call, and what they count.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p');
INSERT INTO llmquota.model (model, provider, family)
	VALUES ('m', 'p', 'f'), ('n', 'p', 'f'), ('x', 'p', 'g'), ('y', 'p', NULL);
INSERT INTO llmquota.key (key, account, priority) VALUES ('a-1', 'a', 0), ('b-1', 'b', 1);
-- Makes picks until one is refused, at most so many; says how many were granted.
CREATE FUNCTION fits(org text, route text DEFAULT 'm', tokens int DEFAULT 0, priority text DEFAULT NULL)
RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	status text;
BEGIN
	FOR granted IN 0 .. 39 LOOP
		SELECT p.status INTO status FROM llmquota_pick(route, org, tokens, 0, priority => priority) p;
		IF status <> 'granted' THEN
			RETURN granted;
		END IF;
	END LOOP;
	RETURN 40;
END $$;
-- Forgets all quotas and leases; the next test has fresh windows.
CREATE PROCEDURE clear() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM llmquota_release(lease) FROM llmquota.lease;
	DELETE FROM llmquota.quota;
END $$;
CREATE VIEW meter AS
SELECT scope, subject, model, family, metric, used, amount, remaining, refused, would_refuse
  FROM llmquota.meter_window
 ORDER BY scope, subject COLLATE "C", model COLLATE "C" NULLS FIRST, family COLLATE "C" NULLS FIRST, metric, quota;
-- a calendar whose periods do not end now: its zone is one where it is about noon
SELECT format('Etc/GMT%s', to_char(EXTRACT(hour FROM clock_timestamp() AT TIME ZONE 'UTC') - 12, 'FMSG99')) AS noon \gset

-- '*' limits each subject by itself; a row that names one replaces it there; NULL is no limit, 0 refuses always
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES
	('org', '*', 'requests', 2, '1 hour'), ('org', 'more', 'requests', 5, '1 hour'),
		('org', 'less', 'requests', 1, '1 hour'),
	('org', 'free', 'requests', NULL, '1 hour'), ('org', 'none', 'requests', 0, '1 hour');
SELECT fits('one') AS one, fits('another') AS another, fits('') AS anonymous, fits('more') AS more,
	fits('less') AS less, fits('free') AS free, fits('none') AS none;
-- only for the same window and metric: others add up
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
	VALUES ('org', 'both', 'requests', 5, '1 day'), ('org', 'metric', 'tokens', 7, '1 hour'),
	('org', 'model', 'tokens', NULL, '1 hour');
INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per)
	VALUES ('org', 'model', 'm', 'requests', 9, '1 hour');
SELECT fits('both') AS both, fits('metric') AS metric, fits('model') AS model;
-- the common row changes for all that have none of their own
UPDATE llmquota.quota SET amount = 4 WHERE subject = '*';
SELECT fits('one') AS one_more, fits('more') AS more, fits('third') AS third;
UPDATE llmquota.quota SET amount = NULL WHERE subject = '*';
SELECT fits('one') AS one, fits('both') AS both, fits('less') AS less;
CALL clear();

-- quotas add up: every one that matches must admit, of one subject and of all
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES
	('org', '*', 'requests', 6, '1 hour'), ('org', '*', 'requests', 4, '1 day'), ('org', '*', 'tokens', 100, '1 hour'),
		('global', '', 'requests', 9, '1 hour');
SELECT fits('one', tokens => 40) AS by_tokens, fits('two') AS by_day, fits('three') AS by_global;
SELECT * FROM meter;
CALL clear();

-- every metric; tokens are input and output
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
SELECT 'account', 'a', metric, 1000000, CASE WHEN metric <> 'concurrency' THEN '1 hour'::interval END
  FROM unnest('{requests,input_tokens,output_tokens,tokens,concurrency}'::text[]) metric;
SELECT count(*) FROM llmquota_pick('m', 'one', 100, 7) p, llmquota_pick('n', 'two', 20, 3) q;
SELECT * FROM meter;
CALL clear();

-- every scope has a meter of its own; a call is charged to each
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
SELECT s.scope, CASE s.scope WHEN 'global' THEN '' ELSE '*' END, 'tokens', 1000000, '1 hour'
  FROM unnest('{global,provider,account,key,org}'::text[]) s (scope);
SELECT count(*) FROM llmquota_pick('m', 'one', 100, 0) p, llmquota_pick('m', 'two', 20, 0, exclude => '{a}') q;
SELECT scope, subject, used FROM meter;
CALL clear();

-- parts: all models together, each by itself, one by name; the same of families; what has no family is in none
INSERT INTO llmquota.quota (scope, subject, model, family, metric, amount, per) VALUES
	('org', '*', NULL, NULL, 'tokens', 1000, '1 hour'), ('org', '*', '*', NULL, 'tokens', 500, '1 hour'),
		('org', '*', 'n', NULL, 'tokens', 50, '1 day'),
	('org', '*', NULL, '*', 'tokens', 600, '1 hour'), ('org', '*', NULL, 'g', 'tokens', 200, '1 day');
SELECT count(*) FROM (VALUES ('m', 1), ('n', 20), ('x', 100), ('y', 300)) t (model, tokens),
	llmquota_pick(t.model, 'one', t.tokens, 0) p WHERE p.status = 'granted';
SELECT subject, model, family, used, amount FROM meter;
-- a meter of a family shows which one; each part refuses by itself
SELECT p.status, p.refusal->>'period' AS period, p.refusal->'amount' AS amount, p.refusal->'used' AS used
  FROM (VALUES (1, 'm', 500), (2, 'n', 31), (3, 'x', 101), (4, 'y', 201), (5, 'm', 480), (6, 'y', 99),
	(7, 'm', 1)) t (n, model, tokens), llmquota_pick(t.model, 'one', t.tokens, 0) p ORDER BY n;
CALL clear();
-- as many parts and windows as there may be: eleven meters and the lease
INSERT INTO llmquota.quota (scope, subject, model, family, metric, amount, per)
SELECT s.scope, CASE s.scope WHEN 'global' THEN '' ELSE '*' END, p.model, p.family, 'tokens', 100, '1 hour'
  FROM unnest('{global,provider,account,key,org}'::text[]) s (scope),
	(VALUES (NULL, NULL), ('*', NULL), (NULL, '*')) p (model, family)
 WHERE p.family IS NULL OR s.scope = 'account';
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) SELECT 'org', '*', 'requests', 10 + n,
	format('%s hours', n)::interval FROM generate_series(1, 7) n;
SELECT fits('one', tokens => 30);
SELECT scope, model, family, metric, count(*) AS windows, min(used) AS used, max(used) AS same
  FROM meter GROUP BY scope, model, family, metric ORDER BY scope, model NULLS FIRST, family NULLS FIRST, metric;
SELECT sum(refused) AS refused_once FROM meter;
SELECT count(llmquota_record(lease, input_tokens => 5, output_tokens => 1)) FROM llmquota.lease;
SELECT count(*) AS meters, min(used) AS used, max(used) AS same FROM meter WHERE metric = 'tokens';
CALL clear();

-- the kinds of window, as people read them
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
	VALUES ('global', '', 'requests', 9, '90 seconds'), ('global', '', 'requests', 9, '7 days');
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar, timezone) SELECT 'provider', 'p', 'requests', 9,
	calendar, :'noon' FROM unnest('{day,week,month,quarter,year}'::text[]) calendar;
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', '*', 'concurrency', 9);
SELECT fits('one');
SELECT scope, replace(period, :'noon', 'ZONE') AS period, used, remaining, resets_at > clock_timestamp() AS resets,
	seeding FROM llmquota.meter_window ORDER BY scope, quota;
SELECT bool_and(resets_at AT TIME ZONE :'noon'
				= date_trunc(u.unit, clock_timestamp() AT TIME ZONE :'noon') + u.length) AS at_the_end
  FROM llmquota.meter_window w
  JOIN (VALUES ('day', '1 day'::interval), ('week', '7 days'), ('month', '1 month'), ('quarter', '3 months'),
	('year', '1 year')) u (unit, length) ON w.period LIKE u.unit || ' %'
 WHERE w.scope = 'provider';
-- the zone of calendars that name none: the provider's for its own limits, else UTC
UPDATE llmquota.provider SET timezone = 'America/Los_Angeles';
CALL clear();
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar)
SELECT s.scope, CASE s.scope WHEN 'global' THEN '' ELSE '*' END, 'requests', 9, 'year'
  FROM unnest('{global,provider,account,key,org}'::text[]) s (scope);
SELECT count(*) FROM llmquota_pick('m', 'one');
SELECT scope, to_char(resets_at AT TIME ZONE 'UTC', 'MM-DD HH24:MI') AS resets_at_utc FROM llmquota.meter_window
 ORDER BY scope;
CALL clear();
-- a sliding window frees what is older than its length, not before, and when the refusal said
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'requests', 1, '1 second');
CREATE TEMP TABLE slid (n int, status text, granted_at timestamptz, retry_at timestamptz);
DO $$
DECLARE
	pause CONSTANT double precision := 0.001;
	p llmquota.pick_result;
BEGIN
	WHILE (SELECT count(*) FROM slid WHERE status = 'granted') < 3 LOOP
		p := llmquota_pick('m', 'one');
		INSERT INTO slid SELECT count(*), p.status, p.granted_at, (p.refusal->>'retry_at')::timestamptz FROM slid;
		ASSERT clock_timestamp() < statement_timestamp() + interval '60 s', 'the window does not slide';
		PERFORM pg_sleep(pause);
	END LOOP;
END $$;
SELECT count(*) AS granted, count(*) FILTER (WHERE granted_at - before >= '1 s') AS a_second_apart,
	count(*) FILTER (WHERE granted_at >= said) AS not_before_said
  FROM (SELECT granted_at, lag(granted_at) OVER (ORDER BY granted_at) AS before,
			   (SELECT max(r.retry_at) FROM slid r WHERE r.n < s.n) AS said
		  FROM slid s WHERE status = 'granted') g;
SELECT count(DISTINCT retry_at) AS said_once_for_each FROM slid WHERE status <> 'granted';
CALL clear();

-- observe: counts, says what it would have refused, and never refuses; enforcing is one UPDATE and keeps the use
INSERT INTO llmquota.quota (scope, subject, metric, amount, per, mode)
	VALUES ('org', '*', 'requests', 2, '1 hour', 'observe');
SELECT fits('one');
SELECT used, remaining, refused, would_refuse FROM meter;
UPDATE llmquota.quota SET mode = 'enforce';
SELECT fits('one') AS used_up, fits('two') AS fresh;
UPDATE llmquota.quota SET mode = 'observe';
SELECT status FROM llmquota_pick('m', 'one');
SELECT subject, used, refused, would_refuse FROM meter;
CALL clear();

-- rollout: the share of subjects for which '*' is enforced, chosen by a stable hash; going on, or back, is one UPDATE
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'requests', 0, '1 hour');
CREATE FUNCTION enforced(share numeric) RETURNS text[] LANGUAGE plpgsql AS $$
BEGIN
	UPDATE llmquota.quota SET rollout = share;
	RETURN ARRAY(SELECT 'org ' || n FROM generate_series(1, 200) n, llmquota_pick('m', 'org ' || n, 0, 0) p
		WHERE p.status <> 'granted' ORDER BY n);
END $$;
CREATE TEMP TABLE steps AS SELECT share, enforced(share) AS orgs
  FROM unnest('{0,0.2,0.5,1,0.2}'::numeric[]) WITH ORDINALITY AS s (share, n) ORDER BY n;
SELECT share, CASE WHEN share IN (0, 1) THEN cardinality(orgs) END AS exactly,
	abs(cardinality(orgs) - share * 200) < 30 AS about_that_share FROM steps;
SELECT bool_and(a.orgs <@ b.orgs) AS only_adds FROM steps a JOIN steps b ON a.share <= b.share;
SELECT sum(would_refuse) + (SELECT sum(cardinality(orgs)) FROM steps) AS all_picks FROM meter;
-- of no effect on a row that names its subject
UPDATE llmquota.quota SET rollout = 0;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per, rollout)
	VALUES ('org', 'named', 'requests', 1, '1 hour', 0);
SELECT fits('named') AS named, fits('unnamed') AS unnamed;
CALL clear();

-- high_priority_share: the fraction that only high priority may use; the org's priority counts when none is given
INSERT INTO llmquota.org (org, priority) VALUES ('vip', 'high');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per, high_priority_share)
	VALUES ('account', '*', 'requests', 10, '1 hour', 0.3);
UPDATE llmquota.key SET enabled = key = 'a-1';
SELECT fits('one') AS normal, fits('one', priority => 'normal') AS normal_again,
	fits('vip', priority => 'normal') AS vip_as_normal;
SELECT status, refusal->'amount' AS amount, refusal->'used' AS used FROM llmquota_pick('m', 'one');
SELECT status FROM llmquota_pick('m', 'one', priority => 'high');
SELECT fits('vip') AS vip, fits('one', priority => 'high') AS high_full;
UPDATE llmquota.key SET enabled = true;
CALL clear();

-- a changed amount keeps the use; a new or reshaped window begins at zero and is seeding
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'requests', 5, '1 hour');
SELECT fits('one');
UPDATE llmquota.quota SET amount = 7;
SELECT fits('one') AS two_more;
UPDATE llmquota.quota SET amount = 3;
SELECT fits('one') AS none;
SELECT used, amount, remaining FROM meter;
UPDATE llmquota.quota SET per = '2 hours';
SELECT fits('one') AS anew;
SELECT used, amount, refused FROM meter;
SELECT period, seeding FROM llmquota.meter_window;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'requests', 100, '1 day');
UPDATE llmquota.quota SET amount = 4 WHERE per = '2 hours';
SELECT fits('one') AS one_more;
SELECT period, used, seeding FROM llmquota.meter_window ORDER BY quota;
-- a quota that is deleted and made again is another one
DELETE FROM llmquota.quota WHERE per = '2 hours';
SELECT fits('one');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'requests', 2, '2 hours');
SELECT fits('one') AS anew;
-- one more window than the meter had room for when it was made: its contents move, and the use with them
SELECT used FROM meter WHERE amount = 100;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) SELECT 'org', '*', 'tokens', 1000,
	format('%s hours', n)::interval FROM generate_series(1, 6) n;
UPDATE llmquota.quota SET amount = 10 WHERE metric = 'requests' AND per = '2 hours';
SELECT status FROM llmquota_pick('m', 'one', 5, 0);
SELECT metric, amount, used FROM meter;
CALL clear();
