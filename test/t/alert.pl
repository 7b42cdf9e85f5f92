# Alerts with a worker: told within a second, once, whatever is rolled back, crashes, or happens at the same time.
use strict;
use warnings;
use LlmquotaTest;
use LlmquotaWorker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_worker_node('alert', conf => ['max_connections = 100', 'wal_writer_delay = 10s']);

new_database($node, 'app');
sub app { return in_db($node, 'app', $_[0]) }
app(q{
	UPDATE llmquota.setting SET value = 'off' WHERE name = 'alert_forecast';
	UPDATE llmquota.quota SET amount = 1000;
	INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar) VALUES ('org', '*', 'requests', 10, 'year');
	INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'output_tokens', 1000, '1 day');
	CREATE FUNCTION calls(org text, n int) RETURNS bigint LANGUAGE sql AS $$
		SELECT count(*) FROM generate_series(1, n) i, LATERAL (SELECT * FROM llmquota_pick('m', org, 1, 0, session => i::text)) p WHERE p.status = 'granted'
	$$});

# The alerts of an org: thresholds and what was used.
sub alerts
{
	my ($org) = @_;

	return app(qq{SELECT string_agg(threshold || ' ' || used, ', ' ORDER BY id) FROM llmquota.alert WHERE subject = '$org'});
}

# What a session that listens has been told since it was asked last.
sub told
{
	my ($listener) = @_;

	my @payloads = $listener->query_safe('SELECT 1') =~ /Asynchronous notification "llmquota_alert" with payload "(.*?)" received/g;

	return @payloads;
}
my $listener = $node->background_psql('app');
$listener->query_safe('LISTEN llmquota_alert');

# Within a second, though nobody calls maintenance
is(app(q{SELECT calls('one', 1)}), 1, 'the first call');
ok(has_round($node, 'app'), 'starts a worker');
ok(poll(sub { status($node, 'app', q{next_run > now() + '30 s'}) eq 't' }), 'which will do maintenance in a minute');
my $began = time;
app(q{BEGIN; SELECT calls('one', 7); ROLLBACK});
ok(poll(sub { alerts('one') eq '0.8 8' }), 'a threshold is alerted of, though the transaction of the pick was rolled back');
my $slowest = time - $began;
for my $i (1 .. 10)
{
	$began = time;
	app("SELECT calls('org $i', 8)");
	ok(poll(sub { alerts("org $i") eq '0.8 8' }), "org $i");
	$slowest = time - $began if time - $began > $slowest;
}
note(sprintf 'the slowest took %.0f ms', $slowest * 1000);
cmp_ok($slowest, '<', 10, 'soon after the pick that reached it');
app(q{SELECT calls('one', 2)});
ok(poll(sub { alerts('one') eq '0.8 8, 0.95 10' }), 'so is the next threshold');
my @told;
ok(poll(sub { push @told, told($listener); @told >= 12 }), 'who listens is told');
is(scalar @told, 12, 'of each once');
is(app(qq{SELECT p ->> 'kind', p ->> 'subject', p ->> 'threshold', p ->> 'used', p ->> 'amount', p ->> 'message', p ? 'resolved_at' FROM (SELECT \$\$$told[0]\$\$::jsonb) j (p)}),
	'threshold|one|0.8|8|10|org "one": 8 of 10 requests used (quota 2, year UTC), which is 0.8 or more|f', 'in JSON, without what is NULL');
my @lines = slurp_file($node->logfile) =~ /LOG:  alert: (.*)/g;
is(scalar @lines, 12, 'and the log has a line for each');
is($lines[0], 'org "one": 8 of 10 requests used (quota 2, year UTC), which is 0.8 or more', 'that says the same');

