-- Alerts: what is raised, once, what is not, and when it is over. What takes time, crashes and listeners is in test/t/alert.pl.
\set SHOW_CONTEXT never
\pset null -
-- that depends on the day
UPDATE llmquota.setting SET value = 'off' WHERE name = 'alert_forecast';

-- a request_id only tells calls apart here
UPDATE llmquota.setting SET value = '0' WHERE name = 'idempotency_window';
INSERT INTO llmquota.provider (provider, adapter, breaker_probe_ms) VALUES ('p', 'openai', 3600000);
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('a1', 'a'), ('b1', 'b');
INSERT INTO llmquota.model (model, provider, family) VALUES ('m', 'p', 'f'), ('n', 'p', 'f');
INSERT INTO llmquota.quota (scope, subject, model, family, metric, amount, per, calendar) VALUES
	('org', '*', NULL, NULL, 'requests', 10, NULL, 'year'),
	('org', '*', '*', NULL, 'tokens', 1000, '1 hour', NULL),
	('org', 'alone', NULL, 'f', 'requests', 4, '1 day', NULL),
	('account', '*', NULL, NULL, 'requests', 1000, '5 minutes', NULL);

-- Makes calls of a few tokens each, which stay in flight; how many were granted.
CREATE TABLE made (org text, lease uuid);
CREATE FUNCTION calls(org text, n int, tokens int DEFAULT 1, model text DEFAULT 'm') RETURNS bigint LANGUAGE sql AS $$
	WITH picked AS (
		INSERT INTO made SELECT calls.org, p.lease FROM generate_series(1, n) i,
			LATERAL (SELECT * FROM llmquota_pick(model, calls.org, input_tokens => tokens, max_output_tokens => 0, request_id => i::text)) p
		 WHERE p.status = 'granted' RETURNING 1)
	SELECT count(*) FROM picked
$$;
-- Takes all calls of an org back.
CREATE FUNCTION release(org text) RETURNS bigint LANGUAGE sql AS $$
	WITH gone AS (DELETE FROM made WHERE made.org = release.org RETURNING lease)
	SELECT count(*) FROM gone, llmquota_release(gone.lease) r WHERE r = 'released'
$$;
CREATE FUNCTION maintain(OUT raised bigint, OUT resolved bigint) LANGUAGE sql AS $$SELECT alerts_raised, alerts_resolved FROM llmquota_maintain()$$;
-- The alerts, without what depends on the day.
CREATE VIEW alerts AS
SELECT kind, scope, subject, model, family, metric, quota, threshold, used, amount, resolved_at IS NOT NULL AS resolved
  FROM llmquota.alert ORDER BY subject, id;

--
-- Thresholds
--
SELECT calls('one', 7);
SELECT * FROM maintain();
SELECT calls('one', 1);
SELECT * FROM maintain();
TABLE alerts;
-- once, however many picks come after it, and however often somebody looks
SELECT calls('one', 1);
SELECT * FROM maintain();
SELECT calls('one', 1);
SELECT * FROM maintain();
SELECT * FROM maintain();
TABLE alerts;
SELECT message FROM llmquota.alert ORDER BY id;
SELECT period, period_start = date_trunc('year', now(), 'UTC') AS this_year, ends_at = date_trunc('year', now() + interval '1 year', 'UTC') AS to_the_next,
	   org, raised_at BETWEEN now() - interval '1 minute' AND clock_timestamp() AS now, acknowledged_at, currency, budget, digest, part_of
  FROM llmquota.alert;
