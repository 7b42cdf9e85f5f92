-- Cheaper models that answer when budgets are nearly spent.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai'), ('q', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'q');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a'), ('l', 'b');
INSERT INTO llmquota.model (model, provider, family) VALUES
	('large', 'p', 'f'), ('medium', 'p', 'f'), ('small', 'p', 'f'), ('free', 'p', NULL), ('dear', 'p', NULL), ('other', 'q', NULL), ('unpriced', 'p', NULL);
UPDATE llmquota.model m SET downgrade_to = d.to FROM (VALUES ('dear', 'large'), ('large', 'medium'), ('medium', 'small'), ('small', 'free'), ('other', 'small')) d (model, "to")
 WHERE m.model = d.model;
-- dollars for a token of input
INSERT INTO llmquota.price (model, input, output)
SELECT model, dollars * 1000000, 0 FROM (VALUES ('dear', 20), ('large', 10), ('medium', 4), ('small', 1), ('free', 0), ('other', 10)) p (model, dollars);
ALTER TABLE llmquota.budget ALTER currency SET DEFAULT 'USD', ALTER calendar SET DEFAULT NULL, ALTER per SET DEFAULT '1 day';
-- Has an org spend so much, and then shows what answers each of some models; that is released again.
CREATE PROCEDURE spend(org text, dollars numeric) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM llmquota_record(lease, cost => dollars) FROM llmquota_pick('free', org, 0, 0);
END $$;
CREATE FUNCTION answers(org text, VARIADIC routes text[]) RETURNS TABLE (route text, answer text, downgraded boolean) LANGUAGE plpgsql AS $$
DECLARE
	picked llmquota.pick_result;
BEGIN
	FOREACH route IN ARRAY routes LOOP
		picked := llmquota_pick(route, org, 1, 0);
		answer := coalesce(picked.model, picked.status);
		downgraded := picked.downgraded;
		PERFORM llmquota_release(picked.lease) WHERE picked.lease IS NOT NULL;
		RETURN NEXT;
	END LOOP;
END $$;
-- The same, a line for each sum that was spent before.
CREATE FUNCTION steps(org text, route text, VARIADIC dollars numeric[]) RETURNS TABLE (spent numeric, answer text, downgraded boolean) LANGUAGE plpgsql AS $$
DECLARE
	so_far numeric := 0;
BEGIN
	FOREACH spent IN ARRAY dollars LOOP
		IF spent > so_far THEN
			CALL spend(org, spent - so_far);
			so_far := spent;
		END IF;
		SELECT a.answer, a.downgraded INTO answer, downgraded FROM answers(org, route) a;
		RETURN NEXT;
	END LOOP;
END $$;
CREATE PROCEDURE clear() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM llmquota_release(lease) FROM llmquota.lease;
	DELETE FROM llmquota.budget;
END $$;

-- from downgrade_at on, the very next pick: the model's own downgrade_to
INSERT INTO llmquota.budget (subject, amount) VALUES ('one', 100);
SELECT * FROM steps('one', 'large', 0, 79.999999999, 80, 95.9);
SELECT * FROM answers('one', 'dear', 'large', 'medium', 'small', 'free', 'other');
-- who says that he needs nothing may take something nevertheless
SELECT p.model, llmquota_release(p.lease) FROM llmquota_pick('large', 'one', 0, 0) p;
-- where it needs less than is left; then nothing does
SELECT * FROM steps('one', 'large', 0.1, 3.1, 3.999999999, 4.1);
SELECT status, refusal - '{retry_at,used,budget}'::text[] AS refusal FROM llmquota_pick('large', 'one', 1, 0);
-- nothing was downgraded that nobody asked for, and what is free is not
SELECT * FROM answers('two', 'dear', 'large', 'medium', 'small', 'free', 'other');
-- what falls below is answered as before
SELECT lease FROM llmquota_pick('dear', 'three', 4, 0) \gset
UPDATE llmquota.budget SET subject = 'three';
SELECT * FROM answers('three', 'large');
SELECT llmquota_release(:'lease');
CALL clear();

