-- What a failed call does to the key, account, model and provider it was made with: cooldowns, breakers, disabled keys.
-- They are live state: a rollback takes none of them back. What takes time is in test/t/health.pl.
\set SHOW_CONTEXT never
\pset null -

-- what is open stays so for the time of the test
INSERT INTO llmquota.provider (provider, adapter, timezone, breaker_probe_ms)
	VALUES ('p', 'openai', 'UTC', 3600000), ('g', 'gemini', 'America/Los_Angeles', DEFAULT),
		   ('q', 'openai', 'UTC', 3600000), ('s', 'openai', 'UTC', 3600000);
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p'), ('c', 'g'), ('d', 'q'), ('e', 's');
INSERT INTO llmquota.key (key, account) VALUES ('a1', 'a'), ('a2', 'a'), ('b1', 'b'), ('c1', 'c'), ('d1', 'd'), ('e1', 'e');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('n', 'p'), ('o', 'g'), ('r', 'q'), ('t', 's');

-- Makes a call of a model with a key, which ends as the arguments of the record say: how, or why there was none.
CREATE FUNCTION call(model text, key text, arguments text DEFAULT 'http_status => 200') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	picked llmquota.pick_result;
BEGIN
	SELECT * INTO picked FROM llmquota_pick(model, exclude => ARRAY(SELECT k.key FROM llmquota.key k WHERE k.key <> call.key));
	IF picked.lease IS NULL THEN
		RETURN concat_ws(' ', picked.status, picked.refusal ->> 'scope', picked.refusal ->> 'subject', picked.refusal ->> 'model',
			picked.refusal ->> 'trouble', picked.refusal ->> 'failure');
	END IF;
	EXECUTE format('SELECT status FROM llmquota_record(%L, %s)', picked.lease, arguments) INTO picked.status;
	RETURN picked.status;
END $$;
-- For how many seconds the last trouble keeps picks away, as of its beginning.
CREATE FUNCTION seconds() RETURNS numeric LANGUAGE plpgsql AS $$
BEGIN
	PERFORM llmquota_maintain();
	RETURN (SELECT extract(epoch FROM until - since) FROM llmquota.event ORDER BY number DESC LIMIT 1);
END $$;
-- The events since the last look, without their times.
CREATE VIEW news AS SELECT kind, scope, subject, model, failure, http_status, lease IS NOT NULL AS by_a_call, reason FROM llmquota.event ORDER BY number;
CREATE PROCEDURE forget() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM llmquota_clear(), llmquota_enable(key) FROM llmquota.key;
	PERFORM llmquota_maintain();
	DELETE FROM llmquota.event;
END $$;

--
-- Cooldowns
--
-- a rate limit is that of an account's model: all keys of the account stay away from that model, and from nothing else
SELECT call('m', 'a1', $$http_status => 429, headers => '{"retry-after": "3600"}'$$);
SELECT call('m', 'a1') AS same, call('m', 'a2') AS other_key, call('n', 'a1') AS other_model, call('m', 'b1') AS other_account;
SELECT round(seconds()) AS until_the_time_that_was_named;
-- a longer cooldown is not shortened, by a call or by a person; a shorter one is lengthened
SELECT llmquota_cool('account', 'a', 7200000, model => 'm') > clock_timestamp() + interval '1 hour' AS longer;
SELECT llmquota_cool('account', 'a', 1000, model => 'm') > clock_timestamp() + interval '1 hour' AS not_shorter;
SELECT count(*) AS events FROM llmquota_maintain(), llmquota.event;
CALL forget();
CREATE TEMP TABLE p AS SELECT n, p.lease FROM generate_series(1, 2) n, LATERAL (SELECT * FROM llmquota_pick('m', exclude => '{b}', request_id => n::text)) p;
SELECT r.status FROM p, llmquota_record(lease, http_status => 429, headers => '{"retry-after": "3600"}') r WHERE n = 1;
SELECT r.status FROM p, llmquota_record(lease, http_status => 429, headers => '{"retry-after": "3"}') r WHERE n = 2;
SELECT call('m', 'a1') AS cooling, (SELECT bool_and(until > clock_timestamp() + interval '30 min') FROM llmquota.key_status WHERE account = 'a' AND model = 'm') AS stays;
-- and what is already settled teaches nothing
SELECT llmquota_clear();
SELECT r.status FROM p, llmquota_record(lease, http_status => 429, headers => '{"retry-after": "3600"}') r WHERE n = 1;
SELECT call('m', 'a1');
DROP TABLE p;
-- no cooldown is longer than 32 days, whoever asks for it
SELECT call('m', 'a1', $$http_status => 429, headers => '{"retry-after": "31536000"}'$$);
SELECT seconds() / 86400 AS days;
CALL forget();
-- without a time: backing off, for 2 s first, 25 % either way
SELECT call('m', 'a1', 'http_status => 429');
SELECT seconds() BETWEEN 1.5 AND 2.5 AS short;
CALL forget();

