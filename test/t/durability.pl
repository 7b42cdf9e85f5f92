# When a pick is durable: before it answers if synchronous_commit says so, on synchronous standbys too; within about
# three times wal_writer_delay if it is off, even when the transaction stays open and nothing follows.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $wal_writer_delay = 0.2;
my $pick = "SELECT lease FROM llmquota_pick('large', 'clinic')";

my $node = new_node('primary',
	init => { allows_streaming => 1 },
	conf => [ "wal_writer_delay = '${wal_writer_delay}s'", 'wal_sender_timeout = 0', 'checkpoint_timeout = 1h' ]);

# A session whose picks find every cell born, pages with free slots among them, so that they write nothing but their
# charge: a transaction that gave birth waits for the standby once more, when it commits.
sub warm_session
{
	my $session = $node->background_psql('postgres', on_error_stop => 0);

	$session->query_safe('SELECT count(llmquota_release(lease)) FROM llmquota.lease');
	$session->query_safe("SELECT llmquota_release(lease) FROM llmquota_pick('large', 'clinic')") for 1 .. 20;
	return $session;
}

# Looks at positions in the WAL. New connections could write WAL themselves, and have it flushed.
my $observer = $node->background_psql('postgres');

sub insert_position
{
	return $observer->query_safe('SELECT pg_current_wal_insert_lsn()');
}

sub flushed
{
	my ($lsn) = @_;

	return $observer->query_safe("SELECT pg_current_wal_flush_lsn() >= '$lsn'") eq 't';
}

# With synchronous_commit = on the WAL is on disk when the answer is there, whatever happens to the transaction
my $session = warm_session();
for my $level (qw(on local remote_write))
{
	my $before = insert_position();
	ask($session, "SET synchronous_commit = $level");
	ask($session, 'BEGIN');
	ask($session, $pick);
	my $after = insert_position();
	isnt($after, $before, "$level: a pick writes WAL");
	ok(flushed($after), "$level: it is on disk when the pick answers, in an open transaction");
	ask($session, 'ROLLBACK');
}

# With synchronous_commit = off it is there soon. The WAL writer's turn, its pages and this test's own queries take
# time: two seconds more than three delays. Without the promise it would be there after the next checkpoint, in an hour.
sub is_soon
{
	my ($what, $after_pick) = @_;

	# as the pick has left it: what others write later, a round that is ended in its midst, was promised to nobody
	my $lsn = ask($session, $pick =~ s/lease/pg_current_wal_insert_lsn()/r);
	$after_pick->() if $after_pick;
	my $start = time;
	poll(sub { flushed($lsn) || time > $start + 5 });
	my $took = time - $start;
	note(sprintf 'on disk after %.0f ms', $took * 1000);
	cmp_ok($took, '<', 3 * $wal_writer_delay + 2, "off, $what: a pick is on disk soon");
	return;
}

sub is_always_soon
{
	my ($who) = @_;

	is_soon("$who, by itself") for 1 .. 3;
	for my $round (1 .. 3)
	{
		ask($session, 'BEGIN');
		is_soon("$who, in a transaction that stays open");
		ask($session, 'COMMIT');
	}
	return;
}

ask($session, 'SET synchronous_commit = off');
is_always_soon('without a worker');

# A worker's sleeper tells the WAL writer, once for many picks; also when it is just being ended
$node->append_conf('postgresql.conf', 'llmquota.worker = on');
$node->reload;
my $sleeper;
ok( poll(
		sub {
			ask($session, $pick);
			$sleeper = ask($session, 'SELECT pid FROM llmquota.worker_status');
			return $sleeper =~ /^\d+$/;
		}),
	'there is a sleeper');
my $known = time + 2;
poll(sub { ask($session, $pick); time > $known });    # the session has looked again, and knows it
is_always_soon('with a worker');
is_soon('when the worker ends', sub { $observer->query_safe("SELECT pg_terminate_backend($sleeper)") });
is_soon('when it has ended') for 1 .. 3;
$node->append_conf('postgresql.conf', 'llmquota.worker = off');
$node->reload;
$session->quit;
$observer->quit;

# A synchronous standby
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
$session = warm_session();
$node->append_conf('postgresql.conf', "synchronous_standby_names = '*'");
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT sync_state = 'sync' FROM pg_stat_replication}),
	'there is a synchronous standby');
my $lease = ask($session, $pick);
is(sql($node, q{SELECT bool_and(flush_lsn >= pg_current_wal_flush_lsn()) FROM pg_stat_replication}),
	't', 'the standby has a pick on disk when it answers');

# Begins a pick and returns once it waits for the standby.
my $pid = backend_pid($session);
sub begin_pick
{
	my ($what) = @_;

	$session->query_until(qr/sent/, "\\echo sent\n$pick;\n");
	ok(poll(sub { state_of($node, $pid) eq 'active IPC SyncRep' }), "$what: a pick waits for the standby");
	return;
}

$standby->stop;
for my $begin ('', 'BEGIN')
{
	my $what = $begin ? 'in a transaction' : 'by itself';
	ask($session, $begin) if $begin;
	begin_pick($what);
	is(sql($node, "SELECT pg_cancel_backend($pid)"), 't', "$what: it is cancelled");
	my $answer = $session->query('SELECT 1');
	my $warning = $session->{stderr};
	$session->{stderr} = '';
	like($warning, qr/WARNING:  canceling wait for synchronous replication due to user request/,
		"$what: PostgreSQL's warning ends the wait");
	unlike($warning, qr/ERROR/, "$what: the pick is not an error");
	($lease) = $answer =~ /([0-9a-f-]{36})/;
	ok($lease, "$what: it answers a lease");
	is(sql($node, "SELECT count(*) FROM llmquota.lease WHERE lease = '$lease'"), 1, "$what: the charge stands");
	ask($session, 'ROLLBACK') if $begin;
}

ask($session, 'SET synchronous_commit = local');
like(ask($session, $pick), qr/^[0-9a-f-]{36}$/, 'local: a pick does not wait');
ask($session, 'RESET synchronous_commit');

begin_pick('again');
$standby->start;
($lease) = $session->query('SELECT 1') =~ /([0-9a-f-]{36})/;
ok($lease, 'a pick ends its wait when the standby is back');
is($session->{stderr}, '', 'without a warning');
$node->wait_for_catchup($standby);
is(sql($standby, "SELECT count(*) FROM llmquota.lease WHERE lease = '$lease'"), 1, 'the standby shows its lease');

$session->quit;
$standby->stop;
$node->stop;
done_testing();
