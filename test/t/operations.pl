# doc/operations.md is true: its statements run, everything of llmquota that it names exists, and its Python does what it
# says while the database is there, away, and back.
use strict;
use warnings;
use FindBin;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $page = slurp_file("$FindBin::RealBin/../../doc/operations.md");

sub blocks
{
	my ($language) = @_;
	return $page =~ /^```$language\n(.*?)^```$/msg;
}

# The statements, in order, on a server that has seen some traffic
my $node = new_node('operations');
sql($node, q{INSERT INTO llmquota.route (route, step, model) VALUES ('chat', 1, 'large')});
sql($node, q{SELECT llmquota_record((llmquota_pick('large', 'clinic-7')).lease, 10, 10); SELECT llmquota_pick('small', 'b')});
sql($node, 'SELECT llmquota_maintain()');

my $names = sql($node, q{
	SELECT string_agg(name, ' ') FROM (
		SELECT proname FROM pg_proc WHERE starts_with(proname, 'llmquota_')
		UNION ALL SELECT 'llmquota.' || relname FROM pg_class WHERE relnamespace = 'llmquota'::regnamespace
		UNION ALL SELECT name FROM pg_settings WHERE starts_with(name, 'llmquota.')
		UNION ALL SELECT name FROM llmquota.setting
		UNION ALL SELECT DISTINCT name FROM llmquota_metrics()
		UNION ALL SELECT rolname FROM pg_roles) n (name)});
my %known = map { $_ => 1 } split(/ /, $names), 'llmquota_service', 'llmquota_alert', 'llmquota_line';
my %named = map { $_ => 1 } $page =~ /\b(llmquota[._](?!\*)[a-z_]+|max_leases|max_subjects|unknown_org|arrival_slack)\b/g;
is(join(' ', grep { !$known{$_} } sort keys %named), '', 'everything that the page names exists');

for my $statements (blocks('sql'))
{
	$statements =~ s/^CREATE EXTENSION llmquota;$//m;
	my ($first) = $statements =~ /(\S.{0,70})/ or next;
	# What drops the extension comes in the middle of the page, and is tried on a copy.
	my $database = 'postgres';
	if ($statements =~ /DROP EXTENSION/)
	{
		sql($node, 'CREATE DATABASE dropped');
		$database = 'dropped';
		$node->safe_psql($database, 'CREATE EXTENSION llmquota');
	}
	my ($status, $out, $err) = $node->psql($database, $statements, on_error_stop => 1);
	# Here nothing is there to be upgraded; test/upgrade has what is.
	$err =~ s/^.*NOTICE:  version "\S+" of extension "llmquota" is already installed$//m if $statements =~ /ALTER EXTENSION/;
	is($err, '', "it runs: $first");
}
is($node->safe_psql('dropped', 'SELECT count(*) FROM usage_kept'), 0, 'the ledger is kept when the extension is dropped');

# The clients
sql($node, 'UPDATE llmquota.key SET enabled = true');
my ($program, $follower) = blocks('python');
my $directory = PostgreSQL::Test::Utils::tempdir;
append_to_file("$directory/client.py", $program . <<'PYTHON');


import sys

dbname = sys.argv[1]
emergency = Emergency(2, key="spare")
backlog = Backlog(dbname)
said = {}
for line in sys.stdin:
    command, *arguments = line.split()
    try:
        if command == "end":    # the server may have inherited the other end of our input, which then stays open
            break
        if command == "flush":
            answer = backlog.flush()
        elif command == "record":
            backlog.record(said.pop(arguments[0]), "large", arguments[0], 7, 9)
            answer = len(backlog.waiting)
        else:
            grant = (pick_closed(dbname, arguments[0], arguments[1]) if command == "closed"
                     else pick_open(dbname, arguments[0], arguments[1], emergency))
            said[arguments[1]] = grant
            answer = f"{grant['status']} {'leased' if grant['lease'] else 'unasked'} {grant.get('key')}"
    except psycopg.Error as error:
        answer = f"error {error.sqlstate}"
    print(answer, flush=True)
PYTHON

my ($in, $out, $err) = ('', '', '');
my $timer = IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default);
my $client = IPC::Run::start([ '/usr/bin/python3', "$directory/client.py", $node->connstr('postgres') ],
	'<', \$in, '>', \$out, '2>', \$err, $timer);

# What the clients answer to a command.
sub client
{
	my ($command) = @_;

	$out = '';
	$in .= "$command\n";
	$client->pump until $out =~ /\n/ or !$client->pumpable;
	chomp $out;
	return length $out ? $out : $err;
}

like(client('closed large asked-1'), qr/^granted leased o[12]-[-\d]+$/, 'the database is there: who fails closed asks it');
like(client('open large asked-2'), qr/^granted leased o[12]-[-\d]+$/, 'and so does who fails open');
is(client('open nonsense wrong'), 'error 42704', 'a wrong call is an error');
is(client('record asked-1'), 0, 'a record is said at once');

$node->stop('immediate');
is(client('closed large closed-1'), 'unavailable unasked None', 'the database is away: who fails closed gets nothing');
is(client('open large open-1'), 'granted unasked spare', 'who fails open gets the emergency key');
is(client('open large open-2'), 'granted unasked spare', 'up to its limit');
is(client('open large open-3'), 'unavailable unasked None', 'and not beyond it');
is(client("record asked-2"), 1, 'a record waits');
is(client("record open-1"), 2, 'and one of a call that was made unasked');
is(client("record open-2"), 3, 'and another');

$node->start;
is(client('flush'), 0, 'the database is back: all are said');
is(client('flush'), 0, 'once');
is(sql($node, q{SELECT string_agg(concat_ws(' ', org, status, input_tokens, output_tokens, tags), ', ' ORDER BY org)
				  FROM llmquota.usage WHERE org ~ '^(asked|open|closed)-'}),
	'asked-1 ok 7 9, asked-2 ok 7 9, open-1 ok 7 9 {"outage": true}, open-2 ok 7 9 {"outage": true}',
	'the ledger has every call, and says which were made unasked');
is(sql($node, q{SELECT count(*) FROM llmquota.lease WHERE org ~ '^(asked|open|closed)-'}), 0, 'no lease is left');
$in .= "end\n";
$client->finish;

# Who follows alerts is told of those that came while nobody listened, and of each that comes
append_to_file("$directory/follow.py", $program . $follower . <<'PYTHON');


import sys

follow_alerts(sys.argv[1], lambda raised_at, number, message: print(message, flush=True))
PYTHON
sql($node, q{SELECT llmquota_disable('o1-1', 'before'); SELECT llmquota_maintain()});
my $told = '';
my $following = IPC::Run::start([ '/usr/bin/python3', "$directory/follow.py", $node->connstr('postgres') ],
	'>', \$told, '2>', \$err, $timer);
$following->pump until $told =~ /before/ or !$following->pumpable;
like($told, qr/^key "o1-1" is disabled: before$/m, 'an alert that came before is told');
for my $key (qw(o1-2 o2-1))
{
	sql($node, qq{SELECT llmquota_disable('$key', 'meanwhile'); SELECT llmquota_maintain()});
	$following->pump until $told =~ /$key/ or !$following->pumpable;
}
is($told =~ s/^(?!key "o).*\n//mgr, join('', map { qq{key "$_->[0]" is disabled: $_->[1]\n} } ['o1-1', 'before'], ['o1-2', 'meanwhile'], ['o2-1', 'meanwhile']),
	'and those that come, each once');
$following->kill_kill;

$node->stop;
done_testing();
