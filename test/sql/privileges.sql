-- Who may do what, object by object: a role nobody granted anything, an application, an application that is bound to an
-- org, and an administrator.
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_llmquota_plain, regress_llmquota_app, regress_llmquota_bound, regress_llmquota_admin, regress_llmquota_member;
SET client_min_messages = warning;
CREATE ROLE regress_llmquota_plain;
CREATE ROLE regress_llmquota_app;
CREATE ROLE regress_llmquota_bound;
CREATE ROLE regress_llmquota_admin;

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', '*', 'concurrency', 1000);

-- Runs a statement as a role: ok, or the SQLSTATE. Whatever it did is undone, live state apart.
CREATE FUNCTION attempt(who text, statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', 'regress_llmquota_' || who);
	EXECUTE statement;
	RAISE SQLSTATE 'ZZ000';
EXCEPTION
	WHEN SQLSTATE 'ZZ000' THEN RETURN 'ok';
	WHEN OTHERS THEN RETURN SQLSTATE;
END $$;

SELECT llmquota_grant('regress_llmquota_app', 'app');
SELECT llmquota_grant('regress_llmquota_bound', 'app', 'clinic-7');
SELECT llmquota_grant('regress_llmquota_admin', 'admin');
SELECT * FROM llmquota.role_grant ORDER BY role COLLATE "C";

-- calls
SELECT statement, attempt('plain', statement) AS plain, attempt('app', statement) AS app, attempt('bound', statement) AS bound, attempt('admin', statement) AS admin
  FROM unnest(ARRAY[
	$$SELECT llmquota_pick('m', 'clinic-7')$$,
	$$SELECT llmquota_pick('m', 'clinic-8')$$,
	$$SELECT llmquota_pick('m', '')$$,
	$$SELECT llmquota_pick('m')$$,
	$$SELECT llmquota_record('00000000-0000-0000-0000-000000000000')$$,
	$$SELECT llmquota_release('00000000-0000-0000-0000-000000000000')$$,
	$$SELECT llmquota_renew('00000000-0000-0000-0000-000000000000')$$,
	$$SELECT llmquota_estimate_tokens('Hello', 'm')$$,
	$$SELECT llmquota_cache_get('faq', 'h', 'clinic-7')$$,
	$$SELECT llmquota_cache_get('faq', 'h', 'clinic-8')$$,
	$$SELECT llmquota_cache_get('faq', 'h')$$,
	$$SELECT llmquota_cache_put('faq', 'h', '1', org => 'clinic-7')$$,
	$$SELECT llmquota_cache_put('faq', 'h', '1', org => 'clinic-8')$$,
	$$SELECT llmquota_cache_key('{}')$$,
	$$SELECT llmquota_answers_too_many()$$,
	$$SELECT llmquota_evict_answers(now())$$,
	$$SELECT llmquota_forget_answers('clinic-7')$$,
	$$SELECT llmquota_maintain()$$,
	$$SELECT llmquota_verify()$$,
	$$SELECT llmquota_rename('org', 'clinic-7', 'clinic-77')$$,
	$$SELECT llmquota_forget('nobody')$$,
	$$SELECT llmquota_forget_labels('nobody', NULL)$$,
	$$SELECT llmquota_check_rename('org', 'clinic-7', 'clinic-77')$$,
	$$SELECT llmquota_rebuild()$$,
	$$SELECT llmquota_cool('key', 'k', 1)$$,
	$$SELECT llmquota_clear('key', 'k')$$,
	$$SELECT llmquota_disable('k')$$,
	$$SELECT llmquota_enable('k')$$,
	$$SELECT llmquota_grant('regress_llmquota_plain', 'app')$$,
	$$SELECT llmquota_revoke('regress_llmquota_plain', 'app')$$,
	$$SELECT llmquota_apply_grants('regress_llmquota_plain')$$,
	$$SELECT llmquota_check_grant('x', 'app', NULL)$$,
	$$SELECT llmquota_lease_rows()$$,
	$$SELECT llmquota_meter_rows()$$,
	$$SELECT llmquota_budget_rows()$$,
	$$SELECT llmquota_zone_exists('UTC')$$,
	$$SELECT llmquota_names_valid('{m}')$$,
	$$CREATE TABLE llmquota.mine ()$$]) WITH ORDINALITY AS s (statement, n)
 ORDER BY n;

-- tables and views: what each role may do, one letter for each of select, insert, update, delete and truncate
SELECT r.relname, w.who, string_agg(lower(left(p.privilege, 1)), '' ORDER BY p.n) AS may
  FROM pg_class r
 CROSS JOIN unnest('{plain,app,bound,admin}'::text[]) WITH ORDINALITY AS w (who, i)
  LEFT JOIN (VALUES (1, 'SELECT', 'SELECT FROM llmquota.%I'),
					(2, 'INSERT', 'INSERT INTO llmquota.%1$I (%2$I) SELECT (r).%2$I FROM (SELECT NULL::llmquota.%1$I AS r) s WHERE false'),
					(3, 'UPDATE', 'UPDATE llmquota.%1$I SET %2$I = %2$I WHERE false'),
					(4, 'DELETE', 'DELETE FROM llmquota.%I WHERE false'),
					(5, 'TRUNCATE', 'TRUNCATE llmquota.%I')) p (n, privilege, statement)
	ON attempt(w.who, format(p.statement, r.relname, (SELECT attname FROM pg_attribute a WHERE a.attrelid = r.oid AND a.attnum = 2))) = 'ok'
 WHERE r.relnamespace = 'llmquota'::regnamespace AND r.relkind IN ('r', 'p', 'v')
 GROUP BY r.relname, w.who, w.i
HAVING count(p.n) > 0 OR w.who = 'admin'
 ORDER BY r.relname COLLATE "C", w.i;

-- the same by what the catalog says, nothing left out
SELECT pg_describe_object('pg_class'::regclass, r.oid, 0) COLLATE "C" AS object, a.grantee::regrole, string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type) AS privileges
  FROM pg_class r CROSS JOIN LATERAL aclexplode(r.relacl) a
 WHERE r.relnamespace = 'llmquota'::regnamespace AND a.grantee <> r.relowner
 GROUP BY 1, 2 ORDER BY 1, 2;
