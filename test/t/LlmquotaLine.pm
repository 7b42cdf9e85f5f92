# What tests of the line share: one slot, sessions that wait, and what is to be seen of them.
package LlmquotaLine;

use strict;
use warnings;
use Exporter 'import';
use LlmquotaTest;
use Test::More;

our @EXPORT = qw(line_config slots waiting waits answer ends_empty lease_of);

# One key of one model. The breaker stays out of it.
sub line_config
{
	return q{
	INSERT INTO llmquota.provider (provider, adapter, breaker_failures, breaker_min_calls) VALUES
		('p', 'openai', 1000000, 1000000);
	INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
	INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
	INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
	SELECT setval('llmquota.config_time', 1);};
}

# So many calls at once, and nothing in flight.
sub slots
{
	my ($node, $n) = @_;

	sql($node, qq{
		DELETE FROM llmquota.quota;
		INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('global', '', 'concurrency', $n);
		SELECT count(llmquota_release(lease)) FROM llmquota.lease});
	return;
}

# How many are in the line.
sub waiting
{
	my ($node) = @_;

	return sql($node, 'SELECT count(*) FROM llmquota.waiting');
}

# Sends a query in a session of its own and returns once so many wait: the session, and its backend.
sub waits
{
	my ($node, $n, $query) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = backend_pid($session);

	$session->query_until(qr/sent/, "\\echo sent\n$query;\n");
	poll(sub { waiting($node) == $n }) or die "there are not $n in line: " . waiting($node);
	return ($session, $pid);
}

# What a session that waited has been told at last; its errors, too. It ends.
sub answer
{
	my ($session) = @_;

	$session->{stderr} = '';
	my $out = $session->query('SELECT 1') =~ s/\n?^1$//mr;
	my $error = $session->{stderr};
	$session->{stderr} = '';
	$session->quit;
	return $out . ($error =~ /^(?:psql:\S+ )?(ERROR:.*)$/m ? $1 : '');
}

sub lease_of
{
	my ($node, $arguments) = @_;

	return sql($node, "SELECT lease FROM llmquota_pick('m', $arguments)");
}

# Nobody is in the line, nothing is in flight once all is released, and all agrees.
sub ends_empty
{
	my ($node, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(waiting($node), 0, "$what: nobody is in the line");
	sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
	is(in_flight($node), 0, "$what: no slot is lost");
	return verified($node, $what);
}

1;
