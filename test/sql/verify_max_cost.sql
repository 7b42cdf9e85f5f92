-- The ledger does not say what a pick's max_cost was. So verification cannot tell by how much a call whose slot is gone has
-- exceeded it, and when the call's own part has left a sliding window it takes no excess that is there for too much.
INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
INSERT INTO llmquota.price (model, input, output) VALUES ('m', 1000000, 1000000);
INSERT INTO llmquota.budget (subject, amount, currency, calendar, per, downgrade_at) VALUES ('clinic', 1000, 'USD', NULL, '2 seconds', NULL);
CREATE PROCEDURE wait_until(at timestamptz) LANGUAGE plpgsql AS $$
BEGIN
	WHILE clock_timestamp() < at LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;

-- reserved are 10 tokens' worth by the tokens, 1 by max_cost, and 9 are used, a second later: 8 more than was reserved
SELECT lease, granted_at FROM llmquota_pick('m', 'clinic', 5, 5, max_cost => 1) \gset
CALL wait_until(timestamptz :'granted_at' + interval '1 second');
SELECT status, cost FROM llmquota_record(:'lease', 4, 5);
-- somebody else has its slot
DO $$
BEGIN
	WHILE EXISTS (SELECT FROM llmquota_lease_rows() r JOIN llmquota.usage u USING (lease) WHERE u.org = 'clinic') LOOP
		PERFORM llmquota_pick('m', 'another');
	END LOOP;
END
$$;
-- the bucket of the pick has left the window, and that of the record has not, unless this takes very long
CALL wait_until(timestamptz :'granted_at' + interval '2.1 seconds');
SELECT status FROM llmquota_pick('m', 'clinic', 0, 0);
SELECT * FROM llmquota_verify();
