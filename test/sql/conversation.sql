-- Conversations: what instances of an application share about them. (Two at once are in test/specs/conversation_race.spec;
-- crashes, a standby and many instances in test/t/conversation.pl and instances.pl.)
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_llmquota_talker;
SET client_min_messages = warning;
-- What a call answers, without what differs from run to run.
CREATE FUNCTION put(who text, state jsonb, version int DEFAULT NULL, ttl_ms bigint DEFAULT NULL) RETURNS TABLE (status text, version int, state jsonb) LANGUAGE sql AS $$
	SELECT p.status, p.version, p.state FROM llmquota_session_put('clinic', 'whatsapp', who, state, ttl_ms, version) p
$$;
CREATE FUNCTION get(who text) RETURNS TABLE (status text, version int, state jsonb) LANGUAGE sql AS $$
	SELECT g.status, g.version, g.state FROM llmquota_session_get('clinic', 'whatsapp', who) g
$$;
CREATE FUNCTION drop_it(who text, version int DEFAULT NULL) RETURNS TABLE (status text, version int, state jsonb) LANGUAGE sql AS $$
	SELECT d.status, d.version, d.state FROM llmquota_session_drop('clinic', 'whatsapp', who, version) d
$$;
-- Takes a conversation's time away: all of it, or a part.
CREATE PROCEDURE let_pass(who text, part float8) LANGUAGE sql AS $$
	UPDATE llmquota.conversation c SET expires_at = clock_timestamp() + (1 - part) * c.ttl_ms * interval '1 ms' WHERE c.user_id = who
$$;

-- a conversation from beginning to end
SELECT * FROM get('anna');
SELECT * FROM put('anna', '{"step": 1}', 0);
SELECT * FROM get('anna');
SELECT * FROM put('anna', '{"step": 2}', 1);
SELECT * FROM put('anna', '{"step": 3}');
SELECT * FROM get('anna');
SELECT * FROM drop_it('anna');
SELECT * FROM get('anna');
SELECT * FROM drop_it('anna');

-- versions: another one that is there, or none, is told and changes nothing
SELECT * FROM put('ben', '"first"');
SELECT * FROM put('ben', '"second"', 0);
SELECT * FROM put('ben', '"second"', 2);
SELECT * FROM put('carl', '"first"', 1);
SELECT * FROM drop_it('ben', 0);
SELECT * FROM drop_it('ben', 2);
SELECT * FROM drop_it('carl', 1);
SELECT * FROM get('ben');
SELECT * FROM get('carl');
-- one that is made anew does not begin with versions that somebody may have of the one before
SELECT * FROM drop_it('ben', 1);
SELECT * FROM put('ben', '"other"', 1);
SELECT * FROM put('ben', '"other"', 0);
SELECT state FROM llmquota.conversation WHERE user_id = 'anna';
CALL let_pass('ben', 1);
SELECT * FROM put('ben', '"late"', 3);
SELECT * FROM put('ben', '"anew"', 0);
UPDATE llmquota.conversation SET version = 2147483647 WHERE user_id = 'ben';
SELECT * FROM put('ben', '"many"', 2147483647);

-- time: expired is as good as none; a get puts the end off once a quarter of the time is gone, and then only
CALL let_pass('ben', 1);
SELECT * FROM get('ben');
SELECT * FROM drop_it('ben');
SELECT * FROM put('dora', '{}', ttl_ms => 10000000);
CALL let_pass('dora', 0.2);
SELECT ctid AS before FROM llmquota.conversation WHERE user_id = 'dora' \gset
SELECT status, expires_at < clock_timestamp() + interval '8001 s' AS as_it_was FROM llmquota_session_get('clinic', 'whatsapp', 'dora');
SELECT ctid = :'before' AS not_written FROM llmquota.conversation WHERE user_id = 'dora';
CALL let_pass('dora', 0.3);
SELECT status, version, expires_at > clock_timestamp() + interval '9000 s' AS put_off FROM llmquota_session_get('clinic', 'whatsapp', 'dora');
SELECT ctid = :'before' AS not_written, version, expires_at > clock_timestamp() + interval '9000 s' AS put_off FROM llmquota.conversation WHERE user_id = 'dora';
SELECT expires_at - updated_at AS ttl FROM llmquota_session_put('clinic', 'whatsapp', 'dora', '{}');
SELECT expires_at - updated_at AS ttl FROM llmquota_session_put('clinic', 'whatsapp', 'dora', '{}', 34560000000);
UPDATE llmquota.setting SET value = '2000000' WHERE name = 'conversation_ttl';
SELECT expires_at - updated_at AS ttl FROM llmquota_session_put('clinic', 'whatsapp', 'dora', '{}');
UPDATE llmquota.setting SET value = '1800000' WHERE name = 'conversation_ttl';

