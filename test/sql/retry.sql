-- What follows a failed attempt: never again what has failed, as often as the route allows, and a lease that knows its
-- request. What cools or opens is cleared here, so that history alone decides (test/t/retry.pl has them together).
\set SHOW_CONTEXT never
\set VERBOSITY terse
\pset null -

INSERT INTO llmquota.provider (provider, adapter, base_url, breaker_failures, breaker_min_calls)
	VALUES ('o', 'openai', 'http://o', 10000, 10000), ('g', 'groq', 'http://g', 10000, 10000);
INSERT INTO llmquota.account (account, provider, base_url) VALUES ('o1', 'o', NULL), ('o2', 'o', NULL), ('o3', 'o', 'http://eu'), ('g1', 'g', NULL);
INSERT INTO llmquota.key (key, account) VALUES ('o1-a', 'o1'), ('o1-b', 'o1'), ('o2-a', 'o2'), ('o3-a', 'o3'), ('g1-a', 'g1');
UPDATE llmquota.key SET priority = -1 WHERE key = 'o1-a';
-- m and its alias are one model of the provider; a model of the same name elsewhere is another
INSERT INTO llmquota.model (model, provider, provider_model) VALUES ('m', 'o', 'x'), ('alias', 'o', 'x'), ('n', 'o', 'n'), ('x', 'g', 'x');
INSERT INTO llmquota.route (route, step, model) VALUES ('chat', 1, 'm'), ('chat', 2, 'n'), ('chat', 3, 'x');
CREATE FUNCTION others(than text) RETURNS text[] LANGUAGE sql AS $$ SELECT array_agg(key) FROM llmquota.key WHERE key <> than $$;

-- which candidates are not offered after a call of m by o1-a has failed so
CREATE FUNCTION left_out(http_status int, error text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	c record;
	failed uuid;
	next record;
	result text[];
BEGIN
	FOR c IN SELECT k.key, m.model FROM llmquota.key k JOIN llmquota.account a USING (account) JOIN llmquota.model m USING (provider)
			  ORDER BY m.model, k.key
	LOOP
		SELECT lease INTO failed FROM llmquota_pick('m');
		PERFORM llmquota_record(failed, http_status => $1, error => $2);
		PERFORM llmquota_clear();
		PERFORM llmquota_enable('o1-a');
		SELECT * INTO next FROM llmquota_pick(c.model, exclude => others(c.key), retry_of => failed);
		IF next.status = 'attempts_exhausted' THEN
			result := result || (c.model || '@' || c.key);
		ELSIF next.status <> 'granted' OR next.attempt <> 2 THEN
			RAISE '% of %: status % attempt % %', c.model, c.key, next.status, next.attempt, next.refusal;
		ELSE
			PERFORM llmquota_release(next.lease);
		END IF;
	END LOOP;
	RETURN array_to_string(result, ' ');
END
$$;
SELECT error, left_out(http_status, error)
  FROM (VALUES (503, '{"error": {"message": "The server is overloaded"}}'), (500, 'broken'), (NULL, 'timeout'), (404, '{"error": {"code": "model_not_found"}}'),
			   (429, '{"error": {"code": "rate_limit_exceeded", "message": "slow down"}}'), (429, '{"error": {"code": "insufficient_quota"}}'),
			   (401, 'no'), (403, 'no'), (NULL, 'connection refused'), (400, 'bad'), (NULL, 'cancelled')) AS f (http_status, error);
SELECT DISTINCT error_class, http_status, attempt, retry_of IS NULL AS first, first_lease = lease AS own FROM llmquota.usage WHERE status = 'error' ORDER BY 1, 2;

-- a step is left only when all its candidates refuse: m is overloaded everywhere, n is full but for one key, which is asked
CREATE FUNCTION fail(lease uuid, http_status int DEFAULT 503, error text DEFAULT NULL) RETURNS TABLE (status text, model text, key text, attempt int, tried jsonb)
LANGUAGE sql AS $$
	SELECT llmquota_clear();
	SELECT status, model, key, attempt, refusal -> 'tried' FROM llmquota_retry($1, http_status => $2, error => $3)
$$;
CREATE VIEW last AS SELECT lease FROM llmquota.lease ORDER BY granted_at DESC LIMIT 1;
INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per)
	SELECT 'key', key, 'n', 'requests', 1, '1 hour' FROM llmquota.key WHERE key ~ '^o' AND key <> 'o3-a';
SELECT count(*) FROM generate_series(1, 3) n, llmquota_pick('n', exclude => '{o3-a}', session => n::text) p WHERE p.status = 'granted';
SELECT model FROM llmquota_pick('chat', session => 's', request_id => 'r');
SELECT l.* FROM last, fail(last.lease) l;
SELECT l.status, l.model, l.key, l.attempt FROM last, fail(last.lease, 500) l;
-- the third was the last; it is told what was tried, and asking again does not help
SELECT l.status, l.model, l.key, l.attempt, jsonb_pretty(l.tried) AS tried FROM last, fail(last.lease, NULL, 'timeout') l;
SELECT attempt, model, error_class, http_status, retry_of = lag(lease) OVER w AS follows, first_lease = first_value(lease) OVER w AS of_first, session
  FROM llmquota.usage WHERE request_id = 'r' WINDOW w AS (ORDER BY attempt) ORDER BY attempt;
