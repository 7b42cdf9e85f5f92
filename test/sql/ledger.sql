-- Where the rows of the ledger go: a partition for each UTC day, made ahead; what was not prepared to the default one.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = warning;

-- a request_id only tells calls apart here
UPDATE llmquota.setting SET value = '0' WHERE name = 'idempotency_window';
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
CREATE TEMP TABLE p (request_id text, lease uuid);
CREATE PROCEDURE call(request_id text) LANGUAGE sql AS $$
	INSERT INTO p SELECT $1, lease FROM llmquota_pick('m', request_id => $1);
	SELECT llmquota_record(lease) FROM p WHERE request_id = $1;
$$;
-- the table of each row: the default partition, or the one named after the UTC day of the pick
CREATE VIEW place AS
SELECT request_id, CASE tableoid::regclass::text WHEN 'llmquota.usage_default' THEN 'default'
					WHEN 'llmquota.usage_' || to_char(picked_at AT TIME ZONE 'UTC', 'YYYYMMDD') THEN 'its day'
					ELSE 'elsewhere' END AS place
  FROM llmquota.usage ORDER BY request_id;
CREATE FUNCTION days() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM pg_inherits WHERE inhparent = 'llmquota.usage'::regclass
		AND inhrelid::regclass::text ~ '^llmquota.usage_\d{8}$'
$$;

-- nothing is prepared at first, and a record makes no partition
CALL call('before');
SELECT * FROM place;
SELECT days();
-- maintenance makes today's and those of the coming days, and moves what is in the default partition; then nothing is left to do
SELECT partitions_created = days() - 1 AS created, rows_moved, days() BETWEEN 8 AND 9 AS as_many_as_set
  FROM llmquota_maintain();
SELECT * FROM place;
CALL call('after');
SELECT * FROM place;
SELECT partitions_created <= 1 AS done, rows_moved FROM llmquota_maintain();
UPDATE llmquota.setting SET value = '9' WHERE name = 'partitions_ahead';
SELECT partitions_created BETWEEN 2 AND 3 AS two_more FROM llmquota_maintain();
-- each is a plain table with an index of its own; the parent has none, and no constraint, so that it can be dumped and restored
SELECT DISTINCT c.relkind, i.indisunique,
	pg_get_indexdef(i.indexrelid, 1, true) || ', ' || pg_get_indexdef(i.indexrelid, 2, true) AS columns,
	   (SELECT count(*) FROM pg_constraint k WHERE k.conrelid = c.oid AND contype <> 'n') AS constraints,
	   c.relowner = (SELECT relowner FROM pg_class WHERE oid = 'llmquota.usage'::regclass) AS same_owner,
	   EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass) AS member
  FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid LEFT JOIN pg_index i ON i.indrelid = c.oid
 WHERE h.inhparent = 'llmquota.usage'::regclass AND c.relname ~ '\d{8}$';
SELECT relhasindex, (SELECT count(*) FROM pg_constraint WHERE conrelid = c.oid AND contype <> 'n') AS constraints FROM pg_class c
 WHERE oid = 'llmquota.usage'::regclass;

-- a lease is known by its day's rows wherever they are, and its record is settled once
SELECT request_id, r.status FROM p, llmquota_record(p.lease) r ORDER BY request_id;
SELECT count(*), count(DISTINCT lease) AS leases FROM llmquota.usage;
-- a day that lost its partition: the rows go to the default one until maintenance makes it anew
SELECT format('DROP TABLE llmquota.usage_%s', to_char(granted_at AT TIME ZONE 'UTC', 'YYYYMMDD')) AS drop_today
  FROM llmquota_pick('m', request_id => 'live') \gset
:drop_today;
SELECT count(llmquota_record(lease)) FROM llmquota.lease;
CALL call('without');
SELECT * FROM place;
SELECT partitions_created BETWEEN 0 AND 1 AS created, rows_moved FROM llmquota_maintain();
SELECT * FROM place;
-- one that is not attached is not used
SELECT format('usage_%s', to_char(granted_at AT TIME ZONE 'UTC', 'YYYYMMDD')) AS today
  FROM llmquota_pick('m', request_id => 'live') \gset
