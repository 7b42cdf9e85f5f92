-- A record that comes after expiry, when the slot of its lease has another lease: the ledger gets the real figures, and
-- what exceeds the reservation is charged; nothing is given back.
SET client_min_messages = warning;
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES
	('global', '', 'tokens', 1000000, '1 day'),
	('org', '*', 'input_tokens', 1000000, '1 day'),
	('org', '*', 'requests', 1000000, '1 day'),
	('key', '*', 'output_tokens', 1000000, '1 day');
-- one page of four slots
UPDATE llmquota.setting SET value = '1' WHERE name = 'max_leases';

CREATE TABLE forgotten (n int, lease uuid);
INSERT INTO forgotten SELECT n, p.lease FROM generate_series(1, 4) n, llmquota_pick('m', 'o', 100, 50, ttl_ms => 1, request_id => n::text) p;

-- the leases expire, and their slots are taken by others
DO $$
DECLARE
	so_far bigint := 0;
BEGIN
	WHILE so_far < 4 LOOP
		SELECT so_far + m.expired INTO so_far FROM llmquota_maintain() m;
	END LOOP;
END
$$;
SELECT count(*) FROM generate_series(1, 4) n, llmquota_pick('m', 'other', 1, 1, request_id => n::text) p WHERE p.status = 'granted';

SELECT scope, subject, metric, used FROM llmquota.meter_window WHERE subject IN ('o', 'k', '') ORDER BY 1, 2, 3;

-- more than reserved
SELECT r.status, r.usage_source FROM forgotten f, llmquota_record(f.lease, 1000, 500) r WHERE n = 1;
SELECT scope, subject, metric, used FROM llmquota.meter_window WHERE subject IN ('o', 'k', '') ORDER BY 1, 2, 3;

-- less than reserved
SELECT r.status, r.usage_source FROM forgotten f, llmquota_record(f.lease, 10, 5) r WHERE n = 2;
SELECT scope, subject, metric, used FROM llmquota.meter_window WHERE subject IN ('o', 'k', '') ORDER BY 1, 2, 3;

-- once
SELECT r.status, r.usage_source FROM forgotten f, llmquota_record(f.lease, 2000, 1000) r WHERE n < 3 ORDER BY n;
SELECT scope, subject, metric, used FROM llmquota.meter_window WHERE subject IN ('o', 'k', '') ORDER BY 1, 2, 3;

-- in a savepoint: charged with the transaction, unless one around it is rolled back
BEGIN;
SAVEPOINT kept;
SELECT r.status, r.usage_source FROM forgotten f, llmquota_record(f.lease, 1100, 550) r WHERE n = 3;
RELEASE kept;
SAVEPOINT undone;
SAVEPOINT released;
SELECT r.status, r.usage_source FROM forgotten f, llmquota_record(f.lease, 1100, 550) r WHERE n = 4;
RELEASE released;
ROLLBACK TO undone;
COMMIT;
SELECT scope, subject, metric, used FROM llmquota.meter_window WHERE subject IN ('o', 'k', '') ORDER BY 1, 2, 3;
SELECT f.n, u.status, u.input_tokens, u.output_tokens, u.usage_source
  FROM forgotten f JOIN llmquota.usage u USING (lease) ORDER BY 1;

-- more input and less output than reserved: each window is charged what it counts more of, and gives nothing back
SELECT r.status, r.usage_source FROM forgotten f, llmquota_record(f.lease, 150, 10) r WHERE n = 4;
SELECT scope, subject, metric, used FROM llmquota.meter_window WHERE subject IN ('o', 'k', '') ORDER BY 1, 2, 3;
