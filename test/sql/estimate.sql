-- How many input tokens a call is supposed to have: what the prompt comes to, by what calls of the model have taught.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('other', 'p'), ('mean', 'p'), ('late', 'p'), ('said', 'p');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('account', 'a', 'input_tokens', 100000000, '1 day');

CREATE TABLE text_of (kind text PRIMARY KEY, prompt text);
INSERT INTO text_of VALUES
	('english', repeat('The patient was admitted with a persistent cough, and was given antibiotics for a week. ', 20)),
	('russian', repeat('Пациент поступил с постоянным кашлем и неделю получал антибиотики. ', 20)),
	('chinese', repeat('患者因持续咳嗽入院，接受了一周的抗生素治疗。', 20));

-- One call of a model with a text of some kind that has so many times the tokens it is estimated at without calibration.
CREATE FUNCTION call(model text, kind text, times numeric) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	text_ text := (SELECT t.prompt FROM text_of t WHERE t.kind = $2);
	picked uuid := (SELECT lease FROM llmquota_pick($1, prompt => text_));
BEGIN
	RETURN (SELECT status FROM llmquota_record(picked, round(times * llmquota_estimate_tokens(text_))::bigint, 0));
END $$;

-- By how much the estimate for a model is above or below a number of times the one without calibration, in percent.
CREATE FUNCTION error(model text, kind text, times numeric DEFAULT 1) RETURNS int LANGUAGE sql AS $$
SELECT round(100 * (llmquota_estimate_tokens(t.prompt, $1) / (times * llmquota_estimate_tokens(t.prompt)) - 1))::int
  FROM text_of t WHERE t.kind = $2
$$;

-- without calibration, against what o200k_base has; how good estimates are, the suite `estimate` measures
SELECT kind, octet_length(prompt) AS bytes, tokens, abs(llmquota_estimate_tokens(prompt)::numeric / tokens - 1) < 0.25 AS near
  FROM text_of JOIN (VALUES ('english', 341), ('russian', 341), ('chinese', 380)) v (kind, tokens) USING (kind) ORDER BY kind;
SELECT llmquota_estimate_tokens('') AS nothing, llmquota_estimate_tokens(NULL) AS unknown, llmquota_estimate_tokens('x') AS letter;
-- a model that was never called is estimated without calibration; one that is not there is an error
SELECT error('m', 'english');
SELECT llmquota_estimate_tokens('Hello', 'nobody''s');
SELECT llmquota_estimate_tokens(repeat('x', 16 * 1024 * 1024 + 1));
SELECT status FROM llmquota_pick('m', prompt => repeat('x', 16 * 1024 * 1024 + 1));
SELECT llmquota_estimate_tokens(repeat('a b ', 4 * 1024 * 1024)) BETWEEN 4000000 AND 9000000 AS sixteen_megabytes;

-- a pick reserves the estimate, unless it is told how many tokens there are; an empty prompt says nothing
SELECT status FROM llmquota_pick('m', prompt => (SELECT prompt FROM text_of WHERE kind = 'english'), session => 'a: a prompt');
SELECT status FROM llmquota_pick('m', input_tokens => 7, prompt => (SELECT prompt FROM text_of WHERE kind = 'english'), session => 'b: both');
SELECT status FROM llmquota_pick('m', '', 0, 10, prompt => (SELECT prompt FROM text_of WHERE kind = 'english'), session => 'c: none said');
SELECT status FROM llmquota_pick('m', '', NULL, 10, NULL, NULL, 'd: by position', NULL, NULL, 'Hi!');
SELECT status FROM llmquota_pick('m', prompt => '', session => 'e: empty');
SELECT status FROM llmquota_pick('m', session => 'f: nothing');
SELECT session, reserved_input = llmquota_estimate_tokens(CASE left(session, 1) WHEN 'a' THEN prompt WHEN 'd' THEN 'Hi!' END) AS is_the_estimate,
	   CASE WHEN left(session, 1) IN ('b', 'c', 'e', 'f') THEN reserved_input END AS reserved_input
  FROM llmquota.lease, text_of WHERE kind = 'english' ORDER BY session COLLATE "C";
SELECT metric, used = (SELECT sum(reserved_input) FROM llmquota.lease) AS charged FROM llmquota.meter_window;
-- a prompt that can never fit is refused for good
UPDATE llmquota.quota SET amount = 300;
SELECT status, refusal ->> 'metric' AS metric, (refusal ->> 'requested')::int = llmquota_estimate_tokens(prompt) AS requested
  FROM text_of, llmquota_pick('m', prompt => prompt) WHERE kind = 'english';
UPDATE llmquota.quota SET amount = 100000000;
SELECT count(*) FROM llmquota.lease l, llmquota_release(l.lease);

-- calls that have 1.6 times the tokens teach it, for their script and model; a little more is reserved than was seen
SELECT call('m', 'english', 1.6), count(*) FROM generate_series(1, 200) GROUP BY 1;
SELECT error('m', 'english', 1.6) BETWEEN -1 AND 5 AS learned, error('m', 'chinese') AS other_script, error('other', 'english') AS other_model;
SELECT reserved_input = llmquota_estimate_tokens(prompt, 'm') AS reserved
  FROM text_of, llmquota_pick('m', prompt => prompt) p JOIN llmquota.lease l USING (lease) WHERE kind = 'english';
