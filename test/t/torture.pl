# A short `make torture`: crashes and rollbacks by chance, judged by an oracle outside the server.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;

sub torture
{
	my ($what, %options) = @_;
	my ($out, $err) = ('', '');
	local @ENV{ keys %options } = values %options;

	ok(IPC::Run::run(["$ENV{LLMQ_ROOT}/test/torture/run"], '>', \$out, '2>', \$err), "$what: nothing lost, nothing doubled");
	note($out);
	is($err, '', "$what: no complaint");
	like($out, qr/nothing lost, nothing doubled/, "$what: it did something");
	return;
}

torture('rollbacks', ROLLBACKS => 500, ROUNDS => 0, SPEND => 0, OPERATIONS => 0, LINE => 0);
torture('crashes', ROLLBACKS => 0, ROUNDS => 6, SPEND => 0, OPERATIONS => 0, LINE => 0);
done_testing();
