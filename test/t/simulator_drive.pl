# The load driver does what test/simulator/README.md says: what it wrote down of its requests, what the simulator
# counted, and what the ledger has are the same; and it tries again where that may help, and only there.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use JSON::PP;
use LlmquotaSimulator;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $hour = 3_600_000;
my %api = (o => 'openai', a => 'anthropic', g => 'gemini', z => 'azure');
my %span = (input_tokens => [ 10, 200 ], max_output_tokens => 100, output_tokens => [ 1, 100 ]);
my $directory = PostgreSQL::Test::Utils::tempdir();
my $node = new_node('drive', fixture => 0);
my $simulator = LlmquotaSimulator->new("$directory/simulator", accounts => [ map { account($_) } sort keys %api ]);

sub account
{
	my ($name) = @_;

	return { account => $name, api => $api{$name}, delay_ms => [ 0, 5 ],
		keys => { map { ("$name-$_" => "secret-$name-$_") } 1, 2 },
		limits => [ { metric => 'requests', amount => 100, length_ms => $hour } ] };
}

for my $provider (sort keys %api)
{
	sql($node, $simulator->configuration($provider, $api{$provider}) . qq{
		INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
		VALUES ('account', '$provider', 'requests', 100, '1 hour')});
}
sql($node, q{INSERT INTO llmquota.route (route, step, model) SELECT 'any', 1, model FROM llmquota.model});
# each run of the driver numbers its requests from 1
sql($node, q{UPDATE llmquota.setting SET value = '0' WHERE name = 'idempotency_window'});

# What the driver says of its requests.
sub drive
{
	my (%config) = @_;

	return LlmquotaSimulator::drive("$directory/drive", conninfo => $node->connstr('postgres'), %config);
}

sub attempts
{
	return map { grep { defined $_->{http_status} } @{ $_->{attempts} } } @_;
}

sub counted
{
	my %count;

	$count{$_}++ for @_;
	return \%count;
}

# Limits known, and more requests than they allow, of several processes at once.
sub test_accounts_agree
{
	my @kinds = ({ route => 'any', org => 'clinic-', orgs => 9, weight => 9, %span }, { route => 'model-g', %span });
	my @requests = drive(processes => 3, threads => 5, requests => 500, kinds => \@kinds, deadline_ms => 0);
	my @calls = $simulator->calls;

	is_deeply(counted(map { $_->{request} } @requests), { map { ("request-$_" => 1) } 0 .. 499 },
		'every request is played once');
	is_deeply(counted(map { $_->{outcome} } @requests), { ok => 400, refused => 100 },
		'all that the limits allow is used');
	is_deeply(counted(map { "$_->{provider} $_->{http_status}" } attempts(@requests)),
		counted(map { "$_->{account} $_->{status}" } @calls), 'the simulator had those calls');
	is_deeply(counted(map { $_->{account} } @calls), { map { $_ => 100 } keys %api },
		'of each account as many as there may be');
	is(grep({ $_->{status} == 429 } @calls), 0, 'none of which was one too many');
	is(grep({ $_->{statements} != $_->{picks} + attempts($_) } @requests), 0,
		'with a statement for each pick and each record');

	my $ledger = sql($node, q{
		SELECT account, count(*), sum(input_tokens), sum(output_tokens) FROM llmquota.usage
		 WHERE status = 'ok' AND usage_source = 'reported' GROUP BY account ORDER BY account});
	my %sum;
	for my $call (@calls)
	{
		$sum{ $call->{account} }[0]++;
		$sum{ $call->{account} }[1] += $call->{input_tokens};
		$sum{ $call->{account} }[2] += $call->{output_tokens};
	}
	is($ledger, join("\n", map { join '|', $_, @{ $sum{$_} } } sort keys %sum),
		'and the ledger has what the simulator used');
	is(sql($node, 'SELECT count(*) FROM llmquota.lease'), 0, 'nothing is left in flight');
	return;
}

