# An upgraded extension equals a fresh one, in schema, privileges and comments; leases outlive the upgrade, in sessions with
# the old library and with the new one.
#
# Before the first release there is nothing to upgrade from: this tree's own files then stand for the version before, so
# that everything here runs all the same. The comparison is tried on a made-up extension first, with upgrades that each
# forget something.
use strict;
use warnings;
use FindBin;
use File::Copy qw(copy);
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $extensions = $ENV{LLMQ_EXTENSIONS};
my $members = slurp_file("$FindBin::RealBin/members.sql");

my $node = PostgreSQL::Test::Cluster->new('upgrade');
$node->init;
$node->append_conf('postgresql.conf', "dynamic_library_path = '$ENV{LLMQ_LIBPATH}'");
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE upgrade_reader');

# What there is to say of an extension in a new database where these statements have been run.
sub members_after
{
	my ($extension, $statements) = @_;
	my $database = 'members';

	$node->safe_psql('postgres', "DROP DATABASE IF EXISTS $database");
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, $statements);
	return $node->safe_psql($database, "\\set extension $extension\n$members");
}

# What an upgraded one has and a fresh one has not (-), and the other way round (+), without the version.
sub difference
{
	my ($upgraded, $fresh) = @_;
	my %upgraded = map { $_ => 1 } grep { !/^\w+ \| extension \| / } split /\n/, $upgraded;
	my %fresh = map { $_ => 1 } grep { !/^\w+ \| extension \| / } split /\n/, $fresh;
	my @differences = ((map { "- $_" } grep { !$fresh{$_} } sort keys %upgraded), map { "+ $_" } grep { !$upgraded{$_} } sort keys %fresh);
	return join "\n", @differences;
}

# A made-up extension: version 1; what makes it 2; and 2 at once. The upgrade to each other version leaves a line out.
my @begin = (
	'CREATE TABLE upgrade_pair (a int NOT NULL, b text);',
	q{COMMENT ON TABLE upgrade_pair IS 'a table';},
	q{CREATE FUNCTION upgrade_pair_answer() RETURNS int LANGUAGE sql AS 'SELECT 42';});
my %step = (
	column => 'ALTER TABLE upgrade_pair ADD COLUMN c int;',
	type => 'ALTER TABLE upgrade_pair ALTER COLUMN b TYPE varchar(10);',
	default => 'ALTER TABLE upgrade_pair ALTER COLUMN a SET DEFAULT 7;',
	nullable => 'ALTER TABLE upgrade_pair ALTER COLUMN b SET NOT NULL;',
	storage => 'ALTER TABLE upgrade_pair ALTER COLUMN b SET STORAGE PLAIN;',
	constraint => 'ALTER TABLE upgrade_pair ADD CONSTRAINT positive CHECK (a > 0);',
	index => 'CREATE UNIQUE INDEX upgrade_pair_a ON upgrade_pair (a);',
	option => 'ALTER TABLE upgrade_pair SET (fillfactor = 10);',
	table_comment => q{COMMENT ON TABLE upgrade_pair IS 'another';},
	column_comment => q{COMMENT ON COLUMN upgrade_pair.a IS 'a number';},
	function_comment => q{COMMENT ON FUNCTION upgrade_pair_answer() IS 'the answer';},
	function => q{CREATE FUNCTION upgrade_pair_other() RETURNS int LANGUAGE sql AS 'SELECT 1';},
	body => q{CREATE OR REPLACE FUNCTION upgrade_pair_answer() RETURNS int LANGUAGE sql AS 'SELECT 43';},
	volatility => 'ALTER FUNCTION upgrade_pair_answer() STABLE;',
	function_privilege => 'REVOKE ALL ON FUNCTION upgrade_pair_answer() FROM PUBLIC;',
	table_privilege => 'GRANT SELECT ON upgrade_pair TO upgrade_reader;',
	column_privilege => 'GRANT UPDATE (a) ON upgrade_pair TO upgrade_reader;',
	view => 'CREATE VIEW upgrade_pair_view AS SELECT a FROM upgrade_pair;',
	trigger => 'CREATE TRIGGER nothing BEFORE UPDATE ON upgrade_pair FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger(); ALTER TABLE upgrade_pair ENABLE ALWAYS TRIGGER nothing;',
	dump => q{SELECT pg_extension_config_dump('upgrade_pair', 'WHERE a > 1');});
my @order = qw(column type default nullable storage body constraint index option table_comment column_comment function_comment
  function volatility function_privilege table_privilege column_privilege view trigger dump);
my @enabling = @step{@order};

sub write_script
{
	my ($name, @lines) = @_;
	PostgreSQL::Test::Utils::append_to_file("$extensions/$name.sql", join("\n", @lines) . "\n");
}

