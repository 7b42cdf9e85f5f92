# Concurrent clients that pick, hold, record and release, and write down every answer the moment they have it.
#
# Each client is a process of its own that talks to a psql. Its log has a line for everything that it began and for
# everything that the server acknowledged:
#
#   picked LEASE INPUT OUTPUT		a granted pick was answered
#   settling LEASE HOW				a record or release is about to be sent
#   settled LEASE HOW INPUT OUTPUT	it was answered, and its transaction has committed (if HOW is undone: rolled back)
package LlmquotaLoad;

use strict;
use warnings;
use IPC::Open3;
use LlmquotaTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

my @routes = ('large', 'small', 'haiku');
my $max_held = 6;

# How a call can end: SQL for LEASE, what must be answered, and status and figures of the ledger's row. A refusal names a
# time so short that picks go on.
my %endings = (
	ok => {
		sql => 'llmquota_record(LEASE, input_tokens => INPUT, output_tokens => OUTPUT)',
		status => 'ok',
		reported => 1
	},
	bare => { sql => 'llmquota_record(LEASE)', status => 'ok' },
	busy => {
		sql => q{llmquota_record(LEASE, http_status => 429, error => 'slow down', headers => '{"retry-after-ms": "1"}')},
		status => 'error'
	},
	cut => { sql => q{llmquota_record(LEASE, error => 'timeout')}, status => 'error' },
	release => { sql => 'llmquota_release(LEASE)', status => 'released' },
	undone => {
		sql => 'llmquota_record(LEASE, input_tokens => INPUT, output_tokens => OUTPUT)',
		status => 'ok',
		reported => 1,
		rollback => 1
	},
);

# Starts the clients. Options: clients, settings (SQL that each runs first), dir (of the logs), orgs.
sub start
{
	my ($class, $node, %options) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir;
	my $self = { dir => $dir, clients => $options{clients}, pids => {}, logs => {}, answers => 0 };

	for my $number (1 .. $options{clients})
	{
		my $pid = fork // die "could not fork: $!";
		if ($pid == 0)
		{
			eval { client($node, "$self->{dir}/$number", %options, number => $number); 1 } or print STDERR $@;
			POSIX::_exit(0);
		}
		$self->{pids}{$pid} = 1;
	}
	return bless $self, $class;
}

# How many answers the clients have written down. Each line is read once.
sub answers
{
	my ($self) = @_;

	for my $number (1 .. $self->{clients})
	{
		my $log = $self->{logs}{$number};
		open $log, '<', "$self->{dir}/$number" or next if !$log;
		$self->{logs}{$number} = $log;
		seek $log, 0, 1;
		while (my $line = <$log>) { $self->{answers}++ if $line =~ /^(picked|settled)/ }
	}
	return $self->{answers};
}

# Waits until there are so many answers, or a client has ended.
sub wait_for_answers
{
	my ($self, $answers) = @_;

	return poll(sub { $self->answers >= $answers || $self->ended });
}

# Has a client ended by itself?
sub ended
{
	my ($self) = @_;

	delete $self->{pids}{$_} for grep { waitpid($_, POSIX::WNOHANG()) == $_ } keys %{ $self->{pids} };
	return keys %{ $self->{pids} } < $self->{clients};
}

# Waits for all clients to end; after `stop` or a crash they do. Returns what they know.
sub finish
{
	my ($self) = @_;
	my %known = (picked => {}, settling => {}, settled => {}, refused => 0, errors => '');

	waitpid $_, 0 for keys %{ $self->{pids} };
	$self->{pids} = {};
	for my $number (1 .. $self->{clients})
	{
		$known{errors} .= slurp_file("$self->{dir}/$number.err");
		for (split /\n/, slurp_file("$self->{dir}/$number"))
		{
			my ($what, $lease, @rest) = split /\t/;
			if ($what eq 'refused') { $known{refused}++ }
			else { $known{$what}{$lease} = \@rest }
		}
	}
	return \%known;
}

# Asks the clients to end after what they are doing.
sub stop
{
	my ($self) = @_;

	append_to_file("$self->{dir}/stop", '');
	return $self->finish;
}

