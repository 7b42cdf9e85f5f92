# llmquota.usage_hourly is what a count of the whole ledger gives, whatever order rows come, change and go in: under
# concurrent random traffic, with transactions that end long after later ones were counted, after kill -9, and when it is
# made from nothing.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('rollup', conf => ['max_prepared_transactions = 10']);
sql($node, q{UPDATE llmquota.setting SET value = '1' WHERE name = 'partitions_ahead'});
sql($node, q{INSERT INTO llmquota.price (model, input, output, cached_input) VALUES ('small', 2.5, 10, 0.3)});
sql($node, q{
	CREATE VIEW counted AS TABLE llmquota.usage_hourly;
	CREATE VIEW expected AS
	SELECT org, model, key, date_trunc('hour', picked_at, 'UTC') AS hour, count(*) AS calls,
		   count(*) FILTER (WHERE status = 'ok') AS ok, count(*) FILTER (WHERE status = 'error') AS error,
		   count(*) FILTER (WHERE status = 'expired') AS expired, count(*) FILTER (WHERE status = 'released') AS released,
		   count(*) FILTER (WHERE attempt > 1) AS later_attempts,
		   coalesce(sum(input_tokens), 0)::bigint AS input_tokens, coalesce(sum(cached_tokens), 0)::bigint AS cached_tokens,
		   coalesce(sum(cache_write_tokens), 0)::bigint AS cache_write_tokens,
		   coalesce(sum(output_tokens), 0)::bigint AS output_tokens,
		   coalesce(sum(reasoning_tokens), 0)::bigint AS reasoning_tokens,
		   llmquota_histogram(latency_ms, 1) AS latency, coalesce(sum(cost_base), 0) AS cost_base
	  FROM llmquota.usage
	 GROUP BY 1, 2, 3, 4});

# What one side has and the other has not; '' when they agree.
sub difference
{
	return sql($node, q{
		SELECT 'counted', c.* FROM (TABLE counted EXCEPT TABLE expected) c
		UNION ALL
		SELECT 'expected', e.* FROM (TABLE expected EXCEPT TABLE counted) e});
}

# Two rounds: what the first one wrote itself is counted by the second.
sub maintain
{
	sql($node, 'SELECT llmquota_maintain()') for 1 .. 2;
	return;
}

sub agrees
{
	my ($what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	maintain();
	return is(difference(), '', $what);
}

my $pick = q{FROM llmquota_pick('small', 'clinic-' || :org, 1000, 100, ttl_ms => TTL) p};
my $record = q{SELECT r.status } . $pick . q{, llmquota_record(p.lease, :input, :input / 3, cached_tokens => :input / 2,
	http_status => :http, latency_ms => :latency) r;};
my $set = q{\set org random(1, 5)
\set input random(0, 3000)
\set latency random_gaussian(1, 60000, 3)
\set http CASE WHEN random(0, 3) = 0 THEN 500 ELSE 200 END
\set pause random(0, 40)
\set days random(0, 3)
\set seconds random(0, 86400)
};
my $anyone = q{(SELECT lease FROM llmquota.usage ORDER BY random() LIMIT 1)};
my %traffic = (
	call => $record,
	open => "BEGIN; $record\n\\sleep :pause ms\n$record COMMIT;",
	lost => "BEGIN; $record\n\\sleep :pause ms\nROLLBACK;",
	savepoint => "BEGIN; SAVEPOINT a; $record ROLLBACK TO a; SAVEPOINT b; $record RELEASE b; COMMIT;",
	release => "SELECT llmquota_release(p.lease) $pick;",
	late => "SELECT quote_literal(p.lease) AS lease $pick \\gset\n"
	  . q{SELECT expired FROM llmquota_maintain();
		  SELECT r.status FROM llmquota_record(:lease, :input, latency_ms => :latency) r;},
	change => "UPDATE llmquota.usage SET org = 'clinic-' || :org, latency_ms = :latency WHERE lease = $anyone;",
	back => "BEGIN; UPDATE llmquota.usage SET input_tokens = NULL WHERE lease = $anyone;\n\\sleep :pause ms\nROLLBACK;",
	delete => "DELETE FROM llmquota.usage WHERE lease = $anyone;",
	move => q{UPDATE llmquota.usage SET picked_at = picked_at - interval '1 day' WHERE lease = } . $anyone . q{
		AND picked_at > now() - interval '2 days';},
	# who inserts by the parent chooses the partition, and only then waits for it, while another may be attached
	by_hand => q{BEGIN; LOCK TABLE llmquota.usage_default IN ROW EXCLUSIVE MODE; INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org, model, key, status, attempt, input_tokens, recorded_in)
		SELECT gen_random_uuid(), now() - :days * interval '1 day' - :seconds * interval '1 second', now(),
			   'clinic-' || :org, NULLIF('large', CASE :days WHEN 1 THEN 'large' END), 'k', 'ok', 1 + :days, :input, :seconds
		  FROM generate_series(1, 3); COMMIT;},
	maintain => 'SELECT llmquota_maintain();',
);

