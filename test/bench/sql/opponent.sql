-- The yardsticks inside PostgreSQL: the empty C function, and llmquota_pick's job in PL/pgSQL.
--
-- How the PL/pgSQL pick is made fast, without promising less (no limit is split into shares: a share refuses what the
-- whole would grant):
--   * The accounts are tried with SKIP LOCKED in the order of their headroom; only when every one is held by somebody
--     does a pick wait, for one at random.
--   * The global concurrency is not a counter, which everybody would wait for, but a fixed number of slots, one to a
--     call in flight.  The slot is the lease, and its number is part of the lease's name: nothing else has to be
--     inserted, counted or looked up.  A pick tries a few slots at random and searches only when they are taken.
--   * An account's row carries its amounts and its keys, so nothing is joined.
--   * A window is a running sum, the running second and a ring of finished ones.  The ring is a row of its own, touched
--     once a second.  What every pick changes is three small rows on mostly empty pages with indexes only on columns
--     that never change: every update is HOT and pruned in place.
--   * Three statements to a grant: the org, the account, the slot.  What is refused later gives the earlier back in
--     the same transaction, which is cheaper than to lock first and to change afterwards.

CREATE SCHEMA bench;

CREATE TYPE bench.answer AS (
	status text, lease uuid, key text, secret_ref text, account text, provider text, base_url text, model text,
	provider_model text, attempt int, max_output_tokens int, granted_at timestamptz, expires_at timestamptz,
	retry_after_ms int, refusal jsonb);

CREATE FUNCTION bench.empty(route text, org text DEFAULT '', input_tokens bigint DEFAULT NULL,
	max_output_tokens bigint DEFAULT NULL, priority text DEFAULT NULL, exclude text[] DEFAULT NULL,
	session text DEFAULT NULL, request_id text DEFAULT NULL, ttl_ms int DEFAULT NULL) RETURNS bench.answer
	LANGUAGE C VOLATILE AS :'library', 'bench_empty';

CREATE FUNCTION bench.stock(n bigint) RETURNS uuid LANGUAGE C VOLATILE STRICT AS :'library', 'bench_stock';

-- One row for each account and model.
CREATE TABLE bench.account (
	id int NOT NULL, bucket int NOT NULL DEFAULT 0, req_sum int NOT NULL DEFAULT 0, req_now int NOT NULL DEFAULT 0,
	tok_sum bigint NOT NULL DEFAULT 0, tok_now bigint NOT NULL DEFAULT 0, day_sum bigint NOT NULL DEFAULT 0,
	req_amount int NOT NULL, tok_amount bigint NOT NULL, day_amount bigint NOT NULL, slots int NOT NULL,
	model text NOT NULL, account text NOT NULL, provider text NOT NULL, base_url text NOT NULL,
	provider_model text NOT NULL, keys text[] NOT NULL, secret_refs text[] NOT NULL
) WITH (fillfactor = 10, autovacuum_enabled = off);
CREATE UNIQUE INDEX ON bench.account (id);

CREATE TABLE bench.org (
	org text NOT NULL, bucket int NOT NULL DEFAULT 0, req_sum int NOT NULL DEFAULT 0, req_now int NOT NULL DEFAULT 0,
	in_flight int NOT NULL DEFAULT 0, req_amount int NOT NULL, flight_amount int NOT NULL
) WITH (fillfactor = 10);
CREATE UNIQUE INDEX ON bench.org (org);

-- Finished seconds: element s % 61 is second s.  "owner" is an account's id or an org.
CREATE TABLE bench.ring (
	owner text NOT NULL, req int[] NOT NULL DEFAULT array_fill(0, '{61}', '{0}'),
	tok bigint[] NOT NULL DEFAULT array_fill(0::bigint, '{61}', '{0}')
) WITH (fillfactor = 10);
CREATE UNIQUE INDEX ON bench.ring (owner);

-- As many rows, numbered from 1, as calls may be in flight; free where lease is NULL.
CREATE TABLE bench.slot (
	id int NOT NULL, lease uuid, granted_at timestamptz, expires_at timestamptz, account int, key text,
	input_tokens int, output_tokens int, org text, session text, request_id text
) WITH (fillfactor = 15);
CREATE UNIQUE INDEX ON bench.slot (id);

