# Picks that wait in their calls: what wakes them, what ends them, and that nobody overtakes them. They wait for ten
# minutes, longer than a test may take: so whoever is granted has been woken.
use strict;
use warnings;
use LlmquotaLine;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_node('line_held', fixture => 0);
my $wait = 'wait_ms => 600000';
my $pick = "SELECT status FROM llmquota_pick('m', 'o', $wait)";

sql($node, line_config());

# A pick waits; then something happens, and it is granted.
sub test_woken
{
	my ($what, $happens) = @_;
	my ($session) = waits($node, 1, $pick);

	$happens->();
	is(answer($session), 'granted', "$what: granted");
	return ends_empty($node, $what);
}

sub test_woken_by_leases
{
	my $holder;
	my @ends = (
		[ 'recorded', sub { sql($node, "SELECT llmquota_record('$holder')") } ],
		[ 'failed', sub { sql($node, "SELECT llmquota_record('$holder', http_status => 500)") } ],
		[ 'released', sub { sql($node, "SELECT llmquota_release('$holder')") } ]);

	for my $end (@ends)
	{
		slots($node, 1);
		$holder = lease_of($node, q{'holder'});
		test_woken("a lease is $end->[0]", $end->[1]);
	}
	slots($node, 1);
	lease_of($node, q{'holder', ttl_ms => 1000});
	test_woken('a lease expires', sub {
		poll(sub { sql($node, 'SELECT expired FROM llmquota_maintain()') > 0 }) or die 'nothing expires' });
	return;
}

sub test_woken_by_time
{
	slots($node, 10);
	sql($node, q{INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'requests', 1, '2 seconds')});
	lease_of($node, q{'o'});
	test_woken('a window slides', sub { });
	slots($node, 10);
	sql($node, q{SELECT llmquota_cool('key', 'k', 1500)});
	test_woken('a cooldown ends', sub { });
	sql($node, q{SELECT llmquota_cool('key', 'k', 3600000)});
	test_woken('a cooldown is cleared', sub { sql($node, q{SELECT llmquota_clear('key', 'k')}) });
	return;
}

sub test_woken_by_configuration
{
	slots($node, 1);
	lease_of($node, q{'holder'});
	test_woken('a limit is raised', sub { sql($node, 'UPDATE llmquota.quota SET amount = 2') });
	slots($node, 1);
	lease_of($node, q{'holder'});
	test_woken('a limit is gone', sub { sql($node, 'DELETE FROM llmquota.quota') });
	return;
}

# Who wakes up by himself does so once a second. A lease that is given back wakes him: at least once in ten times at once.
sub test_at_once
{
	my $least = 1e9;

	for (1 .. 10)
	{
		slots($node, 1);
		my $holder = lease_of($node, q{'holder'});
		my ($session) = waits($node, 1, "SELECT extract(epoch FROM granted_at) FROM llmquota_pick('m', 'o', $wait)");
		my $released = sql($node, "SELECT extract(epoch FROM clock_timestamp()) FROM llmquota_release('$holder')");
		my $took = answer($session) - $released;
		$least = $took if $took < $least;
	}
	cmp_ok($least, '<', 0.3, 'a lease that is given back wakes who waits');
	return;
}

# One who waits for two limits, of which another watches over one, is woken by the other.
sub test_woken_by_the_second
{
	slots($node, 10);
	sql($node, q{
		INSERT INTO llmquota.account (account, provider) VALUES ('b', 'p');
		INSERT INTO llmquota.key (key, account, models) VALUES ('l', 'b', '{n}');
		INSERT INTO llmquota.model (model, provider) VALUES ('n', 'p');
		INSERT INTO llmquota.route (route, step, model) VALUES ('both', 1, 'm'), ('both', 2, 'n');
		INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per) VALUES
			('account', 'a', NULL, 'requests', 1, '1 hour'), ('account', 'b', NULL, 'requests', 1, '3 seconds')});
	sql($node, q{SELECT llmquota_pick('m'), llmquota_pick('n')});
	my ($first) = waits($node, 1, $pick);
	my ($second) = waits($node, 2, "SELECT status || ' ' || model FROM llmquota_pick('both', 'o', $wait)");
	is(answer($second), 'granted n', 'what is free is for who can use it, whoever else waits for something else');
	sql($node, q{UPDATE llmquota.quota SET amount = 2 WHERE subject = 'a'});
	is(answer($first), 'granted', 'and the other is woken by what he waits for');
	ends_empty($node, 'two limits');
	sql($node, q{DELETE FROM llmquota.quota; DELETE FROM llmquota.route; DELETE FROM llmquota.model WHERE model = 'n';
		DELETE FROM llmquota.key WHERE key = 'l'; DELETE FROM llmquota.account WHERE account = 'b'});
	return;
}

