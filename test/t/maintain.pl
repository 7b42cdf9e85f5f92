# Maintenance of the ledger's partitions never blocks a call: not while a reader keeps it from the locks it needs, and
# not while it has them. What cannot be done is done later.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_node('maintain');

# What the DDL of maintenance runs with: how long it may wait for a lock
sql($node, q{
	CREATE TABLE waits (tag text, lock_timeout text);
	CREATE FUNCTION note_wait() RETURNS event_trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.waits VALUES (tg_tag, current_setting('lock_timeout'));
	END $$;
	CREATE EVENT TRIGGER note_wait ON ddl_command_start WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE', 'DROP TABLE')
		EXECUTE FUNCTION note_wait()});
sub waits { return sql($node, q{SELECT DISTINCT tag, lock_timeout FROM waits WHERE lock_timeout <> '0' ORDER BY tag}) }

my $call = q{SELECT r.status FROM llmquota_pick('large', 'clinic') p, llmquota_record(p.lease) r};

sub leaf
{
	my ($days) = @_;

	return sql($node, "SELECT to_char((now() AT TIME ZONE 'UTC')::date + $days, '\"llmquota.usage_\"YYYYMMDD')");
}

sub there
{
	my ($table) = @_;

	return sql($node, "SELECT to_regclass('$table') IS NOT NULL") eq 't';
}

