-- How many requests can be remembered: beyond it new ones are refused, and none has two calls.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('chat', 'p');
CREATE FUNCTION picks(from_number int, to_number int) RETURNS TABLE (status text, count bigint) LANGUAGE sql AS $$
	SELECT p.status, count(*) FROM generate_series(from_number, to_number) n, llmquota_pick('chat', 'many', request_id => 'many ' || n) p GROUP BY 1 ORDER BY 1
$$;
UPDATE llmquota.setting SET value = '1' WHERE name = 'max_requests';
SELECT * FROM picks(1, 100);
SELECT count(*) AS cells FROM llmquota.request_page;
-- full: a new one is refused, and counted; those that are known are known, and others are not concerned
SELECT status, retry_after_ms, refusal FROM llmquota_pick('chat', 'many', request_id => 'many 101');
SELECT * FROM picks(1, 100);
SELECT status FROM llmquota_pick('chat', 'many');
SELECT value FROM llmquota_metrics() WHERE labels @> '{"status": "no_lease_slot"}';
-- more room, from the next pick on; and less again, which forgets none
UPDATE llmquota.setting SET value = '1000' WHERE name = 'max_requests';
SELECT * FROM picks(101, 200);
UPDATE llmquota.setting SET value = '1' WHERE name = 'max_requests';
SELECT * FROM picks(1, 200);
SELECT count(*) > 1 AS cells FROM llmquota.request_page;
SELECT * FROM llmquota_verify();