-- two at once are two
SELECT calls('two', 10);
SELECT * FROM maintain();
SELECT threshold, used FROM alerts WHERE subject = 'two';
-- a model by itself, a family, and two orgs: each its own
SELECT calls('one', 0), calls('three', 1, 900, 'm'), calls('three', 1, 960, 'n'), calls('alone', 4);
SELECT * FROM maintain();
TABLE alerts;
-- a rollback of the pick takes none back, nor does one of maintenance
BEGIN;
SELECT calls('four', 8);
ROLLBACK;
BEGIN;
SELECT * FROM maintain();
SELECT * FROM maintain();
ROLLBACK;
SELECT count(*) FROM alerts WHERE subject = 'four';
BEGIN;
SAVEPOINT s;
SELECT * FROM maintain();
ROLLBACK TO s;
SELECT * FROM maintain();
COMMIT;
SELECT count(*) FROM alerts WHERE subject = 'four';
SELECT * FROM maintain();
-- what a window of five minutes counts is free again soon: nothing is said of it, unless that is not soon enough
SELECT calls('five', 1, 800), count(*) AS used FROM llmquota.meter_window WHERE scope = 'account';
UPDATE llmquota.quota SET amount = 20 WHERE scope = 'account';
SELECT * FROM maintain();
SELECT * FROM alerts WHERE scope = 'account';
UPDATE llmquota.setting SET value = 299999 WHERE name = 'alert_recovery';
SELECT raised > 0 AS raised FROM maintain();
SELECT DISTINCT scope, metric, amount FROM alerts WHERE scope = 'account';
UPDATE llmquota.setting SET value = 300000 WHERE name = 'alert_recovery';
UPDATE llmquota.quota SET amount = 1000 WHERE scope = 'account';
SELECT resolved > 0 AS resolved FROM maintain();
-- a limit that is changed is looked at again; one that observes is as any other
SELECT calls('six', 5);
SELECT * FROM maintain();
UPDATE llmquota.quota SET amount = 6, mode = 'observe' WHERE scope = 'org' AND calendar = 'year';
SELECT * FROM maintain();
SELECT threshold, used, amount FROM alerts WHERE subject = 'six';
-- thresholds of one's own, and none
UPDATE llmquota.setting SET value = '{0.5,.125,1.0}' WHERE name = 'alert_at';
SELECT calls('seven', 1);
SELECT raised > 0 AS raised FROM maintain();
SELECT threshold, used, amount FROM alerts WHERE subject = 'seven';
SELECT message FROM llmquota.alert WHERE subject = 'seven';
UPDATE llmquota.setting SET value = '{}' WHERE name = 'alert_at';
SELECT calls('eight', 6);
SELECT raised FROM maintain();
SELECT count(*) FROM alerts WHERE subject = 'eight';
UPDATE llmquota.setting SET value = '{0}' WHERE name = 'alert_at';
UPDATE llmquota.setting SET value = '{0.5,1.01}' WHERE name = 'alert_at';
UPDATE llmquota.setting SET value = '{.1,.2,.3,.4,.5,.6,.7,.8,.9}' WHERE name = 'alert_at';
UPDATE llmquota.setting SET value = '{0.8,0.95}' WHERE name = 'alert_at';
UPDATE llmquota.quota SET amount = 10, mode = 'enforce' WHERE scope = 'org' AND calendar = 'year';
SELECT FROM maintain();

