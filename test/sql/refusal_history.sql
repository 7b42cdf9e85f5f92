-- Why was clinic-7 refused? What llmquota.refusal_hourly and llmquota.refusal_sample say of each kind of refusal.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai'), ('q', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('shared', 'p');
INSERT INTO llmquota.account (account, provider, org) VALUES ('own', 'p', 'clinic-9');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'shared'), ('k9', 'own');
INSERT INTO llmquota.model (model, provider, family) VALUES ('m', 'p', 'f'), ('dear', 'p', 'f'), ('lost', 'q', NULL);
INSERT INTO llmquota.org (org, shared_keys, enabled) VALUES ('clinic-9', false, true), ('closed', true, false);
INSERT INTO llmquota.quota (scope, subject, model, family, metric, amount, per) VALUES
	('org', 'clinic-7', NULL, NULL, 'requests', 1, '1 hour'),
	('org', 'clinic-8', NULL, 'f', 'tokens', 1000, '1 day'),
	('account', '*', 'dear', NULL, 'output_tokens', 0, '1 minute');
INSERT INTO llmquota.quota (scope, metric, amount) VALUES ('global', 'concurrency', 1);

SELECT p.status, p.refusal ->> 'metric' AS metric, p.refusal ->> 'subject' AS subject
  FROM (VALUES (1, 'm', 'clinic-7', 10, 'a'), (2, 'm', 'clinic-7', 20, 'b'), (3, 'm', 'clinic-7', 30, NULL),
			   (4, 'm', 'clinic-8', 1000000, 'c'), (5, 'dear', 'clinic-6', 5, NULL), (6, 'dear', 'clinic-9', 5, NULL),
			   (7, 'lost', 'clinic-6', 5, NULL), (8, 'm', 'closed', 5, NULL), (9, 'm', '', 5, NULL)) v (n, route, org, input, request)
 CROSS JOIN LATERAL llmquota_pick(v.route, v.org, v.input, 1, CASE v.n WHEN 9 THEN 'high' END, CASE v.n WHEN 9 THEN '{k}'::text[] END, 'a session', v.request) p
 ORDER BY v.n;
-- nobody who is refused waits for it to be written; maintenance does that
SELECT count(*) FROM llmquota.refusal_hourly;
SELECT refusals_kept, history_dropped FROM llmquota_maintain();
SELECT h.org, h.route, h.status, q.scope, q.metric, h.count, h.tokens, h.hour = date_trunc('hour', h.first_at, 'UTC') AS of_the_hour, h.first_at <= h.last_at AS in_order
  FROM llmquota.refusal_hourly h LEFT JOIN llmquota.quota q ON q.id = h.quota
 ORDER BY h.org COLLATE "C", h.route COLLATE "C", h.status;
SELECT s.org, s.route, s.status, s.priority, s.input_tokens, s.max_output_tokens, s.request_id, s.subject, s.refusal - 'retry_at' - 'quota' AS refusal,
	   (s.refusal ->> 'quota')::bigint = s.quota AS same_quota, (s.refusal ->> 'retry_at')::timestamptz > s.refused_at AS later, s.minute <= s.refused_at AS of_the_minute
  FROM llmquota.refusal_sample s
 ORDER BY s.org COLLATE "C", s.route COLLATE "C", s.status;

-- More of the same in the same hour is added, and the first of the minute stays.
CREATE TEMP TABLE first AS SELECT minute, refused_at, request_id FROM llmquota.refusal_sample WHERE org = 'clinic-7';
SELECT count(*) FROM generate_series(1, 5) n, llmquota_pick('m', 'clinic-7', n, 1, request_id => 'later') p;
SELECT refusals_kept FROM llmquota_maintain();
SELECT sum(count), sum(tokens) FROM llmquota.refusal_hourly WHERE org = 'clinic-7';
SELECT bool_and(s.refused_at = f.refused_at) FROM llmquota.refusal_sample s JOIN first f USING (minute) WHERE s.org = 'clinic-7';

-- Names of the greatest length, and the states of live pages are not to be changed by hand.
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', repeat('o', 128), 'requests', 0, '400 days');
INSERT INTO llmquota.route (route, step, model) VALUES (repeat('r', 128), 1, 'm');
SELECT status FROM llmquota_pick(repeat('r', 128), repeat('o', 128), request_id => repeat('i', 64));
SELECT refusals_kept FROM llmquota_maintain();
SELECT octet_length(org), octet_length(route), octet_length(request_id), octet_length(subject), input_tokens FROM llmquota.refusal_sample WHERE org LIKE 'oo%';
DELETE FROM llmquota.refusal_page;
-- An empty reason does not come back
SELECT refusals_kept, history_dropped FROM llmquota_maintain();
