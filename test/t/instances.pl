# Four instances and two kill -9 of the server, one conversation: nothing is lost, and nothing is asked twice.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use JSON::PP;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('instances', fixture => 0, conf => ['max_connections = 40']);
my $directory = PostgreSQL::Test::Utils::tempdir();
my ($out, $err) = ('', '');

sql($node, q{
	INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
	INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
	INSERT INTO llmquota.key (key, account) VALUES ('k1', 'a'), ('k2', 'a');
	INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
	INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'requests', 1000000000, '1 hour');
	INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('key', '*', 'concurrency', 1000);
	INSERT INTO llmquota.route_option (route, strategy) VALUES ('m', 'sticky');
	UPDATE llmquota.setting SET value = '100000000' WHERE name = 'max_conversation_bytes'});

my $run = IPC::Run::start([ 'python3', '-B', "$FindBin::RealBin/instances.py", $node->connstr('postgres'), $directory ],
	'>', \$out, '2>', \$err);

# How many answers the conversation has.
sub answers
{
	return sql($node, q{SELECT coalesce(jsonb_array_length(state -> 'answers'), 0)
		FROM llmquota_session_get('clinic', 'whatsapp', '+49 151 1234567')});
}

# There have been so many more by now.
sub more_answers
{
	my ($more, $what) = @_;
	my $enough = answers() + $more;

	return ok(poll(sub { answers() >= $enough }), $what);
}

for my $time ('once', 'again')
{
	more_answers(40, "the conversation goes on, and the server is killed $time");
	crash($node);
	$node->start;
}
more_answers(40, 'the conversation goes on after that');
append_to_file("$directory/enough", '');
IPC::Run::finish($run);
is($err, '', 'all instances have come to their end');
my $told = decode_json($out || '{}');

cmp_ok($told->{messages}, '>=', 120, 'there were messages');
cmp_ok($told->{conflicts}, '>', 0, '... and instances that came second');
note("$told->{messages} messages, $told->{conflicts} conflicts, $told->{lost_grants} grants that nobody was told of");
is_deeply($told->{$_}, [], $_ =~ s/_/ /gr . ': none') for sort grep { ref $told->{$_} } keys %$told;
is(scalar(grep { ref $told->{$_} } keys %$told), 10, 'ten questions were asked');
is(sql($node, q{SELECT count(DISTINCT session) || ' ' || bool_and(session = llmquota_session_id('whatsapp', '+49 151 1234567')) FROM llmquota.usage WHERE status = 'ok'}),
	'1 true', 'the ledger calls the conversation by one name');
is(sql($node, q{SELECT count(DISTINCT key) FROM llmquota.usage WHERE status = 'ok'}), 1, '... and it has stayed with one key');
maintain_all($node);
verified($node, 'four instances and two crashes');
amcheck($node, 'four instances and two crashes');
done_testing();
