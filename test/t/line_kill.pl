# kill -9 of a server in which many wait in line, and of clients that wait, hold tickets, or hold slots (line_kill.py):
# no slot is lost when their leases have expired, and nobody waits past his deadline.
use strict;
use warnings;
use FindBin;
use JSON::PP;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $slots = 4;
my $directory = PostgreSQL::Test::Utils::tempdir;
my $node = new_node('line_kill', fixture => 0, conf => ['llmquota.worker = on']);

sub command
{
	return [ '/usr/bin/python3', "$FindBin::RealBin/line_kill.py", @_ ];
}

sub median
{
	my @sorted = sort { $a <=> $b } @_;

	return $sorted[ @sorted / 2 ];
}

# What clients have seen that waited in vain for 60 ms: the machine may be slow for some of them, not for most.
sub kept_deadlines
{
	my ($what, $late) = @_;

	note("$what: " . scalar(@$late) . ' waits in vain, late by ' . (median(@$late) // 'nothing') . ' ms');
	cmp_ok(median(@$late) // 0, '<', 500, "$what: most waits end at their deadline");
	is(scalar(grep { $_ < -1 } @$late), 0, "$what: none ends before it");
	return;
}

my ($out, $err) = ('', '');
IPC::Run::run(command($node->connstr('postgres'), $directory, 'setup')) or die 'no configuration';
my $clients = IPC::Run::start(command($node->connstr('postgres'), $directory, 'server'), '>', \$out, '2>', \$err);
ok(poll(sub { $clients->pump_nb; -e "$directory/ready" || !$clients->pumpable }), 'all have calls');
crash($node);
$clients->finish;
is($err, '', 'killed server: no client has seen another error');
my $seen = decode_json($out);
is($seen->{answers}{gone}, 16, 'killed server: every client has noticed');
kept_deadlines('killed server', $seen->{late});

$node->start;
($out, $err) = ('', '');
IPC::Run::run(command($node->connstr('postgres'), $directory, 'clients'), '>', \$out, '2>', \$err);
is($err, '', 'killed clients: the others have seen no error');
$seen = decode_json($out);
note($out =~ s/"late": \[.*?\], //r);
is($seen->{free}, $slots, 'every slot is free at the end, and no more');
kept_deadlines('killed clients', $seen->{late});
cmp_ok(sql($node, q{SELECT count(*) FROM llmquota.usage WHERE status = 'expired'}),
	'>', 0, 'some were killed with a slot');

# who is alone in the line watches over the limit, and sleeps no longer than he may for all that
cmp_ok($seen->{alone}, '<', 600, 'a wait of 100 ms that is alone in the line ends at its deadline');
cmp_ok($seen->{alone}, '>=', 100, 'and not before');

verified($node, 'at the end');
$node->stop;
done_testing();
