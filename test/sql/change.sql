-- llmquota.change says who changed which configuration, when, from what to what; never a secret, and nothing that did
-- not come to be. 10,000 keys are 10,000 rows, written in one statement.
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_llmquota_changer;
SET client_min_messages = warning;
CREATE ROLE regress_llmquota_changer;

-- The changes since the last look.
CREATE TEMP TABLE looked (at timestamptz);
INSERT INTO looked VALUES (clock_timestamp());
CREATE FUNCTION changes() RETURNS TABLE (relation text, action text, item jsonb, old_values jsonb, new_values jsonb) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT c.relation, c.action, c.item, c.old_values, c.new_values
		FROM llmquota.change c, looked l WHERE c.changed_at > l.at ORDER BY c.changed_at, c.item::text COLLATE "C";
	UPDATE looked SET at = clock_timestamp();
END $$;

-- every table of the configuration is watched, in replicas too, and whatever is done to it; alias is a history itself
SELECT c.relname, string_agg(t.tgname, ', ' ORDER BY t.tgname) AS not_always
  FROM pg_class c LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname ~ '^log_' AND t.tgenabled = 'A'
 WHERE c.relnamespace = 'llmquota'::regnamespace
   AND c.relname <> 'alias' AND EXISTS (SELECT FROM pg_trigger x WHERE x.tgrelid = c.oid AND x.tgname = 'config_changed')
 GROUP BY c.relname HAVING count(t.tgname) <> 4;

-- a row of each table, changed and deleted
INSERT INTO llmquota.provider (provider, adapter, base_url) VALUES ('p', 'openai', 'https://user:pa//ss@host/v1?api_key=verysecret#x');
INSERT INTO llmquota.account (account, provider, org) VALUES ('a', 'p', 'o');
INSERT INTO llmquota.key (key, account, secret_ref) VALUES ('k1', 'a', 'verysecret'), ('k2', 'a', NULL);
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.route (route, step, model) VALUES ('r', 1, 'm');
INSERT INTO llmquota.org (org) VALUES ('o');
INSERT INTO llmquota.budget (subject, amount, currency) VALUES ('o', 10, 'USD');
INSERT INTO llmquota.budget_step (budget, at, model) SELECT id, 0.5, 'm' FROM llmquota.budget;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'o', 'requests', 10, '1 minute');
SELECT llmquota_grant('regress_llmquota_changer', 'app', 'o');
SELECT * FROM changes();
UPDATE llmquota.provider SET enabled = false, base_url = 'https://host/v2';
UPDATE llmquota.key SET secret_ref = 'verysecret, and new' WHERE key = 'k1';
UPDATE llmquota.key SET secret_ref = 'verysecret', models = '{m}' WHERE key = 'k2';
UPDATE llmquota.quota SET amount = amount + 10;
UPDATE llmquota.budget SET amount = amount + 10, alert_at = '{0.5}';
UPDATE llmquota.budget_step SET at = 0.6;
SELECT llmquota_raise_budget('o', 30, 'infinity', 'why not');
UPDATE llmquota.setting SET value = '60000' WHERE name = 'lease_ttl';
INSERT INTO llmquota.setting (name, value) VALUES ('max_leases', '500');
SELECT relation, action, item, old_values, new_values - 'raised_at' - 'raised_by' AS new_values FROM changes();

-- rows that stay as they are do not count; each of several does, also when its key changes
UPDATE llmquota.key SET priority = CASE key WHEN 'k1' THEN 7 ELSE priority END;
UPDATE llmquota.key SET key = key || '-new';
UPDATE llmquota.org SET enabled = enabled;
DELETE FROM llmquota.org WHERE org = 'nobody';
SELECT * FROM changes();
-- what is rolled back was not
BEGIN;
DELETE FROM llmquota.key;
ROLLBACK;
SELECT * FROM changes();
DELETE FROM llmquota.key;
DELETE FROM llmquota.budget;
TRUNCATE llmquota.route, llmquota.price, llmquota.budget, llmquota.budget_step, llmquota.budget_raise, llmquota.model, llmquota.quota;
SELECT relation, action, item - 'id' AS item, old_values - 'id' - 'timezone' - 'raised_at' - 'raised_by' AS old_values, new_values FROM changes();

-- who it was: the one who is logged in, and as whom
SELECT llmquota_grant('regress_llmquota_changer', 'admin');
SELECT relation, action FROM changes();
SET ROLE regress_llmquota_changer;
INSERT INTO llmquota.org (org) VALUES ('by a role');
INSERT INTO llmquota.change (changed_at, changed_by, relation, action, item) VALUES (now(), 'nobody', 'org', 'insert', '{}');
DELETE FROM llmquota.change;
SELECT changed_by = session_user AS by_session_user, set_role, changed_at BETWEEN statement_timestamp() - interval '1 minute' AND clock_timestamp() AS then
  FROM llmquota.change WHERE item = '{"org": "by a role"}';
RESET ROLE;
SELECT DISTINCT changed_by = session_user AS by_session_user, set_role FROM llmquota.change ORDER BY 2;

-- as a replica the server still writes it
SET session_replication_role = replica;
INSERT INTO llmquota.org (org) VALUES ('replicated');
RESET session_replication_role;
SELECT action, item FROM changes() WHERE item ->> 'org' = 'replicated';

-- many at once
INSERT INTO llmquota.key (key, account, secret_ref) SELECT 'key ' || i, 'a', 'verysecret ' || i FROM generate_series(1, 10000) i;
SELECT count(*), count(DISTINCT item), count(DISTINCT new_values) FROM changes();
UPDATE llmquota.key SET enabled = false, secret_ref = secret_ref || '!' WHERE key >= 'key 5';
SELECT count(*) = (SELECT count(*) FROM llmquota.key WHERE key >= 'key 5') AS all, count(DISTINCT old_values), count(DISTINCT new_values) FROM changes();

SELECT count(*) FROM llmquota.change c WHERE c::text ~ 'verysecret|pa//ss|user';
SELECT llmquota_revoke('regress_llmquota_changer', 'app'), llmquota_revoke('regress_llmquota_changer', 'admin');
DROP ROLE regress_llmquota_changer;
