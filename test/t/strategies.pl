# What strategies promise over 100,000 picks of eight clients at once: weighted keys and models have their shares within a
# percentage point, round_robin is exactly even but for as many as there are clients, also across a crash, and sessions
# stay where they are.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $CLIENTS = 8;
my $node = new_node('strategies', fixture => 0, conf => [ 'synchronous_commit = off' ]);
sql($node, q{
	INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
	INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p');
	INSERT INTO llmquota.key (key, account, weight) VALUES
		('a-1', 'a', 50), ('a-2', 'a', 30), ('b-1', 'b', 15), ('b-2', 'b', 4), ('b-3', 'b', 1);
	INSERT INTO llmquota.model (model, provider) VALUES ('weighted', 'p'), ('even', 'p'), ('sticky', 'p'), ('m-7', 'p'), ('m-3', 'p');
	INSERT INTO llmquota.route (route, step, model, weight) VALUES ('models', 1, 'm-7', 7), ('models', 1, 'm-3', 3);
	INSERT INTO llmquota.route_option (route, strategy, params) VALUES ('weighted', 'weighted', NULL), ('even', 'round_robin', NULL),
		('sticky', 'sticky', '{"session_ttl_ms": 0}'), ('models', 'weighted', NULL);
	INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('key', '*', 'concurrency', 1000000);
	CREATE TABLE picked (route text, key text, model text, session int)});

# So many picks of a route by all clients together, each given back.
sub load
{
	my ($route, $picks) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/strategies_$route.sql";

	append_to_file($file, "\\set session random(1, 1000)\n"
		. "INSERT INTO picked SELECT '$route', p.key, p.model, :session FROM llmquota_pick('$route', session => ':session') p, "
		. "llmquota_release(p.lease);\n") if !-e $file;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'pgbench', '-n', '-c', $CLIENTS, '-t', $picks / $CLIENTS, '-f', $file,
			'-h', $node->host, '-p', $node->port, 'postgres' ], '>', \$out, '2>', \$err);
	is($err, '', "$route: no error");
	return;
}

# How often each value of a column was picked for a route.
sub counts
{
	my ($route, $column) = @_;

	return map { split /\|/ } split /\n/, sql($node, "SELECT $column, count(*) FROM picked WHERE route = '$route' GROUP BY 1");
}

sub shares
{
	my ($route, $column, %weights) = @_;
	my %count = counts($route, $column);
	my ($picks, $sum) = (0, 0);

	$picks += $_ for values %count;
	$sum += $_ for values %weights;
	is($picks, 100_000, "$route: all picks were granted");
	for my $name (sort keys %weights)
	{
		my $off = 100 * abs(($count{$name} // 0) / $picks - $weights{$name} / $sum);
		cmp_ok($off, '<=', 1, sprintf "%s: %s is %.2f percentage points off its share", $route, $name, $off);
	}
	return;
}

load('weighted', 100_000);
shares('weighted', 'key', 'a-1' => 50, 'a-2' => 30, 'b-1' => 15, 'b-2' => 4, 'b-3' => 1);
load('models', 100_000);
shares('models', 'model', 'm-7' => 7, 'm-3' => 3);

sub even
{
	my ($picks, $spread, $what) = @_;
	my %count = counts('even', 'key');

	is(scalar keys %count, 5, "round_robin, $what: all keys");
	for my $key (sort keys %count)
	{
		cmp_ok(abs($count{$key} - $picks / 5), '<=', $spread, "round_robin, $what: $key was picked $count{$key} times of $picks");
	}
	return;
}

load('even', 100_000);
even(100_000, $CLIENTS, 'in all');
# a crash gives the last tickets out again, no more than the WAL that was not written
sql($node, 'CHECKPOINT');
crash($node);
$node->start;
sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease; TRUNCATE picked');
load('even', 1000);
even(1000, $CLIENTS, 'after a crash');

load('sticky', 20_000);
is(sql($node, q{SELECT count(*) FROM (SELECT session FROM picked WHERE route = 'sticky' GROUP BY 1 HAVING count(DISTINCT key) > 1) s}),
	0, 'sticky: no session has moved');
is(sql($node, q{SELECT count(DISTINCT session) FROM picked WHERE route = 'sticky'}), 1000, 'of a thousand');
is(sql($node, q{SELECT count(DISTINCT key) FROM picked WHERE route = 'sticky'}), 5, 'and they are on all keys');
verified($node, 'strategies');
$node->stop;
done_testing();
