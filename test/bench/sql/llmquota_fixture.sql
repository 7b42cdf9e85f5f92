-- The configuration of the measures for llmquota: :keys keys in :accounts accounts of one provider, :orgs orgs, and the
-- limits named in the issue. The amounts are so high that nothing is refused.

CREATE EXTENSION llmquota;

INSERT INTO llmquota.provider (provider, adapter, base_url) VALUES ('openai', 'openai', 'https://api.openai.com/v1');
INSERT INTO llmquota.account (account, provider) SELECT 'account-' || n, 'openai' FROM generate_series(1, :accounts) n;
INSERT INTO llmquota.key (key, account, secret_ref)
SELECT 'key-' || to_char(k, 'FM00000'), 'account-' || k % :accounts + 1, 'env:OPENAI_KEY_' || to_char(k, 'FM00000')
FROM generate_series(1, :keys) k;
INSERT INTO llmquota.model (model, provider, provider_model) VALUES ('gpt-4o', 'openai', 'gpt-4o-2024-08-06');
INSERT INTO llmquota.org (org) SELECT 'clinic-' || n FROM generate_series(1, :orgs) n;

INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per, calendar) VALUES
	('global', '', NULL, 'concurrency', 1000000000, NULL, NULL),
	('org', '*', NULL, 'requests', 1000000000, '1 minute', NULL),
	('org', '*', NULL, 'concurrency', 1000000000, NULL, NULL),
	('account', '*', '*', 'requests', 1000000000, '1 minute', NULL),
	('account', '*', '*', 'tokens', 1000000000000, '1 minute', NULL),
	('account', '*', '*', 'requests', 1000000000, NULL, 'day');

UPDATE llmquota.setting SET value = '2000000' WHERE name = 'max_leases';
UPDATE llmquota.setting SET value = '1000000' WHERE name = 'max_subjects';
SELECT * FROM llmquota_maintain();
