# A crash between two records of one grant or settlement that budgets count: whoever finishes it, budgets of every scope
# and currency have counted what the ledger says the call cost, to the last 1e-9.
use strict;
use warnings;
use LlmquotaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('budget_crash', fixture => 0);

# Eight meters to a pick, so three records of WAL: everything; the account; the key; the org, and the model by itself;
# the org with those below it, and the two above it.
sql($node, q{
	INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
	INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
	INSERT INTO llmquota.key (key, account) VALUES ('k', 'a');
	INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
	INSERT INTO llmquota.price (model, input, output, currency) VALUES ('m', 2.512345678, 10.07, 'EUR');
	INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('EUR', 1.083712345678), ('THB', 0.027913579246);
	INSERT INTO llmquota.org (org, parent) VALUES ('all', NULL), ('group', 'all'), ('clinic', 'group');
	INSERT INTO llmquota.budget (scope, subject, model, amount, currency, calendar, downgrade_at) VALUES
		('global', '', NULL, 1000, 'THB', 'total', NULL),
		('account', '*', NULL, 1000, 'USD', 'total', NULL),
		('key', '*', NULL, 1000, 'THB', 'total', NULL),
		('org', '*', NULL, 1000, 'EUR', 'total', NULL),
		('org', '*', '*', 1000, 'THB', 'total', NULL),
		('parent', '*', NULL, 1000, 'THB', 'total', NULL),
		('parent', 'group', NULL, 1000, 'USD', 'total', NULL);
	SELECT setval('llmquota.config_time', 1)});

# Budgets that have not counted what the ledger adds up to; '' when all have. No lease may be in flight. Rates are whole
# numbers of 1e-12, so that a quotient is rounded once, half away from zero.
sub unequal
{
	return sql($node, q{
	WITH rate AS (
		SELECT currency, rate * 1e12 AS rate FROM llmquota.exchange_rate UNION ALL SELECT 'USD', 1e12
	), expected AS (
		SELECT b.currency, coalesce(sum(div(2 * u.cost * 1e9 * paid.rate + b.rate, 2 * b.rate)), 0) * 1e-9 AS cost
		  FROM rate b
		  LEFT JOIN (llmquota.usage u JOIN rate paid USING (currency)) ON true
		 GROUP BY b.currency
	)
	SELECT w.scope, w.subject, w.model, w.used, e.cost
	  FROM llmquota.budget_window w JOIN expected e USING (currency)
	 WHERE w.used <> e.cost
	 ORDER BY 1, 2, 3});
}

# Have some budgets counted a call otherwise than others of their currency? All count the same calls.
sub is_halfway
{
	return sql($node, q{
	SELECT EXISTS (SELECT FROM llmquota.budget_window GROUP BY currency HAVING count(DISTINCT used) > 1)});
}

# The server crashes after so many records of what the SQL does.
sub crash_after
{
	my ($point, $sql) = @_;

	$node->psql('postgres', "SET llmquota.inject = '$point'; $sql");
	crash($node);
	$node->start;
	return;
}

my $pick = q{FROM llmquota_pick('m', 'clinic', 100, 200, ttl_ms => TTL)};

sql($node, "SELECT llmquota_release(lease) $pick" =~ s/TTL/60000/r);
maintain_all($node);
is(sql($node, 'SELECT count(*) FROM llmquota.budget_window'), 9, 'so many windows count a call, two of them in one meter');
for my $records (1, 2)
{
	my $what = "a crash after record $records of a grant";

	crash_after("grant-record:$records", "SELECT lease $pick" =~ s/TTL/60000/r);
	is(is_halfway(), 't', "$what: some budgets are charged");
	maintain_all($node);
	is(sql($node, 'SELECT count(*) FROM llmquota.lease'), 0, "$what: it is taken back");
	is(unequal(), '', "$what: with all that it was charged");
}

# Settlements that a crash cuts short, and who finishes them. Before the crash the lease is as `before` leaves it: so the
# settlement is the first one, or replaces one that was rolled back, or comes after expiry.
my %record = (
	tokens => q{SELECT llmquota_record('LEASE', input_tokens => 3, output_tokens => 4)},
	more => q{SELECT llmquota_record('LEASE', input_tokens => 500, output_tokens => 600)},
	cost => q{SELECT llmquota_record('LEASE', cost => 0.012345678)},
	release => q{SELECT llmquota_release('LEASE')},
);
my %cost = (tokens => '0.000047817', more => '0.007298173', cost => '0.012345678', release => '0.000000000');
my $maintain = 'SELECT * FROM llmquota_maintain()';
my %before = (
	'first' => [ '', qw(tokens cost release) ],
	'after one that was rolled back' => [ "BEGIN; $record{more}; ROLLBACK", qw(tokens cost release) ],
	'after a release that was rolled back' => [ "BEGIN; $record{release}; ROLLBACK", qw(more) ],
	'after a cost that was rolled back' => [ "BEGIN; $record{cost}; ROLLBACK", qw(tokens) ],
	'late' => [ $maintain, qw(tokens more cost) ],
);
my $turn = 0;
for my $before (sort keys %before)
{
	my ($prepare, @ends) = @{ $before{$before} };

	for my $end (@ends)
	{
		# each ending is finished by one of them; the next ending by the other
		for my $next ($turn++ % 2 ? 'maintenance' : 'more')
		{
			my $records = 1 + ($next eq 'more');
			my $what = "$end, $before, cut short after its record $records, then $next";
			my $ttl_ms = $before eq 'late' ? 1 : 60000;
			my $lease = sql($node, "SELECT lease $pick" =~ s/TTL/$ttl_ms/r);
			my $expected = $next eq 'maintenance' ? $cost{$end} : $cost{$next};

			if ($prepare)
			{
				my $sql = $prepare =~ s/LEASE/$lease/r;
				poll(sub { sql($node, $sql); sql($node, 'SELECT count(*) FROM llmquota.lease') == 0 });
			}
			crash_after("settle-record:$records", $record{$end} =~ s/LEASE/$lease/r);
			is(is_halfway(), 't', "$what: it is cut short");
			sql($node, $record{$next} =~ s/LEASE/$lease/r) if $record{$next};
			maintain_all($node);
			is(sql($node, "SELECT cost FROM llmquota.usage WHERE lease = '$lease'"), $expected, "$what: the ledger's cost");
			is(unequal(), '', "$what: budgets have counted that");
		}
	}
}
# What one crash has cut short is finished before it is replaced; and another crash cuts that short, in the midst of the
# former (of three records) or of the latter.
for my $crash ([ 1, 2, 'tokens' ], [ 2, 1, 'cost' ], [ 1, 4, 'tokens' ], [ 2, 5, 'release' ])
{
	my ($first, $second, $end) = @$crash;
	my $what = "$end, after one that was rolled back, cut short after its record $first, then more, after record $second";
	my $lease = sql($node, "SELECT lease $pick" =~ s/TTL/60000/r);

	sql($node, "BEGIN; $record{more}; ROLLBACK" =~ s/LEASE/$lease/r);
	crash_after("settle-record:$first", $record{$end} =~ s/LEASE/$lease/r);
	crash_after("settle-record:$second", $record{more} =~ s/LEASE/$lease/r);
	is(is_halfway(), 't', "$what: it is cut short");
	maintain_all($node);
	is(sql($node, "SELECT cost FROM llmquota.usage WHERE lease = '$lease'"),
		$cost{ $second > 3 ? 'more' : $end }, "$what: the ledger's cost");
	is(unequal(), '', "$what: budgets have counted that");
}
verified($node, 'in the end');
$node->stop;
done_testing();
