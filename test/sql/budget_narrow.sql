-- Lease pages of 0.1.0 have no room for what leases are charged in money. They get it with the first lease that budgets
-- count, and the leases that are there go on.
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.price (model, input, output) VALUES ('m', 1000000, 2000000);
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', '*', 'concurrency', 100);
-- the pages there are, without those that have moved
CREATE VIEW pages AS
	SELECT count(*) AS pages, min(octet_length(state)) = max(octet_length(state)) AS alike, sum(octet_length(state)) AS bytes
	  FROM llmquota.lease_page WHERE get_byte(state, 6) & 2 = 0;

-- as 0.1.0 makes them
SET llmquota.inject = 'narrow-page';
SELECT lease AS first FROM llmquota_pick('m', 'clinic', 1, 1) \gset
RESET llmquota.inject;
SELECT lease AS second FROM llmquota_pick('m', 'clinic', 2, 2) \gset
SELECT lease AS expired FROM llmquota_pick('m', 'clinic', 3, 3, ttl_ms => 1) \gset
SELECT pages, bytes AS narrow FROM pages \gset
SELECT :pages AS pages;

-- a cost that is told is in the ledger; when it is rolled back nothing knows it any more
SELECT lease AS told FROM llmquota_pick('m', 'clinic', 4, 4) \gset
SELECT status, cost FROM llmquota_record(:'told', 4, 4, cost => 1000);
SELECT lease AS undone FROM llmquota_pick('m', 'clinic', 5, 5) \gset
BEGIN;
SELECT status, cost FROM llmquota_record(:'undone', 5, 5, cost => 1000);
ROLLBACK;
DO $$
BEGIN
	WHILE clock_timestamp() <= (SELECT expires_at FROM llmquota.lease WHERE reserved_input = 3) LOOP
	END LOOP;
END
$$;
SELECT expired FROM llmquota_maintain();
SELECT input_tokens, status, usage_source, cost, cost_given FROM llmquota.usage ORDER BY reserved_input;
SELECT bytes = :narrow AS as_before FROM pages;

-- the first lease that a budget counts
INSERT INTO llmquota.budget (scope, subject, amount, currency, calendar, downgrade_at) VALUES
	('global', '', 100000, 'USD', 'total', NULL), ('org', '*', 100000, 'USD', 'total', NULL);
SELECT lease AS counted FROM llmquota_pick('m', 'clinic', 10, 10) \gset
SELECT pages, alike, bytes > :narrow AS wider FROM pages;
SELECT reserved_input FROM llmquota.lease ORDER BY 1;
SELECT work_left FROM llmquota_maintain();
SELECT scope, used FROM llmquota.budget_window ORDER BY scope;
SELECT * FROM llmquota_verify();

-- those of before end as ever, with costs or without; what they reserved stays charged in windows that have begun since
SELECT status, cost FROM llmquota_record(:'first', 1, 1);
BEGIN;
SELECT status, cost FROM llmquota_record(:'second', cost => 1000);
ROLLBACK;
SELECT work_left FROM llmquota_maintain();
SELECT status, cost FROM llmquota_record(:'expired', 3, 4);
SELECT status, cost FROM llmquota_record(:'counted', 10, 11);
SELECT reserved_input, status, usage_source, cost, cost_given FROM llmquota.usage ORDER BY reserved_input;
SELECT scope, used FROM llmquota.budget_window ORDER BY scope;
SELECT scope, used FROM llmquota.meter_window ORDER BY scope;
SELECT * FROM llmquota_verify();

-- a lease that no budget counts has nothing of what its place was charged before
DELETE FROM llmquota.budget;
SELECT r.status, r.cost FROM generate_series(1, 4) n, llmquota_pick('m', 'clinic', 7, 6 + n) p, llmquota_record(p.lease) r;
SELECT cost, cost_given FROM llmquota.usage WHERE reserved_input = 7 ORDER BY picked_at;
SELECT * FROM llmquota_verify();
