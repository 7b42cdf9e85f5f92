# The background worker of a database whose library nobody preloads: the first pick starts it, it does all maintenance
# by itself, and it is in nobody's way.
use strict;
use warnings;
use LlmquotaTest;
use LlmquotaWorker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_worker_node('worker');

# How many partitions by day there are in a database.
sub partitions
{
	my ($database) = @_;

	return in_db($node, $database,
		q{SELECT count(*) FROM pg_inherits WHERE inhparent = 'llmquota.usage'::regclass
			AND inhrelid::regclass::text ~ '\d{8}$'});
}

# Before the first pick there is none
new_database($node, 'one');
is(sleepers($node), '', 'CREATE EXTENSION and configuration start nothing');
is(status($node, 'one', 'pid IS NULL AND last_run IS NULL AND next_run IS NULL AND rounds = 0'), 't',
	'and worker_status says so');
in_db($node, 'one', q{BEGIN; DROP EXTENSION llmquota; CREATE EXTENSION llmquota;
	SELECT status FROM llmquota_pick('m', 'clinic') WHERE false; SELECT llmquota_maintain(); ROLLBACK});
is(sleepers($node), '', 'nor does a call in the transaction of CREATE EXTENSION');

in_db($node, 'one', 'SELECT llmquota_maintain()');
is(sleepers($node), '', 'nor does one before the first lease');

