-- llmquota_verify() and the cells in which requests are remembered: it finds what is wrong with them, and mends what it can.
-- The functions that do damage are those of test/unit/cell_test.c.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = warning;
LOAD 'llmquota';
CREATE FUNCTION cell_fault(live_table int, image bytea, id int) RETURNS text LANGUAGE c STRICT AS 'cell_test', 'cell_fault';
CREATE FUNCTION cell_sealed_fault(live_table int, image bytea, id int) RETURNS text LANGUAGE c STRICT AS 'cell_test', 'cell_sealed_fault';
CREATE FUNCTION cell_write(live_table int, id int, at int, bytes bytea, sealed boolean DEFAULT false) RETURNS void LANGUAGE c STRICT AS 'cell_test', 'cell_write';

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
CREATE FUNCTION picks() RETURNS TABLE (status text, count bigint) LANGUAGE sql AS $$
	SELECT p.status, count(*) FROM generate_series(1, 700) n, llmquota_pick('m', request_id => n::text) p GROUP BY 1 ORDER BY 1
$$;
CREATE VIEW found AS SELECT object, problem, expected, found, repaired FROM llmquota_verify();
CREATE FUNCTION mended() RETURNS TABLE (object text, problem text, repaired boolean) LANGUAGE sql AS $$ SELECT v.object, v.problem, v.repaired FROM llmquota_verify(true) v $$;
SELECT * FROM picks();
SELECT * FROM llmquota_verify();
SELECT max(id) AS last, max(id) > 9 AS many FROM llmquota.request_page \gset
SELECT :'many' AS many;

-- every byte of a cell, turned round, is found
SELECT count(*) FILTER (WHERE cell_fault(5, set_byte(state, at, get_byte(state, at) # 255), id) IS NULL) AS undetected, count(*) AS bytes
  FROM llmquota.request_page, generate_series(0, length(state) - 1) at WHERE id = 2;
-- and what makes no sense under a checksum that holds: the first entry is at 48
SELECT what, regexp_replace(cell_sealed_fault(5, overlay(state PLACING coalesce(bytes, substr(state, 49, 40)) FROM at + 1), id), '(a request: |lease: [03], )\d+', '\1N') AS fault
  FROM (VALUES (1, 'as it is', 0, ''::bytea), (2, 'bits', 24, '\xff'), (3, 'reserved', 28, '\x01'), (4, 'in another cell', 48, '\x00'), (5, 'page', 72, '\xffffffff'),
	(6, 'none', 72, '\x00000000'), (7, 'slot', 78, '\x04'), (8, 'attempt', 79, '\x00'), (9, 'twice', 128, NULL)) v (n, what, at, bytes), llmquota.request_page WHERE id = 2 ORDER BY n;

-- a cell that says that it is of other bits than it is
SELECT substr(state, 25, 1) AS bits, get_byte(state, 24) AS number FROM llmquota.request_page WHERE id = :last \gset
SELECT cell_write(5, :last, 24, '\x1e', true);
SELECT object, problem FROM found;
SELECT cell_write(5, :last, 24, :'bits', true);
SELECT * FROM found;

-- a damaged cell: whoever meets it gets an error; mended, it has forgotten its requests, and no other has
CREATE FUNCTION damage(id int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text := 'no error';
BEGIN
	PERFORM cell_write(5, id, 4024, '\xdeadbeef');
	PERFORM picks();
	RETURN message;
EXCEPTION WHEN data_corrupted THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
	RETURN regexp_replace(message, '\d+', 'N');
END $$;
SELECT damage(3);
SELECT * FROM mended();
SELECT * FROM found;
SELECT status, count > 0 AS some FROM picks();
SELECT * FROM picks();
-- the first, the last, and all
SELECT damage(1);
SELECT * FROM mended();
SELECT status, count > 0 AS some FROM picks();
SELECT damage(:last);
SELECT * FROM mended();
SELECT status, count > 0 AS some FROM picks();
SELECT count(cell_write(5, id, 40, '\xdeadbeef')) = :last AS all FROM llmquota.request_page;
SELECT DISTINCT * FROM mended();
SELECT * FROM picks();
SELECT * FROM picks();
SELECT * FROM llmquota_verify();
