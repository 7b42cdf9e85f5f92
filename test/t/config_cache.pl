# Every backend picks by the configuration that is committed, from its next pick on: in transactions that are older than
# the change, during its load, when logical replication makes the change. A change that is rolled back leaves nothing
# behind; a transaction sees its own. The extension can be dropped and created again under a session.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('config',
	init => { allows_streaming => 'logical' },
	conf => [ 'max_prepared_transactions = 10', 'max_connections = 20' ]);
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $other = $node->background_psql('postgres', on_error_stop => 0);
my $pick = q{SELECT status, secret_ref FROM llmquota_pick('large', 'clinic')};

# What all changes here change: one refuses all picks, the other shows in every answer.
sub limit
{
	my ($amount) = @_;

	return "UPDATE llmquota.quota SET amount = $amount WHERE scope = 'global' AND metric = 'requests'";
}

sub secret
{
	my ($secret) = @_;

	return "UPDATE llmquota.key SET secret_ref = '$secret'";
}

sub committed
{
	sql($node, $_) for @_;
	return;
}

sub picks
{
	my ($who, $expected, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(ask($who, $pick), $expected, $what);
}

my $refused = 'too_large|';

# Transactions that are older than the change
committed(secret('one'));
for my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	ask($session, "BEGIN ISOLATION LEVEL $level");
	ask($session, 'SELECT count(*) FROM llmquota.key');
	picks($session, 'granted|one', "$level: a pick");
	committed(limit(0));
	picks($session, $refused, "$level: the next one knows the new amount");
	committed(limit(1000000), secret('two'));
	picks($session, 'granted|two', "$level: and the one after that the newer ones");
	ask($session, 'COMMIT');
	committed(secret('one'));
}

# Whatever else has been heard of the extension's relations meanwhile
for my $event ('VACUUM FULL llmquota.meter', 'REINDEX TABLE CONCURRENTLY llmquota.lease_page', 'ANALYZE llmquota.key',
	'VACUUM FULL llmquota.quota')
{
	committed($event);
	ask($session, 'SELECT count(*) FROM llmquota.meter');
	committed(limit(0));
	picks($session, $refused, "$event: the change after it is noticed");
	committed(limit(1000000));
	picks($session, 'granted|one', "$event: and the one after that");
}

# During the load. It takes one snapshot, then reads table after table; it is stopped where it has to wait for one. What
# has been read by then and what will be read then are both too old, and it begins again.
my %changed = (
	'a table that was read' => [ secret('three'), 'granted|three' ],
	'a table that was not yet read' => [ limit(0), $refused ],
);
for my $what (sort keys %changed)
{
	my ($change, $expected) = @{ $changed{$what} };
	my $new = $node->background_psql('postgres', on_error_stop => 0);
	my %loading = ('the first load' => $new, 'a later load' => $session);

	for my $load (sort keys %loading)
	{
		my $loader = $loading{$load};
		my $pid = backend_pid($loader);

		committed(secret('one'), limit(1000000));
		ask($other, 'BEGIN; LOCK TABLE llmquota.model IN ACCESS EXCLUSIVE MODE');
		$loader->query_until(qr/sent/, "\\echo sent\n$pick;\n");
		ok(poll(sub { state_of($node, $pid) eq 'active Lock relation' }), "$load: it waits for a table");
		ask($other, $change);
		ask($other, 'COMMIT');
		is(ask($loader, 'SELECT 1'), "$expected\n1", "$load: a change meanwhile of $what is in it");
	}
	$new->quit;
}
committed(secret('one'), limit(1000000));

# A transaction's own changes, and what becomes of them
my $again = limit(0);
picks($session, 'granted|one', 'before');
ask($session, 'BEGIN');
ask($session, $again);
picks($session, $refused, 'a transaction sees its own change');
picks($other, 'granted|one', 'nobody else does');
ask($session, 'ROLLBACK');
picks($session, 'granted|one', 'a rollback takes it back');

ask($session, 'BEGIN');
ask($session, 'SAVEPOINT s');
ask($session, $again);
picks($session, $refused, 'so does a subtransaction');
ask($session, 'SAVEPOINT t');
ask($session, limit(1000000));
picks($session, 'granted|one', 'and one within it');
ask($session, 'ROLLBACK TO t');
picks($session, $refused, 'of which a rollback takes back its own');
ask($session, 'RELEASE t');
ask($session, 'ROLLBACK TO s');
picks($session, 'granted|one', 'and that of the outer one everything');
ask($session, 'COMMIT');
picks($session, 'granted|one', 'also after the commit');

