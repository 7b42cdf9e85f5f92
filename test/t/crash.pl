# kill -9 of the server and all its processes, under load: what was acknowledged is there afterwards (synchronous_commit
# on), and meters, leases and ledger agree (always), also after a crash between two records of one change. Without the
# flush that a pick does, an acknowledged pick is lost.
use strict;
use warnings;
use LlmquotaLoad;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# wal_level = minimal: nothing but the load writes WAL.
my $node = new_node('crash', conf => [ 'max_wal_size = 64MB', 'shared_buffers = 16MB', 'wal_writer_delay = 10s' ]);

sub live
{
	my ($lease) = @_;

	return sql($node, "SELECT count(*) FROM llmquota.lease WHERE lease = '$lease'");
}

sub youngest
{
	return sql($node, 'SELECT lease FROM llmquota.lease ORDER BY granted_at DESC LIMIT 1') || ();
}

# A test: nothing is in flight once all leases are released, and nothing has drifted.
sub ends_well
{
	my ($what) = @_;

	sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
	is(in_flight($node), 0, "$what: nothing is in flight when all leases are released");
	agree($node, "$what, after all have ended");
	return;
}

# A crash under load, and everything that must hold after recovery and maintenance.
sub crash_under_load
{
	my ($round, $setting, $meanwhile) = @_;
	my $what = "round $round, synchronous_commit = $setting";
	my $load = LlmquotaLoad->start($node, clients => 6, orgs => 100, settings => "SET synchronous_commit = $setting");

	ok($load->wait_for_answers(1000), "$what: there is load");
	sql($node, $meanwhile) if $meanwhile;
	ok(!$load->ended, "$what: the clients are at it");
	crash($node);
	my $known = $load->finish;
	unlike($known->{errors}, qr/ERROR|PANIC/, "$what: no client has seen an error but the crash");
	$node->start;
	maintain_all($node);

	is(LlmquotaLoad::missing($known, $node), '', "$what: every acknowledged charge and settlement is there")
	  if $setting ne 'off';
	cmp_ok(sql($node, 'SELECT count(*) FROM llmquota.lease'), '>', 0, "$what: leases are in flight");
	agree($node, "$what, after recovery");
	ends_well($what);
	verified($node, $what);
	amcheck($node, $what);
	return;
}

crash_under_load(1, 'on');
crash_under_load(2, 'off');
crash_under_load(3, 'on', 'CHECKPOINT');
crash_under_load(4, 'off', 'VACUUM (FREEZE)');
crash_under_load(5, 'on', 'VACUUM FULL llmquota.meter; VACUUM FULL llmquota.lease_page');

# One call, or several, on a server that does nothing else, and a crash at once: what the last one answered. The cells
# are there already, and in the backend's memory: a birth would make the transaction flush at its end.
sub call_and_crash
{
	my @calls = @_;
	my $session = $node->background_psql('postgres');
	my $answer;

	$session->query_safe("SELECT llmquota_release(lease) FROM llmquota_pick('large', 'quiet')") for 1 .. 20;
	sql($node, 'CHECKPOINT');
	$answer = $session->query_safe($_) for @calls;
	crash($node);
	$session->{run}->kill_kill;
	$node->start;
	return $answer;
}

my $pick = "SELECT lease FROM llmquota_pick('large', 'quiet')";
my $no_flush = q{SET llmquota.inject = 'no-flush'};

is(live(call_and_crash('BEGIN', $pick)), 1, 'a pick in an open transaction survives a crash');
is(live(call_and_crash($pick)), 1, 'so does one by itself');
is(live(call_and_crash($no_flush, 'BEGIN', $pick)), 0, 'neither does when its flush is left out: this test can fail');

my %settled = (
	'in an open transaction' => [ ['BEGIN'], 0 ],
	'by itself' => [ [], 0 ],
	'in an open transaction, its flush left out' => [ [ $no_flush, 'BEGIN' ], 1 ],
);
for my $how (sort keys %settled)
{
	my ($before, $lives) = @{ $settled{$how} };
	my $lease = sql($node, $pick);
	my $record = "SELECT llmquota_record('$lease', input_tokens => 3, output_tokens => 4)";

	is(call_and_crash(@$before, $record), '(settled,reported,done,,,)', "$how: a record");
	is(live($lease), $lives, $lives ? "$how: it is lost in a crash" : "$how: it survives a crash");
	maintain_all($node);
	is(sql($node, "SELECT status, input_tokens, output_tokens FROM llmquota.usage WHERE lease = '$lease'"),
		$lives ? '' : 'ok|3|4', "$how: and so with the ledger's row");
}

