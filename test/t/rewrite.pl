# Live tables are moved about under their users: VACUUM, VACUUM FULL, REINDEX, REINDEX CONCURRENTLY. Picks and records
# go on, nothing is lost or counted twice; also with several cells to a page.
use strict;
use warnings;
use LlmquotaLoad;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @tables = map { "llmquota.$_" } qw(meter lease_page name);
my $node = new_node('rewrite', conf => [ 'shared_buffers = 32MB', "deadlock_timeout = '100ms'" ]);

# Births go on too: there are many orgs.
sub start_load
{
	return LlmquotaLoad->start($node, clients => 4, orgs => 300);
}

# What REINDEX CONCURRENTLY leaves when a cell is born meanwhile: its entry may be there twice (doc/design.md, Known limits),
# one after the other, or the one the last of its page and the other the first of the next.
my $twice = qr{^btree\ index\ "\S+":\n\s+ERROR:\s\s
	(?: item\ order\ invariant\ violated\ .*\n\s+DETAIL:\s\s.*heap\ tid=(\(\S+\))\)\ .*heap\ tid=\1\)
	  | cross\ page\ item\ order\ invariant\ violated\ .*\n\s+DETAIL: )\ .*\n}xm;

# Ends a load; tests: its clients have seen no error, and everything they were told is so.
sub check_load
{
	my ($load, $what) = @_;
	my $known = $load->stop;

	is($known->{errors}, '', "$what: no client has seen an error");
	maintain_all($node);
	is(LlmquotaLoad::missing($known, $node), '', "$what: every charge and settlement is there");
	agree($node, $what);
	verified($node, $what);
	is(unsound($node) =~ s/$twice//gr, '', "$what: pg_amcheck finds no more than entries that are there twice");
	sql($node, "REINDEX TABLE $_") for @tables;
	amcheck($node, "$what, after REINDEX");
	return;
}

# Runs commands, with the name of each live table for %s, again and again; tests that the load goes on meanwhile.
sub rewrite
{
	my ($load, $what, $rounds, @commands) = @_;

	for my $round (1 .. $rounds)
	{
		my $before = $load->answers;

		for my $command (@commands)
		{
			sql($node, $command =~ s/%s/$_/r) for $command =~ /%s/ ? @tables : '';
		}
		ok($load->wait_for_answers($before + 100) && !$load->ended, "$what: picks and records go on, round $round");
	}
	return;
}

my $load = start_load();
ok($load->wait_for_answers(100), 'there is load');
my $full = 'VACUUM FULL %s';
my $reindex = 'REINDEX TABLE CONCURRENTLY %s';
my $maintain = 'SELECT * FROM llmquota_maintain()';
my %commands = (
	'VACUUM' => [ 3, 'VACUUM %s', 'VACUUM (FREEZE) %s', $maintain ],
	'VACUUM FULL' => [ 5, $full ],
	'VACUUM FULL, rows moving together and apart' =>
	  [ 3, 'ALTER TABLE %s SET (fillfactor = 100)', $full, 'ALTER TABLE %s SET (fillfactor = 10)', $full ],
	'REINDEX' => [ 3, 'REINDEX TABLE %s', $reindex ],
	'all of them' => [ 3, $full, $reindex, $maintain, 'VACUUM %s' ],
);
rewrite($load, $_, @{ $commands{$_} }) for sort keys %commands;
check_load($load, 'rewriting');

# What an open transaction has picked and recorded keeps nobody from the live tables
my $session = $node->background_psql('postgres');
my $pick = q{SELECT lease FROM llmquota_pick('small', 'open', 1, 1)};
$session->query_safe('BEGIN');
my $lease = $session->query_safe($pick);
my $kept = $session->query_safe($pick);
$session->query_safe("SELECT llmquota_record('$lease')");
for my $table (@tables)
{
	is($node->psql('postgres', "SET lock_timeout = '20s'; VACUUM FULL $table"),
		0, "$table can be rewritten under an open transaction");
}
is($session->query_safe("SELECT llmquota_release('$kept')"), 'released', 'which goes on with a lease of before');
like($session->query_safe($pick), qr/^[0-9a-f-]{36}$/, 'and picks');
$session->query_safe('COMMIT');
$session->quit;
agree($node, 'a transaction that was open');

# Several cells to a page
sql($node, "ALTER TABLE $_ SET (fillfactor = 100)") for @tables;
sql($node, "VACUUM FULL $_") for @tables;
my %cells = map { split /\|/ } split /\n/, sql($node, join ' UNION ALL ', map {
	"SELECT '$_', round(count(*)::numeric / count(DISTINCT (ctid::text::point)[0]), 1) FROM $_" } @tables);
cmp_ok($cells{$_}, '>', 1.5, "$_: there are $cells{$_} cells to a page") for @tables;
$load = start_load();
ok($load->wait_for_answers(500), 'crowded pages: there is load');
rewrite($load, 'crowded pages', 3, $full, $reindex, 'VACUUM %s');
ok($load->wait_for_answers($load->answers + 500), 'crowded pages: which goes on');
check_load($load, 'crowded pages');
sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
is(in_flight($node), 0, 'in the end nothing is in flight');
agree($node, 'in the end');

unlike(slurp_file($node->logfile), qr/deadlock detected|PANIC|terminated by signal/, 'nobody has met a deadlock');
$node->stop;
done_testing();