-- the ledger says so: what was asked for, and which budget
INSERT INTO llmquota.budget (subject, amount, downgrade_at) VALUES ('ledger', 100, 0.5);
CALL spend('ledger', 50);
SELECT count(*) FROM llmquota_pick('large', 'ledger', 1, 0) p, llmquota_record(p.lease, 1, 0) r;
SELECT count(*) FROM llmquota_pick('free', 'ledger', 1, 0) p, llmquota_record(p.lease, 1, 0) r;
SELECT lease FROM llmquota_pick('large', 'ledger', 1, 0) \gset
BEGIN;
SELECT status FROM llmquota_record(:'lease', 1, 0);
ROLLBACK;
SELECT lease FROM llmquota_pick('medium', 'ledger', 1, 0, ttl_ms => 1) \gset
CALL expire(1);
SELECT u.route, u.requested_model, u.model, u.downgraded, u.budget = b.id AS by_the_budget, u.status, u.usage_source, u.cost
  FROM llmquota.usage u, llmquota.budget b WHERE u.org = 'ledger' ORDER BY u.picked_at;
SELECT status FROM llmquota_record(:'lease', 2, 0);
SELECT requested_model, model, downgraded, usage_source, cost FROM llmquota.usage WHERE lease = :'lease';
CALL clear();

-- the budget's own downgrade_to, as far as it is cheaper; at 0 always, at 1 when the amount is spent, NULL never
INSERT INTO llmquota.budget (subject, amount, downgrade_at, downgrade_to) VALUES
	('one', 100, 0.25, 'small'), ('always', 100, 0, 'free'), ('last', 100, 1, 'free'), ('never', 100, NULL, 'free'), ('nothing', 0, 0.8, 'free');
SELECT * FROM steps('one', 'large', 0, 25);
SELECT * FROM answers('one', 'dear', 'large', 'medium', 'small', 'free', 'other');
SELECT * FROM steps('always', 'large', 0, 50);
SELECT * FROM steps('last', 'large', 0, 90, 90.1, 100);
SELECT * FROM steps('never', 'large', 0, 90, 90.1, 100);
SELECT * FROM steps('nothing', 'large', 0);
UPDATE llmquota.budget SET free_when_spent = true;
SELECT * FROM steps('last', 'large', 0);
SELECT * FROM steps('never', 'large', 0);
SELECT * FROM steps('nothing', 'large', 0, 10);
CALL clear();

-- in steps, which take the place of what the budget itself says; as soon as they are there, and no longer
INSERT INTO llmquota.budget (subject, amount, downgrade_at, downgrade_to, hard_stop) VALUES ('one', 100, 0.1, 'free', false);
CALL spend('one', 10);
SELECT * FROM answers('one', 'large');
INSERT INTO llmquota.budget_step (budget, at, model) SELECT b.id, s.at, s.model FROM llmquota.budget b, (VALUES (0.95, 'free'), (0.5, 'medium'), (0.8, 'small')) s (at, model);
SELECT * FROM steps('one', 'large', 0, 39.999999999, 40, 69.9, 70, 84.9, 85, 90, 500);
SELECT * FROM answers('one', 'dear', 'large', 'medium', 'small', 'free', 'other');
DELETE FROM llmquota.budget_step WHERE model = 'free';
SELECT * FROM answers('one', 'dear', 'large', 'medium', 'small', 'free', 'other');
UPDATE llmquota.budget_step SET model = 'large' WHERE model = 'small';
SELECT * FROM answers('one', 'dear', 'large', 'medium', 'small', 'free', 'other');
DELETE FROM llmquota.budget_step;
SELECT * FROM answers('one', 'large');
CALL clear();

