"""What each index of the ledger costs whoever writes, and what it saves whoever asks."""

import os
import re
import statistics

from contestants import DATABASE
from shell import Failure, run
from table import Row

ROWS = int(os.environ.get("BENCH_INDEX_ROWS", 1_000_000))

# A day of calls by 500 orgs, and what the roll-up makes of 30 days: rows n of a table like it.
CALLS = """INSERT INTO {table} (lease, picked_at, recorded_at, org, attempt, route, model, provider, account, key,
	status, reserved_input, reserved_output, input_tokens, output_tokens, usage_source, recorded_in)
SELECT gen_random_uuid(), at, at, 'clinic-' || n % 500, 1, 'gpt-4o', 'gpt-4o', 'openai', 'account-1', 'key-7', 'ok',
	1200, 500, 1180, 312, 'reported', n / 1000 + 1
  FROM generate_series({first}, {last}) n,
	LATERAL (SELECT '2026-01-01'::timestamptz + interval '1 day' * n / {rows} AS at) t"""
HOURS = """INSERT INTO {table} SELECT 'clinic-' || n % 500, 'gpt-4o', 'key-' || n / 500 % 4,
	'2026-01-01'::timestamptz + n / 2000 * interval '1 hour', 1, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0, '{{}}'
  FROM generate_series({first}, {last}) n"""

# (what an index begins with, what it is for, a query that needs it)
CALL_INDEXES = (
    ("lease", "a call by its lease", "SELECT * FROM {table} WHERE (lease, picked_at) = "
                                     "('00000000-0000-0000-0000-000000000000', '2026-01-01')"),
    ("recorded_in", "calls of ten minutes", "SELECT count(*) FROM {table} WHERE picked_at >= '2026-01-01 12:00' "
                                            "AND picked_at < '2026-01-01 12:10'"),
)
HOUR_INDEXES = (
    ("org", "one org by the hour", "SELECT hour, sum(calls) FROM {table} WHERE org = 'clinic-7' "
                                   "AND hour >= '2026-01-10' GROUP BY hour"),
    ("hour", "load by key in a day", "SELECT key, sum(calls) FROM {table} WHERE hour >= '2026-01-10' "
                                     "AND hour < '2026-01-11' GROUP BY key"),
)


def timed(bench, *statements):
    """Milliseconds of the last of the statements; all are undone."""
    text = "\n".join(["BEGIN;", *(f"{statement};" for statement in statements[:-1]), "\\timing on",
                      f"{statements[-1]};", "\\timing off", "ROLLBACK;"])
    out = run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-d", DATABASE, text=text, env=bench.env)
    found = re.search(r"^Time: ([\d.]+) ms", out, re.M)
    if not found:
        raise Failure(f"indexes: {out[-1000:]}")
    return float(found[1])


def without(bench, table, column):
    """The statement that drops the index which begins with a column."""
    name = bench.cluster.value(
        DATABASE, "SELECT i.indexrelid::regclass FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid "
                  f"AND a.attnum = i.indkey[0] WHERE i.indrelid = '{table}'::regclass AND a.attname = '{column}'")
    constrained = bench.cluster.value(
        DATABASE, f"SELECT count(*) FROM pg_constraint WHERE conindid = '{name}'::regclass") != "0"
    return f"ALTER TABLE {table} DROP CONSTRAINT {name}" if constrained else f"DROP INDEX {name}"


def weigh(bench, table, fill, indexes):
    """For each index: rows written with and without it, and the query with and without it."""
    more = fill.format(table=table, rows=ROWS, first=ROWS, last=ROWS + ROWS // 10 - 1)
    bench.cluster.sql(DATABASE, fill.format(table=table, rows=ROWS, first=0, last=ROWS - 1), f"VACUUM ANALYZE {table}")
    rows = []
    for column, purpose, query in indexes:
        drop = without(bench, table, column)
        contest = {"write": (more,), "write without": (drop, more), "ask": (query.format(table=table),),
                   "ask without": (drop, query.format(table=table))}
        times = {what: [] for what in contest}
        for _ in range(bench.rounds):
            for what, statements in contest.items():
                times[what].append(timed(bench, *statements))
        median = {what: statistics.median(figures) for what, figures in times.items()}
        cost = (median["write"] - median["write without"]) * 1000 / (ROWS // 10)
        rows.append(Row(f"index of {table} that begins with {column}: a row more", f"{cost:,.2f} us",
                        f"of {median['write'] * 1000 / (ROWS // 10):,.2f} us"))
        rows.append(Row(f"... {purpose}", f"{median['ask']:,.1f} ms", f"without it {median['ask without']:,.1f} ms",
                        f"{median['ask'] / median['ask without']:.2f}"))
    return rows


def indexes(bench):
    bench.cluster.sql(DATABASE, "DROP TABLE IF EXISTS calls, hours",
                      f"CREATE TABLE calls (LIKE {bench.leaf} INCLUDING ALL)",
                      "CREATE TABLE hours (LIKE llmquota.usage_hourly INCLUDING ALL)")
    bench.say(f"indexes, {ROWS:,} rows")
    rows = weigh(bench, "calls", CALLS, CALL_INDEXES) + weigh(bench, "hours", HOURS, HOUR_INDEXES)
    bench.cluster.sql(DATABASE, "DROP TABLE calls, hours")
    return rows
