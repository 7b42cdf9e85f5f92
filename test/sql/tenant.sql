-- Whose accounts a pick may use: the org's own first, then shared ones, never another's.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_llmquota_tenant;
CREATE ROLE regress_llmquota_tenant;
SET client_min_messages = warning;
SELECT llmquota_grant('regress_llmquota_tenant', 'app');

-- a request_id only tells calls apart here
UPDATE llmquota.setting SET value = '0' WHERE name = 'idempotency_window';
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider, org)
	VALUES ('shared', 'p', NULL), ('ours', 'p', 'clinic-7'), ('theirs', 'p', 'clinic-8'), ('alone', 'p', 'clinic-9');
INSERT INTO llmquota.key (key, account, priority)
	VALUES ('shared-1', 'shared', -10), ('ours-1', 'ours', 5), ('ours-2', 'ours', 6), ('theirs-1', 'theirs', 0),
	('alone-1', 'alone', 0);
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.org (org, shared_keys) VALUES ('clinic-7', true), ('clinic-9', false), ('clinic-10', false);
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('key', '*', 'concurrency', 2);
CREATE FUNCTION picks(who text, times int, VARIADIC exclude text[] DEFAULT '{}') RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(got, ' ' ORDER BY got) FROM (
		SELECT format('%s:%s', COALESCE(p.key, p.status), count(*)) AS got
		  FROM generate_series(1, times) n, llmquota_pick('m', who, request_id => n::text, exclude => exclude) p
		 GROUP BY COALESCE(p.key, p.status)) g
$$;
CREATE FUNCTION release_all() RETURNS bigint LANGUAGE sql AS $$ SELECT count(llmquota_release(lease)) FROM llmquota.lease $$;

-- the own ones first, however their priority compares with that of the shared ones
SELECT picks('clinic-7', 2), picks('clinic-7', 2), picks('clinic-7', 2), picks('clinic-7', 1);
SELECT release_all();
-- who owns none uses the shared ones and nobody's own; a listed org is like any other
SELECT picks('clinic-1', 3) AS unlisted, picks('', 1) AS anonymous;
SELECT release_all();
SELECT picks('clinic-8', 5);
SELECT release_all();
-- shared_keys = false: only the own ones
SELECT picks('clinic-9', 3);
SELECT picks('clinic-10', 1) AS owns_nothing;
UPDATE llmquota.org SET shared_keys = true WHERE org = 'clinic-9';
SELECT picks('clinic-9', 1) AS shared_again;
SELECT release_all();
-- exclude does not open what is not there
SELECT picks('clinic-7', 3, 'ours'), picks('clinic-9', 1, 'alone', 'shared');
SELECT release_all();
-- an account that changes hands does so at the next pick
UPDATE llmquota.account SET org = 'clinic-8' WHERE account = 'ours';
SELECT picks('clinic-7', 1) AS not_any_more, picks('clinic-8', 7) AS now_two_accounts;
SELECT release_all();
UPDATE llmquota.account SET org = 'clinic-7' WHERE account = 'ours';

-- a refusal names an account or key of one's own, and hides what is shared from all but admins
UPDATE llmquota.quota SET amount = 0;
SET ROLE regress_llmquota_tenant;
SELECT status, refusal->>'scope' AS scope, refusal->>'subject' AS subject
  FROM llmquota_pick('m', 'clinic-7', exclude => '{shared,ours-2}');
SELECT status, refusal->>'scope' AS scope, refusal->>'subject' AS subject
  FROM llmquota_pick('m', 'clinic-7', exclude => '{ours}');
SELECT status, refusal->>'scope' AS scope, refusal->>'subject' AS subject FROM llmquota_pick('m', 'clinic-1');
RESET ROLE;
SELECT status, refusal->>'scope' AS scope, refusal->>'subject' AS subject FROM llmquota_pick('m', 'clinic-1');
SELECT llmquota_grant('regress_llmquota_tenant', 'admin');
SET ROLE regress_llmquota_tenant;
SELECT status, refusal->>'scope' AS scope, refusal->>'subject' AS subject FROM llmquota_pick('m', 'clinic-1');
RESET ROLE;

SELECT llmquota_revoke('regress_llmquota_tenant', 'app'), llmquota_revoke('regress_llmquota_tenant', 'admin');
DROP ROLE regress_llmquota_tenant;
