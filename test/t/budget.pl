# Budgets hold, whatever comes at once: not one call more is granted than the amount pays for, and not one less.
use strict;
use warnings;
use FindBin;
use JSON::PP;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $python = '/usr/bin/python3';
my $node = new_node('budget', fixture => 0, conf => ['max_connections = 1050']);

# Runs a scenario of budget.py in a database of its own: what it answered.
sub run_scenario
{
	my ($name) = @_;
	my ($out, $err) = ('', '');

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION llmquota');
	IPC::Run::run([ $python, "$FindBin::RealBin/budget.py", $name, $node->connstr($name) ], '>', \$out, '2>', \$err);
	is($err, '', "$name: no client has seen an error");
	is($node->safe_psql($name, 'SELECT * FROM llmquota_verify()'), '', "$name: llmquota_verify() finds nothing");
	note($out);
	return $out eq '' ? {} : decode_json($out);
}

is(qx{$python $FindBin::RealBin/tariff.py 2>&1}, "ok\n", 'the definition of what calls cost is as it should be');

my $fifty = { answers => { granted => 50, budget_exceeded => 950 }, used => '5.000000000', leases => 50 };
is_deeply(run_scenario('org'), $fifty, '1,000 concurrent reservations of 0.10 on a budget of 5.00: exactly 50');
is_deeply(run_scenario('parent'), $fifty, '... by two orgs on the budget of the one above them');

my $mixed = run_scenario('mixed');
cmp_ok($mixed->{answers}{granted}, '>', 20, 'of picks of every size some were granted');
is($mixed->{over}, 0, '... no more than the amount pays for');
is($mixed->{'room for what was refused'}, 0, '... and none refused that it would have paid for in the end');
is($mixed->{unequal}, 0, '... and the budget has counted what they cost');
$node->stop;
done_testing();
