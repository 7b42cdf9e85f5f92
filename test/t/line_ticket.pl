# Tickets whose holders are away, or come twice; what of a line is left after a crash, on a standby, in a copy of a database.
use strict;
use warnings;
use LlmquotaLine;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('line_ticket', fixture => 0, init => { allows_streaming => 1 });

sql($node, line_config() . q{UPDATE llmquota.setting SET value = '3600000' WHERE name = 'ticket_ttl'});

sub ticket
{
	my ($org, $database) = @_;

	return $node->safe_psql($database // 'postgres',
		"SELECT lease FROM llmquota_pick('m', '$org', queue => true) WHERE status = 'queued'");
}

sub claim
{
	my ($ticket, $wait_ms, $database) = @_;

	return $node->safe_psql($database // 'postgres',
		"SELECT concat_ws(' ', status, refusal->>'position') FROM llmquota_claim('$ticket', " . ($wait_ms // 0) . ')');
}

sub give_back
{
	sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
	return;
}

sub leave
{
	sql($node, 'SELECT count(llmquota_release(ticket)) FROM llmquota.waiting');
	return ends_empty($node, $_[0]);
}

# Who is called and does not come is passed over; when he comes, he is before all who came later.
sub test_absent
{
	slots($node, 1);
	lease_of($node, q{'holder'});
	my ($first, $second, $third) = map { ticket('o') } 1 .. 3;
	give_back();
	is(sql($node, q{SELECT string_agg(called::text, ' ' ORDER BY since) FROM llmquota.waiting}), 'true false false',
		'the first is called');
	is(sql($node, q{SELECT status FROM llmquota_pick('m', 'o')}), 'over_capacity', 'who does not wait gets nothing');
	ok(poll(sub { claim($second) eq 'granted' }), 'another ticket is granted, when the first does not come');
	is(claim($first), 'queued 1', 'the first has kept its place');
	is(claim($third), 'queued 2', 'before who came later');
	give_back();
	is(claim($first), 'granted', 'it is the next');
	give_back();
	is(claim($third), 'granted', 'and the last one last');
	return leave('absent');
}

# The slot that an absent ticket leaves wakes somebody who waits in a call.
sub test_absent_before_held
{
	slots($node, 1);
	lease_of($node, q{'holder'});
	my $away = ticket('o');
	my ($session) = waits($node, 2, q{SELECT status FROM llmquota_pick('m', 'o', wait_ms => 600000)});
	give_back();
	is(answer($session), 'granted', 'who waits in his call is granted, when the ticket before him does not come');
	is(claim($away), 'queued 1', 'which has kept its place');
	return leave('absent before held');
}

# A claim that waits is woken; and who watched over a window and has gone away is no keeper.
sub test_claims_that_wait
{
	slots($node, 1);
	lease_of($node, q{'holder'});
	my $ticket = ticket('o');
	my ($session) = waits($node, 1, "SELECT status FROM llmquota_claim('$ticket', 600000)");
	ok(poll(sub { sql($node, q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'Extension' AND query LIKE '%claim%'}) == 1 }),
		'a claim waits');
	give_back();
	is(answer($session), 'granted', 'and is woken');
	give_back();

	sql($node, q{INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'requests', 1, '3 seconds');
		UPDATE llmquota.quota SET amount = 10 WHERE metric = 'concurrency'});
	lease_of($node, q{'w'});
	$ticket = ticket('w');
	is(claim($ticket), 'queued 1', 'a ticket for a window is shown once');
	($session) = waits($node, 2, q{SELECT status FROM llmquota_pick('m', 'w', wait_ms => 600000)});
	is(answer($session), 'granted', 'who waits in his call for the same watches the window himself');
	return leave('claims that wait');
}

