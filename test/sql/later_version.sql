-- Live state that a session with the library of a later version has written: numbers that this one does not know are left
-- alone, called unknown where they are shown, and no damage. cell_write() is of test/unit/cell_test.c.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = warning;
LOAD 'llmquota';
CREATE FUNCTION cell_write(live_table int, id int, at int, bytes bytea, sealed boolean) RETURNS void LANGUAGE c STRICT AS 'cell_test', 'cell_write';

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.org (org, enabled) VALUES ('closed', false);
CREATE VIEW findings AS SELECT object, problem, expected, found, repaired FROM llmquota_verify(true);

-- a refusal of a status to come waits for who knows it; those of this version do not wait with it
SELECT status FROM llmquota_pick('m', 'closed');
SELECT sum(value) FROM llmquota_metrics() WHERE name = 'llmquota_picks_total' AND labels ->> 'status' = 'disabled';
SELECT cell_write(3, 1, 198, '\x63', true);
SELECT refusals_kept FROM llmquota_maintain();
SELECT * FROM findings;
SELECT status FROM llmquota_pick('m', 'closed');
SELECT refusals_kept FROM llmquota_maintain();
SELECT status, count FROM llmquota.refusal_hourly;
SELECT cell_write(3, 1, 198, '\x05', true);
SELECT refusals_kept FROM llmquota_maintain();
SELECT status, count FROM llmquota.refusal_hourly;
SELECT * FROM findings;
