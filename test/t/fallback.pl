# A request goes down its route, over real HTTP: the first model is unavailable, the second over its limit, the third
# answers. Each failure is passed on as the provider told it; what was tried is with the lease and in the ledger.
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

my %api = (first => 'openai', second => 'anthropic', third => 'gemini');
my $directory = PostgreSQL::Test::Utils::tempdir();
my $node = new_node('fallback', fixture => 0);
my $simulator = LlmquotaSimulator->new("$directory/simulator", accounts => [ map { account($_) } sort keys %api ]);

sub account
{
	my ($name) = @_;

	return { account => $name, api => $api{$name}, delay_ms => 0,
		keys => { map { ("$name-$_" => "secret-$name-$_") } 1, 2 },
		limits => [ { metric => 'requests', amount => 10, length_ms => 3_600_000 } ] };
}

# Two keys of each account, so that a second key could be tried where it must not be.
my $step = 0;
for my $provider (sort keys %api)
{
	$step++;
	sql($node, $simulator->configuration($provider, $api{$provider}) . qq{
		INSERT INTO llmquota.route (route, step, model) VALUES ('chat', $step, 'model-$provider')});
}

# One row as a hash.
sub row
{
	my ($query) = @_;

	return decode_json(sql($node, "SELECT to_jsonb(r) FROM ($query) r"));
}

sub literal
{
	my ($text) = @_;

	return q{'} . ($text =~ s/'/''/gr) . q{'};
}

# Calls the provider of a pick: what record's arguments say of its answer.
sub call
{
	my ($pick) = @_;
	my $answer = $simulator->ask($api{ $pick->{provider} }, $pick->{secret_ref}, model => $pick->{provider_model},
		max_tokens => $pick->{max_output_tokens});
	my $headers = 'headers => ' . literal(encode_json($answer->{headers}));
	my $json = $answer->{json};

	return ($answer->{status}, "http_status => 200, $headers, usage => "
		  . literal(encode_json($json->{usage} // $json->{usageMetadata}))) if $answer->{success};
	return ($answer->{status}, "http_status => $answer->{status}, $headers, error => " . literal($answer->{content}));
}

# One request, as an application makes it: what was picked, what came of it, and how the ledger had it.
sub request
{
	my ($id) = @_;
	my $pick = row("SELECT * FROM llmquota_pick('chat', max_output_tokens => 50, request_id => '$id')");
	my @tried;

	while ($pick->{status} eq 'granted')
	{
		my ($status, $arguments) = call($pick);

		push @tried, "$pick->{attempt} $pick->{model} $status";
		last if $status == 200 && sql($node, "SELECT status FROM llmquota_record('$pick->{lease}', $arguments)");
		$pick = row("SELECT * FROM llmquota_retry('$pick->{lease}', $arguments)");
	}
	return ($pick, @tried);
}

sub ledger
{
	my ($id) = @_;

	return sql($node, qq{
		SELECT attempt, model, status, http_status, error_class, error IS NOT NULL, output_tokens > 0,
			   retry_of = lag(lease) OVER w, first_lease = first_value(lease) OVER w
		  FROM llmquota.usage WHERE request_id = '$id' WINDOW w AS (ORDER BY attempt) ORDER BY attempt});
}

subtest '503, first fallback, 429, second fallback, success' => sub {
	$simulator->control(faults => [
		{ account => 'first', failure => 'unavailable' }, { account => 'second', failure => 'rate' } ]);
	my ($last, @tried) = request('scenario');

	is_deeply(\@tried, [ '1 model-first 503', '2 model-second 429', '3 model-third 200' ], 'each model once, in order');
	is(ledger('scenario'), join("\n",
			'1|model-first|error|503|overloaded|t|||t', '2|model-second|error|429|rate|t||t|t',
			'3|model-third|ok|200||f|t|t|t'), 'the ledger has the whole chain');
	is_deeply([ map { "$_->{account} $_->{status}" } $simulator->calls ],
		[ 'first 503', 'second 429', 'third 200' ], 'the providers had these calls and no others');
};

# Once more for whoever comes next: what failed is left alone until it is well again; what is tried is told.
subtest 'all fail' => sub {
	sql($node, 'SELECT llmquota_clear()');
	$simulator->control(faults => [ { failure => 'server' } ]);
	my ($last, @tried) = request('lost');

	is_deeply(\@tried, [ '1 model-first 500', '2 model-second 500', '3 model-third 500' ], 'each model once, in order');
	is($last->{status}, 'attempts_exhausted', 'no fourth attempt');
	is($last->{retry_after_ms}, undef, 'and asking again does not help');
	is_deeply([ map { "$_->{model} $_->{error_class} $_->{http_status}" } @{ $last->{refusal}{tried} } ],
		[ 'model-first server 500', 'model-second server 500', 'model-third server 500' ], 'it says what was tried');
};

# A model is left only when all its candidates refuse: of a limit of one account another account is none.
subtest 'another account of the same model first' => sub {
	sql($node, q{
		SELECT llmquota_clear();
		INSERT INTO llmquota.account (account, provider) VALUES ('other', 'first');
		INSERT INTO llmquota.key (key, account, secret_ref, priority) VALUES ('other', 'other', 'secret-first-2', 1)});
	$simulator->control(faults => [ { key => 'first-1', failure => 'rate' } ]);
	sql($node, q{DELETE FROM llmquota.key WHERE key = 'first-2'});
	my ($last, @tried) = request('limit');

	is_deeply(\@tried, [ '1 model-first 429', '2 model-first 200' ], 'the same model at another account');
};

is(sql($node, 'SELECT count(*) FROM llmquota.lease'), 0, 'nothing is left in flight');
ok($simulator->stop, 'the simulator ends');
verified($node, 'at the end');

done_testing();
