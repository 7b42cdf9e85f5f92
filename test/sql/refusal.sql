-- What a pick says that is not granted: which status, which limit, and when to come back.
\set SHOW_CONTEXT never
\pset null -

-- a request_id only tells calls apart here
UPDATE llmquota.setting SET value = '0' WHERE name = 'idempotency_window';
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p');
INSERT INTO llmquota.model (model, provider, family) VALUES ('m', 'p', 'f'), ('n', 'p', NULL);
INSERT INTO llmquota.key (key, account) VALUES ('a-1', 'a'), ('b-1', 'b');
INSERT INTO llmquota.org (org, enabled) VALUES ('closed', false);
CREATE FUNCTION release_all() RETURNS bigint LANGUAGE sql AS $$ SELECT count(llmquota_release(lease)) FROM llmquota.lease $$;

-- no_lease_slot: the bound on leases is reached
UPDATE llmquota.setting SET value = '8' WHERE name = 'max_leases';
SELECT count(*) FROM generate_series(1, 8) n, llmquota_pick('m', request_id => n::text) p WHERE p.status = 'granted';
SELECT status, lease, key, model, granted_at, retry_after_ms > 0 AS retry, refusal FROM llmquota_pick('m');
SELECT release_all();
SELECT status FROM llmquota_pick('m');
SELECT release_all();
UPDATE llmquota.setting SET value = '100000' WHERE name = 'max_leases';

-- disabled: the org is; whatever else holds
SELECT status, retry_after_ms > 0 AS retry, refusal FROM llmquota_pick('m', 'closed');
-- no_route: nothing enabled serves the route
UPDATE llmquota.key SET enabled = false;
SELECT status, retry_after_ms > 0 AS retry, refusal FROM llmquota_pick('m');
SELECT status FROM llmquota_pick('m', exclude => '{a,b}');
UPDATE llmquota.key SET enabled = true;
-- unavailable: every candidate is excluded
SELECT status, retry_after_ms > 0 AS retry, refusal FROM llmquota_pick('m', exclude => '{a,b}');

-- Refuses with one quota on each of the scopes in turn, and shows what the refusal says; its time is compared, not shown.
CREATE FUNCTION refused_by(scope text, subject text, model text, family text, metric text, amount numeric, per interval)
RETURNS TABLE (status text, refusal jsonb, other_columns boolean, retry_at boolean, retry_after boolean)
LANGUAGE plpgsql AS $$
DECLARE
	p llmquota.pick_result;
	wait numeric;
BEGIN
	DELETE FROM llmquota.quota;
	INSERT INTO llmquota.quota (scope, subject, model, family, metric, amount, per)
		VALUES (scope, subject, model, family, metric, amount, per);
	LOOP
		p := llmquota_pick('m', 'clinic-7', 100, 50, exclude => '{b}');
		EXIT WHEN p.status <> 'granted';
	END LOOP;
	-- the pick's own clock read is between these two
	wait := EXTRACT(epoch FROM (p.refusal->>'retry_at')::timestamptz - clock_timestamp()) * 1000;
	RETURN QUERY SELECT p.status,
		p.refusal - 'retry_at'
			|| jsonb_build_object('quota', (p.refusal->>'quota')::bigint = (SELECT max(id) FROM llmquota.quota)),
		num_nonnulls(p.lease, p.key, p.account, p.provider, p.model, p.attempt, p.max_output_tokens, p.granted_at,
			p.expires_at) > 0,
		(p.refusal->>'retry_at')::timestamptz BETWEEN statement_timestamp()
			AND statement_timestamp() + COALESCE(per * 61 / 60, '2 s') + interval '10 s',
		p.retry_after_ms >= wait AND p.retry_after_ms > 0;
	PERFORM llmquota_release(lease) FROM llmquota.lease;
END $$;
SELECT r.* FROM (VALUES
	(1, 'global', '', NULL, NULL, 'requests', 3, '1 hour'::interval),
	(2, 'provider', 'p', NULL, NULL, 'input_tokens', 250, '1 day'),
	(3, 'account', 'a', NULL, NULL, 'output_tokens', 149, '90 seconds'),
	(4, 'key', 'a-1', NULL, NULL, 'tokens', 300, '20 days'),
	(5, 'org', 'clinic-7', NULL, NULL, 'concurrency', 2, NULL),
	(6, 'org', 'clinic-7', NULL, NULL, 'requests', 1, '1 minute'),
	(7, 'org', '*', NULL, NULL, 'requests', 1, '1 hour'),
	(8, 'account', '*', 'm', NULL, 'requests', 1, '1 hour'),
	(9, 'account', '*', '*', NULL, 'requests', 1, '1 hour'),
	(10, 'global', '', NULL, 'f', 'requests', 1, '36 hours'),
	(11, 'key', '*', NULL, '*', 'concurrency', 1, NULL)) q (n, scope, subject, model, family, metric, amount, per),
	refused_by(q.scope, q.subject, q.model, q.family, q.metric, q.amount, q.per) r
 ORDER BY n;

