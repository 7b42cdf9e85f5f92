-- A ticket whose holder does not come when it is his turn: it is kept for him for a second, then the next is called; he
-- keeps his place, and has his turn when he comes.
SET client_min_messages = warning;
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', 'c', 'concurrency', 1);
UPDATE llmquota.setting SET value = '3600000' WHERE name = 'ticket_ttl';
CREATE TABLE ask AS SELECT n, p.status, p.lease FROM generate_series(1, 3) n, llmquota_pick('m', 'c', n, queue => true) p;
SELECT n, status FROM ask ORDER BY n;
SELECT lease AS first FROM ask WHERE n = 1 \gset
SELECT lease AS away FROM ask WHERE n = 2 \gset
SELECT lease AS there FROM ask WHERE n = 3 \gset
SELECT status FROM llmquota_record(:'first', 1, 1);
SELECT position, called, ticket = :'away' AS away FROM llmquota.waiting ORDER BY position;
-- he who is there has to let the other's second pass
DO $$
DECLARE
	give_up CONSTANT timestamptz := clock_timestamp() + interval '3 minutes';
BEGIN
	WHILE clock_timestamp() < give_up AND (SELECT c.status <> 'granted' FROM ask, llmquota_claim(lease) c WHERE n = 3) LOOP NULL; END LOOP;
END $$;
SELECT status FROM llmquota_claim(:'there');
SELECT position, called, ticket = :'away' AS away FROM llmquota.waiting;
-- now there is room, and he was not called for it; he comes
SELECT status FROM llmquota_record(:'there', 1, 1);
SELECT status FROM llmquota_claim(:'away');
SELECT status FROM llmquota_record(:'away', 1, 1);
SELECT n, waited_ms > 0 AS waited FROM ask LEFT JOIN llmquota.usage USING (lease) ORDER BY n;
SELECT * FROM llmquota.waiting;
SELECT * FROM llmquota_verify();