-- a rollback of the transaction that recorded it changes nothing, nor that of a savepoint
BEGIN;
SELECT call('m', 'a1', $$http_status => 429, headers => '{"retry-after": "3600"}'$$);
ROLLBACK;
SELECT call('m', 'a1') AS still_cooling;
BEGIN;
SAVEPOINT s;
SELECT call('m', 'b1', $$http_status => 429, headers => '{"retry-after": "3600"}'$$);
ROLLBACK TO s;
SELECT call('m', 'b1') AS still_cooling;
COMMIT;
SELECT call('m', 'b1') AS still_cooling;
SELECT count(*) FROM llmquota.usage WHERE http_status = 429 AND key = 'b1' AND usage_source <> 'recovered';
CALL forget();

-- a day's quota is over until midnight where the provider is, whatever else its answer says
SELECT call('o', 'c1', $$http_status => 429, error => '{"error": {"code": 429, "message": "You exceeded your current quota.", "status": "RESOURCE_EXHAUSTED", "details": [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}]}, {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0s"}]}}'$$);
SELECT call('o', 'c1');
SELECT events_kept FROM llmquota_maintain();
SELECT kind, failure, until = (date_trunc('day', event_at AT TIME ZONE 'America/Los_Angeles') + interval '1 day') AT TIME ZONE 'America/Los_Angeles' AS midnight
  FROM llmquota.event;
CALL forget();

--
-- Breakers
--
-- five failures in a row open that of the model at its account; a success in between does not let them be five
SELECT n, call('m', 'a1', 'http_status => 500') AS a, call('m', 'b1') AS b FROM generate_series(1, 4) n;
SELECT call('m', 'a1');
SELECT n, call('m', 'a1', 'http_status => 500') AS a, call('m', 'b1') AS b FROM generate_series(1, 4) n;
SELECT call('m', 'a1', 'http_status => 500');
SELECT call('m', 'a1') AS open, call('m', 'a2') AS other_key, call('n', 'a1') AS other_model, call('m', 'b1') AS other_account;
SELECT seconds() AS probed_after;
-- a success of a call that began before closes nothing
CALL forget();
CREATE TEMP TABLE p AS SELECT lease FROM llmquota_pick('m', exclude => '{b}');
SELECT n, call('m', 'a1', 'http_status => 500') AS a, call('m', 'b1') AS b FROM generate_series(1, 5) n;
SELECT r.status FROM p, llmquota_record(lease, 1, 1) r;
SELECT call('m', 'a1') AS still_open;
SELECT llmquota_clear('account', 'a') AS closed;
SELECT call('m', 'a1');
SELECT events_kept FROM llmquota_maintain();
SELECT * FROM news;
DROP TABLE p;
CALL forget();
-- half of the calls of a minute, if they are at least twenty
SELECT count(*), array_agg(DISTINCT c) AS calls
  FROM generate_series(1, 18) n, call('r', 'd1', CASE n % 2 WHEN 0 THEN 'http_status => 500' ELSE 'http_status => 200' END) c;
SELECT call('r', 'd1', 'http_status => 502') AS tenth_of_19, call('r', 'd1') AS not_open;
SELECT call('r', 'd1', 'http_status => 500') AS eleventh_of_21, call('r', 'd1') AS open;
SELECT count(*), array_agg(DISTINCT c) AS a_third_of_30
  FROM generate_series(1, 30) n, call('t', 'e1', CASE n % 3 WHEN 0 THEN 'http_status => 500' ELSE 'http_status => 200' END) c;
CALL forget();
-- the provider's opens when calls of all its accounts fail
SELECT call('m', CASE n % 2 WHEN 0 THEN 'a1' ELSE 'b1' END, 'error => ''connection refused''') FROM generate_series(1, 5) n;
SELECT call('m', 'a1') AS open, call('n', 'b1') AS everywhere, call('o', 'c1') AS other_provider;
CALL forget();
-- as the provider says
SELECT call('m', 'a1') AS first_a_success;
UPDATE llmquota.provider SET breaker_failures = 2, breaker_probe_ms = 7200000 WHERE provider = 'p';
SELECT n, call('m', 'a1', 'http_status => 500') AS a, call('m', 'b1') AS b FROM generate_series(1, 2) n;
SELECT call('m', 'a1') AS open, seconds() AS probed_after;
CALL forget();
UPDATE llmquota.provider SET breaker_failures = 5, breaker_probe_ms = 3600000 WHERE provider = 'p';

