-- What llmquota_capacity says for the next minute can be picked, and no more; true at once after any change. Windows are
-- hours or years long, so that nothing comes back within the minute.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_llmquota_all, regress_llmquota_one, regress_llmquota_two, regress_llmquota_service, regress_llmquota_boss;
SET client_min_messages = warning;
CREATE ROLE regress_llmquota_all;
CREATE ROLE regress_llmquota_one;
CREATE ROLE regress_llmquota_two;
CREATE ROLE regress_llmquota_service;
CREATE ROLE regress_llmquota_boss;

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai'), ('q', 'anthropic');
INSERT INTO llmquota.account (account, provider, org) VALUES ('a', 'p', NULL), ('b', 'p', NULL), ('own', 'p', 'clinic-7'), ('other', 'p', 'clinic-9'), ('c', 'q', NULL);
INSERT INTO llmquota.key (key, account) VALUES ('a1', 'a'), ('a2', 'a'), ('b1', 'b'), ('own1', 'own'), ('own2', 'own'), ('other1', 'other');
INSERT INTO llmquota.model (model, provider, family) VALUES ('m', 'p', 'f'), ('n', 'p', 'f'), ('of-q', 'q', NULL), ('disabled', 'p', NULL);
UPDATE llmquota.model SET enabled = false WHERE model = 'disabled';

CREATE FUNCTION said(model text, org text, input bigint DEFAULT NULL, output bigint DEFAULT NULL, horizon text DEFAULT 'minute', accounts text DEFAULT NULL)
RETURNS numeric LANGUAGE sql AS $$
	SELECT CASE WHEN c.in_flight IS NULL THEN c.requests ELSE c.at_once END FROM llmquota_capacity(model, org, input, output) c
	 WHERE c.horizon = said.horizon AND c.accounts = coalesce(said.accounts, CASE WHEN org IS NULL THEN 'shared' ELSE 'all' END)
$$;
-- Picks as much as is said, once more, and gives everything back; then as much is said as before. Without an org somebody
-- who has no limits of his own picks.
CREATE FUNCTION can_do(model text, org text, input bigint DEFAULT NULL, output bigint DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	expected CONSTANT numeric := said(model, org, input, output);
	granted int := 0;
	picked record;
	left_then numeric;
BEGIN
	IF expected IS NULL THEN
		RETURN 'no limit';
	END IF;
	LOOP
		SELECT * INTO picked FROM llmquota_pick(model, coalesce(org, 'anybody'), input, output);
		EXIT WHEN picked.status <> 'granted' OR granted > expected;
		granted := granted + 1;
	END LOOP;
	left_then := said(model, org, input, output);
	PERFORM llmquota_release(l.lease) FROM llmquota.lease l;
	IF granted IS DISTINCT FROM expected OR left_then <> 0 OR said(model, org, input, output) IS DISTINCT FROM expected THEN
		RETURN format('%s said, %s granted, then %s said, then %s', expected, granted, left_then, said(model, org, input, output));
	END IF;
	RETURN format('%s, then %s', granted, picked.status);
END $$;

-- no limit, no key, no model
SELECT * FROM llmquota_capacity('m');
SELECT * FROM llmquota_capacity('of-q');
SELECT * FROM llmquota_capacity('disabled', 'clinic-7');
SELECT * FROM llmquota_capacity('nothing');
SELECT * FROM llmquota_capacity(NULL);
SELECT * FROM llmquota_capacity('m', input_tokens => -1);

-- an account's limit counts once, however many keys it has
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('account', 'a', 'requests', 10, '1 hour'), ('account', 'b', 'requests', 4, '1 hour');
SELECT * FROM llmquota_capacity('m', input_tokens => 100, max_output_tokens => 20);
SELECT can_do('m', NULL), can_do('m', 'clinic-8');
-- keys add up, to what their account allows
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('key', 'a1', 'requests', 3, '1 hour'), ('key', 'a2', 'requests', 2, '1 hour');
SELECT can_do('m', NULL);
UPDATE llmquota.quota SET amount = 4 WHERE subject = 'a';
SELECT can_do('m', NULL);
-- accounts add up, to what holds for all; an org's own are its own
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('key', '*', 'requests', 3, '1 hour'), ('org', 'clinic-7', 'requests', 12, '2 hours');
SELECT accounts, keys, requests FROM llmquota_capacity('m', 'clinic-7') WHERE horizon = 'minute' ORDER BY accounts;
SELECT can_do('m', 'clinic-7'), can_do('m', 'clinic-8'), can_do('m', NULL);
INSERT INTO llmquota.org (org, shared_keys) VALUES ('clinic-7', false);
SELECT accounts, keys, requests FROM llmquota_capacity('m', 'clinic-7') WHERE horizon = 'minute' ORDER BY accounts;
SELECT can_do('m', 'clinic-7'), can_do('m', NULL);
UPDATE llmquota.org SET shared_keys = true, enabled = false;
SELECT can_do('m', 'clinic-7');
DELETE FROM llmquota.org;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('provider', 'p', 'requests', 7, '1 hour');
SELECT can_do('m', 'clinic-7'), can_do('m', NULL);
-- what one model uses another does not have
SELECT status FROM generate_series(1, 3) n, llmquota_pick('n', request_id => n::text);
SELECT said('m', 'clinic-7'), said('n', NULL), said('of-q', NULL);
SELECT count(llmquota_release(lease)) FROM llmquota.lease;
INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per) VALUES ('provider', '*', 'm', 'requests', 5, '1 hour');
SELECT can_do('m', 'clinic-7'), can_do('n', 'clinic-7');
UPDATE llmquota.key SET models = '{n}' WHERE key IN ('own1', 'own2');
SELECT accounts, keys, requests FROM llmquota_capacity('m', 'clinic-7') WHERE horizon = 'minute' ORDER BY accounts;
UPDATE llmquota.key SET models = NULL;

