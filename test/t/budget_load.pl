# A short `make torture` of budgets: random load, judged by an oracle outside the server on the clients' own logs; and
# rollbacks and crashes, after which the ledger adds up to what every budget has counted, to the last 1e-9.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

sub torture
{
	my ($what, %options) = @_;
	my ($out, $err) = ('', '');
	local @ENV{ keys %options } = values %options;

	ok(IPC::Run::run(["$ENV{LLMQ_ROOT}/test/torture/run"], '>', \$out, '2>', \$err), "$what: nothing is wrong");
	note($out);
	is($err, '', "$what: no complaint");
	return;
}

is(qx{/usr/bin/python3 $FindBin::RealBin/audit.py 2>&1}, "ok\n", 'the oracle notices what it is to notice');
torture('random load', ROLLBACKS => 0, ROUNDS => 0, SPEND => 3, OPERATIONS => 0, LINE => 0);
torture('rollbacks and crashes', ROLLBACKS => 0, ROUNDS => 0, SPEND => 0, OPERATIONS => 5000, LINE => 0);
done_testing();
