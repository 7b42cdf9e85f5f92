-- What a record takes out of a provider's own usage object, and what it does with one it does not understand.
\set SHOW_CONTEXT never
\pset null -

INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.quota (scope, subject, metric, amount, per, counts_cached) VALUES
	('org', '*', 'input_tokens', 1000000, '1 day', true), ('org', '*', 'output_tokens', 1000000, '1 day', true),
	('account', '*', 'input_tokens', 1000000, '1 day', false);

-- Makes a pick that reserves 100 and 50 tokens, and settles it as the statement says: what the ledger has then, and what is
-- charged for it, of the input without what came from the cache.
CREATE FUNCTION settle(arguments text, n int) RETURNS TABLE (source text, input int, cached int, cache_write int, output int,
	reasoning int, charged_input bigint, uncached bigint, charged_output bigint) LANGUAGE plpgsql AS $$
DECLARE
	picked uuid;
BEGIN
	SELECT p.lease INTO picked FROM llmquota_pick('m', 'org ' || n, 100, 50) p;
	SELECT sum(m.used) INTO uncached FROM llmquota.meter_window m WHERE m.scope = 'account';
	EXECUTE format('SELECT usage_source FROM llmquota_record(%L, %s)', picked, arguments) INTO source;
	SELECT u.input_tokens, u.cached_tokens, u.cache_write_tokens, u.output_tokens, u.reasoning_tokens
	  INTO input, cached, cache_write, output, reasoning FROM llmquota.usage u WHERE u.lease = picked;
	SELECT sum(m.used) FILTER (WHERE m.metric = 'input_tokens'), sum(m.used) FILTER (WHERE m.metric = 'output_tokens')
	  INTO charged_input, charged_output FROM llmquota.meter_window m WHERE m.subject = 'org ' || n;
	uncached := (SELECT sum(m.used) FROM llmquota.meter_window m WHERE m.scope = 'account') - uncached + 100;
	RETURN NEXT;
END $$;

-- each provider's object, alone, as the last chunk of a stream, and within the whole answer
CREATE TABLE answer (n int PRIMARY KEY, name text, usage jsonb);
INSERT INTO answer VALUES
	(1, 'OpenAI, chat', '{"prompt_tokens": 1200, "completion_tokens": 300, "total_tokens": 1500,
		"prompt_tokens_details": {"cached_tokens": 1024}, "completion_tokens_details": {"reasoning_tokens": 120}}'),
	(2, 'OpenAI, the last chunk of a stream', '{"id": "chatcmpl-1", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 12}}'),
	(3, 'OpenAI, Responses', '{"input_tokens": 75, "input_tokens_details": {"cached_tokens": 32}, "output_tokens": 1186,
		"output_tokens_details": {"reasoning_tokens": 1024}, "total_tokens": 1261}'),
	(4, 'Anthropic, whose cache comes on top', '{"input_tokens": 21, "cache_creation_input_tokens": 188, "cache_read_input_tokens": 1024, "output_tokens": 393}'),
	(5, 'Anthropic, the events of a stream', '[{"type": "message_start", "message": {"usage": {"input_tokens": 25, "cache_creation_input_tokens": 0,
		"cache_read_input_tokens": 5, "output_tokens": 1}}}, {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 15}}]'),
	(6, 'Gemini, whose thoughts come on top', '{"promptTokenCount": 120, "cachedContentTokenCount": 50, "candidatesTokenCount": 40, "thoughtsTokenCount": 300, "totalTokenCount": 460}'),
	(7, 'Gemini, the whole answer', '{"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 8, "candidatesTokenCount": 4, "totalTokenCount": 12}}'),
	(8, 'Groq, the last chunk of a stream', '{"choices": [], "x_groq": {"id": "req_1", "usage": {"prompt_tokens": 18, "completion_tokens": 556, "total_tokens": 574}}}');
SELECT a.name, s.* FROM answer a, settle(format('usage => %L', a.usage), a.n) s ORDER BY a.n;

-- figures that are given win over the object's; an event without figures says nothing, nor does null
SELECT s.* FROM settle($$5, usage => '{"prompt_tokens": 9, "completion_tokens": 12}'$$, 11) s;
SELECT s.* FROM settle($$usage => '{"choices": [{"delta": {"content": "Hi"}}], "usage": null}'$$, 13) s;
SELECT s.* FROM settle($$usage => 'null'$$, 14) s;
-- what nobody understands is no reason to lose a record: the reservation stands, and there is a warning
SELECT s.* FROM settle($$usage => '{"tokens": 12}'$$, 15) s;
SELECT s.* FROM settle($$usage => '"12 tokens"'$$, 16) s;
-- what is too large is refused, and so are figures that contradict each other; the lease is still to be recorded
SELECT lease FROM llmquota_pick('m', 'org 17', 100, 50) \gset
SELECT llmquota_record(:'lease', usage => jsonb_build_object('prompt_tokens', 1, 'more', (SELECT jsonb_agg(n) FROM generate_series(1, 10000) n)));
SELECT llmquota_record(:'lease', cached_tokens => 20, usage => '{"prompt_tokens": 9, "completion_tokens": 12}');
SELECT status, usage_source FROM llmquota_record(:'lease', usage => '{"prompt_tokens": 9, "completion_tokens": 12}');
-- a failure may have used something too
SELECT s.* FROM settle($$usage => '{"input_tokens": 25, "output_tokens": 3}', http_status => 529$$, 12) s;
