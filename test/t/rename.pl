# Renames under load, and a crash among them: what is renamed keeps what it was charged, whoever calls it how, whatever is
# rolled back, sums of the ledger included.
use strict;
use warnings;
use LlmquotaLoad;
use List::Util qw(shuffle);
use POSIX ();
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('rename', conf => [ 'wal_writer_delay = 10s' ]);
# budgets count what quotas count, so that a rename that forgets them is found
sql($node, q{
	INSERT INTO llmquota.price (model, input, output, currency) SELECT model, 7, 11, CASE model WHEN 'small' THEN 'EUR' ELSE 'USD' END
		FROM llmquota.model;
	INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('EUR', 1.1), ('THB', 0.03);
	INSERT INTO llmquota.budget (scope, subject, model, amount, currency, calendar) VALUES ('org', '*', NULL, 9000000000, 'THB', 'total'),
		('parent', '*', NULL, 9000000000, 'USD', 'total'), ('account', '*', '*', 9000000000, 'EUR', 'total'),
		('key', '*', NULL, 9000000000, 'USD', 'total');
	INSERT INTO llmquota.org (org, parent) VALUES ('clinics', NULL), ('clinic-1', 'clinics'), ('clinic-2', 'clinics');
	SELECT setval('llmquota.config_time', 1)});
my @admins = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 2;
my $maintainer = $node->background_psql('postgres', on_error_stop => 0);
my $renamed = 0;

# Renames something that is there to one of a few names, the first one among them; a third of the time that is rolled back.
sub rename_something
{
	my ($admin) = @_;
	my $kind = (qw(org org account key model))[ rand 5 ];
	my $first = $kind eq 'org' ? 'clinic-' . int rand 4
	  : ask($admin, "SELECT coalesce((SELECT cell FROM llmquota.alias a WHERE kind = '$kind' AND name = t.$kind AND is_current), $kind) FROM llmquota.$kind t ORDER BY random() LIMIT 1");
	my $now = ask($admin, "SELECT coalesce((SELECT name FROM llmquota.alias WHERE kind = '$kind' AND cell = '$first' AND is_current), '$first')");
	my ($new) = grep { $_ ne $now } shuffle($first, map { "$first called $_" } 1 .. 3);
	my $end = rand() < 0.3 ? 'ROLLBACK' : 'COMMIT';

	ask($admin, 'BEGIN');
	my $answer = ask($admin, "SELECT llmquota_rename('$kind', '$now', '$new')");
	ask($admin, $end);
	# nobody else does it here
	ask($admin, 'VACUUM ANALYZE llmquota.alias');
	$renamed++ if $answer eq 'renamed' && $end eq 'COMMIT';
	# another may have been faster
	return $answer =~ /^renamed$|is called .* now/ ? '' : "$kind $now to $new: $answer";
}

# A test: thirty renames and more, and maintenance now and then, until there are so many more answers; without an error.
sub rename_all_the_time
{
	my ($load, $answers, $what) = @_;
	my $errors = '';
	my $renames = 0;

	$answers += $load->answers;
	while ($errors eq '' && ($renames < 30 || $load->answers < $answers) && !$load->ended)
	{
		$errors = rename_something($admins[ rand @admins ]);
		ask($maintainer, 'SELECT FROM llmquota_maintain()') if ++$renames % 10 == 0;
	}
	$errors .= ask($maintainer, 'SELECT * FROM llmquota_verify()');
	is($errors, '', "$what: all renames are done, and verification finds nothing meanwhile");
	return;
}

# Maintains until nothing is left to do: records that were rolled back are many.
sub maintain
{
	poll(sub { sql($node, 'SELECT work_left FROM llmquota_maintain()') eq 'f' }) or die 'maintenance does not end';
	return;
}

# A test: meters are what leases and ledger say, by the names of now; and they are after a rebuild.
sub adds_up
{
	my ($what) = @_;

	sql($node, q{SELECT setval('llmquota.config_time', 1)});
	verified($node, $what);
	agree($node, $what);
	return;
}

my $load = LlmquotaLoad->start($node, clients => 2);
ok($load->wait_for_answers(100), 'there is load');
rename_all_the_time($load, 4000, 'under load');
my $known = $load->stop;
is($known->{errors}, '', 'no client has seen an error');
maintain();
is(LlmquotaLoad::missing($known, $node), '', 'every charge and settlement is there');
cmp_ok($renamed, '>', 5, 'much was renamed');
adds_up('after the load');

# Sums of the ledger while it goes on: a rebuild is never without the calls of what is renamed meanwhile
sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
my $used = q{
	SELECT quota, part_kind, used, count(*)
	  FROM (SELECT quota, part_kind, metric, used FROM llmquota_meter_rows()
			UNION ALL SELECT budget, part_kind, metric, used FROM llmquota_budget_rows()) r
	 WHERE metric <> 'concurrency' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3};
my $before = sql($node, $used);
my $stop = PostgreSQL::Test::Utils::tempdir . '/stop';
my $renamer = fork // die "could not fork: $!";
if ($renamer == 0)
{
	my $errors = '';

	eval {
		my $admin = $node->background_psql('postgres', on_error_stop => 0);
		$errors = rename_something($admin) until $errors ne '' || -e $stop;
		$admin->quit;
		1;
	} or $errors .= $@;
	print STDERR $errors;
	POSIX::_exit($errors ne '');
}
my $found = '';
for my $round (1 .. 3)
{
	ask($maintainer, 'SELECT llmquota_rebuild()');
	my $now = sql($node, $used);
	$found .= "round $round:\n$now\n" if $now ne $before;
}
append_to_file($stop, '');
waitpid $renamer, 0;
is($?, 0, 'things are renamed while all meters are rebuilt');
is($found, '', 'each time every call is found');
adds_up('after the rebuilds');

# A crash among renames: those that were answered are there, the last one wholly or not at all
$load = LlmquotaLoad->start($node, clients => 2, settings => 'SET synchronous_commit = on');
ok($load->wait_for_answers(200), 'there is load again');
rename_all_the_time($load, 1000, 'before the crash');
ok(poll(sub { ask($admins[0], q{SELECT status FROM llmquota_pick('large', 'clinic-9')}) eq 'granted' }), 'an org calls');
is(ask($admins[0], q{SELECT llmquota_rename('org', 'clinic-9', 'answered')}), 'renamed', 'its rename is answered');
crash($node);
$known = $load->finish;
$_->{run}->kill_kill for @admins, $maintainer;
$node->start;
maintain();
is(sql($node, q{SELECT name FROM llmquota.alias WHERE kind = 'org' AND cell = 'clinic-9' AND is_current}), 'answered', 'it is there after a crash');
is(LlmquotaLoad::missing($known, $node), '', 'every acknowledged charge and settlement is there after a crash');
agree($node, 'after the crash');
sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
is(in_flight($node), 0, 'nothing is in flight when all leases are released');
adds_up('in the end');
amcheck($node, 'in the end');
$node->stop;
done_testing();