-- an ordinary write: it is undone, and seen in its own transaction, in whatever isolation level and at once
BEGIN;
SELECT * FROM put('emil', '1');
SAVEPOINT s;
SELECT * FROM put('emil', '2');
ROLLBACK TO s;
SELECT * FROM get('emil');
ROLLBACK;
SELECT * FROM get('emil');
SELECT (SELECT p.version FROM put('emil', '1', 0) p) AS a, (SELECT p.version FROM put('emil', '2', 1) p) AS b, (SELECT g.state FROM get('emil') g) AS c,
	   (SELECT d.status FROM drop_it('emil') d) AS d, (SELECT p.version FROM put('emil', '3', 0) p) AS e;
SELECT p.* FROM generate_series(1, 3) n, put('many', to_jsonb(n)) p;
SELECT (llmquota_session_put('clinic', 'whatsapp', 'direct', '1', version => 0)).version AS a, (llmquota_session_put('clinic', 'whatsapp', 'direct', '2', version => 1)).version AS b,
	   (llmquota_session_get('clinic', 'whatsapp', 'direct')).state AS c;
-- (what changes the row by hand in the same statement is in the way)
WITH changed AS MATERIALIZED (UPDATE llmquota.conversation SET version = version WHERE user_id = 'many' RETURNING user_id)
SELECT (llmquota_session_put('clinic', 'whatsapp', c.user_id, '1')).status FROM changed c;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT * FROM put('emil', '4', 4);
SELECT * FROM get('emil');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT * FROM get('emil');
SELECT * FROM get('nobody');
SELECT * FROM put('many', '4', 3);
SELECT count(*) FROM pg_locks WHERE mode = 'SIReadLock' AND relation IN ('llmquota.conversation'::regclass, 'llmquota.conversation_pkey'::regclass);
COMMIT;
BEGIN READ ONLY;
CALL let_pass('emil', 0.9);
ROLLBACK;
CALL let_pass('emil', 0.9);
BEGIN READ ONLY;
SELECT g.status, g.expires_at < clock_timestamp() + interval '5 min' AS as_it_was FROM llmquota_session_get('clinic', 'whatsapp', 'emil') g;
SELECT * FROM put('emil', '5');
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM drop_it('emil');
ROLLBACK;

-- whose it is: org, channel and user, each by itself; what it is called elsewhere
SELECT status FROM llmquota_session_put('', '', '', '[]', version => 0);
SELECT status FROM llmquota_session_put('a', 'bc', 'd', '[]', version => 0);
SELECT status FROM llmquota_session_put('a', 'b', 'cd', '[]', version => 0);
SELECT status FROM llmquota_session_put('ab', 'c', 'd', '[]', version => 0);
SELECT count(DISTINCT session), bool_and(session = llmquota_session_id(channel, user_id)) AS same, bool_and(session ~ '^[0-9a-f]{32}$') AS hex
  FROM (VALUES ('a', 'bc', 'd'), ('a', 'b', 'cd'), ('ab', 'c', 'd'), ('other', 'c', 'd')) v (org, channel, user_id), llmquota_session_get(org, channel, user_id);
SELECT llmquota_session_id('whatsapp', 'anna');

