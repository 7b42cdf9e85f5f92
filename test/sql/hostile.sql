-- Objects that somebody planted in the schemas of the search path, before CREATE EXTENSION and before each call, are
-- never used: every planted function counts its calls, and the count stays 0.
\set SHOW_CONTEXT never
SET client_min_messages = warning;

CREATE SCHEMA trap;
CREATE SEQUENCE trap.hits MINVALUE 0 START 0;
SELECT nextval('trap.hits') AS hits;

-- A function that counts its calls and answers NULL.
CREATE FUNCTION trap.plant_function(target text, name text, arguments text, result text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
	EXECUTE format('CREATE FUNCTION %I.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', target, name, arguments, result,
				   'BEGIN PERFORM pg_catalog.nextval(''trap.hits''::pg_catalog.regclass); RETURN NULL; END');
EXCEPTION WHEN duplicate_function THEN
	NULL;
END $$;

-- Into a schema: operators, functions, types and tables that would serve the extension's needs.
CREATE FUNCTION trap.plant(target text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
	planted record;
BEGIN
	FOR planted IN
		SELECT o.oprname, format_type(o.oprleft, NULL) AS a, format_type(o.oprright, NULL) AS b, format_type(o.oprresult, NULL) AS result
		  FROM pg_operator o
		 WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprleft = o.oprright
		   AND o.oprname IN ('=', '<>', '<', '>', '<=', '>=', '~', '!~', '~~', '||', '+', '-')
		   AND o.oprleft IN ('text'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype, 'bool'::regtype,
							 'name'::regtype, 'oid'::regtype, 'interval'::regtype, 'timestamptz'::regtype, 'uuid'::regtype,
							 '"char"'::regtype, 'jsonb'::regtype, 'anyarray'::regtype)
		UNION ALL
		SELECT o, a, b, 'boolean'
		  FROM unnest('{=,<>,<,>,<=,>=,~,!~}'::text[]) o
		 CROSS JOIN (VALUES ('character varying', 'text'), ('text', 'character varying'), ('name', 'character varying'), ('anyelement', 'anyelement'),
							('integer', 'numeric'), ('numeric', 'integer'), ('bigint', 'numeric'), ('numeric', 'bigint')) t (a, b)
	LOOP
		PERFORM trap.plant_function(target, 'returns ' || planted.result, planted.a || ', ' || planted.b, planted.result);
		EXECUTE format('CREATE OPERATOR %1$I.%2$s (FUNCTION = %1$I.%3$I, LEFTARG = %4$s, RIGHTARG = %5$s)',
					   target, planted.oprname, 'returns ' || planted.result, planted.a, planted.b);
	END LOOP;
	FOR planted IN
		SELECT p.proname, pg_get_function_identity_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result
		  FROM pg_proc p
		 WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind IN ('f', 'a') AND p.pronargs > 0 AND p.proallargtypes IS NULL
		   AND pg_get_function_identity_arguments(p.oid) !~ '"any"|internal|cstring|ORDER BY'
		   AND p.proname IN ('array_agg', 'bool_and', 'clock_timestamp', 'count', 'date_part', 'extract', 'format', 'greatest', 'has_schema_privilege', 'int8',
							 'jsonb_build_object', 'max', 'min', 'nextval', 'now', 'numeric', 'octet_length', 'sum', 'text', 'to_regnamespace', 'trunc', 'unnest', 'upper', 'lower')
	LOOP
		PERFORM trap.plant_function(target, planted.proname, planted.arguments, replace(planted.result, 'SETOF ', ''));
	END LOOP;
	PERFORM trap.plant_function(target, 'format', 'text, VARIADIC anyarray', 'text');
	PERFORM trap.plant_function(target, 'num_nonnulls', 'VARIADIC anyarray', 'integer');
	PERFORM trap.plant_function(target, 'now', '', 'timestamptz');
	PERFORM trap.plant_function(target, 'clock_timestamp', '', 'timestamptz');
	-- tables, and types by their names, are looked for in the same way
	FOR planted IN SELECT * FROM unnest('{provider,account,key,model,route,org,quota,setting,role_grant,usage,usage_default,meter,lease_page,name,lease,meter_window,touched,part,applying,pg_class,pg_roles}'::text[]) AS t (name) LOOP
		EXECUTE format('CREATE TABLE %I.%I (trap int)', target, planted.name);
	END LOOP;
	FOR planted IN SELECT * FROM unnest('{text,numeric,int4,int8,bool,jsonb,uuid,timestamptz,oid,bytea,interval,pick_result,record_result}'::text[]) AS t (name) LOOP
		EXECUTE format('CREATE DOMAIN %I.%I AS point', target, planted.name);
	END LOOP;
END $$;

--
-- CREATE EXTENSION
--
CREATE SCHEMA evil;
SELECT trap.plant('evil');
SELECT trap.plant('public');
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO PUBLIC;
SET search_path = evil, public, pg_catalog;

-- what is there already is not taken over
CREATE SCHEMA llmquota;
CREATE EXTENSION llmquota SCHEMA public;
DROP SCHEMA llmquota;
SELECT trap.plant_function('public', 'llmquota_release', 'pg_catalog.uuid', 'pg_catalog.text');
CREATE EXTENSION llmquota SCHEMA public;
DROP FUNCTION public.llmquota_release(pg_catalog.uuid);
-- a namesake with other arguments is not called in the extension's place
SELECT trap.plant_function('public', 'llmquota_apply_grants', 'character varying', 'text');
SELECT trap.plant_function('public', 'llmquota_check_grant', 'character varying, character varying, character varying', 'text');

CREATE EXTENSION llmquota SCHEMA public;
SELECT pg_catalog.nextval('trap.hits'::pg_catalog.regclass) OPERATOR(pg_catalog.-) 1 AS hits;
-- no constraint, index, trigger, default, view or SQL body has bound one of the traps
SELECT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) AS object, pg_catalog.pg_describe_object(d.refclassid, d.refobjid, 0) AS trap
  FROM pg_catalog.pg_depend d
 WHERE d.refclassid OPERATOR(pg_catalog.=) ANY ('{pg_catalog.pg_proc,pg_catalog.pg_operator,pg_catalog.pg_type,pg_catalog.pg_class}'::pg_catalog.regclass[]::pg_catalog.oid[])
   AND d.refobjid OPERATOR(pg_catalog.=) ANY (ARRAY(
		SELECT oid FROM pg_catalog.pg_operator WHERE oprnamespace OPERATOR(pg_catalog.=) ANY ('{evil,public}'::pg_catalog.regnamespace[]::pg_catalog.oid[])
		UNION ALL SELECT oid FROM pg_catalog.pg_type WHERE typnamespace OPERATOR(pg_catalog.=) ANY ('{evil,public}'::pg_catalog.regnamespace[]::pg_catalog.oid[])
		UNION ALL SELECT oid FROM pg_catalog.pg_class WHERE relnamespace OPERATOR(pg_catalog.=) ANY ('{evil,public}'::pg_catalog.regnamespace[]::pg_catalog.oid[])
		UNION ALL SELECT oid FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) ANY ('{evil,public}'::pg_catalog.regnamespace[]::pg_catalog.oid[])
					 AND NOT pg_catalog.starts_with(proname, 'llmquota_')))
   AND pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) OPERATOR(pg_catalog.~) 'llmquota';