--
-- Disabled keys
--
SELECT call('m', 'a1', 'http_status => 401');
SELECT call('m', 'a1') AS disabled, call('n', 'a1') AS whatever_the_model, call('m', 'a2') AS other_key;
SELECT llmquota_enable('a1');
SELECT call('m', 'a1'), llmquota_enable('a1');
-- by a person: a reason, and no call changes that
SELECT llmquota_disable('a1', E'ticket\n12');
SELECT call('m', 'a1');
SELECT llmquota_clear() AS nothing_to_clear;
SELECT events_kept FROM llmquota_maintain();
SELECT * FROM news;
SELECT kind, until IS NULL AS by_a_person, until > clock_timestamp() AS or_later FROM llmquota.event WHERE kind = 'disabled' ORDER BY number;
CALL forget();

--
-- The caller's own mistakes hurt nobody
--
SELECT what, count(*), array_agg(DISTINCT c) AS calls
  FROM (VALUES
	('invalid', 'http_status => 400, error => ''{"error": {"type": "invalid_request_error", "message": "messages: field required"}}'''),
	('content', 'http_status => 400, error => ''{"error": {"code": "content_policy_violation", "message": "rejected"}}'''),
	('cancelled', 'error => ''cancelled'''),
	('too large', 'http_status => 413'),
	('unprocessable', 'http_status => 422')) v (what, arguments),
	generate_series(1, 21) n, call('m', 'a1', arguments || repeat(' ', n)) c
 GROUP BY what ORDER BY what;
SELECT call('m', 'a1');
SELECT events_kept, troubles_ended FROM llmquota_maintain();

--
-- Events: once, also when maintenance was rolled back; kept as long as the setting says
--
SELECT llmquota_cool('provider', 'g', 3600000) IS NOT NULL AS provider, llmquota_cool('model', 'n', 3600000) IS NOT NULL AS model,
	llmquota_cool('key', 'b1', 3600000, reason => 'it is slow') IS NOT NULL AS key, llmquota_cool('account', 'b', 3600000) IS NOT NULL AS account;
SELECT call('o', 'c1') AS provider, call('n', 'a1') AS model, call('m', 'b1') AS account;
BEGIN;
SELECT events_kept FROM llmquota_maintain();
SELECT count(*) FROM llmquota.event;
ROLLBACK;
SELECT events_kept FROM llmquota_maintain();
SELECT events_kept FROM llmquota_maintain();
SELECT * FROM news;
SELECT count(DISTINCT number) = count(*) AS numbered, bool_and(since <= event_at AND until >= event_at) AS from_when_to_when FROM llmquota.event;
SELECT llmquota_clear('provider', 'g'), llmquota_clear('model', 'n'), llmquota_clear('account', 'a'), llmquota_clear('account', 'b', 'm'), llmquota_clear();
UPDATE llmquota.event SET event_at = event_at - CASE subject WHEN 'b1' THEN interval '91 days' ELSE interval '89 days' END;
SELECT history_dropped, events_kept FROM llmquota_maintain();
SELECT count(*) FILTER (WHERE event_at < clock_timestamp() - interval '1 day') AS old, count(*) FROM llmquota.event;

-- what is deleted has no troubles
SELECT llmquota_disable('b1'), llmquota_cool('account', 'b', 3600000) IS NOT NULL AS cooled;
DELETE FROM llmquota.key WHERE key = 'b1';
DELETE FROM llmquota.account WHERE account = 'b';
SELECT troubles_ended FROM llmquota_maintain();
SELECT troubles_ended FROM llmquota_maintain();

--
-- Wrong calls
--
SELECT llmquota_disable('nobody');
SELECT llmquota_enable('nobody');
SELECT llmquota_disable(NULL);
SELECT llmquota_disable('a1', repeat('x', 38));
SELECT llmquota_cool('org', 'clinic-7', 1000);
SELECT llmquota_cool('account', 'nobody', 1000);
SELECT llmquota_cool('model', 'nothing', 1000);
SELECT llmquota_cool('account', 'a', 1000, 'nothing');
SELECT llmquota_cool('key', 'a1', 1000, 'm');
SELECT llmquota_cool('key', 'a1', NULL);
SELECT llmquota_cool('key', 'a1', 0);
SELECT llmquota_clear('key');
SELECT llmquota_clear(subject => 'a1');
BEGIN READ ONLY;
SELECT llmquota_disable('a1');
ROLLBACK;
BEGIN READ ONLY;
SELECT llmquota_clear();
ROLLBACK;

SELECT * FROM llmquota_verify();
