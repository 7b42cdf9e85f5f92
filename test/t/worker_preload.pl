# The background worker of a server that preloads the library: one for the whole cluster, from its start on, from the
# promotion on when it is a standby, and not under pg_upgrade.
use strict;
use warnings;
use LlmquotaTest;
use LlmquotaWorker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @conf = ("shared_preload_libraries = 'llmquota'", 'wal_keep_size = 1GB');
my $node = new_worker_node('primary', init => { allows_streaming => 1 }, conf => \@conf);

sub expired
{
	my ($server, $database) = @_;

	return in_db($server, $database, q{SELECT count(*) FROM llmquota.usage WHERE status = 'expired'});
}

# One worker for two databases, and for those that come later
ok(poll(sub { sleepers($node) =~ /^\d+$/ }), 'it starts with the server');
my $pid = sleepers($node);
new_database($node, $_) for qw(one two empty);
pick_in($node, $_, 1000) for qw(one two);
for my $database (qw(one two))
{
	ok(poll(sub { expired($node, $database) == 1 }), "$database: a forgotten lease expires");
	is(status($node, $database, 'pid'), $pid, "$database: worker_status shows the worker of the cluster");
}
is(sleepers($node), $pid, 'there is one for both');
is(status($node, 'empty', 'rounds'), 0, 'a database without a lease is left alone');
is( in_db($node, 'empty', q{SELECT count(*) FROM pg_inherits WHERE inhparent = 'llmquota.usage'::regclass}), 1,
	'it gets no partition: it could be one that is being restored');

# It comes for an alert, to the database that it is in
in_db($node, $_, q{
	INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar) VALUES ('org', '*', 'requests', 10, 'year');
	UPDATE llmquota.setting SET value = 'off' WHERE name = 'alert_forecast'}) for qw(one two);
sub calls_of
{
	my ($node, $database, $org) = @_;

	return in_db($node, $database,
		"SELECT count(status) FROM generate_series(1, 8) i, llmquota_pick('m', '$org', 1, 1, session => i::text, ttl_ms => 600000)");
}

sub alerts_of
{
	my ($node, $database, $org) = @_;

	return in_db($node, $database, "SELECT string_agg(message, '') FROM llmquota.alert WHERE subject = '$org'");
}
ok(poll(sub { status($node, $_, q{next_run > now() + '10 s'}) eq 't' }), "$_: the next round is far") for qw(one two);
my $asked = time;
calls_of($node, 'two', 'crossing');
ok(poll(sub { alerts_of($node, 'two', 'crossing') =~ /^org "crossing": 8 of 10 requests used/ }), 'a threshold is alerted of');
cmp_ok(time - $asked, '<', 10, 'at once');
is(in_db($node, 'one', 'SELECT count(*) FROM llmquota.alert'), 0, 'where it was reached');

# After a restart it finds the databases by itself: nobody calls anything
pick_in($node, 'one', 1);
$node->restart;
ok(poll(sub { expired($node, 'one') == 2 }), 'after a restart it goes on by itself');
is(status($node, 'empty', 'rounds'), 0, 'and leaves alone what has no lease');

# Extension and databases come and go
ok(poll(sub { status($node, 'two', q{next_run > now() + '30 s'}) eq 't' }), 'two: the next round is far');
in_db($node, 'two', 'DROP EXTENSION llmquota');
in_db($node, 'two', 'CREATE EXTENSION llmquota');
in_db($node, 'two', q{
	INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
	INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
	INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
	INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p')});
pick_in($node, 'two', 1);
ok(poll(sub { expired($node, 'two') == 1 }), 'two: the extension is dropped and created, and leases expire again');
in_db($node, 'postgres', 'CREATE DATABASE three TEMPLATE one');
pick_in($node, 'three', 1);
ok(poll(sub { expired($node, 'three') == 3 }), 'three, made from one: leases expire');
for my $i (1 .. 5)
{
	in_db($node, 'postgres', "CREATE DATABASE many_$i TEMPLATE one");
	pick_in($node, "many_$i", 1);
}
in_db($node, 'postgres', "DROP DATABASE $_") for qw(two three), map { "many_$_" } 1 .. 5;
pass('databases are dropped, without FORCE');

# llmquota.worker = off
set_worker($node, 'off');
$pid = sleepers($node);
my $log = -s $node->logfile;
ok($node->wait_for_log(qr/parameter "llmquota.worker" changed/, 0), 'off');
my $rounds;
ok(poll(sub { my $seen = $rounds; $rounds = status($node, 'one', 'rounds'); defined $seen && $seen == $rounds }),
	'rounds come to an end');
pick_in($node, 'one', 1);
is(in_db($node, 'one', 'SELECT expired FROM llmquota_maintain()'), 1, 'off: expiry is left to llmquota_maintain()');
set_worker($node, 'on');
pick_in($node, 'one', 1);
ok(poll(sub { status($node, 'one', 'rounds') > $rounds }), 'on: there are rounds again');
is(sleepers($node), $pid, 'by the same worker');

# A standby has none; when it is promoted, it has one, which does what is due there
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
is(sleepers($standby), '', 'a standby has none');
is(status($standby, 'one', 'pid IS NULL AND rounds > 0'), 't', 'worker_status works there');
set_worker($node, 'off');
my $before = expired($node, 'one');
pick_in($node, 'one', 1);
calls_of($node, 'one', 'failing over');
is(alerts_of($node, 'one', 'failing over'), '', 'an alert has not been raised yet');
$node->wait_for_catchup('standby');
$node->stop;
$standby->promote;
ok(poll(sub { sleepers($standby) =~ /^\d+$/ }), 'it starts with the promotion');
ok(poll(sub { expired($standby, 'one') == $before + 1 }), 'and does what is due');
ok(poll(sub { alerts_of($standby, 'one', 'failing over') =~ /: 8 of 10 / }), 'and raises the alert');
is(sleepers($standby) =~ tr/ //, 0, 'once');

# kill -9: the server starts it again
my $killed = sleepers($standby);
kill 'KILL', $killed;
ok( poll(
		sub {
			my ($failed, $pids) = $standby->psql('postgres',
				q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'llmquota worker'});
			return $failed == 0 && $pids =~ /^\d+$/ && $pids ne $killed;
		}),
	'after a crash the server starts it again');

# pg_upgrade starts servers in a mode of their own, which no worker may use
$standby->stop('fast');
$standby->append_conf('postgresql.conf', 'listen_addresses = \'\'');
my @start = ('pg_ctl', '-w', '-D', $standby->data_dir, '-l', $standby->logfile, '-o', '-b');
command_ok([ @start, 'start' ], 'in the mode of pg_upgrade the server starts');
is(sleepers($standby), '', 'without a worker');
is(in_db($standby, 'one', 'SELECT pid IS NULL FROM llmquota.worker_status'), 't', 'and worker_status says so');
in_db($standby, 'one', q{SELECT llmquota_pick('m', 'clinic')});
is(sleepers($standby), '', 'and a pick starts none');
command_ok([ 'pg_ctl', '-w', '-D', $standby->data_dir, '-m', 'fast', 'stop' ], 'it stops');
done_testing();