# The first pick starts it. Nobody calls llmquota_maintain() from here on
in_db($node, 'one', q{CREATE TABLE llmquota.usage_20200101 PARTITION OF llmquota.usage
	FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00')});
in_db($node, 'one', q{SELECT llmquota_record(lease) FROM llmquota_pick('m', 'clinic')});
ok(has_round($node, 'one'), 'after the first pick there is a round');
my $pid = sleepers($node);
like($pid, qr/^\d+$/, 'one process waits');
is(status($node, 'one', 'pid'), $pid, 'worker_status shows it');
is(in_db($node, 'postgres', "SELECT datid IS NULL AND datname IS NULL FROM pg_stat_activity WHERE pid = $pid"),
	't', 'connected to no database');
ok(poll(sub { partitions('one') >= 8 }), 'the coming days have partitions');
ok(poll(sub { in_db($node, 'one', q{SELECT to_regclass('llmquota.usage_20200101') IS NULL}) eq 't' }),
	'and one past its retention is gone');
is(in_db($node, 'one', 'SELECT count(*) FROM llmquota.usage_default'), 0, 'and the default partition has no rows');
ok(poll(sub { status($node, 'one', q{next_run BETWEEN last_run + '59 s' AND last_run + '60 s'}) eq 't' }),
	'an idle database has a round every minute');

# A lease that will expire before the next round is expired in time
pick_in($node, 'one', 1000);
ok(poll(sub { in_db($node, 'one', q{SELECT count(*) FROM llmquota.usage WHERE status = 'expired'}) == 1 }),
	'a forgotten lease expires');
is(in_db($node, 'one', q{SELECT used FROM llmquota.meter_window}), 0, 'and gives its place back');
is(in_db($node, 'one', q{SELECT recorded_at < expires + '20 s' FROM llmquota.usage,
	LATERAL (SELECT picked_at + '1 s') e(expires) WHERE status = 'expired'}), 't', 'long before the next minute');
is(in_db($node, 'one', q{SELECT count(*) FROM llmquota.usage JOIN pg_class c ON c.oid = usage.tableoid
	WHERE c.relname = 'usage_default'}), 0, 'its row is in its day');

# The row of a record that was rolled back
in_db($node, 'one', q{BEGIN; SELECT llmquota_record(lease, 1, 2) FROM llmquota_pick('m', 'clinic'); ROLLBACK});
in_db($node, 'one', q{SELECT pg_terminate_backend(pid) FROM llmquota.worker_status});
ok(poll(sub { sleepers($node) eq '' }), 'the worker can be terminated');
set_worker($node, 'off');
pick_in($node, 'one', 60000);
is(sleepers($node), '', 'off: nothing starts another');
is(status($node, 'one', 'pid IS NULL'), 't', 'and worker_status says so');
set_worker($node, 'on');
ok(poll(sub { pick_in($node, 'one', 60000); sleepers($node) ne '' }), 'on: a call does');
ok(poll(sub { in_db($node, 'one', q{SELECT count(*) FROM llmquota.usage WHERE usage_source = 'recovered'}) == 1 }),
	'the row that was rolled back with a record is written');
is(status($node, 'one', 'failures || coalesce(last_error, $$ $$)'), '0 ', 'without an error');

# off takes effect while it waits, long before its next round would be due
set_worker($node, 'off');
{
	local $PostgreSQL::Test::Utils::timeout_default = 20;
	ok(poll(sub { sleepers($node) eq '' }), 'off: it ends');
}
set_worker($node, 'on');

# A database made from this one has a worker of its own, and neither stands in the way of the other
ok(poll(sub { pick_in($node, 'one', 500); sleepers($node) ne '' }), 'there is one again');
in_db($node, 'postgres', "CREATE DATABASE copy_$_ TEMPLATE one") for 1 .. 3;
pass('databases are made from one that the worker looks after');
in_db($node, 'copy_1', q{SELECT llmquota_pick('m', 'clinic')});
ok(poll(sub { split(' ', sleepers($node)) == 2 }), 'a pick in the copy starts one for it');
ok(poll(sub { status($node, 'copy_1', 'pid') ne status($node, 'one', 'pid') }), 'each has its own');

# DROP EXTENSION: it ends long before its next round would be due
ok(poll(sub { status($node, 'copy_1', q{next_run > now() + '30 s'}) eq 't' }), 'the next round is far');
my $of_copy = status($node, 'copy_1', 'pid');
in_db($node, 'copy_1', 'DROP EXTENSION llmquota');
{
	local $PostgreSQL::Test::Utils::timeout_default = 20;
	ok(poll(sub { " @{[ sleepers($node) ]} " !~ / $of_copy / }), 'DROP EXTENSION: its worker ends');
}

# DROP DATABASE, while leases expire all the time
for my $i (2 .. 3)
{
	pick_in($node, "copy_$i", 1 + $_) for 1 .. 5;
	ok(has_round($node, "copy_$i"), "copy_$i is being looked after");
}
in_db($node, 'postgres', "DROP DATABASE copy_$_") for 1 .. 3;
pass('databases are dropped, without FORCE');
{
	local $PostgreSQL::Test::Utils::timeout_default = 20;
	ok(poll(sub { split(' ', sleepers($node)) == 1 }), 'their workers end');
}

# VACUUM FULL gives the table another file, which is no reason to end
my $before = status($node, 'one', 'pid');
my $rounds = status($node, 'one', 'rounds');
in_db($node, 'one', 'VACUUM FULL llmquota.name');
ok(poll(sub { status($node, 'one', 'rounds') > $rounds }), 'VACUUM FULL of its table: there is a round');
is(status($node, 'one', 'pid'), $before, 'by the same worker');

# A crash: the next call finds it gone
kill 'KILL', $before;
ok( poll(
		sub {
			my ($failed, $answer) = $node->psql('one', q{SELECT status FROM llmquota_pick('m', 'clinic', ttl_ms => 1)});
			return $failed == 0 && sleepers($node) ne '' && status($node, 'one', 'pid') ne $before;
		}),
	'kill -9 of the worker: after the restart a call starts another');
ok(poll(sub { in_db($node, 'one', 'SELECT count(*) FROM llmquota.lease WHERE expires_at < now()') == 0 }),
	'which goes on expiring leases');

# A fast shutdown waits for nobody
$node->stop('fast');
$node->start;
is(sleepers($node), '', 'after a restart there is none until a call starts it');
pick_in($node, 'one', 100);
ok(poll(sub { sleepers($node) ne '' }), 'which it does');
unlike(slurp_file($node->logfile), qr/ERROR:|PANIC:/, 'there is no error in the log');
$node->stop;
done_testing();
