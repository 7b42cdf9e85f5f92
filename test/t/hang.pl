# Nobody waits for ever: 32 clients pick, record, release, renew, forget and roll back on the same meters while leases
# expire and are reclaimed, and every one of them gets on (hang.py has the watchdog); also with several cells to a page.
# LLMQ_HANG_SECONDS says for how long each of the two; without it, a minute in all.
use strict;
use warnings;
use FindBin;
use JSON::PP;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{LLMQ_HANG_SECONDS} // 30;
my $node = new_node('hang');

# On top of the common fixture: by model at every scope, so that a pick locks eleven cells; limits that refuse; routes over
# all providers; orgs with accounts of their own; and few slots, which are soon taken again.
$node->safe_psql('postgres', q{
	INSERT INTO llmquota.model (model, provider) VALUES ('other', 'anthropic');
	INSERT INTO llmquota.route (route, step, model) VALUES ('any', 1, 'haiku'), ('any', 2, 'large'), ('any', 3, 'small');
	INSERT INTO llmquota.account (account, provider, org)
	SELECT 'own ' || n, 'openai', 'org ' || n FROM generate_series(1, 20) n;
	INSERT INTO llmquota.key (key, account) SELECT 'own ' || n, 'own ' || n FROM generate_series(1, 20) n;
	INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per) VALUES
		('global', '', '*', 'requests', 1000000000, '1 hour'), ('provider', '*', '*', 'tokens', 1000000000, '1 hour'),
		('key', '*', '*', 'requests', 1000000000, '1 hour'), ('key', '*', 'large', 'concurrency', 20, NULL),
		('provider', 'anthropic', 'haiku', 'concurrency', 20, NULL), ('org', '*', 'haiku', 'concurrency', 1, NULL);
	UPDATE llmquota.setting SET value = '400' WHERE name = 'max_leases';});

sub cells_to_a_page
{
	my ($table) = @_;

	return $node->safe_psql('postgres',
		"SELECT max(cells) FROM (SELECT count(*) AS cells FROM $table GROUP BY (ctid::text::point)[0]) p");
}

sub run_clients
{
	my ($what) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ '/usr/bin/python3', "$FindBin::RealBin/hang.py", $seconds, $node->connstr('postgres') ],
		'>', \$out, '2>', \$err);
	is($err, '', "$what: no client has seen an error");
	note($out);
	my $answer = $out eq '' ? { stuck => ['everybody'] } : decode_json($out);
	is_deeply($answer->{stuck}, [], "$what: every client got on") or BAIL_OUT('the server hangs');

	my @kinds = ('pick: granted', 'pick: over_capacity', 'pick: rate_limited', 'record: settled', 'record: settled_late',
		'release: released', 'release: already_settled', 'renew', 'maintain', 'read', 'rollback', 'commit');
	is_deeply([ grep { !$answer->{calls}{$_} } @kinds ], [], "$what: there was something of everything");
	agree($node, $what);
	return;
}

run_clients('a cell to a page');
is(cells_to_a_page('llmquota.meter'), 1, 'meters have pages of their own');

$node->safe_psql('postgres', "ALTER TABLE $_ SET (fillfactor = 100)") for qw(llmquota.meter llmquota.lease_page);
$node->safe_psql('postgres', 'VACUUM FULL llmquota.meter, llmquota.lease_page');
cmp_ok(cells_to_a_page($_), '>', 1, "$_: several to a page") for qw(llmquota.meter llmquota.lease_page);
run_clients('several cells to a page');
verified($node, 'at the end');
amcheck($node, 'at the end');

$node->stop;
done_testing();
