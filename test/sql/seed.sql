-- Windows that are new, or have a new shape, are told by maintenance what was used before they began: once, from the ledger
-- and from leases that are in flight.
\set SHOW_CONTEXT never
\pset null -

-- a request_id only tells calls apart here
UPDATE llmquota.setting SET value = '0' WHERE name = 'idempotency_window';
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a'), ('l', 'b');
INSERT INTO llmquota.model (model, provider, family) VALUES ('m', 'p', 'f'), ('n', 'p', 'f'), ('o', 'p', NULL);
CREATE VIEW used AS
SELECT scope, subject, coalesce(model, family) AS part, metric, split_part(period, ' ', 1) AS period, used, seeding FROM llmquota.meter_window
 ORDER BY scope, subject, part NULLS FIRST, metric, period;
-- Makes picks of a model on a key, for an org, 100 tokens in and 10 out.
CREATE FUNCTION pick(times int, model text, org text, other text) RETURNS SETOF uuid LANGUAGE sql AS $$
	SELECT lease FROM generate_series(1, times) n, llmquota_pick(model, org, 100, 10, request_id => n::text, exclude => ARRAY[other])
$$;

-- before anything is limited: every way in which a lease can end, and some that have not ended
CREATE TABLE live AS SELECT pick(5, 'm', 'c', 'b') AS lease;
SELECT count(llmquota_record(lease, 60, 5, cached_tokens => 20)) FROM pick(30, 'm', 'c', 'b') lease;
SELECT count(llmquota_record(lease)) FROM pick(3, 'n', 'c', 'b') lease;
SELECT count(llmquota_record(lease, http_status => 500)) FROM pick(2, 'm', 'd', 'b') lease;
SELECT count(llmquota_record(lease, error => 'timeout')) FROM pick(1, 'm', 'd', 'b') lease;
SELECT count(llmquota_release(lease)) FROM pick(4, 'o', 'd', 'b') lease;
SELECT count(llmquota_record(lease, 7, 7)) FROM pick(1, 'o', 'd', 'a') lease;
-- long ago, and not at all: outside of all windows, and for another subject
INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org, model, provider, account, key, status, reserved_input, reserved_output, input_tokens, output_tokens, recorded_in)
VALUES (gen_random_uuid(), now() - interval '2 years', now(), 'c', 'm', 'p', 'a', 'k', 'ok', 1000, 1000, 1000, 1000, 1);

INSERT INTO llmquota.quota (scope, subject, model, family, metric, amount, per, calendar, counts_cached, counts_failures) VALUES
	('global', '', NULL, NULL, 'requests', 1000000, NULL, 'year', true, true),
	('global', '', NULL, NULL, 'tokens', 1000000, '2 days', NULL, true, true),
	('account', 'a', NULL, NULL, 'concurrency', 1000, NULL, NULL, true, true),
	('account', 'a', NULL, NULL, 'requests', 1000000, '1 hour', NULL, true, false),
	('account', 'a', NULL, 'f', 'input_tokens', 1000000, '1 hour', NULL, false, true),
	('org', '*', 'm', NULL, 'output_tokens', 1000000, '400 days', NULL, true, true);
-- each begins at zero
SELECT count(*) FROM pick(1, 'm', 'c', 'b');
SELECT * FROM used;
-- what a rollback does not take back, it need not do again
BEGIN;
SELECT windows_completed FROM llmquota_maintain();
ROLLBACK;
SELECT * FROM used;
SELECT windows_completed FROM llmquota_maintain();
SELECT * FROM used;
SELECT * FROM llmquota_verify();

-- calls in flight from before end, and are counted no longer
SELECT count(llmquota_record(lease, 50, 5)) FROM live;
SELECT * FROM used WHERE scope = 'account';
SELECT * FROM llmquota_verify();

