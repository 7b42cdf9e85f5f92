# What calls have taught about a model's input tokens is live state: it is there after a restart, a crash and VACUUM
# FULL, in every backend within a second, and on a standby; with the extension it goes. Estimates are the same in every
# encoding.
use strict;
use warnings;
use utf8;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('primary',
	init => { allows_streaming => 1 },
	# nothing is flushed by itself, so a crash shows what was not
	conf => [ 'wal_consistency_checking = all', 'wal_writer_delay = 10s', 'max_connections = 30' ]);
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;

my $prompt = q{repeat('Der Patient wurde mit anhaltendem Husten aufgenommen. ', 20)};
my $plain = sql($node, "SELECT llmquota_estimate_tokens($prompt)");

# A call that had twice the tokens.
my $call = qq{SELECT r.status
	FROM llmquota_pick('large', prompt => $prompt) p, llmquota_record(p.lease, 2 * $plain, 0) r};

sub estimate
{
	my ($where) = @_;

	return sql($where, "SELECT llmquota_estimate_tokens($prompt, 'large')");
}

# A backend that has looked when nothing was known yet, and when there was little, learns of more by itself.
my $session = $node->background_psql('postgres', on_error_stop => 0);
is(ask($session, "SELECT llmquota_estimate_tokens($prompt, 'large')"), $plain, 'nothing is known at first');
sql($node, $call);
isnt(my $little = ask($session, "SELECT llmquota_estimate_tokens($prompt, 'large')"), $plain, 'a call teaches');
is(estimate($node), $little, '... all backends the same');
sql($node, "$call;" x 60);
my $taught = estimate($node);
cmp_ok($taught, '>', 1.8 * $plain, 'calls have taught');
cmp_ok($taught, '<', 2.2 * $plain, '... and not too much');
ok(poll(sub { ask($session, "SELECT llmquota_estimate_tokens($prompt, 'large')") eq $taught }),
	'a backend that knew less learns of it');
is( ask($session, qq{
		SELECT reserved_input FROM llmquota_pick('large', prompt => $prompt) JOIN llmquota.lease USING (lease)}),
	$taught, 'and reserves it');

ok(poll(sub { estimate($standby) eq $taught }), 'a standby estimates the same');
is(sqlstate($standby, "SELECT llmquota_pick('large', prompt => 'Hello')"), '25006', 'and picks nothing');

# What the pick kept of the prompt is there after a restart, and so is what was known.
my $lease = sql($node, "SELECT lease FROM llmquota_pick('large', prompt => $prompt)");
$session->quit;
$node->restart;
is(estimate($node), $taught, 'a restart leaves it');
sql($node, "SELECT FROM llmquota_record('$lease', 100 * $plain, 0)");
cmp_ok(my $more = estimate($node), '>', $taught, 'a call that began before the restart teaches');

# An acknowledged record has taught, whatever happens to the server then.
$lease = sql($node, "SELECT lease FROM llmquota_pick('large', prompt => $prompt)");
sql($node, "SELECT FROM llmquota_record('$lease', 100 * $plain, 0)");
crash($node);
$node->start;
cmp_ok(my $last = estimate($node), '>', $more, 'a crash leaves what an acknowledged record has taught');
ok(poll(sub { estimate($standby) eq $last }), 'the standby has it too');

sql($node, 'VACUUM FULL llmquota.health');
is(estimate($node), $last, 'VACUUM FULL leaves it');

# Backends that teach at the same time: each call counts.
$node->pgbench('-n -c 8 -t 10', 0, [qr{processed: 80/80}], [qr{^$}], 'calls are recorded by several at once',
	{ 'estimate' => $call =~ s/large/small/r . ';' });
is(sql($node, q{
	SELECT get_byte(h.state, 152) FROM llmquota.health h JOIN llmquota.name n ON n.id = h.part
	 WHERE h.kind = 'c' AND n.kind = 'm' AND n.name = 'small'}), 80, 'each has taught');
verified($node, 'after all');

# With the extension goes what it knew, and no backend takes a cell of the new one for an old one.
$session = $node->background_psql('postgres', on_error_stop => 0);
is(ask($session, "SELECT llmquota_estimate_tokens($prompt, 'large')"), $last, 'it is known before');
sql($node, 'DROP EXTENSION llmquota; CREATE EXTENSION llmquota;' . fixture());
is(ask($session, "SELECT llmquota_estimate_tokens($prompt, 'large')"), $plain, 'nothing is known in a new one');
# the names have the same ids again, but the cells are of others
sql($node, q{SELECT llmquota_release(lease) FROM llmquota_pick('large')});
sql($node, $call =~ s/large/small/r);
my $small = sql($node, "SELECT llmquota_estimate_tokens($prompt, 'small')");
is(ask($session, $call), 'settled', 'and calls teach again');
cmp_ok(ask($session, "SELECT llmquota_estimate_tokens($prompt, 'large')"), '>', $plain, '... an old backend too');
is(sql($node, "SELECT llmquota_estimate_tokens($prompt, 'small')"), $small, '... no other model');
is(sql($node, q{SELECT count(*) FROM llmquota.health WHERE kind = 'c'}), 2, '... in cells of their own');
verified($node, 'a new extension');
$session->quit;

# The same text is estimated the same in every encoding; where there is none, it is taken for UTF-8.
my $umlauts = 'Über die Brücke gehen fünf müde Gänse zum Fluß, während es dämmert. ' x 5;
for my $encoding (qw(UTF8 LATIN1 SQL_ASCII))
{
	$node->safe_psql('postgres',
		qq{CREATE DATABASE "d_$encoding" TEMPLATE template0 ENCODING $encoding LC_COLLATE 'C' LC_CTYPE 'C'});
	$node->safe_psql("d_$encoding", 'CREATE EXTENSION llmquota');
}
my ($expected, $latin1, $ascii) = map {
	utf8::encode(my $query = "SET client_encoding = 'UTF8'; SELECT llmquota_estimate_tokens('$umlauts')");
	$node->safe_psql("d_$_", $query)
} qw(UTF8 LATIN1 SQL_ASCII);
cmp_ok($expected, '>', 50, 'a text with umlauts has tokens');
is($latin1, $expected, 'as many in LATIN1');
is($ascii, $expected, 'as many where the database has no encoding');
is( $node->safe_psql('d_SQL_ASCII',
		q{SELECT llmquota_estimate_tokens(repeat(convert_from('\\xfc', 'SQL_ASCII'), 100)) > 0}),
	't', '... and the text is no UTF-8');

$standby->stop;
$node->stop;
done_testing();