-- too_large: it can never fit, and asking again cannot help; amount 0 admits nothing, not even a call without tokens
SELECT r.status, r.refusal, r.retry_at, r.retry_after
  FROM refused_by('account', 'a', NULL, NULL, 'tokens', 149, '1 hour') r;
SELECT r.status, r.refusal, r.retry_at, r.retry_after
  FROM refused_by('org', '*', NULL, NULL, 'requests', 0, '1 hour') r;
SELECT r.status, r.refusal, r.retry_at, r.retry_after FROM refused_by('org', '*', NULL, NULL, 'concurrency', 0, NULL) r;
SELECT status, retry_after_ms FROM llmquota_pick('m', 'clinic-7', 0, 0);
-- where another candidate can take it in time, that is what is said; of too large and full, full
DELETE FROM llmquota.quota;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
	VALUES ('account', 'a', 'tokens', 100, '1 hour'), ('account', 'b', 'tokens', 1000, '1 hour');
SELECT key FROM llmquota_pick('m', input_tokens => 900, max_output_tokens => 0);
SELECT status, refusal->>'subject' AS subject, refusal->'requested' AS requested
  FROM llmquota_pick('m', input_tokens => 900, max_output_tokens => 0);
SELECT status, refusal->>'subject' AS subject, refusal->'used' AS used
  FROM llmquota_pick('m', input_tokens => 101, max_output_tokens => 0);
SELECT status FROM llmquota_pick('m', input_tokens => 1001, max_output_tokens => 0);
SELECT release_all() > 0 AS released;

-- within a candidate the latest limit binds, over candidates the earliest
CREATE FUNCTION bound_by(org text DEFAULT '', exclude text[] DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', status, refusal->>'scope', refusal->>'subject', refusal->>'period')
	  FROM llmquota_pick('m', org, exclude => exclude)
$$;
DELETE FROM llmquota.quota;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES
	('account', 'a', 'requests', 1, '2 hours'), ('account', 'a', 'requests', 1, '10 hours'),
	('account', 'b', 'requests', 1, '5 hours'), ('account', 'b', 'requests', 1, '1 hour');
SELECT count(DISTINCT key) AS keys
  FROM generate_series(1, 2) n, llmquota_pick('m', 'clinic-7', request_id => n::text) p;
SELECT bound_by() AS a_or_b, bound_by(exclude => '{b}') AS a;
-- limits that hold for all candidates bind with those of each
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'requests', 1, '7 hours');
SELECT status FROM llmquota_pick('m', 'clinic-1', exclude => '{a,b-1}');
SELECT bound_by('clinic-1') AS org_is_free;
UPDATE llmquota.quota SET amount = 0 WHERE scope = 'org';
SELECT bound_by('clinic-7') AS org_never;
DELETE FROM llmquota.quota;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES
	('org', '*', 'requests', 2, '7 hours'), ('account', 'a', 'requests', 1, '10 hours'),
	('account', 'b', 'requests', 1, '5 hours');
SELECT count(DISTINCT key) AS keys
  FROM generate_series(1, 2) n, llmquota_pick('m', 'clinic-7', request_id => n::text) p;
SELECT bound_by('clinic-7') AS org_later_than_b, bound_by('clinic-7', '{b}') AS a_later_than_org,
	bound_by('clinic-1') AS b;
SELECT release_all() > 0 AS released;
DELETE FROM llmquota.quota;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES
	('org', '*', 'requests', 2, '3 hours'), ('global', '', 'requests', 1000, '1 hour'),
	('account', 'a', 'requests', 1, '10 hours'), ('account', 'b', 'requests', 1, '5 hours');
SELECT count(DISTINCT key) AS keys
  FROM generate_series(1, 2) n, llmquota_pick('m', 'clinic-7', request_id => n::text) p;
SELECT bound_by('clinic-7') AS b_later_than_org, bound_by('clinic-1') AS b;
SELECT release_all() > 0 AS released;

