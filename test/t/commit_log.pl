# Slots that nobody has settled for good outlive the commit log: ids are burnt, all databases are frozen, and the server
# truncates the log beneath them. Then only the ledger knows which transactions have committed. No row is lost, none is
# doubled.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('clog', conf => [ 'vacuum_freeze_min_age = 0', 'fsync = off', 'max_wal_size = 1GB' ]);

# The leases, by how they are left behind; each in a day's partition, as always
maintain_all($node);
sql($node, 'CREATE TABLE left_behind (how text PRIMARY KEY, lease uuid)');

sub pick
{
	my ($how, $ttl_ms) = @_;

	return sql($node, qq{
		INSERT INTO left_behind
		SELECT '$how', lease FROM llmquota_pick('large', '$how', 100, 50, ttl_ms => $ttl_ms) RETURNING lease});
}

sub record
{
	my ($lease, $tokens) = @_;

	return qq{SELECT status FROM llmquota_record('$lease', $tokens, $tokens, tags => '{"n": $tokens}')};
}

# What the ledger has of a lease.
sub row
{
	my ($how) = @_;

	return sql($node, qq{
		SELECT status, input_tokens, usage_source, tags ->> 'n'
		  FROM left_behind JOIN llmquota.usage USING (lease) WHERE how = '$how'});
}

sub lease { return sql($node, "SELECT lease FROM left_behind WHERE how = '$_[0]'") }

my %left = (
	'committed' => sub { sql($node, record(pick($_[0], 60000), 1)) },
	'rolled back' => sub { sql($node, 'BEGIN;' . record(pick($_[0], 60000), 2) . ';ROLLBACK') },
	'rolled back, to be said again' => sub { sql($node, 'BEGIN;' . record(pick($_[0], 60000), 3) . ';ROLLBACK') },
	'in a savepoint rolled back' => sub {
		sql($node, 'BEGIN; SAVEPOINT s;' . record(pick($_[0], 60000), 4) . '; ROLLBACK TO s; COMMIT');
	},
	'released' => sub { sql($node, "SELECT llmquota_release('" . pick($_[0], 60000) . "')") },
	'cut short by a crash' => sub {
		my $lease = pick($_[0], 60000);
		$node->psql('postgres', "SET llmquota.inject = 'settle-record:2';" . record($lease, 5));
		crash($node);
		$node->start;
	},
	'live' => sub { pick($_[0], 86400000) },
	'rolled back late' => sub {
		my $lease = pick($_[0], 60000);
		sql($node, "SELECT llmquota_renew('$lease', 1)");
		ok(poll(sub { maintain_all($node); row('rolled back late') }), 'a lease expires');
		sql($node, 'BEGIN;' . record($lease, 600) . '; ROLLBACK');
	},
);
# the late one first: it needs maintenance, which would see to the others, too; and the last of all has a slot that nobody
# takes after it has committed
my $last = pick('committed last', 60000);
$left{$_}->($_) for 'rolled back late', grep { !/late/ } sort keys %left;
sql($node, record($last, 8));
my $pages = sql($node, 'SELECT count(*) FROM llmquota.lease_page');

# Burns the ids of a whole segment of the commit log, and has the server truncate it
my $segments = $node->data_dir . '/pg_xact';
ok(-e "$segments/0000", 'the commit log has its first segment');
sql($node, q{CREATE FUNCTION burn_ids(int) RETURNS void AS 'xid_test' LANGUAGE C});
sql($node, 'SELECT burn_ids(50000);' x 22);
cmp_ok(sql($node, 'SELECT pg_current_xact_id()'), '>', 1_050_000, 'ids are burnt');
sql($node, 'UPDATE pg_database SET datallowconn = true');
$node->safe_psql($_, 'VACUUM (FREEZE)') for qw(template0 template1 postgres);
ok(!-e "$segments/0000", 'and the server has truncated the commit log');
is(sql($node, q{SELECT pg_xact_status('1000') IS NULL}), 't', 'which does not know them any more');

# Picks leave the slots alone, and views work
is(sql($node, q{SELECT count(*) FROM generate_series(1, 20) i, llmquota_pick('small', 'new', session => i::text) p
				 WHERE p.status = 'granted'}), 20, 'picks are granted');
is(sql($node, q{SELECT count(*) FROM llmquota.lease WHERE org = 'live'}), 1, 'a live lease is live');

# Said again, it is settled; what had committed is not
my %said = ('rolled back, to be said again' => 'settled', map { $_ => 'already_settled' } 'committed', 'committed last', 'released');
is(sql($node, record(lease($_), 30)), $said{$_}, "$_: said again") for sort keys %said;
is(sql($node, record(lease('live'), 7)), 'settled', 'live: it is settled');

# Maintenance writes the others
maintain_all($node) for 1 .. 2;
my %row = (
	'committed' => 'ok|1|reported|1',
	'committed last' => 'ok|8|reported|8',
	'rolled back' => 'ok|2|recovered|',
	'rolled back, to be said again' => 'ok|30|reported|30',
	'in a savepoint rolled back' => 'ok|4|recovered|',
	'released' => 'released|||',
	'cut short by a crash' => 'ok|5|recovered|',
	'live' => 'ok|7|reported|7',
	'rolled back late' => 'ok|600|late|',
);
is(row($_), $row{$_}, "$_: the ledger has it") for sort keys %row;
is(sql($node, q{SELECT count(*) - count(DISTINCT lease) FROM llmquota.usage}), 0, 'nothing is there twice');
is(sql($node, record(lease($_), 99)), 'already_settled', "$_: it is settled for good") for sort keys %row;
agree($node, 'in the end');
is(sql($node, 'SELECT * FROM llmquota_verify()'), '', 'and verification finds nothing');

# The slots are free again: as many leases as before take no more pages
sql($node, q{SELECT count(llmquota_release(lease)) FROM llmquota.lease});
cmp_ok(sql($node, 'SELECT count(*) FROM llmquota.lease_page'), '<=', $pages + 6, 'no slot is lost');
amcheck($node, 'in the end');
$node->stop;
done_testing();