# A pick waits and is ended: it has been told that, and leaves nothing behind.
sub test_ended
{
	my ($what, $ends, $told) = @_;

	slots($node, 1);
	my $holder = lease_of($node, q{'holder'});
	my ($session, $pid) = waits($node, 1, $pick);
	$ends->($session, $pid);
	ok(poll(sub { waiting($node) == 0 }), "$what: its place is gone");
	like(answer($session), $told, "$what: it is told") if defined $told;
	is(sql($node, 'SELECT count(*) FROM llmquota.lease'), 1, "$what: it has no lease");
	sql($node, "SELECT llmquota_release('$holder')");
	is(sql($node, q{SELECT status FROM llmquota_pick('m', 'next')}), 'granted', "$what: the slot is for the next");
	return ends_empty($node, $what);
}

sub test_all_ends
{
	my $kill = sub {
		my ($session, $pid) = @_;

		$session->{run}->kill_kill;
		ok(poll(sub { state_of($node, $pid) eq '' }), 'its backend notices') };

	test_ended('cancelled', sub { sql($node, "SELECT pg_cancel_backend($_[1])") }, qr/canceling statement due to user request/);
	test_ended('terminated', sub { sql($node, "SELECT pg_terminate_backend($_[1])"); $_[0]->{run}->kill_kill });
	test_ended('a client is killed', $kill);
	return;
}

# A statement's timeout ends a pick that waits, however long it wanted to.
sub test_timed_out
{
	my ($out, $err);

	slots($node, 1);
	lease_of($node, q{'holder'});
	$node->psql('postgres', "SET statement_timeout = '500ms'; $pick", stdout => \$out, stderr => \$err);
	like($err, qr/canceling statement due to statement timeout/, 'timed out: it is told');
	is(waiting($node), 0, 'timed out: its place is gone');
	return ends_empty($node, 'timed out');
}

# Who waits until his deadline is told his place; he has waited as long as he wanted, and hardly longer.
sub test_deadline
{
	my $least = 1e9;

	slots($node, 1);
	lease_of($node, q{'holder'});
	my ($first) = waits($node, 1, $pick);
	for (1 .. 5)
	{
		my $begin = time;
		my $told = sql($node, q{SELECT status, retry_after_ms > 0, refusal->>'metric', refusal->>'position'
								  FROM llmquota_pick('m', 'o', wait_ms => 400)});
		my $took = time - $begin;
		is($told, 'over_capacity|t|concurrency|2', 'who waits in vain is told where he was');
		cmp_ok($took, '>=', 0.4, 'he has waited as long as he wanted');
		$least = $took if $took < $least;
	}
	cmp_ok($least, '<', 0.9, 'and not longer');
	is(sql($node, q{SELECT status, refusal->>'position' FROM llmquota_pick('m', 'o', wait_ms => 0)}), 'over_capacity|',
		'who does not want to wait is not in the line');
	sql($node, 'SELECT llmquota_release(lease) FROM llmquota.lease');
	is(answer($first), 'granted', 'the first one is still there');
	return ends_empty($node, 'deadline');
}