-- tokens: by the size of requests, and apart from that
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('account', 'a', 'input_tokens', 1000, '1 hour'),
	('account', 'a', 'tokens', 1500, '1 hour'), ('account', 'b', 'output_tokens', 500, '1 hour'), ('account', 'b', 'tokens', 2000, '1 hour');
SELECT accounts, requests, input_tokens, output_tokens, tokens FROM llmquota_capacity('m', NULL, 300, 150) WHERE horizon = 'minute';
SELECT can_do('m', NULL, 300, 150), can_do('m', NULL, 400, 10), can_do('m', NULL, 10, 300), can_do('m', NULL, 2000, 1), can_do('m', NULL, 0, 0);

-- what a pick of high priority alone may use; what is only observed
INSERT INTO llmquota.org (org, priority) VALUES ('clinic-7', 'high');
UPDATE llmquota.quota SET high_priority_share = 0.5 WHERE scope = 'provider';
SELECT can_do('m', 'clinic-7', 1, 1), can_do('m', 'clinic-8', 1, 1), can_do('m', NULL, 1, 1);
UPDATE llmquota.quota SET mode = 'observe' WHERE scope = 'provider';
SELECT can_do('m', 'clinic-8', 1, 1);
DELETE FROM llmquota.org;

-- keys that are left alone: disabled in the configuration, by somebody, cooling; and those of which somebody must see
SELECT can_do('m', NULL, 1, 1);
UPDATE llmquota.key SET enabled = false WHERE key = 'a1';
SELECT can_do('m', NULL, 1, 1);
SELECT llmquota_disable('b1');
SELECT can_do('m', NULL, 1, 1);
SELECT llmquota_enable('b1');
UPDATE llmquota.key SET enabled = true;
SELECT llmquota_cool('account', 'a', 7200000) IS NOT NULL AS cooled;
SELECT horizon, keys, requests, at_once FROM llmquota_capacity('m', NULL, 1, 1);
SELECT can_do('m', NULL, 1, 1);
SELECT llmquota_clear();
SELECT llmquota_cool('key', 'a1', 30000) IS NOT NULL AS cooled;
SELECT keys, requests, at_once FROM llmquota_capacity('m', NULL, 1, 1) WHERE horizon = 'minute';
SELECT count(*) FROM generate_series(1, 9) n, llmquota_pick('m', 'clinic-8', 1, 1, request_id => n::text) WHERE status = 'granted';
SELECT keys, requests, at_once FROM llmquota_capacity('m', NULL, 1, 1) WHERE horizon = 'minute';
SELECT count(llmquota_release(lease)) FROM llmquota.lease;
SELECT llmquota_clear();
UPDATE llmquota.provider SET breaker_probe_ms = 3600000;
UPDATE llmquota.quota SET amount = 100 WHERE subject IN ('b', '*');
SELECT (llmquota_record(lease, http_status => 500)).status FROM generate_series(1, 5) n, llmquota_pick('m', 'clinic-8', 1, 1, exclude => '{a}', request_id => n::text);
SELECT * FROM llmquota_capacity('m', NULL, 1, 1);
SELECT key, status FROM llmquota.key_status WHERE model = 'm' AND account = 'b';
SELECT can_do('m', NULL, 1, 1);
SELECT llmquota_clear();

