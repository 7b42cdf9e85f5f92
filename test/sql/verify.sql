-- llmquota_verify() finds what is wrong, and nothing else. The functions that do damage are those of
-- test/unit/cell_test.c.
\set SHOW_CONTEXT never
\pset null -
LOAD 'llmquota';
CREATE FUNCTION cell_fault(live_table int, image bytea, id int) RETURNS text LANGUAGE c STRICT AS 'cell_test', 'cell_fault';
CREATE FUNCTION cell_sealed_fault(live_table int, image bytea, id int) RETURNS text LANGUAGE c STRICT AS 'cell_test', 'cell_sealed_fault';
CREATE FUNCTION cell_write(live_table int, id int, at int, bytes bytea, sealed boolean DEFAULT false) RETURNS void LANGUAGE c STRICT AS 'cell_test', 'cell_write';
CREATE FUNCTION window_add(meter int, quota bigint, amount bigint) RETURNS void LANGUAGE c STRICT AS 'cell_test', 'window_add';

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per, calendar) VALUES
	('account', 'a', 'concurrency', 1000, NULL, NULL),
	('account', 'a', 'tokens', 1000000, '1 hour', NULL),
	('org', '*', 'requests', 1000000, NULL, 'year');
-- the configuration is as it is for long
SELECT setval('llmquota.config_time', 1);

SELECT * FROM llmquota_verify();
CREATE TABLE lease AS SELECT n, p.lease
  FROM generate_series(1, 8) n, llmquota_pick('m', 'clinic-7', 100, 10, request_id => n::text) p;
SELECT llmquota_record(lease, 60, 5) FROM lease WHERE n <= 3;
SELECT llmquota_record(lease, 600, 50) FROM lease WHERE n = 4;
SELECT (llmquota_record(lease, http_status => 500)).status FROM lease WHERE n = 5;
SELECT llmquota_release(lease) FROM lease WHERE n = 6;
BEGIN;
SELECT llmquota_record(lease, 70, 7) FROM lease WHERE n = 7;
SELECT * FROM llmquota_verify();
ROLLBACK;
SELECT * FROM llmquota_verify();
-- leases whose slots have others by now: of these the ledger alone knows
DO $$
BEGIN
	FOR n IN 1 .. 40 LOOP
		PERFORM llmquota_record(lease, 60 + n, 2 * n) FROM llmquota_pick('m', 'clinic-7', 80, 40);
		COMMIT;
	END LOOP;
END $$;
SELECT * FROM llmquota_verify();

