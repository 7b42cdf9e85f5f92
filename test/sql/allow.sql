-- Rate limits for anything: what llmquota_allow() and llmquota_allow_all() admit, say and refuse. (Exactness is proved by
-- test/unit/gcra_test.c, and with many clients at once by test/t/allow.pl.) Periods are so long that nothing comes back
-- while the test runs.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = warning;

-- a burst of three, then nothing until a third of the period has passed
SELECT n, a.allowed, a.remaining, a.retry_after_ms, a.reset_after_ms BETWEEN n * 1200000 - 10000 AND n * 1200000 AS resets, a.amount, a.reason, a.scope, a.limits
  FROM generate_series(1, 3) n, llmquota_allow('calls', 'alice', 3, 3600000, sign(n)::int) a;
SELECT allowed, remaining, retry_after_ms BETWEEN 1190000 AND 1200000 AS retry_after_ms, reset_after_ms BETWEEN 3590000 AND 3600000 AS reset_after_ms, amount, reason, scope FROM llmquota_allow('calls', 'alice', 3, 3600000);

-- whoever only looks is told whether one would be allowed, and is charged nothing
SELECT allowed, remaining, reason FROM llmquota_allow('calls', 'alice', 3, 3600000, 0);
SELECT allowed, remaining, retry_after_ms, reset_after_ms, reason FROM llmquota_allow('calls', 'bob', 3, 3600000, 0);
SELECT allowed, remaining, retry_after_ms, reset_after_ms, reason FROM llmquota_allow('calls', 'bob', 3, 3600000, 0);

-- another subject, another scope: nothing to do with each other
SELECT allowed, remaining FROM llmquota_allow('calls', 'bob', 3, 3600000);
SELECT allowed, remaining FROM llmquota_allow('lookups', 'alice', 3, 3600000);

-- costs, and a burst of its own
SELECT allowed, remaining FROM llmquota_allow('tokens', 'alice', 1000, 3600000, 900);
SELECT allowed, remaining, reason, retry_after_ms BETWEEN 2870000 AND 2880000 AS retry_after_ms FROM llmquota_allow('tokens', 'alice', 1000, 3600000, 900);
SELECT allowed, remaining, reason FROM llmquota_allow('tokens', 'alice', 1000, 3600000, 100);
SELECT allowed, remaining, reason, retry_after_ms FROM llmquota_allow('tokens', 'carol', 1000, 3600000, 1001);
SELECT allowed, remaining FROM llmquota_allow('tokens', 'carol', 1000, 3600000, 1000);
SELECT allowed, remaining, reset_after_ms BETWEEN 1790000 AND 1800000 AS reset_after_ms FROM llmquota_allow('burst', 'alice', 2, 3600000, burst => 1);
SELECT allowed, remaining, reason FROM llmquota_allow('burst', 'alice', 2, 3600000, burst => 1);
SELECT allowed, remaining FROM llmquota_allow('burst', 'bob', 2, 3600000, 10, burst => 10);

-- what comes back comes back
DO $$
BEGIN
	ASSERT (SELECT allowed FROM llmquota_allow('fast', 'alice', 1, 20));
	WHILE NOT (SELECT allowed FROM llmquota_allow('fast', 'alice', 1, 20)) LOOP
		ASSERT clock_timestamp() < statement_timestamp() + interval '20 s', 'it does not come back';
	END LOOP;
END $$;

-- a rollback gives nothing back
BEGIN;
SELECT allowed, remaining FROM llmquota_allow('rollback', 'alice', 2, 3600000);
ROLLBACK;
SELECT allowed, remaining FROM llmquota_allow('rollback', 'alice', 2, 3600000);
SELECT allowed, remaining FROM llmquota_allow('rollback', 'alice', 2, 3600000);

-- a limit that has a name rules over what callers say, from its commit on
INSERT INTO llmquota.rate_limit (scope, amount, per_ms, note) VALUES ('chat', 2, 3600000, 'until Monday');
SELECT n, a.allowed, a.remaining, a.amount, a.reason FROM generate_series(1, 3) n, llmquota_allow('chat', 'alice', 1000 * n, 1000) a;
SELECT allowed, remaining, amount FROM llmquota_allow('chat', 'bob');
BEGIN;
UPDATE llmquota.rate_limit SET amount = 4;
SELECT allowed, remaining, amount FROM llmquota_allow('chat', 'alice');
ROLLBACK;
UPDATE llmquota.rate_limit SET amount = 1, burst = 5;
SELECT allowed, remaining, amount FROM llmquota_allow('chat', 'dave');
-- ... made narrower, it keeps nobody longer than its burst takes
SELECT allowed, reset_after_ms > 86000000 AS reset_after_ms FROM llmquota_allow('narrow', 'alice', 1, 86400000);
INSERT INTO llmquota.rate_limit (scope, amount, per_ms) VALUES ('narrow', 1, 3600000);
SELECT allowed, reset_after_ms BETWEEN 3590000 AND 3600000 AS reset_after_ms FROM llmquota_allow('narrow', 'alice');
DELETE FROM llmquota.rate_limit WHERE scope = 'narrow';
SELECT allowed, reset_after_ms BETWEEN 3590000 AND 3600000 AS reset_after_ms FROM llmquota_allow('narrow', 'alice', 1, 86400000);

