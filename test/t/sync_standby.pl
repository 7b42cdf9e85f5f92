# A synchronous standby that stops answering leaves a pick cancellable, and what it charged shows as a lease. One that is
# promoted, after the primary died under load, has every acknowledged charge and settlement.
use strict;
use warnings;
use LlmquotaLoad;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $pick = "SELECT lease FROM llmquota_pick('large', 'clinic')";
my $node = new_node('primary', init => { allows_streaming => 1 }, conf => [ 'wal_sender_timeout = 0', 'wal_keep_size = 1GB' ]);
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
$node->append_conf('postgresql.conf', "synchronous_standby_names = '*'");
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT sync_state = 'sync' FROM pg_stat_replication}),
	'there is a synchronous standby');

# How many leases an org has. Does not wait for the standby: it writes nothing.
sub leases
{
	my ($org) = @_;

	return sql($node, "SELECT count(*) FROM llmquota.lease WHERE org = '$org'");
}

# Sends a query in a session of its own and returns once it waits for the standby: the session, and its backend.
sub waits
{
	my ($what, $query) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = backend_pid($session);

	$session->query_until(qr/sent/, "\\echo sent\n$query;\n");
	ok(poll(sub { state_of($node, $pid) eq 'active IPC SyncRep' }), "$what: it waits for the standby");
	return ($session, $pid);
}

# The cells are born before, which would wait, too
sql($node, "SELECT llmquota_release(lease) FROM llmquota_pick('large', '$_') p")
  for 'cancelled', 'timed out', 'terminated', 'gone', 'recorded', 'released';
# ... those of every key, too, among which chance decides
sql($node, q{
	SELECT count(llmquota_release((SELECT lease FROM llmquota_pick('large', 'cancelled', session => i::text))))
	  FROM generate_series(1, 100) i});
my %lease = map { $_ => sql($node, "SELECT lease FROM llmquota_pick('large', '$_')") } 'recorded', 'released';
my $receiver = sql($standby, 'SELECT pid FROM pg_stat_wal_receiver');
kill 'STOP', $receiver;

my ($session, $pid) = waits('cancelled', "SELECT status FROM llmquota_pick('large', 'cancelled')");
is(sql($node, "SELECT pg_cancel_backend($pid)"), 't', 'cancelled: it is cancelled');
like($session->query('SELECT 1'), qr/^granted$/m, 'cancelled: it answers');
like($session->{stderr}, qr/WARNING:  canceling wait for synchronous replication/, 'cancelled: with a warning');
is(leases('cancelled'), 1, 'cancelled: what was charged shows as a lease');
$session->quit;

my ($out, $err);
$node->psql('postgres', "SET statement_timeout = '200ms'; SELECT status FROM llmquota_pick('large', 'timed out')",
	stdout => \$out, stderr => \$err);
is($out, 'granted', 'timed out: a pick answers');
like($err, qr/WARNING:  canceling wait for synchronous replication/, 'timed out: with a warning');
is(leases('timed out'), 1, 'timed out: what was charged shows as a lease');

($session, $pid) = waits('terminated', "SELECT status FROM llmquota_pick('large', 'terminated', ttl_ms => 1)");
is(sql($node, "SELECT pg_terminate_backend($pid)"), 't', 'terminated: its backend is ended');
ok(poll(sub { state_of($node, $pid) eq '' }), 'terminated: and is gone');
is(leases('terminated'), 1, 'terminated: what was charged shows as a lease');
$session->{run}->kill_kill;

($session, $pid) = waits('gone', "SELECT status FROM llmquota_pick('large', 'gone')");
$session->{run}->kill_kill;
is(leases('gone'), 1, 'gone: the client is; what was charged shows as a lease');

for my $end ([ 'recorded', 'llmquota_record' ], [ 'released', 'llmquota_release' ])
{
	my ($what, $function) = @$end;

	($session, $pid) = waits($what, "SELECT $function('$lease{$what}')");
	is(sql($node, "SELECT pg_cancel_backend($pid)"), 't', "$what: it is cancelled");
	like($session->query('SELECT 1'), qr/settled|released/, "$what: it answers");
	is(leases($what), 0, "$what: the lease has ended");
	is(sql($node, "SELECT count(*) FROM llmquota.usage WHERE lease = '$lease{$what}'"), 1, "$what: and is in the ledger");
	$session->quit;
}

# The standby answers again
kill 'CONT', $receiver;
is(sql($node, "SELECT status FROM llmquota_pick('large', 'later')"), 'granted', 'then picks do not wait any more');
maintain_all($node);
is(sql($node, q{SELECT status FROM llmquota.usage WHERE org = 'terminated' AND status <> 'released'}),
	'expired', 'what nobody was told of expires');
agree($node, 'the standby answers again');

# Promotion under load: the primary dies
for my $round (1 .. 2)
{
	my $what = "promotion $round";
	my $load = LlmquotaLoad->start($node, clients => 6, orgs => 50);

	ok($load->wait_for_answers(700), "$what: there is load");
	ok(!$load->ended, "$what: the clients are at it");
	crash($node);
	my $known = $load->finish;
	unlike($known->{errors}, qr/ERROR|PANIC/, "$what: no client has seen an error but the crash");
	$standby->promote;
	maintain_all($standby);
	is(LlmquotaLoad::missing($known, $standby), '', "$what: every acknowledged charge and settlement is there");
	agree($standby, $what);
	is(sql($standby, 'SELECT * FROM llmquota_verify()'), '', "$what: verification finds nothing");
	sql($standby, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
	is(in_flight($standby), 0, "$what: nothing is in flight when all leases are released");
	last if $round == 2;

	# the new primary gets a synchronous standby of its own, which it has not had so far
	$node = $standby;
	$node->backup('backup2');
	$standby = PostgreSQL::Test::Cluster->new('standby2');
	$standby->init_from_backup($node, 'backup2', has_streaming => 1);
	$standby->start;
	$node->append_conf('postgresql.conf', "synchronous_standby_names = '*'");
	$node->reload;
	ok($node->poll_query_until('postgres', q{SELECT sync_state = 'sync' FROM pg_stat_replication}),
		"$what: the new primary has a synchronous standby");
}
$node->stop('immediate') if $node->{_pid};
$standby->stop;
done_testing();