DELETE FROM llmquota.quota;

-- the next attempt has the arguments of the first: figures, priority, labels, time to live; and what it excluded
INSERT INTO llmquota.quota (scope, subject, metric, amount, per, high_priority_share) VALUES ('org', 'high', 'requests', 2, '1 hour', 0.9);
SELECT status, model, key, attempt, round(extract(epoch FROM expires_at - granted_at)) AS ttl, max_output_tokens
  FROM llmquota_pick('chat', 'high', 12, 34, priority => 'high', exclude => '{n,o1,o2-a}', session => 'session', request_id => 'arguments', ttl_ms => 77000);
SELECT p.status, p.model, p.key, p.attempt, round(extract(epoch FROM p.expires_at - p.granted_at)) AS ttl, max_output_tokens, refusal
  FROM last, llmquota_retry(lease, http_status => 500) p;
SELECT request_id, session, org, reserved_input, reserved_output, route FROM llmquota.lease WHERE request_id = 'arguments';
-- figures that were not given are those of each model
UPDATE llmquota.model SET default_output_tokens = 99 WHERE model = 'n';
SELECT model, max_output_tokens FROM llmquota_pick('chat');
SELECT p.model, p.max_output_tokens FROM last, llmquota_retry(lease, http_status => 500) p;
-- so many names that a lease remembers them: in a retry they count; more are refused there, before anything is recorded
SELECT account <> 'o1' AS other FROM llmquota_pick('chat', exclude => ARRAY(SELECT 'none-' || n FROM generate_series(1, 14) n) || '{o1}'::text[]);
SELECT p.status, p.account <> 'o1' AS other FROM last, llmquota_retry(lease, http_status => 500) p;
SELECT status FROM llmquota_pick('chat', exclude => ARRAY(SELECT 'none-' || n FROM generate_series(1, 16) n));
SELECT lease AS many FROM last \gset
\set VERBOSITY sqlstate
SELECT status FROM llmquota_retry(:'many', http_status => 500);
\set VERBOSITY terse
SELECT status FROM llmquota_record(:'many', http_status => 500);
SELECT status, attempt FROM llmquota_clear(), llmquota_pick('chat', retry_of => :'many');

-- options of the route: how many attempts, until when, and the same model again
INSERT INTO llmquota.route_option (route, max_attempts) VALUES ('chat', 1);
SELECT status FROM llmquota_pick('chat');
SELECT l.status, l.tried FROM last, fail(last.lease) l;
UPDATE llmquota.route_option SET max_attempts = 7, deadline_ms = 100;
CREATE PROCEDURE wait_until(at timestamptz) LANGUAGE plpgsql AS $$
DECLARE
	pause CONSTANT double precision := 0.01;
BEGIN
	WHILE clock_timestamp() <= at LOOP
		PERFORM pg_sleep(pause);
	END LOOP;
END
$$;
SELECT granted_at AS since FROM llmquota_pick('chat') \gset
CALL wait_until(:'since'::timestamptz + interval '100 ms');
SELECT l.status, jsonb_array_length(l.tried) AS tried FROM last, fail(last.lease) l;
UPDATE llmquota.route_option SET deadline_ms = 30000, retry_same_model = true;
DELETE FROM llmquota.route WHERE step > 1;
-- another key of the model, when a second has passed
INSERT INTO llmquota.key (key, account) VALUES ('o2-b', 'o2');
SELECT lease AS again FROM llmquota_clear(), llmquota_pick('chat', exclude => '{o1,o3,o2-b}') \gset
UPDATE llmquota.key SET models = '{n}' WHERE key = 'o2-b';
SELECT status, refusal FROM llmquota_retry(:'again', http_status => 500);
SELECT lease AS again FROM llmquota_clear(), llmquota_pick('chat', exclude => '{o1,o3}') \gset
UPDATE llmquota.key SET models = NULL WHERE key = 'o2-b';
SELECT status, retry_after_ms BETWEEN 1 AND 1300 AS soon, refusal - 'retry_at' AS refusal FROM llmquota_retry(:'again', http_status => 500);
CREATE FUNCTION pick_until_granted(failed uuid) RETURNS TABLE (key text, attempt int, waited boolean) LANGUAGE plpgsql AS $$
DECLARE
	pause CONSTANT double precision := 0.02;
	p record;
BEGIN
	LOOP
		SELECT * INTO p FROM llmquota_pick('chat', retry_of => failed);
		IF p.status = 'granted' THEN
			RETURN QUERY SELECT p.key, p.attempt, p.granted_at >= u.recorded_at + interval '1 second' FROM llmquota.usage u WHERE u.lease = failed;
			RETURN;
		END IF;
		PERFORM pg_sleep(pause);
	END LOOP;
