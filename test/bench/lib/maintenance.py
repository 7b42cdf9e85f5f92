"""What maintenance by the background worker costs calls that go on meanwhile, what it costs when there are none, and
whether processes that live for long grow."""

import contextlib
import os
import pathlib
import subprocess
import threading
import time

from contestants import RANDOM_ORG
from postgres import Logged, Script, command_of
from shell import Failure
from table import Row, limit

DATABASE = "maintenance"
CLIENTS = 8
LEASES = int(os.environ.get("BENCH_LEASES", 100_000))
ROWS = int(os.environ.get("BENCH_ROWS", 10_000_000))
READER_SECONDS = int(os.environ.get("BENCH_READER_SECONDS", 60))
LIVE_SECONDS = 30
IDLE_SECONDS = int(os.environ.get("BENCH_IDLE_SECONDS", 180))
OLD = "llmquota.usage_20200101"

PAIRS = (RANDOM_ORG + "SELECT lease FROM llmquota_pick('gpt-4o', 'clinic-' || :r, 1200, 500) \\gset\n"
         "SELECT * FROM llmquota_record(:lease, 1180, 312);\n")

# Nothing is due, and no lease of those that expire one after another will be in a moment.
ALL_DONE = "(SELECT rounds > 0 AND next_run > now() + interval '20 s' FROM llmquota.worker_status)"


def wait_until(bench, condition, seconds):
    deadline = time.monotonic() + seconds
    while bench.cluster.value(DATABASE, f"SELECT {condition}") != "t":
        if time.monotonic() > deadline:
            raise Failure(f"maintenance: not {condition} after {seconds} s")
        threading.Event().wait(0.2)


def make_old_partition(bench, rows):
    """A partition past its retention, as large as a busy day; its rows have been counted by the hour."""
    bench.cluster.sql(
        DATABASE, f"CREATE TABLE {OLD} (LIKE llmquota.usage)",
        f"INSERT INTO {OLD} (lease, picked_at, recorded_at, org, model, key, status, input_tokens, output_tokens, "
        "recorded_in) SELECT gen_random_uuid(), '2020-01-01 12:00+00', '2020-01-01 12:00+00', 'clinic-' || n % 500, "
        f"'gpt-4o', 'key-00001', 'ok', 1180, 312, txid_current() FROM generate_series(1, {rows}) n",
        "SET maintenance_work_mem = '1GB'",
        f"CREATE UNIQUE INDEX ON {OLD} (lease, picked_at)",
        f"CREATE INDEX ON {OLD} USING brin (recorded_in, picked_at) WITH (autosummarize = on)",
        f"ALTER TABLE {OLD} ADD CHECK (picked_at >= '2020-01-01 00:00+00' AND picked_at < '2020-01-02 00:00+00')",
        f"INSERT INTO llmquota.usage_rollup (leaf, counted) VALUES ('{OLD}'::regclass, txid_current_snapshot())",
        "CHECKPOINT")


def attach_old_partition(bench):
    bench.cluster.sql(DATABASE, f"ALTER TABLE llmquota.usage ATTACH PARTITION {OLD} "
                                "FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00')")


def pairs(bench, rate, seconds):
    return Logged(bench.env, Script("pairs", PAIRS), DATABASE, CLIENTS, rate, seconds, "off")


def rate(ends, start, end):
    return sum(start <= at < end for at in ends) / (end - start)


def at_least(measure, under, without):
    return Row(measure, f"{under:,.0f}/s", f"without {without:,.0f}/s", f"{under / without:.2f}", ">= 0.80",
               under >= 0.8 * without)


def under_load(bench):
    """Pairs of pick and record in a second: before maintenance has anything to do, while it expires all leases, and
    while it drops the partition, which it does within a minute. All come from one run, so that nothing else differs."""
    prepare(bench, LEASES)
    bench.say(f"a partition of {ROWS:,} rows")
    make_old_partition(bench, ROWS)
    bench.say(f"{LEASES:,} leases")
    seconds = LIVE_SECONDS + 90 + LEASES // 2000
    expire_at = time.time() + LIVE_SECONDS
    bench.picks(DATABASE, LEASES, ttl_ms=LIVE_SECONDS * 1000)
    load = pairs(bench, 1_000_000, seconds)
    began = time.time() + 2
    if began > expire_at - 6:
        raise Failure(f"{LEASES} picks took too long")
    threading.Event().wait(expire_at - 1 - time.time())
    quiet_end = time.time()
    attach_old_partition(bench)
    wait_until(bench, f"now() > to_timestamp({expire_at}) AND {ALL_DONE}", seconds)
    all_expired = time.time()
    wait_until(bench, f"to_regclass('{OLD}') IS NULL", seconds)
    dropped = time.time()
    ends = [at for at, _, _ in load.transactions()]
    if max(ends) < dropped + 1:
        raise Failure("maintenance took longer than the load")
    expired = int(bench.cluster.value(DATABASE, "SELECT count(*) FROM llmquota.usage WHERE status = 'expired'"))
    if expired < LEASES:
        raise Failure(f"{expired} of {LEASES} leases have expired")
    without = rate(ends, began, quiet_end)
    return [at_least(f"pick and record while {LEASES:,} leases expire, for {all_expired - expire_at:.0f} s",
                     rate(ends, expire_at, all_expired), without),
            at_least(f"pick and record in the 2 s in which {ROWS:,} rows are dropped",
                     rate(ends, dropped - 1, dropped + 1), without)]