# All is settled, and the database idle: no round until the next minute
ok(poll(sub { status($node, 'app', q{next_run > now() + '20 s'}) eq 't' }), 'the next round is far');
my $rounds;
ok(poll(sub { my $now = status($node, 'app', 'rounds'); my $same = defined $rounds && $now == $rounds; $rounds = $now; sleep 1; return $same }),
	'what has been told is settled, and then there is no round');
app(q{SELECT calls('quiet', 7)});
is(status($node, 'app', 'rounds'), $rounds, 'calls that reach nothing cause none');

# A settlement that charges more than was reserved
$began = time;
app(q{SELECT r.status FROM llmquota_pick('m', 'settled', 1, 100) p, llmquota_record(p.lease, 1, 850) r});
ok(poll(sub { alerts('settled') eq '0.8 850' }), 'a settlement that takes a window over a threshold is noticed');
app(q{SELECT r.status FROM llmquota_pick('m', 'twice settled', 1, 100) p, llmquota_record(p.lease, 1, 700) r});
app(q{SELECT r.status FROM llmquota_pick('m', 'twice settled', 1, 10) p, llmquota_record(p.lease, 1, 1000) r});
ok(poll(sub { alerts('twice settled') eq '0.8 1700, 0.95 1700' }), 'also one past several');
cmp_ok(time - $began, '<', 20, 'soon');

# Troubles
$began = time;
app(q{SELECT llmquota_disable('k', 'stolen')});
ok(poll(sub { app(q{SELECT message FROM llmquota.alert WHERE kind = 'disabled'}) eq 'key "k" is disabled: stolen' }), 'a disabled key is alerted of');
cmp_ok(time - $began, '<', 10, 'soon');
app(q{SELECT llmquota_enable('k')});
app(q{UPDATE llmquota.setting SET value = 3000 WHERE name = 'alert_recovery';
	UPDATE llmquota.provider SET breaker_failures = 1, breaker_probe_ms = 1000});
$began = time;
app(q{SELECT r.status FROM llmquota_pick('m', 'x', 1, 0) p, llmquota_record(p.lease, http_status => 500) r});
ok(poll(sub { app(q{SELECT count(*) FROM llmquota.alert WHERE kind = 'breaker'}) > 0 }), 'a breaker that stays open is alerted of');
cmp_ok(time - $began, '>=', 3, 'when it has been for as long as alert_recovery');
is(app(q{SELECT llmquota_clear() > 0}), 't', 'it is closed');
app(q{UPDATE llmquota.provider SET breaker_failures = 1000});

# Concurrency: what stays full for as long
$began = time;
app(q{INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('org', 'busy', 'concurrency', 5); SELECT calls('busy', 4)});
app('SELECT llmquota_maintain()');
is(alerts('busy'), '', 'calls in flight are not alerted of at once');
ok(poll(sub { app('SELECT llmquota_maintain()'); alerts('busy') =~ /^0.8 4/ }), 'but when it stays so');
cmp_ok(time - $began, '>=', 3, 'for as long as alert_recovery');

