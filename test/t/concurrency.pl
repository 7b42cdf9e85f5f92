# Concurrent picks never break a limit. The clients are 32 processes (concurrency.py) that write down what they were
# granted, when, and what became of it; an oracle outside the server (oracle.py) judges their logs.
use strict;
use warnings;
use FindBin;
use JSON::PP;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $python = '/usr/bin/python3';
my $node = new_node('concurrency', fixture => 0, conf => ['max_connections = 1050']);

# Runs a scenario in a database of its own: what it answered.
sub run_scenario
{
	my ($name) = @_;
	my ($out, $err) = ('', '');

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION llmquota');
	IPC::Run::run([ $python, "$FindBin::RealBin/concurrency.py", $name, $node->connstr($name) ], '>', \$out, '2>', \$err);
	is($err, '', "$name: no client has seen an error");
	note($out);
	return $out eq '' ? {} : decode_json($out);
}

is(qx{$python $FindBin::RealBin/oracle.py 2>&1}, "ok\n", 'the oracle notices what it is to notice');

my $limits = run_scenario('limits');
cmp_ok($limits->{granted}, '>', 300, 'limits: picks were granted');
is_deeply($limits->{broken}, [], 'limits: no limit was broken in any sliding interval');
is_deeply($limits->{never_refused}, [], 'limits: every limit has refused');
is_deeply($limits->{idle}, [], 'limits: every limit was used');
is_deeply($limits->{unequal}, [], 'limits: the meters say what the log says');
is($limits->{in_flight}, 0, 'limits: nothing is in flight at the end');

is_deeply(run_scenario('two_of_fifty'), { answers => { granted => 2, over_capacity => 48 }, used => 2, leases => 2 },
	'50 clients at once, 2 per minute on one key: exactly 2');
is_deeply(
	run_scenario('fifty_of_a_thousand'),
	{ answers => { granted => 50, over_capacity => 950 }, used => 5000, leases => 50 },
	'1,000 concurrent reservations of 100 tokens on 5,000 per hour: exactly 50');

is_deeply(
	run_scenario('first_use'),
	{ answers => { granted => 20, rate_limited => 30 }, names => 1, meters => 1 },
	'50 first picks for an org at once, 20 per hour: exactly 20, on one meter');

my $tenants = run_scenario('tenants');
cmp_ok($tenants->{granted}, '>', 300, 'tenants: picks were granted');
cmp_ok($tenants->{refused}, '>', 0, 'tenants: picks were refused');
is_deeply($tenants->{crossed}, [], 'tenants: no key crosses');
is_deeply($tenants->{missing}, [], 'tenants: every org has got each of the keys it may have');

$node->stop;
done_testing();
