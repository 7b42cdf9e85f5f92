-- What record advises when a call has ended: done, fallback, retry or stop; and how long to wait for a retry.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai'), ('q', 'anthropic');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p'), ('c', 'q');
INSERT INTO llmquota.key (key, account) VALUES ('a-1', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('claude', 'q');
INSERT INTO llmquota.route (route, step, model) VALUES ('r', 1, 'm'), ('r', 2, 'claude');
CREATE FUNCTION advice(http int, error text DEFAULT NULL, headers jsonb DEFAULT NULL, route text DEFAULT 'r')
RETURNS TABLE (advised text, wait text)
LANGUAGE sql AS $$
	SELECT r.advice, CASE WHEN r.retry_after_ms BETWEEN 1000 AND 1500 THEN '1 s' ELSE r.retry_after_ms::text END
	  FROM llmquota_pick(route) p,
		llmquota_record(p.lease, http_status => http, error => advice.error, headers => advice.headers) r
$$;
-- a success, an overloaded model with nothing else, and with another provider's
SELECT * FROM advice(200);
SELECT * FROM advice(503);
SELECT llmquota_clear();
SELECT * FROM advice(503, headers => '{"retry-after": "20"}');
SELECT llmquota_clear();
-- not after the request's deadline
SELECT * FROM advice(503, headers => '{"retry-after": "40"}');
SELECT llmquota_clear();
INSERT INTO llmquota.key (key, account) VALUES ('c-1', 'c');
SELECT * FROM advice(503);
SELECT llmquota_clear();
-- a model by itself has only itself
SELECT * FROM advice(503, route => 'm');
SELECT llmquota_clear();
-- but one whose provider is cooling is none
SELECT llmquota_cool('provider', 'q', 60000) > now() AS cooling;
SELECT * FROM advice(503);
SELECT llmquota_clear();
-- a limit: another account helps, not another key of the same
DELETE FROM llmquota.key WHERE key = 'c-1';
INSERT INTO llmquota.key (key, account) VALUES ('a-2', 'a');
SELECT * FROM advice(429);
SELECT llmquota_clear();
-- a day's limit is not waited for
SELECT * FROM advice(429, 'Rate limit reached for m on requests per day (RPD): Limit 50, Used 50, Requested 1.');
SELECT llmquota_clear();
INSERT INTO llmquota.key (key, account) VALUES ('b-1', 'b');
SELECT p.account IS NOT NULL AS granted, r.advice, r.retry_after_ms
  FROM llmquota_pick('m') p, llmquota_record(p.lease, http_status => 429) r;
SELECT llmquota_clear();
-- nothing helps against the caller's own mistakes, and no key is blamed for them
SELECT * FROM advice(400, 'messages is required');
SELECT * FROM advice(400, '{"error": {"code": "content_filter", "message": "no"}}');
SELECT * FROM advice(NULL, 'cancelled');
-- a revoked key is never waited for: another one, or nothing
SELECT * FROM advice(401);
SELECT * FROM advice(401);
SELECT * FROM advice(401);
SELECT count(llmquota_enable(key)) FROM llmquota.key;
-- the last attempt
INSERT INTO llmquota.route_option (route, max_attempts) VALUES ('r', 1);
SELECT * FROM advice(503);
SELECT llmquota_clear();
-- a lease that was recorded before, and one that is not known
SELECT lease FROM llmquota_pick('m') \gset
SELECT status, advice, retry_after_ms FROM llmquota_record(:'lease', 1, 1);
SELECT status, advice, retry_after_ms FROM llmquota_record(:'lease', http_status => 400);
SELECT * FROM llmquota_record('00000000-0000-0000-0000-000000000000', http_status => 503);
SELECT * FROM llmquota_verify();
