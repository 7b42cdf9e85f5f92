# What nobody has used for a day goes: meters, names, slots of leases that are in the ledger. What is needed stays, what
# comes again is as new, and callers that meet a retirement on their way notice nothing. In testing builds a day can be a
# quarter of a second.
use strict;
use warnings;
use LlmquotaLoad;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('retire', fixture => 0, conf => [ 'max_prepared_transactions = 2', 'synchronous_commit = off' ]);
sql($node, q{
	INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
	INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
	INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
	INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p'), ('n', 'p');
	INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per) VALUES
		('org', '*', NULL, 'concurrency', 100, NULL),
		('org', 'idle2', '*', 'tokens', 1000000, '1 second'),
		('org', 'yearly', NULL, 'requests', 100, '400 days'),
		('account', '*', NULL, 'concurrency', 1000, NULL)});
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $maintainer = $node->background_psql('postgres', on_error_stop => 0);
ask($maintainer, q{SET llmquota.inject = 'short-day'});
my $maintain = 'SELECT retired FROM llmquota_maintain()';
my $live = '(get_byte(state, 6) & 3) = 1';

sub pick
{
	my ($org, $more) = @_;

	return "SELECT lease FROM llmquota_pick('m', '$org', 1, 1" . ($more // '') . ')';
}

sub use_once
{
	my ($who, @orgs) = @_;

	ask($who, "SELECT llmquota_record(lease, 1, 1) FROM llmquota_pick('m', '$_', 1, 1)") for @orgs;
	return;
}

sub names
{
	return sql($node, qq{SELECT string_agg(name, ' ' ORDER BY name) FROM llmquota.name WHERE kind = 'o' AND $live});
}

sub meters
{
	return sql($node, q{SELECT string_agg(DISTINCT subject, ' ' ORDER BY subject) FROM llmquota.meter_window WHERE scope = 'org'});
}

# A test: maintenance comes to where only these orgs have names and meters.
sub left
{
	my ($names, $meters, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(poll(sub { ask($maintainer, $maintain); names() eq $names && meters() eq $meters }), $what)
	  or diag('left: ' . names() . ' and ' . meters());
	return;
}

# Idle ones go; one whose call is in flight, one whose window is not over, and one in use stay
use_once($session, qw(idle1 idle2 yearly));
my $held = ask($session, pick('held', ', ttl_ms => 3600000'));
left('held yearly', 'held yearly', 'what is idle has gone, what is in flight or counts has not');
is(sql($node, q{SELECT count(*) FROM llmquota.usage WHERE org ~ 'idle'}), 2, 'the ledger keeps its rows');
is(ask($session, "SELECT llmquota_record('$held', 1, 1)"), '(settled,reported,done,,,)', 'the call in flight is recorded');
left('yearly', 'yearly', 'and then goes, too');
is(sql($node, q{SELECT org FROM llmquota.usage ORDER BY recorded_at DESC LIMIT 1}), 'held', 'its row has its name');
ok(poll(sub { ask($maintainer, $maintain); sql($node, "SELECT count(*) FROM llmquota.name WHERE NOT $live AND name <> 'held'") == 0 }),
	'rows of retired names are deleted in the end; the last id of all stays');
is(ask($session, "SELECT llmquota_record('$held')"), '(already_settled,reported,done,,,)', 'a second record is found in the ledger');

# Nothing is retired before its day is over
use_once($session, 'young');
is(sql($node, $maintain), 0, 'on the day itself nothing is retired');
is(names(), 'yearly young', 'and its name is there');

# What comes again, in a backend that remembers it and in one that does not, has counters from nothing, and ids are new
my $ids = "SELECT max(id) FROM llmquota.name";
left('yearly', 'yearly', 'an org goes');
my $last = sql($node, $ids);
use_once($session, 'young');
is(sql($node, "SELECT count(*) FROM llmquota.name WHERE name = 'young' AND id > $last AND $live"), 1, 'it comes again under a new id');
use_once($session, 'young');
is(sql($node, "SELECT count(*) FROM llmquota.name WHERE name = 'young' AND $live"), 1, 'once');
for my $round (1 .. 3)
{
	left('yearly', 'yearly', "round $round: it goes");
	my @leases = map { ask($session, pick('young')) } 1 .. 2;
	is(sql($node, q{SELECT used FROM llmquota.meter_window WHERE subject = 'young' AND metric = 'concurrency'}),
		2, "round $round: one meter counts what two picks charge");
	is(ask($session, "SELECT llmquota_release('$_')"), 'released', "round $round: released") for @leases;
}

# A meter that does nothing but refuse is in use. Undefined when the machine was too slow to tell: then its day was over.
sub refuses_and_stays
{
	sql($node, q{UPDATE llmquota.quota SET amount = 10 WHERE subject = 'refusing'});
	is(ask($session, q{SELECT llmquota_release(lease) FROM llmquota_pick('m', 'refusing', 1, 1)}), 'released', 'an org uses nothing');
	my $used = sql($node, q{UPDATE llmquota.quota SET amount = 0 WHERE subject = 'refusing' RETURNING clock_timestamp()});
	ok(poll(sub { sql($node, "SELECT clock_timestamp() > timestamptz '$used' + interval '0.3 s'") eq 't' }), 'for a day');
	my ($began, $status, $maintained, $ended, $meters) = split /\n/, sql($node, qq{
		SELECT extract(epoch FROM clock_timestamp());
		SELECT status FROM llmquota_pick('m', 'refusing', 1, 1);
		SET llmquota.inject = 'short-day'; $maintain;
		SELECT extract(epoch FROM clock_timestamp());
		SELECT count(*) FROM llmquota.meter_window WHERE subject = 'refusing' AND metric = 'input_tokens' AND refused > 0});
	is($status, 'too_large', 'it is refused');
	return $ended - $began < 0.25 ? $meters : undef;
}

sql($node, q{INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', 'refusing', 'input_tokens', 10, '1 hour')});
my $stays;
ok(poll(sub { defined($stays = refuses_and_stays()) }), 'and maintenance comes');
is($stays, 1, 'its meter stays, and has counted the refusal');
sql($node, q{DELETE FROM llmquota.quota WHERE subject = 'refusing'});
left('yearly', 'yearly', 'it goes when it refuses no more');

# max_subjects bounds what is alive, not what ever was; known ones go on
left('yearly', 'yearly', 'before the bound');
my $names = sql($node, "SELECT count(*) FROM llmquota.name WHERE $live");
sql($node, "UPDATE llmquota.setting SET value = '@{[ $names + 3 ]}' WHERE name = 'max_subjects'");
for my $round (1 .. 3)
{
	use_once($session, map { "bounded$round$_" } 1 .. 3);
	is(sqlstate($node, pick("bounded$round" . 4)), '53400', "round $round: beyond max_subjects a new org is refused");
	like(ask($session, pick("bounded${round}3")), qr/^[-0-9a-f]{36}$/, "round $round: a known one goes on");
	ask($session, "SELECT llmquota_release(lease) FROM llmquota.lease WHERE org ~ 'bounded'");
	left('yearly', 'yearly', "round $round: and when they are idle, there is room again");
}
sql($node, q{UPDATE llmquota.setting SET value = '100000' WHERE name = 'max_subjects'});

# A maintenance that is rolled back has retired all the same, and whatever comes then finds that out
use_once($session, 'undone');
ok(poll(sub {
	ask($maintainer, 'BEGIN');
	ask($maintainer, $maintain);
	ask($maintainer, 'ROLLBACK');
	return names() eq 'yearly';
}), 'retired in a transaction that is rolled back');
is(meters(), 'yearly', 'its meters are gone');
use_once($session, 'undone');
is(names(), 'undone yearly', 'it comes again');
ask($maintainer, 'BEGIN');
ask($maintainer, $maintain);
is($node->psql('postgres', "SET lock_timeout = '20s'; SET llmquota.inject = ''; SELECT llmquota_release(lease) FROM llmquota_pick('m', 'undone', 1, 1)"),
	0, 'picks do not wait for a maintenance in an open transaction');
use_once($session, 'first use meanwhile');
ask($maintainer, 'COMMIT');
left('yearly', 'yearly', 'all go in the end');

# Names of the configuration stay; those of what was deleted go
sql($node, q{DELETE FROM llmquota.model WHERE model = 'n'; INSERT INTO llmquota.model (model, provider) VALUES ('o', 'p')});
ask($session, q{SELECT llmquota_record(lease, 1, 1) FROM llmquota_pick('o', 'yearly', 1, 1)});
sql($node, q{DELETE FROM llmquota.model WHERE model = 'o'});
ok(poll(sub { ask($maintainer, $maintain); sql($node, "SELECT count(*) FROM llmquota.name WHERE name = 'o' AND $live") == 0 }),
	'the name of a deleted model goes');
is(sql($node, "SELECT string_agg(kind::text || name, ' ' ORDER BY name) FROM llmquota.name WHERE kind IN ('p', 'a', 'm') AND $live"),
	'aa mm pp', 'those of the configuration stay');
amcheck($node, 'after all of it');

# Under load: callers that use an org now and then, while everything is retired all the time
sql($node, fixture() =~ s/INSERT INTO llmquota.quota/DELETE FROM llmquota.quota; INSERT INTO llmquota.quota/r);
sql($node, q{UPDATE llmquota.quota SET per = '1 second' WHERE per IS NOT NULL});
my $load = LlmquotaLoad->start($node, clients => 4, orgs => 2000);
ok($load->wait_for_answers(100), 'there is load');
my $retired = 0;
for my $round (1 .. 5)
{
	my $before = $load->answers;

	$retired += ask($maintainer, $maintain);
	sql($node, 'VACUUM llmquota.meter, llmquota.name') if $round == 3;
	ok($load->wait_for_answers($before + 200) && !$load->ended, "picks and records go on, round $round");
}
ok(poll(sub { $retired += ask($maintainer, $maintain); $retired > 50 }), 'orgs are retired under load');
my $known = $load->stop;
is($known->{errors}, '', 'no client has seen an error');
maintain_all($node);
is(LlmquotaLoad::missing($known, $node), '', 'every charge and settlement is there');
is(sql($node, q{
	SELECT scope, subject, used FROM llmquota.meter_window w
	 WHERE metric = 'concurrency' AND used <> (
		SELECT count(*) FROM llmquota.lease l
		 WHERE w.subject IN (CASE w.scope WHEN 'org' THEN l.org WHEN 'key' THEN l.key WHEN 'provider' THEN l.provider ELSE '' END))}),
	'', 'what is in flight is what the leases say');
is(sql($node, q{SELECT count(*) FROM llmquota.usage WHERE org IS NULL OR route IS NULL OR key IS NULL}), 0, 'the ledger has every name');
is(sql($node, "SELECT kind, name FROM llmquota.name WHERE $live GROUP BY 1, 2 HAVING count(*) > 1"), '', 'no name has two ids');
is(sql($node, "SELECT scope, subject, part FROM llmquota.meter WHERE $live GROUP BY 1, 2, 3 HAVING count(*) > 1"), '', 'no subject has two meters');
amcheck($node, 'after the load');

# A crash right after a mark, of the first cell, or of a later one. What is marked is gone, what is not is not, and both
# come again as if nothing had been.
$_->quit for $session, $maintainer;
sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease');
my $dead = q{SELECT (SELECT count(*) FROM llmquota.meter WHERE (get_byte(state, 6) & 4) <> 0)
				  + (SELECT count(*) FROM llmquota.name WHERE (get_byte(state, 6) & 4) <> 0)};
for my $marks (1, 4)
{
	my $what = "a crash after mark $marks";
	my $org = "crash $marks";

	sql($node, qq{SELECT llmquota_release(lease) FROM unnest('{$org,a,b,c}'::text[]) org, llmquota_pick('haiku', org, 1, 1)});
	# until the org is idle, and enough with it
	ok(poll(sub { $node->psql('postgres', "SET llmquota.inject = 'short-day,retire-mark:$marks'; $maintain") == 2 }),
		"$what: maintenance does not come back");
	crash($node);
	$node->start;
	cmp_ok(sql($node, $dead), '>=', $marks, "$what: the marks are there");
	is(sql($node, qq{SELECT status FROM generate_series(1, 2) i, llmquota_pick('haiku', '$org', i, 1)}),
		"granted\ngranted", "$what: the org comes again");
	is(sql($node, qq{SELECT used FROM llmquota.meter_window WHERE scope = 'org' AND subject = '$org' AND model IS NULL AND metric = 'concurrency'}),
		2, "$what: one meter has counted both calls");
	is(sql($node, "SELECT kind, name FROM llmquota.name WHERE $live GROUP BY 1, 2 HAVING count(*) > 1"), '', "$what: no name has two ids");
	is(sql($node, 'SELECT count(llmquota_release(lease)) FROM llmquota.lease'), 2, "$what: both are given back");
	is(sql($node, q{SELECT scope, subject, used FROM llmquota.meter_window WHERE metric = 'concurrency' AND used <> 0}), '', "$what: nothing is in flight");
	verified($node, $what);
	amcheck($node, $what);
}
$node->stop;
done_testing();
