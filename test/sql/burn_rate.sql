-- How fast orgs, keys and models are used, and when each limit will be used up at that rate.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_llmquota_burn_all, regress_llmquota_burn_one;
RESET client_min_messages;
INSERT INTO llmquota.provider (provider, adapter, timezone) VALUES ('p', 'openai', 'America/Los_Angeles');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider, family) VALUES ('m', 'p', 'f'), ('n', 'p', NULL);
INSERT INTO llmquota.price (model, input, output) VALUES ('m', 10000, 20000);
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('THB', 0.025);
INSERT INTO llmquota.org (org, timezone) VALUES ('group', 'Asia/Bangkok');
INSERT INTO llmquota.org (org, parent) VALUES ('x', 'group');
SELECT FROM llmquota_maintain();

-- calls of now: three of x, of which one fails and one is released, and one of y, of which nobody knows the cost
SELECT count(llmquota_record(lease, 100, 20)) FROM generate_series(1, 2) n, llmquota_pick('m', 'x', 100, 20, request_id => n::text);
SELECT count(llmquota_record(lease, http_status => 500)) FROM llmquota_pick('m', 'x', 100, 20);
SELECT count(llmquota_release(lease)) FROM llmquota_pick('m', 'x', 100, 20);
SELECT count(llmquota_record(lease, 7, 0)) FROM llmquota_pick('n', 'y', 100, 20);
SELECT FROM llmquota_maintain();
SELECT org, key, model, calls_minute, tokens_minute, round(cost_minute, 2) AS cost_minute, calls_hour, tokens_hour, round(cost_hour, 2) AS cost_hour,
	   calls_day, tokens_day, round(cost_day, 2) AS cost_day
  FROM llmquota.burn_rate ORDER BY org;

-- calls of some time ago: when they were picked, and for how long they were under way
INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org, model, key, account, provider, status, input_tokens, output_tokens, cost_base, recorded_in)
SELECT gen_random_uuid(), now() - picked, now() - picked + lasted, w.org, 'm', 'k', 'a', 'p', 'ok', 10, 10, 1, 1
  FROM (VALUES ('30 s ago', interval '30 s', interval '20 s'), ('5 min ago', '5 min', '290 s'), ('5 min ago, at once', '5 min', '1 s'), ('11 min ago', '11 min', '655 s'),
			   ('20 min ago', '20 min', '1 s'), ('70 min ago', '70 min', '1 s'), ('24 h ago', '24 h', '1 s'), ('30 h ago', '30 h', '1 s')) w (org, picked, lasted),
	   generate_series(1, 1000);
SELECT FROM llmquota_maintain();
-- of the last minute what was recorded in it; of hours by what part of them is in the time that is asked about
SELECT b.org, b.calls_minute, b.tokens_minute = b.calls_minute * 20 AND b.cost_minute = b.calls_minute AS minute_agrees,
	   b.calls_hour = round(1000 * least(greatest(h.seconds / 3600, 0), 1)) AND abs(b.tokens_hour - b.calls_hour * 20) <= 10 AND abs(b.cost_hour - b.calls_hour) <= 0.5 AS hour_agrees,
	   b.calls_day = round(1000 * least(h.seconds / 3600 + 23, 1)) AND abs(b.tokens_day - b.calls_day * 20) <= 10 AND abs(b.cost_day - b.calls_day) <= 0.5 AS day_agrees
  FROM (SELECT r.*, interval '1 min' * substring(r.org FROM '\d+')::int * CASE WHEN r.org LIKE '% h ago' THEN 60 WHEN r.org LIKE '% s ago' THEN 1.0 / 60 ELSE 1 END AS ago
		  FROM llmquota.burn_rate r WHERE r.org LIKE '% ago%') b
 CROSS JOIN LATERAL (SELECT extract(epoch FROM date_trunc('hour', (SELECT min(u.picked_at) FROM llmquota.usage u WHERE u.org = b.org), 'UTC') + interval '2 hours' - statement_timestamp()) AS seconds) h
 ORDER BY b.ago, b.org COLLATE "C";

-- limits that have been used: 4 of 6 requests by x, in a year that goes on; nobody limits calls in flight by time
DELETE FROM llmquota.usage WHERE org LIKE '% ago%';
SELECT FROM llmquota_maintain();
INSERT INTO llmquota.quota (scope, subject, model, family, metric, amount, per, calendar, timezone) VALUES
	('org', '*', NULL, NULL, 'requests', 6, NULL, 'year', 'UTC'),
	('org', '*', NULL, NULL, 'concurrency', 10, NULL, NULL, NULL),
	('account', 'a', NULL, 'f', 'requests', 3, NULL, 'year', 'UTC'),
	('key', '*', 'm', NULL, 'input_tokens', 1000, NULL, 'year', NULL),
	('provider', 'p', NULL, NULL, 'output_tokens', 1000000, NULL, 'day', NULL),
	('global', '', NULL, NULL, 'tokens', 1000, '400 days', NULL, NULL),
	('global', '', NULL, NULL, 'requests', 1000, '1 second', NULL, NULL);
