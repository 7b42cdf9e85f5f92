# The pool of leases grows by itself up to max_leases. When slots run short, picks end leases that are past their time,
# without maintenance, and the ledger gets their rows, once each, whatever becomes of the picks' transactions. A pick
# looks at few pages, however the free slots are spread.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('pool', conf => ['max_prepared_transactions = 2']);

# Statuses of so many picks in one statement, and how often.
sub picks
{
	my ($count, $ttl_ms, $org) = @_;

	return sql($node, qq{
		SELECT string_agg(status || ' ' || n, ', ' ORDER BY status)
		  FROM (SELECT status, count(*) AS n
				  FROM generate_series(1, $count) i, llmquota_pick('large', '$org', 1, 1, session => i::text, ttl_ms => $ttl_ms)
				 GROUP BY status) s});
}

sub live { return sql($node, 'SELECT count(*) FROM llmquota.lease') }
sub pages { return sql($node, 'SELECT count(*) FROM llmquota.lease_page') }

sub set_bound
{
	my ($leases) = @_;

	sql($node, "UPDATE llmquota.setting SET value = '$leases' WHERE name = 'max_leases'");
	return;
}

# What the ledger has of an org: rows by status, and leases.
sub rows
{
	my ($org) = @_;

	return sql($node, qq{
		SELECT string_agg(status || ' ' || n, ', ' ORDER BY status), sum(n) = sum(leases)
		  FROM (SELECT status, count(*) AS n, count(DISTINCT lease) AS leases
				  FROM llmquota.usage WHERE org = '$org' GROUP BY status) s});
}

sub overdue
{
	my ($org) = @_;

	return sql($node, "SELECT count(*) FROM llmquota.lease WHERE org = '$org' AND expires_at <= clock_timestamp()");
}

# Fills what is left of the pool with leases of an org that are soon past their time.
sub forget
{
	my ($count, $org) = @_;

	is(picks($count, 60000, $org), "granted $count", "$org: leases are taken");
	sql($node, "SELECT count(llmquota_renew(lease, 1)) FROM llmquota.lease WHERE org = '$org'");
	ok(poll(sub { overdue($org) == $count }), "$org: and forgotten");
	return;
}

sub release_all
{
	sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
	maintain_all($node);
	return;
}

# It grows by itself, up to the bound
set_bound(40);
is(picks(20, 60000, 'early'), 'granted 20', 'leases are granted');
cmp_ok(pages(), '<=', 7, 'the pool is no larger than they need');
is(picks(25, 60000, 'early'), 'granted 20, no_lease_slot 5', 'it grows up to the bound');
is(pages(), 10, 'and no further');
is(sql($node, q{SELECT retry_after_ms > 0 FROM llmquota_pick('large', 'early')}), 't', 'who is refused hears when to come back');
set_bound(44);
is(picks(5, 60000, 'early'), 'granted 4, no_lease_slot 1', 'a larger bound holds at once');
sql($node, 'SELECT llmquota_release(lease) FROM llmquota.lease LIMIT 3');
is(picks(5, 60000, 'early'), 'granted 3, no_lease_slot 2', 'what is released is free');
release_all();

# Forgotten leases make room when they are past their time, without maintenance
forget(44, 'forgotten');
is(picks(1, 60000, 'next'), 'granted 1', 'a pick finds room in a pool full of forgotten leases');
like(rows('forgotten'), qr/^expired \d+\|t$/, 'the ledger has rows of some of them');
is(picks(1, 60000, 'next'), 'granted 1', 'so does each that follows') for 1 .. 43;
cmp_ok(live() - overdue('forgotten'), '>=', 44, 'and as many leases are in flight as may be');
like(picks(50, 60000, 'next'), qr/no_lease_slot/, 'there is an end to it');
cmp_ok(live(), '<=', 88, 'spare slots may be taken too, but not beyond twice the bound');
is(rows('forgotten'), 'expired 44|t', 'the ledger has rows of all that were forgotten');
cmp_ok(pages(), '<=', 22, 'the pool is no larger than that');
agree($node, 'forgotten leases');
release_all();

# In one statement, and so in one transaction
forget(44, 'at once');
is(picks(50, 60000, 'many'), 'granted 44, no_lease_slot 6', 'picks of one transaction find room, too');
is(live() - overdue('at once'), 44, 'as many leases are in flight as may be');
maintain_all($node);
is(rows('at once'), 'expired 44|t', 'the ledger has the forgotten ones once');
agree($node, 'picks of one transaction');
release_all();

