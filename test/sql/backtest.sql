-- What a proposed quota or budget would have refused: ledgers whose answers are worked out by hand.
\set SHOW_CONTEXT never
\pset null -
SET timezone = 'UTC';
SET datestyle = 'ISO';

INSERT INTO llmquota.provider (provider, adapter, timezone) VALUES ('p', 'openai', 'America/Los_Angeles');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a'), ('l', 'b');
INSERT INTO llmquota.model (model, provider, family) VALUES ('m', 'p', 'f'), ('n', 'p', 'f'), ('o', 'p', NULL);
-- A call: for whom, when it was picked, for how many seconds it was under way, what it reserved and what it used (NULL:
-- nobody said), in tokens.
CREATE FUNCTION call(org text, picked text, lasted int, reserved int, used int, model text DEFAULT 'm', key text DEFAULT 'k',
					 status text DEFAULT 'ok', cached int DEFAULT NULL)
RETURNS text LANGUAGE sql AS $$
	INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org, model, provider, account, key, status, http_status,
								reserved_input, reserved_output, input_tokens, output_tokens, cached_tokens, recorded_in)
	VALUES (gen_random_uuid(), '2026-03-01'::timestamptz + picked::interval, '2026-03-01'::timestamptz + picked::interval + lasted * interval '1 second',
			org, model, 'p', CASE key WHEN 'k' THEN 'a' ELSE 'b' END, key, status, CASE WHEN status = 'error' THEN 500 END,
			reserved, 0, used, CASE WHEN used IS NOT NULL THEN 0 END, cached, 1)
	RETURNING org
$$;
-- What a rule would have refused: rows without the date, which is always the same.
CREATE FUNCTION refused(rule text, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
						OUT hour time, OUT subject text, OUT part text, OUT org text, OUT calls bigint, OUT refused bigint, OUT amount numeric,
						OUT most_used numeric, OUT first time, OUT last time)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT b.hour::time, b.subject, coalesce(b.model, b.family), b.org, b.calls, b.refused, b.amount_refused, b.most_used, b.first_at::time, b.last_at::time
	  FROM llmquota_backtest(rule::jsonb, since, until) b
$$;

-- requests by the hour of the clock, of each org by itself; rows stand in the ledger in another order than they were picked
SELECT call('x', '10:00:00', 1, 100, 100), call('x', '09:50:00', 1, 100, 100), call('y', '09:20:00', 1, 100, 100),
	   call('x', '09:00:00', 1, 100, 100), call('y', '10:30:00', 1, 100, 100), call('x', '10:10:00', 1, 100, 70);
SELECT * FROM refused('{"scope": "org", "subject": "*", "metric": "requests", "amount": 2, "calendar": "day"}');
-- a sliding window: what was used at 09:00:00 has left it a bucket after an hour
SELECT * FROM refused('{"scope": "org", "subject": "*", "metric": "requests", "amount": 2, "per": "1 hour"}');
SELECT * FROM refused('{"scope": "org", "subject": "x", "metric": "requests", "amount": 1, "per": "1 hour"}');
-- for whom: also where the limit is everybody's
SELECT * FROM refused('{"scope": "global", "metric": "requests", "amount": 3, "calendar": "day"}');
-- a part of the time: calls before it are known, and were let through; a call at its end is not in it
SELECT * FROM refused('{"scope": "global", "metric": "requests", "amount": 3, "calendar": "day"}', '2026-03-01 10:00');
SELECT * FROM refused('{"scope": "global", "metric": "requests", "amount": 3, "calendar": "day"}', '2026-03-01 10:00', '2026-03-01 10:30');
SELECT * FROM refused('{"scope": "global", "metric": "requests", "amount": 3, "calendar": "day"}', '2026-03-01 12:00');
-- nothing is let through, or everything
SELECT * FROM refused('{"scope": "org", "subject": "y", "metric": "requests", "amount": 0, "calendar": "day"}');
SELECT * FROM refused('{"scope": "org", "subject": "*", "metric": "requests", "amount": 3, "calendar": "day"}');
SELECT * FROM refused('{"scope": "org", "subject": "nobody", "metric": "requests", "amount": 0, "calendar": "day"}');
TRUNCATE llmquota.usage;

