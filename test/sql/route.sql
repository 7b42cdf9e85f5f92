-- Which models a route means: names, an org's own routes, steps in their order, and what is switched off.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai'), ('q', 'gemini'), ('off', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('p-1', 'p'), ('q-1', 'q'), ('off-1', 'off');
INSERT INTO llmquota.key (key, account) VALUES ('p-key', 'p-1'), ('q-key', 'q-1'), ('off-key', 'off-1');
INSERT INTO llmquota.model (model, provider)
	VALUES ('large', 'p'), ('small', 'p'), ('other', 'q'), ('idle', 'off'), ('chat', 'p');
INSERT INTO llmquota.route (route, step, model) VALUES
	('chat', 1, 'large'), ('chat', 2, 'other'), ('fast', 7, 'small'), ('fast', 3, 'other'), ('lame', 1, 'idle'),
		('lame', 2, 'small'), ('dead', 1, 'idle');
INSERT INTO llmquota.route (route, org, step, model)
	VALUES ('chat', 'clinic-7', 1, 'small'), ('own', 'clinic-7', 1, 'other'), ('small', 'clinic-8', 1, 'other');
CREATE FUNCTION try(route text, org text DEFAULT '', exclude text[] DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE p record;
BEGIN
	SELECT * INTO p FROM llmquota_pick(route, org, exclude => exclude);
	PERFORM llmquota_release(p.lease) WHERE p.lease IS NOT NULL;
	RETURN concat_ws(' ', p.status, p.model, p.key);
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$;

-- a model's name is a route of one step; a route's name wins over it
SELECT try('small') AS small, try('other') AS other, try('chat') AS chat;
-- the lowest step first, whatever its number and the order of the rows; the next one when it cannot serve
SELECT try('fast') AS fast, try('fast', '', '{q-key}') AS without_q, try('fast', '', '{other,small}') AS without_both;
-- an org's own definition replaces the common one, steps and all; others do not have it
SELECT try('chat', 'clinic-7') AS own, try('chat', 'clinic-7', '{small}') AS own_excluded,
	try('chat', 'clinic-8') AS common;
SELECT try('own', 'clinic-7') AS own, try('own', 'clinic-8') AS of_another, try('own') AS anonymous;
-- it wins over a model's name, too
SELECT try('small', 'clinic-8') AS own, try('small', 'clinic-7') AS model;
-- an org cannot reach another's route by a name that contains a separator
SELECT try(E'clinic-7\nown') AS forged, try('own', E'clinic-7\n') AS forged_org;
-- the lease remembers the name that was asked for
SELECT l.route, l.model FROM llmquota_pick('chat', 'clinic-7') p JOIN llmquota.lease l USING (lease);
SELECT l.route, l.model FROM llmquota_pick('fast') p JOIN llmquota.lease l USING (lease);

-- a disabled provider, account, key or model serves nothing; the next step does
SELECT try('idle') AS before;
UPDATE llmquota.provider SET enabled = false WHERE provider = 'off';
SELECT try('idle') AS provider_off, try('lame') AS next_step, try('dead') AS no_step;
UPDATE llmquota.provider SET enabled = true;
UPDATE llmquota.account SET enabled = false WHERE account = 'off-1';
SELECT try('idle') AS account_off, try('lame') AS next_step, try('dead') AS no_step;
UPDATE llmquota.account SET enabled = true;
UPDATE llmquota.key SET enabled = false WHERE key = 'off-key';
SELECT try('idle') AS key_off, try('lame') AS next_step, try('dead') AS no_step;
UPDATE llmquota.key SET enabled = true;
UPDATE llmquota.model SET enabled = false WHERE model = 'idle';
SELECT try('idle') AS model_off, try('lame') AS next_step, try('dead') AS no_step;
UPDATE llmquota.model SET enabled = true;
SELECT try('idle') AS after;
-- a key may be for some models only
UPDATE llmquota.key SET models = '{large,chat}' WHERE key = 'p-key';
SELECT try('large') AS listed, try('small') AS not_listed, try('chat') AS first_step;
UPDATE llmquota.key SET models = '{}' WHERE key = 'p-key';
SELECT try('large') AS none_listed, try('chat') AS next_step;
UPDATE llmquota.key SET models = NULL WHERE key = 'p-key';
SELECT try('small') AS all_again;

-- a route whose first step is full goes on to the next, and refuses when all are
INSERT INTO llmquota.quota (scope, subject, metric, amount)
	VALUES ('key', 'p-key', 'concurrency', 1), ('key', 'q-key', 'concurrency', 1);
SELECT status, model FROM llmquota_pick('chat');
SELECT status, model FROM llmquota_pick('chat');
SELECT status, model FROM llmquota_pick('chat');
-- a route that is gone, and one that comes back
DELETE FROM llmquota.quota;
DELETE FROM llmquota.route WHERE route = 'fast';
SELECT try('fast');
INSERT INTO llmquota.route (route, step, model) VALUES ('fast', 1, 'large');
SELECT try('fast');
