# One call for each request_id, whatever happens: many clients that ask at once, a webhook that is delivered twice, crashes
# in the midst of a grant and under load, a primary that dies. (What a second pick is told is in test/sql/request.sql.)
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use JSON::PP;
use LlmquotaSimulator;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('once', init => { allows_streaming => 1 }, conf => [ 'max_wal_size = 64MB', 'max_connections = 100' ]);
my $events = 25;

# The arguments of psql that runs a file, and goes on after errors.
sub psql_command
{
	my ($server, $file) = @_;

	return ('psql', '-XAtq', '-h', $server->host, '-p', $server->port, '-d', 'postgres', '-f', $file);
}

# What a request is told now.
sub status
{
	my ($server, $request, $org) = @_;

	$org //= 'clinic';
	return sql($server, "SELECT status FROM llmquota_pick('large', '$org', request_id => '$request')");
}

# 32 clients that make the same requests, each in an order of its own: every one is granted once.
sub test_many_clients
{
	my $requests = 1000;
	my $script = $node->basedir . '/many.sql';

	sql($node, q{CREATE UNLOGGED TABLE answer (request int, status text, lease uuid)});
	append_to_file($script, join "\n",
		'\set n :n + 1', "\\set r (:n * (:client_id + 1)) % ($requests + 9)",
		q{INSERT INTO answer SELECT :r, p.status, p.lease FROM llmquota_pick('large', 'many', request_id => :r::text) p;});
	# modulo a prime number every client makes each request but 0 once
	$node->command_ok([
			'pgbench', '-n', '-c', 32, '-t', $requests + 8, '-D', 'n=0', '-f', $script, '-h', $node->host, '-p', $node->port,
			'postgres' ], '32 clients make the same requests');
	is(sql($node, q{SELECT string_agg(format('%s: %s', status, n), ', ' ORDER BY status)
			FROM (SELECT status, count(*) AS n FROM answer GROUP BY status) s}),
		'granted: 1008, in_flight: 31248', 'each is granted once, and in flight for all others');
	is(sql($node, 'SELECT count(*) FROM (SELECT FROM answer GROUP BY request HAVING count(DISTINCT lease) <> 1) s'), 0,
		'who is not granted is told of the lease that was');
	is(sql($node, q{SELECT count(DISTINCT lease) FROM llmquota.lease WHERE org = 'many'}), 1008, 'there are no more leases');
	sql($node, q{SELECT count(llmquota_release(lease)) FROM llmquota.lease});
	verified($node, 'many clients');
	return;
}

# A crash at a point of a grant: nobody was told of a lease. What is the request told afterwards?
sub crash_at
{
	my ($point, $model, $request, $expected) = @_;
	my ($out, $err) = ('', '');

	$node->psql('postgres',
		"SET llmquota.inject = '$point'; SELECT 'answered' FROM llmquota_pick('$model', 'crash', request_id => '$request')",
		stdout => \$out, stderr => \$err);
	is($out, '', "$point of $model: the pick is not answered");
	crash($node);
	$node->start;
	is(sql($node, "SELECT status FROM llmquota_pick('$model', 'crash', request_id => '$request')"), $expected,
		"$point of $model: its request is $expected afterwards");
	maintain_all($node);
	is(sql($node, "SELECT status FROM llmquota_pick('$model', 'crash', request_id => '$request')"), 'in_flight',
		"$point of $model: and has its one call then");
	verified($node, "$point of $model");
	return;
}

# Seven meters are three records, the last with room for the request; with two more that is full, and there is a fourth.
sub test_crashes
{
	sql($node, q{SELECT status FROM llmquota_pick('haiku', 'crash', request_id => 'born')});
	crash_at("grant-record:$_", 'haiku', "seven $_", $_ < 3 ? 'granted' : 'in_flight') for 1 .. 3;
	sql($node, q{
		INSERT INTO llmquota.quota (scope, subject, family, metric, amount, per) VALUES
			('account', 'a1', 'f', 'requests', 1000000, '1 hour'), ('org', '*', 'f', 'requests', 1000000, '1 hour');
		UPDATE llmquota.model SET family = 'f' WHERE model = 'haiku';
		SELECT status FROM llmquota_pick('haiku', 'crash', request_id => 'born again')});
	is(sql($node, q{SELECT count(*) FROM llmquota.meter}) > 0, 1, 'there are meters');
	crash_at('grant-record:3', 'haiku', 'nine 3', 'granted');
	crash_at('grant-rest', 'haiku', 'nine rest', 'in_flight');
	return;
}