PostgreSQL::Test::Utils::append_to_file("$extensions/upgrade_pair.control", "default_version = '2'\nrelocatable = false\n");
write_script('upgrade_pair--1', @begin);
write_script('upgrade_pair--2', @begin, @enabling);
write_script('upgrade_pair--1--2', @enabling);
my $fresh = members_after('upgrade_pair', 'CREATE EXTENSION upgrade_pair');
my $upgrade = q{CREATE EXTENSION upgrade_pair VERSION '1'; ALTER EXTENSION upgrade_pair UPDATE TO };
is(difference(members_after('upgrade_pair', "$upgrade '2'"), $fresh), '', 'made-up versions: an upgrade with every step equals a fresh one');
for my $forgotten (@order)
{
	write_script("upgrade_pair--1--no_$forgotten", map { $step{$_} } grep { $_ ne $forgotten } @order);
	isnt(difference(members_after('upgrade_pair', "$upgrade 'no_$forgotten'"), $fresh), '', "made-up versions: it is seen when the $forgotten is forgotten");
}

# The version before
my $build = "$ENV{LLMQ_ROOT}/build/upgrade/old";
my ($current) = slurp_file("$ENV{LLMQ_ROOT}/llmquota.control") =~ /^default_version = '(.*)'$/m;
my $old;
if (-e "$build/version")
{
	chomp($old = slurp_file("$build/version"));
	note("upgrading from version $old to $current");
	copy("$build/sql/llmquota.sql", "$extensions/llmquota--$old.sql") or die "could not copy: $!";
}
else
{
	$old = '0.0.0';
	note("there is no earlier version to upgrade from: this tree's own files stand for it");
	copy("$ENV{LLMQ_ROOT}/sql/llmquota.sql", "$extensions/llmquota--$old.sql") or die "could not copy: $!";
	write_script("llmquota--$old--$current", '-- nothing has changed');
	$build = "$ENV{LLMQ_RUN}/upgrade/old";
	mkdir $build or die "could not make $build: $!";
	copy("$ENV{LLMQ_FLAVOUR}/llmquota.so", "$build/llmquota.so") or die "could not copy: $!";
}
my $install_old = "CREATE EXTENSION llmquota VERSION '$old'";

is(difference(members_after('llmquota', "$install_old; ALTER EXTENSION llmquota UPDATE"), members_after('llmquota', 'CREATE EXTENSION llmquota')),
	'', "$old, upgraded to $current, equals a fresh $current");

# The settings are rows, which members.sql does not show.
sub settings_after
{
	my ($statements) = @_;
	members_after('llmquota', $statements);
	return $node->safe_psql('members', 'SELECT name, value, unit, description FROM llmquota.setting ORDER BY name');
}

is(settings_after("$install_old; ALTER EXTENSION llmquota UPDATE"), settings_after('CREATE EXTENSION llmquota'), 'and has the same settings');

# Roles keep what llmquota.role_grant says: what was made anew, and what is new. A dump has that as theirs.
$node->safe_psql('postgres', 'CREATE ROLE upgrade_app; CREATE ROLE upgrade_bound; CREATE ROLE upgrade_admin; CREATE ROLE upgrade_gone; CREATE ROLE upgrade_other');
my $granted_before = qq{$install_old;
	SELECT llmquota_grant('upgrade_app', 'app'), llmquota_grant('upgrade_bound', 'app', 'clinic-7'), llmquota_grant('upgrade_admin', 'admin'), llmquota_grant('upgrade_gone', 'app');
	SELECT llmquota_revoke('upgrade_gone', 'app');
	INSERT INTO llmquota.role_grant (role, kind) VALUES ('upgrade_dropped', 'app')};

# The privileges that these roles have, and those of them that a dump has.
sub privileges_after
{
	my ($statements) = @_;
	members_after('llmquota', $statements);
	my $privileges = $node->safe_psql('members', q{
		SELECT p.oid::regprocedure || ' ' || r.rolname FROM pg_proc p, pg_roles r
		 WHERE p.proname ~ '^llmquota_' AND r.rolname ~ '^upgrade_' AND has_function_privilege(r.oid, p.oid, 'EXECUTE')
		UNION ALL
		SELECT c.oid::regclass || ' ' || t || ' ' || r.rolname FROM pg_class c, pg_roles r, unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) t
		 WHERE c.relnamespace = 'llmquota'::regnamespace AND c.relkind IN ('r', 'v', 'p') AND r.rolname ~ '^upgrade_' AND has_table_privilege(r.oid, c.oid, t)
		UNION ALL
		SELECT polrelid::regclass || ' policy ' || polname FROM pg_policy
		 ORDER BY 1});
	my ($dump) = run_command([ 'pg_dump', '--schema-only', '-h', $node->host, '-p', $node->port, 'members' ]);
	return ($privileges, join "\n", sort grep { /^(GRANT|CREATE POLICY) .*upgrade_/ } split /\n/, $dump);
}