-- Puts the running second "since" away and empties what is older than 60 seconds at second "upto".  The caller holds
-- the owner's row.  Answers what left the window.
CREATE FUNCTION bench.roll(of_owner text, since int, upto int, req_now int, tok_now bigint,
	OUT req_gone int, OUT tok_gone bigint) LANGUAGE plpgsql AS $$
DECLARE
	r bench.ring;
BEGIN
	SELECT * INTO STRICT r FROM bench.ring WHERE owner = of_owner;
	r.req[since % 61] := req_now;
	r.tok[since % 61] := tok_now;
	req_gone := 0;
	tok_gone := 0;
	FOR s IN since + 1 .. least(upto, since + 61) LOOP
		req_gone := req_gone + r.req[s % 61];
		tok_gone := tok_gone + r.tok[s % 61];
		r.req[s % 61] := 0;
		r.tok[s % 61] := 0;
	END LOOP;
	UPDATE bench.ring SET req = r.req, tok = r.tok WHERE owner = of_owner;
END $$;

-- Brings the accounts of the model that nobody holds to this second, and to this day.  False when there was none.
CREATE FUNCTION bench.roll_accounts(of_model text, b int) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	a bench.account;
	g record;
	rolled boolean := false;
BEGIN
	FOR a IN SELECT * FROM bench.account WHERE model = of_model AND bucket < b FOR UPDATE SKIP LOCKED LOOP
		g := bench.roll(a.id::text, a.bucket, b, a.req_now, a.tok_now);
		UPDATE bench.account SET bucket = b, req_sum = req_sum - g.req_gone, req_now = 0,
			tok_sum = tok_sum - g.tok_gone, tok_now = 0,
			day_sum = CASE WHEN bucket / 86400 = b / 86400 THEN day_sum ELSE 0 END
		WHERE id = a.id;
		rolled := true;
	END LOOP;
	RETURN rolled;
END $$;

-- Charges an org whose window has to move on, or that is new.  False when its own limit refuses.
CREATE FUNCTION bench.charge_org_slowly(of_org text, b int) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	o bench.org;
	g record;
BEGIN
	SELECT * INTO o FROM bench.org WHERE org = of_org FOR UPDATE;
	IF NOT FOUND THEN
		INSERT INTO bench.org (org, bucket, req_amount, flight_amount)
			SELECT of_org, b, req_amount, flight_amount FROM bench.org WHERE org = '*' ON CONFLICT DO NOTHING;
		INSERT INTO bench.ring (owner) VALUES (of_org) ON CONFLICT DO NOTHING;
	ELSIF o.bucket < b THEN
		g := bench.roll(of_org, o.bucket, b, o.req_now, 0);
		UPDATE bench.org SET bucket = b, req_sum = req_sum - g.req_gone, req_now = 0 WHERE org = of_org;
	END IF;
	UPDATE bench.org SET req_sum = req_sum + 1, req_now = req_now + 1, in_flight = in_flight + 1
	WHERE org = of_org AND req_sum < req_amount AND in_flight < flight_amount;
	RETURN FOUND;
END $$;

-- The milliseconds until the window of "owner" frees something.
CREATE FUNCTION bench.retry_after(of_owner text, b int) RETURNS int LANGUAGE sql AS $$
	SELECT coalesce(min(s + 61 - b), 1) * 1000 FROM bench.ring, generate_series(b - 60, b) s
	WHERE owner = of_owner AND req[s % 61] > 0
$$;

CREATE FUNCTION bench.refused(status text, scope text, subject text, retry_after_ms int) RETURNS bench.answer
	LANGUAGE sql AS $$
	SELECT ROW(status, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, retry_after_ms,
		jsonb_build_object('scope', scope, 'subject', subject,
			'retry_at', clock_timestamp() + retry_after_ms * interval '1 ms'))::bench.answer
$$;

-- The name of a lease begins with the number of its slot.
CREATE FUNCTION bench.lease_name(slot int) RETURNS uuid LANGUAGE sql VOLATILE AS $$
	SELECT overlay(gen_random_uuid()::text PLACING lpad(to_hex(slot), 8, '0') FROM 1 FOR 8)::uuid
$$;

CREATE FUNCTION bench.pick(route text, of_org text DEFAULT '', want_input bigint DEFAULT 1000,
	want_output bigint DEFAULT 1024, session text DEFAULT NULL, request_id text DEFAULT NULL, ttl_ms int DEFAULT 120000)
	RETURNS bench.answer LANGUAGE plpgsql AS $$
