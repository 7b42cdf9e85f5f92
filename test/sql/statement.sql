-- What an org is billed: every figure here is worked out by hand.
\set SHOW_CONTEXT never
\pset null -
SET TimeZone TO 'UTC';
SET DateStyle TO 'ISO';

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.model (model, provider) VALUES ('big', 'p'), ('small', 'p');
INSERT INTO llmquota.price (model, input, output) VALUES ('big', 2, 0), ('small', 0.1, 0);
INSERT INTO llmquota.org (org, parent, timezone, markup) VALUES
	('group', NULL, 'Asia/Bangkok', 0.2), ('clinic', 'group', 'UTC', 0.333333333), ('ward', 'clinic', 'UTC', 0),
	('other', NULL, 'UTC', -0.5), ('yen', NULL, 'Asia/Tokyo', 0.1);

-- A row of the ledger.
CREATE FUNCTION used(org text, at timestamptz, cost numeric, currency text DEFAULT 'USD', model text DEFAULT 'big', status text DEFAULT 'ok',
	input bigint DEFAULT 1000, cached bigint DEFAULT 100, output bigint DEFAULT 10, recorded_at timestamptz DEFAULT NULL)
RETURNS text LANGUAGE sql AS $$
	INSERT INTO llmquota.usage (lease, picked_at, recorded_at, recorded_in, org, model, key, status, input_tokens, cached_tokens, output_tokens, cost, currency)
	VALUES (gen_random_uuid(), at, coalesce(used.recorded_at, at), 0, org, model, 'k', status, input, cached, output, cost, currency) RETURNING 'used'
