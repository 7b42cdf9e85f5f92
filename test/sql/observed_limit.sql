-- What providers say of their limits: seen, in force where it is less than configured, forgotten in time, adopted.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai'), ('q', 'anthropic'), ('z', 'azure');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'q'), ('c', 'z');
INSERT INTO llmquota.key (key, account) VALUES ('a-1', 'a'), ('a-2', 'a'), ('b-1', 'b'), ('c-1', 'c');
INSERT INTO llmquota.model (model, provider, family) VALUES ('m', 'p', 'f'), ('n', 'p', 'f'), ('claude', 'q', NULL), ('az', 'z', NULL);
INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per)
	VALUES ('account', '*', '*', 'requests', 1000, '1 day'), ('account', '*', '*', 'tokens', 100000, '1 day');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('account', 'b', 'input_tokens', 10000, '1 minute');

-- one call, answered with these headers
CREATE FUNCTION answer(model text, headers jsonb, status int DEFAULT 200, error text DEFAULT NULL) RETURNS text
LANGUAGE sql AS $$
	SELECT r.status FROM llmquota_pick(model, input_tokens => 1, max_output_tokens => 1) p,
		llmquota_record(p.lease, 1, 1, http_status => answer.status, error => answer.error, headers => answer.headers) r
$$;
CREATE VIEW observed AS
SELECT account, model, metric, period, configured, advertised, drift, in_force, source, relaxes_at > now() AS holds
  FROM llmquota.observed_limit ORDER BY 1, 2, 3, 4;
-- the limit that refuses so many tokens
CREATE FUNCTION refused_by(model text, tokens bigint) RETURNS TABLE (status text, metric text, amount numeric, retry boolean)
LANGUAGE sql AS $$
	SELECT p.status, p.refusal->>'metric', (p.refusal->>'amount')::numeric, p.retry_after_ms > 0
	  FROM llmquota_pick(model, input_tokens => tokens, max_output_tokens => 1) p
$$;

-- nothing is known, and nothing is learned from an answer that says nothing
SELECT answer('m', NULL), answer('m', '{}'), answer('m', '{"content-type": "text/plain"}');
SELECT * FROM observed;
-- as much as is configured, or more, is seen and changes nothing
SELECT answer('m', '{"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-limit-tokens-day": "250000"}');
SELECT * FROM observed;
-- less is in force at once, for both keys of the account, and for no other model
SELECT answer('m', '{"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-limit-tokens-day": "40000"}');
SELECT * FROM observed;
SELECT * FROM refused_by('m', 50000);
SELECT * FROM refused_by('n', 9000);
SELECT refusal->>'amount' AS amount FROM llmquota_pick('m', input_tokens => 50000, max_output_tokens => 1, exclude => '{a-1}');
-- also after a rollback of the transaction that recorded it
BEGIN;
SELECT answer('m', '{"x-ratelimit-limit-tokens-day": "30000"}');
ROLLBACK;
SELECT * FROM refused_by('m', 35000);
-- more than the provider allows, and no more than is configured, may fit again when more is tried; else never
SELECT * FROM refused_by('m', 100001);
-- never less than a hundredth, whatever anybody says
SELECT answer('m', '{"x-ratelimit-limit-tokens-day": "7"}');
SELECT * FROM observed WHERE metric = 'tokens';
-- what is no amount says nothing; nor does Azure's slice of requests, nor what remains of Anthropic's tokens
SELECT answer('m', '{"x-ratelimit-limit-tokens-day": "0", "x-ratelimit-limit-requests-day": "-1"}'),
	   answer('m', '{"x-ratelimit-limit-tokens-day": "", "x-ratelimit-limit-requests-day": "many"}'),
	   answer('m', '{"x-ratelimit-limit-tokens-day": null, "x-ratelimit-limit-requests-day": {"a": [1]}}'),
	   answer('az', '{"x-ratelimit-limit-requests": "20", "x-ratelimit-remaining-requests": "19"}');
SELECT * FROM observed;
-- the provider's word is taken back by another one
SELECT answer('m', '{"x-ratelimit-limit-tokens-day": "100000"}');
SELECT metric, in_force FROM observed;
-- what a refusal names is not taken back by a header that says more, but by one that says less
SELECT answer('m', '{"x-ratelimit-limit-requests": "60"}', 429,
	'{"error": {"message": "Rate limit reached for m in organization o on requests per day (RPD): Limit 50, Used 50, Requested 1. Please try again in 6ms.", "type": "requests", "code": "rate_limit_exceeded"}}');
SELECT llmquota_clear();
SELECT answer('m', '{"x-ratelimit-limit-requests-day": "900"}');
SELECT * FROM observed WHERE metric = 'requests';
SELECT answer('m', '{"x-ratelimit-limit-requests-day": "40"}');
SELECT * FROM observed WHERE metric = 'requests';

