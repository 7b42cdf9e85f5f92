-- The slot of a failed attempt stays for the next attempt until the deadline of the request or until that was picked; and
-- gives way before a pick is refused for want of a slot.
\set SHOW_CONTEXT never
\pset null -

-- a request_id only tells calls apart here
UPDATE llmquota.setting SET value = '0' WHERE name = 'idempotency_window';
INSERT INTO llmquota.provider (provider, adapter, breaker_failures, breaker_min_calls) VALUES ('p', 'openai', 1000, 1000);
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('n', 'p');
INSERT INTO llmquota.route (route, step, model) VALUES ('long', 1, 'm'), ('long', 2, 'n'), ('short', 1, 'm'), ('short', 2, 'n'), ('once', 1, 'm');
INSERT INTO llmquota.route_option (route, deadline_ms, max_attempts) VALUES ('long', 86400000, 3), ('short', 100, 3), ('once', 86400000, 1);
-- one page of four slots, and one to spare
UPDATE llmquota.setting SET value = '4' WHERE name = 'max_leases';
CREATE TABLE failed (n int, lease uuid);
CREATE FUNCTION fail(times int, route text) RETURNS SETOF uuid LANGUAGE sql AS $$
	WITH p AS MATERIALIZED (SELECT lease FROM generate_series(1, times) n, llmquota_pick(route, request_id => n::text)),
	r AS MATERIALIZED (SELECT lease, llmquota_record(lease, http_status => 500) FROM p)
	SELECT lease FROM r
$$;
CREATE PROCEDURE wait_until(at timestamptz) LANGUAGE plpgsql AS $$
DECLARE
	pause CONSTANT double precision := 0.01;
BEGIN
	WHILE clock_timestamp() <= at LOOP
		PERFORM pg_sleep(pause);
	END LOOP;
END
$$;
-- places of leases: page and slot
CREATE FUNCTION places(leases uuid[]) RETURNS bigint LANGUAGE sql AS $$ SELECT count(DISTINCT left(l::text, 11)) FROM unnest(leases) l $$;

-- failed for good, retried, succeeded: the slots are taken again
SELECT places(ARRAY(SELECT l FROM generate_series(1, 20) n, fail(1, 'once') l)) AS once;
CREATE FUNCTION pages() RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM llmquota.lease_page $$;
SELECT pages();
DO $$
DECLARE
	failed uuid;
	again uuid;
BEGIN
	FOR n IN 1 .. 20 LOOP
		SELECT lease INTO failed FROM llmquota_pick('long');
		SELECT lease INTO again FROM llmquota_retry(failed, http_status => 500);
		COMMIT;
		PERFORM llmquota_record(again);
		COMMIT;
	END LOOP;
END $$;
SELECT pages();
-- when the deadline has passed, too
SELECT count(*) FROM fail(4, 'short');
SELECT max(picked_at) AS since FROM llmquota.usage \gset
CALL wait_until(:'since'::timestamptz + interval '100 ms');
SELECT count(*) FROM fail(4, 'once');
SELECT pages();

-- before it has, they stay
INSERT INTO failed SELECT row_number() OVER (), l FROM fail(4, 'long') l;
SELECT count(*) FROM llmquota_pick('once') p WHERE p.status = 'granted';
SELECT pages();
SELECT p.status, p.attempt, p.model FROM failed, llmquota_pick('long', retry_of => lease) p WHERE n = 1;
-- until there are no others: then it is as if the deadline had passed
SELECT status, count(*) FROM generate_series(1, 20) n, llmquota_pick('once', request_id => n::text) GROUP BY 1 ORDER BY 1;
SELECT pages();
SELECT llmquota_release(lease) FROM (SELECT lease FROM llmquota.lease ORDER BY granted_at DESC LIMIT 1) l;
SELECT p.status, p.refusal FROM failed, llmquota_pick('long', retry_of => lease) p WHERE n = 2;
SELECT p.status, p.refusal FROM failed, llmquota_retry(lease, http_status => 500) p WHERE n = 2;
SELECT status FROM failed, llmquota_record(lease, http_status => 500) WHERE n = 2;

SELECT count(llmquota_release(lease)) FROM llmquota.lease;
SELECT * FROM llmquota_verify();