-- one that observes says what it would do, and does nothing; so for a part of the subjects, always the same
UPDATE llmquota.rate_limit SET mode = 'observe', amount = 1, burst = NULL;
SELECT n, a.allowed, a.remaining, a.retry_after_ms, a.reason FROM generate_series(1, 2) n, llmquota_allow('chat', 'erin', cost => sign(n)::int) a;
UPDATE llmquota.rate_limit SET mode = 'enforce', rollout = 0.5;
SELECT count(*) FILTER (WHERE allowed), count(*) FILTER (WHERE NOT allowed) BETWEEN 400 AND 600 AS refused, count(*) FILTER (WHERE allowed AND reason = 'rate_limited') BETWEEN 400 AND 600 AS observed
  FROM generate_series(0, 1999) n, llmquota_allow('chat', 'user ' || n % 1000) a WHERE n >= 0 GROUP BY n / 1000 ORDER BY n / 1000;
CREATE TEMP TABLE half AS SELECT n FROM generate_series(0, 999) n, llmquota_allow('chat', 'user ' || n) a WHERE NOT allowed;
UPDATE llmquota.rate_limit SET rollout = 0.6;
SELECT count(*) = (SELECT count(*) FROM half) AS those FROM half, llmquota_allow('chat', 'user ' || n) a WHERE NOT allowed;

-- several at once: all or none
SELECT allowed, remaining, amount, reason, scope, jsonb_pretty(jsonb_path_query_array(limits, '$[*].keyvalue() ? (@.key != "reset_after_ms").value')) AS limits
  FROM llmquota_allow_all('[{"scope": "minute", "subject": "zoe", "amount": 2, "per_ms": 3600000}, {"scope": "day", "subject": "zoe", "amount": 5, "per_ms": 86400000, "cost": 4}]');
SELECT allowed, remaining, retry_after_ms BETWEEN 51000000 AND 51840000 AS retry_after_ms, reason, scope, jsonb_path_query_array(limits, '$[*].remaining') AS remaining, jsonb_path_query_array(limits, '$[*].allowed') AS allowed, jsonb_path_query_array(limits, '$[*].reason') AS reason
  FROM llmquota_allow_all('[{"scope": "minute", "subject": "zoe", "amount": 2, "per_ms": 3600000}, {"scope": "day", "subject": "zoe", "amount": 5, "per_ms": 86400000, "cost": 4}]');
-- (the first of them has been charged nothing)
SELECT allowed, remaining FROM llmquota_allow('minute', 'zoe', 2, 3600000);
-- the one that keeps the caller longest is the one he is told of, and what never fits longest
SELECT allowed, remaining, reason, scope, retry_after_ms > 3500000 AS retry_after_ms
  FROM llmquota_allow_all('[{"scope": "a", "subject": "x", "amount": 1, "per_ms": 1800000}, {"scope": "b", "subject": "x", "amount": 1, "per_ms": 3600000}, {"scope": "c", "subject": "x", "amount": 1, "per_ms": 900000}]');
SELECT allowed, remaining, reason, scope, retry_after_ms > 3500000 AS retry_after_ms
  FROM llmquota_allow_all('[{"scope": "a", "subject": "x", "amount": 1, "per_ms": 1800000}, {"scope": "b", "subject": "x", "amount": 1, "per_ms": 3600000}, {"scope": "c", "subject": "x", "amount": 1, "per_ms": 900000}]');
SELECT allowed, reason, scope, retry_after_ms
  FROM llmquota_allow_all('[{"scope": "b", "subject": "x", "amount": 1, "per_ms": 3600000}, {"scope": "d", "subject": "x", "amount": 1, "per_ms": 1000, "cost": 2}]');
