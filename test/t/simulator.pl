# The provider simulator does what its README says: tests that judge llmquota by it rely on that. That its limits are
# exact to a microsecond is shown by test/unit/simulator_limits_test.c.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use JSON::PP;
use LlmquotaSimulator;
use LlmquotaTest qw(poll);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my @apis = qw(openai groq mistral azure anthropic gemini);
my $hour = 3_600_000;
my $directory = PostgreSQL::Test::Utils::tempdir();
my $simulator = LlmquotaSimulator->new("$directory/simulator", accounts => []);

# An account of one key, whose secret is the account's name too. Nothing of it waits.
sub account
{
	my ($api, $limits, %more) = @_;

	return { account => $api, api => $api, keys => { "$api-key" => $api }, delay_ms => 0, limits => $limits, %more };
}

# A limit of so many requests, which nothing leaves during a test.
sub requests
{
	my ($amount) = @_;

	return { metric => 'requests', amount => $amount, length_ms => $hour };
}

# From now on there are these accounts and faults.
sub configure
{
	my ($accounts, $faults) = @_;
	my $wrong = $simulator->control(accounts => $accounts, faults => $faults // []);

	die $wrong if defined $wrong;
	return;
}

sub statuses
{
	my ($api, $count, %options) = @_;

	return join ' ', map { $simulator->ask($api, $api, %options)->{status} } 1 .. $count;
}

# Every kind of limit lets its amount in, and not one more.
sub test_kinds
{
	for my $kind (qw(bucket sliding fixed day))
	{
		# two of them end by the clock, for which this would be wrong once in an hour
		my %length = $kind =~ /fixed|day/ ? (length_ms => $hour, ends_in_ms => $hour) : (length_ms => $hour);

		configure([ account('openai', [ { metric => 'requests', kind => $kind, amount => 3, %length } ]) ]);
		is(statuses('openai', 5), '200 200 200 429 429', "$kind: requests");
		my $limit = $simulator->limit('openai', "requests/$kind");
		is_deeply([ @$limit{qw(used peak charged refused)} ], [ 3, 3, 3, 2 ], "$kind: the report");
		is($limit->{windows}[0], 3, "$kind: its history");

		configure([ account('openai', [ { metric => 'tokens', kind => $kind, amount => 200, %length } ]) ]);
		my %tokens = (max_tokens => 60, simulate => { input_tokens => 20, output_tokens => 60 });
		is(statuses('openai', 3, %tokens), '200 200 429', "$kind: tokens");
		$tokens{max_tokens} = 20;
		is(statuses('openai', 2, %tokens), '200 429', "$kind: the rest of them, and no more");
	}
	configure([ account('openai', [ { metric => 'requests', kind => 'day', amount => 1, zone => 'Asia/Tokyo' } ]) ]);
	is(statuses('openai', 2), '200 429', 'a day lasts until midnight');
	$simulator->control(limits => [ { account => 'openai', name => 'requests/day', ends_in_ms => 0 } ]);
	is(statuses('openai', 2), '200 429', 'or until it is told to end');
	return;
}

# What counts, of which models, and when.
sub test_counting
{
	my %used = (max_tokens => 100, simulate => { input_tokens => 50, cached_tokens => 30, output_tokens => 10 });
	my %counted = (corrected => 60, maximum => 150, produced => 60);

	for my $output (sort keys %counted)
	{
		configure([ account('openai',
			[ { metric => 'tokens', amount => 1000, length_ms => $hour, output => $output } ]) ]);
		$simulator->ask('openai', 'openai', %used);
		is($simulator->limit('openai', 'tokens/sliding')->{used}, $counted{$output}, "output: $output");
	}
	configure([ account('anthropic', [
		{ metric => 'input_tokens', amount => 1000, length_ms => $hour, counts_cached => JSON::PP::false },
		{ metric => 'output_tokens', amount => 10, length_ms => $hour, output => 'produced' } ]) ]);
	is(statuses('anthropic', 2, %used), '200 429', 'what was produced exhausts a limit only afterwards');
	is($simulator->limit('anthropic', 'input_tokens/sliding')->{used}, 20, 'cached input may be free');

	configure([ account('openai', [
		{ name => 'family', metric => 'requests', amount => 2, length_ms => $hour, models => [ 'a', 'b' ] },
		{ name => 'all', metric => 'requests', amount => 4, length_ms => $hour } ]) ]);
	is(join(' ', map { statuses('openai', 1, model => $_) } qw(a b a c c c)), '200 200 429 200 200 429',
		'models are counted together, others apart, all must have room, and a refused call charges nothing');
	configure([ account('openai', [ requests(1) ], counts_refused => JSON::PP::true) ]);
	statuses('openai', 3);
	is($simulator->limit('openai', 'requests/sliding')->{used}, 3, 'unless refused calls count');
	return;
}

# A child's call is under way while we look.
sub test_concurrency
{
	configure([ account('openai', [ { metric => 'concurrency', kind => 'concurrency', amount => 1 } ]) ],
		[ { stall_ms => 60_000, times => 1 } ]);
	my $child = fork // die "could not fork: $!";
	if ($child == 0)
	{
		$simulator->ask('openai', 'openai');
		POSIX::_exit(0);
	}
	poll(sub { $simulator->limit('openai', 'concurrency/concurrency')->{used} == 1 });
	is(statuses('openai', 1), '429', 'nobody else comes in while one is in flight');
	kill 'KILL', $child;
	waitpid $child, 0;
	configure([ account('openai', [ { metric => 'concurrency', kind => 'concurrency', amount => 1 } ]) ]);
	is(statuses('openai', 3), '200 200 200', 'one after the other may');
	return;
}

sub test_usage
{
	my %simulate = (simulate => { input_tokens => 1000, cached_tokens => 600, cache_write_tokens => 100,
			output_tokens => 80, reasoning_tokens => 30 });
	my %usage;

	configure([ map { account($_, []) } @apis ]);
	$usage{$_} = $simulator->ask($_, $_, %simulate)->{json} for @apis;
	for my $api (qw(openai groq mistral azure))
	{
		my $usage = $usage{$api}{usage};
		is(join(' ', @$usage{qw(prompt_tokens completion_tokens total_tokens)}), '1000 80 1080', "$api: usage");
		is($usage->{prompt_tokens_details}{cached_tokens}, 600, "$api: what was cached is a part of it");
		is($usage->{completion_tokens_details}{reasoning_tokens}, 30, "$api: and so is reasoning");
	}
	is(join(' ', @{ $usage{anthropic}{usage} }{qw(input_tokens cache_creation_input_tokens cache_read_input_tokens
		output_tokens)}), '300 100 600 80', 'anthropic: three figures of input that exclude one another');
	is(join(' ', @{ $usage{gemini}{usageMetadata} }{qw(promptTokenCount cachedContentTokenCount candidatesTokenCount
		thoughtsTokenCount totalTokenCount)}), '1000 600 50 30 1080', 'gemini: thoughts are apart');

	my $response = $simulator->{http}->post($simulator->base_url('openai') . '/responses', {
		headers => { Authorization => 'Bearer openai' },
		content => '{"model": "m", "input": "How many words are these?", "max_output_tokens": 1}' });
	my $usage = decode_json($response->{content})->{usage};
	is(join(' ', @$usage{qw(input_tokens output_tokens total_tokens)}), '5 1 6', 'responses have names of their own');
	return;
}

# Headers of an answer that are about limits.
sub limit_headers
{
	my ($answer) = @_;
	my $headers = $answer->{headers};

	return join ', ', map { "$_: $headers->{$_}" } grep { /ratelimit|retry-after/ && !/reset/ } sort keys %$headers;
}

sub test_headers
{
	my @limits = (requests(10), { metric => 'tokens', amount => 5000, length_ms => $hour },
		{ metric => 'requests', kind => 'day', amount => 100, length_ms => 24 * $hour, ends_in_ms => 24 * $hour });
	my %expected = (
		openai => 'x-ratelimit-limit-requests: 10, x-ratelimit-limit-tokens: 5000, x-ratelimit-remaining-requests: 9, '
		  . 'x-ratelimit-remaining-tokens: 4900',
		groq => 'x-ratelimit-limit-requests: 100, x-ratelimit-limit-tokens: 5000, x-ratelimit-remaining-requests: 99, '
		  . 'x-ratelimit-remaining-tokens: 4900',
		mistral => 'x-ratelimit-limit-req-minute: 10, x-ratelimit-limit-tokens-minute: 5000, '
		  . 'x-ratelimit-remaining-req-minute: 9, x-ratelimit-remaining-tokens-minute: 4900, '
		  . 'x-ratelimit-tokens-query-cost: 100',
		azure => 'x-ratelimit-limit-requests: 10, x-ratelimit-limit-tokens: 5000, x-ratelimit-remaining-requests: 9, '
		  . 'x-ratelimit-remaining-tokens: 4900',
		anthropic => 'anthropic-ratelimit-requests-limit: 10, anthropic-ratelimit-requests-remaining: 9, '
		  . 'anthropic-ratelimit-tokens-limit: 5000, anthropic-ratelimit-tokens-remaining: 5000',
		gemini => '');

	configure([ map { account($_, \@limits) } @apis ]);
	for my $api (@apis)
	{
		my $answer = $simulator->ask($api, $api, simulate => { input_tokens => 40, output_tokens => 60 });
		is(limit_headers($answer), $expected{$api}, "$api: headers");
		my $headers = $answer->{headers};
		like($headers->{'x-ratelimit-reset-requests'}, qr/^(59m\d+|1h0m0|24h0m0|23h59m\d+)[.\d]*s$/,
			"$api: a reset is a duration") if $api =~ /openai|groq/;
		like($headers->{'anthropic-ratelimit-tokens-reset'}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/,
			"$api: a reset is an instant") if $api eq 'anthropic';
	}
	return;
}

# How each provider says that a limit is reached, of requests, of tokens, of the day.
sub test_refusals
{
	my %limits = (
		requests => { metric => 'requests', amount => 1, length_ms => $hour, kind => 'fixed', ends_in_ms => $hour },
		tokens => { metric => 'tokens', amount => 100, length_ms => $hour, output => 'maximum' },
		day => { metric => 'requests', amount => 1, kind => 'day', length_ms => 24 * $hour, ends_in_ms => 24 * $hour });
	my %expected = (
		openai => {
			requests => qr/on requests per min \(RPM\): Limit 1, Used 1, Requested 1\. Please try again in /,
			tokens => qr/on tokens per min \(TPM\): Limit 100, Used 100, Requested 100\. Please.*"type":"tokens"/,
			day => qr/per day \(RPD\): Limit 1, Used 1, .* in (24h0m0|23h59m[.\d]+)s\..*"rate_limit_exceeded"/ },
		mistral => { requests => qr/"Requests rate limit exceeded"/, tokens => qr/"Tokens rate limit exceeded"/ },
		azure => {
			requests => qr/have exceeded call rate limit .* Please retry after 3[56]\d\d seconds/,
			tokens => qr/have exceeded token rate limit.* Please retry after 3[56]\d\d seconds/ },
		anthropic => {
			requests => qr/"rate_limit_error".* 1 requests per minute.*"request_id"/,
			tokens => qr/100 input tokens per minute/ },
		gemini => {
			requests => qr/"GenerateRequestsPerMinutePerProject.*"quotaValue":"1".*"retryDelay":"3[56]\d\d\.\d{6}s"/,
			tokens => qr/"quotaId":"GenerateContentInputTokensPerModelPerMinute-FreeTier"/,
			day => qr/"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier".*"retryDelay":"0s"/ });

	$expected{groq} = $expected{openai};
	for my $api (@apis)
	{
		for my $limit (sort keys %{ $expected{$api} })
		{
			configure([ account($api, [ $limits{$limit} ]) ]);
			$simulator->ask($api, $api, max_tokens => 99, simulate => { input_tokens => 1 });
			my $answer = $simulator->ask($api, $api, max_tokens => 99, simulate => { input_tokens => 1 });
			is($answer->{status}, 429, "$api: a refusal by $limit");
			like($answer->{content}, $expected{$api}{$limit}, "$api: and its words");
			my $after = $answer->{headers}{'retry-after'} // 0;
			ok($api eq 'gemini' ? $after == 0 : $after > 3500, "$api: and the time to wait") or diag($after);
		}
	}
	return;
}

sub test_failures
{
	my %status = (
		rate => [ (429) x 6 ], capacity => [ (429) x 4, 529, 429 ], billing => [ (429) x 4, 402, 403 ],
		spend_cap => [ (429) x 3, 403, 400, 429 ], spend_limit => [ (429) x 3, 403, 429, 429 ],
		overloaded => [ (503) x 4, 529, 503 ], unavailable => [ (503) x 6 ], server => [ (500) x 6 ],
		timeout => [ (504) x 3, 408, 504, 504 ], auth => [ (401) x 5, 400 ], forbidden => [ (403) x 6 ],
		not_found => [ (404) x 6 ], bad_request => [ (400) x 6 ], content => [ (400) x 5, 200 ]);
	my %words = ('openai billing' => qr/"insufficient_quota"/, 'openai spend_cap' => qr/"project_spend_limit_exceeded"/,
		'openai timeout' => qr/^<html>/, 'anthropic overloaded' => qr/"overloaded_error"/,
		'anthropic spend_limit' => qr/\d{4}-\d\d-01 00:00 UTC.*"error_code":"enforced_spend_limit_reached"/,
		'anthropic spend_cap' => qr/"invalid_request_error".*You will regain access on \d{4}-\d\d-01 at 00:00 UTC\./,
		'gemini auth' => qr/"API_KEY_INVALID"/, 'gemini content' => qr/"blockReason"/,
		'gemini capacity' => qr/^(?!.*details).*"RESOURCE_EXHAUSTED"/);

	for my $failure (sort keys %status)
	{
		configure([ map { account($_, []) } @apis ], [ { failure => $failure } ]);
		my %answer = map { $_ => $simulator->ask($_, $_) } @apis;
		is_deeply([ map { $answer{$_}{status} } @apis ], $status{$failure}, "$failure: each provider's status");
		like($answer{ (split)[0] }{content}, $words{$_}, "$_: its words") for grep { / $failure$/ } sort keys %words;
		ok(!exists $answer{anthropic}{headers}{'retry-after'}, 'anthropic: it does not say when')
		  if $failure eq 'spend_limit';
	}
	return;
}

# Who is hit, how often, and what else can be said.
sub test_faults
{
	configure([ map { account($_, []) } qw(openai anthropic) ],
		[ { api => 'openai', model => 'a', times => 2, status => 418, body => { tea => 'pot' } } ]);
	is(statuses('anthropic', 1, model => 'a'), '200', 'a fault hits whom it names: not another API');
	is(statuses('openai', 1, model => 'b'), '200', 'nor another model');
	is($simulator->ask('openai', 'openai', model => 'a')->{content}, '{"tea":"pot"}', 'with the body that it has');
	is(statuses('openai', 2, model => 'a'), '418 200', 'as often as it may');

	configure([ account('openai', []) ], [ { share => 0.3, failure => 'unavailable' } ]);
	my $failed = () = statuses('openai', 400) =~ /503/g;
	ok($failed > 70 && $failed < 180, 'about a share of all calls') or diag($failed);
	is($simulator->report->{faults}[0]{hits}, $failed, 'which the report knows');

	configure([ account('openai', [ requests(10) ]) ],
		[ { headers => { 'x-ratelimit-limit-requests' => '-1', 'x-request-id' => undef, 'retry-after' => '77' } } ]);
	my $lie = $simulator->ask('openai', 'openai');
	is_deeply([ @{ $lie->{headers} }{qw(x-ratelimit-limit-requests x-ratelimit-remaining-requests x-request-id
		retry-after)} ], [ -1, 9, undef, 77 ], 'it lies');

	configure([ account('openai', []) ], [ { stall_ms => 300 } ]);
	my $start = time;
	statuses('openai', 1);
	cmp_ok(time - $start, '>=', 0.3, 'it stalls');
	return;
}

sub test_cuts
{
	my %counted = (before => 0, after => 1, body => 1);

	for my $cut (sort keys %counted)
	{
		configure([ account('openai', [ requests(10) ]) ], [ { cut => $cut } ]);
		is(statuses('openai', 1), '599', "$cut: no whole answer");
		is($simulator->limit('openai', 'requests/sliding')->{used}, $counted{$cut}, "$cut: whether it was counted");
		is(($simulator->calls)[-1]{outcome}, "cut $cut", "$cut: the log");
	}
	for my $failure ('auth', 'unavailable')
	{
		configure([ account('openai', [ requests(10) ]) ], [ { failure => $failure } ]);
		statuses('openai', 1);
		is($simulator->limit('openai', 'requests/sliding')->{used}, $failure eq 'auth' ? 0 : 1,
			"$failure: whether it was counted");
	}
	configure([ account('openai', [ { metric => 'tokens', amount => 1000, length_ms => $hour } ]) ],
		[ { failure => 'unavailable' } ]);
	statuses('openai', 1, simulate => { input_tokens => 7, output_tokens => 8 });
	is($simulator->limit('openai', 'tokens/sliding')->{used}, 7, 'a failed call has no output');
	return;
}

# Who is not known, or does not make sense.
sub test_strangers
{
	configure([ map { account($_, [ requests(1) ], models => ['m']) } @apis ]);
	is($simulator->ask($_, 'stranger')->{status}, $_ eq 'gemini' ? 400 : 401, "$_: a wrong key") for @apis;
	is(statuses($_, 1, model => 'other'), '404', "$_: a model that is not there") for @apis;
	is($simulator->{http}->post($simulator->base_url('openai') . '/chat/completions',
		{ headers => { Authorization => 'Bearer openai' }, content => 'nonsense' })->{status}, 400, 'nonsense');
	is($simulator->{http}->post("$simulator->{url}/nowhere", { content => '{}' })->{status}, 404, 'a path of nobody');
	is(statuses('openai', 2), '200 429', 'none of them counted');
	return;
}

sub test_control
{
	is($simulator->control(unheard => 1), 'unknown command "unheard"', 'an unknown command is told');
	is($simulator->control(accounts => [ account('acme', []) ]), 'acme: unknown api: acme', 'an unknown wire format');
	is($simulator->control(limits => [ { account => 'openai', name => 'no' } ]),
		'no limit "no" of an account "openai"', 'an unknown limit');
	is($simulator->control(faults => [ { failure => 'flood' } ]),
		'unknown failure or cut: flood ', 'an unknown failure');

	configure([ account('openai', [ requests(1) ]) ]);
	$simulator->control(limits => [ { account => 'openai', name => 'requests/sliding', amount => 3, used => 1 } ]);
	is(statuses('openai', 3), '200 200 429', 'a limit is changed, and used');
	$simulator->control(limits => [ { account => 'openai', name => 'requests/sliding', amount => 30, used => 'all' } ]);
	is(statuses('openai', 1), '429', 'or used up');
	is_deeply($simulator->report->{accounts}[0]{answered},
		{ m => { 'openai-key' => { 200 => 2, 429 => 2 } } }, 'answers are counted');
	$simulator->control(restart_report => JSON::PP::true);
	is_deeply([ @{ $simulator->limit('openai', 'requests/sliding') }{qw(charged peak refused windows)} ],
		[ 0, 0, 0, [] ], 'the report begins anew');
	return;
}

sub test_log
{
	my $before = my @before = $simulator->calls;

	configure([ account('openai', [ requests(1) ], delay_ms => [ 5, 10 ], latency_ms => 5) ]);
	statuses('openai', 2, model => 'gpt', simulate => { input_tokens => 7, output_tokens => 8 });
	my @calls = splice @{ [ $simulator->calls ] }, $before;
	is_deeply([ map { join ' ', @$_{qw(account key model status outcome refused_by input_tokens output_tokens)} }
			map { { %$_, refused_by => $_->{refused_by} // '-' } } @calls ],
		[ 'openai openai-key gpt 200 answered - 7 8', 'openai openai-key gpt 429 answered requests/sliding 7 8' ],
		'every call is in the log');
	cmp_ok($calls[0]{counted_us} - $calls[0]{received_us}, '>=', 5000, 'with the delay before it was counted');
	cmp_ok($calls[0]{ended_us} - $calls[0]{counted_us}, '>=', 5000, 'and the time it took then');
	return;
}

# A parent that dies takes its simulator along.
sub test_end
{
	pipe my $read, my $write;
	my $parent = fork // die "could not fork: $!";
	if ($parent == 0)
	{
		my $orphan = LlmquotaSimulator->new("$directory/orphan", accounts => []);
		syswrite $write, "$orphan->{pid}\n";
		POSIX::pause();
	}
	chomp(my $pid = readline $read);
	kill 'KILL', $parent;
	waitpid $parent, 0;
	ok(poll(sub { !kill(0, $pid) || qx(ps -o stat= -p $pid) =~ /^Z/ }), 'the simulator ends with its parent');
	ok($simulator->stop, 'and when it is told to');
	return;
}

test_kinds();
test_counting();
test_concurrency();
test_usage();
test_headers();
test_refusals();
test_failures();
test_faults();
test_cuts();
test_strangers();
test_control();
test_log();
test_end();

done_testing();