def under_a_reader(bench):
    """The slowest of records at 200 a second while an analyst's query keeps maintenance from a drop and a creation that
    are due, and records have no partition but the default one."""
    prepare(bench, 1000)
    today = bench.cluster.value(DATABASE, "SELECT to_char(now() AT TIME ZONE 'UTC', '\"llmquota.usage_\"YYYYMMDD')")
    bench.cluster.sql(DATABASE, f"DROP TABLE {today}", f"CREATE TABLE {OLD} (LIKE llmquota.usage)")
    attach_old_partition(bench)
    reader = subprocess.Popen(
        ["psql", "-XAtq", "-d", DATABASE, "-c", f"SELECT count(*), pg_sleep({READER_SECONDS}) FROM llmquota.usage"],
        env={**os.environ, **bench.env}, stdout=subprocess.DEVNULL)
    load = pairs(bench, 200, READER_SECONDS - 2)
    while load.process.poll() is None:
        bench.cluster.sql(DATABASE, "SELECT * FROM llmquota_maintain()")
    slowest = max(latency for _, latency, _ in load.transactions())
    if bench.cluster.value(DATABASE, f"SELECT to_regclass('{OLD}') IS NOT NULL") != "t":
        raise Failure("the partition was dropped under the reader")
    reader.wait()
    wait_until(bench, f"to_regclass('{OLD}') IS NULL AND to_regclass('{today}') IS NOT NULL", 90)
    return [limit(f"slowest pick and record of 200/s while a query over the ledger is open for {READER_SECONDS} s, and "
                  "maintenance is tried all the time", slowest, "ms", 100)]


def process_times(pid):
    """CPU that a process has used: itself, and its children that have ended; in milliseconds."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    times = [int(field) * 1000 / os.sysconf("SC_CLK_TCK") for field in fields[11:15]]
    return sum(times[:2]), sum(times[2:])


def own_kb(pid):
    """Resident memory of a process, without what it shares with others."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().split("\n"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise Failure(f"process {pid} is gone")


def flat(measure, before, after):
    return Row(measure, f"{after:,} kB", f"before {before:,} kB", f"{after / before:.2f}", "<= 1.05",
               after <= 1.05 * before)


def idle(bench):
    """The worker's own CPU, and that of its rounds. A round's is that of the postmaster's children that have ended;
    those of this measure's own sessions, which look and do nothing else, are among them. After a restart no other
    database has a worker."""
    prepare(bench, 1000)
    bench.cluster.restart()
    bench.picks(DATABASE, 1, ttl_ms=1)
    wait_until(bench, "(SELECT next_run > now() + interval '30 s' FROM llmquota.worker_status)", 120)
    server = int((bench.cluster.directory / "data" / "postmaster.pid").read_text().split("\n")[0])
    worker = int(bench.cluster.value(DATABASE, "SELECT pid FROM llmquota.worker_status"))
    rounds = "SELECT rounds FROM llmquota.worker_status"

    def used():
        return sum(process_times(server)) + process_times(worker)[0]

    bench.say(f"{IDLE_SECONDS} s of nothing")
    first, before = int(bench.cluster.value(DATABASE, rounds)), used()
    threading.Event().wait(IDLE_SECONDS)
    after = used()
    last = int(bench.cluster.value(DATABASE, rounds))
    return [limit(f"CPU of maintenance of an idle database, {last - first} rounds in {IDLE_SECONDS} s",
                  (after - before) / IDLE_SECONDS, "ms per second", 1, digits=3)]


def memory_of_worker(bench):
    """An hour's rounds, as fast as a lease that expires has them follow one another."""
    prepare(bench, 1000)
    rounds = "SELECT rounds FROM llmquota.worker_status"
    worker = int(bench.cluster.value(DATABASE, "SELECT pid FROM llmquota.worker_status"))
    first, before = int(bench.cluster.value(DATABASE, rounds)), own_kb(worker)
    while int(bench.cluster.value(DATABASE, rounds)) < first + 60:
        bench.picks(DATABASE, 1, ttl_ms=1)
    return flat("resident memory of the worker after another 60 rounds", before, own_kb(worker))


def memory_of_backend(bench):
    prepare(bench, 1000)
    load = subprocess.Popen(command_of(Script("pairs_of_one", PAIRS), DATABASE, 1, "prepared", ["-t", bench.pairs]),
                            env={**os.environ, **bench.env, "PGOPTIONS": "-c synchronous_commit=off"},
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    backend = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench'"
    done = "SELECT count(*) FROM llmquota.usage WHERE status = 'ok'"
    wait_until(bench, f"({done}) > {bench.pairs // 100}", 60)
    pid = int(bench.cluster.value(DATABASE, backend))
    before = after = own_kb(pid)
    while load.poll() is None:
        with contextlib.suppress(Failure, FileNotFoundError):   # it has just ended
            after = own_kb(pid)
        threading.Event().wait(0.2)
    if load.returncode != 0 or int(bench.cluster.value(DATABASE, done)) < bench.pairs:
        raise Failure("not all picks were recorded")
    return flat(f"resident memory of a backend after {bench.pairs:,} picks and records", before, after)


def memory(bench):
    return [memory_of_backend(bench), memory_of_worker(bench)]


def prepare(bench, leases):
    """A new database whose worker is there, and whose pool of leases has had so many."""
    bench.make_database(DATABASE, keys=12)
    bench.cluster.sql(DATABASE, "UPDATE llmquota.setting SET value = '400' WHERE name = 'usage_retention'")
    bench.picks(DATABASE, leases, ttl_ms=1000)
    wait_until(bench, ALL_DONE, 300)
    bench.free_leases(DATABASE)
