-- Leases that end by themselves, that are prolonged, and whose record comes too late.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
SELECT 'account', '*', metric, 1000000, CASE WHEN metric <> 'concurrency' THEN '1 hour'::interval END
  FROM unnest('{requests,input_tokens,output_tokens,concurrency}'::text[]) metric;
CREATE TEMP TABLE p (name text PRIMARY KEY, lease uuid, granted_at timestamptz, expires_at timestamptz);
CREATE PROCEDURE pick(name text, ttl_ms int DEFAULT NULL) LANGUAGE sql AS $$
	INSERT INTO p SELECT name, lease, granted_at, expires_at
		FROM llmquota_pick('m', 'clinic-7', 100, 50, request_id => name, ttl_ms => ttl_ms)
$$;
CREATE FUNCTION lease_of(text) RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT lease FROM p WHERE name = $1 $$;
CREATE VIEW used AS SELECT string_agg(format('%s %s', metric, used), ', ' ORDER BY metric) AS used
  FROM llmquota.meter_window;
CREATE VIEW ledger AS
SELECT request_id, status, http_status, input_tokens, output_tokens, usage_source, error, tags FROM llmquota.usage
 ORDER BY request_id;
CALL expire(0);

-- what is never recorded expires: concurrency comes back, what was reserved stays charged, the ledger says expired
CALL pick('kept');
CALL pick('forgotten', 1);
SELECT * FROM used;
CALL expire(1);
SELECT * FROM used;
SELECT request_id FROM llmquota.lease;
SELECT * FROM ledger;
SELECT u.recorded_at >= p.expires_at AS not_before_its_time, u.picked_at = p.granted_at AS same_time, reserved_input,
	reserved_output FROM llmquota.usage u JOIN p USING (lease);
-- it is neither released nor renewed any more
SELECT llmquota_release(lease_of('forgotten')), llmquota_renew(lease_of('forgotten'));

-- a late record charges the excess, and brings the ledger to the real figures
SELECT status, usage_source FROM llmquota_record(lease_of('forgotten'), 150, 70, http_status => 200, tags => '{"late": true}');
SELECT * FROM used;
SELECT * FROM ledger;
-- once
SELECT status, usage_source FROM llmquota_record(lease_of('forgotten'), 1, 1);
SELECT * FROM used;
-- one that used less than was reserved, one that failed, one that says nothing
CALL pick('less', 1);
CALL pick('failed', 1);
CALL pick('silent', 1);
CALL expire(3);
SELECT status, usage_source FROM llmquota_record(lease_of('less'), 10, 5);
SELECT status, usage_source FROM llmquota_record(lease_of('failed'), http_status => 503, error => 'overloaded');
SELECT llmquota_clear();
SELECT status, usage_source FROM llmquota_record(lease_of('silent'));
SELECT * FROM used;
SELECT * FROM ledger;

-- a record is in time as long as nobody has expired the lease, whatever the clock says
CALL pick('overdue', 1);
DO $$
DECLARE
	pause CONSTANT double precision := 0.001;
BEGIN
	WHILE clock_timestamp() <= (SELECT expires_at FROM p WHERE name = 'overdue') LOOP
		PERFORM pg_sleep(pause);
	END LOOP;
END $$;
SELECT llmquota_renew(lease_of('overdue')) AS not_renewed;
SELECT status FROM llmquota_record(lease_of('overdue'), 10, 5);
CALL expire(0);
SELECT status, usage_source FROM ledger WHERE request_id = 'overdue';

-- renew: from now on for ttl_ms, else for the setting; longer or shorter than before
CALL pick('long', 60000);
SELECT e - clock_timestamp() BETWEEN '80 s' AND '90 s' AS renewed,
	   (SELECT l.expires_at = e FROM llmquota.lease l WHERE l.request_id = 'long') AS shown
  FROM llmquota_renew(lease_of('long'), 90000) e;
SELECT e - clock_timestamp() BETWEEN '110 s' AND '120 s' AS renewed FROM llmquota_renew(lease_of('long')) e;
UPDATE llmquota.setting SET value = '300000' WHERE name = 'lease_ttl';
SELECT e - clock_timestamp() BETWEEN '290 s' AND '300 s' AS renewed FROM llmquota_renew(lease_of('long'), NULL) e;
SELECT e - clock_timestamp() < '1 s' AS shortened FROM llmquota_renew(lease_of('long'), 1) e;
CALL expire(1);
SELECT status FROM ledger WHERE request_id = 'long';
-- renewing keeps it from expiring
CALL pick('stream', 200);
SELECT llmquota_renew(lease_of('stream'), 86400000) IS NOT NULL AS renewed;
DO $$
DECLARE
	pause CONSTANT double precision := 0.01;
BEGIN
	WHILE clock_timestamp() <= (SELECT expires_at FROM p WHERE name = 'stream') LOOP
		PERFORM pg_sleep(pause);
	END LOOP;
END $$;
CALL expire(0);
SELECT expired FROM llmquota_maintain();
SELECT request_id FROM llmquota.lease ORDER BY request_id;
SELECT status FROM llmquota_record(lease_of('stream'), 1, 1);
-- a record in the transaction that has just ended the lease
CALL pick('ended by ourselves', 1);
BEGIN;
CALL expire(1);
SELECT status, usage_source FROM llmquota_record(lease_of('ended by ourselves'), 120, 60);
COMMIT;
SELECT * FROM ledger WHERE request_id = 'ended by ourselves';
-- a late record still finds its row when other leases have taken the slot
UPDATE llmquota.setting SET value = '8' WHERE name = 'max_leases';
CALL pick('taken', 1);
CALL expire(1);
SELECT count(*) FILTER (WHERE left(n.lease::text, 11) = left(lease_of('taken')::text, 11)) AS in_the_same_slot
  FROM generate_series(1, 8) i, llmquota_pick('m', request_id => i::text) n WHERE n.status = 'granted';
SELECT status, usage_source FROM llmquota_record(lease_of('taken'), 1000, 500);
SELECT * FROM ledger WHERE request_id = 'taken';
SELECT status, usage_source FROM llmquota_record(lease_of('taken'), 1, 1);
SELECT * FROM ledger WHERE request_id = 'taken';