-- what is reserved counts until the call is recorded: the third of 12:00:20 would fit if it were known that the first one uses 40
SELECT call('s', '12:00:00', 30, 100, 40), call('s', '12:00:10', 1, 100, 100), call('s', '12:00:20', 1, 100, 100), call('s', '12:00:40', 1, 100, 100);
-- what a call uses beyond its reservation is a debt
SELECT call('d', '12:00:00', 10, 10, 300), call('d', '12:00:05', 1, 10, 10), call('d', '12:00:15', 1, 10, 10), call('d', '13:02:00', 1, 10, 10);
-- what is released is given back; what expires stays
SELECT call('r', '12:00:00', 10, 240, NULL, status => 'released'), call('r', '12:00:05', 1, 10, 10), call('r', '12:00:20', 1, 10, 10);
SELECT call('e', '12:00:00', 10, 240, NULL, status => 'expired'), call('e', '12:00:20', 1, 10, 10);
-- a failure without figures gives its tokens back, the request only where the quota says so
SELECT call('f', '12:00:00', 10, 240, NULL, status => 'error'), call('f', '12:00:05', 1, 10, 10), call('f', '12:00:20', 1, 10, 10);
-- a call that is refused is never counted: the second one here is let through
SELECT call('g', '12:00:00', 1, 300, 300), call('g', '12:00:20', 1, 240, 240);
SELECT * FROM refused('{"scope": "org", "subject": "*", "metric": "tokens", "amount": 240, "per": "1 hour"}');
SELECT * FROM refused('{"scope": "org", "subject": "f", "metric": "requests", "amount": 1, "per": "1 hour"}');
SELECT * FROM refused('{"scope": "org", "subject": "f", "metric": "requests", "amount": 1, "per": "1 hour", "counts_failures": false}');
-- of d, r and f two would be in flight at 12:00:05, and of s two at 12:00:10, and again at 12:00:20
SELECT * FROM refused('{"scope": "org", "subject": "*", "metric": "concurrency", "amount": 1}');
TRUNCATE llmquota.usage;

-- a provider's day begins at midnight there: 08:00 here; and calls by a key that is configured no longer are of its account
SELECT call('x', '07:59:59', 1, 1, 1), call('x', '08:00:00', 1, 1, 1, key => 'l'), call('x', '08:00:01', 1, 1, 1), call('x', '08:00:02', 1, 1, 1),
	   call('x', '08:00:03', 1, 1, 1, model => 'gone', key => 'l');
UPDATE llmquota.usage SET key = 'lost', account = 'lost' WHERE key = 'l';
SELECT * FROM refused('{"scope": "provider", "subject": "p", "metric": "requests", "amount": 2, "calendar": "day"}');
SELECT * FROM refused('{"scope": "provider", "subject": "*", "metric": "requests", "amount": 2, "calendar": "day", "timezone": "UTC"}');
SELECT * FROM refused('{"scope": "account", "subject": "*", "metric": "requests", "amount": 1, "calendar": "day"}');
-- a call that ends when another is picked is no longer in flight
SELECT * FROM refused('{"scope": "provider", "subject": "p", "metric": "concurrency", "amount": 1}');
SELECT * FROM refused('{"scope": "key", "subject": "*", "model": "gone", "metric": "requests", "amount": 0, "calendar": "day"}');
TRUNCATE llmquota.usage;

-- by model and by family; cached tokens
SELECT call('x', '12:00:00', 1, 50, 50, 'm'), call('x', '12:00:01', 1, 50, 50, 'n'), call('x', '12:00:02', 1, 50, 50, 'o'), call('x', '12:00:03', 1, 50, 50, 'm', cached => 40),
	   call('x', '12:00:10', 1, 50, 50, 'm');
