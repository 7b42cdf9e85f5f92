-- What holds for every object of the extension: each query shows the exceptions, and there are none.
\set SHOW_CONTEXT never
SET client_min_messages = warning;

CREATE TEMP VIEW member AS
SELECT d.classid, d.objid
  FROM pg_depend d
  JOIN pg_extension e ON e.oid = d.refobjid
 WHERE e.extname = 'llmquota' AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
   -- the types of arrays and of rows of tables come with what they are of; from 17 on they are members too
   AND NOT (d.classid = 'pg_type'::regclass AND d.objid IN (
		SELECT t.oid FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid WHERE t.typcategory = 'A' OR c.relkind <> 'c'));
CREATE TEMP VIEW relation AS
SELECT c.* FROM pg_class c JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid;
CREATE TEMP VIEW function AS
SELECT p.*, l.lanname FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
  JOIN pg_language l ON l.oid = p.prolang;
CREATE TEMP VIEW attribute AS
SELECT r.relname, a.attrelid, a.attnum, a.attname, a.atttypid, a.attnotnull, a.attstorage, a.attacl FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid
 WHERE a.attnum > 0 AND NOT a.attisdropped
   AND (r.oid IN (SELECT oid FROM relation WHERE relkind IN ('r', 'p', 'v') AND NOT relispartition)
		OR r.relkind = 'c' AND r.relnamespace = 'llmquota'::regnamespace);

-- the rules look at something
SELECT kind, count FROM (VALUES
	('functions', (SELECT count(*) FROM function)),
	('relations', (SELECT count(*) FROM relation)),
	('columns', (SELECT count(*) FROM attribute))) v (kind, count) WHERE count < 15;

-- nothing but the schema and the functions is outside the schema llmquota; all functions are called llmquota_*
SELECT pg_describe_object(classid, objid, 0) FROM member
 WHERE classid NOT IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_type'::regclass, 'pg_namespace'::regclass);
SELECT relname FROM relation WHERE relnamespace <> 'llmquota'::regnamespace;
SELECT proname FROM function WHERE pronamespace <> 'public'::regnamespace OR NOT starts_with(proname, 'llmquota_');
-- no name is used twice
SELECT proname FROM function GROUP BY proname HAVING count(*) > 1;

-- every object has a comment
SELECT pg_describe_object(classid, objid, 0) FROM member
 WHERE obj_description(objid, classid::regclass::name) IS NULL
 ORDER BY 1;
SELECT relname, attname FROM attribute WHERE col_description(attrelid, attnum) IS NULL ORDER BY 1, attnum;
-- a column that may be NULL says what that means; for the ledger it is said of all
SELECT relname, attname FROM attribute
 WHERE NOT attnotnull AND relname <> 'usage' AND (SELECT relkind FROM pg_class c WHERE c.oid = attrelid) IN ('r', 'p')
   AND col_description(attrelid, attnum) !~ 'NULL'
 ORDER BY 1, attnum;

-- no public name is a reserved word; of a column or an argument it may be one that functions and types cannot have
SELECT w.word, w.catdesc, n.place
  FROM pg_get_keywords() w
  JOIN (SELECT relname, 'relation' FROM relation
		UNION ALL SELECT attname, 'column of ' || relname FROM attribute
		UNION ALL SELECT proname, 'function' FROM function
		UNION ALL SELECT argument, 'argument of ' || proname FROM function CROSS JOIN LATERAL unnest(proargnames) argument
		UNION ALL SELECT typname, 'type' FROM pg_type WHERE typnamespace = 'llmquota'::regnamespace) n (name, place)
	ON n.name = w.word
 WHERE w.catcode <> 'U' AND NOT (w.catcode = 'C' AND n.place ~ '^(column|argument)');
-- and none needs quotes
SELECT name FROM (SELECT attname FROM attribute UNION SELECT relname FROM relation UNION SELECT proname FROM function) n (name)
 WHERE name !~ '^[a-z][a-z0-9_]*$';