END
$$;
SELECT * FROM pick_until_granted(:'again');
-- without the option there is nothing left
SELECT lease AS again FROM llmquota_clear(), llmquota_pick('chat') \gset
UPDATE llmquota.route_option SET retry_same_model = false;
SELECT l.status, jsonb_array_length(tried) FROM fail(:'again') l;

-- retried twice: both are counted
SELECT llmquota_clear() IS NOT NULL AS clear;
UPDATE llmquota.route_option SET max_attempts = 3;
INSERT INTO llmquota.route (route, step, model) VALUES ('chat', 2, 'n'), ('chat', 3, 'x');
SELECT lease AS twice FROM llmquota_pick('chat') \gset
SELECT llmquota_record(:'twice', http_status => 500);
SELECT status, attempt FROM generate_series(1, 3) n, llmquota_pick('chat', request_id => n::text, retry_of => :'twice');
-- rolled back, the failure and the attempt stay; a repeated retry is another attempt
SELECT lease AS undone FROM llmquota_pick('chat') \gset
BEGIN;
SELECT status, attempt, model FROM llmquota_retry(:'undone', http_status => 500);
ROLLBACK;
SELECT status, attempt, model FROM llmquota_retry(:'undone', http_status => 500);
SELECT status, error_class, attempt, usage_source FROM llmquota.usage WHERE lease = :'undone';

-- wrong calls
\set VERBOSITY default
SELECT lease FROM llmquota_pick('chat', 'mine') \gset
CREATE FUNCTION said(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
	answer text;
BEGIN
	EXECUTE command INTO answer;
	RETURN answer;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN format('%s: %s (%s)', SQLSTATE, regexp_replace(SQLERRM, '"[0-9a-f]{8}-[0-9a-f-]{27}"', 'X'), hint);
END
$$;
SELECT said(format('SELECT status FROM llmquota_pick(''chat'', ''mine'', retry_of => %L)', :'lease'));
SELECT said(format('SELECT status FROM llmquota_retry(%L)', :'lease'));
SELECT said(format('SELECT status FROM llmquota_retry(%L, http_status => 200)', :'lease'));
SELECT said(format('SELECT (llmquota_retry(%L, http_status => 500)).*', :'lease'));
SELECT said('SELECT status FROM llmquota_retry(NULL, http_status => 500)');
SELECT said('SELECT status FROM llmquota_retry(''00000000-0000-8000-8000-000000000000'', http_status => 500)');
SELECT said('SELECT status FROM llmquota_pick(''chat'', retry_of => ''6ba7b810-9dad-11d1-80b4-00c04fd430c8'')');
SELECT status FROM llmquota_record(:'lease', http_status => 500);
SELECT said(format('SELECT status FROM llmquota_pick(''chat'', ''yours'', retry_of => %L)', :'lease'));
SELECT said(format('SELECT status FROM llmquota_pick(''nowhere'', ''mine'', retry_of => %L)', :'lease'));
SELECT lease AS good FROM llmquota_pick('chat') \gset
SELECT status FROM llmquota_record(:'good', 1, 1);
SELECT said(format('SELECT status FROM llmquota_pick(''chat'', retry_of => %L)', :'good'));
SELECT said(format('SELECT status FROM llmquota_retry(%L, http_status => 500)', :'good'));
SELECT lease AS back FROM llmquota_pick('chat') \gset
SELECT llmquota_release(:'back');
SELECT said(format('SELECT status FROM llmquota_pick(''chat'', retry_of => %L)', :'back'));
UPDATE llmquota.route SET route = 'gone';
DELETE FROM llmquota.route_option;
SELECT said(format('SELECT status FROM llmquota_retry(%L, http_status => 500)', :'lease'));
UPDATE llmquota.route SET route = 'chat';

-- a role bound to an org: other orgs' attempts do not exist, and shared keys are not named
CREATE ROLE regress_llmquota_retry;
SELECT llmquota_grant('regress_llmquota_retry', 'app', 'mine');
SELECT lease AS theirs FROM llmquota_pick('chat', 'yours') \gset
SET ROLE regress_llmquota_retry;
SELECT said(format('SELECT status FROM llmquota_retry(%L, http_status => 500)', :'theirs'));
SELECT said(format('SELECT status FROM llmquota_pick(''chat'', ''mine'', retry_of => %L)', :'theirs'));
SELECT lease AS one FROM llmquota_pick('chat', 'mine', exclude => '{n,x}') \gset
SELECT status, refusal FROM llmquota_retry(:'one', http_status => 500);
RESET ROLE;
SELECT status FROM llmquota_record(:'theirs');
UPDATE llmquota.account SET org = 'mine' WHERE account = 'o1';
SET ROLE regress_llmquota_retry;
SELECT lease AS one FROM llmquota_pick('chat', 'mine', exclude => '{n,x,o1-b}') \gset
SELECT status, refusal FROM llmquota_retry(:'one', http_status => 500);
RESET ROLE;
SELECT llmquota_revoke('regress_llmquota_retry', 'app', 'mine');
DROP OWNED BY regress_llmquota_retry;
DROP ROLE regress_llmquota_retry;

SELECT count(llmquota_release(lease)) > 0 AS released FROM llmquota.lease;
SELECT * FROM llmquota_verify();