ask($session, 'BEGIN');
ask($session, "$again; SELECT 1 / 0");
ask($session, 'COMMIT');
picks($session, 'granted|one', 'an error takes it back');
is( ask( $session,
		qq{
	CREATE TABLE said (n int, status text);
	DO \$\$ BEGIN
		BEGIN
			$again;
			INSERT INTO said SELECT 1, status FROM llmquota_pick('large', 'clinic');
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN
			INSERT INTO said SELECT 2, status FROM llmquota_pick('large', 'clinic');
		END;
		$again;
		INSERT INTO said SELECT 3, status FROM llmquota_pick('large', 'clinic');
	END \$\$;
	SELECT n, status FROM said ORDER BY n}),
	"2|granted\n3|too_large", 'a function sees its changes, and loses them with its blocks');
committed(limit(1000000), 'DROP TABLE said');

ask($session, 'BEGIN');
ask($session, $again);
picks($session, $refused, 'a transaction that will be prepared sees its change');
ask($session, q{PREPARE TRANSACTION 'change'});
picks($session, 'granted|one', 'its session does not, once it is prepared');
picks($other, 'granted|one', 'nor does another');
ask($other, q{COMMIT PREPARED 'change'});
picks($session, $refused, 'it comes with the commit');
picks($other, $refused, 'to everybody');
committed(limit(1000000));

# Budgets, their steps, and raises: each change is known to the next pick
my $paid = q{SELECT status, model, downgraded FROM llmquota_pick('large', 'clinic')};
my $budget = q{INSERT INTO llmquota.budget (subject, amount, currency, calendar, downgrade_at) VALUES ('clinic', 0, 'USD', 'total', NULL)};
committed(q{INSERT INTO llmquota.price (model, input, output) SELECT model, 1, 1 FROM llmquota.model}, $budget);
is(ask($session, $paid), 'budget_exceeded||', 'a budget that is spent');
committed(q{UPDATE llmquota.budget SET free_when_spent = true}, q{UPDATE llmquota.price SET input = 0, output = 0 WHERE model = 'small'});
is(ask($session, $paid), 'budget_exceeded||', 'what is free costs nothing, but was not asked for');
committed(q{INSERT INTO llmquota.budget_step (budget, at, model) SELECT id, 0, 'small' FROM llmquota.budget});
is(ask($session, $paid), 'granted|small|t', 'a step');
committed(q{DELETE FROM llmquota.budget_step});
is(ask($session, $paid), 'budget_exceeded||', 'that is gone');
committed(q{SELECT llmquota_raise_budget('clinic', 1000, 'infinity', 'a test')});
is(ask($session, $paid), 'granted|large|f', 'a raise');
committed(q{DELETE FROM llmquota.budget_raise});
is(ask($session, $paid), 'budget_exceeded||', 'that is taken back');
committed(q{INSERT INTO llmquota.org (org, parent) VALUES ('group', NULL), ('clinic', 'group')},
	q{UPDATE llmquota.budget SET scope = 'parent', subject = 'group'});
is(ask($session, $paid), 'budget_exceeded||', 'a budget of the org that it belongs to');
committed(q{UPDATE llmquota.org SET parent = NULL});
is(ask($session, $paid), 'granted|large|f', 'and no longer belongs to');
committed('DELETE FROM llmquota.org', 'DELETE FROM llmquota.budget');
picks($session, 'granted|one', 'without budgets');

# A quota that is rolled back leaves its window in no view, and no limit
my $tokens = q{SELECT used FROM llmquota.meter_window WHERE scope = 'org' AND subject = 'clinic' AND metric = 'tokens'};
ask($session, 'BEGIN');
ask( $session, q{
	INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
	VALUES ('org', 'clinic', 'tokens', 100000, '1 hour')});
picks($session, 'granted|one', 'a new quota');
is(ask($session, $tokens), 2024, 'counts');
ask($session, 'ROLLBACK');
is(ask($session, $tokens), '', 'and is gone after the rollback');
agree($node, 'after all changes');

# Logical replication makes the changes on a subscriber, as a replica: the triggers fire there too
my $subscriber = new_node('subscriber',
	init => { allows_streaming => 'logical' },
	conf => ['max_connections = 20'],
	fixture => 0);