# One ticket that is shown in two sessions, granted once; one that is given back while it is waited with.
sub test_twice
{
	slots($node, 1);
	lease_of($node, q{'holder'});
	my $ticket = ticket('o');
	my ($one) = waits($node, 1, "SELECT status FROM llmquota_claim('$ticket', 600000)");
	my ($two) = waits($node, 1, "SELECT status FROM llmquota_claim('$ticket', 600000)");
	is(answer($one), 'queued', 'who waits with a ticket is sent away when it is shown by another');
	is(waiting($node), 1, 'which has one place');
	give_back();
	is(answer($two), 'granted', 'who is granted');
	is(claim($ticket), 'granted', 'which is what everybody is told then');
	is(sql($node, 'SELECT count(*) FROM llmquota.lease'), 1, 'it is one lease');

	my $other = ticket('o');
	($one) = waits($node, 1, "SELECT status FROM llmquota_claim('$other', 600000)");
	is(sql($node, "SELECT llmquota_release('$other')"), 'released', 'a ticket is given back while it is waited with');
	is(answer($one), 'unknown_lease', 'who waited with it is told');
	my $next = ticket('o');
	is(waiting($node), 1, 'the place is free');
	give_back();
	is(claim($next), 'granted', 'and the next one has it');
	return leave('twice');
}

# A ticket that nobody has shown for long leaves the line, and maintenance frees its slot.
sub test_unseen
{
	slots($node, 1);
	lease_of($node, q{'holder'});
	sql($node, q{UPDATE llmquota.setting SET value = '1000' WHERE name = 'ticket_ttl'});
	my $ticket = ticket('o');
	my $slots = sql($node, 'SELECT sum(waiting_slots(state)) FROM llmquota.lease_page');
	is($slots, 1, 'a ticket has a slot');
	ok(poll(sub { waiting($node) == 0 }), 'a ticket that nobody shows leaves the line');
	give_back();
	is(sql($node, q{SELECT status FROM llmquota_pick('m', 'o')}), 'granted', 'and is in nobody\'s way');
	ok(poll(sub { sql($node, 'SELECT count(*) FROM llmquota_maintain()');
			sql($node, 'SELECT sum(waiting_slots(state)) FROM llmquota.lease_page') == 0 }), 'maintenance frees its slot');
	is(claim($ticket), 'unknown_lease', 'nobody knows it any more');
	sql($node, q{UPDATE llmquota.setting SET value = '3600000' WHERE name = 'ticket_ttl'});
	return leave('unseen');
}

# Whose ticket is shown within its time stays, however long that takes.
sub test_seen
{
	slots($node, 1);
	lease_of($node, q{'holder'});
	sql($node, q{UPDATE llmquota.setting SET value = '20000' WHERE name = 'ticket_ttl'});
	my $ticket = ticket('o');
	my $until = sql($node, "SELECT expires_at FROM llmquota_claim('$ticket')");
	ok(poll(sub { sql($node, "SELECT expires_at > '$until'::timestamptz + '1 second' FROM llmquota_claim('$ticket')") eq 't' }),
		'a ticket is kept longer whenever it is shown');
	sql($node, q{UPDATE llmquota.setting SET value = '3600000' WHERE name = 'ticket_ttl'});
	return leave('seen');
}

# After kill -9 of the server nobody waits; tickets are known, and in the order in which they came.
sub test_crash
{
	slots($node, 1);
	my $holder = lease_of($node, q{'holder'});
	my @tickets = map { ticket('o') } 1 .. 4;
	my ($session) = waits($node, 5, q{SELECT status FROM llmquota_pick('m', 'o', wait_ms => 600000)});
	crash($node);
	$session->{run}->kill_kill;
	$node->start;
	is(waiting($node), 0, 'after a crash nobody waits');
	is(claim($tickets[$_]), 'queued 1', "ticket $_ can be shown") for 3;
	is(claim($tickets[$_]), 'queued 1', "ticket $_ is before it") for 1, 0;
	is(claim($tickets[2]), 'queued 3', 'ticket 2 is between them');
	is(sql($node, q{SELECT string_agg(position::text, ' ' ORDER BY since) FROM llmquota.waiting}), '1 2 3 4', 'all are in order');
	is(sql($node, "SELECT llmquota_release('$holder')"), 'released', 'the lease is there');
	for my $i (0 .. 3)
	{
		is(claim($tickets[$i]), 'granted', "ticket $i is granted");
		is(claim($tickets[ $i + 1 ]), 'queued 1', 'and the next is not') if $i < 3;
		give_back();
	}
	return leave('crash');
}

