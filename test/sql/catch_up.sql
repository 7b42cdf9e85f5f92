-- Somebody else uses the same limit: a meter that is behind what the provider says remains is charged with the difference.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai'), ('z', 'azure');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('c', 'z');
INSERT INTO llmquota.key (key, account) VALUES ('a-1', 'a'), ('c-1', 'c');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('n', 'p'), ('az', 'z');
-- (of a day, so that no time that a test takes matters)
INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per)
	VALUES ('account', '*', '*', 'requests', 1000, '1 day'), ('account', '*', '*', 'tokens', 1000, '1 day');
CREATE FUNCTION answer(model text, headers jsonb, status int DEFAULT 200) RETURNS text LANGUAGE sql AS $$
	SELECT r.status FROM llmquota_pick(model, input_tokens => 1, max_output_tokens => 1) p,
		llmquota_record(p.lease, 1, 1, http_status => answer.status, headers => answer.headers) r
$$;
CREATE VIEW used AS
SELECT subject AS account, model, metric, used FROM llmquota.meter_window ORDER BY 1, 2, 3;

-- a window that may not know everything yet is left alone
SELECT answer('m', '{"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "500"}');
SELECT * FROM used;
SELECT windows_completed FROM llmquota_maintain();
-- one that does is brought up to what the provider says, and what remains decides what fits
SELECT answer('m', '{"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "500",
					 "x-ratelimit-limit-tokens-day": "1000", "x-ratelimit-remaining-tokens-day": "300"}');
SELECT * FROM used;
SELECT refusal->>'used' AS used FROM llmquota_pick('m', input_tokens => 301, max_output_tokens => 1);
-- the same again adds nothing but the call itself, which the provider has counted
SELECT answer('m', '{"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "500"}');
SELECT * FROM used;
-- more that remains, as much, none, and what is no number change nothing: neither up nor down
SELECT answer('m', '{"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "900"}'),
	   answer('m', '{"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "0"}'),
	   answer('m', '{"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "-1"}'),
	   answer('m', '{"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "2000"}'),
	   answer('m', '{"x-ratelimit-remaining-requests-day": "100"}'),
	   answer('m', '{"x-ratelimit-limit-requests-day": "1000"}');
SELECT * FROM used;
-- news from calls that were granted before the last correction is none, however late it comes
SELECT lease FROM llmquota_pick('m', input_tokens => 1, max_output_tokens => 1) \gset
SELECT answer('m', '{"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "400"}');
SELECT status FROM llmquota_record(:'lease', 1, 1,
	headers => '{"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "300"}');
SELECT * FROM used;
-- newer ones are, also those of a refusal; and a record that is repeated says nothing twice
SELECT lease FROM llmquota_pick('m', input_tokens => 1, max_output_tokens => 1) \gset
SELECT status FROM llmquota_record(:'lease', http_status => 503,
	headers => '{"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "300"}');
SELECT status FROM llmquota_record(:'lease', http_status => 503,
	headers => '{"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "200"}');
SELECT * FROM used;
SELECT llmquota_clear();
-- where less is configured than the provider has, what others use of the rest is theirs
UPDATE llmquota.quota SET amount = 800 WHERE metric = 'requests';
SELECT answer('m', '{"x-ratelimit-limit-requests-day": "1500", "x-ratelimit-remaining-requests-day": "750"}');
SELECT * FROM used;
-- never past the amount
SELECT answer('m', '{"x-ratelimit-limit-requests-day": "1500", "x-ratelimit-remaining-requests-day": "20"}');
SELECT * FROM used;
SELECT count(*) FILTER (WHERE p.status = 'granted') FROM generate_series(1, 30) n,
	llmquota_pick('m', input_tokens => 1, max_output_tokens => 1, request_id => n::text) p;
-- Azure's slices say nothing; another model is not concerned
SELECT answer('az', '{"x-ratelimit-limit-requests": "20", "x-ratelimit-remaining-requests": "1"}'), answer('n', '{}');
SELECT * FROM used;
-- it stays when the transaction that brought it is rolled back
SELECT windows_completed FROM llmquota_maintain();
BEGIN;
SELECT answer('n', '{"x-ratelimit-limit-tokens-day": "1000", "x-ratelimit-remaining-tokens-day": "600"}');
ROLLBACK;
SELECT * FROM used WHERE model = 'n';
SELECT count(llmquota_release(lease)) > 0 AS released FROM llmquota.lease;
SELECT * FROM llmquota_verify();
