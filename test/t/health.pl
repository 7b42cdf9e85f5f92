# Troubles hold for every backend at its next pick, and outlive restart, kill -9 and the rollback of the transaction that
# recorded them; an open breaker lets through one probe at a time, whoever asks, whose success closes it and whose
# failure doubles the wait; a disabled key is probed when its time has come; events are written once, also when
# maintenance crashes, and breakers and disabled keys are lines of the log; a standby shows how keys are.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('health', fixture => 0, init => { allows_streaming => 1 },
	conf => [ 'max_connections = 60', 'max_prepared_transactions = 2' ]);
sql($node, q{
	INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
	INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p');
	INSERT INTO llmquota.key (key, account) VALUES ('a1', 'a'), ('b1', 'b');
	INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
	INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES ('account', '*', 'concurrency', 1000);
	SELECT setval('llmquota.config_time', 1)});
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('health_standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;

# One call with a key that ends as the arguments of the record say.
sub record_call
{
	my ($key, $arguments) = @_;

	return sql($node, qq{SELECT r.status FROM llmquota_pick('m', exclude => ARRAY(SELECT k.key FROM llmquota.key k WHERE k.key <> '$key')) p,
		llmquota_record(p.lease, $arguments) r});
}

sub status
{
	my ($key) = @_;

	return sql($node, qq{SELECT status FROM llmquota.key_status WHERE key = '$key'});
}

my $rate = q{http_status => 429, headers => '{"retry-after": "3600"}'};
my $pick_b = q{SELECT status FROM llmquota_pick('m', exclude => '{a1}')};

# Another backend, which has picked before, knows at its next pick, also of what is rolled back
my $other = $node->background_psql('postgres');
is($other->query_safe($pick_b), 'granted', 'another backend picks');
sql($node, qq{BEGIN; SELECT r.status FROM llmquota_pick('m', exclude => '{a1}') p, llmquota_record(p.lease, $rate) r; ROLLBACK});
is($other->query_safe($pick_b), 'unavailable', '... and not after the next call was told to wait, in a transaction that rolled back');
is($other->query_safe(q{SELECT key FROM llmquota_pick('m')}), 'a1', '... but with a key of another account');
sql($node, 'SELECT llmquota_clear()');
is($other->query_safe($pick_b), 'granted', '... and again when that was cleared');

# What is known when the server stops, or crashes, is known afterwards
record_call('b1', $rate);
record_call('a1', 'http_status => 401');
$other->quit;
my $before = sql($node, 'SELECT * FROM llmquota.key_status ORDER BY key');
like($before, qr/^a1\|.*disabled.*\nb1\|.*cooling/, 'one key is disabled, the other is cooling');
$node->restart;
is(sql($node, 'SELECT * FROM llmquota.key_status ORDER BY key'), $before, 'so they are after a restart');
my $crashing = $node->background_psql('postgres');
$crashing->query_safe(q{BEGIN; SELECT llmquota_enable('a1')});
record_call('a1', 'http_status => 401');
$before = sql($node, 'SELECT * FROM llmquota.key_status ORDER BY key');
$crashing->query_safe('SELECT llmquota_maintain()');
crash($node);
eval { $crashing->quit };
$node->start;
is(sql($node, 'SELECT * FROM llmquota.key_status ORDER BY key'), $before, '... and after kill -9');
verified($node, 'after kill -9');
is(sql($node, q{SELECT status FROM llmquota_pick('m')}), 'unavailable', 'and no key is picked');

# Events: those that maintenance had written when the server crashed are written again, each once
sql($node, 'SELECT llmquota_maintain()');
is(sql($node, q{SELECT string_agg(concat_ws(' ', kind, subject, failure), ', ' ORDER BY number) FROM llmquota.event}),
	'cooled b rate, cleared b rate, cooled b rate, disabled a1 auth, enabled a1 auth, disabled a1 auth',
	'what happened is written once, whatever crashed');
is(sql($node, 'SELECT events_kept FROM llmquota_maintain()'), 0, 'and not again');
sql($node, q{BEGIN; SELECT llmquota_cool('key', 'a1', 1000); SELECT llmquota_maintain(); PREPARE TRANSACTION 'maintenance'});
is(sql($node, q{SELECT llmquota_clear('key', 'a1')}), 1, 'a cooldown is cleared while maintenance is prepared');
sql($node, q{ROLLBACK PREPARED 'maintenance'});
is(sql($node, 'SELECT events_kept FROM llmquota_maintain()'), 2, 'and both are written when that has failed');
sql($node, q{SELECT llmquota_cool('key', 'a1', 1000), llmquota_clear('key', 'a1') FROM generate_series(1, 1000)});
is(sql($node, 'SELECT events_kept FROM llmquota_maintain()'), 1024, 'of too many at once the last ones are kept');
is(sql($node, 'SELECT max(number) - count(*) FROM llmquota.event'), 2000 - 1024, '... and their numbers say how many are missing');
my $log = slurp_file($node->logfile);
like($log, qr/LOG:  key "a1" disabled: auth, HTTP status 401\n/, 'the log says that a key was disabled');
like($log, qr/LOG:  key "a1" enabled\n/, '... and enabled');

# The standby shows the same, and explains a pick
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
my $shown = 'SELECT key, status, until, failure, lease FROM llmquota.key_status ORDER BY key';
is(sql($standby, $shown), sql($node, $shown), 'the standby shows the same');
is(sql($standby, q{SELECT key, verdict FROM llmquota_explain('m') ORDER BY key}), "a1|disabled\nb1|cooling", '... and explains');
is(sqlstate($standby, q{SELECT llmquota_clear()}), '25006', '... but changes nothing');

# 20 clients ask for a key in a loop: so many leases were granted since, once somebody was.
sub probes
{
	my ($key, $settle) = @_;
	my @clients = map { $node->background_psql('postgres') } 1 .. 20;
	my $loop = qq{DO \$\$
		DECLARE
			picked uuid;
		BEGIN
			FOR i IN 1 .. 1000000 LOOP
				SELECT lease INTO picked FROM llmquota_pick('m', exclude => ARRAY(SELECT k.key FROM llmquota.key k WHERE k.key <> '$key'));
				IF picked IS NOT NULL THEN
					INSERT INTO probe VALUES (picked);
				END IF;
				INSERT INTO asked SELECT pg_backend_pid(), EXISTS (SELECT FROM probe);
				EXIT WHEN EXISTS (SELECT FROM enough);
				COMMIT;
			END LOOP;
		END \$\$;};

	sql($node, 'TRUNCATE probe, asked, enough');
	$_->{stdin} .= "$loop\n\\echo done\n" for @clients;
	$_->{run}->pump_nb for @clients;
	ok(poll(sub { sql($node, 'SELECT count(*) FROM probe') > 0 }), "$key: a probe is let through");
	ok(poll(sub { sql($node, 'SELECT count(DISTINCT pid) = 20 AND count(*) >= 400 FROM asked WHERE after') eq 't' }),
		"$key: everybody has asked again and again since");
	is(sql($node, 'SELECT count(*) FROM probe'), 1, "$key: one, whoever asks");
	sql($node, "INSERT INTO enough VALUES (1)");
	$_->quit for @clients;
	return sql($node, "SELECT r.status FROM probe p, llmquota_record(p.lease, $settle) r");
}
sql($node, q{CREATE TABLE probe (lease uuid); CREATE TABLE asked (pid int, after boolean); CREATE TABLE enough (a int)});

# A breaker: opened by five failures, half open after a second, opened for two by a probe that fails, closed by one that
# succeeds
sql($node, q{SELECT llmquota_clear(), llmquota_enable('a1');
	UPDATE llmquota.provider SET breaker_probe_ms = 1000;
	SELECT llmquota_maintain();
	DELETE FROM llmquota.event});
for my $n (1 .. 5)
{
	record_call('a1', 'http_status => 500');
	record_call('b1', 'http_status => 200') if $n < 5;
}
like(status('a1'), qr/open/, 'five failures open a breaker');
ok(poll(sub { status('a1') eq 'half_open' }), 'which is half open after its time');
is(probes('a1', 'http_status => 500'), 'settled', 'the probe fails');
ok(poll(sub { status('a1') eq 'half_open' }), 'and it is half open again');
is(probes('a1', 'http_status => 200'), 'settled', 'the next one succeeds');
is(status('a1'), 'healthy', 'and the breaker is closed');
sql($node, 'SELECT llmquota_maintain()');
is(sql($node, q{SELECT string_agg(concat_ws(' ', kind, scope, subject, model, CASE kind WHEN 'opened' THEN round(extract(epoch FROM until - event_at)) END), ', ' ORDER BY number) FROM llmquota.event}),
	'opened account a m 1, opened account a m 2, closed account a m', 'it was open for one second, then for two');
$log = slurp_file($node->logfile);
like($log, qr/LOG:  breaker of account "a", model "m" opened until .*: server, HTTP status 500\n/, 'the log says that it opened');
like($log, qr/LOG:  breaker of account "a", model "m" closed\n/, '... and closed');
is(record_call('a1', 'http_status => 500'), 'settled', 'one failure does not open it again');
is(status('a1'), 'healthy', '... because what came before was forgotten');

# A probe whose lease expires lets the next one through; one that is not granted is given back
sql($node, 'UPDATE llmquota.provider SET breaker_failures = 1');
record_call('a1', 'http_status => 500');
ok(poll(sub { status('a1') eq 'half_open' }), 'a breaker is half open');
is(sql($node, q{SELECT status FROM llmquota_pick('m', exclude => '{b1}', ttl_ms => 500)}), 'granted', 'a probe goes out and is never recorded');
is(sql($node, q{SELECT status FROM llmquota_pick('m', exclude => '{b1}', ttl_ms => 500)}), 'unavailable', '... no other meanwhile');
ok(poll(sub { sql($node, q{SELECT status FROM llmquota_pick('m', exclude => '{b1}')}) eq 'granted' }), 'the next one when its lease has expired');
sql($node, 'SELECT llmquota_clear(); UPDATE llmquota.provider SET breaker_failures = 5');

# A disabled key: no pick until its time has come; then a probe, which fails, and one that succeeds
sql($node, q{UPDATE llmquota.setting SET value = '1500' WHERE name = 'auth_probe_after'});
record_call('a1', 'http_status => 401');
is(status('a1'), 'disabled', 'a refused credential disables its key');
ok(poll(sub { status('a1') eq 'half_open' }), 'until it may be probed');
is(probes('a1', 'http_status => 401'), 'settled', 'the credential is refused again');
is(status('a1'), 'disabled', 'so the key is disabled');
ok(poll(sub { status('a1') eq 'half_open' }), '... for as long');
is(probes('a1', 'http_status => 200'), 'settled', 'it is good again');
is(status('a1'), 'healthy', 'and so is the key');
# but not one that somebody disabled
sql($node, q{SELECT llmquota_disable('a1', 'for good')});
is(status('a1'), 'disabled', 'somebody disables it');
is(sql($node, q{SELECT until FROM llmquota.key_status WHERE key = 'a1'}), '', '... and nothing but somebody ends that');

# What is over leaves the boards, some time later
sql($node, q{SELECT llmquota_enable('a1'), llmquota_clear(); SELECT llmquota_maintain(); SELECT llmquota_cool('key', 'a1', 1)});
is(sql($node, q{SELECT troubles_ended FROM llmquota_maintain()}), 0, 'a cooldown that has just ended still counts for the next');
ok(poll(sub { sql($node, q{SET llmquota.inject = 'short-day'; SELECT troubles_ended FROM llmquota_maintain()}) == 1 }), '... until it is long ago');
verified($node, 'in the end');

$standby->stop;
$node->stop;
done_testing();
