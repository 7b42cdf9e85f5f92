# What is learned of a provider's limits holds for every backend at its next pick, and outlives restart, kill -9, the
# rollback of the transaction that recorded it, and a failover. However many clients are told at once, one limit is
# learned, no more than it allows is granted, and a meter that is behind is charged what it lacks once.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $clients = 20;
my $node = new_node('learning', fixture => 0, init => { allows_streaming => 1 }, conf => ['max_connections = 60']);
sql($node, q{
	INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
	INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
	INSERT INTO llmquota.key (key, account) VALUES ('a-1', 'a'), ('a-2', 'a');
	INSERT INTO llmquota.model (model, provider) SELECT name, 'p' FROM unnest('{m,n,o,x}'::text[]) name;
	INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per)
		VALUES ('account', '*', '*', 'requests', 1000, '1 day'), ('account', '*', '*', 'tokens', 1000000, '1 day');
	SELECT setval('llmquota.config_time', 1)});
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('learning_standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;

# One call of a model whose answer has these headers, as SQL.
sub answer
{
	my ($model, %headers) = @_;
	my $json = join ', ', map { qq{"x-ratelimit-$_": "$headers{$_}"} } sort keys %headers;

	return qq{SELECT r.status FROM llmquota_pick('$model', input_tokens => 1, max_output_tokens => 1) p,
		llmquota_record(p.lease, 1, 1, http_status => 200, headers => '{$json}') r};
}

# So many tokens of a model: granted and given back, or by which amount they are refused.
sub asking
{
	my ($model, $tokens) = @_;

	return qq{SELECT coalesce(p.refusal->>'amount', llmquota_release(p.lease))
		FROM llmquota_pick('$model', input_tokens => $tokens, max_output_tokens => 0) p};
}

my $seen = q{SELECT account, model, metric, period, configured, advertised, in_force, source, observed_at, relaxes_at
	FROM llmquota.observed_limit ORDER BY account, model, metric, period};

# Another backend, which has picked before, knows at its next pick, also of what is rolled back
my $other = $node->background_psql('postgres');
is($other->query_safe(asking('m', 60000)), 'released', 'another backend picks');
sql($node, 'BEGIN; ' . answer('m', 'limit-tokens-day' => 50000) . '; ROLLBACK');
is($other->query_safe(asking('m', 60000)), 50000, 'and is held to a limit that a transaction has learned and rolled back');
is($other->query_safe(asking('m', 40000)), 'released', '... but not to less');
is($other->query_safe(asking('n', 60000)), 'released', '... nor for another model');
my $open = $node->background_psql('postgres');
$open->query_safe('BEGIN; ' . answer('n', 'limit-tokens-day' => 30000));
is($other->query_safe(asking('n', 40000)), 30000, 'what a transaction has learned that is still open holds too');
$open->query_safe('ROLLBACK');
$open->quit;
is(sql($node, "SELECT count(*) FROM llmquota.usage WHERE model IN ('m', 'n') AND status = 'ok'"), 0,
	'none of these records is in the ledger');
$other->quit;

# What is known when the server stops, or crashes, is known afterwards
my $before = sql($node, $seen);
like($before, qr/^a\|m\|tokens\|day\|1000000\|50000\|50000\|headers\|.*\na\|n\|tokens\|day\|1000000\|30000\|30000\|headers/,
	'two limits are known');
$node->restart;
is(sql($node, $seen), $before, 'so they are after a restart');
is(sql($node, asking('m', 60000)), 50000, '... and hold');
my $crashing = $node->background_psql('postgres');
$crashing->query_safe('BEGIN; ' . answer('m', 'limit-tokens-day' => 20000));
$before = sql($node, $seen);
crash($node);
eval { $crashing->quit };
$node->start;
is(sql($node, $seen), $before, 'what a transaction had learned that was open at kill -9 is known');
is(sql($node, asking('m', 30000)), 20000, '... and holds');
verified($node, 'after kill -9');

# Runs a statement in many clients at once; what they answered, sorted.
sub at_once
{
	my ($statement) = @_;
	my @sessions = map { $node->background_psql('postgres') } 1 .. $clients;
	my @answers;

	# each of them has made a pick before, and so knows the limits of before
	$_->query_safe(asking('x', 1)) for @sessions;
	sql($node, 'CREATE TABLE IF NOT EXISTS gate (a int)');
	my $gate = $node->background_psql('postgres');
	$gate->query_safe('BEGIN; LOCK TABLE gate');
	$_->{stdin} .= "SELECT count(*) FROM gate \\g /dev/null\n$statement;\n\\echo done\n" for @sessions;
	$_->{run}->pump_nb for @sessions;
	poll(sub { sql($node, q{SELECT count(*) FROM pg_locks WHERE relation = 'gate'::regclass AND NOT granted}) == $clients })
	  or die 'the clients do not come';
	$gate->query_safe('COMMIT');
	$gate->quit;
	for my $session (@sessions)
	{
		poll(sub { $session->{run}->pump_nb; $session->{stdout} =~ /^done$/m }) or die 'a client does not end';
		push @answers, $session->{stdout} =~ s/^done\n//mr;
		$session->{stdout} = '';
		$session->quit;
	}
	return join '', sort @answers;
}

# All are told the same limit: it is learned once, and holds for every pick that begins then
sql($node, answer('o', 'limit-requests-day' => 100));
my $loop = q{DO $$
	DECLARE
		answer llmquota.pick_result;
	BEGIN
		FOR i IN 1 .. 10 LOOP
			answer := llmquota_pick('o', input_tokens => 1, max_output_tokens => 1);
			IF answer.status = 'granted' THEN
				PERFORM llmquota_record(answer.lease, 1, 1, http_status => 200,
					headers => '{"x-ratelimit-limit-requests-day": "60"}');
			END IF;
			COMMIT;
		END LOOP;
	END $$};
is(at_once($loop), '', "$clients clients are told of a limit at once");
is(sql($node, q{SELECT advertised, in_force FROM llmquota.observed_limit WHERE model = 'o'}), '60|60', '... it is known, once');
# a pick of each of the others may have begun before the first one was told
my $made = sql($node, q{SELECT count(*) FROM llmquota.usage WHERE model = 'o' AND status = 'ok'});
cmp_ok($made, '>=', 60, '... as many calls were made as it allows');
cmp_ok($made, '<', 60 + $clients, '... and those that had begun by then');

# All are told that less remains than the meter has left: somebody else uses the same limit. It is charged once. (Windows
# that maintenance has not completed yet are left alone.)
sql($node, 'CREATE TABLE told (lease uuid);
	INSERT INTO told SELECT p.lease FROM generate_series(1, ' . $clients . q{) n, llmquota_pick('x', input_tokens => 1, max_output_tokens => 1,
		session => n::text) p});