$$;
CREATE FUNCTION refused(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	advice text;
BEGIN
	EXECUTE statement;
	RETURN 'not refused';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS advice = PG_EXCEPTION_HINT;
	RETURN concat_ws(' / ', SQLSTATE, SQLERRM, nullif(advice, ''));
END $$;

-- March in Bangkok begins and ends seven hours before that of UTC
SELECT count(used(c.org, c.at, c.cost)) FROM (VALUES
	('group', timestamptz '2026-02-28 16:59:59.999999+00', 1000.0), ('group', '2026-02-28 17:00+00', 0.000000001),
	('group', '2026-03-31 16:59:59.999999+00', 0.000000002), ('group', '2026-03-31 17:00+00', 2000)) c (org, at, cost);
SELECT line, org, day, calls, cost, markup, amount, amount_due FROM llmquota_statement('group', '2026-03');
SELECT line, org, day, calls, cost, markup, amount, amount_due FROM llmquota_statement('group', '2026-02');
SELECT line, org, day, calls, cost, markup, amount, amount_due FROM llmquota_statement('group', '2026-04');
TRUNCATE llmquota.usage;

-- models and currencies apart; what failed or expired counts as it cost, what was released is no call; a cost that nobody
-- knows is not none
SELECT count(used('clinic', timestamptz '2026-03-01 08:00+00', c.cost, c.currency, c.model, c.status)) FROM (VALUES
	(0.10, 'USD', 'big', 'ok'), (0.20, 'USD', 'big', 'error'), (0, 'USD', 'big', 'error'), (0.03, 'USD', 'big', 'expired'), (0, 'USD', 'big', 'released'),
	(0.005, 'USD', 'small', 'ok'), (12.345, 'THB', 'small', 'ok'), (NULL, NULL, 'small', 'ok'), (0, 'EUR', 'small', 'released'), (NULL, NULL, NULL, 'ok'))
	c (cost, currency, model, status);
SELECT used('clinic', '2026-03-02 08:00+00', 1.00, input => NULL, cached => NULL, output => NULL);
SELECT used('clinic', '2026-04-01 08:00+00', 1.00);
SELECT * FROM llmquota_statement('clinic', '2026-03');

-- a parent's statement lists those below it, each with its own markup, in the parent's time zone; they have their own
SELECT used('group', '2026-03-01 08:00+00', 10), used('ward', '2026-03-01 18:00+00', 0.335), used('ward', '2026-03-31 18:00+00', 0.335), used('other', '2026-03-31 18:00+00', 100);
SELECT line, org, day, model, currency, calls, cost, markup, amount, amount_due FROM llmquota_statement('group', '2026-03');
SELECT line, org, day, currency, calls, cost, amount, amount_due FROM llmquota_statement('ward', '2026-03');
SELECT line, org, amount, amount_due FROM llmquota_statement('other', '2026-03');

-- rounded once, at the end, half away from zero, to what the currency is paid in
SELECT used('yen', '2026-03-01 08:00+00', c.cost, c.currency) FROM (VALUES
	(0.45, 'JPY'), (0.9136363636, 'JPY'), (100.005, 'USD'), (100.0049999999, 'KWD'), (1.0000454545, 'CLF'), (-1.36363636363, 'EUR')) c (cost, currency);
SELECT line, day, currency, cost, amount, amount_due FROM llmquota_statement('yen', '2026-03');
-- ... so that of the parts, rounded, is not always that of the whole
INSERT INTO llmquota.org (org, parent) VALUES ('whole', NULL), ('part 1', 'whole'), ('part 2', 'whole'), ('part 3', 'whole');
SELECT used('part ' || n, '2026-03-01 08:00+00', 0.004) FROM generate_series(1, 3) n;
SELECT line, org, amount, amount_due FROM llmquota_statement('whole', '2026-03') WHERE line <> 'day';

-- names of now; an org that is not listed; months without calls
SELECT llmquota_rename('org', 'ward', 'station'), llmquota_rename('model', 'big', 'bigger');
SELECT used('station', '2026-03-05 08:00+00', 1, model => 'bigger', recorded_at => clock_timestamp());
SELECT line, org, day, model, cost FROM llmquota_statement('ward', '2026-03');
SELECT line, org, cost FROM llmquota_statement('group', '2026-03') WHERE line <> 'day' AND currency = 'USD';
INSERT INTO llmquota.org (org, markup) VALUES ('ward', 1);
SELECT line, org, cost, amount FROM llmquota_statement('ward', '2026-03');
SELECT used('unlisted', '2026-03-05 08:00+00', 1);
SELECT line, org, cost, markup, amount_due FROM llmquota_statement('unlisted', '2026-03');
SELECT count(*) FROM llmquota_statement('clinic', '2020-02');
SELECT count(*) FROM llmquota_statement('nobody', '2026-03');

-- daylight saving: the month that begins in winter ends in summer
INSERT INTO llmquota.org (org, timezone) VALUES ('york', 'America/New_York');
SELECT count(used('york', c.at, c.cost)) FROM (VALUES (timestamptz '2026-03-01 04:59:59.999999+00', 1000), ('2026-03-01 05:00+00', 1),
	('2026-03-08 04:59:59.999999+00', 2), ('2026-03-08 05:00+00', 4), ('2026-03-09 03:59:59.999999+00', 8), ('2026-03-09 04:00+00', 16),
	('2026-04-01 03:59:59.999999+00', 32), ('2026-04-01 04:00+00', 2000)) c (at, cost);
SELECT line, day, calls, cost FROM llmquota_statement('york', '2026-03');

-- after a repricing it says the new figures
SELECT used('priced', '2026-03-05 08:00+00', 7, model => 'small', input => 2000000);
SELECT line, cost FROM llmquota_statement('priced', '2026-03') WHERE line = 'total';
SELECT calls, difference FROM llmquota_reprice('2026-03-05', '2026-03-06') WHERE org = 'priced';
SELECT line, cost FROM llmquota_statement('priced', '2026-03') WHERE line = 'total';

-- who is bound to an org has its statement only, with those below it; who is not may ask for all; a caller of picks may not ask
CREATE ROLE statement_bound;
CREATE ROLE statement_all;
CREATE ROLE statement_app;
CREATE ROLE statement_by_hand;
GRANT USAGE ON SCHEMA public TO statement_bound, statement_all, statement_app, statement_by_hand;
GRANT EXECUTE ON FUNCTION refused(text) TO PUBLIC;
SELECT llmquota_grant('statement_bound', 'analyst', 'clinic'), llmquota_grant('statement_all', 'analyst'), llmquota_grant('statement_app', 'app', 'clinic');
GRANT EXECUTE ON FUNCTION llmquota_statement(text, text) TO statement_by_hand;
SET ROLE statement_bound;
SELECT line, org, currency, amount_due FROM llmquota_statement('clinic', '2026-03') WHERE line <> 'day';
SELECT refused($$SELECT llmquota_statement('group', '2026-03')$$), refused($$SELECT llmquota_statement('station', '2026-03')$$);
SELECT refused($$SELECT llmquota_statement('nobody', '2026-03')$$), refused($$SELECT llmquota_statement_rows('group', '2026-03')$$);
SET ROLE statement_all;
SELECT count(*) FROM llmquota_statement('group', '2026-03');
SET ROLE statement_app;
SELECT refused($$SELECT llmquota_statement('clinic', '2026-03')$$);
SET ROLE statement_by_hand;
SELECT count(*) FROM llmquota_statement('group', '2026-03');
RESET ROLE;
-- a grant goes with its org to the name of now
SELECT llmquota_rename('org', 'clinic', 'practice');
SET ROLE statement_bound;
SELECT line, org, currency, amount_due FROM llmquota_statement('clinic', '2026-03') WHERE line = 'org' AND currency = 'THB';
SELECT line, org, currency, amount_due FROM llmquota_statement('practice', '2026-03') WHERE line = 'org' AND currency = 'THB';
RESET ROLE;
SELECT llmquota_revoke('statement_bound', 'analyst'), llmquota_revoke('statement_all', 'analyst'), llmquota_revoke('statement_app', 'app');
DROP OWNED BY statement_bound, statement_all, statement_app, statement_by_hand;
DROP ROLE statement_bound, statement_all, statement_app, statement_by_hand;

-- what is refused
SELECT refused(format('SELECT llmquota_statement(%L, %L)', c.org, c.month))
  FROM (VALUES (NULL, '2026-03'), (repeat('x', 129), '2026-03'), ('clinic', NULL), ('clinic', ''), ('clinic', '2026-3'), ('clinic', '2026-13'),
	('clinic', '2026-00'), ('clinic', '0000-01'), ('clinic', '2026-03-01'), ('clinic', '2026-+3'), ('clinic', ' 202-03'), ('clinic', '26-03'), ('', '9999-12')) c (org, month);
SELECT * FROM llmquota_verify();
