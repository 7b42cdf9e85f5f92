-- What budgets are charged for a call: the most that it may cost at the pick, what it did cost when it ends, however that is.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('odd', 'p'), ('free', 'p'), ('images', 'p'), ('later', 'p');
INSERT INTO llmquota.price (model, input, cached_input, cache_write, output, reasoning) VALUES
	('m', 3, 0.3, 3.75, 15, 20), ('odd', 0.0004, NULL, NULL, 0.0005, NULL), ('free', 0, NULL, NULL, 0, NULL);
INSERT INTO llmquota.budget (subject, amount, currency, calendar, per, downgrade_at) VALUES ('*', 1, 'USD', NULL, '1 day', NULL);
-- Picks 1000 tokens in and 500 out: the lease of that name. What is kept of it, in the windows and in the ledger.
CREATE TEMP TABLE lease (name text PRIMARY KEY, lease uuid);
CREATE FUNCTION pick(name text, model text DEFAULT 'm', ttl_ms int DEFAULT NULL, max_cost numeric DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
	WITH p AS MATERIALIZED (SELECT * FROM llmquota_pick(model, name, 1000, 500, ttl_ms => ttl_ms, max_cost => max_cost)),
		kept AS (INSERT INTO lease SELECT name, lease FROM p WHERE lease IS NOT NULL)
	SELECT status FROM p
$$;
CREATE FUNCTION lease_of(text) RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT lease FROM lease WHERE name = $1 $$;
CREATE FUNCTION used(text) RETURNS numeric LANGUAGE sql AS $$ SELECT used FROM llmquota.budget_window WHERE subject = $1 $$;
CREATE VIEW ledger AS SELECT org, status, usage_source, cost, currency, cost_base, cost_given FROM llmquota.usage ORDER BY org COLLATE "C";
CALL expire(0);

-- reserved at the dearest price of either side: 1000 at 3.75 and 500 at 20; settled by each sort of tokens
SELECT pick('sorts'), used('sorts');
SELECT status, cost, used('sorts') FROM llmquota_record(lease_of('sorts'), 1000, 300, cached_tokens => 400, cache_write_tokens => 200, reasoning_tokens => 100);
SELECT (400 * 3 + 400 * 0.3 + 200 * 3.75 + 200 * 15 + 100 * 20) / 1000000 AS by_hand;
-- only the output is known: the input stays as reserved
SELECT pick('output'), used('output');
SELECT status, cost, used('output') FROM llmquota_record(lease_of('output'), output_tokens => 100);
-- nothing is: all stays
SELECT pick('silent');
SELECT status, cost, used('silent') FROM llmquota_record(lease_of('silent'));
-- it was more than reserved, and more than the amount: the window is in debt
SELECT pick('more');
SELECT status, cost, used('more') FROM llmquota_record(lease_of('more'), 100000, 100000);
SELECT used, amount, remaining FROM llmquota.budget_window WHERE subject = 'more';
SELECT status, refusal -> 'used' AS used FROM llmquota_pick('m', 'more', 1, 1);
-- once to the last place: what is reserved always up, what is settled from a half on
SELECT lease FROM llmquota_pick('odd', 'odd', 1, 0) \gset
SELECT used('odd');
SELECT status, cost, used('odd') FROM llmquota_record(:'lease', 1, 0);
SELECT lease FROM llmquota_pick('odd', 'half', 0, 1) \gset
SELECT status, cost, used('half') FROM llmquota_record(:'lease', 0, 1);
SELECT lease FROM llmquota_pick('odd', 'both', 1, 1) \gset
SELECT status, cost, used('both') FROM llmquota_record(:'lease', 1, 1);

-- the application knows the cost, whatever the tokens
SELECT pick('told'), used('told');
SELECT status, cost, currency, used('told') FROM llmquota_record(lease_of('told'), 1000, 300, cost => 0.5);
SELECT pick('told 0');
SELECT status, cost, used('told 0') FROM llmquota_record(lease_of('told 0'), 1000, 300, cost => 0);
SELECT pick('told all');
SELECT status, cost, used('told all') FROM llmquota_record(lease_of('told all'), cost => 123456789.000000001);
-- and what it will be at most
SELECT pick('capped', max_cost => 0.75), used('capped');
SELECT pick('capped', max_cost => 0.250000001), used('capped');
SELECT status, cost, used('capped') FROM llmquota_record(lease_of('capped'), 1000, 300);
SELECT pick('capped silent', max_cost => 0.000000001), used('capped silent');
SELECT status, cost, used('capped silent') FROM llmquota_record(lease_of('capped silent'));
SELECT pick('capped 0', max_cost => 0), used('capped 0');
SELECT status, cost, used('capped 0') FROM llmquota_record(lease_of('capped 0'), http_status => 200, cost => 0.25);
-- what has no price by tokens: only with that
SELECT pick('images', 'images', max_cost => 0.4), used('images');
SELECT status, cost, used('images') FROM llmquota_record(lease_of('images'), cost => 0.16);
SELECT pick('images silent', 'images', max_cost => 0.4);
SELECT status, cost, used('images silent') FROM llmquota_record(lease_of('images silent'), 100, 10);

-- released: all is given back
SELECT pick('released', max_cost => 1), used('released');
SELECT llmquota_release(lease_of('released')), used('released');
-- the provider refused: it is given back, unless it counted tokens or money; without its answer all stays
SELECT pick('refused'), pick('refused images', 'images', max_cost => 0.4), pick('refused in part'), pick('refused for money'), pick('cut');
SELECT status, cost, used('refused') FROM llmquota_record(lease_of('refused'), http_status => 503);
SELECT llmquota_clear();
SELECT status, cost, used('refused images') FROM llmquota_record(lease_of('refused images'), http_status => 400, error => 'no');
SELECT status, cost, used('refused in part') FROM llmquota_record(lease_of('refused in part'), 1000, 10, http_status => 503);
SELECT status, cost, used('refused for money') FROM llmquota_record(lease_of('refused for money'), http_status => 503, cost => 0.001);
SELECT status, cost, used('cut') FROM llmquota_record(lease_of('cut'), error => 'timeout');
SELECT llmquota_clear() > 0 AS cleared;
-- once
SELECT status, cost, used('told') FROM llmquota_record(lease_of('told'), cost => 0.9);
SELECT * FROM ledger;
SELECT count(*) AS windows, bool_and(w.used = (SELECT sum(u.cost) FROM llmquota.usage u WHERE u.org = w.subject)) AS as_the_ledger
  FROM llmquota.budget_window w;
SELECT * FROM llmquota_verify();

-- expired: all stays; recorded after that: what is less is given back, what is more is charged
SELECT pick(name, ttl_ms => 1), used(name) FROM unnest('{late less,late more,late refused,late silent,late told}'::text[]) name;
SELECT pick('late capped', 'images', ttl_ms => 1, max_cost => 0.5);
CALL expire(6);
SELECT org, status, cost, used(org) FROM ledger WHERE org LIKE 'late%';
SELECT status, cost, used('late less') FROM llmquota_record(lease_of('late less'), 10, 10);
SELECT status, cost, used('late more') FROM llmquota_record(lease_of('late more'), 10000, 1000);
SELECT status, cost, used('late refused') FROM llmquota_record(lease_of('late refused'), http_status => 429);
SELECT llmquota_clear() > 0 AS cleared;
SELECT status, cost, used('late silent') FROM llmquota_record(lease_of('late silent'));
SELECT status, cost, used('late told') FROM llmquota_record(lease_of('late told'), cost => 0.7);
SELECT status, cost, used('late capped') FROM llmquota_record(lease_of('late capped'));
SELECT * FROM ledger WHERE org LIKE 'late%';
SELECT * FROM llmquota_verify();
-- a record is rolled back: the charge stands, and maintenance writes the row with its cost, by tokens or as told
SELECT pick(name) FROM unnest('{undone,undone told,undone inside,undone again}'::text[]) name;
BEGIN;
SELECT status, cost FROM llmquota_record(lease_of('undone'), 1000, 100);
SELECT status, cost FROM llmquota_record(lease_of('undone told'), 1000, 100, cost => 0.7);
SELECT status, cost FROM llmquota_record(lease_of('undone again'), 1000, 100, cost => 0.6);
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT status, cost FROM llmquota_record(lease_of('undone inside'), cost => 0.8);
ROLLBACK TO s;
SELECT used('undone'), used('undone told'), used('undone inside'), used('undone again');
COMMIT;
SELECT count(*) FROM ledger WHERE org LIKE 'undone%';
-- said again, what is said last holds
SELECT status, cost, used('undone again') FROM llmquota_record(lease_of('undone again'), 1000, 100, cost => 0.1);
CALL expire(0);
SELECT status FROM llmquota_maintain(), llmquota_record(lease_of('undone'), 1, 1);
SELECT * FROM ledger WHERE org LIKE 'undone%';
SELECT used('undone'), used('undone told'), used('undone inside'), used('undone again');
-- a pick is not
BEGIN;
SELECT pick('pick undone', max_cost => 0.9);
ROLLBACK;
SELECT used('pick undone');
SELECT count(llmquota_release(lease)) FROM llmquota.lease WHERE org = 'pick undone';
SELECT used('pick undone');
SELECT * FROM llmquota_verify();

-- the price of when it was picked
INSERT INTO llmquota.price (model, valid_from, input, output) VALUES ('later', now() + interval '1 day', 1, 1);
SELECT status FROM llmquota_pick('later', 'too early', 1, 1);
INSERT INTO llmquota.price (model, valid_from, input, output) VALUES ('later', now() - interval '1 day', 2, 2), ('later', '-infinity', 3, 3);
SELECT pick('then', 'later'), used('then');
INSERT INTO llmquota.price (model, valid_from, input, output) VALUES ('later', clock_timestamp(), 100, 100);
SELECT pick('now', 'later'), used('now');
SELECT status, cost, used('then') FROM llmquota_record(lease_of('then'), 1000, 500);
SELECT status, cost, used('now') FROM llmquota_record(lease_of('now'), 1000, 500);
-- one whose price is gone stays charged
SELECT pick('gone', 'later'), used('gone');
DELETE FROM llmquota.price WHERE model = 'later';
SELECT status, cost, used('gone') FROM llmquota_record(lease_of('gone'), 1, 1);

-- what has no price is an error that names it, and charges nothing; not where nobody would refuse
CREATE FUNCTION error_of(query text) RETURNS TABLE (state text, message text, hint text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE query;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RETURN NEXT;
END $$;
SELECT * FROM error_of($$SELECT llmquota_pick('images', 'unpriced', 1, 1)$$);
SELECT used('unpriced'), count(*) FROM llmquota.lease WHERE org = 'unpriced';
SELECT given, e.* FROM unnest('{-1,NaN,Infinity,0.0000000001,9223372036.854775808}'::numeric[]) given,
	error_of(format('SELECT llmquota_pick(%L, %L, max_cost => %L)', 'm', 'unpriced', given)) e;
UPDATE llmquota.budget SET hard_stop = false;
SELECT pick('unpriced', 'images'), used('unpriced');
SELECT status, cost, used('unpriced') FROM llmquota_record(lease_of('unpriced'), 1, 1);
SELECT pick('unpriced told', 'images');
SELECT status, cost, used('unpriced told') FROM llmquota_record(lease_of('unpriced told'), 1, 1, cost => 3);
UPDATE llmquota.budget SET hard_stop = true, mode = 'observe';
SELECT pick('unpriced too', 'images'), used('unpriced too');
SELECT llmquota_release(lease_of('unpriced too'));
-- a budget for one, of no other model's price
UPDATE llmquota.budget SET mode = 'enforce', model = 'm';
SELECT status FROM llmquota_pick('images', 'unpriced', 1, 1);

-- the next attempt reserves as the first did: by its tokens, or what its pick said
UPDATE llmquota.budget SET model = NULL;
INSERT INTO llmquota.account (account, provider) VALUES ('b', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('l', 'b');
SELECT pick('again'), pick('again images', 'images', max_cost => 0.3);
SELECT attempt, used('again') FROM llmquota_retry(lease_of('again'), http_status => 429);
SELECT llmquota_clear() > 0 AS cleared;
SELECT attempt, used('again images') FROM llmquota_retry(lease_of('again images'), http_status => 429);
SELECT llmquota_clear() > 0 AS cleared;
SELECT lease AS third FROM llmquota_pick('images', 'again images', max_cost => 0.5, retry_of => lease_of('again images')) \gset
SELECT used('again images');
SELECT llmquota_release(lease) FROM llmquota.lease WHERE org LIKE 'again%';
DELETE FROM llmquota.key WHERE key = 'l';

-- more than 64 bits hold is an error of its own, in the price's currency and in the budget's; a full window refuses
INSERT INTO llmquota.price (model, input, output) VALUES ('images', 9000000000, 0);
UPDATE llmquota.budget SET amount = 9000000000;
SELECT * FROM error_of($$SELECT llmquota_pick('images', 'large', 2000000, 0)$$);
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('IDR', 0.00006);
INSERT INTO llmquota.budget (subject, amount, currency) VALUES ('large', 9000000000, 'IDR');
SELECT * FROM error_of($$SELECT llmquota_pick('m', 'large', max_cost => 600000)$$);
SELECT used FROM llmquota.budget_window WHERE subject = 'large';
DELETE FROM llmquota.budget WHERE currency = 'IDR';
SELECT (llmquota_pick('images', 'large', 1000000, 0)).status;
SELECT (llmquota_pick('images', 'large', 1000000, 0)).status;
SELECT used, remaining FROM llmquota.budget_window WHERE subject = 'large';
SELECT * FROM llmquota_verify();
-- one that refuses nothing holds no more than 64 bits do; it does not know then what its calls add up to, and nobody asks it
UPDATE llmquota.budget SET hard_stop = false;
SELECT r.cost FROM llmquota_pick('m', 'endless', 1, 0) p, llmquota_record(p.lease, cost => 9000000000) r;
SELECT r.cost FROM llmquota_pick('m', 'endless', 1, 0) p, llmquota_record(p.lease, cost => 9000000000) r;
SELECT used FROM llmquota.budget_window WHERE subject = 'endless';
SELECT sum(cost) FROM llmquota.usage WHERE org = 'endless';
SELECT * FROM llmquota_verify();
SELECT llmquota_rebuild() > 0 AS rebuilt;
SELECT used FROM llmquota.budget_window WHERE subject = 'endless';
SELECT * FROM llmquota_verify();
