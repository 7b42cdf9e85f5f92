-- 400 callers of 200 orgs are refused for the same reset, and each obeys retry_after_ms: they come back as a stream.
-- Time is compressed: when each of them returns is worked out, not waited for.
\set SHOW_CONTEXT never

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('account', 'a', 'input_tokens', 24000, '1 hour');

-- in which second after there is room again each of them returns
CREATE FUNCTION herd(tokens bigint, OUT status text, OUT second int) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT p.status, floor(EXTRACT(epoch FROM clock_timestamp() + p.retry_after_ms * interval '1 ms'
								   - (p.refusal->>'retry_at')::timestamptz))::int
	  FROM generate_series(1, 400) n, llmquota_pick('m', 'org ' || n % 200, tokens, 0, request_id => n::text) p
$$;

-- of those that have returned within the first minute, as many are granted as fit
CREATE FUNCTION judge(tokens bigint, amount bigint, OUT refused bigint, OUT peak_is_a_tenth boolean, OUT early bigint,
					  OUT room_is_used boolean)
LANGUAGE sql AS $$
	WITH returned AS MATERIALIZED (SELECT * FROM herd(tokens)),
	seconds AS (SELECT second, count(*) AS callers FROM returned GROUP BY second)
	SELECT (SELECT count(*) FROM returned WHERE status = 'over_capacity'),
		   (SELECT max(callers) * 10 <= 400 FROM seconds),
		   (SELECT count(*) FROM returned WHERE second < 0),
		   (SELECT least(count(*), amount / tokens) >= 0.9 * least(400, amount / tokens) FROM returned WHERE second < 60)
$$;
SELECT status FROM llmquota_pick('m', 'full', 24000, 0);

-- where a caller's share of the wait is long, they are spread by as much as anybody ever is
SELECT * FROM judge(100, 24000);
-- where it is nothing, by as much as it takes for room for those before to return: here 0.15 s for each
UPDATE llmquota.setting SET value = '0' WHERE name = 'refusal_spread';
SELECT llmquota_release(lease) FROM llmquota.lease;
SELECT status FROM llmquota_pick('m', 'full', 24000, 0);
SELECT * FROM judge(1, 24000);
-- a grant ends the count: the next to be refused waits for nobody before it
SELECT llmquota_release(lease) FROM llmquota.lease;
SELECT status FROM llmquota_pick('m', 'full', 24000, 0);
SELECT p.retry_after_ms <= EXTRACT(epoch FROM (p.refusal->>'retry_at')::timestamptz - now()) * 1000 + 1 AS at_once
  FROM llmquota_pick('m', 'org 1', 1, 0) p;
SELECT llmquota_release(lease) FROM llmquota.lease;
SELECT * FROM llmquota_verify();