SELECT f.oid::regproc AS function, string_agg(a.grantee::regrole::text, ', ' ORDER BY a.grantee::regrole::text) AS roles
  FROM pg_proc f CROSS JOIN LATERAL aclexplode(f.proacl) a
 WHERE starts_with(f.proname, 'llmquota_') AND a.grantee <> f.proowner
 GROUP BY f.oid ORDER BY f.oid::regproc::text COLLATE "C";
SELECT a.grantee::regrole, a.privilege_type FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a
 WHERE n.nspname = 'llmquota' AND a.grantee <> n.nspowner;

-- what an administrator changes is checked as for everybody, and is effective
SET ROLE regress_llmquota_admin;
INSERT INTO llmquota.org (org, priority) VALUES ('clinic-9', 'high');
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar, timezone) VALUES ('org', 'clinic-9', 'requests', 0, 'day', 'Europe/Berlin');
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar, timezone) VALUES ('org', 'clinic-9', 'requests', 0, 'day', 'Europe/Atlantis');
UPDATE llmquota.key SET models = '{m}';
UPDATE llmquota.setting SET value = '60000' WHERE name = 'lease_ttl';
SELECT status FROM llmquota_pick('m', 'clinic-9');
SELECT org, model FROM llmquota.lease WHERE org = 'clinic-9';
SELECT org, expires_at - granted_at AS ttl FROM llmquota_pick('m', 'clinic-10') CROSS JOIN LATERAL (SELECT org FROM llmquota.lease l WHERE l.lease = llmquota_pick.lease) l;
SELECT subject, metric, used, amount FROM llmquota.meter_window WHERE scope = 'org' AND subject IN ('clinic-9', 'clinic-10') ORDER BY subject COLLATE "C", metric;
SELECT expired, partitions_created > 0 AS created FROM llmquota_maintain();
RESET ROLE;

