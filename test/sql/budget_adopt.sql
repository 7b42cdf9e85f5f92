-- A budget that begins while calls are in flight, beside a count of calls that adopts them: each is counted once, with what
-- it reserved, whatever it comes to cost.
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.price (model, input, output) VALUES ('m', 1000000, 0);
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'tokens', 100000, '1 day');
CREATE VIEW used AS
	SELECT 'budget' AS what, used FROM llmquota.budget_window UNION ALL SELECT metric, used FROM llmquota.meter_window ORDER BY 1;

-- before there is any budget
SELECT lease AS tokens FROM llmquota_pick('m', 'clinic', 1, 0) \gset
SELECT lease AS told FROM llmquota_pick('m', 'clinic', 2, 0) \gset
SELECT lease AS undone FROM llmquota_pick('m', 'clinic', 4, 0) \gset
SELECT lease AS released FROM llmquota_pick('m', 'clinic', 8, 0) \gset
INSERT INTO llmquota.budget (subject, amount, currency, calendar, downgrade_at) VALUES ('*', 100000, 'USD', 'total', NULL);
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', '*', 'concurrency', 100);
SELECT lease AS counted FROM llmquota_pick('m', 'clinic', 16, 0) \gset
SELECT windows_completed FROM llmquota_maintain();
SELECT * FROM used;
SELECT * FROM llmquota_verify();

SELECT status, cost FROM llmquota_record(:'tokens', 100, 0);
SELECT status, cost FROM llmquota_record(:'told', cost => 1000);
SELECT * FROM llmquota_verify();
BEGIN;
SELECT status, cost FROM llmquota_record(:'undone', cost => 1000);
ROLLBACK;
SELECT status, cost FROM llmquota_record(:'undone', 5, 0);
SELECT llmquota_release(:'released');
SELECT status, cost FROM llmquota_record(:'counted', 17, 0);
SELECT * FROM used;
SELECT * FROM llmquota_verify();
-- the same when others have their slots
SELECT count(llmquota_release(p.lease)) FROM generate_series(1, 8) n, llmquota_pick('m', 'clinic', n, 0) p;
SELECT * FROM used;
SELECT * FROM llmquota_verify();