DECLARE
	t timestamptz := clock_timestamp();
	b int := floor(extract(epoch FROM t));
	e timestamptz := t + ttl_ms * interval '1 ms';
	need bigint := want_input + want_output;
	a bench.account;
	holds_one boolean := false;
	waited_for int;
	k int;
	n int;
	l uuid;
BEGIN
	UPDATE bench.org SET req_sum = req_sum + 1, req_now = req_now + 1, in_flight = in_flight + 1
	WHERE org = of_org AND bucket >= b AND req_sum < req_amount AND in_flight < flight_amount;
	IF NOT FOUND AND NOT bench.charge_org_slowly(of_org, b) THEN
		RETURN bench.refused('rate_limited', 'org', of_org, bench.retry_after(of_org, b));
	END IF;

	LOOP
		UPDATE bench.account SET req_sum = req_sum + 1, req_now = req_now + 1, day_sum = day_sum + 1,
			tok_sum = tok_sum + need, tok_now = tok_now + need
		WHERE id = (SELECT id FROM bench.account
			WHERE model = route AND bucket >= b AND req_sum < req_amount AND tok_sum <= tok_amount - need
				AND day_sum < day_amount AND id = coalesce(waited_for, id)
			ORDER BY greatest(req_sum::float8 / req_amount, tok_sum::float8 / tok_amount, day_sum::float8 / day_amount)
			LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING * INTO a;
		EXIT WHEN FOUND;
		IF bench.roll_accounts(route, b) THEN
			holds_one := true;
			CONTINUE;
		END IF;
		IF waited_for IS NOT NULL THEN
			waited_for := NULL;
			CONTINUE;
		END IF;
		-- Nobody who holds an account waits for another one: no deadlock.
		EXIT WHEN holds_one;
		SELECT id INTO waited_for FROM bench.account
		WHERE id = (SELECT id FROM bench.account WHERE model = route ORDER BY random() LIMIT 1) FOR UPDATE;
		EXIT WHEN NOT FOUND;
		holds_one := true;
	END LOOP;
	IF a.id IS NULL THEN
		UPDATE bench.org SET req_sum = req_sum - 1, req_now = req_now - 1, in_flight = in_flight - 1
		WHERE org = of_org;
		RETURN bench.refused('over_capacity', 'account', NULL, (SELECT min(bench.retry_after(id::text, b))
			FROM bench.account WHERE model = route));
	END IF;

	-- A slot at random, else the next free one after it, else any.
	k := 1 + a.req_now % cardinality(a.keys);
	n := 1 + random() * (a.slots - 1);
	LOOP
		l := bench.lease_name(n);
		UPDATE bench.slot SET lease = l, granted_at = t, expires_at = e, account = a.id, key = a.keys[k],
			input_tokens = want_input, output_tokens = want_output, org = of_org, session = pick.session,
			request_id = pick.request_id
		WHERE id = n AND lease IS NULL;
		EXIT WHEN FOUND;
		n := coalesce(
			(SELECT id FROM bench.slot WHERE id > n AND lease IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED),
			(SELECT id FROM bench.slot WHERE lease IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED));
		EXIT WHEN n IS NULL;
	END LOOP;
	IF n IS NULL THEN
		UPDATE bench.account SET req_sum = req_sum - 1, req_now = req_now - 1, day_sum = day_sum - 1,
			tok_sum = tok_sum - need, tok_now = tok_now - need
		WHERE id = a.id;
		UPDATE bench.org SET req_sum = req_sum - 1, req_now = req_now - 1, in_flight = in_flight - 1
		WHERE org = of_org;
		RETURN bench.refused('over_capacity', 'global', NULL, 50);
	END IF;
	RETURN ROW('granted', l, a.keys[k], a.secret_refs[k], a.account, a.provider, a.base_url, a.model,
		a.provider_model, 1, want_output::int, t, e, NULL, NULL)::bench.answer;
END $$;

-- Ends the leases that have expired; what they reserved stays charged.
CREATE FUNCTION bench.expire(OUT expired bigint) LANGUAGE sql AS $$
	WITH gone AS (UPDATE bench.slot SET lease = NULL WHERE expires_at < clock_timestamp() AND lease IS NOT NULL
			RETURNING org),
		by_org AS (UPDATE bench.org o SET in_flight = in_flight - n
			FROM (SELECT org, count(*) AS n FROM gone GROUP BY org) g WHERE o.org = g.org)
	SELECT count(*) FROM gone
$$;
