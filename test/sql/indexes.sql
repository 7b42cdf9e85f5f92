-- Every index of the history serves a query that the reference shows, or one of maintenance, at the size of a month. From
-- 18 on an index is also used for its second column (a skip scan): indexes_1.out.
\pset null -
-- The indexes that a query is planned with; the day in a name is that of the test.
CREATE FUNCTION planned_with(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	plan jsonb;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT JSON) ' || query INTO plan;
	RETURN (SELECT string_agg(DISTINCT regexp_replace(n #>> '{}', '[0-9]{8}', 'DAY'), ', ') FROM jsonb_path_query(plan, '$.**."Index Name"') n);
END $$;

INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org, model, key, status, request_id)
SELECT gen_random_uuid(), d.at, d.at, 'clinic-' || i % 50, 'm', 'k', 'ok', 'r' || i
  FROM generate_series(1, 60000) i CROSS JOIN LATERAL (SELECT date_trunc('day', now(), 'UTC') + i * interval '1 s') d (at);
SELECT FROM llmquota_maintain();
INSERT INTO llmquota.usage_hourly
SELECT 'clinic-' || o, 'm', 'k' || k, now() - h * interval '1 hour', 1, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0, '{}'
  FROM generate_series(1, 720) h, generate_series(1, 20) o, generate_series(1, 4) k;
INSERT INTO llmquota.refusal_hourly
SELECT now() - h * interval '1 hour', 'clinic-' || o, 'r', 'rate_limited', q, 1, 1, now(), now()
  FROM generate_series(1, 720) h, generate_series(1, 20) o, generate_series(1, 4) q;
INSERT INTO llmquota.refusal_sample (minute, org, quota, status, refused_at, route, priority)
SELECT now() - m * interval '1 minute', 'clinic-' || o, 1, 'rate_limited', now(), 'r', 'normal'
  FROM generate_series(1, 3000) m, generate_series(1, 20) o;
INSERT INTO llmquota.change (changed_at, changed_by, relation, action, item)
SELECT now() - m * interval '1 minute', 'somebody', 'key', 'update', '{}' FROM generate_series(1, 10000) m;
INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org)
SELECT gen_random_uuid(), '2001-01-01'::timestamptz + i * interval '1 s', now(), 'o' FROM generate_series(1, 20000) i;
VACUUM ANALYZE llmquota.usage, llmquota.usage_hourly, llmquota.refusal_hourly, llmquota.refusal_sample, llmquota.change;

SELECT q.what, planned_with(q.query) FROM (VALUES
	('a call by its lease', 'SELECT * FROM llmquota.usage WHERE lease = ''00000000-0000-0000-0000-000000000000'' AND picked_at = now()'),
	('calls of an hour', 'SELECT count(*) FROM llmquota.usage WHERE picked_at >= date_trunc(''day'', now(), ''UTC'') AND picked_at < date_trunc(''day'', now(), ''UTC'') + interval ''10 minutes'''),
	('what a round has to count', format('SELECT * FROM %s WHERE recorded_in >= %s', to_char(now() AT TIME ZONE 'UTC', '"llmquota.usage_"YYYYMMDD'), txid_current())),
	('the first day that waits for a partition', 'SELECT min(picked_at) FROM llmquota.usage_default'),
	('load by key', 'SELECT key, sum(calls) FROM llmquota.usage_hourly WHERE hour > now() - interval ''1 day'' GROUP BY key'),
	('one org by the hour', 'SELECT hour, sum(calls) FROM llmquota.usage_hourly WHERE org = ''clinic-7'' AND hour > now() - interval ''1 day'' GROUP BY hour'),
	('refusals by reason', 'SELECT org, status, sum(count) FROM llmquota.refusal_hourly WHERE hour > now() - interval ''1 day'' GROUP BY org, status'),
	('refusals of one org', 'SELECT * FROM llmquota.refusal_hourly WHERE org = ''clinic-7'' AND hour > now() - interval ''1 day'''),
	('why was clinic-7 refused', 'SELECT * FROM llmquota.refusal_sample WHERE org = ''clinic-7'' AND minute > now() - interval ''1 day'''),
	('samples past their retention', 'SELECT * FROM llmquota.refusal_sample WHERE minute < now() - interval ''2990 minutes'''),
	('the last changes', 'SELECT relation, action, item FROM llmquota.change ORDER BY changed_at DESC LIMIT 2')) q (what, query);

-- no index of these tables is without such a query
SELECT regexp_replace(i.indexrelid::regclass::text, '[0-9]{8}', 'DAY') AS index
  FROM pg_index i
 WHERE i.indrelid = ANY (ARRAY(SELECT inhrelid FROM pg_inherits WHERE inhparent = 'llmquota.usage'::regclass)::regclass[]
	|| '{llmquota.usage_hourly,llmquota.refusal_hourly,llmquota.refusal_sample,llmquota.change}'::regclass[])
 GROUP BY 1 ORDER BY 1;
