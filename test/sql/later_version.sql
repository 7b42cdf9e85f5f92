-- Live state that a session with the library of a later version has written: numbers that this one does not know are left
-- alone, called unknown where they are shown, and no damage. cell_write() is of test/unit/cell_test.c.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = warning;
LOAD 'llmquota';
CREATE FUNCTION cell_write(live_table int, id int, at int, bytes bytea, sealed boolean) RETURNS void LANGUAGE c STRICT AS 'cell_test', 'cell_write';

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a'), ('l', 'a'), ('n', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.org (org, enabled) VALUES ('closed', false);
CREATE VIEW findings AS SELECT object, problem, expected, found, repaired FROM llmquota_verify(true);

-- a refusal of a status to come waits for who knows it; those of this version do not wait with it
SELECT status FROM llmquota_pick('m', 'closed');
SELECT sum(value) FROM llmquota_metrics() WHERE name = 'llmquota_picks_total' AND labels ->> 'status' = 'disabled';
SELECT cell_write(4, 1, 198, '\x63', true);
SELECT refusals_kept FROM llmquota_maintain();
SELECT * FROM findings;
SELECT status FROM llmquota_pick('m', 'closed');
SELECT refusals_kept FROM llmquota_maintain();
SELECT status, count FROM llmquota.refusal_hourly;
SELECT cell_write(4, 1, 198, '\x05', true);
SELECT refusals_kept FROM llmquota_maintain();
SELECT status, count FROM llmquota.refusal_hourly;

-- a trouble of a kind to come keeps nobody away here, and its place is its own
SELECT llmquota_cool('key', 'k', 3600000) IS NOT NULL AS cooled;
SELECT cell_write(1, id, 92, '\x63', true) FROM llmquota.health WHERE kind = 'b';
SELECT llmquota_cool('key', 'l', 3600000) IS NOT NULL AS cooled;
SELECT key, status FROM llmquota.key_status ORDER BY key;
SELECT key FROM llmquota_pick('m', exclude => '{n}');
SELECT * FROM findings;
SELECT cell_write(1, id, 92, '\x01', true) FROM llmquota.health WHERE kind = 'b';
SELECT llmquota_clear('key', 'l');
SELECT key, status FROM llmquota.key_status ORDER BY key;
SELECT llmquota_clear();

-- failures and events to come
SELECT events_kept FROM llmquota_maintain();
SELECT r.status FROM llmquota_pick('m', exclude => '{l,n}') p, llmquota_record(p.lease, http_status => 401) r;
SELECT cell_write(1, id, 93, '\x63', true) FROM llmquota.health WHERE kind = 'b';
SELECT cell_write(1, id, 24 + 120 * n + 16, '\x63', true), cell_write(1, id, 24 + 120 * n + 37, '\x63', true)
  FROM llmquota.health h, (SELECT max(number)::int + 1 AS n FROM llmquota.event) e WHERE kind = 'e';
SELECT llmquota_cool('key', 'l', 3600000) IS NOT NULL AS cooled;
SELECT key, status, failure FROM llmquota.key_status ORDER BY key;
SELECT * FROM findings;
SELECT llmquota_enable('k');
SELECT events_kept FROM llmquota_maintain();
SELECT kind, scope, subject, failure FROM llmquota.event ORDER BY number DESC LIMIT 3;

-- outcomes to come, of a settlement whose transaction has failed: the row that maintenance writes says so
BEGIN;
SELECT r.status FROM llmquota_pick('m', request_id => 'settled later', exclude => '{l,n}') p, llmquota_record(p.lease, 10, 10) r;
ROLLBACK;
CREATE VIEW slot AS SELECT id, 32 + (position('settled later'::bytea IN state) - 32) / 536 * 536 AS at FROM llmquota.lease_page;
SELECT cell_write(2, id, at + 98, '\x6363', true), cell_write(2, id, at + 101, '\x63', true) FROM slot;
SELECT expired FROM llmquota_maintain();
SELECT status, usage_source, error_class FROM llmquota.usage WHERE request_id = 'settled later';
SELECT problem, expected, found, repaired FROM findings WHERE object = 'lease_page';

-- and when all is known again nothing is found
SELECT cell_write(2, id, at + 98, '\x0101', true), cell_write(2, id, at + 101, '\x00', true) FROM slot;
SELECT cell_write(1, id, 24 + 120 * n + 16, '\x06', true), cell_write(1, id, 24 + 120 * n + 37, '\x0a', true),
	   cell_write(1, id, 24 + 120 * (n + 2) + 37, '\x0a', true)
  FROM llmquota.health h, (SELECT number::int AS n FROM llmquota.event WHERE kind = 'unknown') e WHERE h.kind = 'e';
UPDATE llmquota.usage SET status = 'ok' WHERE status = 'unknown';
SELECT * FROM findings;
