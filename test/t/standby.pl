# A physical standby replays all that happens to live state, under wal_consistency_checking: births, growth, picks,
# records, expiry, VACUUM, VACUUM FULL. It shows the views, and refuses to pick.
use strict;
use warnings;
use LlmquotaLoad;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('primary',
	init => { allows_streaming => 1 },
	conf => [ 'wal_consistency_checking = all', 'max_connections = 20', 'max_prepared_transactions = 2',
		# the standby may lag: page images with every record are much to send
		'wal_keep_size = 2GB' ]);
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;

# What the views show, less what depends on the clock. Sliding windows are an hour long here.
my %shown = (
	lease => 'SELECT * FROM llmquota.lease ORDER BY lease',
	meter_window => 'SELECT scope, subject, model, family, metric, period, used, amount, remaining, refused,
							would_refuse, mode, quota
					   FROM llmquota.meter_window ORDER BY quota, subject, model',
	exhaustion => q{SELECT scope, subject, model, metric, period, used, amount FROM llmquota.exhaustion ORDER BY quota, subject, model},
	backtest => q{SELECT calls, refused, most_used FROM llmquota_backtest('{"scope": "global", "metric": "requests", "amount": 2, "per": "1 day"}') WHERE hour IS NULL},
	capacity => q{SELECT model, accounts, keys, requests, tokens, at_once FROM llmquota.capacity WHERE horizon = 'minute' ORDER BY model},
);

# A test: the standby has replayed everything, found every page as the primary has it, and shows the same.
sub same
{
	my ($what) = @_;
	my $reached = $node->lsn('insert');

	sql($node, q{SELECT pg_logical_emit_message(true, '', '')});    # flushes what has no transaction id
	ok( poll(
			sub {
				my ($status, $replayed) = $standby->psql('postgres', "SELECT pg_last_wal_replay_lsn() >= '$reached'");
				return $status != 0 || $replayed eq 't';
			}),
		"$what: replay goes on");
	my $log = slurp_file($standby->logfile);
	unlike($log, qr/inconsistent page/, "$what: every page is as on the primary") or die 'the standby has ended';
	for my $view (sort keys %shown)
	{
		my $primary = sql($node, $shown{$view});
		isnt($primary, '', "$what: $view has rows");
		is(sql($standby, $shown{$view}), $primary, "$what: the standby shows the same $view");
	}
	is(sql($standby, 'SELECT * FROM llmquota_verify()'), '', "$what: every row is whole on the standby");
	return;
}

my $pick = "SELECT lease FROM llmquota_pick('large', 'clinic', session => 's', request_id => gen_random_uuid()::text)";

# Births, also after other commands of the same transaction, in a savepoint, and interrupted ones
my $lease = sql($node, $pick);
sql($node, q{
	BEGIN;
	CREATE TABLE other (a int);
	INSERT INTO other VALUES (1);
	SAVEPOINT s;
	INSERT INTO other VALUES (2);
	SELECT llmquota_pick('small', 'born in a savepoint');
	ROLLBACK TO s;
	SELECT llmquota_pick('haiku', 'born later');
	PREPARE TRANSACTION 'births';
	COMMIT PREPARED 'births'});
for my $step (qw(birth-row birth-index birth-mark))
{
	my $birth = "SELECT llmquota_pick('large', '$step');";

	is(sqlstate($node, "SET llmquota.inject = '$step'; $birth"), 'XX000', "a birth fails at $step");
	sql($node, $birth);
}
same('births');

# Growth: eight quotas on one meter that had one
sql($node, q{
	INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
	SELECT 'provider', '*', 'requests', 1000000, make_interval(hours => i) FROM generate_series(1, 7) i});
sql($node, $pick) for 1 .. 2;
same('growth');

# Every way a lease can end, refusals
sql($node, "SELECT llmquota_record('$lease', input_tokens => 10, output_tokens => 20)");
sql($node, "BEGIN; SELECT llmquota_record(lease) FROM llmquota.lease WHERE org = 'birth-row'; ROLLBACK");
sql($node, q{SELECT llmquota_renew(lease) FROM llmquota.lease WHERE org = 'birth-index'});
sql($node, q{SELECT llmquota_pick('large', 'expired', ttl_ms => 1)});
sql($node, q{
	INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'poor', 'tokens', 1, '1 hour')});
like(sql($node, q{SELECT status FROM llmquota_pick('large', 'poor')}), qr/too_large/, 'a refusal');
maintain_all($node);
sql($node, "VACUUM llmquota.$_") for qw(meter lease_page name);    # dead rows have hint bits, which are not replayed
same('ends of leases');

# Load, and what moves rows under it
my $load = LlmquotaLoad->start($node, clients => 4);
ok($load->wait_for_answers(300), 'there is load');
sql($node, $_)
  for 'VACUUM', 'VACUUM (FREEZE)', 'VACUUM FULL llmquota.meter', 'VACUUM FULL llmquota.lease_page',
  'VACUUM FULL llmquota.name', 'REINDEX TABLE CONCURRENTLY llmquota.meter';
ok($load->wait_for_answers($load->answers + 300), 'and goes on');
is($load->stop->{errors}, '', 'without an error');
maintain_all($node);
same('load');

# Several cells to a page
for my $table (qw(llmquota.meter llmquota.lease_page))
{
	sql($node, "ALTER TABLE $table SET (fillfactor = 100)");
	sql($node, "VACUUM FULL $table");
}
sql($node, $pick) for 1 .. 10;
sql($node, "SELECT llmquota_pick('large', 'new ' || i) FROM generate_series(1, 5) i");
same('crowded pages');

# What would change live state is refused
my $some = sql($standby, 'SELECT lease FROM llmquota.lease LIMIT 1');
for my $call (q{llmquota_pick('large', 'clinic')}, "llmquota_record('$some')", "llmquota_release('$some')",
	"llmquota_renew('$some')", 'llmquota_maintain()')
{
	is(sqlstate($standby, "SELECT * FROM $call;"), '25006', "$call is refused on a standby");
}
same('after refusals');

# The standby becomes a primary, and everything goes on
$node->stop;
$standby->promote;
sql($standby, 'DELETE FROM llmquota.quota WHERE id > 10');    # what has not counted from the beginning
agree($standby, 'promoted');
like(sql($standby, $pick), qr/^[0-9a-f-]{36}$/, 'a pick after promotion');
sql($standby, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
agree($standby, 'promoted, after all have ended');
verified($standby, 'promoted');
amcheck($standby, 'promoted');
$standby->stop;
done_testing();