# In an org first come is first served; and who does not wait gets nothing while others do, even when a slot is free.
sub test_order
{
	my @sessions;

	slots($node, 1);
	my $holder = lease_of($node, q{'holder'});
	for my $i (1 .. 4)
	{
		my ($session, $pid) = waits($node, $i, "SELECT lease FROM llmquota_pick('m', 'o', $wait)");
		push @sessions, $session;
		kill 'STOP', $pid if $i == 1;
		push @sessions, $pid if $i == 1;
	}
	my ($first, $pid, @others) = @sessions;
	sql($node, "SELECT llmquota_release('$holder')");
	is(sql($node, q{SELECT status FROM llmquota_pick('m', 'hasty')}), 'over_capacity', 'nobody jumps the line');
	is(sql($node, q{SELECT status FROM llmquota_pick_many('m', 'hasty', 1)}), 'over_capacity', 'nor do those of a batch');
	is(sql($node, 'SELECT called FROM llmquota.waiting ORDER BY since LIMIT 1'), 't', 'the first is called');
	kill 'CONT', $pid;
	for my $session ($first, @others)
	{
		my $lease = answer($session);
		like($lease, qr/^[0-9a-f-]{36}$/, 'granted');
		is(sql($node, 'SELECT lease FROM llmquota.lease'), $lease, 'it is the only one');
		sql($node, "SELECT llmquota_record('$lease')");
	}
	is(sql($node, q{SELECT count(*), count(*) FILTER (WHERE waited_ms > 0) FROM llmquota.usage WHERE org = 'o' AND status = 'ok'
					 AND picked_at >= (SELECT picked_at FROM llmquota.usage WHERE org = 'holder' ORDER BY picked_at DESC LIMIT 1)}),
		'4|4', 'the ledger says that they have waited');
	is(sql($node, q{SELECT count(*) FROM llmquota.usage WHERE org = 'holder' AND waited_ms IS NOT NULL}), 0,
		'and that the holder has not');
	return ends_empty($node, 'order');
}

# A transaction that has waited may go on, wait again, and fail: what it was granted stays.
sub test_transactions
{
	slots($node, 1);
	my $holder = lease_of($node, q{'holder'});
	my ($session) = waits($node, 1, "BEGIN; SAVEPOINT s; $pick; ROLLBACK TO s; $pick");

	sql($node, "SELECT llmquota_release('$holder')");
	ok(poll(sub { sql($node, q{SELECT count(*) FROM llmquota.lease WHERE org = 'o'}) == 1 && waiting($node) == 1 }),
		'a transaction that was granted waits for more');
	sql($node, 'SELECT llmquota_release(lease) FROM llmquota.lease');
	is($session->query('ROLLBACK') =~ s/\n/ /gr, 'granted granted', 'it is granted, too');
	is(sql($node, q{SELECT count(*) FROM llmquota.lease}), 1, 'after ROLLBACK the lease is there');
	$session->quit;

	($session) = waits($node, 1, "BEGIN; $pick");
	$session->{run}->kill_kill;
	ok(poll(sub { waiting($node) == 0 }), 'a transaction that waits ends with its client');
	return ends_empty($node, 'transactions');
}

# The extension goes while somebody waits, and is created again by somebody else.
sub test_recreated
{
	slots($node, 1);
	lease_of($node, q{'holder'});
	my ($session, $pid) = waits($node, 1, $pick);
	my $other = $node->background_psql('postgres', on_error_stop => 0);
	$other->query(q{SELECT status FROM llmquota_pick('m', 'other')});
	sql($node, 'DROP EXTENSION llmquota CASCADE');
	sql($node, 'CREATE EXTENSION llmquota;' . line_config());
	slots($node, 1);
	like(answer($session), qr/^(granted|ERROR)/, 'who waited is told something');
	is(sql($node, "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid"), 0, 'and no server crashed');
	sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
	my $holder = lease_of($node, q{'holder'});
	my ($again) = waits($node, 1, $pick);
	is($other->query(q{SELECT status FROM llmquota_pick('m', 'other')}), 'over_capacity', 'another session knows the new line');
	is($other->query(q{SELECT count(*) FROM llmquota.waiting}), 1, 'and sees who waits in it');
	$other->quit;
	sql($node, "SELECT llmquota_release('$holder')");
	is(answer($again), 'granted', 'it works');
	return ends_empty($node, 'created again');
}

# A fast shutdown ends who waits; after it nobody does.
sub test_shutdown
{
	slots($node, 1);
	my $holder = lease_of($node, q{'holder'});
	my ($session) = waits($node, 1, $pick);
	$node->stop('fast');
	$session->{run}->kill_kill;
	$node->start;
	is(waiting($node), 0, 'after a shutdown nobody waits');
	is(sql($node, "SELECT llmquota_release('$holder')"), 'released', 'and the lease is there');
	return ends_empty($node, 'shutdown');
}

test_woken_by_leases();
test_woken_by_time();
test_woken_by_configuration();
test_at_once();
test_woken_by_the_second();
test_all_ends();
test_timed_out();
test_deadline();
test_order();
test_transactions();
test_shutdown();
test_recreated();
done_testing();