-- what is wrong
CREATE FUNCTION attempt(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	EXECUTE 'SELECT ' || call;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN format('%s: %s (%s)', SQLSTATE, SQLERRM, hint);
END $$;
SELECT attempt(call) FROM unnest(ARRAY[
	$$llmquota_session_put(NULL, 'c', 'u', '1')$$, $$llmquota_session_put('o', NULL, 'u', '1')$$, $$llmquota_session_put('o', 'c', NULL, '1')$$,
	$$llmquota_session_put('o', 'c', 'u', NULL)$$, $$llmquota_session_put('o', 'c', 'u', 'null')$$,
	$$llmquota_session_put('o', repeat('c', 129), 'u', '1')$$, $$llmquota_session_put('o', 'c', repeat('u', 129), '1')$$,
	$$llmquota_session_put('o', repeat('c', 128), repeat('u', 128), '1')$$,
	$$llmquota_session_put('o', 'c', 'u', '1', 0)$$, $$llmquota_session_put('o', 'c', 'u', '1', 34560000001)$$, $$llmquota_session_put('o', 'c', 'u', '1', version => -1)$$,
	$$llmquota_session_put('o', 'c', 'u', to_jsonb(repeat('x', 65536)))$$, $$llmquota_session_put('o', 'c', 'u', to_jsonb(repeat('x', 65000)))$$,
	$$llmquota_session_get(NULL, 'c', 'u')$$, $$llmquota_session_get('o', 'c', repeat('u', 129))$$,
	$$llmquota_session_drop('o', 'c', NULL)$$, $$llmquota_session_drop('o', 'c', 'u', -1)$$, $$llmquota_session_id('c', NULL)$$,
	$$(llmquota_session_put('o', 'c', 'x', '1')).*$$, $$(llmquota_session_drop('o', 'c', 'u')).*$$]) call;
SELECT * FROM llmquota_session_get('o', 'c', 'x') \gset x_
SELECT :'x_status' AS status;
-- a large state comes back as it was
SELECT length(state #>> '{}'), state = to_jsonb(repeat('x', 65000)) AS same FROM llmquota_session_get('o', 'c', 'u');
SELECT status, length(state #>> '{}') FROM llmquota_session_put('o', 'c', 'u', '1', version => 77);
UPDATE llmquota.conversation SET expires_at = clock_timestamp() + interval '1 min' WHERE user_id = 'u';
SELECT length(state #>> '{}') FROM llmquota_session_get('o', 'c', 'u');
SELECT length(state #>> '{}') FROM llmquota_session_get('o', 'c', 'u');
INSERT INTO llmquota.setting VALUES ('max_conversation_bytes', '100');
SELECT attempt($$llmquota_session_put('o', 'c', 'u', to_jsonb(repeat('x', 100)))$$);
UPDATE llmquota.setting SET value = '65536' WHERE name = 'max_conversation_bytes';
UPDATE llmquota.setting SET value = '999' WHERE name = 'conversation_ttl';
UPDATE llmquota.setting SET value = '99' WHERE name = 'max_conversation_bytes';
UPDATE llmquota.setting SET value = '-1' WHERE name = 'max_conversations';

-- no more than so many: those that are there go on
SELECT FROM llmquota_maintain();
SELECT count(*) AS there FROM llmquota.conversation \gset
SELECT value = :there AS counted FROM llmquota_metrics() WHERE name = 'llmquota_conversations';
UPDATE llmquota.setting SET value = :'there'::int + 1 WHERE name = 'max_conversations';
SELECT value = :there + 1 AS at_most FROM llmquota_metrics() WHERE name = 'llmquota_conversations_max';
SELECT * FROM put('last', '1');
SELECT * FROM put('one too many', '1');
SELECT * FROM put('one too many', '1', 1);
SELECT * FROM put('last', '2', 1);
SELECT * FROM drop_it('last');
SELECT * FROM put('last', '3', 0);
SELECT * FROM put('one too many', '1');
-- maintenance takes away what has expired, and what was dropped when its time is over; and counts anew
CALL let_pass('last', 1);
CALL let_pass('anna', 1);
SELECT conversations_pruned AS pruned FROM llmquota_maintain();
SELECT count(*) FROM llmquota.conversation WHERE expires_at <= now() OR user_id IN ('last', 'anna');
SELECT value - (SELECT count(*) FROM llmquota.conversation) AS difference FROM llmquota_metrics() WHERE name = 'llmquota_conversations';
SELECT * FROM put('one too many', '1');
-- ... but for what somebody has got in time
UPDATE llmquota.setting SET value = '1000000' WHERE name = 'max_conversations';
SELECT conversations_pruned AS pruned FROM llmquota_maintain();
-- a count that is wrong is set right
BEGIN;
SELECT count(*) FROM generate_series(1, 10) n, put('undone ' || n, '1');
ROLLBACK;
SELECT value - (SELECT count(*) FROM llmquota.conversation) AS difference FROM llmquota_metrics() WHERE name = 'llmquota_conversations';
SELECT FROM llmquota_maintain();
SELECT value - (SELECT count(*) FROM llmquota.conversation) AS difference FROM llmquota_metrics() WHERE name = 'llmquota_conversations';

-- an org by another name has its conversations; one that gets the former name has its own
SELECT llmquota_rename('org', 'clinic', 'praxis');
SELECT status, version FROM llmquota_session_get('praxis', 'whatsapp', 'emil');
SELECT status, version FROM llmquota_session_get('clinic', 'whatsapp', 'emil');
SELECT status, version FROM llmquota_session_put('praxis', 'whatsapp', 'emil', '6', version => 5);
-- (a name that has conversations of its own is in use)
SELECT llmquota_rename('org', 'praxis', 'ab');
INSERT INTO llmquota.org (org) VALUES ('clinic');
SELECT status, version FROM llmquota_session_get('clinic', 'whatsapp', 'emil');
SELECT status, version FROM llmquota_session_put('clinic', 'whatsapp', 'emil', '1', version => 0);
SELECT status, version FROM llmquota_session_put('clinic', 'whatsapp', 'fritz', '1', version => 0);
SELECT status, version FROM llmquota_session_put('2:clinic', 'whatsapp', 'emil', '1', version => 0);
SELECT status, version FROM llmquota_session_get('praxis', 'whatsapp', 'emil');
SELECT org, org_kind, version FROM llmquota.conversation WHERE user_id = 'emil' ORDER BY 1, 2;

-- forgotten: a session, and then all of an org
SELECT conversations FROM llmquota_forget('clinic', 'emil');
SELECT conversations FROM llmquota_forget('clinic', llmquota_session_id('whatsapp', 'emil'));
SELECT org, org_kind, version FROM llmquota.conversation WHERE user_id IN ('emil', 'fritz') ORDER BY 1, 2;
SELECT conversations FROM llmquota_forget('clinic');
SELECT org, org_kind, version FROM llmquota.conversation WHERE user_id IN ('emil', 'fritz') ORDER BY 1, 2;
SELECT count(*) > 1 AS more FROM llmquota.conversation WHERE org = 'clinic' \gset
SELECT conversations > 1 AS all_of_them FROM llmquota_forget('praxis');
SELECT count(*) FROM llmquota.conversation WHERE org = 'clinic';
SELECT status FROM llmquota_session_get('2:clinic', 'whatsapp', 'emil');

-- who may: a role for one org, by whatever name
CREATE ROLE regress_llmquota_talker;
SELECT llmquota_grant('regress_llmquota_talker', 'app', 'bound');
GRANT EXECUTE ON FUNCTION attempt TO regress_llmquota_talker;
SET ROLE regress_llmquota_talker;
SELECT status, version FROM llmquota_session_put('bound', 'c', 'u', '1');
SELECT status, version, state FROM llmquota_session_get('bound', 'c', 'u');
SELECT attempt(call) FROM unnest(ARRAY[$$llmquota_session_put('o', 'c', 'u', '2')$$, $$llmquota_session_get('o', 'c', 'u')$$,
	$$llmquota_session_drop('o', 'c', 'u')$$, $$llmquota_session_id('c', 'u')$$, $$1 FROM llmquota.conversation$$, $$llmquota_prune('conversation', 'expires_at', NULL, now())$$]) call;
RESET ROLE;
UPDATE llmquota.setting SET value = 'refuse' WHERE name = 'unknown_org';
SELECT attempt($$llmquota_session_put('o', 'c', 'u', '2')$$);
UPDATE llmquota.setting SET value = 'allow' WHERE name = 'unknown_org';
SELECT llmquota_revoke('regress_llmquota_talker', 'app');
DROP FUNCTION attempt;
DROP ROLE regress_llmquota_talker;
SELECT * FROM llmquota_verify();
