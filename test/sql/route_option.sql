-- How a route chooses and tries again is configured by llmquota.route_option: what is refused there, and whom a row is for.
\set SHOW_CONTEXT never
\pset null -
SET client_min_messages = warning;

-- Runs a statement for each of several values in place of %L, and says what came of it: ok, or SQLSTATE, message and hint.
CREATE FUNCTION attempt(statement text, VARIADIC candidates text[]) RETURNS TABLE (value text, result text) LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	FOREACH value IN ARRAY candidates LOOP
		BEGIN
			EXECUTE format(statement, value);
			result := 'ok';
			RAISE SQLSTATE 'ZZ000';
		EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
			NULL;
		WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
			result := concat_ws(E'\n', SQLSTATE || ' ' || SQLERRM, nullif(hint, ''));
		END;
		value := CASE WHEN octet_length(value) > 40 THEN left(value, 2) || ' ... (' || octet_length(value) || ' bytes)' ELSE value END;
		RETURN NEXT;
	END LOOP;
END $$;

-- the table
SELECT * FROM attempt($$INSERT INTO llmquota.route_option (route) VALUES (%L)$$, NULL, '', repeat('x', 129), repeat('x', 128), 'no route yet');
SELECT * FROM attempt($$INSERT INTO llmquota.route_option (route, org) VALUES ('r', %L)$$, NULL, '*', repeat('x', 129), '', 'clinic-7');
SELECT * FROM attempt($$INSERT INTO llmquota.route_option (route, strategy) VALUES ('r', %L)$$,
	NULL, '', 'random', 'Sticky', 'least_used', 'weighted', 'round_robin', 'lowest_latency', 'cheapest', 'sticky');
SELECT * FROM attempt($$INSERT INTO llmquota.route_option (route, max_attempts) VALUES ('r', %L)$$, NULL, '0', '9', '1', '8');
SELECT * FROM attempt($$INSERT INTO llmquota.route_option (route, deadline_ms) VALUES ('r', %L)$$, NULL, '99', '86400001', '100', '86400000');
SELECT * FROM attempt($$INSERT INTO llmquota.route_option (route, retry_same_model) VALUES ('r', %L)$$, NULL, 'true');
SELECT * FROM attempt($$INSERT INTO llmquota.route_option (route, params) VALUES ('r', %L)$$,
	'{', '[]', '"explore"', 'null', '{"exploration": 1}', '{"explore": "0.1"}', '{"explore": null}', '{"explore": -0.001}', '{"explore": 1.001}',
	'{"session_ttl_ms": -1}', '{"session_ttl_ms": 2764800001}', '{"session_ttl_ms": []}',
	NULL, '{}', '{"explore": 0}', '{"explore": 1, "session_ttl_ms": 0}', '{"session_ttl_ms": 2764800000}');
INSERT INTO llmquota.route_option (route) VALUES ('r'), ('s');
SELECT * FROM attempt($$INSERT INTO llmquota.route_option (route) VALUES (%L)$$, 'r');
SELECT * FROM attempt($$UPDATE llmquota.route_option SET strategy = %L$$, 'random');
SELECT * FROM attempt($$UPDATE llmquota.route_option SET params = %L$$, '{"explore": 2}');
SELECT * FROM llmquota.route_option ORDER BY route;
DELETE FROM llmquota.route_option;

-- weights
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('n', 'p');
SELECT * FROM attempt($$INSERT INTO llmquota.key (key, account, weight) VALUES ('k', 'a', %L)$$, NULL, '-1', '1000001', '0', '1000000');
SELECT * FROM attempt($$INSERT INTO llmquota.route (route, step, model, weight) VALUES ('r', 1, 'm', %L)$$, NULL, '-1', '1000001', '0', '1000000');

-- its changes are in the history
INSERT INTO llmquota.route_option (route, org, strategy) VALUES ('r', 'clinic-7', 'sticky');
UPDATE llmquota.route_option SET params = '{"session_ttl_ms": 60000}';
DELETE FROM llmquota.route_option;
SELECT action, item, old_values, new_values FROM llmquota.change WHERE relation = 'route_option' ORDER BY changed_at DESC, action LIMIT 3;
