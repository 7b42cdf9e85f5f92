# pg_dump and pg_restore: configuration, settings and ledger go along, live state does not; llmquota_rebuild() makes it
# anew. In every format, in parts, on a server whose worker is preloaded, and with days in the ledger on which nobody dumps.
# A point-in-time restore, too: what was in flight then is in flight again, and expires.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('source', init => { has_archiving => 1, allows_streaming => 1 });
my $target = PostgreSQL::Test::Cluster->new('target');
$target->init;
$target->append_conf('postgresql.conf', "shared_preload_libraries = 'llmquota'\nllmquota.worker = on\nautovacuum = off");
$target->start;
my $dir = PostgreSQL::Test::Utils::tempdir;

# A year's worth: days long past with a partition of their own, a day that has none, and today, through the calls
sql($node, q{
	UPDATE llmquota.setting SET value = '123' WHERE name = 'default_input_tokens';
	INSERT INTO llmquota.route_option (route, strategy, params) VALUES ('large', 'sticky', '{"session_ttl_ms": 60000}');
	INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'clinic-7', 'requests', 40, '300 days');
	INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'tokens', 1000000, '300 days');
	INSERT INTO llmquota.price (model, input, output) SELECT model, 2, 10 FROM llmquota.model;
	INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('THB', 0.03);
	INSERT INTO llmquota.rate_limit (scope, amount, per_ms) VALUES ('logins', 5, 60000);
	UPDATE llmquota.model SET downgrade_to = 'small' WHERE model = 'large';
	INSERT INTO llmquota.org (org, parent) VALUES ('clinic-7', 'clinics'), ('clinic-6', 'clinics'), ('clinics', NULL);
	INSERT INTO llmquota.budget (scope, subject, amount, currency, calendar, timezone, fiscal_month) VALUES
		('org', '*', 1000, 'THB', 'total', NULL, 1), ('parent', 'clinics', 500, 'USD', 'total', NULL, 1),
		('org', 'clinic-7', 5, 'USD', 'year', 'Asia/Bangkok', 10);
	INSERT INTO llmquota.budget_step (budget, at, model) SELECT id, at, 'small'
		FROM llmquota.budget, (VALUES (0.5), (0.9)) step (at) WHERE subject = 'clinics';
	SELECT llmquota_raise_budget('clinic-7', 6, 'infinity', 'holidays'), llmquota_raise_budget('clinics', 600, 'infinity',
		'holidays', id) FROM llmquota.budget WHERE subject = 'clinics';
	CREATE TABLE old AS SELECT n, now() - n * interval '10 days' AS at FROM generate_series(1, 9) n;
	INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org, provider, account, key, model, status,
		reserved_input, reserved_output, input_tokens, output_tokens, recorded_in, cost, currency, cost_base)
	SELECT gen_random_uuid(), at, at, 'clinic-7', 'openai', 'o1', 'o1-1', 'large', 'ok', 100, 10, n, n, 1,
		n * 0.000012, 'USD', n * 0.000012 FROM old;});
maintain_all($node) for 1 .. 2;
sql($node, q{
	INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org, provider, account, key, model, status,
		reserved_input, reserved_output, input_tokens, output_tokens, recorded_in)
	SELECT gen_random_uuid(), at - interval '5 days', at, 'clinic-7', 'openai', 'o1', 'o1-1', 'large', 'ok', 100, 10, 7, 7, 1
	  FROM old WHERE n = 3;
	SELECT count(llmquota_record(lease, 30, 3)) FROM generate_series(1, 20) n,
		llmquota_pick('large', 'clinic-' || 6 + n % 2, 100, 10, session => n::text);
	SELECT count(*) FROM llmquota_pick('small', 'clinic-7', 500, 50)});
cmp_ok(sql($node, q{SELECT count(*) FROM llmquota.usage_default}), '>', 0, 'a row is in the default partition');

# What must be the same afterwards.
my %contents = map { $_ => "SELECT * FROM llmquota.$_ x ORDER BY x::text" }
  qw(provider account key model route route_option org quota role_grant price exchange_rate budget budget_step budget_raise rate_limit);
$contents{numbers} = q{SELECT sequencename, last_value FROM pg_sequences
	WHERE sequencename ~ '^(quota|budget|budget_raise)_id_seq$' ORDER BY 1};
$contents{setting} = 'SELECT name, value FROM llmquota.setting ORDER BY name';
$contents{usage} = 'SELECT lease, picked_at, org, key, model, status, input_tokens, output_tokens, tableoid::regclass
	FROM llmquota.usage ORDER BY lease';

sub same
{
	my ($database, $what) = @_;

	for my $name (sort keys %contents)
	{
		is($target->safe_psql($database, $contents{$name}), sql($node, $contents{$name}), "$what: $name is the same");
	}
	is($target->safe_psql($database, 'SELECT * FROM llmquota.lease'), '', "$what: no lease came along");
	is($target->safe_psql($database, 'SELECT * FROM llmquota.meter_window'), '', "$what: no meter came along");
	is($target->safe_psql($database, 'SELECT * FROM llmquota.budget_window'), '', "$what: nor one of a budget");
	return;
}

# What each quota has counted, less what was in flight when it was dumped
my $used = q{SELECT scope, subject, coalesce(model, ''), metric, used FROM llmquota.meter_window
	WHERE used <> 0 ORDER BY 1, 2, 3, 4, quota};