-- every byte of a cell's image, and every bit of it: turned round it is found
CREATE FUNCTION undetected(live_table int, image bytea, id int, OUT bytes bigint, OUT bits bigint) LANGUAGE sql AS $$
	SELECT count(*) FILTER (WHERE cell_fault(live_table, set_byte(image, at, get_byte(image, at) # 255), id) IS NULL),
		   (SELECT count(*) FROM generate_series(0, 8 * length(image) - 1) bit
			 WHERE cell_fault(live_table, set_bit(image, bit, 1 - get_bit(image, bit)), id) IS NULL)
	  FROM generate_series(0, length(image) - 1) at
$$;
CREATE VIEW image AS
SELECT 0 AS live_table, 'meter' AS name, id, state FROM llmquota.meter
UNION ALL SELECT 1, 'health', id, state FROM llmquota.health
UNION ALL SELECT 2, 'lease_page', id, state FROM llmquota.lease_page
UNION ALL SELECT 3, 'name', id, state FROM llmquota.name;
SELECT i.name, count(*), sum(bytes) AS undetected_bytes, sum(bits) AS undetected_bits,
	   count(cell_fault(i.live_table, i.state, i.id)) AS faulty,
	   count(cell_fault(i.live_table, i.state, i.id + 1)) AS of_another,
	   count(cell_fault(i.live_table, substr(i.state, 1, length(i.state) - 8), i.id)) AS shorter
  FROM image i, undetected(i.live_table, i.state, i.id) GROUP BY 1 ORDER BY 1;
SELECT cell_fault(0, '', 1) AS empty, cell_fault(0, '\x00', 1) AS one_byte, cell_fault(0, decode(repeat('00', 1024), 'hex'), 0) AS zeros;

-- what makes no sense on a board or among the events is found under a checksum that holds
SELECT llmquota_cool('account', 'a', 3600000) IS NOT NULL AND llmquota_disable('k', 'ticket') = 'disabled' AS troubles;
SELECT what, cell_sealed_fault(1, overlay(h.state PLACING coalesce(bytes, substr(h.state, 81, 96)) FROM at + 1), h.id) AS fault
  FROM (VALUES (1, 'as it is', 'b', 0, ''::bytea), (2, 'scope', 'b', 88, 'x'), (3, 'subject', 'b', 80, '\x00000000'), (4, 'part', 'b', 84, '\x01'),
	(5, 'kind', 'b', 92, '\x04'), (6, 'failure', 'b', 93, '\x63'), (7, 'reason', 'b', 138, convert_to(repeat('x', 38), 'UTF8')),
	(8, 'half free', 'b', 176, '\x00000000'), (9, 'double', 'b', 176, NULL), (10, 'kept', 'b', 40, '\x09'), (11, 'keeping', 'b', 48, '\x09'),
	(12, 'as they are', 'e', 0, ''), (13, 'place', 'e', 144, '\x02'), (14, 'page', 'e', 264, '\x42'), (15, 'kind', 'e', 160, '\x63'), (16, 'patient', 'e', 176, '\x00')) v (n, what, kind, at, bytes)
  JOIN llmquota.health h ON h.kind = v.kind::"char" ORDER BY n;
SELECT llmquota_clear(), llmquota_enable('k');

-- a byte in the page itself; a pick that meets it raises, and repairs nothing
SELECT substr(m.state, 201, 1) AS was FROM llmquota.meter m WHERE m.scope = 'a' \gset
SELECT cell_write(0, m.id, 200, '\xff') FROM llmquota.meter m WHERE m.scope = 'a';
SELECT object, problem, expected <> found AS differs, repaired FROM llmquota_verify() WHERE object = 'meter';
SELECT cell_write(0, m.id, 200, :'was') FROM llmquota.meter m WHERE m.scope = 'a';
SELECT * FROM llmquota_verify();

-- what makes sense by itself, and does not agree with leases and ledger
CREATE FUNCTION drift(scope "char", metric text, amount int) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	meter int;
	quota bigint;
BEGIN
	SELECT m.id INTO meter FROM llmquota.meter m WHERE m.scope = drift.scope;
	SELECT q.id INTO quota FROM llmquota.quota q WHERE q.metric = drift.metric;
	PERFORM window_add(meter, quota, amount);
	RETURN QUERY SELECT concat_ws(', ', v.object, regexp_replace(v.subject, '^\d+: |, quota \d+', '', 'g'), v.problem, v.expected, v.found) FROM llmquota_verify() v;
	PERFORM window_add(meter, quota, -amount);
END $$;
SELECT drift('a', 'concurrency', 1);
SELECT drift('a', 'concurrency', -1);
SELECT drift('a', 'tokens', 1);
SELECT drift('a', 'tokens', -1);
SELECT drift('o', 'requests', 1);
SELECT drift('o', 'requests', -1);
SELECT drift('o', 'requests', 0);
-- a row of the ledger that is not there
BEGIN;
DELETE FROM llmquota.usage WHERE status = 'error';
SELECT object, subject = lease::text AS subject, problem, repaired FROM llmquota_verify(), lease WHERE n = 5;
ROLLBACK;
SELECT * FROM llmquota_verify();

-- since the configuration changed, calls may not have been counted: less is no drift, more is
UPDATE llmquota.quota SET amount = amount + 1;
SELECT drift('a', 'tokens', -1) AS less;
SELECT drift('a', 'tokens', 1) AS more;
SELECT setval('llmquota.config_time', 1);

-- repair is refused where nothing can be changed
BEGIN READ ONLY;
SELECT * FROM llmquota_verify();
SELECT * FROM llmquota_verify(true);
ROLLBACK;

-- repair: what was found is mended, from leases and ledger, and says so
CREATE FUNCTION repair(scope "char", quota_metric text, amount int, OUT mended text, OUT used text) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM window_add(m.id, q.id, repair.amount) FROM llmquota.meter m, llmquota.quota q
	  WHERE m.scope = repair.scope AND q.metric = quota_metric;
	SELECT string_agg(concat_ws(', ', v.object, v.problem, v.repaired), '; ') INTO mended FROM llmquota_verify(true) v;
	SELECT string_agg(concat_ws(' ', w.metric, w.used), ', ' ORDER BY w.metric) INTO used
	  FROM llmquota.meter_window w WHERE left(w.scope, 1) = repair.scope::text;
END $$;
SELECT expired FROM llmquota_maintain();
SELECT string_agg(concat_ws(' ', metric, used), ', ' ORDER BY metric) AS used FROM llmquota.meter_window WHERE scope = 'account';
SELECT * FROM repair('a', 'concurrency', 3);
SELECT * FROM repair('a', 'tokens', -1500);
SELECT * FROM llmquota_verify();
DELETE FROM llmquota.usage WHERE lease IN (SELECT lease FROM lease WHERE n <= 2);
SELECT object, problem, repaired FROM llmquota_verify(true);
SELECT count(*) FROM llmquota.usage WHERE lease IN (SELECT lease FROM lease WHERE n <= 2);
SELECT * FROM llmquota_verify();
-- a damaged meter, and a damaged name, begin anew; whoever met them meanwhile got an error
SELECT cell_write(0, m.id, 100, '\xffff') FROM llmquota.meter m WHERE m.scope = 'a';
SELECT llmquota_pick('m', 'clinic-7', 1, 1);
SELECT cell_write(3, n.id, 20, '\xff') FROM llmquota.name n WHERE n.kind = 'k';
SELECT object, problem, repaired FROM llmquota_verify(true);
SELECT * FROM llmquota_verify();
SELECT status FROM llmquota_pick('m', 'clinic-7', 1, 1);
SELECT windows_completed FROM llmquota_maintain();
SELECT string_agg(concat_ws(' ', metric, used), ', ' ORDER BY metric) AS used FROM llmquota.meter_window WHERE scope = 'account';
SELECT * FROM llmquota_verify();
-- a damaged lease page: its leases are lost, the counts of calls in flight go with them
SELECT cell_write(2, 1, 300, '\xffffffff');
SELECT object, problem, repaired FROM llmquota_verify(true) WHERE object = 'lease_page';
SELECT object, problem, repaired FROM llmquota_verify(true);
SELECT * FROM llmquota_verify();
SELECT string_agg(concat_ws(' ', metric, used), ', ' ORDER BY metric) AS used FROM llmquota.meter_window WHERE scope = 'account';
