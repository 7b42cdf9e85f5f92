# Every way in which the transaction of a record can fail, and what then becomes of the record: the charge stands, the
# ledger has its row once, written by a repeated record with its own columns, or by maintenance without what only the
# caller knew.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('rollback', conf => [ 'max_prepared_transactions = 10', 'restart_after_crash = on' ]);
sql($node, 'CREATE TABLE other (id int PRIMARY KEY, n int); INSERT INTO other VALUES (1, 0), (2, 0)');

sub pick { return sql($node, "SELECT lease FROM llmquota_pick('large', 'clinic', 100, 50)") }

sub record
{
	my ($lease, $tokens) = @_;

	return qq{SELECT status FROM llmquota_record('$lease', $tokens, $tokens, tags => '{"n": $tokens}');};
}

# A test: the ledger's rows of a lease, and nothing has drifted.
sub has_row
{
	my ($lease, $row, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sql($node, qq{SELECT status, input_tokens, usage_source, tags ->> 'n' FROM llmquota.usage WHERE lease = '$lease'}),
		$row, "$what: the ledger");
	agree($node, $what);
	return;
}

# A session that has recorded a lease in a transaction that goes on: the session, its backend.
sub recording
{
	my ($lease, $tokens, @before) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = backend_pid($session);

	ask($session, $_) for 'BEGIN', @before;
	is(ask($session, record($lease, $tokens)), 'settled', 'a record, in a transaction that goes on');
	return ($session, $pid);
}

# A test: the record failed with its transaction. Said again it is settled; if it is not, maintenance writes it.
sub recovers
{
	my ($what, $fail) = @_;

	for my $again (1, 0)
	{
		my $lease = pick();
		$fail->($lease);
		is(sql($node, "SELECT count(*) FROM llmquota.usage WHERE lease = '$lease'"), 0, "$what: the row went with it");
		is(sql($node, record($lease, 30)), 'settled', "$what: said again, it is settled") if $again;
		maintain_all($node);
		is(sql($node, record($lease, 40)), 'already_settled', "$what: and then for good");
		has_row($lease, $again ? 'ok|30|reported|30' : 'ok|10|recovered|', $what);
	}
	return;
}

recovers('ROLLBACK', sub { sql($node, 'BEGIN;' . record($_[0], 10) . 'ROLLBACK') });
recovers('ROLLBACK TO SAVEPOINT', sub { sql($node, 'BEGIN; SAVEPOINT s;' . record($_[0], 10) . 'ROLLBACK TO s; COMMIT') });
recovers('a savepoint released, then ROLLBACK',
	sub { sql($node, 'BEGIN; SAVEPOINT s;' . record($_[0], 10) . 'RELEASE s; ROLLBACK') });
recovers('a savepoint released inside one that is rolled back',
	sub { sql($node, 'BEGIN; SAVEPOINT s; SAVEPOINT t;' . record($_[0], 10) . 'RELEASE t; ROLLBACK TO s; COMMIT') });