-- ten of them, of as many pages as they come to
SELECT count(*) FILTER (WHERE allowed), count(*) FROM generate_series(1, 3) n, llmquota_allow_all(
	(SELECT jsonb_agg(jsonb_build_object('scope', 's' || i, 'subject', 'ten', 'amount', 2, 'per_ms', 3600000, 'cost', sign(n))) FROM generate_series(1, 10) i)) a;
SELECT * FROM llmquota_verify();

-- orgs: their subjects are not those of others, nor of nobody, and they may be renamed
INSERT INTO llmquota.org (org) VALUES ('clinic');
SELECT allowed FROM llmquota_allow('org', 'alice', 1, 3600000, org => 'clinic');
SELECT allowed FROM llmquota_allow('org', 'alice', 1, 3600000, org => 'other');
SELECT allowed FROM llmquota_allow('org', 'alice', 1, 3600000);
SELECT allowed FROM llmquota_allow('org', 'alice', 1, 3600000, org => '');
SELECT llmquota_rename('org', 'clinic', 'hospital');
SELECT allowed FROM llmquota_allow('org', 'alice', 1, 3600000, org => 'hospital');
SELECT allowed FROM llmquota_allow('org', 'alice', 1, 3600000, org => 'clinic');
SELECT allowed FROM llmquota_allow_all('[{"scope": "org", "subject": "alice", "amount": 1, "per_ms": 3600000, "org": "hospital"}]');

-- a role that is bound to an org speaks for that org only
CREATE ROLE regress_llmquota_bound;
SELECT llmquota_grant('regress_llmquota_bound', 'app', 'hospital');
SET ROLE regress_llmquota_bound;
SELECT allowed FROM llmquota_allow('org', 'alice', 1, 3600000);
SELECT allowed FROM llmquota_allow('org', 'alice', 1, 3600000, org => 'hospital');
SELECT allowed FROM llmquota_allow('org', 'alice', 1, 3600000, org => 'other');
SELECT allowed FROM llmquota_allow_all('[{"scope": "org", "subject": "alice", "amount": 1, "per_ms": 3600000, "org": "other"}]');
SELECT allowed FROM llmquota_allow('org', 'bob', 1, 3600000);
SELECT count(*) FROM llmquota.rate_limit;
SELECT count(*) FROM llmquota.rate_page;
RESET ROLE;
SELECT allowed FROM llmquota_allow('org', 'bob', 1, 3600000, org => 'hospital');
SELECT allowed FROM llmquota_allow('org', 'bob', 1, 3600000);
SELECT llmquota_grant('regress_llmquota_bound', 'app', 'other');
SET ROLE regress_llmquota_bound;
SELECT allowed FROM llmquota_allow('org', 'bob', 1, 3600000);
SELECT allowed FROM llmquota_allow('org', 'bob', 1, 3600000, org => 'other');
RESET ROLE;
SELECT llmquota_revoke('regress_llmquota_bound', 'app', 'hospital'), llmquota_revoke('regress_llmquota_bound', 'app', 'other');
SET ROLE regress_llmquota_bound;
SELECT allowed FROM llmquota_allow('org', 'bob', 1, 3600000);
RESET ROLE;
DROP ROLE regress_llmquota_bound;

