# What tests of the background worker share: a cluster in which it works, and what can be seen of it.
package LlmquotaWorker;

use strict;
use warnings;
use Exporter 'import';
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(new_worker_node new_database in_db pick_in status sleepers rounds_running has_round set_worker);

# A cluster without databases of the test's own. Options: as of new_node.
sub new_worker_node
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%{ $options{init} // {} });
	$node->append_conf('postgresql.conf', join "\n", 'autovacuum = off', 'log_statement = none',
		'restart_after_crash = on', 'llmquota.worker = on', @{ $options{conf} // [] });
	$node->start;
	return $node;
}

sub in_db
{
	my ($node, $database, $sql) = @_;

	return $node->safe_psql($database, $sql);
}

# A database with the extension and one key. No lease yet.
sub new_database
{
	my ($node, $database) = @_;

	in_db($node, 'postgres', "CREATE DATABASE $database");
	in_db($node, $database, q{
		CREATE EXTENSION llmquota;
		INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
		INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
		INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
		INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
		INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', '*', 'concurrency', 10)});
	return;
}

# A pick that nobody records: its lease.
sub pick_in
{
	my ($node, $database, $ttl_ms) = @_;

	return in_db($node, $database, "SELECT lease FROM llmquota_pick('m', 'clinic', ttl_ms => $ttl_ms)");
}

# A column of worker_status.
sub status
{
	my ($node, $database, $column) = @_;

	return in_db($node, $database, "SELECT $column FROM llmquota.worker_status");
}

# The processes that wait, and those that are at work.
sub sleepers
{
	my ($node) = @_;

	return in_db($node, 'postgres',
		q{SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE backend_type = 'llmquota worker'});
}

sub rounds_running
{
	my ($node) = @_;

	return in_db($node, 'postgres',
		q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'llmquota maintenance'});
}

# Waits until a round has ended in the database.
sub has_round
{
	my ($node, $database) = @_;

	return poll(sub { status($node, $database, 'rounds') > 0 });
}

sub set_worker
{
	my ($node, $value) = @_;

	in_db($node, 'postgres', "ALTER SYSTEM SET llmquota.worker = $value");
	in_db($node, 'postgres', 'SELECT pg_reload_conf()');
	return;
}

1;