--
-- When it is over
--
SELECT calls('nine', 8);
SELECT * FROM maintain();
SELECT release('nine');
SELECT * FROM maintain();
SELECT threshold, used, resolved FROM alerts WHERE subject = 'nine';
-- the same again in the period is the same alert
SELECT calls('nine', 8);
SELECT * FROM maintain();
SELECT threshold, used, resolved FROM alerts WHERE subject = 'nine';
-- but one of another amount is told again
SELECT llmquota_ack(id) FROM llmquota.alert WHERE subject = 'nine';
UPDATE llmquota.quota SET amount = 20 WHERE scope = 'org' AND calendar = 'year';
SELECT resolved > 0 AS resolved FROM maintain();
SELECT calls('nine', 8);
SELECT * FROM maintain();
SELECT threshold, used, amount, resolved FROM alerts WHERE subject = 'nine';
SELECT acknowledged_at FROM llmquota.alert WHERE subject = 'nine';
UPDATE llmquota.quota SET amount = 10 WHERE scope = 'org' AND calendar = 'year';
-- a period that has ended, a limit that is gone, and one that another replaces
SELECT calls('replaced', 8), calls('over', 8), calls('left', 8), llmquota_maintain() IS NOT NULL AS maintained;
INSERT INTO llmquota.quota (scope, subject, family, metric, amount, per) VALUES ('org', 'gone', 'f', 'requests', 1, '1 day');
SELECT calls('gone', 1);
SELECT * FROM maintain();
UPDATE llmquota.alert SET ends_at = now() WHERE subject = 'over';
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar) VALUES ('org', 'replaced', 'requests', 1000, 'year');
DELETE FROM llmquota.quota WHERE subject = 'gone';
SELECT FROM maintain();
SELECT subject, threshold, resolved FROM alerts WHERE subject IN ('replaced', 'over', 'left', 'gone');
SELECT FROM maintain();
SELECT subject, threshold, resolved FROM alerts WHERE subject IN ('replaced', 'over', 'left', 'gone') AND NOT resolved;
-- without a calendar: the same for an hour, then anew
SELECT calls('ten', 1, 900);
SELECT * FROM maintain();
SELECT release('ten');
SELECT * FROM maintain();
SELECT calls('ten', 1, 950);
SELECT * FROM maintain();
SELECT model, threshold, used, resolved FROM alerts WHERE subject = 'ten';
UPDATE llmquota.alert SET raised_at = raised_at - interval '61 minutes' WHERE subject = 'ten';
SELECT release('ten');
SELECT * FROM maintain();
SELECT calls('ten', 1, 940);
SELECT * FROM maintain();
SELECT model, threshold, used, resolved FROM alerts WHERE subject = 'ten';

--
-- Many at once
--
UPDATE llmquota.setting SET value = 3 WHERE name = 'alert_digest';
SELECT sum(calls('many ' || i, 8)) FROM generate_series(1, 3) i;
SELECT * FROM maintain();
SELECT count(*), count(part_of) AS parts FROM llmquota.alert WHERE subject ~ 'many';
SELECT sum(calls('many ' || i, 10)) FROM generate_series(4, 5) i;
SELECT * FROM maintain();
SELECT count(*), count(part_of) AS parts FROM llmquota.alert WHERE subject ~ 'many';
SELECT scope, subject, org, message, digest, resolved_at FROM llmquota.alert WHERE kind = 'digest' AND resolved_at IS NULL;
-- acknowledged and resolved with its parts
SELECT llmquota_ack(id) AS first, llmquota_ack(id) AS again FROM llmquota.alert WHERE kind = 'digest' AND resolved_at IS NULL;
SELECT kind, count(*), count(acknowledged_at) AS acknowledged, bool_and(acknowledged_by = session_user) AS by_me
  FROM llmquota.alert WHERE kind = 'digest' AND resolved_at IS NULL OR subject ~ 'many [45]' GROUP BY kind ORDER BY kind;
SELECT release('many 4');
SELECT resolved FROM maintain();
SELECT count(*) FROM llmquota.alert WHERE kind = 'digest' AND resolved_at IS NULL;
SELECT release('many 5');
SELECT resolved FROM maintain();
SELECT count(*) FROM llmquota.alert WHERE kind = 'digest' AND resolved_at IS NULL;
UPDATE llmquota.setting SET value = 10 WHERE name = 'alert_digest';

--
-- Forecasts
--
SELECT FROM maintain();
UPDATE llmquota.setting SET value = 'on' WHERE name = 'alert_forecast';
-- a day of which eleven hours are over, and something of the twelfth
SELECT 'Etc/GMT' || to_char(extract(hour FROM now() AT TIME ZONE 'UTC') - 11, 'SFM99') AS zone \gset
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar, timezone) VALUES ('org', 'fast', 'input_tokens', 100, 'day', :'zone'), ('org', 'slow', 'input_tokens', 100, 'day', :'zone');
SELECT FROM maintain();
SELECT FROM maintain();
DELETE FROM llmquota.alert;
SELECT calls('fast', 1, 60), calls('slow', 1, 40);
SELECT raised > 0 AS raised FROM maintain();
SELECT kind, subject, threshold, used, amount, abs(extract(epoch FROM expected_at - (period_start + (raised_at - period_start) * 100 / 60))) < 5 AS when_it_will_be,
	   message LIKE 'org "fast": 60 of 100 input_tokens used (quota %, day Etc/GMT%), at this rate all by ' || to_char(expected_at AT TIME ZONE :'zone', 'YYYY-MM-DD HH24:MI') || ' ' || :'zone' AS as_its_clocks_say
  FROM llmquota.alert WHERE subject IN ('fast', 'slow');