-- no more than that many are granted
SELECT p.status, count(*), min(p.refusal->>'amount') AS amount
  FROM generate_series(1, 60) n, llmquota_pick('m', request_id => n::text) p GROUP BY p.status ORDER BY p.status DESC;
SELECT count(llmquota_release(lease)) > 0 AS released FROM llmquota.lease;

-- a quota that is changed meanwhile is held against what was seen
UPDATE llmquota.quota SET amount = 30 WHERE metric = 'requests';
SELECT * FROM observed WHERE metric = 'requests';
UPDATE llmquota.quota SET amount = 2000 WHERE metric = 'requests';
SELECT * FROM observed WHERE metric = 'requests';

-- adopted, it is a quota of the account and model, and there is no drift any more; what is configured below stays
SELECT answer('claude', '{"anthropic-ratelimit-input-tokens-limit": "4000", "anthropic-ratelimit-requests-limit": "50"}');
SELECT llmquota_adopt_limits('a'), llmquota_adopt_limits('a') AS again;
SELECT llmquota_adopt_limits('b'), llmquota_adopt_limits('b') AS again;
SELECT subject, model, family, metric, amount, per, calendar FROM llmquota.quota ORDER BY id;
SELECT account, model, metric, period, configured, advertised, drift, in_force FROM observed;
SELECT llmquota_adopt_limits('c');
SELECT llmquota_adopt_limits('nobody');
SELECT llmquota_adopt_limits(NULL);
-- of a family, it is one of the family
DELETE FROM llmquota.quota;
INSERT INTO llmquota.quota (scope, subject, family, metric, amount, calendar, timezone, high_priority_share)
	VALUES ('account', '*', '*', 'tokens', 300000, 'day', 'Asia/Tokyo', 0.5);
SELECT llmquota_adopt_limits('a');
SELECT subject, model, family, metric, amount, per, calendar, timezone, high_priority_share FROM llmquota.quota ORDER BY id;

-- a sliding window that is shorter than the period admits no more than the period does; what is about the window itself
-- comes before; and a longer window is not held against a shorter period
DELETE FROM llmquota.quota;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
	VALUES ('account', 'b', 'input_tokens', 9000, '10 seconds'), ('account', 'b', 'input_tokens', 90000, '1 hour');
SELECT * FROM refused_by('claude', 4001);
SELECT status FROM llmquota_pick('claude', input_tokens => 4000, max_output_tokens => 1);
SELECT count(llmquota_release(lease)) FROM llmquota.lease;
SELECT answer('claude', '{"x-ratelimit-limit-input-tokens-hour": "3000", "x-ratelimit-limit-input-tokens-second": "100000"}');
SELECT p.refusal->>'amount' AS amount, p.refusal->>'period' AS period
  FROM llmquota_pick('claude', input_tokens => 3500, max_output_tokens => 1) p;
DELETE FROM llmquota.quota WHERE per = '1 hour';
SELECT * FROM refused_by('claude', 3001);
UPDATE llmquota.quota SET per = '1 minute';
SELECT * FROM refused_by('claude', 4001);
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('account', 'b', 'output_tokens', 1000, '1 minute');
SELECT answer('claude', '{"x-ratelimit-limit-output-tokens-day": "500"}'),
	   answer('claude', '{"x-ratelimit-limit-output-tokens-minute": "600"}');
SELECT refusal->>'amount' AS amount FROM llmquota_pick('claude', input_tokens => 1, max_output_tokens => 700);
SELECT account, model, metric, period, configured, in_force FROM observed WHERE account = 'b';

-- when nobody says it again more is tried, until the configured amount is back
DELETE FROM llmquota.quota;
UPDATE llmquota.setting SET value = '1000' WHERE name = 'observed_limit_ttl';
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('account', 'a', 'tokens', 800000, '1 day');
SELECT answer('n', '{"x-ratelimit-limit-tokens-day": "790000"}');
DO $$
DECLARE
	pause CONSTANT double precision := 0.02;
BEGIN
	WHILE EXISTS (SELECT FROM llmquota.observed_limit WHERE in_force IS NOT NULL) LOOP
		ASSERT clock_timestamp() < statement_timestamp() + interval '60 s', 'the configured amount does not come back';
		PERFORM pg_sleep(pause);
	END LOOP;
END
$$;
SELECT * FROM observed WHERE model = 'n';
SELECT status FROM llmquota_pick('n', input_tokens => 795000, max_output_tokens => 1);
SELECT count(llmquota_release(lease)) FROM llmquota.lease;
SELECT count(*) AS disagreements FROM llmquota_verify();
