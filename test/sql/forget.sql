-- llmquota_forget makes a session or an org unrecognizable in the ledger and in the slots of leases; figures stay as they are.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', '*', 'concurrency', 1000);
CREATE PROCEDURE use(org text, session text, request_id text) LANGUAGE sql AS $$
	SELECT llmquota_record(lease, 10, 20, http_status => 200, error => 'mentions ' || session, tags => jsonb_build_object('patient', session))
	  FROM llmquota_pick('m', org, 10, 20, session => session, request_id => request_id)
$$;
-- Who is in the ledger, pseudonyms by their order only.
CREATE VIEW ledger AS
SELECT CASE WHEN org ~ '^forgotten-[0-9a-f]{32}$' THEN 'forgotten ' || dense_rank() OVER (ORDER BY org !~ '^forgotten-', org) ELSE org END AS org,
	   CASE WHEN session ~ '^forgotten-[0-9a-f]{32}$' THEN 'forgotten' ELSE session END AS session,
	   CASE WHEN request_id ~ '^forgotten-[0-9a-f]{32}$' THEN 'forgotten' ELSE request_id END AS request_id, error, tags
  FROM llmquota.usage ORDER BY picked_at;
CREATE VIEW sums AS
SELECT count(*), count(DISTINCT org) AS orgs, count(DISTINCT (org, session)) AS sessions, count(DISTINCT request_id) AS requests,
	   sum(input_tokens) AS input, sum(output_tokens) AS output, count(*) FILTER (WHERE status = 'ok') AS ok
  FROM llmquota.usage;
CALL use('clinic', 'anna', 'r1');
CALL use('clinic', 'anna', 'r2');
CALL use('clinic', 'ben', 'r3');
CALL use('clinic', NULL, 'r4');
CALL use('other', 'anna', 'r5');
SELECT * FROM ledger;
SELECT * FROM sums \gset before_
SELECT * FROM sums;

-- one session, with a call in flight, and one that was never recorded
SELECT lease FROM llmquota_pick('m', 'clinic', 10, 20, session => 'anna', request_id => 'r6') \gset
SELECT ledger_rows, pending, pseudonym ~ '^forgotten-[0-9a-f]{32}$' AS pseudonym FROM llmquota_forget('clinic', 'anna');
SELECT * FROM ledger;
SELECT * FROM sums;
SELECT count(DISTINCT session) AS sessions, count(DISTINCT request_id) AS requests FROM llmquota.usage WHERE session ~ 'forgotten';
SELECT org, session, request_id, reserved_input FROM llmquota.lease;
SELECT status FROM llmquota_record(:'lease', 10, 20);
SELECT org, session, request_id, input_tokens FROM llmquota.usage ORDER BY picked_at DESC LIMIT 1;
SELECT ledger_rows, pending FROM llmquota_forget('clinic', 'anna');
-- no byte of it is left in the slots
SELECT count(*) FROM llmquota.lease_page WHERE position('anna'::bytea IN state) > 0;
CALL use('other', 'anna', 'r7');
SELECT count(*) > 0 AS found FROM llmquota.lease_page WHERE position('anna'::bytea IN state) > 0;

-- a whole org, by any of its names; one row is in a transaction that is still open, and rolled back
SELECT llmquota_rename('org', 'clinic', 'praxis');
CALL use('clinic', 'carl', 'r8');
BEGIN;
CALL use('praxis', 'dora', 'r9');
ROLLBACK;
SELECT ledger_rows, pending FROM llmquota_forget('clinic');
SELECT * FROM ledger;
-- maintenance writes the row of the one that was rolled back: it has no labels, and the next call finds it
SELECT FROM llmquota_maintain();
SELECT org, session, request_id FROM llmquota.usage WHERE org !~ 'forgotten' ORDER BY picked_at;
SELECT ledger_rows, pending FROM llmquota_forget('praxis');
SELECT count(*) FROM llmquota.usage WHERE org IN ('clinic', 'praxis') OR usage::text ~ 'anna.*clinic|ben|carl|dora';
SELECT count(*), sum(input_tokens) AS input, sum(output_tokens) AS output FROM llmquota.usage;
SELECT * FROM sums;
-- what is counted by hours goes with it
SELECT FROM llmquota_maintain();
SELECT FROM llmquota_maintain();
SELECT CASE WHEN org ~ '^forgotten' THEN 'forgotten' ELSE org END AS org, sum(calls) AS calls, sum(output_tokens) AS output
  FROM llmquota.usage_hourly GROUP BY 1 ORDER BY 1;

-- refusals of an org stay as counts, and no others change
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'spent', 'requests', 0, '1 hour');
SELECT status FROM llmquota_pick('m', 'spent', 10, 20, request_id => 'r10');
SELECT FROM llmquota_maintain();
INSERT INTO llmquota.refusal_hourly SELECT hour, 'unrelated', route, status, quota, count, tokens, first_at, last_at FROM llmquota.refusal_hourly;
SELECT ledger_rows, pending FROM llmquota_forget('spent');
SELECT CASE WHEN org ~ '^forgotten' THEN 'forgotten' ELSE org END AS org, route, status, count, tokens FROM llmquota.refusal_hourly ORDER BY 1;
SELECT count(*) FROM llmquota.refusal_sample;

-- nobody, and wrong calls
SELECT ledger_rows, pending FROM llmquota_forget('nobody');
SELECT ledger_rows, pending FROM llmquota_forget('other', 'nobody');
SELECT llmquota_forget(NULL);
SELECT llmquota_forget(NULL, 'anna');