SELECT * FROM maintain();
-- it stands until it is no longer so
SELECT release('fast');
SELECT * FROM maintain();
SELECT resolved_at IS NOT NULL AS resolved FROM llmquota.alert WHERE subject = 'fast';
UPDATE llmquota.setting SET value = 'off' WHERE name = 'alert_forecast';
SELECT calls('slow', 1, 20);
SELECT * FROM maintain();

--
-- Acknowledging
--
SELECT llmquota_ack(id) AS one, llmquota_ack(id) AS again FROM llmquota.alert WHERE subject = 'fast';
SELECT llmquota_ack(NULL);
SELECT llmquota_ack(0);

--
-- Troubles, and limits of providers
--
SELECT * FROM maintain();
DELETE FROM llmquota.alert;
-- a cooldown that ends soon is nobody's business, nor is a breaker that opens for a minute
SELECT llmquota_cool('account', 'a', 300000, model => 'm') > now() AS cooled, llmquota_cool('key', 'b1', 600000, reason => 'by hand') > now() AS cooled_for_longer;
SELECT llmquota_disable('a1', 'stolen');
SELECT * FROM maintain();
SELECT kind, scope, subject, model, resolved_at, regexp_replace(message, '\d{4}.*UTC', 'TIME') AS message, expected_at > now() + interval '9 minutes' AS expected
  FROM llmquota.alert ORDER BY kind, subject, threshold;
SELECT llmquota_clear(), llmquota_enable('a1');
SELECT * FROM maintain();
SELECT count(*) FROM llmquota.alert WHERE resolved_at IS NULL;
-- one that comes again within the hour is the same
SELECT llmquota_disable('a1', 'stolen again');
SELECT * FROM maintain();
SELECT kind, subject, resolved_at, message FROM llmquota.alert WHERE kind = 'disabled';
SELECT llmquota_enable('a1');
UPDATE llmquota.setting SET value = 0 WHERE name = 'alert_interval';
SELECT * FROM maintain();
SELECT llmquota_disable('a1', 'stolen again');
SELECT * FROM maintain();
SELECT kind, subject, resolved_at IS NULL AS open, message FROM llmquota.alert WHERE kind = 'disabled' ORDER BY id;
SELECT llmquota_enable('a1');
-- a breaker that will stay open for an hour
UPDATE llmquota.provider SET breaker_failures = 1;
SELECT r.status FROM llmquota_pick('m', 'x', 1, 1, exclude => '{b}') p, llmquota_record(p.lease, http_status => 500) r;
SELECT * FROM maintain();
SELECT kind, scope, subject, model, message FROM llmquota.alert WHERE kind = 'breaker' ORDER BY scope;
SELECT llmquota_clear();
-- a provider that allows less than is configured
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('account', 'a', 'requests', 500, '1 minute');
SELECT r.status FROM llmquota_pick('m', 'x', 1, 1, exclude => '{b}') p,
	llmquota_record(p.lease, http_status => 200, headers => '{"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1s"}') r;
SELECT metric, period, configured, in_force FROM llmquota.observed_limit;
SELECT resolved FROM maintain();
SELECT kind, scope, subject, model, metric, period, used, amount, message FROM llmquota.alert WHERE kind = 'limit';
UPDATE llmquota.quota SET amount = 60 WHERE subject = 'a';
SELECT * FROM maintain();
SELECT resolved_at IS NOT NULL AS resolved FROM llmquota.alert WHERE kind = 'limit';

