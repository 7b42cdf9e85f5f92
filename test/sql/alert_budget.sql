-- Alerts of budgets: what is spent or reserved, in their currency, by their own thresholds.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.model (model, provider, family) VALUES ('m', 'p', 'f'), ('n', 'p', NULL);
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
-- a token costs a cent; a baht is four cents
INSERT INTO llmquota.price (model, input, output) VALUES ('m', 10000, 10000), ('n', 10000, 10000);
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('THB', 0.04);
-- a calendar whose periods do not end now: its zone is one where it is about noon
SELECT format('Etc/GMT%s', to_char(EXTRACT(hour FROM clock_timestamp() AT TIME ZONE 'UTC') - 12, 'FMSG99')) AS noon \gset
ALTER TABLE llmquota.budget ALTER timezone SET DEFAULT :'noon', ALTER currency SET DEFAULT 'USD', ALTER downgrade_at SET DEFAULT NULL;
UPDATE llmquota.setting SET value = 'off' WHERE name = 'alert_forecast';
UPDATE llmquota.setting SET value = 1000 WHERE name = 'alert_digest';

-- A pick that reserves so many cents, and what its record says that it cost.
CREATE FUNCTION call(org text, reserved int, used int DEFAULT NULL, model text DEFAULT 'm') RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', p.status, (SELECT r.status FROM llmquota_record(p.lease, used, 0) r WHERE used IS NOT NULL AND p.lease IS NOT NULL))
	  FROM llmquota_pick(model, call.org, reserved, 0) p
$$;
CREATE FUNCTION maintain(OUT raised bigint, OUT resolved bigint) LANGUAGE sql AS $$SELECT alerts_raised, alerts_resolved FROM llmquota_maintain()$$;
CREATE VIEW alerts AS
SELECT kind, scope, subject, model, family, metric, threshold, used, amount, currency, resolved_at IS NOT NULL AS resolved
  FROM llmquota.alert ORDER BY scope, subject, id;

-- what is reserved counts, to the last place, in the currency of the budget
INSERT INTO llmquota.budget (subject, amount, currency) VALUES ('dollars', 10, 'USD'), ('baht', 250, 'THB'), ('almost', 12.500000001, 'USD');
SELECT call('dollars', 799), call('baht', 799), call('almost', 1000);
SELECT * FROM maintain();
SELECT call('dollars', 1), call('baht', 1);
SELECT * FROM maintain();
TABLE alerts;
SELECT regexp_replace(message, 'budget \d+, day Etc/GMT[-+\d]+', 'BUDGET') AS message, org, budget = (SELECT id FROM llmquota.budget b WHERE b.subject = a.subject) AS of_it, quota
  FROM llmquota.alert a ORDER BY id;
SELECT call('almost', 1);
SELECT * FROM maintain();
SELECT threshold, used, amount FROM alerts WHERE subject = 'almost';
-- no later alert when the call costs less than it reserved, and one when it costs more
INSERT INTO llmquota.budget (subject, amount) VALUES ('cheaper', 10), ('dearer', 10);
SELECT call('cheaper', 900, 100), call('dearer', 100, 970);
SELECT * FROM maintain();
SELECT subject, threshold, used FROM alerts WHERE subject IN ('cheaper', 'dearer');
SELECT r.cost FROM llmquota_pick('m', 'images', 1, 0) p, llmquota_record(p.lease, cost => 9) r;
INSERT INTO llmquota.budget (subject, amount) VALUES ('images', 10);
SELECT r.cost FROM llmquota_pick('m', 'images', 1, 0) p, llmquota_record(p.lease, cost => 9) r;
SELECT FROM maintain();
SELECT FROM maintain();
SELECT subject, threshold, used, amount FROM alerts WHERE subject = 'images';

-- thresholds of one's own; none; one that observes, one that does not stop
INSERT INTO llmquota.budget (subject, amount, alert_at, mode, hard_stop) VALUES
	('own', 10, '{0.123456789,1}', 'enforce', true), ('none', 10, '{}', 'enforce', true), ('observing', 1, '{0.8,0.95}', 'observe', true), ('soft', 1, '{0.8}', 'enforce', false);
SELECT call('own', 123), call('none', 1000), call('observing', 300), call('soft', 300);
SELECT * FROM maintain();
SELECT subject, threshold, used, amount FROM alerts WHERE subject IN ('own', 'none', 'observing', 'soft');
SELECT call('own', 877);
SELECT * FROM maintain();
SELECT subject, threshold, used, amount FROM alerts WHERE subject = 'own';

