# The provider simulator (test/simulator/README.md) for TAP tests: started, asked, told, and read.
package LlmquotaSimulator;

use strict;
use warnings;
use HTTP::Tiny;
use JSON::PP;

my %base = (openai => '/v1', groq => '/openai/v1', mistral => '/v1', azure => '', anthropic => '/v1', gemini => '/v1beta');

# Starts one with these members of its configuration. Its log is FILE.log, its configuration FILE.json.
sub new
{
	my ($class, $file, %config) = @_;
	my $self = bless { file => $file, owner => $$ }, $class;

	open my $json, '>', "$file.json" or die "could not write $file.json: $!";
	print $json encode_json(\%config);
	close $json;
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

# What POST /_control answers: nothing, or what was wrong.
sub control
{
	my ($self, %commands) = @_;

	return decode_json($self->{http}->post("$self->{url}/_control", { content => encode_json(\%commands) })->{content})->{wrong};
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

	open my $log, '<', "$self->{file}.log" or die "could not read $self->{file}.log: $!";
	return map { decode_json($_) } readline $log;
}

# The request that a client of the API sends: path, headers, body.
sub request
{
	my ($api, $secret, $model, $maximum) = @_;
	my $chat = { model => $model, max_tokens => $maximum, messages => [ { role => 'user', content => 'Why is that so?' } ] };

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
	my $answer = $self->{http}->post($self->base_url($api) . $path, { headers => $headers, content => encode_json($body) });
	$answer->{json} = eval { decode_json($answer->{content}) };
	return $answer;
}

1;