ALTER TABLE llmquota.usage DETACH PARTITION llmquota.:today;
SELECT count(llmquota_record(lease)) FROM llmquota.lease;
SELECT * FROM place;
SELECT rows_moved FROM llmquota_maintain();
DROP TABLE llmquota.:today;
SELECT rows_moved FROM llmquota_maintain();
SELECT * FROM place;

-- a trigger on a day, and a row that cannot be written
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'a row for %', NEW.request_id; RETURN NEW; END $$;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no row for %', NEW.request_id; END $$;
SELECT format('usage_%s', to_char(granted_at AT TIME ZONE 'UTC', 'YYYYMMDD')) AS today
  FROM llmquota_pick('m', request_id => 'noted') \gset
CREATE TRIGGER note AFTER INSERT ON llmquota.:today FOR EACH ROW EXECUTE FUNCTION note();
SELECT llmquota_record(lease) FROM llmquota.lease;
CREATE TRIGGER refuse BEFORE INSERT ON llmquota.:today FOR EACH ROW EXECUTE FUNCTION refuse();
INSERT INTO p SELECT 'refused', lease FROM llmquota_pick('m', request_id => 'refused');
SELECT llmquota_record(lease, 7, 7, tags => '{"n": 1}') FROM p WHERE request_id = 'refused';
SELECT count(*) FROM llmquota.usage WHERE request_id = 'refused';
DROP TRIGGER refuse ON llmquota.:today;
DROP TRIGGER note ON llmquota.:today;
-- said again, it is settled as if nothing had been
SELECT r.status, r.usage_source FROM p, llmquota_record(p.lease, 9, 9, tags => '{"n": 2}') r WHERE request_id = 'refused';
SELECT input_tokens, output_tokens, usage_source, tags FROM llmquota.usage WHERE request_id = 'refused';
SELECT r.status, r.usage_source FROM p, llmquota_record(p.lease, 9, 9) r WHERE request_id = 'refused';
-- in one transaction, also when it is rolled back in part
BEGIN;
INSERT INTO p SELECT 'block', lease FROM llmquota_pick('m', request_id => 'block');
SAVEPOINT s;
SELECT r.status, r.usage_source FROM p, llmquota_record(p.lease, 1, 1) r WHERE request_id = 'block';
SELECT r.status, r.usage_source FROM p, llmquota_record(p.lease, 2, 2) r WHERE request_id = 'block';
ROLLBACK TO s;
SELECT count(*) FROM llmquota.usage WHERE request_id = 'block';
SELECT r.status, r.usage_source FROM p, llmquota_record(p.lease, 3, 3) r WHERE request_id = 'block';
SELECT r.status, r.usage_source FROM p, llmquota_record(p.lease, 4, 4) r WHERE request_id = 'block';
COMMIT;
SELECT input_tokens, usage_source FROM llmquota.usage WHERE request_id = 'block';
-- a record nobody repeats is recovered by maintenance, with the figures it had
INSERT INTO p SELECT 'lost', lease FROM llmquota_pick('m', request_id => 'lost');
BEGIN;
SELECT r.status, r.usage_source FROM p, llmquota_record(p.lease, 5, 6, error => 'lost, too', tags => '{}') r WHERE request_id = 'lost';
ROLLBACK;
SELECT count(*) FROM llmquota.usage WHERE request_id = 'lost';
SELECT expired FROM llmquota_maintain();
SELECT status, input_tokens, output_tokens, usage_source, error, tags FROM llmquota.usage WHERE request_id = 'lost';
SELECT r.status, r.usage_source FROM p, llmquota_record(p.lease, 1, 1) r WHERE request_id = 'lost';
SELECT count(*), count(DISTINCT lease) AS leases FROM llmquota.usage;
