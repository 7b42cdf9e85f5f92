# Conversations under load, after a crash, on a standby, in a dump, and for as long as the worker lets them be. (What the
# calls answer is in test/sql/conversation.sql; four instances of an application are in test/t/instances.pl.)
use strict;
use warnings;
use LlmquotaTest;
use LlmquotaWorker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('conversation', fixture => 0, init => { allows_streaming => 1 }, conf => ['max_connections = 50']);

sub pgbench
{
	my ($script, $transactions, $what) = @_;
	my $file = $node->basedir . '/script.sql';

	unlink $file;
	append_to_file($file, $script);
	return $node->command_ok([
			'pgbench', '-n', '-c', 32, '-t', $transactions, '-f', $file, '-h', $node->host, '-p', $node->port, 'postgres' ], $what);
}

# 32 clients make the same conversations at once, and then each its change to one that all have.
sub test_many_clients
{
	sql($node, 'CREATE UNLOGGED TABLE told (what text, status text, version int)');
	pgbench(q{\set u random(1, 100)
		INSERT INTO told SELECT 'first ' || :u, p.status, p.version FROM llmquota_session_put('clinic', 'sms', 'user ' || :u, '0', version => 0) p;},
		100, '32 clients begin the same conversations');
	is(sql($node, q{SELECT count(*) - count(DISTINCT what) FROM told WHERE status = 'stored'}), 0, 'each is begun once');
	is(sql($node, q{SELECT string_agg(DISTINCT format('%s %s', status, version), ', ') FROM told}), 'conflict 1, stored 1',
		'... and whoever is not the first is told of the other');

	pgbench(q{WITH got AS MATERIALIZED (SELECT version, state FROM llmquota_session_get('clinic', 'sms', 'all'))
		INSERT INTO told SELECT 'count', p.status, p.version FROM got,
			llmquota_session_put('clinic', 'sms', 'all', to_jsonb(coalesce((state #>> '{}')::int, 0) + 1), version => got.version) p;},
		100, '32 clients count in one conversation');
	is(sql($node, q{SELECT count(*) FROM told WHERE what = 'count'}), 3200, 'all of them are answered');
	is(sql($node, q{SELECT (g.state #>> '{}')::int - (SELECT count(*) FROM told WHERE what = 'count' AND status = 'stored')
			FROM llmquota_session_get('clinic', 'sms', 'all') g}), 0, '... and what was stored is counted, once');
	is(sql($node, q{SELECT count(*) - count(DISTINCT version) FROM told WHERE what = 'count' AND status = 'stored'}), 0,
		'no version was stored twice');
	verified($node, 'many clients');
	return;
}

# Versions replace one another where they are, with nobody to vacuum: neither the table nor its index grows.
sub test_in_place
{
	my $put = q{\set u random(1, 500)
		SELECT llmquota_session_put('clinic', 'place', :u::text, to_jsonb(repeat('x', 300 + :u)));};
	my $sizes = q{SELECT pg_relation_size('llmquota.conversation') || ' ' || pg_relation_size('llmquota.conversation_pkey')};

	pgbench($put, 200, '32 clients put 500 conversations');
	my ($table_before, $index_before) = split / /, sql($node, $sizes);
	pgbench($put, 600, '... and go on');
	my ($table, $index) = split / /, sql($node, $sizes);
	cmp_ok($table, '<=', 1.5 * $table_before, 'the table does not grow with them');
	cmp_ok($index, '<=', 1.5 * $index_before, '... nor does its index');
	return;
}

# What has been answered outlives kill -9; what has not been committed does not.
sub test_crash
{
	my $other = $node->background_psql('postgres');

	sql($node, q{SELECT count(*) FROM generate_series(1, 50) n, llmquota_session_put('clinic', 'crash', n::text, to_jsonb(n))});
	$other->query_safe(q{BEGIN; SELECT status FROM llmquota_session_put('clinic', 'crash', '1', '"open"')});
	sql($node, q{SELECT status FROM llmquota_session_put('clinic', 'crash', '2', '"last"', version => 1)});
	crash($node);
	$node->start;
	is(sql($node, q{SELECT count(*), sum((state #>> '{}')::int) FROM generate_series(3, 50) n, llmquota_session_get('clinic', 'crash', n::text)}),
		'48|1272', 'conversations outlive a crash');
	is(sql($node, q{SELECT version, state FROM llmquota_session_get('clinic', 'crash', '2')}), '2|"last"', '... with the last version');
	is(sql($node, q{SELECT version, state FROM llmquota_session_get('clinic', 'crash', '1')}), '1|1', '... that was committed');
	is(sql($node, q{SELECT value >= (SELECT count(*) FROM llmquota.conversation) AND value <= (SELECT count(*) FROM llmquota.conversation) + 40
		FROM llmquota_metrics() WHERE name = 'llmquota_conversations'}), 't', 'none is forgotten in their number');
	verified($node, 'a crash');
	eval { $other->quit };
	return;
}

# A standby shows conversations, and puts their end off for nobody; a dump has them.
sub test_copies
{
	my $standby = PostgreSQL::Test::Cluster->new('conversation_standby');
	my $dump = $node->basedir . '/dump.sql';

	sql($node, q{SELECT llmquota_session_put('clinic', 'copy', 'u', '{"step": 3}', 3600000);
		UPDATE llmquota.conversation SET expires_at = clock_timestamp() + interval '20 min' WHERE channel = 'copy'});
	$node->backup('base');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;
	sql($node, q{SELECT llmquota_session_put('clinic', 'copy', 'v', '"later"')});
	$node->wait_for_catchup($standby);
	is(sql($standby, q{SELECT status, version, state, expires_at < clock_timestamp() + interval '21 min' FROM llmquota_session_get('clinic', 'copy', 'u')}),
		'found|1|{"step": 3}|t', 'a standby shows a conversation');
	is(sql($standby, q{SELECT state FROM llmquota_session_get('clinic', 'copy', 'v')}), '"later"', '... and what is new');
	is(sqlstate($standby, "SELECT $_"), '25006', "it refuses $_")
	  for q{llmquota_session_put('clinic', 'copy', 'u', '1')}, q{llmquota_session_drop('clinic', 'copy', 'u')};
	$standby->stop;

	$node->command_ok([ 'pg_dump', '-h', $node->host, '-p', $node->port, '-f', $dump, 'postgres' ], 'the database is dumped');
	sql($node, 'CREATE DATABASE restored');
	$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-h', $node->host, '-p', $node->port, '-d', 'restored', '-f', $dump ],
		'... and restored');
	is($node->safe_psql('restored', q{SELECT version, state FROM llmquota_session_get('clinic', 'copy', 'u')}), '1|{"step": 3}',
		'a conversation goes on there');
	is($node->safe_psql('restored', q{SELECT status, version FROM llmquota_session_put('clinic', 'copy', 'u', '4', version => 1)}), 'stored|2',
		'... with its version');
	$node->safe_psql('restored', 'SELECT FROM llmquota_maintain()');
	is($node->safe_psql('restored', q{SELECT value - (SELECT count(*) FROM llmquota.conversation) FROM llmquota_metrics() WHERE name = 'llmquota_conversations'}),
		0, '... and all are counted');
	sql($node, 'DROP DATABASE restored');
	return;
}

# A table that maintenance goes through in many steps: what has expired goes, unless somebody has it, and what is left is
# counted. Then as much comes again, and takes the same places.
sub test_pruning
{
	my $sizes = q{SELECT pg_relation_size('llmquota.conversation') || ' ' || pg_relation_size('llmquota.conversation_pkey')};
	my $more = q{SELECT count(*) FROM generate_series(1, 20000) n,
		llmquota_session_put('clinic', 'prune', md5(n || '%s'), to_jsonb(repeat('x', 300)), CASE WHEN n %% 10 = 0 AND '%1$s' = 'a' THEN 86400000 ELSE 1 END)};
	my $at_once = q{UPDATE llmquota.pruning SET due = '-infinity'};
	my $expired = q{SELECT count(*) FROM llmquota.conversation WHERE expires_at <= clock_timestamp()};
	my $other = $node->background_psql('postgres');
	my $step = q{SELECT work_left FROM llmquota_prune('conversation', 'expires_at', 'conversation_count', '-infinity')};
	my $steps = 1;

	maintain_all($node);
	sql($node, sprintf $more, 'a');
	sql($node, $at_once);
	$other->query_safe(q{BEGIN; SELECT FROM llmquota.conversation WHERE user_id = md5('1a') FOR UPDATE});
	is(sql($node, q{SELECT pruned > 0 AND work_left FROM llmquota_prune('conversation', 'expires_at', 'conversation_count', '-infinity')}), 't',
		'a deadline that is past ends a step that has done something');
	is(sql($node, q{SELECT next_block > 0 FROM llmquota.pruning WHERE relation = 'conversation'}), 't', '... and the next knows where to go on');
	cmp_ok(sql($node, $expired), '>', 1, '... with what is left');
	$steps++ while sql($node, $step) eq 't';
	cmp_ok($steps, '>', 3, 'there were some steps');
	is(sql($node, q{SELECT count(*) || ' ' || bool_and(user_id = md5('1a')) FROM llmquota.conversation WHERE expires_at <= clock_timestamp()}), '1 true',
		'all that have expired are gone, but for one that somebody has locked');
	is(sql($node, q{SELECT count(*) FROM llmquota.conversation WHERE channel = 'prune'}), 2001, '... and no others');
	is(sql($node, q{SELECT value - (SELECT count(*) FROM llmquota.conversation) FROM llmquota_metrics() WHERE name = 'llmquota_conversations'}),
		0, 'what is there is counted');
	is(sql($node, q{SELECT pruned = 0 AND NOT work_left AND due > clock_timestamp() FROM llmquota_prune('conversation', 'expires_at', 'conversation_count', 'infinity')}),
		't', 'a large table is not gone through again at once');
	$other->query_safe('ROLLBACK');
	$other->quit;
	sql($node, $at_once);
	maintain_all($node);
	is(sql($node, $expired), 0, 'the one that was locked goes in the next pass');

	sql($node, 'VACUUM llmquota.conversation');
	my $before = sql($node, $sizes);
	for my $time (1 .. 3)
	{
		sql($node, sprintf $more, $time);
		sql($node, $at_once);
		maintain_all($node);
		sql($node, 'VACUUM llmquota.conversation');
	}
	is(sql($node, q{SELECT count(*) FROM llmquota.conversation WHERE channel = 'prune'}), 2000, 'as many come again, and go');
	my ($table, $index) = split / /, sql($node, $sizes);
	my ($table_before, $index_before) = split / /, $before;
	cmp_ok($table, '<=', 1.15 * $table_before, 'the table has not grown');
	cmp_ok($index, '<=', 1.5 * $index_before, '... nor has its index, but for what pages have free');
	verified($node, 'pruning');
	amcheck($node, 'pruning');
	return;
}

# In a database that never had a lease the worker is there for conversations.
sub test_worker
{
	my $server = new_worker_node('conversation_worker');

	new_database($server, 'talk');
	in_db($server, 'talk', q{SELECT llmquota_session_put('clinic', 'sms', 'short', '1', 1000), llmquota_session_put('clinic', 'sms', 'long', '1')});
	ok(has_round($server, 'talk'), 'the first conversation starts the worker');
	ok(poll(sub { in_db($server, 'talk', q{SELECT string_agg(user_id, ' ') FROM llmquota.conversation}) eq 'long' }),
		'it prunes one that has expired');
	is(in_db($server, 'talk', q{SELECT last_error FROM llmquota.worker_status}), '', '... without an error');
	$server->stop;
	return;
}

test_many_clients();
test_in_place();
test_crash();
test_copies();
test_pruning();
test_worker();
done_testing();
