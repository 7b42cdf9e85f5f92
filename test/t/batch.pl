# Batches: one WAL record for a set of pages, and not for each row; what a crash leaves between two of them; many clients
# with batches at once; and the recipe of doc/operations.md for workers with a table of jobs.
use strict;
use warnings;
use FindBin;
use JSON::PP;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('batch', conf => [ 'max_connections = 60', 'wal_writer_delay = 10s' ]);
my $release_all = 'SELECT count(llmquota_release(lease)) FROM llmquota.lease';

# Runs a statement, twice: names, meters and lease pages are there the second time. How many records of live state that
# one writes. (They can be read when they are on disk.)
sub records
{
	my ($database, $sql) = @_;

	$node->safe_psql($database, "$sql; $release_all");
	my $out = $node->safe_psql($database, qq{
		SELECT pg_current_wal_insert_lsn() AS begun \\gset
		$sql \\g /dev/null
		SELECT pg_current_wal_insert_lsn() AS ended \\gset
		CHECKPOINT;
		SELECT count(*) FROM pg_get_wal_records_info(:'begun', :'ended') WHERE resource_manager = 'Generic'});
	$node->safe_psql($database, $release_all);
	return $out;
}

# Seven meters, each on a page of its own; a set of pages is these and two pages with eight leases, beside which a record
# has room for two of them.
sql($node, 'CREATE EXTENSION pg_walinspect');
is(records('postgres', q{SELECT count(*) FROM llmquota_pick_many('large', 'wal', 40, 10, 20)}), 5 * 4,
	'a batch: as many records as each set of pages takes');
is(records('postgres', q{SELECT count(*) FROM generate_series(1, 40) n, llmquota_pick('large', 'wal', n * 0 + 10, 20)}), 40 * 3,
	'single picks: so many for every one');
is(records('postgres', q{SELECT count(*) FROM llmquota_pick_set('large', array_fill('wal'::text, ARRAY[40]))}), 5 * 4,
	'a set of one org: as a batch');
# the first call shows how much room there is; then each org asks for its part
is(records('postgres', q{SELECT count(*) FROM llmquota_pick_set('large', (SELECT array_agg('wal-' || n % 3 ORDER BY n) FROM generate_series(1, 48) n))}),
	3 + 3 * 2 * 4, 'a set of three orgs: a batch for each of them');

$node->safe_psql('postgres', 'CREATE DATABASE two');
$node->safe_psql('two', q{
	CREATE EXTENSION llmquota;
	CREATE EXTENSION pg_walinspect;
	INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
	INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
	INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
	INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
	INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
		VALUES ('global', '', 'requests', 1000, '1 hour'), ('key', '*', 'tokens', 1000000, '1 hour')});
is(records('two', q{SELECT count(*) FROM llmquota_pick_many('m', 'wal', 40, 10, 20)}), 5, 'two meters: a record for eight leases');
is(records('two', q{SELECT count(*) FROM llmquota_pick_many('m', 'wal', 4, 10, 20)}), 1, 'or for four');

# A pool in which nine of ten slots are taken: a batch finds pages with room for more than one lease, or makes some.
sql($node, q{SELECT count(*) FROM generate_series(1, 2000) n, llmquota_pick('large', 'old', n * 0 + 10, 20)});
sql($node, q{SELECT count(llmquota_release(lease)) FROM (SELECT lease, row_number() OVER (ORDER BY md5(lease::text)) AS n FROM llmquota.lease) l WHERE n % 10 = 0});
cmp_ok(sql($node, q{SELECT count(DISTINCT left(lease::text, 8)) FROM llmquota_pick_many('large', 'new', 40)}), '<=', 20, 'a batch takes two slots of a page or more');
sql($node, $release_all);

# Statuses of an org's rows in the ledger, and how often
sub rows
{
	my ($org) = @_;

	return sql($node, qq{SELECT string_agg(status || ' ' || n, ', ' ORDER BY status)
		FROM (SELECT status, count(*) AS n FROM llmquota.usage WHERE org = '$org' GROUP BY status) s});
}

sub crash_after
{
	my ($records, $sql) = @_;

	sql($node, "$sql; $release_all");
	$node->psql('postgres', "SET llmquota.inject = 'grant-record:$records'; $sql");
	crash($node);
	$node->start;
	return;
}

# A crash between two records of a batch. Nobody was told of any of its leases: those that it cut short are none, and
# maintenance takes them back.
for my $records (1 .. 3)
{
	my $org = "half-$records";
	my $what = "a crash after record $records of a batch";

	crash_after($records, qq{SELECT count(*) FROM llmquota_pick_many('haiku', '$org', 8, 10, 20)});
	my @leases = split /\n/, sql($node, "SELECT lease FROM llmquota.lease WHERE org = '$org'");
	is(scalar @leases, 8, "$what: its slots tell of it");
	isnt(disagreements($node), '', "$what: some meters are charged and some are not");
	agree($node, "$what, its leases apart", @leases);
	is(sql($node, "SELECT DISTINCT status FROM unnest('{@{[join ',', @leases]}}'::uuid[]) l, llmquota_record(l, 1, 1)"),
		'unknown_lease', "$what: they are no leases");
	maintain_all($node);
	is(rows($org), 'released 16', "$what: they are taken back, as those before were");
	is(in_flight($node), 0, "$what: nothing is in flight");
	agree($node, "$what, in the end");
}