--
-- Names, history
--
SELECT * FROM maintain();
DELETE FROM llmquota.alert;
SELECT calls('clinic', 8);
SELECT * FROM maintain();
SELECT llmquota_rename('org', 'clinic', 'praxis');
SELECT * FROM maintain();
SELECT subject, org, resolved_at FROM llmquota.alert WHERE subject IN ('clinic', 'praxis');
SELECT pseudonym LIKE 'forgotten-%' AS forgotten FROM llmquota_forget('praxis');
SELECT count(*) FROM llmquota.alert WHERE subject IN ('clinic', 'praxis') OR message ~ 'clinic';
-- the longest names, of characters that JSON writes with six: a payload has less than 8000 bytes
INSERT INTO llmquota.model (model, provider) VALUES (repeat(chr(1), 128), 'p');
SELECT calls(repeat(chr(2), 128), 1, 960, repeat(chr(1), 128));
SELECT * FROM maintain();
SELECT max(octet_length(jsonb_strip_nulls(to_jsonb(a))::text)) BETWEEN 3000 AND 6000 AS fits FROM llmquota.alert a;
-- calls in flight, where nothing recovers soon enough
UPDATE llmquota.setting SET value = 0 WHERE name = 'alert_recovery';
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', 'crowd', 'concurrency', 5);
SELECT calls('crowd', 3), llmquota_maintain() IS NOT NULL AS maintained;
SELECT count(*) FROM llmquota.alert WHERE subject = 'crowd';
SELECT calls('crowd', 1);
SELECT raised > 0 AS raised FROM maintain();
SELECT kind, metric, period, threshold, used, amount, period_start, message FROM llmquota.alert WHERE subject = 'crowd';
SELECT release('crowd');
SELECT resolved FROM maintain();
-- kept for 90 days after it was resolved
INSERT INTO llmquota.alert (raised_at, kind, scope, subject, message, resolved_at)
	VALUES (now(), 'disabled', 'key', 'old', '', now() - interval '91 days'), (now(), 'disabled', 'key', 'young', '', now() - interval '89 days'),
		   (now() - interval '1 year', 'cooldown', 'key', 'standing', '', NULL);
SELECT history_dropped FROM llmquota_maintain();
SELECT subject FROM llmquota.alert WHERE scope = 'key' ORDER BY subject;
-- a flag, beside whatever else is noted of the window, until what it caused has been committed
SELECT calls('flagged', 8), calls('flagged', 1);
SELECT get_byte(m.state, 83) & 24 AS flagged_and_not_loose FROM llmquota.meter m JOIN llmquota.name n ON n.id = m.subject WHERE n.name = 'flagged' AND m.part = 0;
SELECT FROM maintain();
SELECT FROM maintain();
SELECT get_byte(m.state, 83) & 24 AS settled FROM llmquota.meter m JOIN llmquota.name n ON n.id = m.subject WHERE n.name = 'flagged' AND m.part = 0;
-- a threshold that comes below what is used, and one that comes back when there was none
SELECT calls('late', 9), calls('later', 10);
UPDATE llmquota.setting SET value = '{0.99}' WHERE name = 'alert_at';
SELECT FROM maintain();
SELECT FROM maintain();
SELECT subject, threshold FROM alerts WHERE subject ~ 'late';
UPDATE llmquota.setting SET value = '{0.7,0.99}' WHERE name = 'alert_at';
SELECT * FROM maintain();
SELECT subject, threshold FROM alerts WHERE subject ~ 'late';
UPDATE llmquota.setting SET value = '{}' WHERE name = 'alert_at';
SELECT raised FROM maintain();
SELECT raised FROM maintain();
UPDATE llmquota.setting SET value = '{0.8,0.95}' WHERE name = 'alert_at';
SELECT raised > 0 AS raised FROM maintain();
SELECT raised FROM maintain();
SELECT subject, threshold, resolved FROM alerts WHERE subject ~ 'late' ORDER BY subject, threshold;
-- one row, even if somebody else wrote it at the same time
INSERT INTO llmquota.alert (raised_at, kind, scope, subject, message) VALUES (now(), 'disabled', 'key', 'twice', ''), (now(), 'disabled', 'key', 'twice', '');
INSERT INTO llmquota.alert (raised_at, kind, scope, subject, message, period_start) VALUES (now(), 'threshold', 'key', 'twice', '', 'epoch'), (now(), 'threshold', 'key', 'twice', '', 'epoch');

SELECT * FROM llmquota_verify();