-- an application calls without seeing any table; a lease is its bearer's
SET ROLE regress_llmquota_app;
SELECT status, key FROM llmquota_pick('m', 'clinic-8');
SELECT lease FROM llmquota_pick('m', 'clinic-8') \gset
SELECT status FROM llmquota_record(:'lease', 10, 20);
SELECT lease FROM llmquota_pick('m', 'clinic-8') \gset
SELECT llmquota_renew(:'lease', 1000) IS NOT NULL AS renewed;
SELECT llmquota_release(:'lease');
SELECT * FROM llmquota.usage;
RESET ROLE;
SELECT org, status, input_tokens, output_tokens FROM llmquota.usage ORDER BY picked_at;

--
-- Bound applications
--
SET ROLE regress_llmquota_bound;
SELECT status FROM llmquota_pick('m', 'clinic-7');
SELECT status FROM llmquota_pick('m', 'clinic-8');
SELECT status FROM llmquota_pick('m');
RESET ROLE;
-- it does not find the lease of another org either
SELECT lease AS other FROM llmquota_pick('m', 'clinic-8') \gset
SET ROLE regress_llmquota_bound;
SELECT lease AS own FROM llmquota_pick('m', 'clinic-7') \gset
SELECT status, usage_source FROM llmquota_record(:'other');
SELECT llmquota_release(:'other'), llmquota_renew(:'other');
SELECT llmquota_renew(:'own') IS NOT NULL AS renewed;
SELECT status, usage_source FROM llmquota_record(:'own');
RESET ROLE;
SELECT llmquota_release(:'other');
-- a second org
SELECT llmquota_grant('regress_llmquota_bound', 'app', 'clinic-8');
SELECT attempt('bound', $$SELECT llmquota_pick('m', 'clinic-7')$$), attempt('bound', $$SELECT llmquota_pick('m', 'clinic-8')$$), attempt('bound', $$SELECT llmquota_pick('m', 'clinic-9')$$);
-- one of them less
SELECT llmquota_revoke('regress_llmquota_bound', 'app', 'clinic-7');
SELECT attempt('bound', $$SELECT llmquota_pick('m', 'clinic-7')$$), attempt('bound', $$SELECT llmquota_pick('m', 'clinic-8')$$), attempt('bound', $$SELECT llmquota_pick('m', 'clinic-9')$$);
-- every org; and one org after every org means this one alone
SELECT llmquota_grant('regress_llmquota_bound', 'app');
SELECT attempt('bound', $$SELECT llmquota_pick('m', 'clinic-7')$$), attempt('bound', $$SELECT llmquota_pick('m', 'clinic-8')$$), attempt('bound', $$SELECT llmquota_pick('m', '')$$);
SELECT llmquota_grant('regress_llmquota_bound', 'app', 'clinic-7');
SELECT attempt('bound', $$SELECT llmquota_pick('m', 'clinic-7')$$), attempt('bound', $$SELECT llmquota_pick('m', 'clinic-8')$$), attempt('bound', $$SELECT llmquota_pick('m', '')$$);
-- bound to the org without a name
SELECT llmquota_grant('regress_llmquota_bound', 'app', '');
SELECT attempt('bound', $$SELECT llmquota_pick('m', 'clinic-7')$$), attempt('bound', $$SELECT llmquota_pick('m', 'clinic-8')$$), attempt('bound', $$SELECT llmquota_pick('m', '')$$);
SELECT llmquota_revoke('regress_llmquota_bound', 'app', '');
-- a member is bound as its group is
CREATE ROLE regress_llmquota_member IN ROLE regress_llmquota_bound;
SELECT attempt('member', $$SELECT llmquota_pick('m', 'clinic-7')$$), attempt('member', $$SELECT llmquota_pick('m', 'clinic-8')$$);
DROP ROLE regress_llmquota_member;
-- the last org taken away, nothing is left
SELECT llmquota_revoke('regress_llmquota_bound', 'app', 'clinic-7');
SELECT attempt('bound', $$SELECT llmquota_pick('m', 'clinic-7')$$), attempt('bound', $$SELECT llmquota_pick('m', 'clinic-8')$$);
-- an administrator picks for every org, also when it was bound as an application
SELECT llmquota_grant('regress_llmquota_admin', 'app', 'clinic-7');
SELECT attempt('admin', $$SELECT llmquota_pick('m', 'clinic-8')$$);