INSERT INTO llmquota.budget (scope, subject, amount, currency, calendar, hard_stop) VALUES
	('org', '*', 10, 'USD', 'total', false), ('parent', 'group', 400, 'THB', 'total', false), ('parent', 'x', 400, 'THB', 'year', false);
SELECT count(llmquota_record(lease, 100, 20)) FROM llmquota_pick('m', 'x', 100, 20);
SELECT count(llmquota_record(lease, 7, 0)) FROM llmquota_pick('n', 'y', 100, 20, max_cost => 0);
SELECT FROM llmquota_maintain();
SELECT FROM llmquota_maintain();
-- agrees: used up as soon as what is left has come, unless the period ends before
SELECT e.scope, e.subject, e.model, e.family, e.metric, e.period, trim_scale(e.used) AS used, trim_scale(e.amount) AS amount, e.currency, e.rate > 0 AS is_used,
	   CASE WHEN e.used >= e.amount THEN e.exhausted_at <= clock_timestamp()
			WHEN e.rate > 0 AND f.expected < f.ends THEN abs(extract(epoch FROM e.exhausted_at - f.expected)) < 0.01 * extract(epoch FROM f.expected - now())
			ELSE e.exhausted_at IS NULL END AS agrees, e.budget IS NOT NULL AS is_budget, e.mode
  FROM llmquota.exhaustion e
 CROSS JOIN LATERAL (
	SELECT now() + (e.amount - e.used) / nullif(e.rate, 0) * interval '1 hour' AS expected, split_part(e.period, ' ', 1) AS unit, split_part(e.period, ' ', 2) AS zone) p
 CROSS JOIN LATERAL (
	SELECT p.expected, CASE WHEN p.unit = 'total' THEN 'infinity' ELSE (date_trunc(p.unit, now() AT TIME ZONE p.zone) + ('1 ' || p.unit)::interval) AT TIME ZONE p.zone END AS ends) f
 WHERE e.period NOT IN ('1 second', '400 days') ORDER BY e.scope COLLATE "C", e.subject COLLATE "C", e.metric COLLATE "C", e.period COLLATE "C";
-- in the last day x has spent 4.2 dollars, 168 baht
SELECT scope, subject, currency, rate, round(extract(epoch FROM exhausted_at - now()) / 3600, 1) AS hours_left
  FROM llmquota.exhaustion WHERE period = 'total' ORDER BY scope COLLATE "C", subject COLLATE "C";
-- what is used up already
SELECT scope, exhausted_at BETWEEN now() AND clock_timestamp() AS now FROM llmquota.exhaustion WHERE used >= amount ORDER BY scope COLLATE "C";
-- a sliding window goes by its last sixth, and the bucket that is running: of 400 days these are 67 to 73
SELECT period, used / rate / 24 BETWEEN 66 AND 74 AS last_sixth, exhausted_at > now() + interval '100 days' AS will_be_exhausted FROM llmquota.exhaustion WHERE period = '400 days';

-- who sees what
CREATE ROLE regress_llmquota_burn_all;
CREATE ROLE regress_llmquota_burn_one;
SELECT llmquota_grant('regress_llmquota_burn_all', 'analyst'), llmquota_grant('regress_llmquota_burn_one', 'analyst', 'group');
SET ROLE regress_llmquota_burn_all;
SELECT count(DISTINCT org) FROM llmquota.burn_rate;
SELECT count(DISTINCT scope) FROM llmquota.exhaustion;
RESET ROLE;
SET ROLE regress_llmquota_burn_one;
SELECT count(*) FROM llmquota.burn_rate;
SELECT scope, subject FROM llmquota.exhaustion;
RESET ROLE;
SELECT llmquota_grant('regress_llmquota_burn_one', 'analyst', 'x');
SET ROLE regress_llmquota_burn_one;
SELECT DISTINCT org FROM llmquota.burn_rate;
SELECT scope, subject, count(*) FROM llmquota.exhaustion GROUP BY scope, subject ORDER BY scope COLLATE "C";
RESET ROLE;
SELECT llmquota_revoke('regress_llmquota_burn_all', 'analyst'), llmquota_revoke('regress_llmquota_burn_one', 'analyst');
SET ROLE regress_llmquota_burn_one;
SELECT FROM llmquota.exhaustion;
SELECT FROM llmquota_exhaustion_rows();
RESET ROLE;
DROP ROLE regress_llmquota_burn_all, regress_llmquota_burn_one;
SELECT * FROM llmquota_verify();