# One route to one model whose first key fails in some way, and then the other.
sub failing
{
	my ($fault, %config) = @_;

	$simulator->control(faults => [ { times => 1, %$fault } ]);
	sql($node, q{SELECT llmquota_clear(), llmquota_enable(key) FROM llmquota.key});
	my @kinds = ({ route => 'solo', org => 'solo', %span });
	my ($request) = drive(requests => 1, kinds => \@kinds, timeout_ms => 3000, %config);
	return $request;
}

sub test_retries
{
	sql($node, q{
		UPDATE llmquota.quota SET amount = NULL;
		UPDATE llmquota.provider SET breaker_failures = 1000;
		INSERT INTO llmquota.account (account, provider, base_url)
		SELECT 'o-2', 'o', replace(base_url, '127.0.0.1', 'localhost') FROM llmquota.provider WHERE provider = 'o';
		UPDATE llmquota.key SET account = 'o-2' WHERE key = 'o-2';
		INSERT INTO llmquota.route (route, step, model) VALUES ('solo', 1, 'model-o');
		INSERT INTO llmquota.route_option (route, retry_same_model) VALUES ('solo', true)});
	$simulator->control(limits =>
		  [ map { { account => $_, name => 'requests/sliding', amount => 100_000 } } keys %api ]);
	for my $case (
		[ { failure => 'auth' }, '401 200' ], [ { failure => 'unavailable' }, '503 200' ], [ { cut => 'body' }, '0 200' ],
		[ { cut => 'after' }, '0 200' ], [ { stall_ms => 60_000 }, '0 200' ], [ { failure => 'content' }, '400' ])
	{
		my ($fault, $statuses) = @$case;
		my $request = failing($fault);
		my $name = join ' ', %$fault;
		my @keys = map { $_->{key} } attempts($request);

		is(join(' ', map { $_->{http_status} } attempts($request)), $statuses,
			"$name: tried again where that may help");
		is(scalar(keys %{ counted(@keys) }), scalar(@keys), "$name: with another key");
		is($request->{outcome}, $statuses =~ /200/ ? 'ok' : 'failed', "$name: the outcome");
	}
	sql($node, q{UPDATE llmquota.route_option SET max_attempts = 2});
	my $request = failing({ failure => 'server', times => 3 });
	is(join(' ', $request->{outcome}, map { $_->{http_status} } attempts($request)), 'failed 500 500',
		'as often as it may');
	is(sql($node, q{
		SELECT status, count(*) FROM llmquota.usage WHERE org = 'solo' GROUP BY status ORDER BY status}),
		"error|8\nok|5", 'the ledger has all of them');
	return;
}

# Refused, it comes back when it was told to.
sub test_waits
{
	sql($node, q{
		INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
		VALUES ('org', 'waiting', 'requests', 1, '1 second')});
	$simulator->control(faults => []);
	my @requests = drive(requests => 3, kinds => [ { route => 'any', org => 'waiting', %span } ]);
	my @refused = grep { $_->{picks} > 1 } @requests;
	my @early = grep { $_->[1]{at_us} < $_->[0]{at_us} + $_->[0]{retry_after_us} } map { $_->{attempts} } @refused;

	is_deeply(counted(map { $_->{outcome} } @requests), { ok => 3 }, 'who waits is served');
	is(grep({ $_->{attempts}[0]{status} ne 'rate_limited' } @refused), 0, 'after it was refused');
	is(scalar(@early), 0, 'and not before it was told to');
	return;
}

# With a rate, requests are due at even intervals, and none after the end.
sub test_rate
{
	sql($node, q{DELETE FROM llmquota.quota WHERE scope = 'org'});
	my @requests = drive(threads => 4, rate => 100, seconds => 0.5, kinds => [ { route => 'any', %span } ]);
	my @due = sort { $a <=> $b } map { $_->{due_us} } @requests;

	is(scalar(@due), 50, 'as many as the rate says');
	is(grep({ abs($due[$_] - $due[0] - $_ * 10_000) > 1 } 0 .. $#due), 0, 'at even intervals');
	return;
}

test_accounts_agree();
test_retries();
test_waits();
test_rate();
ok($simulator->stop, 'the simulator ends');
verified($node, 'at the end');

done_testing();
