# llmquota_schedule() and llmquota_unschedule(), with the real pg_cron, and without it.
use strict;
use warnings;
use LlmquotaTest;
use LlmquotaWorker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

chomp(my $sharedir = qx(pg_config --sharedir));
plan skip_all => 'pg_cron is not installed' if !-e "$sharedir/extension/pg_cron.control";

# What a function answers, in a database.
my $node;
sub answer
{
	my ($database, $function) = @_;

	return in_db($node, $database, "SELECT status, database, command FROM $function()");
}

# Without pg_cron: an error that names the worker
$node = new_worker_node('without', conf => ['llmquota.worker = off']);
new_database($node, 'one');
for my $function (qw(llmquota_schedule llmquota_unschedule))
{
	my ($out, $err);
	$node->psql('one', "\\set VERBOSITY verbose\nSELECT * FROM $function()", stdout => \$out, stderr => \$err);
	like($err, qr/ERROR:  55000: pg_cron is not installed/, "$function() without pg_cron is an error");
	like($err, qr/HINT: .*background worker/, 'that says what does maintenance');
}
$node->stop;

# In pg_cron's own database
$node = new_worker_node('cron',
	conf => [ "shared_preload_libraries = 'pg_cron'", "cron.database_name = 'one'", 'llmquota.worker = off',
		'cron.use_background_workers = on' ]);
new_database($node, 'one');
like(sqlstate_in('one', 'SELECT * FROM llmquota_schedule();'), qr/^55000$/, 'loaded, but not created: an error');
in_db($node, 'one', 'CREATE EXTENSION pg_cron');
is(answer('one', 'llmquota_schedule'), 'scheduled|one|', 'it schedules');
is(answer('one', 'llmquota_schedule'), 'scheduled|one|', 'and again');
is(in_db($node, 'one', 'SELECT count(*), min(schedule), min(command), min(database), bool_and(active) FROM cron.job'),
	'1|* * * * *|SELECT * FROM public.llmquota_maintain()|one|t', 'there is one job, every minute');
is(in_db($node, 'one', q{SELECT jobname = 'llmquota_maintain_' || oid FROM cron.job, pg_database WHERE datname = 'one'}),
	't', 'with a name');

# From another database: what to run, which works
new_database($node, 'two');
my ($status, $database, $command) = split /\|/, answer('two', 'llmquota_schedule');
is("$status $database", 'run_command one', 'from another database: it says where to run what');
in_db($node, $database, $command) for 1 .. 2;
is(in_db($node, 'one', q{SELECT count(*), min(command) FROM cron.job WHERE database = 'two'}),
	'1|SELECT * FROM public.llmquota_maintain()', 'which makes one job for it');

# pg_cron does it, in both
pick_in($node, $_, 1) for qw(one two);
{
	local $PostgreSQL::Test::Utils::timeout_default = 180;
	for my $name (qw(one two))
	{
		ok(poll(sub { in_db($node, $name, q{SELECT count(*) FROM llmquota.usage WHERE status = 'expired'}) == 1 }),
			"$name: the job expires a lease");
	}
}
is(in_db($node, 'one', q{SELECT count(*) FROM cron.job_run_details WHERE status = 'failed'}), 0, 'no run has failed');

# And back
is(answer('one', 'llmquota_unschedule'), 'unscheduled|one|', 'it unschedules');
is(answer('one', 'llmquota_unschedule'), 'not_scheduled|one|', 'once');
($status, $database, $command) = split /\|/, answer('two', 'llmquota_unschedule');
is("$status $database", 'run_command one', 'from another database: it says where to run what');
in_db($node, $database, $command);
is(in_db($node, 'one', 'SELECT count(*) FROM cron.job'), 0, 'no job is left');
$node->stop;
done_testing();

sub sqlstate_in
{
	my ($name, $query) = @_;
	my ($out, $err);

	$node->psql($name, "\\set VERBOSITY sqlstate\n$query", stdout => \$out, stderr => \$err);
	return $err =~ /ERROR:\s+(\w{5})/ ? $1 : "no error: $out $err";
}