--
-- Twice is as good as once
--
SELECT llmquota_grant('regress_llmquota_app', 'app') FROM generate_series(1, 2);
SELECT llmquota_grant('regress_llmquota_bound', 'app', 'clinic-7') FROM generate_series(1, 2);
SELECT * FROM llmquota.role_grant ORDER BY role COLLATE "C", kind, org COLLATE "C";
SELECT llmquota_revoke('regress_llmquota_admin', 'app') FROM generate_series(1, 2);
-- what the other kind still needs stays
SELECT attempt('admin', $$SELECT llmquota_pick('m')$$), attempt('admin', $$SELECT FROM llmquota.usage$$);
SELECT llmquota_grant('regress_llmquota_admin', 'app');
SELECT llmquota_revoke('regress_llmquota_admin', 'admin') FROM generate_series(1, 2);
SELECT attempt('admin', $$SELECT llmquota_pick('m')$$), attempt('admin', $$SELECT FROM llmquota.usage$$), attempt('admin', $$SELECT llmquota_maintain()$$);
SELECT llmquota_revoke('regress_llmquota_admin', 'app');
SELECT llmquota_revoke('regress_llmquota_app', 'app');
SELECT llmquota_revoke('regress_llmquota_bound', 'app');
TABLE llmquota.role_grant;
SELECT a.grantee::regrole FROM pg_class r CROSS JOIN LATERAL aclexplode(r.relacl) a WHERE r.relnamespace = 'llmquota'::regnamespace AND a.grantee <> r.relowner
UNION ALL SELECT a.grantee::regrole FROM pg_proc f CROSS JOIN LATERAL aclexplode(f.proacl) a WHERE starts_with(f.proname, 'llmquota_') AND a.grantee <> f.proowner;

--
-- Wrong calls
--
SELECT llmquota_grant('regress_llmquota_nobody', 'app');
SELECT llmquota_revoke('regress_llmquota_nobody', 'app');
SELECT llmquota_grant('public', 'app');
SELECT llmquota_grant(repeat('x', 64), 'app');
SELECT llmquota_grant('regress_llmquota_plain', 'owner');
SELECT llmquota_revoke('regress_llmquota_plain', 'owner');
SELECT llmquota_grant('regress_llmquota_plain', 'admin', 'clinic-7');
SELECT llmquota_grant(NULL, 'app');
SELECT llmquota_grant('regress_llmquota_plain', NULL);
SELECT llmquota_grant('regress_llmquota_plain', 'app', '*');
SELECT llmquota_grant('regress_llmquota_plain', 'app', repeat('x', 129));
SELECT count(*) FROM llmquota.role_grant;

-- a role that was dropped in spite of its grant leaves a row that can still be revoked
SELECT llmquota_grant('regress_llmquota_plain', 'app');
DROP OWNED BY regress_llmquota_plain;
DROP ROLE regress_llmquota_plain;
SELECT llmquota_revoke('regress_llmquota_plain', 'app');
SELECT llmquota_revoke('regress_llmquota_plain', 'app');
DROP ROLE regress_llmquota_app, regress_llmquota_bound, regress_llmquota_admin;
