# A cell is born outside its caller's fate. An error at any step, a rollback, a savepoint, a prepared transaction, a row
# lock that somebody holds: none costs more than a row that maintenance deletes, there is exactly one born cell for each
# key, and indexes are whole. A meter that needs more room keeps its use.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @steps = qw(birth-row birth-index birth-mark);
my @tables = qw(meter lease_page name health);

my $node = new_node('birth', conf => ['max_prepared_transactions = 10']);
my $session = $node->background_psql('postgres', on_error_stop => 0);
sql($node, q{
	CREATE TABLE other (a int);
	CREATE INDEX of_a_dba ON llmquota.meter (part, subject)});

sub pick
{
	my ($org) = @_;

	return "SELECT status FROM llmquota_pick('small', '$org')";
}

# Commands in the session, in turn: what the last one says.
sub commands
{
	my $said;

	$said = ask($session, $_) for @_;
	return $said;
}

# A state's header: magic 4 bytes, version 2, flags 2, of which the lowest says born and the next one moved.
my $born = '(get_byte(state, 6) & 3) = 1';

sub dead_rows
{
	return sql($node, 'SELECT ' . join ' + ', map { "(SELECT count(*) FROM llmquota.$_ WHERE NOT $born)" } @tables);
}

# Tests: exactly one born cell for each key and each id.
sub one_for_each_key
{
	my ($what) = @_;
	my %keys = (meter => 'scope, subject, part', name => 'kind, name', lease_page => 'id', health => 'kind, subject, part');

	for my $table (@tables)
	{
		for my $key ($keys{$table}, 'id')
		{
			my $wrong = "SELECT $key FROM llmquota.$table GROUP BY $key HAVING count(*) FILTER (WHERE $born) <> 1";

			is(sql($node, $wrong), '', "$what: exactly one born $table for each $key");
		}
	}
	return;
}

# How an error in a birth meets its transaction. Each runs a pick with the point set, and returns what the pick says;
# the transaction goes on or not.
my @write_in_savepoint =
  ('BEGIN', 'INSERT INTO other VALUES (1)', 'SAVEPOINT s', 'INSERT INTO other VALUES (2)');
my %situations = (
	'by itself' => sub { my ($pick) = @_; return commands($pick) },
	'with a command id above 0' => sub {
		my ($pick) = @_;
		my $said = commands('BEGIN', 'INSERT INTO other VALUES (1)', 'INSERT INTO other VALUES (2)', $pick);
		commands('COMMIT');
		return $said;
	},
	'in a savepoint' => sub {
		my ($pick) = @_;
		my $said = commands(@write_in_savepoint, $pick);
		commands('ROLLBACK TO s', 'INSERT INTO other VALUES (3)', 'COMMIT');
		return $said;
	},
	'in a transaction that is prepared' => sub {
		my ($pick, $attempt) = @_;
		my $said = commands(@write_in_savepoint, $pick);
		commands('ROLLBACK TO s', q{PREPARE TRANSACTION 'births'});
		commands(($attempt % 2 ? 'COMMIT' : 'ROLLBACK') . q{ PREPARED 'births'});
		return $said;
	},
);

# Every birth that a new org's pick needs (a name, two meters, now and then a lease page; the first one of all needs
# more) fails at the step, then once more after its mark is set, which leaves it born; so the next attempt comes to the
# next birth.
for my $situation (sort keys %situations)
{
	for my $step (@steps)
	{
		my $what = "$step, $situation";
		my ($failed, $said) = (0, '');

		for my $attempt (1 .. 100)
		{
			ask($session, "SET llmquota.inject = '$step'");
			$said = $situations{$situation}->(pick($what), $attempt);
			last if $said eq 'granted';
			$failed++ if $said =~ /injected fault at "$step"/;
			ask($session, q{SET llmquota.inject = 'birth-mark'});
			$situations{$situation}->(pick($what), $attempt);
		}
		is($said, 'granted', "$what: in the end the pick is granted");
		cmp_ok($failed, '>=', $step eq 'birth-mark' ? 2 : 3, "$what: after an error in every birth");
	}
}
ask($session, q{SET llmquota.inject = ''});
cmp_ok(dead_rows(), '>', 0, 'errors have left rows that were never born');

# Births in a transaction that is prepared, and used by others meanwhile
for my $end (qw(COMMIT ROLLBACK))
{
	my $org = "prepared, then $end";
	is(commands('BEGIN', 'INSERT INTO other VALUES (1)', pick($org)), 'granted', "$org: a pick gives birth");
	is(commands(q{PREPARE TRANSACTION 'births'}), '', "$org: its transaction is prepared");
	is(commands(q{SET statement_timeout = '30s'}, pick($org)), 'granted', "$org: others use the cells meanwhile");
	is(commands("$end PREPARED 'births'", pick($org)), 'granted', "$org: and afterwards");
	is(sql($node, "SELECT used FROM llmquota.meter_window WHERE subject = '$org' AND metric = 'requests'"),
		3, "$org: all have counted");
}

