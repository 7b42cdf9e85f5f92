# A replay of the ledger refuses and downgrades what real picks do: calls are made under a quota by the real clock, and what
# was refused is put into the ledger as if it had been made; or calls are made under a quota or budget, and once more without.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('backtest', fixture => 0);
sql($node, q{
	INSERT INTO llmquota.provider (provider, adapter, breaker_failures, breaker_min_calls) VALUES ('p', 'openai', 1000000, 1000000);
	SELECT FROM llmquota_maintain();

	-- What is asked for, one after the other: how much, and what becomes of it so many calls later.
	CREATE TABLE request (n int PRIMARY KEY, org text, model text, input int, output int, ends_before int, ending text, used_input int, used_output int);
	CREATE INDEX ON request (ends_before);
	-- What became of it: the time at which it was picked, or refused, is between the two.
	CREATE TABLE attempt (n int PRIMARY KEY, lease uuid, before timestamptz, after timestamptz, status text, downgraded boolean);

	-- Ends the calls that are due before another one is made.
	CREATE PROCEDURE end_calls(due int) LANGUAGE plpgsql AS $$
	DECLARE r record;
	BEGIN
		FOR r IN SELECT q.*, a.lease FROM request q JOIN attempt a USING (n) WHERE q.ends_before = due AND a.status = 'granted' ORDER BY n LOOP
			IF r.ending = 'release' THEN
				PERFORM llmquota_release(r.lease);
			ELSIF r.ending = 'error' THEN
				PERFORM llmquota_record(r.lease, http_status => 500);
			ELSIF r.ending = 'nothing' THEN
				PERFORM llmquota_record(r.lease);
			ELSE
				PERFORM llmquota_record(r.lease, r.used_input, r.used_output, cached_tokens => r.used_input / 2);
			END IF;
		END LOOP;
	END $$;

	-- Makes all calls, for so many seconds at the least.
	CREATE PROCEDURE make_calls(seconds float8) LANGUAGE plpgsql AS $$
	DECLARE
		r record;
		asked_at timestamptz;
		made int := 0;
		answer record;
		until timestamptz := clock_timestamp() + seconds * interval '1 second';
	BEGIN
		TRUNCATE attempt;
		FOR r IN SELECT * FROM request ORDER BY n LOOP
			CALL end_calls(r.n);
			asked_at := clock_timestamp();
			SELECT p.* INTO answer FROM llmquota_pick(r.model, r.org, r.input, r.output) p;
			INSERT INTO attempt VALUES (r.n, answer.lease, asked_at, clock_timestamp(), answer.status, answer.downgraded);
			made := r.n;
			COMMIT;
			EXIT WHEN seconds > 0 AND clock_timestamp() > until;
		END LOOP;
		FOR n IN made + 1 .. made + 40 LOOP
			CALL end_calls(n);
			COMMIT;
		END LOOP;
	END $$;

	-- The number of a window's bucket at an instant.
	CREATE FUNCTION bucket(at timestamptz, span bigint) RETURNS bigint LANGUAGE sql AS $$
		SELECT ((extract(epoch FROM at) - extract(epoch FROM timestamptz '2000-01-01 00:00+00')) * 1000000)::bigint / span
	$$;});

# New calls for somebody new: some orgs, two models, endings of all kinds, more and less used than was reserved. The orgs
# and whatever else are named after the round.
my $round = 0;