# A drop and a creation are due, and today has no partition: records go to the default one, which has to be locked
sql($node, $call);
is(sql($node, 'SELECT rows_moved, partitions_dropped, work_left FROM llmquota_maintain()'), '1|0|f', 'all is done');
my ($today, $last) = (leaf(0), leaf(7));
sql($node, "DROP TABLE $today; DROP TABLE $last");
my @old = map { "llmquota.usage_2020010$_" } 1 .. 3;
sql($node, "CREATE TABLE llmquota.usage_2020010$_ PARTITION OF llmquota.usage
	FOR VALUES FROM ('2020-01-0$_ 00:00+00') TO ('2020-01-0@{[ $_ + 1 ]} 00:00+00')") for 1 .. 3;

# An analyst's query over the whole ledger stays open
my $analyst = $node->background_psql('postgres');
$analyst->query_safe('BEGIN; SELECT count(*) FROM llmquota.usage');

# Calls go on while maintenance tries. Without a time limit of its own they would hang until the analyst is done
my $caller = $node->background_psql('postgres');
$caller->query_safe('SET statement_timeout = 30000');
my $maintainer = $node->background_psql('postgres');
my $stop = PostgreSQL::Test::Utils::tempdir . '/stop';
my $loop = fork // die "could not fork: $!";
if ($loop == 0)
{
	until (-e $stop) { $node->psql('postgres', 'SELECT * FROM llmquota_maintain()') }
	require POSIX;
	POSIX::_exit(0);
}
my ($slowest, $calls) = (0, 0);
ok( poll(
		sub {
			my $began = time;
			$caller->query_safe($call) eq 'settled' or return 0;
			$slowest = time - $began if time - $began > $slowest;
			return ++$calls >= 300;
		}),
	'300 calls are answered while a reader keeps maintenance from its locks');
note(sprintf 'the slowest took %.1f ms', $slowest * 1000);
append_to_file($stop, '');
waitpid $loop, 0;
ok(!there($today) && !there($last), 'no partition has been made meanwhile');
ok(there($_), "$_ is still there") for @old;
is(sql($node, 'SELECT rows_moved, partitions_created, partitions_dropped, work_left FROM llmquota_maintain()'),
	'0|0|0|t', 'maintenance gives up, and says that there is work');

# The reader is done
$analyst->query_safe('COMMIT');
is( sql($node, 'SELECT rows_moved > 0, partitions_created, partitions_dropped, work_left FROM llmquota_maintain()'),
	't|1|1|t', 'when the reader is done all is done but to drop more than one partition');
ok(there($today) && there($last), 'the missing days are there');
is(sql($node, 'SELECT count(*) FROM llmquota.usage_default'), 0, 'the default partition is empty');
ok(!there($old[0]) && there($old[1]), 'the oldest day is gone');
sql($node, 'SELECT * FROM llmquota_maintain()') for 1 .. 2;
ok(!there($old[2]), 'and then the others');
is(waits(), "ALTER TABLE|50ms\nCREATE TABLE|50ms\nDROP TABLE|50ms", 'all of this waits 50 ms for a lock at most');
sql($node, 'DROP EVENT TRIGGER note_wait');
is(sql($node, 'SELECT work_left FROM llmquota_maintain()'), 'f', 'nothing is left to do');
is(sql($node, 'SELECT count(*) FROM llmquota.usage'), $calls, 'the ledger has a row for every call since');

# A partition is kept while it may have a call that is as old as the retention. Undefined when the UTC day has changed
sub kept_and_dropped
{
	my $days = sql($node, q{SELECT value FROM llmquota.setting WHERE name = 'usage_retention'});
	my @days = map { leaf(-$days - $_) } 0, 1;

	sql($node, "CREATE TABLE $days[$_] PARTITION OF llmquota.usage FOR VALUES
		FROM (to_timestamp('$days[$_]', '\"llmquota.usage_\"YYYYMMDD')) TO (to_timestamp('$days[$_]', '\"llmquota.usage_\"YYYYMMDD') + interval '1 day')")
	  for 0, 1;
	maintain_all($node);
	my $kept = join ' ', map { there($_) ? 'kept' : 'dropped' } @days;
	sql($node, "DROP TABLE IF EXISTS $days[0], $days[1]");
	return leaf(-$days) eq $days[0] ? $kept : undef;
}

sql($node, q{ALTER DATABASE postgres SET timezone = 'UTC'});
my $kept;
ok(poll(sub { defined($kept = kept_and_dropped()) }), 'on one day');
is($kept, 'kept dropped', 'the day of the retention is kept, the one before it goes');

# A row that comes to the default partition while the others are moving is moved with them
sql($node, qq{
	DROP TABLE $today;
	CREATE SEQUENCE coming;
	CREATE FUNCTION come() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		INSERT INTO llmquota.usage_default (lease, picked_at, recorded_at, org, recorded_in)
		SELECT gen_random_uuid(), now(), now(), 'meanwhile', 0 WHERE nextval('public.coming') = 1;
		RETURN NULL;
	END \$\$;
	CREATE TRIGGER come AFTER DELETE ON llmquota.usage_default EXECUTE FUNCTION come()});
is(sql($node, $call), 'settled', 'a call without a partition');
is(sql($node, 'SELECT rows_moved FROM llmquota_maintain()'), 2, 'its row moves, and one that came meanwhile');
is(sql($node, "SELECT count(*) FROM $today"), 2, 'both are in the partition');
sql($node, 'DROP FUNCTION come() CASCADE');

# Two at a time: the second does nothing
$maintainer->query_safe('BEGIN; SELECT * FROM llmquota_maintain()');
my $expired = sql($node, q{SELECT lease FROM llmquota_pick('large', 'expired', ttl_ms => 1)});
is(sql($node, 'SELECT expired FROM llmquota_maintain()'), 0, 'a second call meanwhile does nothing') for 1 .. 3;
is(sql($node, "SELECT expires_at < now() FROM llmquota.lease WHERE lease = '$expired'"), 't', 'though a lease has expired');
$maintainer->query_safe('COMMIT');
is(sql($node, 'SELECT expired FROM llmquota_maintain()'), 1, 'later it does');

# A step that fails takes no other with it
sql($node, "DROP TABLE $last; CREATE VIEW $last AS SELECT 1 AS a");
sql($node, "CREATE TABLE llmquota.usage_20200101 PARTITION OF llmquota.usage
	FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00'); CREATE VIEW old AS TABLE llmquota.usage_20200101");
sql($node, q{SELECT llmquota_pick('large', 'expired', ttl_ms => 1)});
my ($out, $err) = ('', '');
ok( poll(
		sub {
			$node->psql('postgres', 'SELECT expired, partitions_dropped IS NULL FROM llmquota_maintain()',
				stdout => \$out, stderr => \$err);
			return $out eq '1|t';
		}),
	'a partition that something depends on is not dropped, and leases expire');
like($err, qr/WARNING:  a step of maintenance failed: cannot drop table/, 'a warning says why');
$_->quit for $analyst, $caller, $maintainer;
is(in_flight($node), 0, 'nothing is in flight at the end');
$node->stop;
done_testing();
