# What TAP tests of live state share: a cluster with a configuration that limits every scope, a crash, and the question
# whether meters, leases and ledger agree.
package LlmquotaTest;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT =
  qw(sql maintain_all new_node fixture crash poll in_flight disagreements agree verified unsound amcheck state_of backend_pid
  ask sqlstate);

# What SQL answers; it must succeed.
sub sql
{
	my ($node, $sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Maintenance until nothing is left: a call of it ends when its time is over, however much there is to do.
sub maintain_all
{
	my ($node) = @_;

	poll(sub { sql($node, 'SELECT work_left FROM llmquota_maintain()') eq 'f' }) or die 'maintenance comes to no end';
	return;
}

# Seven meters to a pick, so three records of WAL: everything; the provider; the account, and its models by themselves;
# the key; the org, and its models by themselves. Windows are an hour long: nothing leaves them during a test. Nor do
# calls that time out by chance open a breaker.
sub fixture
{
	return q{
	INSERT INTO llmquota.provider (provider, adapter, breaker_failures, breaker_min_calls) VALUES
		('openai', 'openai', 1000000, 1000000), ('anthropic', 'anthropic', 1000000, 1000000);
	INSERT INTO llmquota.account (account, provider) VALUES ('o1', 'openai'), ('o2', 'openai'), ('a1', 'anthropic');
	INSERT INTO llmquota.key (key, account)
		SELECT a.account || '-' || i, a.account FROM llmquota.account a, generate_series(1, 2) i;
	INSERT INTO llmquota.model (model, provider) VALUES
		('large', 'openai'), ('small', 'openai'), ('haiku', 'anthropic');
	INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per) VALUES
		('global', '', NULL, 'concurrency', 1000000, NULL),
		('global', '', NULL, 'requests', 1000000000, '1 hour'),
		('provider', '*', NULL, 'concurrency', 1000000, NULL),
		('account', '*', NULL, 'requests', 1000000000, '1 hour'),
		('account', '*', '*', 'tokens', 1000000000000, '1 hour'),
		('account', '*', '*', 'input_tokens', 1000000000000, '1 hour'),
		('key', '*', NULL, 'concurrency', 1000000, NULL),
		('org', '*', NULL, 'concurrency', 1000000, NULL),
		('org', '*', NULL, 'requests', 1000000000, '1 hour'),
		('org', '*', '*', 'output_tokens', 1000000000000, '1 hour');};
}

# A running cluster with the extension. conf: lines for postgresql.conf; init: arguments of init(); fixture: 0 to leave
# the configuration out.
sub new_node
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%{ $options{init} // {} });
	$node->append_conf('postgresql.conf', join "\n", 'autovacuum = off', 'log_statement = none',
		@{ $options{conf} // [] });
	$node->start;
	sql($node, 'CREATE EXTENSION llmquota; CREATE EXTENSION amcheck');
	# it has had its configuration for long: llmquota_verify() is strict then
	sql($node, fixture() . q{SELECT setval('llmquota.config_time', 1)}) if $options{fixture} // 1;
	return $node;
}

# Waits until the condition holds; false if it does not within the time that all tests allow.
sub poll
{
	my ($condition) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;

	while (time < $end)
	{
		return 1 if $condition->();
		usleep(2_000);
	}
	return 0;
}

# Has the process ended? A zombie has.
sub is_gone
{
	my ($pid) = @_;

	open my $status, '<', "/proc/$pid/stat" or return 1;
	my $line = <$status> // return 1;
	return $line =~ /\) [ZX] /;
}

# kill -9 of the postmaster and all its children, as a crash. Stopped first, so that it starts no new ones meanwhile; it
# may also be ending by itself because one of them crashed. Some containers are slow to collect zombies, which
# PostgreSQL takes for alive: so its lock files go, once all are dead.
sub crash
{
	my ($node) = @_;
	my $postmaster = $node->{_pid};

	kill 'STOP', $postmaster;
	chomp(my @children = qx(ps -o pid= --ppid $postmaster));
	my @pids = ($postmaster, map { s/\s//gr } @children);
	kill 'KILL', @pids;
	$node->{_pid} = undef;
	poll(sub { !grep { !is_gone($_) } @pids }) or die 'the server outlives kill -9';
	unlink $node->data_dir . '/postmaster.pid', $node->host . '/.s.PGSQL.' . $node->port . '.lock';
	return;
}

# How many concurrency windows say that something is in flight.
sub in_flight
{
	my ($node) = @_;

	return sql($node, q{SELECT count(*) FROM llmquota.meter_window WHERE metric = 'concurrency' AND used <> 0});
}

# What differs between meters on one side, leases and ledger on the other; '' when they agree. A lease in @doubtful may
# count or not: it was being granted when the server crashed, and its slot says which meters it had charged by then.
sub disagreements
{
	my ($node, @doubtful) = @_;
	my $doubtful = join ',', map { "'$_'" } @doubtful, '00000000-0000-0000-0000-000000000000';

	return sql($node, qq{
	WITH call AS (
		SELECT lease, org, provider, account, key, model, 1 AS in_flight, 1 AS requests,
			   reserved_input AS input, reserved_output AS output
		  FROM llmquota.lease
		UNION ALL
		SELECT lease, org, provider, account, key, model, 0, CASE WHEN status = 'released' THEN 0 ELSE 1 END,
			   CASE WHEN status = 'released' THEN 0 WHEN input_tokens IS NOT NULL THEN input_tokens
					WHEN status = 'error' AND http_status IS NOT NULL THEN 0 ELSE reserved_input END,
			   CASE WHEN status = 'released' THEN 0 WHEN output_tokens IS NOT NULL THEN output_tokens
					WHEN status = 'error' AND http_status IS NOT NULL THEN 0 ELSE reserved_output END
		  FROM llmquota.usage_current
	), counted AS (
		SELECT q.id AS quota, q.scope, q.metric,
			   CASE q.scope WHEN 'global' THEN '' WHEN 'provider' THEN c.provider WHEN 'account' THEN c.account
							WHEN 'key' THEN c.key ELSE c.org END AS subject,
			   CASE WHEN q.model IS NULL THEN '' ELSE c.model END AS model,
			   c.lease NOT IN ($doubtful) AS certain,
			   CASE q.metric WHEN 'concurrency' THEN in_flight WHEN 'requests' THEN requests
							 WHEN 'input_tokens' THEN input WHEN 'output_tokens' THEN output
							 ELSE input + output END AS use
		  FROM llmquota.quota q CROSS JOIN call c
	), expected AS (
		SELECT quota, scope, metric, subject, model,
			   coalesce(sum(use) FILTER (WHERE certain), 0) AS least, sum(use) AS most
		  FROM counted
		 GROUP BY quota, scope, metric, subject, model
	)
	SELECT coalesce(e.scope, w.scope), coalesce(e.subject, w.subject), coalesce(e.model, w.model),
		   coalesce(e.metric, w.metric), 'used', w.used, 'expected', e.least, e.most
	  FROM expected e
	  FULL JOIN llmquota.meter_window w
		ON w.quota = e.quota AND w.subject = e.subject AND coalesce(w.model, '') = e.model
	 WHERE (w.used BETWEEN e.least AND e.most) IS NOT TRUE
	   AND NOT (e.most IS NULL AND w.used = 0) AND NOT (w.used IS NULL AND e.least = 0)
	 ORDER BY 1, 2, 3, 4});
}

# A test: meters, leases and ledger agree.
sub agree
{
	my ($node, $what, @doubtful) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(disagreements($node, @doubtful), '', "$what: meters agree with leases and ledger");
}

# A test: llmquota_verify() finds nothing.
sub verified
{
	my ($node, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sql($node, 'SELECT * FROM llmquota_verify()'), '', "$what: llmquota_verify() finds nothing");
}

# What pg_amcheck finds wrong with heap and indexes of every table, each entry of the heap among them; '' if nothing.
sub unsound
{
	my ($node) = @_;
	my ($out, $err) = ('', '');
	my @command = ('pg_amcheck', '--heapallindexed', '-h', $node->host, '-p', $node->port, '-d', 'postgres');

	my $ok = IPC::Run::run(\@command, '>', \$out, '2>', \$err);
	return $ok || $out . $err ne '' ? $out . $err : 'pg_amcheck failed';
}

# A test: heap and indexes of every table are sound, and the indexes have everything.
sub amcheck
{
	my ($node, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(unsound($node), '', "$what: pg_amcheck finds nothing");
}

# What pg_stat_activity says of a backend, for polling.
sub state_of
{
	my ($node, $pid) = @_;

	return sql($node,
		"SELECT concat_ws(' ', state, wait_event_type, wait_event) FROM pg_stat_activity WHERE pid = $pid");
}

sub backend_pid
{
	my ($session) = @_;

	return $session->query_safe('SELECT pg_backend_pid()');
}

# Runs a query in a background session that goes on after errors: its output, or the error's text.
sub ask
{
	my ($session, $query) = @_;

	$session->{stderr} = '';
	my ($out, $failed) = $session->query($query);
	my $message = $session->{stderr};
	$session->{stderr} = '';
	return $failed ? $message : $out;
}

# The SQLSTATE of the error that a query raises, with no arguments: of psql()'s standard error.
sub sqlstate
{
	my ($node, $query) = @_;
	my ($out, $err);

	$node->psql('postgres', "\\set VERBOSITY sqlstate\n$query", stdout => \$out, stderr => \$err);
	return $err =~ /ERROR:\s+(\w{5})/ ? $1 : "no error: $out $err";
}

1;