-- the default privileges give PUBLIC nothing
SELECT pg_catalog.pg_describe_object(o.classid, o.objid, 0)
  FROM pg_catalog.pg_depend o
  JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) o.refobjid AND e.extname OPERATOR(pg_catalog.=) 'llmquota' AND o.deptype OPERATOR(pg_catalog.=) 'e'
 CROSS JOIN LATERAL (
	SELECT relacl FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) o.objid
	UNION ALL SELECT proacl FROM pg_catalog.pg_proc WHERE oid OPERATOR(pg_catalog.=) o.objid
	UNION ALL SELECT typacl FROM pg_catalog.pg_type WHERE oid OPERATOR(pg_catalog.=) o.objid
	UNION ALL SELECT nspacl FROM pg_catalog.pg_namespace WHERE oid OPERATOR(pg_catalog.=) o.objid) a (acl)
 CROSS JOIN LATERAL pg_catalog.aclexplode(a.acl) x
 WHERE x.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid;

--
-- Every call, with all of it in the search path before pg_catalog, temporary objects, too, and with settings that
-- change how PL/pgSQL reads names
--
-- the extension's own functions by the same names
DO LANGUAGE plpgsql $$
DECLARE
	member record;
BEGIN
	FOR member IN
		SELECT p.proname, CASE WHEN p.proallargtypes IS NULL THEN pg_catalog.pg_get_function_identity_arguments(p.oid) ELSE '' END AS arguments
		  FROM pg_catalog.pg_proc p
		 WHERE p.pronamespace OPERATOR(pg_catalog.=) 'public'::pg_catalog.regnamespace
		   AND pg_catalog.starts_with(p.proname, 'llmquota_') AND p.prorettype OPERATOR(pg_catalog.<>) 'trigger'::pg_catalog.regtype
	LOOP
		PERFORM trap.plant_function('evil', member.proname, member.arguments, 'pg_catalog.text');
	END LOOP;