sub plan_calls
{
	my ($n) = @_;

	$round++;
	sql($node, qq{
	UPDATE llmquota.account SET enabled = false;
	INSERT INTO llmquota.account (account, provider) VALUES ('a$round', 'p');
	INSERT INTO llmquota.key (key, account) VALUES ('k$round', 'a$round');
	INSERT INTO llmquota.model (model, provider, family) VALUES ('m$round', 'p', 'f$round'), ('n$round', 'p', 'f$round');
	INSERT INTO llmquota.price (model, input, output) VALUES ('m$round', 10000, 30000), ('n$round', 2000, 4000);
	SELECT setseed(0.25);
	TRUNCATE request;
	INSERT INTO request
	SELECT n, '$round-' || (random() * 3)::int, (CASE WHEN random() < 0.5 THEN 'm' ELSE 'n' END) || $round, (random() * 200)::int, (random() * 100)::int,
		   n + 1 + (random() * random() * 20)::int, (ARRAY['ok', 'ok', 'ok', 'release', 'error', 'nothing'])[1 + (random() * 5)::int],
		   (random() * 250)::int, (random() * 150)::int
	  FROM generate_series(1, $n) n;
	ANALYZE request});
	return;
}

# What a rule would have refused and downgraded in this round, by org and part: calls and their amounts.
sub backtest
{
	my ($rule) = @_;

	return sql($node, qq{
	SELECT split_part(b.org, '-', 2), left(coalesce(b.model, b.family), 1), sum(b.refused), trim_scale(sum(b.amount_refused)),
		   sum(b.downgraded), trim_scale(sum(b.amount_downgraded))
	  FROM llmquota_backtest('$rule') b
	 WHERE split_part(b.org, '-', 1) = '$round' GROUP BY 1, 2 ORDER BY 1, 2});
}

# What has been, likewise. part: the model or family that the rule counts apart; amount: what a call counts for.
sub found
{
	my ($attempts, %is) = @_;

	return sql($node, qq{
	SELECT split_part(c.org, '-', 2), left(c.part, 1), count(*) FILTER (WHERE c.refused), trim_scale(coalesce(sum(c.amount) FILTER (WHERE c.refused), 0)),
		   count(*) FILTER (WHERE c.downgraded), trim_scale(coalesce(sum(c.amount) FILTER (WHERE c.downgraded), 0))
	  FROM (SELECT q.org, $is{part} AS part, $is{amount} AS amount, a.status <> 'granted' AS refused, a.status = 'granted' AND a.downgraded AS downgraded FROM $attempts) c
	 WHERE c.refused OR c.downgraded
	 GROUP BY 1, 2 ORDER BY 1, 2});
}

# Makes a rule the only one there is.
sub establish
{
	my ($rule) = @_;
	my $table = $rule =~ /"metric"/ ? 'llmquota.quota' : 'llmquota.budget';
	my $columns = join ', ', $rule =~ /"(\w+)":/g;

	sql($node, qq{
	DELETE FROM llmquota.quota;
	DELETE FROM llmquota.budget;
	INSERT INTO $table ($columns) SELECT $columns FROM jsonb_populate_record(NULL::$table, '$rule')});
	return;
}

# By the real clock: windows that slide many times over. Calls that were refused are put into the ledger, at the time at
# which they were asked for; where it is not certain in which bucket that was a call is left out, as it is not counted.
# span: of a bucket, in microseconds.
sub follow
{
	my ($rule, %is) = @_;
	my $refused = qq{attempt a JOIN request q USING (n)
	 WHERE a.status <> 'granted' AND bucket(a.before, $is{span}) = bucket(a.after, $is{span})};

	plan_calls(20000);
	$rule =~ s/%/$round/g;
	establish($rule);
	sql($node, "CALL make_calls($is{seconds})");
	verified($node, $rule);
	my $expected = found($refused, %is);
	my $made = sql($node, q{SELECT count(*) FILTER (WHERE status = 'granted') || ' of ' || count(*) FROM attempt});
	note("$rule: $made calls granted");
	isnt($expected, '', "$rule: something becomes of calls");
	sql($node, qq{
	INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org, model, provider, account, key, status, reserved_input, reserved_output, input_tokens, output_tokens, request_id, recorded_in)
	SELECT gen_random_uuid(), a.after, a.after + random() * interval '1 second', q.org, q.model, 'p', 'a$round', 'k$round', 'ok', q.input, q.output, q.used_input, q.used_output, 'refused', 1
	  FROM $refused});
	is(backtest($rule), $expected, "$rule: a replay refuses the same calls");
	sql($node, q{DELETE FROM llmquota.usage WHERE request_id = 'refused'});
	return;
}

