# What goes wrong in the background worker: a round that fails, that does not end, that ends the server, that finds a
# table locked, that has no process to run in. It is seen in worker_status, tried again, and stops nobody.
use strict;
use warnings;
use LlmquotaTest;
use LlmquotaWorker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_worker_node('fault', conf => [ "shared_preload_libraries = 'llmquota'" ]);
new_database($node, 'one');
pick_in($node, 'one', 60000);
ok(has_round($node, 'one'), 'rounds go well at first');

# Has the server fail at a point, in every process that starts from now on.
sub inject
{
	my ($point) = @_;

	# the server may be just about to crash again
	for my $command ("ALTER SYSTEM SET llmquota.inject = '$point'", 'SELECT pg_reload_conf()')
	{
		poll(sub { ($node->psql('postgres', $command))[0] == 0 }) or die "not done: $command";
	}
	return;
}

# A step that fails: the error is shown, and counted, and in the log once
inject('round-error');
pick_in($node, 'one', 1);
ok(poll(sub { status($node, 'one', 'failures') >= 2 }), 'a round that fails is tried again');
like(status($node, 'one', 'last_error'), qr/injected fault at "round-error"/, 'worker_status says what failed');
is(status($node, 'one', q{last_error_at <= last_run AND next_run >= last_run + '4 s'}), 't', 'and waits longer each time');
inject('');
ok(poll(sub { status($node, 'one', 'failures') == 0 }), 'when it goes well again there are no failures');
like(status($node, 'one', 'last_error'), qr/injected/, 'the last error is still shown');
is(in_db($node, 'one', 'SELECT count(*) FROM llmquota.lease WHERE expires_at < now()'), 0, 'and the lease has expired');

# A round that hangs is cut, and is in nobody's way
inject('round-hang');
pick_in($node, 'one', 1);
ok(poll(sub { rounds_running($node) > 0 }), 'a round hangs');
in_db($node, 'postgres', 'CREATE DATABASE copy TEMPLATE one');
in_db($node, 'postgres', 'DROP DATABASE copy');
pass('it is not in the way of CREATE DATABASE ... TEMPLATE');
ok(poll(sub { status($node, 'one', 'last_error') =~ /was cut/ }), 'it is cut');
like(slurp_file($node->logfile), qr/canceling statement due to statement timeout/, 'by the clock');
inject('');
ok(poll(sub { status($node, 'one', 'failures') == 0 }), 'the next one goes well');

# A round that ends the server: the worker waits longer before each other one
inject('round-crash');
eval { pick_in($node, 'one', 1) };    # fails when a round has come already, and has ended the server
my $last_error;
ok( poll(
		sub {
			(my $failed, $last_error) = $node->psql('one', 'SELECT last_error FROM llmquota.worker_status WHERE failures >= 2');
			return $failed == 0 && $last_error;
		}),
	'a round that ends the server is counted');
like($last_error, qr/did not come to its end/, 'and worker_status says so');
inject('');
ok( poll(
		sub {
			my ($failed, $failures) = $node->psql('one', 'SELECT failures FROM llmquota.worker_status');
			return $failed == 0 && $failures == 0;
		}),
	'and then they go well again');

# Somebody holds the tables: no error, and the work is done when they are free
my $last_error_at = status($node, 'one', 'last_error_at');
my $session = $node->background_psql('one');
pick_in($node, 'one', 2000);
$session->query_safe('BEGIN; LOCK TABLE llmquota.lease_page IN ACCESS EXCLUSIVE MODE');
ok(poll(sub { rounds_running($node) > 0 }), 'a table is locked, and a round finds it so');
ok(poll(sub { rounds_running($node) == 0 }), 'which does not wait for it');
$session->query_safe('COMMIT');
pick_in($node, 'one', 1);
ok(poll(sub { in_db($node, 'one', 'SELECT count(*) FROM llmquota.lease WHERE expires_at < now()') == 0 }),
	'afterwards leases expire');
is(status($node, 'one', 'last_error_at'), $last_error_at, 'and it was no error');
$session->quit;
$node->stop;

# No free worker slot: nobody hears of it, and calls go on
my $full = new_worker_node('full', conf => [ 'max_worker_processes = 1', 'max_logical_replication_workers = 1' ]);
new_database($full, 'one');
my $size = -s $full->logfile;
pick_in($full, 'one', 1) for 1 .. 3;
is(sleepers($full), '', 'no slot is free: no worker');
unlike(slurp_file($full->logfile, $size), qr/worker/, 'and nothing in the log');
is(in_db($full, 'one', 'SELECT expired >= 0 FROM llmquota_maintain()'), 't', 'llmquota_maintain() does it');
$full->stop;
done_testing();