-- retry_after_ms: never before the limit frees itself, never 0, spread by 44 s at most, however long the wait is; a bucket
-- is a sixtieth of the hour and arrival_slack
DELETE FROM llmquota.quota;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('provider', 'p', 'requests', 1, '1 hour');
CREATE VIEW wait AS
SELECT n, p.retry_after_ms,
	   EXTRACT(epoch FROM (p.refusal->>'retry_at')::timestamptz - clock_timestamp()) * 1000 AS true_ms
  FROM generate_series(1, 400) n,
	llmquota_pick('m', CASE WHEN n <= 200 THEN 'clinic-7' ELSE 'clinic-8' END, request_id => n::text) p
 WHERE p.status <> 'granted';
CREATE TEMP TABLE waits AS SELECT * FROM wait;
SELECT count(*) AS refused, bool_and(retry_after_ms >= true_ms) AS not_early,
	bool_and(retry_after_ms <= true_ms + 44000 + 5000) AS not_late,
	   count(DISTINCT retry_after_ms) > 300 AS spread,
	   max(true_ms) <= 61 * ceil((3600000 + 250) / 60.0) AND min(true_ms) > 3540000 AS about_an_hour
  FROM waits;
-- a part of the spread is the org's own, so that orgs do not come together
SELECT stddev(retry_after_ms - true_ms) FILTER (WHERE n <= 200) < stddev(retry_after_ms - true_ms) AS apart FROM waits;
-- who waits alone, with no share of the wait to be spread by, returns when there is room; the more wait, the wider it is
UPDATE llmquota.setting SET value = '0' WHERE name = 'refusal_spread';
SELECT release_all() > 0 AS released;
DELETE FROM llmquota.quota;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'requests', 1, '1 hour');
SELECT count(*) AS refused, bool_and(retry_after_ms BETWEEN true_ms AND true_ms + 5000) FILTER (WHERE n <= 2) AS no_spread,
	max(retry_after_ms - true_ms) FILTER (WHERE n <= 200) > 30000 AS spread FROM wait;
UPDATE llmquota.setting SET value = '0.25' WHERE name = 'refusal_spread';
SELECT release_all() > 0 AS released;
-- at a calendar reset 1 to 15 s at random and up to 29 s by org
DELETE FROM llmquota.quota;
SELECT format('Etc/GMT%s', to_char(EXTRACT(hour FROM clock_timestamp() AT TIME ZONE 'UTC') - 12, 'FMSG99')) AS noon \gset
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar, timezone)
	VALUES ('org', '*', 'requests', 1, 'day', :'noon');
DROP TABLE waits;
CREATE TEMP TABLE waits AS SELECT * FROM wait;
SELECT count(*) AS refused, bool_and(retry_after_ms >= true_ms + 1000) AS not_early,
	bool_and(retry_after_ms <= true_ms + 44000 + 5000) AS not_late FROM waits;
SELECT release_all() > 0 AS released;
-- for concurrency at least 50 ms, whatever calls have taken so far
DELETE FROM llmquota.quota;
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', '*', 'concurrency', 1);
SELECT status FROM llmquota_pick('m');
SELECT status, retry_after_ms BETWEEN 50 AND 120000 AS retry FROM llmquota_pick('m');
SELECT count(llmquota_record(lease)) FROM llmquota.lease;
SELECT count(p.status), count(llmquota_record(p.lease))
  FROM generate_series(1, 20) n, llmquota_pick('m', request_id => n::text) p;
SELECT status FROM llmquota_pick('m');
SELECT status, retry_after_ms BETWEEN 50 AND 999 AS retry FROM llmquota_pick('m');
SELECT release_all();

-- and at most the earliest expiry: here of a lease that lives for half a second, where nobody knows how long calls take
SELECT p.status, q.status, q.retry_after_ms <= 500 * 1.25 + 1 AS retry
  FROM llmquota_pick('m', 'clinic-5', ttl_ms => 500) p, llmquota_pick('m', 'clinic-5', request_id => p.status) q;
SELECT release_all();

-- what a pick was refused by is counted there, and nowhere else
DELETE FROM llmquota.quota;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
	VALUES ('org', '*', 'requests', 2, '1 hour'), ('global', '', 'requests', 1000, '1 hour'),
	('account', 'a', 'requests', 1, '1 hour');
SELECT p.status, count(*)
  FROM generate_series(1, 7) n, llmquota_pick('m', 'clinic-7', exclude => '{b}', request_id => n::text) p
	GROUP BY p.status ORDER BY p.status;
SELECT p.status, count(*) FROM generate_series(1, 5) n, llmquota_pick('m', 'clinic-8', request_id => n::text) p
 GROUP BY p.status ORDER BY p.status;
SELECT scope, subject, metric, used, amount, remaining, refused FROM llmquota.meter_window
 ORDER BY scope, subject COLLATE "C";
