-- A rename keeps counters, limits and calls in flight; callers may go on with the old name; the ledger keeps what was
-- written, and llmquota.usage_current shows it by the names of now. A former name can be given to something new.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_llmquota_renamed;
SET client_min_messages = warning;

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider, org) VALUES ('a', 'p', NULL), ('own', 'p', 'own org');
INSERT INTO llmquota.key (key, account, models) VALUES ('k', 'a', '{m}'), ('own key', 'own', NULL);
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('n', 'p');
INSERT INTO llmquota.route (route, org, step, model) VALUES ('chat', '', 1, 'm'), ('mine', 'o', 1, 'm');
INSERT INTO llmquota.route_option (route, org) VALUES ('m', ''), ('chat', 'o'), ('other', '');
INSERT INTO llmquota.org (org) VALUES ('o');
INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per)
SELECT scope, '*', model, metric, 1000, CASE metric WHEN 'requests' THEN interval '1 hour' END
  FROM unnest('{account,key,org}'::text[]) scope, unnest('{requests,concurrency}'::text[]) metric, unnest('{NULL,*}'::text[]) model;
INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per) VALUES ('org', 'o', 'm', 'tokens', 1000000, '1 hour');
CREATE VIEW used AS
SELECT scope, subject, model, string_agg(metric || ' ' || used, ', ' ORDER BY metric) AS used
  FROM llmquota.meter_window WHERE subject !~ '^own' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
CREATE FUNCTION ledger(relation regclass) RETURNS TABLE (request_id text, org text, model text, account text, key text, status text) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format('SELECT request_id, org, model, account, key, status FROM %s ORDER BY picked_at', relation);
END $$;
CREATE TEMP TABLE p (name text PRIMARY KEY, lease uuid);
CREATE FUNCTION pick(name text, route text, org text) RETURNS text LANGUAGE sql AS $$
	WITH picked AS (SELECT * FROM llmquota_pick(route, org, request_id => name)),
		kept AS (INSERT INTO p SELECT name, lease FROM picked)
	SELECT concat_ws(' ', status, key, account, model, provider_model) FROM picked
$$;
CREATE FUNCTION settle(name text) RETURNS text LANGUAGE sql AS $$ SELECT status FROM llmquota_record((SELECT lease FROM p WHERE p.name = $1), 1, 1) $$;

SELECT pick('before', 'm', 'o'), pick('in flight', 'mine', 'o'), pick('in flight, too', 'm', 'o');
SELECT settle('before');
SELECT * FROM used;

-- everything at once
SELECT llmquota_rename('org', 'o', 'new org'), llmquota_rename('account', 'a', 'new account'), llmquota_rename('key', 'k', 'new key'), llmquota_rename('model', 'm', 'new model');
SELECT * FROM used;
SELECT org, account, key, model, request_id FROM llmquota.lease ORDER BY granted_at;
-- by the new names, and by the old ones
SELECT pick('new', 'new model', 'new org'), pick('old', 'm', 'o'), pick('own route', 'mine', 'o');
SELECT * FROM used;
SELECT settle('in flight'), settle('new'), settle('old'), llmquota_release(lease) FROM p WHERE name = 'own route';
SELECT * FROM used;
SELECT * FROM ledger('llmquota.usage');
SELECT * FROM ledger('llmquota.usage_current');
-- the whole configuration has the new name
SELECT q.scope, q.subject, q.model FROM llmquota.quota q WHERE subject <> '*';
SELECT key, account, models FROM llmquota.key ORDER BY key;
SELECT * FROM llmquota.route ORDER BY route;
SELECT route, org FROM llmquota.route_option ORDER BY route;
SELECT model, provider_model FROM llmquota.model ORDER BY model;
SELECT kind, name, cell, generation, is_current, since = '-infinity' AS from_beginning, until FROM llmquota.alias ORDER BY kind, since;
SELECT relation, action, item, old_values, new_values FROM llmquota.change WHERE relation = 'account' AND action = 'update';

-- once more, and back
SELECT llmquota_rename('org', 'new org', 'newer org'), llmquota_rename('key', 'new key', 'newer key');
SELECT llmquota_rename('org', 'newer org', 'o');
SELECT pick('all names 1', 'm', 'o'), pick('all names 2', 'm', 'new org'), pick('all names 3', 'm', 'newer org');
SELECT * FROM used WHERE model IS NULL;
SELECT * FROM ledger('llmquota.usage_current');

-- rolled back, nothing has happened
BEGIN;
SELECT llmquota_rename('org', 'o', 'rolled back');
SELECT pick('in the transaction', 'm', 'rolled back');
ROLLBACK;
SELECT pick('after the rollback', 'm', 'o');
SELECT subject, used FROM used WHERE scope = 'org' AND model IS NULL;
SELECT pick('somebody else', 'm', 'rolled back');

