# Rate limits under load: exact whoever asks and however many, known after a crash and on a standby that is promoted; and
# never waiting for the disk. (What a call is told is in test/sql/allow.sql, the arithmetic in test/unit/gcra_test.c.)
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('allow',
	init => { allows_streaming => 1 },
	conf => [ 'max_connections = 60', 'wal_writer_delay = 10s', 'wal_writer_flush_after = 0', 'wal_consistency_checking = generic' ],
	fixture => 0);
my $hour = 3_600_000;
my $long = 300 * 24 * $hour;

# Runs a script of pgbench in 32 clients.
sub many
{
	my ($name, $script, @options) = @_;
	my $file = $node->basedir . "/$name.sql";

	append_to_file($file, $script);
	$node->command_ok([
			'pgbench', '-n', '-c', 32, '-j', 2, '-M', 'prepared', @options, '-f', $file, '-h', $node->host, '-p', $node->port,
			'postgres' ], "32 clients: $name");
	return;
}

# How many calls too many were certainly admitted in some interval: by when each can have been at the earliest and at the
# latest. In microseconds and whole numbers: `amount` in `period`, `burst` at once.
sub most_over
{
	my ($amount, $period, $burst, @calls) = @_;
	my $worst = 0;

	@calls = sort { $a->[1] <=> $b->[1] } @calls;
	for my $first (@calls)
	{
		my $n = 0;

		for my $last (@calls)
		{
			next if $last->[0] < $first->[0];
			my $over = ++$n - $burst - int(($last->[1] - $first->[0]) * $amount / $period);
			$worst = $over if $over > $worst;
		}
	}
	return $worst;
}

# 32 clients ask about one subject as fast as they can. What they were told is held against the limit by the clock that
# they have read before and after each call.
sub test_one_subject
{
	my ($amount, $per_ms, $burst) = (50, 1000, 40);

	sql($node, 'CREATE UNLOGGED TABLE admitted (before bigint, after bigint)');
	many('one subject', <<"EOT", '-T', 2);
INSERT INTO admitted SELECT b.at, extract(epoch FROM clock_timestamp()) * 1000000
  FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS at OFFSET 0) b,
	LATERAL llmquota_allow('one', 'subject', $amount, $per_ms, least(1, b.at)::int, $burst) a WHERE a.allowed;
EOT
	my @calls = map { [ split /\|/ ] } split /\n/, sql($node, 'SELECT before, after FROM admitted');

	cmp_ok(scalar(@calls), '>=', $burst, 'the burst was admitted: ' . scalar(@calls) . ' calls');
	is(most_over($amount, $per_ms * 1000, $burst, @calls), 0, 'in no interval more was admitted than the limit says');
	is(most_over(1, 10, 2, [ 0, 1 ], [ 5, 6 ], [ 7, 8 ], [ 19, 20 ]), 1, '... as they would have been here');
	return;
}

# Each of many subjects is allowed once, however many ask, while cells are made for them.
sub test_many_subjects
{
	my $subjects = 5000;

	sql($node, 'CREATE UNLOGGED TABLE told (subject int, allowed boolean)');
	many('many subjects', <<"EOT", '-t', 1000);
\\set r random(1, $subjects)
INSERT INTO told SELECT :r, a.allowed FROM llmquota_allow('many', :r::text, 1, $hour) a;
EOT
	is(sql($node, 'SELECT count(*) FROM told'), 32000, 'all were answered');
	is(sql($node, 'SELECT count(*) FILTER (WHERE allowed) - count(DISTINCT subject) FROM told'), 0, 'each subject is allowed once');
	is(sql($node, 'SELECT count(*) FROM (SELECT FROM told GROUP BY subject HAVING NOT bool_or(allowed)) s'), 0, '... and not less');
	verified($node, 'many subjects');
	return;
}

# All or none, by calls that take the same cells in another order.
sub test_all_or_none
{
	sql($node, 'CREATE UNLOGGED TABLE answered (allowed boolean)');
	many('all or none', <<"EOT", '-t', 50);
\\set a random(0, 9)
\\set b 9 - :a
INSERT INTO answered SELECT a.allowed FROM llmquota_allow_all(jsonb_build_array(
	jsonb_build_object('scope', 'all', 'subject', :a::text, 'amount', 100, 'per_ms', $long),
	jsonb_build_object('scope', 'all', 'subject', :b::text, 'amount', 100, 'per_ms', $long))) a;
EOT
	my $left = sql($node, qq{SELECT sum(100 - a.remaining) FROM generate_series(0, 9) n, llmquota_allow('all', n::text, 100, $long, 0) a});

	is($left, 2 * sql($node, 'SELECT count(*) FROM answered WHERE allowed'), 'what was allowed was charged twice, what was not was not');
	is(sql($node, 'SELECT count(*) FROM answered'), 1600, 'all were answered');
	cmp_ok(sql($node, 'SELECT count(*) FROM answered WHERE NOT allowed'), '>=', 1100, 'some were refused');
	return;
}

# No call waits for the disk, whatever synchronous_commit says: the WAL writer here comes every ten seconds.
sub test_no_flush
{
	is(sql($node, qq{
			SET synchronous_commit = on;
			SELECT bool_or(pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()) FROM generate_series(1, 1000) n,
				LATERAL llmquota_allow('flush', n::text, 1, $hour) a WHERE a.allowed}), 't',
		'calls return before what they have written is on disk');
	return;
}

