-- Everything there is to say of what an extension has: a line for each property, in an order of its own. :'extension' names
-- it. What is not here may differ between an upgraded and a fresh one: object ids, and numbers of columns after a drop.
WITH extension AS (
	SELECT * FROM pg_extension WHERE extname = :'extension'
), member AS (
	SELECT d.classid, d.objid FROM pg_depend d JOIN extension e ON d.refobjid = e.oid
	 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
), relation AS (
	SELECT c.*, c.oid::regclass::text AS name FROM pg_class c JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
), part AS (
	-- what is nobody's member but a table's: its indexes, and its columns' sequences
	SELECT c.*, c.oid::regclass::text AS name FROM pg_class c
	 WHERE c.oid IN (SELECT oid FROM relation UNION SELECT indexrelid FROM pg_index WHERE indrelid IN (SELECT oid FROM relation))
), property (object, property, value) AS (
	SELECT pg_describe_object(classid, objid, 0), 'member',
		   obj_description(objid, classid::regclass::name) FROM member
	UNION ALL
	SELECT name, 'relation', concat_ws(' ', relkind, relpersistence, relreplident, relrowsecurity, relforcerowsecurity,
		   reloptions::text, pg_get_userbyid(relowner), (SELECT amname FROM pg_am a WHERE a.oid = relam)) FROM part
	UNION ALL
	SELECT name, 'privilege ' || coalesce(pg_get_userbyid(nullif(a.grantee, 0)), 'PUBLIC') || ' ' || a.privilege_type,
		   concat(pg_get_userbyid(a.grantor), ' ', a.is_grantable)
	  FROM relation CROSS JOIN LATERAL aclexplode(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, relowner))) a
	UNION ALL
	SELECT name, 'column ' || a.attname, concat_ws(' ',
		   (SELECT count(*) FROM pg_attribute b WHERE b.attrelid = a.attrelid AND b.attnum BETWEEN 1 AND a.attnum AND NOT b.attisdropped),
		   format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, attstorage, attacl::text, attcollation::regcollation,
		   pg_get_expr(adbin, adrelid), '--', col_description(attrelid, attnum))
	  FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
	  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
	UNION ALL
	SELECT name, 'constraint ' || conname, concat_ws(' ', pg_get_constraintdef(c.oid), convalidated, '--', obj_description(c.oid, 'pg_constraint'))
	  FROM relation r JOIN pg_constraint c ON c.conrelid = r.oid
	UNION ALL
	SELECT name, 'index', concat_ws(' ', pg_get_indexdef(indexrelid), indisunique, indisvalid, '--', obj_description(indexrelid, 'pg_class'))
	  FROM part JOIN pg_index ON indexrelid = oid
	UNION ALL
	SELECT name, 'trigger ' || tgname, concat_ws(' ', pg_get_triggerdef(t.oid), tgenabled, '--', obj_description(t.oid, 'pg_trigger'))
	  FROM relation r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT tgisinternal
	UNION ALL
	SELECT name, 'policy ' || polname, concat_ws(' ', polcmd, polpermissive, polroles::regrole[]::text,
		   pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid), '--', obj_description(p.oid, 'pg_policy'))
	  FROM relation r JOIN pg_policy p ON p.polrelid = r.oid
	UNION ALL
	SELECT name, 'rule ' || rulename, pg_get_ruledef(w.oid) FROM relation r JOIN pg_rewrite w ON w.ev_class = r.oid
	UNION ALL
	SELECT name, 'parent', concat_ws(' ', h.inhparent::regclass, pg_get_expr(relpartbound, r.oid)) FROM relation r JOIN pg_inherits h ON h.inhrelid = r.oid
	UNION ALL
	SELECT name, 'dumped', condition
	  FROM extension CROSS JOIN LATERAL unnest(extconfig, extcondition) AS u (dumped, condition) JOIN relation r ON r.oid = u.dumped
	UNION ALL
	SELECT p.oid::regprocedure::text, 'function', concat_ws(' ', pg_get_function_identity_arguments(p.oid), pg_get_functiondef(p.oid), pg_get_userbyid(proowner))
	  FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid WHERE p.prokind = 'f'
	UNION ALL
	SELECT p.oid::regprocedure::text, 'privilege ' || coalesce(pg_get_userbyid(nullif(a.grantee, 0)), 'PUBLIC') || ' ' || a.privilege_type,
		   concat(pg_get_userbyid(a.grantor), ' ', a.is_grantable)
	  FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
	 CROSS JOIN LATERAL aclexplode(coalesce(proacl, acldefault('f', proowner))) a
	UNION ALL
	SELECT nspname, 'privilege ' || coalesce(pg_get_userbyid(nullif(a.grantee, 0)), 'PUBLIC') || ' ' || a.privilege_type,
		   concat(pg_get_userbyid(a.grantor), ' ', a.is_grantable)
	  FROM pg_namespace n JOIN member m ON m.classid = 'pg_namespace'::regclass AND m.objid = n.oid
	 CROSS JOIN LATERAL aclexplode(coalesce(nspacl, acldefault('n', nspowner))) a
	UNION ALL
	SELECT t.oid::regtype::text, 'privilege ' || coalesce(pg_get_userbyid(nullif(a.grantee, 0)), 'PUBLIC') || ' ' || a.privilege_type,
		   concat(pg_get_userbyid(a.grantor), ' ', a.is_grantable)
	  FROM pg_type t JOIN member m ON m.classid = 'pg_type'::regclass AND m.objid = t.oid
	 CROSS JOIN LATERAL aclexplode(coalesce(typacl, acldefault('T', typowner))) a
	UNION ALL
	SELECT extname, 'extension', concat_ws(' ', extversion, extrelocatable, extnamespace::regnamespace) FROM extension
)
SELECT concat_ws(' | ', object, property, value) COLLATE "C" AS line FROM property ORDER BY line;