my $there = $subscriber->background_psql('postgres', on_error_stop => 0);
my $published = join ', ', map { "llmquota.$_" } qw(provider account key model quota org price budget budget_step budget_raise);
like(ask($there, $pick), qr/route "large" does not exist/, 'the subscriber knows nothing');
sql($node, "CREATE PUBLICATION configuration FOR TABLE $published");
my $connection = $node->connstr . ' dbname=postgres';
sql($subscriber, "CREATE SUBSCRIPTION configuration CONNECTION '$connection' PUBLICATION configuration");
$subscriber->wait_for_subscription_sync($node, 'configuration');

# A test: what a pick on the subscriber says after the change, from a session that is older.
sub replicated
{
	my ($change, $expected, $what) = @_;

	sql($node, $change);
	$node->wait_for_catchup('configuration');
	return picks($there, $expected, $what);
}
picks($there, 'granted|one', 'the first copy reaches its sessions');
replicated(limit(0), $refused, 'a changed amount does');
replicated(limit(1000000), 'granted|one', 'and another');
replicated(secret('two'), 'granted|two', 'changed keys do');
replicated(q{INSERT INTO llmquota.org (org, enabled) VALUES ('clinic', false)}, 'disabled|', 'a new row does');
replicated(q{DELETE FROM llmquota.org}, 'granted|two', 'a deleted one does');
replicated($budget, 'budget_exceeded|', 'a budget does');
replicated(q{SELECT llmquota_raise_budget('clinic', 1000, 'infinity', 'a test')}, 'granted|two', 'and a raise of it');
replicated(q{TRUNCATE llmquota.budget_raise}, 'budget_exceeded|', 'and the end of that');
replicated(q{DELETE FROM llmquota.budget}, 'granted|two', 'and its own');
replicated(limit(0), $refused, 'once more a changed amount');
replicated(q{TRUNCATE llmquota.quota}, 'granted|two', 'a truncated table does');
$there->quit;
sql($subscriber, 'DROP SUBSCRIPTION configuration');
sql($node, 'DROP PUBLICATION configuration');
$subscriber->stop;

# Under a session that has picked, the extension goes and comes again: everything is as in a fresh session
sub like_new
{
	my ($who, $what) = @_;

	is(ask($who, q{SELECT status, secret_ref FROM llmquota_pick('haiku', 'new clinic')}), 'granted|', "$what: a pick");
	is(ask($who, 'SELECT org, route, model, provider FROM llmquota.lease'),
		'new clinic|haiku|haiku|anthropic', "$what: names are those of the new tables");
	is(ask($who, q{SELECT llmquota_record(lease, 1, 2) FROM llmquota.lease}), '(settled,reported,done,,,)', "$what: a record");
	is(sql($node, q{SELECT DISTINCT org, model, provider FROM llmquota.usage}), 'new clinic|haiku|anthropic',
		"$what: and the ledger's");
	agree($node, $what);
	return;
}
my $recreate = 'DROP EXTENSION llmquota CASCADE; CREATE EXTENSION llmquota;' . fixture();
committed(secret('one'));
ask($session, q{SET client_min_messages = error});
picks($session, 'granted|one', 'before the extension is dropped') for 1 .. 10;
picks($other, 'granted|one', 'before the extension is dropped');

my $leases = sql($node, 'SELECT count(*) FROM llmquota.lease');
ask($session, 'BEGIN; DROP EXTENSION llmquota CASCADE; ROLLBACK');
picks($session, 'granted|one', 'dropped and rolled back: a pick');
is(ask($session, "BEGIN; $recreate"), '', 'dropped, created and picked in a transaction');
picks($session, 'granted|', 'a pick before it is rolled back');
ask($session, 'ROLLBACK');
picks($session, 'granted|one', 'a pick after it was rolled back');
is(sql($node, 'SELECT count(*) FROM llmquota.lease WHERE org IS NOT NULL'), $leases + 2, 'all leases are there');

is(ask($session, $recreate), '', 'the extension is dropped and created');
like_new($session, 'the session that did it');
is(ask($session, $recreate), '', 'and again');
like_new($other, 'another session');
verified($node, 'in the end');
amcheck($node, 'in the end');

$_->quit for $session, $other;
$node->stop;
done_testing();
