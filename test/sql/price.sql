-- What calls cost: prices by model and time, costs that are recorded, and what both are in the base currency.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('plain', 'p'), ('free', 'p'), ('baht', 'p'), ('changing', 'p');
INSERT INTO llmquota.price (model, input, output, cached_input, cache_write, reasoning, currency) VALUES
	('m', 2.5, 10, 1.25, 3.125, 12, 'USD'), ('free', 0, 0, NULL, NULL, NULL, 'USD'), ('baht', 105, 0.000000001, NULL, NULL, NULL, 'THB');
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('THB', 0.028571428571);

-- Records a call of a model and shows what it cost, as answered and in the ledger.
CREATE FUNCTION recorded(model text, input bigint, output bigint, cached bigint DEFAULT NULL, written bigint DEFAULT NULL,
	reasoning bigint DEFAULT NULL, given numeric DEFAULT NULL, http_status int DEFAULT NULL)
RETURNS TABLE (cost numeric, currency text, ledger numeric, ledger_currency text, base numeric) LANGUAGE plpgsql AS $$
DECLARE
	called uuid := (llmquota_pick(model, 'o', 1000, 500)).lease;
BEGIN
	SELECT r.cost, r.currency INTO cost, currency
	  FROM llmquota_record(called, input, output, cached, written, reasoning, http_status => http_status, cost => given) r;
	SELECT u.cost, u.currency, u.cost_base INTO ledger, ledger_currency, base FROM llmquota.usage u WHERE lease = called;
	RETURN NEXT;
END $$;

-- each sort of tokens by its price; half of the last place is rounded up
SELECT * FROM recorded('m', 1000, 100);
SELECT * FROM recorded('m', 1000, 100, 400, 200, 30);
SELECT * FROM recorded('m', 1, 0, 1);
SELECT * FROM recorded('free', 1000, 100);
SELECT * FROM recorded('baht', 1000, 499999);
SELECT * FROM recorded('baht', 0, 500);
-- without figures it costs what was reserved, at the dearest price; without an answer too; a refused call costs nothing
SELECT * FROM recorded('m', NULL, NULL);
SELECT * FROM recorded('m', 1000, NULL);
SELECT * FROM recorded('m', NULL, NULL, http_status => 429);
SELECT llmquota_clear();
-- a model without a price has no cost, unless one is recorded
SELECT * FROM recorded('plain', 1000, 100);
SELECT * FROM recorded('plain', 1000, 100, given => 0.04);
SELECT * FROM recorded('baht', 1000, 100, given => 1.5);
SELECT * FROM recorded('m', NULL, NULL, given => 0);

-- by the price of when it was picked
INSERT INTO llmquota.price (model, valid_from, input, output) VALUES
	('changing', clock_timestamp() + interval '1 day', 1000, 0), ('changing', clock_timestamp() - interval '1 day', 2, 0), ('changing', '-infinity', 1, 0);
SELECT * FROM recorded('changing', 1000000, 0);
SELECT lease FROM llmquota_pick('changing', 'o', 1000, 500) \gset
INSERT INTO llmquota.price (model, valid_from, input, output) VALUES ('changing', clock_timestamp(), 7, 0);
SELECT cost, currency FROM llmquota_record(:'lease', 1000000, 0);
SELECT * FROM recorded('changing', 1000000, 0);
SELECT cost, currency, status FROM llmquota_record(:'lease', 1, 0);
-- and by the exchange rate of then
INSERT INTO llmquota.exchange_rate (currency, valid_from, rate) VALUES ('THB', clock_timestamp() + interval '1 day', 1), ('THB', clock_timestamp() - interval '1 day', 0.03);
SELECT * FROM recorded('baht', 1000000, 0);
UPDATE llmquota.setting SET value = 'THB' WHERE name = 'base_currency';
SELECT * FROM recorded('baht', 1000000, 0);
SELECT * FROM recorded('m', 1000000, 0);
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('USD', 35.4075);
SELECT * FROM recorded('m', 1000000, 0);
UPDATE llmquota.setting SET value = 'USD' WHERE name = 'base_currency';

-- released: nothing; expired: what was reserved; recorded after that: what it was
SELECT llmquota_release(lease) FROM llmquota_pick('m', 'gone', 1000, 500);
SELECT lease FROM llmquota_pick('m', 'late', 1000, 500, ttl_ms => 1) \gset
CALL expire(1);
SELECT org, status, cost, currency FROM llmquota.usage WHERE org IN ('gone', 'late') ORDER BY org;
SELECT status, cost, currency FROM llmquota_record(:'lease', 10, 10);
SELECT org, status, cost, currency FROM llmquota.usage WHERE org IN ('gone', 'late') ORDER BY org;
SELECT status, cost, currency FROM llmquota_record(:'lease', 20, 20);
SELECT status, cost, currency FROM llmquota_record('00000000-0000-8000-8000-000000000000');