# In the second set of pages: the leases of the first are whole.
crash_after(5, q{SELECT count(*) FROM llmquota_pick_many('haiku', 'second', 16, 10, 20)});
is(sql($node, q{SELECT count(*) FROM llmquota.lease WHERE org = 'second'}), 16, 'a crash in the second set: its slots tell of it');
maintain_all($node);
is(sql($node, q{SELECT count(*) FROM llmquota.lease WHERE org = 'second'}), 8, 'the leases of the first set live until they expire');
agree($node, 'a crash in the second set');
sql($node, $release_all);
is(in_flight($node), 0, 'a crash in the second set: nothing is in flight when they have ended');

# Cut short by a timeout, sooner or later: nobody was told, but whatever was granted by then is whole.
my $cut = 0;
for (my $ms = 4; $cut == 0 && $ms < 10_000; $ms = int($ms * 1.4))
{
	$node->psql('postgres', "SET statement_timeout = $ms; SELECT count(*) FROM llmquota_pick_many('large', 'cut', 10000)");
	$cut = sql($node, q{SELECT count(*) FROM llmquota.lease WHERE org = 'cut'});
}
cmp_ok($cut, '>', 0, 'a batch is cut short in its middle');
cmp_ok($cut, '<', 10_000, '... and has not come to its end');
agree($node, 'a batch that is cut short');
sql($node, $release_all);
is(in_flight($node), 0, 'a batch that is cut short: nothing is in flight when its leases have ended');

# What was acknowledged is there
my $session = $node->background_psql('postgres');
$session->query_safe('SET synchronous_commit = on');
$session->query_safe('BEGIN');
is($session->query_safe(q{SELECT count(*) FROM llmquota_pick_many('large', 'told', 20)}), 20, 'a batch is granted');
is($session->query_safe(q{SELECT count(*) FROM llmquota_pick_set('large', '{told,sold,told}')}), 3, 'so is a set');
crash($node);
$session->{run}->kill_kill;
$node->start;
is(sql($node, q{SELECT count(*) FROM llmquota.lease WHERE org IN ('told', 'sold')}), 23, 'they survive a crash');
sql($node, $release_all);
verified($node, 'after the crashes');
amcheck($node, 'after the crashes');

# Runs a scenario of batch.py in a database of its own: what it answered.
sub run_scenario
{
	my ($name, @arguments) = @_;
	my ($out, $err) = ('', '');

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION llmquota');
	IPC::Run::run([ '/usr/bin/python3', "$FindBin::RealBin/batch.py", $name, $node->connstr($name), @arguments ],
		'>', \$out, '2>', \$err);
	is($err, '', "$name: no client has seen an error");
	note($out);
	is($node->safe_psql($name, 'SELECT * FROM llmquota_verify()'), '', "$name: llmquota_verify() finds nothing");
	return $out eq '' ? {} : decode_json($out);
}

my $limits = run_scenario('limits');
cmp_ok($limits->{granted}, '>', 1000, 'limits: picks were granted');
is_deeply($limits->{broken}, [], 'limits: 32 clients of batches have broken none');
is_deeply($limits->{idle}, [], 'limits: every one was used');
is_deeply($limits->{unequal}, [], 'limits: the meters say what the log says');

# The recipe, which examples/work.py has, too
my $page = slurp_file("$FindBin::RealBin/../../doc/operations.md");
my ($recipe) = $page =~ /^## A table of jobs\n(.*?)^## /ms;
my ($table, $take, $end) = $recipe =~ /^```sql\n(.*?)^```$/msg;
my $bare = sub { return $_[0] =~ s/^PREPARE .* AS$//mr =~ s/%\(hands\)s/\$1/gr =~ s/\s+/ /gr =~ s/^ | ?;? ?$//gr };
like($bare->(slurp_file("$FindBin::RealBin/../../examples/work.py")), qr/\Q@{[$bare->($take)]}\E/, 'the example takes jobs as the page does');
my $jobs = run_scenario('jobs', $table, $take, $end);
is($jobs->{open}, 0, 'jobs: all were done');
is($jobs->{twice}, 0, 'jobs: none was done twice');
cmp_ok($jobs->{most_in_all}, '<=', 15, 'jobs: never more than 15 calls at once');
cmp_ok($jobs->{most_of_an_org}, '<=', 8, 'jobs: nor more than 8 of an org');
cmp_ok($jobs->{jain}, '>=', 0.95, 'jobs: while all wait, each org has its share');
is($jobs->{in_flight}, 0, 'jobs: nothing is in flight at the end');

$node->stop;
done_testing();