-- an org that comes later, a shape that changes and changes back
SELECT count(*) FROM pick(1, 'm', 'd', 'b');
UPDATE llmquota.quota SET per = '3 hours' WHERE scope = 'account' AND metric = 'requests';
SELECT count(*) FROM pick(1, 'n', 'c', 'b');
SELECT * FROM used WHERE seeding;
UPDATE llmquota.quota SET per = '1 hour' WHERE scope = 'account' AND metric = 'requests';
SELECT windows_completed > 0 AS completed FROM llmquota_maintain();
SELECT count(*) FROM pick(1, 'n', 'c', 'b');
SELECT windows_completed > 0 AS completed FROM llmquota_maintain();
SELECT * FROM used;
SELECT * FROM llmquota_verify();

-- leases that a transaction has settled which is still open count once: by what they have used
SELECT lease AS open FROM pick(1, 'm', 'e', 'b') lease \gset
BEGIN;
SELECT status, usage_source FROM llmquota_record(:'open', 70, 7);
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'e', 'tokens', 1000000, '1 hour');
SELECT count(*) FROM pick(1, 'm', 'e', 'b');
SELECT windows_completed FROM llmquota_maintain();
SELECT * FROM used WHERE subject = 'e';
ROLLBACK;
SELECT expired FROM llmquota_maintain();
SELECT * FROM llmquota_verify();

-- what has been renamed is known by all its names; what one of them stands for now is something else
SELECT llmquota_rename('org', 'c', 'renamed'), llmquota_rename('model', 'm', 'renamed model');
INSERT INTO llmquota.org (org) VALUES ('c');
SELECT count(llmquota_record(lease, 60, 5)) FROM pick(2, 'm', 'c', 'b') lease;
SELECT count(llmquota_record(lease, 60, 5)) FROM pick(3, 'renamed model', 'renamed', 'b') lease;
DELETE FROM llmquota.quota;
INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per) VALUES
	('org', '*', NULL, 'requests', 1000000, '5 hours'),
	('org', '*', 'renamed model', 'requests', 1000000, '6 hours');
SELECT count(*) FROM unnest('{c,renamed}'::text[]) org, pick(1, 'renamed model', org, 'b');
SELECT windows_completed > 0 AS completed FROM llmquota_maintain();
SELECT u.*, (SELECT count(*) FROM (SELECT org, model, picked_at, status FROM llmquota.usage_current UNION ALL SELECT org, model, granted_at, 'live' FROM llmquota.lease) l
			  WHERE l.org = u.subject AND l.model = coalesce(u.part, l.model) AND l.status <> 'released' AND l.picked_at > now() - interval '5 hours') AS calls
  FROM used u WHERE subject IN ('c', 'renamed');
SELECT * FROM llmquota_verify();

-- a meter has the windows of all quotas that it had within the last minute, however many: all are completed
DO $$
BEGIN
	FOR i IN 1..60 LOOP
		DELETE FROM llmquota.quota;
		INSERT INTO llmquota.quota (scope, metric, amount, calendar) VALUES ('global', 'requests', 1000000, 'year');
		PERFORM llmquota_pick('renamed model', 'renamed');
	END LOOP;
END $$;
SELECT windows_completed >= 60 AS completed FROM llmquota_maintain();
SELECT * FROM llmquota_verify();

-- who waits with a ticket has used nothing, and neither has who gave his back
UPDATE llmquota.setting SET value = '3600000' WHERE name = 'ticket_ttl';
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', 'queued', 'concurrency', 1);
CREATE TABLE line AS SELECT n, p.status, p.lease FROM generate_series(1, 4) n, llmquota_pick('renamed model', 'queued', n, 1, queue => true) p;
SELECT n, status, CASE WHEN n IN (1, 4) THEN llmquota_release(lease) END AS given_back FROM line ORDER BY n;
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar) VALUES ('org', 'queued', 'requests', 100, 'day');
SELECT c.status FROM line, llmquota_claim(lease) c WHERE n = 2;
SELECT windows_completed > 0 AS completed FROM llmquota_maintain();
SELECT metric, used FROM used WHERE subject = 'queued';
SELECT * FROM llmquota_verify();