-- what is wrong changes nothing
CREATE FUNCTION attempt(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text;
	message text;
	hint text;
BEGIN
	EXECUTE query;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RETURN format(E'%s %s\n%s', state, message, hint);
END $$;
SELECT arguments, attempt('SELECT llmquota_allow(' || arguments || ')') FROM unnest(ARRAY[
	$$NULL, 'x', 1, 1000$$, $$'s', NULL, 1, 1000$$, $$repeat('s', 129), 'x', 1, 1000$$, $$'s', repeat('x', 129), 1, 1000$$, $$'s', 'x', 1, 1000, org => repeat('x', 129)$$,
	$$'s', 'x'$$, $$'s', 'x', 1$$, $$'s', 'x', NULL, 1000$$, $$'s', 'x', 0, 1000$$, $$'s', 'x', -1, 1000$$, $$'s', 'x', 1, 0$$, $$'s', 'x', 1, 34560000001$$,
	$$'s', 'x', 1, 1000, -1$$, $$'s', 'x', 1, 1000, 1, 0$$, $$'s', 'x', 1, 34560000000, 1, 2$$, $$'chat', 'x', 0, 1000$$]) arguments;
SELECT left(limits, 80) AS limits, attempt(format('SELECT llmquota_allow_all(%L)', limits)) FROM unnest(ARRAY[NULL, 'null', '1', '{}', '[]', '[1]', '[[]]', '[{}]', '[{"scope": "s"}]', '[{"scope": "s", "subject": null}]',
	'[{"scope": "s", "subject": 1}]', '[{"scope": "s", "subject": "x"}]', '[{"scope": "s", "subject": "x", "amount": "1", "per_ms": 1000}]', '[{"scope": "s", "subject": "x", "amount": 1.5, "per_ms": 1000}]',
	'[{"scope": "s", "subject": "x", "amount": {"per": []}, "per_ms": 1000}]', '[{"scope": "s", "subject": "x", "amount": 1, "per_ms": 1e30}]', '[{"scope": "s", "subject": "x", "amount": 1, "per": 1000}]',
	'[{"scope": "s", "subject": "x", "amount": 1, "per_ms": 1000}, {"scope": "s", "subject": "x", "amount": 2, "per_ms": 1000}]', '[{"scope": "s", "subject": "x", "amount": 1, "per_ms": 1000}, {"scope": "s", "subject": "x", "amount": 0, "per_ms": 1000}]',
	(SELECT jsonb_agg(jsonb_build_object('scope', 's', 'subject', i::text, 'amount', 2, 'per_ms', 3600000)) FROM generate_series(1, 11) i)::text]) limits;
SELECT allowed, remaining FROM llmquota_allow('s', 'x', 2, 3600000, 0);
SELECT columns, attempt('INSERT INTO llmquota.rate_limit (scope, amount, per_ms, burst, mode, rollout) VALUES (' || columns || ')') FROM unnest(ARRAY[
	$$'', 1, 1000, 1, 'enforce', 1$$, $$repeat('x', 129), 1, 1000, 1, 'enforce', 1$$, $$'s', 0, 1000, 1, 'enforce', 1$$, $$'s', 1, 0, 1, 'enforce', 1$$, $$'s', 1, 34560000001, 1, 'enforce', 1$$,
	$$'s', 1, 1000, 0, 'enforce', 1$$, $$'s', 1, 34560000000, 2, 'enforce', 1$$, $$'s', 1, 1000, 1, 'shadow', 1$$, $$'s', 1, 1000, 1, 'enforce', 1.1$$, $$'chat', 1, 1000, 1, 'enforce', 1$$]) columns;
SELECT (llmquota_allow('s', 'x', 2, 3600000)).*;
SELECT (llmquota_allow_all('[{"scope": "s", "subject": "x", "amount": 2, "per_ms": 3600000}]')).*;
SELECT llmquota_allow('s', 'x', 2, 3600000) IS NULL AS as_one_value;
BEGIN READ ONLY;
SELECT llmquota_allow('s', 'x', 2, 3600000);
ROLLBACK;
BEGIN READ ONLY;
SELECT llmquota_allow_all('[]');
ROLLBACK;
INSERT INTO llmquota.rate_page VALUES (1, '');

-- changes of limits are kept, as of all configuration
SELECT action, item, old_values, new_values FROM llmquota.change WHERE relation = 'rate_limit' ORDER BY changed_at LIMIT 3;

-- where there is no room for a subject more it is refused, and whoever is known goes on
SELECT count(*) FROM generate_series(1, 2000) n, llmquota_allow('many', n::text, 2, 3600000) a WHERE allowed;
UPDATE llmquota.setting SET value = '1' WHERE name = 'max_rate_subjects';
SELECT count(*) FILTER (WHERE allowed) > 500 AS had_room, count(*) FILTER (WHERE reason = 'full') > 5000 AS full, count(*) FILTER (WHERE reason <> 'full') AS others,
	   bool_and(retry_after_ms BETWEEN 1000 AND 3600000) FILTER (WHERE reason = 'full') AS retry_after_ms, max(remaining) FILTER (WHERE reason = 'full') AS remaining
  FROM generate_series(2001, 22000) n, llmquota_allow('many', n::text, 2, 3600000) a;
SELECT value > 5000 AS full FROM llmquota_metrics() WHERE name = 'llmquota_rate_full_total';
SELECT value > 2500 AS subjects FROM llmquota_metrics() WHERE name = 'llmquota_rate_subjects';
SELECT value FROM llmquota_metrics() WHERE name = 'llmquota_rate_subjects_max';
SELECT count(*) FILTER (WHERE allowed AND remaining = 0) FROM generate_series(1, 2000) n, llmquota_allow('many', n::text, 2, 3600000) a;
SELECT count(*) FILTER (WHERE reason = 'rate_limited') FROM generate_series(1, 2000) n, llmquota_allow('many', n::text, 2, 3600000) a;
SELECT * FROM llmquota_verify();