-- limits that a provider has told of
SELECT (llmquota_record(lease, 1, 1, headers => '{"x-ratelimit-limit-requests-day": "2"}')).status FROM llmquota_pick('m', input_tokens => 1, max_output_tokens => 1, exclude => '{b}');
SELECT account, model, in_force FROM llmquota.observed_limit;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('account', 'a', 'requests', 5, '1 day');
SELECT account, model, in_force FROM llmquota.observed_limit;
SELECT can_do('m', NULL, 1, 1), can_do('n', NULL, 1, 1);
SELECT (llmquota_record(lease, 1, 1, headers => '{"x-ratelimit-limit-requests-day": "1000"}')).status FROM llmquota_pick('m', input_tokens => 1, max_output_tokens => 1, exclude => '{b}');
TRUNCATE llmquota.quota;

-- concurrency: what may begin now; and, when it is known how long calls take, how many may follow one another
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('account', 'a', 'concurrency', 4), ('key', 'a2', 'concurrency', 1), ('account', 'b', 'concurrency', 2), ('key', 'a1', 'concurrency', 2);
SELECT can_do('m', NULL);
SELECT horizon, requests > at_once AS one_after_another, at_once, in_flight FROM llmquota_capacity('m');
INSERT INTO llmquota.quota (scope, metric, amount) VALUES ('global', 'concurrency', 3);
SELECT lease FROM llmquota_pick('m') \gset
SELECT status FROM llmquota_record(:'lease', 1, 1);
SELECT status FROM llmquota_pick('m');
SELECT horizon, requests IS NOT NULL AS bounded, in_flight FROM llmquota_capacity('m');
SELECT a.requests < b.requests AND b.requests < c.requests AS grows FROM llmquota_capacity('m') a, llmquota_capacity('m') b, llmquota_capacity('m') c
 WHERE a.horizon = 'minute' AND b.horizon = 'hour' AND c.horizon = 'day';
SELECT count(llmquota_release(lease)) FROM llmquota.lease;
TRUNCATE llmquota.quota;

-- budgets: by the price of a request; those that do not refuse, or refuse nothing that is free, limit nothing
INSERT INTO llmquota.price (model, input, output) VALUES ('m', 10, 20);
INSERT INTO llmquota.org (org, parent) VALUES ('group', NULL), ('clinic-8', 'group');
INSERT INTO llmquota.budget (scope, subject, amount, currency, calendar, per, downgrade_at) VALUES ('org', 'clinic-7', 0.15, 'USD', NULL, '1 hour', NULL),
	('parent', 'group', 0.09, 'USD', NULL, '1 hour', NULL), ('key', 'a1', 0.05, 'USD', NULL, '1 hour', NULL), ('account', 'b', 0.07, 'USD', NULL, '1 hour', NULL), ('key', 'a2', 0.04, 'USD', NULL, '1 hour', NULL);
