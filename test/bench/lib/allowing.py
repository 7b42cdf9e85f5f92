"""Rate limits for anything: a call of llmquota_allow against SELECT 1 and against the algorithm of redis-cell as a script
of Redis, and with a million subjects against a hundred."""

import os

from contestants import DATABASE
from postgres import Script
from rates import plural
from shell import Failure
from table import Row, compare, interleave

CLIENTS = (1, 8, 32)
FEW = 100
SUBJECTS = int(os.environ.get("BENCH_SUBJECTS", 1_000_000))
ALLOW, SELECT_ONE, REDIS = "allow", "SELECT 1", "Redis"
SELECT_BAR, REDIS_BAR, MANY_BAR = 0.45, 1.3, 0.8

# Nobody is limited, so every call is charged and written.
AMOUNT, PER_MS = 1_000_000, 60_000
# With many subjects each is known for ten minutes after a call.
MANY_AMOUNT, MANY_PER_MS, BURST = 1, 600_000, 50_000
CELLS_PER_SUBJECT, CELL_BYTES = 70, 4096


def allow(bench, clients):
    text = f"SELECT * FROM llmquota_allow('user', 'user ' || :r, {AMOUNT}, {PER_MS});\n"
    return bench.run(Script("allow", f"\\set r random(1, {FEW})\n" + text), clients, "off")[0]


def allowing(bench):
    bench.redis.configure()
    bench.redis.durability("off")
    contestants = {ALLOW: allow, SELECT_ONE: lambda bench, clients: bench.select_one(clients, "off"),
                   REDIS: lambda bench, clients: bench.redis.allow(clients, bench.seconds, FEW)}
    bench.warm_up(*(lambda one=measure: one(bench, 8) for measure in contestants.values()))
    rows = []
    for clients in CLIENTS:
        bench.say(f"allowing, {plural(clients)}")
        figures = interleave({name: lambda one=measure: one(bench, clients) for name, measure in contestants.items()},
                             bench.rounds)
        rows.append(compare(f"allow, {plural(clients)}", figures, ALLOW, SELECT_ONE, SELECT_BAR))
        rows.append(compare(f"allow, {plural(clients)}", figures, ALLOW, REDIS, REDIS_BAR))
    return rows


def many(bench, scope, subjects, clients):
    text = f"SELECT * FROM llmquota_allow('{scope}', 'user ' || :r, {MANY_AMOUNT}, {MANY_PER_MS}, burst => {BURST});\n"
    return bench.run(Script(f"allow_{subjects}", f"\\set r random(1, {subjects})\n" + text), clients, "off")[0]


def bound():
    """As many bytes as max_rate_subjects lets the table have: a power of two of cells."""
    cells = 1
    while cells * CELLS_PER_SUBJECT < SUBJECTS:
        cells *= 2
    return cells * CELL_BYTES


def subjects(bench):
    """All subjects are known before: the limit of each is in force during the whole measure."""
    bench.say(f"subjects: {SUBJECTS:,} are made known")
    (seen,), = bench.cluster.sql(
        DATABASE, "SET synchronous_commit = off",
        f"UPDATE llmquota.setting SET value = '{SUBJECTS + FEW}' WHERE name = 'max_rate_subjects'",
        f"SELECT count(*) FROM generate_series(1, {SUBJECTS}) n, llmquota_allow('many', 'user ' || n, {MANY_AMOUNT}, "
        f"{MANY_PER_MS}, burst => {BURST}) a WHERE a.allowed")
    if int(seen) != SUBJECTS:
        raise Failure(f"of {SUBJECTS} subjects only {seen} were allowed")
    bench.cluster.checkpoint()
    few, all_of_them = f"{FEW} subjects", f"{SUBJECTS:,} subjects"
    contestants = {all_of_them: lambda clients: many(bench, "many", SUBJECTS, clients),
                   few: lambda clients: many(bench, "few", FEW, clients)}
    # pages are written whole the first time after a checkpoint: not in a measure of what they cost every time
    bench.cluster.sql(DATABASE, "SELECT count(*) FROM generate_series(1, 200000) n, "
                                f"llmquota_allow('many', 'user ' || n, {MANY_AMOUNT}, {MANY_PER_MS}, burst => {BURST})")
    rows = []
    for clients in CLIENTS:
        bench.say(f"subjects, {plural(clients)}")
        figures = interleave({name: lambda one=measure: one(clients) for name, measure in contestants.items()}, bench.rounds)
        rows.append(compare(f"{all_of_them}, {plural(clients)}", figures, all_of_them, few, MANY_BAR))
    size = int(bench.cluster.value(DATABASE, "SELECT pg_relation_size('llmquota.rate_page')"))
    known = float(bench.cluster.value(DATABASE, "SELECT value FROM llmquota_metrics() WHERE name = 'llmquota_rate_subjects'"))
    if known < SUBJECTS:
        raise Failure(f"of {SUBJECTS} subjects only {known:.0f} are known")
    rows.append(Row(f"live state of {known:,.0f} subjects", f"{size / 1e6:,.1f} MB", f"bound {bound() / 1e6:,.1f} MB",
                    f"{size / bound():.2f}", "<= 1.00", size <= bound()))
    return rows