SELECT * FROM refused('{"scope": "org", "subject": "*", "model": "*", "metric": "input_tokens", "amount": 110, "per": "1 hour"}');
SELECT * FROM refused('{"scope": "org", "subject": "*", "model": "*", "metric": "input_tokens", "amount": 110, "per": "1 hour", "counts_cached": false}');
SELECT * FROM refused('{"scope": "org", "subject": "*", "model": "n", "metric": "tokens", "amount": 40, "per": "1 hour"}');
SELECT * FROM refused('{"scope": "global", "family": "f", "metric": "tokens", "amount": 100, "per": "1 hour"}');
SELECT * FROM refused('{"scope": "org", "subject": "*", "metric": "output_tokens", "amount": 1, "per": "1 hour"}');
TRUNCATE llmquota.usage;

-- quotas that are there limit nothing here; but one that names a subject replaces a proposed one for all
SELECT call(org, '12:00:00', 1, 1, 1), call(org, '12:00:01', 1, 1, 1) FROM unnest('{one,other,high}'::text[]) org;
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'requests', 0, '1 hour'), ('org', 'one', 'requests', 0, '1 hour');
INSERT INTO llmquota.org (org, priority) VALUES ('high', 'high'), ('other', 'normal');
SELECT * FROM refused('{"scope": "org", "subject": "*", "metric": "requests", "amount": 1, "per": "1 hour"}');
SELECT * FROM refused('{"scope": "org", "subject": "one", "metric": "requests", "amount": 1, "per": "1 hour"}');
SELECT * FROM refused('{"scope": "org", "subject": "*", "metric": "requests", "amount": 1, "per": "2 hours"}');
-- a share is kept for orgs whose picks are of high priority
SELECT * FROM refused('{"scope": "org", "subject": "*", "metric": "requests", "amount": 2, "per": "2 hours", "high_priority_share": 0.5}');
-- what only observes refuses nothing, nor does what is rolled out to nobody
SELECT * FROM refused('{"scope": "org", "subject": "*", "metric": "requests", "amount": 1, "per": "2 hours", "mode": "observe"}');
SELECT * FROM refused('{"scope": "org", "subject": "*", "metric": "requests", "amount": 1, "per": "2 hours", "rollout": 0}');
-- a row that is there, with another amount
SELECT r.* FROM llmquota.quota q, refused((to_jsonb(q) || '{"amount": 1}')::text) r WHERE q.subject = 'one';
-- things are known by their names of now
SELECT llmquota_rename('org', 'other', 'renamed'), llmquota_rename('model', 'm', 'renamed model');
SELECT * FROM refused('{"scope": "org", "subject": "renamed", "model": "renamed model", "metric": "requests", "amount": 1, "per": "2 hours"}');
SELECT count(*) FROM llmquota.change WHERE relation = 'quota';

-- budgets: a token of m costs a hundredth of a dollar, one of n a thousandth, o is free; a dollar is 40 baht
DELETE FROM llmquota.quota;
TRUNCATE llmquota.usage;
INSERT INTO llmquota.price (model, input, output, currency) VALUES ('renamed model', 10000, 10000, 'USD'), ('n', 1000, 1000, 'USD'), ('o', 0, 0, 'USD');
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('THB', 0.025);
UPDATE llmquota.model SET downgrade_to = 'o' WHERE model = 'n';
CREATE FUNCTION spent(rule text, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, OUT hour text, OUT subject text, OUT org text, OUT calls bigint,
					  OUT refused bigint, OUT downgraded bigint, OUT amount_refused numeric, OUT amount_downgraded numeric, OUT most_used numeric)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT to_char(b.hour, 'DD HH24:MI'), b.subject, b.org, b.calls, b.refused, b.downgraded, trim_scale(b.amount_refused), trim_scale(b.amount_downgraded), trim_scale(b.most_used)
	  FROM llmquota_backtest('{"subject": "*", "currency": "USD", "amount": 10}'::jsonb || rule::jsonb, since, until) b
