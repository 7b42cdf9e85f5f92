# Answers, when many ask at once: exactly one is told to refresh, whatever transactions the others have open; nobody waits
# for anybody; a crash; a standby under wal_consistency_checking; the worker; a large table. (What one session sees is in
# test/sql/cache.sql.)
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $callers = 100;
my $node = new_node('cache',
	init => { allows_streaming => 1 },
	conf => [ 'max_connections = 130', 'wal_keep_size = 1GB', 'wal_consistency_checking = all' ]);

# What a get answers: status, whether to refresh, and the answer.
sub get
{
	my ($hash, $server) = @_;

	return sql($server // $node, "SELECT status, refresh, answer FROM llmquota_cache_get('faq', '$hash', 'clinic')");
}

sub put
{
	my ($hash, $answer, $ttl_ms) = @_;

	return sql($node, "SELECT status FROM llmquota_cache_put('faq', '$hash', '$answer', $ttl_ms, 86400000, 'clinic')");
}

# Makes an answer stale that is fresh.
sub make_stale
{
	my ($hash) = @_;

	sql($node, "UPDATE llmquota.answer SET fresh_until = stored_at WHERE hash = '$hash'");
	return;
}

# So many clients ask for one answer at once: they begin together, and their transactions stay open until all of them have
# been told.
sub ask_at_once
{
	my ($hash) = @_;
	my $script = $node->basedir . "/$hash.sql";
	my @gates = map { $node->background_psql('postgres') } 1 .. 2;

	unlink $script;
	append_to_file($script, join "\n", 'SELECT pg_advisory_lock_shared(1);', 'BEGIN;',
		"INSERT INTO told SELECT '$hash', g.status, g.refresh FROM llmquota_cache_get('faq', '$hash', 'clinic') g;",
		'SELECT pg_advisory_xact_lock_shared(2);', 'COMMIT;');
	$gates[ $_ - 1 ]->query_safe("SELECT pg_advisory_lock($_)") for 1 .. 2;
	my $run = IPC::Run::start([
			'pgbench', '-n', '-c', $callers, '-t', 1, '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ],
		'>', \my $out, '2>', \my $err);
	for my $gate (1 .. 2)
	{
		ok(poll(sub {
					sql($node, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $gate AND NOT granted")
					  == $callers;
				}), "$hash: $callers clients are at gate $gate");
		$gates[ $gate - 1 ]->quit;
	}
	ok(IPC::Run::finish($run), "$hash: all are answered") or diag $err;
	return sql($node, "SELECT status, count(*), count(*) FILTER (WHERE refresh) FROM told WHERE hash = '$hash' GROUP BY status");
}

sub test_exactly_one
{
	sql($node, 'CREATE TABLE told (hash text, status text, refresh boolean)');
	is(ask_at_once('missing'), "miss|$callers|1", 'of all who miss an answer one is told to refresh it');
	put('old', '1', 1);
	make_stale('old');
	is(ask_at_once('old'), "stale|$callers|1", 'of all who have a stale one, too');
	put('old', '2', 3600000);
	sql($node, 'DELETE FROM told');
	is(ask_at_once('old'), "fresh|$callers|0", 'when it is fresh nobody is');
	verified($node, 'many at once');
	return;
}

# One who looks while another's transaction is open, in whatever isolation level.
sub test_transactions
{
	my $open = $node->background_psql('postgres', on_error_stop => 0);
	my $old = $node->background_psql('postgres', on_error_stop => 0);

	put('shown', '1', 3600000);
	sql($node, q{UPDATE llmquota.answer SET used_at = '-infinity'});
	$old->query_safe('BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM llmquota.setting; CREATE TABLE serial (a int)');
	# it is used by one who has not ended, and put by another at once: a wait would last for ever
	$open->query_safe(q{BEGIN; CREATE TABLE other (a int); SELECT llmquota_cache_get('faq', 'shown', 'clinic')});
	is(sql($node, q{SELECT used_at > '-infinity' FROM llmquota.answer WHERE hash = 'shown'}), 't', 'it was used');
	is(put('shown', '2', 3600000), 'stored', 'a put does not wait for one who has only asked');
	is(ask($old, q{SELECT g.status, g.answer FROM llmquota_cache_get('faq', 'shown', 'clinic') g}), 'fresh|2',
		'who has an older snapshot has what is there now');
	$old->query_safe('INSERT INTO serial VALUES (1)');
	put('shown', '3', 3600000);
	is(ask($old, 'COMMIT; SELECT count(*) FROM serial'), 1, 'and is in nobody\'s way, nor anybody in his');
	$open->query_safe('COMMIT');

	# the one who was told has put it, but not committed: others go on with what there is
	make_stale('shown');
	is(get('shown'), 'stale|t|3', 'one is told to refresh');
	$open->query_safe(q{BEGIN; SELECT llmquota_cache_put('faq', 'shown', '4', org => 'clinic')});
	is(get('shown'), 'stale|f|3', 'until his transaction has ended nobody else is told, nor waits');
	$open->query_safe('COMMIT');
	is(get('shown'), 'fresh|f|4', 'then it is fresh');
	$_->quit for $open, $old;
	verified($node, 'open transactions');
	return;
}

# A crash: what was stored is there, and what was being stored is not.
sub test_crash
{
	my $open = $node->background_psql('postgres', on_error_stop => 0);

	put('kept', '"kept"', 3600000);
	sql($node, q{UPDATE llmquota.answer SET used_at = '-infinity'});
	get('kept');
	$open->query_safe(q{BEGIN; SELECT llmquota_cache_put('faq', 'open', '1', org => 'clinic')});
	sql($node, q{SELECT pg_logical_emit_message(true, '', '')});    # flushes what has no transaction id
	crash($node);
	$node->start;
	is(sql($node, q{SELECT used_at > '-infinity' FROM llmquota.answer WHERE hash = 'kept'}), 't', 'when it was used is replayed');
	is(get('kept'), 'fresh|f|"kept"', 'an answer survives a crash');
	is(get('open'), 'miss|t|', 'one that was not committed does not');
	verified($node, 'crash');
	amcheck($node, 'crash');
	return;
}

# A standby gives out what there is, and tells nobody to refresh.
sub test_standby
{
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	my $answer = q{(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 2000) n)};

	$node->backup('backup');
	$standby->init_from_backup($node, 'backup', has_streaming => 1);
	$standby->start;
	put($_, '1', 3600000) for qw(fresh stale);
	sql($node, "SELECT llmquota_cache_put('faq', 'large', to_jsonb($answer), org => 'clinic')");
	make_stale('stale');
	# hint bits are set on one side only
	sql($node, q{UPDATE llmquota.answer SET used_at = '-infinity'; SELECT count(*) FROM llmquota.answer});
	get($_) for qw(fresh large);
	sql($node, 'CHECKPOINT');
	sql($node, q{UPDATE llmquota.answer SET used_at = '-infinity' WHERE hash = 'fresh'});
	get('fresh');
	my $used = sql($node, q{SELECT hash, used_at FROM llmquota.answer ORDER BY hash});
	sql($node, 'VACUUM llmquota.answer');
	my $reached = $node->lsn('insert');
	sql($node, q{SELECT pg_logical_emit_message(true, '', '')});
	ok(poll(sub { sql($standby, "SELECT pg_last_wal_replay_lsn() >= '$reached'") eq 't' }), 'the standby replays it');
	is(sql($standby, q{SELECT hash, used_at FROM llmquota.answer ORDER BY hash}), $used, 'the standby has when each was used');
	is(get('fresh', $standby), 'fresh|f|1', 'it gives out a fresh answer');
	is(get('stale', $standby), 'stale|f|1', 'a stale one');
	is(get('none', $standby), 'miss|f|', 'and tells nobody to refresh');
	is(sql($standby, "SELECT md5(answer #>> '{}') = md5($answer) FROM llmquota_cache_get('faq', 'large', 'clinic')"), 't',
		'a large one');
	is(sqlstate($standby, q{SELECT llmquota_cache_put('faq', 'x', '1', org => 'clinic')}), '25006', 'it stores none');
	unlike(slurp_file($standby->logfile), qr/inconsistent page/, 'every page is as on the primary');
	is(sql($standby, 'SELECT * FROM llmquota_verify()'), '', 'the standby: llmquota_verify() finds nothing');
	$standby->stop;
	return;
}

# Of a table that is too large to be looked at whole, those used least recently go, and about as many as have to.
sub test_large_table
{
	my $most = 20_000_000;

	sql($node, qq{
		DELETE FROM llmquota.answer;
		INSERT INTO llmquota.answer SELECT now(), now() + '1 hour', now() + '2 hours', now() - make_interval(secs => 100000 - n), 1000,
			'o', 'faq', 'clinic', n::text, to_jsonb(repeat('x', 700)) FROM generate_series(1, 40000) n;
		UPDATE llmquota.setting SET value = '$most' WHERE name = 'max_cache_bytes'});
	maintain_all($node) for 1 .. 3;
	my ($bytes, $others) = split /\|/, sql($node, q{
		SELECT sum(bytes), max(hash::int) - min(hash::int) + 1 - count(*) FROM llmquota.answer});
	cmp_ok($bytes, '>=', 0.8 * $most, "about as much is kept as there is room for ($bytes bytes)");
	cmp_ok($bytes, '<=', 1.1 * $most, 'and no more');
	is($others, 0, 'those that were not used for longest are gone');
	verified($node, 'large table');
	return;
}

# A database in which nobody ever picks has its answers dropped, too.
sub test_worker
{
	sql($node, q{UPDATE llmquota.setting SET value = '268435456' WHERE name = 'max_cache_bytes'; DELETE FROM llmquota.answer});
	sql($node, q{SELECT llmquota_cache_put('faq', 'short', '1', 1, 0, 'clinic')});
	$node->append_conf('postgresql.conf', 'llmquota.worker = on');
	$node->restart;
	put('long', '1', 3600000);
	ok(poll(sub { sql($node, 'SELECT string_agg(hash, $$ $$) FROM llmquota.answer') eq 'long' }), 'the worker drops what is past its time');
	is(sql($node, 'SELECT count(*) FROM llmquota.lease_page'), 0, 'nobody has picked');
	return;
}

test_exactly_one();
test_transactions();
test_crash();
test_standby();
test_large_table();
test_worker();
$node->stop;
done_testing();
