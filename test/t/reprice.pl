# Repricing beside calls loses nothing: while prices and rates change, calls are recorded in time, late, in transactions that
# stay open or are rolled back, and the ledger is priced anew again and again. In the end every row costs what its figures
# come to, the differences that were answered are what the rows were changed by, to the last place, hours follow, and budgets
# hold what the ledger says, also after a crash.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('reprice', fixture => 0);

# A trigger of the user's notes what every row was changed by. Totals, so that nothing leaves a window.
sql($node, q{
	INSERT INTO llmquota.provider (provider, adapter, breaker_failures, breaker_min_calls) VALUES ('p', 'openai', 1000000, 1000000);
	INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p');
	INSERT INTO llmquota.key (key, account) VALUES ('a1', 'a'), ('a2', 'a'), ('b1', 'b');
	INSERT INTO llmquota.model (model, provider) VALUES ('large', 'p'), ('small', 'p');
	INSERT INTO llmquota.price (model, input, output, cached_input) VALUES ('large', 2.5, 10, 1.25), ('small', 0.15, 0.6, NULL);
	INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('THB', 0.03);
	INSERT INTO llmquota.org (org, parent) VALUES ('group', NULL), ('clinic-1', 'group'), ('clinic-2', 'group');
	INSERT INTO llmquota.budget (scope, subject, amount, currency, calendar, downgrade_at) VALUES
		('org', '*', 1000000, 'THB', 'total', NULL), ('parent', 'group', 1000000, 'USD', 'total', NULL),
		('global', '', 1000000, 'USD', 'total', NULL), ('key', '*', 1000000, 'USD', 'total', NULL);
	CREATE TABLE changed (txid bigint, lease uuid, before numeric, after numeric);
	CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO public.changed VALUES (txid_current(), NEW.lease, CASE WHEN TG_OP = 'UPDATE' THEN OLD.cost END, NEW.cost);
		RETURN NULL;
	END $$;
	CREATE TRIGGER note_change AFTER INSERT OR UPDATE ON llmquota.usage FOR EACH ROW EXECUTE FUNCTION note_change();
	CREATE TABLE recorded (lease uuid);
	SELECT setval('llmquota.config_time', 1)});

my $pick = q{FROM llmquota_pick((ARRAY['large', 'small'])[:model], 'clinic-' || :org, 1000, 100, ttl_ms => TTL) p};
my $call = qq{INSERT INTO recorded SELECT p.lease $pick, llmquota_record(p.lease, :input, :input / 3, cached_tokens => :input / 2) r;};
my $set = q{\set org random(1, 3)
\set model random(1, 2)
\set input random(0, 3000)
\set pause random(0, 40)
\set price random(1, 100000)
};
my %traffic = (
	call => $call,
	silent => qq{INSERT INTO recorded SELECT p.lease $pick, llmquota_record(p.lease) r;},
	refused => qq{INSERT INTO recorded SELECT p.lease $pick, llmquota_record(p.lease, http_status => 400) r;},
	told => qq{INSERT INTO recorded SELECT p.lease $pick, llmquota_record(p.lease, cost => :input / 1000.0) r;},
	release => "SELECT llmquota_release(p.lease) $pick;",
	open => "BEGIN; $call\n\\sleep :pause ms\n$call COMMIT;",
	held => "SELECT quote_literal(p.lease) AS lease $pick \\gset\n\\sleep :pause ms\nINSERT INTO recorded SELECT :lease::uuid FROM llmquota_record(:lease, :input, 5) r;",
	lost => "BEGIN; $call\n\\sleep :pause ms\nROLLBACK;",
	maintain => 'SELECT llmquota_maintain();',
	reprice => q{SELECT count(*) FROM llmquota_reprice('-infinity');},
);
my %changes = (
	late => "SELECT quote_literal(p.lease) AS lease $pick \\gset\n"
	  . q{SELECT expired FROM llmquota_maintain();
		  INSERT INTO recorded SELECT :lease::uuid FROM llmquota_record(:lease, :input, 7) r;},
	price => q{UPDATE llmquota.price SET input = :price / 1000.0, output = :price / 500.0 WHERE model = 'large';},
	rate => q{UPDATE llmquota.exchange_rate SET rate = :price / 1000000.0;},
);

# Runs some traffic; a transaction that a change of the configuration got in the way of is tried again.
sub traffic
{
	my ($seed, %scripts) = @_;
	my @files;

	for my $name (sort keys %scripts)
	{
		my $file = "$PostgreSQL::Test::Utils::tmp_check/reprice_$name.sql";
		my $ttl = $name eq 'late' ? 1 : 60000;
		my $weight = $name eq 'call' || $name eq 'held' ? 5 : 1;
		PostgreSQL::Test::Utils::append_to_file($file, $set . $scripts{$name} =~ s/TTL/$ttl/gr =~ s/\n\t+/ /gr . "\n")
		  unless -e $file;
		push @files, '-f', "$file\@$weight";
	}
	my ($out, $err) = ('', '');
	IPC::Run::run([
			'pgbench', '-n', '-c', '8', '-t', '120', '--random-seed', $seed, '--max-tries', '10',
			@files, '-h', $node->host, '-p', $node->port, 'postgres'
		], '>', \$out, '2>', \$err);
	$err =~ s/^pgbench: setting random seed.*\n//mg;
	like($out, qr/number of failed transactions: 0 /, 'every transaction came to an end');
	is($err, '', 'without an error');
	return;
}