$$;
-- the worst-case price is reserved at the pick, and settled at the record: the third does not fit, the fourth does
SELECT call('x', '12:00:00', 30, 400, 200), call('x', '12:00:10', 1, 600, 600), call('x', '12:00:20', 1, 1, 1), call('x', '12:00:40', 1, 200, 200);
SELECT * FROM spent('{"downgrade_at": null}');
-- from 0.8 on n answers, for a tenth
SELECT * FROM spent('{"downgrade_to": "n"}');
-- nothing answers in the place of m that is its own successor, or dearer
SELECT * FROM spent('{}');
SELECT * FROM spent('{"downgrade_to": "renamed model"}');
SELECT * FROM spent('{"downgrade_to": "n", "mode": "observe"}');
SELECT * FROM spent('{"downgrade_to": "n", "hard_stop": false, "amount": 3}');
-- in baht
SELECT * FROM spent('{"currency": "THB", "amount": 400, "downgrade_at": null}');
SELECT * FROM spent('{"currency": "THB", "amount": 400.04, "downgrade_at": null}');
TRUNCATE llmquota.usage;

-- 8 dollars for m; from then on n: 1 each for two calls, which would have been 20; then nothing is left, and o is free
SELECT call('x', '12:00:00', 1, 800, 800), call('x', '12:00:10', 1, 1000, 1000), call('x', '12:00:20', 1, 1000, 1000), call('x', '13:00:30', 1, 1, 1), call('x', '13:00:40', 1, 1, 1, 'o');
SELECT * FROM spent('{"downgrade_to": "n"}');
SELECT * FROM spent('{"downgrade_to": "n", "free_when_spent": true}');
SELECT * FROM spent('{"downgrade_to": "n", "hard_stop": false}');
-- a budget of one model counts nothing of the one that answers in its place
SELECT * FROM spent('{"downgrade_to": "n", "model": "renamed model"}');
-- of a model that is disabled nothing is asked, and its successor answers
UPDATE llmquota.model SET enabled = false WHERE model = 'n';
SELECT * FROM spent('{"downgrade_to": "n", "free_when_spent": true}');
-- but not one that is dearer than the model that was called
BEGIN;
UPDATE llmquota.price SET input = 20000 WHERE model = 'o';
SELECT * FROM spent('{"downgrade_to": "n", "free_when_spent": true}');
ROLLBACK;
UPDATE llmquota.model SET enabled = true WHERE model = 'n';
-- by key nothing is downgraded; everybody's budget
SELECT * FROM spent('{"scope": "key", "downgrade_to": "n"}');
SELECT * FROM spent('{"scope": "global", "subject": "", "downgrade_to": "n"}');
SELECT * FROM spent('{"scope": "provider", "subject": "p", "downgrade_to": "n"}');
-- the steps of a budget that is there are those of one proposed in its place
INSERT INTO llmquota.budget (subject, amount, currency, mode) VALUES ('*', 10, 'USD', 'observe') RETURNING id AS budget \gset
INSERT INTO llmquota.budget_step (budget, at, model) VALUES (:budget, 0.8, 'n'), (:budget, 0.9, 'o');
SELECT * FROM spent((SELECT to_jsonb(b) || '{"mode": "enforce"}' FROM llmquota.budget b)::text);
DELETE FROM llmquota.budget;
TRUNCATE llmquota.usage;

-- an org and those below it together; what one of them spends beyond is the other's, too
INSERT INTO llmquota.org (org, timezone) VALUES ('group', 'Asia/Bangkok');
INSERT INTO llmquota.org (org, parent) VALUES ('north', 'group'), ('south', 'group');
SELECT call('north', '12:00:00', 1, 600, 600), call('south', '12:00:10', 1, 300, 300), call('north', '12:00:20', 1, 200, 200), call('south', '12:00:30', 1, 100, 100),
	   call('south', '17:00:00', 1, 700, 700), call('other', '12:00:00', 1, 700, 700);
SELECT * FROM spent('{"scope": "parent", "downgrade_at": null}');
SELECT * FROM spent('{"scope": "parent", "subject": "group", "amount": 7, "downgrade_at": null, "timezone": "UTC"}');
SELECT * FROM spent('{"scope": "parent", "subject": "north", "amount": 7, "downgrade_at": null, "timezone": "UTC"}');
TRUNCATE llmquota.usage;