my $lease = sql($node, "SELECT lease FROM llmquota_pick('large', 'quiet', ttl_ms => 60000)");
my $expires_at = call_and_crash('BEGIN', "SELECT llmquota_renew('$lease', 3600000)");
is(sql($node, "SELECT expires_at FROM llmquota.lease WHERE lease = '$lease'"),
	$expires_at, 'a renewed lease survives a crash');
ends_well('after single calls');

# A crash in the midst of one change: the first of its three records is on disk, the others are not.
sub crash_between_records
{
	my ($point, $sql) = @_;

	$node->psql('postgres', "SET llmquota.inject = '$point'; $sql");
	crash($node);
	$node->start;
	return;
}

# Nobody was told of a grant that a crash cut short. It is no lease, and maintenance takes it back, all of it.
for my $records (1, 2)
{
	my $what = "a crash after record $records of a grant";

	crash_between_records("grant-record:$records", q{SELECT llmquota_pick('haiku', 'half', 10, 20)});
	my ($lease) = youngest();
	is(sql($node, "SELECT org, reserved_input, reserved_output FROM llmquota.lease WHERE lease = '$lease'"),
		'half|10|20', "$what: its slot tells of it");
	isnt(disagreements($node), '', "$what: some meters are charged and some are not");
	agree($node, "$what, the lease apart", $lease);
	is(sql($node, "SELECT status FROM llmquota_record('$lease', 1, 1)"), 'unknown_lease', "$what: it is no lease");
	is(sql($node, "SELECT llmquota_release('$lease')"), 'unknown_lease', "$what: nor can it be released");
	maintain_all($node);
	is(sql($node, "SELECT status FROM llmquota.usage WHERE lease = '$lease'"), 'released', "$what: it is taken back");
	is(live($lease), 0, "$what: it is gone");
	is(in_flight($node), 0, "$what: nothing is in flight");
	agree($node, "$what, in the end");
}

# Settlements that a crash cuts short, and who finishes them. Before the crash the lease is as `before` leaves it, so
# that the settlement is the first one, or replaces one that was rolled back, or comes after expiry.
my $record = q{SELECT llmquota_record('LEASE', input_tokens => 3, output_tokens => 4)};
my $other = q{SELECT llmquota_record('LEASE', input_tokens => 500, output_tokens => 600)};
my $maintain = 'SELECT * FROM llmquota_maintain()';
my %before = (
	'a first record' => '',
	'a record after one that was rolled back' => "BEGIN; $other; ROLLBACK",
	'a late record' => $maintain,
);
my %next = ('maintenance' => [ $maintain, 'ok|3|4' ], 'another record' => [ $other, 'ok|500|600' ]);
for my $before (sort keys %before)
{
	for my $next (sort keys %next)
	{
		for my $records (1, 2)
		{
			my ($sql, $row) = @{ $next{$next} };
			my $what = "$before, cut short after its record $records, then $next";
			my $ttl_ms = $before =~ /late/ ? 1 : 60000;
			my $lease = sql($node, "SELECT lease FROM llmquota_pick('small', 'half', 100, 200, ttl_ms => $ttl_ms)");

			if ($before{$before})
			{
				my $sql = $before{$before} =~ s/LEASE/$lease/r;
				ok(poll(sub { sql($node, $sql); live($lease) == 0 }), "$what: it is as it should be before");
			}
			crash_between_records("settle-record:$records", $record =~ s/LEASE/$lease/r);
			isnt(disagreements($node), '', "$what: some meters are corrected and some are not");
			sql($node, $sql =~ s/LEASE/$lease/r);
			is(sql($node, "SELECT status, input_tokens, output_tokens FROM llmquota.usage WHERE lease = '$lease'"),
				$row, "$what: the ledger has it");
			is(live($lease), 0, "$what: it has ended");
			agree($node, $what);
		}
	}
}
verified($node, 'in the end');
amcheck($node, 'in the end');
$node->stop;
done_testing();