# Databases of one cluster have lines of their own; a copy of one has its tickets, and nobody in line.
sub test_databases
{
	sql($node, 'DROP DATABASE IF EXISTS other');
	sql($node, 'CREATE DATABASE other');
	$node->safe_psql('other', 'CREATE EXTENSION llmquota;' . line_config()
		  . q{INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('global', '', 'concurrency', 1);
		UPDATE llmquota.setting SET value = '3600000' WHERE name = 'ticket_ttl'});
	slots($node, 1);
	lease_of($node, q{'holder'});
	my $here = ticket('here');
	is($node->safe_psql('other', q{SELECT status FROM llmquota_pick('m', 'o')}), 'granted', 'the other database has its own slots');
	is(ticket('o', 'other') ne '', 1, 'and its own tickets');
	is(claim($here, 0, 'other'), 'unknown_lease', 'which are not known here');
	is($node->safe_psql('other', 'SELECT org FROM llmquota.waiting'), 'o', 'and its own line');
	is(sql($node, 'SELECT org FROM llmquota.waiting'), 'here', 'as has this one');
	is($node->safe_psql('other', 'SELECT count(*) FROM llmquota_verify()'), 0, 'llmquota_verify() finds nothing there');

	sql($node, 'CREATE DATABASE copy TEMPLATE other');
	is($node->safe_psql('copy', 'SELECT count(*) FROM llmquota.waiting'), 0, 'in a copy nobody waits');
	my $copied = $node->safe_psql('other', 'SELECT ticket FROM llmquota.waiting');
	is(claim($copied, 0, 'copy'), 'queued 1', 'a ticket can be shown there');
	$node->safe_psql('copy', 'SELECT llmquota_release(lease) FROM llmquota.lease');
	is(claim($copied, 0, 'copy'), 'granted', 'and be granted');
	is(claim($copied, 0, 'other'), 'queued 1', 'and is in line where it came from');
	is($node->safe_psql('copy', 'SELECT count(*) FROM llmquota_verify()'), 0, 'llmquota_verify() finds nothing in the copy');
	sql($node, 'DROP DATABASE copy');
	sql($node, 'DROP DATABASE other');
	return leave('databases');
}

# A standby has no line. When it is promoted, tickets can be shown there.
sub test_standby
{
	slots($node, 1);
	my $holder = lease_of($node, q{'holder'});
	my @tickets = map { ticket('o') } 1 .. 2;
	$node->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new('line_standby');
	$standby->init_from_backup($node, 'backup', has_streaming => 1);
	$standby->start;
	$node->wait_for_catchup($standby);
	is(waiting($standby), 0, 'on a standby nobody waits');
	is(sqlstate($standby, "SELECT llmquota_claim('$tickets[0]')"), '25006', 'tickets are not granted there');
	is(sqlstate($standby, q{SELECT llmquota_pick('m', 'o', wait_ms => 1000)}), '25006', 'nor picks');
	is(waiting($node), 2, 'they wait on the primary');
	$standby->promote;
	is(waiting($standby), 0, 'when it is promoted nobody waits');
	is(sql($standby, "SELECT status FROM llmquota_claim('$tickets[1]')"), 'queued', 'tickets are known');
	is(sql($standby, "SELECT refusal->>'position' FROM llmquota_claim('$tickets[0]')"), 1, 'in their order');
	sql($standby, "SELECT llmquota_release('$holder')");
	is(sql($standby, "SELECT status FROM llmquota_claim('$tickets[0]')"), 'granted', 'and are granted');
	verified($standby, 'promoted');
	$standby->stop;
	return leave('standby');
}

# How many slots of a lease page are of tickets.
sql($node, q{
	CREATE FUNCTION waiting_slots(page bytea) RETURNS bigint LANGUAGE sql AS $$
		SELECT count(*) FROM generate_series(0, 3) i WHERE get_byte(page, 32 + i * 536 + 120) = 3 $$});
test_absent();
test_absent_before_held();
test_claims_that_wait();
test_twice();
test_unseen();
test_seen();
test_crash();
test_databases();
test_standby();
done_testing();
