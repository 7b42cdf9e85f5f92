-- What a granted pick says, and what is reserved when the caller does not say how much.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter, base_url) VALUES ('openai', 'openai', 'https://openai.example');
INSERT INTO llmquota.provider (provider, adapter) VALUES ('gemini', 'gemini');
INSERT INTO llmquota.account (account, provider, base_url)
	VALUES ('o-1', 'openai', NULL), ('o-2', 'openai', 'https://azure.example'), ('g-1', 'gemini', NULL);
INSERT INTO llmquota.key (key, account, secret_ref)
	VALUES ('o-1-a', 'o-1', 'OPENAI_KEY'), ('o-2-a', 'o-2', NULL), ('g-1-a', 'g-1', NULL);
INSERT INTO llmquota.model (model, provider, provider_model, default_output_tokens) VALUES
	('gpt-4o', 'openai', 'gpt-4o-2024-11-20', 300), ('gpt-4o-mini', 'openai', NULL, 1024),
		('gemini-pro', 'gemini', NULL, 0);

-- every column of a grant; what depends on the clock is compared, not shown
SELECT clock_timestamp() AS before \gset
CREATE TEMP TABLE p AS
SELECT * FROM llmquota_pick('gpt-4o', 'clinic-7', 1200, 500, session => 'visit 12', request_id => 'r-1',
	exclude => '{o-2}');
SELECT status, key, secret_ref, account, provider, base_url, model, provider_model, attempt, max_output_tokens,
	retry_after_ms, refusal FROM p;
SELECT granted_at BETWEEN :'before' AND clock_timestamp() AS granted_now, expires_at - granted_at AS lives,
	   substr(lease::text, 15, 1) AS uuid_version
  FROM p;
-- the lease says the same
SELECT l.lease = p.lease AS same_lease, l.org, l.route, l.model, l.provider, l.account, l.key, l.session, l.request_id,
	l.reserved_input, l.reserved_output,
	   l.granted_at = p.granted_at AS same_time, l.expires_at = p.expires_at AS same_expiry
  FROM llmquota.lease l, p;

-- an account's base URL wins over its provider's; neither is needed; a model without provider_model is called by its name
SELECT account, base_url, secret_ref, model, provider_model FROM llmquota_pick('gpt-4o-mini', exclude => '{o-1}');
SELECT account, base_url, secret_ref, model, provider_model FROM llmquota_pick('gemini-pro');

-- tokens: as said, else the setting and the model say; 0 is said
SELECT max_output_tokens FROM llmquota_pick('gpt-4o', session => 'a: nothing said');
SELECT max_output_tokens FROM llmquota_pick('gpt-4o', input_tokens => 7, session => 'b: input said');
SELECT max_output_tokens FROM llmquota_pick('gpt-4o', max_output_tokens => 7, session => 'c: output said');
SELECT max_output_tokens FROM llmquota_pick('gpt-4o', input_tokens => 0, max_output_tokens => 0, session => 'd: none');
SELECT max_output_tokens FROM llmquota_pick('gemini-pro', session => 'e: a model of images');
SELECT max_output_tokens
  FROM llmquota_pick('gpt-4o', input_tokens => 2147483647, max_output_tokens => 2147483647, session => 'f: most');
UPDATE llmquota.setting SET value = '250' WHERE name = 'default_input_tokens';
SELECT max_output_tokens FROM llmquota_pick('gpt-4o', session => 'g: another setting');
SELECT session, reserved_input, reserved_output FROM llmquota.lease WHERE session LIKE '_: %'
 ORDER BY session COLLATE "C";

-- the life of a lease: ttl_ms, else the setting
SELECT expires_at - granted_at AS lives FROM llmquota_pick('gpt-4o', ttl_ms => 1);
SELECT expires_at - granted_at AS lives FROM llmquota_pick('gpt-4o', ttl_ms => 86400000);
UPDATE llmquota.setting SET value = '5000' WHERE name = 'lease_ttl';
SELECT expires_at - granted_at AS lives FROM llmquota_pick('gpt-4o');

-- NULL means not given, by position too; '' is an org like any other, and the default
SELECT status, max_output_tokens FROM llmquota_pick('gpt-4o', 'clinic-7', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT status FROM llmquota_pick('gpt-4o', session => 'anonymous');
SELECT org FROM llmquota.lease WHERE session = 'anonymous';

-- names and labels of the greatest length
SELECT status FROM llmquota_pick('gpt-4o', repeat('o', 128), session => repeat('s', 64), request_id => repeat('é', 32));
SELECT length(org) AS org, length(session) AS session, request_id FROM llmquota.lease WHERE length(org) = 128;

-- as one value, for every row of a table, in a function, and prepared
SELECT (picked).status, (picked).model FROM (SELECT llmquota_pick('gpt-4o') AS picked OFFSET 0) p;
SELECT r.route, p.status, p.model FROM (VALUES ('gpt-4o'), ('gemini-pro')) r (route), llmquota_pick(r.route) p
 ORDER BY r.route;
DO $$ BEGIN ASSERT (SELECT status FROM llmquota_pick('gpt-4o')) = 'granted'; END $$;
PREPARE pick(text, text) AS SELECT status, model FROM llmquota_pick($1, $2);
EXECUTE pick('gpt-4o', 'clinic-7');
EXECUTE pick('gemini-pro', 'clinic-8');
SELECT count(*) FROM generate_series(1, 5) n, llmquota_pick('gpt-4o', 'clinic-9', request_id => n::text) p
 WHERE p.status = 'granted';
SELECT count(*), count(DISTINCT lease) AS leases, string_agg(request_id, ' ' ORDER BY request_id) AS requests
  FROM llmquota.lease WHERE org = 'clinic-9';