# kill -9 of the server while clients make requests: each that was told of a lease is remembered. Then all of them are
# made again, as webhooks are: no lease is granted for one that has had an answer.
sub test_crash_under_load
{
	my @clients;
	my $requests = 20000;

	for my $client (1 .. 4)
	{
		my $file = $node->basedir . "/load_$client.sql";
		my $out = '';

		append_to_file($file, join '', map {
				"SELECT request, p.status FROM (VALUES ('load-$client-$_')) v (request), "
				  . "llmquota_pick('large', 'load', request_id => request) p;\n" } 1 .. $requests);
		push @clients, { out => \$out, run => IPC::Run::start([ psql_command($node, $file) ], '>', \$out, '2>', \my $err) };
	}
	ok(poll(sub {
				IPC::Run::pump_nb($_->{run}) for @clients;
				return 4 == grep { ${ $_->{out} } =~ tr/\n// >= 500 } @clients;
			}), 'there is load');
	crash($node);
	IPC::Run::finish($_->{run}) for @clients;
	my @answered = map { /^(\S+)\|granted$/mg } map { ${ $_->{out} } } @clients;
	cmp_ok(scalar(@answered), '>=', 2000, 'requests were answered');
	cmp_ok(scalar(@answered), '<', 4 * $requests, '... and not all of them');
	$node->start;
	maintain_all($node);
	my $again = sprintf q[SELECT string_agg(DISTINCT p.status, ' ') FROM unnest('{%s}'::text[]) r,
		llmquota_pick('large', 'load', request_id => r) p], join ',', @answered;
	is(sql($node, $again), 'in_flight', 'every one that was answered is remembered');
	verified($node, 'a crash under load');
	sql($node, q{SELECT count(llmquota_release(lease)) FROM llmquota.lease});
	return;
}

# What is remembered is on the standby, too; there nothing is picked before it is promoted.
sub test_standby
{
	my $standby = PostgreSQL::Test::Cluster->new('once_standby');

	$node->backup('base');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;
	is(status($node, 'before'), 'granted', 'a request is granted on the primary');
	sql($node, qq{SELECT count(*) FROM generate_series(1, 300) n, llmquota_pick('large', 'clinic', request_id => 'more ' || n) p});
	$node->wait_for_catchup($standby);
	is(sqlstate($standby, q{SELECT llmquota_pick('large', 'clinic', request_id => 'before')}), '25006',
		'a standby refuses a pick');
	is(sql($standby, 'SELECT * FROM llmquota_verify()'), '', 'what it has of requests is whole');
	$node->stop('immediate');
	$standby->promote;
	is(status($standby, 'before'), 'in_flight', 'once it is promoted it knows the request');
	is(sql($standby, q{SELECT string_agg(DISTINCT p.status, ' ') FROM generate_series(1, 300) n,
			llmquota_pick('large', 'clinic', request_id => 'more ' || n) p}), 'in_flight', '... and all others');
	verified($standby, 'promoted');
	$standby->stop;
	return;
}

# An instance of an application that is delivered webhooks: for each event it picks, and calls the provider if it may.
# Writes down what it was told. One that dies ends as by kill -9 in the midst of its first call.
sub instance
{
	my ($simulator, $file, $dies, @delivered) = @_;

	my $ttl_ms = $dies ? 2000 : 600000;

	open my $log, '>', $file or die "could not write $file: $!";
	for my $event (@delivered)
	{
		my $pick = decode_json(sql($node,
				"SELECT to_jsonb(p) FROM llmquota_pick('model-hooked', 'clinic', request_id => 'event-$event', ttl_ms => $ttl_ms) p"));

		syswrite $log, "$event $pick->{status}\n";
		next if $pick->{status} ne 'granted';
		my $answer = $simulator->ask('openai', $pick->{secret_ref}, model => $pick->{provider_model}, max_tokens => 20);
		kill 'KILL', $$ if $dies;
		sql($node, "SELECT llmquota_record('$pick->{lease}', http_status => $answer->{status}, usage => '"
			  . encode_json($answer->{json}{usage}) . q{')});
	}
	close $log;
	return;
}

sub start_instance
{
	my @arguments = @_;
	my $pid = fork // die "could not fork: $!";

	return $pid if $pid;
	my $ok = eval { instance(@arguments); 1 };
	warn $@ if !$ok;
	# nothing of the test's own is to be cleaned up here
	kill 'KILL', $$;
	return;
}

sub test_webhook
{
	my $directory = PostgreSQL::Test::Utils::tempdir();
	my $simulator = LlmquotaSimulator->new("$directory/simulator", accounts => [ {
				account => 'hooked', api => 'openai', delay_ms => 20,
				keys => { 'hooked-1' => 'secret-hooked-1', 'hooked-2' => 'secret-hooked-2' } } ]);

	sql($node, $simulator->configuration('hooked', 'openai'));
	my @pids = map { start_instance($simulator, "$directory/$_", 0, 1 .. $events) } 'a', 'b';
	waitpid $_, 0 for @pids;
	my @told = map { split /\n/, slurp_file("$directory/$_") } 'a', 'b';

	is(scalar(grep { / granted$/ } @told), $events, 'two instances are delivered the same events: each event is granted once');
	is(scalar(grep { !/ (?:granted|in_flight|duplicate)$/ } @told), 0, '... and else in flight, or a duplicate');
	is(scalar($simulator->calls), $events, '... and makes one call of the provider');
	return ($directory, $simulator);
}

# The one that has died leaves its event to whoever is delivered it when its lease has expired.
sub test_redelivery
{
	my ($directory, $simulator) = @_;
	my $lost = $events + 1;
	my %told;

	waitpid start_instance($simulator, "$directory/dies", 1, $lost), 0;
	is(slurp_file("$directory/dies"), "$lost granted\n", 'an instance has died in the midst of its call');
	waitpid start_instance($simulator, "$directory/early", 0, $lost), 0;
	like(slurp_file("$directory/early"), qr/^$lost (?:in_flight|granted)$/, 'its event is in flight while its lease lives');
	ok(poll(sub { sql($node, q{SELECT count(*) FROM llmquota.lease WHERE request_id LIKE 'event-%' AND expires_at > clock_timestamp()}) eq '0' }),
		'which expires');
	waitpid start_instance($simulator, "$directory/late", 0, 1 .. $lost), 0;
	waitpid start_instance($simulator, "$directory/later", 0, 1 .. $lost), 0;
	%told = map { split / / } split /\n/, slurp_file("$directory/late");
	like(slurp_file("$directory/early") . delete $told{$lost}, qr/granted/, 'delivered again, the event is granted');
	is(join(' ', values %told), join(' ', ('duplicate') x $events), '... and all others are duplicates');
	unlike(slurp_file("$directory/later"), qr/granted/, 'then none is left');
	is(scalar($simulator->calls), $events + 2, '... and there was no other call of the provider');
	is(sql($node, q{SELECT count(DISTINCT request_id) FROM llmquota.usage WHERE request_id LIKE 'event-%' AND status = 'ok'}),
		$lost, 'each event has its outcome');
	maintain_all($node);
	is(sql($node, q{SELECT string_agg(format('%s %s', attempt, status), ', ' ORDER BY attempt) FROM llmquota.usage WHERE request_id = 'event-}
			. $lost . q{'}), '1 expired, 2 ok', 'the second attempt is counted as one');
	$simulator->stop;
	verified($node, 'webhooks');
	return;
}

test_many_clients();
test_redelivery(test_webhook());
test_crashes();
test_crash_under_load();
test_standby();
done_testing();
