-- llmquota_verify() and the cells that know subjects of rate limits: it finds what is wrong with them, and mends what it
-- can. The functions that do damage are those of test/unit/cell_test.c.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = warning;
LOAD 'llmquota';
CREATE FUNCTION cell_fault(live_table int, image bytea, id int) RETURNS text LANGUAGE c STRICT AS 'cell_test', 'cell_fault';
CREATE FUNCTION cell_sealed_fault(live_table int, image bytea, id int) RETURNS text LANGUAGE c STRICT AS 'cell_test', 'cell_sealed_fault';
CREATE FUNCTION cell_write(live_table int, id int, at int, bytes bytea, sealed boolean DEFAULT false) RETURNS void LANGUAGE c STRICT AS 'cell_test', 'cell_write';

CREATE FUNCTION allowed(first int DEFAULT 1, last int DEFAULT 4000) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM generate_series(first, last) n, llmquota_allow('s', n::text, 1, 3600000) a WHERE a.allowed
$$;
CREATE VIEW found AS SELECT object, problem, found, repaired FROM llmquota_verify();
CREATE FUNCTION mended() RETURNS TABLE (object text, problem text, repaired boolean) LANGUAGE sql AS $$ SELECT v.object, v.problem, v.repaired FROM llmquota_verify(true) v $$;
SELECT allowed();
SELECT allowed();
SELECT * FROM llmquota_verify();
SELECT max(id) AS last, max(id) > 9 AS many FROM llmquota.rate_page \gset
SELECT :'many' AS many;

-- every byte of a cell, turned round, is found
SELECT count(*) FILTER (WHERE cell_fault(6, set_byte(state, at, get_byte(state, at) # 255), id) IS NULL) AS undetected, count(*) AS bytes
  FROM llmquota.rate_page, generate_series(0, length(state) - 1) at WHERE id = 2;
-- and what makes no sense under a checksum that holds: of an entry that there is, its time at 16, the fraction at 24
SELECT min(at) AS entry FROM llmquota.rate_page, generate_series(48, 48 + 32 * 122, 32) at WHERE id = 2 AND substr(state, at + 1, 16) <> decode(repeat('00', 16), 'hex') \gset
SELECT what, regexp_replace(cell_sealed_fault(6, overlay(state PLACING coalesce(bytes, substr(state, :entry + 1, 32)) FROM at + 1), id), '\d+, \d+$', 'N') AS fault
  FROM (VALUES (1, 'as it is', 0, ''::bytea), (2, 'bits', 24, '\xff'), (3, 'reserved', 28, '\x01'), (4, 'in another cell', :entry, '\x00'), (5, 'none', :entry, decode(repeat('00', 16), 'hex')),
	(6, 'fraction', :entry + 24, '\x0200000002000000'), (7, 'twice', :entry + 32, NULL)) v (n, what, at, bytes), llmquota.rate_page WHERE id = 2 ORDER BY n;

-- a cell that says that it is of other bits than it is, and one with another secret than the others
SELECT substr(state, 25, 1) AS bits, substr(state, 33, 16) AS secret FROM llmquota.rate_page WHERE id = :last \gset
SELECT cell_write(6, :last, 24, '\x1e', true);
SELECT object, problem FROM found;
SELECT cell_write(6, :last, 24, :'bits', true);
SELECT cell_write(6, :last, 32, set_byte(:'secret', 0, get_byte(:'secret', 0) # 255), true);
SELECT object, problem FROM found;
SELECT cell_write(6, :last, 32, :'secret', true);
SELECT * FROM found;

-- a damaged cell: whoever meets it gets an error; mended, it has forgotten its subjects, and no other has
CREATE FUNCTION damage(id int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text := 'no error';
BEGIN
	PERFORM cell_write(6, id, 4000, '\xdeadbeef');
	PERFORM allowed();
	RETURN message;
EXCEPTION WHEN data_corrupted THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
	RETURN regexp_replace(message, '\d+', 'N');
END $$;
SELECT damage(3);
SELECT * FROM mended();
SELECT * FROM found;
SELECT allowed() BETWEEN 1 AND 124 AS those_of_one_cell;
SELECT allowed();
-- the first, the last, and all: then there is another secret, and every backend learns it
SELECT damage(1);
SELECT * FROM mended();
SELECT allowed() BETWEEN 1 AND 124 AS those_of_one_cell;
SELECT damage(:last);
SELECT * FROM mended();
SELECT allowed() BETWEEN 1 AND 124 AS those_of_one_cell;
SELECT count(cell_write(6, id, 40, '\xdeadbeef')) = :last AS all FROM llmquota.rate_page;
SELECT DISTINCT * FROM mended();
SELECT allowed();
SELECT allowed();
SELECT substr(state, 33, 16) <> :'secret' AS another FROM llmquota.rate_page WHERE id = 1;
SELECT * FROM llmquota_verify();

-- rows that have been moved are found
VACUUM FULL llmquota.rate_page;
REINDEX TABLE llmquota.rate_page;
SELECT allowed();
SELECT allowed(4001, 4100);
SELECT * FROM llmquota_verify();
