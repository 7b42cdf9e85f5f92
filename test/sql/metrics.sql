-- What llmquota_metrics() says, of a service in which something of everything has happened.
SET client_min_messages = warning;
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider, family) VALUES ('m', 'p', 'f');
INSERT INTO llmquota.quota (scope, subject, model, family, metric, amount, calendar) VALUES
	('org', '*', NULL, NULL, 'requests', 3, 'day'), ('org', 'free', NULL, NULL, 'requests', NULL, 'day'), ('account', 'a', 'm', NULL, 'tokens', 100000, 'day');
INSERT INTO llmquota.quota (scope, subject, family, metric, amount, mode) VALUES ('key', 'k', 'f', 'concurrency', 2, 'observe');
UPDATE llmquota.setting SET value = '1234' WHERE name = 'max_leases';
UPDATE llmquota.setting SET value = '2' WHERE name = 'partitions_ahead';

-- nothing yet
SELECT name, labels, value FROM llmquota_metrics() WHERE name NOT LIKE '%worker%' AND name NOT LIKE '%maintenance%' ORDER BY 1, 2;
SELECT rows_moved FROM llmquota_maintain();
-- clinic-7: four are granted (one is given back), two are not; free has no limit; and one lease expires
SELECT status FROM generate_series(1, 3) n, llmquota_pick('m', 'clinic-7', 10 * n, 1) p;
SELECT llmquota_release(lease) FROM llmquota.lease ORDER BY granted_at LIMIT 1;
SELECT status FROM generate_series(1, 3) n, llmquota_pick('m', 'clinic-7', 10 * n, 1) p;
SELECT status FROM llmquota_pick('m', 'free', 5, 1);
SELECT status FROM llmquota_pick('m', 'free', 1000000, 1);
SELECT lease FROM llmquota_pick('m', 'free', 1, 1, ttl_ms => 1) \gset
DO $$ BEGIN WHILE EXISTS (SELECT FROM llmquota.lease WHERE reserved_input = 1 AND expires_at > clock_timestamp()) LOOP NULL; END LOOP; END $$;
SELECT name, labels - 'quota' AS labels, value FROM llmquota_metrics()
 WHERE name NOT LIKE '%worker%' AND name NOT LIKE '%maintenance%' AND name <> 'llmquota_ledger_lag_seconds' ORDER BY 1, 2;
SELECT DISTINCT labels ? 'quota' AS names_quota FROM llmquota_metrics() WHERE name LIKE 'llmquota_quota%';
SELECT value > 0 AND value < 3600 AS waits FROM llmquota_metrics() WHERE name = 'llmquota_ledger_lag_seconds';
-- it is that of the oldest of those that wait
SELECT clock_timestamp() AS between \gset
SELECT lease FROM llmquota_pick('m', 'free', 2, 1, ttl_ms => 1) \gset
DO $$ BEGIN WHILE (SELECT value FROM llmquota_metrics() WHERE name = 'llmquota_leases_overdue') < 2 LOOP NULL; END LOOP; END $$;
SELECT value > extract(epoch FROM now() - :'between') AS of_the_oldest FROM llmquota_metrics() WHERE name = 'llmquota_ledger_lag_seconds';
SELECT expired FROM llmquota_maintain();
-- counts only grow, whatever maintenance takes away; the lag goes
SELECT name, labels, value FROM llmquota_metrics()
 WHERE name LIKE '%lag%' OR name LIKE '%overdue' OR name LIKE '%picks%' AND value > 0 ORDER BY 1, 2;
-- budgets have series of their own, in their currency
INSERT INTO llmquota.price (model, input, output) VALUES ('m', 10, 30);
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('THB', 0.025);
INSERT INTO llmquota.budget (subject, amount, currency) VALUES ('payer', 20, 'THB'), ('poor', 0.001, 'THB');
SELECT status FROM llmquota_pick('m', 'payer', 1000, 1000);
SELECT status FROM llmquota_pick('m', 'poor', 1000, 1000);
SELECT name, labels - 'budget' AS labels, value FROM llmquota_metrics() WHERE name LIKE 'llmquota_budget%' ORDER BY 1, 2;
-- who waits, with a ticket or in the call: here nobody else could
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', 'waiter', 'concurrency', 1);
UPDATE llmquota.setting SET value = '3600000' WHERE name = 'ticket_ttl';
SELECT status FROM generate_series(1, 3) n, llmquota_pick('m', 'waiter', n, queue => true);
SELECT labels, value FROM llmquota_metrics() WHERE name = 'llmquota_waiting' ORDER BY 1;
SELECT llmquota_release(ticket) FROM llmquota.waiting;
SELECT labels, value FROM llmquota_metrics() WHERE name = 'llmquota_waiting' ORDER BY 1;
-- the worker is off here
SELECT name, labels, value FROM llmquota_metrics() WHERE name LIKE '%worker%' OR name LIKE '%maintenance%' ORDER BY 1, 2;