END $$;
CREATE TEMP TABLE quota (trap int);
CREATE TEMP TABLE setting (trap int);
CREATE TEMP TABLE role_grant (trap int);
CREATE TEMP TABLE touched (scope point, subject point);
CREATE TEMP TABLE usage (trap int);
CREATE TEMP TABLE pg_roles (rolname point);
CREATE DOMAIN pg_temp.text AS point;
CREATE DOMAIN pg_temp.int8 AS point;
SET search_path = pg_temp, evil, public, pg_catalog;
SET plpgsql.variable_conflict = use_column;
SET plpgsql.extra_errors = 'all';
SET transform_null_equals = on;

-- configuration, with every trigger and constraint
INSERT INTO llmquota.provider (provider, adapter, timezone) VALUES ('p', 'openai', 'America/Los_Angeles');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account, models) VALUES ('k', 'a', '{m}');
INSERT INTO llmquota.model (model, provider, family) VALUES ('m', 'p', 'f');
INSERT INTO llmquota.route (route, step, model) VALUES ('r', 1, 'm');
INSERT INTO llmquota.org (org, priority) VALUES ('o', 'high');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'tokens', 1000000, '1 minute');
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar) VALUES ('account', 'a', 'requests', 1000, 'day');
INSERT INTO llmquota.quota (scope, subject, model, metric, amount) VALUES ('key', '*', '*', 'concurrency', 2);
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'o', 'tokens', 500000, '1 minute');
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar, timezone) VALUES ('org', 'o', 'tokens', 1, 'day', 'Europe/Atlantis');
INSERT INTO llmquota.key (key, account, models) VALUES ('l', 'a', '{""}');
UPDATE llmquota.quota SET high_priority_share = 0.1;
DELETE FROM llmquota.quota WHERE subject OPERATOR(pg_catalog.=) 'o';
UPDATE llmquota.setting SET value = '30000' WHERE name OPERATOR(pg_catalog.=) 'lease_ttl';
UPDATE llmquota.setting SET value = '30' WHERE name OPERATOR(pg_catalog.=) 'lease_ttl';
INSERT INTO llmquota.setting (name, value) VALUES ('lease_ttl', '40000');
SELECT pg_catalog.nextval('trap.hits'::pg_catalog.regclass) OPERATOR(pg_catalog.-) 2 AS hits;

-- grants
CREATE ROLE regress_llmquota_hostile;
SELECT public.llmquota_grant('regress_llmquota_hostile', 'app', 'o');
SELECT public.llmquota_grant('regress_llmquota_hostile', 'nonsense');
SELECT public.llmquota_revoke('regress_llmquota_hostile', 'app', 'x');
SELECT public.llmquota_grant('regress_llmquota_hostile', 'admin');
SELECT * FROM llmquota.role_grant;
SELECT public.llmquota_revoke('regress_llmquota_hostile', 'admin');
SELECT pg_catalog.nextval('trap.hits'::pg_catalog.regclass) OPERATOR(pg_catalog.-) 3 AS hits;