# What was on disk is known after a crash; what was not is at most a moment's.
sub test_crash
{
	is(sql($node, "SELECT count(*) FROM generate_series(1, 3000) n, llmquota_allow('crash', n::text, 1, $hour) a WHERE a.allowed"),
		3000, 'subjects are allowed once');
	sql($node, q{SELECT pg_logical_emit_message(true, '', '')});    # flushes what has no transaction id
	crash($node);
	$node->start;
	is(sql($node, "SELECT count(*) FROM generate_series(1, 3000) n, llmquota_allow('crash', n::text, 1, $hour) a WHERE a.allowed"),
		0, 'after a crash none of them is allowed again');
	verified($node, 'a crash');
	return;
}

# A crash in the midst of a call for many limits, of several records: what the first of them have charged is charged, and
# nobody is allowed more.
sub test_crash_between_records
{
	my $limits = qq{(SELECT jsonb_agg(jsonb_build_object('scope', 'records ' || n, 'subject', 'x', 'amount', 1, 'per_ms', $hour)) FROM generate_series(1, 10) n)};
	my $asked = qq{FROM generate_series(1, 10) n, llmquota_allow('records ' || n, 'x', 1, $hour, 0) a WHERE a.allowed};
	my ($out, $err) = ('', '');

	$node->psql('postgres', "SET llmquota.inject = 'rate-record:1'; SELECT 'answered' FROM llmquota_allow_all($limits)",
		stdout => \$out, stderr => \$err);
	is($out, '', 'a call that a crash has cut short is not answered');
	crash($node);
	$node->start;
	my $left = sql($node, "SELECT count(*) $asked");
	cmp_ok($left, '<', 10, 'some of its limits have counted it');
	cmp_ok($left, '>', 0, '... and some have not');
	verified($node, 'a crash between records');
	is(sql($node, "SELECT allowed FROM llmquota_allow_all($limits)"), 'f', 'it is not allowed afterwards');
	return;
}

# kill -9 in the midst of calls that make cells.
sub test_crash_under_load
{
	my @runs;
	my $file = $node->basedir . '/load.sql';

	append_to_file($file, "\\set r random(1, 1000000)\nSELECT allowed FROM llmquota_allow('load', :r::text, 1, $hour);\n");
	push @runs, IPC::Run::start([
			'pgbench', '-n', '-c', 8, '-T', 600, '-M', 'prepared', '-f', $file, '-h', $node->host, '-p', $node->port, 'postgres' ],
		'>', \my $out, '2>', \my $err);
	my $before = sql($node, 'SELECT count(*) FROM llmquota.rate_page');
	ok(poll(sub { sql($node, 'SELECT count(*) FROM llmquota.rate_page') > $before + 50 }), 'cells are made');
	crash($node);
	IPC::Run::finish($_) for @runs;
	$node->start;
	verified($node, 'a crash under load');
	is(sql($node, "SELECT count(*) FROM generate_series(1, 3000) n, llmquota_allow('crash', n::text, 1, $hour) a WHERE a.allowed"),
		0, 'nobody of before is allowed again');
	is(sql($node, "SELECT count(*) FROM generate_series(1, 3000) n, llmquota_allow('after', n::text, 1, $hour) a WHERE a.allowed"),
		3000, '... and others are');
	return;
}

# On a standby nobody is allowed anything; what is known goes with it when it is promoted.
sub test_standby
{
	my $standby = PostgreSQL::Test::Cluster->new('allow_standby');

	$node->backup('base');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;
	is(sql($node, "SELECT count(*) FROM generate_series(1, 1000) n, llmquota_allow('standby', n::text, 1, $hour) a WHERE a.allowed"),
		1000, 'subjects are allowed on the primary');
	sql($node, q{SELECT pg_logical_emit_message(true, '', '')});
	$node->wait_for_catchup($standby);
	is(sqlstate($standby, "SELECT llmquota_allow('standby', '1', 1, $hour)"), '25006', 'a standby refuses a call');
	is(sqlstate($standby, q{SELECT llmquota_allow_all('[{"scope": "standby", "subject": "1", "amount": 1, "per_ms": 1000}]')}), '25006',
		'... and one for several limits');
	cmp_ok(sql($standby, q{SELECT value FROM llmquota_metrics() WHERE name = 'llmquota_rate_subjects'}), '>=', 1000, 'it counts them');
	is(sql($standby, 'SELECT * FROM llmquota_verify()'), '', '... and they are whole');
	unlike(slurp_file($standby->logfile), qr/inconsistent page/, 'every page is as on the primary');
	$node->stop('immediate');
	$standby->promote;
	is(sql($standby, "SELECT count(*) FROM generate_series(1, 1000) n, llmquota_allow('standby', n::text, 1, $hour) a WHERE a.allowed"),
		0, 'once it is promoted it knows them');
	verified($standby, 'promoted');
	$standby->stop;
	return;
}

test_one_subject();
test_many_subjects();
test_all_or_none();
test_no_flush();
test_crash();
test_crash_between_records();
test_crash_under_load();
test_standby();
done_testing();
