# llmquota_verify() under full load, with leases that expire, late records, rollbacks and maintenance: it is empty each
# time, does not stop the clients, and finds in the midst of it what is made wrong.
use strict;
use warnings;
use LlmquotaLoad;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = 12;
my $node = new_node('verify');

# Windows that turn round often, and of every kind. The configuration stays as it is, and is taken to have been so for
# long: that makes the comparison strict.
sql($node, q{
	INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES
		('global', '', 'tokens', 1000000000, '1 second'), ('provider', '*', 'requests', 1000000000, '3 seconds'),
		('key', '*', 'output_tokens', 1000000000, '20 seconds');
	INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per, counts_failures) VALUES
		('account', '*', '*', 'requests', 1000000000, '2 seconds', false);
	INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar) VALUES
		('org', '*', 'input_tokens', 1000000000000, 'day');
	SELECT llmquota_release(lease) FROM llmquota_pick('large', 'clinic-0');
	SELECT setval('llmquota.config_time', 1);
	CREATE TABLE late (lease uuid)});

# Leases that expire, and records that come too late, with more or less than was reserved.
sub expire_some
{
	my ($round) = @_;
	my $tokens = $round % 2 ? 10 : 9000;

	sql($node, 'TRUNCATE late');
	# the load has its model refused for a millisecond, now and then
	poll(sub { sql($node, q{
		INSERT INTO late SELECT lease FROM generate_series(1, 10) n,
			llmquota_pick('small', 'clinic-' || n % 4, 1000, 500, ttl_ms => 1, session => n::text) WHERE lease IS NOT NULL;
		SELECT count(*) FROM late}) >= 10 }) or die 'no leases are granted';
	poll(sub { sql($node, 'SELECT expired FROM llmquota_maintain()') > 0 }) or die 'the leases do not expire';
	sql($node, "SELECT count(*) FROM late, llmquota_record(lease, $tokens, $tokens / 2)");
	return;
}

my $load = LlmquotaLoad->start($node, clients => 6);
ok($load->wait_for_answers(100), 'there is load');
my @found;
for my $round (1 .. $rounds)
{
	my $answers = $load->answers;

	expire_some($round) if $round % 3 == 0;
	push @found, sql($node, 'SELECT * FROM llmquota_verify()');
	ok($load->wait_for_answers($answers + 20), 'the clients go on') if $round % 4 == 0;
}
is(join("\n", grep { $_ ne '' } @found), '', "nothing is found, $rounds times");

# New windows under load are told of what was before, and of the calls that are in flight
sql($node, q{INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per) VALUES
	('account', '*', '*', 'concurrency', 1000000, NULL), ('provider', '*', '*', 'tokens', 1000000000000, '1 hour')});
ok($load->wait_for_answers($load->answers + 100), 'the clients go on with more quotas');
my $completed = 0;
ok( poll(
		sub {
			$completed += sql($node, 'SELECT windows_completed FROM llmquota_maintain()');
			sql($node, 'SELECT count(*) FILTER (WHERE seeding) FROM llmquota.meter_window') == 0;
		}),
	'all windows are completed');
cmp_ok($completed, '>', 0, 'by maintenance');
is(sql($node, 'SELECT * FROM llmquota_verify()'), '', 'nothing is found then');
is($load->stop->{errors}, '', 'no client has seen an error');
cmp_ok(sql($node, 'SELECT count(*) FROM llmquota.usage'), '>', 500, 'there is a ledger');
sql($node, 'SELECT * FROM llmquota_maintain()');
verified($node, 'after the load');
sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
is(in_flight($node), 0, 'nothing is in flight when all leases are released');
verified($node, 'when all leases are released');

# While somebody holds the live tables there is no moment without changes, and who waits for it does not stop others
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN; LOCK TABLE llmquota.meter IN ROW EXCLUSIVE MODE');
my $verifying = $node->background_psql('postgres');
$verifying->query_until(qr/began/, "\\echo began\nSELECT count(*) FROM llmquota_verify();\n");
like(sql($node, "SELECT status FROM llmquota_pick('large', 'clinic-0')"), qr/granted/, 'a pick goes on meanwhile')
  for 1 .. 3;
$holder->query_safe('COMMIT');
like($verifying->query_safe('SELECT 1'), qr/\b0\b.*\b1\b/s, 'and it has its moment when the tables are let go');
$_->quit for $holder, $verifying;
$node->stop;
done_testing();
