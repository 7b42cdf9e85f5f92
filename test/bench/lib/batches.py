"""Picks in batches and sets, against picks one by one: leases granted in a second."""

from contestants import DATABASE, MODES, ORGS, RANDOM_ORG
from postgres import Script, pgbench
from rates import PICK, plural
from shell import Failure
from table import compare, interleave

CLIENTS = (1, 8)
SIZES = (10, 100)
LEASES = {"off": 100_000, "on": 10_000}  # of a run: fewer than there are slots beforehand, so that none makes pages
TTL_MS = 120_000
SET_ORGS = 10


def scripts():
    """By the name of the measure: the leases that a statement asks for, and the statement."""
    yield PICK, 1, f"SELECT * FROM llmquota_pick('gpt-4o', 'clinic-' || :r, 1200, 500, ttl_ms => {TTL_MS});\n"
    for size in SIZES:
        yield (f"batches of {size}", size,
               f"SELECT * FROM llmquota_pick_many('gpt-4o', 'clinic-' || :r, {size}, 1200, 500, ttl_ms => {TTL_MS});\n")
    size = SIZES[-1]
    yield (f"sets of {size} for {SET_ORGS} orgs", size,
           "SELECT * FROM llmquota_pick_set('gpt-4o', (SELECT array_agg('clinic-' || (:r + n) % "
           f"{ORGS} + 1) FROM generate_series(0, {size - 1}) i, LATERAL (SELECT i % {SET_ORGS} AS n) o), "
           f"array_fill(1200::bigint, ARRAY[{size}]), array_fill(500::bigint, ARRAY[{size}]), ttl_ms => {TTL_MS});\n")


def granted(bench, name, size, text, clients, mode):
    bench.cluster.sql(DATABASE, "SET synchronous_commit = off",
                      "SELECT count(llmquota_release(lease)) FROM llmquota.lease", "TRUNCATE llmquota.usage")
    share = LEASES[mode] // size // clients
    script = Script(name.replace(" ", "_"), RANDOM_ORG + text)
    rate, count = pgbench(bench.env, script, DATABASE, clients, mode, "-t", share)
    leases = bench.in_flight(DATABASE)
    if leases < count * size:
        raise Failure(f"of {count * size} leases asked for in {name} only {leases} were granted")
    return rate * size


def batches(bench):
    rows = []
    for mode in MODES:
        for clients in CLIENTS:
            bench.say(f"batches, {mode}, {plural(clients)}")
            figures = interleave({name: lambda what=(name, size, text): granted(bench, *what, clients, mode)
                                  for name, size, text in scripts()}, bench.rounds)
            rows += [compare(f"leases in {name}, {mode}, {plural(clients)}", figures, name, PICK)
                     for name in figures if name != PICK]
    return rows