SELECT call('m', 'chinese', 0.7), count(*) FROM generate_series(1, 200) GROUP BY 1;
SELECT error('m', 'chinese', 0.7) BETWEEN -1 AND 5 AS learned, error('m', 'english', 1.6) BETWEEN -1 AND 5 AS still_known,
	   error('m', 'russian') BETWEEN 0 AND 10 AS only_by_its_commas;
-- by now one call in eight teaches, so that what changes is learned too
SELECT call('m', 'english', 1), count(*) FROM generate_series(1, 5000) GROUP BY 1;
SELECT error('m', 'english') BETWEEN -5 AND 5 AS learned_anew;

-- it stays with a model that is renamed
SELECT llmquota_rename('model', 'm', 'renamed');
SELECT error('renamed', 'chinese', 0.7) BETWEEN -1 AND 5 AS still_known;
-- and with the name, when the model is deleted and comes back
DELETE FROM llmquota.model WHERE model = 'renamed';
SELECT llmquota_estimate_tokens('Hello', 'renamed');
INSERT INTO llmquota.model (model, provider) VALUES ('renamed', 'p');
SELECT error('renamed', 'chinese', 0.7) BETWEEN -1 AND 5 AS still_known;

-- what teaches nothing: a failure, no figures, a release, figures of a call that had no prompt, too short a prompt
CREATE TABLE english AS SELECT prompt FROM text_of WHERE kind = 'english';
SELECT (llmquota_record(lease, 5000, http_status => 500)).status FROM english, llmquota_pick('other', prompt => prompt);
SELECT (llmquota_record(lease, 5000, error => 'cut')).status FROM english, llmquota_pick('other', prompt => prompt);
SELECT llmquota_record(lease) FROM english, llmquota_pick('other', prompt => prompt);
SELECT llmquota_record(lease, output_tokens => 10) FROM english, llmquota_pick('other', prompt => prompt);
SELECT llmquota_release(lease) FROM english, llmquota_pick('other', prompt => prompt);
SELECT count(*) AS of_m_alone FROM llmquota.health WHERE kind = 'c';
SELECT llmquota_record(lease, 5000, 1) FROM english, llmquota_pick('other', input_tokens => 10, prompt => prompt);
SELECT llmquota_record(lease, 500, 1) FROM llmquota_pick('other', prompt => 'Hello');
SELECT error('other', 'english');

-- a record that is repeated teaches once, also when its transaction was rolled back
SELECT lease FROM english, llmquota_pick('late', prompt => prompt) \gset
BEGIN;
SELECT status FROM llmquota_record(:'lease', 1000, 10);
ROLLBACK;
SELECT llmquota_estimate_tokens(prompt, 'late') AS taught, llmquota_estimate_tokens(prompt, 'late') > llmquota_estimate_tokens(prompt) AS more FROM english \gset
SELECT :'more' AS learned_in_spite_of_the_rollback;
SELECT status FROM llmquota_record(:'lease', 1000, 10);
SELECT status FROM llmquota_record(:'lease', 1000, 10);
SELECT llmquota_estimate_tokens(prompt, 'late') = :taught AS once FROM english;
-- a late one teaches too
SELECT lease FROM english, llmquota_pick('late', prompt => prompt, ttl_ms => 1) \gset
DO $$ BEGIN WHILE (SELECT expired FROM llmquota_maintain()) = 0 LOOP END LOOP; END $$;
SELECT status FROM llmquota_record(:'lease', 1000, 10);
SELECT llmquota_estimate_tokens(prompt, 'late') > :taught AS more FROM english;

-- when nothing is given: what the setting says, and once calls were recorded what they had of late
CREATE FUNCTION reserved(model text) RETURNS int LANGUAGE sql AS $$
SELECT l.reserved_input FROM llmquota_pick($1) p JOIN llmquota.lease l USING (lease)
$$;
SELECT reserved('mean');
SELECT llmquota_record(lease, 400, 1) FROM llmquota_pick('mean');
SELECT reserved('mean');
SELECT llmquota_record(lease, 600, 1) FROM llmquota_pick('mean', input_tokens => 1);
SELECT reserved('mean');
SELECT count(llmquota_record(lease, 300, 1)) FROM generate_series(1, 200), llmquota_pick('mean', request_id => generate_series::text);
SELECT reserved('mean') BETWEEN 299 AND 302 AS of_late;
-- nobody can move it far by one call; a call of nothing does not count
DELETE FROM llmquota.quota;
SELECT llmquota_record(lease, 2147483647, 1) FROM llmquota_pick('mean');
SELECT reserved('mean') BETWEEN 340 AND 380 AS bounded;
SELECT llmquota_record(lease, 0, 1) FROM llmquota_pick('mean');
SELECT reserved('mean') BETWEEN 340 AND 380 AS the_same;
-- the first call too counts for no more than eight times the setting
SELECT llmquota_record(lease, 2147483647, 1) FROM llmquota_pick('said');
SELECT reserved('said');