-- only to what is cheaper: by the request's own tokens; of the same price it stays
INSERT INTO llmquota.budget (subject, amount, downgrade_at, downgrade_to) VALUES ('one', 1000, 0, 'small');
INSERT INTO llmquota.price (model, valid_from, input, output) VALUES ('small', now(), 1000000, 100000000);
SELECT model, downgraded FROM llmquota_pick('large', 'one', 1, 0);
SELECT model, downgraded FROM llmquota_pick('large', 'one', 1, 1);
DELETE FROM llmquota.price WHERE model = 'small' AND output > 0;
UPDATE llmquota.budget SET downgrade_to = 'other';
SELECT * FROM answers('one', 'large', 'dear', 'other');
-- a price in another currency counts by its rate
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('THB', 0.03);
INSERT INTO llmquota.price (model, valid_from, input, output, currency) VALUES ('other', now(), 334000000, 0, 'THB');
SELECT * FROM answers('one', 'large');
UPDATE llmquota.price SET input = 333000000 WHERE currency = 'THB';
SELECT * FROM answers('one', 'large');
DELETE FROM llmquota.price WHERE currency = 'THB';
-- nobody knows what a model without a price costs: the budget is right, and then it is an error
UPDATE llmquota.budget SET downgrade_to = 'unpriced';
SELECT * FROM answers('one', 'large');
UPDATE llmquota.budget SET hard_stop = false;
SELECT * FROM answers('one', 'large');
UPDATE llmquota.budget SET downgrade_to = 'small';
SELECT * FROM answers('one', 'unpriced');
CALL clear();

-- only to what can be called now: else the next in its chain, and if none can, the refusal says what was tried
INSERT INTO llmquota.budget (subject, amount, downgrade_at) VALUES ('*', 1000, 0);
CALL spend('two', 995);
UPDATE llmquota.model SET enabled = false WHERE model = 'medium';
SELECT * FROM answers('one', 'large');
UPDATE llmquota.key SET models = '{large,medium,free}' WHERE key = 'k';
SELECT * FROM answers('one', 'large');
-- when no key serves any of them: the budget has others answer, and they are not there; it is spent; nothing is there
UPDATE llmquota.key SET models = '{large,medium}' WHERE key = 'k';
SELECT status, retry_after_ms, refusal - 'budget' AS refusal, refusal -> 'budget' = to_jsonb(b.id) AS by_budget FROM llmquota_pick('large', 'one', 1, 0), llmquota.budget b;
SELECT status, refusal - '{retry_at,budget}'::text[] AS refusal, refusal ->> 'retry_at' IS NOT NULL AS opens FROM llmquota_pick('large', 'two', 1, 0);
SELECT refused FROM llmquota.budget_window WHERE subject = 'two';
SELECT status, refusal - 'budget' AS refusal FROM llmquota_pick('large', 'one', 1, 0, exclude => '{large}');
UPDATE llmquota.key SET models = '{dear}' WHERE key = 'k';
SELECT status, refusal FROM llmquota_pick('large', 'one', 1, 0);
UPDATE llmquota.key SET models = '{large,medium}' WHERE key = 'k';
UPDATE llmquota.model SET enabled = true WHERE model = 'medium';
SELECT * FROM answers('one', 'large');
UPDATE llmquota.key SET models = NULL;
-- its limit is reached
INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per) VALUES ('account', 'a', 'medium', 'requests', 1, '1 hour'), ('org', '*', 'small', 'requests', 1, '1 hour');
SELECT model, downgraded FROM llmquota_pick('large', 'one', 1, 0);
SELECT model, downgraded FROM llmquota_pick('large', 'one', 1, 0);
SELECT model, downgraded FROM llmquota_pick('large', 'one', 1, 0);
-- it is not asked for just now, or excluded
SELECT count(llmquota_cool('model', 'free', 600000));
SELECT status, refusal - '{retry_at,quota}'::text[] AS refusal FROM llmquota_pick('large', 'one', 1, 0);
SELECT llmquota_clear('model', 'free');
SELECT model, downgraded FROM llmquota_pick('large', 'two', 1, 0, exclude => '{medium}');
DELETE FROM llmquota.quota;
CALL clear();
-- nor does a chain lead to what is dearer
UPDATE llmquota.model SET downgrade_to = NULL WHERE model = 'dear';
UPDATE llmquota.model SET downgrade_to = 'dear' WHERE model = 'small';
INSERT INTO llmquota.budget (subject, amount, downgrade_at) VALUES ('*', 1000, 0);
UPDATE llmquota.key SET models = '{large,dear}' WHERE key = 'k';
SELECT status, refusal - 'budget' AS refusal FROM llmquota_pick('large', 'one', 1, 0);
SELECT * FROM answers('one', 'dear');
UPDATE llmquota.key SET models = NULL;
UPDATE llmquota.model SET downgrade_to = 'free' WHERE model = 'small';
UPDATE llmquota.model SET downgrade_to = 'large' WHERE model = 'dear';
CALL clear();