# One maintenance deletes what was left, and everything is sound
sub tidy
{
	my ($what) = @_;
	my $dead = dead_rows();

	is(sql($node, 'SELECT unborn_deleted FROM llmquota_maintain()'), $dead, "$what: maintenance deletes $dead rows");
	is(dead_rows(), 0, "$what: none are left");
	one_for_each_key($what);
	verified($node, "$what, after maintenance");
	amcheck($node, "$what, after maintenance");
	sql($node, "VACUUM FULL llmquota.$_") for @tables;
	verified($node, "$what, after VACUUM FULL");
	amcheck($node, "$what, after VACUUM FULL");
	sql($node, "REINDEX TABLE CONCURRENTLY llmquota.$_") for @tables;
	verified($node, "$what, after REINDEX CONCURRENTLY");
	amcheck($node, "$what, after REINDEX CONCURRENTLY");
	is(commands(pick($what)), 'granted', "$what: picks go on");
	agree($node, $what);
	return;
}
tidy('births that failed');

# Row locks that a superuser takes on cells: nobody waits for them, and they harm nothing
my $locker = $node->background_psql('postgres');
my $sharer = $node->background_psql('postgres');
ask($session, q{SET llmquota.inject = 'birth-row'});
like(commands(pick('while rows are locked')), qr/injected/, 'a birth fails, so that there is a dead row to lock');
ask($session, q{SET llmquota.inject = ''});
my $calls = q{
	SELECT string_agg(llmquota_release(lease), '') FROM (SELECT lease FROM llmquota.lease LIMIT 1) l
	UNION ALL SELECT status FROM llmquota_pick('small', 'while rows are locked')};
for my $end (qw(ROLLBACK COMMIT))
{
	$locker->query_safe('BEGIN');
	$locker->query_safe("SELECT count(*) FROM (SELECT FROM llmquota.$_ FOR UPDATE) locked") for @tables;
	is(commands($calls), "released\ngranted", "$end: picks and releases do not wait for locked rows");
	is(commands('SELECT unborn_deleted FROM llmquota_maintain()'), 0, "$end: maintenance leaves a locked dead row");
	is(commands($calls), "released\ngranted", "$end: and go on");
	$locker->query_safe($end);
	is(commands($calls), "released\ngranted", "$end: also when the locks are gone");
	for my $sharing ($locker, $sharer)
	{
		$sharing->query_safe('BEGIN');
		$sharing->query_safe("SELECT count(*) FROM (SELECT FROM llmquota.$_ FOR SHARE) locked") for @tables;
	}
	is(commands($calls), "released\ngranted", "$end: nor for rows that several have locked");
	$_->query_safe($end) for $locker, $sharer;
	is(commands($calls), "released\ngranted", "$end: also when they have gone");
}
tidy('rows that were locked');
sql($node, 'VACUUM (FREEZE)');
verified($node, 'rows that were locked, after VACUUM FREEZE');
amcheck($node, 'rows that were locked, after VACUUM FREEZE');
$_->quit for $locker, $sharer;

# Growth: a meter with one window gets 2, 4 and 8, and keeps its use; leases of before are corrected where it is now
my $windows = 0;
sub add_quotas
{
	my ($number) = @_;

	sql($node, qq{
		INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
		SELECT 'provider', 'anthropic', 'requests', 1000000, make_interval(hours => i)
		  FROM generate_series($windows + 1, $number) i});
	$windows = $number;
	return;
}

# What the windows of the meter that grows have counted: by the quotas of the same window, in flight and requests.
sub used
{
	return sql($node, q{
		SELECT string_agg(used::text, ' ' ORDER BY quota)
		  FROM llmquota.meter_window
		 WHERE scope = 'provider' AND subject = 'anthropic'});
}

my $grow = q{SELECT lease FROM llmquota_pick('haiku', 'grower')};
my @leases = map { commands($grow) } 1 .. 3;
is(used(), '3', 'in flight before the meter grows');
for my $number (1, 3, 7)
{
	my ($before) = used() =~ /^(\d+)/;
	my $what = ($number + 1) . ' windows';

	add_quotas($number);
	for my $step (qw(birth-row birth-index))
	{
		ask($session, "SET llmquota.inject = '$step'");
		like(commands($grow), qr/injected/, "$what: growth fails at $step");
		ask($session, q{SET llmquota.inject = ''});
		is((split / /, used())[0], $before, "$what: an error at $step loses nothing");
	}
	push @leases, commands($grow);
	is((split / /, used())[0], @leases, "$what: what is in flight is kept");
	is(scalar(split / /, used()), $number + 1, "$what: all are there");
	my $first = shift @leases;
	is(commands("SELECT llmquota_release('$first')"), 'released', "$what: a lease of before is released");
	is((split / /, used())[0], @leases, "$what: where its meter is now");
}
sql($node, q{DELETE FROM llmquota.quota WHERE subject = 'anthropic'});
cmp_ok(dead_rows(), '>', 0, 'rows that have moved are there');
tidy('meters that grew');

$session->quit;
$node->stop;
done_testing();