-- everybody's, orgs together, a model, a family, an account and a key; each by its window
INSERT INTO llmquota.org (org, parent) VALUES ('group', NULL), ('praxis', 'group');
INSERT INTO llmquota.budget (scope, subject, model, family, amount, calendar, per, timezone) VALUES
	('parent', 'group', NULL, NULL, 1, 'month', NULL, :'noon'), ('org', 'praxis', 'm', NULL, 2, 'total', NULL, NULL),
	('org', 'praxis', NULL, 'f', 3, NULL, '7 days', NULL), ('account', 'a', NULL, NULL, 100, 'year', NULL, :'noon'), ('org', 'praxis', NULL, NULL, 4, NULL, '5 minutes', NULL);
SELECT call('praxis', 81), call('praxis', 1, model => 'n');
SELECT * FROM maintain();
SELECT call('praxis', 119);
UPDATE llmquota.budget SET amount = 1.9 WHERE scope = 'parent';
SELECT call('praxis', 89);
SELECT * FROM maintain();
SELECT scope, subject, model, family, period ~ '^month' AS month, period, threshold, used, amount, ends_at IS NULL AS without_end, org FROM llmquota.alert WHERE subject IN ('group', 'praxis') AND period !~ '^month'
UNION ALL
SELECT scope, subject, model, family, period ~ '^month', '', threshold, used, amount, ends_at IS NULL, org FROM llmquota.alert WHERE subject = 'group' ORDER BY 1, 2, 6, 7, 9;

-- a total has used nothing, and reaches nothing, before it begins; its period begins when it says
INSERT INTO llmquota.budget (subject, amount, calendar, timezone, starts_at) VALUES
	('study', 1, 'total', NULL, now() + '1 day'), ('trial', 1, 'total', NULL, '2020-01-01 00:00+00'), ('ever', 1, 'total', NULL, '-infinity');
SELECT call('study', 300), call('study', 300), call('trial', 90), call('ever', 90);
SELECT work_left FROM llmquota_maintain();
SELECT * FROM maintain();
SELECT w.subject, w.used, w.amount, w.remaining, w.period_start = b.starts_at AS starts, w.resets_at FROM llmquota.budget_window w JOIN llmquota.budget b ON b.id = w.budget
 WHERE w.period = 'total' AND w.model IS NULL ORDER BY 1;
SELECT subject, used, resets_at FROM llmquota.exhaustion WHERE period = 'total' AND model IS NULL ORDER BY 1;
SELECT sum(value) FROM llmquota_metrics() WHERE name = 'llmquota_budget_used' AND labels ->> 'subject' = 'study';
SELECT a.subject, a.threshold, a.period_start = b.starts_at AS starts, a.ends_at FROM llmquota.alert a JOIN llmquota.budget b ON b.id = a.budget
 WHERE a.subject IN ('study', 'trial', 'ever') ORDER BY 1;

-- a budget that is raised for a while, and what is spent of that
INSERT INTO llmquota.budget (subject, amount) VALUES ('raised', 1);
SELECT call('raised', 81);
SELECT * FROM maintain();
SELECT llmquota_raise_budget('raised', 2, until => now() + interval '1 hour', reason => 'exams') IS NOT NULL AS raised;
SELECT * FROM maintain();
SELECT threshold, used, amount, resolved FROM alerts WHERE subject = 'raised';
SELECT call('raised', 80);
SELECT * FROM maintain();
SELECT threshold, used, amount, resolved FROM alerts WHERE subject = 'raised';

-- a forecast, in money
UPDATE llmquota.setting SET value = 'on' WHERE name = 'alert_forecast';
INSERT INTO llmquota.budget (subject, amount, currency) VALUES ('soon', 100, 'THB');
SELECT call('soon', 280);
SELECT raised > 0 AS raised FROM maintain();
SELECT kind, used, amount, currency, expected_at BETWEEN period_start AND ends_at AS before_the_end FROM llmquota.alert WHERE subject = 'soon';

-- renamed, and gone
SELECT llmquota_rename('org', 'dollars', 'bucks');
SELECT FROM maintain();
SELECT subject, threshold, resolved FROM alerts WHERE subject IN ('dollars', 'bucks');
DELETE FROM llmquota.budget WHERE subject = 'bucks';
SELECT FROM maintain();
SELECT subject, threshold, resolved FROM alerts WHERE subject IN ('dollars', 'bucks');

SELECT * FROM llmquota_verify();