SELECT can_do('m', 'clinic-7', 1000, 500), can_do('m', 'clinic-8', 1000, 500), can_do('m', NULL, 1000, 500), can_do('m', 'clinic-7', 15000, 1), can_do('m', NULL, 10000, 1);
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('THB', 0.025);
INSERT INTO llmquota.budget (scope, subject, amount, currency, calendar, per, downgrade_at) VALUES ('org', 'clinic-7', 2, 'THB', NULL, '1 hour', NULL);
SELECT can_do('m', 'clinic-7', 1000, 500), can_do('m', 'clinic-7', 0, 0);
SELECT count(llmquota_raise_budget('clinic-7', 3.3, now() + interval '1 day', 'a busy day', id)) FROM llmquota.budget WHERE currency = 'THB';
SELECT can_do('m', 'clinic-7', 1000, 500);
UPDATE llmquota.budget SET hard_stop = false WHERE currency = 'THB';
SELECT can_do('m', 'clinic-7', 1000, 500);
UPDATE llmquota.budget SET mode = 'observe' WHERE subject = 'clinic-7';
SELECT can_do('m', 'clinic-7', 1000, 500);
DELETE FROM llmquota.budget WHERE subject <> 'clinic-7';
UPDATE llmquota.budget SET mode = 'enforce', hard_stop = true;
UPDATE llmquota.price SET input = 0, output = 0;
SELECT can_do('m', 'clinic-7', 1000, 500);
UPDATE llmquota.budget SET amount = 0;
SELECT can_do('m', 'clinic-7', 1000, 500);
UPDATE llmquota.budget SET free_when_spent = true;
SELECT can_do('m', 'clinic-7', 1000, 500);
-- a price that nobody knows is an error in a pick
DELETE FROM llmquota.price;
UPDATE llmquota.budget SET amount = 1;
SELECT said('m', 'clinic-7', 1000, 500), said('m', NULL, 1000, 500);
SELECT status FROM llmquota_pick('m', 'clinic-7', 1000, 500);
TRUNCATE llmquota.budget CASCADE;
DELETE FROM llmquota.org;

-- a calendar: what is left of its period, and the next one's within a day. It is about noon there.
SELECT zone FROM unnest('{Pacific/Honolulu,America/Bogota,Africa/Abidjan,Asia/Karachi,Asia/Tokyo}'::text[]) zone
 ORDER BY abs(extract(hour FROM now() AT TIME ZONE zone) - 12) LIMIT 1 \gset
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar, timezone) VALUES ('account', 'a', 'requests', 5, 'day', :'zone');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('account', 'b', 'requests', 3, '400 days');
SELECT status FROM generate_series(1, 2) n, llmquota_pick('m', exclude => '{b}', request_id => n::text);
SELECT horizon, requests FROM llmquota_capacity('m');
SELECT count(llmquota_release(lease)) FROM llmquota.lease;
SELECT can_do('m', NULL);
TRUNCATE llmquota.quota;
-- sliding windows: an amount again each time one has turned
INSERT INTO llmquota.quota (scope, metric, amount, per) VALUES ('global', 'requests', 100, '1 minute'), ('global', 'requests', 3000, '1 hour'), ('global', 'requests', 50000, '1 day');
SELECT horizon, requests FROM llmquota_capacity('m');
UPDATE llmquota.quota SET amount = 10 WHERE per = '1 minute';
SELECT horizon, requests BETWEEN 10 * 60 * n / 61 AND 10 * (60 * n / 61 + 1) AS at_its_pace FROM llmquota_capacity('m') JOIN (VALUES ('minute', 1), ('hour', 60), ('day', 1440)) AS v (horizon, n) USING (horizon);
TRUNCATE llmquota.quota;

-- true at once: for the transaction that changes something, and after its end, whichever that is
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('account', '*', 'requests', 5, '1 hour');
SELECT can_do('m', NULL);
BEGIN ISOLATION LEVEL REPEATABLE READ;
UPDATE llmquota.quota SET amount = 2;
SELECT can_do('m', NULL);
SAVEPOINT s;
INSERT INTO llmquota.key (key, account) VALUES ('a3', 'a');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('key', 'a3', 'requests', 0, '1 hour');
UPDATE llmquota.account SET enabled = false WHERE account = 'b';
SELECT keys, requests FROM llmquota_capacity('m') WHERE horizon = 'minute';
SELECT can_do('m', NULL);
ROLLBACK TO s;
SELECT keys, requests FROM llmquota_capacity('m') WHERE horizon = 'minute';
SELECT can_do('m', NULL);
ROLLBACK;
SELECT can_do('m', NULL);
SELECT status FROM llmquota_pick('m', input_tokens => 1, max_output_tokens => 1);
SELECT said('m', NULL);
SELECT llmquota_release(lease) FROM llmquota.lease;
SELECT said('m', NULL);
-- by the names of now, and former ones
SELECT llmquota_rename('org', 'clinic-7', 'clinic-seven'), llmquota_rename('model', 'n', 'n2');
SELECT said('n', 'clinic-7', accounts => 'own'), said('n2', 'clinic-seven', accounts => 'own');
-- an org that nobody knows
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'requests', 1, '1 hour');
SELECT can_do('m', 'made up'), can_do('m', ''), said('m', NULL);
UPDATE llmquota.setting SET value = 'refuse' WHERE name = 'unknown_org';
SELECT keys, requests FROM llmquota_capacity('m', 'made up');
UPDATE llmquota.setting SET value = 'allow' WHERE name = 'unknown_org';