maintain_all($node);
my $used = q{SELECT used FROM llmquota.meter_window WHERE model = 'x' AND metric = 'requests'};
is(sql($node, $used), $clients, "$clients calls are under way");
my $record = q{WITH mine AS (DELETE FROM told WHERE lease = (SELECT lease FROM told LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING lease)
	SELECT r.status FROM mine, llmquota_record(mine.lease, 1, 1, http_status => 200,
		headers => '{"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "600"}') r};
is(at_once($record), "settled\n" x $clients, '... which are answered at once that 600 of 1000 remain');
is(sql($node, $used), 400, '... and 400 are charged, once');
verified($node, 'after many clients at once');

# The standby shows the same, and enforces it when it is promoted after the primary has died
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is(sql($standby, $seen), sql($node, $seen), 'the standby shows the same');
$before = sql($node, $seen);
crash($node);
$standby->promote;
is(sql($standby, $seen), $before, '... also when it has been promoted');
is(sql($standby, asking('m', 30000)), 20000, '... and what is known holds there');
is(sql($standby, asking('o', 1)), 60, '... for every model');
is(sql($standby, answer('m', 'limit-tokens-day' => 10000)), 'settled', 'it learns');
is(sql($standby, asking('m', 15000)), 10000, '... and that holds');
verified($standby, 'promoted');

$standby->stop;
done_testing();
