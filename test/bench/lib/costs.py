"""Latency under an offered rate, WAL, growth, and what a backend pays for the configuration."""

import re
import statistics
import time

from contestants import DATABASE, RANDOM_ORG
from postgres import Logged, Script, pgbench
from shell import Failure, run
from table import Row, limit

MANY_KEYS = 10_000


def p99(transactions):
    latencies = sorted(latency for _, latency, _ in transactions)
    return latencies[int(len(latencies) * 0.99)]


def hot(bench):
    """50 clients on one key, 1,000 a second offered, flushed; latency counts from when a transaction was due."""
    bench.make_database("hot", keys=1, accounts=1, limited=("key",))
    bench.warm_up(lambda: bench.pick(8, "on", database="hot"), lambda: bench.insert(8, "on"))
    seconds = 3 * bench.seconds
    ratios, picks, inserts = [], [], []
    for _ in range(bench.rounds):
        bench.say("hot key")
        script = bench.pick_script("hot", ttl_ms=2000)
        bench.free_leases("hot")
        inserts.append(p99(Logged(bench.env, bench.insert_script(), DATABASE, 50, 1000, seconds, "on").transactions()))
        picks.append(p99(Logged(bench.env, script, "hot", 50, 1000, seconds, "on").transactions()))
        ratios.append(picks[-1] / inserts[-1])
    times = statistics.median(ratios)
    return [Row("p99 of a pick, one hot key, on, 50 clients, 1,000/s offered", f"{statistics.median(picks):.2f} ms",
                f"INSERT {statistics.median(inserts):.2f} ms", f"{times:.2f}", "<= 3.00", times <= 3)]


def wal(bench):
    """Six cells: the meters of global, provider, account, key and org, and the lease; and a seventh where the request is
    remembered. The pages have been written since the checkpoint, the slots been used before."""
    bench.make_database("six", keys=12, limited=("provider", "key"))
    rows = []
    for window, cells, bar in ((0, "six cells", 700), (86_400_000, "seven cells, request remembered", 1400)):
        bench.cluster.sql("six", f"UPDATE llmquota.setting SET value = '{window}' WHERE name = 'idempotency_window'")
        rows.append(limit(f"WAL of a pick, {cells}, names of 12, 36 and 36 bytes", wal_of_a_pick(bench), "bytes", bar,
                          digits=0))
    return rows


def wal_of_a_pick(bench):
    text = ("\\set r random(100000, 100499)\n\\set q random(100000000000, 999999999999)\n"
            "SELECT * FROM llmquota_pick('gpt-4o', 'tenant' || :r, 1200, 500, ttl_ms => 5000,\n"
            "session => 'b1c0ffee-0000-4000-8000-000000' || :r,\n"
            "request_id => 'deadbeef-0000-4000-8000-' || :q);\n")
    script = Script("wal", text)
    position = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
    figures = []
    bench.cluster.checkpoint()
    for _ in range(bench.rounds + 1):
        bench.free_leases("six")
        before = int(bench.cluster.value("six", position))
        _, count = pgbench(bench.env, script, "six", 8, "off", "-t", 5000)
        figures.append((int(bench.cluster.value("six", position)) - before) / count)
        if bench.in_flight("six") < count:
            raise Failure("a pick for the measure of WAL was not granted")
    return statistics.median(figures[1:])


