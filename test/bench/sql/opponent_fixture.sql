-- The configuration of the rate measures for the PL/pgSQL pick: :orgs clinics, 12 keys in 5 accounts, :slots calls in
-- flight.  The other amounts are so high that nothing is refused.

INSERT INTO bench.account (id, model, account, provider, base_url, provider_model, req_amount, tok_amount, day_amount,
	slots, keys, secret_refs)
SELECT n, 'gpt-4o', 'account-' || n, 'openai', 'https://api.openai.com/v1', 'gpt-4o-2024-08-06',
	100000000, 100000000000, 100000000, :slots,
	array_agg('key-' || to_char(k, 'FM00')), array_agg('env:OPENAI_KEY_' || to_char(k, 'FM00'))
FROM generate_series(1, 5) n, generate_series(1, 12) k
WHERE k % 5 = n - 1
GROUP BY n;

INSERT INTO bench.org (org, req_amount, flight_amount)
SELECT 'clinic-' || n, 1000000, 1000000 FROM generate_series(1, :orgs) n
UNION ALL SELECT '*', 1000000, 1000000;

INSERT INTO bench.ring (owner) SELECT id::text FROM bench.account UNION ALL SELECT org FROM bench.org;
INSERT INTO bench.slot (id) SELECT generate_series(1, :slots);
VACUUM ANALYZE;