# Runs the traffic; a transaction that a DBA's change or maintenance got in the way of is tried again.
sub traffic
{
	my ($seed) = @_;
	my @scripts;

	for my $name (sort keys %traffic)
	{
		my $file = "$PostgreSQL::Test::Utils::tmp_check/rollup_$name.sql";
		my $ttl = $name eq 'late' ? 1 : 60000;
		my $weight = $name eq 'call' ? 5 : 1;
		PostgreSQL::Test::Utils::append_to_file($file, $set . $traffic{$name} =~ s/TTL/$ttl/gr =~ s/\n\t+/ /gr . "\n")
		  unless -e $file;
		push @scripts, '-f', "$file\@$weight";
	}
	my ($out, $err) = ('', '');
	IPC::Run::run([
			'pgbench', '-n', '-c', '8', '-t', '150', '--random-seed', $seed, '--max-tries', '10',
			@scripts, '-h', $node->host, '-p', $node->port, 'postgres'
		], '>', \$out, '2>', \$err);
	$err =~ s/^pgbench: (setting random seed|client \d+ got an error in command \d+ \(SQL\) of script \d+; ERROR:  deadlock).*\n//mg;
	like($out, qr/number of failed transactions: 0 /, 'every transaction came to an end');
	is($err, '', 'without an error');
	return;
}

# A session that has recorded a call and whose transaction stays open.
sub open_session
{
	my ($org) = @_;
	my $session = $node->background_psql('postgres');

	$session->query_safe('BEGIN');
	$session->query_safe("SELECT llmquota_record(lease, 7, latency_ms => 70) FROM llmquota_pick('large', '$org')");
	return $session;
}

maintain();
my ($commits, $rolls_back) = (open_session('early'), open_session('early'));
sql($node, q{BEGIN;
	SELECT llmquota_record(lease, 9) FROM llmquota_pick('large', 'prepared');
	PREPARE TRANSACTION 'early'});
traffic(1);
agrees('after random traffic it is what the ledger gives');
cmp_ok(sql($node, 'SELECT count(*) FROM counted'), '>', 20, 'and that is something');
is(sql($node, q{SELECT count(*) FROM counted WHERE org IN ('early', 'prepared')}), 0, 'open transactions are not in it');

$commits->query_safe('COMMIT');
$rolls_back->query_safe('ROLLBACK');
sql($node, q{COMMIT PREPARED 'early'});
maintain();
is(sql($node, q{SELECT org, sum(calls), sum(input_tokens) FROM counted WHERE org IN ('early', 'prepared') GROUP BY org ORDER BY org}),
	"early|2|14\nprepared|1|9", 'they are once they have ended, the one rolled back by the row that maintenance wrote');
$_->quit for $commits, $rolls_back;

# Who counts in a transaction goes on to write in it, when later ones have ended already
my $counts = $node->background_psql('postgres');
$counts->query_safe('BEGIN; SELECT txid_current()');
sql($node, q{SELECT llmquota_record(lease, 1) FROM llmquota_pick('large', 'later')});
$counts->query_safe('SELECT FROM llmquota_maintain()');
$counts->query_safe(q{SELECT llmquota_record(lease, 2) FROM llmquota_pick('large', 'later')});
$counts->query_safe('COMMIT');
$counts->quit;
agrees('what a transaction writes after it has counted is counted by the next');
is(sql($node, q{SELECT sum(calls), sum(input_tokens) FROM counted WHERE org = 'later'}), '2|3', 'once');

my $killed = open_session('killed');
traffic(2);
crash($node);
$node->start;
agrees('after kill -9 it is what the ledger gives');
eval { $killed->quit };

sql($node, 'TRUNCATE llmquota.usage_hourly, llmquota.usage_rollup, llmquota.usage_undone');
agrees('made from nothing it is the same');
is(sql($node, 'SELECT count(*) FROM llmquota.usage_undone'), 0, 'and nothing is left to take off');

# Round after round counts nothing twice and changes nothing.
my $counted = sql($node, 'SELECT rows_counted FROM llmquota_maintain()');
is($counted, 0, 'a round in which nothing happened counts nothing');

# What is dropped stays counted; what is emptied does not.
my $leaf = sql($node, q{SELECT max(tableoid::regclass::text) FROM llmquota.usage});
my $before = sql($node, 'SELECT sum(calls) FROM counted');
sql($node, "DROP TABLE $leaf");
maintain();
is(sql($node, 'SELECT sum(calls) FROM counted'), $before, 'the hours of a partition that is dropped stay');
sql($node, 'TRUNCATE llmquota.usage');
agrees('those of a ledger that is emptied go');

$node->stop;
done_testing();