# Many at once: one alert, and by hand and worker at the same time
app(q{INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar) SELECT 'org', 'crowd ' || i, 'requests', 100, 'year' FROM generate_series(1, 3) i});
my @clients = map { $node->background_psql('app') } 1 .. 16;
for my $i (0 .. $#clients)
{
	my $query = $i % 4 == 3
	  ? 'SELECT llmquota_maintain() FROM generate_series(1, 10)'
	  : "SELECT (SELECT calls('crowd ' || i, 7) FROM (SELECT i OFFSET 0) o) FROM generate_series(1, 3) i";
	$clients[$i]{stdin} .= "$query;\n\\echo done\n";
}
$_->{run}->pump_nb for @clients;
ok(poll(sub { $_->{run}->pump_nb for @clients; !grep { $_->{stdout} !~ /^done$/m } @clients }), '16 clients are done');
$_->quit for @clients;
for my $i (1 .. 3)
{
	ok(poll(sub { alerts("crowd $i") =~ /^0.8 \d+$/ }), "crowd $i: 12 clients that go past a threshold at once cause one alert");
}
is(app(q{SELECT count(*) FROM (SELECT FROM llmquota.alert WHERE kind <> 'digest' GROUP BY subject, kind, scope, model, quota, threshold, period_start HAVING count(*) > 1) d}), 0,
	'no alert is there twice');

# Rolled back maintenance tells nobody, and loses nothing
set_worker($node, 'off');
ok(poll(sub { sleepers($node) eq '' }), 'without a worker');
app(q{SELECT calls('undone', 8)});
@told = told($listener);
@lines = slurp_file($node->logfile) =~ /LOG:  alert: (.*)/g;
app(q{BEGIN; SELECT alerts_raised FROM llmquota_maintain(); ROLLBACK});
app(q{BEGIN; SAVEPOINT s; SELECT alerts_raised FROM llmquota_maintain(); ROLLBACK TO s; COMMIT});
is(join(' ', told($listener)), '', 'maintenance that is rolled back tells nobody');
is(scalar(() = slurp_file($node->logfile) =~ /LOG:  alert: (.*)/g), scalar @lines, 'nor does it write to the log');
is(app(q{SELECT alerts_raised FROM llmquota_maintain()}), 1, 'the next one does');
ok(poll(sub { told($listener) == 1 }), 'once');
is(scalar(() = slurp_file($node->logfile) =~ /LOG:  alert: org "undone"/g), 1, 'both');

# A crash between the flag and the row; between the row and its commit; between the commit and the end of the flag
app(q{SELECT calls('crashed', 8)});
crash($node);
$node->start;
is(app(q{SELECT alerts_raised FROM llmquota_maintain()}), 1, 'kill -9 after the pick: the alert comes after all');
is(alerts('crashed'), '0.8 8', 'as it is');
app(q{SELECT calls('crashed in the row', 8)});
isnt($node->psql('app', q{SET llmquota.inject = 'alerts-raised'; SELECT llmquota_maintain()}), 0, 'a crash before the commit');
ok(poll(sub { (eval { $node->psql('app', 'SELECT 1') } // 1) == 0 }), 'is recovered from');
is(alerts('crashed in the row'), '', 'nobody was told');
$listener = $node->background_psql('app');
$listener->query_safe('LISTEN llmquota_alert');
is(app(q{SELECT alerts_raised FROM llmquota_maintain()}), 1, 'the next maintenance tells');
app(q{SET synchronous_commit = off; SELECT calls('told', 8)});
is(app(q{SET synchronous_commit = off; SELECT alerts_raised FROM llmquota_maintain()}), 1, 'an alert is told');
ok(poll(sub { scalar(grep { /"told"/ } told($listener)) }), 'and heard');
crash($node);
eval { $listener->quit };
$node->start;
is(alerts('told'), '0.8 8', 'kill -9: what was told is there, whatever synchronous_commit says');
is(app(q{SELECT alerts_raised FROM llmquota_maintain()}), 0, 'and is not told again');
is(app(q{SELECT alerts_raised FROM llmquota_maintain()}), 0, 'when it is settled');
is(app('SELECT * FROM llmquota_verify()'), '', 'llmquota_verify() finds nothing');

# With the worker after a crash: it comes to all that is flagged
app(q{SELECT calls('late', 8)});
crash($node);
set_worker_later();
$node->start;
pick_in($node, 'app', 60000);
ok(poll(sub { alerts('late') eq '0.8 8' }), 'the worker finds what was flagged before a crash');
is(app('SELECT * FROM llmquota_verify()'), '', 'llmquota_verify() finds nothing');
unlike(slurp_file($node->logfile), qr/ERROR:/, 'there is no error in the log');
$node->stop;
done_testing();

# The worker is on again from the next start on.
sub set_worker_later
{
	$node->append_conf('postgresql.auto.conf', 'llmquota.worker = on');
	return;
}