def growth(bench):
    """The live tables after a million picks and records by 32 clients."""
    bench.make_database("growth", keys=12)
    text = (RANDOM_ORG + "SELECT lease FROM llmquota_pick('gpt-4o', 'clinic-' || :r, 1200, 500) \\gset\n"
            "SELECT * FROM llmquota_record(:lease, 1180, 312);\n")
    script = Script("pair", text)
    pgbench(bench.env, script, "growth", 32, "off", "-t", 1000)
    before = bench.live_bytes("growth")
    bench.say(f"growth, {bench.pairs:,} picks and records")
    _, count = pgbench(bench.env, script, "growth", 32, "off", "-t", bench.pairs // 32)
    after = bench.live_bytes("growth")
    left = bench.in_flight("growth")
    if left:
        raise Failure(f"{left} leases are left in flight after every pick was recorded")
    return [limit(f"growth of the live tables after {count:,} picks and records", after - before, "bytes", 0,
                  f"of {before:,} bytes", digits=0)]


def make_many(bench):
    bench.make_database("many", keys=MANY_KEYS, limited=("key",))
    bench.picks("many", 2000)


def first_pick(bench, database):
    """Milliseconds of the first pick of a fresh backend, as its client sees them."""
    out = run("psql", "-XAtq", "-d", database, "-c", "\\timing on", "-c",
              "SELECT * FROM llmquota_pick('gpt-4o', 'clinic-7', 1200, 500, ttl_ms => 1000)", env=bench.cluster.env)
    return float(re.search(r"^Time: ([\d.]+) ms", out, re.M)[1])


def fresh(bench):
    rows = []
    make_many(bench)
    bench.cluster.sql(DATABASE, "SELECT * FROM llmquota_pick('gpt-4o', 'clinic-7', 1200, 500, ttl_ms => 1000)")
    for database, keys, bar in ((DATABASE, 12, 10), ("many", MANY_KEYS, 60)):
        bench.say(f"fresh backends, {keys} keys")
        times = [first_pick(bench, database) for _ in range(7 * bench.rounds)]
        rows.append(limit(f"first pick of a fresh backend, {keys:,} keys, 500 orgs", statistics.median(times), "ms",
                          bar, f"slowest of {len(times)}: {max(times):.1f} ms"))
    return rows + [memory(bench)]


def memory(bench):
    """What 100 picks add to a backend that has done something else before."""
    used = ("SELECT sum(total_bytes), coalesce(sum(total_bytes) FILTER (WHERE name ~ '^llmq'), 0) "
            "FROM pg_backend_memory_contexts")
    (before, _), _, (after, ours) = bench.cluster.sql(
        "many", used, "SELECT count(p.status) FROM generate_series(1, 100) n, "
        "llmquota_pick('gpt-4o', 'clinic-' || n % 500 + 1, ttl_ms => 1000) p", used)
    return limit("memory of a backend, 10,000 keys", (int(after) - int(before)) / 2**20, "MB", 8,
                 f"contexts named llmq*: {int(ours) / 2**20:.1f} MB")


def slowest_after_changes(bench, database):
    """100 backends, each asked ten times a second, and a change of a key every second, by a session that has changed
    one before: the slowest pick before the first change, and the slowest from then on."""
    change = "UPDATE llmquota.key SET secret_ref = 'env:' || md5(clock_timestamp()::text) WHERE key = 'key-00001'"
    load = Logged(bench.env, bench.pick_script(database, ttl_ms=2000), database, 100, 1000, 8, "off")
    seconds = bench.cluster.sql(database, change, "SELECT extract(epoch FROM clock_timestamp()) FROM pg_sleep(2)",
                                *[change, "SELECT FROM pg_sleep(1)"] * 5)
    first_change = float(seconds[0][0])
    picks = [(at, latency - delay) for at, latency, delay in load.transactions()]
    first = min(at for at, _ in picks) + 1
    return (max(latency for at, latency in picks if first < at < first_change),
            max(latency for at, latency in picks if at >= first_change))


def changes(bench):
    if not int(bench.cluster.value("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'many'")):
        make_many(bench)
    rows = []
    for database, keys in ((DATABASE, 12), ("many", MANY_KEYS)):
        bench.say(f"100 backends, {keys} keys")
        bench.free_leases(database)
        quiet, slowest = slowest_after_changes(bench, database)
        rows.append(limit(f"slowest pick of 100 backends after a change of a key, {keys:,} keys", slowest, "ms", 100,
                          f"without a change: {quiet:.1f} ms"))
    return rows