# What is rolled back, maintenance writes
for my $end ('ROLLBACK', 'COMMIT', q{PREPARE TRANSACTION 'p'; SELECT * FROM llmquota_maintain(); ROLLBACK PREPARED 'p'},
	q{PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'})
{
	my $org = $end =~ s/\W+/ /gr;

	forget(44, $org);
	sql($node, "BEGIN; SELECT count(*) FROM generate_series(1, 10) i, llmquota_pick('large', 'late', session => i::text); $end");
	maintain_all($node);
	is(rows($org), 'expired 44|t', "$org: the ledger has the forgotten ones once");
	is(live(), 10, "$org: the picks stand");
	agree($node, $org);
	release_all();
}

# Late records of leases that picks have ended
forget(44, 'slow');
sql($node, 'CREATE TABLE slow AS SELECT lease FROM llmquota.lease');
is(picks(1, 60000, 'taker'), 'granted 1', 'a pick makes room');
my $expired = sql($node, q{SELECT count(*) FROM llmquota.usage WHERE org = 'slow'});
is( sql($node, 'SELECT r.status, count(*) FROM slow, llmquota_record(lease, 1, 1) r GROUP BY 1 ORDER BY 1'),
	'settled|' . (44 - $expired) . "\nsettled_late|$expired",
	'those that have expired are settled late, the others in time');
is(rows('slow'), 'ok 44|t', 'each is in the ledger once');
agree($node, 'late records');
release_all();

# What is settled, and taken by nobody, is freed after a day: a slot must not outlive its row
is(picks(1, 1, 'unused'), 'granted 1', 'a lease');
sql($node, q{CREATE TABLE unused AS SELECT lease FROM llmquota.lease WHERE org = 'unused'});
ok(poll(sub { maintain_all($node); rows('unused') }), 'has expired');
sub taken { return sql($node, 'SELECT count(*) > 0 FROM llmquota_lease_rows()') }
maintain_all($node);
is(taken(), 't', 'its slot is kept');
sql($node, q{SET llmquota.inject = 'a-day-later'; SELECT * FROM llmquota_maintain()});
is(taken(), 'f', 'its slot is freed, a day later');
is(sql($node, 'SELECT r.status FROM unused, llmquota_record(lease, 70, 70) r'), 'settled_late', 'it is settled late nevertheless');
is(rows('unused'), 'ok 1|t', 'the ledger has it');
agree($node, 'a day later');

# How many pages a pick reads, in a session that knows where those of leases are
my $session = $node->background_psql('postgres');

sub reads
{
	my ($picks) = @_;

	$session->query_safe('SELECT count(*) FROM llmquota.lease');
	my $plan = $session->query_safe(qq{EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF)
		SELECT FROM generate_series(1, $picks) i,
					llmquota_pick('large', 'counted', session => i::text, ttl_ms => 3600000)
		 WHERE status = 'granted'});
	like($plan, qr/rows=$picks\b/, "$picks picks");
	return ($plan =~ /Buffers: shared hit=(\d+)/)[0] / $picks;
}

my $size = 4000;
my $picks = 40;
set_bound($size);
is(picks($size, 3600000, 'full'), "granted $size", 'a large pool is full');
sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
reads($picks);
my $empty = reads($picks);
is(picks($size - live(), 3600000, 'full'), 'granted ' . ($size - 2 * $picks), 'it is full again');
for my $free ("together, n > $size * 0.95", "spread, n % 20 = 0")
{
	my ($how, $which) = split /, /, $free;

	sql($node, qq{SELECT count(llmquota_release(lease))
					FROM (SELECT lease, row_number() OVER (ORDER BY lease) AS n FROM llmquota.lease) l WHERE $which});
	is(live(), $size * 0.95, "$how: the pool is full to 95 %");
	my $reads = reads($picks);
	note(sprintf '%s: %.1f pages read for a pick, %.1f when the pool is empty', $how, $reads, $empty);
	cmp_ok($reads - $empty, '<', 25, "$how: a pick reads few pages more than in an empty pool");
	is(picks($size * 0.05 - $picks, 3600000, 'full'), 'granted ' . ($size * 0.05 - $picks), "$how: each that is left is found");
}

# A session that found the pool full remembers it for a tenth of a second, so that refusals are cheap
$session->query_safe('SELECT llmquota_release(lease) FROM llmquota.lease LIMIT 1');
is(picks(1, 3600000, 'full'), 'granted 1', 'the pool is full');
my $refused = 200;
my $plan = $session->query_safe(qq{EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF)
	SELECT FROM generate_series(1, $refused) i, llmquota_pick('large', 'none', session => i::text)
	 WHERE status = 'no_lease_slot'});
like($plan, qr/rows=$refused\b/, "$refused picks are refused");
my ($hits) = $plan =~ /Buffers: shared hit=(\d+)/;
my ($ms) = $plan =~ /Execution Time: (\d+)/;
my $scans = 1 + $ms / 100;
note("$hits pages read in $ms ms");
cmp_ok($hits, '<', $scans * ($size / 4 + 300) + $refused * 60, 'few of them have looked at all pages');

# and yet it finds what it, or somebody else, has ended
my $one = q{(SELECT lease FROM llmquota.lease LIMIT 1)};
my $pick = q{SELECT status FROM llmquota_pick('large', 'none', ttl_ms => 3600000)};
my $found = grep {
	$session->query_safe("SELECT llmquota_release($one)");
	$session->query_safe($pick) eq 'granted' && $session->query_safe($pick) eq 'no_lease_slot';
} 1 .. 20;
is($found, 20, 'a slot that the session has freed itself is found at once, each time, and no other');
sql($node, "SELECT llmquota_release($one)");
ok(poll(sub { $session->query_safe($pick) eq 'granted' }), 'what another session has freed is found');
is($session->query_safe($pick), 'no_lease_slot', 'once');
agree($node, 'a full pool');
$session->quit;
$node->stop;
done_testing();
