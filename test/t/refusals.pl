# Every refusal is in llmquota.refusal_hourly once: under concurrent load with transactions and maintenance that roll
# back, when more is refused than live state has room for, and after kill -9 but for what backends had not written yet.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('refusals', fixture => 0);
sql($node, q{
	INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
	INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
	INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
	INSERT INTO llmquota.model (model, provider) SELECT 'm' || i, 'p' FROM generate_series(1, 3) i;
	INSERT INTO llmquota.org (org) SELECT 'clinic-' || i FROM generate_series(1, 40) i;
	INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per)
		SELECT 'org', '*', 'm' || i, 'requests', 1, '1 day' FROM generate_series(1, 3) i;
	SELECT count(*) FROM generate_series(1, 40) o, generate_series(1, 3) m, llmquota_pick('m' || m, 'clinic-' || o) p});

sub kept { return sql($node, 'SELECT coalesce(sum(count), 0), coalesce(sum(tokens), 0) FROM llmquota.refusal_hourly') }
sub maintain { return sql($node, 'SELECT refusals_kept FROM llmquota_maintain()') }

# Runs scripts with pgbench: 8 clients, so many transactions each.
sub load
{
	my ($transactions, %scripts) = @_;
	my @files;

	for my $name (sort keys %scripts)
	{
		my $file = "$PostgreSQL::Test::Utils::tmp_check/refusals_$name.sql";
		append_to_file($file, "\\set org random(1, 40)\n\\set model random(1, 3)\n$scripts{$name}\n");
		push @files, '-f', $file;
	}
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'pgbench', '-n', '-c', '8', '-t', $transactions, '-l', "--log-prefix=$PostgreSQL::Test::Utils::tmp_check/log",
			@files, '-h', $node->host, '-p', $node->port, 'postgres' ], '>', \$out, '2>', \$err);
	is($err, '', 'the load ran without an error');
	# each has written what it had when it is gone
	poll(sub { sql($node, q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'}) == 0 });
	return;
}

my $pick = q{SELECT status FROM llmquota_pick('m' || :model, 'clinic-' || :org, 70, 30)};
load(200,
	plain => "$pick;",
	undone => "BEGIN; $pick; ROLLBACK;",
	savepoint => "BEGIN; SAVEPOINT a; $pick; ROLLBACK TO a; COMMIT;",
	failed => "BEGIN; $pick;\nSELECT refusals_kept FROM llmquota_maintain(); ROLLBACK;",
	kept => "$pick;\nSELECT refusals_kept FROM llmquota_maintain();");
maintain();
is(kept(), '1600|160000', 'under load, with rollbacks of picks and of maintenance: each refusal is counted once');
is(maintain(), 0, 'and nothing is left');
is(sql($node, q{SELECT sum(refused) FROM llmquota.meter_window}), 1600, 'the windows have counted as many');
is(sql($node, q{SELECT count(*) FROM (SELECT FROM llmquota.refusal_sample GROUP BY minute, org, quota, status HAVING count(*) > 1) d}),
	0, 'there is one sample to a minute, org, quota and status');
is(sql($node, q{
	SELECT count(*) FROM llmquota.refusal_hourly h
	 WHERE NOT EXISTS (SELECT FROM llmquota.refusal_sample s WHERE s.org = h.org AND s.quota = h.quota AND s.refused_at = h.first_at)}),
	0, 'and the first refusal of each hour is one');

# More orgs at once than pages have room for: no detail, but every count.
sql($node, 'TRUNCATE llmquota.refusal_hourly, llmquota.refusal_sample');
sql($node, q{SELECT count(*) FROM generate_series(1, 8000) i, llmquota_pick('m1', 'made-up-' || repeat('x', 80) || i, 70, 30, exclude => '{k}')});
cmp_ok(maintain(), '>=', 7900, 'refusals of orgs that nobody knows are kept');
maintain();
is(kept(), '8000|800000', 'all of them');
is(sql($node, q{SELECT count(*) > 1000, min(count) FROM llmquota.refusal_hourly WHERE org IS NOT NULL}), 't|1', 'most by org');
is(sql($node, q{SELECT status, route, quota FROM llmquota.refusal_hourly WHERE org IS NULL}), 'unavailable||', 'the rest by status');
is(sql($node, q{SELECT count(*) FROM llmquota.name WHERE name LIKE 'made-up%'}), 0, 'and they have been given no name');
cmp_ok(sql($node, q{SELECT pg_relation_size('llmquota.refusal_page')}), '<=', 64 * 8192, 'live state is bounded');

# kill -9: what was in live state is there; what maintenance had marked and not committed is written after all.
sql($node, 'TRUNCATE llmquota.refusal_hourly, llmquota.refusal_sample');
my ($refused, $maintaining) = map { $node->background_psql('postgres') } 1 .. 2;
$refused->query_safe(q{SELECT status FROM llmquota_pick('m1', 'clinic-1', 70, 30)});
$maintaining->query_safe('BEGIN');
is($maintaining->query_safe('SELECT refusals_kept FROM llmquota_maintain()'), 1, 'maintenance has taken a refusal');
sql($node, 'SELECT pg_switch_wal()');
crash($node);
eval { $_->quit } for $refused, $maintaining;
$node->start;
maintain();
is(kept(), '1|100', 'what it had not committed when the server crashed is counted once');

# Retention
sql($node, q{UPDATE llmquota.refusal_hourly SET hour = hour - interval '401 days';
	UPDATE llmquota.refusal_sample SET minute = minute - interval '29 days'});
is(sql($node, 'SELECT history_dropped FROM llmquota_maintain()'), 1, 'a row past its retention goes');
is(sql($node, 'SELECT (SELECT count(*) FROM llmquota.refusal_hourly), (SELECT count(*) FROM llmquota.refusal_sample)'), '0|1',
	'one within it stays');
sql($node, q{UPDATE llmquota.setting SET value = '28' WHERE name = 'refusal_sample_retention'});
is(sql($node, 'SELECT history_dropped FROM llmquota_maintain()'), 1, 'for as long as the setting says');
is(sql($node, 'SELECT count(*) FROM llmquota_verify()'), 0, 'live state is sound');

$node->stop;
done_testing();
