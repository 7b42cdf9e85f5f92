# Windows are told what was used before they began exactly once, at whatever point a crash comes; and for that the ledger's
# pages of that time are read and no others, also where things have been renamed.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('seed', fixture => 0);
my $maintain = 'SELECT windows_completed FROM llmquota_maintain()';
sql($node, q{
	INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
	INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
	INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
	INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
	SELECT count(*) FROM llmquota_maintain();
	SELECT count(llmquota_record(lease, 60, 5)) FROM generate_series(1, 30) n,
		llmquota_pick('m', 'org ' || n % 2, 100, 10, session => n::text);
	SELECT count(*) FROM generate_series(1, 4) n, llmquota_pick('m', 'org ' || n % 2, 100, 10, session => n::text, ttl_ms => 86400000)});

# Five windows that have not been there before: three that count what calls use, and two that count calls in flight.
sub new_windows
{
	sql($node, q{
	DELETE FROM llmquota.quota;
	INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES
		('global', '', 'tokens', 1000000, '1 day'),
		('org', '*', 'requests', 1000000, '2 days'),
		('org', '*', 'concurrency', 1000, NULL)});
	sql($node, q{
	SELECT count(llmquota_record(lease, 7, 7)) FROM generate_series(0, 1) n, llmquota_pick('m', 'org ' || n, 100, 10, session => n::text);
	SELECT setval('llmquota.config_time', 1)});
	return;
}

sub seeding
{
	return sql($node, 'SELECT count(*) FROM llmquota.meter_window WHERE seeding');
}

# Where a crash comes, and how many windows it leaves to be completed.
my %left = ('seed-begun' => 5, map({ ("seed-window:$_" => 5 - $_) } 1 .. 5),
	'seed-lease:1' => 2, 'seed-lease:2' => 2, 'seed-lease:3' => 1, 'seed-lease:4' => 1);
for my $point (sort keys %left)
{
	new_windows();
	is(seeding(), 5, "$point: five windows are to be completed");
	$node->psql('postgres', "SET llmquota.inject = '$point'; $maintain");
	crash($node);
	$node->start;
	is(seeding(), $left{$point}, "$point: $left{$point} are left by the crash");
	is(sql($node, $maintain), $left{$point}, "$point: maintenance completes those");
	agree($node, $point);
	verified($node, $point);
	is(sql($node, $maintain), 0, "$point: and is done");
}
sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
is(in_flight($node), 0, 'nothing is in flight once all leases are released');
verified($node, 'in the end');

# Pages of the ledger, in the cache or not, that have been looked at.
sub pages_read
{
	return sql($node, q{SELECT sum(heap_blks_read + heap_blks_hit) FROM pg_statio_user_tables WHERE relname ~ '^usage_(\d+|default)$'});
}

# How many pages of the ledger maintenance reads to complete a new window of a minute.
sub pages_for_a_window
{
	my ($org) = @_;

	sql($node, qq{
	DELETE FROM llmquota.quota;
	INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '$org', 'requests', 1000000, '1 minute')});
	sql($node, $maintain) for 1 .. 2;
	sql($node, qq{SELECT count(llmquota_record(lease)) FROM llmquota_pick('m', '$org')});
	my $before = pages_read();
	is(sql($node, "$maintain; SELECT pg_stat_force_next_flush()"), "1\n", "$org: a window is completed");
	return pages_read() - $before;
}

sql($node, q{
	INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org, provider, account, key, model, status, input_tokens, output_tokens, recorded_in)
	SELECT gen_random_uuid(), now() - interval '1 hour' - (200000 - n) * interval '1 ms', now(), 'org 1', 'p', 'a', 'k', 'm', 'ok', 1, 1, 1
	  FROM generate_series(1, 200000) n});
ok(poll(sub { sql($node, 'SELECT work_left FROM llmquota_maintain()') eq 'f' }), 'the ledger is counted');
sql($node, 'VACUUM llmquota.usage');
my $pages = sql($node, q{SELECT sum(pg_relation_size(relid)) / 8192 FROM pg_partition_tree('llmquota.usage') WHERE isleaf})
  / (sql($node, q{SELECT current_setting('block_size')}) / 8192);
cmp_ok(pages_for_a_window('org 1'), '<', $pages / 3, "of $pages pages few are read for a window of a minute");
sql($node, q{SELECT llmquota_rename('org', 'org 1', 'another')});
cmp_ok(pages_for_a_window('another'), '<', $pages / 3, 'and few when something has been renamed');

# More windows than one round completes: it says that work is left
sql($node, q{INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', '*', 'concurrency', 10)});
is(sql($node, q{SELECT count(llmquota_release(lease)) FROM generate_series(1, 1001) n CROSS JOIN LATERAL llmquota_pick('m', 'many ' || n)}),
	1001, 'many orgs are new');
is(sql($node, 'SELECT work_left, windows_completed FROM llmquota_maintain()'), 't|1000', 'work is left');
maintain_all($node);
is(sql($node, q{SELECT count(*) FROM llmquota.meter_window WHERE seeding}), 0, 'until all windows are complete');
$node->stop;
done_testing();
