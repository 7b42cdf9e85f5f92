# The provider simulator and the load driver (test/simulator/README.md) for TAP tests.
package LlmquotaSimulator;

use strict;
use warnings;
use HTTP::Tiny;
use JSON::PP;

my %base = (
	openai => '/v1', groq => '/openai/v1', mistral => '/v1', azure => '', anthropic => '/v1', gemini => '/v1beta');

sub write_json
{
	my ($path, $value) = @_;

	open my $file, '>', $path or die "could not write $path: $!";
	print $file encode_json($value);
	close $file;
	return;
}

sub read_lines
{
	my ($path) = @_;

	open my $file, '<', $path or die "could not read $path: $!";
	return map { decode_json($_) } readline $file;
}

# Starts one with these members of its configuration. Its log is FILE.log, its configuration FILE.json.
sub new
{
	my ($class, $file, %config) = @_;
	my $self = bless { file => $file, owner => $$ }, $class;

	write_json("$file.json", \%config);
	unlink "$file.log";
	$self->{pid} = open $self->{out}, '-|', "$ENV{LLMQ_FLAVOUR}/simulator", "$file.json", "$file.log" or die $!;
	(readline($self->{out}) // '') =~ /^port (\d+)$/ or die 'the simulator does not start';
	$self->{url} = "http://127.0.0.1:$1";
	$self->{http} = HTTP::Tiny->new(timeout => 60, keep_alive => 0);
	return $self;
}

sub stop
{
	my ($self) = @_;

	kill 'TERM', delete $self->{pid};
	close $self->{out};
	return $? == 0;
}

# Perl waits for it when the pipe goes, also where a test has died.
sub DESTROY
{
	my ($self) = @_;

	kill 'TERM', $self->{pid} if $self->{pid} && $self->{owner} == $$;
	return;
}

sub base_url
{
	my ($self, $api) = @_;

	return $self->{url} . $base{$api};
}

# What configures a provider of this name, an account with two keys, and a model: the account simulated is to have the
# same keys.
sub configuration
{
	my ($self, $provider, $api) = @_;
	my $base_url = $self->base_url($api);

	return qq{
		INSERT INTO llmquota.provider (provider, adapter, base_url)
		VALUES ('$provider', '$api', '$base_url');
		INSERT INTO llmquota.account (account, provider) VALUES ('$provider', '$provider');
		INSERT INTO llmquota.key (key, account, secret_ref)
		SELECT '$provider-' || n, '$provider', 'secret-$provider-' || n FROM generate_series(1, 2) n;
		INSERT INTO llmquota.model (model, provider) VALUES ('model-$provider', '$provider');};
}

# What POST /_control answers: nothing, or what was wrong.
sub control
{
	my ($self, %commands) = @_;

	my $answer = $self->{http}->post("$self->{url}/_control", { content => encode_json(\%commands) });

	return decode_json($answer->{content})->{wrong};
}

sub report
{
	my ($self) = @_;

	return decode_json($self->{http}->get("$self->{url}/_report")->{content});
}

# The report of one limit.
sub limit
{
	my ($self, $account, $name) = @_;
	my ($this) = grep { $_->{account} eq $account } @{ $self->report->{accounts} };

	return (grep { $_->{name} eq $name } @{ $this->{limits} })[0];
}

# Every call so far, in the order in which they ended.
sub calls
{
	my ($self) = @_;

	return read_lines("$self->{file}.log");
}

# The request that a client of the API sends: path, headers, body.
sub request
{
	my ($api, $secret, $model, $maximum) = @_;
	my $message = { role => 'user', content => 'Why is that so?' };
	my $chat = { model => $model, max_tokens => $maximum, messages => [$message] };

	return ("/models/$model:generateContent", { 'x-goog-api-key' => $secret }, {
		contents => [ { role => 'user', parts => [ { text => 'Why is that so?' } ] } ],
		generationConfig => { maxOutputTokens => $maximum } }) if $api eq 'gemini';
	return ('/messages', { 'x-api-key' => $secret }, $chat) if $api eq 'anthropic';
	return ("/openai/deployments/$model/chat/completions?api-version=2024-10-21", { 'api-key' => $secret }, $chat)
	  if $api eq 'azure';
	return ('/chat/completions', { Authorization => "Bearer $secret" }, $chat);
}

# Asks as a client would. The answer of HTTP::Tiny, with json: its body, where that is JSON. Options: model,
# max_tokens, and simulate, which says what tokens there are.
sub ask
{
	my ($self, $api, $secret, %options) = @_;
	my ($path, $headers, $body) = request($api, $secret, $options{model} // 'm', $options{max_tokens} // 100);

	$body->{simulate} = $options{simulate} if $options{simulate};
	my $answer =
	  $self->{http}->post($self->base_url($api) . $path, { headers => $headers, content => encode_json($body) });
	$answer->{json} = eval { decode_json($answer->{content}) };
	return $answer;
}

# Runs the load driver with these members of its configuration: what it wrote down of each request. Its configuration is
# FILE.json, its output FILE.jsonl.
sub drive
{
	my ($file, %config) = @_;

	write_json("$file.json", \%config);
	system("$ENV{LLMQ_FLAVOUR}/drive", "$file.json", "$file.jsonl") == 0 or die 'the driver failed';
	return read_lines("$file.jsonl");
}

1;
