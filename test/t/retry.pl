# Retries of one attempt by many at once, and crashes in the midst of one: no request has more attempts than its route
# allows, and what was answered is counted. (What is retried with what is tested in test/sql/retry.sql, over HTTP in
# fallback.pl.)
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $leases = 50;
my $clients = 12;
my $node = new_node('retry');

# Attempts are granted a day after the first, and however many fail.
sql($node, q{
	UPDATE llmquota.provider SET breaker_failures = 10000, breaker_min_calls = 10000;
	INSERT INTO llmquota.route (route, step, model) VALUES ('chat', 1, 'large'), ('chat', 2, 'small'), ('chat', 3, 'haiku');
	INSERT INTO llmquota.route_option (route, deadline_ms, max_attempts) VALUES ('chat', 86400000, 8)});

# Every client retries the same attempts in the same order. Answers how often each was granted, and what numbers the
# attempts had.
sub many_at_once
{
	my ($most) = @_;
	my $script = $node->basedir . "/retry_$most.sql";

	sql($node, qq{
		DROP TABLE IF EXISTS failed, answer;
		UPDATE llmquota.route_option SET max_attempts = $most;
		CREATE TABLE failed AS SELECT n, lease FROM generate_series(1, $leases) n, llmquota_pick('chat', session => n::text);
		SELECT llmquota_record(lease, http_status => 500) FROM failed;
		CREATE TABLE answer (n int, status text, attempt int)});
	append_to_file($script, join "\n",
		'\set n :n + 1',
		q{INSERT INTO answer SELECT n, p.status, p.attempt FROM failed, llmquota_pick('chat', retry_of => lease) p WHERE n = :n;});
	$node->command_ok([
			'pgbench', '-n', '-c', $clients, '-t', $leases, '-D', 'n=0', '-f', $script, '-h', $node->host, '-p', $node->port,
			'postgres' ], "up to $most attempts: many retry the same one");
	is(sql($node, q{SELECT count(*) FROM answer WHERE status NOT IN ('granted', 'attempts_exhausted')}), 0,
		"up to $most attempts: granted, or one too many");
	return map { [ split /,/ ] } split /\n/, sql($node, q{
		SELECT string_agg(attempt::text, ',' ORDER BY attempt) FROM answer WHERE status = 'granted' GROUP BY n});
}

sub test_many_at_once
{
	my @once = many_at_once(2);
	my @often = many_at_once(8);

	is_deeply(\@once, [ map { [2] } 1 .. $leases ], 'with two attempts each is retried once');
	is(scalar(@often), $leases, 'with eight each is retried');
	is(scalar(grep { "@$_" ne join ' ', 2 .. @$_ + 1 } @often), 0, 'the attempts have numbers of their own');
	cmp_ok((sort { $b <=> $a } map { scalar @$_ } @often)[0], '<=', 7, 'which none exceed');
	return;
}

sub new_lease
{
	return sql($node, q{SELECT lease FROM llmquota_pick('chat')});
}

sub retry
{
	my ($lease, $arguments) = @_;

	return sql($node, "SELECT status, attempt, model FROM llmquota_retry('$lease', http_status => 500)");
}

# A crash after some record of the retry: nobody was told of an attempt, so the next one has its number, and the failure
# is recorded once.
sub test_crash
{
	my ($point) = @_;
	my $lease = new_lease();
	my ($out, $err) = ('', '');

	$node->psql('postgres', "SET llmquota.inject = '$point'; SELECT * FROM llmquota_retry('$lease', http_status => 500)",
		stdout => \$out, stderr => \$err);
	isnt($err, '', "$point: the server has crashed");
	crash($node);
	$node->start;
	is(retry($lease), 'granted|2|small', "$point: retried again, with the number that nobody has");
	maintain_all($node);
	is(sql($node, "SELECT attempt, error_class, http_status, count(*) FROM llmquota.usage WHERE lease = '$lease' GROUP BY 1, 2, 3"),
		'1|server|500|1', "$point: the failure is in the ledger, once");
	agree($node, $point);
	return;
}

# What was answered is counted after a crash.
sub test_durable
{
	my $lease = new_lease();

	is(retry($lease), 'granted|2|small', 'a retry is granted');
	crash($node);
	$node->start;
	is(retry($lease), 'granted|3|small', 'after a crash the next has the next number');
	return;
}

test_many_at_once();
test_crash($_) for 'settle-record', 'settled', 'grant-record';
test_durable();
sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
maintain_all($node);
is(in_flight($node), 0, 'nothing is in flight at the end');
agree($node, 'at the end');
verified($node, 'at the end');

done_testing();