-- calls, also by an application
SELECT status, key, model FROM public.llmquota_pick('r', 'o', 100, 200, session => 's', request_id => 'q', exclude => '{x}');
SELECT reserved_input, reserved_output, session FROM llmquota.lease;
SELECT scope, subject, model, metric, period, used, remaining FROM llmquota.meter_window ORDER BY quota;
GRANT USAGE ON SCHEMA evil TO regress_llmquota_hostile;
SET ROLE regress_llmquota_hostile;
SELECT lease FROM public.llmquota_pick('r', 'o', 10, 20) \gset
SELECT status, retry_after_ms OPERATOR(pg_catalog.>) 0 AS wait, refusal OPERATOR(pg_catalog.-) 'retry_at'::pg_catalog.text AS refusal FROM public.llmquota_pick('r', 'o');
SELECT public.llmquota_renew(:'lease') IS NOT NULL AS renewed;
SELECT status, usage_source FROM public.llmquota_record(:'lease', 10, 15, http_status => 200, error => NULL, tags => '{"a": 1}');
SELECT status, usage_source FROM public.llmquota_record(:'lease', 10, 15);
SELECT lease FROM public.llmquota_pick('r', 'o', 10, 20) \gset
SELECT status, usage_source FROM public.llmquota_record(:'lease', http_status => 500, error => '{"error": {"message": "no"}}');
SELECT lease FROM public.llmquota_pick('r', 'o', 10, 20) \gset
SELECT public.llmquota_release(:'lease');
RESET ROLE;
SELECT org, status, usage_source, input_tokens, output_tokens, http_status, tags FROM llmquota.usage ORDER BY picked_at;
SELECT partitions_created OPERATOR(pg_catalog.>) 0 AS created, rows_moved FROM public.llmquota_maintain();
SELECT pg_catalog.nextval('trap.hits'::pg_catalog.regclass) OPERATOR(pg_catalog.-) 4 AS hits;

-- corrections
INSERT INTO llmquota.price (model, input, output) VALUES ('m', 1000, 0);
SELECT org, calls, cost_after FROM public.llmquota_reprice('-infinity');
SELECT r.line, r.org, r.calls, r.amount_due
  FROM public.llmquota_statement('o', (SELECT pg_catalog.to_char(pg_catalog.min(u.picked_at) AT TIME ZONE 'UTC', 'YYYY-MM') FROM llmquota.usage u)) r
 WHERE r.line OPERATOR(pg_catalog.<>) 'day';
CREATE TEMP TABLE export AS SELECT pg_catalog.min(u.picked_at) AS day, pg_catalog.varchar 'm-2026-01-01' AS model, 1 AS requests, 0.01 AS cost FROM llmquota.usage u;
SELECT r.status, r.provider_model, r.requests_here, r.requests_there, r.cost_here, r.cost_there, r.currency
  FROM public.llmquota_reconcile('p', 'pg_temp.export', '{"requests": ["requests", "requests"], "key": null}', names => '{}') r;
SELECT public.llmquota_reconcile('p', 'pg_temp.export', '{"requests": "model"}');
SELECT public.llmquota_reconcile('p', 'pg_temp.export', '{"key": 1}');
SELECT public.llmquota_reconcile('nobody', 'pg_temp.export', '{"key": 1}');
SELECT pg_catalog.nextval('trap.hits'::pg_catalog.regclass) OPERATOR(pg_catalog.-) 5 AS hits;

-- the partitions that maintenance made are nobody's, either
SELECT pg_catalog.count(*)
  FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a
 WHERE i.inhparent OPERATOR(pg_catalog.=) 'llmquota.usage'::pg_catalog.regclass AND a.grantee OPERATOR(pg_catalog.<>) c.relowner;

-- the traps work
SELECT 'a'::pg_catalog.text = 'a'::pg_catalog.text AS equals, now(), octet_length('a'::pg_catalog.text), llmquota_release(NULL::pg_catalog.uuid);
SELECT pg_catalog.nextval('trap.hits'::pg_catalog.regclass) OPERATOR(pg_catalog.-) 6 AS hits;

RESET search_path;
SELECT llmquota_revoke('regress_llmquota_hostile', 'app');
DROP OWNED BY regress_llmquota_hostile;
DROP ROLE regress_llmquota_hostile;