# Rows that cost something else than their figures come to; '' when there are none.
sub wrong_costs
{
	return sql($node, q{
	WITH row AS (
		SELECT u.*, p.input AS pi, p.output AS po, coalesce(p.cached_input, p.input) AS pc, status = 'error' AND http_status IS NOT NULL AS refused
		  FROM llmquota.usage u JOIN llmquota.price p USING (model)
	), priced AS (
		SELECT r.lease, r.cost, CASE WHEN status = 'released' THEN 0 ELSE
			   round(((coalesce(input_tokens, 0) - coalesce(cached_tokens, 0)) * pi + coalesce(cached_tokens, 0) * pc
					  + coalesce(output_tokens, 0) * po) / 1000000, 9)
			   + CASE WHEN refused THEN 0 ELSE ceil(((input_tokens IS NULL)::int * reserved_input * greatest(pi, pc)
					  + (output_tokens IS NULL)::int * reserved_output * po) * 1000) / 1000000000 END END AS expected
		  FROM row r WHERE cost_given IS NULL
	)
	SELECT * FROM priced WHERE cost IS DISTINCT FROM expected LIMIT 3});
}

# Budgets that hold something else than the ledger says; '' when there are none.
sub wrong_budgets
{
	return sql($node, q{
	WITH spent AS (
		SELECT b.scope, CASE b.scope WHEN 'org' THEN u.org WHEN 'key' THEN u.key WHEN 'parent' THEN 'group' ELSE '' END AS subject,
			   sum(CASE b.currency WHEN 'USD' THEN u.cost ELSE round(u.cost / r.rate, 9) END) AS spent
		  FROM llmquota.budget b CROSS JOIN llmquota.usage u CROSS JOIN llmquota.exchange_rate r
		 WHERE b.scope <> 'parent' OR u.org IN ('clinic-1', 'clinic-2')
		 GROUP BY 1, 2
	)
	SELECT s.scope, s.subject, s.spent, m.used / 1000000000.0
	  FROM spent s LEFT JOIN llmquota_budget_rows() m ON m.scope = s.scope AND m.subject = s.subject
	 WHERE m.used / 1000000000.0 IS DISTINCT FROM s.spent ORDER BY 1, 2});
}

# Prices and rates change all the time
maintain_all($node);
traffic(1, %traffic, %changes);
maintain_all($node);
sql($node, q{SELECT count(*) FROM llmquota_reprice('-infinity')});
is(sql($node, q{SELECT count(*) FROM llmquota_reprice('-infinity')}), 0, 'a second call changes nothing');
is(wrong_costs(), '', 'every row costs what its figures come to');
is(sql($node, q{SELECT count(*) FROM recorded r LEFT JOIN llmquota.usage u USING (lease) GROUP BY lease HAVING count(u.lease) <> 1}), '',
	'every call that was recorded has one row');
cmp_ok(sql($node, 'SELECT count(*) FROM recorded'), '>', 300, 'and there are many');
is(sql($node, q{
	WITH told AS (
		SELECT xmin::text::bigint AS txid, sum(difference) AS difference, sum(calls) AS calls FROM llmquota.repricing GROUP BY 1
	), done AS (
		SELECT txid, sum(coalesce(after, 0) - coalesce(before, 0)) AS difference, count(*) FILTER (WHERE before IS DISTINCT FROM after) AS calls FROM changed GROUP BY 1
	)
	SELECT count(*) > 3 AND bool_and(t.difference = d.difference AND t.calls >= d.calls) FROM told t LEFT JOIN done d USING (txid)}), 't',
	'the differences are what the rows were changed by');
maintain_all($node);
is(sql($node, q{SELECT sum(cost_base) - (SELECT sum(cost_base) FROM llmquota.usage) FROM llmquota.usage_hourly}), '0.000000000', 'hours follow');
is(wrong_budgets(), '', 'budgets do');
is(sql($node, 'SELECT count(*) FROM llmquota.budget_recount'), 0, 'and nothing is left to be counted anew');
verified($node, 'after changes of prices');

# Calls go on while budgets are counted anew: what is in flight then is neither lost nor doubled
traffic(2, %traffic);
maintain_all($node);
is(wrong_costs(), '', 'every row still does');
is(wrong_budgets(), '', 'budgets hold what the ledger says, whatever was in flight when they were counted');
verified($node, 'after recounts under load');

# A crash before budgets were counted anew, and in the middle of it
sql($node, q{UPDATE llmquota.price SET input = 77; SELECT FROM llmquota_reprice('-infinity')});
crash($node);
$node->start;
isnt(wrong_budgets(), '', 'budgets do not follow before maintenance');
isnt($node->psql('postgres', q{SET llmquota.inject = 'recount-meter:2'; SELECT llmquota_maintain()}), 0, 'it crashes');
crash($node);
$node->start;
isnt(wrong_budgets(), '', 'some were counted when it crashed');
maintain_all($node);
is(wrong_budgets(), '', 'all are after the next maintenance');
verified($node, 'after crashes');

$node->stop;
done_testing();