-- the view: shared accounts, and what orgs own
SELECT model, org, accounts, keys, requests FROM llmquota.capacity WHERE horizon = 'minute' ORDER BY model COLLATE "C", org COLLATE "C", accounts;
SELECT count(*) FROM (SELECT model, accounts, horizon, keys, requests, input_tokens, output_tokens, tokens, at_once, in_flight, request_input_tokens, request_output_tokens FROM llmquota.capacity WHERE org IS NULL
	EXCEPT SELECT model, c.* FROM llmquota.model, llmquota_capacity(model) c) d;
-- changes nothing, and so may be asked where nothing can be changed
CREATE VIEW state AS SELECT (SELECT string_agg(w::text, ' ' ORDER BY scope, subject) FROM (SELECT scope, subject, metric, used, refused FROM llmquota.meter_window) w) AS windows,
	(SELECT count(*) FROM llmquota.name) AS names, (SELECT count(*) FROM llmquota.meter) AS meters, pg_relation_size('llmquota.health') AS health;
CREATE TEMP TABLE before AS SELECT * FROM state;
BEGIN READ ONLY;
SELECT count(*) FROM generate_series(1, 5) n, llmquota_capacity('m', 'nobody ' || n);
SELECT count(*) FROM llmquota.capacity;
COMMIT;
SELECT b = s AS unchanged FROM before b, state s;

-- who may ask, and about whom
SELECT llmquota_grant('regress_llmquota_all', 'analyst'), llmquota_grant('regress_llmquota_one', 'analyst', 'clinic-seven'), llmquota_grant('regress_llmquota_one', 'app'), llmquota_grant('regress_llmquota_two', 'analyst', 'clinic-9'), llmquota_grant('regress_llmquota_two', 'analyst', 'clinic-8'),
	llmquota_grant('regress_llmquota_service', 'app', 'clinic-8'), llmquota_grant('regress_llmquota_boss', 'admin');
