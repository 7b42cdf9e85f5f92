-- Seven meters to a call, so three records of WAL. Windows are a day long: nothing leaves them during a run. Calls that
-- time out by chance open no breaker.
CREATE EXTENSION llmquota;
INSERT INTO llmquota.provider (provider, adapter, breaker_failures, breaker_min_calls)
VALUES ('openai', 'openai', 1000000, 1000000), ('anthropic', 'anthropic', 1000000, 1000000);
INSERT INTO llmquota.account (account, provider) VALUES ('o1', 'openai'), ('o2', 'openai'), ('a1', 'anthropic');
INSERT INTO llmquota.key (key, account)
SELECT a.account || '-' || i, a.account FROM llmquota.account a, generate_series(1, 2) i;
INSERT INTO llmquota.model (model, provider) VALUES ('large', 'openai'), ('small', 'openai'), ('haiku', 'anthropic');
INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per) VALUES
	('global', '', NULL, 'concurrency', 1000000, NULL),
	('global', '', NULL, 'requests', 1000000000, '1 day'),
	('provider', '*', NULL, 'concurrency', 1000000, NULL),
	('account', '*', NULL, 'requests', 1000000000, '1 day'),
	('account', '*', '*', 'tokens', 1000000000000, '1 day'),
	('account', '*', '*', 'input_tokens', 1000000000000, '1 day'),
	('key', '*', NULL, 'concurrency', 1000000, NULL),
	('org', '*', NULL, 'concurrency', 1000000, NULL),
	('org', '*', NULL, 'requests', 1000000000, '1 day'),
	('org', '*', '*', 'output_tokens', 1000000000000, '1 day');
-- expired leases lose their slots soon, so that late records find the ledger only
UPDATE llmquota.setting SET value = '400' WHERE name = 'max_leases';

-- Runs a record in a block whose exception is caught: it is undone, its answer comes back.
CREATE FUNCTION undone(record text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE record INTO answer;
	RAISE EXCEPTION 'undo';
EXCEPTION WHEN raise_exception THEN
	RETURN answer;
END
$$;