-- the old name for something new: it has counters of its own, and the ledger is told apart
INSERT INTO llmquota.org (org) VALUES ('new org');
INSERT INTO llmquota.key (key, account, priority) VALUES ('k', 'new account', -1);
SELECT pick('the new one', 'm', 'new org'), pick('still the old one', 'm', 'newer org');
SELECT subject, used FROM used WHERE scope IN ('org', 'key') AND model IS NULL;
SELECT settle('the new one');
SELECT * FROM ledger('llmquota.usage') WHERE request_id IN ('new', 'the new one');
SELECT * FROM ledger('llmquota.usage_current') WHERE request_id IN ('new', 'the new one');
-- and is renamed in its turn
SELECT llmquota_rename('org', 'new org', 'newest org');
SELECT pick('the newest one', 'm', 'newest org'), pick('by its own old name', 'm', 'new org');
SELECT subject, used FROM used WHERE scope = 'org' AND model IS NULL;
SELECT kind, name, cell, generation, is_current, until IS NOT NULL AS ended FROM llmquota.alias WHERE kind IN ('org', 'key') ORDER BY kind, since;
-- what was deleted keeps its name, and its counters for when it comes again
DELETE FROM llmquota.key WHERE key = 'k';
SELECT scope, subject, used FROM used WHERE subject = 'k' AND model IS NULL;
INSERT INTO llmquota.key (key, account, priority) VALUES ('k', 'new account', -1);
SELECT scope, subject, used FROM used WHERE subject = 'k' AND model IS NULL;

-- a role that is bound to an org stays bound to it
CREATE ROLE regress_llmquota_renamed;
SELECT llmquota_grant('regress_llmquota_renamed', 'app', 'o');
SELECT llmquota_rename('org', 'o', 'bound org');
SET ROLE regress_llmquota_renamed;
SELECT lease AS first FROM llmquota_pick('m', 'o') \gset
SELECT lease AS second FROM llmquota_pick('m', 'bound org') \gset
SELECT status FROM llmquota_pick('m', 'newest org');
SELECT status FROM llmquota_record(:'first');
SELECT llmquota_release(:'second');
RESET ROLE;
SELECT llmquota_revoke('regress_llmquota_renamed', 'app', 'bound org');
DROP ROLE regress_llmquota_renamed;

-- an org that is not listed
SELECT pick('unlisted', 'm', 'unlisted'), llmquota_rename('org', 'unlisted', 'known by another name'), pick('unlisted, by its new name', 'm', 'known by another name');
SELECT subject, used FROM used WHERE scope = 'org' AND subject ~ 'unlisted|another' AND model IS NULL;
SELECT llmquota_rename('org', 'known by another name', 'known by yet another one'), pick('unlisted, by its newest name', 'm', 'known by yet another one'), llmquota_rename('org', 'known by yet another one', 'unlisted');
SELECT subject, used FROM used WHERE scope = 'org' AND subject ~ 'unlisted|another' AND model IS NULL;

-- a late record of what was called otherwise
SELECT lease FROM llmquota_pick('m', 'late', 1, 1, ttl_ms => 1) \gset
DO $$ BEGIN
	WHILE (SELECT expired FROM llmquota_maintain()) = 0 LOOP
		ASSERT clock_timestamp() < statement_timestamp() + interval '20 s', 'the lease does not expire';
	END LOOP;
END $$;
SELECT llmquota_rename('org', 'late', 'later');
SELECT status FROM llmquota_record(:'lease', 5, 5);
SELECT u.org, c.org AS now, c.status FROM llmquota.usage u JOIN llmquota.usage_current c USING (lease) WHERE lease = :'lease';

-- budgets, of an org and of those below it, of an account, a key and a model; raises, by any name, and substitutes
INSERT INTO llmquota.model (model, provider, downgrade_to) VALUES ('cheap', 'p', NULL), ('dear', 'p', 'cheap');
INSERT INTO llmquota.price (model, input, output) VALUES ('cheap', 1, 1), ('dear', 1000, 1000);
INSERT INTO llmquota.org (org, parent) VALUES ('group', NULL), ('member', 'group');
INSERT INTO llmquota.account (account, provider) VALUES ('bill', 'p');
INSERT INTO llmquota.key (key, account, models, priority) VALUES ('bill key', 'bill', '{dear,cheap}', -2);
INSERT INTO llmquota.budget (scope, subject, model, currency, amount, calendar, downgrade_at) VALUES
	('org', 'member', NULL, 'USD', 0.001, 'total', NULL), ('parent', 'group', NULL, 'USD', 10, 'total', NULL), ('parent', '*', NULL, 'USD', 100, 'total', NULL),
	('account', 'bill', 'dear', 'USD', 100, 'total', NULL), ('key', 'bill key', NULL, 'USD', 100, 'total', NULL);