CREATE FUNCTION ask(who text, query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', 'regress_llmquota_' || who);
	EXECUTE query INTO answer;
	RESET ROLE;
	RETURN answer;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLERRM;
END $$;
SELECT who, ask(who, $$SELECT string_agg(c, ' ' ORDER BY c COLLATE "C") FROM (SELECT DISTINCT format('%s/%s', coalesce(org, '-'), accounts) FROM llmquota.capacity) v (c)$$) AS view,
	ask(who, $$SELECT count(*) FROM llmquota_capacity('m')$$) AS nobody, ask(who, $$SELECT count(*) FROM llmquota_capacity('m', 'clinic-7')$$) AS renamed,
	ask(who, $$SELECT count(*) FROM llmquota_capacity('m', 'clinic-8')$$) AS other
  FROM unnest('{all,one,two,service,boss}'::text[]) who;
SELECT ask('one', $$SELECT status FROM llmquota_pick('m', 'clinic-8')$$);
SELECT llmquota_revoke('regress_llmquota_all', 'analyst'), llmquota_revoke('regress_llmquota_one', 'analyst'), llmquota_revoke('regress_llmquota_one', 'app'), llmquota_revoke('regress_llmquota_two', 'analyst'), llmquota_revoke('regress_llmquota_boss', 'admin');
SELECT ask('all', 'SELECT count(*) FROM llmquota.capacity'), ask('one', 'SELECT count(*) FROM llmquota_capacity_rows()');
DROP OWNED BY regress_llmquota_all, regress_llmquota_one, regress_llmquota_two, regress_llmquota_service, regress_llmquota_boss;
DROP ROLE regress_llmquota_all, regress_llmquota_one, regress_llmquota_two, regress_llmquota_service, regress_llmquota_boss;

-- Any limits anywhere: what is said is what can be picked.
CREATE FUNCTION pick_one(VARIADIC choices text[]) RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT choices[1 + floor(random() * cardinality(choices))::int] $$;
CREATE PROCEDURE try_limits() LANGUAGE plpgsql AS $$
DECLARE
	scope text;
	subject text;
	answer text;
	org text;
	input int;
	output int;
	full_ones int := 0;
BEGIN
	FOR round IN 1..150 LOOP
		TRUNCATE llmquota.quota;
		FOR n IN 1..2 + floor(random() * 8)::int LOOP
			scope := pick_one('global', 'provider', 'account', 'account', 'key', 'key', 'org');
			subject := CASE scope WHEN 'global' THEN '' WHEN 'provider' THEN pick_one('p', '*') WHEN 'account' THEN pick_one('a', 'b', 'own', '*')
						WHEN 'key' THEN pick_one('a1', 'a2', 'b1', 'own1', '*') ELSE pick_one('clinic-7', 'clinic-8', '*') END;
			INSERT INTO llmquota.quota (scope, subject, model, family, metric, amount, per, calendar)
			SELECT scope, subject, CASE part WHEN 1 THEN 'm' WHEN 2 THEN '*' END, CASE part WHEN 3 THEN 'f' END, metric, floor(random() * 12) * CASE WHEN metric ~ 'tokens' THEN 100 ELSE 1 END,
				   CASE WHEN metric <> 'concurrency' AND NOT year THEN '1 hour'::interval END, CASE WHEN metric <> 'concurrency' AND year THEN 'year' END
			  FROM pick_one('requests', 'requests', 'input_tokens', 'output_tokens', 'tokens', 'concurrency') AS metric, (SELECT floor(random() * 6)::int AS part, random() < 0.2 AS year) r
			ON CONFLICT DO NOTHING;
		END LOOP;
		TRUNCATE llmquota.budget CASCADE;
		FOR n IN 1..floor(random() * 4)::int LOOP
			INSERT INTO llmquota.budget (scope, subject, amount, currency, calendar, per, downgrade_at, hard_stop)
			SELECT v.*, 'USD', NULL, '1 hour', NULL, random() < 0.8
			  FROM (VALUES ('org', pick_one('clinic-7', 'clinic-8', '*'), floor(random() * 50) * 0.001), ('key', pick_one('a1', 'b1', '*'), floor(random() * 30) * 0.001),
						   ('parent', 'clinic-8', floor(random() * 30) * 0.001)) v ORDER BY random() LIMIT 1
			ON CONFLICT DO NOTHING;
		END LOOP;
		input := floor(random() * 300);
		output := floor(random() * 300);
		org := pick_one('clinic-7', 'clinic-8');
		answer := can_do('m', org, input, output);
		full_ones := full_ones + (answer !~ '^0, ' AND answer ~ ', then (rate_limited|over_capacity|too_large|budget_exceeded)$')::int;
		IF answer !~ '^\d+, then (rate_limited|over_capacity|too_large|budget_exceeded)$' AND answer <> 'no limit' THEN
			RAISE WARNING '%: % input and % output tokens of %, with %', answer, input, output, org, (SELECT string_agg(format('(%s)', q), ' ') FROM (SELECT q::text FROM llmquota.quota q UNION ALL SELECT b::text FROM llmquota.budget b) q);
			EXIT;
		END IF;
	END LOOP;
	RAISE WARNING '% rounds went until a limit was reached', CASE WHEN full_ones > 50 THEN 'many' ELSE full_ones::text END;
END $$;
UPDATE llmquota.account SET org = 'clinic-7' WHERE account = 'own';
INSERT INTO llmquota.price (model, input, output) VALUES ('m', 10, 20);
INSERT INTO llmquota.org (org) VALUES ('clinic-8');
SELECT setseed(0.5);
CALL try_limits();
SELECT FROM llmquota_maintain();
SELECT * FROM llmquota_verify();