my $spent = q{SELECT scope, subject, currency, used, amount FROM llmquota.budget_window WHERE used <> 0 ORDER BY 1, 2, 3, budget};

sub counts
{
	my ($database, $what) = @_;

	cmp_ok($target->safe_psql($database, 'SELECT llmquota_rebuild()'), '>', 0, "$what: windows are completed");
	is($target->safe_psql($database, $used), sql($node, $used), "$what: rebuilt meters say what the old ones say");
	is($target->safe_psql($database, $spent), sql($node, $spent), "$what: so do those of budgets");
	is($target->safe_psql($database, 'SELECT * FROM llmquota_verify()'), '', "$what: llmquota_verify() finds nothing");
	is($target->safe_psql($database, "SELECT count(*) FILTER (WHERE status = 'granted') FROM generate_series(1, 40) n,
		llmquota_pick('large', 'clinic-7', 1, 1, session => n::text)"),
		'20', "$what: a long quota knows what was used of it");
	return;
}

sub run_ok
{
	my ($what, @command) = @_;
	my ($out, $err) = ('', '');

	ok(IPC::Run::run(\@command, '>', \$out, '2>', \$err), "$what: @command[0 .. 1]") or diag($err);
	return;
}

sub fresh
{
	my ($database) = @_;

	$target->safe_psql('postgres', "CREATE DATABASE $database TEMPLATE template0");
	return $target->connstr($database);
}

# in flight it would count on the one side only; and what is compared with has to be complete itself
sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
maintain_all($node);
my $source = $node->connstr('postgres');

run_ok('plain', 'pg_dump', '-f', "$dir/plain.sql", $source);
run_ok('plain', 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/plain.sql", fresh('plain'));
same('plain', 'plain');
counts('plain', 'plain');

run_ok('custom', 'pg_dump', '-Fc', '-f', "$dir/custom", $source);
run_ok('custom', 'pg_restore', '--exit-on-error', '-d', fresh('custom'), "$dir/custom");
same('custom', 'custom');
counts('custom', 'custom');

run_ok('directory', 'pg_dump', '-Fd', '-j2', '-f', "$dir/directory", $source);
run_ok('directory', 'pg_restore', '--exit-on-error', '-d', fresh('directory'), "$dir/directory");
same('directory', 'directory');
counts('directory', 'directory');

# With several jobs tables of an extension come in any order: their foreign keys must not be checked meanwhile
{
	local $ENV{PGOPTIONS} = '-c session_replication_role=replica';
	run_ok('several jobs', 'pg_restore', '--exit-on-error', '-j4', '-d', fresh('jobs'), "$dir/directory");
}
same('jobs', 'several jobs');
counts('jobs', 'several jobs');

run_ok('in parts', 'pg_dump', '--schema-only', '-f', "$dir/schema.sql", $source);
run_ok('in parts', 'pg_dump', '--data-only', '-f', "$dir/data.sql", $source);
my $parts = fresh('parts');
run_ok('schema', 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/schema.sql", $parts);
run_ok('data', 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/data.sql", $parts);
same('parts', 'in parts');
counts('parts', 'in parts');

# Rebuilding where there is live state gives the same again
my $before = sql($node, "$used; $spent");
like($before, qr/parent\|clinics\|USD\|0\.\d+\|600\.0/, 'a budget has been spent from, and was raised');
sql($node, 'SELECT llmquota_rebuild()');
is(sql($node, "$used; $spent"), $before, 'rebuilding changes nothing where nothing is wrong');
verified($node, 'rebuilt in place');

# A point-in-time restore
my $flying = sql($node, q{SELECT lease FROM llmquota_pick('large', 'clinic-8', 40, 4, ttl_ms => 2000)});
my $ended = sql($node, q{SELECT lease FROM llmquota_pick('large', 'clinic-8', 50, 5)});
$node->backup('base');
sql($node, "SELECT llmquota_record('$ended', 45, 4)");
my $point = sql($node, 'SELECT pg_create_restore_point($$here$$)');
sql($node, "SELECT llmquota_record('$flying', 1, 1); SELECT pg_switch_wal()");
my $restored = PostgreSQL::Test::Cluster->new('restored');
$restored->init_from_backup($node, 'base', has_restoring => 1);
$restored->append_conf('postgresql.conf', "recovery_target_name = 'here'\nrecovery_target_action = 'promote'");
$restored->start;
ok($restored->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()'), 'restored to a point in time');
is(sql($restored, "SELECT status, input_tokens FROM llmquota.usage WHERE lease = '$ended'"),
	'ok|45', 'what was recorded by then is in the ledger');
ok( poll(
		sub {
			sql($restored, 'SELECT count(*) FROM llmquota_maintain()');
			sql($restored, "SELECT status FROM llmquota.usage WHERE lease = '$flying'") eq 'expired';
		}),
	'what was in flight then expires');
is(in_flight($restored), 0, 'and nothing is in flight any more');
verified($restored, 'restored to a point in time');
is(sql($restored, "SELECT status FROM llmquota_record('$flying', 1, 1)"), 'settled_late', 'its record may still come');
verified($restored, 'with a late record');
$_->stop for $restored, $target, $node;
done_testing();