-- of several budgets the cheapest answer counts, wherever they are; the ledger names its budget
INSERT INTO llmquota.org (org, parent) VALUES ('group', NULL), ('clinic', 'group');
INSERT INTO llmquota.budget (scope, subject, model, family, amount, downgrade_at, downgrade_to) VALUES
	('org', 'clinic', NULL, NULL, 10, 0.5, 'medium'), ('parent', 'group', NULL, NULL, 20, 0.5, 'small'), ('global', '', NULL, NULL, 40, 0.5, 'medium'),
	('provider', 'p', NULL, NULL, 10000, 0.008, 'free'), ('org', 'clinic', NULL, 'f', 1000, 0.005, 'medium'), ('org', 'clinic', 'large', NULL, 1000, 0.0025, 'medium');
UPDATE llmquota.budget SET hard_stop = false;
CREATE FUNCTION by_budget(dollars numeric) RETURNS TABLE (spent numeric, answer text, budget text) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM llmquota_record(lease, cost => dollars) FROM llmquota_pick('large', 'clinic', 1, 0);
	PERFORM llmquota_record(lease, cost => 0, tags => '"last"') FROM llmquota_pick('large', 'clinic', 1, 0);
	SELECT u.model, b.scope || coalesce(' ' || b.model, ' ' || b.family, '') INTO answer, budget
	  FROM llmquota.usage u LEFT JOIN llmquota.budget b ON b.id = u.budget WHERE u.org = 'clinic' AND u.tags = '"last"' ORDER BY u.picked_at DESC LIMIT 1;
	SELECT sum(cost) INTO spent FROM llmquota.usage WHERE org = 'clinic';
	RETURN NEXT;
END $$;
SELECT * FROM by_budget(2.49);
SELECT * FROM by_budget(0.01);
SELECT * FROM by_budget(2.49);
SELECT * FROM by_budget(0.01);
SELECT * FROM by_budget(5);
SELECT * FROM by_budget(70);
-- another org of the group, and one of neither
SELECT * FROM answers('group', 'large');
SELECT * FROM answers('stranger', 'large');
CALL clear();

-- what a budget of one model asks for is only of calls of that model
INSERT INTO llmquota.budget (subject, model, amount, downgrade_at, downgrade_to) VALUES
	('clinic', 'large', 100, 0, 'small'), ('clinic', 'small', 1, 0, 'free');
SELECT * FROM answers('clinic', 'large', 'medium', 'small');
-- but it must have room for what answers in another's place, or the next one does
SELECT model FROM llmquota_pick('large', 'clinic', 1, 0);
SELECT model, downgraded FROM llmquota_pick('large', 'clinic', 1, 0);
UPDATE llmquota.model SET downgrade_to = NULL WHERE model = 'small';
SELECT status, refusal - '{retry_at,budget}'::text[] AS refusal FROM llmquota_pick('large', 'clinic', 1, 0);
UPDATE llmquota.model SET downgrade_to = 'free' WHERE model = 'small';
CALL clear();