my ($upgraded, $upgraded_dump) = privileges_after("$granted_before; ALTER EXTENSION llmquota UPDATE");
my ($fresh_privileges, $fresh_dump) = privileges_after($granted_before =~ s/ VERSION '\Q$old\E'//r);
like($upgraded, qr/^llmquota_pick\(.*\) upgrade_app$/m, 'after the upgrade a role that could pick can pick');
unlike($upgraded, qr/upgrade_(gone|other)$/m, 'and one that could not cannot');
is($upgraded, $fresh_privileges, 'all roles have the privileges of a fresh installation');
is($upgraded_dump, $fresh_dump, 'and a dump has them');

# Leases in flight, and sessions with either library
sub session
{
	my ($path) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	ask($session, "SET dynamic_library_path = '$path'");
	return $session;
}

# The file of the library that a session has loaded.
sub library
{
	my ($session) = @_;
	my $maps = slurp_file('/proc/' . backend_pid($session) . '/maps');
	my ($file) = $maps =~ m{(/\S*/llmquota\.so)};
	return $file;
}

my @old = map { session("$build:\$libdir") } 1, 2;
ask($old[0], $install_old);
ask($old[0], q{
	INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
	INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
	INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
	INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
	INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES
		('account', '*', 'tokens', 1000000, '1 hour'), ('org', '*', 'requests', 1000000, '1 hour');
	INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', '*', 'concurrency', 1000000)});

my $granted = 0;

# A lease for this org; picked it must be.
sub pick
{
	my ($session, $org) = @_;
	my ($status, $lease) = split /\|/, ask($session, "SELECT status, lease FROM llmquota_pick('m', '$org', 10, 20)");
	is($status, 'granted', "$org: a pick");
	$granted++;
	return $lease;
}

sub record
{
	my ($session, $lease, $what) = @_;
	is(ask($session, "SELECT status FROM llmquota_record('$lease', 1, 2)"), 'settled', "$what: a record");
	return;
}

my @before = map { pick($old[ $_ % 2 ], "before-$_") } 0 .. 3;
my $new = session($ENV{LLMQ_LIBPATH});
record($new, pick($new, 'too-early'), 'new library, old SQL');
record($old[0], pick($new, 'too-early'), 'old library, lease of the new one on old SQL');
my $failed = pick($new, 'too-early');
is(ask($new, "SELECT status FROM llmquota_record('$failed', 1, 2, http_status => 500, error => 'broken')"), 'settled', 'a failure on old SQL');
is(ask($new, 'SELECT m IS NOT NULL FROM llmquota_maintain() m'), 't', 'no step of maintenance by the new library on old SQL fails');
is(ask($new, 'SELECT * FROM llmquota_verify()'), '', 'llmquota_verify() by the new library on old SQL finds nothing');
isnt(ask($new, 'SELECT count(*) FROM llmquota_metrics()'), '0', 'metrics by the new library on old SQL');
is(ask($new, 'ALTER EXTENSION llmquota UPDATE'), '', 'upgraded with leases in flight');
is(ask($new, q{SELECT extversion FROM pg_extension WHERE extname = 'llmquota'}), $current, 'and is the new version');
is(ask($new, q{SELECT count(*) FROM llmquota.lease}), 4, 'the leases are there');
record($old[0], $before[0], 'old library, old lease');
record($new, $before[1], 'new library, old lease');
my @after = (pick($old[1], 'after-old'), pick($new, 'after-new'));
record($new, $after[0], 'new library, lease of the old one');
record($old[1], $after[1], 'old library, lease of the new one');
record($new, $_, 'the rest') for @before[ 2, 3 ];
record($_, ask($_, q{SELECT lease FROM llmquota_pick('m', 'all-arguments', 10, 20, 'high', '{none}', 's', 'r', 60000)}), 'arguments by position')
  for $old[0], $new;
$granted += 2;
is(ask($new, q{SELECT count(*) FROM llmquota.usage WHERE (org, session, request_id) = ('all-arguments', 's', 'r')}), 2, 'which meant the same to both');
is(ask($old[0], 'SELECT num_nulls(expired, retired, unborn_deleted, rows_counted, history_dropped, partitions_created) FROM llmquota_maintain()'),
	0, 'no step of maintenance by the old library on new SQL fails');
isnt(library($old[0]), library($new), 'there were two libraries');

is(ask($new, 'SELECT count(*) FROM llmquota.usage WHERE (input_tokens, output_tokens) = (1, 2)'), $granted, 'the ledger has every call');
is(ask($new, q{SELECT string_agg(metric || ' ' || used, ', ' ORDER BY metric) FROM (
	SELECT metric, sum(used) AS used FROM llmquota.meter_window GROUP BY metric) w}),
	"concurrency 0, requests $granted, tokens " . 3 * $granted, 'the windows count them all');
is(ask($new, 'SELECT * FROM llmquota_verify()'), '', 'llmquota_verify() finds nothing');

$_->quit for @old, $new;
$node->stop;
done_testing();