UPDATE llmquota.budget SET downgrade_to = 'cheap' WHERE scope = 'account';
INSERT INTO llmquota.budget_step (budget, at, model) SELECT id, 1, 'cheap' FROM llmquota.budget WHERE subject = 'group';
CREATE VIEW spent AS SELECT scope, subject, model, amount, used FROM llmquota.budget_window ORDER BY 1, 2, 3;
CREATE VIEW budgets AS
SELECT b.scope, b.subject, b.model, b.downgrade_to, s.model AS step, r.subject AS raised_for, r.amount AS raised_to
  FROM llmquota.budget b LEFT JOIN llmquota.budget_step s ON s.budget = b.id LEFT JOIN llmquota.budget_raise r ON r.budget = b.id
 ORDER BY b.id, r.id;
SELECT pick('without a raise', 'dear', 'member');
SELECT llmquota_raise_budget('member', 10, 'infinity', 'a test') > 0 AS raised;
SELECT pick('in flight, with money', 'dear', 'member');
SELECT * FROM spent;
SELECT llmquota_rename('org', 'group', 'holding'), llmquota_rename('org', 'member', 'daughter'), llmquota_rename('account', 'bill', 'invoice'),
	llmquota_rename('key', 'bill key', 'invoice key'), llmquota_rename('model', 'dear', 'expensive'), llmquota_rename('model', 'cheap', 'reasonable');
SELECT * FROM budgets;
SELECT org, parent FROM llmquota.org WHERE parent IS NOT NULL;
SELECT model, downgrade_to FROM llmquota.model WHERE downgrade_to IS NOT NULL;
SELECT pick('by the old names', 'dear', 'member'), pick('by the new ones', 'expensive', 'daughter');
SELECT * FROM spent;
SELECT settle('in flight, with money'), settle('by the old names');
SELECT * FROM spent;
-- a raise by a former name
DELETE FROM llmquota.budget_raise;
SELECT pick('no longer raised', 'dear', 'daughter');
SELECT llmquota_raise_budget('member', 20, 'infinity', 'a test') > 0 AS raised;
SELECT llmquota_raise_budget('group', 20, 'infinity', 'a test', (SELECT id FROM llmquota.budget WHERE subject = 'holding')) > 0 AS raised;
SELECT llmquota_raise_budget('bill key', 200, 'infinity', 'a test', (SELECT id FROM llmquota.budget WHERE scope = 'key')) > 0 AS raised;
SELECT llmquota_raise_budget('somebody', 200, 'infinity', 'a test', (SELECT id FROM llmquota.budget WHERE scope = 'parent' AND subject = '*')) > 0 AS raised;
SELECT * FROM budgets;
SELECT * FROM spent WHERE subject <> 'daughter' OR scope = 'org';
SELECT pick('raised again', 'dear', 'daughter');
-- what a budget or a raise has is a name that means something
INSERT INTO llmquota.budget (scope, subject, model, currency, amount) VALUES ('parent', 'only here', NULL, 'USD', 1), ('global', '', 'only there', 'USD', 1);
SELECT llmquota_rename('org', 'daughter', 'only here');
SELECT llmquota_rename('org', 'daughter', 'somebody');
SELECT llmquota_rename('model', 'expensive', 'only there');
UPDATE llmquota.budget_raise SET until = '-infinity' WHERE subject = 'somebody';
SELECT llmquota_rename('org', 'daughter', 'somebody');
SELECT scope, subject, model, used FROM spent WHERE subject = 'somebody';
SELECT llmquota_raise_budget('somebody', 200, 'infinity', 'a test', (SELECT id FROM llmquota.budget WHERE scope = 'key'));
SELECT count(llmquota_release(lease)) FROM llmquota.lease;
SELECT * FROM llmquota_verify();

--
-- Wrong calls change nothing
--
SELECT llmquota_rename('provider', 'p', 'q');
SELECT llmquota_rename(NULL, 'bound org', 'x');
SELECT llmquota_rename('org', NULL, 'x');
SELECT llmquota_rename('org', 'bound org', NULL);
SELECT llmquota_rename('org', 'nobody', 'x');
SELECT llmquota_rename('key', 'nothing', 'x');
SELECT llmquota_rename('org', 'o', 'x');
SELECT llmquota_rename('org', 'bound org', 'newest org');
SELECT llmquota_rename('key', 'k', 'own key');
SELECT llmquota_rename('org', 'bound org', 'own org');
SELECT llmquota_rename('org', 'bound org', 'rolled back');
SELECT llmquota_rename('model', 'n', 'n');
SELECT llmquota_rename('model', 'n', '');
SELECT llmquota_rename('model', 'n', '*');
SELECT llmquota_rename('model', 'n', repeat('x', 129));
SELECT llmquota_rename('account', 'own', 'own'), llmquota_rename('account', 'own', 'new account');
SELECT org FROM llmquota.org ORDER BY org;
SELECT count(*) FROM llmquota.alias WHERE kind = 'model';
SELECT * FROM llmquota.quota WHERE subject IN ('x', 'newest org');