-- what the ledger says that a call cost is what it cost: 3 dollars and 1; a failure costs nothing once that is known
SELECT call('x', '12:00:00', 10, 100, 100), call('x', '12:00:20', 1, 100, 100), call('x', '12:00:30', 10, 500, NULL, status => 'error'), call('x', '12:00:35', 1, 600, 600), call('x', '12:00:50', 1, 600, 600);
UPDATE llmquota.usage SET cost = CASE picked_at WHEN '2026-03-01 12:00' THEN 120 ELSE 40 END, currency = 'THB', cost_given = true WHERE picked_at <= '2026-03-01 12:00:20';
SELECT * FROM spent('{"downgrade_at": null}');
-- where the application said what it cost, it would have cost as much with another model: 3, 1 in place of 0.1, 0, 0.6, 0.6
SELECT * FROM spent('{"downgrade_at": 0.3, "downgrade_to": "n"}');
-- of what nobody knows the cost
UPDATE llmquota.usage SET model = 'gone' WHERE picked_at > '2026-03-01 12:00';
SELECT * FROM spent('{"downgrade_at": null}');
DELETE FROM llmquota.usage WHERE picked_at > '2026-03-01 12:00:30';
SELECT * FROM spent('{"downgrade_at": null, "currency": "EUR"}');
TRUNCATE llmquota.usage;

-- what was overspent is paid back by the next day, what was not may be spent
SELECT call('debt', '12:00:00', 1, 900, 1500), call('debt', '12:00:10', 1, 1, 1), call('debt', '24:00:00', 1, 600, 600), call('debt', '24:00:10', 1, 500, 500),
	   call('spare', '12:00:00', 1, 400, 400), call('spare', '24:00:00', 1, 900, 900), call('spare', '24:00:10', 1, 700, 700), call('spare', '24:00:20', 1, 1, 1);
SELECT * FROM spent('{"downgrade_at": null}');
SELECT * FROM spent('{"downgrade_at": null, "carry_debt": true, "carry_unspent": true}');
-- once, from a day on, and asked about from another on; in a quarter that begins in March
SELECT * FROM spent('{"downgrade_at": null, "calendar": "total"}', '2026-03-02');
SELECT * FROM spent('{"downgrade_at": null, "calendar": "total", "starts_at": "2026-03-02"}', '2026-03-02');
SELECT * FROM spent('{"downgrade_at": null, "calendar": "quarter", "fiscal_month": 3}', '2026-03-02');

-- what is no rule
SELECT llmquota_backtest(NULL);
SELECT llmquota_backtest('[]');
SELECT llmquota_backtest('{}');
SELECT llmquota_backtest('{"metric": "requests", "currency": "USD"}');
SELECT llmquota_backtest('{"metric": "requests", "amount": 1, "per": "1 hour"}');
SELECT llmquota_backtest('{"scope": "org", "metric": "requests", "amount": 1, "window": "1 hour"}');
SELECT llmquota_backtest('{"scope": "org", "subject": "x", "metric": "requests", "per": "1 hour"}');
SELECT llmquota_backtest('{"scope": "org", "subject": "x", "metric": "requests", "amount": 1}');
SELECT llmquota_backtest('{"scope": "org", "subject": "x", "metric": "requests", "amount": 1, "per": "1 month"}');
SELECT llmquota_backtest('{"scope": "org", "subject": "x", "metric": "requests", "amount": 1, "calendar": "day", "timezone": "Mars/Olympus"}');
SELECT llmquota_backtest('{"scope": "org", "subject": "x", "metric": "requests", "amount": "many", "per": "1 hour"}');
SELECT llmquota_backtest('{"scope": "org", "subject": "x", "metric": "requests", "amount": 1, "per": "1 hour", "mode": null}');
SELECT llmquota_backtest('{"scope": "org", "subject": "x", "metric": "request", "amount": 1, "per": "1 hour"}');
SELECT llmquota_backtest('{"currency": "USD", "amount": 1}');
SELECT llmquota_backtest('{"subject": "*", "currency": "usd", "amount": 1}');
SELECT llmquota_backtest('{"subject": "*", "currency": "USD", "amount": 1, "alert_at": [2]}');
SELECT llmquota_backtest('{"subject": "*", "currency": "USD", "amount": 1, "downgrade_to": "nothing"}');
SELECT llmquota_backtest('{"subject": "*", "currency": "USD", "amount": 1, "counts_cached": true}');
SELECT * FROM llmquota_verify();
