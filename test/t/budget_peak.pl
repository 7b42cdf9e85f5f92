# 500 orgs at the peak hour, 15 calls in flight in all and 5 of an org, each with a daily budget in baht: every threshold
# is acted on by the very next pick after it is crossed, whoever crossed it. The clients are 300 processes
# (budget_peak.py) that write down what they were granted and what it cost; an oracle outside the server (audit.py) goes
# through their logs in the order of time.
use strict;
use warnings;
use FindBin;
use JSON::PP;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('budget_peak', fixture => 0, conf => ['max_connections = 320']);
my ($out, $err) = ('', '');

IPC::Run::run([ '/usr/bin/python3', "$FindBin::RealBin/budget_peak.py", $node->connstr('postgres') ], '>', \$out, '2>', \$err);
is($err, '', 'no client has seen an error');
my $peak = $out eq '' ? {} : decode_json($out);

note(JSON::PP->new->canonical->encode({ map { $_ => $peak->{$_} } qw(granted ledger refused alerts) }));
is_deeply($peak->{wrong}, [], 'no pick was granted a dearer model than the thresholds allow, nor a cheaper one');
is_deeply($peak->{unexpected}, [], 'a free model answers when the budget is spent: no budget has refused');
is_deeply($peak->{'never free'}, [], 'each org has crossed both of its thresholds');
cmp_ok($peak->{'orgs of the small model'}, '>', 400, '... hardly any with one call');
is_deeply($peak->{alerts}, { missing => 0, 'too many' => 0, some => [] }, '... and each has one alert for either');
is($peak->{ledger}{downgraded}, $peak->{granted}{mini} + $peak->{granted}{flash}, 'the ledger says what was downgraded');
is($peak->{ledger}{'as asked for'}, $peak->{granted}{chat}, '... and what was not');
cmp_ok($peak->{refused}{over_capacity} // 0, '>', 0, 'there was more asked for than there were calls in flight');
verified($node, 'in the end');
$node->stop;
done_testing();
