# doc/reference.md is true: its SQL blocks run, in order and in one session; a text block that follows one is what it
# prints; and the page names every object, column, argument and setting there is.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $page = slurp_file("$FindBin::RealBin/../../doc/reference.md");

my $node = PostgreSQL::Test::Cluster->new('reference');
$node->init;
$node->start;

# The SQL blocks, each with the line it begins in and, if there is one, the output that is shown after it.
sub blocks
{
	my @blocks;
	while ($page =~ /^```sql\n(.*?)^```\n(?:\s*^```text\n(.*?)^```\n)?/msg)
	{
		my ($sql, $output, $begin) = ($1, $2, $-[0]);
		push @blocks, { sql => $sql, output => $output, line => 1 + (substr($page, 0, $begin) =~ tr/\n//) };
	}
	return @blocks;
}

# Runs all blocks in one session of psql, which stops at the first error; gives each what it printed.
sub run_blocks
{
	my (@blocks) = @_;
	my $script = join '', map { "$_->{sql}\n\\echo == end\n" } @blocks;
	my @psql = ('psql', '-X', '-q', '-P', 'pager=off', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'));
	my ($printed, $errors) = ('', '');

	IPC::Run::run(\@psql, '<', \$script, '>', \$printed, '2>', \$errors);
	is($errors, '', 'no example is an error');
	my @printed = split /^== end\n/m, $printed, -1;
	pop @printed;
	$_->{printed} = shift @printed for @blocks;
	return;
}

# Blanks at the ends of lines do not count, nor does an empty line at the end.
sub trimmed
{
	my ($text) = @_;
	$text =~ s/[ \t]+$//mg;
	$text =~ s/\n+\z/\n/;
	return $text;
}

my @blocks = blocks();
cmp_ok(scalar @blocks, '>', 10, 'the page has examples');
run_blocks(@blocks);
for my $block (@blocks)
{
	ok(defined $block->{printed}, "the example of line $block->{line} runs");
	is(trimmed($block->{printed} // ''), trimmed($block->{output}), "and prints what is shown after line $block->{line}")
	  if defined $block->{output};
}

# Everything that has a name
$node->safe_psql('postgres', 'CREATE DATABASE names');
$node->safe_psql('names', 'CREATE EXTENSION llmquota');
my $names = $node->safe_psql(
	'names', q{
	SELECT proname FROM pg_proc WHERE starts_with(proname, 'llmquota_')
	UNION
	SELECT CASE WHEN relkind IN ('r', 'p', 'v') THEN 'llmquota.' || relname ELSE relname END
	  FROM pg_class WHERE relnamespace = 'llmquota'::regnamespace AND relkind IN ('r', 'p', 'v')
	UNION
	SELECT attname FROM pg_attribute
	 WHERE attnum > 0 AND attrelid IN (
		SELECT oid FROM pg_class WHERE relnamespace = 'llmquota'::regnamespace AND relkind IN ('r', 'p', 'v', 'c')
		   AND relname NOT IN ('meter', 'health', 'lease_page', 'name'))
	UNION
	SELECT unnest(proargnames) FROM pg_proc
	 WHERE proname IN ('llmquota_pick', 'llmquota_pick_many', 'llmquota_pick_set', 'llmquota_record', 'llmquota_release', 'llmquota_renew', 'llmquota_maintain', 'llmquota_grant')
	UNION
	SELECT name FROM llmquota.setting});
my $named = join ' ', grep { defined } $page =~ /`([^`\n]+)`|^#+ (.*)/mg;
my @missing = grep { $named !~ /(?<![\w.])\Q$_\E(?!\w)/ } split /\n/, $names;
is("@missing", '', 'everything is on the page');

# Defaults of settings are those of the table
my %defaults = map { split /\|/ } split /\n/, $node->safe_psql('names', q{SELECT name, value FROM llmquota.setting});
my %shown = $page =~ /^\| `(\w+)` \| (\S+)[^|]*\| [^|]* (?:to|refuse|letters|or)/mg;
for my $name (sort keys %defaults)
{
	is($shown{$name}, $defaults{$name}, "the default of $name");
}

$node->stop;
done_testing();