# A client's life, in a process of its own. It ends when its psql does.
sub client
{
	my ($node, $file, %options) = @_;
	my $self = { orgs => $options{orgs} // 4, held => [] };

	local $SIG{PIPE} = 'IGNORE';
	srand($$);
	open $self->{log}, '>>', $file or die "could not open $file: $!";
	open my $err, '>>', "$file.err" or die "could not open $file.err: $!";
	$self->{log}->autoflush(1);
	my $psql = open3($self->{in}, $self->{out}, '>&' . fileno($err),
		'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'));
	$self->{in}->autoflush(1);
	print { $self->{in} } "$options{settings};\n" if $options{settings};
	until (-e $file =~ s/\d+$/stop/r)
	{
		(@{ $self->{held} } < $max_held && rand() < 0.6 ? pick($self) : settle($self)) or last;
	}
	close $self->{in};
	waitpid $psql, 0;
	return;
}

# Sends SQL and waits for the one line of its answer; nothing when the server is gone or says an error.
sub answer
{
	my ($self, $sql) = @_;

	print { $self->{in} } "$sql\n" or return;
	my $line = readline $self->{out};
	chomp $line if defined $line;
	return $line;
}

sub note_down
{
	my ($self, @words) = @_;

	syswrite $self->{log}, join("\t", @words) . "\n";
	return 1;
}

# A pick by itself, or in a transaction or savepoint that is rolled back: the charge stands.
sub pick
{
	my ($self) = @_;
	my $route = $routes[ rand @routes ];
	my $org = 'clinic-' . int rand $self->{orgs};
	my ($input, $output) = (1 + int rand 5000, 1 + int rand 2000);
	my $pick = "SELECT status, lease FROM llmquota_pick('$route', '$org', $input, $output, session => 'session');";
	my $how = rand();

	$pick = "BEGIN; $pick ROLLBACK;" if $how < 0.15;
	$pick = "BEGIN; SAVEPOINT s; $pick ROLLBACK TO s; COMMIT;" if $how > 0.85;
	my $answer = answer($self, $pick) // return;
	my ($status, $lease) = split /\|/, $answer;
	return note_down($self, 'refused', $status) if $status ne 'granted';
	push @{ $self->{held} }, $lease;
	return note_down($self, 'picked', $lease, $input, $output);
}

# Settles one of the leases that the client holds.
sub settle
{
	my ($self) = @_;
	my $lease = splice(@{ $self->{held} }, rand @{ $self->{held} }, 1) // return 1;
	my $how = (sort keys %endings)[ rand keys %endings ];
	my $ending = $endings{$how};
	my ($input, $output) = (int rand 6000, int rand 3000);
	my $sql = $ending->{sql} =~ s/LEASE/'$lease'/r =~ s/INPUT/$input/r =~ s/OUTPUT/$output/r;

	$sql = "SELECT * FROM $sql;";
	$sql = "BEGIN; $sql ROLLBACK;" if $ending->{rollback};
	note_down($self, 'settling', $lease, $how);
	my $answer = answer($self, $sql) // return;
	my $what = $answer =~ /^(settled|released)\b/ ? 'settled' : "unexpected $answer";
	return note_down($self, $what, $lease, $how, $input, $output);
}

# What is missing from the server of what the clients know; '' when nothing is. Maintenance must have run.
sub missing
{
	my ($known, $node) = @_;
	my %live = map { split /\|/, $_, 2 }
	  split /\n/, sql($node, 'SELECT lease, reserved_input, reserved_output FROM llmquota.lease');
	my %ledger = map { split /\|/, $_, 2 }
	  split /\n/, sql($node, 'SELECT lease, status, input_tokens, output_tokens FROM llmquota.usage');
	my @missing;

	for my $lease (sort keys %{ $known->{picked} })
	{
		my ($settled, $row) = ($known->{settled}{$lease}, $ledger{$lease});
		my @there = ($live{$lease} // (), $row // ());
		my $expected;

		if ($settled)
		{
			my ($how, $input, $output) = @$settled;
			my $ending = $endings{$how};
			$expected = join '|', $ending->{status}, $ending->{reported} ? ($input, $output) : ('', '');
		}
		elsif (!$known->{settling}{$lease}) { $expected = join '|', @{ $known->{picked}{$lease} } }
		push @missing, "$lease: " . join(' and ', @there) . (defined $expected ? ", not $expected" : '')
		  unless @there == 1 && (!defined $expected || $there[0] eq $expected);
	}
	push @missing, grep { /unexpected/ } keys %$known;
	return join "\n", @missing;
}

1;