-- PUBLIC has no privilege on anything, the owner's default privileges included
SELECT n.nspname AS schema FROM pg_namespace n CROSS JOIN LATERAL aclexplode(coalesce(nspacl, acldefault('n', nspowner))) a
 WHERE nspname = 'llmquota' AND a.grantee = 0;
SELECT r.relname, a.privilege_type FROM relation r
 CROSS JOIN LATERAL aclexplode(coalesce(relacl, acldefault((CASE relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char", relowner))) a WHERE a.grantee = 0;
SELECT relname, attname FROM attribute WHERE attacl IS NOT NULL;
SELECT f.proname FROM function f CROSS JOIN LATERAL aclexplode(coalesce(proacl, acldefault('f', proowner))) a WHERE a.grantee = 0;
SELECT t.typname FROM pg_type t JOIN member m ON m.classid = 'pg_type'::regclass AND m.objid = t.oid
 CROSS JOIN LATERAL aclexplode(coalesce(typacl, acldefault('T', typowner))) a WHERE a.grantee = 0;
-- nobody runs with the rights of somebody else, but for what writes where its caller may not; and then in a search path
-- of its own
SELECT proname, proconfig[1] FROM function WHERE prosecdef ORDER BY proname COLLATE "C";

-- volatility and parallel safety: nothing that reads or changes live state may run in a parallel worker, be evaluated
-- ahead or be left out
SELECT proname, provolatile, proparallel, proisstrict FROM function
 WHERE (provolatile, proparallel) <> ('v', 'u')
 ORDER BY proname COLLATE "C";
-- a call with a NULL is not skipped
SELECT proname FROM function WHERE proisstrict AND proname NOT IN ('llmquota_zone_exists', 'llmquota_percentile');
-- C functions are called in the library as in SQL
SELECT proname, prosrc, probin FROM function WHERE lanname = 'c' AND (prosrc <> proname OR probin <> 'llmquota');
SELECT DISTINCT lanname FROM function ORDER BY 1;

-- applications pass and get only types that all drivers know: no interval, no void, no bigint out
SELECT f.proname, t.typname AS argument FROM function f CROSS JOIN LATERAL unnest(f.proargtypes) a JOIN pg_type t ON t.oid = a
 WHERE f.proname IN ('llmquota_pick', 'llmquota_record', 'llmquota_release', 'llmquota_renew')
   AND t.typname NOT IN ('text', 'bool', 'int4', 'int8', 'numeric', 'uuid', 'timestamptz', '_text', 'jsonb');
SELECT relname, attname, atttypid::regtype FROM attribute
 WHERE relname IN ('pick_result', 'record_result')
   AND atttypid::regtype::text NOT IN ('text', 'boolean', 'integer', 'numeric', 'uuid', 'timestamp with time zone', 'text[]', 'jsonb');
-- one row each
SELECT proname FROM function WHERE proretset ORDER BY 1;
-- durations are called so
SELECT relname, attname FROM attribute WHERE atttypid = 'interval'::regtype;

-- nothing in a body depends on the search path: once comments, strings, assignments and what is qualified are taken away,
-- no operator, cast, function or construct that looks for an operator by its name is left
CREATE TEMP VIEW body AS
SELECT proname, regexp_replace(prosrc,
			'--[^\n]*|''[^'']*''|OPERATOR\(pg_catalog\.[^)]*\)|::pg_catalog\.|:=|(\m(ERRCODE|MESSAGE|DETAIL|HINT|SET [a-z_]+)|,\n\s+[a-z_]+) =', '', 'g') AS rest
  FROM function WHERE lanname = 'plpgsql';
SELECT proname, found[1] FROM body CROSS JOIN LATERAL regexp_matches(rest, '[^\n]*[-+/<>=~!@#%^&|`?:][^\n]*', 'g') found;
SELECT proname, found[1] FROM body CROSS JOIN LATERAL regexp_matches(rest, '\m(?:BETWEEN|LIKE|SIMILAR|NULLIF|DISTINCT FROM|IN\s*\(|CASE\s+(?!WHEN)|USING\s*\()', 'g') found;
SELECT proname, found[1] FROM body CROSS JOIN LATERAL regexp_matches(rest, '(?<![\w.])[a-z_]+\(', 'g') found;
SELECT proname FROM function WHERE lanname = 'sql' AND prosqlbody IS NULL;
SELECT proname FROM function WHERE proconfig::text ~ 'search_path' AND NOT prosecdef;
-- views and SQL bodies are stored as parsed: all they call is the server's own or the extension's
SELECT DISTINCT p.oid::regprocedure FROM pg_depend d JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid
 WHERE p.oid NOT IN (SELECT oid FROM function) AND p.pronamespace <> 'pg_catalog'::regnamespace AND d.objid IN (SELECT objid FROM member);

-- what is configured is dumped, with all its rows; live state and leases are not
SELECT r.relname, r.relkind, coalesce(r.oid = ANY (e.extconfig), false) AS dumped
  FROM relation r CROSS JOIN pg_extension e
 WHERE e.extname = 'llmquota' AND r.relkind IN ('r', 'p', 'S')
 ORDER BY dumped DESC, r.relname COLLATE "C";
SELECT DISTINCT unnest(extcondition) AS condition FROM pg_extension WHERE extname = 'llmquota';

-- triggers fire in replicas, too
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM relation) AND NOT tgisinternal AND tgenabled <> 'A';
-- and every table of the configuration announces its changes; history does not
SELECT r.relname FROM relation r CROSS JOIN pg_extension e
 WHERE e.extname = 'llmquota' AND r.oid = ANY (e.extconfig) AND r.relkind = 'r'
   AND r.relname NOT IN ('alert', 'change', 'conversation', 'event', 'refusal_hourly', 'refusal_sample', 'repricing', 'usage_default')
   AND (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = r.oid AND t.tgfoid = 'llmquota_config_changed'::regproc) <> 2;

-- live state: heap, permanent, never compressed or out of line, no unique index; name and meters by their sort order
SELECT r.relname, am.amname, r.relpersistence, r.reloptions FROM relation r JOIN pg_am am ON am.oid = r.relam
 WHERE r.relname IN ('meter', 'health', 'lease_page', 'name') ORDER BY 1;
SELECT relname, attname, attstorage FROM attribute WHERE relname IN ('meter', 'health', 'lease_page', 'name') AND (attstorage <> 'p' OR NOT attnotnull);
SELECT relname, string_agg(attname || ' ' || atttypid::regtype, ', ' ORDER BY attnum) FROM attribute WHERE relname IN ('meter', 'health', 'lease_page', 'name') GROUP BY 1 ORDER BY 1;
SELECT i.indrelid::regclass, i.indexrelid::regclass, i.indisunique FROM pg_index i
 WHERE i.indrelid IN ('llmquota.meter'::regclass, 'llmquota.health'::regclass, 'llmquota.lease_page'::regclass, 'llmquota.name'::regclass)
 ORDER BY i.indexrelid::regclass::text COLLATE "C";

-- the ledger: nothing on the parent but NOT NULL, so that leaves can be attached by a restore
SELECT conname FROM pg_constraint WHERE conrelid = 'llmquota.usage'::regclass AND contype <> 'n';
SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'llmquota.usage'::regclass;
SELECT pg_get_partkeydef('llmquota.usage'::regclass);
SELECT inhrelid::regclass, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'llmquota.usage'::regclass;

-- removing the extension leaves nothing
DROP VIEW member CASCADE;
DROP EXTENSION llmquota;
SELECT 'relation ' || relname FROM pg_class WHERE relname ~ 'llmquota'
UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE proname ~ 'llmquota'
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ 'llmquota';