-- budgets of keys and accounts have nothing else answer: another key may serve
INSERT INTO llmquota.budget (scope, subject, amount, downgrade_at, downgrade_to) VALUES ('account', 'a', 100, 0, 'free'), ('key', 'k', 100, 0, 'free');
SELECT * FROM answers('one', 'large');
CALL clear();
-- nor has one that only observes, or is not rolled out
INSERT INTO llmquota.budget (subject, amount, downgrade_at, downgrade_to, mode, rollout) VALUES ('one', 10, 0, 'free', 'observe', 1), ('*', 10, 0, 'free', 'enforce', 0);
SELECT * FROM answers('one', 'large');
SELECT * FROM answers('two', 'large');
UPDATE llmquota.budget SET mode = 'enforce', rollout = 1;
SELECT * FROM answers('one', 'large');
SELECT * FROM answers('two', 'large');
CALL clear();
-- nor a total before it begins
INSERT INTO llmquota.budget (subject, amount, calendar, per, starts_at, downgrade_at) VALUES ('one', 10, 'total', NULL, now() + '1 day', 0), ('two', 10, 'total', NULL, now() - interval '1 day', 0);
SELECT * FROM steps('one', 'large', 0, 20);
SELECT * FROM steps('two', 'large', 0);
CALL clear();

-- models of a route, one by one
INSERT INTO llmquota.route (route, step, model) VALUES ('chat', 1, 'large'), ('chat', 2, 'other'), ('chat', 3, 'dear');
INSERT INTO llmquota.budget (subject, amount, downgrade_at) VALUES ('*', 1000, 0);
SELECT model, downgraded FROM llmquota_pick('chat', 'one', 1, 0);
SELECT model, downgraded FROM llmquota_pick('chat', 'one', 1, 0, exclude => '{medium}');
UPDATE llmquota.key SET models = '{large,dear}' WHERE key = 'k';
SELECT status, refusal FROM llmquota_pick('chat', 'one', 1, 0);
UPDATE llmquota.key SET models = '{large,dear,small}' WHERE key = 'k';
SELECT rank, step, model, verdict FROM llmquota_explain('chat', 'one', 1, 0);
UPDATE llmquota.key SET models = NULL WHERE key = 'k';
SELECT rank, step, model, verdict FROM llmquota_explain('chat', 'one', 1, 0);
-- a downgrade of what the caller says that it costs, and the attempt after one that failed
SELECT lease AS first FROM llmquota_pick('large', 'one', 1, 0, max_cost => 0.5) \gset
SELECT used FROM llmquota.budget_window WHERE subject = 'one';
SELECT model, downgraded, attempt FROM llmquota_retry(:'first', http_status => 404, error => 'The model `medium` does not exist');
SELECT llmquota_clear() > 0 AS cleared;
SELECT used FROM llmquota.budget_window WHERE subject = 'one';
SELECT requested_model, model, status, cost FROM llmquota.usage WHERE lease = :'first';
CALL clear();
-- a model's name is the name of now
INSERT INTO llmquota.budget (subject, amount, downgrade_at, downgrade_to) VALUES ('one', 1000, 0, 'medium');
INSERT INTO llmquota.budget_step SELECT id, 0.5, 'small' FROM llmquota.budget;
SELECT llmquota_rename('model', 'small', 'tiny'), llmquota_rename('model', 'large', 'huge');
CALL spend('one', 500);
SELECT * FROM answers('one', 'large');
SELECT lease FROM llmquota_pick('large', 'one', 1, 0) \gset
SELECT llmquota_rename('model', 'huge', 'vast');
SELECT status FROM llmquota_record(:'lease', 1, 0);
SELECT requested_model, model FROM llmquota.usage WHERE lease = :'lease';
CALL clear();
SELECT * FROM llmquota_verify();