follow('{"scope": "org", "subject": "*", "metric": "tokens", "amount": 30000, "per": "1 second"}',
	seconds => 4, span => 16667, part => 'NULL', amount => 'q.used_input + q.used_output');
follow('{"scope": "account", "subject": "*", "model": "*", "metric": "requests", "amount": 500, "per": "1 second"}',
	seconds => 4, span => 20834, part => 'q.model', amount => '1');
follow('{"scope": "global", "subject": "", "family": "f%", "metric": "output_tokens", "amount": 25000, "per": "1 second"}',
	seconds => 4, span => 16667, part => q{'f'}, amount => 'q.used_output');

# Calls under a limit that nothing leaves, and the same calls without it: of these a replay refuses the same.
sub compare
{
	my ($rule, %is) = @_;

	plan_calls(1500);
	establish($rule =~ s/%/$round/gr);
	sql($node, 'CALL make_calls(0)');
	my $expected = found('attempt a JOIN request q USING (n)', %is);
	note("$rule: by org and part, refused and downgraded:\n$expected");
	isnt($expected, '', "$rule: something becomes of calls");
	plan_calls(1500);
	sql($node, 'DELETE FROM llmquota.quota; DELETE FROM llmquota.budget');
	sql($node, 'CALL make_calls(0)');
	is(sql($node, q{SELECT count(*) FROM attempt WHERE status = 'granted'}), 1500, "$rule: without it all calls are made");
	is(backtest($rule =~ s/%/$round/gr), $expected, "$rule: a replay refuses the same calls");
	return;
}

my $used = q{CASE q.ending WHEN 'ok' THEN q.used_input + q.used_output WHEN 'nothing' THEN q.input + q.output ELSE 0 END};
compare('{"scope": "org", "subject": "*", "metric": "tokens", "amount": 40000, "per": "400 days"}', part => 'NULL', amount => $used);
compare('{"scope": "key", "subject": "k%", "family": "f%", "metric": "requests", "amount": 700, "per": "1 day"}', part => q{'f'},
	amount => q{CASE q.ending WHEN 'release' THEN 0 ELSE 1 END});
compare('{"scope": "org", "subject": "%-1", "metric": "concurrency", "amount": 2}', part => 'NULL', amount => '1');

# tokens of m cost a hundredth and three hundredths of a dollar, those of n less; nobody knows what a call used that says nothing
my $cost = q{CASE q.ending WHEN 'ok' THEN q.used_input WHEN 'nothing' THEN q.input ELSE 0 END * CASE left(q.model, 1) WHEN 'm' THEN 0.01 ELSE 0.002 END
		+ CASE q.ending WHEN 'ok' THEN q.used_output WHEN 'nothing' THEN q.output ELSE 0 END * CASE left(q.model, 1) WHEN 'm' THEN 0.03 ELSE 0.004 END};
compare('{"subject": "*", "currency": "USD", "amount": 500, "calendar": null, "per": "400 days", "downgrade_at": 0.9, "downgrade_to": "n%"}', part => 'NULL', amount => $cost);
compare('{"scope": "global", "subject": "", "currency": "USD", "amount": 900, "calendar": null, "per": "400 days", "model": "m%", "downgrade_at": 0.5, "downgrade_to": "n%", "hard_stop": false}',
	part => 'q.model', amount => $cost);
compare('{"scope": "account", "subject": "*", "currency": "USD", "amount": 900, "calendar": null, "per": "1 day", "family": "f%"}', part => q{'f'}, amount => $cost);
verified($node, 'in the end');
$node->stop;
done_testing();