recovers('an error', sub { $node->psql('postgres', 'BEGIN;' . record($_[0], 10) . 'SELECT 1 / 0; COMMIT') });
# A server that has not noticed yet that one of its processes died still answers. One that has starts all of them anew.
sub checkpointer
{
	return sql($node, q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'});
}

sub restarts_after
{
	my ($checkpointer) = @_;

	ok($node->poll_query_until('postgres', "SELECT pid <> $checkpointer FROM pg_stat_activity WHERE backend_type = 'checkpointer'"),
		'the server recovers');
	return;
}

recovers('an error in the same statement',
	sub { $node->psql('postgres', record($_[0], 10) =~ s{status}{status, 1 / length(repeat('', length(status)))}r) });
recovers('an exception caught in PL/pgSQL', sub {
	my $record = record($_[0], 10) =~ s/SELECT/PERFORM/r;
	sql($node, "DO \$\$ BEGIN $record RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN END \$\$");
});
recovers('a constraint checked at COMMIT', sub {
	$node->psql('postgres', 'BEGIN; CREATE TABLE d (a int UNIQUE DEFERRABLE INITIALLY DEFERRED);
		INSERT INTO d VALUES (1), (1);' . record($_[0], 10) . 'COMMIT');
});
recovers('ROLLBACK PREPARED',
	sub { sql($node, 'BEGIN;' . record($_[0], 10) . q{PREPARE TRANSACTION 'p'}); sql($node, q{ROLLBACK PREPARED 'p'}) });
recovers('a terminated backend', sub {
	my ($session, $pid) = recording($_[0], 10);
	sql($node, "SELECT pg_terminate_backend($pid)");
	ok(poll(sub { state_of($node, $pid) eq '' }), 'its backend is gone');
	$session->{run}->kill_kill;
});
recovers('a backend killed between record and commit', sub {
	my ($session, $pid) = recording($_[0], 10);
	my $checkpointer = checkpointer();
	kill 'KILL', $pid;
	$session->{run}->kill_kill;
	restarts_after($checkpointer);
});
for my $point (qw(settled ledger-row))
{
	recovers("a backend killed at $point", sub {
		my $checkpointer = checkpointer();
		$node->psql('postgres', "SET llmquota.inject = '$point';" . record($_[0], 10));
		restarts_after($checkpointer);
	});
}

# The id that a slot names is not given to another transaction after a crash, also when nothing but the record has used
# it: in a savepoint of a transaction that had none yet. Transactions that commit would make the lease seem settled.
recovers('a crash, and ids burnt', sub {
	my ($session) = recording($_[0], 10, 'SAVEPOINT s', 'SAVEPOINT t');
	crash($node);
	$session->{run}->kill_kill;
	$node->start;
	sql($node, 'SELECT pg_current_xact_id();' x 50);
});

# Prepared transactions are in progress: nobody settles their leases, also after a crash
for my $end ('COMMIT PREPARED', 'ROLLBACK PREPARED')
{
	for my $crash (0, 1)
	{
		my $what = $end . ($crash ? ', after a crash' : '');
		my $lease = pick();

		sql($node, 'BEGIN;' . record($lease, 10) . q{PREPARE TRANSACTION 'p'});
		if ($crash) { crash($node); $node->start }
		is(sql($node, record($lease, 20)), 'already_settled', "$what: it is settled meanwhile");
		maintain_all($node);
		is(sql($node, "SELECT count(*) FROM llmquota.usage WHERE lease = '$lease'"), 0, "$what: maintenance leaves it alone");
		sql($node, "$end 'p'");
		maintain_all($node);
		has_row($lease, $end =~ /^C/ ? 'ok|10|reported|10' : 'ok|10|recovered|', $what);
	}
}

# Maintenance that fails, or is prepared and rolled back, leaves its work to the next one
for my $end ('ROLLBACK', q{PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p'})
{
	my $lease = pick();
	my $forgotten = pick();

	sql($node, 'BEGIN;' . record($lease, 10) . 'ROLLBACK');
	sql($node, "SELECT llmquota_renew('$forgotten', 1)");
	ok(poll(sub { sql($node, "SELECT expires_at < clock_timestamp() FROM llmquota.lease WHERE lease = '$forgotten'") eq 't' }),
		'a lease is past its time');
	sql($node, "BEGIN; SELECT * FROM llmquota_maintain(); $end");
	maintain_all($node) for 1 .. 2;
	has_row($lease, 'ok|10|recovered|', "maintenance, $end: what was rolled back");
	has_row($forgotten, 'expired||reserved|', "maintenance, $end: what was forgotten");
}

# A loop that repeats a transaction until it can be serialized: the last record holds
my $lease = pick();
my @session = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 2;
my $loops = 0;
while (1)
{
	$loops++;
	ask($session[0], 'BEGIN ISOLATION LEVEL SERIALIZABLE');
	ask($session[0], 'SELECT sum(n) FROM other');
	if ($loops <= 3)
	{
		ask($session[1], 'BEGIN ISOLATION LEVEL SERIALIZABLE');
		ask($session[1], 'SELECT sum(n) FROM other');
		ask($session[1], 'UPDATE other SET n = n + 1 WHERE id = 2');
	}
	is(ask($session[0], record($lease, $loops)), 'settled', "attempt $loops: it is settled");
	ask($session[0], 'UPDATE other SET n = n + 1 WHERE id = 1');
	is(ask($session[1], 'COMMIT'), '', "attempt $loops: another transaction commits") if $loops <= 3;
	my $said = ask($session[0], 'COMMIT');
	last if $said eq '';
	like($said, qr/could not serialize/, "attempt $loops: the transaction cannot be serialized");
	ask($session[0], 'ROLLBACK');
	die 'it never ends' if $loops > 5;
}
is($loops, 4, 'the loop ends');
$_->quit for @session;
maintain_all($node);
has_row($lease, 'ok|4|reported|4', 'a serialization-failure loop');
is(sql($node, 'SELECT * FROM llmquota_verify()'), '', 'verification finds nothing');
$node->stop;
done_testing();