-- what is refused
CREATE FUNCTION attempt(statement text, VARIADIC worth text[]) RETURNS TABLE (given text, outcome text) LANGUAGE plpgsql AS $$
BEGIN
	FOREACH given IN ARRAY worth LOOP
		BEGIN
			EXECUTE format(statement, given);
			outcome := 'accepted';
			RAISE EXCEPTION USING ERRCODE = 'RB000';
		EXCEPTION WHEN SQLSTATE 'RB000' THEN NULL;
			WHEN OTHERS THEN
				outcome := SQLSTATE || ': ' || SQLERRM;
		END;
		RETURN NEXT;
	END LOOP;
END $$;
SELECT * FROM attempt($$INSERT INTO llmquota.price (model, input, output) VALUES ('plain', %L, 0)$$,
	NULL, '-1', '9000000000.000000001', '0.0000000001', 'NaN', 'Infinity', '0', '9000000000', '0.000000001');
SELECT * FROM attempt($$INSERT INTO llmquota.price (model, input, output, reasoning) VALUES ('plain', 0, 0, %L)$$, NULL, '-1', 'NaN', '0');
SELECT * FROM attempt($$INSERT INTO llmquota.price (model, input, output, currency) VALUES ('plain', 0, 0, %L)$$,
	NULL, '', 'usd', 'USDT', 'US', 'EUR');
SELECT * FROM attempt($$INSERT INTO llmquota.price (model, input, output, valid_from) VALUES ('plain', 0, 0, %L)$$, NULL, 'infinity', '-infinity');
SELECT * FROM attempt($$INSERT INTO llmquota.price (model, input, output) VALUES (%L, 0, 0)$$, 'm', 'unknown');
SELECT * FROM attempt($$INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('EUR', %L)$$,
	NULL, '0', '-1', '9000000.000000000001', '0.0000000000001', 'NaN', '9000000', '0.000000000001');
SELECT * FROM attempt($$INSERT INTO llmquota.exchange_rate (currency, rate) VALUES (%L, 1)$$, NULL, 'eur', 'EUR');
SELECT * FROM attempt($$UPDATE llmquota.setting SET value = %L WHERE name = 'base_currency'$$, NULL, 'usd', '', 'EUR');
SELECT lease FROM llmquota_pick('m', 'o', 1, 1) \gset
SELECT * FROM attempt('SELECT llmquota_record(' || quote_literal(:'lease') || ', cost => %L)', '-1', 'NaN', '-Infinity', '9223372036.854775808',
	'0.0000000001', '9223372036.854775807');
SELECT status, cost, currency FROM llmquota_record(:'lease', cost => 1.50);

-- whose cost has no place in 64 bits has none
INSERT INTO llmquota.price (model, input, output) VALUES ('plain', 9000000000, 9000000000);
SELECT * FROM recorded('plain', 1000000, 0);
SELECT * FROM recorded('plain', 1000000, 1000000);

-- by hours, in the base currency; what was corrected is taken off
SELECT work_left FROM llmquota_maintain();
SELECT sum(h.cost_base) = (SELECT sum(cost_base) FROM llmquota.usage) AS equal, sum(h.cost_base) > 0 AS some FROM llmquota.usage_hourly h;
UPDATE llmquota.usage SET cost_base = 1 WHERE org = 'late';
DELETE FROM llmquota.usage WHERE cost_base > 1000;
SELECT work_left FROM llmquota_maintain();
SELECT sum(h.cost_base) = (SELECT sum(cost_base) FROM llmquota.usage) AS equal, sum(h.cost_base) > 0 AS some FROM llmquota.usage_hourly h;

-- a recorded cost is lost with its transaction and comes with the record that is repeated; one by tokens comes back by itself
SELECT lease FROM llmquota_pick('m', 'undone', 1, 1) \gset
BEGIN;
SELECT status, cost FROM llmquota_record(:'lease', 1000, 100, cost => 7);
ROLLBACK;
SELECT status, cost FROM llmquota_record(:'lease', 1000, 100, cost => 7);
SELECT lease FROM llmquota_pick('m', 'recovered', 1, 1) \gset
BEGIN;
SELECT status, cost FROM llmquota_record(:'lease', 1000, 100);
ROLLBACK;
SELECT work_left FROM llmquota_maintain();
SELECT org, usage_source, cost, cost_base, cost_given FROM llmquota.usage WHERE org IN ('undone', 'recovered') ORDER BY org;
-- ... and is forgotten when what is recorded after all does not say it
CREATE FUNCTION pg_temp.undo(org text) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
	lease uuid := (SELECT p.lease FROM llmquota_pick('m', org, 1000, 100) p);
BEGIN
	BEGIN
		PERFORM llmquota_record(lease, cost => 7);
		RAISE 'undo';
	EXCEPTION WHEN raise_exception THEN
		RETURN lease;
	END;
END
$$;
SELECT status, cost FROM llmquota_record(pg_temp.undo('silent'));
SELECT status, cost FROM llmquota_record(pg_temp.undo('told'), 10, 10);
SELECT status, cost FROM llmquota_record(pg_temp.undo('refused'), http_status => 400, error => 'no');
SELECT llmquota_release(pg_temp.undo('released'));
SELECT org, status, cost, currency, cost_given FROM llmquota.usage
 WHERE org IN ('silent', 'told', 'refused', 'released') ORDER BY org;
SELECT * FROM llmquota_verify();
